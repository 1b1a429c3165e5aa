package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// scope is the name under which spans and metrics are reported.
const scope = "github.com/coldload/coldload/pipeline"

// commitStage is what [Config.SpanName] is asked for Commit's span.
const commitStage = "commit"

// openSpan opens the span of the stage, which began at t. The last worker to leave closes it.
func (n *node) openSpan(t time.Time) {
	n.ctx, n.span = n.run.tracer.Start( //nolint:spancheck // closeSpan ends it
		n.run.ctx, n.run.cfg.SpanName(n.name), trace.WithTimestamp(t))
}

// closeSpan ends the span of the stage at its last item, with the figures of all of them. Only the stage that caused
// the failure of the run is marked as failed.
func (n *node) closeSpan() {
	s := n.stats()
	if n.span.IsRecording() {
		prefix := n.run.cfg.AttrPrefix
		n.span.SetAttributes(
			n.nameAttr(),
			attribute.Int(prefix+"stage.workers", s.Workers),
			attribute.Int64(prefix+"items", s.Items),
			attribute.Int64(prefix+"bytes.in", s.BytesIn),
			attribute.Int64(prefix+"bytes.out", s.BytesOut),
			attribute.Float64(prefix+"time.busy", s.Busy.Seconds()),
			attribute.Float64(prefix+"time.wait_in", s.WaitIn.Seconds()),
			attribute.Float64(prefix+"time.wait_out", s.WaitOut.Seconds()),
		)
	}
	if n.run.isCulprit(n) {
		setFailed(n.span, context.Cause(n.run.ctx))
		n.span.End() // now: the item that failed was not handed on, so Last lies before it
		return
	}
	if s.Last.IsZero() {
		n.span.End()
		return
	}
	n.span.End(trace.WithTimestamp(s.Last))
}

func (n *node) openCommitSpan() (context.Context, trace.Span) {
	ctx, span := n.run.tracer.Start(n.run.ctx, n.run.cfg.SpanName(commitStage))
	if span.IsRecording() {
		span.SetAttributes(n.nameAttr())
	}
	return ctx, span
}

// openItemSpan opens the span of an item that came at t, or returns nil where there is to be none.
func (n *node) openItemSpan(t time.Time, l label, upstream trace.SpanContext) (context.Context, trace.Span) {
	if !n.opts.itemSpans {
		return n.ctx, nil
	}
	if limit := int64(n.run.cfg.ItemSpanLimit); limit > 0 && n.itemSpans.Add(1) > limit {
		return n.ctx, nil
	}
	opts := []trace.SpanStartOption{trace.WithTimestamp(t)}
	if upstream.IsValid() {
		opts = append(opts, trace.WithLinks(trace.Link{SpanContext: upstream}))
	}
	ctx, span := n.run.tracer.Start(n.ctx, n.run.cfg.ItemSpanName(n.name), opts...)
	if span.IsRecording() {
		prefix := n.run.cfg.AttrPrefix
		span.SetAttributes(n.nameAttr(), attribute.Int64(prefix+"item.seq", l.seq))
		if l.name != "" {
			span.SetAttributes(attribute.String(prefix+"item.name", l.name))
		}
	}
	return ctx, span
}

func (n *node) nameAttr() attribute.KeyValue {
	return attribute.String(n.run.cfg.AttrPrefix+"stage.name", n.name)
}

// endSpan ends span, marked as failed where err is not nil.
func endSpan(span trace.Span, err error) {
	if err != nil {
		setFailed(span, err)
	}
	span.End()
}

func setFailed(span trace.Span, err error) {
	if !span.IsRecording() {
		return
	}
	span.SetStatus(codes.Error, err.Error())
	span.SetAttributes(attribute.String("error.type", errorType(err)))
}

// errorType names the Go type of what a stage returned; it has few values, unlike the message.
func errorType(err error) string {
	if failed, ok := errors.AsType[*StageError](err); ok {
		err = failed.Err
	}
	return fmt.Sprintf("%T", err)
}

// instruments are those that a stage records to. A nil *instruments records nothing.
type instruments struct {
	io       metric.Int64Counter
	duration metric.Float64Histogram
	wait     metric.Float64Histogram

	// Ready-made slices: building one per item would allocate.
	in, out []metric.AddOption
	stage   []metric.RecordOption
}

