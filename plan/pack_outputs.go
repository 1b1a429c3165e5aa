package plan

import (
	"fmt"
	"slices"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/decode"
	"github.com/coldload/coldload/stages/repack"
)

// packOutputs makes the Outputs of one Group of compressed-tensors Modules.
type packOutputs struct {
	g    *Group
	b    *Builder
	spec packSpec
	m    *Module // the first, which stands for all in K and Spec
}

func (o *packOutputs) groups() int64 { return o.spec.groupsOf(o.m) }

// bytesOf is the size of a part of a Module.
func (o *packOutputs) bytesOf(part int) func(*Module) int64 {
	return func(m *Module) int64 { return o.b.c.in.Catalog.Extent(int(m.Tensors[part])).Len }
}

// marlin makes what the Marlin kernels read.
func (o *packOutputs) marlin() string {
	scalesTo, biasTo := o.b.wanted(o.spec.scales), o.b.wanted(o.spec.bias)
	if reason := marlinHoldsZeros(o.spec.sym, o.spec.bits, o.spec.actOrder); reason != "" {
		return reason
	}
	s, reason := o.b.marlinHolds(marlinAsk{group: o.spec.group, actOrder: o.spec.actOrder, scales: scalesTo, bias: biasTo})
	if reason == "" && s.joined && !o.spec.sym {
		reason = o.marlinZerosEnd()
	}
	if reason != "" {
		return reason
	}
	groups := s.groups(o.spec.group)
	op, err := repack.RowsMarlin(int(o.spec.bits))
	if o.spec.actOrder {
		op, err = repack.RowsMarlinActOrder(int(o.spec.bits), int(o.groups()))
	}
	scales, err2 := o.spec.marlinScales(&s, o.spec.scales, scalesTo)
	bias, err3 := marlinBias(o.spec.bias, biasTo)
	for _, err := range []error{err, err2, err3} {
		if err != nil {
			return err.Error()
		}
	}
	o.b.tileBias(&s, "bias", packBias, biasTo, bias)
	width := func(m *Module) int64 { return m.N * o.spec.bits / 2 * 4 }
	o.b.Tiles(&s, Grid{
		Suffix: "qweight", Part: packCodes, DType: safetensors.I32, Layout: stages.LayoutMarlin, Kind: stages.KindRepacked,
		Op: op, Rows: s.K / 16, Cols: s.N * o.spec.bits / 2, Width: width, Source: width,
		Sides: o.orderSides(), Whole: true, Checks: o.checks(true),
	}, repack.Padding{Bits: int(16 * o.spec.bits)})
	o.spec.addMarlinScales(o.b, &s, packScale, scalesTo, scales)
	if !o.spec.sym {
		zeros := func(m *Module) int64 { return m.N / 2 }
		o.b.Tiles(&s, Grid{
			Suffix: "qzeros", Part: packZero, DType: safetensors.I32, Layout: stages.LayoutMarlin, Kind: stages.KindRepacked,
			Op: repack.RowsMarlinZeros(), Rows: groups, Cols: s.N / 8, Width: zeros, Source: zeros, Whole: true,
		}, repack.Padding{Bits: 4, Columns: 8})
	}
	if o.spec.actOrder {
		o.sorted("g_idx", repack.SortedGroups(int(o.groups())))
		o.sorted("g_idx_sort_indices", repack.SortIndices(int(o.groups())))
	}
	return ""
}

// addMarlinScales adds Marlin's scales of a Group in the extents of s, that op makes: see marlinScales.
func (p packParams) addMarlinScales(b *Builder, s *tileShape, part int, to stages.DType, op stages.Op) {
	from := b.SourceDType(part)
	grid := Grid{
		Suffix: "scales", Part: part, DType: to, Layout: stages.LayoutMarlin, Kind: stages.KindRepacked,
		Op: op, Rows: s.groups(p.group), Cols: s.N, Whole: true,
		Width:  func(m *Module) int64 { return m.N * elementBytes(to) },
		Source: func(m *Module) int64 { return m.N * elementBytes(from) },
	}
	if p.whole {
		grid.Source = func(*Module) int64 { return elementBytes(from) }
		b.inTiles(s, grid) // the Op knows the members
		return
	}
	b.Tiles(s, grid, repack.Padding{Bits: from.Bits()})
}

