package coldload

import (
	"context"
	"path/filepath"
	"time"

	"github.com/coldload/coldload/internal/cpu"
	"github.com/coldload/coldload/internal/execute"
	"github.com/coldload/coldload/internal/usage"
	"github.com/coldload/coldload/internal/verdict"
	"github.com/coldload/coldload/stages"
)

// Verdict says what bounded a load, with the evidence, and what would help most. docs/tuning.md says how it is decided.
type Verdict = verdict.Verdict

// What can bound a load: the values of Verdict.BoundBy. Empty is for what cannot be judged.
const (
	BoundBySource = verdict.Source // reading
	BoundByCPU    = verdict.CPU    // processors; Verdict.Phase says what they did most
	BoundByMemory = verdict.Memory // memory bandwidth
	BoundBySink   = verdict.Sink   // writing
	BoundByBudget = verdict.Budget // bytes in flight
	BoundByStage  = verdict.Stage  // a stage of one's own that waits for something: Verdict.Phase says which
)

// Device says how busy a block device was while Batches flowed, with the requests of everybody. Name is empty when there is none of this
// machine or the system does not tell; then Busy and Queue are negative.
type Device = usage.DeviceUsed

// Usage is what a load took of its machine. It is of the whole process: of several loads at once it is that of all. Figures that the
// system does not tell are negative.
type Usage struct {
	CPU           time.Duration // user and system time
	System        time.Duration // what of CPU the system had: page faults, copies, reading
	CPUs          float64       // that the process may keep busy: GOMAXPROCS, or a quota that is less
	Throttled     time.Duration // that a quota kept it waiting, summed over processors
	Delayed       time.Duration // that its threads could have run and waited for a processor, summed over them
	Idle          float64       // share of the machine's processor time that nobody used, from 0 to 1
	DeviceRead    int64         // bytes that block devices read for it: nothing of them was in the page cache
	DeviceWritten int64         // bytes that block devices wrote for it
	// Source and Target are the devices that the checkpoint and the folder of a pack lie on.
	Source, Target Device
	// CopySpeed is what Options.CopySpeed told, in bytes per second; 0 when it was not asked.
	CopySpeed float64
}

// meter measures what a load takes. A Result without one is not judged: what loads one module is over too soon.
type meter struct {
	start, flow, end usage.Snapshot // flow: as the first Batch was about to be read
	begun            time.Time      // the flow; zero when it never did
	source, target   usage.Device   // as the flow began
	flowed           Usage          // of the flow alone
	targetPath       string         // a folder on the device that is written to; empty for none
	packed, packing  bool           // the checkpoint, the load
}

// startMeter begins to measure.
func startMeter() *meter { return &meter{start: usage.Now()} }

// flowBegins notes that the first Batch is about to be read.
func (r *Result) flowBegins(ck *Checkpoint) {
	m := r.meter
	if m == nil {
		return
	}
	m.packed = ck.packed != nil
	if len(ck.found.Shards) > 0 {
		m.source = usage.DeviceOf(filepath.Join(ck.found.Dir, ck.found.Shards[0].Name))
	}
	if m.targetPath != "" {
		m.target = usage.DeviceOf(m.targetPath)
	}
	m.flow, m.begun = usage.Now(), time.Now()
}

// flowEnds notes that nothing moves any more.
func (r *Result) flowEnds() {
	m := r.meter
	if m == nil || m.begun.IsZero() {
		return
	}
	m.end = usage.Now()
	u := m.end.Since(m.flow)
	m.flowed = Usage{
		CPU: u.CPU, System: u.System, Throttled: u.Throttled, Delayed: u.Delayed, Idle: u.Idle,
		DeviceRead: u.DeviceRead, DeviceWritten: u.DeviceWritten, CPUs: usage.CPUs(),
		Source: m.source.Now().Since(m.source), Target: m.target.Now().Since(m.target),
	}
}

