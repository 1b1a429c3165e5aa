package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/coldload/coldload/internal/synth"
	"github.com/coldload/coldload/report"
)

// backends is set by .ci/backends, which builds them.
var backends = flag.String("backends", "", "folder with the programs collector and jaeger: run the tests against them")

// startDeadline is how long a backend, or a span on its way through one, may take.
const startDeadline = 30 * time.Second

// startBackend starts a program of that folder until the end of the test, and waits until it listens on every address.
func startBackend(t *testing.T, name string, addresses []string, args ...string) {
	t.Helper()
	if *backends == "" {
		t.Skip("needs real backends: .ci/backends")
	}
	var log bytes.Buffer
	cmd := exec.CommandContext(t.Context(), filepath.Join(*backends, name), args...) // it ends before the folders of the test are removed
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatalf("%s cannot be started: %v", name, err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		if t.Failed() {
			t.Logf("%s said:\n%s", name, log.Bytes())
		}
	})
	for _, a := range addresses {
		eventually(t, name+" listens on "+a, func() bool {
			c, err := net.Dial("tcp", a)
			if err == nil {
				_ = c.Close()
			}
			return err == nil
		})
	}
}

// eventually waits for something that must come.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(startDeadline); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// freeAddresses are n of this machine that nobody listens on.
func freeAddresses(t *testing.T, n int) (list []string) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // not before all are known
		list = append(list, l.Addr().String())
	}
	return list
}

// seenSpan is a span as a backend shows it.
type seenSpan struct {
	id, parent, name string
	links            []string
	attrs            map[string]string
}

// exportedLoad is a load that was exported, and what the backend must show of it.
type exportedLoad struct {
	trace, parent string // the caller's
	phases        []report.RunPhase
	batches       int
	seen          func() []seenSpan // all spans of the trace, as far as they have arrived
}

// builtProgram is the command as it is shipped, and a checkpoint of about 130 MB.
func builtProgram(t *testing.T) (program, checkpoint string) {
	t.Helper()
	if *backends == "" {
		t.Skip("needs real backends: .ci/backends")
	}
	program, checkpoint = filepath.Join(t.TempDir(), "coldload"), filepath.Join(t.TempDir(), "model")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, err := synth.Write(t.Context(), checkpoint, synth.Options{Model: "tiny-moe", Layers: 2}); err != nil {
		t.Fatal(err)
	}
	return program, checkpoint
}

