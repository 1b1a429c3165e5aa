package repack

import "encoding/binary"

// groupedRow applies the permutation of grouped scales to a row of 16-bit elements: in blocks of 64, an 8x8 transpose,
// out[64B+i] = in[64B + 8(i%8) + i/8]. len(dst) = len(src) = a multiple of 128 bytes. It is its own inverse.
func groupedRow(dst, src []byte) {
	for ; len(dst) >= 128; dst, src = dst[128:], src[128:] {
		_, _ = dst[127], src[127]
		for r := range 8 {
			for c := range 8 {
				binary.LittleEndian.PutUint16(dst[2*(8*r+c):], binary.LittleEndian.Uint16(src[2*(8*c+r):]))
			}
		}
	}
}

// singleRow applies the permutation of channel-wise scales and of biases to a row of 16-bit elements: in blocks of 32,
// out[32B+i] = in[32B + 2(i/8) + i%2 + 8((i%8)/2)]. len(dst) = len(src) = a multiple of 64 bytes. It is its own inverse. Pairs of
// elements stay together, so it moves 32-bit words.
func singleRow(dst, src []byte) {
	for ; len(dst) >= 64; dst, src = dst[64:], src[64:] {
		_, _ = dst[63], src[63]
		for i := range 16 {
			binary.LittleEndian.PutUint32(dst[4*i:], binary.LittleEndian.Uint32(src[4*(i/4+4*(i%4)):]))
		}
	}
}
