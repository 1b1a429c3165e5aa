package coldload

import (
	"context"
	"errors"
	"iter"
	"sync/atomic"

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
	v, err := ck.verification(opt, false)
	if err != nil {
		return errors.Join(err, closeSink(sink))
	}
	return ck.loadVerified(ctx, sink, opt, v, res)
}

// loadVerified is load with a verification that was made before.
func (ck *Checkpoint) loadVerified(ctx context.Context, sink stages.Sink, opt Options, v *verification, res *Result) error {
	if opt.SharedBudget == nil {
		opt.SharedBudget = ck.budget // opt is what it was opened with
	}
	p, err := ck.makePlan(ctx, sink, opt, res)
	if err != nil {
		return errors.Join(err, closeSink(sink))
	}
	return ck.begin(ctx, p, sink, opt, v, res)
}

// closeSink closes a sink that no Run has taken over.
func closeSink(sink stages.Sink) error {
	return pipeline.Recover(stages.PhaseUpload.String(), "close", sink.Close)
}

// stagingOf is how a sink says what it holds for a Slab; nil for one in final memory.
func stagingOf(sink stages.Sink) func(stages.Slab) int64 {
	if s, ok := sink.(stages.Stager); ok {
		return s.StagingBytes
	}
	return nil
}

// begin runs a Plan into sink, which it closes.
func (ck *Checkpoint) begin(ctx context.Context, p *plan.Plan, sink stages.Sink, opt Options, v *verification, res *Result) error {
	err := pipeline.Recover(stages.PhaseUpload.String(), "begin", func() error {
		if err := sink.Begin(ctx, p.Outputs); err != nil {
			return err
		}
		if done := doneBefore(sink, p); done != nil {
			p = p.Skip(done, opt.Budget)
			res.Plan = p
		}
		return nil
	})
	if err != nil {
		return errors.Join(err, closeSink(sink))
	}
	f, err := ck.wire(ctx, p, sink, opt, v, outside(ctx, opt.SharedBudget))
	if err != nil {
		return err
	}
	res.flowBegins(ck)
	return unwrapRefusal(f.end(res))
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

func (ck *Checkpoint) makePlan(ctx context.Context, sink stages.Sink, opt Options, res *Result) (*plan.Plan, error) {
	return res.planned(ctx, opt, func() (*plan.Plan, error) { return ck.Plan(opt, stagingOf(sink)) })
}

// end waits for the end of a load and notes its figures.
func (f *flow) end(res *Result) error {
	err := f.run.Wait()
	res.flowEnds()
	f.back()
	res.takeSource(f.source, f.before)
	res.takeFlow(f.run.Stats(), f.budget.Peak())
	res.takeWarnings(f.warnings)
	if err == nil {
		err = pipeline.Recover("load", "progress", func() error {
			f.progress.end()
			return nil
		})
	}
	return err
}

// wire connects the stages of a load that charges budget into a sink that was begun, and v beside them. Nothing runs yet. On error, when the
// user's own stage or source panics as it is asked its name or pace, or who is told of the progress, the sink is closed.
func (ck *Checkpoint) wire(
	ctx context.Context, p *plan.Plan, sink stages.Sink, opt Options, v *verification, budget *pipeline.Budget,
) (*flow, error) {
	ctx = charging(ctx, budget)
	f := &flow{opt: opt, budget: budget, source: ck.source, warnings: execute.NewWarnings(0), run: pipeline.New(ctx, opt.pipelineConfig())}
	f.exec = execute.Options{
		FileName: ck.catalog.ShardName, Warn: f.warnings.Add, Scans: execute.NewScans(p.Scans()), NoSelfCheck: opt.NoSelfCheck,
	}
	err := pipeline.Recover("load", "stages", func() error {
		f.before = readBy(ck.source)
		f.verified = v.wire(f.run, p) //nolint:contextcheck // it waits under the run's own context, which is made of ctx
		f.connect(ctx, p, sink)
		f.progress.tell(0)
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, closeSink(sink))
	}
	f.back = ck.lend(budget)
	return f, nil
}

// connect appends every stage.
func (f *flow) connect(ctx context.Context, p *plan.Plan, sink stages.Sink) {
	opt, exec := f.opt, f.exec
	workers := fetchers(ctx, f.source, opt)
	// Some Batches wait admitted: the goroutine that makes them has to wait for a processor, while all of them repack, and the disk would too.
	//nolint:contextcheck // the feed waits under the run's own context, which is made of ctx
	f.stream = pipeline.From(f.run, execute.Admission, f.batches(p, sink),
		pipeline.Charge(f.budget, (*stages.Batch).Cost), pipeline.Buffer(workers/2),
		pipeline.Purposes(stages.PhaseFetch.String(), "staging", func(b *stages.Batch) int64 { return b.Staging }), unnamed)
	f.fetch(f.source, sink, workers)
	f.add(stages.PhaseDecode, decode.Stage(exec), opt.Workers.Decode, phaseWork(stages.PhaseDecode))
	f.add(stages.PhaseFuse, fuse.Stage(exec), opt.Workers.Fuse, phaseWork(stages.PhaseFuse))
	exec.DropSource = !f.inserted(stages.PhaseRepack)
	f.add(stages.PhaseRepack, repack.Stage(exec), opt.Workers.Repack, phaseWork(stages.PhaseRepack))

	if d, ok := sink.(stages.Digester); ok {
		f.stream = pipeline.Map(f.stream, upload.Digest(d),
			f.traced(pipeline.Workers(opt.Workers.Digest), pipeline.Buffer(opt.Workers.Upload), pipeline.Measure(upload.DigestWork))...)
	}
	end := upload.New(sink, p.Outputs, upload.Options{Verify: f.source.Verify})
	f.progress = newProgress(opt.Progress, p, f.run, &f.spare)
	pipeline.Into(f.stream, end, f.traced(pipeline.Workers(opt.Workers.Upload), pipeline.Measure(f.progress.measure(upload.Work)))...)
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

// batches makes the Batches of a Plan one by one, with what source and sink hold for each beside the bytes asked for. One that needs what
// scans find comes when they are over, and one that reads a Shard which is to be verified when it is: both wait here, where they hold nothing.
// Spare ones that scans can do without are passed over; spare counts the bytes of the others.
func (f *flow) batches(p *plan.Plan, sink stages.Sink) iter.Seq2[*stages.Batch, error] {
	staging, budget := stagingOf(sink), f.budget.Size()
	padder, padded := f.source.(stages.Padder)
	return func(yield func(*stages.Batch, error) bool) {
		defer f.verified.End()
		for b := range p.Batches() {
			needed, err := f.exec.Scans.Admit(f.run.Context(), b)
			if err == nil && needed {
				err = f.verified.Admit(f.run.Context(), b)
			}
			if err == nil {
				b.Staging, err = plan.StagingOf(b, staging)
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if !needed {
				continue
			}
			if b.Spare {
				f.spare.Add(b.InBytes)
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
	exec     execute.Options
	budget   *pipeline.Budget
	run      *pipeline.Run
	stream   pipeline.Stream[*stages.Batch]
	warnings *execute.Warnings
	verified *execute.Verified // nil when nothing is verified
	progress *progress
	spare    atomic.Int64 // bytes that scans could not do without, beyond what the plan said
	back     func()       // gives back what the source lent
}

type stage = pipeline.Stage[*stages.Batch, *stages.Batch]

// fetch appends the fetch stage. As many fetched Batches as it has workers may wait for the next stage, so that the disk does not wait
// while the processors are behind for a moment. More would only take memory: who is behind for long stays behind.
func (f *flow) fetch(source stages.Source, sink stages.Sink, workers int) {
	f.add(stages.PhaseFetch, fetch.New(source, sink), workers, fetchWork, pipeline.Buffer(workers))
}

// add appends the stage of a phase, and what the user wants after it.
func (f *flow) add(phase stages.Phase, st stage, workers int, work func(*stages.Batch) pipeline.Work, more ...pipeline.Option) {
	f.stream = pipeline.Map(f.stream, st, f.traced(append(more, pipeline.Workers(workers), pipeline.Measure(work))...)...)
	for _, in := range f.opt.Stages {
		if in.After == phase {
			f.stream = pipeline.Map(f.stream, execute.Insert(in.Stage, f.exec), f.traced(pipeline.Workers(max(in.Workers, 1)), pipeline.SpanName(insertedSpan))...)
		}
	}
}

// traced adds spans per Batch to the options of a stage, when they are wanted.
func (f *flow) traced(stage ...pipeline.Option) []pipeline.Option {
	if f.opt.TraceBatches {
		stage = append(stage, pipeline.ItemSpans())
	}
	return stage
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
