package repack

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// CheckWord compares four scales with those of the file.
func (mxfp4MarlinScales) CheckWord(j *stages.Job, row, word int) error {
	return compareFP4Scales(j, row, word, func(c byte) byte { return c })
}

// compareFP4Scales compares the four scales in one word with what change makes of those of the file, [N, G]. Source: LAYOUTS C4.
func compareFP4Scales(j *stages.Job, row, word int, change func(byte) byte) error {
	b := j.Row(row)
	for i := 4 * word; i < 4*word+4; i++ {
		c := i % 8
		n := i/tileN*tileN + 8*(c&4|c&1<<1|c>>1&1) + i%tileN/8
		if must := change(j.Src[0][n*j.Rows+row]); b[i] != must {
			return mismatch(fmt.Sprintf("scale of group %d, output feature %d", row, n), uint32(must), uint32(b[i]))
		}
	}
	return nil
}

// CheckWord compares four scales with those of the file, by the definition of their values.
func (op *nvfp4MarlinScales) CheckWord(j *stages.Job, row, word int) error {
	shift, err := op.shift(op, j)
	if err != nil {
		return err
	}
	return compareFP4Scales(j, row, word, func(c byte) byte {
		if b := s0e5m3(c, shift); c < nanE4M3 && b >= leastS0E5M3 {
			return b
		}
		return 0
	})
}

// CheckWord computes the scale of the tensor again.
func (op *nvfp4MarlinGlobal) CheckWord(j *stages.Job, _, _ int) error {
	shift, err := op.shift(op, j)
	if err != nil {
		return err
	}
	global, exponent := float64(math.Float32frombits(binary.LittleEndian.Uint32(j.Src[0]))), 7
	if op.divisor {
		global = float64(1 / float32(global))
	}
	if op.act == safetensors.BF16 {
		exponent = 119
	}
	must := math.Float32bits(float32(math.Ldexp(global, exponent-shift)))
	if got := binary.LittleEndian.Uint32(j.Dst); got != must {
		return mismatch("the scale of the tensor", must, got)
	}
	return nil
}
