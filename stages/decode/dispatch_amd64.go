//go:build !purego

package decode

import (
	"github.com/coldload/coldload/internal/cpu"
	"github.com/coldload/coldload/safetensors"
)

const (
	// maxBlocks is how many blocks of 32 input features one call decodes, of the columns of a panel, by AVX2 and by AVX-512. It bounds the
	// call (to 256 KiB: an assembly kernel cannot be interrupted) and is how much is written to one row before the next. The AVX2 kernels
	// come to each line of the source twice; packed rows a power of two apart compete for one place in the cache, so they want few.
	maxBlocksAVX2, maxBlocks = 2, 8
	// aheadAlong is how far, in bytes, the packed rows of a call that goes along them are prefetched.
	aheadAlong = 512
)

// hasKernel reports whether the processor has a kernel for the codes.
func (d *dequantiser) hasKernel() bool { return (d.op.Bits == 4 || d.op.Bits == 8) && cpu.X86.AVX2 }

type dequantKernel func(dst, src *byte, dstStride, srcStride int, scales, zeros *float32, offsets *int32, blocks, columns, ahead int)

var dequantKernels = map[safetensors.DType][2][2][2]dequantKernel{ // 4 or 8 bits; AVX2 or AVX-512; normal stores or non-temporal
	safetensors.BF16: {
		{{dequant4ToBF16AVX2, dequant4ToBF16AVX2NT}, {dequant4ToBF16AVX512, dequant4ToBF16AVX512NT}},
		{{dequant8ToBF16AVX2, dequant8ToBF16AVX2NT}, {dequant8ToBF16AVX512, dequant8ToBF16AVX512NT}},
	},
	safetensors.F16: {
		{{dequant4ToF16AVX2, dequant4ToF16AVX2NT}, {dequant4ToF16AVX512, dequant4ToF16AVX512NT}},
		{{dequant8ToF16AVX2, dequant8ToF16AVX2NT}, {dequant8ToF16AVX512, dequant8ToF16AVX512NT}},
	},
	safetensors.F32: {
		{{dequant4ToF32AVX2, dequant4ToF32AVX2NT}, {dequant4ToF32AVX512, dequant4ToF32AVX512NT}},
		{{dequant8ToF32AVX2, dequant8ToF32AVX2NT}, {dequant8ToF32AVX512, dequant8ToF32AVX512NT}},
	},
}

// decodePanel decodes n columns from c on, n a multiple of lanes, with the scales and zeros of p.
func (d *dequantiser) decodePanel(p *panel, c, n int) {
	j, size, packed := d.job, d.op.to.Bits()/8, 4*d.n
	wide, stream, most := 0, 0, maxBlocksAVX2
	if cpu.X86.AVX512 {
		wide, most = 1, maxBlocks
	}
	if p.stream {
		stream = 1
	}
	ahead := most * d.op.Bits * packed // the same columns of the next call
	if p.along {
		most, ahead = 1, aheadAlong
	}
	dst := j.Dst[c*j.Stride:]
	kernel := dequantKernels[d.op.to][d.op.Bits/8][wide][stream]
	// The kernel trusts these bounds, and that k is whole blocks, which Run has checked.
	_ = dst[(n-1)*j.Stride+d.k*size-1]
	_ = j.Src[dequantWeight][(d.k*d.op.Bits/32-1)*packed+4*(c+n)-1]
	_, _, _ = p.scales[d.op.Groups*p.width-1], p.zeros[d.op.Groups*p.width-1], p.offsets[d.k-1]
	for k := 0; k < d.k; k += 32 * most {
		blocks := min(most, (d.k-k)/32)
		src, rowBytes := &j.Src[dequantWeight][k*d.op.Bits/32*packed+4*c], packed
		if d.op.alongN {
			p.words = sized(p.words, 16*n*blocks)
			d.turnPanel(p.words, k/8, 4*blocks, c, n)
			src, rowBytes, ahead = &p.words[0], 4*n, 0
		}
		kernel(&dst[k*size], src, j.Stride, rowBytes, &p.scales[0], &p.zeros[0], &p.offsets[k], blocks, n/(8*(1+wide)), ahead)
	}
}

// turnPanel makes rows of words of eight codes along K, next to each other, of words along N: see [dequantiser.turn]. The kernel takes whole
// blocks of 64 columns.
func (d *dequantiser) turnPanel(dst []byte, first, rows, c, columns int) {
	const block = 64
	row, blocks := d.n/2, columns/block
	if blocks > 0 {
		src := d.job.Src[dequantWeight][8*first*row+c/2:]
		_, _ = dst[4*rows*columns-1], src[(8*rows-1)*row+blocks*block/2-1] // the kernel trusts these bounds
		awqTurnAVX2(&dst[0], &src[0], blocks, rows, 4*columns, row)
	}
	done := blocks * block
	if done < columns {
		d.turn(dst[4*done:], columns, 1, first, rows, c+done, columns-done)
	}
}

type rowsDequantKernel func(dst, src *byte, scales, zeros *float32, groups, blocks int)

var rowsDequantKernels = map[safetensors.DType][2][2][2]rowsDequantKernel{ // 4 or 8 bits; AVX2 or AVX-512; normal stores or non-temporal
	safetensors.BF16: {
		{{rows4ToBF16AVX2, rows4ToBF16AVX2NT}, {rows4ToBF16AVX512, rows4ToBF16AVX512NT}},
		{{rows8ToBF16AVX2, rows8ToBF16AVX2NT}, {rows8ToBF16AVX512, rows8ToBF16AVX512NT}},
	},
	safetensors.F16: {
		{{rows4ToF16AVX2, rows4ToF16AVX2NT}, {rows4ToF16AVX512, rows4ToF16AVX512NT}},
		{{rows8ToF16AVX2, rows8ToF16AVX2NT}, {rows8ToF16AVX512, rows8ToF16AVX512NT}},
	},
	safetensors.F32: {
		{{rows4ToF32AVX2, rows4ToF32AVX2NT}, {rows4ToF32AVX512, rows4ToF32AVX512NT}},
		{{rows8ToF32AVX2, rows8ToF32AVX2NT}, {rows8ToF32AVX512, rows8ToF32AVX512NT}},
	},
}

// hasKernel reports whether there is a kernel for the rows: it takes 32 codes of one group at a time.
func (d *rowsDequantiser) hasKernel() bool {
	return cpu.X86.AVX2 && !d.op.ActOrder && d.op.Group%32 == 0
}

// kernel decodes row n, which has these codes.
func (d *rowsDequantiser) kernel(n int, src []byte, scales []float32) {
	j, size := d.job, d.op.to.Bits()/8
	dst := j.Row(n)
	wide, past := cpu.Levels(cpu.Streams(j.Soon, j.Rows*j.RowBytes, dst, 0)) // row by row, wherever they begin
	kernel := rowsDequantKernels[d.op.to][d.op.Bits/8][wide][past]
	zeros := d.zeros[:len(scales)]
	for len(scales) > 0 {
		groups := min(len(scales), max(cpu.MaxCall/(d.op.Group*size), 1))
		_, _ = dst[groups*d.op.Group*size-1], src[groups*d.op.Group*d.op.Bits/8-1] // the kernel trusts these bounds
		kernel(&dst[0], &src[0], &scales[0], &zeros[0], groups, d.op.Group/32)
		dst, src = dst[groups*d.op.Group*size:], src[groups*d.op.Group*d.op.Bits/8:]
		scales, zeros = scales[groups:], zeros[groups:]
	}
}
