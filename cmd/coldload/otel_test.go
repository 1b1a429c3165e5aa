package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// receiver is a collector in this process, by HTTP. What it took may be looked at after end.
type receiver struct {
	*httptest.Server

	partial string // said with every answer to spans, when not empty

	mu       sync.Mutex
	requests int
	spans    []*tracepb.Span
	resource map[string]string
	metrics  map[string]bool
}

func newReceiver(t *testing.T, partial string) *receiver {
	t.Helper()
	r := &receiver{partial: partial, resource: map[string]string{}, metrics: map[string]bool{}}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

// end returns when every request was answered.
func (r *receiver) end() { r.Close() }

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	var answer proto.Message
	switch {
	case err != nil:
	case req.URL.Path == "/v1/traces":
		answer, err = r.takeTraces(body)
	case req.URL.Path == "/v1/metrics":
		answer, err = r.takeMetrics(body)
	default:
		err = errors.New(req.URL.Path)
	}
	if err == nil {
		body, err = proto.Marshal(answer)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	_, _ = w.Write(body)
}

func (r *receiver) takeTraces(body []byte) (proto.Message, error) {
	var m collectortrace.ExportTraceServiceRequest
	err := proto.Unmarshal(body, &m)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests++
	for _, rs := range m.GetResourceSpans() {
		maps.Copy(r.resource, texts(rs.GetResource().GetAttributes()))
		for _, ss := range rs.GetScopeSpans() {
			r.spans = append(r.spans, ss.GetSpans()...)
		}
	}
	answer := &collectortrace.ExportTraceServiceResponse{}
	if r.partial != "" {
		answer.PartialSuccess = &collectortrace.ExportTracePartialSuccess{RejectedSpans: 1, ErrorMessage: r.partial}
	}
	return answer, err
}

func (r *receiver) takeMetrics(body []byte) (proto.Message, error) {
	var m collectormetrics.ExportMetricsServiceRequest
	err := proto.Unmarshal(body, &m)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests++
	for _, rm := range m.GetResourceMetrics() {
		for _, sm := range rm.GetScopeMetrics() {
			for _, metric := range sm.GetMetrics() {
				r.metrics[metric.GetName()] = true
			}
		}
	}
	return &collectormetrics.ExportMetricsServiceResponse{}, err
}

// texts are attributes as text.
func texts(list []*commonpb.KeyValue) map[string]string {
	m := map[string]string{}
	for _, kv := range list {
		switch v := kv.GetValue().GetValue().(type) {
		case *commonpb.AnyValue_StringValue:
			m[kv.GetKey()] = v.StringValue
		case *commonpb.AnyValue_IntValue:
			m[kv.GetKey()] = fmt.Sprint(v.IntValue)
		default:
			m[kv.GetKey()] = kv.GetValue().String()
		}
	}
	return m
}

// named are the spans of that name.
func (r *receiver) named(name string) (list []*tracepb.Span) {
	for _, s := range r.spans {
		if s.GetName() == name {
			list = append(list, s)
		}
	}
	return list
}

// exporting runs the program with these variables, and none of telemetry besides.
func exporting(t *testing.T, vars []string, args ...string) (*exec.Cmd, *bytes.Buffer, *bytes.Buffer) {
	t.Helper()
	cmd := program(t, args...)
	cmd.Env = slices.DeleteFunc(cmd.Env, func(v string) bool {
		return strings.HasPrefix(v, "OTEL_") || strings.HasPrefix(strings.ToUpper(v), "TRACE")
	})
	cmd.Env = append(cmd.Env, vars...)
	var out, err bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &err
	return cmd, &out, &err
}

// ran runs it to its end.
func ran(t *testing.T, vars []string, args ...string) result {
	t.Helper()
	cmd, out, err := exporting(t, vars, args...)
	_ = cmd.Run() // the exit code says it
	return result{cmd.ProcessState.ExitCode(), out.String(), err.String()}
}

// TestExportedLoad: the whole tree, every metric, and whose they are.
func TestExportedLoad(t *testing.T) {
	t.Parallel()
	r := newReceiver(t, "")
	got := ran(t, []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + r.URL, "OTEL_RESOURCE_ATTRIBUTES=deployment.environment.name=test"},
		"load", fixture(gptqFixture), "--trace-batches", "--json")
	if got.code != exitDone || got.err != "" {
		t.Fatalf("exit code %d, stderr %q", got.code, got.err)
	}
	r.end()
	r.wantLoad(t, true)
	got.object(t)
	for key, want := range map[string]string{"service.name": "coldload", "deployment.environment.name": "test", "telemetry.sdk.name": "opentelemetry"} {
		if r.resource[key] != want {
			t.Errorf("%s = %q, want %q", key, r.resource[key], want)
		}
	}
	for _, key := range []string{"host.name", "process.pid", "process.executable.name", "service.version"} {
		if r.resource[key] == "" {
			t.Errorf("no %s: %v", key, r.resource)
		}
	}
	for _, m := range []string{"coldload.io", "coldload.stage.duration", "coldload.stage.wait", "coldload.source.read.duration"} {
		if !r.metrics[m] {
			t.Errorf("no metric %s: %v", m, r.metrics)
		}
	}
}

