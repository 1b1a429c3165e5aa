package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/coldload/coldload/gguf"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/decode"
	"github.com/coldload/coldload/stages/discover"
)

// ggufFormat recognises the checkpoints of llama.cpp. Nothing but the tensors says how they are quantised: each has a type of its own, and the
// usual mixes give the weights of one layer several.
//
//	weight U8 [..., bytes of a row]: blocks of the type that the tensor's Layout names; see stages.BlockLayout
//
// Experts are stacked in the file: [E, N, bytes of a row]. Tensors of plain numbers are like those of any other checkpoint.
type ggufFormat struct{}

func (ggufFormat) Name() string { return discover.MethodGGUF }

func (ggufFormat) Open(*discover.QuantConfig) (Reader, []stages.Fault) { return ggufReader{}, nil }

// Naming keeps the names of llama.cpp, and fuses nothing: the members of a layer often have blocks of different types, which only dequantised
// can become one tensor.
func (ggufFormat) Naming() (f Family, notes []string) {
	return Family{Name: "llama.cpp"}, []string{
		"names are those of llama.cpp, and so is the order of rows: of some architectures (llama) attn_q and attn_k have theirs in another order than " +
			"on the Hugging Face hub, which is not undone",
	}
}

// ggufReader is GGUF set up for one checkpoint.
type ggufReader struct{}

const ggufWeight = 0 // the one part of a Module

// ggufTypes are the types of blocks that are read.
var ggufTypes = []gguf.Type{gguf.Q4_0, gguf.Q8_0, gguf.Q4K, gguf.Q6K, gguf.MXFP4}

// ggufSpec is the type of a Module's blocks.
type ggufSpec struct{ typ gguf.Type }

func (s ggufSpec) String() string { return "GGUF " + s.typ.String() }

// CodeBits and GroupSize make it Quantised.
func (s ggufSpec) CodeBits() int {
	switch s.typ { //nolint:exhaustive // the others have 4
	case gguf.Q8_0:
		return 8
	case gguf.Q6K:
		return 6
	}
	return 4
}

// GroupSize is the number of input features that share a scale.
func (s ggufSpec) GroupSize() int {
	if s.typ == gguf.Q6K {
		return 16
	}
	return 32
}

func (ggufReader) Parts() []string { return []string{"weight"} }

// Picks reports whether a .weight is blocks.
func (ggufReader) Picks(c *Checks, i int32) bool {
	return layoutOf(c.Catalog, int(i)) != stages.LayoutRaw
}

// Left refuses blocks under another name: no tool writes such, and what they are part of is anybody's guess.
func (ggufReader) Left(c *Checks, i int32) Leftover {
	l := layoutOf(c.Catalog, int(i))
	if l == stages.LayoutRaw {
		if !ggufExperts(c, i) {
			return LeftoverFaulty
		}
		return LeftoverOther
	}
	c.Fault(i, stages.CodeUnsupported, "is quantised, and not the weight of a layer", "a name that ends in .weight", string(l),
		"make the file with llama.cpp's own converter, which quantises nothing else")
	return LeftoverFaulty
}

func (ggufReader) Module(m *Module, c *Checks) bool {
	w := m.Tensors[ggufWeight]
	t, ok := layoutOf(c.Catalog, int(w)).BlockType()
	if !ok {
		c.Fault(w, stages.CodeUnsupported, "is not quantised", "blocks", c.Catalog.DType(int(w)).String(), "")
		return false
	}
	if !slices.Contains(ggufTypes, t) {
		c.Fault(w, stages.CodeUnsupported, "its type "+t.String()+" is not supported yet: nothing here knows the values in its blocks", "F32, F16, BF16, "+
			strings.Join(typeNames(ggufTypes), ", "), t.String(), "use a file of another quantisation, such as Q4_K_M, Q6_K or Q8_0")
		return false
	}
	if !ggufExperts(c, w) {
		return false
	}
	shape := shapeOf(c.Catalog, int(w))
	elements, size := t.Block()
	last := len(shape) - 1
	m.K, m.N = shape[last]/size*elements, 1
	for _, d := range shape[:last] {
		m.N *= d
	}
	m.Spec = ggufSpec{t}
	return true
}

