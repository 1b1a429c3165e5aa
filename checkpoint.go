package coldload

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

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
	source  *file.Source
}

// Open finds the checkpoint at path and reads its headers. Of opt it uses HubCache, IO, Budget, Workers and telemetry. The caller closes
// the Checkpoint.
func Open(ctx context.Context, path string, opt Options) (*Checkpoint, error) {
	return open(ctx, path, opt.withDefaults(), newResult())
}

// open notes the phases it goes through in res.
func open(ctx context.Context, path string, opt Options, res *Result) (*Checkpoint, error) {
	if err := opt.validate(); err != nil {
		return nil, err
	}
	ck := &Checkpoint{opt: opt}
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
	if err := ck.readManifest(); err != nil {
		for _, f := range collector.Files {
			_ = f.Close() // opened for reading: nothing can be lost
		}
		return err
	}
	ck.found.Index = nil // compared with the headers by now, and as large as they are
	res.TensorsIn = ck.catalog.Len()
	res.Notes = append(res.Notes, ck.catalog.Notes()...)
	return ck.openSource(collector.Files)
}

// readHeaders wires the index stage.
func (ck *Checkpoint) readHeaders(ctx context.Context, found *discover.Checkpoint) (*index.Collector, *pipeline.Run) {
	run := pipeline.New(ctx, ck.opt.pipelineConfig())
	collector := &index.Collector{Checkpoint: found}
	shards := pipeline.From(run, "shards", index.Shards(found))
	headers := pipeline.Map(shards, index.Stage{Checkpoint: found}, pipeline.Workers(ck.opt.Workers.Index), pipeline.Measure(index.Work))
	pipeline.Into(headers, collector)
	return collector, run
}

// headerFaults are the faults in the headers of a checkpoint that is refused anyway. Its index is left out: what does not agree with it
// may be in what is missing.
func (ck *Checkpoint) headerFaults(ctx context.Context, found *discover.Checkpoint) []stages.Fault {
	found.Index, found.Single = nil, ""
	collector, run := ck.readHeaders(ctx, found)
	err := run.Wait()
	for _, f := range collector.Files {
		_ = f.Close() // opened for reading: nothing can be lost
	}
	if refused, ok := errors.AsType[*stages.RefusedError](err); ok {
		return refused.Faults
	}
	return nil
}

func (ck *Checkpoint) openSource(files []*os.File) (err error) {
	shards := make([]file.Shard, len(files))
	for i, f := range files {
		s := ck.found.Shards[i]
		shards[i] = file.Shard{Name: s.Name, File: f, Size: s.Size, ModTime: s.ModTime}
	}
	ck.source, err = file.New(shards, file.Options{IO: ck.opt.IO, BufferBytes: ck.opt.Budget})
	return err
}

// unwrapRefusal takes the list of faults out of what the engine wrapped around it.
func unwrapRefusal(err error) error {
	if refused, ok := errors.AsType[*stages.RefusedError](err); ok {
		return refused
	}
	return err
}

// Plan says what a load would do, from headers and config files alone. staging is what the sink will hold for a Slab, nil for one in final
// memory. When the checkpoint is refused the Plan is there all the same, with every fault.
func (ck *Checkpoint) Plan(opt Options, staging func(stages.Slab) int64) (*plan.Plan, error) {
	opt = opt.withDefaults()
	if err := opt.validate(); err != nil {
		return nil, err
	}
	in := plan.Input{Catalog: ck.catalog, Model: ck.found.Config, Quant: ck.found.Quant}
	if ck.packed != nil {
		in.Packed = &ck.packed.plan
	}
	p, err := plan.Make(in, plan.Options{
		Layout: opt.Layout, DType: opt.DType, NoFuse: opt.NoFuse, Strict: opt.Strict,
		Budget: opt.Budget, Staging: staging, Formats: opt.Formats, Include: opt.Include, Exclude: opt.Exclude,
	})
	p.Notes = slices.Concat(ck.found.Notes, ck.catalog.Notes(), p.Notes)
	if err == nil && len(p.Outputs) == 0 && p.Summary.LeftOut > 0 {
		err = fmt.Errorf("%w: no output is left by include %q and exclude %q; coldload plan lists their names", ErrOptions, opt.Include, opt.Exclude)
	}
	return p, err
}

// Has reports whether the checkpoint has a tensor of that name.
func (ck *Checkpoint) Has(name string) bool {
	_, ok := ck.catalog.Lookup(name)
	return ok
}

// Tensor is what the headers say of a tensor.
func (ck *Checkpoint) Tensor(name string) (stages.Tensor, bool) {
	i, ok := ck.catalog.Lookup(name)
	if !ok {
		return stages.Tensor{}, false
	}
	return ck.catalog.Tensor(i), true
}

// QuantConfig is what the checkpoint says about its quantisation; nil when it says nothing.
func (ck *Checkpoint) QuantConfig() *discover.QuantConfig { return ck.found.Quant }

// Close releases the files. No load may be running.
func (ck *Checkpoint) Close() error {
	var errs []error
	if ck.source != nil {
		errs = append(errs, ck.source.Close())
	}
	if ck.found != nil {
		errs = append(errs, ck.found.Close())
	}
	return errors.Join(errs...)
}

// LoadAll reads the whole checkpoint into sink, as the function Load does.
func (ck *Checkpoint) LoadAll(ctx context.Context, sink stages.Sink, opt Options) (*Result, error) {
	opt = opt.withDefaults()
	res := newResult()
	res.TensorsIn = ck.catalog.Len()
	ctx, span := opt.startSpan(ctx, "load", ck.found.Path)
	err := ck.load(ctx, sink, opt, res)
	res.finish()
	endSpan(span, res, err)
	return res, err
}
