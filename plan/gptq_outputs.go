package plan

import (
	"fmt"
	"slices"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/decode"
	"github.com/coldload/coldload/stages/repack"
)

// gptqOutputs makes the Outputs of one Group of GPTQ Modules.
type gptqOutputs struct {
	r    *gptqReader
	g    *Group
	b    *Builder
	spec gptqSpec
	m    *Module // the first, which stands for all in K and Spec
}

// groups is G.
func (o *gptqOutputs) groups() int64 { return o.spec.groupsOf(o.m) }

// words is what a Module contributes to a row of packed words, in bytes.
func (o *gptqOutputs) words(m *Module) int64 { return m.N * 4 }

// marlin makes what the Marlin kernels read.
func (o *gptqOutputs) marlin() string {
	scales := o.scalesDType()
	s, reason := o.marlinHolds(scales)
	if reason != "" {
		return reason
	}
	if reason := o.marlinScales(&s, scales); reason != "" {
		return reason
	}
	op, err := repack.GPTQMarlin(int(o.spec.bits))
	if o.spec.descAct {
		op, err = repack.GPTQMarlinActOrder(int(o.spec.bits), int(o.groups()))
	}
	if err != nil {
		return err.Error()
	}
	width := func(m *Module) int64 { return m.N * o.spec.bits / 2 * 4 }
	o.b.Tiles(&s, Grid{
		Suffix: "qweight", Part: gptqQweight, DType: safetensors.I32, Layout: stages.LayoutMarlin, Kind: stages.KindRepacked,
		Op: op, Rows: s.K / 16, Cols: s.N * o.spec.bits / 2, Width: width, Source: width,
		Sides: o.orderSides(), Whole: o.spec.descAct, Checks: o.checks(true),
	}, repack.Padding{Bits: int(16 * o.spec.bits), Rows: int(o.spec.bits / 2)})
	if !o.spec.sym {
		l := repack.ZeroLayout{OneLess: !o.r.v2}
		zeros := o.zerosGrid(stages.LayoutMarlin, repack.MarlinZeros(l), o.zeroChecks(o.r.wraps))
		zeros.Rows, zeros.Cols = s.groups(o.spec.group), s.N/8
		o.b.Tiles(&s, zeros, repack.Padding{Bits: 4, Rows: 1, Fill: l.ZeroPadding()})
	}
	if o.spec.descAct {
		o.sorted("g_idx", repack.SortedGroups(int(o.groups())), stages.LayoutMarlin)
		o.sorted("g_idx_sort_indices", repack.SortIndices(int(o.groups())), stages.LayoutMarlin)
	}
	return ""
}

// scalesDType is what the scales of a kernel's layout are to be.
func (o *gptqOutputs) scalesDType() stages.DType {
	if keeps(o.b.DType()) {
		return o.spec.scales
	}
	return o.b.DType()
}

// orderSides are the parts that an Op of act-order reads besides the codes.
func (o *gptqOutputs) orderSides() []int {
	if o.spec.descAct {
		return []int{gptqGIdx}
	}
	return nil
}

// marlinScales adds the permuted scales and bias.
func (o *gptqOutputs) marlinScales(s *tileShape, to stages.DType) string {
	perm, groups := s.scaleOrder(o.spec.group)
	scales, err := repack.MarlinScales(o.spec.scales, to, perm)
	if err != nil {
		return err.Error()
	}
	biasTo := o.b.wanted(o.spec.bias)
	bias, err := marlinBias(o.spec.bias, biasTo)
	if err != nil {
		return err.Error()
	}
	o.b.TileFloats(s, o.r.Parts()[gptqScales], gptqScales, []int64{groups, s.N}, to, scales)
	o.b.tileBias(s, o.r.Parts()[gptqBias], gptqBias, biasTo, bias)
	return ""
}

// floats adds scales or biases: rows of N elements.
func (o *gptqOutputs) floats(part int, rows int64, to stages.DType, op stages.Op, l stages.Layout, checks []Check) {
	dims := []int64{rows, o.g.N()}
	if part == gptqBias {
		dims = dims[1:]
	}
	o.b.Floats(o.r.Parts()[part], part, dims, to, op, l, checks)
}

// sorted adds a vector that act-order derives from g_idx. The members of an expert share it.
func (o *gptqOutputs) sorted(suffix string, op stages.Op, l stages.Layout) {
	all := func(m *Module) int64 { return m.K * 4 }
	o.b.Grid(Grid{
		Suffix: suffix, Part: gptqGIdx, DType: safetensors.I32, Layout: l, Kind: stages.KindRepacked, Op: op,
		Rows: 1, Dims: []int64{o.m.K}, Width: all, Source: all, Shared: true,
	})
}

