package decode

import "github.com/coldload/coldload/stages"

// CheckWord computes the weights in one word again, each by itself.
func (op *rowsDequant) CheckWord(j *stages.Job, row, word int) error {
	inputs := j.RowBytes / (op.to.Bits() / 8)
	return checkWeights(j, row, word, op.to, func(k int) float32 {
		g := k / op.Group
		if op.ActOrder {
			g = int(wordAt(j.Src[len(j.Src)-1], k))
		}
		scale := row*op.Groups + g
		if op.OneScale {
			scale = 0
		}
		return valueAt(op.scales, j.Src[rowsScales], scale) * float32(op.difference(j, row, k, g, inputs))
	})
}

// difference is the code of input feature k and output feature n, less its zero point, which is that of group g. There are so many inputs.
func (op *rowsDequant) difference(j *stages.Job, n, k, g, inputs int) int {
	if op.Signed {
		return int(int8(j.Src[rowsCodes][n*inputs+k]))
	}
	zero := 1 << (op.Bits - 1)
	if !op.Symmetric {
		zero = op.field(j.Src[rowsScales+1], n/(32/op.Bits)*op.Groups+g, n)
	}
	words := inputs * op.Bits / 32 // of a row
	return op.field(j.Src[rowsCodes], n*words+k*op.Bits/32, k) - zero
}

// field is the i-th of those in a word, counted from any multiple of their number in a word.
func (op *rowsDequant) field(b []byte, word, i int) int {
	return int(wordAt(b, word)>>(i*op.Bits%32)) & (1<<op.Bits - 1)
}
