package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/decode"
)

// nvfp4Reader reads Modules whose weights are FP4 codes with a scale for every 16 of them and one for the whole tensor. ModelOpt and
// compressed-tensors write them, with other names and another meaning of the last. Source: LAYOUTS A6.
//
//	weight or weight_packed U8 [N, K/2]   weight_scale F8_E4M3 [N, K/16]   weight_scale_2, a factor, or weight_global_scale, a divisor: one F32
//	bias [N], optional   input_scale or input_global_scale, of activations, optional
type nvfp4Reader struct {
	where   string // the config, for messages
	parts   []string
	divisor bool // the scale of the tensor is one
}

// The parts of an NVFP4 Module.
const (
	nvfp4Codes = iota
	nvfp4Scale
	nvfp4Global
	nvfp4Bias
	nvfp4Input
)

var (
	nvfp4ModelOptParts   = []string{"weight", "weight_scale", "weight_scale_2", "bias", "input_scale"}
	nvfp4CompressedParts = []string{"weight_packed", "weight_scale", "weight_global_scale", "bias", "input_global_scale"}
)

// nvfp4Spec is what the Modules of one Group must have in common.
type nvfp4Spec struct{ bias, input stages.DType } // Invalid for none

// CodeBits and GroupSize make it Quantised.
func (nvfp4Spec) CodeBits() int  { return 4 }
func (nvfp4Spec) GroupSize() int { return decode.NVFP4Group }

func (s nvfp4Spec) String() string {
	t := "NVFP4"
	if s.bias != safetensors.Invalid {
		t += ", " + s.bias.String() + " bias"
	}
	if s.input != safetensors.Invalid {
		t += ", " + s.input.String() + " scale of activations"
	}
	return t
}

// Differs names the first thing in which another Spec is not this one.
func (s nvfp4Spec) Differs(other Spec) (what, expected, found string) {
	scale := func(d stages.DType) string {
		if d == safetensors.Invalid {
			return "none"
		}
		return d.String()
	}
	t, ok := other.(nvfp4Spec)
	switch {
	case ok && s.bias != t.bias:
		return "bias", biasOf(s.bias), biasOf(t.bias)
	case ok && s.input != t.input:
		return "scale of the activations", scale(s.input), scale(t.input)
	}
	return "format", s.String(), fmt.Sprint(other)
}

func (r *nvfp4Reader) Parts() []string { return r.parts }

func (r *nvfp4Reader) Module(m *Module, c *Checks) bool {
	if t, ok := c.Catalog.Lookup(m.Base + ".weight"); ok && int32(t) != m.Tensors[nvfp4Codes] {
		c.ModuleFault(m, stages.CodeMismatch, "has a quantised and a dense weight", "."+r.parts[nvfp4Codes]+" or .weight", "both", "remove one of them")
		return false
	}
	if !r.members(m, c) || !r.shapes(m, c) {
		return false
	}
	var spec nvfp4Spec
	if m.Has(nvfp4Bias) {
		spec.bias = c.Catalog.DType(int(m.Tensors[nvfp4Bias]))
	}
	if m.Has(nvfp4Input) {
		spec.input = c.Catalog.DType(int(m.Tensors[nvfp4Input]))
	}
	m.Spec = spec
	return true
}

// members checks that the tensors are there and have dtypes that can be read.
func (r *nvfp4Reader) members(m *Module, c *Checks) bool {
	ok := true
	for _, part := range []int{nvfp4Scale, nvfp4Global} {
		if !m.Has(part) {
			c.Fault(m.Tensors[nvfp4Codes], stages.CodeMember, "is there, but ."+r.parts[part]+" of its module is missing", m.Base+"."+r.parts[part], "",
				"the checkpoint is incomplete, or "+r.where+" is not its config")
			ok = false
		}
	}
	floats := []stages.DType{safetensors.F32, safetensors.F16, safetensors.BF16}
	for part, dtypes := range [][]stages.DType{
		nvfp4Codes: {safetensors.U8}, nvfp4Scale: {safetensors.F8E4M3}, nvfp4Global: {safetensors.F32}, nvfp4Bias: floats, nvfp4Input: floats,
	} {
		if m.Has(part) && !c.hasDType(m.Tensors[part], dtypes) {
			ok = false
		}
	}
	return ok
}

// shapes sets K and N by the codes, and checks the other tensors against them.
func (r *nvfp4Reader) shapes(m *Module, c *Checks) bool {
	w := m.Tensors[nvfp4Codes]
	n, bytes, ok := shape2(c.Catalog, int(w))
	if !ok || n == 0 || bytes == 0 || n > 1<<40 || bytes > 1<<40 || bytes%(decode.NVFP4Group/2) != 0 {
		c.Fault(w, stages.CodeShape, "is no matrix of FP4 codes in groups of 16", "[out_features, in_features/2], in_features a multiple of 16",
			formatShape(shapeOf(c.Catalog, int(w))), "")
		return false
	}
	m.N, m.K = n, 2*bytes
	one := []string{"[]", "[1]"}
	for part, want := range [][]string{
		nvfp4Codes: nil, nvfp4Scale: {formatShape([]int64{n, m.K / decode.NVFP4Group})}, nvfp4Global: one, nvfp4Bias: {formatShape([]int64{n})}, nvfp4Input: one,
	} {
		t := m.Tensors[part]
		if t == none || want == nil {
			continue
		}
		if s := formatShape(shapeOf(c.Catalog, int(t))); !slices.Contains(want, s) {
			c.Fault(t, stages.CodeShape, fmt.Sprintf("does not go with %d x %d codes in groups of %d", n, m.K, decode.NVFP4Group), strings.Join(want, " or "), s,
				"the checkpoint is damaged, or "+r.where+" is not its config")
			ok = false
		}
	}
	return ok
}

// Compile adds the Outputs for the layout asked for.
func (r *nvfp4Reader) Compile(g *Group, b *Builder) string {
	spec, ok := g.First().Spec.(nvfp4Spec)
	if !ok {
		return "not an NVFP4 module"
	}
	o := &nvfp4Outputs{r: r, g: g, b: b, spec: spec, m: g.First()}
	return b.inLayout(layouts{marlin: o.marlin, exllama: because("the exllama kernels have no FP4 weights"), dequant: o.dequant, raw: o.raw})
}

// nvfp4ModelOpt is the Reader of ModelOpt's Modules, whose codes are called .weight as everything is.
type nvfp4ModelOpt struct{ nvfp4Reader }

// Picks reports whether a .weight is one of FP4 codes: its dtype says so.
func (r *nvfp4ModelOpt) Picks(c *Checks, i int32) bool {
	switch c.Catalog.DType(int(i)) { //nolint:exhaustive // the others are no weights of other layers
	case safetensors.F64, safetensors.F32, safetensors.F16, safetensors.BF16, safetensors.F8E4M3:
		return false
	case safetensors.U8:
		return true
	}
	_, ok := c.Catalog.Lookup(strings.TrimSuffix(c.Catalog.Name(int(i)), r.parts[nvfp4Codes]) + r.parts[nvfp4Global])
	return ok
}

// Left looks at a tensor that no Module took: scales beside a dense weight mean nothing, all others must have their weight.
func (r *nvfp4ModelOpt) Left(c *Checks, i int32) Leftover {
	return leftScale(c, i, r.parts[nvfp4Scale], r.parts[nvfp4Global], r.parts[nvfp4Input])
}
