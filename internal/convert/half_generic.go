package convert

// Between the two 16-bit formats a normal half and the bfloat16 of the same value differ by a shift of three bits and by the exponent
// bias, so four of them are converted in one word.

const (
	minHalfInBF16 = minHalfIn32 >> 16 // 2^-14
	endHalfInBF16 = 0x4780            // 65536: no bfloat16 lies between the largest one below and the tie at 65520
	rebiasBF16    = (127 - 15) << 7   // exponent bias of a bfloat16 less that of a half, in place
)

// f16ToBF16Generic never overflows: a bfloat16 reaches further than a half.
func f16ToBF16Generic(dst, src []byte) int {
	for len(src) >= 8 && len(dst) >= 8 {
		if x := le.Uint64(src); quickHalves(x) {
			m := x & abs16
			m = (m+3*ones16+m>>3&ones16)>>3&(0xFFF*ones16) + nonZero16(m)*rebiasBF16 // the mask drops what the lane above shifted in
			le.PutUint64(dst, x&top16|m)
		} else {
			f16ToBF16Each(dst[:8], src[:8])
		}
		src, dst = src[8:], dst[8:]
	}
	f16ToBF16Each(dst, src)
	return -1
}

func f16ToBF16Each(dst, src []byte) {
	for ; len(src) >= 2; src, dst = src[2:], dst[2:] {
		le.PutUint16(dst, f16ToBF16(le.Uint16(src)))
	}
}

func bf16ToF16Generic(dst, src []byte) int {
	first, size := -1, len(src)
	for len(src) >= 8 && len(dst) >= 8 {
		x := le.Uint64(src)
		m := x & abs16
		if inRangeOrZero16(m, minHalfInBF16, endHalfInBF16) {
			le.PutUint64(dst, x&top16|(m-nonZero16(m)*rebiasBF16)<<3)
		} else {
			first = earlier(first, (size-len(src))/2, bf16ToF16Each(dst[:8], src[:8]))
		}
		src, dst = src[8:], dst[8:]
	}
	return earlier(first, (size-len(src))/2, bf16ToF16Each(dst, src))
}

func bf16ToF16Each(dst, src []byte) int {
	first := -1
	for i := 0; 2*i+2 <= len(src); i++ {
		b := le.Uint16(src[2*i:])
		h := bf16ToF16(b)
		le.PutUint16(dst[2*i:], h)
		if h&0x7FFF == inf16 && b&0x7FFF != infBF16 && first < 0 {
			first = i
		}
	}
	return first
}