// export loads the checkpoint as part of a trace of its own.
func export(t *testing.T, program, checkpoint, trace string, vars ...string) exportedLoad {
	t.Helper()
	l := exportedLoad{trace: trace, parent: "00000000000000aa"}
	output := func(args ...string) []byte {
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Env = append(os.Environ(), append(vars, "TRACEPARENT=00-"+l.trace+"-"+l.parent+"-01")...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil || stderr.Len() > 0 {
			t.Fatalf("%q: %v, stderr %q", args, err, &stderr)
		}
		return out
	}
	var plan struct{ Batches int }
	var load struct{ Phases []report.RunPhase }
	// The plan's spans would be in the trace too.
	vars = append(vars, "OTEL_SDK_DISABLED=true")
	if err := json.Unmarshal(output("plan", checkpoint, "--json"), &plan); err != nil {
		t.Fatal(err)
	}
	vars = vars[:len(vars)-1]
	if err := json.Unmarshal(output("load", checkpoint, "--to", "discard", "--trace-batches", "--json"), &load); err != nil {
		t.Fatal(err)
	}
	l.phases, l.batches = load.Phases, plan.Batches
	return l
}

// check waits until every span is there, and wants the tree to be that of the load.
func (l *exportedLoad) check(t *testing.T) {
	t.Helper()
	stages := []string{"fetch", "decode", "fuse", "repack", "upload"}
	want := 1 + len(l.phases) + 1 + len(stages)*l.batches // root, phases, one shard, Batches
	var spans []seenSpan
	eventually(t, fmt.Sprintf("%d spans", want), func() bool {
		spans = l.seen()
		return len(spans) >= want
	})
	byID := map[string]seenSpan{}
	byName := map[string][]seenSpan{}
	for _, s := range spans {
		byID[s.id] = s
		byName[s.name] = append(byName[s.name], s)
	}
	if len(byID) != want || len(byName["coldload.load"]) != 1 || byName["coldload.load"][0].parent != l.parent {
		t.Fatalf("%d spans, want %d; roots %+v", len(byID), want, byName["coldload.load"])
	}
	root := byName["coldload.load"][0]
	for _, p := range l.phases {
		l.checkPhase(t, byName["coldload.phase."+p.Name], root, p)
	}
	if shard := byName["coldload.index.shard"]; len(shard) != 1 || byID[shard[0].parent].name != "coldload.phase.index" {
		t.Errorf("spans of shards %+v", shard)
	}
	for _, b := range byName["coldload.batch"] {
		stage := b.attrs["coldload.stage.name"]
		if byID[b.parent].name != "coldload.phase."+stage {
			t.Errorf("a batch in %s is a child of %s", stage, byID[b.parent].name)
		}
		i := slices.Index(stages, stage)
		if i == 0 && len(b.links) == 0 {
			continue
		}
		if i < 1 || len(b.links) != 1 || byID[b.links[0]].attrs["coldload.stage.name"] != stages[i-1] ||
			byID[b.links[0]].attrs["coldload.batch.seq"] != b.attrs["coldload.batch.seq"] {
			t.Errorf("batch %s in %s has the links %q", b.attrs["coldload.batch.seq"], stage, b.links)
		}
	}
}

func (l *exportedLoad) checkPhase(t *testing.T, spans []seenSpan, root seenSpan, p report.RunPhase) {
	t.Helper()
	if len(spans) != 1 || spans[0].parent != root.id {
		t.Errorf("phase %s: %+v", p.Name, spans)
		return
	}
	for key, want := range map[string]int64{
		"coldload.stage.workers": p.Workers, "coldload.items": p.Items, "coldload.bytes.in": p.BytesIn, "coldload.bytes.out": p.BytesOut,
	} {
		if got := spans[0].attrs[key]; got != fmt.Sprint(want) {
			t.Errorf("phase %s: %s = %s, want %d", p.Name, key, got, want)
		}
	}
}

// TestBackendCollector: an OpenTelemetry Collector writes what it gets into files.
func TestBackendCollector(t *testing.T) {
	program, checkpoint := builtProgram(t)
	dir := t.TempDir()
	at := freeAddresses(t, 2)
	config := filepath.Join(dir, "config.yaml")
	text := fmt.Sprintf(`
receivers: {otlp: {protocols: {http: {endpoint: "%s"}, grpc: {endpoint: "%s"}}}}
exporters:
  file/traces: {path: "%s/traces.json", flush_interval: 50ms}
  file/metrics: {path: "%s/metrics.json", flush_interval: 50ms}
service:
  telemetry: {metrics: {level: none}}
  pipelines:
    traces: {receivers: [otlp], exporters: [file/traces]}
    metrics: {receivers: [otlp], exporters: [file/metrics]}
`, at[0], at[1], dir, dir)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	startBackend(t, "collector", at, "--config", config)
	for i, protocol := range []string{"http/protobuf", "grpc"} {
		t.Run(protocol, func(t *testing.T) {
			service := fmt.Sprint("coldload-", i)
			l := export(t, program, checkpoint, fmt.Sprintf("%032x", 0xc0+i), "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+at[i],
				"OTEL_EXPORTER_OTLP_PROTOCOL="+protocol, "OTEL_SERVICE_NAME="+service, "OTEL_METRIC_EXPORT_INTERVAL=10")
			l.seen = func() []seenSpan { return collected(t, filepath.Join(dir, "traces.json"), l.trace) }
			l.check(t)
			eventually(t, "all metrics", func() bool { return hasMetrics(t, filepath.Join(dir, "metrics.json"), service) })
		})
	}
}

// fileLines are the whole lines of a file; the last one may be on its way.
func fileLines(t *testing.T, path string) [][]byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.Split(data, []byte("\n"))
	return lines[:len(lines)-1]
}

// keyValues are attributes in the JSON of OTLP.
type keyValues []struct {
	Key   string
	Value map[string]any // one member, named for the type
}

func (list keyValues) texts() map[string]string {
	m := map[string]string{}
	for _, kv := range list {
		for _, v := range kv.Value {
			m[kv.Key] = fmt.Sprint(v)
		}
	}
	return m
}

// otlpTraces and otlpMetrics are what of a line of the collector is looked at.
type otlpTraces struct {
	ResourceSpans []struct {
		ScopeSpans []struct {
			Spans []struct {
				TraceID, SpanID, ParentSpanID, Name string
				Links                               []struct{ SpanID string }
				Attributes                          keyValues
			}
		}
	}
}

type otlpMetrics struct {
	ResourceMetrics []struct {
		Resource     struct{ Attributes keyValues }
		ScopeMetrics []struct{ Metrics []struct{ Name string } }
	}
}

// collected are the spans of a trace that the collector has written.
func collected(t *testing.T, path, trace string) (list []seenSpan) {
	t.Helper()
	for _, line := range fileLines(t, path) {
		var data otlpTraces
		if err := json.Unmarshal(line, &data); err != nil {
			t.Fatal(err)
		}
		for _, rs := range data.ResourceSpans {
			for _, ss := range rs.ScopeSpans {
				for _, s := range ss.Spans {
					if s.TraceID != trace {
						continue
					}
					seen := seenSpan{id: s.SpanID, parent: s.ParentSpanID, name: s.Name, attrs: s.Attributes.texts()}
					for _, l := range s.Links {
						seen.links = append(seen.links, l.SpanID)
					}
					list = append(list, seen)
				}
			}
		}
	}
	return list
}

