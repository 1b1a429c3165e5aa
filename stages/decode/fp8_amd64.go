//go:build !purego

package decode

import (
	"github.com/coldload/coldload/internal/cpu"
	"github.com/coldload/coldload/safetensors"
)

// fp8Block is how many weights the kernels decode at a time.
const fp8Block = 32

// hasKernel reports whether the processor has a kernel for the weights: a row is whole runs of blocks that share a scale.
func (d *fp8Job) hasKernel() bool {
	w := d.width()
	return cpu.X86.AVX2 && w%fp8Block == 0 && d.k%w == 0 && 4*d.k <= cpu.MaxCall
}

type fp8Kernel func(dst, src *byte, scales *float32, rows, runs, blocks, dstStride int)

var fp8Kernels = map[safetensors.DType][2][2]fp8Kernel{ // AVX2 or AVX-512; normal stores or non-temporal
	safetensors.BF16: {{fp8ToBF16AVX2, fp8ToBF16AVX2NT}, {fp8ToBF16AVX512, fp8ToBF16AVX512NT}},
	safetensors.F16:  {{fp8ToF16AVX2, fp8ToF16AVX2NT}, {fp8ToF16AVX512, fp8ToF16AVX512NT}},
	safetensors.F32:  {{fp8ToF32AVX2, fp8ToF32AVX2NT}, {fp8ToF32AVX512, fp8ToF32AVX512NT}},
}

// kernel decodes the rows from i to end, none of whose weights is NaN or becomes infinite. A call ends the stores past the caches, which takes as
// long as some kilobytes do, so it gets several rows.
func (d *fp8Job) kernel(i, end int, scales []float32) {
	j, size := d.job, d.op.to.Bits()/8
	dst, src := j.Dst[i*j.Stride:], j.Src[0][i*d.k:]
	wide, past := cpu.Levels(cpu.Streams(j.Soon, j.Rows*j.RowBytes, dst, j.Stride))
	d.raised = sized(d.raised, len(scales))
	for i, s := range scales {
		d.raised[i] = s * 0x1p8
	}
	_, _ = dst[(end-i-1)*j.Stride+d.k*size-1], src[(end-i)*d.k-1] // the kernel trusts these bounds
	fp8Kernels[d.op.to][wide][past](&dst[0], &src[0], &d.raised[0], end-i, d.k/d.width(), d.width()/fp8Block, j.Stride)
}