// marlinScales is the Op for Marlin's scales. One scale for a tensor is what one scale for all of an FP8 weight is, without its factor.
func (p packParams) marlinScales(s *tileShape, from, to stages.DType) (stages.Op, error) {
	perm, _ := s.scaleOrder(p.group)
	if !p.whole {
		return repack.RowsMarlinScales(from, to, perm)
	}
	var members []repack.Member
	if s.joined {
		members = s.members
	}
	return repack.FP8MarlinScales(stages.Blocks{}, from, to, perm, stages.ExponentPlain, members...)
}

// scalesIn is how many scales a Module has.
func (p packParams) scalesIn(m *Module) int64 {
	if p.whole {
		return 1
	}
	return m.N * p.groupsOf(m)
}

// scaleDimsOf is the shape of the scales of members that lie one after the other.
func (p packParams) scaleDimsOf(g *Group) []int64 {
	if p.whole {
		return []int64{int64(len(g.Members))}
	}
	return []int64{g.N(), p.groupsOf(g.First())}
}

// marlinZerosEnd says that zero points of a member end within a word, where those of the next would begin.
func (o *packOutputs) marlinZerosEnd() string {
	for _, m := range o.g.Modules[:len(o.g.Members)] {
		if m.N%8 != 0 {
			return fmt.Sprintf("zero points of %d output features end within a word, which is not padded", m.N)
		}
	}
	return ""
}

// sorted adds a vector that act-order derives from weight_g_idx. The members of an expert share it.
func (o *packOutputs) sorted(suffix string, op stages.Op) {
	o.b.Grid(Grid{
		Suffix: suffix, Part: packGIdx, DType: safetensors.I32, Layout: stages.LayoutMarlin, Kind: stages.KindRepacked, Op: op,
		Rows: 1, Dims: []int64{o.m.K}, Width: o.bytesOf(packGIdx), Source: o.bytesOf(packGIdx), Shared: true,
	})
}

// orderSides are the parts that an Op of act-order reads besides the codes.
func (o *packOutputs) orderSides() []int {
	if o.spec.actOrder {
		return []int{packGIdx}
	}
	return nil
}

// checks prove what the shapes and the config promise and no Op reads: weight_shape, and the order of the input features. shared says
// that the members become one that has one order.
func (o *packOutputs) checks(shared bool) []Check {
	var rows []int64
	for _, m := range o.g.Modules[:len(o.g.Members)] {
		if !slices.Contains(rows, m.N) {
			rows = append(rows, m.N)
		}
	}
	list := []Check{{Part: packShape, Op: decode.CheckShape(rows, o.m.K)}}
	some := slices.ContainsFunc(o.g.Modules, func(m *Module) bool { return m.Has(packGIdx) })
	switch {
	case !o.spec.actOrder && some:
		list = append(list, Check{Part: packGIdx, Op: decode.CheckGroupOrder(int(o.spec.span(o.m)))})
	case o.spec.actOrder && shared && len(o.g.Members) > 1:
		list = append(list, Check{Part: packGIdx, Op: decode.CheckSameOrder(), Against: true})
	}
	return list
}

