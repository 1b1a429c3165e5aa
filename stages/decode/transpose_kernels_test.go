package decode

import (
	"bytes"
	"testing"

	"github.com/coldload/coldload/internal/cpu/cputest"
)

// TestTransposeKernels: every number of rows and columns around the squares, rows apart, against pages that cannot be touched.
func TestTransposeKernels(t *testing.T) {
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			for _, size := range []int{2, 4} {
				for _, rows := range []int{1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64} {
					for _, columns := range []int{1, 7, 8, 9, 16, 17, 31, 32, 33, 47, 64, 65, 128} {
						for _, gap := range []int{0, 6} {
							checkTransposed(t, rows, columns, size, gap, rows%2 == 0)
						}
					}
				}
			}
		})
	}
}

func checkTransposed(t *testing.T, rows, columns, size, gap int, atEnd bool) {
	t.Helper()
	srcStride, dstStride := columns*size+gap, rows*size+gap
	src := make([]byte, (rows-1)*srcStride+columns*size)
	for i := range src {
		src[i] = byte(i*31 + i>>8*7)
	}
	want := bytes.Repeat([]byte{canary}, (columns-1)*dstStride+rows*size)
	for r := range rows {
		for c := range columns {
			copy(want[c*dstStride+r*size:][:size], src[r*srcStride+c*size:])
		}
	}
	dst := cputest.Guarded(t, bytes.Repeat([]byte{canary}, len(want)), atEnd)
	transpose(dst, cputest.Guarded(t, src, atEnd), dstStride, srcStride, rows, columns, size)
	if !bytes.Equal(dst, want) {
		t.Fatalf("%d x %d elements of %d bytes, gap %d: differs, or more was written", rows, columns, size, gap)
	}
}
