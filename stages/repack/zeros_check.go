package repack

import (
	"encoding/binary"
	"fmt"

	"github.com/coldload/coldload/stages"
)

// CheckWord compares the zero points in one word with those of the file.
func (op marlinZeros) CheckWord(j *stages.Job, row, word int) error {
	return compareZeros(j, row, word, func(n int) uint32 {
		field := n % 8
		if op.EvensFirst {
			field = evensFirst(n)
		}
		w := binary.LittleEndian.Uint32(j.Src[0][row*j.RowBytes+n/8*4:])
		if op.OneLess {
			w += 0x1111_1111
		}
		return w >> (4 * field) & 15
	})
}

// CheckWord compares the zero points in one word with those of the file.
func (rowsMarlinZeros) CheckWord(j *stages.Job, row, word int) error {
	return compareZeros(j, row, word, func(n int) uint32 {
		return binary.LittleEndian.Uint32(j.Src[0][4*(n/8*j.Rows+row):]) >> (4 * (n % 8)) & 15
	})
}

// compareZeros compares the zero points in one word with what zero says of output features of the row's group. Source: LAYOUTS C2.
func compareZeros(j *stages.Job, row, word int, zero func(n int) uint32) error {
	got := binary.LittleEndian.Uint32(j.Row(row)[4*word:])
	for f := range 8 {
		n := tileN*(word/8) + 16*(f%4) + 8*(f/4) + word%8
		if is, must := got>>(4*f)&15, zero(n); is != must {
			return mismatch(fmt.Sprintf("zero point of group %d, output feature %d", row, n), must, is)
		}
	}
	return nil
}
