package repack

import (
	"encoding/binary"
	"math"

	"github.com/coldload/coldload/internal/convert"
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
	blocks, _ := op.blocks.Grid(int64(columns), 1)
	size := op.from.Bits() / 8
	groups := len(src) / size / int(blocks)
	if g >= groups {
		return 0
	}
	if n /= max(1, int(op.blocks.Rows)); op.blocks.Rows <= 0 {
		n = 0
	}
	at := (n*groups + g) * size
	var wide [4]byte
	var out [2]byte
	op.toF32(wide[:], src[at:at+size])
	op.fromF32(out[:], wide[:])
	value := convert.F16ToF32(binary.LittleEndian.Uint16(out[:]))
	if op.to == safetensors.BF16 {
		value = convert.BF16ToF32(binary.LittleEndian.Uint16(out[:]))
	}
	binary.LittleEndian.PutUint32(wide[:], math.Float32bits(value*op.factor))
	op.fromF32(out[:], wide[:])
	return binary.LittleEndian.Uint16(out[:])
}