// checks prove what the config promises: about tensors that the layout does not hold (balanced says that the Op itself proves that g_idx
// is in range), and about the g_idx that members share.
func (o *gptqOutputs) checks(balanced bool) []Check {
	var list []Check
	if o.spec.sym {
		means := "zero points of symmetric modules are ignored"
		if o.b.Layout() == stages.LayoutExllama {
			means = "the exllama kernels compute with what is stored; --layout marlin and dequant ignore it"
		}
		list = append(list, Check{Part: gptqQzeros, Op: decode.CheckZeros(o.r.zeroWords(o.spec), means)})
	}
	return append(list, o.orderChecks(balanced)...)
}

// orderChecks are those of g_idx.
func (o *gptqOutputs) orderChecks(balanced bool) (list []Check) {
	if !o.spec.descAct {
		if some, _ := o.gIdx(); some {
			list = append(list, Check{Part: gptqGIdx, Op: decode.CheckGroupOrder(int(o.spec.span(o.m)))})
		}
		return list
	}
	if !balanced {
		list = append(list, Check{Part: gptqGIdx, Op: decode.CheckGroupRange(int(o.groups()))})
	}
	if len(o.g.Members) > 1 {
		list = append(list, Check{Part: gptqGIdx, Op: decode.CheckSameOrder(), Against: true})
	}
	return list
}

// gIdx tells whether some of the Modules have a g_idx, and whether all have. Without act-order one that is there says what its absence says.
func (o *gptqOutputs) gIdx() (some, all bool) {
	all = true
	for _, m := range o.g.Modules {
		if m.Has(gptqGIdx) {
			some = true
		} else {
			all = false
		}
	}
	return some, all
}

// zeroChecks are the zero points that nobody can tell the meaning of: all ones in format v1, unless the writer is known to wrap them.
func (o *gptqOutputs) zeroChecks(wraps bool) []Check {
	if o.r.v2 || o.spec.sym || wraps {
		return nil
	}
	return []Check{{Part: gptqQzeros, Op: decode.CheckZeroFields(int(o.spec.bits), int(o.groups()))}}
}

// zeroWords are the words that packed zero points of a symmetric Module repeat: 2^(bits-1) in every field, one less in format v1.
func (r *gptqReader) zeroWords(spec gptqSpec) []uint32 {
	z := uint32(1) << (spec.bits - 1)
	if !r.v2 {
		z--
	}
	return decode.PackConstant(int(spec.bits), r.planar, z)
}

// marlinHolds finds the shape of the Group for the Marlin kernels, or says why they cannot hold it.
func (o *gptqOutputs) marlinHolds(scales stages.DType) (s tileShape, reason string) {
	spec := o.spec
	if spec.bits != 4 && spec.bits != 8 {
		return s, fmt.Sprintf("Marlin has 4 or 8 bits, not %d", spec.bits)
	}
	if reason := marlinHoldsZeros(spec.sym, spec.bits, spec.descAct); reason != "" {
		return s, reason
	}
	return o.b.marlinHolds(marlinAsk{group: spec.group, actOrder: spec.descAct, scales: scales, bias: o.b.wanted(spec.bias)})
}

// exllama makes what the exllama kernels read: the codes of a word in another order.
func (o *gptqOutputs) exllama() string {
	if reason := o.exllamaHolds(); reason != "" {
		return reason
	}
	groups := 0
	if o.spec.descAct {
		groups = int(o.groups())
	}
	op, err := repack.GPTQExllama(int(o.spec.bits), groups)
	if err != nil {
		return err.Error()
	}
	o.b.Grid(Grid{
		Suffix: "qweight", Part: gptqQweight, DType: safetensors.I32, Layout: stages.LayoutExllama, Kind: stages.KindRepacked,
		Op: op, Rows: o.m.K * o.spec.bits / 32, Cols: o.g.N(), Width: o.words, Source: o.words,
		Sides: o.orderSides(), Whole: o.spec.descAct || o.spec.bits == 3, Checks: o.checks(true),
	})
	o.keepFloats(gptqScales, o.groups(), stages.LayoutExllama)
	zeros := stages.LayoutExllamaV2
	if !o.r.v2 {
		zeros = stages.LayoutExllama
	}
	o.zeros(zeros, o.b.Copy(), o.zeroChecks(false)) // the kernels do not wrap
	if o.spec.descAct {
		o.sorted("g_idx_sort_indices", repack.SortIndices(groups), stages.LayoutExllama)
	}
	if o.spec.bias != safetensors.Invalid {
		o.keepFloats(gptqBias, 1, stages.LayoutExllama)
	}
	return ""
}

// exllamaHolds says why the exllama kernels cannot hold a Group.
func (o *gptqOutputs) exllamaHolds() string {
	switch {
	case o.g.Stacked():
		return "exllama has no kernels for stacked experts"
	case !o.r.stream(o.spec):
		return fmt.Sprintf("exllama does not read planar codes of %d bits", o.spec.bits)
	case o.spec.group <= 0:
		return "exllama has no single group over all input features"
	case o.m.K%o.spec.group != 0:
		return fmt.Sprintf("%d input features are no whole groups of %d", o.m.K, o.spec.group)
	case o.m.K%32 != 0:
		return fmt.Sprintf("%d input features are not a multiple of 32", o.m.K)
	case o.scalesDType() != safetensors.F16:
		return "exllama takes F16 scales, these are " + o.scalesDType().String() + " (use --dtype f16)"
	}
	return ""
}

