package report

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/coldload/coldload/internal/execute"
	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/stages"
)

// The bins of time. Doubling their width when they are full keeps at least half of them in use, whatever a load takes.
const (
	binCount = 512
	firstBin = 64 * time.Microsecond
)

// mostSlow is how many of the slowest Batches are kept.
const mostSlow = 20

// Recorder is a [pipeline.Observer] that keeps of one load what its pictures are drawn from. It takes some 20 KiB for every worker and a little
// for every Batch in flight, whatever the size of the checkpoint. Its sums are exact.
type Recorder struct {
	start time.Time

	mu       sync.Mutex
	width    time.Duration // of a bin
	lanes    map[laneKey]*recorded
	inFlight level
	flying   map[int64]*Slow // Batches that are not written yet, by number
	spare    []*Slow         // to be used for the next ones: Observe does not allocate
	slowest  []Slow          // at most mostSlow, in no order
}

var _ pipeline.Observer = (*Recorder)(nil)

// NewRecorder makes a Recorder for a load that begins at start.
func NewRecorder(start time.Time) *Recorder {
	return &Recorder{start: start, width: firstBin, lanes: map[laneKey]*recorded{}, flying: map[int64]*Slow{}}
}

// recorded is what one worker did.
type recorded struct {
	sums                           Sums
	busy, waitIn, waitOut, in, out series
}

// Sums are exact sums over events.
type Sums struct {
	Items, BytesIn, BytesOut int64
	Busy, WaitIn, WaitOut    time.Duration
}

func (s *Sums) add(o Sums) {
	s.Items, s.BytesIn, s.BytesOut = s.Items+o.Items, s.BytesIn+o.BytesIn, s.BytesOut+o.BytesOut
	s.Busy, s.WaitIn, s.WaitOut = s.Busy+o.Busy, s.WaitIn+o.WaitIn, s.WaitOut+o.WaitOut
}

func sumsOf(e pipeline.Event) Sums {
	return Sums{
		Items: e.Work.Items, BytesIn: e.Work.BytesIn, BytesOut: e.Work.BytesOut,
		Busy: e.Done.Sub(e.Came), WaitIn: e.Came.Sub(e.Since), WaitOut: e.Left.Sub(e.Done),
	}
}

// Slow is what one Batch took.
type Slow struct {
	Seq  int64  // its number
	Name string // as it names itself
	Sums        // over all stages; the items and bytes are those of upload
	Read int64  // bytes that were fetched for it
	// Phases is the busy time of fetch, decode, fuse, repack, digest, upload, and of stages of the user's own together.
	Phases [len(flowPhases)]time.Duration
	Began  time.Duration // from the start of the load until it came to be fetched
	Ended  time.Duration // until it was written; until its last stage let go of it, when it was not
	Err    error         // what it failed with, or nil
	Done   bool          // it was written

	seen uint8 // which phases have told of it, as bits
}

// flowPhases are the phases that a Batch goes through; hashing only on its way to a sink that does. The last entry of what is kept for each is
// for stages of the user's own.
var flowPhases = [...]string{
	stages.PhaseFetch.String(), stages.PhaseDecode.String(), stages.PhaseFuse.String(), stages.PhaseRepack.String(), execute.Digest, stages.PhaseUpload.String(), "other",
}

// Places in flowPhases of what not every load has.
const (
	digestPhase = 4
	otherPhase  = len(flowPhases) - 1
)

func flowPhase(stage string) int {
	if i := slices.Index(flowPhases[:], stage); i >= 0 {
		return i
	}
	return otherPhase
}

// Observe takes an event of the load.
func (r *Recorder) Observe(e pipeline.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	since, came, done, left := r.offset(e.Since), r.offset(e.Came), r.offset(e.Done), r.offset(e.Left)
	for left >= binCount*r.width {
		r.halve()
	}
	l := r.lane(laneOf(e))
	l.sums.add(sumsOf(e))
	l.waitIn.spread(r.width, since, came, int64(came-since))
	l.busy.spread(r.width, came, done, int64(done-came))
	l.waitOut.spread(r.width, done, left, int64(left-done))
	l.in.spread(r.width, came, done, e.Work.BytesIn)
	l.out.spread(r.width, came, done, e.Work.BytesOut)
	if inFlow(e) {
		r.inFlight.note(left, int(left/r.width), e.InFlight)
		r.follow(e, came, left)
	} else if e.Stage == admission && !e.End {
		r.inFlight.note(left, int(left/r.width), e.InFlight)
	}
}

// offset is a time of the load; never below zero.
func (r *Recorder) offset(t time.Time) time.Duration { return max(0, t.Sub(r.start)) }

// halve doubles the width of the bins.
func (r *Recorder) halve() {
	r.width *= 2
	for _, l := range r.lanes {
		for _, s := range []*series{&l.busy, &l.waitIn, &l.waitOut, &l.in, &l.out} {
			s.halve()
		}
	}
	r.inFlight.halve()
}

func (r *Recorder) lane(k laneKey) *recorded {
	l := r.lanes[k]
	if l == nil {
		l = &recorded{}
		r.lanes[k] = l
	}
	return l
}