// newInstruments returns nil where no MeterProvider was given.
func newInstruments(r *Run, stage string) *instruments {
	if r.cfg.MeterProvider == nil {
		return nil
	}
	meter, prefix := r.cfg.MeterProvider.Meter(scope), r.cfg.AttrPrefix
	name := attribute.String(prefix+"stage.name", stage)
	direction := func(d string) []metric.AddOption {
		set := attribute.NewSet(name, attribute.String(prefix+"direction", d))
		return []metric.AddOption{metric.WithAttributeSet(set)}
	}
	m := &instruments{
		in: direction("in"), out: direction("out"),
		stage: []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(name))},
	}
	var err [3]error
	m.io, err[0] = meter.Int64Counter(prefix+"io", metric.WithUnit("By"),
		metric.WithDescription("Bytes that the stage read (in) and made (out)."))
	m.duration, err[1] = meter.Float64Histogram(prefix+"stage.duration", metric.WithUnit("s"),
		metric.WithDescription("Time that a worker was busy with one item."))
	m.wait, err[2] = meter.Float64Histogram(prefix+"stage.wait", metric.WithUnit("s"),
		metric.WithDescription("Time that a worker waited for one item to come, or to be taken on."))
	r.logInstruments(errors.Join(err[:]...))
	return m
}

func (m *instruments) addBytes(ctx context.Context, w Work) {
	if m == nil {
		return
	}
	if w.BytesIn != 0 {
		m.io.Add(ctx, w.BytesIn, m.in...)
	}
	if w.BytesOut != 0 {
		m.io.Add(ctx, w.BytesOut, m.out...)
	}
}

func (m *instruments) recordBusy(ctx context.Context, d time.Duration) {
	if m != nil {
		m.duration.Record(ctx, d.Seconds(), m.stage...)
	}
}

func (m *instruments) recordWait(ctx context.Context, d time.Duration) {
	if m != nil {
		m.wait.Record(ctx, d.Seconds(), m.stage...)
	}
}

// observeGauges reports queue lengths and budgets whenever the MeterProvider collects, until the returned function is
// called.
func (r *Run) observeGauges() (stop func()) {
	if r.cfg.MeterProvider == nil {
		return func() {}
	}
	meter, prefix := r.cfg.MeterProvider.Meter(scope), r.cfg.AttrPrefix
	var err [4]error
	var queue, inFlight, size metric.Int64ObservableGauge
	queue, err[0] = meter.Int64ObservableGauge(prefix+"queue.length", metric.WithUnit("{item}"),
		metric.WithDescription("Items parked in the edge after the stage."))
	inFlight, err[1] = meter.Int64ObservableGauge(prefix+"memory.in_flight", metric.WithUnit("By"),
		metric.WithDescription("Bytes of the budget in use."))
	size, err[2] = meter.Int64ObservableGauge(prefix+"memory.budget", metric.WithUnit("By"),
		metric.WithDescription("Bytes of the budget."))
	observe := func(_ context.Context, o metric.Observer) error {
		for _, e := range r.edges {
			o.ObserveInt64(queue, int64(e.length()), metric.WithAttributes(attribute.String(prefix+"stage.name", e.from)))
		}
		for _, n := range r.nodes {
			if b := n.opts.budget; b != nil {
				purpose := metric.WithAttributes(attribute.String(prefix+"purpose", n.name))
				o.ObserveInt64(inFlight, b.InUse(), purpose)
				o.ObserveInt64(size, b.Size(), purpose)
			}
		}
		return nil
	}
	var registration metric.Registration
	registration, err[3] = meter.RegisterCallback(observe, queue, inFlight, size)
	r.logInstruments(errors.Join(err[:]...))
	return func() { r.logInstruments(registration.Unregister()) }
}

// logInstruments logs a fault of the MeterProvider, which is no reason to fail a run.
func (r *Run) logInstruments(err error) {
	if err != nil {
		r.cfg.Logger.LogAttrs(r.ctx, slog.LevelWarn, "metrics incomplete", slog.Any("error", err))
	}
}