// raw keeps the tensors in GPTQ's own layout, members side by side along N. A g_idx that only some members have is trivial: it is looked at
// and not kept.
func (o *gptqOutputs) raw() string {
	_, gIdx := o.gIdx()
	checks := o.checks(false)
	if gIdx {
		checks = slices.DeleteFunc(checks, func(c Check) bool { return c.Part == gptqGIdx }) // they go with its own Output
	}
	o.b.Grid(Grid{
		Suffix: "qweight", Part: gptqQweight, DType: safetensors.I32, Layout: stages.LayoutRaw, Kind: o.b.Kind(), Op: o.b.Copy(),
		Rows: o.m.K * o.spec.bits / 32, Cols: o.g.N(), Width: o.words, Source: o.words, Checks: checks,
	})
	o.keepFloats(gptqScales, o.groups(), stages.LayoutRaw)
	o.zeros(stages.LayoutRaw, o.b.Copy(), o.zeroChecks(o.r.wraps))
	if gIdx {
		all := func(m *Module) int64 { return m.K * 4 }
		o.b.Grid(Grid{
			Suffix: "g_idx", Part: gptqGIdx, DType: safetensors.I32, Layout: stages.LayoutRaw, Kind: o.b.Kind(), Op: o.b.Copy(),
			Rows: 1, Dims: []int64{o.m.K}, Width: all, Source: all, Shared: true, Checks: o.orderChecks(false),
		})
	}
	if o.spec.bias != safetensors.Invalid {
		o.keepFloats(gptqBias, 1, stages.LayoutRaw)
	}
	return ""
}

// keepFloats adds scales or biases in their order, cast when that is asked for and checked to be finite.
func (o *gptqOutputs) keepFloats(part int, rows int64, l stages.Layout) {
	o.castFloats(part, rows, l, o.b.DType())
}

// castFloats is keepFloats with the dtype that is wanted.
func (o *gptqOutputs) castFloats(part int, rows int64, l stages.Layout, want stages.DType) {
	to, op, _ := o.b.cast(part, want)
	o.floats(part, rows, to, op, l, []Check{{Part: part, Op: decode.CheckFinite(o.b.SourceDType(part))}})
}

// zeros adds the zero points as the checkpoint stores them.
func (o *gptqOutputs) zeros(l stages.Layout, op stages.Op, checks []Check) {
	o.b.Grid(o.zerosGrid(l, op, checks))
}

func (o *gptqOutputs) zerosGrid(l stages.Layout, op stages.Op, checks []Check) Grid {
	kind := o.b.Kind()
	if l != stages.LayoutRaw {
		kind = stages.KindRepacked
	}
	width := func(m *Module) int64 { return m.N * o.spec.bits / 32 * 4 }
	return Grid{
		Suffix: "qzeros", Part: gptqQzeros, DType: safetensors.I32, Layout: l, Kind: kind, Op: op,
		Rows: o.groups(), Cols: o.g.N() * o.spec.bits / 32, Width: width, Source: width, Checks: checks,
	}
}

// dequant makes floating-point weights, as a dense checkpoint would hold them.
func (o *gptqOutputs) dequant() string {
	to := o.b.WeightDType(o.spec.scales)
	zeroBias := 1
	if o.r.v2 {
		zeroBias = 0
	}
	layout := decode.GPTQLayout{
		Bits: int(o.spec.bits), Planar: o.r.planar, ZeroBias: zeroBias, WrapZeros: o.r.wraps, Symmetric: o.spec.sym,
		ActOrder: o.spec.descAct, Group: int(o.spec.span(o.m)), Groups: int(o.groups()),
	}
	opFor := func(to stages.DType) (stages.Op, error) { return decode.GPTQDequant(layout, o.spec.scales, to) }
	op, err := opFor(to)
	if err != nil {
		return err.Error()
	}
	if o.m.K%32 != 0 {
		return fmt.Sprintf("%d input features are not a multiple of 32", o.m.K)
	}
	parts := append([]int{gptqQweight, gptqScales, gptqQzeros}, o.orderSides()...)
	var checks []Check
	for _, c := range o.checks(true) {
		if c.Part == gptqGIdx && !c.Against || c.Part == gptqQzeros {
			checks = append(checks, c) // members may differ in g_idx here: each is decoded by its own
		}
	}
	o.b.Tall(Tall{Suffix: "weight", Parts: parts, DType: to, Op: op, OpFor: opFor, Checks: checks})
	if o.spec.bias != safetensors.Invalid {
		o.castFloats(gptqBias, 1, stages.LayoutRaw, to)
	}
	return ""
}
