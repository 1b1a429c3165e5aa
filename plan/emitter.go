package plan

import (
	"cmp"
	"slices"
	"sort"

	"github.com/coldload/coldload/stages"
)

// mostGap is how many bytes that nobody needs are read to join two ranges, in bytes: one page, which comes from the disk anyway.
const mostGap = 4096

// emitter builds one Batch.
type emitter struct {
	catalog Catalog
	batch   *stages.Batch
	inputs  []stages.Input // of all Parts, one each, so that they are allocated together
	extents []stages.Extent
}

// part adds a Part of the newest Slab, with one Input.
func (e *emitter) part(op stages.Op, dst stages.Rect, tensor int32, src stages.Extent) {
	e.add(stages.Part{Op: op, Slab: len(e.batch.Slabs) - 1, Dst: dst}, tensor, src)
}

// check adds a Part that writes nothing.
func (e *emitter) check(op stages.Op, tensor int32, src stages.Extent) {
	e.add(stages.Part{Op: op, Slab: stages.NoSlab}, tensor, src)
}

func (e *emitter) add(p stages.Part, tensor int32, src stages.Extent) {
	e.batch.Parts = append(e.batch.Parts, p)
	e.inputs = append(e.inputs, stages.Input{Tensor: e.catalog.Name(int(tensor)), Extent: src})
	e.batch.UsedBytes += src.Len
}

// finish coalesces the ranges and points the Inputs into them.
func (e *emitter) finish() *stages.Batch {
	b := e.batch
	for i := range e.inputs {
		if e.inputs[i].Extent.Len > 0 {
			e.extents = append(e.extents, e.inputs[i].Extent)
		}
	}
	b.Ranges = coalesce(e.extents)
	for i := range b.Ranges {
		b.InBytes += b.Ranges[i].Len
	}
	for i := range b.Parts {
		in := &e.inputs[i]
		in.Range = find(b.Ranges, in.Extent)
		in.Off = in.Extent.Off - b.Ranges[in.Range].Off
		b.Parts[i].Inputs = e.inputs[i : i+1 : i+1]
	}
	return b
}

// coalesce sorts the extents and joins those that touch, overlap or have at most mostGap bytes between them. It reuses their memory.
func coalesce(x []stages.Extent) []stages.Extent {
	slices.SortFunc(x, func(a, b stages.Extent) int {
		return cmp.Or(cmp.Compare(a.Shard, b.Shard), cmp.Compare(a.Off, b.Off))
	})
	out := x[:0]
	for _, e := range x {
		if n := len(out); n > 0 && out[n-1].Shard == e.Shard && e.Off-out[n-1].End() <= mostGap {
			out[n-1].Len = max(out[n-1].End(), e.End()) - out[n-1].Off
			continue
		}
		out = append(out, e)
	}
	return slices.Clip(out)
}

// find is the range that holds x.
func find(ranges []stages.Extent, x stages.Extent) int {
	return sort.Search(len(ranges), func(i int) bool {
		r := ranges[i]
		return r.Shard > x.Shard || (r.Shard == x.Shard && r.End() >= x.End())
	})
}
