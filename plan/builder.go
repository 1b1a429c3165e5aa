package plan

import (
	"errors"
	"fmt"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/decode"
	"github.com/coldload/coldload/stages/fuse"
	"github.com/coldload/coldload/stages/repack"
)

// Builder is how a Format adds the Outputs of one Group.
type Builder struct {
	c      *compiler
	group  *Group
	layout stages.Layout
	// suffixes are those of the Outputs so far.
	suffixes []string
	codes    bool            // what Segments adds are codes
	padding  *stages.Padding // of the Output that Grid adds
}

// Layout is the one to compile for.
func (b *Builder) Layout() stages.Layout { return b.layout }

// layouts are how the Outputs of a Group are made in each layout that can be asked for. Each says why they are not, or nothing.
type layouts struct{ marlin, exllama, dequant, raw func() string }

// because is a layout that is never made.
func because(reason string) func() string { return func() string { return reason } }

// inLayout makes the Outputs in the layout asked for.
func (b *Builder) inLayout(l layouts) string {
	switch b.Layout() {
	case stages.LayoutMarlin:
		return l.marlin()
	case stages.LayoutExllama:
		return l.exllama()
	case stages.LayoutDequant:
		return l.dequant()
	case stages.LayoutRaw, stages.LayoutExllamaV2, stages.LayoutMarlinPlain: // the last two are kinds of the others, which nobody asks for
	}
	return l.raw()
}

// DType is what the user asked floating-point Outputs to be; safetensors.Invalid keeps them.
func (b *Builder) DType() stages.DType { return b.c.opt.DType }

// FP8Exponent is Options.FP8Exponent: whether Marlin scales of FP8 weights hold the factor that the kernels leave out.
func (b *Builder) FP8Exponent() stages.Exponent { return b.c.opt.FP8Exponent }

// NoPad is Options.NoPad.
func (b *Builder) NoPad() bool { return b.c.opt.NoPad }

// Single reports whether the Group is a module that a caller asks for by itself, and that has the names and the orientation [N, K] of all modules then.
func (b *Builder) Single() bool { return b.c.single != nil }

// WeightDType is the dtype of dequantised weights: the one asked for, else that of the model's config, else that of the scales.
func (b *Builder) WeightDType(scales stages.DType) stages.DType {
	for _, d := range []stages.DType{b.DType(), b.ModelDType()} {
		if !keeps(d) {
			return d
		}
	}
	return scales
}

// ModelDType is the dtype that the model's config names; safetensors.Invalid when it names none that coldload makes.
func (b *Builder) ModelDType() stages.DType {
	switch b.c.in.Model.DType {
	case "float16", "half":
		return safetensors.F16
	case "bfloat16":
		return safetensors.BF16
	case "float32", "float":
		return safetensors.F32
	}
	return safetensors.Invalid
}

// SourceDType is the dtype of one part of the Group's first Module.
func (b *Builder) SourceDType(part int) stages.DType {
	return b.c.in.Catalog.DType(int(b.group.First().Tensors[part]))
}

// SourceShape is the shape of one part of the Group's first Module.
func (b *Builder) SourceShape(part int) []int64 {
	return shapeOf(b.c.in.Catalog, int(b.group.First().Tensors[part]))
}

// Grid describes an Output whose members lie side by side in rows.
type Grid struct {
	Suffix string // of the Output's name
	Part   int    // which tensor of each Module is read
	DType  stages.DType
	Layout stages.Layout
	Kind   stages.Kind
	Op     stages.Op
	// OpFor makes the Op for another dtype (F32, F16 or BF16), for a Rule that asks for one. Nil for an Op that makes only DType, unless it does
	// no more than to copy or cast.
	OpFor func(to stages.DType) (stages.Op, error)
	Rows  int64 // of one Module
	Cols  int64 // elements in a row of the whole Output: what the last dim is
	// Dims are the shape of one expert's share; nil means [Rows, Cols].
	Dims []int64
	// Row, when it is set, is the bytes of a row that one Op makes of all members: its Inputs are theirs, one after the other, then the Joint
	// ones; Sides are for Ops of one member. A tensor may have fewer rows than Rows then, and fill the last in part: the Op makes the rest. Padding is that of the Output.
	Row     int64
	Padding *stages.Padding
	// Width is what one Module contributes to a row, and Source what is read for it, both in bytes.
	Width, Source func(m *Module) int64
	// Sides are parts that the Op reads whole, after Part. Whole makes one Slab of all rows of a Module, for an Op that needs them all.
	Sides []int
	Whole bool
	// Shared takes the part from the first member alone: what all members have in common.
	Shared bool
	Checks []Check
	// Needs is the scan whose value the Op gets as Job.Scanned.
	Needs *Scan
	// Joint are parts of which the Op reads those of all members of its expert, whole, after the Sides.
	Joint []int
	// Beside says that another Output of the Group, added just before, turns the first of Joint, or what is scanned, into bytes: this one is made
	// where those lie, together with it, wherever its own bytes are. So Joint is read once, and a scan is not needed long before.
	Beside bool
}