// wantLoad wants one load of all phases, and Batches below them when they were asked for.
func (r *receiver) wantLoad(t *testing.T, batches bool) (root *tracepb.Span) {
	t.Helper()
	roots := r.named("coldload.load")
	if len(roots) != 1 {
		t.Fatalf("%d roots among %d spans", len(roots), len(r.spans))
	}
	root = roots[0]
	phases := map[string]bool{}
	for _, p := range []string{"discover", "index", "plan", "fetch", "decode", "fuse", "repack", "upload", "commit"} {
		list := r.named("coldload.phase." + p)
		if len(list) != 1 || !bytes.Equal(list[0].GetParentSpanId(), root.GetSpanId()) || !bytes.Equal(list[0].GetTraceId(), root.GetTraceId()) {
			t.Fatalf("phase %s: %v", p, list)
		}
		phases[string(list[0].GetSpanId())] = true
	}
	list := r.named("coldload.batch")
	if (len(list) > 0) != batches {
		t.Errorf("%d spans of batches", len(list))
	}
	for _, s := range append(list, r.named("coldload.index.shard")...) {
		if !phases[string(s.GetParentSpanId())] {
			t.Errorf("%s is not below a phase", s.GetName())
		}
	}
	return root
}

// TestTraceparent: the root of the load is a child of the span in the environment, in upper case or lower.
func TestTraceparent(t *testing.T) {
	t.Parallel()
	const trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	for _, upper := range []bool{true, false} {
		r := newReceiver(t, "")
		vars := []string{"traceparent=00-" + trace + "-" + span + "-01", "tracestate=vendor=x"}
		if upper {
			vars = []string{"TRACEPARENT=00-" + trace + "-" + span + "-01", "TRACESTATE=vendor=x", "traceparent=nonsense"}
		}
		got := ran(t, append(vars, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="+r.URL+"/v1/traces", "OTEL_SERVICE_NAME=rank-3"), "load", fixture(plainFixture), "--quiet")
		if got.code != exitDone || got.err != "" {
			t.Fatalf("exit code %d, stderr %q", got.code, got.err)
		}
		r.end()
		root := r.wantLoad(t, false)
		if id, parent := hex.EncodeToString(root.GetTraceId()), hex.EncodeToString(root.GetParentSpanId()); id != trace || parent != span {
			t.Errorf("trace %s, parent %s", id, parent)
		}
		if root.GetTraceState() != "vendor=x" || r.resource["service.name"] != "rank-3" || len(r.metrics) != 0 {
			t.Errorf("state %q, resource %v, metrics %v", root.GetTraceState(), r.resource, r.metrics)
		}
	}
	r := newReceiver(t, "")
	got := ran(t, []string{"TRACEPARENT=nonsense", "OTEL_EXPORTER_OTLP_ENDPOINT=" + r.URL}, "plan", fixture(plainFixture))
	r.end()
	if got.code != exitDone || got.err != "coldload: TRACEPARENT is ignored: \"nonsense\" is no trace context\n" || len(r.named("coldload.plan")) != 1 {
		t.Errorf("exit code %d, stderr %q", got.code, got.err)
	}
}

// TestNothingIsExported unless it is asked for.
func TestNothingIsExported(t *testing.T) {
	t.Parallel()
	r := newReceiver(t, "")
	for _, vars := range [][]string{
		{"OTEL_SDK_DISABLED=true", "OTEL_EXPORTER_OTLP_ENDPOINT=" + r.URL, "OTEL_TRACES_EXPORTER=otlp"},
		{"OTEL_TRACES_EXPORTER=none", "OTEL_METRICS_EXPORTER=none", "OTEL_EXPORTER_OTLP_ENDPOINT=" + r.URL},
		{"OTEL_SERVICE_NAME=x", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"},
	} {
		if got := ran(t, vars, "load", fixture(plainFixture), "--quiet"); got.code != exitDone || got.err != "" {
			t.Errorf("%q: exit code %d, stderr %q", vars, got.code, got.err)
		}
	}
	// A command that observes nothing has nothing to send.
	for _, args := range [][]string{{"--version"}, {"load", "--help"}, {"load"}} {
		ran(t, []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + r.URL}, args...)
	}
	r.end()
	if r.requests != 0 {
		t.Errorf("%d requests", r.requests)
	}
}

// TestExportedFailures: what went wrong is sent before the program ends, and the exit code stays.
func TestExportedFailures(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args       []string
		code       int
		span, kind string
	}{
		{[]string{"load", broken(t)}, exitFailed, "coldload.load", "data"},
		{[]string{"load", damaged(t)}, exitRefused, "coldload.load", "refused"},
		{[]string{"plan", damaged(t), "--json"}, exitRefused, "coldload.plan", "refused"},
		{[]string{"load", "./no/such/folder"}, exitRefused, "coldload.load", "refused"},
		{[]string{"verify", "./no/such/folder"}, exitRefused, "coldload.verify", "refused"},
	} {
		r := newReceiver(t, "")
		got := ran(t, []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + r.URL}, c.args...)
		r.end()
		list := r.named(c.span)
		if got.code != c.code || strings.Contains(got.err, "telemetry") || len(list) != 1 {
			t.Errorf("%q: exit code %d, %d roots, stderr %q", c.args, got.code, len(list), got.err)
			continue
		}
		if s := list[0]; s.GetStatus().GetCode() != tracepb.Status_STATUS_CODE_ERROR || texts(s.GetAttributes())["error.type"] != c.kind {
			t.Errorf("%q: status %v, attributes %v", c.args, s.GetStatus(), texts(s.GetAttributes()))
		}
	}
}

