package plan

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// packReader reads the Modules of a config group of compressed-tensors (llm-compressor, Kimi-K2) in its format pack-quantized: integer codes
// packed along K, rows as the dense weight has them.
//
//	weight_packed I32 [N, K*bits/32]   weight_scale [N, G], [N, 1] by channel, [1] or [] for the whole tensor   weight_shape I64 or I32 [2]: N, K
//	weight_zero_point I32 [N*bits/32, G], asymmetric only   weight_g_idx I32 [K], act-order   bias [N], optional
type packReader struct {
	where  string // the group, for messages
	params packParams
}

// The parts of a Module.
const (
	packCodes = iota
	packScale
	packShape
	packZero
	packGIdx
	packBias
)

var packParts = []string{"weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx", "bias"}

// packParams is what a config group says of its Modules.
type packParams struct {
	bits     int64
	group    int64 // -1: one scale for each output feature
	whole    bool  // one scale for the whole tensor; group is -1 then
	actOrder bool  // weight_g_idx has the group of every input feature
	sym      bool
}

// packSpec is what the Modules of one Group must have in common.
type packSpec struct {
	packParams

	scales stages.DType
	shape  stages.DType // of weight_shape
	bias   stages.DType // Invalid for none
}

// CodeBits and GroupSize make it Quantised.
func (s packSpec) CodeBits() int  { return int(s.bits) }
func (s packSpec) GroupSize() int { return int(s.group) }

// Differs names the first thing in which another Spec is not this one.
func (s packSpec) Differs(other Spec) (what, expected, found string) {
	t, ok := other.(packSpec)
	for _, x := range []struct{ what, a, b string }{
		{"number of bits", strconv.FormatInt(s.bits, 10), strconv.FormatInt(t.bits, 10)},
		{"group size", strconv.FormatInt(s.group, 10), strconv.FormatInt(t.group, 10)},
		{"strategy of the scales", strategyOf(s.whole), strategyOf(t.whole)},
		{"symmetry", symmetryOf(s.sym), symmetryOf(t.sym)},
		{"order of input features", orderOf(s.actOrder), orderOf(t.actOrder)},
		{"dtype of the scales", s.scales.String(), t.scales.String()},
		{"dtype of weight_shape", s.shape.String(), t.shape.String()},
		{"bias", biasOf(s.bias), biasOf(t.bias)},
	} {
		if ok && x.a != x.b {
			return x.what, x.a, x.b
		}
	}
	return "format", s.String(), fmt.Sprint(other)
}

func symmetryOf(sym bool) string {
	if sym {
		return "symmetric"
	}
	return "asymmetric"
}

func strategyOf(whole bool) string {
	if whole {
		return "one for each tensor"
	}
	return "one for each output feature"
}

func orderOf(actOrder bool) string {
	if actOrder {
		return "act-order"
	}
	return "no act-order"
}

func (s packSpec) String() string {
	group := fmt.Sprintf("group %d", s.group)
	if s.whole {
		group = "one scale"
	}
	t := fmt.Sprintf("compressed-tensors int%d, %s, %s, %s, %s scales", s.bits, group, symmetryOf(s.sym), orderOf(s.actOrder), s.scales)
	if s.bias != safetensors.Invalid {
		t += ", " + s.bias.String() + " bias"
	}
	return t
}

// groupsOf is G, the number of groups of a Module.
func (p packParams) groupsOf(m *Module) int64 { return m.K / p.span(m) }

// span is the number of input features that share a scale.
func (p packParams) span(m *Module) int64 {
	if p.group <= 0 {
		return m.K
	}
	return p.group
}

func (*packReader) Parts() []string { return packParts }

func (r *packReader) Module(m *Module, c *Checks) bool {
	if _, ok := c.Catalog.Lookup(m.Base + ".weight"); ok {
		c.ModuleFault(m, stages.CodeMismatch, "has a quantised and a dense weight", ".weight_packed or .weight", "both", "remove one of them")
		return false
	}
	p := r.params
	if !packMembers(m, c, p, r.where) || !packShapes(m, c, p, r.where) {
		return false
	}
	p.actOrder = p.group > 0 && (p.actOrder || c.ActOrder && m.Has(packGIdx))
	spec := packSpec{
		packParams: p, scales: c.Catalog.DType(int(m.Tensors[packScale])), shape: c.Catalog.DType(int(m.Tensors[packShape])),
	}
	if m.Has(packBias) {
		spec.bias = c.Catalog.DType(int(m.Tensors[packBias]))
	}
	m.Spec = spec
	return true
}

