// Package coldload loads huge mixture-of-experts checkpoints cold: every tensor comes out in its final form (dtype decided, q/k/v and
// gate/up fused, experts stacked, quantised weights in the layout that the GPU kernel reads), in one pass over the files, within a bounded
// amount of memory.
//
//	sink := host.New(host.Options{})
//	res, err := coldload.Load(ctx, "path/to/checkpoint", sink, coldload.Options{})
//
// A checkpoint that cannot be loaded is refused before a byte moves, with a *[stages.RefusedError] that lists every fault. What only the
// bytes show is a *[stages.DataError].
package coldload

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"runtime"
	"slices"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/plan"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/sources/file"
	"github.com/coldload/coldload/stages"
)

// Version of the program and the library.
const Version = "0.1.0"

// DefaultBudget is what the Batches in flight may cost together when Options do not say it, in bytes.
const DefaultBudget = 256 << 20

// MostBatchSpans is how many Batches of a load have spans with Options.TraceBatches: about 100 GB. What each phase did with all of them is
// on its own span, which also says how many spans were left out.
const MostBatchSpans = 10_000

// ErrOptions is in the chain of the error when Options contradict themselves; it comes before anything is opened.
var ErrOptions = errors.New("options do not fit together")

// errNoSink is for a load that was given none.
var errNoSink = fmt.Errorf("%w: the sink is nil", ErrOptions)

// Options of a load. The zero value is good: Marlin, dtypes kept, everything fused, 256 MiB.
type Options struct {
	// Layout of quantised modules; empty is [stages.LayoutMarlin], or what a packed folder has.
	Layout stages.Layout
	// DType of floating-point Outputs and of scales: F32, F16 or BF16; the zero value keeps what the file has.
	DType stages.DType
	// NoFuse loads every module by itself; Strict refuses what the layout cannot hold instead of keeping it raw.
	NoFuse, Strict bool
	// NoPad keeps raw what the tiles of a kernel's layout do not fit, instead of filling it up with zeros.
	NoPad bool
	// ActOrder treats every quantised module with a g_idx as act-order, whatever the config says.
	ActOrder bool
	// FP8Exponent says what the Marlin scales of FP8 weights hold; empty is [stages.ExponentFused], or what a packed folder has.
	FP8Exponent stages.Exponent
	// Budget is what the Batches in flight may cost together, in bytes: fetch buffers and the Sink's staging. 0 is DefaultBudget.
	Budget int64
	// SharedBudget, when set, is the Budget to charge instead: several loads can share it, of one checkpoint or of many. Together they keep to
	// it as one load does. None keeps memory for its next Batch that another may need now, so each is slower than alone by the time that the
	// system takes for fresh pages.
	SharedBudget *pipeline.Budget
	// Workers of every stage; zero fields take a default.
	Workers Workers
	// IO says how files are read.
	IO file.Mode
	// Stages are inserted into the flow.
	Stages []Insert
	// Rules drop, rename or retype Outputs before a byte moves; see [stages.Rule]. They are asked in order.
	Rules []stages.Rule
	// Source, when set, makes what the bytes are read from, instead of sources/file: around the open files of the Shards, which it owns
	// from the call on.
	Source func(shards []file.Shard) (stages.Source, error)
	// NoSelfCheck leaves out the comparison of a sample of what was written with its source, which costs less than a hundredth of the
	// processor time: see [stages.Checker].
	NoSelfCheck bool
	// VerifySource compares the SHA-256 of every Shard: with Digests when there are any, else with the name under which the Hugging Face cache
	// stores the file. A Shard that has neither is an ErrOptions for a load; a pack notes the hash in its manifest all the same. Shards are hashed
	// beside the load, in the order in which it needs them and not far ahead, so that the page cache still holds what is loaded then. No Batch is
	// read before every Shard that it is made of is verified, and the Sink commits when all are. Outputs hands on what is verified; a load of
	// one module verifies the Shards that it reads. What a load from a Checkpoint has hashed, later ones do not hash again. Bytes, ReadInto, Float32,
	// Int32 and Load of a Checkpoint verify nothing.
	VerifySource bool
	// Digests are what VerifySource compares with: the SHA-256 of every Shard in hex, by the Shard's name. See [ParseDigests].
	Digests map[string]string
	// Hashed is called while VerifySource reads, beside Progress, or the digests of a folder that was packed before are compared, with the bytes
	// so far; from several goroutines, one at a time for VerifySource.
	Hashed func(done, total int64)
	// Include and Exclude choose among the Outputs by their names, with the patterns of [path.Match]: made is what matches any of Include
	// (everything when it is empty) and none of Exclude.
	Include, Exclude []string
	// Formats are quantisation formats of one's own.
	Formats []plan.Format
	// HubCache is the folder of the Hugging Face cache, for names such as org/name; see [discover.HubCacheFromEnv].
	HubCache string
	// Progress is called before the first Batch, after every Batch that the Sink took, and once at the end; from one goroutine at a time.
	Progress func(Progress)

	// TraceBatches adds a span per Batch and stage, linked to the Batch's span in the stage before, for the first [MostBatchSpans] Batches.
	TraceBatches bool
	// Observer is told of every Batch at every stage, and once of each phase that has no workers of its own.
	Observer pipeline.Observer

	// CopySpeed is asked for the verdict on a load that the processors bounded, when it is over: how many bytes a second a plain copy reads
	// and writes on this machine, or 0. Without it the verdict cannot tell memory from processors.
	CopySpeed func(context.Context) float64

	TracerProvider trace.TracerProvider // nil: no spans
	MeterProvider  metric.MeterProvider // nil: no metrics
	Logger         *slog.Logger         // nil: no logs
}

