package repack

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

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

func BenchmarkMarlin4Row(b *testing.B) {
	const n = 1536
	r := rand.New(rand.NewPCG(1, 2))
	src := make([]byte, 256*n*4)
	for i := range src {
		src[i] = byte(r.Uint32())
	}
	dst := make([]byte, len(src))
	b.SetBytes(int64(len(src)))
	for b.Loop() {
		for row := range 128 {
			marlin4Row(dst[row*8*n:(row+1)*8*n], src[row*8*n:row*8*n+4*n], src[row*8*n+4*n:(row+1)*8*n])
		}
	}
}

func BenchmarkCopy(b *testing.B) {
	src := make([]byte, 256*1536*4)
	dst := make([]byte, len(src))
	b.SetBytes(int64(len(src)))
	for b.Loop() {
		copy(dst, src)
	}
}
