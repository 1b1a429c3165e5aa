package plan

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// intQuantized is the format of compressed-tensors that stores integers of 8 bits as they are: weights of layers whose activations the engine
// quantises too (W8A8), which says nothing about the bytes.
var intQuantized = compressedFormat{names: []string{"int-quantized"}, open: int8Open, marks: int8Marks}

// int8Marks reports whether a tensor is a weight of integers beside its scale. Some checkpoints just store I8.
func int8Marks(c Catalog, i int) bool {
	base, ok := strings.CutSuffix(c.Name(i), "."+int8Parts[int8Weight])
	if !ok || c.DType(i) != safetensors.I8 {
		return false
	}
	_, scale := c.Lookup(base + "." + int8Parts[int8Scale])
	return scale
}

func int8Open(g *compressedGroup) Reader {
	p := packReadWeights(g.weights)
	for _, x := range []struct {
		wrong            bool
		key              string
		found, supported any
	}{
		{p.bits == 4, "num_bits", p.bits, 8},
		{!p.sym, "symmetric", false, true},
		{p.actOrder, "actorder", "of int-quantized weights", "none"},
	} {
		if x.wrong {
			g.weights.Unsupported(x.key, x.found, fmt.Sprint(x.supported))
		}
	}
	return &int8Reader{where: g.where, params: p}
}

// int8Reader reads Modules of int-quantized.
//
//	weight I8 [N, K]   weight_scale [N, G], [N, 1] by channel, [1] or [] for the whole tensor   bias [N], optional   input_scale [] or [1], optional
type int8Reader struct {
	where  string // the group, for messages
	params packParams
}

// The parts of a Module. Those of the scale and before are in the places that they have in packParts.
const (
	int8Weight = packCodes
	int8Scale  = packScale
	int8Bias   = 2
	int8Input  = 3 // scale of the activations, of a static scheme
)

var int8Parts = []string{"weight", "weight_scale", "bias", "input_scale"}

func (*int8Reader) Parts() []string { return int8Parts }

// int8Spec is what the Modules of one Group must have in common.
type int8Spec struct {
	packParams

	scales       stages.DType
	bias, static stages.DType // of the bias and the input_scale; Invalid for none
}

// CodeBits and GroupSize make it Quantised.
func (int8Spec) CodeBits() int    { return 8 }
func (s int8Spec) GroupSize() int { return int(s.group) }

func (s int8Spec) String() string {
	t := fmt.Sprintf("compressed-tensors int-quantized, group %d, %s scales", s.group, s.scales)
	if s.whole {
		t = fmt.Sprintf("compressed-tensors int-quantized, one %s scale", s.scales)
	}
	if s.bias != safetensors.Invalid {
		t += ", " + s.bias.String() + " bias"
	}
	if s.static != safetensors.Invalid {
		t += ", static activations"
	}
	return t
}

// Differs names the first thing in which another Spec is not this one.
func (s int8Spec) Differs(other Spec) (what, expected, found string) {
	static := map[bool]string{true: "an input_scale", false: "no input_scale"}
	t, ok := other.(int8Spec)
	for _, x := range []struct{ what, a, b string }{
		{"group size", strconv.FormatInt(s.group, 10), strconv.FormatInt(t.group, 10)},
		{"strategy of the scales", strategyOf(s.whole), strategyOf(t.whole)},
		{"dtype of the scales", s.scales.String(), t.scales.String()},
		{"bias", biasOf(s.bias), biasOf(t.bias)},
		{"scale of the activations", static[s.static != safetensors.Invalid], static[t.static != safetensors.Invalid]},
	} {
		if ok && x.a != x.b {
			return x.what, x.a, x.b
		}
	}
	return "format", s.String(), fmt.Sprint(other)
}

// Picks reports whether a .weight is quantised: its dtype says so.
func (*int8Reader) Picks(c *Checks, i int32) bool { return c.Catalog.DType(int(i)) == safetensors.I8 }

