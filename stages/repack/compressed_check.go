package repack

import (
	"encoding/binary"

	"github.com/coldload/coldload/stages"
)

// CheckWord compares one Marlin word with the codes.
func (op rowsMarlin) CheckWord(j *stages.Job, row, word int) error {
	change := uint32(0)
	if op.signed {
		change = 0x80 // 128 larger, of 8 bits
	}
	return compareCodes(j, op.bits, row, word, func(k, n int) uint32 { return rowCode(j, op.bits, k, n) ^ change })
}

// rowCode is the code of input feature k and output feature n of a Part's whole codes, whose rows are those of the weight.
func rowCode(j *stages.Job, bits, k, n int) uint32 {
	words := j.Rows * bits / 2 // of a row
	return binary.LittleEndian.Uint32(j.Src[0][4*(n*words+k*bits/32):]) >> (k * bits % 32) & (1<<bits - 1)
}

// CheckWord compares one Marlin word with the codes.
func (op rowsMarlinActOrder) CheckWord(j *stages.Job, row, word int) error {
	return op.compareSorted(j, row, word, func(k, n int) uint32 { return rowCode(j, op.bits, k, n) })
}

// CheckWord compares two scales with those of the file.
func (op *rowsMarlinScales) CheckWord(j *stages.Job, row, word int) error {
	return compareHalves(j, row, word, func(g, column int) uint16 { return op.one(j.Src[0], op.perm.source(column)*j.Rows+g) })
}
