package convert

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/x448/float16"

	"github.com/coldload/coldload/safetensors"
)

var (
	sources = []safetensors.DType{safetensors.F64, safetensors.F32, safetensors.F16, safetensors.BF16, safetensors.F8E4M3, safetensors.F8E5M2}
	targets = []safetensors.DType{safetensors.F32, safetensors.F16, safetensors.BF16}
)

func sizeOf(d safetensors.DType) int { return d.Bits() / 8 }

func put(dtype safetensors.DType, b []byte, i int, u uint64) {
	for k := range sizeOf(dtype) {
		b[i*sizeOf(dtype)+k] = byte(u >> (8 * k))
	}
}

func get(dtype safetensors.DType, b []byte, i int) (u uint64) {
	for k := range sizeOf(dtype) {
		u |= uint64(b[i*sizeOf(dtype)+k]) << (8 * k)
	}
	return u
}

func pack(dtype safetensors.DType, values []uint64) []byte {
	b := make([]byte, len(values)*sizeOf(dtype))
	for i, u := range values {
		put(dtype, b, i, u)
	}
	return b
}

// eachPair runs f for every conversion, except the copies.
func eachPair(t *testing.T, f func(t *testing.T, from, to safetensors.DType, k Kernel)) {
	t.Helper()
	for _, from := range sources {
		for _, to := range targets {
			k, ok := Func(from, to)
			if !ok {
				t.Fatalf("no kernel %s -> %s", from, to)
			}
			if from != to {
				t.Run(fmt.Sprintf("%s-%s", from, to), func(t *testing.T) { f(t, from, to, k) })
			}
		}
	}
}

// check converts values and compares every element and the reported overflow with the reference.
func check(t *testing.T, from, to safetensors.DType, k Kernel, values []uint64) {
	t.Helper()
	src := pack(from, values)
	dst := make([]byte, len(values)*sizeOf(to))
	got := k(dst, src)
	want := -1
	for i, u := range values {
		w, overflow := encode(to, decode(from, u))
		if overflow && want < 0 {
			want = i
		}
		if g := get(to, dst, i); g != w {
			t.Fatalf("%s %#x (%g) at %d: %s %#x, want %#x", from, u, decode(from, u).value, i, to, g, w)
		}
	}
	if got != want {
		t.Fatalf("%s -> %s: first overflow %d, want %d", from, to, got, want)
	}
}

// all is every pattern of a type of at most 16 bits, in a shuffled order too, so that quick and slow lanes mix.
func all(dtype safetensors.DType) (ordered, mixed []uint64) {
	ordered = make([]uint64, 1<<dtype.Bits())
	for i := range ordered {
		ordered[i] = uint64(i)
	}
	mixed = bytes64(ordered)
	rng := rand.New(rand.NewPCG(1, 2))
	rng.Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
	return ordered, mixed
}

func bytes64(v []uint64) []uint64 { return append([]uint64(nil), v...) }

func TestEveryValueOfTheSmallTypes(t *testing.T) {
	eachPair(t, func(t *testing.T, from, to safetensors.DType, k Kernel) {
		t.Helper()
		if from.Bits() > 16 {
			t.Skip("too many values")
		}
		ordered, mixed := all(from)
		check(t, from, to, k, ordered)
		check(t, from, to, k, mixed)
	})
}

// boundaries is, in the source's patterns, every value of the target, every point halfway to its neighbour, and the numbers of the source
// next to those: all the places where rounding decides.
func boundaries(from, to safetensors.DType) []uint64 {
	var v []uint64
	for i := range uint64(1 << 16) {
		x, next := decode(to, i).value, decode(to, i+1).value
		if math.IsNaN(x) {
			continue
		}
		if math.IsInf(next, 0) {
			next = math.Copysign(formats[to].limit, x)
		}
		for _, p := range []float64{x, (x + next) / 2} {
			u := math.Float64bits(p)
			if from == safetensors.F32 {
				u = uint64(math.Float32bits(float32(p)))
			}
			v = append(v, u-1, u, u+1)
		}
	}
	return v
}

func TestBoundariesOfTheSmallTargets(t *testing.T) {
	for _, from := range []safetensors.DType{safetensors.F64, safetensors.F32} {
		for _, to := range []safetensors.DType{safetensors.F16, safetensors.BF16} {
			k, _ := Func(from, to)
			check(t, from, to, k, boundaries(from, to))
		}
	}
	k, _ := Func(safetensors.F64, safetensors.F32)
	var v []uint64
	rng := rand.New(rand.NewPCG(3, 4))
	for range 200_000 {
		x := math.Float32frombits(rng.Uint32())
		half := (float64(x) + float64(math.Nextafter32(x, 0))) / 2
		u := math.Float64bits(half)
		v = append(v, u-1, u, u+1)
	}
	check(t, safetensors.F64, safetensors.F32, k, append(v, math.Float64bits(0x1p128-0x1p103), math.Float64bits(math.Nextafter(0x1p128-0x1p103, 0))))
}

