//go:build !purego

package decode

import (
	"github.com/coldload/coldload/internal/cpu"
	"github.com/coldload/coldload/safetensors"
)

// fp8Block is how many weights the kernels decode at a time.
const fp8Block = 32

// hasKernel reports whether the processor has a kernel for the weights: whole blocks of them share a scale.
func (d *fp8Job) hasKernel() bool {
	return cpu.X86.AVX2 && d.k%fp8Block == 0 && d.width()%fp8Block == 0
}

type fp8Kernel func(dst, src *byte, scale *float32, blocks int)

var fp8Kernels = map[safetensors.DType][2][2]fp8Kernel{ // AVX2 or AVX-512; normal stores or non-temporal
	safetensors.BF16: {{fp8ToBF16AVX2, fp8ToBF16AVX2NT}, {fp8ToBF16AVX512, fp8ToBF16AVX512NT}},
	safetensors.F16:  {{fp8ToF16AVX2, fp8ToF16AVX2NT}, {fp8ToF16AVX512, fp8ToF16AVX512NT}},
	safetensors.F32:  {{fp8ToF32AVX2, fp8ToF32AVX2NT}, {fp8ToF32AVX512, fp8ToF32AVX512NT}},
}

// kernel decodes one row: dst and src hold d.k weights, none of which is NaN or becomes infinite.
func (d *fp8Job) kernel(dst, src []byte, scales []float32) {
	size, wide, stream := d.op.to.Bits()/8, 0, 0
	if cpu.X86.AVX512 {
		wide = 1
	}
	if !d.job.Soon && d.job.Rows*d.job.RowBytes >= cpu.MinStream && cpu.ToLine(dst) == 0 {
		stream = 1
	}
	kernel := fp8Kernels[d.op.to][wide][stream]
	most := cpu.MaxCall / 4 // weights of one call
	for k := 0; k < d.k; {
		end := min(d.k, k+most, (k/d.width()+1)*d.width())
		_, _ = dst[end*size-1], src[end-1] // the kernel trusts these bounds
		kernel(&dst[k*size], &src[k], &scales[k/d.width()], (end-k)/fp8Block)
		k = end
	}
}
