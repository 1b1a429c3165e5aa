package plan

import (
	"cmp"
	"fmt"
	"slices"
	"sort"

	"github.com/coldload/coldload/stages"
)

// mostGap is how many bytes that nobody needs are read to join two ranges, in bytes: one page, which comes from the disk anyway.
const mostGap = 4096

// emitter builds one Batch.
type emitter struct {
	catalog *views
	batch   *stages.Batch
	inputs  []stages.Input // of all Parts, in their order, so that they are allocated together
	ends    []int          // where the Inputs of every Part end
	extents []stages.Extent
	scans   map[*scan]stages.ScanID
}

// source is one thing that a Part reads.
type source struct {
	tensor int32
	extent stages.Extent
}

// part adds a Part of the newest Slab.
func (e *emitter) part(op stages.Op, dst stages.Rect, src ...source) {
	e.needing(nil, op, dst, src...)
}

// needing adds a Part of the newest Slab whose Op needs what a scan found; nil for none.
func (e *emitter) needing(s *scan, op stages.Op, dst stages.Rect, src ...source) {
	e.add(stages.Part{Op: op, Slab: len(e.batch.Slabs) - 1, Dst: dst, Needs: e.scans[s]}, src)
}

// scan adds a Part of a scan.
func (e *emitter) scan(id stages.ScanID, op stages.Op, src source) {
	e.add(stages.Part{Op: op, Slab: stages.NoSlab, Finds: id}, []source{src})
}

// check adds a Part that writes nothing.
func (e *emitter) check(op stages.Op, src ...source) {
	e.add(stages.Part{Op: op, Slab: stages.NoSlab}, src)
}

func (e *emitter) add(p stages.Part, src []source) {
	e.batch.Parts = append(e.batch.Parts, p)
	for _, s := range src {
		e.inputs = append(e.inputs, stages.Input{Tensor: e.catalog.describe(s.tensor), Extent: s.extent})
	}
	e.ends = append(e.ends, len(e.inputs))
}

// finish coalesces the ranges and points the Inputs into them. What two Parts read is fetched once.
func (e *emitter) finish() *stages.Batch {
	b := e.batch
	for i := range e.inputs {
		if e.inputs[i].Extent.Len > 0 {
			e.extents = append(e.extents, e.inputs[i].Extent)
		}
	}
	b.Ranges, b.UsedBytes = coalesce(e.extents)
	for i := range b.Ranges {
		b.InBytes += b.Ranges[i].Len
	}
	start := 0
	for i := range b.Parts {
		b.Parts[i].Inputs = e.inputs[start:e.ends[i]:e.ends[i]]
		start = e.ends[i]
	}
	for i := range e.inputs {
		in := &e.inputs[i]
		if in.Extent.Len == 0 {
			continue
		}
		in.Range = find(b.Ranges, in.Extent)
		in.Off = in.Extent.Off - b.Ranges[in.Range].Off
	}
	b.Name = fmt.Sprintf(batchName+"(%s)", b.Seq, cmp.Or(b.FirstTensor(), firstName(b)))
	return b
}

// batchName is how the name of a Batch begins, by its number in the Plan.
const batchName = "batch %d "

// BatchNamed is the Batch with that name; nil when there is none. Its number in the Plan is not that of the flow, which passes over Spare ones.
func (p *Plan) BatchNamed(name string) *stages.Batch {
	var i int
	if _, err := fmt.Sscanf(name, batchName, &i); err != nil || i < 0 || i >= p.BatchCount() {
		return nil
	}
	if b := p.Batch(i); b.Name == name {
		return b
	}
	return nil
}

// firstName is what the Batch is known by among the Outputs, or by what it reads when it makes none.
func firstName(b *stages.Batch) string {
	if len(b.Slabs) == 0 {
		return b.FirstTensor()
	}
	return b.Outputs[b.Slabs[0].Output].Name
}

// coalesce sorts the extents and joins those that touch, overlap or have at most mostGap bytes between them. It reuses their memory. used
// is how many bytes they cover without the gaps.
func coalesce(x []stages.Extent) (ranges []stages.Extent, used int64) {
	slices.SortFunc(x, func(a, b stages.Extent) int {
		return cmp.Or(cmp.Compare(a.Shard, b.Shard), cmp.Compare(a.Off, b.Off))
	})
	out := x[:0]
	for _, e := range x {
		n := len(out)
		if n == 0 || out[n-1].Shard != e.Shard || e.Off-out[n-1].End() > mostGap {
			out = append(out, e)
			used += e.Len
			continue
		}
		last := &out[n-1]
		used += max(e.End()-max(e.Off, last.End()), 0)
		last.Len = max(last.End(), e.End()) - last.Off
	}
	return slices.Clip(out), used
}

// find is the range that holds x.
func find(ranges []stages.Extent, x stages.Extent) int {
	return sort.Search(len(ranges), func(i int) bool {
		r := ranges[i]
		return r.Shard > x.Shard || (r.Shard == x.Shard && r.End() >= x.End())
	})
}
