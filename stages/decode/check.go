package decode

import (
	"bytes"
	"fmt"

	"github.com/coldload/coldload/stages"
)

// checkElements compares the elements in one word, of size bytes each, with those that element writes to out for the place in the row.
func checkElements(j *stages.Job, row, word, size int, element func(i int, out []byte)) error {
	b := j.Row(row)
	var out [4]byte
	for i := 4 * word / size; i < 4*(word+1)/size; i++ {
		element(i, out[:size])
		if is := b[i*size : (i+1)*size]; !bytes.Equal(is, out[:size]) {
			return &stages.MismatchError{
				What: fmt.Sprintf("element %d of row %d", i, row), Want: fmt.Sprintf("%#x", out[:size]), Got: fmt.Sprintf("%#x", is),
			}
		}
	}
	return nil
}
