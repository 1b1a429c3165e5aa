package coldload

import (
	"context"
	"errors"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/stages"
)

const (
	scope      = "github.com/coldload/coldload"
	attrPrefix = "coldload."
)

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
		SpanName: spanName, ItemSpanName: func(string) string { return "coldload.batch" }, AttrPrefix: attrPrefix,
	}
}

// spanName is the span of a phase; stages of the user's own share one name, so that names stay few.
func spanName(stage string) string {
	for _, p := range stages.Phases() {
		if p.String() == stage {
			return "coldload.phase." + stage
		}
	}
	return "coldload.phase.stage"
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
	if span.IsRecording() && r.Plan != nil {
		s := r.Plan.Summary
		span.SetAttributes(
			attribute.String("coldload.format", s.Format), attribute.String("coldload.layout", string(s.Layout)),
			attribute.Int64("coldload.bytes.in", s.BytesIn), attribute.Int64("coldload.bytes.out", s.BytesOut),
			attribute.Int("coldload.tensors.in", s.Tensors), attribute.Int("coldload.tensors.out", len(r.Plan.Outputs)),
			attribute.String("coldload.isa", r.Kernels), attribute.String("coldload.bound_by", r.Verdict.BoundBy),
		)
	}
	fail(span, err)
	span.End(trace.WithTimestamp(r.Ended())) // the verdict came after
}

// describePhase says in the span of a phase that has no pipeline of its own what the phase did.
func describePhase(span trace.Span, p *Phase, err error) {
	if span.IsRecording() {
		span.SetAttributes(
			attribute.Int("coldload.stage.workers", p.Workers), attribute.Int64("coldload.items", p.Items),
			attribute.Int64("coldload.bytes.in", p.BytesIn), attribute.Int64("coldload.bytes.out", p.BytesOut),
			attribute.Float64("coldload.time.busy", p.Busy.Seconds()),
		)
	}
	fail(span, err)
}

// fail marks the span. error.type is one of few values.
func fail(span trace.Span, err error) {
	if err == nil || !span.IsRecording() {
		return
	}
	span.SetStatus(codes.Error, err.Error())
	span.SetAttributes(attribute.String("error.type", errorType(err)))
}

func errorType(err error) string {
	if _, ok := errors.AsType[*stages.RefusedError](err); ok {
		return "refused"
	}
	if _, ok := errors.AsType[*stages.DataError](err); ok {
		return "data"
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return "canceled"
	}
	return fmt.Sprintf("%T", err)
}
