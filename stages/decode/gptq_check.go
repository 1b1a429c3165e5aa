package decode

import "github.com/coldload/coldload/stages"

// CheckWord computes the weights in one word again, each by itself.
func (op *gptqDequant) CheckWord(j *stages.Job, row, word int) error {
	return checkWeights(j, row, word, op.to, func(k int) float32 {
		g := k / op.Group
		if op.ActOrder {
			g = int(wordAt(j.Src[dequantOrder], k))
		}
		return valueAt(op.scales, j.Src[dequantScales], g*j.Rows+row) * float32(op.codeOf(j, k, row)-op.zeroOf(j, g, row))
	})
}

// codeOf is the code of input feature k and output feature n.
func (op *gptqDequant) codeOf(j *stages.Job, k, n int) int {
	if op.alongN {
		return int(wordAt(j.Src[dequantWeight], (k*j.Rows+n)/8)>>(4*evensFirst(n))) & 15
	}
	return op.stored(k, func(bit int) uint32 { return wordAt(j.Src[dequantWeight], bit/32*j.Rows+n) >> (bit % 32) & 1 })
}

// zeroOf is the zero point of group g, output feature n.
func (op *gptqDequant) zeroOf(j *stages.Job, g, n int) int {
	if op.Symmetric {
		return 1 << op.Bits / 2
	}
	words := (j.Rows*op.Bits + 31) / 32
	word := func(i int) uint32 { return wordAt(j.Src[dequantZeros], g*words+i) }
	if op.alongN {
		return int(word(n/8)>>(4*evensFirst(n))) & 15
	}
	all := 1<<op.Bits - 1
	if op.ZeroBias > 0 && 32%op.Bits == 0 { // one add to the whole word
		sum := word(n * op.Bits / 32)
		for field := 0; field < 32; field += op.Bits {
			sum += uint32(op.ZeroBias) << field
		}
		return int(sum>>(n*op.Bits%32)) & all
	}
	return (op.stored(n, func(bit int) uint32 { return word(bit/32) >> (bit % 32) & 1 }) + op.ZeroBias) & all
}

// stored is field i of those packed as codes are, one after the other or in planes, given the bits. Each 32 fields are a block of as many words as
// a field has bits. Planes are the powers of two that a width is the sum of, and the largest has the low bits: of 3 bits 2 and 1.
func (op *gptqDequant) stored(i int, bit func(at int) uint32) (field int) {
	if !op.Planar {
		for b := range op.Bits {
			field |= int(bit(i*op.Bits+b)) << b
		}
		return field
	}
	done := 0
	for width := 8; width > 0; width /= 2 {
		if op.Bits&width == 0 {
			continue
		}
		for b := range width {
			field |= int(bit(i/32*32*op.Bits+32*done+i%32*width+b)) << (done + b)
		}
		done += width
	}
	return field
}