// ggufExperts checks that weights of all experts of a layer are those of as many as the metadata says.
func ggufExperts(c *Checks, i int32) bool {
	if !strings.HasSuffix(c.Catalog.Name(int(i)), "_exps.weight") || c.Model.NumExperts == 0 {
		return true
	}
	shape := shapeOf(c.Catalog, int(i))
	if len(shape) == 3 && shape[0] == int64(c.Model.NumExperts) {
		return true
	}
	c.Fault(i, stages.CodeConfig, "has not as many experts as the metadata says (expert_count)", fmt.Sprintf("[%d, ..., ...]", c.Model.NumExperts), formatShape(shape),
		"the file is damaged or was made wrongly: get it again")
	return false
}

func typeNames(types []gguf.Type) (names []string) {
	for _, t := range types {
		names = append(names, t.String())
	}
	return names
}

// Compile adds the Output for the layout asked for.
func (ggufReader) Compile(g *Group, b *Builder) string {
	spec, ok := g.First().Spec.(ggufSpec)
	if !ok {
		return "not a GGUF module"
	}
	o := ggufOutputs{b: b, spec: spec, m: g.First()}
	return b.inLayout(layouts{
		marlin:  because("the Marlin kernels have no GGUF blocks (use --layout dequant, or a checkpoint in one of the formats that they have)"),
		exllama: because("the exllama kernels have no GGUF blocks"),
		dequant: o.dequant,
		raw:     o.raw,
	})
}

// ggufOutputs makes the Output of one Module.
type ggufOutputs struct {
	b    *Builder
	spec ggufSpec
	m    *Module
}

// shape is that of the Output, with a last dim of last.
func (o ggufOutputs) shape(last int64) []int64 {
	shape := shapeOf(o.b.c.in.Catalog, int(o.m.Tensors[ggufWeight]))
	shape[len(shape)-1] = last
	return shape
}

// rowBytes is what a row of blocks takes.
func (o ggufOutputs) rowBytes() int64 {
	elements, size := o.spec.typ.Block()
	return o.m.K / elements * size
}

// raw keeps the blocks.
func (o ggufOutputs) raw() string {
	row := func(*Module) int64 { return o.rowBytes() }
	o.b.Grid(Grid{
		Suffix: "weight", Part: ggufWeight, DType: safetensors.U8, Layout: stages.BlockLayout(o.spec.typ), Kind: stages.KindKept,
		Op: o.b.Copy(), Rows: o.m.N, Dims: o.shape(o.rowBytes()), Width: row, Source: row,
	})
	return ""
}

// dequant makes floating-point weights, rows by rows: a Batch is as small as for plain tensors.
func (o ggufOutputs) dequant() string {
	to := o.b.WeightDType(o.scaleDType())
	opFor := func(to stages.DType) (stages.Op, error) { return decode.GGUFDequant(o.spec.typ, to) }
	op, err := opFor(to)
	if err != nil {
		return fmt.Sprintf("%v (use --dtype f32, f16 or bf16)", err)
	}
	o.b.Grid(Grid{
		Suffix: "weight", Part: ggufWeight, DType: to, Layout: stages.LayoutRaw, Kind: stages.KindDequantised,
		Op: op, OpFor: opFor, Rows: o.m.N, Dims: o.shape(o.m.K),
		Width:  func(m *Module) int64 { return m.K * elementBytes(to) },
		Source: func(*Module) int64 { return o.rowBytes() },
	})
	return ""
}

// scaleDType is the dtype of weights when none is asked for: that of the scales. What the powers of two of MXFP4 scale, only BF16 holds.
func (o ggufOutputs) scaleDType() stages.DType {
	if o.spec.typ == gguf.MXFP4 {
		return safetensors.BF16
	}
	return safetensors.F16
}
