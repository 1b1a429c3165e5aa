package decode

import (
	"encoding/binary"
	"math"

	"github.com/coldload/coldload/internal/convert"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// CheckWord computes the weights in one word again, each by itself.
func (op *mxfp4Dequant) CheckWord(j *stages.Job, row, word int) error {
	return op.compare(j, row, word, 1, 1)
}

// CheckWord computes the weights in one word again, each by itself.
func (op *nvfp4Dequant) CheckWord(j *stages.Job, row, word int) error {
	global := math.Float32frombits(binary.LittleEndian.Uint32(j.Src[nvfp4Global]))
	if op.divisor {
		return op.compare(j, row, word, 1, global)
	}
	return op.compare(j, row, word, global, 1)
}

// compare computes the weights in one word: code * (scale / divisor) * global.
func (f *fp4) compare(j *stages.Job, row, word int, global, divisor float32) error {
	size := f.to.Bits() / 8
	k := j.RowBytes / size
	return checkElements(j, row, word, size, func(i int, out []byte) {
		f.one(out, j.Src[fp4Codes], j.Src[fp4Scales], row*k+i, global, divisor)
	})
}

// one computes weight i of those that codes and scales have, counted along rows of whole groups.
func (f *fp4) one(out, codes, scales []byte, i int, global, divisor float32) {
	fromF32, _ := convert.Func(safetensors.F32, f.to) // there is one, see fp4Of
	at, bytes, scale := i/f.group, f.scales.Bits()/8, [1]float32{}
	f.toF32(asBytes(scale[:]), scales[at*bytes:(at+1)*bytes])
	w := [1]float32{float32(fp4Value(codes[i/2]>>(4*(i%2))&15)*float32(scale[0]/divisor)) * global}
	fromF32(out, asBytes(w[:]))
}

// CheckWord computes the weights in one word again, each by itself: they are of as many output features, whose codes may be Inputs of their own.
func (op *mxfp4Turned) CheckWord(j *stages.Job, row, word int) error {
	apart := len(j.Src) > 2
	return checkElements(j, row, word, op.to.Bits()/8, func(n int, out []byte) {
		if apart {
			op.one(out, j.Src[n], j.Src[len(j.Src)/2+n], row, 1, 1)
			return
		}
		op.one(out, j.Src[fp4Codes], j.Src[fp4Scales], n*j.Rows+row, 1, 1)
	})
}
