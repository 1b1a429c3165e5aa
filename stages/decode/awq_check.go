package decode

import (
	"encoding/binary"
	"math"

	"github.com/coldload/coldload/stages"
)

// CheckWord computes the weights in one word again, each by itself.
func (op *awqGemv) CheckWord(j *stages.Job, row, word int) error {
	size := op.to.Bits() / 8
	inputs := j.RowBytes / size
	return checkElements(j, row, word, size, func(k int, out []byte) {
		g := k / op.Group
		if op.Fast {
			word := row/4*inputs + k/64*64 + row%4*16 + k%64/32*8 + k%8
			code := binary.LittleEndian.Uint16(j.Src[dequantWeight][2*word:]) >> (4 * (k % 32 / 8)) & 15
			product := op.float(j.Src[dequantScales], g*j.Rows+row) * float32(code)
			var wide [4]byte
			binary.LittleEndian.PutUint32(wide[:], math.Float32bits(product+op.float(j.Src[dequantZeros], g*j.Rows+row)))
			op.fromF32(out, wide[:])
			return
		}
		nibble := func(part, at int) int { return int(j.Src[part][at/2] >> (4 * (at % 2)) & 15) }
		groups := 8 * op.ZeroWords // that there is room for
		op.weight(out, j.Src[dequantScales], row*groups+g, nibble(dequantWeight, row*inputs+k)-nibble(dequantZeros, row*groups+g))
	})
}