// packMembers checks that the tensors are there that the config promises, and have dtypes that can be read.
func packMembers(m *Module, c *Checks, p packParams, where string) bool {
	ok := true
	need := map[int]bool{packScale: true, packShape: true, packZero: !p.sym, packGIdx: p.actOrder}
	for part, needed := range need {
		if needed && !m.Has(part) {
			c.Fault(m.Tensors[packCodes], stages.CodeMember, "is there, but ."+packParts[part]+" of its module is missing",
				m.Base+"."+packParts[part], "", "the checkpoint is incomplete, or "+where+" belongs to another one")
			ok = false
		}
	}
	if p.sym && m.Has(packZero) {
		c.Fault(m.Tensors[packZero], stages.CodeMismatch, where+" says symmetric, but there are zero points", "no .weight_zero_point",
			m.Base+".weight_zero_point", "the config does not belong to these weights")
		ok = false
	}
	for part, t := range m.Tensors {
		if t == none {
			continue
		}
		if _, want, good := packDType(c.Catalog.DType(int(t)), part); !good {
			c.wrongDType(t, want)
			ok = false
		}
	}
	return ok
}

// packDType tells whether a part can have the dtype, and what it can have.
func packDType(d stages.DType, part int) (found stages.DType, want string, ok bool) {
	switch part {
	case packScale, packBias:
		return d, "F16, BF16 or F32", d == safetensors.F16 || d == safetensors.BF16 || d == safetensors.F32
	case packShape:
		return d, "I64 or I32", d == safetensors.I64 || d == safetensors.I32
	}
	return d, "I32", d == safetensors.I32
}

// scaleDims is the shape that the scales must have.
func (p packParams) scaleDims(m *Module, c *Checks) []int64 {
	switch t := m.Tensors[packScale]; {
	case !p.whole:
		return []int64{m.N, p.groupsOf(m)}
	case len(shapeOf(c.Catalog, int(t))) == 0:
		return nil // a scalar is as good as one of one
	}
	return []int64{1}
}

// packShapes checks the shapes against each other and against the config, and sets K and N. That weight_shape says the same is for
// a Check: its values are weight bytes.
func packShapes(m *Module, c *Checks, p packParams, where string) bool {
	q := m.Tensors[packCodes]
	n, words, ok := shape2(c.Catalog, int(q))
	if !ok || n == 0 || words == 0 || n > 1<<40 || words > 1<<40 {
		c.Fault(q, stages.CodeShape, "is no matrix of packed codes", "[out_features, in_features*bits/32]",
			formatShape(shapeOf(c.Catalog, int(q))), "")
		return false
	}
	m.N, m.K = n, words*32/p.bits
	if p.group > 0 && m.K%p.group != 0 {
		c.Fault(q, stages.CodeShape, "has no whole groups", fmt.Sprintf("a multiple of %d input features", p.group),
			fmt.Sprintf("%d (%d words of %d bits)", m.K, words, p.bits), "correct `num_bits` or `group_size` in "+where)
		return false
	}
	groups := p.groupsOf(m)
	want := [][]int64{
		packScale: p.scaleDims(m, c), packShape: {2}, packZero: {(n*p.bits + 31) / 32, groups},
		packGIdx: {m.K}, packBias: {n},
	}
	for part, dims := range want {
		t := m.Tensors[part]
		if part == packCodes || t == none {
			continue
		}
		if s := shapeOf(c.Catalog, int(t)); !slices.Equal(s, dims) {
			c.Fault(t, stages.CodeShape, fmt.Sprintf("does not go with %d x %d codes of %d bits, group size %d", n, m.K, p.bits, p.group),
				formatShape(dims), formatShape(s), "correct `num_bits`, `group_size` or `strategy` in "+where+", or get the checkpoint again")
			ok = false
		}
	}
	return ok
}

// Compile adds the Outputs for the layout asked for.
func (r *packReader) Compile(g *Group, b *Builder) string {
	spec, ok := g.First().Spec.(packSpec)
	if !ok {
		return "not a module of compressed-tensors"
	}
	o := &packOutputs{g: g, b: b, spec: spec, m: g.First()}
	return b.inLayout(layouts{marlin: o.marlin, exllama: because("exllama is made of gptq checkpoints only"), dequant: o.dequant, raw: o.raw})
}
