package plan

import (
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/decode"
	"github.com/coldload/coldload/stages/repack"
)

// nvfp4Outputs makes the Outputs of one Group of NVFP4 Modules.
type nvfp4Outputs struct {
	r    *nvfp4Reader
	g    *Group
	b    *Builder
	spec nvfp4Spec
	m    *Module // the first, which stands for all in K and Spec
}

func (o *nvfp4Outputs) groups() int64 { return o.m.K / decode.NVFP4Group }

// marlin makes what the Marlin kernels read. For BF16 the scales of one tensor take a factor by the largest of them: dense Modules that fuse
// are small enough to look at all of them each time, those of all experts are scanned.
func (o *nvfp4Outputs) marlin() string {
	act, reason := o.actDType()
	if reason != "" {
		return reason
	}
	tiles, reason := o.b.marlinHolds(marlinAsk{group: decode.NVFP4Group, own: true})
	if reason != "" {
		return reason
	}
	scanned := o.g.Stacked()
	codes, err := repack.RowsMarlin(4)
	scales, err2 := repack.NVFP4MarlinScales(act, scanned)
	global, err3 := repack.NVFP4MarlinGlobal(act, o.r.divisor, scanned)
	bias, err4 := marlinBias(o.spec.bias, act)
	for _, err := range []error{err, err2, err3, err4} {
		if err != nil {
			return err.Error()
		}
	}
	words, bytes := func(m *Module) int64 { return 8 * m.N }, func(m *Module) int64 { return m.N }
	o.b.Tiles(&tiles, Grid{
		Suffix: "qweight", Part: nvfp4Codes, DType: safetensors.I32, Layout: stages.LayoutMarlin, Kind: stages.KindRepacked,
		Op: codes, Rows: tiles.K / 16, Cols: 2 * tiles.N, Width: words, Source: words, Whole: true,
	}, repack.Padding{Bits: 64})
	s := Grid{
		Suffix: "scales", Part: nvfp4Scale, DType: safetensors.F8E4M3, Layout: stages.LayoutMarlin, Kind: stages.KindRepacked,
		Op: scales, Rows: tiles.K / decode.NVFP4Group, Cols: tiles.N, Width: bytes, Source: bytes, Whole: true,
	}
	t := o.globals(nvfp4Global, "global_scale", stages.LayoutMarlin, stages.KindRepacked, global)
	t.Beside = true
	switch {
	case act != safetensors.BF16:
	case scanned:
		s.Needs = o.b.Scan(nvfp4Scale, repack.NVFP4Peak())
		t.Needs = s.Needs
	default:
		s.Joint, t.Joint = []int{nvfp4Scale}, []int{nvfp4Scale}
	}
	o.b.Tiles(&tiles, s, repack.Padding{Bits: 8})
	o.b.Grid(o.shared(t))
	o.b.tileBias(&tiles, "bias", nvfp4Bias, act, bias)
	o.input()
	return ""
}

// actDType is the dtype that the kernels compute in, which decides the factor in the scales: the one asked for, else the model's.
func (o *nvfp4Outputs) actDType() (to stages.DType, reason string) {
	for _, d := range []stages.DType{o.b.DType(), o.b.ModelDType()} {
		if d == safetensors.F16 || d == safetensors.BF16 {
			return d, ""
		}
	}
	return to, "the Marlin kernels of FP4 compute in F16 or BF16, and the config names neither (use --dtype f16 or bf16)"
}

// globals describes an Output of a tensor of one element of each member: as it is of one, [members] of several.
func (o *nvfp4Outputs) globals(part int, suffix string, l stages.Layout, k stages.Kind, op stages.Op) Grid {
	d := o.b.SourceDType(part)
	size := func(*Module) int64 { return elementBytes(d) }
	dims := []int64{int64(len(o.g.Members))}
	if len(o.g.Members) == 1 {
		if dims = shapeOf(o.b.c.in.Catalog, int(o.m.Tensors[part])); l == stages.LayoutMarlin || dims == nil {
			dims = []int64{}
		}
	}
	return Grid{Suffix: suffix, Part: part, DType: d, Layout: l, Kind: k, Op: op, Rows: 1, Dims: dims, Width: size, Source: size}
}

// shared is the scale of the tensor that members become. Dense ones have one together, as the kernels take one for a matrix: a difference ends
// the load. Those of experts are kept apart, and a difference is a warning.
func (o *nvfp4Outputs) shared(g Grid) Grid {
	switch {
	case len(o.g.Members) == 1:
	case o.g.Stacked():
		g.Checks = []Check{{Part: g.Part, Op: decode.WarnOtherScale(), Against: true}}
	default:
		g.Shared, g.Dims = true, []int64{}
		g.Checks = []Check{{Part: g.Part, Op: decode.CheckSameScale(), Against: true}}
	}
	return g
}

// kept adds the scalars of a part as they are.
func (o *nvfp4Outputs) kept(part int) {
	g := o.globals(part, o.r.parts[part], stages.LayoutRaw, o.b.Kind(), o.b.Copy())
	g.Checks = []Check{{Part: part, Op: decode.CheckFinite(g.DType)}}
	o.b.Grid(g)
}

// input keeps the scales of activations, one for each member: no kernel of weights needs them, but an engine may.
func (o *nvfp4Outputs) input() {
	if o.spec.input != safetensors.Invalid {
		o.kept(nvfp4Input)
	}
}

// raw keeps the checkpoint's own order. Scales are what the format says they are, and not cast.
func (o *nvfp4Outputs) raw() string {
	o.b.Codes(o.r.parts[nvfp4Codes], nvfp4Codes, []int64{o.g.N(), o.m.K / 2})
	size := func(m *Module) int64 { return m.N * o.groups() }
	o.b.Grid(Grid{
		Suffix: o.r.parts[nvfp4Scale], Part: nvfp4Scale, DType: safetensors.F8E4M3, Layout: stages.LayoutRaw, Kind: o.b.Kind(), Op: o.b.Copy(),
		Rows: 1, Dims: []int64{o.g.N(), o.groups()}, Width: size, Source: size,
		Checks: []Check{{Part: nvfp4Scale, Op: decode.CheckFinite(safetensors.F8E4M3)}},
	})
	o.kept(nvfp4Global)
	o.bias(o.b.DType())
	o.input()
	return ""
}

// bias adds the bias in its order, cast where that is possible and wanted.
func (o *nvfp4Outputs) bias(want stages.DType) {
	if o.spec.bias != safetensors.Invalid {
		o.b.KeptFloats("bias", nvfp4Bias, []int64{o.g.N()}, want)
	}
}

// dequant makes floating-point weights, as a dense checkpoint would hold them, each member with its own scales.
func (o *nvfp4Outputs) dequant() string {
	to := o.b.WeightDType(safetensors.F8E4M3)
	opFor := func(to stages.DType) (stages.Op, error) { return decode.NVFP4Dequant(o.r.divisor, to) }
	op, err := opFor(to)
	if err != nil {
		return err.Error() + " (use --dtype f32, f16 or bf16)"
	}
	var checks []Check
	if o.spec.input != safetensors.Invalid {
		checks = append(checks, Check{Part: nvfp4Input, Op: decode.CheckFinite(o.spec.input)})
	}
	o.b.Tall(Tall{Suffix: "weight", Parts: []int{nvfp4Codes, nvfp4Scale, nvfp4Global}, DType: to, Op: op, OpFor: opFor, Checks: checks})
	o.bias(to)
	return ""
}
