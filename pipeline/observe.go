package pipeline

import "time"

// Event is one item's stay with one worker of a stage. The times follow one another without a gap, and from one event of a worker to its
// next: Since is the Left of the one before. The last event of a worker is its end, so that the events of a stage add up to its [StageStats]
// (of an [Expander], what it did after its last item counts as the wait for the next).
type Event struct {
	Stage  string // "commit" for [Sink.Commit]
	Sink   string // name of the sink that the event is of, or whose Commit it is; "" for other stages
	Worker int    // from 0; each is one goroutine for the whole of the run
	Seq    int64  // of the item that came to the stage, in its stream
	Name   string // of the item; "" when it does not name itself

	Since time.Time // the worker began to wait for the item; of a source, to make it
	Came  time.Time // it had the item; of a source as Since
	Done  time.Time // the stage's code was done with it
	Left  time.Time // it was handed on; of a source, after it was admitted to its budget

	Work     Work
	InFlight int64 // bytes of the budgets that the stage's items have charged, in use by all of them at Left
	// Err is what failed; then Left is Done, and Work is zero. With Work it is the cause of the end of the run, and the item, which was done,
	// waited in vain to be handed on.
	Err error
	// End: there is no item. The worker has ended at Left, after it waited for one more item or, of a source, looked for one.
	End bool
}

// Observer is told of every item at every stage, for a picture of the run in time; sums are in [StageStats] without one. Observe is called
// by the workers themselves, several at a time, after the item has left: it must not block, and what it takes is part of the worker's next
// wait. It must not panic.
type Observer interface{ Observe(Event) }

// waiting notes that the wait for the next item begins.
func (h *hand) waiting() { h.event = Event{Since: h.mark} }

// observe tells of the item in hand, which has left now.
func (h *hand) observe(w Work, err error) {
	if h.run.cfg.Observer == nil {
		return
	}
	e := h.event
	if e.Came.IsZero() { // of a source, and of an Expander's further items: nothing was waited for
		e.Came = e.Since
	}
	if e.Done.IsZero() {
		e.Done = h.mark
	}
	e.Stage, e.Sink, e.Worker, e.Seq, e.Name = h.name, h.sink, h.number, h.label.seq, h.label.name
	e.Left, e.Work, e.Err = h.mark, w, err
	for _, b := range h.budgets {
		e.InFlight += b.InUse()
	}
	h.run.cfg.Observer.Observe(e)
}

// observeEnd tells of what the worker did after its last item.
func (h *hand) observeEnd() {
	h.label, h.event.End = label{}, true
	h.observe(Work{}, nil)
}
