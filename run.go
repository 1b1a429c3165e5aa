package coldload

import (
	"context"
	"errors"
	"iter"

	"github.com/coldload/coldload/internal/execute"
	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/plan"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/decode"
	"github.com/coldload/coldload/stages/fetch"
	"github.com/coldload/coldload/stages/fuse"
	"github.com/coldload/coldload/stages/repack"
	"github.com/coldload/coldload/stages/upload"
)

// load plans and runs one load into sink, which it closes.
func (ck *Checkpoint) load(ctx context.Context, sink stages.Sink, opt Options, res *Result) error {
	if opt.SharedBudget == nil {
		opt.SharedBudget = ck.budget // opt is what it was opened with
	}
	p, err := ck.makePlan(ctx, sink, opt, res)
	if err != nil {
		return errors.Join(err, sink.Close())
	}
	return ck.begin(ctx, p, sink, opt, res)
}

// begin runs a Plan into sink, which it closes.
func (ck *Checkpoint) begin(ctx context.Context, p *plan.Plan, sink stages.Sink, opt Options, res *Result) error {
	if err := sink.Begin(ctx, p.Outputs); err != nil {
		return errors.Join(err, sink.Close())
	}
	if done := doneBefore(sink, p); done != nil {
		p = p.Skip(done, opt.Budget)
		res.Plan = p
	}
	return unwrapRefusal(ck.flow(ctx, p, sink, opt, res))
}

// doneBefore asks a Sink that goes on where an earlier run stopped; nil for any other.
func doneBefore(sink stages.Sink, p *plan.Plan) func(stages.Slab) bool {
	switch r := sink.(type) {
	case stages.SlabResumer:
		return r.DoneSlab
	case stages.Resumer:
		done := make([]bool, len(p.Outputs))
		for i := range done {
			done[i] = r.Done(p.Outputs[i])
		}
		return func(s stages.Slab) bool { return done[s.Output] }
	default:
		return nil
	}
}

func (ck *Checkpoint) makePlan(ctx context.Context, sink stages.Sink, opt Options, res *Result) (p *plan.Plan, err error) {
	var staging func(stages.Slab) int64
	if s, ok := sink.(stages.Stager); ok {
		staging = s.StagingBytes
	}
	err = res.timed(ctx, opt, stages.PhasePlan, func(context.Context) (w pipeline.Work, err error) {
		p, err = ck.Plan(opt, staging)
		if p != nil {
			res.takePlan(p)
			w.Items = int64(p.Summary.Parts)
		}
		return w, err
	})
	return p, err
}

// flow runs a Plan into a sink that was begun.
func (ck *Checkpoint) flow(ctx context.Context, p *plan.Plan, sink stages.Sink, opt Options, res *Result) error {
	return ck.wire(ctx, p, sink, opt, opt.SharedBudget).end(p, res)
}

// end waits for the end of a load and notes its figures.
func (f *flow) end(p *plan.Plan, res *Result) error {
	err := f.run.Wait()
	res.takeSource(f.source, f.before)
	res.takeFlow(f.run.Stats(), f.budget.Peak())
	res.takeWarnings(f.warnings)
	if err == nil && f.opt.Progress != nil {
		total := p.Summary.BytesOut - p.Summary.Skipped
		f.opt.Progress(Progress{Written: total, Total: total, Done: true})
	}
	return err
}

