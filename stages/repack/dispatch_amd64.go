//go:build !purego

package repack

import (
	"slices"

	"github.com/coldload/coldload/internal/cpu"
)

type marlinKernel func(dst, src *byte, tiles, rows, dstStride, srcStride, ahead, gap, step int)

// marlinKernels are the kernels of one width, by features; stream are those with non-temporal stores.
func marlinKernels(bits int, stream bool) marlinKernel {
	f := &cpu.X86
	switch {
	case bits == 4 && f.AVX512VBMI && stream:
		return marlin4VBMINT
	case bits == 4 && f.AVX512VBMI:
		return marlin4VBMI
	case bits == 4 && f.AVX512 && stream:
		return marlin4AVX512NT
	case bits == 4 && f.AVX512:
		return marlin4AVX512
	case bits == 4 && f.AVX2 && stream:
		return marlin4AVX2NT
	case bits == 4 && f.AVX2:
		return marlin4AVX2
	case bits == 8 && f.AVX512 && stream:
		return marlin8AVX512NT
	case bits == 8 && f.AVX512:
		return marlin8AVX512
	case bits == 8 && f.AVX2 && stream:
		return marlin8AVX2NT
	case bits == 8 && f.AVX2:
		return marlin8AVX2
	}
	return nil
}

func (r *marlinRect) repack(bits int) {
	if r.rows == 0 || r.n == 0 {
		return
	}
	size := 2 * bits * r.n // of a row, in dst as in src
	kernel := marlinKernels(bits, r.streams(size))
	if kernel == nil {
		r.generic(bits)
		return
	}
	dst, src, packed := r.dst, r.src, r.between(4*r.n)
	from := packed * bits / 2                                                 // from one row of tiles to the next, in src
	_, _ = dst[(r.rows-1)*r.stride+size-1], src[r.sourceEnd(bits/2, 4*r.n)-1] // the kernel trusts these bounds
	// A short row of tiles reads a run of packed rows that is prefetched as one stream, while the row before it is repacked. A long one
	// would have left the first-level cache again, so there each packed row is a stream of its own.
	ahead, gap, step := from, 4*tileN, 2*bits*tileN
	if size > 64<<10 || from != size {
		ahead, gap, step = 2<<10, packed, 4*tileN
	}
	if size <= cpu.MaxCall {
		for rows, each := r.rows, cpu.MaxCall/size; rows > 0; rows -= each {
			each = min(each, rows)
			kernel(&dst[0], &src[0], r.n/tileN, each, r.stride, packed, ahead, gap, step)
			if each < rows {
				dst, src = dst[each*r.stride:], src[each*from:]
			}
		}
		return
	}
	tileBytes := 2 * bits * tileN
	for i := range r.rows {
		for t, tiles := 0, r.n/tileN; t < tiles; t += cpu.MaxCall / tileBytes {
			kernel(&dst[i*r.stride+t*tileBytes], &src[i*from+4*tileN*t], min(cpu.MaxCall/tileBytes, tiles-t), 1, r.stride, packed, ahead, gap, step)
		}
	}
}

type awqKernel func(dst, src *byte, steps, rows, dstStride, srcStride int)

// repackAWQ takes tiles two by two where the processor can, and an odd one as other processors do.
func (r *marlinRect) repackAWQ() {
	f, tiles := &cpu.X86, r.n/tileN
	one, two := awqKernel(awqMarlinAVX2), awqKernel(awqMarlinAVX512)
	if r.streams(8 * r.n) {
		one, two = awqMarlinAVX2NT, awqMarlinAVX512NT
	}
	switch {
	case r.rows == 0 || tiles == 0:
	case f.AVX512:
		r.runAWQ(two, 2, 0, tiles/2)
		r.runAWQ(one, 1, tiles/2*2, tiles%2)
	case f.AVX2:
		r.runAWQ(one, 1, 0, tiles)
	default:
		r.genericAWQ()
	}
}

