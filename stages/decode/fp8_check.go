package decode

import (
	"github.com/coldload/coldload/internal/convert"
	"github.com/coldload/coldload/stages"
)

// CheckWord computes the weights in one word again, each by itself.
func (op *fp8Dequant) CheckWord(j *stages.Job, row, word int) error {
	size := op.to.Bits() / 8
	k := j.RowBytes / size
	_, c := op.blocks.Grid(int64(j.Rows), int64(k))
	return checkElements(j, row, word, size, func(i int, out []byte) {
		block := 0
		if op.blocks.Rows > 0 {
			block = row / int(op.blocks.Rows) * int(c)
		}
		if op.blocks.Cols > 0 {
			block += i / int(op.blocks.Cols)
		}
		scale, scaleBytes := [1]float32{}, op.scales.Bits()/8
		op.toF32(asBytes(scale[:]), j.Src[1][block*scaleBytes:(block+1)*scaleBytes])
		w := [1]float32{convert.E4M3ToF32(j.Src[0][row*k+i]) * scale[0]}
		op.fromF32(out, asBytes(w[:]))
	})
}