// Workers says how many goroutines run each stage. Fetch 0 asks the source as the load begins: more when it must wait for a disk.
type Workers struct {
	Index, Fetch, Decode, Fuse, Repack, Digest, Upload int // Digest: only of a Sink that hashes, see stages.Digester
}

// Insert puts a stage of one's own into the flow. It sees every Batch exactly once and hands the same on; it may change values that were
// written, never sizes, dtypes or names. When it fails the Batch is released for it. It runs under the guard that the Ops have: a page of the
// source that is lost while it looks is an error of the load, except in goroutines that it starts itself.
type Insert struct {
	After   stages.Phase // fetch, decode, fuse or repack
	Stage   pipeline.Stage[*stages.Batch, *stages.Batch]
	Workers int // 1 when 0
}

// Progress of a load, in bytes. When Written is Total only the commit remains; Done says that it is over too.
type Progress struct {
	Written, Total int64
	Done           bool
	// Phases are those that Batches flow through, in their order, stages of one's own included. The slice is the receiver's.
	Phases []PhaseProgress
}

// PhaseProgress is how far one phase of a load is.
type PhaseProgress struct {
	Name  string
	Bytes int64 // that it has put out
	Total int64 // that it will put out; 0 when nobody knows yet
}

// withDefaults fills in what is zero.
func (o Options) withDefaults() Options {
	if o.SharedBudget != nil {
		o.Budget = o.SharedBudget.Size()
	}
	if o.Budget == 0 {
		o.Budget = DefaultBudget
	}
	cpus := runtime.GOMAXPROCS(0)
	for _, w := range []struct {
		field    *int
		standard int
	}{
		{&o.Workers.Index, 2 * cpus}, // reading headers waits for the disk half of the time
		{&o.Workers.Decode, cpus},
		{&o.Workers.Fuse, cpus},
		{&o.Workers.Repack, cpus},
		{&o.Workers.Digest, cpus},
		{&o.Workers.Upload, 1},
	} {
		if *w.field == 0 {
			*w.field = w.standard
		}
	}
	return o
}

