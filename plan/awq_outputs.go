package plan

import (
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/decode"
	"github.com/coldload/coldload/stages/repack"
)

// awqOutputs makes the Outputs of one Group of AWQ Modules.
type awqOutputs struct {
	g      *Group
	b      *Builder
	spec   awqSpec
	m      *Module // the first, which stands for all in K and Spec
	groups int64
}

// Compile adds the Outputs for the layout asked for.
func (r *awqReader) Compile(g *Group, b *Builder) string {
	spec, ok := g.First().Spec.(awqSpec)
	if !ok {
		return "not an awq module"
	}
	o := &awqOutputs{g: g, b: b, spec: spec, m: g.First(), groups: g.First().K / spec.span(g.First())}
	return b.inLayout(layouts{marlin: o.marlin, exllama: because("the exllama layout is made of GPTQ codes"), dequant: o.dequant, raw: o.raw})
}

// marlin makes what the Marlin kernels read: codes, scales, zero points.
func (o *awqOutputs) marlin() string {
	if o.spec.version != awqGemm {
		return "Marlin takes AWQ of version gemm, not " + o.spec.version + " (use --layout dequant)"
	}
	scales, bias := o.b.wanted(o.spec.scales), o.b.wanted(o.spec.bias)
	s, reason := o.b.marlinHolds(marlinAsk{group: o.spec.group, scales: scales, bias: bias})
	if reason != "" {
		return reason
	}
	perm, groups := s.scaleOrder(o.spec.group)
	scalesOp, err := repack.MarlinScales(o.spec.scales, scales, perm)
	if err != nil {
		return err.Error()
	}
	biasOp, err := marlinBias(o.spec.bias, bias)
	if err != nil {
		return err.Error()
	}
	words := func(m *Module) int64 { return 8 * m.N }
	o.b.Tiles(&s, Grid{
		Suffix: "qweight", Part: awqQweight, DType: safetensors.I32, Layout: stages.LayoutMarlin, Kind: stages.KindRepacked,
		Op: repack.AWQMarlin(), Rows: s.K / 16, Cols: 2 * s.N, Width: words, Source: words,
	}, repack.Padding{Bits: 64, Rows: 16})
	zeros := o.zerosGrid(stages.LayoutMarlin, stages.KindRepacked, repack.MarlinZeros(repack.ZeroLayout{EvensFirst: true}))
	zeros.Rows, zeros.Cols = groups, s.N/8
	o.b.Tiles(&s, zeros, repack.Padding{Bits: 4, Rows: 1})
	o.b.TileFloats(&s, "scales", awqScales, []int64{groups, s.N}, scales, scalesOp)
	o.b.tileBias(&s, "bias", awqBias, bias, biasOp)
	return ""
}

// zeroWords is Z of the versions that fill up their zero points.
func (o *awqOutputs) zeroWords() int64 { return awqZeroWords(o.groups, o.spec.span(o.m)) }

// zerosGrid is the zero points of version gemm.
func (o *awqOutputs) zerosGrid(l stages.Layout, k stages.Kind, op stages.Op) Grid {
	width := func(m *Module) int64 { return m.N / 2 }
	return Grid{
		Suffix: "qzeros", Part: awqQzeros, DType: safetensors.I32, Layout: l, Kind: k, Op: op,
		Rows: o.groups, Cols: o.g.N() / 8, Width: width, Source: width,
	}
}

// dequant makes floating-point weights, as a dense checkpoint would hold them.
func (o *awqOutputs) dequant() string {
	to := o.b.WeightDType(o.spec.scales)
	opFor := func(to stages.DType) (stages.Op, error) {
		group, groups := int(o.spec.span(o.m)), int(o.groups)
		if o.spec.version == awqGemm {
			return decode.AWQDequant(group, groups, o.spec.scales, to)
		}
		l := decode.AWQGemvLayout{Fast: o.spec.version == awqGemvFast, Group: group, Groups: groups, ZeroWords: int(o.zeroWords())}
		return decode.AWQGemvDequant(l, o.spec.scales, to)
	}
	op, err := opFor(to)
	if err != nil {
		return err.Error()
	}
	o.b.Tall(Tall{Suffix: "weight", Parts: []int{awqQweight, awqScales, awqQzeros}, DType: to, Op: op, OpFor: opFor})
	o.bias(to)
	return ""
}

// bias adds the bias in its order.
func (o *awqOutputs) bias(want stages.DType) {
	if o.spec.bias != safetensors.Invalid {
		o.b.KeptFloats("bias", awqBias, []int64{o.g.N()}, want)
	}
}

// rowScales adds scales that lie as the output features do, perRow to each: one member's are one piece.
func (o *awqOutputs) rowScales(perRow int64, want stages.DType) {
	from := o.spec.scales
	to, op, kind := o.b.cast(awqScales, want)
	o.b.Grid(Grid{
		Suffix: "scales", Part: awqScales, DType: to, Layout: stages.LayoutRaw, Kind: kind, Op: op, Rows: 1, Dims: []int64{o.g.N(), perRow},
		Width:  func(m *Module) int64 { return m.N * perRow * elementBytes(to) },
		Source: func(m *Module) int64 { return m.N * perRow * elementBytes(from) },
		Checks: []Check{{Part: awqScales, Op: decode.CheckFinite(from)}},
	})
}

// raw keeps the tensors as they lie: members side by side along N, which is the last dim or the first.
func (o *awqOutputs) raw() string {
	want := o.b.DType()
	switch o.spec.version {
	case awqGemm:
		width := func(m *Module) int64 { return m.N / 2 }
		o.b.Grid(Grid{
			Suffix: "qweight", Part: awqQweight, DType: safetensors.I32, Layout: stages.LayoutRaw, Kind: o.b.Kind(), Op: o.b.Copy(),
			Rows: o.m.K, Cols: o.g.N() / 8, Width: width, Source: width,
		})
		o.b.Grid(o.zerosGrid(stages.LayoutRaw, o.b.Kind(), o.b.Copy()))
		o.b.KeptFloats("scales", awqScales, []int64{o.groups, o.g.N()}, want)
	case awqGemv:
		words := o.zeroWords()
		o.b.Segments("qweight", awqQweight, []int64{o.g.N(), o.m.K / 8}, want)
		o.b.Segments("qzeros", awqQzeros, []int64{o.g.N(), words}, want)
		o.rowScales(8*words, want)
	case awqGemvFast:
		words := o.zeroWords()
		o.b.Segments("qweight", awqQweight, []int64{o.g.N() / 4, o.m.K}, want)
		o.b.KeptFloats("qzeros", awqQzeros, []int64{8 * words, o.g.N()}, want)
		o.b.KeptFloats("scales", awqScales, []int64{8 * words, o.g.N()}, want)
	}
	o.bias(want)
	return ""
}
