package convert

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/coldload/coldload/internal/cpu/cputest"
	"github.com/coldload/coldload/safetensors"
)

// eachTwin runs f for every conversion as every kind of processor.
func eachTwin(t *testing.T, f func(t *testing.T, from, to safetensors.DType)) {
	t.Helper()
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			for p := range generics {
				if p.from != p.to && p.from != safetensors.F64 {
					t.Run(fmt.Sprintf("%s-%s", p.from, p.to), func(t *testing.T) { f(t, p.from, p.to) })
				}
			}
		})
	}
}

// same converts src with the chosen and with the generic kernel, into memory that starts shift bytes behind a line, between canaries.
func same(t *testing.T, from, to safetensors.DType, src []byte, shift int) {
	t.Helper()
	const canary, pad = 0xA5, 128
	n := len(src) / sizeOf(from) * sizeOf(to)
	want := make([]byte, n)
	first := generics[pair{from, to}](want, src)
	buf := cputest.Aligned(n+2*pad, shift)
	for i := range buf {
		buf[i] = canary
	}
	k, _ := Func(from, to)
	if got := k(buf[pad:], src); got != first {
		t.Fatalf("%d bytes, shift %d: first overflow %d, want %d", len(src), shift, got, first)
	}
	if got := buf[pad : pad+n]; !bytes.Equal(got, want) {
		i := 0
		for got[i] == want[i] {
			i++
		}
		i /= sizeOf(to)
		t.Fatalf("%d bytes, shift %d: element %d, %s %#x: %s %#x, want %#x", len(src), shift, i, from, get(from, src, i), to, get(to, got, i), get(to, want, i))
	}
	if bytes.Count(buf[:pad], []byte{canary}) != pad || bytes.Count(buf[pad+n:], []byte{canary}) != pad {
		t.Fatalf("%d bytes, shift %d: wrote outside", len(src), shift)
	}
}

// mixed is n elements: random patterns, special ones, and small numbers, in runs.
func mixed(dtype safetensors.DType, n int, seed uint64) []byte {
	b, special := make([]byte, n*sizeOf(dtype)), specials(dtype)
	rng := rand.New(rand.NewPCG(seed, 13))
	for i := range n {
		u := uint64(0x3C)
		switch rng.IntN(8) {
		case 0:
			u = rng.Uint64()
		case 1:
			u = special[rng.IntN(len(special))]
		}
		put(dtype, b, i, u)
	}
	return b
}

// Every length up to four times the largest block and 3, sources and destinations anywhere.
func TestTwinsAtEveryLength(t *testing.T) {
	eachTwin(t, func(t *testing.T, from, to safetensors.DType) {
		t.Helper()
		src := mixed(from, 4*64+3, 1)
		for n := range 4*64 + 4 {
			b := cputest.AlignedCopy(src[len(src)-n*sizeOf(from):], n%67)
			same(t, from, to, b, n%61)
			same(t, from, to, append(b, 1)[:len(b)+min(1, sizeOf(from)-1)], 0) // a torn element
		}
	})
}

// No kernel reads or writes a byte outside: sources and destinations lie against pages that cannot be touched.
func TestTwinsStayInside(t *testing.T) {
	eachTwin(t, func(t *testing.T, from, to safetensors.DType) {
		t.Helper()
		k, _ := Func(from, to)
		for _, atEnd := range []bool{false, true} {
			for _, n := range []int{1, 31, 32, 33, 63, 64, 65, 127, 130, 255, 1000, MaxCached/sizeOf(to) + 33} {
				src := cputest.Guarded(t, mixed(from, n, 5), atEnd)
				k(cputest.Guarded(t, make([]byte, n*sizeOf(to)), atEnd), src)
				FirstNonFinite(from, src)
			}
		}
	})
}

// Long destinations: non-temporal stores, several calls of a kernel, ends and starts off the lines.
func TestTwinsOfLongArrays(t *testing.T) {
	eachTwin(t, func(t *testing.T, from, to safetensors.DType) {
		t.Helper()
		for i, n := range []int{(MaxCached + 1) / sizeOf(to), MaxCached/sizeOf(to) + 77, 1<<20/max(sizeOf(from), sizeOf(to)) + 97} {
			src := cputest.AlignedCopy(mixed(from, n, 2), 8*i+sizeOf(from))
			for _, shift := range []int{0, 1, 64 - sizeOf(to)} {
				same(t, from, to, src, shift)
			}
		}
	})
}

// One overflow, at any distance from the start of the array and from the end of a call.
func TestTwinsReportTheFirstOverflow(t *testing.T) {
	big := map[pair]uint64{
		{safetensors.F32, safetensors.F16}: 0x477F_F000, {safetensors.F32, safetensors.BF16}: 0xFF7F_8000, {safetensors.BF16, safetensors.F16}: 0xC780,
	}
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			for p, u := range big {
				n := 900_000
				src, dst := make([]byte, n*sizeOf(p.from)), make([]byte, n*sizeOf(p.to))
				k, _ := Func(p.from, p.to)
				if got := k(dst, src); got != -1 {
					t.Fatalf("%v: overflow %d of zeros", p, got)
				}
				for _, at := range []int{0, 1, 63, 64, 65, 1<<18 - 1, 1 << 18, 1<<18 + 40, 1 << 19, n - 65, n - 2, n - 1} {
					put(p.from, src, at, u)
					put(p.from, src, n-1, u)
					if got := k(dst, src); got != at {
						t.Errorf("%v: first overflow %d, want %d", p, got, at)
					}
					put(p.from, src, at, 0)
					put(p.from, src, n-1, u-1)
					if got := k(dst, src); got != -1 {
						t.Errorf("%v: overflow %d of the number below", p, got)
					}
					put(p.from, src, n-1, 0)
				}
			}
		})
	}
}