// TestConsoleExporter writes to stderr: stdout is for results.
func TestConsoleExporter(t *testing.T) {
	t.Parallel()
	got := ran(t, []string{"OTEL_TRACES_EXPORTER=console", "OTEL_METRICS_EXPORTER=console"}, "load", fixture(plainFixture), "--json")
	got.object(t)
	if got.code != exitDone || !strings.Contains(got.err, `"Name":"coldload.phase.fetch"`) || !strings.Contains(got.err, `"Name":"coldload.io"`) {
		t.Errorf("exit code %d, stderr %.500q", got.code, got.err)
	}
}

// TestUselessVariables are told once, and end nothing.
func TestUselessVariables(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		vars []string
		args []string
		want []string // parts of the only line
	}{
		{[]string{"OTEL_TRACES_EXPORTER=zipkin"}, nil, []string{`ignored: OTEL_TRACES_EXPORTER: "zipkin" is not known (known: otlp, console, none)`}},
		{[]string{"OTEL_EXPORTER_OTLP_PROTOCOL=carrier-pigeon", "OTEL_METRICS_EXPORTER=none"}, nil, []string{`"carrier-pigeon" is not known (known: http/protobuf, http/json, grpc)`}},
		{nil, []string{"--trace-batches"}, []string{"--trace-batches has no effect", "OTEL_EXPORTER_OTLP_ENDPOINT"}},
		{[]string{"OTEL_METRICS_EXPORTER=none", "OTEL_TRACES_EXPORTER=none", "OTEL_EXPORTER_OTLP_ENDPOINT=http://x"}, []string{"--trace-batches"}, []string{"--trace-batches has no effect"}},
	} {
		got := ran(t, c.vars, append([]string{"load", fixture(plainFixture), "--quiet"}, c.args...)...)
		for _, part := range c.want {
			if got.code != exitDone || strings.Count(got.err, "\n") != 1 || !strings.Contains(got.err, part) {
				t.Errorf("%q: exit code %d, stderr %q, want %q", c.vars, got.code, got.err, part)
			}
		}
	}
}

