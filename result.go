package coldload

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/coldload/coldload/internal/cpu"
	"github.com/coldload/coldload/internal/execute"
	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/plan"
	"github.com/coldload/coldload/sources/file"
	"github.com/coldload/coldload/stages"
)

// Phase is the figures of one phase. Times are summed over its workers.
type Phase struct {
	Name     string
	Workers  int
	Items    int64 // shards, headers, Parts, ranges or Slabs, as the phase has them
	BytesIn  int64
	BytesOut int64
	Busy     time.Duration // working
	WaitIn   time.Duration // for something to do
	WaitOut  time.Duration // for a place downstream
	// Idle is the time when its workers were not there: before they began and after they had ended. Busy, WaitIn, WaitOut and Idle are
	// together the load's Duration times Workers.
	Idle  time.Duration
	First time.Time // when it began; zero when it never did
	Last  time.Time

	lifetime time.Duration // of its workers, together
}

// Result says what a load did and where its time went.
type Result struct {
	Plan      *plan.Plan // nil when the load failed before it
	TensorsIn int
	Duration  time.Duration // from the call to the last byte in its final layout
	Phases    []Phase       // always all of them, in order
	// WaitBudget is how long admission waited for the budget, while Batches could have been begun.
	WaitBudget time.Duration
	// BudgetPeak is the most that the Batches in flight cost together, in bytes.
	BudgetPeak int64
	Read       Read
	// Kernels is the best instruction set that the kernels could use: "avx512vbmi", "avx512", "avx2", or "generic", which is plain Go. A
	// kernel that gains nothing from it uses an older one.
	Kernels  string
	Notes    []string // what was decided on the way
	Warnings []string // what the bytes have that is odd but not wrong
	// Verdict says what bounded a load that succeeded. It is empty for a load of one module, and when nothing had to be done.
	Verdict Verdict
	// Usage is what a load that has a Verdict took of its machine.
	Usage Usage

	start time.Time
	sink  string // what the root span calls it; empty when there is none
	meter *meter // nil when nobody asks for a verdict
}

// Read is how many bytes were read in which way. All are 0 for a source that is not made of files.
type Read struct {
	Mmap   int64 // handed out as the page cache has them
	Pread  int64 // copied from the page cache, or through it
	Direct int64 // read past the page cache
}

func newResult() *Result {
	r := &Result{start: time.Now(), Kernels: cpu.X86.String()}
	for _, p := range stages.Phases() {
		r.Phases = append(r.Phases, Phase{Name: p.String(), Workers: 1})
	}
	return r
}

// newJudgedResult is for loads that are worth a Verdict.
func newJudgedResult() *Result {
	r := newResult()
	r.meter = startMeter()
	return r
}

func (r *Result) finish() {
	r.Duration = time.Since(r.start)
	for i := range r.Phases {
		p := &r.Phases[i]
		p.Idle = max(0, time.Duration(p.Workers)*r.Duration-p.lifetime)
	}
}

// Ended is when the last byte was in its final layout, and everything closed.
func (r *Result) Ended() time.Time { return r.start.Add(r.Duration) }

// BytesOut is the size of all Outputs together, in bytes.
func (r *Result) BytesOut() int64 {
	if r.Plan == nil {
		return 0
	}
	return r.Plan.Summary.BytesOut
}

// timed runs a phase that has no pipeline of its own, under a span.
func (r *Result) timed(ctx context.Context, opt Options, phase stages.Phase, f func(context.Context) (pipeline.Work, error)) error {
	p := &r.Phases[phase]
	ctx, span := opt.tracer().Start(ctx, spanName(phase.String()))
	defer span.End()
	p.First = time.Now()
	w, err := f(ctx)
	p.Last = time.Now()
	p.Busy = p.Last.Sub(p.First)
	p.Items, p.BytesIn, p.BytesOut = w.Items, w.BytesIn, w.BytesOut
	if opt.Observer != nil {
		opt.Observer.Observe(pipeline.Event{Stage: p.Name, Since: p.First, Came: p.First, Done: p.Last, Left: p.Last, Work: w, Err: err})
	}
	p.lifetime = p.Busy
	describePhase(span, p, err)
	return err
}

