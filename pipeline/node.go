package pipeline

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// StageStats holds the figures of one stage. Times are summed over its workers, each of which is at any moment either
// busy, waiting for input or waiting to hand on: Busy+WaitIn+WaitOut is the sum of the workers' lifetimes.
type StageStats struct {
	Name    string
	Workers int

	Items    int64 // produced; for a sink, written; in the unit of [Measure]
	BytesIn  int64 // as [Measure] counts
	BytesOut int64 // as [Measure] counts

	Busy    time.Duration // in Process, Expand or Write; for a source, in its iterator
	WaitIn  time.Duration // for an item to arrive and, in a Map with [Charge], to be admitted
	WaitOut time.Duration // for the ordered turn and a place downstream; for a source, also for its budget

	// WaitBudget is the part of WaitOut (for a source) or WaitIn (for a Map) that was spent waiting for a [Budget].
	WaitBudget time.Duration

	// Lifetime is how long the workers that have ended were there, together, by a clock of its own.
	Lifetime time.Duration

	// Commit is the time in [Sink.Commit], which no other field includes. It is zero for other stages.
	Commit time.Duration

	First time.Time // when work on the first item began; zero before that
	Last  time.Time // when the last item so far was handed on or, in a sink, written; zero before that
}

// node is the part of a stage that does not depend on item types: its figures, its span, and the count of its workers.
type node struct {
	run  *Run
	name string
	sink string // name, where it is one; "" for other stages
	opts options
	// budgets are those that the stage's items have charged, here or before.
	budgets []*Budget

	items, bytesIn, bytesOut                  atomic.Int64
	busy, waitIn, waitOut, waitBudget, commit atomic.Int64 // nanoseconds
	lifetime                                  atomic.Int64 // nanoseconds
	first, last                               atomic.Int64 // nanoseconds after run.epoch, plus one; zero: never

	once sync.Once
	ctx  context.Context //nolint:containedctx // the run's with the stage's span, the same for all items; read after begin only
	span trace.Span      // nil until the first item

	metrics   *instruments          // nil without a MeterProvider
	itemSpans atomic.Int64          // opened or omitted so far
	itemFault atomic.Pointer[error] // the first that [Config].ItemFault told; nil so far

	left     atomic.Int32 // workers that have not returned
	closeOut func()       // tells the stage downstream that there is no more; nil for a sink
}

func newNode(r *Run, name string, o options) *node {
	n := &node{run: r, name: name, opts: o, ctx: r.ctx}
	n.left.Store(int32(max(o.workers, 1)))
	n.metrics = newInstruments(r, name)
	return n
}

// fault notes a wiring fault of this stage.
func (n *node) fault(format string, args ...any) {
	n.run.faults = append(n.run.faults, fmt.Errorf("stage %q: %w", n.name, fmt.Errorf(format, args...)))
}

// begin notes the first item, which came at t, and opens the span of the stage.
func (n *node) begin(t time.Time) {
	if n.first.Load() != 0 {
		return
	}
	n.once.Do(func() {
		n.openSpan(t)
		n.first.Store(n.offset(t)) // last: it says that the others may be read
	})
}

// count adds the work of one item to the figures.
func (n *node) count(w Work) {
	n.items.Add(w.Items)
	if w.BytesIn != 0 {
		n.bytesIn.Add(w.BytesIn)
	}
	if w.BytesOut != 0 {
		n.bytesOut.Add(w.BytesOut)
	}
	n.metrics.addBytes(n.ctx, w)
}

// leave notes that one worker has returned; the last one closes the edge downstream and the span.
func (n *node) leave() {
	if n.left.Add(-1) > 0 {
		return
	}
	if n.closeOut != nil {
		n.closeOut()
	}
	if n.span != nil {
		n.closeSpan()
	}
}

// timedCommit commits a sink inside a span and a clock of its own.
func (n *node) timedCommit(commit func(context.Context) error) error {
	start := time.Now()
	ctx, span := n.openCommitSpan()
	err := isolate(n.name, itemCommit, func() error { return commit(ctx) })
	end := time.Now()
	n.commit.Add(int64(end.Sub(start)))
	newInstruments(n.run, commitStage).recordBusy(ctx, end.Sub(start))
	n.closeCommitSpan(span, end.Sub(start), err)
	if o := n.run.cfg.Observer; o != nil {
		o.Observe(Event{Stage: commitStage, Sink: n.sink, Since: start, Came: start, Done: end, Left: end, Work: Work{Items: 1}, Err: err})
	}
	return err
}

func (n *node) offset(t time.Time) int64 { return int64(t.Sub(n.run.epoch)) + 1 }

func (n *node) instant(offset int64) time.Time {
	if offset == 0 {
		return time.Time{}
	}
	return n.run.epoch.Add(time.Duration(offset - 1))
}

func (n *node) stats() StageStats {
	return StageStats{
		Name: n.name, Workers: n.opts.workers,
		Items: n.items.Load(), BytesIn: n.bytesIn.Load(), BytesOut: n.bytesOut.Load(),
		Busy:       time.Duration(n.busy.Load()),
		WaitIn:     time.Duration(n.waitIn.Load()),
		WaitOut:    time.Duration(n.waitOut.Load()),
		WaitBudget: time.Duration(n.waitBudget.Load()),
		Lifetime:   time.Duration(n.lifetime.Load()),
		Commit:     time.Duration(n.commit.Load()),
		First:      n.instant(n.first.Load()),
		Last:       n.instant(n.last.Load()),
	}
}
