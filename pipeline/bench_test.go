package pipeline_test

import (
	"context"
	"testing"

	mnoop "go.opentelemetry.io/otel/metric/noop"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/coldload/coldload/pipeline"
)

type nop struct{}

func (nop) Name() string                                                  { return "nop" }
func (nop) Process(_ context.Context, i *int) (*int, error)               { return i, nil }
func (nop) Expand(_ context.Context, i *int, emit func(*int) error) error { return emit(i) }

type devNull struct{}

func (devNull) Name() string                      { return "null" }
func (devNull) Write(context.Context, *int) error { return nil }
func (devNull) Commit(context.Context) error      { return nil }
func (devNull) Close() error                      { return nil }

// BenchmarkPerItem is the cost of one item from a source through one stage to a sink, none of which does anything.
func BenchmarkPerItem(b *testing.B) {
	charge := func() pipeline.Option {
		return pipeline.Charge(pipeline.NewBudget(1<<20), func(*int) int64 { return 64 })
	}
	sampled := func(s sdktrace.Sampler) pipeline.Config {
		return pipeline.Config{TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSampler(s))}
	}
	for _, bm := range []struct {
		name string
		cfg  pipeline.Config
		opts []pipeline.Option
	}{
		{"workers=1", pipeline.Config{}, nil},
		{"workers=4", pipeline.Config{}, []pipeline.Option{pipeline.Workers(4)}},
		{"workers=4/ordered", pipeline.Config{}, []pipeline.Option{pipeline.Workers(4), pipeline.Ordered()}},
		{"workers=4/budget", pipeline.Config{}, []pipeline.Option{pipeline.Workers(4), charge()}},
		{"workers=4/metrics=noop", pipeline.Config{MeterProvider: mnoop.NewMeterProvider()}, []pipeline.Option{pipeline.Workers(4)}},
		{"workers=4/spans=noop", pipeline.Config{}, []pipeline.Option{pipeline.Workers(4), pipeline.ItemSpans()}},
		{"workers=4/spans=never", sampled(sdktrace.NeverSample()), []pipeline.Option{pipeline.Workers(4), pipeline.ItemSpans()}},
		{"workers=4/spans=always", sampled(sdktrace.AlwaysSample()), []pipeline.Option{pipeline.Workers(4), pipeline.ItemSpans()}},
	} {
		b.Run(bm.name, func(b *testing.B) { benchmarkItems(b, bm.cfg, bm.opts) })
	}
}

func benchmarkItems(b *testing.B, cfg pipeline.Config, opts []pipeline.Option) {
	b.Helper()
	b.ReportAllocs()
	r := pipeline.New(b.Context(), cfg)
	one := 1
	st := pipeline.From(r, "source", func(yield func(*int, error) bool) {
		for b.Loop() {
			if !yield(&one, nil) {
				return
			}
		}
	}, pipeline.Buffer(8))
	pipeline.Into(pipeline.Map(st, nop{}, append(opts, pipeline.Buffer(8))...), devNull{})
	if err := r.Wait(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkExpandedItem is BenchmarkPerItem with an Expander that emits what it gets.
func BenchmarkExpandedItem(b *testing.B) {
	b.ReportAllocs()
	r := pipeline.New(b.Context(), pipeline.Config{})
	one := 1
	st := pipeline.From(r, "source", func(yield func(*int, error) bool) {
		for b.Loop() {
			if !yield(&one, nil) {
				return
			}
		}
	}, pipeline.Buffer(8))
	pipeline.Into(pipeline.FlatMap(st, nop{}, pipeline.Buffer(8)), devNull{})
	if err := r.Wait(); err != nil {
		b.Fatal(err)
	}
}
