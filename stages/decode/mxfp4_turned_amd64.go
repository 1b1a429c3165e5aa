//go:build !purego

package decode

import (
	"github.com/coldload/coldload/internal/convert"
	"github.com/coldload/coldload/internal/cpu"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

type fp4TurnedKernel func(dst, src *byte, scales *float32, groups, blocks, dstStride int)

// fp4TurnedKernels are those for a target: AVX2 or AVX-512; normal stores or non-temporal.
var fp4TurnedKernels = map[safetensors.DType][2][2]fp4TurnedKernel{
	safetensors.BF16: {{fp4TurnedToBF16AVX2, fp4TurnedToBF16AVX2NT}, {fp4TurnedToBF16AVX512, fp4TurnedToBF16AVX512NT}},
	safetensors.F16:  {{fp4TurnedToF16AVX2, fp4TurnedToF16AVX2NT}, {fp4TurnedToF16AVX512, fp4TurnedToF16AVX512NT}},
	safetensors.F32:  {{fp4TurnedToF32AVX2, fp4TurnedToF32AVX2NT}, {fp4TurnedToF32AVX512, fp4TurnedToF32AVX512NT}},
}

// turned makes the weights of some output features, at most tileRows, and some input features, at most turnedColumns, and reports whether it
// could: the processor has a kernel for whole blocks of outputs, and no weight with one of the scales becomes infinite.
func (t *mxfp4Tile) turned(j *stages.Job, first, rows, at, cols int, stream bool) bool {
	kernels, ok := fp4TurnedKernels[t.to]
	if !ok || !cpu.X86.AVX2 || rows%turnedBlock != 0 || !t.turnScales(j, first, rows, at, cols) {
		return false
	}
	const perWord = 4 // codes
	size, half := t.to.Bits()/8, j.Rows/2
	src, stride := j.Src[fp4Codes], half
	if len(j.Src) > 2 {
		src, stride = t.gatherCodes(j, first, rows, at, cols), cols/2
	} else {
		src = src[first*half+at/2:]
	}
	transpose(t.words[:], src, 2*rows, stride, rows, cols/perWord, 2, false)
	dst := j.Dst[at*j.Stride+first*size:]
	_ = dst[(cols-1)*j.Stride+rows*size-1] // the kernel trusts this
	wide, past := cpu.Levels(stream && cpu.ToLine(dst) == 0 && j.Stride%cpu.Line == 0)
	kernels[wide][past](&dst[0], &t.words[0], &t.factors[0], cols/MXFP4Group, rows/turnedBlock, j.Stride)
	return true
}

// turnScales makes the scales as the kernels want them: group by group those of all output features, of each block the even ones first. It reports whether
// no weight with one of them becomes infinite.
func (t *mxfp4Tile) turnScales(j *stages.Job, first, rows, at, cols int) bool {
	largest, groups := byte(0), cols/MXFP4Group
	t.factors = sized(t.factors, rows*groups)
	for r := range rows {
		scales := featureOf(j, fp4Scales, first+r, j.Rows/MXFP4Group)[at/MXFP4Group:][:groups]
		out := t.factors[r&^(turnedBlock-1)+r%2*turnedBlock/2+r%turnedBlock/2:]
		for g, e := range scales {
			out[g*rows] = convert.E8M0ToF32(e)
			largest = max(largest, e)
		}
	}
	return fp4Magnitudes[7]*convert.E8M0ToF32(largest) < infiniteFrom(t.to)
}
