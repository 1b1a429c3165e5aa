package coldload

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"

	"github.com/coldload/coldload/internal/execute"
	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/plan"
	"github.com/coldload/coldload/sources/file"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/discover"
	"github.com/coldload/coldload/stages/index"
)

// Checkpoint is an open checkpoint: found, its headers read once. It is safe for concurrent use until Close.
type Checkpoint struct {
	opt     Options
	found   *discover.Checkpoint
	catalog *index.Catalog
	packed  *packedFolder // nil unless coldload packed it
	source  stages.Source
	sums    []shardSum       // by Shard
	budget  *pipeline.Budget // of all loads that name none of their own, together
	closed  atomic.Bool
}

// Open finds the checkpoint at path and reads its headers. opt counts for the Checkpoint as a whole: where it lies, how it is read, and the
// budget that all loads from it share which name none of their own. The caller closes the Checkpoint.
func Open(ctx context.Context, path string, opt Options) (*Checkpoint, error) {
	return open(ctx, path, opt.withDefaults(), newResult())
}

// open notes the phases it goes through in res.
func open(ctx context.Context, path string, opt Options, res *Result) (*Checkpoint, error) {
	if err := opt.validate(); err != nil {
		return nil, err
	}
	ck := &Checkpoint{opt: opt, budget: opt.SharedBudget}
	if ck.budget == nil {
		ck.budget = pipeline.NewBudget(opt.Budget)
	}
	err := ck.discover(ctx, path, res)
	if err == nil {
		err = ck.index(ctx, res)
	}
	if err != nil {
		return nil, errors.Join(err, ck.Close())
	}
	return ck, nil
}

func (ck *Checkpoint) discover(ctx context.Context, path string, res *Result) error {
	return res.timed(ctx, ck.opt, stages.PhaseDiscover, func(ctx context.Context) (w pipeline.Work, err error) {
		ck.found, err = discover.Discover(ctx, path, discover.Options{
			HubCache: ck.opt.HubCache, Refused: func(found *discover.Checkpoint) []stages.Fault { return ck.headerFaults(ctx, found) },
		})
		if err == nil {
			w.Items = int64(len(ck.found.Shards))
			res.Notes = append(res.Notes, ck.found.Notes...)
		}
		return w, err
	})
}

func (ck *Checkpoint) index(ctx context.Context, res *Result) error {
	collector, run := ck.readHeaders(ctx, ck.found)
	err := run.Wait()
	res.takeIndex(run.Stats())
	if err != nil {
		return unwrapRefusal(err)
	}
	ck.catalog = collector.Catalog
	if ck.sums, err = newShardSums(collector.Files, ck.opt.VerifySource); err == nil {
		err = ck.readManifest()
	}
	if err != nil {
		closeFiles(collector.Files)
		return err
	}
	ck.found.Index = nil // compared with the headers by now, and as large as they are
	res.TensorsIn = ck.catalog.Len()
	res.Notes = append(res.Notes, ck.catalog.Notes()...)
	return ck.openSource(collector.Files)
}

// readHeaders wires the index stage.
func (ck *Checkpoint) readHeaders(ctx context.Context, found *discover.Checkpoint) (*index.Collector, *pipeline.Run) {
	run := pipeline.New(ctx, ck.opt.indexConfig(found))
	collector := &index.Collector{Checkpoint: found}
	shards := pipeline.From(run, execute.Shards, index.Shards(found), unnamed)
	headers := pipeline.Map(shards, index.Stage{Checkpoint: found}, pipeline.Workers(ck.opt.Workers.Index), pipeline.Measure(index.Work), pipeline.ItemSpans())
	pipeline.Into(headers, collector, unnamed)
	return collector, run
}

// headerFaults are the faults in the headers of a checkpoint that is refused anyway. Its index is left out: what does not agree with it
// may be in what is missing.
func (ck *Checkpoint) headerFaults(ctx context.Context, found *discover.Checkpoint) []stages.Fault {
	found.Index, found.Single = nil, ""
	collector, run := ck.readHeaders(ctx, found)
	err := run.Wait()
	closeFiles(collector.Files)
	if refused, ok := errors.AsType[*stages.RefusedError](err); ok {
		return refused.Faults
	}
	return nil
}

