package decode

import (
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// CheckWord computes the weights in one word again, each by itself.
func (op *fp8Dequant) CheckWord(j *stages.Job, row, word int) error {
	k := j.RowBytes / (op.to.Bits() / 8)
	row0, columns := 0, 1 // of the scales: the row's blocks, and how many there are beside each other
	if op.blocks.Cols > 0 {
		columns = (k + int(op.blocks.Cols) - 1) / int(op.blocks.Cols)
	}
	if op.blocks.Rows > 0 {
		row0 = row / int(op.blocks.Rows) * columns
	}
	return checkWeights(j, row, word, op.to, func(i int) float32 {
		block := row0
		if op.blocks.Cols > 0 {
			block += i / int(op.blocks.Cols)
		}
		return valueAt(safetensors.F8E4M3, j.Src[0], row*k+i) * valueAt(op.scales, j.Src[1], block)
	})
}
