package plan

import (
	"sort"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// mostSlab is the size that Slabs stay below where their layout allows it, in bytes: one huge page. It is a property of the result (a
// packed folder's digests depend on it), so neither the budget nor the workers change it.
const mostSlab = 2 << 20

// recipe says how the Slabs of one Output are made.
type recipe interface {
	// first is where the first bulk byte of Slab s lies: Batches are sorted by it.
	first(c Catalog, s int) stages.Extent
	// input is what Slab s needs of the source.
	input(c Catalog, s int) need
	// emit adds the Slab's Parts to the Batch under construction.
	emit(c Catalog, s int, e *emitter)
}

// need is how many source bytes a Slab needs, and where the last of them ends.
type need struct {
	bytes int64
	shard int32 // the last that has some
	end   int64 // in that shard
}

func (n *need) add(e stages.Extent) {
	n.bytes += e.Len
	if e.Shard > n.shard {
		n.shard, n.end = e.Shard, 0
	}
	if e.Shard == n.shard {
		n.end = max(n.end, e.End())
	}
}

// segments is the recipe of an Output whose bytes are those of some tensors, one after the other: kept, cast, fused along dim 0, stacked.
type segments struct {
	op      stages.Op
	tensors []int32
	// from and to are the bytes that an element takes in the file and in the Output; 1 and 1 where nothing is cast.
	from, to int64
	ends     []int64 // end of every segment in the Output
	slab     int64
	codes    bool // the values mean nothing by themselves: they cannot be cast
}

// single is the recipe of an Output that is one tensor. There are hundreds of thousands of them, so it is small.
type single struct {
	op       stages.Op
	tensor   int32
	from, to uint8
}

func (r single) slice(c Catalog, s int) (slab, src stages.Extent) {
	ext := c.Extent(int(r.tensor))
	whole := ext.Len / int64(r.from) * int64(r.to)
	off := int64(s) * slabOf(whole)
	n := min(slabOf(whole), whole-off)
	from, to := int64(r.from), int64(r.to)
	return stages.Extent{Off: off, Len: n}, stages.Extent{Shard: ext.Shard, Off: ext.Off + off/to*from, Len: n / to * from}
}

func (r single) first(c Catalog, s int) stages.Extent {
	_, src := r.slice(c, s)
	return src
}

func (r single) input(c Catalog, s int) (n need) {
	n.add(r.first(c, s))
	return n
}

func (r single) emit(c Catalog, s int, e *emitter) {
	slab, src := r.slice(c, s)
	e.part(r.op, stages.Flat(0, slab.Len), source{r.tensor, src})
}

// slabOf is the Slab size of an Output of n bytes that may be cut anywhere: at mostSlab, which every element size divides.
func slabOf(n int64) int64 { return min(n, mostSlab) }

func (r *segments) first(c Catalog, s int) stages.Extent {
	var best stages.Extent
	r.each(c, s, func(_ int, _, _ int64, src stages.Extent) {
		if best.Len == 0 || before(src, best) {
			best = src
		}
	})
	return best
}

func (r *segments) input(c Catalog, s int) (n need) {
	r.each(c, s, func(_ int, _, _ int64, src stages.Extent) { n.add(src) })
	return n
}

func (r *segments) emit(c Catalog, s int, e *emitter) {
	r.each(c, s, func(i int, off, n int64, src stages.Extent) {
		e.part(r.op, stages.Flat(off, n), source{r.tensors[r.at(s)+i], src})
	})
}

// at is the first segment that reaches into Slab s.
func (r *segments) at(s int) int {
	start := int64(s) * r.slab
	return sort.Search(len(r.ends), func(i int) bool { return r.ends[i] > start })
}

// each calls f for every segment in Slab s that has bytes: its number among them, its place in the Slab, and its source bytes.
func (r *segments) each(c Catalog, s int, f func(i int, off, n int64, src stages.Extent)) {
	start := int64(s) * r.slab
	end := min(start+r.slab, r.ends[len(r.ends)-1])
	first := r.at(s)
	for i := first; i < len(r.ends) && start < end; i++ {
		segStart := int64(0)
		if i > 0 {
			segStart = r.ends[i-1]
		}
		n := min(end, r.ends[i]) - start
		if n == 0 {
			continue
		}
		ext := c.Extent(int(r.tensors[i]))
		src := stages.Extent{Shard: ext.Shard, Off: ext.Off + (start-segStart)/r.to*r.from, Len: n / r.to * r.from}
		f(i-first, start-int64(s)*r.slab, n, src)
		start += n
	}
}

// grid is the recipe of an Output whose members lie side by side in rows: everything that fuses along N, repacked or not, and stacked.
type grid struct {
	op      stages.Op
	rows    int64    // rows of one expert (of the whole Output when it is not stacked)
	perSlab int64    // rows in a Slab; divides rows when there are experts
	columns []column // one per member
	stride  int64    // bytes of a row: the sum of the columns
	tensors []int32  // expert by expert, members in order
	// sides are further tensors that the Op reads whole, each listed as tensors are.
	sides  [][]int32
	joined bool // one Op makes a row of all members; a tensor may end before the rows do
	checks []check
	opFor  func(stages.DType) (stages.Op, error) // the Op for another dtype; nil when there is none
	// needs is the scan whose value the Op needs; nil for most.
	needs *scan
	// joint are lists as tensors is; the Op reads those of all members of its expert, whole, after the sides.
	joint [][]int32
	// beside says that the Slabs have the place of the first joint tensor, or of the first that is scanned: another Output turns it into bytes.
	beside bool
}

// column is one member's share of every row.
type column struct {
	off, width int64 // in the Output's row, bytes
	src        int64 // bytes of the member's tensor that make its share of one row
}

// check is an Op that looks at tensors of every Module and writes nothing. Each list has one tensor per Module, as grid.tensors; -1 for
// none skips the check of that Module.
type check struct {
	op      stages.Op
	tensors [][]int32
}

// slabsEach is the number of Slabs of one expert.
func (r *grid) slabsEach() int64 { return (r.rows + r.perSlab - 1) / r.perSlab }

func (r *grid) locate(s int) (expert int, row, rows int64) {
	each := int(r.slabsEach())
	row = int64(s%each) * r.perSlab
	return s / each, row, min(r.perSlab, r.rows-row)
}

func (r *grid) source(c Catalog, expert, member int, row, rows int64) source {
	t := r.tensors[expert*len(r.columns)+member]
	ext := c.Extent(int(t))
	w := r.columns[member].src
	from, to := min(row*w, ext.Len), min((row+rows)*w, ext.Len)
	return source{t, stages.Extent{Shard: ext.Shard, Off: ext.Off + from, Len: to - from}}
}

func (r *grid) first(c Catalog, s int) stages.Extent {
	expert, row, rows := r.locate(s)
	switch {
	case !r.beside:
	case r.needs != nil:
		return c.Extent(int(r.needs.first))
	default:
		return c.Extent(int(firstOf(c, r.jointOf(expert, 0))))
	}
	best := r.source(c, expert, 0, row, rows).extent
	for m := 1; m < len(r.columns); m++ {
		if src := r.source(c, expert, m, row, rows).extent; before(src, best) {
			best = src
		}
	}
	return best
}

func (r *grid) input(c Catalog, s int) (n need) {
	expert, row, rows := r.locate(s)
	for m := range r.columns {
		n.add(r.source(c, expert, m, row, rows).extent)
		for _, side := range r.sides {
			n.add(c.Extent(int(side[expert*len(r.columns)+m])))
		}
	}
	for i := range r.joint {
		for _, t := range r.jointOf(expert, i) {
			n.add(c.Extent(int(t)))
		}
	}
	if row == 0 {
		r.eachCheck(c, expert, func(_ stages.Op, src []source) {
			for _, s := range src {
				n.add(s.extent)
			}
		})
	}
	return n
}

func (r *grid) emit(c Catalog, s int, e *emitter) {
	expert, row, rows := r.locate(s)
	if r.joined {
		r.emitJoined(c, expert, row, rows, e)
		return
	}
	var list [4]source
	for m, col := range r.columns {
		src := append(list[:0], r.source(c, expert, m, row, rows))
		for _, side := range r.sides {
			src = append(src, wholeTensor(c, side[expert*len(r.columns)+m]))
		}
		for i := range r.joint {
			for _, t := range r.jointOf(expert, i) {
				src = append(src, wholeTensor(c, t))
			}
		}
		e.needing(r.needs, r.op, stages.Rect{Off: col.off, RowBytes: col.width, Stride: r.stride, Rows: rows}, src...)
	}
	if row == 0 {
		r.eachCheck(c, expert, func(op stages.Op, src []source) { e.check(op, src...) })
	}
}

// emitJoined adds the Part that makes rows of all members.
func (r *grid) emitJoined(c Catalog, expert int, row, rows int64, e *emitter) {
	var list [8]source
	src := list[:0]
	for m := range r.columns {
		src = append(src, r.source(c, expert, m, row, rows))
	}
	for i := range r.joint {
		for _, t := range r.jointOf(expert, i) {
			src = append(src, wholeTensor(c, t))
		}
	}
	e.needing(r.needs, r.op, stages.Rect{RowBytes: r.stride, Stride: r.stride, Rows: rows}, src...)
	if row == 0 {
		r.eachCheck(c, expert, func(op stages.Op, src []source) { e.check(op, src...) })
	}
}

// jointOf are the joint tensors i of one expert.
func (r *grid) jointOf(expert, i int) []int32 {
	list := r.joint[i]
	n := len(list) / (len(r.tensors) / len(r.columns))
	return list[expert*n : (expert+1)*n]
}

// firstOf is the tensor that comes first in the files.
func firstOf(c Catalog, tensors []int32) int32 {
	first := tensors[0]
	for _, t := range tensors[1:] {
		if before(c.Extent(int(t)), c.Extent(int(first))) {
			first = t
		}
	}
	return first
}

// eachCheck calls f for the checks of one expert's Modules. They go with the expert's first Slab, so that every byte is fetched once.
func (r *grid) eachCheck(c Catalog, expert int, f func(op stages.Op, src []source)) {
	for _, k := range r.checks {
		n := len(k.tensors[0]) / max(len(r.tensors)/len(r.columns), 1) // Modules of one expert
		for m := expert * n; m < (expert+1)*n; m++ {
			var list [2]source
			src := list[:0]
			for _, part := range k.tensors {
				if part[m] != none {
					src = append(src, wholeTensor(c, part[m]))
				}
			}
			if len(src) == len(k.tensors) {
				f(k.op, src)
			}
		}
	}
}

func wholeTensor(c Catalog, t int32) source { return source{t, c.Extent(int(t))} }

// tall is the recipe of an Output whose members lie one below the other, each made by one Op that reads several tensors whole:
// dequantised weights. A Slab is all members of one expert.
type tall struct {
	op      stages.Op
	row     int64   // bytes of a row
	heights []int64 // rows of every member
	parts   [][]int32
	checks  *grid                                 // holds the checks
	opFor   func(stages.DType) (stages.Op, error) // the Op for another dtype; nil when there is none
}

func (r *tall) each(c Catalog, expert int, f func(off, rows int64, src []source)) {
	off := int64(0)
	for m, h := range r.heights {
		var list [4]source
		src := list[:0]
		for _, p := range r.parts {
			src = append(src, wholeTensor(c, p[expert*len(r.heights)+m]))
		}
		f(off, h, src)
		off += h * r.row
	}
}

func (r *tall) first(c Catalog, s int) stages.Extent {
	best := c.Extent(int(r.parts[0][s*len(r.heights)]))
	r.each(c, s, func(_, _ int64, src []source) {
		if before(src[0].extent, best) {
			best = src[0].extent
		}
	})
	return best
}

func (r *tall) input(c Catalog, s int) (n need) {
	add := func(src []source) {
		for _, x := range src {
			n.add(x.extent)
		}
	}
	r.each(c, s, func(_, _ int64, src []source) { add(src) })
	r.checks.eachCheck(c, s, func(_ stages.Op, src []source) { add(src) })
	return n
}

func (r *tall) emit(c Catalog, s int, e *emitter) {
	r.each(c, s, func(off, rows int64, src []source) {
		e.part(r.op, stages.Rect{Off: off, RowBytes: r.row, Stride: r.row, Rows: rows}, src...)
	})
	r.checks.eachCheck(c, s, func(op stages.Op, src []source) { e.check(op, src...) })
}

// before orders Extents as they lie in the files.
func before(a, b stages.Extent) bool {
	if a.Shard != b.Shard {
		return a.Shard < b.Shard
	}
	return a.Off < b.Off
}

// rowsPerSlab is how many of rows rows of stride bytes make a Slab. All Slabs of an Output have one size, so when there are several
// experts it divides rows.
func rowsPerSlab(rows, stride int64, stacked bool) int64 {
	if rows == 0 || stride == 0 || rows*stride <= mostSlab {
		return max(rows, 1)
	}
	n := max(mostSlab/stride, 1)
	if !stacked {
		return n
	}
	for rows%n != 0 {
		n--
	}
	return n
}

// stackedSlab is the Slab size of an Output of experts that take each bytes: all of one expert, or an even share of it that holds whole
// elements and keeps the Slabs aligned.
func stackedSlab(each int64, dtype stages.DType) int64 {
	if each <= mostSlab {
		return each
	}
	unit := int64(max(dtype.Bits()/8, 1))
	if each%64 == 0 {
		unit = 64
	}
	const mostShares = 1 << 14
	for shares := (each + mostSlab - 1) / mostSlab; shares < mostShares; shares++ {
		if each%shares == 0 && each/shares%unit == 0 {
			return each / shares
		}
	}
	return each
}

// elementBytes is the size of an element that can be cast: all of them are whole bytes.
func elementBytes(d safetensors.DType) int64 { return int64(d.Bits() / 8) }