// Scan is a look at one part of all Modules of a Group ahead of the Outputs that need one value of all of them.
type Scan struct{ scan }

// Scan has op look at a part of every Module of the Group, whole, and say in Job.Found what it found: the value of the scan is the largest
// of that. Grid.Needs says who needs it; a scan that no Output needs is not made. What it reads is read again by whoever turns it into bytes. When
// op is a [stages.Sufficer] the Modules of the first expert are looked at first, and the others only if that is not enough.
func (b *Builder) Scan(part int, op stages.Op) *Scan {
	b.runsOne("a scan", op)
	t := b.tensors(part, len(b.group.Members))
	s := &Scan{scan{op: op, tensors: t, first: firstOf(b.c.in.Catalog, t)}}
	if o, ok := op.(stages.Sufficer); ok {
		s.enough, s.ahead = o.Enough(), min(len(b.group.Members), len(t))
	}
	return s
}

// Check is an Op that looks at one part of every Module, and at the same part of the first member of its expert when Against is set; that
// one is then not checked against itself.
type Check struct {
	Part    int
	Op      stages.Op
	Against bool
}

// Grid adds an Output.
func (b *Builder) Grid(g Grid) {
	if !b.unique(g.Suffix) || !b.runs(g.Suffix, g.Op, g.Checks) {
		return
	}
	members := len(b.group.Members)
	if g.Shared {
		members = 1
	}
	r := &grid{op: g.Op, opFor: b.opFor(g.Suffix, g.OpFor), rows: g.Rows, tensors: b.tensors(g.Part, members)}
	for _, m := range b.group.Modules[:members] {
		col := column{off: r.stride, width: g.Width(m), src: g.Source(m)}
		r.columns = append(r.columns, col)
		r.stride += col.width
	}
	if g.Row > 0 {
		r.stride, r.joined = g.Row, true
	}
	for _, part := range g.Sides {
		r.sides = append(r.sides, b.tensors(part, members))
	}
	if g.Needs != nil {
		r.needs = &g.Needs.scan
	}
	for _, part := range g.Joint {
		r.joint = append(r.joint, b.tensors(part, len(b.group.Members)))
	}
	r.beside = g.Beside && (len(r.joint) > 0 || r.needs != nil)
	if !b.holds(g.Suffix, r) {
		return
	}
	r.checks = b.checks(g.Checks)
	each := r.stride * r.rows
	r.perSlab = r.rows
	if !g.Whole {
		r.perSlab = rowsPerSlab(r.rows, r.stride, b.group.Stacked())
	}
	dims := g.Dims
	if dims == nil {
		dims = []int64{g.Rows, g.Cols}
	}
	b.padding = g.Padding
	b.add(g.Suffix, g.DType, dims, g.Layout, g.Kind, each, r.perSlab*r.stride, r)
	b.padding = nil
}

// Floats adds an Output of floating-point values in rows of N elements, of which op makes to: scales, or a bias. dims is the shape of one
// expert's share, [rows, N] or [N].
func (b *Builder) Floats(suffix string, part int, dims []int64, to stages.DType, op stages.Op, l stages.Layout, checks []Check) {
	b.Grid(b.floats(suffix, part, dims, to, op, l, checks))
}

// TileFloats is Floats in the extents of s, which dims has.
func (b *Builder) TileFloats(s *tileShape, suffix string, part int, dims []int64, to stages.DType, op stages.Op) {
	b.Tiles(s, b.floats(suffix, part, dims, to, op, stages.LayoutMarlin, nil), repack.Padding{Bits: b.SourceDType(part).Bits(), Rows: 1})
}

// KeptFloats is Floats in the checkpoint's own order: cast to want where that is given and possible, and checked to be finite.
func (b *Builder) KeptFloats(suffix string, part int, dims []int64, want stages.DType) {
	to, op, _ := b.cast(part, want)
	b.Floats(suffix, part, dims, to, op, stages.LayoutRaw, []Check{{Part: part, Op: decode.CheckFinite(b.SourceDType(part))}})
}

// cast is how a part gets the dtype that is wanted in its own order: the dtype, the Op, and what an Output of it is. What cannot be cast stays.
func (b *Builder) cast(part int, want stages.DType) (to stages.DType, op stages.Op, kind stages.Kind) {
	from, kind := b.SourceDType(part), b.Kind()
	to, op, err := castTo(from, want)
	switch {
	case err != nil || from == to:
		return from, b.Copy(), kind
	case kind == stages.KindKept:
		kind = stages.KindCast
	}
	return to, op, kind
}

// wanted is the dtype that a part of dtype from gets in a kernel's layout; Invalid, of a part that is not there, stays what it is.
func (b *Builder) wanted(from stages.DType) stages.DType {
	if from == safetensors.Invalid || keeps(b.DType()) {
		return from
	}
	return b.DType()
}