// closeFiles closes what was opened for reading: nothing can be lost.
func closeFiles(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

func (ck *Checkpoint) openSource(files []*os.File) (err error) {
	shards := make([]file.Shard, len(files))
	for i, f := range files {
		s := ck.found.Shards[i]
		shards[i] = file.Shard{Name: s.Name, File: f, Size: s.Size, ModTime: s.ModTime}
	}
	if ck.opt.Source != nil {
		return ck.ownSource(shards, files)
	}
	// What is charged may be buffers or a sink's staging, so buffers that nobody uses must fit beside all of it.
	budget := ck.budget
	spare := func() int64 { return budget.Size() - budget.InUse() }
	src, err := file.New(shards, file.Options{IO: ck.opt.IO, BufferBytes: budget.Size(), Spare: spare, NoIdle: ck.opt.SharedBudget != nil, MeterProvider: ck.opt.MeterProvider})
	if err != nil {
		return err
	}
	ck.source = src
	return nil
}

// ownSource makes the Source of the user's own. One that is not made does not own the files.
func (ck *Checkpoint) ownSource(shards []file.Shard, files []*os.File) error {
	err := pipeline.Recover("source", "open", func() (err error) {
		ck.source, err = ck.opt.Source(shards)
		return err
	})
	if panicked, ok := errors.AsType[*pipeline.PanicError](err); ok || err == nil && ck.source == nil {
		closeFiles(files)
		if !ok {
			return fmt.Errorf("%w: Source returned no source", ErrOptions)
		}
		return panicked
	}
	return err
}

// unwrapRefusal takes the list of faults out of what the engine wrapped around it.
func unwrapRefusal(err error) error {
	if refused, ok := errors.AsType[*stages.RefusedError](err); ok {
		return refused
	}
	return err
}

// options are opt for one load from this Checkpoint: one that names no budget takes the Checkpoint's.
func (ck *Checkpoint) options(opt Options) Options {
	switch {
	case opt.SharedBudget != nil || opt.Budget < 0:
	case opt.Budget > 0:
		opt.SharedBudget = pipeline.NewBudget(opt.Budget)
	default:
		opt.SharedBudget = ck.budget
	}
	return opt.withDefaults()
}

func (ck *Checkpoint) planInput() plan.Input {
	in := plan.Input{Catalog: ck.catalog, Model: ck.found.Config, Quant: ck.found.Quant}
	if ck.packed != nil {
		in.Packed = &ck.packed.plan
	}
	return in
}

// Plan says what a load would do, from headers and config files alone. staging is what the sink will hold for a Slab, nil for one in final
// memory. When the checkpoint is refused the Plan is there all the same, with every fault.
func (ck *Checkpoint) Plan(opt Options, staging func(stages.Slab) int64) (*plan.Plan, error) {
	if err := ck.alive(); err != nil {
		return nil, err
	}
	opt = ck.options(opt)
	if err := opt.validate(); err != nil {
		return nil, err
	}
	var p *plan.Plan
	err := recovered(func() (err error) {
		p, err = plan.Make(ck.planInput(), opt.planOptions(staging))
		return err
	})
	if p == nil {
		return nil, err
	}
	p.Notes = slices.Concat(ck.found.Notes, ck.catalog.Notes(), p.Notes)
	if err == nil && len(p.Outputs) == 0 && p.Summary.LeftOut > 0 {
		err = fmt.Errorf("%w: no output is left by include %q and exclude %q; coldload plan lists their names", ErrOptions, opt.Include, opt.Exclude)
	}
	return p, err
}

// recovered plans: a panic of a Rule, a Format or a Stager is an error.
func recovered(f func() error) error {
	return pipeline.Recover(stages.PhasePlan.String(), "a rule, a format or the sink", f)
}

// planOptions are the options that decide what is made.
func (o Options) planOptions(staging func(stages.Slab) int64) plan.Options {
	return plan.Options{
		Layout: o.Layout, DType: o.DType, NoFuse: o.NoFuse, NoPad: o.NoPad, Strict: o.Strict, ActOrder: o.ActOrder, FP8Exponent: o.FP8Exponent,
		Rules: o.Rules, Include: o.Include, Exclude: o.Exclude, Budget: o.Budget, Staging: staging, Formats: o.Formats,
	}
}

// QuantConfig is what the checkpoint says about its quantisation; nil when it says nothing.
func (ck *Checkpoint) QuantConfig() *discover.QuantConfig { return ck.found.Quant }

// alive is an error after Close. The source says the same of what begins before Close and goes on after it.
func (ck *Checkpoint) alive() error {
	if ck.closed.Load() {
		return fmt.Errorf("checkpoint %s: %w", ck.found.Path, os.ErrClosed)
	}
	return nil
}

// Close releases the files. No load may be running. What is asked of the Checkpoint afterwards fails with [os.ErrClosed] in the chain of its
// error; Has, Tensor and QuantConfig still know what the headers said. Calling Close again does nothing.
func (ck *Checkpoint) Close() error {
	if ck.closed.Swap(true) {
		return nil
	}
	var errs []error
	if ck.source != nil {
		errs = append(errs, pipeline.Recover("source", "close", ck.source.Close))
	}
	if ck.found != nil {
		errs = append(errs, ck.found.Close())
	}
	return errors.Join(errs...)
}

// LoadAll reads the whole checkpoint into sink, as the function Load does. A stage or sink of it may load from the same Checkpoint when it
// hands on the context that it was given: that load charges another budget of the same size, since the Batches of this one may hold all of
// theirs until it is done. Under any other context it may wait for ever.
func (ck *Checkpoint) LoadAll(ctx context.Context, sink stages.Sink, opt Options) (*Result, error) {
	opt = ck.options(opt)
	res := newJudgedResult()
	res.TensorsIn = ck.catalog.Len()
	if sink == nil {
		return res, errNoSink
	}
	res.sink = sinkName(sink)
	return res, opt.operation(ctx, "load", ck.found.Path, res, func(ctx context.Context) error { return ck.load(ctx, sink, opt, res) })
}
