package plan

import (
	"fmt"

	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/decode"
)

// turned is the recipe of an Output whose columns are the rows of what the checkpoint has, one module after the other: of input-major weights where
// the caller wants them output-major, and the other way round.
//
// A Slab is a whole module, up to mostTurned. A row of it needs something of every row of the source, so that Slabs of a part of the module
// read a piece of every row: their Batches are made to hold all of a module where the budget allows it, which then lies in one piece.
type turned struct {
	op         stages.Op
	opFor      func(to stages.DType) (stages.Op, error) // the Op for another dtype
	parts      []turnedPart
	rows, cols int64 // of the Output of one module
	to         int64 // bytes of an element
	perSlab    int64 // rows of the Output in a Slab; divides rows
}

// turnedPart is one of the parts that the Op reads, of every module: for each column of the Output a row, of bytes for every share rows of the Output.
type turnedPart struct {
	tensors      []int32
	share, bytes int64
}

// of is how many bytes of a row of the source so many rows of the Output need.
func (p *turnedPart) of(rows int64) int64 { return rows / p.share * p.bytes }

const (
	// mostTurned is the size that Slabs of turned modules stay below, in bytes.
	mostTurned = 64 << 20
	// turnedBytes is about how much one Part reads or writes, whichever is more: several workers share a module.
	turnedBytes = 4 << 20
	// turnedColumns divides the columns of a Part where that is possible, so that no two workers write to the same line of the processor's caches.
	turnedColumns = 64
)

// cut decides how many rows make a Slab: an even share of them, in which rows that share bytes of the source stay together. A module that has no such
// share, or so many columns that pieces of them could not be listed, is one Slab.
func (r *turned) cut() {
	unit, row := int64(1), r.cols*r.to
	for _, p := range r.parts {
		unit = max(unit, p.share)
		row = max(row, p.of(unit)*r.cols/unit)
	}
	const mostShares, mostPieces = 1 << 14, 1 << 18
	units := r.rows / unit
	r.perSlab = r.rows
	if r.cols > mostPieces {
		return
	}
	for shares := min((r.rows*row-1)/mostTurned+1, units); shares <= min(units, mostShares); shares++ {
		if units%shares == 0 {
			r.perSlab = r.rows / shares
			return
		}
	}
}

func (r *turned) slabsEach() int { return int(r.rows / r.perSlab) }

// piece is what Slab s needs of row k of a part.
func (r *turned) piece(c Catalog, s, part int, k int64) source {
	p := &r.parts[part]
	t := p.tensors[s/r.slabsEach()]
	first := int64(s%r.slabsEach()) * r.perSlab
	ext := c.Extent(int(t))
	return source{t, stages.Extent{Shard: ext.Shard, Off: ext.Off + k*p.of(r.rows) + p.of(first), Len: p.of(r.perSlab)}}
}

func (r *turned) first(c Catalog, s int) stages.Extent { return r.piece(c, s, 0, 0).extent }

func (r *turned) input(c Catalog, s int) (n need) {
	for p := range r.parts {
		last := r.piece(c, s, p, r.cols-1).extent
		n.add(last)
		n.bytes += (r.cols - 1) * last.Len
	}
	return n
}

func (r *turned) emit(c Catalog, s int, e *emitter) {
	each := r.perSlab * r.to
	for i := range r.parts {
		each = max(each, r.parts[i].of(r.perSlab))
	}
	cols := max(turnedBytes/each, 1)
	if cols > turnedColumns {
		cols -= cols % turnedColumns
	}
	var src []source
	for k := int64(0); k < r.cols; k += cols {
		n := min(cols, r.cols-k)
		src = src[:0]
		for p := range r.parts {
			if r.perSlab == r.rows {
				whole := r.piece(c, s, p, k)
				whole.extent.Len *= n
				src = append(src, whole)
				continue
			}
			for i := range n {
				src = append(src, r.piece(c, s, p, k+i))
			}
		}
		e.part(r.op, stages.Rect{Off: k * r.to, RowBytes: n * r.to, Stride: r.cols * r.to, Rows: r.perSlab}, src...)
	}
}

// turnedOutput describes an Output of columns that are rows in the checkpoint: [rows, cols] of every Module, which have one member each.
type turnedOutput struct {
	suffix     string
	rows, cols int64
	to         stages.DType
	kind       stages.Kind
	opFor      func(to stages.DType) (stages.Op, error)
	parts      []turnedPart
}

// turned adds such an Output, or reports what is wrong with it.
func (b *Builder) turned(t turnedOutput) {
	if !b.unique(t.suffix) {
		return
	}
	m := b.group.First()
	op, err := t.opFor(t.to)
	if err != nil {
		b.c.checks.ModuleFault(m, stages.CodeUnsupported, err.Error(), "", "", "use --dtype keep")
		return
	}
	r := &turned{op: op, opFor: t.opFor, parts: t.parts, rows: t.rows, cols: t.cols, to: elementBytes(t.to)}
	const most = 1 << 40 // bytes, of which a few hundred thousand Parts make
	if row := most / r.to / int64(max(b.group.Experts, 1)); t.rows <= 0 || t.cols <= 0 || t.rows > row/t.cols {
		b.c.checks.ModuleFault(m, stages.CodeShape, "is too large to be turned", fmt.Sprintf("at most %d bytes of all experts", int64(most)),
			fmt.Sprintf("%d of [%d, %d]", b.group.Experts, m.N, m.K), "")
		return
	}
	r.cut()
	row := t.cols * r.to
	b.add(t.suffix, t.to, []int64{t.rows, t.cols}, stages.LayoutRaw, t.kind, t.rows*row, r.perSlab*row, r)
}

// transposed adds an Output [N, K] of one part of every Module that is [K, N] in the checkpoint, cast to want when it is given. Modules have
// one member.
func (b *Builder) transposed(suffix string, part int, want stages.DType) {
	from := b.SourceDType(part)
	m := b.group.First()
	to, _, err := castTo(from, want)
	if err != nil {
		b.c.checks.ModuleFault(m, stages.CodeUnsupported, err.Error(), "", "", "use --dtype keep")
		return
	}
	kind := b.Kind()
	if kind == stages.KindKept {
		kind = stages.KindCast
	}
	b.turned(turnedOutput{
		suffix: suffix, rows: m.N, cols: m.K, to: to, kind: kind,
		opFor: func(to stages.DType) (stages.Op, error) { return decode.Transpose(from, to) },
		parts: []turnedPart{{b.tensors(part, 1), 1, elementBytes(from)}},
	})
}
