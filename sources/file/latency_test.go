package file

import (
	"testing"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/coldload/coldload/stages"
)

// TestLatency: one record for each request, by the way it was read; 10 MB take three requests of 4 MiB where they are mapped or copied.
func TestLatency(t *testing.T) {
	data := noise(10_000_000)
	for mode, want := range map[Mode]map[string]uint64{ModeMmap: {"mmap": 3}, ModePread: {"pread": 3}} {
		t.Run(mode.String(), func(t *testing.T) {
			reader := sdkmetric.NewManualReader()
			s := openWith(t, Options{IO: mode, MeterProvider: sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))}, systemCalls(), data)
			ranges := []stages.Extent{{Len: int64(len(data))}}
			if how := compare(t, s, [][]byte{data}, ranges, s.Padding(ranges)); how != mode.String() {
				t.Fatalf("read by %s", how)
			}
			wantRequests(t, reader, want)
		})
	}
}

func wantRequests(t *testing.T, reader sdkmetric.Reader, want map[string]uint64) {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	if len(all.ScopeMetrics) != 1 || len(all.ScopeMetrics[0].Metrics) != 1 {
		t.Fatalf("metrics %+v", all.ScopeMetrics)
	}
	m := all.ScopeMetrics[0].Metrics[0]
	h, ok := m.Data.(metricdata.Histogram[float64])
	if !ok || m.Name != "coldload.source.read.duration" || m.Unit != "s" {
		t.Fatalf("%s, %s: %T", m.Name, m.Unit, m.Data)
	}
	got := map[string]uint64{}
	for _, p := range h.DataPoints {
		method, _ := p.Attributes.Value(attribute.Key("coldload.source.method"))
		got[method.AsString()] = p.Count
		if p.Sum <= 0 || p.Bounds[0] != 1e-5 {
			t.Errorf("%s: %v s in all, bounds %v", method.AsString(), p.Sum, p.Bounds)
		}
	}
	if len(got) != len(want) {
		t.Errorf("requests %v, want %v", got, want)
	}
	for method, n := range want {
		if got[method] != n {
			t.Errorf("%d requests by %s, want %d", got[method], method, n)
		}
	}
}
