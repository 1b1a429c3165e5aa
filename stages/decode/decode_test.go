package decode

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"

	"github.com/coldload/coldload/internal/convert"
	"github.com/coldload/coldload/internal/execute"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

const canary = 0xA5

func job(rows, rowBytes, stride int, src []byte) *stages.Job {
	return &stages.Job{
		Dst: bytes.Repeat([]byte{canary}, max(0, (rows-1)*stride+rowBytes)), Rows: rows, RowBytes: rowBytes, Stride: stride, Src: [][]byte{src},
		Inputs: []stages.Input{{Tensor: "model.a.weight", Extent: stages.Extent{Off: 1000, Len: int64(len(src))}}},
	}
}

func counting(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

func mustCast(tb testing.TB, from, to stages.DType) stages.Op {
	tb.Helper()
	op, err := Cast(from, to)
	if err != nil {
		tb.Fatal(err)
	}
	return op
}

func TestCopyWritesRowsAtTheStride(t *testing.T) {
	j := job(3, 4, 6, counting(12))
	if err := Copy().Run(j); err != nil {
		t.Fatal(err)
	}
	want := []byte{0, 1, 2, 3, canary, canary, 4, 5, 6, 7, canary, canary, 8, 9, 10, 11}
	if !bytes.Equal(j.Dst, want) {
		t.Errorf("got %v, want %v", j.Dst, want)
	}
}

func TestCopyRefusesWrongSizes(t *testing.T) {
	for _, n := range []int{0, 11, 13, 24} {
		j := job(3, 4, 6, counting(n))
		if err := Copy().Run(j); err == nil {
			t.Errorf("a source of %d bytes for 12 accepted", n)
		}
		if bytes.Count(j.Dst, []byte{canary}) != len(j.Dst) {
			t.Error("a refused copy wrote something")
		}
	}
}

func TestOpsAreInterned(t *testing.T) {
	if Copy() != Copy() || mustCast(t, safetensors.F32, safetensors.F16) != mustCast(t, safetensors.F32, safetensors.F16) {
		t.Error("two values of one Op")
	}
	if mustCast(t, safetensors.F16, safetensors.F16) != Copy() {
		t.Error("a cast to the same dtype is no copy")
	}
	op := mustCast(t, safetensors.BF16, safetensors.F16)
	if op.String() != "cast BF16->F16" || Copy().String() != "copy" {
		t.Errorf("named %q and %q", op, Copy())
	}
	if op.Phase() != stages.PhaseDecode || Copy().Phase() != stages.PhaseDecode {
		t.Error("wrong phase")
	}
}

func TestCastRefusesOtherDTypes(t *testing.T) {
	for _, p := range []pair{{safetensors.I32, safetensors.F16}, {safetensors.F16, safetensors.F64}, {safetensors.I32, safetensors.I32}, {99, 99}} {
		if op, err := Cast(p.from, p.to); !errors.Is(err, ErrNoCast) || op != nil {
			t.Errorf("%s to %s: %v, %v", p.from, p.to, op, err)
		}
	}
}

func TestCastEveryPairInRows(t *testing.T) {
	for p, c := range casts {
		if p.from == p.to {
			continue
		}
		const rows, cols = 5, 9
		src := make([]byte, rows*cols*c.fromSize) // zeros: what matters here is where elements go
		for i := range rows * cols {
			src[i*c.fromSize] = byte(i) // subnormals, which some targets hold
		}
		dense := make([]byte, rows*cols*c.toSize)
		c.kernel(dense, src)
		for _, gap := range []int{0, 3} {
			rowBytes := cols * c.toSize
			j := job(rows, rowBytes, rowBytes+gap, src)
			if err := mustCast(t, p.from, p.to).Run(j); err != nil {
				t.Fatalf("%s: %v", c, err)
			}
			for i := range rows {
				if !bytes.Equal(j.Row(i), dense[i*rowBytes:(i+1)*rowBytes]) {
					t.Errorf("%s gap %d: row %d differs", c, gap, i)
				}
				if i < rows-1 && bytes.Count(j.Dst[i*j.Stride+rowBytes:(i+1)*j.Stride], []byte{canary}) != gap {
					t.Errorf("%s gap %d: wrote behind row %d", c, gap, i)
				}
			}
		}
	}
}

// A source longer than one call of a kernel.
func TestCastOfALongRow(t *testing.T) {
	for _, soon := range []bool{false, true} {
		t.Run(fmt.Sprintf("soon=%v", soon), func(t *testing.T) { castLongRow(t, soon) })
	}
}

func castLongRow(t *testing.T, soon bool) {
	t.Helper()
	const n = maxRun/4*2 + 5
	src := make([]byte, 4*n)
	for i := range n {
		binary.LittleEndian.PutUint32(src[4*i:], math.Float32bits(float32(i%1000)))
	}
	j := job(1, 2*n, 2*n, src)
	j.Soon = soon
	op := mustCast(t, safetensors.F32, safetensors.F16)
	if err := op.Run(j); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if convert.F16ToF32(binary.LittleEndian.Uint16(j.Dst[2*i:])) != float32(i%1000) {
			t.Fatalf("element %d is wrong", i)
		}
	}
	binary.LittleEndian.PutUint32(src[4*(n-1):], math.Float32bits(7e4))
	var de *stages.DataError
	if err := op.Run(j); !errors.As(err, &de) || !strings.HasPrefix(de.Found, "70000 at element 524292 of this part") {
		t.Errorf("got %v", err)
	}
}

