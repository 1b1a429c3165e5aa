//go:build !purego

package decode

import (
	"github.com/coldload/coldload/gguf"
	"github.com/coldload/coldload/internal/cpu"
)

// ggufKernels compute what ggufBlock.decode does: AVX2 or AVX-512.
var ggufKernels = map[gguf.Type][2]func(dst *float32, src *byte, blocks int){
	gguf.Q4_0:  {q4_0BlocksAVX2, q4_0BlocksAVX512},
	gguf.Q8_0:  {q8_0BlocksAVX2, q8_0BlocksAVX512},
	gguf.Q4K:   {q4KBlocksAVX2, q4KBlocksAVX512},
	gguf.Q6K:   {q6KBlocksAVX2, q6KBlocksAVX512},
	gguf.MXFP4: {ggufMXFP4BlocksAVX2, ggufMXFP4BlocksAVX512},
}

// values computes the values of whole blocks.
func (op *ggufDequant) values(dst []float32, blocks []byte) {
	n, wide := len(blocks)/op.bytes, 0
	kernels, ok := ggufKernels[op.typ]
	if !ok || !cpu.X86.AVX2 || n == 0 {
		op.block.decode(dst, blocks)
		return
	}
	if cpu.X86.AVX512 {
		wide = 1
	}
	_ = dst[n*op.elements-1] // the kernels trust this
	kernels[wide](&dst[0], &blocks[0], n)
}