// runAWQ runs a kernel on all rows of some tiles, from the first on: steps of width tiles each.
func (r *marlinRect) runAWQ(kernel awqKernel, width, first, steps int) {
	size, apart := 8*r.n, r.between(r.n/2)
	_, _ = r.dst[(r.rows-1)*r.stride+size-1], r.src[r.sourceEnd(16, r.n/2)-1] // the kernel trusts these bounds
	each, most := max(cpu.MaxCall/size, 1), cpu.MaxCall/(8*tileN*width)
	for row := 0; row < r.rows; row += each {
		for step := 0; step < steps; step += most {
			at := first + step*width
			kernel(&r.dst[row*r.stride+8*tileN*at], &r.src[row*16*apart+tileN/2*at], min(most, steps-step), min(each, r.rows-row), r.stride, apart)
		}
	}
}

// streams reports whether rows of size bytes are written past the caches.
func (r *marlinRect) streams(size int) bool {
	return !r.soon && max(r.total, r.rows*size) >= cpu.MinStream && cpu.ToLine(r.dst) == 0 && r.stride%cpu.Line == 0
}

// gather is gatherRow: 4 or 8 bits by a kernel.
func gather(dst, qweight []byte, rows []int32, bits int) {
	width := 32
	if cpu.X86.AVX512 {
		width = 64
	}
	n, per := len(dst), 32/bits
	if !cpu.X86.AVX2 || bits < 4 || n < width {
		gatherRow(dst, qweight, rows, bits)
		return
	}
	var off [8]int
	var shift [8]uint32
	for i, r := range rows[:per] {
		k := int(r)
		off[i] = k / per * n
		_ = qweight[off[i]+n-1] // the kernel trusts these bounds
		_ = qweight[off[i]]
		shift[i] = uint32(bits * (k % per))
		if width == 64 {
			shift[i] = (shift[i] - uint32(bits*i)) % 32
		}
	}
	step := cpu.MaxCall / per
	for at := 0; at+width <= n; at += step {
		gatherBlocks(&dst[at], &qweight[at], &off, &shift, min(step, n-at)/width, bits)
	}
	if n%width != 0 { // the last block again, from further left
		gatherBlocks(&dst[n-width], &qweight[n-width], &off, &shift, 1, bits)
	}
}

// gatherBlocks calls the kernels by name: through a variable, off and shift would escape to the heap.
func gatherBlocks(dst, src *byte, off *[8]int, shift *[8]uint32, blocks, bits int) {
	switch {
	case cpu.X86.AVX512 && bits == 4:
		gather4AVX512(dst, src, off, shift, blocks)
	case cpu.X86.AVX512:
		gather8AVX512(dst, src, off, shift, blocks)
	case bits == 4:
		gather4AVX2(dst, src, off, shift, blocks)
	default:
		gather8AVX2(dst, src, off, shift, blocks)
	}
}

// spreadStrip is spreadRows. Rows that far apart are no stream for the hardware, so they are prefetched some rows ahead.
func spreadStrip(strip, src []byte, stride, bits int) {
	rows := len(strip) / tileRow
	if !cpu.X86.AVX2 || rows == 0 {
		spreadRows(strip, src, stride, bits)
		return
	}
	_, _ = src[(rows-1)*stride+tileRow-1], strip[rows*tileRow-1] // the kernels trust these bounds
	ahead := stripAhead * stride
	switch {
	case cpu.X86.AVX512VBMI && bits == 4:
		spread4VBMI(&strip[0], &src[0], rows, stride, ahead)
	case cpu.X86.AVX512 && bits == 4:
		spread4AVX512(&strip[0], &src[0], rows, stride, ahead)
	case cpu.X86.AVX512:
		spread8AVX512(&strip[0], &src[0], rows, stride, ahead)
	case bits == 4:
		spread4AVX2(&strip[0], &src[0], rows, stride, ahead)
	default:
		spread8AVX2(&strip[0], &src[0], rows, stride, ahead)
	}
}

// stripKernel makes the tiles or the packed rows of a spread strip.
type stripKernel func(dst, strip *byte, features *uint32, rows, stride int)