func TestRandomFloat32(t *testing.T) {
	const blocks, perBlock = 64, 1 << 16 // 4 Mi values
	toF16, _ := Func(safetensors.F32, safetensors.F16)
	toBF16, _ := Func(safetensors.F32, safetensors.BF16)
	rng := rand.New(rand.NewPCG(5, 6))
	src, dst, dst2 := make([]byte, 4*perBlock), make([]byte, 2*perBlock), make([]byte, 2*perBlock)
	for block := range blocks {
		for i := range perBlock {
			u := rng.Uint32()
			if block%2 == 0 { // where halves are: exponents -27 to 17
				u = u&0x807F_FFFF | (127-27+rng.Uint32N(45))<<23
			}
			put(safetensors.F32, src, i, uint64(u))
		}
		toF16(dst, src)
		toBF16(dst2, src)
		for i := range perBlock {
			u := uint32(get(safetensors.F32, src, i))
			if g, w := uint16(get(safetensors.F16, dst, i)), float16.Fromfloat32(math.Float32frombits(u)).Bits(); g != w {
				t.Fatalf("F32 %#x: F16 %#x, x448/float16 %#x", u, g, w)
			}
			if w, _ := encode(safetensors.BF16, decode(safetensors.F32, uint64(u))); get(safetensors.BF16, dst2, i) != w {
				t.Fatalf("F32 %#x: BF16 %#x, want %#x", u, get(safetensors.BF16, dst2, i), w)
			}
		}
	}
}

func TestEveryHalfAgainstX448(t *testing.T) {
	for i := range 1 << 16 {
		h := uint16(i)
		if g, w := math.Float32bits(F16ToF32(h)), math.Float32bits(float16.Frombits(h).Float32()); g != w {
			t.Fatalf("half %#x: %#x, want %#x", h, g, w)
		}
	}
}

func TestRandomFloat64(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	for _, to := range targets {
		k, _ := Func(safetensors.F64, to)
		v := make([]uint64, 1<<18)
		for i := range v {
			v[i] = rng.Uint64()
			if i%2 == 0 { // near the range of the target
				v[i] = v[i]&^(0x7FF<<52) | uint64(1023-140+rng.IntN(270))<<52
			}
		}
		check(t, safetensors.F64, to, k, v)
	}
}

// A float64 just above a tie of the target, so little that float32 cannot see it: rounding twice would give the even neighbour.
func TestFloat64IsRoundedOnce(t *testing.T) {
	for _, c := range []struct {
		to   safetensors.DType
		x    float64
		want uint64
	}{
		{safetensors.F16, 1 + 0x1p-11 + 0x1p-40, 0x3C01},
		{safetensors.F16, 1 + 0x1p-11, 0x3C00},
		{safetensors.F16, 1 + 3*0x1p-11 - 0x1p-40, 0x3C01},
		{safetensors.F16, 0x1p-25 + 0x1p-60, 0x0001},
		{safetensors.F16, 0x1p-25, 0x0000},
		{safetensors.F16, 65520 - 0x1p-30, 0x7BFF},
		{safetensors.BF16, 1 + 0x1p-8 + 0x1p-40, 0x3F81},
		{safetensors.BF16, 1 + 0x1p-8, 0x3F80},
		{safetensors.BF16, 0x1p-134 + 0x1p-170, 0x0001},
		{safetensors.BF16, -(0x1p128 - 0x1p119 - 0x1p80), 0xFF7F},
	} {
		k, _ := Func(safetensors.F64, c.to)
		dst := make([]byte, 2)
		if over := k(dst, pack(safetensors.F64, []uint64{math.Float64bits(c.x)})); over != -1 || get(c.to, dst, 0) != c.want {
			t.Errorf("%v -> %s: %#x (overflow %d), want %#x", c.x, c.to, get(c.to, dst, 0), over, c.want)
		}
	}
}

// LAYOUTS G: "bf16 RNE".
func TestWorkedExamples(t *testing.T) {
	for x, want := range map[float32]uint16{1.00390625: 0x3F80, 1.01171875: 0x3F82, 0.1: 0x3DCD, -0.061492919921875: 0xBD7C} {
		if got := F32ToBF16(x); got != want {
			t.Errorf("F32ToBF16(%v) = %#x, want %#x", x, got, want)
		}
	}
	if got := F32ToF16(-0.061492919921875); got != 0xABDF {
		t.Errorf("F32ToF16 = %#x, want 0xABDF", got)
	}
	if E4M3ToF32(0x38) != 1 || E4M3ToF32(0x01) != 0x1p-9 || E4M3ToF32(0x7E) != 448 || E5M2ToF32(0xC0) != -2 || BF16ToF32(0x3F80) != 1 {
		t.Error("a worked example is off")
	}
}

func TestFirstOverflowIsTheFirst(t *testing.T) {
	for _, c := range []struct {
		from, to safetensors.DType
		one, big uint64
	}{
		{safetensors.F64, safetensors.F32, math.Float64bits(1), math.Float64bits(1e39)},
		{safetensors.F64, safetensors.F16, math.Float64bits(1), math.Float64bits(-65520)},
		{safetensors.F64, safetensors.BF16, math.Float64bits(1), math.Float64bits(3.4e38)},
		{safetensors.F32, safetensors.F16, 0x3F800000, uint64(math.Float32bits(65520))},
		{safetensors.F32, safetensors.BF16, 0x3F800000, 0xFF7FFFFF},
		{safetensors.BF16, safetensors.F16, 0x3F80, 0x4780},
	} {
		k, _ := Func(c.from, c.to)
		for n := range 40 {
			for i := range n {
				v := make([]uint64, n)
				for j := range v {
					v[j] = c.one
				}
				v[i], v[n-1] = c.big, c.big
				check(t, c.from, c.to, k, v)
			}
		}
	}
}

