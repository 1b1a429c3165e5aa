package plan

import (
	"fmt"

	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/decode"
	"github.com/coldload/coldload/stages/fuse"
)

// Builder is how a Format adds the Outputs of one Group.
type Builder struct {
	c      *compiler
	group  *Group
	layout stages.Layout
}

// Layout is the one to compile for.
func (b *Builder) Layout() stages.Layout { return b.layout }

// DType is what the user asked floating-point Outputs to be; safetensors.Invalid keeps them.
func (b *Builder) DType() stages.DType { return b.c.opt.DType }

// SourceDType is the dtype of one part of the Group's first Module.
func (b *Builder) SourceDType(part int) stages.DType {
	return b.c.in.Catalog.DType(int(b.group.First().Tensors[part]))
}

// Grid describes an Output whose members lie side by side in rows.
type Grid struct {
	Suffix string // of the Output's name
	Part   int    // which tensor of each Module is read
	DType  stages.DType
	Layout stages.Layout
	Kind   stages.Kind
	Op     stages.Op
	Rows   int64 // of one Module
	Cols   int64 // elements in a row of the whole Output: what the last dim is
	// Dims are the shape of one expert's share; nil means [Rows, Cols].
	Dims []int64
	// Width is what one Module contributes to a row, and Source what is read for it, both in bytes.
	Width, Source func(m *Module) int64
	// Shared takes the part from the first member alone: what all members have in common.
	Shared bool
	Checks []Check
}

// Check is an Op that looks at one more tensor of every Module.
type Check struct {
	Part int
	Op   stages.Op
}

// Grid adds an Output.
func (b *Builder) Grid(g Grid) {
	members := len(b.group.Members)
	if g.Shared {
		members = 1
	}
	r := &grid{op: g.Op, rows: g.Rows, tensors: b.tensors(g.Part, members)}
	for _, m := range b.group.Modules[:members] {
		col := column{off: r.stride, width: g.Width(m), src: g.Source(m)}
		r.columns = append(r.columns, col)
		r.stride += col.width
	}
	for _, k := range g.Checks {
		r.checks = append(r.checks, check{op: k.Op, tensors: b.tensors(k.Part, members)})
	}
	each := r.stride * r.rows
	r.perSlab = rowsPerSlab(r.rows, r.stride, b.group.Stacked())
	dims := g.Dims
	if dims == nil {
		dims = []int64{g.Rows, g.Cols}
	}
	b.add(g.Suffix, g.DType, dims, g.Layout, g.Kind, each, r.perSlab*r.stride, r)
}

// Segments adds an Output that is one part of every Module, one after the other, cast when that is asked for. dims is the shape of one
// expert's share.
func (b *Builder) Segments(suffix string, part int, dims []int64) {
	from := b.SourceDType(part)
	to, op, err := castTo(from, b.DType())
	if err != nil {
		b.c.checks.ModuleFault(b.group.First(), stages.CodeUnsupported, err.Error(), "", "", "use --dtype keep")
		return
	}
	r := &segments{op: op, tensors: b.tensors(part, len(b.group.Members)), from: 1, to: 1}
	kind := b.Kind()
	switch {
	case from != to:
		r.from, r.to = elementBytes(from), elementBytes(to)
		if kind == stages.KindKept {
			kind = stages.KindCast
		}
	case kind != stages.KindKept:
		r.op = fuse.Concat()
	}
	var size int64
	for _, t := range r.tensors {
		size += b.c.in.Catalog.Extent(int(t)).Len / r.from * r.to
		r.ends = append(r.ends, size)
	}
	each := size / int64(max(b.group.Experts, 1))
	r.slab = slabOf(each)
	if b.group.Stacked() {
		r.slab = stackedSlab(each, to)
	}
	b.add(suffix, to, dims, stages.LayoutRaw, kind, each, r.slab, r)
}

// Kind is what a raw Output of the Group is.
func (b *Builder) Kind() stages.Kind {
	switch {
	case b.group.Stacked():
		return stages.KindStacked
	case len(b.group.Members) > 1:
		return stages.KindFused
	default:
		return stages.KindKept
	}
}

// Copy is the Op that places a member's bytes as they are.
func (b *Builder) Copy() stages.Op {
	if b.Kind() == stages.KindKept {
		return decode.Copy()
	}
	return fuse.Concat()
}

// add appends the Output, with the leading axis of experts when there is one.
func (b *Builder) add(suffix string, d stages.DType, dims []int64, l stages.Layout, k stages.Kind, each, slab int64, r recipe) {
	size := each
	if b.group.Stacked() {
		e := int64(b.group.Experts)
		dims = append([]int64{e}, dims...)
		size = each * e
		if each > 0 && size/each != e {
			b.c.checks.ModuleFault(b.group.First(), stages.CodeShape, "the stacked tensor is too large",
				"less than 2^63 bytes", fmt.Sprintf("%d experts of %d bytes", e, each), "")
			return
		}
	}
	b.c.add(stages.Output{
		Name: b.group.Name + "." + suffix, DType: d, Shape: dims, Layout: l, Kind: k, Size: size, SlabBytes: min(slab, size),
	}, r)
}

// tensors lists one part of the first members Modules of every expert.
func (b *Builder) tensors(part, members int) []int32 {
	var list []int32
	for i, m := range b.group.Modules {
		if i%len(b.group.Members) < members {
			list = append(list, m.Tensors[part])
		}
	}
	return list
}