// TestTraceBatchesOfAFile: a trace file has every Batch, so nobody needs to be told of exporters.
func TestTraceBatchesOfAFile(t *testing.T) {
	t.Parallel()
	for _, c := range []string{"load", "pack"} {
		args := []string{c, fixture(plainFixture), "--quiet", "--trace-batches", "--trace", filepath.Join(t.TempDir(), "trace.json")}
		if c == "pack" {
			args = append(args, filepath.Join(t.TempDir(), "packed"))
		}
		if got := ran(t, nil, args...); got.code != exitDone || got.err != "" {
			t.Errorf("%s: exit code %d, stderr %q", c, got.code, got.err)
		}
	}
}

// TestAbsentCollector: said in one line; the load is none the worse. How long it takes, TestFlush checks.
func TestAbsentCollector(t *testing.T) {
	t.Parallel()
	// A port that nobody listens on, and one where nobody answers.
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() }) // after the parallel ones
	for name, c := range map[string]struct{ address, protocol string }{
		"nobody, HTTP": {closed.Addr().String(), "http/protobuf"}, "nobody, gRPC": {closed.Addr().String(), "grpc"},
		"silence, HTTP": {silent.Addr().String(), "http/protobuf"}, "silence, gRPC": {silent.Addr().String(), "grpc"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := ran(t, []string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://" + c.address, "OTEL_EXPORTER_OTLP_PROTOCOL=" + c.protocol},
				"load", fixture(plainFixture), "--json")
			got.object(t)
			// 1 root, 9 phases, 3 shards
			if got.code != exitDone || strings.Count(got.err, "\n") != 1 || !strings.HasPrefix(got.err, "coldload: telemetry was lost: 13 of 13 spans and metrics: ") {
				t.Errorf("exit code %d, stderr %q", got.code, got.err)
			}
		})
	}
}

// TestEndpointThatIsNone: the reason is told beside what it led to.
func TestEndpointThatIsNone(t *testing.T) {
	t.Parallel()
	got := ran(t, []string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://a b"}, "load", fixture(plainFixture), "--quiet")
	if got.code != exitDone || strings.Count(got.err, "\n") != 1 || !strings.Contains(got.err, "telemetry was lost") || !strings.Contains(got.err, "invalid character") {
		t.Errorf("exit code %d, stderr %q", got.code, got.err)
	}
}

// TestPartialSuccess: a collector that takes less than it is sent says so in its answer only.
func TestPartialSuccess(t *testing.T) {
	t.Parallel()
	r := newReceiver(t, "one too many")
	got := ran(t, []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + r.URL}, "load", fixture(plainFixture), "--quiet")
	if got.code != exitDone || strings.Count(got.err, "\n") != 1 || !strings.Contains(got.err, "telemetry was lost: perhaps a part: ") || !strings.Contains(got.err, "one too many") {
		t.Errorf("exit code %d, stderr %q", got.code, got.err)
	}
}

// TestOddSampler: what is not right and loses nothing is told, and not as a loss.
func TestOddSampler(t *testing.T) {
	t.Parallel()
	r := newReceiver(t, "")
	got := ran(t, []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + r.URL, "OTEL_TRACES_SAMPLER=bogus"}, "load", fixture(plainFixture), "--quiet")
	r.end()
	r.wantLoad(t, false)
	if got.code != exitDone || got.err != "coldload: telemetry: unsupported sampler: bogus\n" {
		t.Errorf("exit code %d, stderr %q", got.code, got.err)
	}
}

// TestOutcome: a loss is one when something did not arrive, or nobody can tell that it did.
func TestOutcome(t *testing.T) {
	t.Parallel()
	odd, part, boom := errors.New("odd"), errors.New(partialSuccess+": one too many"), errors.New("boom")
	for want, f := range map[string]func(*delivery){
		"":               func(d *delivery) { d.made, d.arrived, d.failed = 1, 1, boom }, // a later sending made up for it
		"telemetry: odd": func(d *delivery) { d.Handle(odd); d.Handle(boom) },
		"telemetry was lost: perhaps a part: " + part.Error():           func(d *delivery) { d.Handle(part); d.Handle(part) },
		"telemetry was lost: perhaps a part: " + part.Error() + "; odd": func(d *delivery) { d.Handle(odd); d.Handle(part) },
		"telemetry was lost: perhaps a part: boom":                      func(d *delivery) { d.lacks(boom) },
		"telemetry was lost: 2 of 3 spans: boom; odd":                   func(d *delivery) { d.made, d.arrived, d.failed = 3, 1, boom; d.Handle(odd) },
		"telemetry was lost: metrics: boom; " + part.Error():            func(d *delivery) { d.metricsSent(boom); d.Handle(part) },
	} {
		d := delivery{alive: make(chan struct{}, 1)}
		f(&d)
		if got := d.outcome(); got != want {
			t.Errorf("said %q, want %q", got, want)
		}
	}
}