// follow adds what a stage did for a Batch. A stage tells of it after it has handed it on, so that the next one may tell first: a Batch is
// complete when all phases have told. What a stage of the user's own tells even later is lost.
func (r *Recorder) follow(e pipeline.Event, came, left time.Duration) {
	b, phase := r.flying[e.Seq], flowPhase(e.Stage)
	if b == nil {
		if phase == otherPhase || phase == digestPhase {
			return
		}
		b = r.takeSpare()
		*b = Slow{Seq: e.Seq, Name: e.Name, Began: came}
		r.flying[e.Seq] = b
	}
	s := sumsOf(e)
	b.Phases[phase] += s.Busy
	b.Busy, b.WaitIn, b.WaitOut = b.Busy+s.Busy, b.WaitIn+s.WaitIn, b.WaitOut+s.WaitOut
	b.Ended, b.Err = max(b.Ended, left), cmp.Or(b.Err, e.Err)
	switch e.Stage {
	case stages.PhaseFetch.String():
		b.Read, b.Began = e.Work.BytesIn, came
	case stages.PhaseUpload.String():
		b.Items, b.BytesIn, b.BytesOut, b.Done = e.Work.Items, e.Work.BytesIn, e.Work.BytesOut, e.Err == nil
	}
	const everyPhase = (1<<otherPhase - 1) &^ (1 << digestPhase)
	if b.seen |= 1 << phase; b.seen&everyPhase == everyPhase {
		delete(r.flying, e.Seq)
		r.slowest = keepSlowest(r.slowest, *b)
		r.spare = append(r.spare, b)
	}
}

func (r *Recorder) takeSpare() *Slow {
	n := len(r.spare)
	if n == 0 {
		return &Slow{}
	}
	b := r.spare[n-1]
	r.spare = r.spare[:n-1]
	return b
}

// keepSlowest adds b to a list of at most mostSlow, in place of the least.
func keepSlowest(list []Slow, b Slow) []Slow {
	if len(list) < mostSlow {
		return append(list, b)
	}
	least := 0
	for i := range list {
		if list[i].Busy < list[least].Busy {
			least = i
		}
	}
	if b.Busy > list[least].Busy {
		list[least] = b
	}
	return list
}

// Timeline is what happened when. Time is cut into bins of equal width.
type Timeline struct {
	Width time.Duration // of a bin
	Lanes []Lane        // in the order in which bytes meet them
	// InFlight is the most of the budget that was in use in every bin, in bytes.
	InFlight []int64
	// Slowest are the Batches on which workers were busy longest, the longest first. Those that were not written, because the load
	// failed, count with what had been done on them.
	Slowest []Slow
}

// Lane is what one worker of one stage did in every bin: times in nanoseconds, bytes. The slices of all Lanes have the length of InFlight.
type Lane struct {
	Stage                          string
	Worker                         int
	Sums                           Sums
	Busy, WaitIn, WaitOut, In, Out []int64
}

// Timeline is what was seen of a load that took the given time. It may be called at any time.
func (r *Recorder) Timeline(took time.Duration) Timeline {
	r.mu.Lock()
	defer r.mu.Unlock()
	for took > binCount*r.width {
		r.halve()
	}
	n := min(binCount, int((took+r.width-1)/r.width))
	for _, l := range r.lanes { // what ended after the load was over, such as its last commit
		n = max(n, l.busy.used(), l.waitIn.used(), l.waitOut.used())
	}
	n = max(n, 1)
	t := Timeline{Width: r.width, InFlight: r.inFlight.list(n)}
	for _, k := range slices.SortedFunc(maps.Keys(r.lanes), compareLanes) {
		l := r.lanes[k]
		t.Lanes = append(t.Lanes, Lane{
			Stage: k.stage, Worker: k.worker, Sums: l.sums,
			Busy: l.busy.list(n), WaitIn: l.waitIn.list(n), WaitOut: l.waitOut.list(n), In: l.in.list(n), Out: l.out.list(n),
		})
	}
	list := slices.Clone(r.slowest)
	for _, b := range r.flying {
		list = keepSlowest(list, *b)
	}
	slices.SortFunc(list, func(a, b Slow) int {
		return compareDown(a.Busy, b.Busy, a.Seq, b.Seq)
	})
	t.Slowest = list
	return t
}

// Of adds up what the workers of a stage did.
func (t *Timeline) Of(stage string) (sum Sums) {
	for i := range t.Lanes {
		if t.Lanes[i].Stage == stage {
			sum.add(t.Lanes[i].Sums)
		}
	}
	return sum
}

// halved is t with bins of twice the width.
func (t *Timeline) halved() Timeline {
	h := Timeline{Width: 2 * t.Width, InFlight: pairs(t.InFlight, func(a, b int64) int64 { return max(a, b) }), Slowest: t.Slowest}
	add := func(a, b int64) int64 { return a + b }
	for _, l := range t.Lanes {
		l.Busy, l.WaitIn, l.WaitOut, l.In, l.Out = pairs(l.Busy, add), pairs(l.WaitIn, add), pairs(l.WaitOut, add), pairs(l.In, add), pairs(l.Out, add)
		h.Lanes = append(h.Lanes, l)
	}
	return h
}

// pairs joins the first with the second, the third with the fourth, ...
func pairs(list []int64, join func(a, b int64) int64) []int64 {
	half := make([]int64, (len(list)+1)/2)
	for i := range half {
		half[i] = list[2*i]
		if 2*i+1 < len(list) {
			half[i] = join(half[i], list[2*i+1])
		}
	}
	return half
}

// paces is how many bytes fetch read and upload wrote in every bin.
func (t *Timeline) paces() (read, written []int64) {
	read, written = make([]int64, len(t.InFlight)), make([]int64, len(t.InFlight))
	for i := range t.Lanes {
		switch l := &t.Lanes[i]; l.Stage {
		case stages.PhaseFetch.String():
			for bin, n := range l.In {
				read[bin] += n
			}
		case stages.PhaseUpload.String():
			for bin, n := range l.Out {
				written[bin] += n
			}
		}
	}
	return read, written
}
