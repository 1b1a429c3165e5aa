package convert

// Weights in F64 are rare: these go value by value.

func f64ToF32Generic(dst, src []byte) int {
	first := -1
	for i := 0; 8*i+8 <= len(src); i++ {
		u := le.Uint64(src[8*i:])
		f := f64ToF32(u)
		le.PutUint32(dst[4*i:], f)
		if f&0x7FFF_FFFF == inf32 && u&^(1<<63) != inf64 && first < 0 {
			first = i
		}
	}
	return first
}

func f64ToF16Generic(dst, src []byte) int { return narrow64(dst, src, f64ToF16, inf16) }

func f64ToBF16Generic(dst, src []byte) int { return narrow64(dst, src, f64ToBF16, infBF16) }

func narrow64(dst, src []byte, one func(uint64) uint16, inf uint16) int {
	first := -1
	for i := 0; 8*i+8 <= len(src); i++ {
		u := le.Uint64(src[8*i:])
		v := one(u)
		le.PutUint16(dst[2*i:], v)
		if v&0x7FFF == inf && u&^(1<<63) != inf64 && first < 0 {
			first = i
		}
	}
	return first
}
