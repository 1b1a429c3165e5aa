package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	mnoop "go.opentelemetry.io/otel/metric/noop"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/coldload/coldload/pipeline"
)

// traced runs wire under a span called root and returns all spans by name, with the error of the run.
func traced(t *testing.T, cfg pipeline.Config, wire func(*pipeline.Run)) (map[string][]tracetest.SpanStub, error) {
	t.Helper()
	exporter := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter))
	ctx, root := provider.Tracer("test").Start(t.Context(), "root")
	cfg.TracerProvider = provider
	r := pipeline.New(ctx, cfg)
	wire(r)
	err := r.Wait()
	root.End()
	spans := map[string][]tracetest.SpanStub{}
	for _, s := range exporter.GetSpans() {
		spans[s.Name] = append(spans[s.Name], s)
	}
	return spans, err
}

func attr(s tracetest.SpanStub, key string) any {
	for _, kv := range s.Attributes {
		if string(kv.Key) == key {
			return kv.Value.AsInterface()
		}
	}
	return nil
}

func TestSpans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		cfg := pipeline.Config{
			AttrPrefix:    "acme.",
			SpanName:      func(s string) string { return "phase." + s },
			ItemSpanName:  func(string) string { return "batch" },
			ItemSpanLimit: 2,
		}
		out := slowSink(3 * time.Second)
		out.commit = func(context.Context) error { time.Sleep(time.Second); return nil }
		spans, err := traced(t, cfg, func(r *pipeline.Run) {
			st := pipeline.From(r, "source", slowInts(3, time.Second), pipeline.ItemSpans())
			st = pipeline.Map(st, slowStage("stage", 2*time.Second), pipeline.ItemSpans(),
				pipeline.Measure(func(int) pipeline.Work { return pipeline.Work{Items: 1, BytesIn: 7, BytesOut: 9} }))
			pipeline.Into(st, out)
		})
		if err != nil {
			t.Fatal(err)
		}
		root := spans["root"][0]
		for name, times := range map[string][2]time.Duration{ // as in TestStatsExact
			"phase.source": {0, 6 * time.Second}, "phase.stage": {1 * time.Second, 9 * time.Second},
			"phase.sink": {3 * time.Second, 12 * time.Second}, "phase.commit": {12 * time.Second, 13 * time.Second},
		} {
			if len(spans[name]) != 1 {
				t.Fatalf("%d spans %q", len(spans[name]), name)
			}
			s := spans[name][0]
			if s.Parent.SpanID() != root.SpanContext.SpanID() {
				t.Errorf("%s is not a child of the caller's span", name)
			}
			if s.StartTime.Sub(start) != times[0] || s.EndTime.Sub(start) != times[1] {
				t.Errorf("%s from %v to %v", name, s.StartTime.Sub(start), s.EndTime.Sub(start))
			}
			if s.Status.Code != codes.Unset {
				t.Errorf("%s has status %v", name, s.Status)
			}
		}
		for key, want := range map[string]any{
			"acme.stage.name": "stage", "acme.stage.workers": int64(1), "acme.items": int64(3),
			"acme.bytes.in": int64(21), "acme.bytes.out": int64(27),
			"acme.time.busy": 6.0, "acme.time.wait_in": 1.0, "acme.time.wait_out": 2.0,
		} {
			if got := attr(spans["phase.stage"][0], key); got != want {
				t.Errorf("%s = %v, want %v", key, got, want)
			}
		}
		for key, want := range map[string]any{
			"acme.stage.name": "commit", "acme.stage.workers": int64(1), "acme.items": int64(1), "acme.bytes.in": int64(0), "acme.bytes.out": int64(0),
			"acme.time.busy": 1.0, "acme.time.wait_in": 0.0, "acme.time.wait_out": 0.0,
		} {
			if got := attr(spans["phase.commit"][0], key); got != want {
				t.Errorf("commit: %s = %v, want %v", key, got, want)
			}
		}
		for name, want := range map[string]any{"phase.source": int64(1), "phase.stage": int64(1), "phase.sink": nil} {
			if got := attr(spans[name][0], "acme.spans.omitted"); got != want {
				t.Errorf("%s: %v item spans omitted, want %v", name, got, want)
			}
		}
		wantItemSpans(t, spans)
	})
}

