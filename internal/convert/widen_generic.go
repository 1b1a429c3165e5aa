package convert

// Widening is exact: it never reports an overflow.

func bf16ToF32Generic(dst, src []byte) int {
	for len(src) >= 8 && len(dst) >= 16 {
		x := le.Uint64(src)
		x |= (x&abs16 + (0x8000-infBF16-1)*ones16) & top16 >> 9 // the top bit of a NaN's lane, moved to where it is the quiet bit
		le.PutUint64(dst, spreadLow(x))
		le.PutUint64(dst[8:], spreadHigh(x))
		src, dst = src[8:], dst[16:]
	}
	for ; len(src) >= 2; src, dst = src[2:], dst[4:] {
		le.PutUint32(dst, bf16ToF32(le.Uint16(src)))
	}
	return -1
}

func f16ToF32Generic(dst, src []byte) int {
	for len(src) >= 8 && len(dst) >= 16 {
		if x := le.Uint64(src); quickHalves(x) {
			le.PutUint64(dst, widenHalves(spreadLow(x)))
			le.PutUint64(dst[8:], widenHalves(spreadHigh(x)))
		} else {
			f16ToF32Each(dst[:16], src[:8])
		}
		src, dst = src[8:], dst[16:]
	}
	f16ToF32Each(dst, src)
	return -1
}

func f16ToF32Each(dst, src []byte) {
	for ; len(src) >= 2; src, dst = src[2:], dst[4:] {
		le.PutUint32(dst, f16ToF32(le.Uint16(src)))
	}
}

// quickHalves reports whether each of the four halves in x is a normal number or a zero: not subnormal, infinite or NaN.
func quickHalves(x uint64) bool {
	return inRangeOrZero16(x&abs16, minNormalF16, inf16)
}

// widenHalves turns two quick halves in the upper parts of 32-bit lanes into float32s.
func widenHalves(s uint64) uint64 {
	m := s & abs32
	return s&top32 | (m>>3 + nonZero32(m)*rebiasHalf)
}
