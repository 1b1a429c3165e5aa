package convert

import "math"

// F16ToF32 is the value of an IEEE half (sign, 5 bits of exponent, 10 of fraction), which is always exact. Source: IEEE 754 binary16.
func F16ToF32(h uint16) float32 { return math.Float32frombits(f16ToF32(h)) }

// BF16ToF32 is the value of a bfloat16: the upper half of a float32, so always exact. Source: LAYOUTS 0.1.
func BF16ToF32(b uint16) float32 { return math.Float32frombits(bf16ToF32(b)) }

// E4M3ToF32 is the value of an F8_E4M3 (the "FN" kind: at most 448, no infinity, one NaN of each sign), exact. Source: LAYOUTS 0.1.
func E4M3ToF32(c uint8) float32 { return math.Float32frombits(e4m3F32[c]) }

// E5M2ToF32 is the value of an F8_E5M2: the upper half of an IEEE half, exact. Source: LAYOUTS 0.1.
func E5M2ToF32(c uint8) float32 { return math.Float32frombits(e5m2F32[c]) }

// F32ToF16 is f as an IEEE half, rounded to nearest even. From 65520 on it is an infinity. It has the bits that
// x448/float16.Fromfloat32 and VCVTPS2PH give, NaNs included.
func F32ToF16(f float32) uint16 { return f32ToF16(math.Float32bits(f)) }

// F32ToBF16 is f as a bfloat16, rounded to nearest even. Source: LAYOUTS 0.1, with NaN made quiet.
func F32ToBF16(f float32) uint16 { return f32ToBF16(math.Float32bits(f)) }

// The functions below work on bit patterns, so that a signalling NaN never passes through a floating-point register. In their names and
// comments "magnitude" is a pattern without its sign; magnitudes of one format order like the values they stand for.
//
// Those between 16 and 32 bits compute every case and then choose. The compiler makes conditional moves of that; a jump would be
// mispredicted all the time where values and subnormals alternate, at five times the cost.

const (
	inf16   = 0x7C00 // magnitude of an infinite half
	infBF16 = 0x7F80
	inf32   = 0x7F80_0000
	inf64   = 0x7FF0_0000_0000_0000

	quiet16   = 0x0200 // the fraction bit that makes a NaN quiet
	quietBF16 = 0x0040
	quiet32   = 0x0040_0000

	minNormalF16 = 0x0400 // 2^-14 as a half

	// The numbers a float32 must lie between to be a normal half: 2^-14 <= |f| < 65520, where 65520 is the tie between the largest half
	// (65504) and the next power of two, and goes up.
	minHalfIn32 = 0x3880_0000
	endHalfIn32 = 0x477F_F000
	halfBits    = 0x3F00_0000      // 0.5
	rebiasHalf  = (127 - 15) << 23 // exponent bias of a float32 less that of a half, in place
)

func f16ToF32(h uint16) uint32 {
	m := uint32(h & 0x7FFF)
	nan := inf32 | quiet32 | m&0x3FF<<13
	tiny := math.Float32bits(float32(int32(m)) * 0x1p-24) // zero and subnormals: m units of 2^-24, a normal float32
	r := m<<13 + rebiasHalf
	if m < minNormalF16 {
		r = tiny
	}
	if m >= inf16 {
		r = inf32
	}
	if m > inf16 {
		r = nan
	}
	return uint32(h&0x8000)<<16 | r
}

func bf16ToF32(b uint16) uint32 {
	u := uint32(b) << 16
	if b&0x7FFF > infBF16 {
		u |= quiet32
	}
	return u
}

// e4m3Bits follows LAYOUTS 0.1: e = 0 is m * 2^-9, else (1 + m/8) * 2^(e-7); all ones is NaN.
func e4m3Bits(c uint8) uint32 {
	sign, e, m := uint32(c&0x80)<<24, uint32(c>>3&15), uint32(c&7)
	switch {
	case c&0x7F == 0x7F:
		return sign | inf32 | quiet32
	case e == 0:
		return sign | math.Float32bits(float32(m)*0x1p-9)
	default:
		return sign | (e+127-7)<<23 | m<<20
	}
}

// e5m2Bits follows LAYOUTS 0.1: the byte is the top of a half.
func e5m2Bits(c uint8) uint32 { return f16ToF32(uint16(c) << 8) }

func f32ToF16(u uint32) uint16 {
	m := u & 0x7FFF_FFFF
	nan := inf16 | quiet16 | m>>13&0x3FF
	// A half below 2^-14 is a multiple of 2^-24. That is the unit in the last place of 0.5, so the addition does the rounding.
	tiny := math.Float32bits(math.Float32frombits(m)+0.5) - halfBits
	r := (m - rebiasHalf + 0xFFF + m>>13&1) >> 13
	if m < minHalfIn32 {
		r = tiny
	}
	if m >= endHalfIn32 {
		r = inf16
	}
	if m > inf32 {
		r = nan
	}
	return uint16(u>>16&0x8000 | r)
}

func f32ToBF16(u uint32) uint16 {
	r := (u + 0x7FFF + u>>16&1) >> 16
	if u&0x7FFF_FFFF > inf32 {
		r = u>>16 | quietBF16
	}
	return uint16(r)
}

func f16ToBF16(h uint16) uint16 { return f32ToBF16(f16ToF32(h)) }

func bf16ToF16(b uint16) uint16 { return f32ToF16(uint32(b) << 16) }

func f64ToF32(u uint64) uint32 {
	if m := u &^ (1 << 63); m > inf64 {
		// By hand, because processors differ in what they make of a NaN.
		return uint32(u>>32)&0x8000_0000 | inf32 | quiet32 | uint32(m>>29)&0x7F_FFFF
	}
	return math.Float32bits(float32(math.Float64frombits(u)))
}

// f64ToF16 and f64ToBF16 do what f32ToF16 does, with the numbers of a float64: endX is the tie above the largest value, minX the smallest
// normal one, and tinyX a float64 whose unit in the last place is the smallest subnormal.
const (
	endF16In64  = 0x40EF_FE00_0000_0000 // 65520
	minF16In64  = 0x3F10_0000_0000_0000 // 2^-14
	tinyF16     = 0x1p28
	endBF16In64 = 0x47EF_F000_0000_0000 // 2^128 - 2^119
	minBF16In64 = 0x3810_0000_0000_0000 // 2^-126
	tinyBF16    = 0x1p-81
)

func f64ToF16(u uint64) uint16 {
	sign, m := uint16(u>>48)&0x8000, u&^(1<<63)
	switch {
	case m > inf64:
		return sign | inf16 | quiet16 | uint16(m>>42)&0x3FF
	case m >= endF16In64:
		return sign | inf16
	case m >= minF16In64:
		return sign | uint16((m-(1023-15)<<52+(1<<41-1)+m>>42&1)>>42)
	default:
		return sign | uint16(math.Float64bits(math.Float64frombits(m)+tinyF16)-math.Float64bits(tinyF16))
	}
}

func f64ToBF16(u uint64) uint16 {
	sign, m := uint16(u>>48)&0x8000, u&^(1<<63)
	switch {
	case m > inf64:
		return sign | infBF16 | quietBF16 | uint16(m>>45)&0x7F
	case m >= endBF16In64:
		return sign | infBF16
	case m >= minBF16In64:
		return sign | uint16((m-(1023-127)<<52+(1<<44-1)+m>>45&1)>>45)
	default:
		return sign | uint16(math.Float64bits(math.Float64frombits(m)+tinyBF16)-math.Float64bits(tinyBF16))
	}
}
