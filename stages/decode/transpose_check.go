package decode

import (
	"github.com/coldload/coldload/internal/values"
	"github.com/coldload/coldload/stages"
)

// CheckWord turns the elements in one word again, each by itself.
func (op transposed) CheckWord(j *stages.Job, row, word int) error {
	return checkElements(j, row, word, op.toSize, func(k int, out []byte) {
		src, at := j.Src[0], (k*j.Rows+row)*op.size
		if len(j.Src) > 1 {
			src, at = j.Src[k], row*op.size
		}
		if op.from == op.to {
			copy(out, src[at:at+op.size])
			return
		}
		values.Put(out, op.to, values.Of(op.from, src[at:]))
	})
}
