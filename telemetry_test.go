package coldload_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/synth"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/sinks/discard"
	"github.com/coldload/coldload/sinks/host"
	"github.com/coldload/coldload/stages"
)

// recorder keeps the spans of one test.
type recorder struct {
	exporter *tracetest.InMemoryExporter
	provider *sdktrace.TracerProvider
}

func newRecorder() *recorder {
	e := tracetest.NewInMemoryExporter()
	return &recorder{e, sdktrace.NewTracerProvider(sdktrace.WithSyncer(e))}
}

// spans takes out what was recorded, by name.
func (r *recorder) spans() map[string][]tracetest.SpanStub {
	m := map[string][]tracetest.SpanStub{}
	for _, s := range r.exporter.GetSpans() {
		m[s.Name] = append(m[s.Name], s)
	}
	r.exporter.Reset()
	return m
}

// attrs are a span's attributes by name.
func attrs(s tracetest.SpanStub) map[string]any {
	m := map[string]any{}
	for _, kv := range s.Attributes {
		m[string(kv.Key)] = kv.Value.AsInterface()
	}
	return m
}

const (
	telemetryFixture = "gptq_moe_4b_g128_sharded"
	phasePrefix      = "coldload.phase."
)

// wantTree wants one root, one span for each of these phases, sorted by name, and every other span below its phase.
func wantTree(t *testing.T, spans map[string][]tracetest.SpanStub, root string, phases ...string) {
	t.Helper()
	if len(spans[root]) != 1 {
		t.Fatalf("%d spans %s, want one; spans %v", len(spans[root]), root, slices.Sorted(maps.Keys(spans)))
	}
	top := spans[root][0].SpanContext
	var got []string
	for name, list := range spans {
		for _, s := range list {
			if s.SpanContext.TraceID() != top.TraceID() {
				t.Errorf("%s is in another trace", name)
			}
			switch {
			case strings.HasPrefix(name, phasePrefix):
				got = append(got, strings.TrimPrefix(name, phasePrefix))
				if s.Parent.SpanID() != top.SpanID() {
					t.Errorf("%s is not a child of %s", name, root)
				}
			case name != root:
				if parent := spanOf(spans, s.Parent.SpanID().String()); !strings.HasPrefix(parent, phasePrefix) {
					t.Errorf("%s is a child of %q", name, parent)
				}
			}
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, phases) {
		t.Errorf("%s has the phases %q, want %q", root, got, phases)
	}
}

// spanOf is the name of the span with that number.
func spanOf(spans map[string][]tracetest.SpanStub, id string) string {
	for name, list := range spans {
		for _, s := range list {
			if s.SpanContext.SpanID().String() == id {
				return name
			}
		}
	}
	return ""
}

// allPhases are those of a load, sorted by name.
func allPhases() (names []string) {
	for _, p := range stages.Phases() {
		names = append(names, p.String())
	}
	slices.Sort(names)
	return names
}

// TestSpansOfLoad: the tree, and the same figures as in the Result and in the Plan.
func TestSpansOfLoad(t *testing.T) {
	rec := newRecorder()
	sink := host.New(host.Options{})
	res, err := coldload.Load(t.Context(), fixturePath(telemetryFixture), sink, coldload.Options{TracerProvider: rec.provider, TraceBatches: true, Budget: 2 << 20})
	if err != nil {
		t.Fatal(err)
	}
	memoryOf(t, sink)
	spans := rec.spans()
	wantTree(t, spans, "coldload.load", allPhases()...)
	s := res.Plan.Summary
	wantAttrs(t, spans["coldload.load"][0], map[string]any{
		"coldload.model": fixturePath(telemetryFixture), "coldload.format": "gptq", "coldload.layout": "marlin", "coldload.sink": "host",
		"coldload.bytes.in": s.BytesIn, "coldload.bytes.out": s.BytesOut, "coldload.budget": int64(2 << 20),
		"coldload.tensors.in": int64(s.Tensors), "coldload.tensors.out": int64(len(res.Plan.Outputs)), "coldload.isa": res.Kernels,
	})
	for _, p := range res.Phases {
		wantAttrs(t, spans[phasePrefix+p.Name][0], map[string]any{
			"coldload.stage.name": p.Name, "coldload.stage.workers": int64(p.Workers), "coldload.items": p.Items,
			"coldload.bytes.in": p.BytesIn, "coldload.bytes.out": p.BytesOut, "coldload.time.busy": p.Busy.Seconds(),
			"coldload.time.wait_in": p.WaitIn.Seconds(), "coldload.time.wait_out": p.WaitOut.Seconds(), "coldload.spans.omitted": nil,
		})
	}
	if got := attrs(spans[phasePrefix+"fetch"][0])["coldload.bytes.in"]; got != s.BytesRead {
		t.Errorf("fetched %v bytes, planned %d", got, s.BytesRead)
	}
	if got := attrs(spans[phasePrefix+"upload"][0])["coldload.bytes.out"]; got != s.BytesOut {
		t.Errorf("uploaded %v bytes, planned %d", got, s.BytesOut)
	}
	wantShards(t, spans, s.Shards, s.Tensors)
	wantBatches(t, spans, res)
}

func wantAttrs(t *testing.T, s tracetest.SpanStub, want map[string]any) {
	t.Helper()
	got := attrs(s)
	for key, w := range want {
		if got[key] != w {
			t.Errorf("%s: %s = %v, want %v", s.Name, key, got[key], w)
		}
	}
}

// wantShards wants a span for every Shard, with its file and what its header has.
func wantShards(t *testing.T, spans map[string][]tracetest.SpanStub, shards, tensors int) {
	t.Helper()
	var headers, counted int64
	for _, s := range spans["coldload.index.shard"] {
		a := attrs(s)
		path, _ := a["file.path"].(string)
		if size, _ := a["file.size"].(int64); !filepath.IsAbs(path) || filepath.Ext(path) != ".safetensors" || size <= 0 {
			t.Errorf("a shard's span has %v", a)
		}
		h, _ := a["coldload.header.bytes"].(int64)
		n, _ := a["coldload.tensors"].(int64)
		headers, counted = headers+h, counted+n
	}
	if n := len(spans["coldload.index.shard"]); n != shards || counted != int64(tensors) {
		t.Errorf("%d spans of shards with %d tensors, want %d with %d", n, counted, shards, tensors)
	}
	if got := attrs(spans[phasePrefix+"index"][0])["coldload.bytes.in"]; got != headers {
		t.Errorf("index read %v bytes, its shards %d", got, headers)
	}
}

// wantBatches wants a span for every Batch and stage, with the Batch's figures, and linked to the one of the stage before.
func wantBatches(t *testing.T, spans map[string][]tracetest.SpanStub, res *coldload.Result) {
	t.Helper()
	batches := map[int64]*stages.Batch{}
	for b := range res.Plan.Batches() {
		batches[int64(b.Seq)] = b
	}
	flow := []string{"fetch", "decode", "fuse", "repack", "upload"}
	if len(batches) < 2 || len(spans["coldload.batch"]) != len(flow)*len(batches) {
		t.Fatalf("%d spans of %d batches", len(spans["coldload.batch"]), len(batches))
	}
	type key struct {
		stage string
		seq   int64
	}
	byKey := map[key]tracetest.SpanStub{}
	for _, s := range spans["coldload.batch"] {
		a := attrs(s)
		stage, _ := a["coldload.stage.name"].(string)
		seq, _ := a["coldload.batch.seq"].(int64)
		byKey[key{stage, seq}] = s
		b := batches[seq]
		wantAttrs(t, s, map[string]any{
			"coldload.batch.bytes": max(b.InBytes, b.OutBytes), "coldload.parts": int64(len(b.Parts)), "coldload.tensor.first": b.Parts[0].Inputs[0].Tensor,
			"coldload.isa": res.Kernels,
		})
		if m := a["coldload.source.method"]; m != "mmap" && m != "pread" && m != "direct" && m != "mixed" {
			t.Errorf("%s: read by %v", stage, m)
		}
		if parent := spanOf(spans, s.Parent.SpanID().String()); parent != phasePrefix+stage {
			t.Errorf("batch %d of %s is a child of %s", seq, stage, parent)
		}
	}
	for i, stage := range flow {
		for seq := range batches {
			s, ok := byKey[key{stage, seq}]
			switch {
			case !ok:
				t.Errorf("no span of batch %d in %s", seq, stage)
			case i == 0 && len(s.Links) != 0:
				t.Errorf("batch %d: the first stage has links %v", seq, s.Links)
			case i > 0 && (len(s.Links) != 1 || s.Links[0].SpanContext.SpanID() != byKey[key{flow[i-1], seq}].SpanContext.SpanID()):
				t.Errorf("batch %d in %s is not linked to itself in %s", seq, stage, flow[i-1])
			}
		}
	}
}

// TestSpansOfEveryOperation: the root of each, and which phases it goes through.
func TestSpansOfEveryOperation(t *testing.T) {
	rec := newRecorder()
	path := fixturePath(telemetryFixture)
	opt := coldload.Options{TracerProvider: rec.provider}
	packed := filepath.Join(t.TempDir(), "packed")
	ck := openPath(t, path, opt)
	rec.spans()
	mine := stageFunc(func(_ context.Context, b *stages.Batch) (*stages.Batch, error) { return b, nil })
	inserted := opt
	inserted.Stages = []coldload.Insert{{After: stages.PhaseFuse, Stage: mine}, {After: stages.PhaseFuse, Stage: mine}}
	flow := []string{"commit", "decode", "fetch", "fuse", "plan", "repack", "upload"}
	with := func(list []string, more ...string) []string {
		return slices.Sorted(slices.Values(slices.Concat(list, more)))
	}

	for _, c := range []struct {
		name, root string
		phases     []string
		attrs      map[string]any // of the root
		run        func(ctx context.Context) error
	}{
		{"plan", "coldload.plan", []string{"discover", "index", "plan"}, map[string]any{"coldload.sink": nil, "coldload.format": "gptq"}, func(ctx context.Context) error {
			_, err := coldload.Plan(ctx, path, opt)
			return err
		}},
		{"stages of the user's", "coldload.load", with(allPhases(), "stage", "stage"), map[string]any{"coldload.sink": "discard"}, func(ctx context.Context) error {
			_, err := coldload.Load(ctx, path, discard.New(), inserted)
			return err
		}},
		{"a sink of the user's", "coldload.load", allPhases(), map[string]any{"coldload.sink": "*coldload_test.countingSink"}, func(ctx context.Context) error {
			_, err := coldload.Load(ctx, path, &countingSink{Sink: discard.New()}, opt)
			return err
		}},
		{"LoadAll", "coldload.load", flow, map[string]any{"coldload.sink": "discard", "coldload.format": "gptq"}, func(ctx context.Context) error {
			_, err := ck.LoadAll(ctx, discard.New(), opt)
			return err
		}},
		{"Linear", "coldload.load", flow, map[string]any{"coldload.sink": "host", "coldload.format": "gptq"}, func(ctx context.Context) error {
			m, err := ck.Linear(ctx, "model.layers.0.self_attn.qkv_proj", opt)
			if err != nil {
				return err
			}
			return m.Close()
		}},
		{"Experts", "coldload.load", flow, map[string]any{"coldload.sink": "host"}, func(ctx context.Context) error {
			m, err := ck.Experts(ctx, "model.layers.0.mlp.experts.{e}", []string{"down_proj"}, 4, opt)
			if err != nil {
				return err
			}
			return m.Close()
		}},
		{"Outputs", "coldload.load", flow, map[string]any{"coldload.sink": "outputs"}, func(ctx context.Context) error {
			for o, err := range ck.Outputs(ctx, opt) {
				if err != nil {
					return err
				}
				if err := o.Release(); err != nil {
					return err
				}
			}
			return nil
		}},
		{"pack", "coldload.pack", with(allPhases(), "stage", "stage"), map[string]any{"coldload.sink": "file", "coldload.layout": "marlin"}, func(ctx context.Context) error {
			verified := opt
			verified.VerifySource = true
			_, err := coldload.Pack(ctx, path, packed, verified, coldload.PackOptions{})
			return err
		}},
		{"verify", "coldload.verify", []string{"stage"}, map[string]any{"coldload.differences": int64(0), "coldload.tensors.out": int64(0), "coldload.sink": nil}, func(ctx context.Context) error {
			_, err := coldload.Verify(ctx, packed, coldload.VerifyOptions{Load: opt})
			return err
		}},
		{"verify against", "coldload.verify", with(allPhases(), "stage"), map[string]any{"coldload.sink": "compare", "coldload.layout": "marlin"}, func(ctx context.Context) error {
			_, err := coldload.Verify(ctx, packed, coldload.VerifyOptions{Load: opt, Against: path})
			return err
		}},
	} {
		if err := c.run(t.Context()); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		spans := rec.spans()
		t.Run(c.name, func(t *testing.T) {
			wantTree(t, spans, c.root, c.phases...)
			wantAttrs(t, spans[c.root][0], c.attrs)
			for _, s := range spans[phasePrefix+"stage"] {
				if name := attrs(s)["coldload.stage.name"]; name != "mine" && name != "digest" && name != "hash" && name != "plain hash" && name != "verify source" {
					t.Errorf("a stage that no user knows: %v", name)
				}
			}
			if list := spans["coldload.batch"]; len(list) > 0 {
				t.Errorf("%d spans of batches that nobody asked for", len(list))
			}
		})
	}
}

// namedStage is a stage of the user's that changes nothing, under any name.
type namedStage string

func (s namedStage) Name() string { return string(s) }

func (namedStage) Process(_ context.Context, b *stages.Batch) (*stages.Batch, error) { return b, nil }

// TestStageNamedLikeAPhase: wherever a stage of the user's stands, a phase of its name keeps its own figures, and the stage has a row and a span of its own.
func TestStageNamedLikeAPhase(t *testing.T) {
	type figures struct {
		name           string
		items, in, out int64
	}
	load := func(opt coldload.Options) (list []figures) {
		res, err := coldload.Load(t.Context(), fixturePath(telemetryFixture), discard.New(), opt)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range res.Phases {
			list = append(list, figures{p.Name, p.Items, p.BytesIn, p.BytesOut})
		}
		return list
	}
	plain := load(coldload.Options{})
	rec := newRecorder()
	for _, name := range append(allPhases(), "batches") {
		got := load(coldload.Options{TracerProvider: rec.provider, Stages: []coldload.Insert{{After: stages.PhaseFetch, Stage: namedStage(name)}}})
		if n := len(plain); len(got) != n+1 || !slices.Equal(got[:n], plain) || got[n].name != name+" (inserted)" {
			t.Errorf("%s: %+v, without it %+v", name, got, plain)
		}
		spans := rec.spans()
		wantTree(t, spans, "coldload.load", slices.Sorted(slices.Values(append(allPhases(), "stage")))...)
		if own := attrs(spans[phasePrefix+"stage"][0])["coldload.stage.name"]; own != name+" (inserted)" {
			t.Errorf("%s: the span is of %v", name, own)
		}
	}
}

// TestSpansOfOpen are children of the caller's own span: Open is no operation of its own.
func TestSpansOfOpen(t *testing.T) {
	rec := newRecorder()
	ctx, mine := rec.provider.Tracer("test").Start(t.Context(), "mine")
	ck, err := coldload.Open(ctx, fixturePath(telemetryFixture), coldload.Options{TracerProvider: rec.provider})
	if err != nil {
		t.Fatal(err)
	}
	defer ck.Close()
	mine.End()
	wantTree(t, rec.spans(), "mine", "discover", "index")
}

// TestSpansOfFailures: status and error.type where the fault is, and on the root.
func TestSpansOfFailures(t *testing.T) {
	rec := newRecorder()
	path := fixturePath(telemetryFixture)
	boom := errors.New("boom")
	failing := func(err error) coldload.Options {
		return coldload.Options{TracerProvider: rec.provider, TraceBatches: true, Stages: []coldload.Insert{{After: stages.PhaseDecode, Stage: stageFunc(
			func(context.Context, *stages.Batch) (*stages.Batch, error) {
				if err == nil {
					panic("boom")
				}
				return nil, fmt.Errorf("wrapped: %w", err)
			})}}}
	}
	for _, c := range []struct {
		name, at, typ string
		opt           coldload.Options
		path          string
	}{
		{"no such folder", "discover", "refused", coldload.Options{TracerProvider: rec.provider}, filepath.Join(t.TempDir(), "none")},
		{"a budget that is too small", "plan", "refused", coldload.Options{TracerProvider: rec.provider, Budget: 1000}, path},
		{"an error of a stage", "stage", "*errors.errorString", failing(boom), path},
		{"a fault in the data", "stage", "data", failing(&stages.DataError{Problem: "bad"}), path},
		{"a panic", "stage", "panic", failing(nil), path},
		{"a stage that was cancelled", "stage", "canceled", failing(context.Canceled), path},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := coldload.Load(t.Context(), c.path, discard.New(), c.opt)
			if err == nil {
				t.Fatal("no error")
			}
			spans := rec.spans()
			var batches int // that failed
			for name, list := range spans {
				for _, s := range list {
					a := attrs(s)
					batch := name == "coldload.batch" && a["coldload.stage.name"] == "mine" && s.Status.Code == codes.Error
					if batch {
						batches++
					}
					failed := batch || name == "coldload.load" || name == phasePrefix+c.at
					if failed && (s.Status.Code != codes.Error || s.Status.Description == "" || a["error.type"] != c.typ) {
						t.Errorf("%s: status %v, error.type %v, want %s", name, s.Status, a["error.type"], c.typ)
					}
					if !failed && s.Status.Code != codes.Unset {
						t.Errorf("%s: status %v", name, s.Status)
					}
				}
			}
			if want := len(c.opt.Stages); batches != want {
				t.Errorf("%d batches failed, want %d", batches, want)
			}
			if len(spans[phasePrefix+c.at]) != 1 || len(spans["coldload.load"]) != 1 {
				t.Errorf("spans %v", slices.Sorted(maps.Keys(spans)))
			}
		})
	}
}

