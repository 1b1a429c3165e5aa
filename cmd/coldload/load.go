package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/plan"
	"github.com/coldload/coldload/report"
	"github.com/coldload/coldload/sinks/discard"
	"github.com/coldload/coldload/sinks/host"
	"github.com/coldload/coldload/stages"
)

// The sinks that load has.
const (
	toHost    = "host"
	toDiscard = "discard"
	toFile    = "file:" // and the folder
)

// loadFlags are the options of load.
type loadFlags struct {
	planFlags
	pictureFlags

	to choice
}

func newLoadFlags() loadFlags {
	to := chooseFrom([]string{toHost, toDiscard})
	to.prefix = toFile
	return loadFlags{planFlags: newPlanFlags(), to: to}
}

func (f *loadFlags) AddFlags(fs *pflag.FlagSet) {
	f.planFlags.AddFlags(fs)
	f.addRunFlags(fs)
	f.pictureFlags.AddFlags(fs)
	fs.Var(&f.to, "to", "where the result goes")
}

func newLoad(e *env) *cobra.Command {
	o := newLoadFlags()
	cmd := &cobra.Command{
		Use:   "load PATH",
		Short: "Load a checkpoint and say where the time went",
		Long: `load reads a checkpoint, brings every tensor into its final form and says
where the time went, phase by phase, as measured, and what bounded it. It checks
everything that the headers tell before it reads a weight byte, and what only
the bytes tell while it reads.

--to host keeps the result in memory until the program ends; --to discard does
the same work and throws every tensor away, which needs no more memory than
--budget and what describes the checkpoint; --to file:DIR is "coldload pack"
with its defaults. Progress goes to stderr: on a terminal a line for each phase
that moves, with the time to the very end, elsewhere a line every five seconds.

--report FILE.html draws where the time went, on a page that needs nothing else;
--trace FILE.json has every step of every worker, for ui.perfetto.dev. Both are
also written when the load fails.

` + layoutHelp + `

` + pathHelp + `

With --json, peak_anon_bytes is the most anonymous memory that the process had,
sampled every 10 ms (on systems other than Linux: what the Go runtime took from
the system, without the result). Times of phases are summed over their workers.

` + telemetryHelp + `

` + exitCodes,
		Example: `  coldload load ./my-model
  coldload load ./my-model --to discard --dtype bf16 --budget 1GiB
  coldload load ./my-model --layout dequant --no-fuse
  coldload load org/name --json | jq '.phases[] | {name, busy_seconds}'`,
		Args: exactly(1, "one PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if dir, ok := strings.CutPrefix(o.to.value, toFile); ok {
				return runPack(cmd.Context(), e, &packFlags{planFlags: o.planFlags, pictureFlags: o.pictureFlags, shardSize: defaultShardSize}, args[0], dir)
			}
			l, err := load(cmd.Context(), e, &o, args[0], e.start)
			if err != nil {
				return err
			}
			return errors.Join(l.print(e, &o), l.close(), l.drawn)
		},
	}
	o.AddFlags(cmd.Flags())
	return cmd
}

// loaded is a load that succeeded.
type loaded struct {
	report.Load

	path   string
	budget int64
	memory *host.Memory // nil when nothing was kept
	drawn  error        // what went wrong with the pictures of a load that did not
	failed bool         // then what was written is less than the plan's
}