// Every pattern of the small types, and of F32 every place where rounding decides.
func TestTwinsOfEveryValue(t *testing.T) {
	eachTwin(t, func(t *testing.T, from, to safetensors.DType) {
		t.Helper()
		if from == safetensors.F32 {
			same(t, from, to, pack(from, boundaries(from, to)), 0)
			same(t, from, to, mixedF32(1<<18), 0)
			return
		}
		ordered, shuffled := all(from)
		same(t, from, to, pack(from, ordered), 0)
		same(t, from, to, pack(from, shuffled), 0)
	})
}

func mixedF32(n int) []byte {
	b := make([]byte, 4*n)
	rng := rand.New(rand.NewPCG(14, 15))
	for i := range n {
		u := rng.Uint32()
		if i/1000%2 == 0 { // where halves are
			u = u&0x807F_FFFF | (127-27+rng.Uint32N(45))<<23
		}
		put(safetensors.F32, b, i, uint64(u))
	}
	return b
}

func TestTwinsDoNotAllocate(t *testing.T) {
	src, dst := make([]byte, 1<<20), make([]byte, 4<<20)
	eachTwin(t, func(t *testing.T, from, to safetensors.DType) {
		t.Helper()
		k, _ := Func(from, to)
		if n := testing.AllocsPerRun(3, func() { k(dst, src) }); n != 0 {
			t.Errorf("%v allocations", n)
		}
		if n := testing.AllocsPerRun(3, func() { FirstNonFinite(from, src) }); n != 0 {
			t.Errorf("FirstNonFinite: %v allocations", n)
		}
	})
}

func TestFirstNonFiniteOnEveryProcessor(t *testing.T) {
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			t.Run("values", TestFirstNonFiniteOfEveryValue)
			t.Run("places", TestFirstNonFiniteAtEveryPlace)
			for d, bad := range map[safetensors.DType]uint64{
				safetensors.F64: 0x7FF0 << 48, safetensors.F32: 0x7F80_0000, safetensors.C64: 0xFF80_0000, safetensors.F16: 0xFC00,
				safetensors.BF16: 0x7F81, safetensors.F8E4M3: 0xFF, safetensors.F8E5M2: 0x7C,
			} {
				for _, size := range []int{255, 256, 1030, 1<<20 + 700} {
					b := cputest.Aligned(size, 1)
					for i := range b {
						b[i] = 0x7B
					}
					if d != safetensors.F8E4M3 && d != safetensors.F8E5M2 {
						clear(b)
					}
					n := size / sizeOf(d)
					if got := FirstNonFinite(d, b); got != -1 {
						t.Fatalf("%s, %d bytes: %d, want none", d, size, got)
					}
					for _, at := range []int{0, 1, n / 2, n - 40, n - 1} {
						if at < 0 {
							continue
						}
						put(d, b, n-1, bad)
						old := get(d, b, at)
						put(d, b, at, bad)
						if got := FirstNonFinite(d, b); got != at {
							t.Errorf("%s, %d bytes: %d, want %d", d, size, got, at)
						}
						put(d, b, at, old)
					}
				}
			}
		})
	}
}

func FuzzTwins(f *testing.F) {
	f.Add([]byte{1, 2, 3, 0x7F, 0x80}, uint8(1), uint8(3), uint16(900))
	f.Fuzz(func(t *testing.T, data []byte, pick, shift uint8, length uint16) {
		if len(data) == 0 {
			return
		}
		from, to := sources[1+int(pick)%(len(sources)-1)], targets[int(pick)/8%len(targets)]
		if from == to {
			return
		}
		src := bytes.Repeat(data, int(length)/len(data)+1)[:length]
		for mask := range cputest.Masks() {
			t.Run(mask, func(t *testing.T) { same(t, from, to, cputest.AlignedCopy(src, int(shift)/4), int(shift)%64) })
		}
	})
}

// TestStreamFunc: pieces that go past the caches are those of Func, at every alignment and length, and nothing around them is written.
func TestStreamFunc(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 21))
	for p, generic := range generics {
		stream, ok := StreamFunc(p.from, p.to)
		if !ok {
			t.Fatalf("no kernel from %s to %s", p.from, p.to)
		}
		from, to := p.from.Bits()/8, p.to.Bits()/8
		for mask := range cputest.Masks() {
			for n := 0; n < 300; n += 1 + n/40 {
				src := make([]byte, n*from)
				for i := range src {
					src[i] = byte(r.Uint32())
				}
				want := make([]byte, n*to)
				first := generic(want, src)
				framed := cputest.Aligned(n*to+128, n%64)
				for i := range framed {
					framed[i] = 0xA5
				}
				got := stream(framed[64:64+n*to], src)
				if got != first || !bytes.Equal(framed[64:64+n*to], want) {
					t.Fatalf("%s: %d elements from %s to %s: differs, first %d, want %d", mask, n, p.from, p.to, got, first)
				}
				if bytes.Count(framed[:64], []byte{0xA5}) != 64 || bytes.Count(framed[64+n*to:], []byte{0xA5}) != 64 {
					t.Fatalf("%s: %d elements from %s to %s: wrote outside", mask, n, p.from, p.to)
				}
			}
		}
	}
}