// TestSpanOfABadShard says on the Shard's own span that it is refused, and on that of its phase.
func TestSpanOfABadShard(t *testing.T) {
	rec := newRecorder()
	dir := big(t)
	if err := os.Truncate(filepath.Join(dir, single), 4); err != nil {
		t.Fatal(err)
	}
	if _, err := coldload.Load(t.Context(), dir, discard.New(), coldload.Options{TracerProvider: rec.provider}); err == nil {
		t.Fatal("loaded a shard of 4 bytes")
	}
	spans := rec.spans()
	list := spans["coldload.index.shard"]
	if len(list) != 1 || attrs(list[0])["file.size"] != int64(4) {
		t.Errorf("spans of shards: %v", list)
	}
	for _, s := range slices.Concat(list, spans[phasePrefix+"index"], spans["coldload.load"]) {
		if s.Status.Code != codes.Error || s.Status.Description == "" || attrs(s)["error.type"] != "refused" {
			t.Errorf("%s: status %v, error.type %v", s.Name, s.Status, attrs(s)["error.type"])
		}
	}
	if len(spans[phasePrefix+"index"]) != 1 || len(spans["coldload.load"]) != 1 {
		t.Errorf("spans %v", slices.Sorted(maps.Keys(spans)))
	}
}

// collectMetrics reads the metrics of a MeterProvider: sums of counters and gauges, counts of histograms, by name and attributes.
func collectMetrics(t *testing.T, reader sdkmetric.Reader) map[string]int64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(context.WithoutCancel(t.Context()), &all); err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			key := func(set attribute.Set) string {
				parts := []string{m.Name}
				for _, kv := range set.ToSlice() {
					parts = append(parts, kv.Value.AsString())
				}
				return strings.Join(parts, " ")
			}
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					got[key(p.Attributes)] += p.Value
				}
			case metricdata.Gauge[int64]:
				for _, p := range data.DataPoints {
					got[key(p.Attributes)] = p.Value
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					got[key(p.Attributes)] += int64(p.Count)
				}
			default:
				t.Errorf("%s is a %T", m.Name, m.Data)
			}
		}
	}
	return got
}

