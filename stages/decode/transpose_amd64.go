//go:build !purego

package decode

import "github.com/coldload/coldload/internal/cpu"

// transposeKernel turns as many of the columns, of elements of 2 or 4 bytes, as the processor has a kernel for, and returns how many that were. The
// arguments are those of transposeGeneric.
//
// The kernels turn squares, a register each way. Where the rows end within one, the last overlaps the one before it. Those of AVX-512 write
// whole lines: past the caches with stream.
func transposeKernel(dst, src []byte, dstStride, srcStride, rows, columns, size int, stream bool) int {
	width := 32
	if cpu.X86.AVX512 {
		width = cpu.Line
	}
	side := width / size
	squares := columns / side
	if !cpu.X86.AVX2 || rows < side || squares == 0 {
		return 0
	}
	whole := squares * side
	_, _ = dst[(whole-1)*dstStride+rows*size-1], src[(rows-1)*srcStride+whole*size-1] // the kernels trust these bounds
	for r := 0; r < rows; r += side {
		at := min(r, rows-side)
		to, from := &dst[at*size], &src[at*srcStride]
		past := stream && cpu.X86.AVX512 && dstStride%cpu.Line == 0 && cpu.ToLine(dst[at*size:]) == 0
		switch {
		case past && size == 2:
			transposeSquares2AVX512NT(to, from, squares, dstStride, srcStride)
		case past:
			transposeSquares4AVX512NT(to, from, squares, dstStride, srcStride)
		case cpu.X86.AVX512 && size == 2:
			transposeSquares2AVX512(to, from, squares, dstStride, srcStride)
		case cpu.X86.AVX512:
			transposeSquares4AVX512(to, from, squares, dstStride, srcStride)
		case size == 2:
			transposeSquares2AVX2(to, from, squares, dstStride, srcStride)
		default:
			transposeSquares4AVX2(to, from, squares, dstStride, srcStride)
		}
	}
	return whole
}
