package decode

import "github.com/coldload/coldload/stages"

// CheckWord computes the weights in one word again, each by itself.
func (op *awqGemv) CheckWord(j *stages.Job, row, word int) error {
	inputs := j.RowBytes / (op.to.Bits() / 8)
	return checkWeights(j, row, word, op.to, func(k int) float32 {
		g := k / op.Group
		if op.Fast {
			word := row/4*inputs + k/64*64 + row%4*16 + k%64/32*8 + k%8 // of 16 bits
			code := wordAt(j.Src[dequantWeight], word/2) >> (16*(word%2) + 4*(k%32/8)) & 15
			product := valueAt(op.scales, j.Src[dequantScales], g*j.Rows+row) * float32(code)
			return product + valueAt(op.scales, j.Src[dequantZeros], g*j.Rows+row)
		}
		nibble := func(part, at int) int { return int(j.Src[part][at/2] >> (4 * (at % 2)) & 15) }
		groups := 8 * op.ZeroWords // that there is room for
		difference := nibble(dequantWeight, row*inputs+k) - nibble(dequantZeros, row*groups+g)
		return valueAt(op.scales, j.Src[dequantScales], row*groups+g) * float32(difference)
	})
}
