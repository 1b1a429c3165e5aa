package decode

import (
	"github.com/coldload/coldload/internal/values"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// CheckWord computes the weights in one word again, each by itself.
func (op *mxfp4Dequant) CheckWord(j *stages.Job, row, word int) error {
	return op.compare(j, row, word, 1, 1)
}

// CheckWord computes the weights in one word again, each by itself.
func (op *nvfp4Dequant) CheckWord(j *stages.Job, row, word int) error {
	global := valueAt(safetensors.F32, j.Src[nvfp4Global], 0)
	if op.divisor {
		return op.compare(j, row, word, 1, global)
	}
	return op.compare(j, row, word, global, 1)
}

// compare computes the weights in one word: code * (scale / divisor) * global.
func (f *fp4) compare(j *stages.Job, row, word int, global, divisor float32) error {
	k := j.RowBytes / (f.to.Bits() / 8)
	return checkWeights(j, row, word, f.to, func(i int) float32 {
		return f.one(j.Src[fp4Codes], j.Src[fp4Scales], row*k+i, global, divisor)
	})
}

// one computes weight i of those that codes and scales have, counted along rows of whole groups.
func (f *fp4) one(codes, scales []byte, i int, global, divisor float32) float32 {
	code := float32(values.FP4(codes[i/2] >> (4 * (i % 2)) & 15))
	return float32(code*float32(valueAt(f.scales, scales, i/f.group)/divisor)) * global
}

// CheckWord computes the weights in one word again, each by itself: they are of as many output features, whose codes may be Inputs of their own.
func (op *mxfp4Turned) CheckWord(j *stages.Job, row, word int) error {
	apart := len(j.Src) > 2
	return checkWeights(j, row, word, op.to, func(n int) float32 {
		if apart {
			return op.one(j.Src[n], j.Src[len(j.Src)/2+n], row, 1, 1)
		}
		return op.one(j.Src[fp4Codes], j.Src[fp4Scales], n*j.Rows+row, 1, 1)
	})
}