// load runs a load whose time is counted from start.
func load(ctx context.Context, e *env, o *loadFlags, path string, start time.Time) (*loaded, error) {
	opt, err := o.options(e)
	if err != nil {
		return nil, err
	}
	pics, err := o.openPictures(e, path)
	if err != nil {
		return nil, err
	}
	ctx = e.watch(ctx, &opt, pics)
	sink := stages.Sink(discard.New())
	where := ", discarded"
	if o.to.value == toHost {
		sink, where = host.New(host.Options{}), " in host memory"
	}
	peak := startPeak()
	bar := startBar(e, o.quiet, "loading", "committing")
	if bar != nil {
		opt.Progress = bar.load
		opt.Hashed = bar.hashing()
	}
	res, err := coldload.Load(ctx, path, sink, opt)
	bar.stop()
	l := &loaded{
		Load: report.Load{Result: res, Took: res.Ended().Sub(start), Where: where, PeakAnon: peak.stop()},
		path: path, budget: opt.Budget,
	}
	if err = interrupted(ctx, err); err != nil {
		return nil, errors.Join(err, pics.finish(e, l.shown(&o.planFlags, o.to.value, err)))
	}
	if h, ok := sink.(*host.Sink); ok {
		l.memory = h.Memory()
	}
	l.drawn = told(pics.finish(e, l.shown(&o.planFlags, o.to.value, nil)))
	return l, nil
}

func (l *loaded) shown(o *planFlags, sink string, failed error) *shown {
	l.failed = failed != nil
	return &shown{loaded: l, flags: o, sink: sink, object: l.object(o, sink), failed: failed}
}

// close gives the result's memory back.
func (l *loaded) close() error {
	if l.memory == nil {
		return nil
	}
	return l.memory.Close()
}

// resultBytes is what of the result is in memory.
func (l *loaded) resultBytes() int64 {
	if l.memory == nil {
		return 0
	}
	return l.memory.Bytes()
}

func (l *loaded) print(e *env, o *loadFlags) error {
	width, _ := e.outTTY()
	switch {
	case o.json:
		return writeJSON(e.out, l.object(&o.planFlags, o.to.value))
	case o.quiet:
		return write(e.out, l.Headline()+"\n")
	default:
		return write(e.out, l.Text(width))
	}
}

// loadJSON is the JSON object of load.
type loadJSON struct {
	Path    string `json:"path"`
	Sink    string `json:"sink"`
	Version string `json:"version"`
	Layout  string `json:"layout"`
	DType   string `json:"dtype"`
	// Options are those that say how the load was to be done, beside budget.
	Options optionsJSON `json:"options"`

	Seconds   float64 `json:"seconds"` // from the start of main to the last byte in its final layout
	BytesIn   int64   `json:"bytes_in"`
	BytesOut  int64   `json:"bytes_out"`
	TensorsIn int     `json:"tensors_in"`
	Outputs   int     `json:"outputs"`

	PeakAnon    int64 `json:"peak_anon_bytes"`
	ResultBytes int64 `json:"result_bytes"` // in memory; 0 when nothing is kept there
	Budget      int64 `json:"budget"`
	BudgetPeak  int64 `json:"budget_peak_bytes"`
	// WaitBudget is how long admission waited for the budget.
	WaitBudget float64 `json:"wait_budget_seconds"`

	Read readJSON `json:"read_bytes"`
	usageJSON

	Kernels string `json:"kernels"` // the best instruction set that they could use
	// BoundBy is source, cpu, memory, sink, budget or stage; empty when nothing can be said. BoundPhase is the phase that it is about.
	BoundBy    string `json:"bound_by"`
	BoundPhase string `json:"bound_phase"`
	Verdict    string `json:"verdict"` // in a sentence, with the evidence
	Advice     string `json:"advice"`

	Phases   []report.RunPhase `json:"phases"`
	Kept     []plan.Kept       `json:"kept"` // what the layout cannot hold, by reason
	Notes    []string          `json:"notes"`
	Warnings []string          `json:"warnings"`
}

// optionsJSON are flags as they were given.
type optionsJSON struct {
	IO       string   `json:"io"`
	Workers  int      `json:"workers"` // 0: each stage chose
	Names    string   `json:"names"`
	NoFuse   bool     `json:"no_fuse"`
	NoPad    bool     `json:"no_pad"`
	Strict   bool     `json:"strict"`
	ActOrder bool     `json:"act_order"`
	Include  []string `json:"include"`
	Exclude  []string `json:"exclude"`
}

