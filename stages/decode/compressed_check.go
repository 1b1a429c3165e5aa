package decode

import (
	"encoding/binary"

	"github.com/coldload/coldload/stages"
)

// CheckWord computes the weights in one word again, each by itself.
func (op *rowsDequant) CheckWord(j *stages.Job, row, word int) error {
	size := op.to.Bits() / 8
	return checkElements(j, row, word, size, func(k int, out []byte) {
		g := k / op.Group
		if op.ActOrder {
			g = int(binary.LittleEndian.Uint32(j.Src[len(j.Src)-1][4*k:]))
		}
		zero := 1 << (op.Bits - 1)
		if !op.Symmetric {
			zero = op.field(j.Src[rowsScales+1], row/(32/op.Bits)*op.Groups+g, row)
		}
		words := j.RowBytes / size * op.Bits / 32 // of a row
		op.weight(out, j.Src[rowsScales], row*op.Groups+g, op.field(j.Src[rowsCodes], row*words+k*op.Bits/32, k)-zero)
	})
}

// field is the i-th of those in a word, counted from any multiple of their number in a word.
func (op *rowsDequant) field(b []byte, word, i int) int {
	return int(binary.LittleEndian.Uint32(b[4*word:])>>(i*op.Bits%32)) & (1<<op.Bits - 1)
}