// wire connects the stages of a load that charges budget. Nothing runs yet.
func (ck *Checkpoint) wire(ctx context.Context, p *plan.Plan, sink stages.Sink, opt Options, budget *pipeline.Budget) *flow {
	f := &flow{opt: opt, budget: budget, source: ck.source, before: readBy(ck.source), warnings: execute.NewWarnings(0), run: pipeline.New(ctx, opt.pipelineConfig())}
	f.stream = pipeline.From(f.run, "batches", batches(p, ck.source, sink, budget.Size()), pipeline.Charge(budget, (*stages.Batch).Cost))

	f.fetch(ck.source, sink, fetchers(ctx, ck.source, opt))
	exec := execute.Options{FileName: ck.catalog.ShardName, Warn: f.warnings.Add}
	f.add(stages.PhaseDecode, decode.Stage(exec), opt.Workers.Decode, phaseWork(stages.PhaseDecode))
	f.add(stages.PhaseFuse, fuse.Stage(exec), opt.Workers.Fuse, phaseWork(stages.PhaseFuse))
	exec.DropSource = !f.inserted(stages.PhaseRepack)
	f.add(stages.PhaseRepack, repack.Stage(exec), opt.Workers.Repack, phaseWork(stages.PhaseRepack))

	end := upload.New(sink, p.Outputs, upload.Options{Verify: ck.source.Verify})
	pipeline.Into(f.stream, end, pipeline.Workers(opt.Workers.Upload), pipeline.Measure(progress(opt, p, upload.Work)))
	return f
}

// standardFetchers is for a Source that does not say: two requests keep a disk busy.
const standardFetchers = 2

// fetchers is how many goroutines fetch.
func fetchers(ctx context.Context, source stages.Source, opt Options) int {
	if opt.Workers.Fetch != 0 {
		return opt.Workers.Fetch
	}
	if p, ok := source.(stages.Pacer); ok {
		return max(p.Fetchers(ctx), 1)
	}
	return standardFetchers
}

// batches makes the Batches of a Plan one by one, with what source and sink hold for each beside the bytes asked for.
func batches(p *plan.Plan, source stages.Source, sink stages.Sink, budget int64) iter.Seq2[*stages.Batch, error] {
	stager, staged := sink.(stages.Stager)
	padder, padded := source.(stages.Padder)
	return func(yield func(*stages.Batch, error) bool) {
		for b := range p.Batches() {
			if staged {
				for _, s := range b.Slabs {
					b.Staging += stager.StagingBytes(s)
				}
			}
			if padded {
				// The plan has made sure of the rest only: padding that does not fit is not worth a refusal.
				b.Padding = max(0, min(padder.Padding(b.Ranges), budget-b.Cost()))
			}
			if !yield(b, nil) {
				return
			}
		}
	}
}

// flow is the chain of stages under construction.
type flow struct {
	source   stages.Source
	before   Read // what the source had read
	opt      Options
	budget   *pipeline.Budget
	run      *pipeline.Run
	stream   pipeline.Stream[*stages.Batch]
	warnings *execute.Warnings
}

type stage = pipeline.Stage[*stages.Batch, *stages.Batch]

// fetch appends the fetch stage. As many fetched Batches as it has workers may wait for the next stage, so that the disk does not wait
// while the processors are behind for a moment. More would only take memory: who is behind for long stays behind.
func (f *flow) fetch(source stages.Source, sink stages.Sink, workers int) {
	f.add(stages.PhaseFetch, fetch.New(source, sink), workers, fetchWork, pipeline.Buffer(workers))
}

// add appends the stage of a phase, and what the user wants after it.
func (f *flow) add(phase stages.Phase, st stage, workers int, work func(*stages.Batch) pipeline.Work, more ...pipeline.Option) {
	f.stream = pipeline.Map(f.stream, st, append(more, pipeline.Workers(workers), pipeline.Measure(work))...)
	for _, in := range f.opt.Stages {
		if in.After == phase {
			f.stream = pipeline.Map(f.stream, in.Stage, pipeline.Workers(max(in.Workers, 1)))
		}
	}
}

func (f *flow) inserted(after stages.Phase) bool {
	for _, in := range f.opt.Stages {
		if in.After == after {
			return true
		}
	}
	return false
}

// fetchWork counts ranges and what was read for them.
func fetchWork(b *stages.Batch) pipeline.Work {
	return pipeline.Work{Items: int64(len(b.Ranges)), BytesIn: b.InBytes, BytesOut: b.InBytes}
}

func phaseWork(p stages.Phase) func(*stages.Batch) pipeline.Work {
	work := execute.Work(p)
	return func(b *stages.Batch) pipeline.Work {
		items, in, out := work(b)
		return pipeline.Work{Items: items, BytesIn: in, BytesOut: out}
	}
}
