//go:build !purego

package repack

import "github.com/coldload/coldload/internal/cpu"

// transpose is generic. The kernels take square blocks of a register each way; the last one overlaps the one before it. What they read next
// is prefetched in the order of the addresses: so many short rows are no streams.
func (s *scaleStrips) transpose(dst, src []byte) {
	width := 32
	if cpu.X86.AVX512 {
		width = 64
	}
	block := width / s.size
	stream := s.stream && width == cpu.Line && cpu.ToLine(dst) == 0 // the kernels write whole lines
	if !cpu.X86.AVX2 || s.groups < block && width == 32 || s.groups == 0 {
		s.generic(dst, src)
		return
	}
	_, _ = dst[(s.groups-1)*s.stride+tileN*s.size-1], src[s.bytes()-1] // the kernels trust these bounds
	next := s.bytes()
	for g := 0; g < s.groups; g += block {
		at := max(0, min(g, s.groups-block))
		for c := 0; c < tileN; c += block {
			if s.groups < block {
				s.few(dst[c*s.size:], src, c, next)
			} else {
				s.block(&dst[at*s.stride+c*s.size], &src[at*s.size], c, ^uint64(0), s.stride, next-at*s.size, stream)
			}
			next += block * width
		}
	}
}

// finish ends the stores of all strips: to do so after every block takes as long as the block.
func (s *scaleStrips) finish() {
	if s.stream {
		fence()
	}
}

// few transposes a block of the columns from c on that has less groups than columns.
func (s *scaleStrips) few(dst, src []byte, c, next int) {
	s.block(&s.narrow[0], &src[0], c, 1<<s.groups-1, cpu.Line, next, false)
	for g := range s.groups {
		copy(dst[g*s.stride:][:cpu.Line], s.narrow[g*cpu.Line:])
	}
}

// block calls a kernel.
func (s *scaleStrips) block(dst, src *byte, c int, mask uint64, stride, next int, stream bool) {
	switch rows := &s.rows[c]; {
	case stream && s.size == 1:
		transposeScales1AVX512NT(dst, src, rows, mask, stride, next)
	case stream:
		transposeScales2AVX512NT(dst, src, rows, mask, stride, next)
	case cpu.X86.AVX512 && s.size == 1:
		transposeScales1AVX512(dst, src, rows, mask, stride, next)
	case cpu.X86.AVX512:
		transposeScales2AVX512(dst, src, rows, mask, stride, next)
	case s.size == 1:
		transposeScales1AVX2(dst, src, rows, mask, stride, next)
	default:
		transposeScales2AVX2(dst, src, rows, mask, stride, next)
	}
}

// largestE4M3 is the largest byte of whole lines at the start of b, where 0x80 counts as 0, and how many bytes they have.
func largestE4M3(b []byte) (largest byte, done int) {
	for cpu.X86.AVX2 && len(b)-done >= cpu.Line {
		n := min(len(b)-done, cpu.MaxCall) / cpu.Line
		if cpu.X86.AVX512 {
			largest = max(largest, peakE4M3AVX512(&b[done], n))
		} else {
			largest = max(largest, peakE4M3AVX2(&b[done], n))
		}
		done += n * cpu.Line
	}
	return largest, done
}

// changeLines is changeBytes for whole lines at the start of src. It returns what largestE4M3 does.
func (m *toS0E5M3) changeLines(dst, src []byte) (largest byte, done int) {
	dst = dst[:len(src)] // the kernels trust this
	add := uint64(m.add) * 0x0101_0101_0101_0101
	for cpu.X86.AVX2 && len(src)-done >= cpu.Line {
		n := min(len(src)-done, cpu.MaxCall) / cpu.Line
		if cpu.X86.AVX512 {
			largest = max(largest, changeE4M3AVX512(&dst[done], &src[done], n, &m.table[0], add))
		} else {
			largest = max(largest, changeE4M3AVX2(&dst[done], &src[done], n, &m.table[0], add))
		}
		done += n * cpu.Line
	}
	return largest, done
}