// wantItemSpans checks the item spans of TestSpans: two for each stage, the stage's linked to the source's.
func wantItemSpans(t *testing.T, spans map[string][]tracetest.SpanStub) {
	t.Helper()
	made := map[int64]tracetest.SpanStub{}
	var linked int
	for _, s := range spans["batch"] {
		seq, _ := attr(s, "acme.item.seq").(int64)
		if attr(s, "acme.stage.name") == "source" {
			made[seq] = s
			continue
		}
		linked++
		if s.Parent.SpanID() != spans["phase.stage"][0].SpanContext.SpanID() {
			t.Errorf("item %d: its span is not a child of the stage's", seq)
		}
		if len(s.Links) != 1 || s.Links[0].SpanContext.SpanID() != made[seq].SpanContext.SpanID() {
			t.Errorf("item %d: links %v", seq, s.Links)
		}
	}
	if len(made) != 2 || linked != 2 {
		t.Errorf("%d item spans of the source, %d of the stage, want the limit of 2 each", len(made), linked)
	}
}

// TestSpanNames leaves out what has an empty name, and takes the name of the stage's own before that of the Config.
func TestSpanNames(t *testing.T) {
	cfg := pipeline.Config{SpanName: func(stage string) string {
		if stage == "commit" {
			return ""
		}
		return "of " + stage
	}}
	spans, err := traced(t, cfg, func(r *pipeline.Run) {
		st := pipeline.From(r, "source", slowInts(2, 0), pipeline.SpanName(""), pipeline.ItemSpans())
		st = pipeline.Map(st, slowStage("stage", 0), pipeline.SpanName("mine"))
		pipeline.Into(st, slowSink(0))
	})
	if err != nil {
		t.Fatal(err)
	}
	root := spans["root"][0].SpanContext.SpanID()
	for name, want := range map[string]int{"root": 1, "mine": 1, "of sink": 1, "of source.item": 2} {
		if len(spans[name]) != want {
			t.Errorf("%d spans %q, want %d", len(spans[name]), name, want)
		}
		for _, s := range spans[name] {
			if name != "root" && s.Parent.SpanID() != root {
				t.Errorf("%s is not a child of the caller's span", name)
			}
		}
	}
	if len(spans) != 4 {
		t.Errorf("more spans than those: %d names", len(spans))
	}
	if got := attr(spans["mine"][0], "pipeline.stage.name"); got != "stage" {
		t.Errorf("stage.name %v", got)
	}
}

