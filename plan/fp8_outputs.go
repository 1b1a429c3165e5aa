package plan

import (
	"fmt"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/decode"
	"github.com/coldload/coldload/stages/repack"
)

// fp8Outputs makes the Outputs of one Group of FP8 Modules.
type fp8Outputs struct {
	r    *fp8Reader
	g    *Group
	b    *Builder
	spec fp8Spec
	m    *Module // the first, which stands for all in K and Spec
}

// marlin makes what the Marlin kernels read. Members that fuse keep their scales: Marlin has one for every output feature, so a scale of a
// member's own, or a block that its end cuts, is repeated for that member's features alone.
func (o *fp8Outputs) marlin() string {
	if o.spec.turned {
		return "its weights are input-major, which nothing repacks to Marlin"
	}
	to, reason := o.actDType()
	if reason != "" {
		return reason
	}
	s, group, reason := o.marlinHolds()
	if reason != "" {
		return reason
	}
	perm, groups := s.scaleOrder(group)
	var members []repack.Member
	if s.joined {
		members = s.members
		if o.g.Pair != NoPair {
			return "gate and up of one FP8 tensor share blocks of scales, which is not padded"
		}
	}
	scales, err := repack.FP8MarlinScales(o.spec.blocks, o.spec.scales, to, perm, o.b.FP8Exponent(), members...)
	if err != nil {
		return err.Error()
	}
	bias, err := marlinBias(o.spec.bias, to)
	if err != nil {
		return err.Error()
	}
	words := func(m *Module) int64 { return 16 * m.N }
	o.b.Tiles(&s, Grid{
		Suffix: "qweight", Part: fp8Weight, DType: safetensors.I32, Layout: stages.LayoutMarlin, Kind: stages.KindRepacked,
		Op: repack.FP8Marlin(), Rows: s.K / 16, Cols: 4 * s.N, Width: words, Source: words, Whole: true,
	}, repack.Padding{Bits: 128})
	layout := stages.LayoutMarlin
	if o.b.FP8Exponent() == stages.ExponentPlain {
		layout = stages.LayoutMarlinPlain
	}
	o.b.inTiles(&s, Grid{
		Suffix: "scales", Part: fp8Scale, DType: to, Layout: layout, Kind: stages.KindRepacked,
		Op: scales, Rows: groups, Cols: s.N, Whole: true,
		Width: func(m *Module) int64 { return m.N * elementBytes(to) },
		Source: func(m *Module) int64 {
			rows, _ := o.spec.blocks.Grid(m.N, m.K)
			return rows * elementBytes(o.spec.scales)
		},
	})
	o.b.tileBias(&s, "bias", fp8Bias, to, bias)
	o.inputScale()
	return ""
}

// actDType is the dtype that the kernels compute in, which decides the factor in the scales: the one asked for, else that of the scales, else
// that of the model.
func (o *fp8Outputs) actDType() (to stages.DType, reason string) {
	for _, d := range []stages.DType{o.b.DType(), o.spec.scales, o.b.ModelDType()} {
		if d == safetensors.F16 || d == safetensors.BF16 {
			return d, ""
		}
	}
	return to, "Marlin takes F16 or BF16 scales, these are " + o.spec.scales.String() + " (use --dtype f16 or bf16)"
}

// marlinHolds finds the shape of the Group for the Marlin kernels and the input features of a group (-1: all), or says why they cannot hold it.
// The last block of input features may be a part of one: it is filled up.
func (o *fp8Outputs) marlinHolds() (s tileShape, group int64, reason string) {
	group = -1
	if _, groups := o.spec.blocks.Grid(o.m.N, o.m.K); groups > 1 {
		if group = o.spec.blocks.Cols; group != 128 {
			return s, group, fmt.Sprintf("Marlin has FP8 groups of 128 or all, not %d", group)
		}
	}
	s, reason = o.b.marlinHolds(marlinAsk{group: group, partial: true})
	return s, group, reason
}

