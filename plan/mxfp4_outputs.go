package plan

import (
	"fmt"
	"strings"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/decode"
	"github.com/coldload/coldload/stages/repack"
)

// mxfp4Parts are the tensors of a Module of MXFP4 codes, whatever a format calls them.
//
//	codes U8, K/2 bytes for each of N output features, the low nibble first   scales U8 or F8_E8M0 [N, K/32]   bias [N], optional
const (
	mxfp4Codes = iota
	mxfp4Scales
	mxfp4Bias
)

// mxfp4Names is what a format calls things after the Group's name, see Builder.name.
type mxfp4Names struct {
	raw [3]string // the parts of a Module in the checkpoint
	// weight and bias are those of a model without codes, which dequantised Modules are; inputMajor says that its weights are [K, N].
	weight, bias string
	inputMajor   bool
}

// mxfp4Spec is what the Modules of one Group must have in common.
type mxfp4Spec struct {
	scales stages.DType
	bias   stages.DType // Invalid for none
	names  mxfp4Names
	// blocks says that it is a stack of gpt-oss: its codes have an axis more, [N, K/32, 16], and its tiles are always filled up.
	blocks bool
}

// CodeBits and GroupSize make it Quantised.
func (mxfp4Spec) CodeBits() int  { return 4 }
func (mxfp4Spec) GroupSize() int { return decode.MXFP4Group }

func (s mxfp4Spec) String() string {
	t := "MXFP4, " + s.scales.String() + " scales"
	if s.bias != safetensors.Invalid {
		t += ", " + s.bias.String() + " bias"
	}
	return t
}

// Differs names the first thing in which another Spec is not this one.
func (s mxfp4Spec) Differs(other Spec) (what, expected, found string) {
	t, ok := other.(mxfp4Spec)
	switch {
	case !ok:
	case s.scales != t.scales:
		return "dtype of the scales", s.scales.String(), t.scales.String()
	case s.bias != t.bias:
		return "bias", biasOf(s.bias), biasOf(t.bias)
	}
	return "format", s.String(), fmt.Sprint(other)
}

// mxfp4Matrix checks a Module whose codes are [N, K/2]. where is the config, for messages; also is as for mxfp4Module.
func mxfp4Matrix(m *Module, c *Checks, names mxfp4Names, where string, also ...stages.DType) bool {
	codes := m.Tensors[mxfp4Codes]
	n, bytes, ok := shape2(c.Catalog, int(codes))
	if !ok || n <= 0 || bytes <= 0 || n > 1<<40 || bytes > 1<<40 || bytes%(decode.MXFP4Group/2) != 0 {
		c.Fault(codes, stages.CodeShape, "is no matrix of MXFP4 codes", "[out_features, in_features/2], in_features a multiple of 32",
			formatShape(shapeOf(c.Catalog, int(codes))), "the checkpoint is damaged, or "+where+" belongs to another one")
		return false
	}
	m.N, m.K = n, 2*bytes
	return mxfp4Module(m, c, names, false, "the checkpoint is incomplete, or "+where+" belongs to another one", also...)
}

// mxfp4Module checks the dtypes of a Module's tensors, and the shapes of all but the codes, which have told K and N. advice is for what is missing
// or does not fit, also are dtypes that the codes may have besides U8.
func mxfp4Module(m *Module, c *Checks, names mxfp4Names, blocks bool, advice string, also ...stages.DType) bool {
	if codes := m.Tensors[mxfp4Codes]; !m.Has(mxfp4Scales) {
		c.Fault(codes, stages.CodeMember, "is there, but the scales of its module are missing",
			strings.TrimSuffix(c.Catalog.Name(int(codes)), names.raw[mxfp4Codes])+names.raw[mxfp4Scales], "", advice)
		return false
	}
	bytes, floats := []stages.DType{safetensors.U8, safetensors.F8E8M0}, []stages.DType{safetensors.BF16, safetensors.F16, safetensors.F32}
	ok := true
	for part, want := range [][]stages.DType{mxfp4Codes: append(bytes[:1:1], also...), mxfp4Scales: bytes, mxfp4Bias: floats} {
		if m.Has(part) {
			ok = c.hasDType(m.Tensors[part], want) && ok
		}
	}
	for part, want := range [][]int64{mxfp4Scales: {m.N, m.K / decode.MXFP4Group}, mxfp4Bias: {m.N}} {
		if want == nil || !m.Has(part) {
			continue
		}
		if s := shapeOf(c.Catalog, int(m.Tensors[part])); formatShape(s) != formatShape(want) {
			c.Fault(m.Tensors[part], stages.CodeShape, fmt.Sprintf("does not go with %d x %d codes in groups of %d", m.N, m.K, decode.MXFP4Group),
				formatShape(want), formatShape(s), advice)
			ok = false
		}
	}
	spec := mxfp4Spec{scales: c.Catalog.DType(int(m.Tensors[mxfp4Scales])), names: names, blocks: blocks}
	if m.Has(mxfp4Bias) {
		spec.bias = c.Catalog.DType(int(m.Tensors[mxfp4Bias]))
	}
	m.Spec = spec
	return ok
}

// mxfp4Outputs makes the Outputs of one Group of MXFP4 Modules.
type mxfp4Outputs struct {
	g    *Group
	b    *Builder
	spec mxfp4Spec
	m    *Module // the first, which stands for all in K and Spec
}

// compileMXFP4 adds the Outputs for the layout asked for.
func compileMXFP4(g *Group, b *Builder) string {
	spec, ok := g.First().Spec.(mxfp4Spec)
	if !ok {
		return "not an MXFP4 module"
	}
	o := &mxfp4Outputs{g: g, b: b, spec: spec, m: g.First()}
	return b.inLayout(layouts{marlin: o.marlin, exllama: because("the exllama kernels have no MXFP4 weights"), dequant: o.dequant, raw: o.raw})
}

