package repack

import (
	"encoding/binary"

	"github.com/coldload/coldload/stages"
)

// CheckWord compares one Marlin word with the codes.
func (awqMarlin) CheckWord(j *stages.Job, row, word int) error {
	n := j.RowBytes / 8
	return compareCodes(j, 4, row, word, func(k, c int) uint32 {
		return binary.LittleEndian.Uint32(j.Src[0][4*(k*n/8+c/8):]) >> (4 * evensFirst(c)) & 15
	})
}