// planned runs f as the phase plan and keeps the Plan, that of a refused checkpoint too.
func (r *Result) planned(ctx context.Context, opt Options, f func() (*plan.Plan, error)) (p *plan.Plan, err error) {
	err = r.timed(ctx, opt, stages.PhasePlan, func(context.Context) (w pipeline.Work, err error) {
		p, err = f()
		if p != nil {
			r.takePlan(p)
			w.Items = int64(p.Summary.Parts)
		}
		return w, err
	})
	return p, err
}

// takeIndex keeps the figures of the index pipeline.
func (r *Result) takeIndex(stats []pipeline.StageStats) {
	for _, s := range stats {
		if s.Name == stages.PhaseIndex.String() && s.Commit == 0 {
			r.Phases[stages.PhaseIndex] = phaseOf(s)
			return
		}
	}
}

func (r *Result) takePlan(p *plan.Plan) {
	r.Plan = p
	r.Notes = p.Notes
}

// flowStats are the stages that Batches flow through, with what feeds them, of all stages of a load: the verification of the source is wired
// before them.
func flowStats(stats []pipeline.StageStats) []pipeline.StageStats {
	from := slices.IndexFunc(stats, func(s pipeline.StageStats) bool { return s.Name == execute.Admission })
	return stats[from:]
}

// takeFlow keeps the figures of the main pipeline. The verification of the source and stages of the user's own follow the phases.
func (r *Result) takeFlow(stats []pipeline.StageStats, budgetPeak int64) {
	r.BudgetPeak = budgetPeak
	byName := map[string]stages.Phase{}
	for p := stages.PhaseFetch; p <= stages.PhaseUpload; p++ {
		byName[p.String()] = p
	}
	for _, s := range stats {
		p, ok := byName[s.Name]
		switch {
		case s.Name == execute.Admission:
			r.WaitBudget = s.WaitBudget
		case s.Name == execute.Shards:
		case ok:
			r.Phases[p] = phaseOf(s)
		default:
			r.Phases = append(r.Phases, phaseOf(s))
		}
	}
	if n := len(stats); n > 0 && stats[n-1].Commit > 0 {
		c := &r.Phases[stages.PhaseCommit]
		c.Items, c.Busy, c.lifetime = 1, stats[n-1].Commit, stats[n-1].Commit
	}
}

// takeSource keeps how the load read since before.
func (r *Result) takeSource(source stages.Source, before Read) {
	now := readBy(source)
	r.Read = Read{Mmap: now.Mmap - before.Mmap, Pread: now.Pread - before.Pread, Direct: now.Direct - before.Direct}
	if n, ok := source.(interface{ Notes() []string }); ok {
		r.Notes = append(slices.Clip(r.Notes), n.Notes()...)
	}
}

// readBy is what a source has read so far.
func readBy(source stages.Source) Read {
	s, ok := source.(interface{ Stats() file.Stats })
	if !ok {
		return Read{}
	}
	st := s.Stats()
	return Read{Mmap: st.MmapBytes, Pread: st.PreadBytes, Direct: st.DirectBytes}
}

// takeWarnings keeps what the Ops found odd.
func (r *Result) takeWarnings(w *execute.Warnings) {
	texts, more := w.List()
	if more > 0 {
		texts = append(texts, fmt.Sprintf("%d more warnings", more))
	}
	r.Warnings = texts
}

func phaseOf(s pipeline.StageStats) Phase {
	return Phase{
		Name: s.Name, Workers: s.Workers, Items: s.Items, BytesIn: s.BytesIn, BytesOut: s.BytesOut,
		Busy: s.Busy, WaitIn: s.WaitIn, WaitOut: s.WaitOut, First: s.First, Last: s.Last, lifetime: s.Lifetime,
	}
}
