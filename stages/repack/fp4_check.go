package repack

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/coldload/coldload/internal/values"
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
	exponent := 7 + op.factorOf(j)
	return compareFP4Scales(j, row, word, func(c byte) byte {
		v := math.Ldexp(values.Of(safetensors.F8E4M3, []byte{c}), exponent)
		if v < 2 {
			return 0
		}
		return byte(rounded(safetensors.F16, v) >> 7) // the five bits of the exponent and the first three of the fraction
	})
}

// factorOf is the logarithm of the factor: as large as it can be for the largest scale to stay below 448.
func (f *nvfp4Factor) factorOf(j *stages.Job) (shift int) {
	var peak byte
	if f.scanned {
		peak = byte(j.Scanned)
	}
	for _, src := range j.Src[1:] {
		peak, _ = peakBytes(src, peak) // all are positive, and of such numbers the larger has the larger byte
	}
	if peak > 0 {
		for largest := 2 * values.Of(safetensors.F8E4M3, []byte{peak}); largest <= 448; largest *= 2 {
			shift++
		}
	}
	return shift
}

// CheckWord computes the scale of the tensor again.
func (op *nvfp4MarlinGlobal) CheckWord(j *stages.Job, _, _ int) error {
	global, exponent := values.Of(safetensors.F32, j.Src[0]), 7
	if op.divisor {
		global = float64(1 / float32(global))
	}
	if op.act == safetensors.BF16 {
		exponent = 119
	}
	var out [4]byte
	values.Put(out[:], safetensors.F32, math.Ldexp(global, exponent-op.factorOf(j)))
	if is, must := binary.LittleEndian.Uint32(j.Dst), binary.LittleEndian.Uint32(out[:]); is != must {
		return mismatch("the scale of the tensor", must, is)
	}
	return nil
}
