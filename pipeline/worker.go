package pipeline

import (
	"context"
	"iter"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// hand is one goroutine of a stage: its clock, and what it is working on.
type hand struct {
	*node
	number   int        // among the workers of the stage
	born     time.Time  // when it started
	mark     time.Time  // end of the last lap
	event    Event      // of the item in hand: its times
	label    label      // of the item in hand
	turn     turn       // of the item in hand
	itemSpan trace.Span // of the item in hand; nil if it has none
	holding  []dropper  // envelopes that may be full when the goroutine ends
	returned bool       // the stage's code came back, neither panicking nor by Goexit
}

// lap adds the time since the last lap to sum, so that a worker's times leave no gap.
func (h *hand) lap(sum *atomic.Int64) time.Duration {
	now := time.Now()
	d := now.Sub(h.mark)
	h.mark = now
	sum.Add(int64(d))
	return d
}

// fail ends the run with err, about the item in hand, as its cause, unless it has one. The cancelling comes before
// any cleaning up: a stage that drained first would have the source run on meanwhile.
func (h *hand) fail(err error) error {
	return h.failItem(&StageError{Stage: h.name, Item: h.label.String(), Err: err})
}

func (h *hand) failItem(err error) error {
	err = h.run.fail(h.node, err)
	h.observe(Work{}, err)
	h.waiting()
	h.endItemSpan(err)
	return err
}

// cancelled returns the cause of the run, if it has one. It is asked before each item because a select between an
// item and the end of ctx, when both are there, picks either.
func (h *hand) cancelled() error {
	if h.run.ctx.Err() == nil {
		return nil
	}
	return context.Cause(h.run.ctx)
}

// leave is deferred by every goroutine. It is where panics and Goexits of all user code that works on items arrive.
func (h *hand) leave() {
	if !h.returned {
		h.lap(&h.busy)
		_ = h.failItem(crash(h.name, h.label.String(), recover()))
	}
	for _, e := range h.holding {
		e.drop()
	}
	h.endItemSpan(nil)
	h.observeEnd()
	h.lifetime.Add(int64(time.Since(h.born)))
	h.node.leave()
}

// openItemSpan opens the span of the item that came, if it is to have one, and returns the context for it.
func openItemSpan[T any](h *hand, item T, upstream trace.SpanContext) context.Context {
	if !h.opts.itemSpans {
		return h.ctx
	}
	ctx, span := h.node.openItemSpan(h.mark, upstream)
	if h.itemSpan = span; span != nil {
		h.describe(span, h.label, item)
	}
	return ctx
}

// describeMade adds to the item's span, if it has one, what the stage has made of the item, and notes the item's fault.
func describeMade[T any](h *hand, item T) {
	if h.itemSpan != nil {
		h.node.describeMade(h.itemSpan, item)
	}
	if fault := h.run.cfg.ItemFault; fault != nil && h.opts.itemSpans {
		h.noteFault(fault(h.name, item))
	}
}

// noteFault marks the spans of an item that is at fault and of its stage; err is nil for one that is not.
func (h *hand) noteFault(err error) {
	if err == nil {
		return
	}
	h.itemFault.CompareAndSwap(nil, &err)
	if h.itemSpan != nil {
		h.run.setFailed(h.itemSpan, err)
	}
}

// endItemSpan ends the item's span, if it has one, and returns what the next stage links to.
func (h *hand) endItemSpan(err error) trace.SpanContext {
	if h.itemSpan == nil {
		return trace.SpanContext{}
	}
	link := h.itemSpan.SpanContext()
	h.run.endSpan(h.itemSpan, err)
	h.itemSpan = nil
	return link
}

// handedOn notes that the item in hand, on which w was done, has left this stage.
func (h *hand) handedOn(w Work) {
	raise(&h.last, h.offset(h.mark))
	h.observe(w, nil)
	h.waiting()
}

// start sets the clock of the goroutine going.
func (h *hand) start() {
	h.born = time.Now()
	h.mark = h.born
	h.waiting()
}

// toll is what an item pays at admission; the zero toll is free.
type toll[T any] struct {
	budget *Budget
	cost   func(T) int64
	part   func(T) int64 // see Purposes; may be nil
}

// admit waits for the bytes that e costs and adds their lease to e.
func (t toll[T]) admit(h *hand, e *envelope[T]) error {
	if t.budget == nil {
		return nil
	}
	l, waited, err := t.budget.acquire(h.run.ctx, t.cost(e.value))
	h.waitBudget.Add(int64(waited))
	if err != nil {
		return h.fail(err)
	}
	if l != nil {
		if t.part != nil {
			l.setApart(t.part(e.value))
		}
		l.outer, e.lease = e.lease, l
	}
	return nil
}

// outlet is where a hand passes on what its stage produced.
type outlet[T any] struct {
	*hand
	ch      chan<- envelope[T]
	measure func(T) Work // nil: one item each
	made    envelope[T]
	work    Work // done on the item just made
}

// counted adds the item just made to the figures, and ends the busy time spent on it.
func (o *outlet[T]) counted() {
	o.work = measured(o.measure, o.made.value)
	o.count(o.work)
	o.metrics.recordBusy(o.ctx, o.lap(&o.busy))
	o.event.Done = o.mark
}

// handOn waits for the turn of the item and for a place downstream. If the run ends before that, it drops the item.
func (o *outlet[T]) handOn() error {
	err := o.send()
	o.metrics.recordWait(o.ctx, o.lap(&o.waitOut))
	if err != nil {
		o.observe(o.work, err)
		o.waiting()
		o.made.drop()
		return err
	}
	o.handedOn(o.work)
	return nil
}

func (o *outlet[T]) send() error {
	ctx := o.run.ctx
	if err := o.turn.await(ctx); err != nil {
		return err
	}
	select {
	case o.ch <- o.made:
		o.made = envelope[T]{}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func measured[T any](f func(T) Work, v T) Work {
	if f == nil {
		return Work{Items: 1}
	}
	return f(v)
}

// source is the goroutine of a From.
type source[T any] struct {
	outlet[T]
	toll toll[T]
	seq  iter.Seq2[T, error]
}

func (s *source[T]) serve() error {
	defer s.leave()
	s.start()
	err := s.pull()
	s.returned = true
	return err
}

func (s *source[T]) pull() error {
	if err := s.cancelled(); err != nil {
		return err
	}
	for v, err := range s.seq {
		if err != nil {
			s.lap(&s.busy)
			return s.fail(err)
		}
		if err := s.offer(v); err != nil {
			return err
		}
		s.label = label{seq: s.label.seq + 1} // what the iterator fails on next
	}
	s.lap(&s.busy)
	return nil
}

func (s *source[T]) offer(v T) error {
	s.made = envelope[T]{value: v, owned: true} // before any other code of the user's can panic
	s.label = labelOf(v, s.label.seq)
	s.begin(s.mark)
	openItemSpan(s.hand, v, trace.SpanContext{})
	describeMade(s.hand, v)
	s.made.seq, s.made.link = s.label.seq, s.endItemSpan(nil)
	s.counted()
	if err := s.cancelled(); err != nil {
		return err
	}
	if err := s.toll.admit(s.hand, &s.made); err != nil {
		s.event.Came, s.event.Done = s.event.Since, s.event.Since // what follows was waiting
		s.lap(&s.waitOut)
		return err
	}
	return s.handOn()
}

// worker is one goroutine of a stage that consumes a Stream.
type worker[In any] struct {
	*hand
	in   <-chan envelope[In]
	gate *gate // shared by the workers of the stage; may be nil
	toll toll[In]
	got  envelope[In] // the item in hand
	step func(ctx context.Context) error
}

func (w *worker[In]) serve() error {
	defer w.leave()
	w.start()
	err := w.work()
	w.returned = true
	return err
}

// work takes step after step until there is no more item, or an error.
func (w *worker[In]) work() error {
	for {
		more, err := w.receive()
		w.metrics.recordWait(w.run.ctx, w.lap(&w.waitIn))
		w.event.Came = w.mark
		if err != nil || !more {
			return err
		}
		w.begin(w.mark)
		if err := w.step(openItemSpan(w.hand, w.got.value, w.got.link)); err != nil {
			return err
		}
	}
}

// receive waits for the next item and for its admission; it returns false when there is no more.
func (w *worker[In]) receive() (bool, error) {
	if err := w.cancelled(); err != nil {
		return false, err
	}
	if err := w.gate.enter(w.run.ctx); err != nil {
		return false, err
	}
	var more bool
	select {
	case w.got, more = <-w.in:
	case <-w.run.ctx.Done():
		return false, context.Cause(w.run.ctx)
	}
	if more {
		w.label = labelOf(w.got.value, w.got.seq)
		if err := w.toll.admit(w.hand, &w.got); err != nil {
			return false, err
		}
		w.turn = w.gate.takeTurn()
	}
	w.gate.leave()
	return more, nil
}

// refused handles an error of the stage, which has released the item in hand.
func (w *worker[In]) refused(err error) error {
	w.lap(&w.busy)
	w.got.owned = false
	return w.fail(err)
}
