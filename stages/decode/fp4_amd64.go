//go:build !purego

package decode

import (
	"math"

	"github.com/coldload/coldload/internal/cpu"
	"github.com/coldload/coldload/safetensors"
)

// fp4Block is how many codes the kernels decode at a time.
const fp4Block = 32

type fp4Kernel func(dst, src *byte, scales *float32, global float32, rows, blocks, dstStride int)

// fp4Kernels are those for a target and for so many codes a scale: AVX2 or AVX-512; normal stores or non-temporal.
var fp4Kernels = map[fp4Kind][2][2]fp4Kernel{
	{32, safetensors.BF16}: {{fp4By32ToBF16AVX2, fp4By32ToBF16AVX2NT}, {fp4By32ToBF16AVX512, fp4By32ToBF16AVX512NT}},
	{32, safetensors.F16}:  {{fp4By32ToF16AVX2, fp4By32ToF16AVX2NT}, {fp4By32ToF16AVX512, fp4By32ToF16AVX512NT}},
	{32, safetensors.F32}:  {{fp4By32ToF32AVX2, fp4By32ToF32AVX2NT}, {fp4By32ToF32AVX512, fp4By32ToF32AVX512NT}},
	{16, safetensors.BF16}: {{fp4By16ToBF16AVX2, fp4By16ToBF16AVX2NT}, {fp4By16ToBF16AVX512, fp4By16ToBF16AVX512NT}},
	{16, safetensors.F16}:  {{fp4By16ToF16AVX2, fp4By16ToF16AVX2NT}, {fp4By16ToF16AVX512, fp4By16ToF16AVX512NT}},
	{16, safetensors.F32}:  {{fp4By16ToF32AVX2, fp4By16ToF32AVX2NT}, {fp4By16ToF32AVX512, fp4By16ToF32AVX512NT}},
}

type fp4Kind struct {
	group int
	to    safetensors.DType
}

// kernel decodes the rows from first to end, whose scales are d.factors, and reports whether it could: the processor has a kernel for whole
// blocks of codes, and no weight with one of the scales becomes infinite.
func (d *fp4Job) kernel(first, end int) bool {
	kernels, ok := fp4Kernels[fp4Kind{d.group, d.to}]
	if !ok || !cpu.X86.AVX2 || d.k%fp4Block != 0 || !d.fits() {
		return false
	}
	j := d.job
	wide, past := cpu.Levels(cpu.Streams(j.Soon, j.Rows*j.RowBytes, j.Dst, j.Stride))
	dst, src := j.Dst[first*j.Stride:], j.Src[fp4Codes][first*d.k/2:end*d.k/2]
	_, _, _ = dst[(end-first-1)*j.Stride+j.RowBytes-1], src[(end-first)*d.k/2-1], d.factors[(end-first)*d.k/d.group-1] // the kernel trusts these
	most := max(1, cpu.MaxCall/j.RowBytes)
	for at := 0; at < end-first; at += most {
		kernels[wide][past](
			&dst[at*j.Stride], &src[at*d.k/2], &d.factors[at*d.k/d.group], d.global, min(most, end-first-at), d.k/fp4Block, j.Stride,
		)
	}
	return true
}

// fits reports whether no code with any of d.factors becomes infinite.
func (d *fp4Job) fits() bool {
	largest := uint32(0)
	for _, s := range d.factors {
		largest = max(largest, math.Float32bits(s)&^(1<<31))
	}
	return abs(fp4Magnitudes[7]*math.Float32frombits(largest)*d.global) < infiniteFrom(d.to)
}
