package pipeline

import (
	"context"
	"iter"
	"reflect"
	"slices"
	"sync/atomic"
)

// From starts a chain of stages with the items of src, pulled by one goroutine. An error from src ends the run; the
// item beside it is not looked at. From owns an item from the moment src yields it.
//
// When the run fails, the next yield returns false. An iterator that can block should end with [Run.Context].
func From[T any](r *Run, name string, src iter.Seq2[T, error], opts ...Option) Stream[T] {
	n := r.register(name, opts)
	if n.opts.workers > 1 {
		n.fault("Workers(%d): a source has one goroutine", n.opts.workers)
	}
	n.commitsNothing()
	t := tollOf[T](n, nil)
	measure := measureOf[T](n)
	n.budgets = charges(nil, n)
	s := newStream[T](n, n.budgets)
	n.launch(func(h *hand) func() error {
		g := &source[T]{outlet: outlet[T]{hand: h, ch: s.ch, measure: measure}, toll: t, seq: src}
		h.holding = []dropper{&g.made}
		return g.serve
	})
	return s
}

// Map passes every item of s through st. An error from st ends the run.
func Map[In, Out any](s Stream[In], st Stage[In, Out], opts ...Option) Stream[Out] {
	n := s.run.register(st.Name(), opts)
	t := tollOf[In](n, s.edge)
	return transform(s, n, t, func(ctx context.Context, w *worker[In], o *outlet[Out]) error {
		out, err := st.Process(ctx, w.got.value)
		if err != nil {
			return w.refused(err)
		}
		seq := w.got.seq // before the envelope is emptied
		l := w.got.takeLease()
		o.made = envelope[Out]{value: out, owned: true, seq: seq, lease: l}
		o.made.fit()
		describeMade(w.hand, o.made.value)
		o.made.link = w.endItemSpan(nil)
		o.counted()
		if err := o.handOn(); err != nil {
			return err
		}
		w.turn.pass()
		return nil
	})
}

// FlatMap passes every item of s through st, which makes any number of items of it. The results are numbered anew, in
// the order in which they are emitted. An error from st ends the run. [Charge] is not for FlatMap.
func FlatMap[In, Out any](s Stream[In], st Expander[In, Out], opts ...Option) Stream[Out] {
	n := s.run.register(st.Name(), opts)
	if n.opts.budget != nil {
		n.fault("Charge: not for FlatMap")
		n.opts.budget = nil
	}
	var emitted atomic.Int64
	return transform(s, n, toll[In]{}, func(ctx context.Context, w *worker[In], o *outlet[Out]) error {
		emit := func(out Out) error {
			o.made = envelope[Out]{value: out, owned: true, seq: emitted.Add(1) - 1, lease: w.got.lease.retain()}
			if w.itemSpan != nil {
				o.made.link = w.itemSpan.SpanContext()
			}
			o.counted()
			return o.handOn()
		}
		if err := st.Expand(ctx, w.got.value, emit); err != nil {
			return w.refused(err)
		}
		w.lap(&w.busy)
		w.got.takeLease().release()
		w.endItemSpan(nil)
		err := w.turn.await(ctx) // where it has emitted nothing
		w.lap(&w.waitOut)
		w.turn.pass()
		return err
	})
}

// Into ends the chain of s in sink, which the Run owns from here on: Wait closes it. An error from sink ends the run.
// Of the options, Workers, Measure, ItemSpans and NoCommit are for Into. With one worker, items are written in the order of s.
func Into[T any](s Stream[T], sink Sink[T], opts ...Option) {
	n := s.run.register(sink.Name(), opts)
	n.sink = n.name
	switch {
	case n.opts.budget != nil:
		n.fault("Charge: not for Into")
	case n.opts.buffer != 0:
		n.fault("Buffer(%d): not for Into", n.opts.buffer)
	case n.opts.ordered && n.opts.workers > 1:
		n.fault("Ordered: Into keeps the order with one worker only")
	}
	n.budgets = s.edge.charged
	measure := measureOf[T](n)
	consume(s, n, toll[T]{}, func(w *worker[T]) func(context.Context) error {
		return func(ctx context.Context) error {
			if err := sink.Write(ctx, w.got.value); err != nil {
				w.lap(&w.busy)
				return w.fail(err) // leave drops the item
			}
			work := measured(measure, w.got.value)
			w.count(work)
			w.endItemSpan(nil)
			w.got.drop()
			w.metrics.recordBusy(ctx, w.lap(&w.busy))
			w.event.Done = w.mark
			w.handedOn(work)
			return nil
		}
	})
	n.run.sinks = append(n.run.sinks, finisher{node: n, commit: sink.Commit, close: sink.Close})
}

