package repack

import (
	"github.com/coldload/coldload/stages"
)

// CheckWord compares two scales with those of the file.
func (op *marlinScales) CheckWord(j *stages.Job, row, word int) error {
	n := j.RowBytes / 2
	return compareHalves(j, row, word, func(r, column int) uint16 { return op.one(j.Src[0], r*n+op.perm.source(column)) })
}