// TestTelemetryFromEnv: who is asked for, and by what way.
func TestTelemetryFromEnv(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		vars            map[string]string
		traces, metrics signalSettings
	}{
		{nil, signalSettings{}, signalSettings{}},
		{map[string]string{"OTEL_TRACES_EXPORTER": "otlp, console,otlp"}, signalSettings{exporters: []string{"otlp", "console"}}, signalSettings{}},
		{
			map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"},
			signalSettings{exporters: []string{"otlp"}, grpc: true},
			signalSettings{exporters: []string{"otlp"}},
		},
		{
			map[string]string{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
			signalSettings{grpc: true},
			signalSettings{exporters: []string{"otlp"}, grpc: true},
		},
		{
			map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_METRICS_EXPORTER": "none"},
			signalSettings{exporters: []string{"otlp"}},
			signalSettings{},
		},
		{map[string]string{"OTEL_SDK_DISABLED": "TRUE", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, signalSettings{}, signalSettings{}},
	} {
		s := telemetryFromEnv(func(name string) string { return c.vars[name] })
		if !reflect.DeepEqual(s.traces, c.traces) || !reflect.DeepEqual(s.metrics, c.metrics) || len(s.faults) != 0 {
			t.Errorf("%v: %+v", c.vars, s)
		}
		if off := len(c.traces.exporters)+len(c.metrics.exporters) == 0; s.off() != off {
			t.Errorf("%v: off is %v", c.vars, s.off())
		}
	}
	s := telemetryFromEnv(func(name string) string {
		return map[string]string{"OTEL_BSP_MAX_QUEUE_SIZE": "7", "OTEL_METRIC_EXPORT_INTERVAL": "50", "TRACEPARENT": "a", "traceparent": "b", "tracestate": "c"}[name]
	})
	if !s.ownQueue || !s.ownInterval || s.parent["traceparent"] != "a" || s.parent["tracestate"] != "c" {
		t.Errorf("%+v", s)
	}
}

// fakeSpans is an exporter that a test commands.
type fakeSpans struct {
	sdktrace.SpanExporter

	export func([]sdktrace.ReadOnlySpan) error
}

func (f *fakeSpans) ExportSpans(_ context.Context, spans []sdktrace.ReadOnlySpan) error {
	return f.export(spans)
}

// fakeMetrics takes metrics and answers with err, or not at all when it hangs.
type fakeMetrics struct {
	sdkmetric.Exporter

	err   error
	hangs bool
}

func (f *fakeMetrics) Temporality(sdkmetric.InstrumentKind) metricdata.Temporality {
	return metricdata.CumulativeTemporality
}

func (f *fakeMetrics) Aggregation(k sdkmetric.InstrumentKind) sdkmetric.Aggregation {
	return sdkmetric.DefaultAggregationSelector(k)
}

func (f *fakeMetrics) Export(ctx context.Context, _ *metricdata.ResourceMetrics) error {
	if f.hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	return f.err
}
func (f *fakeMetrics) Shutdown(context.Context) error { return nil }

// faked is telemetry that sends spans in batches to export, out of a queue of that size, and metrics to nobody's or to metrics.
func faked(queue, batch int, metrics *fakeMetrics, export func([]sdktrace.ReadOnlySpan) error) *telemetry {
	t := &telemetry{delivery: delivery{alive: make(chan struct{}, 1)}}
	exporter := &spanSender{&fakeSpans{tracetest.NewInMemoryExporter(), export}, &t.delivery}
	processor := sdktrace.NewBatchSpanProcessor(exporter, sdktrace.WithMaxQueueSize(queue), sdktrace.WithMaxExportBatchSize(batch))
	t.traces = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(&spanCounter{processor, &t.delivery}))
	if metrics != nil {
		t.metrics = sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewPeriodicReader(&metricSender{metrics, &t.delivery})))
	}
	return t
}