func TestCastOverflowIsADataError(t *testing.T) {
	f32, f64 := binary.LittleEndian.AppendUint32, binary.LittleEndian.AppendUint64
	zeros := func(n int) []byte { return make([]byte, n) }
	for _, c := range []struct {
		from, to                stages.DType
		src                     []byte
		expected, found, advice string
	}{
		{
			safetensors.F32, safetensors.F16, f32(zeros(20), math.Float32bits(-70000)),
			"at most 65504 for F16", "-70000 at element 5 of this part, byte 1020 of the file", "use --dtype bf16 or keep",
		},
		{
			safetensors.BF16, safetensors.F16, binary.LittleEndian.AppendUint16(zeros(10), 0x4780),
			"at most 65504 for F16", "65536 at element 5 of this part, byte 1010 of the file", "use --dtype bf16 or keep",
		},
		{
			safetensors.F64, safetensors.F16, f64(zeros(40), math.Float64bits(1e300)),
			"at most 65504 for F16", "1e+300 at element 5 of this part, byte 1040 of the file", "use --dtype keep",
		},
		{
			safetensors.F64, safetensors.F32, f64(zeros(40), math.Float64bits(1e300)),
			"at most 3.4028235e+38 for F32", "1e+300 at element 5 of this part, byte 1040 of the file", "use --dtype keep",
		},
		{
			safetensors.F32, safetensors.BF16, f32(zeros(20), math.Float32bits(math.MaxFloat32)),
			"at most 3.3895314e+38 for BF16", "3.4028234663852886e+38 at element 5 of this part, byte 1020 of the file", "use --dtype keep",
		},
	} {
		for _, gap := range []int{0, 2} { // as one run, and row by row
			err := mustCast(t, c.from, c.to).Run(job(2, 3*c.to.Bits()/8, 3*c.to.Bits()/8+gap, c.src))
			var de *stages.DataError
			if !errors.As(err, &de) {
				t.Fatalf("%s to %s: %v", c.from, c.to, err)
			}
			want := stages.DataError{
				Tensor: "model.a.weight", Problem: "a finite value does not fit", Expected: c.expected, Found: c.found, Advice: c.advice,
			}
			if *de != want {
				t.Errorf("%s to %s:\n got %+v\nwant %+v", c.from, c.to, *de, want)
			}
		}
	}
}

func TestCastOfAnUnnamedSource(t *testing.T) {
	j := job(1, 2, 2, []byte{0x80, 0x47})
	j.Inputs = nil
	var de *stages.DataError
	if err := mustCast(t, safetensors.BF16, safetensors.F16).Run(j); !errors.As(err, &de) || de.Found != "65536 at element 0" {
		t.Errorf("got %v", err)
	}
}

func TestCastRefusesWrongSizes(t *testing.T) {
	op := mustCast(t, safetensors.F32, safetensors.F16)
	for _, j := range []*stages.Job{
		job(2, 4, 4, counting(12)), job(2, 4, 4, nil), job(2, 3, 3, counting(12)), job(0, 4, 4, counting(4)), job(2, -2, 4, nil),
		{Rows: 1 << 40, RowBytes: 1 << 40, Stride: 1 << 40, Src: [][]byte{counting(8)}},
		{},
	} {
		var de *stages.DataError
		if err := op.Run(j); err == nil || errors.As(err, &de) {
			t.Errorf("%d rows of %d: got %v", j.Rows, j.RowBytes, err)
		}
	}
	if err := op.Run(job(0, 4, 4, nil)); err != nil {
		t.Errorf("nothing to do is no error: %v", err)
	}
}

func TestOneOpServesManyParts(t *testing.T) {
	op := mustCast(t, safetensors.F32, safetensors.BF16)
	src := counting(4 * 64)
	for i := range 64 {
		src[4*i+3] = 0x3F
	}
	first := job(4, 32, 40, src)
	if err := op.Run(first); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				j := job(4, 32, 40, src)
				if err := op.Run(j); err != nil || !bytes.Equal(j.Dst, first.Dst) {
					t.Errorf("differs: %v", err)
				}
			}
		})
	}
	wg.Wait()
}

func TestRunDoesNotAllocate(t *testing.T) {
	j := job(8, 64, 80, counting(8*32))
	op := mustCast(t, safetensors.F8E5M2, safetensors.BF16)
	if n := testing.AllocsPerRun(20, func() {
		if err := op.Run(j); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestStageHasThePhase(t *testing.T) {
	if name := Stage(execute.Options{}).Name(); name != "decode" {
		t.Errorf("stage %q", name)
	}
}

func BenchmarkCast(b *testing.B) {
	const n = 8 << 20
	src := make([]byte, n)
	for i := 1; i < n; i += 2 {
		src[i] = 0x3C // 0.0078 to 0.031, whatever the low byte
	}
	for _, stride := range []int{4096, 8192} {
		j := job(n/4096, 4096, stride, src)
		b.Run(map[int]string{4096: "contiguous", 8192: "strided"}[stride], func(b *testing.B) {
			op := mustCast(b, safetensors.BF16, safetensors.F16)
			b.SetBytes(n)
			for b.Loop() {
				if err := op.Run(j); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
