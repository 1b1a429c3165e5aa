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
						for _, gap := range []int{0, 6, 64} {
							checkTransposed(t, rows, columns, size, gap, rows%2 == 0, false)
							checkTransposed(t, rows, columns, size, gap, rows%2 == 0, true)
						}
					}
				}
			}
		})
	}
}

func checkTransposed(t *testing.T, rows, columns, size, gap int, atEnd, stream bool) {
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
	transpose(dst, cputest.Guarded(t, src, atEnd), dstStride, srcStride, rows, columns, size, stream)
	if !bytes.Equal(dst, want) {
		t.Fatalf("%d x %d elements of %d bytes, gap %d: differs, or more was written", rows, columns, size, gap)
	}
}

// FuzzTransposeKernels: squares and what is left of them, wherever the rows lie.
func FuzzTransposeKernels(f *testing.F) {
	f.Add(uint8(33), uint8(65), uint8(64), true, true, true)
	f.Fuzz(func(t *testing.T, rows, columns, gap uint8, wide, atEnd, stream bool) {
		size := 2
		if wide {
			size = 4
		}
		for mask := range cputest.Masks() {
			t.Run(mask, func(t *testing.T) { checkTransposed(t, 1+int(rows), 1+int(columns), size, int(gap), atEnd, stream) })
		}
	})
}