// tilesKernels are the kernels for 4 bits and for 8: AVX2 or AVX-512; normal stores or non-temporal.
var tilesKernels = [2][2][2]stripKernel{
	{{tiles4AVX2, tiles4AVX2NT}, {tiles4AVX512, tiles4AVX512NT}},
	{{tiles8AVX2, tiles8AVX2NT}, {tiles8AVX512, tiles8AVX512NT}},
}

// packedRowsKernels are the same for packed rows.
var packedRowsKernels = [2][2][2]stripKernel{
	{{packedRows4AVX2, packedRows4AVX2NT}, {packedRows4AVX512, packedRows4AVX512NT}},
	{{packedRows8AVX2, packedRows8AVX2NT}, {packedRows8AVX512, packedRows8AVX512NT}},
}

// tiles is tilesGeneric.
func (t *sortedColumn) tiles() { t.run(&tilesKernels, tileK, 2*t.bits*tileN, t.tilesGeneric) }

// packedRows is packedRowsGeneric.
func (t *sortedColumn) packedRows() {
	t.run(&packedRowsKernels, 32/t.bits, tileRow, t.packedRowsGeneric)
}

// run makes rows of so many features and bytes each by the kernel for this processor, or by generic.
func (t *sortedColumn) run(kernels *[2][2][2]stripKernel, features, bytes int, generic func()) {
	if !cpu.X86.AVX2 || t.rows == 0 {
		generic()
		return
	}
	_, _ = t.strip[len(t.features)*lineBytes(t.bits)-1], t.features[t.rows*features-1] // the kernels trust these bounds
	_ = t.dst[(t.rows-1)*t.stride:][:bytes]
	wide, past := cpu.Levels(t.stream)
	kernel, most := kernels[t.bits/8][wide][past], cpu.MaxCall/(features*lineBytes(t.bits))
	for i := 0; i < t.rows; i += most {
		kernel(&t.dst[i*t.stride], &t.strip[0], &t.features[i*features], min(most, t.rows-i), t.stride)
	}
}

// transpose is transposeRows. What it prefetches are places step bytes apart, a line for each row, from ahead bytes behind src on.
func transpose(dst, src []byte, stride, ahead, step int) {
	words := len(dst) / tileRow
	if words == 0 {
		return
	}
	_, _ = src[(tileN-1)*stride+4*words-1], dst[words*tileRow-1] // the kernels trust these bounds
	w := 0
	for ; cpu.X86.AVX512 && words-w >= 16; w += 16 {
		transpose16AVX512(&dst[w*tileRow], &src[4*w], stride, ahead, step)
	}
	for ; cpu.X86.AVX2 && words-w >= 8; w += 8 {
		transpose8AVX2(&dst[w*tileRow], &src[4*w], stride, ahead, step)
	}
	if w < words {
		transposeRows(dst[w*tileRow:], src[4*w:], stride)
	}
}

// grouped is groupedRow.
func grouped(dst, src []byte) {
	switch f := &cpu.X86; {
	case f.AVX512:
		permute(groupedAVX512, dst, src, 128)
	case f.AVX2:
		permute(groupedAVX2, dst, src, 128)
	default:
		groupedRow(dst, src)
	}
}

// groupedStream is groupedRow for a destination that goes past the caches, if it is whole lines.
func groupedStream(dst, src []byte) {
	if cpu.X86.AVX512 && cpu.ToLine(dst) == 0 {
		permute(groupedAVX512NT, dst, src, 128)
	} else {
		grouped(dst, src)
	}
}

// single is singleRow.
func single(dst, src []byte) {
	switch f := &cpu.X86; {
	case f.AVX512:
		permute(singleAVX512, dst, src, 64)
	case f.AVX2:
		permute(singleAVX2, dst, src, 64)
	default:
		singleRow(dst, src)
	}
}

func permute(kernel func(dst, src *byte, blocks int), dst, src []byte, block int) {
	_ = slices.Clip(src)[:len(dst)] // the kernel trusts this
	for len(dst) >= block {
		n := min(len(dst), cpu.MaxCall) / block
		kernel(&dst[0], &src[0], n)
		dst, src = dst[n*block:], src[n*block:]
	}
}
