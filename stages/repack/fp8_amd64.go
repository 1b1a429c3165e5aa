//go:build !purego

package repack

import "github.com/coldload/coldload/internal/cpu"

// fp8Kernel is the kernel for F8 weights and how many rows of tiles a step of it makes; 0 when there is none.
func fp8Kernel(stream bool) (kernel func(dst, src *byte, steps, dstStride, srcStride int), rows int) {
	switch f := &cpu.X86; {
	case f.AVX512 && stream:
		return marlinFP8AVX512NT, 4
	case f.AVX512:
		return marlinFP8AVX512, 4
	case f.AVX2 && stream:
		return marlinFP8AVX2NT, 2
	case f.AVX2:
		return marlinFP8AVX2, 2
	}
	return nil, 0
}

// fp8Columns repacks a column of tiles: src holds 64 rows of 16*rows bytes, dst rows of tiles stride bytes apart. It returns how many rows of
// tiles it made; the few that are left are fp8Tile's.
func fp8Columns(dst, src []byte, rows, stride int, stream bool) int {
	kernel, each := fp8Kernel(stream)
	if kernel == nil || rows < each {
		return 0
	}
	steps, most := rows/each, cpu.MaxCall/(16*tileN*each)
	_, _ = dst[(steps*each-1)*stride+16*tileN-1], src[16*rows*tileN-1] // the kernel trusts these bounds
	for s := 0; s < steps; s += most {
		kernel(&dst[s*each*stride], &src[s*each*tileK], min(most, steps-s), stride, 16*rows)
	}
	return steps * each
}