func (b *Builder) floats(suffix string, part int, dims []int64, to stages.DType, op stages.Op, l stages.Layout, checks []Check) Grid {
	from, kind, rows := b.SourceDType(part), stages.KindRepacked, int64(1)
	if l == stages.LayoutRaw {
		if kind = b.Kind(); kind == stages.KindKept && from != to {
			kind = stages.KindCast
		}
	}
	if len(dims) == 2 {
		rows = dims[0]
	}
	return Grid{
		Suffix: suffix, Part: part, DType: to, Layout: l, Kind: kind, Op: op, Rows: rows, Dims: dims,
		Width:  func(m *Module) int64 { return m.N * elementBytes(to) },
		Source: func(m *Module) int64 { return m.N * elementBytes(from) },
		Checks: checks,
	}
}

// checks lists what the Checks look at.
func (b *Builder) checks(list []Check) (out []check) {
	n := len(b.group.Members)
	for _, k := range list {
		t := b.tensors(k.Part, n)
		c := check{op: k.Op, tensors: [][]int32{t}}
		if k.Against {
			first := make([]int32, len(t))
			for i := range t {
				first[i] = t[i/n*n]
				if i%n == 0 {
					first[i] = none
				}
			}
			c.tensors = append(c.tensors, first)
		}
		out = append(out, c)
	}
	return out
}

// Tall describes an Output whose members lie one below the other, each made by one Op.
type Tall struct {
	Suffix string
	Parts  []int // that the Op reads, whole
	DType  stages.DType
	Op     stages.Op
	// Turned makes an Output of [K, N] elements: that of one member that the checkpoint has input-major, and that stays so.
	Turned bool
	// OpFor makes the Op for another dtype (F32, F16 or BF16), for a Rule that asks for one. Nil when DType is the only one.
	OpFor  func(to stages.DType) (stages.Op, error)
	Checks []Check
}

// Tall adds an Output of [N, K] elements.
func (b *Builder) Tall(t Tall) {
	if !b.unique(t.Suffix) || !b.runs(t.Suffix, t.Op, t.Checks) {
		return
	}
	m := b.group.First()
	rows, cols := b.group.N(), m.K
	if t.Turned {
		rows, cols = cols, rows
	}
	r := &tall{op: t.Op, opFor: b.opFor(t.Suffix, t.OpFor), row: cols * elementBytes(t.DType)}
	for _, m := range b.group.Modules[:len(b.group.Members)] {
		r.heights = append(r.heights, m.N)
		if t.Turned {
			r.heights[0] = rows
		}
	}
	for _, p := range t.Parts {
		r.parts = append(r.parts, b.tensors(p, len(b.group.Members)))
	}
	r.checks = &grid{columns: make([]column, len(b.group.Members)), tensors: r.parts[0], checks: b.checks(t.Checks)}
	each := r.row * rows
	kind := b.Kind()
	if kind == stages.KindKept {
		kind = stages.KindDequantised
	}
	b.add(t.Suffix, t.DType, []int64{rows, cols}, stages.LayoutRaw, kind, each, each, r)
}

// opFor is an Output's OpFor with a look at what it makes.
func (b *Builder) opFor(suffix string, f func(to stages.DType) (stages.Op, error)) func(stages.DType) (stages.Op, error) {
	if f == nil {
		return nil
	}
	return func(to stages.DType) (stages.Op, error) {
		op, err := f(to)
		if err == nil && !b.runsOne(suffix, op) {
			err = errors.New("its format gives no Op for that")
		}
		return op, err
	}
}

// Segments adds an Output that is one part of every Module, one after the other, cast to want when it is given. dims is the shape of one expert's
// share.
func (b *Builder) Segments(suffix string, part int, dims []int64, want stages.DType) {
	if !b.unique(suffix) {
		return
	}
	from := b.SourceDType(part)
	to, op, err := castTo(from, want)
	if err != nil {
		b.c.checks.ModuleFault(b.group.First(), stages.CodeUnsupported, err.Error(), "", "", "use --dtype keep")
		return
	}
	r := &segments{op: op, tensors: b.tensors(part, len(b.group.Members)), from: 1, to: 1, codes: b.codes}
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
	if b.group.Stacked() {
		dims = append([]int64{int64(b.group.Experts)}, dims...)
	}
	o := stages.Output{Name: b.name(suffix), DType: to, Shape: dims, Layout: stages.LayoutRaw, Kind: kind}
	b.c.add(b.c.sized(o, r), r)
}

// Codes is Segments for values that mean nothing without those of other tensors: they are never cast, and no Rule may ask for it.
func (b *Builder) Codes(suffix string, part int, dims []int64) {
	b.codes = true
	b.Segments(suffix, part, dims, safetensors.Invalid)
	b.codes = false
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

// name is that of an Output; one without a suffix has the Group's, and a suffix that begins with _ follows it without a dot.
func (b *Builder) name(suffix string) string {
	if suffix == "" || suffix[0] == '_' {
		return b.group.Name + suffix
	}
	return b.group.Name + "." + suffix
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
		Name: b.name(suffix), DType: d, Shape: dims, Layout: l, Kind: k, Size: size, SlabBytes: min(slab, size),
		Padding: b.padding,
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
