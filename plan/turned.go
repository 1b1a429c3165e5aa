package plan

import (
	"fmt"

	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/decode"
)

// turned is the recipe of an Output of modules that the checkpoint holds input-major, [K, N] each, and that it has as [N, K], one for every
// expert.
//
// A Slab is a whole module, up to mostTurned. A row of it needs an element of every row of the source, so that Slabs of a part of the module
// read a piece of every row: their Batches are made to hold all of a module where the budget allows it, which then lies in one piece.
type turned struct {
	op       stages.Op
	tensors  []int32
	n, k     int64 // of one module
	from, to int64 // bytes of an element
	perSlab  int64 // rows of the Output in a Slab; divides n
}

const (
	// mostTurned is the size that Slabs of turned modules stay below, in bytes.
	mostTurned = 64 << 20
	// turnedPart is about how much of a source one Part turns, in bytes: several workers share a module.
	turnedPart = 4 << 20
)

// turnedRows is how many of n rows of row bytes make a Slab.
func turnedRows(n, row int64) int64 {
	shares := max((n*row+mostTurned-1)/mostTurned, 1)
	for n%shares != 0 {
		shares++
	}
	return n / shares
}

func (r *turned) slabsEach() int { return int(r.n / r.perSlab) }

// piece is what Slab s needs of row k of the source.
func (r *turned) piece(c Catalog, s int, k int64) source {
	t := r.tensors[s/r.slabsEach()]
	first := int64(s%r.slabsEach()) * r.perSlab
	ext := c.Extent(int(t))
	return source{t, stages.Extent{Shard: ext.Shard, Off: ext.Off + (k*r.n+first)*r.from, Len: r.perSlab * r.from}}
}

func (r *turned) first(c Catalog, s int) stages.Extent { return r.piece(c, s, 0).extent }

func (r *turned) input(c Catalog, s int) (n need) {
	last := r.piece(c, s, r.k-1).extent
	return need{bytes: r.k * last.Len, shard: last.Shard, end: last.End()}
}

func (r *turned) emit(c Catalog, s int, e *emitter) {
	rows := max(turnedPart/(r.perSlab*r.from), 1)
	var src []source
	for k := int64(0); k < r.k; k += rows {
		n := min(rows, r.k-k)
		src = src[:0]
		if r.perSlab == r.n {
			whole := r.piece(c, s, k)
			whole.extent.Len *= n
			src = append(src, whole)
		} else {
			for i := range n {
				src = append(src, r.piece(c, s, k+i))
			}
		}
		e.part(r.op, stages.Rect{Off: k * r.to, RowBytes: n * r.to, Stride: r.k * r.to, Rows: r.perSlab}, src...)
	}
}

// Transposed adds an Output [N, K] of one part of every Module that is [K, N] in the checkpoint, cast to want when it is given. Modules have
// one member.
func (b *Builder) Transposed(suffix string, part int, want stages.DType) {
	if !b.unique(suffix) {
		return
	}
	from := b.SourceDType(part)
	to, _, err := castTo(from, want)
	if err != nil {
		b.c.checks.ModuleFault(b.group.First(), stages.CodeUnsupported, err.Error(), "", "", "use --dtype keep")
		return
	}
	op, err := decode.Transpose(from, to)
	if err != nil {
		b.c.checks.ModuleFault(b.group.First(), stages.CodeUnsupported, err.Error(), "", "", "use --no-fuse to keep it as it is")
		return
	}
	m := b.group.First()
	if _, ok := castSize(b.c.in.Catalog.Extent(int(m.Tensors[part])).Len, from, to); !ok || m.N <= 0 || m.K <= 0 {
		b.c.checks.ModuleFault(m, stages.CodeShape, "cannot be turned", "weights of less than 2^63 bytes", fmt.Sprintf("[%d, %d]", m.K, m.N), "use --no-fuse to keep it as it is")
		return
	}
	r := &turned{
		op: op, tensors: b.tensors(part, len(b.group.Members)), n: m.N, k: m.K, from: elementBytes(from), to: elementBytes(to),
		perSlab: turnedRows(m.N, max(elementBytes(from), elementBytes(to))*m.K),
	}
	row := m.K * r.to
	kind := b.Kind()
	if kind == stages.KindKept {
		kind = stages.KindCast
	}
	b.add(suffix, to, []int64{m.N, m.K}, stages.LayoutRaw, kind, m.N*row, r.perSlab*row, r)
}
