//go:build !purego

package repack

import "github.com/coldload/coldload/internal/cpu"

type rowsKernel func(dst, src *byte, lines, dstStride, srcStride, ahead, next int)

// rowsKernels are the kernels for 4 bits and for 8: AVX2 or AVX-512; normal stores or non-temporal.
var rowsKernels = [2][2][2]rowsKernel{
	{{rowsMarlin4AVX2, rowsMarlin4AVX2NT}, {rowsMarlin4AVX512, rowsMarlin4AVX512NT}},
	{{rowsMarlin8AVX2, rowsMarlin8AVX2NT}, {rowsMarlin8AVX512, rowsMarlin8AVX512NT}},
}

// repack is generic. The kernels take whole cache lines of the rows: where a row does not end with one, its last line overlaps the one
// before it. So many rows are more streams than the hardware follows. Short ones, which lie close together, are prefetched in the order of
// the addresses while those of the column of tiles before are repacked, as far as the second-level cache. Of long ones, which would not
// stay there, the next lines are.
func (c *rowsColumn) repack() {
	tiles := 32 / c.bits // in a line
	if !cpu.X86.AVX2 || c.rows < tiles {
		c.generic()
		return
	}
	wide, past := cpu.Levels(c.stream)
	kernel, row := rowsKernels[c.bits/8][wide][past], c.rowBytes()
	_, _ = c.dst[(c.rows-1)*c.stride+2*c.bits*tileN-1], c.src[tileN*row-1] // the kernels trust these bounds
	ahead, next := 3*cpu.Line, 0
	if tileN*row <= closeRows {
		ahead, next = cpu.Line, tileN*row
	}
	lines, most := c.rows/tiles, cpu.MaxCall/(cpu.Line*tileN)
	for l := 0; l < lines; l += most {
		kernel(&c.dst[l*tiles*c.stride], &c.src[l*cpu.Line], min(most, lines-l), c.stride, row, ahead, next)
	}
	if last := c.rows - tiles; c.rows%tiles != 0 {
		kernel(&c.dst[last*c.stride], &c.src[row-cpu.Line], 1, c.stride, row, ahead, 0)
	}
}