// specials are patterns of every class, to be mixed into short arrays.
func specials(dtype safetensors.DType) []uint64 {
	v := []uint64{0, 1, 2}
	switch dtype {
	case safetensors.F64:
		for _, x := range []float64{1, -1, 65504, 65519.99, 65520, 1e39, 1e-7, 1e-41, math.Inf(1), math.Inf(-1)} {
			v = append(v, math.Float64bits(x))
		}
		v = append(v, 0x7FF0_0000_0000_0001, 0xFFFF_FFFF_FFFF_FFFF, 1<<63)
	case safetensors.F32:
		v = append(v, 0x3F800000, 0xBF800000, 0x477FE000, 0x477FEFFF, 0x477FF000, 0x38800000, 0x387FFFFF, 0x7F7F8000, 0x7F7F7FFF, 0x7F800000,
			0xFF800000, 0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, 0x33000000, 0x33000001)
	case safetensors.F16:
		v = append(v, 0x3C00, 0xBC00, 0x7BFF, 0x7C00, 0xFC00, 0x7C01, 0xFFFF, 0x8000, 0x03FF, 0x0400, 0x83FF)
	case safetensors.BF16:
		v = append(v, 0x3F80, 0xBF80, 0x477F, 0x4780, 0x3880, 0x387F, 0x7F80, 0xFF80, 0x7F81, 0xFFFF, 0x8000)
	default:
		v = append(v, 0x7F, 0xFF, 0x7E, 0x7C, 0x7D, 0x80, 0xFC)
	}
	return v
}

func TestLengthsAlignmentsAndCanaries(t *testing.T) {
	const canary, pad = 0xA5, 16
	eachPair(t, func(t *testing.T, from, to safetensors.DType, k Kernel) {
		t.Helper()
		special, rng := specials(from), rand.New(rand.NewPCG(9, 10))
		for n := range 68 {
			values := make([]uint64, n)
			for i := range values {
				if values[i] = special[0] + 0x3C; rng.IntN(3) > 0 {
					values[i] = special[rng.IntN(len(special))]
				}
			}
			src, want := pack(from, values), make([]byte, n*sizeOf(to))
			wantOver := k(want, src)
			check(t, from, to, k, values)
			for shift := range 8 {
				moved := append(bytes.Repeat([]byte{0xFF}, shift), src...)
				buf := bytes.Repeat([]byte{canary}, pad+shift+len(want)+pad)
				dst := buf[pad+shift : pad+shift+len(want)+pad] // longer than needed: the rest must stay
				over := k(dst, moved[shift:])
				if over != wantOver || !bytes.Equal(dst[:len(want)], want) {
					t.Fatalf("n=%d shift=%d: differs from the aligned result", n, shift)
				}
				if bytes.Count(buf[:pad+shift], []byte{canary}) != pad+shift || bytes.Count(dst[len(want):], []byte{canary}) != pad {
					t.Fatalf("n=%d shift=%d: wrote outside", n, shift)
				}
			}
		}
	})
}

func TestShortDestinationPanics(t *testing.T) {
	for _, from := range sources {
		for _, to := range targets {
			k, _ := Func(from, to)
			func() {
				defer func() {
					if recover() == nil {
						t.Errorf("%s -> %s: no panic", from, to)
					}
				}()
				k(make([]byte, 9*sizeOf(to)-1), make([]byte, 9*sizeOf(from)))
			}()
		}
	}
}

func TestSameTypeIsACopy(t *testing.T) {
	for _, d := range targets {
		k, ok := Func(d, d)
		src := pack(d, specials(d))
		dst := make([]byte, len(src))
		if !ok || k(dst, src) != -1 || !bytes.Equal(dst, src) {
			t.Errorf("%s: no copy", d)
		}
	}
}

func TestSupported(t *testing.T) {
	if !Supported(safetensors.F64, safetensors.F16) || Supported(safetensors.I32, safetensors.F16) || Supported(safetensors.F16, safetensors.F64) {
		t.Error("wrong set of conversions")
	}
}

func TestNoAllocations(t *testing.T) {
	src, dst := make([]byte, 8*67), make([]byte, 4*8*67)
	for _, from := range sources {
		for _, to := range targets {
			if n := testing.AllocsPerRun(20, func() {
				k, _ := Func(from, to)
				k(dst, src)
			}); n != 0 {
				t.Errorf("%s -> %s: %v allocations", from, to, n)
			}
		}
		if n := testing.AllocsPerRun(20, func() { FirstNonFinite(from, src) }); n != 0 {
			t.Errorf("FirstNonFinite %s: %v allocations", from, n)
		}
	}
}
