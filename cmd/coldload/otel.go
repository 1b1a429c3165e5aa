package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr/funcr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/exporters/stdout/stdoutmetric"
	"go.opentelemetry.io/otel/exporters/stdout/stdouttrace"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/coldload/coldload"
)

// How spans and metrics leave the process, where the environment does not say it.
const (
	// spanQueue holds all spans of a load with spans per Batch though the collector takes none until the end: what does not fit is lost.
	spanQueue = 1 << 16
	// spansAtOnce stay below the 4 MiB that a gRPC server takes in one message.
	spansAtOnce = 2048
	// metricsEvery is short because a load is.
	metricsEvery = time.Second
	// flushPatience is how long the end of the program waits for a collector that does not answer.
	flushPatience = 2 * time.Second
)

// The exporters that the environment can name.
const (
	exporterOTLP    = "otlp"
	exporterConsole = "console"
	exporterNone    = "none"
)

// telemetrySettings is what the standard variables ask for. The exporters read those about the way to the collector themselves (endpoint,
// headers, certificates, timeout, compression), the SDK those about samplers and limits.
type telemetrySettings struct {
	traces, metrics signalSettings
	ownQueue        bool // the user has set the queue of spans
	ownInterval     bool // and how often metrics are sent
	parent          propagation.MapCarrier
	faults          []string // of the variables; none ends the program
}

// signalSettings say where one signal goes.
type signalSettings struct {
	exporters []string // otlp or console; none: off
	grpc      bool     // of otlp, instead of HTTP
}

// telemetryFromEnv reads the variables. Nothing is exported unless one of them names an exporter or an endpoint.
func telemetryFromEnv(get func(string) string) telemetrySettings {
	s := telemetrySettings{parent: propagation.MapCarrier{}}
	for _, key := range []string{"traceparent", "tracestate"} {
		if v := get(strings.ToUpper(key)); v != "" {
			s.parent[key] = v
		} else if v := get(key); v != "" {
			s.parent[key] = v
		}
	}
	if strings.EqualFold(get("OTEL_SDK_DISABLED"), "true") {
		return s
	}
	s.traces = s.signal(get, "TRACES")
	s.metrics = s.signal(get, "METRICS")
	s.ownQueue = get("OTEL_BSP_MAX_QUEUE_SIZE")+get("OTEL_BSP_MAX_EXPORT_BATCH_SIZE") != ""
	s.ownInterval = get("OTEL_METRIC_EXPORT_INTERVAL") != ""
	return s
}

// signal reads the variables of one signal, "TRACES" or "METRICS".
func (s *telemetrySettings) signal(get func(string) string, name string) (to signalSettings) {
	own := func(suffix string) string { return "OTEL_EXPORTER_OTLP_" + name + "_" + suffix }
	variable := "OTEL_" + name + "_EXPORTER"
	list := get(variable)
	if list == "" && get("OTEL_EXPORTER_OTLP_ENDPOINT")+get(own("ENDPOINT")) != "" {
		list = exporterOTLP
	}
	for e := range strings.SplitSeq(list, ",") {
		switch e = strings.TrimSpace(e); {
		case e == "" || e == exporterNone || slices.Contains(to.exporters, e):
		case e == exporterOTLP || e == exporterConsole:
			to.exporters = append(to.exporters, e)
		default:
			s.faults = append(s.faults, fmt.Sprintf("%s: %q is not known (known: otlp, console, none)", variable, e))
		}
	}
	variable = own("PROTOCOL")
	protocol := get(variable)
	if protocol == "" {
		variable = "OTEL_EXPORTER_OTLP_PROTOCOL"
		protocol = get(variable)
	}
	switch protocol {
	case "grpc":
		to.grpc = true
	case "", "http/protobuf", "http/json":
	default:
		fault := fmt.Sprintf("%s: %q is not known (known: http/protobuf, http/json, grpc)", variable, protocol)
		if !slices.Contains(s.faults, fault) { // of both signals
			s.faults = append(s.faults, fault)
		}
	}
	return to
}

