package repack

import (
	"encoding/binary"
	"fmt"

	"github.com/coldload/coldload/stages"
)

// CheckWord compares one Marlin word with the codes.
func (op gptqMarlin) CheckWord(j *stages.Job, row, word int) error {
	n := j.RowBytes / (2 * op.bits)
	return compareCodes(j, op.bits, row, word, func(k, c int) uint32 { return columnCode(j.Src[0], op.bits, n, k, c) })
}

// columnCode is the code of input feature k and output feature n of a qweight of GPTQ with columns output features.
func columnCode(qweight []byte, bits, columns, k, n int) uint32 {
	per := 32 / bits
	return binary.LittleEndian.Uint32(qweight[4*(k/per*columns+n):]) >> (bits * (k % per)) & (1<<bits - 1)
}

// CheckWord compares one Marlin word with the codes.
func (op gptqMarlinActOrder) CheckWord(j *stages.Job, row, word int) error {
	n := j.RowBytes / (2 * op.bits)
	return op.compareSorted(j, row, word, func(k, c int) uint32 { return columnCode(j.Src[0], op.bits, n, k, c) })
}

// CheckWord compares one entry of the order with the groups that g_idx has.
func (op sortOp) CheckWord(j *stages.Job, _, word int) error {
	got := binary.LittleEndian.Uint32(j.Row(0)[4*word:])
	must := word / (j.RowBytes / 4 / op.groups) // groups have one size, as Run has made sure
	if op.indices {
		var feature [1]int
		featuresAt(j.Src[0], op.groups, []int{word}, feature[:])
		must = feature[0]
	}
	if got != uint32(must) {
		return mismatch(fmt.Sprintf("entry %d", word), uint32(must), got)
	}
	return nil
}
