package coldload

import (
	"sync"
	"sync/atomic"

	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/plan"
	"github.com/coldload/coldload/stages"
)

// progress tells the user how far a load is. The figures are those that the pipeline keeps anyway, looked at once a Batch.
type progress struct {
	told func(Progress) // nil when nobody asks
	run  *pipeline.Run
	read int64         // that will be fetched; 0 when nobody knows
	more *atomic.Int64 // what is fetched beyond that

	mu  sync.Mutex // guards now, and calls of told
	now Progress
}

func newProgress(told func(Progress), p *plan.Plan, run *pipeline.Run, more *atomic.Int64) *progress {
	w := &progress{told: told, run: run, more: more, now: Progress{Total: p.Summary.BytesOut - p.Summary.Skipped}}
	if p.Summary.Skipped == 0 { // else the plan counts what an earlier run has read
		w.read = p.Summary.BytesRead
	}
	return w
}

// measure adds up what the Sink took.
func (w *progress) measure(work func(*stages.Batch) pipeline.Work) func(*stages.Batch) pipeline.Work {
	if w.told == nil {
		return work
	}
	return func(b *stages.Batch) pipeline.Work {
		done := work(b)
		w.tell(done.BytesOut)
		return done
	}
}

// tell is called before the first Batch, and with what the Sink took of each.
func (w *progress) tell(more int64) {
	if w.told == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now.Written += more
	w.now.Phases = w.phases()
	w.told(w.now)
}

// end is called when everything is committed.
func (w *progress) end() {
	if w.told == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now.Written, w.now.Done = w.now.Total, true
	w.now.Phases = w.phases()
	w.told(w.now)
}

// phases are the stages of the pipeline but for the source of Batches. The Batch that the Sink took last is not in its figures yet, but in
// Written.
func (w *progress) phases() []PhaseProgress {
	stats := flowStats(w.run.Stats())[1:]
	list := make([]PhaseProgress, len(stats))
	for i, s := range stats {
		list[i] = PhaseProgress{Name: s.Name, Bytes: s.BytesOut}
		switch {
		case i == 0 && w.read > 0:
			list[i].Total = w.read + w.more.Load()
		case i == len(stats)-1:
			list[i].Bytes, list[i].Total = w.now.Written, w.now.Total
		}
	}
	return list
}