// hasMetrics tells whether the collector has written every metric of that service.
func hasMetrics(t *testing.T, path, service string) bool {
	t.Helper()
	seen := map[string]bool{}
	for _, line := range fileLines(t, path) {
		var data otlpMetrics
		if err := json.Unmarshal(line, &data); err != nil {
			t.Fatal(err)
		}
		for _, rm := range data.ResourceMetrics {
			for _, sm := range rm.ScopeMetrics {
				for _, m := range sm.Metrics {
					seen[m.Name] = seen[m.Name] || rm.Resource.Attributes.texts()["service.name"] == service
				}
			}
		}
	}
	for _, name := range []string{
		"coldload.io", "coldload.stage.duration", "coldload.stage.wait", "coldload.memory.in_flight", "coldload.memory.budget", "coldload.queue.length",
		"coldload.source.read.duration",
	} {
		if !seen[name] {
			return false
		}
	}
	return true
}

// TestBackendJaeger: Jaeger is asked for the trace, as its user interface does.
func TestBackendJaeger(t *testing.T) {
	program, checkpoint := builtProgram(t)
	at := freeAddresses(t, 8)
	startBackend(t, "jaeger", at[:3], "--collector.otlp.http.host-port="+at[0], "--collector.otlp.grpc.host-port="+at[1], "--query.http-server.host-port="+at[2],
		"--query.grpc-server.host-port="+at[3], "--collector.http-server.host-port="+at[4], "--collector.grpc-server.host-port="+at[5],
		"--admin.http.host-port="+at[6], "--http-server.host-port="+at[7], "--processor.jaeger-binary.server-host-port=127.0.0.1:0",
		"--processor.jaeger-compact.server-host-port=127.0.0.1:0", "--processor.zipkin-compact.server-host-port=127.0.0.1:0")
	for i, protocol := range []string{"http/protobuf", "grpc"} {
		t.Run(protocol, func(t *testing.T) {
			service := fmt.Sprint("coldload-", i)
			l := export(t, program, checkpoint, fmt.Sprintf("%032x", 0xa0+i), "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://"+at[i]+map[string]string{"http/protobuf": "/v1/traces"}[protocol],
				"OTEL_EXPORTER_OTLP_PROTOCOL="+protocol, "OTEL_SERVICE_NAME="+service)
			l.seen = func() []seenSpan { return stored(t, at[2], l.trace, service) }
			l.check(t)
			var services struct{ Data []string }
			if getJSON(t, "http://"+at[2]+"/api/services", &services); !slices.Contains(services.Data, service) {
				t.Errorf("services %q", services.Data)
			}
		})
	}
}

// getJSON reads what Jaeger answers; false while it does not know of it.
func getJSON(t *testing.T, url string, to any) bool {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	if answer.StatusCode == http.StatusNotFound {
		return false
	}
	if err := json.Unmarshal(body, to); err != nil {
		t.Fatalf("%s: %v\n%.500s", url, err, body)
	}
	return true
}

// stored are the spans of a trace that Jaeger shows.
func stored(t *testing.T, address, trace, service string) (list []seenSpan) {
	t.Helper()
	var answer struct {
		Data []struct {
			Spans []struct {
				SpanID, OperationName string
				ProcessID             string
				References            []struct{ RefType, SpanID string }
				Tags                  []struct {
					Key   string
					Value any
				}
			}
			Processes map[string]struct{ ServiceName string }
		}
	}
	if !getJSON(t, "http://"+address+"/api/traces/"+trace, &answer) {
		return nil
	}
	for _, d := range answer.Data {
		for _, s := range d.Spans {
			seen := seenSpan{id: s.SpanID, name: s.OperationName, attrs: map[string]string{}}
			if name := d.Processes[s.ProcessID].ServiceName; name != service {
				t.Errorf("%s is of the service %q", s.OperationName, name)
			}
			for _, r := range s.References {
				if r.RefType == "CHILD_OF" {
					seen.parent = r.SpanID
				} else {
					seen.links = append(seen.links, r.SpanID)
				}
			}
			for _, tag := range s.Tags {
				seen.attrs[tag.Key] = plainNumber(tag.Value)
			}
			list = append(list, seen)
		}
	}
	return list
}

// plainNumber is a value of JSON as text, whole numbers without an exponent.
func plainNumber(v any) string {
	if f, ok := v.(float64); ok && f == float64(int64(f)) {
		return fmt.Sprint(int64(f))
	}
	return fmt.Sprint(v)
}
