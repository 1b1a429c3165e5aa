package repack

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/coldload/coldload/internal/optest"
)

// packZeroRows packs zero points [R][N] as compressed-tensors does: eight along N to a word, the words of a column's groups side by side.
func packZeroRows(z []uint32, n int) []byte {
	groups := len(z) / n
	out := make([]uint32, len(z)/8)
	for i, v := range z {
		g, c := i/n, i%n
		out[c/8*groups+g] |= v << (4 * (c % 8))
	}
	return gptqBytes(out)
}

// TestRowsMarlinZeros compares with the element formula: every number of groups, odd and even.
func TestRowsMarlinZeros(t *testing.T) {
	golden := runOp(t, RowsMarlinZeros(), 4, vectorN/2, packZeroRows(vectorZeros(), vectorN))
	optest.WantGolden(t, "marlin zero points", golden, 0x0E8F0205, "a0972635c61219ab")
	r := rand.New(rand.NewPCG(8, 9))
	for groups := 1; groups < 20; groups++ {
		n := 64 * (1 + groups%3)
		z := make([]uint32, groups*n)
		for i := range z {
			z[i] = r.Uint32() & 15
		}
		sources.WantRows(t, RowsMarlinZeros(), groups, slowMarlinZeros(z), packZeroRows(z, n))
	}
	refusesSizes(t, RowsMarlinZeros(), 3, 64, make([]byte, 3*64))
	sources.Refuses(t, RowsMarlinZeros(), "half a block", 1, 16, make([]byte, 16))
}

func FuzzRowsMarlinZeros(f *testing.F) {
	f.Add([]byte{1, 2, 3}, uint8(3), uint8(1))
	f.Add([]byte{0xFF}, uint8(0), uint8(2))
	f.Fuzz(func(t *testing.T, seed []byte, groups, blocks uint8) {
		rows, n := 1+int(groups%40), 64*(1+int(blocks%4))
		src := make([]byte, rows*n/2)
		for i := range src {
			if len(seed) > 0 {
				src[i] = seed[i%len(seed)] + byte(i/len(seed))
			}
		}
		z := make([]uint32, rows*n)
		for i := range z {
			g, c := i/n, i%n
			z[i] = binary.LittleEndian.Uint32(src[4*(c/8*rows+g):]) >> (4 * (c % 8)) & 15
		}
		sources.WantRows(t, RowsMarlinZeros(), rows, slowMarlinZeros(z), src)
	})
}
