package decode

import (
	"bytes"
	"fmt"

	"github.com/coldload/coldload/stages"
)

// checkElements compares the elements that are in one word, or around it, of size bytes each, with those that element writes to out for the place in the row.
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