// transform wires a stage that has both an input and an output, and does do for each item.
func transform[In, Out any](
	s Stream[In], n *node, t toll[In], do func(context.Context, *worker[In], *outlet[Out]) error,
) Stream[Out] {
	n.commitsNothing()
	measure := measureOf[Out](n)
	n.budgets = charges(s.edge, n)
	out := newStream[Out](n, n.budgets)
	consume(s, n, t, func(w *worker[In]) func(context.Context) error {
		o := &outlet[Out]{hand: w.hand, ch: out.ch, measure: measure}
		w.holding = append(w.holding, &o.made)
		return func(ctx context.Context) error { return do(ctx, w, o) }
	})
	return out
}

// consume wires the workers of a stage to s; step makes what one of them does for each item.
func consume[In any](s Stream[In], n *node, t toll[In], step func(*worker[In]) func(context.Context) error) {
	s.edge.consumers++
	g := newGate(n.opts)
	n.launch(func(h *hand) func() error {
		w := &worker[In]{hand: h, in: s.ch, gate: g, toll: t}
		h.holding = []dropper{&w.got}
		w.step = step(w)
		return w.serve
	})
}

// commitsNothing refuses NoCommit where nothing commits.
func (n *node) commitsNothing() {
	if n.opts.noCommit {
		n.fault("NoCommit: only for Into")
	}
}

// launch has the start of the Run start the workers of the stage, each with what body returns for it.
func (n *node) launch(body func(*hand) func() error) {
	n.run.launch = append(n.run.launch, func() {
		for i := range n.opts.workers {
			n.run.stages.Go(body(&hand{node: n, number: i}))
		}
	})
}

// tollOf returns what Charge has set for items of type T.
func tollOf[T any](n *node, before *edge) toll[T] {
	b := n.opts.budget
	if b == nil {
		if n.opts.cost != nil {
			n.fault("Charge: no budget")
		}
		if n.opts.part != nil {
			n.fault("Purposes: without Charge")
		}
		return toll[T]{}
	}
	cost, ok := n.opts.cost.(func(T) int64)
	if !ok || cost == nil {
		n.fault("Charge: a %T does not fit items of type %v", n.opts.cost, reflect.TypeFor[T]())
	}
	if before != nil && slices.Contains(before.charged, b) {
		n.fault("Charge: a stage before has charged the same budget")
	}
	return toll[T]{budget: b, cost: cost, part: partOf[T](n)}
}

// partOf returns what Purposes has set for items of type T; nil if it was not used.
func partOf[T any](n *node) func(T) int64 {
	if n.opts.part == nil {
		return nil
	}
	f, ok := n.opts.part.(func(T) int64)
	if !ok {
		n.fault("Purposes: a %T does not fit items of type %v", n.opts.part, reflect.TypeFor[T]())
	}
	return f
}

// measureOf returns what Measure has set for items of type T; nil if it was not used.
func measureOf[T any](n *node) func(T) Work {
	if n.opts.measure == nil {
		return nil
	}
	f, ok := n.opts.measure.(func(T) Work)
	if !ok {
		n.fault("Measure: a %T does not fit items of type %v", n.opts.measure, reflect.TypeFor[T]())
	}
	return f
}

// charges lists the budgets that items have taken from after n.
func charges(before *edge, n *node) []*Budget {
	var charged []*Budget
	if before != nil {
		charged = slices.Clone(before.charged)
	}
	if n.opts.budget != nil {
		charged = append(charged, n.opts.budget)
	}
	return charged
}