// TestMetrics: every metric, with the figures of the Result; the gauges while a Batch is in the hands of a stage.
func TestMetrics(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	var once sync.Once
	var during map[string]int64
	var cost, staging int64
	look := stageFunc(func(_ context.Context, b *stages.Batch) (*stages.Batch, error) {
		once.Do(func() { //nolint:contextcheck // collecting has that of the test
			during, cost, staging = collectMetrics(t, reader), b.Cost(), b.Staging
		})
		return b, nil
	})
	opt := coldload.Options{
		MeterProvider: sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)), Budget: 2 << 20,
		Stages: []coldload.Insert{{After: stages.PhaseFetch, Stage: look}},
	}
	res, err := coldload.Load(t.Context(), fixturePath(telemetryFixture), discard.New(), opt)
	if err != nil {
		t.Fatal(err)
	}
	got := collectMetrics(t, reader)
	batches := int64(res.Plan.BatchCount())
	for _, p := range res.Phases[stages.PhaseFetch : stages.PhaseUpload+1] {
		for key, want := range map[string]int64{"in " + p.Name: p.BytesIn, "out " + p.Name: p.BytesOut} {
			if got["coldload.io "+key] != want {
				t.Errorf("coldload.io %s = %d, want %d", key, got["coldload.io "+key], want)
			}
		}
		for _, name := range []string{"coldload.stage.duration ", "coldload.stage.wait "} {
			if got[name+p.Name] < batches {
				t.Errorf("%s%s has %d records of %d batches", name, p.Name, got[name+p.Name], batches)
			}
		}
	}
	if got["coldload.io in index"] != res.Phases[stages.PhaseIndex].BytesIn {
		t.Errorf("coldload.io in index = %d", got["coldload.io in index"])
	}
	if got["coldload.stage.duration commit"] != 2 { // of the catalog and of the load
		t.Errorf("%d commits", got["coldload.stage.duration commit"])
	}
	var reads int64
	for _, how := range []string{"mmap", "pread", "direct"} {
		reads += got["coldload.source.read.duration "+how]
	}
	if reads == 0 {
		t.Error("no read was timed")
	}
	if during["coldload.memory.budget fetch"] != 2<<20 {
		t.Errorf("budget %d", during["coldload.memory.budget fetch"])
	}
	fetch, held := during["coldload.memory.in_flight fetch"], during["coldload.memory.in_flight staging"]
	if fetch < cost-staging || held < staging || staging == 0 || fetch+held > 2<<20 {
		t.Errorf("in flight: %d for fetching, %d for staging; one batch has %d and %d", fetch, held, cost-staging, staging)
	}
	if _, ok := during["coldload.queue.length fetch"]; !ok {
		t.Errorf("no length of queues: %v", slices.Sorted(maps.Keys(during)))
	}
}

