package convert

import (
	"math"

	"github.com/x448/float16"

	"github.com/coldload/coldload/safetensors"
)

// The reference shares no code and no method with the package: it rounds with math.RoundToEven in float64, where scaling by a power of
// two is exact, and finds the pattern of the result with x448/float16 (halves) or math.Float32bits.

type format struct {
	precision, minExp int // bits of significand; exponent of the smallest subnormal
	limit             float64
}

var formats = map[safetensors.DType]format{
	safetensors.F16:  {11, -24, 0x1p16},
	safetensors.BF16: {8, -133, 0x1p128},
	safetensors.F32:  {24, -149, 0x1p128},
}

func (f format) round(x float64) float64 {
	if x == 0 || math.IsInf(x, 0) {
		return x
	}
	_, exp := math.Frexp(x)
	ulp := max(exp-f.precision, f.minExp)
	r := math.Copysign(math.Ldexp(math.RoundToEven(math.Ldexp(x, -ulp)), ulp), x)
	if math.Abs(r) >= f.limit {
		return math.Inf(int(math.Copysign(1, x)))
	}
	return r
}

// element is one value of a source format: exact as a float64, and for a NaN what it must become as a quiet NaN of 52 bits of payload.
type element struct {
	value   float64
	nan     bool
	neg     bool
	payload uint64 // left-aligned in 52 bits, without the quiet bit
}

func decode(dtype safetensors.DType, u uint64) element {
	var bitsOf uint64
	var value float64
	var width, mant int
	switch dtype { //nolint:exhaustive // only the types of this package
	case safetensors.F64:
		width, mant, value = 64, 52, math.Float64frombits(u)
	case safetensors.F32:
		width, mant, value = 32, 23, float64(math.Float32frombits(uint32(u)))
	case safetensors.BF16:
		width, mant, value = 16, 7, float64(math.Float32frombits(uint32(u)<<16))
	case safetensors.F16:
		width, mant, value = 16, 10, float64(float16.Frombits(uint16(u)).Float32())
	case safetensors.F8E5M2:
		width, mant, value = 8, 2, float64(float16.Frombits(uint16(u)<<8).Float32())
	case safetensors.F8E4M3:
		width, mant, value = 8, 3, e4m3Value(uint8(u))
	}
	bitsOf = u & (1<<mant - 1) << (52 - mant)
	if dtype == safetensors.F8E4M3 {
		bitsOf = 0 // its NaN is a single code, not a payload
	}
	return element{value: value, nan: math.IsNaN(value), neg: u>>(width-1)&1 == 1, payload: bitsOf}
}

// e4m3Value is LAYOUTS 0.1 in words: 4 bits of exponent with bias 7, 3 of fraction.
func e4m3Value(c uint8) float64 {
	e, m := int(c>>3&15), float64(c&7)
	v := math.Ldexp(1+m/8, e-7)
	switch {
	case c&0x7F == 0x7F:
		return math.NaN()
	case e == 0:
		v = math.Ldexp(m, -9)
	}
	if c >= 0x80 {
		return math.Copysign(v, -1)
	}
	return v
}

// encode is the pattern that e must become, and whether that is an overflow.
func encode(dtype safetensors.DType, e element) (u uint64, overflow bool) {
	if e.nan {
		return encodeNaN(dtype, e), false
	}
	r := formats[dtype].round(e.value)
	overflow = math.IsInf(r, 0) && !math.IsInf(e.value, 0)
	f := float32(r) // exact: r is a number of the target
	switch dtype {
	case safetensors.F32:
		return uint64(math.Float32bits(f)), overflow
	case safetensors.BF16:
		return uint64(math.Float32bits(f) >> 16), overflow
	default:
		return uint64(float16.Fromfloat32(f)), overflow
	}
}

func encodeNaN(dtype safetensors.DType, e element) uint64 {
	layout := map[safetensors.DType]struct{ width, mant int }{
		safetensors.F32: {32, 23}, safetensors.BF16: {16, 7}, safetensors.F16: {16, 10},
	}[dtype]
	fraction := 1<<(layout.mant-1) | e.payload>>(52-layout.mant)
	exponent := uint64(1)<<(layout.width-1) - 1<<layout.mant
	if e.neg {
		return 1<<(layout.width-1) | exponent | fraction
	}
	return exponent | fraction
}