func optionsObject(o *planFlags) optionsJSON {
	return optionsJSON{
		IO: o.io.value, Workers: o.workers, Names: o.names.value, NoFuse: o.noFuse, NoPad: o.noPad, Strict: o.strict, ActOrder: o.actOrder,
		Include: notNil(o.include), Exclude: notNil(o.exclude),
	}
}

// readJSON is how many bytes were read in which way.
type readJSON struct {
	Mmap   int64 `json:"mmap"`
	Pread  int64 `json:"pread"`
	Direct int64 `json:"direct"`
}

// usageJSON is what the load took of the machine, the evidence of the verdict; null is what the system does not tell.
type usageJSON struct {
	CPU           *float64 `json:"cpu_seconds"`    // user and system time of the process
	System        *float64 `json:"system_seconds"` // what of them the system had
	CPUs          float64  `json:"cpus"`           // that it may keep busy
	Throttled     *float64 `json:"throttled_seconds"`
	Delayed       *float64 `json:"run_delay_seconds"` // its threads could have run and waited for a processor
	Idle          *float64 `json:"machine_idle"`      // share of the machine's processor time
	DeviceRead    *int64   `json:"device_read_bytes"`
	DeviceWritten *int64   `json:"device_write_bytes"`
	Source        *device  `json:"source_device"`
	Target        *device  `json:"target_device"`
	CopyBandwidth *float64 `json:"copy_bandwidth"` // bytes per second read and written by a plain copy; null when it was not needed
}

// device is a block device while Batches flowed, with the requests of everybody.
type device struct {
	Name  string  `json:"name"`
	Busy  float64 `json:"busy"`  // share of the time with a request in flight
	Queue float64 `json:"queue"` // requests in flight on average
}

func usageObject(u coldload.Usage) usageJSON {
	j := usageJSON{
		CPU: known(u.CPU.Seconds()), System: known(u.System.Seconds()), CPUs: u.CPUs, Throttled: known(u.Throttled.Seconds()), Delayed: known(u.Delayed.Seconds()), Idle: known(u.Idle),
		DeviceRead: known(u.DeviceRead), DeviceWritten: known(u.DeviceWritten), Source: deviceObject(u.Source), Target: deviceObject(u.Target),
	}
	if u.CopySpeed > 0 {
		j.CopyBandwidth = &u.CopySpeed
	}
	return j
}

// known is nil for what the system did not tell.
func known[T int64 | float64](v T) *T {
	if v < 0 {
		return nil
	}
	return &v
}

func deviceObject(d coldload.Device) *device {
	if d.Name == "" || d.Busy < 0 {
		return nil
	}
	return &device{Name: d.Name, Busy: d.Busy, Queue: d.Queue}
}

func (l *loaded) object(o *planFlags, sink string) loadJSON {
	res, s, outputs := l.Result, plan.Summary{}, 0
	if res.Plan != nil { // a load that failed may not have come to it
		s, outputs = res.Plan.Summary, len(res.Plan.Outputs)
	}
	written := res.BytesOut()
	if l.failed {
		written = res.Phases[stages.PhaseUpload].BytesOut
	}
	return loadJSON{
		Path: l.path, Sink: sink, Version: coldload.Version, Layout: string(s.Layout), DType: o.dtype.value,
		Seconds: l.Took.Seconds(), BytesIn: s.BytesIn, BytesOut: written,
		TensorsIn: res.TensorsIn, Outputs: outputs,
		PeakAnon: l.PeakAnon, ResultBytes: l.resultBytes(), Budget: l.budget, BudgetPeak: res.BudgetPeak, WaitBudget: res.WaitBudget.Seconds(), Read: readJSON(res.Read),
		usageJSON: usageObject(res.Usage), Options: optionsObject(o), BoundBy: res.Verdict.BoundBy, BoundPhase: res.Verdict.Phase, Verdict: res.Verdict.Sentence, Advice: res.Verdict.Advice,
		Kernels: res.Kernels, Phases: report.RunPhases(res.Phases), Kept: notNil(s.Kept), Notes: notNil(res.Notes), Warnings: notNil(res.Warnings),
	}
}
