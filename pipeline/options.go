package pipeline

import (
	"log/slog"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Config says how a Run reports on itself. The zero value reports nothing and is ready for use. The package reads no
// global provider and no environment variable.
type Config struct {
	// TracerProvider gets one span per stage, one per [Sink.Commit], and those of [ItemSpans]. Nil: no spans.
	TracerProvider trace.TracerProvider

	// MeterProvider gets the metrics that the package documentation lists. Nil: no metrics.
	MeterProvider metric.MeterProvider

	// Observer is told of every item at every stage. Nil: nobody is.
	Observer Observer

	// Logger gets, at level Warn, the errors that Wait cannot return because another one came first. Nil: nothing
	// is logged.
	Logger *slog.Logger

	// SpanName maps the name of a stage to that of its span; it is called with "commit" too. It should have few
	// results; an empty one means no span. Nil: the name itself.
	SpanName func(stage string) string

	// ItemSpanName maps the name of a stage to that of its item spans. Nil: the stage's span name and ".item".
	ItemSpanName func(stage string) string

	// ItemAttrs are the attributes of an item's span beside stage.name. It is called with what came to the stage, when
	// the span begins, and, with made, with what a source or a [Map] has made, when it ends: not for an item that
	// failed. Nil: item.seq and, for a [Named] item, item.name.
	ItemAttrs func(stage string, item any, made bool) []attribute.KeyValue

	// ItemFault tells of an item that a source or a [Map] with [ItemSpans] has made and that travels on although it is at
	// fault: the item's span fails with the error, and the stage's with the first of them. The run goes on. Nil, as the
	// function or as its result: there is no fault.
	ItemFault func(stage string, made any) error

	// ErrorType is the attribute error.type of a span that failed; it should have few results. Nil: the Go type of what
	// the stage returned.
	ErrorType func(error) string

	// AttrPrefix starts the names of all attributes and metrics, for example "acme." Empty: "pipeline."
	AttrPrefix string

	// ItemSpanLimit is the most item spans that a stage opens in one run. Zero: no limit. The stage spans count every
	// item all the same, and say as spans.omitted how many have none.
	ItemSpanLimit int
}

// withDefaults returns c with every field usable.
func (c Config) withDefaults() Config {
	if c.TracerProvider == nil {
		c.TracerProvider = noop.NewTracerProvider()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.SpanName == nil {
		c.SpanName = func(stage string) string { return stage }
	}
	if c.ItemSpanName == nil {
		span := c.SpanName
		c.ItemSpanName = func(stage string) string { return span(stage) + ".item" }
	}
	if c.ErrorType == nil {
		c.ErrorType = goType
	}
	if c.AttrPrefix == "" {
		c.AttrPrefix = "pipeline."
	}
	return c
}

// Work is what one item added to the figures of a stage.
type Work struct {
	Items    int64 // things done, in whatever unit the pipeline reports
	BytesIn  int64 // bytes read for it
	BytesOut int64 // bytes made or written for it
}

// Option adjusts one stage. An option that does not fit its stage is a wiring fault: [Run.Wait] returns [ErrWiring]
// and nothing runs.
type Option func(*options)

// options holds Charge's and Measure's functions as any because an Option has no type parameter; they are asserted
// once, when the stage is wired, never per item.
type options struct {
	workers   int
	buffer    int
	ordered   bool
	itemSpans bool
	budget    *Budget
	cost      any // func(T) int64
	measure   any // func(T) Work
	spanName  *string
	purpose   string
	part      any // func(T) int64
	partFor   string
	noCommit  bool
}

func resolve(opts []Option) options {
	o := options{workers: 1}
	for _, set := range opts {
		set(&o)
	}
	return o
}

// Workers sets how many goroutines the stage runs, at least one; the default is one. It is not for [From].
func Workers(n int) Option { return func(o *options) { o.workers = n } }

// Ordered makes a [Map] or [FlatMap] pass its results on in the order in which their inputs arrived, whatever the
// number of workers. A finished item waits for its turn with its worker, so at most Workers items are out of order.
// An unordered stage before it has lost the order already.
func Ordered() Option { return func(o *options) { o.ordered = true } }

// Buffer gives the edge after the stage room for n items; the default is none. It is not for [Into]. Bound memory by
// [Charge], not by this: it counts items, whatever their size.
func Buffer(n int) Option { return func(o *options) { o.buffer = n } }

// Charge makes each item of a [From], or each input of a [Map], take cost(item) bytes of b before it is admitted. It
// happens once per item, one item after the other, in their order, and is the only place where an item waits for
// memory. The bytes return when the item leaves the pipeline: written, failed or dropped. On the way an item that is
// a [Holder] returns early what it no longer needs.
//
// An item that costs more than the whole budget fails the run with [ErrOverBudget]. cost must not block; it is called
// by one goroutine at a time. A chain of stages may charge the same Budget once only: charging it twice would let
// items that hold bytes wait for each other.
func Charge[T any](b *Budget, cost func(T) int64) Option {
	return func(o *options) { o.budget, o.cost = b, cost }
}

// Purposes names what the bytes are for that [Charge] takes, in the gauge memory.in_flight: part(item) of them, which
// the item keeps to its end whatever else it gives back, are for partFor, and the rest for purpose, under which the
// gauge memory.budget is too. Without it all are for the name of the stage. It needs Charge.
func Purposes[T any](purpose, partFor string, part func(T) int64) Option {
	return func(o *options) { o.purpose, o.partFor, o.part = purpose, partFor, part }
}

// SpanName names the span of the stage, whatever [Config].SpanName says; empty means none. The Commit of a sink keeps its
// own.
func SpanName(name string) Option { return func(o *options) { o.spanName = &name } }

// NoCommit is for an [Into] whose sink makes nothing that could become final: its Commit is not called, and nothing is told of it.
func NoCommit() Option { return func(o *options) { o.noCommit = true } }

// Measure sets what an item adds to the [StageStats] of the stage: an item that the stage produced, or, for [Into],
// one that was written and is not released yet. Without it each item counts as one and no bytes. f is called by
// several goroutines when the stage has several workers.
func Measure[T any](f func(T) Work) Option { return func(o *options) { o.measure = f } }

// ItemSpans opens a span per item under the span of the stage, linked to the item's span of the stage before. It costs
// a microsecond or two per item with a recording provider.
func ItemSpans() Option { return func(o *options) { o.itemSpans = true } }
