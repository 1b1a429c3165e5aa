package pipeline

import (
	"reflect"
	"strconv"

	"go.opentelemetry.io/otel/trace"
)

// Stream is the output of a stage, to be consumed by exactly one other. Only this package sends on the channel behind
// it, closes it or drains it.
type Stream[T any] struct {
	run  *Run
	ch   chan envelope[T]
	edge *edge
}

// edge is the part of a Stream that does not depend on its item type.
type edge struct {
	from      string    // name of the stage before it
	charged   []*Budget // those from which the items have taken
	consumers int
	length    func() int // items parked in the channel
	drain     func()     // releases those; only when no goroutine uses the channel any more
}

// newStream gives n an edge, on which it sends what n makes of items that have taken from the budgets in charged.
func newStream[T any](n *node, charged []*Budget) Stream[T] {
	ch := make(chan envelope[T], max(n.opts.buffer, 0))
	n.closeOut = func() { close(ch) }
	e := &edge{
		from:    n.name,
		charged: charged,
		length:  func() int { return len(ch) },
		drain: func() {
			for len(ch) > 0 { // it is not closed if the stage never started
				e := <-ch
				e.drop()
			}
		},
	}
	n.run.edges = append(n.run.edges, e)
	return Stream[T]{run: n.run, ch: ch, edge: e}
}

// envelope carries an item along with what the runtime knows of it. It is the owner of both: whoever passes it on
// clears its own copy.
type envelope[T any] struct {
	value T
	owned bool // value is the runtime's to release
	seq   int64
	link  trace.SpanContext // the item's span in the stage before
	lease *lease
}

// dropper is an *envelope of any item type.
type dropper interface{ drop() }

// companion is v as an interface that items may implement. An item that is nil has none: a nil pointer may not bear the call, and the
// runtime calls where nothing recovers.
func companion[I any](v any) (I, bool) {
	i, ok := v.(I)
	if !ok {
		return i, false
	}
	switch r := reflect.ValueOf(v); r.Kind() { //nolint:exhaustive // the kinds that can be nil
	case reflect.Pointer, reflect.Map, reflect.Slice, reflect.Func, reflect.Chan:
		return i, !r.IsNil()
	}
	return i, true
}

// drop releases what the envelope still owns and clears it; dropping a cleared one does nothing.
func (e *envelope[T]) drop() {
	if e.owned {
		if r, ok := companion[Releaser](e.value); ok {
			r.Release()
		}
	}
	e.lease.release()
	*e = envelope[T]{}
}

// fit gives back what of the item's lease the item no longer needs.
func (e *envelope[T]) fit() {
	if e.lease == nil {
		return
	}
	if holder, ok := companion[Holder](e.value); ok {
		e.lease.shrink(holder.HeldBytes())
	}
}

// takeLease empties the envelope, whose value has become another's, and returns its lease.
func (e *envelope[T]) takeLease() *lease {
	l := e.lease
	*e = envelope[T]{}
	return l
}

// label is the name of an item in errors and spans.
type label struct {
	name string // "" for items that do not name themselves
	seq  int64
}

func labelOf[T any](v T, seq int64) label {
	l := label{seq: seq}
	if named, ok := companion[Named](v); ok {
		l.name = named.ItemName()
	}
	return l
}

func (l label) String() string {
	if l.name != "" {
		return l.name
	}
	return "#" + strconv.FormatInt(l.seq, 10)
}