// Left looks at a tensor that no Module took: a scale beside a weight that is not quantised means nothing, any other must have its weight.
func (*int8Reader) Left(c *Checks, i int32) Leftover {
	name := c.Catalog.Name(int(i))
	for _, part := range []int{int8Scale, int8Input} {
		base, ok := strings.CutSuffix(name, "."+int8Parts[part])
		if !ok {
			continue
		}
		t, found := c.Catalog.Lookup(base + ".weight")
		switch {
		case !found:
			c.Fault(i, stages.CodeMember, "belongs to a quantised module whose .weight is missing", base+".weight", "",
				"the checkpoint is incomplete: get it again")
		case isFloat(c.Catalog.DType(t)):
			return LeftoverMeaningless
		default:
			c.Fault(i, stages.CodeConfig, "belongs to a weight of another dtype than its format has", "I8", c.Catalog.DType(t).String(),
				"give the checkpoint the config that its quantiser wrote")
		}
		return LeftoverFaulty
	}
	return LeftoverOther
}

func (r *int8Reader) Module(m *Module, c *Checks) bool {
	if !r.members(m, c) || !r.shapes(m, c) {
		return false
	}
	spec := int8Spec{packParams: r.params, scales: c.Catalog.DType(int(m.Tensors[int8Scale]))}
	if m.Has(int8Bias) {
		spec.bias = c.Catalog.DType(int(m.Tensors[int8Bias]))
	}
	if m.Has(int8Input) {
		spec.static = c.Catalog.DType(int(m.Tensors[int8Input]))
	}
	m.Spec = spec
	return true
}

// members checks that the tensors are there and have dtypes that can be read.
func (r *int8Reader) members(m *Module, c *Checks) bool {
	ok := true
	if !m.Has(int8Scale) {
		c.Fault(m.Tensors[int8Weight], stages.CodeMember, "is there, but ."+int8Parts[int8Scale]+" of its module is missing", m.Base+"."+int8Parts[int8Scale], "",
			"the checkpoint is incomplete, or "+r.where+" belongs to another one")
		ok = false
	}
	if t, found := c.Catalog.Lookup(m.Base + ".weight_zero_point"); found {
		c.Fault(int32(t), stages.CodeMismatch, r.where+" says symmetric, but there are zero points", "no .weight_zero_point", c.Catalog.Name(t),
			"the config does not belong to these weights")
		ok = false
	}
	for _, part := range []int{int8Scale, int8Bias, int8Input} {
		t := m.Tensors[part]
		if t == none {
			continue
		}
		if d := c.Catalog.DType(int(t)); d != safetensors.F16 && d != safetensors.BF16 && d != safetensors.F32 {
			c.wrongDType(t, "F16, BF16 or F32")
			ok = false
		}
	}
	return ok
}

// shapes checks the shapes against each other and against the config, and sets K and N.
func (r *int8Reader) shapes(m *Module, c *Checks) bool {
	w, p := m.Tensors[int8Weight], r.params
	n, k, ok := shape2(c.Catalog, int(w))
	if !ok || n == 0 || k == 0 || n > 1<<40 || k > 1<<40 {
		c.Fault(w, stages.CodeShape, "is the weight of a linear layer", "[out_features, in_features]", formatShape(shapeOf(c.Catalog, int(w))), "")
		return false
	}
	m.N, m.K = n, k
	if k%4 != 0 || p.group > 0 && k%p.group != 0 {
		c.Fault(w, stages.CodeShape, "has no whole groups", fmt.Sprintf("a multiple of 4 input features, and of the group size %d", p.group), strconv.FormatInt(k, 10),
			"correct `group_size` in "+r.where)
		return false
	}
	want := map[int][]int64{int8Scale: p.scaleDims(m, c), int8Bias: {n}}
	if t := m.Tensors[int8Input]; t != none && len(shapeOf(c.Catalog, int(t))) > 0 {
		want[int8Input] = []int64{1}
	}
	for _, part := range []int{int8Scale, int8Bias, int8Input} {
		t := m.Tensors[part]
		if t == none {
			continue
		}
		if s := shapeOf(c.Catalog, int(t)); !slices.Equal(s, want[part]) {
			c.Fault(t, stages.CodeShape, fmt.Sprintf("does not go with a weight of %d x %d, group size %d", n, k, p.group),
				formatShape(want[part]), formatShape(s), "correct `group_size` or `strategy` in "+r.where+", or get the checkpoint again")
			ok = false
		}
	}
	return ok
}