// off tells that nothing is to be exported.
func (s *telemetrySettings) off() bool { return len(s.traces.exporters)+len(s.metrics.exporters) == 0 }

// watch makes a load that has pictures report to them, and to the exporters of the environment as observe does.
func (e *env) watch(ctx context.Context, opt *coldload.Options, pics *pictures) context.Context {
	opt.Observer = pics.observer()
	if opt.TraceBatches && pics.trace == nil && len(e.otel.traces.exporters) == 0 {
		e.say("--trace-batches has no effect: no OTEL_* variable names an exporter of traces (OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318), and --trace no file")
	}
	return e.observe(ctx, opt)
}

// observe makes a load report to the exporters of the environment, as part of the trace that it names. What it starts, the end of the command
// line ends.
func (e *env) observe(ctx context.Context, opt *coldload.Options) context.Context {
	if e.otel.off() {
		e.sayFaults()
		return ctx
	}
	if e.exports == nil {
		e.exports = startTelemetry(ctx, &e.otel, e.err)
		e.sayFaults()
	}
	if t := e.exports.traces; t != nil {
		opt.TracerProvider = t
	}
	if m := e.exports.metrics; m != nil {
		opt.MeterProvider = m
	}
	if len(e.otel.parent) == 0 {
		return ctx
	}
	ctx = propagation.TraceContext{}.Extract(ctx, e.otel.parent)
	if !trace.SpanContextFromContext(ctx).IsValid() {
		e.say("TRACEPARENT is ignored: %q is no trace context", e.otel.parent["traceparent"])
	}
	return ctx
}

// say puts a line about telemetry on stderr.
func (e *env) say(format string, args ...any) {
	fmt.Fprintf(e.err, "coldload: "+format+"\n", args...)
}

// sayFaults tells of variables that cannot be meant, once.
func (e *env) sayFaults() {
	for _, f := range e.otel.faults {
		e.say("ignored: %s", f)
	}
	e.otel.faults = nil
}

// flush sends what is left and says, once, what could not be sent, and what else was not right.
func (e *env) flush() {
	if e.exports == nil {
		return
	}
	if said := e.exports.close(flushPatience); said != "" {
		e.say("%s", said)
	}
	e.exports = nil
}

// telemetry is everything that is exported.
type telemetry struct {
	delivery

	traces  *sdktrace.TracerProvider // nil when no traces are
	metrics *sdkmetric.MeterProvider // nil when no metrics are
}

// startTelemetry makes the providers; console is where the exporter of that name writes. What cannot be made counts as lost.
func startTelemetry(ctx context.Context, s *telemetrySettings, console io.Writer) *telemetry {
	t := &telemetry{delivery: delivery{alive: make(chan struct{}, 1)}}
	// Errors that no call returns: some that a collector gives with its answer, values of variables that cannot be read.
	otel.SetErrorHandler(&t.delivery)
	otel.SetLogger(funcr.New(func(_, text string) { t.Handle(errors.New(text)) }, funcr.Options{}))
	about := describeProcess(ctx, &t.delivery)

	spans := []sdktrace.TracerProviderOption{sdktrace.WithResource(about)}
	for _, name := range s.traces.exporters {
		if p := t.spans(ctx, name, s, console); p != nil {
			spans = append(spans, sdktrace.WithSpanProcessor(p))
		}
	}
	if len(spans) > 1 {
		t.traces = sdktrace.NewTracerProvider(spans...)
	}
	metrics := []sdkmetric.Option{sdkmetric.WithResource(about)}
	for _, name := range s.metrics.exporters {
		if r := t.readings(ctx, name, s, console); r != nil {
			metrics = append(metrics, sdkmetric.WithReader(r))
		}
	}
	if len(metrics) > 1 {
		t.metrics = sdkmetric.NewMeterProvider(metrics...)
	}
	return t
}

