package file

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// latency records how long each request for bytes takes: one system call. A nil *latency records nothing.
type latency struct {
	seconds metric.Float64Histogram
	by      [len(methodNames)][]metric.RecordOption // ready-made: building one per request would allocate
}

// newLatency returns nil where there is no MeterProvider.
func newLatency(p metric.MeterProvider) *latency {
	if p == nil {
		return nil
	}
	l := &latency{}
	// An instrument that the provider cannot make is one that records nothing, and no reason to read nothing.
	l.seconds, _ = p.Meter("github.com/coldload/coldload/sources/file").Float64Histogram("coldload.source.read.duration",
		metric.WithUnit("s"), metric.WithDescription("Time that one request for bytes took."),
		metric.WithExplicitBucketBoundaries(1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1, 3, 10))
	for m, name := range methodNames {
		l.by[m] = []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(attribute.String("coldload.source.method", name)))}
	}
	return l
}

// begin is the start of a request.
func (l *latency) begin() (t time.Time) {
	if l != nil {
		t = time.Now()
	}
	return t
}

// end records a request that began at t and was answered with bytes.
func (l *latency) end(ctx context.Context, m method, t time.Time) {
	if l != nil {
		l.seconds.Record(ctx, time.Since(t).Seconds(), l.by[m]...)
	}
}