// marlin makes what the Marlin kernels read. They take MXFP4 with activations in BF16 alone.
func (o *mxfp4Outputs) marlin() string {
	if want := o.b.DType(); !keeps(want) && want != safetensors.BF16 {
		return "Marlin takes MXFP4 with BF16 activations alone, not " + want.String() + " (use --dtype bf16)"
	}
	if bias := o.spec.bias; bias != safetensors.Invalid && bias != safetensors.BF16 && keeps(o.b.DType()) {
		return "Marlin takes MXFP4 with a BF16 bias alone, this one is " + bias.String() + " (use --dtype bf16)"
	}
	s, reason := o.tiles()
	if reason != "" {
		return reason
	}
	codes, err := repack.RowsMarlin(4)
	if err != nil {
		return err.Error()
	}
	bias, err := marlinBias(o.spec.bias, safetensors.BF16)
	if err != nil {
		return err.Error()
	}
	words, bytes := func(m *Module) int64 { return 8 * m.N }, func(m *Module) int64 { return m.N }
	o.b.Tiles(&s, Grid{
		Suffix: "qweight", Part: mxfp4Codes, DType: safetensors.I32, Layout: stages.LayoutMarlin, Kind: stages.KindRepacked,
		Op: codes, Rows: s.K / 16, Cols: 2 * s.N, Width: words, Source: words, Whole: true,
	}, repack.Padding{Bits: 64})
	o.b.Tiles(&s, Grid{
		Suffix: "scales", Part: mxfp4Scales, DType: safetensors.F8E8M0, Layout: stages.LayoutMarlin, Kind: stages.KindRepacked,
		Op: repack.MXFP4MarlinScales(), Rows: s.K / decode.MXFP4Group, Cols: s.N, Width: bytes, Source: bytes, Whole: true,
	}, repack.Padding{Bits: 8})
	o.b.tileBias(&s, "bias", mxfp4Bias, safetensors.BF16, bias)
	return ""
}

// tiles is the shape of the Group for the Marlin kernels, or says why they cannot hold it. Stacks of gpt-oss are always filled up: the engine wants
// so many features of both kinds, whether or not the tiles would fit without. Source: LAYOUTS C8.
func (o *mxfp4Outputs) tiles() (s tileShape, reason string) {
	const hidden, inner = 256, 128
	switch {
	case !o.spec.blocks || o.b.NoPad():
		return o.b.marlinHolds(marlinAsk{group: decode.MXFP4Group})
	case o.g.Pair == NoPair: // down
		return o.g.padded(up(o.g.N(), hidden), up(o.m.K, inner), false)
	}
	return o.g.padded(up(o.g.N(), 2*inner), up(o.m.K, hidden), false)
}

// dequant makes floating-point weights, named and turned as the model has them without codes: those of gpt-oss are [K, N], with the columns of gate
// and up interleaved. A caller who asks for one module gets [N, K] whatever the model has. Source: LAYOUTS A5.
func (o *mxfp4Outputs) dequant() string {
	names, opFor := o.spec.names, decode.MXFP4Dequant
	switch {
	case o.b.Single():
		names = mxfp4Names{weight: "weight", bias: "bias"}
	case names.inputMajor:
		opFor = decode.MXFP4DequantTurned
	}
	to := o.b.WeightDType(safetensors.BF16) // which holds every weight
	op, err := opFor(to)
	if err != nil {
		return err.Error() + " (use --dtype f32, f16 or bf16)"
	}
	if names.inputMajor {
		o.b.turned(turnedOutput{
			suffix: names.weight, rows: o.m.K, cols: o.m.N, to: to, kind: stages.KindStacked, opFor: opFor,
			parts: []turnedPart{
				{o.b.tensors(mxfp4Codes, 1), decode.MXFP4Group, decode.MXFP4Group / 2}, {o.b.tensors(mxfp4Scales, 1), decode.MXFP4Group, 1},
			},
		})
	} else {
		o.b.Tall(Tall{Suffix: names.weight, Parts: []int{mxfp4Codes, mxfp4Scales}, DType: to, Op: op, OpFor: opFor})
	}
	o.bias(names.bias, to)
	return ""
}

// raw keeps the checkpoint's own tensors, under its own names.
func (o *mxfp4Outputs) raw() string {
	groups := o.m.K / decode.MXFP4Group
	dims := []int64{o.g.N(), o.m.K / 2}
	if o.spec.blocks {
		dims = []int64{o.g.N(), groups, decode.MXFP4Group / 2}
	}
	o.b.Codes(o.spec.names.raw[mxfp4Codes], mxfp4Codes, dims)
	size := func(m *Module) int64 { return m.N * groups }
	o.b.Grid(Grid{
		Suffix: o.spec.names.raw[mxfp4Scales], Part: mxfp4Scales, DType: o.spec.scales, Layout: stages.LayoutRaw, Kind: o.b.Kind(), Op: o.b.Copy(),
		Rows: 1, Dims: []int64{o.g.N(), groups}, Width: size, Source: size,
		Checks: []Check{{Part: mxfp4Scales, Op: decode.CheckFinite(safetensors.F8E8M0)}},
	})
	o.bias(o.spec.names.raw[mxfp4Bias], o.b.DType())
	return ""
}

// bias adds the bias in its own order, cast where that is wanted and possible, when there is one.
func (o *mxfp4Outputs) bias(suffix string, want stages.DType) {
	if o.spec.bias != safetensors.Invalid {
		o.b.KeptFloats(suffix, mxfp4Bias, []int64{o.g.N()}, want)
	}
}