// describeProcess says whose telemetry it is; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES come last and count.
func describeProcess(ctx context.Context, d *delivery) *resource.Resource {
	r, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", "coldload"), attribute.String("service.version", coldload.Version)),
		resource.WithTelemetrySDK(), resource.WithHost(),
		resource.WithProcessPID(), resource.WithProcessExecutableName(), resource.WithProcessRuntimeName(), resource.WithProcessRuntimeVersion(),
		resource.WithFromEnv(),
	)
	if err != nil {
		d.Handle(err)
	}
	return r
}

// spans makes the way of spans to one exporter; nil when it cannot be made.
func (t *telemetry) spans(ctx context.Context, name string, s *telemetrySettings, console io.Writer) sdktrace.SpanProcessor {
	var exporter sdktrace.SpanExporter
	var err error
	switch {
	case name == exporterConsole:
		exporter, err = stdouttrace.New(stdouttrace.WithWriter(console)) // stdout is for results
	case s.traces.grpc:
		exporter, err = otlptracegrpc.New(ctx)
	default:
		exporter, err = otlptracehttp.New(ctx)
	}
	if err != nil {
		t.lacks(fmt.Errorf("traces to %s: %w", name, err))
		return nil
	}
	queue := []sdktrace.BatchSpanProcessorOption{sdktrace.WithMaxQueueSize(spanQueue), sdktrace.WithMaxExportBatchSize(spansAtOnce)}
	if s.ownQueue {
		queue = nil
	}
	return &spanCounter{sdktrace.NewBatchSpanProcessor(&spanSender{exporter, &t.delivery}, queue...), &t.delivery}
}

// readings makes the way of metrics to one exporter; nil when it cannot be made.
func (t *telemetry) readings(ctx context.Context, name string, s *telemetrySettings, console io.Writer) sdkmetric.Reader {
	var exporter sdkmetric.Exporter
	var err error
	switch {
	case name == exporterConsole:
		exporter, err = stdoutmetric.New(stdoutmetric.WithWriter(console))
	case s.metrics.grpc:
		exporter, err = otlpmetricgrpc.New(ctx)
	default:
		exporter, err = otlpmetrichttp.New(ctx)
	}
	if err != nil {
		t.lacks(fmt.Errorf("metrics to %s: %w", name, err))
		return nil
	}
	interval := []sdkmetric.PeriodicReaderOption{sdkmetric.WithInterval(metricsEvery)}
	if s.ownInterval {
		interval = nil
	}
	return sdkmetric.NewPeriodicReader(&metricSender{exporter, &t.delivery}, interval...)
}

// close sends what is left. It gives up when nothing has arrived for as long as patience is, and returns what outcome does.
func (t *telemetry) close(patience time.Duration) string {
	ctx, cancel := context.WithCancel(context.Background()) // that of the command may have ended
	defer cancel()
	t.mu.Lock()                      // a reader may be sending
	t.metricsLost = t.metrics != nil // until they have arrived
	t.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		var both sync.WaitGroup
		if t.traces != nil {
			both.Go(func() { t.answered(t.traces.Shutdown(ctx)) })
		}
		if t.metrics != nil {
			both.Go(func() { t.answered(t.metrics.Shutdown(ctx)) })
		}
		both.Wait()
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case <-done:
			return t.outcome()
		case <-t.alive:
			timer.Reset(patience)
		case <-timer.C:
			t.answered(fmt.Errorf("no answer in %v", patience))
			return t.outcome()
		}
	}
}

// delivery counts what was to be sent and what arrived. The SDK tells of neither: a queue that is full drops silently, and the end of a provider
// is no error when its exporter has failed.
type delivery struct {
	alive chan struct{} // something has arrived

	mu            sync.Mutex
	made, arrived int   // spans
	metricsLost   bool  // the last time that they were sent
	failed        error // the first that ended a sending, and rather one that is no cancelling; counts when something did not arrive
	partial       error // the first that tells of a loss which cannot be counted
	aside         error // the first that came on no call
}

