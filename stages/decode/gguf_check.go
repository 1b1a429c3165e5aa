package decode

import "github.com/coldload/coldload/stages"

// CheckWord decodes the block that the weights in one word are in again, by the reference.
func (op *ggufDequant) CheckWord(j *stages.Job, row, word int) error {
	size := op.to.Bits() / 8
	k := j.RowBytes / size
	var values [256]float32 // of the largest block
	return checkElements(j, row, word, size, func(i int, out []byte) {
		at := (row*k + i) / op.elements * op.bytes
		op.block.decode(values[:op.elements], j.Src[0][at:at+op.bytes])
		op.fromF32(out, asBytes(values[i%op.elements:i%op.elements+1]))
	})
}
