package host_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"go.uber.org/goleak"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/sinks/host"
	"github.com/coldload/coldload/sinks/sinktest"
	"github.com/coldload/coldload/stages"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	sinktest.Run(t, sinktest.Factory{New: func(testing.TB) sinktest.Instance {
		s := host.New(host.Options{})
		return sinktest.Instance{
			Sink: s,
			Read: func(name string) ([]byte, bool) {
				if s.Memory() == nil {
					return nil, false
				}
				tensor, ok := s.Memory().Lookup(name)
				return tensor.Bytes, ok
			},
			Visible: func() bool { return s.Memory() != nil },
			Release: func() error { return s.Memory().Close() },
		}
	}})
}

func bytesOutput(name string, size, slab int64) stages.Output {
	return stages.Output{Name: name, DType: safetensors.U8, Shape: []int64{size}, Layout: stages.LayoutRaw, Kind: stages.KindKept, Size: size, SlabBytes: slab}
}

func begin(tb testing.TB, outputs ...stages.Output) *host.Sink {
	tb.Helper()
	s := host.New(host.Options{})
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

// fill passes every Slab through the sink, each byte of Output i set to i+1.
func fill(tb testing.TB, s *host.Sink, outputs []stages.Output) {
	tb.Helper()
	for i := range outputs {
		for n := range outputs[i].Slabs() {
			slab := outputs[i].Slab(i, n)
			b, err := s.Reserve(tb.Context(), slab)
			if err != nil {
				tb.Fatal(err)
			}
			for j := range b {
				b[j] = byte(i + 1)
			}
			if err := s.Write(tb.Context(), slab, b); err != nil {
				tb.Fatal(err)
			}
		}
	}
}

// committed is a Memory with the given Outputs, closed at the end of the test.
func committed(tb testing.TB, outputs ...stages.Output) *host.Memory {
	tb.Helper()
	s := begin(tb, outputs...)
	fill(tb, s, outputs)
	if err := s.Commit(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	m := s.Memory()
	tb.Cleanup(func() {
		if err := m.Close(); err != nil {
			tb.Error(err)
		}
	})
	return m
}

func TestMemory(t *testing.T) {
	outputs := []stages.Output{bytesOutput("b", 100, 64), bytesOutput("empty", 0, 0), bytesOutput("a", 70, 70)}
	m := committed(t, outputs...)
	if got := m.Bytes(); got != 170 {
		t.Errorf("Bytes is %d", got)
	}
	if len(m.Outputs()) != 3 || m.Outputs()[2].Name != "a" {
		t.Errorf("Outputs: %v", m.Outputs())
	}
	i := 0
	for name, tensor := range m.All() {
		if name != outputs[i].Name || int64(len(tensor.Bytes)) != outputs[i].Size || cap(tensor.Bytes) != len(tensor.Bytes) {
			t.Errorf("output %d is %s with %d bytes, capacity %d", i, name, len(tensor.Bytes), cap(tensor.Bytes))
		}
		if strings.Trim(string(tensor.Bytes), string(rune(i+1))) != "" {
			t.Errorf("%s holds %v", name, tensor.Bytes)
		}
		i++
	}
	for range m.All() {
		break // must not go on
	}
	if _, ok := m.Lookup("c"); ok {
		t.Error("c is there")
	}
	if err := errors.Join(m.Close(), m.Close()); err != nil {
		t.Error(err)
	}
	if _, ok := m.Lookup("a"); ok {
		t.Error("a is there after Close")
	}
	for name := range m.All() {
		t.Errorf("%s is there after Close", name)
	}
}

func TestSinkCloseLeavesTheMemory(t *testing.T) {
	s := begin(t, bytesOutput("a", 3<<20, 1<<20))
	fill(t, s, []stages.Output{bytesOutput("a", 3<<20, 1<<20)})
	if s.Memory() != nil {
		t.Error("a Memory before Commit")
	}
	if s.Written() != 3<<20 {
		t.Errorf("Written is %d", s.Written())
	}
	if err := errors.Join(s.Commit(t.Context()), s.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	tensor, ok := s.Memory().Lookup("a")
	if !ok || tensor.Bytes[3<<20-1] != 1 {
		t.Error("the result is lost")
	}
	if err := s.Memory().Close(); err != nil {
		t.Error(err)
	}
}

func TestBeginRefuses(t *testing.T) {
	huge := bytesOutput("huge", math.MaxInt64-2<<20, 1<<20)
	for _, c := range []struct {
		problem string
		limit   int64
		outputs []stages.Output
	}{
		{"the size is negative", 0, []stages.Output{bytesOutput("x", -1, 1)}},
		{"has no slab size", 0, []stages.Output{bytesOutput("x", 1, 0)}},
		{"slab size is out of all bounds", 0, []stages.Output{bytesOutput("x", 1<<40, math.MaxInt64)}},
		{"does not fit in the address space", 0, []stages.Output{bytesOutput("a", 5, 5), huge}},
		{"does not fit in the address space", 0, []stages.Output{bytesOutput("a", 1<<62, 1<<50), bytesOutput("b", 1<<62, 1<<50)}},
		{"two outputs have this name", 0, []stages.Output{bytesOutput("x", 1, 1), bytesOutput("x", 1, 1)}},
		{"larger than the limit", 100, []stages.Output{bytesOutput("a", 1, 1), bytesOutput("b", 37, 37)}},
		{"2 faults", 0, []stages.Output{bytesOutput("x", -1, 1), bytesOutput("y", 1, 0)}},
	} {
		s := host.New(host.Options{Limit: c.limit})
		err := s.Begin(t.Context(), c.outputs)
		if refused, ok := errors.AsType[*stages.RefusedError](err); !ok || !strings.Contains(err.Error(), c.problem) {
			t.Errorf("want %q, got %v", c.problem, err)
		} else if refused.Faults[0].Code != stages.CodeSink {
			t.Errorf("code %s", refused.Faults[0].Code)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestBeginReportsMemoryThatTheSystemDoesNotGive(t *testing.T) {
	s := host.New(host.Options{})
	if err := s.Begin(t.Context(), []stages.Output{bytesOutput("a", 1<<60, 1<<50)}); err == nil {
		t.Error("an exabyte is accepted")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestLimitAllowsWhatFits(t *testing.T) {
	s := host.New(host.Options{Limit: 101})
	if err := s.Begin(t.Context(), []stages.Output{bytesOutput("a", 1, 1), bytesOutput("b", 37, 37)}); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestRefusesWrongUse(t *testing.T) {
	ctx := t.Context()
	o := bytesOutput("a", 250, 100)
	slab := o.Slab(0, 0)
	s := begin(t, o)
	b, err := s.Reserve(ctx, slab)
	if err != nil {
		t.Fatal(err)
	}
	other, done := begin(t), begin(t)
	if err := done.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	reserve := func(s *host.Sink, slab stages.Slab) func() error {
		return func() error { _, err := s.Reserve(ctx, slab); return err }
	}
	for name, call := range map[string]func() error{
		"Begin twice":                  func() error { return s.Begin(ctx, nil) },
		"Begin with an ended context":  func() error { return host.New(host.Options{}).Begin(ended, nil) },
		"Reserve before Begin":         reserve(host.New(host.Options{}), slab),
		"Reserve after Commit":         reserve(done, slab),
		"Reserve twice":                reserve(s, slab),
		"no such output":               reserve(s, stages.Slab{Output: 1, Len: 100}),
		"negative output":              reserve(s, stages.Slab{Output: -1, Len: 100}),
		"no such slab":                 reserve(s, stages.Slab{Index: 3, Off: 300, Len: 100}),
		"slab at another place":        reserve(s, stages.Slab{Index: 1, Off: 101, Len: 100}),
		"slab of another length":       reserve(s, stages.Slab{Index: 2, Off: 200, Len: 100}),
		"Write without Reserve":        func() error { return s.Write(ctx, o.Slab(0, 1), b[:100:100]) },
		"Write of other bytes":         func() error { return s.Write(ctx, slab, make([]byte, 100)) },
		"Write of a part":              func() error { return s.Write(ctx, slab, b[:99]) },
		"Commit before Begin":          func() error { return host.New(host.Options{}).Commit(ctx) },
		"Commit twice":                 func() error { return done.Commit(ctx) },
		"Commit with an ended context": func() error { return other.Commit(ended) },
	} {
		if call() == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	if err := s.Write(ctx, slab, b); err != nil {
		t.Errorf("the right Write after wrong ones: %v", err)
	}
	if err := s.Write(ctx, slab, b); err == nil {
		t.Error("Write twice is accepted")
	}
}

func TestCommitNamesTheFirstMissingOutput(t *testing.T) {
	var outputs []stages.Output
	for i := range 100 { // more Slabs than the ledger has in one word
		outputs = append(outputs, bytesOutput(fmt.Sprintf("t%02d", i), int64(i%3)*10, 10))
	}
	for missing := range outputs {
		for n := range outputs[missing].Slabs() {
			s := begin(t, outputs...)
			for i := range outputs {
				for j := range outputs[i].Slabs() {
					if i == missing && j >= n || i > missing+20 {
						continue // those after the first do not count
					}
					b, err := s.Reserve(t.Context(), outputs[i].Slab(i, j))
					if err != nil {
						t.Fatal(err)
					}
					if err := s.Write(t.Context(), outputs[i].Slab(i, j), b); err != nil {
						t.Fatal(err)
					}
				}
			}
			err := s.Commit(t.Context())
			if want := fmt.Sprintf("slab %d of %d of output %s ", n, outputs[missing].Slabs(), outputs[missing].Name); !errors.Is(err, host.ErrIncomplete) || !strings.Contains(err.Error(), want) {
				t.Fatalf("want %q, got %v", want, err)
			}
		}
	}
}

func TestSlice(t *testing.T) {
	tensor := func(d stages.DType, n int) host.Tensor {
		words := make([]uint64, n/8+1)
		b := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), n)
		for i := range b {
			b[i] = byte(i)
		}
		return host.Tensor{DType: d, Bytes: b}
	}
	if v, err := host.Slice[uint16](tensor(safetensors.BF16, 6)); err != nil || len(v) != 3 || v[1] != 0x0302 {
		t.Errorf("bf16: %v %v", v, err)
	}
	if v, err := host.Slice[int32](tensor(safetensors.I32, 8)); err != nil || len(v) != 2 || v[1] != 0x07060504 {
		t.Errorf("i32: %v %v", v, err)
	}
	if v, err := host.Slice[uint32](tensor(safetensors.I32, 8)); err != nil || len(v) != 2 {
		t.Errorf("i32 as uint32: %v %v", v, err)
	}
	if v, err := host.Slice[float64](tensor(safetensors.F64, 8)); err != nil || len(v) != 1 {
		t.Errorf("f64: %v %v", v, err)
	}
	type half uint16
	if v, err := host.Slice[half](tensor(safetensors.F16, 2)); err != nil || len(v) != 1 {
		t.Errorf("named type: %v %v", v, err)
	}
	if v, err := host.Slice[uint8](tensor(safetensors.F4, 3)); err != nil || len(v) != 3 {
		t.Errorf("f4: %v %v", v, err)
	}
	if v, err := host.Slice[int64](host.Tensor{DType: safetensors.I64}); err != nil || len(v) != 0 {
		t.Errorf("empty: %v %v", v, err)
	}
	if _, err := host.Slice[float32](tensor(safetensors.I32, 8)); err == nil {
		t.Error("I32 as float32 is accepted")
	}
	if _, err := host.Slice[uint16](tensor(safetensors.I32, 8)); err == nil {
		t.Error("I32 as uint16 is accepted")
	}
	if _, err := host.Slice[uint32](tensor(safetensors.U32, 6)); err == nil {
		t.Error("one and a half elements are accepted")
	}
	skewed := tensor(safetensors.U32, 12)
	skewed.Bytes = skewed.Bytes[2:10]
	if _, err := host.Slice[uint32](skewed); err == nil {
		t.Error("a misaligned slice is accepted")
	}
}

// TestEveryDTypeHasAView: a type that the format gains must get a row in Slice's table.
func TestEveryDTypeHasAView(t *testing.T) {
	for d := stages.DType(1); d.Valid(); d++ {
		tensor := host.Tensor{DType: d}
		_, err8 := host.Slice[uint8](tensor)
		_, err16 := host.Slice[uint16](tensor)
		_, err32 := host.Slice[uint32](tensor)
		_, err64 := host.Slice[uint64](tensor)
		want := map[int]error{4: err8, 6: err8, 8: err8, 16: err16, 32: err32, 64: err64}[d.Bits()]
		others := 0
		for _, err := range []error{err8, err16, err32, err64} {
			if err == nil {
				others++
			}
		}
		if want != nil || others != 1 {
			t.Errorf("%s: %v; %d unsigned types fit", d, want, others)
		}
	}
}

// TestHeapPerOutput: what the sink itself holds on the Go heap for half a million Outputs.
func TestHeapPerOutput(t *testing.T) {
	const n = 500_000
	outputs := make([]stages.Output, n)
	for i := range outputs {
		outputs[i] = bytesOutput(fmt.Sprintf("t%d", i), 4096, 4096)
	}
	before := heap()
	s := begin(t, outputs...)
	per := (heap() - before) / n
	t.Logf("%d bytes per output", per)
	if per > 100 {
		t.Errorf("%d bytes of Go heap per output", per)
	}
	runtime.KeepAlive(s)
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// BenchmarkSlab4KiB includes a new sink for every million Slabs. No page is touched.
func BenchmarkSlab4KiB(b *testing.B) {
	const n = 1 << 20
	o := bytesOutput("a", n*4096, 4096)
	ctx := b.Context()
	s := host.New(host.Options{})
	b.ReportAllocs()
	i := n
	for b.Loop() {
		if i == n {
			_ = s.Close() // an empty one the first time; errors are not what is measured
			s, i = host.New(host.Options{}), 0
			if err := s.Begin(ctx, []stages.Output{o}); err != nil {
				b.Fatal(err)
			}
		}
		slab := o.Slab(0, i)
		buf, err := s.Reserve(ctx, slab)
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Write(ctx, slab, buf); err != nil {
			b.Fatal(err)
		}
		i++
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkBegin is the cost of half a million Outputs before the first byte.
func BenchmarkBegin(b *testing.B) {
	outputs := make([]stages.Output, 500_000)
	for i := range outputs {
		outputs[i] = bytesOutput(fmt.Sprintf("model.layers.%d.mlp.experts.%d.up_proj.weight", i/128, i%128), 4096, 4096)
	}
	b.ReportAllocs()
	for b.Loop() {
		s := host.New(host.Options{})
		if err := s.Begin(b.Context(), outputs); err != nil {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