// Handle makes a delivery an otel.ErrorHandler: it keeps the first error of each kind.
func (d *delivery) Handle(err error) {
	if isPartial(err) {
		d.lacks(err)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.aside == nil {
		d.aside = err
	}
}

// lacks notes that something was lost which cannot be counted: the collector took only a part, or there is no way to it.
func (d *delivery) lacks(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.partial == nil {
		d.partial = err
	}
}

// spansSent notes how the sending of n spans ended.
func (d *delivery) spansSent(n int, err error) {
	if isPartial(err) {
		d.lacks(err)
		err = nil
	}
	if d.answered(err) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.arrived += n
	}
}

// partialSuccess is in the error of an exporter, of a type that it keeps to itself, when the collector took what it was sent and says that
// something of it is not right.
const partialSuccess = "OTLP partial success"

func isPartial(err error) bool { return err != nil && strings.Contains(err.Error(), partialSuccess) }

// metricsSent notes how the sending of metrics ended. They are sums: the last sending makes up for one that failed.
func (d *delivery) metricsSent(err error) {
	arrived := d.answered(err)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.metricsLost = !arrived
}

// answered takes the error of a sending or of a shutdown, and reports whether there is none.
func (d *delivery) answered(err error) bool {
	if err == nil {
		select {
		case d.alive <- struct{}{}:
		default:
		}
		return true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed == nil || isCanceled(d.failed) {
		d.failed = err
	}
	return false
}

// isCanceled tells of an error that is no reason: the end of a provider cancels what it is sending. That of gRPC wraps nothing.
func isCanceled(err error) bool { return strings.Contains(err.Error(), context.Canceled.Error()) }

// outcome says what did not arrive and why, and what else was not right; empty when all is well.
func (d *delivery) outcome() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var what []string
	if missing := d.made - d.arrived; missing > 0 {
		what = append(what, fmt.Sprintf("%d of %d spans", missing, d.made))
	}
	if d.metricsLost {
		what = append(what, "metrics")
	}
	var why []string
	if d.failed != nil && len(what) > 0 {
		why = append(why, oneLine(d.failed))
	}
	for _, err := range []error{d.partial, d.aside} {
		if err != nil {
			why = append(why, oneLine(err))
		}
	}
	reasons := strings.Join(why, "; ")
	switch {
	case len(what) > 0:
		return "telemetry was lost: " + strings.Join(what, " and ") + ": " + cmp.Or(reasons, "the queue was full (OTEL_BSP_MAX_QUEUE_SIZE)")
	case d.partial != nil:
		return "telemetry was lost: perhaps a part: " + reasons
	case d.aside != nil:
		return "telemetry: " + reasons
	default:
		return ""
	}
}

// oneLine is the text of an error on one line.
func oneLine(err error) string { return strings.Join(strings.Fields(lines(err)), " ") }

// spanCounter counts the spans that are to be sent.
type spanCounter struct {
	sdktrace.SpanProcessor

	to *delivery
}

// OnEnd counts a span on its way into the queue.
func (c *spanCounter) OnEnd(s sdktrace.ReadOnlySpan) {
	if s.SpanContext().IsSampled() {
		c.to.mu.Lock()
		c.to.made++
		c.to.mu.Unlock()
	}
	c.SpanProcessor.OnEnd(s)
}

// spanSender counts the spans that arrive. Its errors are told at the end, not each time.
type spanSender struct {
	sdktrace.SpanExporter

	to *delivery
}

// ExportSpans sends spans.
func (s *spanSender) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	s.to.spansSent(len(spans), s.SpanExporter.ExportSpans(ctx, spans))
	return nil
}

// metricSender does for metrics what spanSender does for spans.
type metricSender struct {
	sdkmetric.Exporter

	to *delivery
}

// Export sends metrics.
func (s *metricSender) Export(ctx context.Context, m *metricdata.ResourceMetrics) error {
	s.to.metricsSent(s.Exporter.Export(ctx, m))
	return nil
}
