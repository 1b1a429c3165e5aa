package repack

import (
	"math"

	"github.com/coldload/coldload/internal/values"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// CheckWord compares one Marlin word with the weights.
func (fp8Marlin) CheckWord(j *stages.Job, row, word int) error {
	k := tileK * j.Rows
	return compareCodes(j, 8, row, word, func(i, n int) uint32 { return uint32(j.Src[0][n*k+i]) })
}

// CheckWord compares two scales with those of the file, or padding with zeros.
func (op *fp8MarlinScales) CheckWord(j *stages.Job, row, word int) error {
	members := op.members
	if len(members) == 0 {
		members = []Member{{N: j.RowBytes / 2}}
	}
	return compareHalves(j, row, word, func(g, column int) uint16 {
		column = op.perm.source(column)
		for i, m := range members {
			if m.At <= column && column < m.At+m.N {
				return op.one(j.Src[i], m.N, g, column-m.At)
			}
		}
		return 0
	})
}

// one is the scale of group g and output feature n of a member that has columns of them; 0 behind its last group.
func (op *fp8MarlinScales) one(src []byte, columns, g, n int) uint16 {
	each := columns // output features to a block
	if op.blocks.Rows > 0 {
		each = int(op.blocks.Rows)
	}
	size := op.from.Bits() / 8
	groups := len(src) / size / ((columns + each - 1) / each)
	if g >= groups {
		return 0
	}
	var out [2]byte
	values.Put(out[:], op.to, values.Of(op.from, src[(n/each*groups+g)*size:]))
	value := values.Of(op.to, out[:])
	if op.factor != 1 { // by as much as the exponents of to are larger than those of F8_E4M3
		value = math.Ldexp(value, map[stages.DType]int{safetensors.F16: 15 - 7, safetensors.BF16: 127 - 7}[op.to])
	}
	return rounded(op.to, value)
}
