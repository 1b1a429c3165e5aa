package repack

import (
	"github.com/coldload/coldload/internal/cpu"
	"github.com/coldload/coldload/stages"
)

// columnOrder is an order of the columns of a tile: column i of the result is column columnOrder[i] of what is put into order.
type columnOrder [tileN]int

func columnOrderOf(from func(i int) int) (o columnOrder) {
	for i := range o {
		o[i] = from(i)
	}
	return o
}

// The orders of scales. Source: LAYOUTS C2 and C4.
var (
	groupedColumns = columnOrderOf(func(i int) int { return 8*(i%8) + i/8 })
	singleColumns  = columnOrderOf(func(i int) int { return i&^31 + 2*(i%32/8) + i%2 + 8*(i%8/2) })
	// fp4Columns is that of grouped scales, with the second and third of every four changing places.
	fp4Columns = columnOrderOf(func(i int) int { return 8*(i&4|i&1<<1|i>>1&1) + i/8 })
)

// columns is the order of p.
func (p Permutation) columns() *columnOrder {
	if p == Grouped {
		return &groupedColumns
	}
	return &singleColumns
}

// scaleStrips transposes scales [N, G] of one or two bytes to G rows of N and puts the columns of each into an order, a strip of tileN rows
// at a time.
type scaleStrips struct {
	stride       int // of the destination
	groups, size int
	stream       bool       // whole lines go past the caches
	rows         [tileN]int // where the row begins, in a strip, that becomes column i

	narrow [64 * 64]byte // rows of a strip that has few groups
}

// stripStream is the size of a destination, in bytes, from which on strips go past the caches: less than that of others, since each line of a
// strip is in another row, and costs a read of its own before it can be written in the cache.
const stripStream = cpu.MinStream / 8

// newScaleStrips is for the rows of a Job's destination, whose strips end with finish.
func newScaleStrips(j *stages.Job, size int, order *columnOrder) *scaleStrips {
	s := &scaleStrips{stride: j.Stride, groups: j.Rows, size: size}
	s.stream = !j.Soon && j.Rows*j.RowBytes >= stripStream && j.Stride%cpu.Line == 0
	for i, r := range order {
		s.rows[i] = r * s.groups * size
	}
	return s
}

// bytes is a strip of the source.
func (s *scaleStrips) bytes() int { return tileN * s.groups * s.size }

// generic transposes one strip: dst begins with its columns of the first row. It is the reference.
func (s *scaleStrips) generic(dst, src []byte) {
	for i, at := range s.rows {
		row, to := src[at:at+s.groups*s.size], i*s.size
		for g := range s.groups {
			copy(dst[g*s.stride+to:][:s.size], row[g*s.size:])
		}
	}
}
