package coldload

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/coldload/coldload/internal/cpu"
	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/discover"
	"github.com/coldload/coldload/stages/index"
)

const (
	scope      = "github.com/coldload/coldload"
	attrPrefix = "coldload."

	phaseSpan    = "coldload.phase." // and the name of the phase
	insertedSpan = phaseSpan + "stage"
	batchSpan    = "coldload.batch"
	shardSpan    = "coldload.index.shard"
)

// unnamed leaves out the span of a stage that is no phase and that no user has inserted: what feeds and what collects.
var unnamed = pipeline.SpanName("")

func (o Options) tracer() trace.Tracer {
	if o.TracerProvider == nil {
		return noop.NewTracerProvider().Tracer(scope)
	}
	return o.TracerProvider.Tracer(scope)
}

// pipelineConfig makes the engine report under this program's names.
func (o Options) pipelineConfig() pipeline.Config {
	return pipeline.Config{
		TracerProvider: o.TracerProvider, MeterProvider: o.MeterProvider, Observer: o.Observer, Logger: o.Logger,
		SpanName: spanName, ItemSpanName: func(string) string { return batchSpan }, ItemAttrs: batchAttrs(cpu.X86.String()),
		ItemSpanLimit: MostBatchSpans, ErrorType: errorType, AttrPrefix: attrPrefix,
	}
}

// sideConfig is for a pipeline beside the main one: its end is not the commit of the load.
func (o Options) sideConfig() pipeline.Config {
	c := o.pipelineConfig()
	c.SpanName = func(stage string) string {
		if stage == stages.PhaseCommit.String() {
			return ""
		}
		return spanName(stage)
	}
	return c
}

// indexConfig is for the pipeline that reads the headers: its items are Shards.
func (o Options) indexConfig(found *discover.Checkpoint) pipeline.Config {
	c := o.sideConfig()
	c.ItemSpanName = func(string) string { return shardSpan }
	c.ItemAttrs = shardAttrs(found)
	c.ItemFault = shardFault
	return c
}

// spanName is the span of a phase; stages of the user's own share one name, so that names stay few.
func spanName(stage string) string {
	for _, p := range stages.Phases() {
		if p.String() == stage {
			return phaseSpan + stage
		}
	}
	return insertedSpan
}

// batchAttrs are the attributes of a Batch's span, beside the name of the stage.
func batchAttrs(isa string) func(stage string, item any, made bool) []attribute.KeyValue {
	return func(stage string, item any, made bool) []attribute.KeyValue {
		b, ok := item.(*stages.Batch)
		if !ok || made && stage != stages.PhaseFetch.String() {
			return nil
		}
		if made {
			return []attribute.KeyValue{attribute.String("coldload.source.method", b.Method)}
		}
		attrs := []attribute.KeyValue{
			attribute.Int("coldload.batch.seq", b.Seq), attribute.Int64("coldload.batch.bytes", max(b.InBytes, b.OutBytes)),
			attribute.String("coldload.tensor.first", b.FirstTensor()), attribute.Int("coldload.parts", len(b.Parts)),
			attribute.String("coldload.isa", isa),
		}
		if b.Method != "" { // from the stage before
			attrs = append(attrs, attribute.String("coldload.source.method", b.Method))
		}
		return attrs
	}
}

// shardAttrs are the attributes of the span in which a Shard's header is read.
func shardAttrs(found *discover.Checkpoint) func(stage string, item any, made bool) []attribute.KeyValue {
	return func(_ string, item any, made bool) []attribute.KeyValue {
		s, ok := item.(*index.Shard)
		switch {
		case !ok:
			return nil
		case !made:
			return []attribute.KeyValue{attribute.String("file.path", filepath.Join(found.Dir, s.Name)), attribute.Int64("file.size", s.Size)}
		case s.Header == nil: // shardFault says why
			return nil
		default:
			return []attribute.KeyValue{
				attribute.Int64("coldload.header.bytes", s.Header.DataOffset()), attribute.Int("coldload.tensors", s.Header.Len()),
			}
		}
	}
}

// shardFault marks the span of a Shard that is refused, and that of its phase; the load fails when the faults of all Shards are known.
func shardFault(_ string, made any) error {
	if s, ok := made.(*index.Shard); ok {
		return stages.Refuse(s.Faults...)
	}
	return nil
}

// sinkName is what spans call the Sink: the name that it gives itself, else its type.
func sinkName(sink stages.Sink) string {
	if named, ok := sink.(interface{ Name() string }); ok {
		return named.Name()
	}
	return fmt.Sprintf("%T", sink)
}

// operation runs f under the root span of an operation, and takes its time.
func (o Options) operation(ctx context.Context, name, path string, res *Result, f func(context.Context) error) error {
	ctx, span := o.startSpan(ctx, name, path)
	err := f(ctx)
	res.finish()
	if err == nil {
		res.judge(ctx, o)
	}
	endSpan(span, res, err)
	return err
}

