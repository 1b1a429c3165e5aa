//go:build !purego

package repack

import "github.com/coldload/coldload/internal/cpu"

// fp8Kernel repacks a column of tiles, so many rows of them a step.
type fp8Kernel struct {
	run  func(dst, src *byte, steps, dstStride, srcStride int)
	rows int
}

var (
	fp8AVX512 = [2]fp8Kernel{{marlinFP8AVX512, 8}, {marlinFP8AVX512NT, 8}} // normal stores or non-temporal
	fp8AVX2   = [2]fp8Kernel{{marlinFP8AVX2, 4}, {marlinFP8AVX2NT, 4}}
)

// fp8Columns repacks a column of tiles: src holds 64 rows of 16*rows bytes, dst rows of tiles stride bytes apart. It returns how many rows of
// tiles it made; the few that are left are fp8Tile's.
func fp8Columns(dst, src []byte, rows, stride int, stream bool) (done int) {
	store := 0
	if stream {
		store = 1
	}
	if cpu.X86.AVX512 {
		done = fp8AVX512[store].columns(dst, src, 0, rows, stride)
	}
	if cpu.X86.AVX2 { // also where AVX-512 leaves half a step
		done = fp8AVX2[store].columns(dst, src, done, rows, stride)
	}
	return done
}

// columns repacks the rows of tiles from first on that are whole steps, and returns where the others begin.
func (k fp8Kernel) columns(dst, src []byte, first, rows, stride int) int {
	end := first + (rows-first)/k.rows*k.rows
	if end == first {
		return first
	}
	_, _ = dst[(end-1)*stride+16*tileN-1], src[tileK*rows*tileN-1] // the kernel trusts these bounds
	most := cpu.MaxCall / (16 * tileN) / k.rows * k.rows
	for r := first; r < end; r += most {
		k.run(&dst[r*stride], &src[r*tileK], min(most, end-r)/k.rows, stride, tileK*rows)
	}
	return end
}