// validate returns everything that is wrong with o.
func (o Options) validate() error {
	var faults []error
	bad := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if !slices.Contains([]stages.Layout{"", stages.LayoutMarlin, stages.LayoutExllama, stages.LayoutDequant, stages.LayoutRaw}, o.Layout) {
		bad("layout %q is not known", o.Layout)
	}
	if !slices.Contains([]stages.DType{safetensors.Invalid, safetensors.F32, safetensors.F16, safetensors.BF16}, o.DType) {
		bad("dtype %s: only F32, F16 and BF16 can be asked for", o.DType)
	}
	if layout := cmp.Or(o.Layout, stages.LayoutMarlin); o.DType == safetensors.F32 && (layout == stages.LayoutMarlin || layout == stages.LayoutExllama) {
		bad("layout %s holds F16 or BF16 scales, not F32", layout)
	}
	if !slices.Contains([]stages.Exponent{"", stages.ExponentFused, stages.ExponentPlain}, o.FP8Exponent) {
		bad("FP8 exponent %q: only %s and %s can be asked for", o.FP8Exponent, stages.ExponentFused, stages.ExponentPlain)
	}
	if o.Budget < 0 {
		bad("budget of %d bytes", o.Budget)
	}
	for _, pattern := range slices.Concat(o.Include, o.Exclude) {
		if _, err := path.Match(pattern, ""); err != nil {
			bad("pattern %q: %w", pattern, err)
		}
	}
	w := o.Workers
	if min(w.Index, w.Fetch, w.Decode, w.Fuse, w.Repack, w.Digest, w.Upload) < 0 {
		bad("a negative number of workers")
	}
	for _, s := range o.Stages {
		if s.Stage == nil || s.After < stages.PhaseFetch || s.After > stages.PhaseRepack {
			bad("a stage cannot be inserted after %s", s.After)
		}
	}
	if o.Digests != nil && !o.VerifySource {
		bad("digests of the source, which is not verified")
	}
	if slices.Contains(o.Rules, nil) {
		bad("a rule that is nil")
	}
	if slices.Contains(o.Formats, nil) {
		bad("a format that is nil")
	}
	if o.SharedBudget != nil && o.SharedBudget.Size() <= 0 {
		bad("a shared budget of %d bytes", o.SharedBudget.Size())
	}
	if len(faults) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrOptions, errors.Join(faults...))
}

// Load reads the checkpoint name (a folder, a .safetensors or .gguf file, or org/name in the Hugging Face cache) into sink, which it takes over:
// the sink is closed when Load returns, whatever happens, and after an error holds nothing that looks finished. The Result is never nil;
// after an error it says how far the load came.
func Load(ctx context.Context, name string, sink stages.Sink, opt Options) (*Result, error) {
	opt = opt.withDefaults()
	res := newJudgedResult()
	if sink == nil {
		return res, errNoSink
	}
	res.sink = sinkName(sink)
	return res, opt.operation(ctx, "load", name, res, func(ctx context.Context) error { return load(ctx, name, sink, opt, res) })
}

// Plan says what a Load of the checkpoint name would do, from headers and config files alone, for a Sink in final memory. The Result is never
// nil; its Plan is there for a refused checkpoint too, with every fault, when its headers could be read.
func Plan(ctx context.Context, name string, opt Options) (*Result, error) {
	opt = opt.withDefaults()
	res := newResult()
	return res, opt.operation(ctx, "plan", name, res, func(ctx context.Context) error {
		ck, err := open(ctx, name, opt, res)
		if err != nil {
			return err
		}
		opt.SharedBudget = ck.budget
		_, err = ck.makePlan(ctx, nil, opt, res)
		return errors.Join(err, ck.Close())
	})
}

func load(ctx context.Context, name string, sink stages.Sink, opt Options, res *Result) error {
	ck, err := open(ctx, name, opt, res)
	if err != nil {
		return errors.Join(err, closeSink(sink))
	}
	return errors.Join(ck.load(ctx, sink, opt, res), ck.Close())
}
