package convert

// An 8-bit float has 256 values, all of them exact in every target: one table look-up each.

var (
	e4m3F32, e4m3F16, e4m3BF16 = f8Tables(e4m3Bits)
	e5m2F32, e5m2F16, e5m2BF16 = f8Tables(e5m2Bits)
)

func f8Tables(value func(uint8) uint32) (f32 [256]uint32, f16, bf16 [256]uint16) {
	for i := range f32 {
		u := value(uint8(i))
		f32[i], f16[i], bf16[i] = u, f32ToF16(u), f32ToBF16(u)
	}
	return f32, f16, bf16
}

func e4m3ToF32Generic(dst, src []byte) int  { return look32(dst, src, &e4m3F32) }
func e4m3ToF16Generic(dst, src []byte) int  { return look16(dst, src, &e4m3F16) }
func e4m3ToBF16Generic(dst, src []byte) int { return look16(dst, src, &e4m3BF16) }
func e5m2ToF32Generic(dst, src []byte) int  { return look32(dst, src, &e5m2F32) }
func e5m2ToF16Generic(dst, src []byte) int  { return look16(dst, src, &e5m2F16) }
func e5m2ToBF16Generic(dst, src []byte) int { return look16(dst, src, &e5m2BF16) }

func look32(dst, src []byte, table *[256]uint32) int {
	for len(src) >= 4 && len(dst) >= 16 {
		x := le.Uint32(src)
		le.PutUint64(dst, uint64(table[uint8(x)])|uint64(table[uint8(x>>8)])<<32)
		le.PutUint64(dst[8:], uint64(table[uint8(x>>16)])|uint64(table[x>>24])<<32)
		src, dst = src[4:], dst[16:]
	}
	for i, c := range src {
		le.PutUint32(dst[4*i:], table[c])
	}
	return -1
}

func look16(dst, src []byte, table *[256]uint16) int {
	for len(src) >= 4 && len(dst) >= 8 {
		x := le.Uint32(src)
		low := uint64(table[uint8(x)]) | uint64(table[uint8(x>>8)])<<16
		high := uint64(table[uint8(x>>16)]) | uint64(table[x>>24])<<16
		le.PutUint64(dst, low|high<<32)
		src, dst = src[4:], dst[8:]
	}
	for i, c := range src {
		le.PutUint16(dst[2*i:], table[c])
	}
	return -1
}
