package decode

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/coldload/coldload/internal/values"
	"github.com/coldload/coldload/stages"
)

// The checks of the Ops use neither their kernels nor their tables: elements are decoded and rounded by internal/values, one by one, and codes
// are found by the definition of their layout.

// checkElements compares the elements that are in one word, or around it, of size bytes each, with those that element writes to out for the place
// in the row.
func checkElements(j *stages.Job, row, word, size int, element func(i int, out []byte)) error {
	b := j.Row(row)
	var out [8]byte
	for i := 4 * word / size; i <= (4*word+3)/size; i++ { // an element of 8 bytes is looked at for either of its words
		element(i, out[:size])
		if is := b[i*size : (i+1)*size]; !bytes.Equal(is, out[:size]) {
			return &stages.MismatchError{
				What: fmt.Sprintf("element %d of row %d", i, row), Want: fmt.Sprintf("%#x", out[:size]), Got: fmt.Sprintf("%#x", is),
			}
		}
	}
	return nil
}

// checkWeights compares the elements in one word, which are of dtype to, with value, rounded.
func checkWeights(j *stages.Job, row, word int, to stages.DType, value func(i int) float32) error {
	return checkElements(j, row, word, to.Bits()/8, func(i int, out []byte) { values.Put(out, to, float64(value(i))) })
}

// valueAt is element i of b, of a dtype that F32 holds, as scales are.
func valueAt(d stages.DType, b []byte, i int) float32 { return float32(values.Of(d, b[i*d.Bits()/8:])) }

// wordAt is the i-th word of b.
func wordAt(b []byte, i int) uint32 { return binary.LittleEndian.Uint32(b[4*i:]) }

// evensFirst is the field of a word of eight in which some layouts have the i-th: the even ones, then the odd ones. Source: LAYOUTS A2.
func evensFirst(i int) int { return i%8/2 + i%2*4 }
