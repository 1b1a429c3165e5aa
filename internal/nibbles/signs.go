package nibbles

import "encoding/binary"

// FlipSigns writes the bytes of src with their highest bits inverted: signed codes of 8 bits become unsigned ones that are 128 larger. dst has
// as many bytes.
func FlipSigns(dst, src []byte) {
	const highest = 0x8080_8080_8080_8080
	for ; len(src) >= 32 && len(dst) >= 32; dst, src = dst[32:], src[32:] {
		binary.LittleEndian.PutUint64(dst, binary.LittleEndian.Uint64(src)^highest)
		binary.LittleEndian.PutUint64(dst[8:], binary.LittleEndian.Uint64(src[8:])^highest)
		binary.LittleEndian.PutUint64(dst[16:], binary.LittleEndian.Uint64(src[16:])^highest)
		binary.LittleEndian.PutUint64(dst[24:], binary.LittleEndian.Uint64(src[24:])^highest)
	}
	for i, b := range src {
		dst[i] = b ^ 0x80
	}
}
