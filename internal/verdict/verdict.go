// Package verdict says what bounded a load, from its figures: figures in, one sentence out. It measures nothing itself.
//
// The order of the questions matters. A worker counts as busy while it waits inside a system call and while it waits for a processor, so
// busy times alone tell neither a slow disk from a slow kernel nor one of them from processors that are all in use. Therefore processor time comes
// first; only when it is not the limit do busy and waiting times tell which stage the others waited for; and the budget is the cause only
// when nothing else is, since admission waits in every load whose end is slower than its beginning.
package verdict

import (
	"strings"
	"time"
)

// What can bound a load.
const (
	None   = ""       // nothing can be said
	Source = "source" // reading
	CPU    = "cpu"    // processors; Phase says what they did most
	Memory = "memory" // memory bandwidth
	Sink   = "sink"   // writing
	Budget = "budget" // bytes in flight
	Stage  = "stage"  // a stage that waits for something of its own; Phase says which
)

// Verdict is what bounded a load.
type Verdict struct {
	// BoundBy is source, cpu, memory, sink, budget, or stage for a stage that waits for something of its own. It is empty when nothing can
	// be said, as for a load that was too short.
	BoundBy string
	// Phase is the phase or stage that the sentence is about; empty when it is about none.
	Phase string
	// Sentence says it with the figures that show it, and ends with Advice.
	Sentence string
	// Advice is what would help most; empty when nothing can be said.
	Advice string
}

// Unknown stands for a figure that the system does not tell.
const Unknown = -1

// Figures are what a load measured.
type Figures struct {
	Total   time.Duration // from the call to the end
	Prelude time.Duration // of that, before the first Batch: headers, planning, what a pack prepares
	Flow    time.Duration // from the first Batch to the end, Commit included
	Commit  time.Duration
	// Index is how long headers were read in Prelude.
	Index time.Duration

	Phases []Phase // of the flow in its order, from what verifies the source and fetch to upload

	CPU        time.Duration // of the process in Flow, user and system; Unknown
	System     time.Duration // what of CPU the system had; Unknown
	PreludeCPU time.Duration // and in Prelude, as the next two
	// PreludeDelayed is how long threads waited for a processor, PreludeIdle the share of the machine that nobody used.
	PreludeDelayed time.Duration
	PreludeIdle    float64
	CPUs           float64       // that the process may use
	Processors     int           // that the machine has
	Idle           float64       // share of the machine's processor time in Flow that nobody used; Unknown
	Throttled      time.Duration // that a quota kept the process waiting in Flow, summed over processors; Unknown
	Delayed        time.Duration // that threads of the process waited in Flow for a processor, summed over them; Unknown
	Generic        bool          // the kernels had no instruction set to use

	DeviceRead    int64  // bytes that the process had devices read in Flow; Unknown
	DeviceWritten int64  // and write
	From, To      Device // what was read from and written to; From is named when DeviceRead shows it in use

	WaitBudget time.Duration
	Budget     int64

	// CopySpeed says how many bytes a second the machine reads and writes in a plain copy; 0 when it cannot tell. It is asked only when
	// the processors are the limit; nil is never asked.
	CopySpeed func() float64
	// Packed: what is read is in its final form already. Packing: the load writes a folder that later loads only read.
	Packed, Packing bool
}

// Device is a block device during Flow. The zero Device is none.
type Device struct {
	Name  string
	Busy  float64 // share of the time with a request in flight
	Queue float64 // requests in flight on average
}

// Kind tells what a phase waits for when it is busy without a processor.
type Kind int

// The kinds of phases.
const (
	Fetches  Kind = iota // for the source
	Verifies             // for the source too, ahead of Fetches, and then it computes
	Computes             // for nothing
	Inserted             // unknown: a stage of the user's
	Uploads              // for the sink
)

// Phase is one phase or stage. Times are summed over its workers.
type Phase struct {
	Name                  string
	Kind                  Kind
	Workers               int
	BytesIn, BytesOut     int64
	Busy, WaitIn, WaitOut time.Duration
}

// The thresholds. docs/tuning.md says why they are what they are.
const (
	shortest   = 50 * time.Millisecond // less is over before anything settles
	full       = 0.85                  // of the processors: the rest are the gaps between Batches and at both ends
	nearlyFull = 0.7                   // of the processors, when the busiest stage needs nothing else
	crowded    = 0.15                  // of what the process wanted of the processors, that it waited for, and of the processors, that others used
	busy       = 0.6                   // of a stage's workers
	waits      = 0.3                   // of the flow in which admission waited for the budget
	mostly     = 0.5                   // of the time
	nearCopy   = 0.7                   // of the speed of a copy
	deepQueue  = 2.0                   // requests in flight that keep a device busy
	deviceBusy = 0.8
	idleDevice = 0.25
)

// Judge says what bounded a load.
func Judge(f Figures) Verdict {
	j := newJudge(f)
	switch {
	case f.Total < shortest:
		return plain("too short to judge: " + milliseconds(f.Total) + "; times of less than " + milliseconds(shortest) + " are mostly beginning and end")
	case j.fetch == nil || j.fetch.BytesIn == 0 && j.verified() == 0:
		return plain("nothing was read: there is nothing to judge")
	case f.Prelude.Seconds() >= mostly*f.Total.Seconds():
		return j.prelude()
	case j.cpuShare >= full || j.throttled() || j.crowded():
		return j.processors()
	default:
		return j.slowest()
	}
}

