package repack

import "encoding/binary"

// marlin4Slow follows the element formula, one weight at a time.
func marlin4Slow(qweight []uint32, k, n int) []uint32 {
	out := make([]uint32, k/16*2*n)
	for kk := range k {
		for nn := range n {
			code := qweight[kk/8*n+nn] >> (4 * (kk % 8)) & 15
			w := 128*(nn/64) + 16*(nn%8) + 4*((kk%8)/2) + (nn%64)/16
			p := (kk%16)/8 + 2*((nn%16)/8) + 4*(kk%2)
			out[kk/16*2*n+w] |= code << (4 * p)
		}
	}
	return out
}

func words(b []byte) []uint32 {
	w := make([]uint32, len(b)/4)
	for i := range w {
		w[i] = binary.LittleEndian.Uint32(b[4*i:])
	}
	return w
}