// dequant makes floating-point weights, as a dense checkpoint would hold them. Members may differ in their act-order: each is decoded by
// its own.
func (o *packOutputs) dequant() string {
	to := o.b.WeightDType(o.spec.scales)
	layout := decode.RowsLayout{
		Bits: int(o.spec.bits), Symmetric: o.spec.sym, ActOrder: o.spec.actOrder, Group: int(o.spec.span(o.m)), Groups: int(o.groups()),
		OneScale: o.spec.whole,
	}
	opFor := func(to stages.DType) (stages.Op, error) { return decode.RowsDequant(layout, o.spec.scales, to) }
	op, err := opFor(to)
	if err != nil {
		return err.Error()
	}
	parts := []int{packCodes, packScale}
	if !o.spec.sym {
		parts = append(parts, packZero)
	}
	o.b.Tall(Tall{Suffix: "weight", Parts: append(parts, o.orderSides()...), DType: to, Op: op, OpFor: opFor, Checks: o.checks(false)})
	if o.spec.bias != safetensors.Invalid {
		o.floats(packBias, []int64{o.g.N()}, to)
	}
	return ""
}

// raw keeps the tensors in the format's own layout: members one below the other, as all of them begin with the output features. What they
// share stays one; of several members weight_shape has one row each. A weight_g_idx that only some of the Modules have, without
// act-order, is looked at and not kept.
func (o *packOutputs) raw() string {
	for _, m := range o.g.Modules[:len(o.g.Members)-1] {
		if !o.spec.sym && m.N*o.spec.bits%32 != 0 {
			return "zero points of a member that ends within a word cannot be joined: load it unfused (--no-fuse)"
		}
	}
	members := int64(len(o.g.Members))
	all := !slices.ContainsFunc(o.g.Modules, func(m *Module) bool { return !m.Has(packGIdx) })
	checks := o.checks(true)
	if all {
		checks = slices.DeleteFunc(checks, func(c Check) bool { return c.Part == packGIdx }) // they go with its own Output
	}
	o.b.Segments("weight_packed", packCodes, []int64{o.g.N(), o.m.K * o.spec.bits / 32}, safetensors.Invalid)
	o.floats(packScale, o.spec.scaleDimsOf(o.g), o.b.DType())
	shape := []int64{members, 2}
	if members == 1 {
		shape = shape[1:]
	}
	o.kept(packShape, shape, false, checks)
	if !o.spec.sym {
		o.kept(packZero, []int64{o.zeroRows(), o.groups()}, false, nil)
	}
	if all {
		order := slices.DeleteFunc(o.checks(true), func(c Check) bool { return c.Part != packGIdx })
		if o.spec.actOrder {
			order = append(order, Check{Part: packGIdx, Op: decode.CheckGroupRange(int(o.groups()))})
		}
		o.kept(packGIdx, []int64{o.m.K}, true, order)
	}
	if o.spec.bias != safetensors.Invalid {
		o.floats(packBias, []int64{o.g.N()}, o.b.DType())
	}
	return ""
}

// zeroRows is the rows of packed zero points of all members.
func (o *packOutputs) zeroRows() (n int64) {
	for _, m := range o.g.Modules[:len(o.g.Members)] {
		n += (m.N*o.spec.bits + 31) / 32
	}
	return n
}

// kept adds a part as it is, the members' one after the other, or the first member's alone for what they share.
func (o *packOutputs) kept(part int, dims []int64, shared bool, checks []Check) {
	size := o.bytesOf(part)
	o.b.Grid(Grid{
		Suffix: packParts[part], Part: part, DType: o.b.SourceDType(part), Layout: stages.LayoutRaw, Kind: o.b.Kind(), Op: o.b.Copy(),
		Rows: 1, Dims: dims, Width: size, Source: size, Shared: shared, Checks: checks,
	})
}

// floats adds scales or biases, the members' one after the other, cast when that is asked for and checked to be finite.
func (o *packOutputs) floats(part int, dims []int64, want stages.DType) {
	from, size := o.b.SourceDType(part), o.bytesOf(part)
	to, op, kind := o.b.cast(part, want)
	o.b.Grid(Grid{
		Suffix: packParts[part], Part: part, DType: to, Layout: stages.LayoutRaw, Kind: kind, Op: op, Rows: 1, Dims: dims,
		Width:  func(m *Module) int64 { return size(m) / elementBytes(from) * elementBytes(to) },
		Source: size, Checks: []Check{{Part: part, Op: decode.CheckFinite(from)}},
	})
}