func (t *telemetry) emit(n int) {
	for range n {
		_, span := t.traces.Tracer("test").Start(context.Background(), "span")
		span.End()
	}
}

// TestFlushWhileMetricsAreSent is for the race detector: the reader's goroutine may be in the middle of a sending when the program ends.
func TestFlushWhileMetricsAreSent(t *testing.T) {
	t.Parallel()
	all := faked(10, 10, &fakeMetrics{}, func([]sdktrace.ReadOnlySpan) error { return nil })
	var sending sync.WaitGroup
	sending.Go(func() { all.metricsSent(nil) })
	if said := all.close(flushPatience); said != "" {
		t.Errorf("said %q", said)
	}
	sending.Wait()
}

// TestFlushCancelsNoReason: the end of the reader cancels what it is sending, which is not why nothing arrives.
func TestFlushCancelsNoReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := faked(10, 10, &fakeMetrics{hangs: true}, func([]sdktrace.ReadOnlySpan) error { return nil })
		time.Sleep(61 * time.Second) // one after its first sending has begun
		if said, want := all.close(3*time.Second), "telemetry was lost: metrics: no answer in 3s"; said != want {
			t.Errorf("said %q, want %q", said, want)
		}
	})
	d := delivery{alive: make(chan struct{}, 1), made: 1}
	for _, text := range []string{"context canceled", "rpc error: code = Canceled desc = context canceled"} {
		d.answered(errors.New(text))
		if said := d.outcome(); !strings.HasSuffix(said, text) { // better than none
			t.Errorf("said %q, want %q", said, text)
		}
	}
	d.answered(errors.New("boom"))
	d.answered(context.Canceled)
	if said, want := d.outcome(), "telemetry was lost: 1 of 1 spans: boom"; said != want {
		t.Errorf("said %q, want %q", said, want)
	}
}

// TestFlush takes as long as a collector that answers needs, and two seconds with one that does not.
func TestFlush(t *testing.T) {
	boom := errors.New("boom")
	for name, c := range map[string]struct {
		spans   int
		queue   int // 0: large enough
		metrics *fakeMetrics
		takes   time.Duration // each batch of 10; 0: for ever
		err     error
		want    string
		took    time.Duration
	}{
		"nothing to send":         {spans: 0, takes: time.Second},
		"at once":                 {spans: 25, takes: 1, took: 3},
		"slow, but it goes on":    {spans: 55, takes: 1500 * time.Millisecond, took: 9 * time.Second},
		"no answer":               {spans: 25, want: "25 of 25 spans: no answer in 2s", took: 2 * time.Second},
		"no answer, and metrics":  {spans: 25, metrics: &fakeMetrics{}, want: "25 of 25 spans: no answer in 2s", took: 2 * time.Second},
		"an error":                {spans: 25, takes: 1, err: boom, want: "25 of 25 spans: boom", took: 3},
		"an error of metrics":     {spans: 10, metrics: &fakeMetrics{err: boom}, takes: 1, want: "metrics: boom", took: 1},
		"errors of both":          {spans: 10, metrics: &fakeMetrics{err: boom}, takes: 1, err: boom, want: "10 of 10 spans and metrics: boom", took: 1},
		"a line end in the error": {spans: 10, takes: 1, err: errors.New("a\nb"), want: "10 of 10 spans: a b", took: 1},
		// 10 are being sent and 100 wait.
		"a queue that was full": {spans: 250, queue: 100, takes: 1, want: "140 of 250 spans: the queue was full (OTEL_BSP_MAX_QUEUE_SIZE)", took: 11},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				end := make(chan struct{})
				export := func([]sdktrace.ReadOnlySpan) error {
					if c.takes == 0 {
						<-end
						return errors.New("too late")
					}
					time.Sleep(c.takes)
					return c.err
				}
				x := faked(cmp.Or(c.queue, spanQueue), 10, c.metrics, export)
				first := min(10, c.spans)
				x.emit(first)
				synctest.Wait() // they are being sent
				x.emit(c.spans - first)
				began := time.Now()
				said := x.close(flushPatience)
				took := time.Since(began)
				close(end)
				want := c.want
				if want != "" {
					want = "telemetry was lost: " + want
				}
				if said != want || took != c.took {
					t.Errorf("took %v and said %q, want %v and %q", took, said, c.took, want)
				}
			})
		})
	}
}
