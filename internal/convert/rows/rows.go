// Package rows does what the Ops of decode and fuse share: it checks that a source fits the rectangle it is to be written to, and copies
// it there. Both sides are plain rows of bytes; the source's lie next to each other, the destination's [stages.Job.Stride] bytes apart.
package rows

import (
	"encoding/binary"
	"fmt"

	"github.com/coldload/coldload/stages"
)

// Check reports why j cannot be done: it must have one source, of exactly Rows rows of srcRow bytes, and a destination that holds Rows
// rows of RowBytes bytes at the Stride without overlap. After a nil error every j.Row(i) and every i*srcRow is in range. A failed check
// is a fault of the plan, not of the checkpoint. The error says neither Op nor tensor: internal/execute puts them in front.
func Check(j *stages.Job, srcRow int) error {
	if len(j.Src) != 1 {
		return fmt.Errorf("one source expected, found %d", len(j.Src))
	}
	if err := checkRect(j); err != nil {
		return err
	}
	// Rows is at most len(Dst) when a row has bytes at all, but srcRow may be anything: no product that could wrap.
	if n := len(j.Src[0]); j.RowBytes == 0 || j.Rows == 0 {
		if n != 0 {
			return fmt.Errorf("source of %d bytes for an empty rectangle", n)
		}
	} else if n%j.Rows != 0 || n/j.Rows != srcRow {
		return fmt.Errorf("source of %d bytes, expected %d rows of %d", n, j.Rows, srcRow)
	}
	return nil
}

// checkRect divides where a product could wrap.
func checkRect(j *stages.Job) error {
	if j.Rows < 0 || j.RowBytes < 0 {
		return fmt.Errorf("rectangle of %d rows of %d bytes", j.Rows, j.RowBytes)
	}
	if j.Rows == 0 || j.RowBytes == 0 {
		return nil
	}
	room := len(j.Dst) - j.RowBytes // what lies before the last row
	if room < 0 || j.Rows > 1 && (j.Stride < j.RowBytes || j.Stride > room/(j.Rows-1)) {
		return fmt.Errorf("rectangle of %d rows of %d bytes every %d does not fit into %d bytes", j.Rows, j.RowBytes, j.Stride, len(j.Dst))
	}
	return nil
}

// Contiguous reports whether the rows of the destination lie next to each other, so that they can be written as one.
func Contiguous(j *stages.Job) bool { return j.Rows == 1 || j.Stride == j.RowBytes }

// Copy writes the source's rows to the rectangle as they are. It fails as Check does, with nothing written.
func Copy(j *stages.Job) error {
	if err := Check(j, j.RowBytes); err != nil {
		return err
	}
	src := j.Src[0]
	if len(src) == 0 {
		return nil
	}
	if Contiguous(j) {
		copy(j.Dst, src)
		return nil
	}
	for i := range j.Rows {
		copy(j.Row(i), src[i*j.RowBytes:])
	}
	return nil
}

// CheckWord compares one word of what Copy wrote with the source, as [stages.Checker] says.
func CheckWord(j *stages.Job, row, word int) error {
	is, must := binary.LittleEndian.Uint32(j.Row(row)[4*word:]), binary.LittleEndian.Uint32(j.Src[0][row*j.RowBytes+4*word:])
	if is == must {
		return nil
	}
	return &stages.MismatchError{What: fmt.Sprintf("byte %d of row %d and the next three", 4*word, row), Want: fmt.Sprintf("%#08x", must), Got: fmt.Sprintf("%#08x", is)}
}
