package synth

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
	"testing"

	"github.com/x448/float16"

	"github.com/coldload/coldload/gguf"
	"github.com/coldload/coldload/safetensors"
)

// TestFillsDoNotDependOnTheCut fills a tensor at once and in pieces of odd sizes.
func TestFillsDoNotDependOnTheCut(t *testing.T) {
	const size = 1536
	fills := map[string]Fill{
		"random":   Random(safetensors.I32, 7),
		"masked":   Random(safetensors.BF16, 7),
		"constant": Constant(1, 2, 3),
		"zeros":    Constant(),
		"group":    groupFill{group: 32},
		"blocks":   blockFill{random: randomFill{seed: 5, and: ^uint64(0)}, size: 210, scales: blockScales[gguf.Q6K]},
		"order":    orderFill{seed: 3, rows: size / 4, group: 32},
	}
	for name, f := range fills {
		whole := make([]byte, size)
		f.Fill(whole, 0)
		for _, step := range []int{1, 3, 7, 8, 13, 33, 100, 1000} {
			pieces := make([]byte, size)
			for at := 0; at < size; at += step {
				f.Fill(pieces[at:min(at+step, size)], int64(at))
			}
			if !bytes.Equal(pieces, whole) {
				t.Errorf("%s: pieces of %d bytes differ from the whole", name, step)
			}
		}
	}
}

func TestRandomIsSmallAndFinite(t *testing.T) {
	b := make([]byte, 1<<16)
	check := func(name string, v float64) {
		if a := math.Abs(v); a < 1.0/4096 || a > 1.0/64 {
			t.Fatalf("%s: %g is out of range", name, v)
		}
	}
	Random(safetensors.BF16, 1).Fill(b, 0)
	for i := 0; i < len(b); i += 2 {
		check("BF16", float64(math.Float32frombits(uint32(binary.LittleEndian.Uint16(b[i:]))<<16)))
	}
	Random(safetensors.F16, 1).Fill(b, 0)
	for i := 0; i < len(b); i += 2 {
		check("F16", float64(float16.Frombits(binary.LittleEndian.Uint16(b[i:])).Float32()))
	}
	Random(safetensors.F32, 1).Fill(b, 0)
	for i := 0; i < len(b); i += 4 {
		check("F32", float64(math.Float32frombits(binary.LittleEndian.Uint32(b[i:]))))
	}
	Random(safetensors.F64, 1).Fill(b, 0)
	for i := 0; i < len(b); i += 8 {
		check("F64", math.Float64frombits(binary.LittleEndian.Uint64(b[i:])))
	}
	f16Scales(1).Fill(b, 0)
	for i := 0; i < len(b); i += 2 {
		v := float16.Frombits(binary.LittleEndian.Uint16(b[i:])).Float32()
		if v < 1.0/128 || v >= 1.0/64 {
			t.Fatalf("scale %g is out of range", v)
		}
	}
}

func TestRandomLooksRandom(t *testing.T) {
	b := make([]byte, 1<<20)
	Random(safetensors.I32, 0).Fill(b, 0)
	var counts [16]int
	for _, c := range b {
		counts[c&15]++
		counts[c>>4]++
	}
	want := len(b) * 2 / 16
	for code, n := range counts {
		if n < want*98/100 || n > want*102/100 {
			t.Errorf("code %d occurs %d times in %d", code, n, len(b)*2)
		}
	}
}

func TestActOrderIsBalanced(t *testing.T) {
	idx := ActOrder(5, 1024, 128)
	if slices.IsSorted(idx) {
		t.Error("the order is trivial")
	}
	sorted := slices.Sorted(slices.Values(idx))
	for k, g := range sorted {
		if int(g) != k/128 {
			t.Fatalf("sorted: row %d is in group %d", k, g)
		}
	}
	if slices.Equal(idx, ActOrder(6, 1024, 128)) {
		t.Error("another seed gives the same order")
	}
}

func TestSymmetricZeros(t *testing.T) {
	for bits, want := range map[int][]byte{
		2: {0x55, 0x55, 0x55, 0x55}, 4: {0x77, 0x77, 0x77, 0x77}, 8: {0x7F, 0x7F, 0x7F, 0x7F},
		3: {0xDB, 0xB6, 0x6D, 0xDB}, // 32 fields of 011
	} {
		got := make([]byte, 4)
		symmetricZeros(bits).Fill(got, 0)
		if !bytes.Equal(got, want) {
			t.Errorf("%d bits: % x, want % x", bits, got, want)
		}
	}
}

func BenchmarkRandom(b *testing.B) {
	dst := make([]byte, chunk)
	f := Random(safetensors.BF16, 1)
	b.SetBytes(chunk)
	for b.Loop() {
		f.Fill(dst, 0)
	}
}