// judge says what bounded a load that is over. It takes no part of the load's time.
func (r *Result) judge(ctx context.Context, opt Options) {
	m := r.meter
	if m == nil || m.begun.IsZero() {
		return
	}
	u := m.end.Since(m.start)
	r.Usage = Usage{
		CPU: u.CPU, System: u.System, Throttled: u.Throttled, Delayed: u.Delayed, Idle: u.Idle, DeviceRead: u.DeviceRead, DeviceWritten: u.DeviceWritten,
		CPUs: m.flowed.CPUs, Source: m.flowed.Source, Target: m.flowed.Target,
	}
	f := r.figures(opt)
	if opt.CopySpeed != nil {
		f.CopySpeed = func() float64 {
			r.Usage.CopySpeed = opt.CopySpeed(ctx)
			return r.Usage.CopySpeed
		}
	}
	r.Verdict = verdict.Judge(f)
}

// figures are what the verdict is computed from.
func (r *Result) figures(opt Options) verdict.Figures {
	m := r.meter
	index, prelude := r.Phases[stages.PhaseIndex], m.flow.Since(m.start)
	f := verdict.Figures{
		Total: r.Duration, Prelude: m.begun.Sub(r.start), Flow: r.Ended().Sub(m.begun), Commit: r.Phases[stages.PhaseCommit].Busy,
		Index: index.Last.Sub(index.First), PreludeDelayed: prelude.Delayed, PreludeIdle: prelude.Idle,
		CPU: m.flowed.CPU, System: m.flowed.System, PreludeCPU: prelude.CPU, CPUs: m.flowed.CPUs, Processors: usage.Processors(),
		Idle: m.flowed.Idle, Throttled: m.flowed.Throttled, Delayed: m.flowed.Delayed, Generic: r.Kernels == cpu.Features{}.String(),
		DeviceRead: m.flowed.DeviceRead, DeviceWritten: m.flowed.DeviceWritten, From: verdict.Device(m.flowed.Source), To: verdict.Device(m.flowed.Target),
		WaitBudget: r.WaitBudget, Budget: opt.Budget, Packed: m.packed, Packing: m.packing,
	}
	for i, p := range r.Phases {
		kind, ok := kindOf(stages.Phase(i), p.Name)
		if !ok || p.First.Before(m.begun) { // not of the flow, or never begun
			continue
		}
		f.Phases = append(f.Phases, verdict.Phase{
			Name: p.Name, Kind: kind, Workers: p.Workers, BytesIn: p.BytesIn, BytesOut: p.BytesOut, Busy: p.Busy, WaitIn: p.WaitIn, WaitOut: p.WaitOut,
		})
	}
	return f
}

// kindOf says what a phase of the flow waits for; what verifies and hashes, and stages of the user's, follow the standard ones.
func kindOf(p stages.Phase, name string) (kind verdict.Kind, ok bool) {
	switch {
	case name == execute.Digest:
		return verdict.Computes, true
	case name == execute.VerifySource:
		return verdict.Verifies, true
	case int(p) >= len(stages.Phases()):
		return verdict.Inserted, true
	case p == stages.PhaseFetch:
		return verdict.Fetches, true
	case p == stages.PhaseDecode, p == stages.PhaseFuse, p == stages.PhaseRepack:
		return verdict.Computes, true
	case p == stages.PhaseUpload:
		return verdict.Uploads, true
	default:
		return 0, false
	}
}

// hashing measures what reading and hashing a folder takes, which has no phases.
type hashing struct {
	workers int
	begun   time.Time
	before  usage.Snapshot
	device  usage.Device
}

func newHashing(dir string, workers int) *hashing {
	return &hashing{workers: workers, begun: time.Now(), before: usage.Now(), device: usage.DeviceOf(dir)}
}

// judge says what bounded it. The workers do nothing else, so that each is busy all the time: processor time and devices decide.
func (h *hashing) judge(bytes int64) Verdict {
	wall, u := time.Since(h.begun), usage.Now().Since(h.before)
	return verdict.Judge(verdict.Figures{
		Total: wall, Flow: wall, CPU: u.CPU, System: u.System, PreludeCPU: usage.Unknown, CPUs: usage.CPUs(), Processors: usage.Processors(), Idle: u.Idle,
		Throttled: u.Throttled, Delayed: u.Delayed, DeviceRead: u.DeviceRead, From: verdict.Device(h.device.Now().Since(h.device)),
		Packed: true, Phases: []verdict.Phase{{
			Name: "verify", Kind: verdict.Fetches, Workers: h.workers, BytesIn: bytes, Busy: time.Duration(h.workers) * wall,
		}},
	})
}
