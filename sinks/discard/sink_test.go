package discard_test

import (
	"context"
	"errors"
	"testing"

	"go.uber.org/goleak"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/sinks/discard"
	"github.com/coldload/coldload/sinks/sinktest"
	"github.com/coldload/coldload/stages"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	sinktest.Run(t, sinktest.Factory{New: func(testing.TB) sinktest.Instance { return sinktest.Instance{Sink: discard.New()} }})
}

func bytesOutput(size, slab int64) stages.Output {
	return stages.Output{Name: "a", DType: safetensors.U8, Shape: []int64{size}, Layout: stages.LayoutRaw, Kind: stages.KindKept, Size: size, SlabBytes: slab}
}

func begin(tb testing.TB, outputs ...stages.Output) *discard.Sink {
	tb.Helper()
	s := discard.New()
	if err := s.Begin(tb.Context(), outputs); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

func TestCounts(t *testing.T) {
	o := bytesOutput(250, 100)
	s := begin(t, o)
	for i := range o.Slabs() {
		slab := o.Slab(0, i)
		b, err := s.Reserve(t.Context(), slab)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Write(t.Context(), slab, b); err != nil {
			t.Fatal(err)
		}
	}
	if s.Slabs() != 3 || s.Written() != 250 {
		t.Errorf("%d slabs, %d bytes", s.Slabs(), s.Written())
	}
	if err := s.Commit(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestRefusesWrongUse(t *testing.T) {
	ctx := t.Context()
	o := bytesOutput(250, 100)
	slab := o.Slab(0, 0)
	s := begin(t, o)
	b, err := s.Reserve(ctx, slab)
	if err != nil {
		t.Fatal(err)
	}
	reserve := func(s *discard.Sink, slab stages.Slab) func() error {
		return func() error { _, err := s.Reserve(ctx, slab); return err }
	}
	other, closed := begin(t), discard.New()
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	for name, call := range map[string]func() error{
		"Begin twice":                  func() error { return s.Begin(ctx, nil) },
		"Begin after Close":            func() error { return closed.Begin(ctx, nil) },
		"Begin with an ended context":  func() error { return discard.New().Begin(ended, nil) },
		"Begin without a slab size":    func() error { return discard.New().Begin(ctx, []stages.Output{bytesOutput(1, 0)}) },
		"Reserve before Begin":         reserve(discard.New(), slab),
		"Reserve twice":                reserve(s, slab),
		"no such output":               reserve(s, stages.Slab{Output: 1, Len: 100}),
		"no such slab":                 reserve(s, stages.Slab{Index: 3, Off: 300, Len: 100}),
		"slab of another length":       reserve(s, stages.Slab{Len: 101}),
		"Write without Reserve":        func() error { return s.Write(ctx, o.Slab(0, 1), b) },
		"Write of other bytes":         func() error { return s.Write(ctx, slab, make([]byte, 100)) },
		"Write after Close":            func() error { return closed.Write(ctx, slab, b) },
		"Commit before Begin":          func() error { return discard.New().Commit(ctx) },
		"Commit with an ended context": func() error { return other.Commit(ended) },
	} {
		if call() == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	if err := s.Commit(ctx); !errors.Is(err, discard.ErrIncomplete) {
		t.Errorf("Commit without a Write: %v", err)
	}
}

func BenchmarkSlab4KiB(b *testing.B) {
	o := bytesOutput(int64(b.N)*4096, 4096)
	s := discard.New()
	ctx := b.Context()
	if err := s.Begin(ctx, []stages.Output{o}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		slab := o.Slab(0, i)
		buf, err := s.Reserve(ctx, slab)
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Write(ctx, slab, buf); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkBatchOfSlabs4KiB holds 2048 Slabs at once, as a Batch of 8 MiB does.
func BenchmarkBatchOfSlabs4KiB(b *testing.B) {
	const n = 2048
	o := bytesOutput(n*4096, 4096)
	ctx := b.Context()
	s := begin(b, o)
	held := make([][]byte, n)
	b.ReportAllocs()
	for b.Loop() {
		for i := range held { // Write refuses what was not reserved
			held[i], _ = s.Reserve(ctx, o.Slab(0, i))
		}
		for i, buf := range held {
			if err := s.Write(ctx, o.Slab(0, i), buf); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/slab")
}