// vector adds a tensor that members have one after the other, n elements in all: as a row of columns.
func (o *fp8Outputs) vector(suffix string, part int, to stages.DType, op stages.Op, l stages.Layout, n int64, checks []Check) {
	from := o.b.SourceDType(part)
	kind := stages.KindRepacked
	if l == stages.LayoutRaw {
		if kind = o.b.Kind(); kind == stages.KindKept && from != to {
			kind = stages.KindCast
		}
	}
	elements := func(m *Module) int64 {
		switch part {
		case fp8Bias:
			return m.N
		case fp8Input:
			return 1
		}
		rows, cols := o.spec.blocks.Grid(m.N, m.K)
		return rows * cols
	}
	dims := []int64{n}
	if part == fp8Scale && o.spec.blocks != (stages.Blocks{}) {
		_, cols := o.spec.blocks.Grid(o.m.N, o.m.K)
		dims = append(dims, cols)
	}
	if l == stages.LayoutRaw && o.m.InStack() {
		dims = o.b.SourceShape(part)
	}
	o.b.Grid(Grid{
		Suffix: suffix, Part: part, DType: to, Layout: l, Kind: kind, Op: op, Rows: 1, Dims: dims, Checks: checks,
		Width:  func(m *Module) int64 { return elements(m) * elementBytes(to) },
		Source: func(m *Module) int64 { return elements(m) * elementBytes(from) },
	})
}

// names are the suffixes of the Outputs of a module that is not repacked: those of its parts, and of a stack what its tensors end in. A caller who
// asks for one module dequantised gets the names of all modules.
func (o *fp8Outputs) names() []string {
	module := o.b.Layout() == stages.LayoutDequant && o.b.Single() && !o.spec.turned
	if o.m.InStack() && o.b.Layout() != stages.LayoutMarlin && !module {
		return []string{fp8Weight: "", fp8Scale: o.r.fusedScale(), fp8Bias: fusedBias, fp8Input: fp8FusedInput}
	}
	return o.r.Parts()
}

// floats is vector of values in their order, cast where that is possible and wanted, and checked to be finite.
func (o *fp8Outputs) floats(part int, n int64, want stages.DType) {
	to, op, _ := o.b.cast(part, want)
	o.vector(o.names()[part], part, to, op, stages.LayoutRaw, n, []Check{{Part: part, Op: decode.CheckFinite(o.b.SourceDType(part))}})
}

// inputScale keeps the scales of static activations, one for every member: no kernel of weights needs them, but an engine may.
func (o *fp8Outputs) inputScale() {
	if o.spec.static != safetensors.Invalid {
		o.floats(fp8Input, int64(len(o.g.Members)), safetensors.Invalid)
	}
}

// raw keeps the checkpoint's own order.
func (o *fp8Outputs) raw() string {
	rows := int64(0)
	members := o.g.Modules[:len(o.g.Members)]
	for i, m := range members {
		if by := o.spec.blocks.Rows; by > 1 && i < len(members)-1 && m.N%by != 0 {
			return fmt.Sprintf("%s has %d output features, which end inside a block of %d scales: its members cannot be joined raw (use --no-fuse)", m.Base, m.N, by)
		}
		each, _ := o.spec.blocks.Grid(m.N, m.K)
		rows += each
	}
	dims := []int64{o.g.N(), o.m.K}
	if o.spec.turned {
		dims = []int64{o.m.K, o.m.N}
	}
	o.b.Codes(o.names()[fp8Weight], fp8Weight, dims)
	o.floats(fp8Scale, rows, o.b.DType())
	if o.spec.bias != safetensors.Invalid {
		o.floats(fp8Bias, o.g.N(), o.b.DType())
	}
	o.inputScale()
	return ""
}

// dequant makes floating-point weights, as a dense checkpoint would hold them.
func (o *fp8Outputs) dequant() string {
	to := o.b.WeightDType(o.spec.scales)
	opFor := func(to stages.DType) (stages.Op, error) { return decode.FP8Dequant(o.spec.blocks, o.spec.scales, to) }
	op, err := opFor(to)
	if err != nil {
		return err.Error() + " (use --dtype f32, f16 or bf16)"
	}
	var checks []Check
	if o.spec.static != safetensors.Invalid {
		checks = append(checks, Check{Part: fp8Input, Op: decode.CheckFinite(o.spec.static)})
	}
	o.b.Tall(Tall{Suffix: o.names()[fp8Weight], Turned: o.spec.turned, Parts: []int{fp8Weight, fp8Scale}, DType: to, Op: op, OpFor: opFor, Checks: checks})
	if o.spec.bias != safetensors.Invalid {
		o.floats(fp8Bias, o.g.N(), to)
	}
	return ""
}