// TestItemFault marks the spans of what is at fault and of its stage, also where the limit left the item without one, and the run goes on.
func TestItemFault(t *testing.T) {
	var mu sync.Mutex
	asked := map[string]int{}
	cfg := pipeline.Config{
		ItemSpanLimit: 2,
		ItemFault: func(stage string, made any) error {
			mu.Lock()
			asked[stage]++
			mu.Unlock()
			if n, ok := made.(int); ok && n > 0 {
				return fmt.Errorf("fault of %d", n)
			}
			return nil
		},
		ErrorType: func(err error) string { return "type of " + err.Error() },
	}
	spans, err := traced(t, cfg, func(r *pipeline.Run) {
		st := pipeline.From(r, "source", slowInts(4, 0))
		less := func(name string, by int, opts ...pipeline.Option) {
			st = pipeline.Map(st, stageFunc[int, int]{name, func(_ context.Context, i int) (int, error) { return i - by, nil }}, append(opts, pipeline.Workers(1))...)
		}
		less("spans", 0, pipeline.ItemSpans())
		less("no spans", 0)
		less("late", 2, pipeline.ItemSpans())
		less("whole", 1, pipeline.ItemSpans())
		pipeline.Into(st, slowSink(0), pipeline.ItemSpans())
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]string{
		"source": {""}, "spans": {"fault of 1"}, "no spans": {""}, "late": {"fault of 1"}, "whole": {""}, "sink": {""}, "root": {""},
		"spans.item": {"", "fault of 1"}, "late.item": {"", ""}, "whole.item": {"", ""}, "sink.item": {"", ""},
	} {
		if len(spans[name]) != len(want) {
			t.Fatalf("%d spans %q", len(spans[name]), name)
		}
		for i, s := range spans[name] {
			status, typ := codes.Unset, any(nil)
			if want[i] != "" {
				status, typ = codes.Error, "type of "+want[i]
			}
			if s.Status.Code != status || s.Status.Description != want[i] || attr(s, "error.type") != typ {
				t.Errorf("%s %d: status %v, error.type %v, want %q", name, i, s.Status, attr(s, "error.type"), want[i])
			}
		}
	}
	if len(asked) != 3 || asked["spans"] != 4 || asked["late"] != 4 || asked["whole"] != 4 {
		t.Errorf("asked %v", asked)
	}
}

// TestItemAttrs asserts what a user's attributes are made from: what comes to a stage, then what it made; not what failed.
func TestItemAttrs(t *testing.T) {
	cfg := pipeline.Config{
		ItemAttrs: func(stage string, item any, made bool) []attribute.KeyValue {
			key := "came"
			if made {
				key = "made"
			}
			return []attribute.KeyValue{attribute.String(key, fmt.Sprint(stage, " ", item))}
		},
		ErrorType: func(err error) string { return "type of " + errors.Unwrap(err).Error() },
	}
	spans, err := traced(t, cfg, func(r *pipeline.Run) {
		st := pipeline.From(r, "source", slowInts(1, 0), pipeline.ItemSpans())
		half := stageFunc[int, string]{"half", func(context.Context, int) (string, error) { return "text", nil }}
		out := &sink[string]{write: func(context.Context, string) error { return errBoom }}
		pipeline.Into(pipeline.Map(st, half, pipeline.ItemSpans()), out, pipeline.ItemSpans())
	})
	wantError(t, err, "error", "sink")
	for _, want := range []struct {
		name       string
		came, made any
		failed     any
	}{
		{"source.item", "source 0", "source 0", nil},
		{"half.item", "half 0", "half text", nil},
		{"sink.item", "sink text", nil, "type of boom"},
	} {
		if len(spans[want.name]) != 1 {
			t.Fatalf("%d spans %q", len(spans[want.name]), want.name)
		}
		s := spans[want.name][0]
		if attr(s, "came") != want.came || attr(s, "made") != want.made || attr(s, "error.type") != want.failed {
			t.Errorf("%s: %v", want.name, s.Attributes)
		}
		if attr(s, "pipeline.item.seq") != nil {
			t.Errorf("%s has the engine's own attributes too", want.name)
		}
	}
}

// TestSpansOfFailure asserts that every span ends, and that only the stage that failed is marked.
func TestSpansOfFailure(t *testing.T) {
	for mode, errType := range map[string]string{
		"error": "*errors.errorString", "panic": "*pipeline.PanicError", "goexit": "*errors.errorString",
	} {
		synctest.Test(t, func(t *testing.T) {
			bad := stageFunc[int, int]{"bad", func(context.Context, int) (int, error) {
				time.Sleep(time.Second)
				return 0, misbehave(mode)
			}}
			spans, err := traced(t, pipeline.Config{}, func(r *pipeline.Run) {
				st := pipeline.Map(pipeline.From(r, "source", slowInts(9, 0)), slowStage("good", 0))
				pipeline.Into(pipeline.Map(st, bad, pipeline.ItemSpans()), slowSink(0))
			})
			wantError(t, err, mode, "bad")
			for _, name := range []string{"bad", "bad.item"} {
				if len(spans[name]) != 1 {
					t.Fatalf("%s: %d spans %q", mode, len(spans[name]), name)
				}
				s := spans[name][0]
				if s.Status.Code != codes.Error || attr(s, "error.type") != errType {
					t.Errorf("%s: %s has status %v, error.type %v", mode, name, s.Status, attr(s, "error.type"))
				}
				if s.EndTime.Sub(s.StartTime) != time.Second {
					t.Errorf("%s: %s took %v", mode, name, s.EndTime.Sub(s.StartTime))
				}
			}
			if len(spans["good"]) != 1 || spans["good"][0].Status.Code != codes.Unset {
				t.Errorf("%s: spans of a good stage: %v", mode, spans["good"])
			}
			if len(spans["sink"])+len(spans["commit"]) != 0 {
				t.Errorf("%s: spans of stages that did nothing", mode)
			}
		})
	}
}

func TestSpanOfFailedCommit(t *testing.T) {
	out := slowSink(0)
	out.commit = func(context.Context) error { return errBoom }
	spans, err := traced(t, pipeline.Config{}, func(r *pipeline.Run) {
		pipeline.Into(pipeline.From(r, "source", slowInts(1, 0)), out)
	})
	wantError(t, err, "error", "sink")
	if s := spans["commit"]; len(s) != 1 || s[0].Status.Code != codes.Error {
		t.Errorf("spans of Commit: %v", s)
	}
	if s := spans["sink"]; len(s) != 1 || s[0].Status.Code != codes.Unset {
		t.Errorf("spans of the sink: %v", s)
	}
}

// meters is a MeterProvider with a single meter.
type meters struct {
	mnoop.MeterProvider
	one *meter
}

func (m meters) Meter(string, ...metric.MeterOption) metric.Meter { return m.one }

// meter adds up what is recorded.
type meter struct {
	mnoop.Meter

	mu      sync.Mutex
	sums    map[string]float64
	observe metric.Callback
}

func (m *meter) add(name string, attrs attribute.Set, v float64) {
	parts := []string{name}
	for _, key := range []attribute.Key{"pipeline.stage.name", "pipeline.direction", "pipeline.purpose"} {
		if a, ok := attrs.Value(key); ok {
			parts = append(parts, a.AsString())
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sums[strings.Join(parts, " ")] += v
}

func (m *meter) sum(name string) float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sums[name]
}

func (m *meter) callback() metric.Callback {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.observe
}

func (m *meter) collect(t *testing.T) {
	t.Helper()
	if err := m.callback()(t.Context(), meterObserver{m: m}); err != nil {
		t.Fatal(err)
	}
}

type meterCounter struct {
	mnoop.Int64Counter
	m    *meter
	name string
}

func (c meterCounter) Add(_ context.Context, n int64, opts ...metric.AddOption) {
	c.m.add(c.name, metric.NewAddConfig(opts).Attributes(), float64(n))
}

type meterHistogram struct {
	mnoop.Float64Histogram
	m    *meter
	name string
}

func (h meterHistogram) Record(_ context.Context, v float64, opts ...metric.RecordOption) {
	h.m.add(h.name, metric.NewRecordConfig(opts).Attributes(), v)
}

type meterGauge struct {
	mnoop.Int64ObservableGauge
	name string
}

func (m *meter) Int64Counter(name string, _ ...metric.Int64CounterOption) (metric.Int64Counter, error) {
	return meterCounter{m: m, name: name}, nil
}

func (m *meter) Float64Histogram(name string, _ ...metric.Float64HistogramOption) (metric.Float64Histogram, error) {
	return meterHistogram{m: m, name: name}, nil
}

func (m *meter) Int64ObservableGauge(name string, _ ...metric.Int64ObservableGaugeOption) (metric.Int64ObservableGauge, error) {
	return meterGauge{name: name}, nil
}

func (m *meter) RegisterCallback(f metric.Callback, _ ...metric.Observable) (metric.Registration, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.observe = f
	return meterRegistration{m: m}, nil
}

type meterRegistration struct {
	mnoop.Registration
	m *meter
}

func (r meterRegistration) Unregister() error {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	r.m.observe = nil
	return nil
}

type meterObserver struct {
	mnoop.Observer
	m *meter
}

func (o meterObserver) ObserveInt64(g metric.Int64Observable, v int64, opts ...metric.ObserveOption) {
	if gauge, ok := g.(meterGauge); ok {
		o.m.add(gauge.name, metric.NewObserveConfig(opts).Attributes(), float64(v))
	}
}

// TestPurposes tells apart what the bytes in flight are for: 2 of the 5 of an item stay when it gives back the rest.
func TestPurposes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &meter{sums: map[string]float64{}}
		budget := pipeline.NewBudget(10)
		r := pipeline.New(t.Context(), pipeline.Config{MeterProvider: meters{one: m}})
		l := &ledger{}
		st := pipeline.From(r, "source", l.source(2), pipeline.Charge(budget, func(*item) int64 { return 5 }),
			pipeline.Purposes("read", "held", func(*item) int64 { return 2 }))
		st = pipeline.Map(st, stage("half", func(_ context.Context, i *item) (*item, error) {
			time.Sleep(time.Second)
			i.held.Store(2)
			return i, nil
		}))
		out := &sink[*item]{write: func(context.Context, *item) error { time.Sleep(9 * time.Second); return nil }}
		pipeline.Into(st, out)
		r.Start()
		for _, want := range []struct {
			after      time.Duration
			read, held float64
		}{{500 * time.Millisecond, 6, 4}, {2 * time.Second, 0, 4}, {10 * time.Second, 0, 2}} {
			time.Sleep(want.after)
			m.mu.Lock()
			clear(m.sums)
			m.mu.Unlock()
			m.collect(t)
			if r, h := m.sum("pipeline.memory.in_flight read"), m.sum("pipeline.memory.in_flight held"); r != want.read || h != want.held {
				t.Errorf("%v: %v read, %v held, want %v and %v", want.after, r, h, want.read, want.held)
			}
			if size := m.sum("pipeline.memory.budget read"); size != 10 {
				t.Errorf("a budget of %v", size)
			}
		}
		if err := r.Wait(); err != nil {
			t.Fatal(err)
		}
		if budget.InUse() != 0 {
			t.Errorf("%d bytes in use at the end", budget.InUse())
		}
	})
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &meter{sums: map[string]float64{}}
		r := pipeline.New(t.Context(), pipeline.Config{MeterProvider: meters{one: m}})
		st := pipeline.From(r, "source", slowInts(3, time.Second), pipeline.Buffer(5),
			pipeline.Charge(pipeline.NewBudget(10), func(int) int64 { return 2 }))
		st = pipeline.Map(st, slowStage("stage", 10*time.Second),
			pipeline.Measure(func(int) pipeline.Work { return pipeline.Work{Items: 1, BytesIn: 7, BytesOut: 9} }))
		out := slowSink(0)
		out.commit = func(context.Context) error { time.Sleep(7 * time.Second); return nil }
		pipeline.Into(st, out)
		r.Start()
		time.Sleep(5 * time.Second)
		m.collect(t) // with one item in the stage, two parked
		if err := r.Wait(); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]float64{
			"pipeline.io stage in": 21, "pipeline.io stage out": 27,
			"pipeline.stage.duration source": 3, "pipeline.stage.duration stage": 30, "pipeline.stage.wait stage": 1,
			"pipeline.stage.duration commit": 7,
			"pipeline.queue.length source":   2, "pipeline.queue.length stage": 0,
			"pipeline.memory.in_flight source": 6, "pipeline.memory.budget source": 10,
		} {
			if m.sums[name] != want {
				t.Errorf("%s = %v, want %v", name, m.sums[name], want)
			}
		}
		if m.callback() != nil {
			t.Error("the callback is still registered")
		}
	})
}
