package pipeline

import (
	"cmp"
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

// openSpan opens the span of the stage, unless it is to have none; it began at t. The last worker to leave closes it.
func (n *node) openSpan(t time.Time) {
	if name := n.spanName(); name != "" {
		n.ctx, n.span = n.run.tracer.Start(n.run.ctx, name, trace.WithTimestamp(t)) //nolint:spancheck // closeSpan ends it
	}
}

func (n *node) spanName() string {
	if n.opts.spanName != nil {
		return *n.opts.spanName
	}
	return n.run.cfg.SpanName(n.name)
}

// closeSpan ends the span of the stage at its last item, with the figures of all of them. Only the stage that caused
// the failure of the run is marked as failed, and one that made items at fault.
func (n *node) closeSpan() {
	s := n.stats()
	n.run.describe(n.span, s)
	if omitted := n.itemSpans.Load() - int64(n.run.cfg.ItemSpanLimit); n.run.cfg.ItemSpanLimit > 0 && omitted > 0 && n.span.IsRecording() {
		n.span.SetAttributes(attribute.Int64(n.run.cfg.AttrPrefix+"spans.omitted", omitted))
	}
	if n.run.isCulprit(n) {
		n.run.setFailed(n.span, context.Cause(n.run.ctx))
		n.span.End() // now: the item that failed was not handed on, so Last lies before it
		return
	}
	if fault := n.itemFault.Load(); fault != nil {
		n.run.setFailed(n.span, *fault)
	}
	if s.Last.IsZero() {
		n.span.End()
		return
	}
	n.span.End(trace.WithTimestamp(s.Last))
}

// describe says in span what the stage did.
func (r *Run) describe(span trace.Span, s StageStats) {
	if !span.IsRecording() {
		return
	}
	prefix := r.cfg.AttrPrefix
	span.SetAttributes(
		r.nameAttr(s.Name),
		attribute.Int(prefix+"stage.workers", s.Workers),
		attribute.Int64(prefix+"items", s.Items),
		attribute.Int64(prefix+"bytes.in", s.BytesIn),
		attribute.Int64(prefix+"bytes.out", s.BytesOut),
		attribute.Float64(prefix+"time.busy", s.Busy.Seconds()),
		attribute.Float64(prefix+"time.wait_in", s.WaitIn.Seconds()),
		attribute.Float64(prefix+"time.wait_out", s.WaitOut.Seconds()),
	)
}

// openCommitSpan returns a span that may be nil.
func (n *node) openCommitSpan() (context.Context, trace.Span) {
	name := n.run.cfg.SpanName(commitStage)
	if name == "" {
		return n.run.ctx, nil
	}
	return n.run.tracer.Start(n.run.ctx, name) //nolint:spancheck // closeCommitSpan ends it
}

// closeCommitSpan ends the span, if there is one, of a Commit that took so long.
func (n *node) closeCommitSpan(span trace.Span, took time.Duration, err error) {
	if span == nil {
		return
	}
	s := StageStats{Name: commitStage, Workers: 1, Busy: took}
	if err == nil {
		s.Items = 1
	}
	n.run.describe(span, s)
	n.run.endSpan(span, err)
}

// openItemSpan opens the span of an item that came at t, or returns nil where the limit omits it.
func (n *node) openItemSpan(t time.Time, upstream trace.SpanContext) (context.Context, trace.Span) {
	if limit := int64(n.run.cfg.ItemSpanLimit); limit > 0 && n.itemSpans.Add(1) > limit {
		return n.ctx, nil
	}
	opts := []trace.SpanStartOption{trace.WithTimestamp(t)}
	if upstream.IsValid() {
		opts = append(opts, trace.WithLinks(trace.Link{SpanContext: upstream}))
	}
	return n.run.tracer.Start(n.ctx, n.run.cfg.ItemSpanName(n.name), opts...) //nolint:spancheck // endItemSpan ends it
}

// describe says in the span of an item what came to the stage.
func (n *node) describe(span trace.Span, l label, item any) {
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(n.run.nameAttr(n.name))
	prefix, attrs := n.run.cfg.AttrPrefix, n.run.cfg.ItemAttrs
	switch {
	case attrs != nil:
		span.SetAttributes(attrs(n.name, item, false)...)
	case l.name != "":
		span.SetAttributes(attribute.Int64(prefix+"item.seq", l.seq), attribute.String(prefix+"item.name", l.name))
	default:
		span.SetAttributes(attribute.Int64(prefix+"item.seq", l.seq))
	}
}

// describeMade says in the span of an item what the stage made.
func (n *node) describeMade(span trace.Span, item any) {
	if attrs := n.run.cfg.ItemAttrs; attrs != nil && span.IsRecording() {
		span.SetAttributes(attrs(n.name, item, true)...)
	}
}

func (r *Run) nameAttr(stage string) attribute.KeyValue {
	return attribute.String(r.cfg.AttrPrefix+"stage.name", stage)
}

// endSpan ends span, marked as failed where err is not nil.
func (r *Run) endSpan(span trace.Span, err error) {
	if err != nil {
		r.setFailed(span, err)
	}
	span.End()
}

func (r *Run) setFailed(span trace.Span, err error) {
	if !span.IsRecording() {
		return
	}
	span.SetStatus(codes.Error, err.Error())
	span.SetAttributes(attribute.String("error.type", r.cfg.ErrorType(err)))
}

// goType names the Go type of what a stage returned; it has few values, unlike the message.
func goType(err error) string {
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

// buckets are the bounds of histograms of times, in seconds: what is usual for milliseconds would put every item into one.
var buckets = metric.WithExplicitBucketBoundaries(1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)

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
	m.duration, err[1] = meter.Float64Histogram(prefix+"stage.duration", metric.WithUnit("s"), buckets,
		metric.WithDescription("Time that a worker was busy with one item."))
	m.wait, err[2] = meter.Float64Histogram(prefix+"stage.wait", metric.WithUnit("s"), buckets,
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
				for purpose, bytes := range n.inFlight() {
					o.ObserveInt64(inFlight, bytes, metric.WithAttributes(attribute.String(prefix+"purpose", purpose)))
				}
				o.ObserveInt64(size, b.Size(), metric.WithAttributes(attribute.String(prefix+"purpose", n.purpose())))
			}
		}
		return nil
	}
	var registration metric.Registration
	registration, err[3] = meter.RegisterCallback(observe, queue, inFlight, size)
	r.logInstruments(errors.Join(err[:]...))
	return func() { r.logInstruments(registration.Unregister()) }
}

// purpose is what the bytes are for that the stage charges.
func (n *node) purpose() string { return cmp.Or(n.opts.purpose, n.name) }

// inFlight is what of the budget that the stage charges is in use, by purpose.
func (n *node) inFlight() map[string]int64 {
	b := n.opts.budget
	if n.opts.part == nil {
		return map[string]int64{n.purpose(): b.InUse()}
	}
	part := b.part.Load()
	return map[string]int64{n.purpose(): max(0, b.InUse()-part), n.opts.partFor: part} // not of one moment
}

// logInstruments logs a fault of the MeterProvider, which is no reason to fail a run.
func (r *Run) logInstruments(err error) {
	if err != nil {
		r.cfg.Logger.LogAttrs(r.ctx, slog.LevelWarn, "metrics incomplete", slog.Any("error", err))
	}
}