// TestMetricsOfPack: of the source that is only sampled, what is read for that is counted; of one that is verified, all of it.
func TestMetricsOfPack(t *testing.T) {
	src := fixturePath(telemetryFixture)
	var total, sampled int64
	for name, data := range ckpt.Tree(t, src) {
		if filepath.Ext(name) == ".safetensors" {
			total += int64(len(data))
			sampled += 8 + int64(binary.LittleEndian.Uint64([]byte(data))) + 8*4096 // the header, and 8 blocks
		}
	}
	for stage, want := range map[string]int64{"sample source": sampled, "verify source": total} {
		reader := sdkmetric.NewManualReader()
		opt := coldload.Options{MeterProvider: sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)), VerifySource: stage == "verify source"}
		if _, err := coldload.Pack(t.Context(), src, filepath.Join(t.TempDir(), "packed"), opt, coldload.PackOptions{}); err != nil {
			t.Fatal(err)
		}
		if got := collectMetrics(t, reader)["coldload.io in "+stage]; got != want {
			t.Errorf("%s: %d bytes of %d, want %d", stage, got, total, want)
		}
	}
}

// TestTimesAddUp: what the workers of a phase did and waited for is, with the time when they were not there, the whole of the load.
func TestTimesAddUp(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "model")
	if _, err := synth.Write(t.Context(), dir, synth.Options{Model: "tiny-moe", Layers: 2}); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1, 2, 8} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			w := coldload.Workers{Index: n, Fetch: n, Decode: n, Fuse: n, Repack: n, Upload: n}
			res, err := coldload.Load(t.Context(), dir, discard.New(), coldload.Options{Workers: w})
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range res.Phases {
				all := time.Duration(p.Workers) * res.Duration
				sum := p.Busy + p.WaitIn + p.WaitOut + p.Idle
				if d := sum - all; max(d, -d) > all/50 {
					t.Errorf("%s: busy %v + waiting %v and %v + idle %v = %v, want %v", p.Name, p.Busy, p.WaitIn, p.WaitOut, p.Idle, sum, all)
				}
			}
			if p := res.Phases[stages.PhaseRepack]; p.Workers != n || p.Busy == 0 || p.Idle == 0 {
				t.Errorf("%+v", p)
			}
		})
	}
}

