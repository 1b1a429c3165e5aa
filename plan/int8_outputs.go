package plan

import (
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/decode"
	"github.com/coldload/coldload/stages/repack"
)

// int8Outputs makes the Outputs of one Group of int-quantized Modules.
type int8Outputs struct {
	g    *Group
	b    *Builder
	spec int8Spec
	m    *Module // the first, which stands for all in K and Spec
}

// Compile adds the Outputs for the layout asked for.
func (*int8Reader) Compile(g *Group, b *Builder) string {
	spec, ok := g.First().Spec.(int8Spec)
	if !ok {
		return "not a module of int-quantized"
	}
	o := &int8Outputs{g: g, b: b, spec: spec, m: g.First()}
	return b.inLayout(layouts{marlin: o.marlin, exllama: because("exllama is made of gptq checkpoints only"), dequant: o.dequant, raw: o.raw})
}

// marlin makes what the Marlin kernels of weights alone read: signed codes become their unsigned ones, 128 larger.
func (o *int8Outputs) marlin() string {
	scalesTo, biasTo := o.b.wanted(o.spec.scales), o.b.wanted(o.spec.bias)
	s, reason := o.b.marlinHolds(marlinAsk{group: o.spec.group, scales: scalesTo, bias: biasTo})
	if reason != "" {
		return reason
	}
	scales, err := o.spec.marlinScales(&s, o.spec.scales, scalesTo)
	if err != nil {
		return err.Error()
	}
	bias, err := marlinBias(o.spec.bias, biasTo)
	if err != nil {
		return err.Error()
	}
	words := func(m *Module) int64 { return 16 * m.N }
	o.b.Tiles(&s, Grid{
		Suffix: "qweight", Part: int8Weight, DType: safetensors.I32, Layout: stages.LayoutMarlin, Kind: stages.KindRepacked,
		Op: repack.SignedRowsMarlin(), Rows: s.K / 16, Cols: 4 * s.N, Width: words, Source: words, Whole: true,
	}, repack.Padding{Bits: 128, Fill: 0x8080_8080})
	o.spec.addMarlinScales(o.b, &s, int8Scale, scalesTo, scales)
	o.b.tileBias(&s, "bias", int8Bias, biasTo, bias)
	o.inputScale()
	return ""
}

// inputScale keeps the scales of static activations, one for every member: no kernel of weights needs them, but an engine may.
func (o *int8Outputs) inputScale() {
	if o.spec.static != safetensors.Invalid {
		o.values(int8Input, []int64{int64(len(o.g.Members))}, func(*Module) int64 { return 1 }, safetensors.Invalid)
	}
}

// values adds floats that members have one after the other, each so many, cast when that is asked for and checked to be finite.
func (o *int8Outputs) values(part int, dims []int64, each func(*Module) int64, want stages.DType) {
	from := o.b.SourceDType(part)
	to, op, kind := o.b.cast(part, want)
	o.b.Grid(Grid{
		Suffix: int8Parts[part], Part: part, DType: to, Layout: stages.LayoutRaw, Kind: kind, Op: op, Rows: 1, Dims: dims,
		Width:  func(m *Module) int64 { return each(m) * elementBytes(to) },
		Source: func(m *Module) int64 { return each(m) * elementBytes(from) },
		Checks: []Check{{Part: part, Op: decode.CheckFinite(from)}},
	})
}

// bias adds the bias in its order.
func (o *int8Outputs) bias(want stages.DType) {
	if o.spec.bias != safetensors.Invalid {
		o.values(int8Bias, []int64{o.g.N()}, func(m *Module) int64 { return m.N }, want)
	}
}

// raw keeps the checkpoint's own order, members one below the other.
func (o *int8Outputs) raw() string {
	o.b.Codes("weight", int8Weight, []int64{o.g.N(), o.m.K})
	o.values(int8Scale, o.spec.scaleDimsOf(o.g), o.spec.scalesIn, o.b.DType())
	o.bias(o.b.DType())
	o.inputScale()
	return ""
}

// dequant makes floating-point weights, as a dense checkpoint would hold them.
func (o *int8Outputs) dequant() string {
	to := o.b.WeightDType(o.spec.scales)
	layout := decode.RowsLayout{
		Bits: 8, Symmetric: true, Signed: true, OneScale: o.spec.whole, Group: int(o.spec.span(o.m)), Groups: int(o.spec.groupsOf(o.m)),
	}
	opFor := func(to stages.DType) (stages.Op, error) { return decode.RowsDequant(layout, o.spec.scales, to) }
	op, err := opFor(to)
	if err != nil {
		return err.Error()
	}
	var checks []Check
	if o.spec.static != safetensors.Invalid {
		checks = append(checks, Check{Part: int8Input, Op: decode.CheckFinite(o.spec.static)})
	}
	o.b.Tall(Tall{Suffix: "weight", Parts: []int{int8Weight, int8Scale}, DType: to, Op: op, OpFor: opFor, Checks: checks})
	o.bias(to)
	return ""
}