// plain is a verdict that names no limit.
func plain(sentence string) Verdict { return Verdict{Sentence: sentence} }

// judge holds the figures and what follows from them.
type judge struct {
	Figures

	fetch, upload *Phase
	verify        *Phase        // nil when the source was not verified
	window        time.Duration // Flow without Commit: when the phases could work
	cpuShare      float64       // of the processors that the process may use, in Flow; 0 when unknown
}

func newJudge(f Figures) *judge {
	j := &judge{Figures: f, window: max(f.Flow-f.Commit, 1)}
	for i := range f.Phases {
		switch p := &f.Phases[i]; p.Kind {
		case Fetches:
			j.fetch = p
		case Verifies:
			j.verify = p
		case Uploads:
			j.upload = p
		case Computes, Inserted:
		}
	}
	if f.CPU >= 0 && f.CPUs > 0 && f.Flow > 0 {
		j.cpuShare = f.CPU.Seconds() / f.Flow.Seconds() / f.CPUs
	}
	return j
}

// share of the time that the workers of p were there.
func (j *judge) share(p *Phase, d time.Duration) float64 {
	if p == nil || p.Workers == 0 {
		return 0
	}
	return min(1, d.Seconds()/(float64(p.Workers)*j.window.Seconds()))
}

func (j *judge) used(p *Phase) float64 {
	if p == nil {
		return 0
	}
	return j.share(p, p.Busy)
}

// verified is how many bytes were hashed to verify the source.
func (j *judge) verified() int64 {
	if j.verify == nil {
		return 0
	}
	return j.verify.BytesIn
}

// throttled: a quota took a fifth of what the processors could have done.
func (j *judge) throttled() bool {
	return j.Throttled > 0 && j.Throttled.Seconds() >= 0.2*j.CPUs*j.Flow.Seconds()
}

// crowded: the process wanted all processors, and others had a part of them. That its threads waited for a processor does not show it alone:
// threads that begin to run at the same moment wait for each other too, while nobody else runs.
func (j *judge) crowded() bool {
	wanted := (j.CPU + j.Delayed).Seconds()
	return j.CPU >= 0 && j.Delayed >= 0 && wanted >= full*j.CPUs*j.Flow.Seconds() && j.Delayed.Seconds() >= crowded*wanted && j.othersRan()
}

// othersRan: the rest of the machine used as much of all processors in Flow as crowded asks for, or nobody knows.
func (j *judge) othersRan() bool { return j.othersTook(j.Idle, j.cpuShare*j.CPUs) }

// othersTook is othersRan of a time in which idle was left, and the process kept own processors busy. Where others ran is not known: of the
// processors that the process may use they are taken to have had their share.
func (j *judge) othersTook(idle, own float64) bool {
	if idle < 0 || j.Processors == 0 {
		return true
	}
	return (1-idle)*float64(j.Processors)-own >= crowded*float64(j.Processors)
}

// crowdedBefore: in Prelude, where hardly more than one thread has something to do, threads waited for a processor that others had.
func (j *judge) crowdedBefore() bool {
	return j.PreludeDelayed.Seconds() >= mostly*j.Prelude.Seconds() && j.othersTook(j.PreludeIdle, j.PreludeCPU.Seconds()/j.Prelude.Seconds())
}

// busiest is the phase of these kinds that was busy for the largest part of its time; nil when there is none.
func (j *judge) busiest(kinds ...Kind) (most *Phase) {
	for i := range j.Phases {
		p := &j.Phases[i]
		for _, k := range kinds {
			if p.Kind == k && (most == nil || j.used(p) > j.used(most)) {
				most = p
			}
		}
	}
	return most
}

// prelude is for a load that spent most of its time before the first byte: it asks which of headers and planning took longer.
func (j *judge) prelude() Verdict {
	if j.Index >= j.Prelude-j.Index {
		return j.headers()
	}
	return j.before(CPU, "plan", "fewer or larger tensors help, a faster disk or more workers will not")
}

// headers is for a load that spent its time reading them.
func (j *judge) headers() Verdict {
	const phase = "index"
	if j.crowdedBefore() {
		return j.before(CPU, phase,
			"threads waited "+seconds(j.PreludeDelayed)+" for a processor that other programs had: a quieter machine helps, more budget will not")
	}
	if j.PreludeCPU.Seconds() < mostly*j.Prelude.Seconds() {
		return j.before(Source, phase, "a faster or warmer place for the headers helps, more budget will not")
	}
	return j.before(CPU, phase, "fewer or larger tensors help, a faster disk or more workers will not")
}

// before says what held up the first byte; what limited that is not known when processor time is not.
func (j *judge) before(by, phase, advice string) Verdict {
	sentence := "bound by headers and planning: " + seconds(j.Prelude) + " of " + seconds(j.Total) + " before the first byte"
	if j.PreludeCPU < 0 {
		return verdict(None, phase, sentence, advice)
	}
	return verdict(by, phase, sentence+", with "+percent(j.PreludeCPU.Seconds()/j.Prelude.Seconds())+" of one processor", advice)
}

func verdict(by, phase, sentence, advice string) Verdict {
	return Verdict{BoundBy: by, Phase: phase, Sentence: sentence + "; " + advice, Advice: advice}
}

// list joins what is not empty.
func list(parts ...string) string {
	kept := parts[:0:0]
	for _, p := range parts {
		if p != "" {
			kept = append(kept, p)
		}
	}
	return strings.Join(kept, ", ")
}
