package decode

import (
	"encoding/binary"
	"math"

	"github.com/coldload/coldload/internal/nibbles"
	"github.com/coldload/coldload/stages"
)

// CheckWord computes the weights in one word again, each by itself.
func (op *gptqDequant) CheckWord(j *stages.Job, row, word int) error {
	size := op.to.Bits() / 8
	d := borrowDequantiser(op, j, j.Rows, j.RowBytes/size)
	defer d.release()
	return checkElements(j, row, word, size, func(k int, out []byte) {
		g := k / op.Group
		if op.ActOrder {
			g = int(binary.LittleEndian.Uint32(j.Src[dequantOrder][4*k:]))
		}
		zero, _ := d.zero(g, row) // Run has made sure
		op.weight(out, j.Src[dequantScales], g*d.n+row, d.code(k, row)-zero)
	})
}

// weight is the scale that is the i-th of scales, times code, as a weight.
func (f *floats) weight(out, scales []byte, i, code int) {
	var wide [4]byte
	size := f.scales.Bits() / 8
	f.toF32(wide[:], scales[i*size:(i+1)*size])
	w := math.Float32frombits(binary.LittleEndian.Uint32(wide[:])) * float32(code)
	binary.LittleEndian.PutUint32(wide[:], math.Float32bits(w))
	f.fromF32(out, wide[:])
}

// code is the one of input feature k and output feature n, as it is stored.
func (d *dequantiser) code(k, n int) int {
	if d.op.alongN {
		words := d.job.Src[dequantWeight][4*(k*d.n/8+n/8):]
		return int(binary.LittleEndian.Uint32(words)>>(4*nibbles.FieldOf[n%8])) & 15
	}
	code, off := 0, 0
	for _, width := range planesOf(d.op.Bits, d.op.Planar) {
		for b := range width {
			at := 32*(k/32*d.op.Bits+off) + width*(k%32) + b // in bits of the column
			code |= int(binary.LittleEndian.Uint32(d.job.Src[dequantWeight][4*(at/32*d.n+n):])>>(at%32)&1) << (off + b)
		}
		off += width
	}
	return code
}
