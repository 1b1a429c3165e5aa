package convert

func f32ToF16Generic(dst, src []byte) int {
	first, size := -1, len(src)
	for len(src) >= 16 && len(dst) >= 8 {
		a, b := le.Uint64(src), le.Uint64(src[8:])
		if fitHalves(a, b) {
			le.PutUint64(dst, join16(narrowToHalves(a), narrowToHalves(b)))
		} else {
			first = earlier(first, (size-len(src))/4, f32ToF16Each(dst[:8], src[:16]))
		}
		src, dst = src[16:], dst[8:]
	}
	return earlier(first, (size-len(src))/4, f32ToF16Each(dst, src))
}

func f32ToF16Each(dst, src []byte) int {
	first := -1
	for i := 0; 4*i+4 <= len(src); i++ {
		u := le.Uint32(src[4*i:])
		h := f32ToF16(u)
		le.PutUint16(dst[2*i:], h)
		if h&0x7FFF == inf16 && u&0x7FFF_FFFF != inf32 && first < 0 {
			first = i
		}
	}
	return first
}

// fitHalves reports whether each of the four float32s in a and b is a zero or becomes a normal half.
func fitHalves(a, b uint64) bool {
	a, b = a&abs32, b&abs32
	const least, end = (0x8000_0000 - minHalfIn32) * ones32, (0x8000_0000 - endHalfIn32) * ones32
	return ((a+least)|^(a+abs32))&((b+least)|^(b+abs32))&^((a+end)|(b+end))&top32 == top32
}

// narrowToHalves turns two float32s that fit into halves in the lower parts of 32-bit lanes.
func narrowToHalves(x uint64) uint64 {
	m := x & abs32
	m = m - nonZero32(m)*rebiasHalf + 0xFFF*ones32 + m>>13&ones32
	return m>>13&(0x7FFF*ones32) | x>>16&(0x8000*ones32)
}

func f32ToBF16Generic(dst, src []byte) int {
	first, size := -1, len(src)
	for len(src) >= 16 && len(dst) >= 8 {
		a, b := le.Uint64(src), le.Uint64(src[8:])
		ra, rb := roundToBF16(a), roundToBF16(b)
		if infinite := ((ra + (0x8000_0000-inf32)*ones32) | (rb + (0x8000_0000-inf32)*ones32)) & top32; infinite == 0 {
			le.PutUint64(dst, join16((ra|a&top32)>>16&low32, (rb|b&top32)>>16&low32))
		} else {
			first = earlier(first, (size-len(src))/4, f32ToBF16Each(dst[:8], src[:16]))
		}
		src, dst = src[16:], dst[8:]
	}
	return earlier(first, (size-len(src))/4, f32ToBF16Each(dst, src))
}

// roundToBF16 is the magnitudes of two float32s, rounded in the upper parts of 32-bit lanes; the lower parts are rubbish. A lane that is an
// infinity or a NaN, or becomes an infinity, is at least inf32.
func roundToBF16(x uint64) uint64 {
	m := x & abs32
	return m + 0x7FFF*ones32 + m>>16&ones32
}

func f32ToBF16Each(dst, src []byte) int {
	first := -1
	for i := 0; 4*i+4 <= len(src); i++ {
		u := le.Uint32(src[4*i:])
		b := f32ToBF16(u)
		le.PutUint16(dst[2*i:], b)
		if b&0x7FFF == infBF16 && u&0x7FFF_FFFF != inf32 && first < 0 {
			first = i
		}
	}
	return first
}