// startSpan opens the root span of an operation. The caller closes it with endSpan.
func (o Options) startSpan(ctx context.Context, operation, path string) (context.Context, trace.Span) {
	//nolint:spancheck // it is the caller's to end
	return o.tracer().Start(ctx, "coldload."+operation, trace.WithAttributes(
		attribute.String("coldload.model", path),
		attribute.Int64("coldload.budget", o.Budget),
	))
}

// endSpan closes the root span with what the operation did.
func endSpan(span trace.Span, r *Result, err error) {
	if span.IsRecording() {
		r.describe(span)
	}
	fail(span, err)
	span.End(trace.WithTimestamp(r.Ended())) // the verdict came after
}

// describe says in a root span what the operation was to do.
func (r *Result) describe(span trace.Span) {
	if r.sink != "" {
		span.SetAttributes(attribute.String("coldload.sink", r.sink))
	}
	if r.Plan == nil {
		return
	}
	s := r.Plan.Summary
	span.SetAttributes(
		attribute.String("coldload.format", s.Format), attribute.String("coldload.layout", string(s.Layout)),
		attribute.Int64("coldload.bytes.in", s.BytesIn), attribute.Int64("coldload.bytes.out", s.BytesOut),
		attribute.Int("coldload.tensors.in", s.Tensors), attribute.Int("coldload.tensors.out", len(r.Plan.Outputs)),
		attribute.String("coldload.isa", r.Kernels),
	)
	describeVerdict(span, r.Verdict)
}

// describeVerdict says in a root span what bounded the operation, when that can be told.
func describeVerdict(span trace.Span, v Verdict) {
	if v.BoundBy != "" {
		span.SetAttributes(attribute.String("coldload.bound_by", v.BoundBy))
	}
	if v.Sentence != "" {
		span.SetAttributes(attribute.String("coldload.verdict", v.Sentence))
	}
}

// describe says in the root span what was verified: read is what was hashed, and the checkpoint that was loaded again.
func (r *VerifyResult) describe(span trace.Span) {
	if !span.IsRecording() {
		return
	}
	read := r.Bytes
	if r.load != nil {
		r.load.describe(span)
		if r.load.Plan != nil {
			read += r.load.Plan.Summary.BytesIn
		}
	}
	span.SetAttributes(
		attribute.Int64("coldload.bytes.in", read), attribute.Int("coldload.tensors.in", r.Outputs),
		attribute.Int("coldload.tensors.out", r.Recomputed), attribute.Int("coldload.differences", len(r.Differences)),
	)
	describeVerdict(span, r.Verdict)
}

// describePhase says in the span of a phase that has no pipeline of its own what the phase did.
func describePhase(span trace.Span, p *Phase, err error) {
	if span.IsRecording() {
		span.SetAttributes(
			attribute.String("coldload.stage.name", p.Name),
			attribute.Int("coldload.stage.workers", p.Workers), attribute.Int64("coldload.items", p.Items),
			attribute.Int64("coldload.bytes.in", p.BytesIn), attribute.Int64("coldload.bytes.out", p.BytesOut),
			attribute.Float64("coldload.time.busy", p.Busy.Seconds()),
			attribute.Float64("coldload.time.wait_in", p.WaitIn.Seconds()), attribute.Float64("coldload.time.wait_out", p.WaitOut.Seconds()),
		)
	}
	fail(span, err)
}

// fail marks the span.
func fail(span trace.Span, err error) {
	if err == nil || !span.IsRecording() {
		return
	}
	span.SetStatus(codes.Error, err.Error())
	span.SetAttributes(attribute.String("error.type", errorType(err)))
}

// The values of error.type that are no Go types.
const (
	typeRefused  = "refused"
	typeData     = "data"
	typeCanceled = "canceled"
	typePanic    = "panic"
)

// errorType is one of few values: what coldload calls the error, else the Go type at the bottom of its chain.
func errorType(err error) string {
	if _, ok := errors.AsType[*pipeline.PanicError](err); ok {
		return typePanic
	}
	if _, ok := errors.AsType[*stages.RefusedError](err); ok {
		return typeRefused
	}
	if _, ok := errors.AsType[*stages.DataError](err); ok {
		return typeData
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return typeCanceled
	}
	return fmt.Sprintf("%T", bottom(err))
}

// bottom is the first error of all that err wraps.
func bottom(err error) error {
	for {
		switch e := err.(type) { //nolint:errorlint // it is the chain that is walked
		case interface{ Unwrap() error }:
			inner := e.Unwrap()
			if inner == nil {
				return err
			}
			err = inner
		case interface{ Unwrap() []error }:
			list := e.Unwrap()
			if len(list) == 0 {
				return err
			}
			err = list[0]
		default:
			return err
		}
	}
}