// TestTimesAddUpExactly does it with a clock that only sleeping moves: to the nanosecond.
func TestTimesAddUpExactly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := stageFunc(func(_ context.Context, b *stages.Batch) (*stages.Batch, error) {
			time.Sleep(time.Second)
			return b, nil
		})
		res, err := coldload.Load(t.Context(), fixturePath(telemetryFixture), discard.New(), coldload.Options{
			Budget: 2 << 20, Workers: coldload.Workers{Index: 3, Fetch: 2, Decode: 4, Fuse: 1, Repack: 3, Upload: 2},
			Stages: []coldload.Insert{{After: stages.PhaseFetch, Stage: slow, Workers: 2}},
		})
		if err != nil {
			t.Fatal(err)
		}
		slept := time.Duration(res.Plan.BatchCount()) * time.Second
		if want := (slept + time.Second).Truncate(2*time.Second) / 2; res.Duration != want {
			t.Errorf("took %v, want %v for two workers", res.Duration, want)
		}
		for _, p := range res.Phases {
			if sum, all := p.Busy+p.WaitIn+p.WaitOut+p.Idle, time.Duration(p.Workers)*res.Duration; sum != all {
				t.Errorf("%s: busy %v + waiting %v and %v + idle %v = %v, want %v", p.Name, p.Busy, p.WaitIn, p.WaitOut, p.Idle, sum, all)
			}
		}
		mine := res.Phases[len(res.Phases)-1]
		if mine.Name != "mine" || mine.Busy != slept {
			t.Errorf("%+v, want %v of work", mine, slept)
		}
	})
}
