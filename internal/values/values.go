// Package values says what bytes mean, one element at a time and by the definition of its dtype: sign, exponent and fraction. Self-checks
// compute with it what they compare results with, so it shares neither tables nor code with internal/convert, whose kernels they look after.
package values

import (
	"math"

	"github.com/coldload/coldload/safetensors"
)

// form is how the bits of a floating-point dtype are divided, behind one of sign.
type form struct{ exponent, fraction int }

func formOf(d safetensors.DType) form {
	switch d { //nolint:exhaustive // the floating-point ones
	case safetensors.F64:
		return form{11, 52}
	case safetensors.F32:
		return form{8, 23}
	case safetensors.F16:
		return form{5, 10}
	case safetensors.BF16:
		return form{8, 7}
	case safetensors.F8E5M2:
		return form{5, 2}
	case safetensors.F8E4M3:
		return form{4, 3}
	}
	panic("values: no floating-point dtype: " + d.String())
}

func (f form) bias() int        { return 1<<(f.exponent-1) - 1 }
func (f form) infinite() uint64 { return (1<<f.exponent - 1) << f.fraction }
func (f form) sign(negative bool) uint64 {
	if negative {
		return 1 << (f.exponent + f.fraction)
	}
	return 0
}

// Of is the value of the first element of b, always exact. A NaN keeps its sign and the upper bits of its fraction. Source: LAYOUTS 0.1.
func Of(d safetensors.DType, b []byte) float64 {
	if d == safetensors.F8E8M0 {
		return ofE8M0(b[0])
	}
	f := formOf(d)
	var u uint64
	for i := range d.Bits() / 8 {
		u |= uint64(b[i]) << (8 * i)
	}
	negative := u&f.sign(true) != 0
	e, m := int(u>>f.fraction)&(1<<f.exponent-1), u&(1<<f.fraction-1)
	switch {
	case d == safetensors.F8E4M3 && u&0x7F == 0x7F: // the only one that is no number: there is no infinity
		return nan(negative, 0)
	case d != safetensors.F8E4M3 && e == 1<<f.exponent-1 && m == 0:
		return signed(math.Inf(1), negative)
	case d != safetensors.F8E4M3 && e == 1<<f.exponent-1:
		return nan(negative, m<<(52-f.fraction))
	case e == 0:
		return signed(math.Ldexp(float64(m), 1-f.bias()-f.fraction), negative)
	default:
		return signed(math.Ldexp(float64(1<<f.fraction|m), e-f.bias()-f.fraction), negative)
	}
}

func ofE8M0(e byte) float64 {
	if e == 0xFF {
		return math.NaN()
	}
	return math.Ldexp(1, int(e)-127)
}

func signed(v float64, negative bool) float64 {
	if negative {
		return -v
	}
	return v
}

// nan is a quiet one.
func nan(negative bool, fraction uint64) float64 {
	f := form{11, 52}
	return math.Float64frombits(f.sign(negative) | f.infinite() | 1<<51 | fraction)
}

// Put writes v as an element of d (F32, F16 or BF16) to b, rounded to nearest even.
func Put(b []byte, d safetensors.DType, v float64) {
	f := formOf(d)
	u := f.sign(math.Signbit(v)) | f.magnitude(v)
	for i := range d.Bits() / 8 {
		b[i] = byte(u >> (8 * i))
	}
}

// magnitude is v without its sign.
func (f form) magnitude(v float64) uint64 {
	if v != v { //nolint:gocritic // no number
		return f.infinite() | 1<<(f.fraction-1) | math.Float64bits(v)&(1<<52-1)>>(52-f.fraction)
	}
	switch {
	case v == 0:
		return 0
	case math.IsInf(v, 0):
		return f.infinite()
	}
	_, e := math.Frexp(v)
	unit := max(e-1, 1-f.bias()) - f.fraction // the exponent of the last place
	if unit+f.fraction > f.bias() {
		return f.infinite()
	}
	n := uint64(math.RoundToEven(math.Ldexp(math.Abs(v), -unit)))
	return uint64(unit+f.fraction+f.bias()-1)<<f.fraction + n // n has the leading 1, but in a subnormal; a carry goes into the exponent
}

// FP4 is the value of an FP4 code (E2M1): a bit of sign, two of exponent, one of fraction. Source: LAYOUTS 0.1.
func FP4(code byte) float64 {
	e, m := int(code>>1&3), float64(code&1)
	v := m / 2
	if e > 0 {
		v = math.Ldexp(1+m/2, e-1)
	}
	return signed(v, code&8 != 0)
}
