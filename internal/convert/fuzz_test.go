package convert

import (
	"bytes"
	"math"
	"testing"

	"github.com/coldload/coldload/safetensors"
)

// fuzzFrom checks every target of one source type against the reference, on arbitrary bytes at an arbitrary alignment.
func fuzzFrom(f *testing.F, from safetensors.DType) {
	f.Helper()
	f.Add(pack(from, specials(from)), uint8(1))
	f.Add([]byte{}, uint8(0))
	f.Fuzz(func(t *testing.T, data []byte, shift uint8) {
		shift %= 8
		src := append(bytes.Repeat([]byte{0xFF}, int(shift)), data...)[shift:]
		n := len(src) / sizeOf(from)
		for _, to := range targets {
			k, _ := Func(from, to)
			dst := bytes.Repeat([]byte{0xA5}, n*sizeOf(to)+9)
			got, want := k(dst, src), -1
			for i := range n {
				e := decode(from, get(from, src, i))
				w, overflow := encode(to, e)
				if from == to {
					w, overflow = get(from, src, i), false
				}
				if overflow && want < 0 {
					want = i
				}
				if g := get(to, dst, i); g != w {
					t.Fatalf("%s %#x at %d: %s %#x, want %#x", from, get(from, src, i), i, to, g, w)
				}
			}
			if got != want {
				t.Fatalf("%s -> %s: first overflow %d, want %d", from, to, got, want)
			}
			if from != to && bytes.Count(dst[n*sizeOf(to):], []byte{0xA5}) != 9 {
				t.Fatalf("%s -> %s: wrote behind the last element", from, to)
			}
		}
	})
}

func FuzzF64(f *testing.F)  { fuzzFrom(f, safetensors.F64) }
func FuzzF32(f *testing.F)  { fuzzFrom(f, safetensors.F32) }
func FuzzF16(f *testing.F)  { fuzzFrom(f, safetensors.F16) }
func FuzzBF16(f *testing.F) { fuzzFrom(f, safetensors.BF16) }
func FuzzE4M3(f *testing.F) { fuzzFrom(f, safetensors.F8E4M3) }
func FuzzE5M2(f *testing.F) { fuzzFrom(f, safetensors.F8E5M2) }

func FuzzFirstNonFinite(f *testing.F) {
	f.Add([]byte{0, 0x7C, 0x80, 0x7F, 0, 0, 0x80, 0x7F}, uint8(0))
	f.Fuzz(func(t *testing.T, b []byte, pick uint8) {
		d := sources[int(pick)%len(sources)]
		want := -1
		for i := range len(b) / sizeOf(d) {
			if x := decode(d, get(d, b, i)).value; math.IsNaN(x) || math.IsInf(x, 0) {
				want = i
				break
			}
		}
		if got := FirstNonFinite(d, b); got != want {
			t.Fatalf("%s: %d, want %d", d, got, want)
		}
	})
}
