package plan

import (
	"fmt"
	"strings"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// Experts of FP8 checkpoints lie in one tensor for all of a layer in two ways, both of which transformers writes:
//
//	experts.gate_up_proj F8_E4M3 [E, 2I, H] with gate_up_proj_scale_inv [E, 2I/128, H/128], and so for down_proj [E, H, I];
//	input-major ones, [E, H, 2I] with scales [E, H/128, 2I/128], are those of Qwen3-VL-MoE
//	experts.3.gate_proj.weight and so on, with the scales of all experts in experts.gate_up_proj_scale_inv and down_proj_scale_inv
//
// A scale for every tensor is [E] or [E, 1, 1], and one of the activations gate_up_proj_activation_scale [E]. Source: LAYOUTS A4.

const fp8FusedInput = "_activation_scale"

// fusedScale is what the names of scales of all experts end in.
func (r *fp8Reader) fusedScale() string { return "_" + strings.TrimPrefix(r.scaling.part, "weight_") }

// Stack describes gate and up, or down, of the experts of a layer.
func (r *fp8Reader) Stack(c *Checks, i int32) (Stack, bool) {
	name := c.Catalog.Name(int(i))
	scope, last := cutLast(name)
	if !isFusedName(scope, last) || c.Catalog.DType(int(i)) != safetensors.F8E4M3 {
		return Stack{}, false
	}
	r.orient(c, scope, i)
	s := Stack{Name: name, Members: []StackMember{{Name: last, Tensors: []Slice{
		fp8Weight: {Tensor: i}, fp8Scale: c.Find(name + r.fusedScale()), fp8Bias: c.Find(name + fusedBias), fp8Input: c.Find(name + fp8FusedInput),
	}}}}
	if last == fusedGateUp {
		s.Pair = PairHalves
	}
	return s, true
}

// orient finds out, once for a layer, whether its experts are input-major. transformers keeps them as the model's own code has them.
func (r *fp8Reader) orient(c *Checks, scope string, i int32) {
	if _, done := r.turned[scope]; done {
		return
	}
	if r.turned == nil {
		r.turned = map[string]bool{}
	}
	r.turned[scope] = false
	f := rulesFor(c.Model.ModelType, c.Model.TextModelType).fused
	if f.major == majorUnknown {
		f.major = outputMajor // as its own class for FP8 experts has them
	}
	m := lookExperts(c.Catalog, scope, isExpertWeight) // one may be dense: tools leave layers that are no whole blocks as they are
	if m.gateUp == none || m.down == none {
		c.Fault(i, stages.CodeMember, "holds all experts of a layer, but the other of "+fusedGateUp+" and "+fusedDown+" is not there or is no stack of weights",
			scope+"."+fusedGateUp+" and "+scope+"."+fusedDown, "", "the checkpoint is incomplete: get it again")
		return
	}
	turned, problem := m.orient(c.Model.HiddenSize, f)
	square := r.scaling.blocks.Rows == r.scaling.blocks.Cols
	switch {
	case problem != "":
		c.Fault(i, stages.CodeShape, "holds all experts of a layer in a way that is not known: "+problem,
			fmt.Sprintf("%s of hidden size %d", f, c.Model.HiddenSize), m.String(), "check config.json")
	case turned && !square:
		c.Fault(i, stages.CodeUnsupported, "holds input-major experts with scales of "+describeBlocks(r.scaling.blocks), "scales of square blocks or of whole tensors", "",
			"use a release with weights and scales for each expert")
	}
	r.turned[scope] = turned
}

// sharedScale finds the scales of an expert that lie in a tensor of all experts. ok is false when they cannot be had, and a fault says why; a
// Module without scales anywhere is left to members.
func (r *fp8Reader) sharedScale(m *Module, c *Checks) (ok bool) {
	scope, last := cutLast(m.Base)
	above, number := cutLast(scope)
	e, isExpert := expertNumber(number)
	if _, parent := cutLast(above); parent != expertsScope || !isExpert {
		return true
	}
	for _, x := range expertRules {
		part := 0 // of gate and up
		name := fusedGateUp
		switch last {
		case x.gate:
		case x.up:
			part = 1
		case x.down:
			name = fusedDown
		default:
			continue
		}
		s := c.Find(above + "." + name + r.fusedScale())
		if s.Tensor == none {
			continue
		}
		if name == fusedGateUp && !r.half(m, c, &s, part) {
			return false
		}
		m.Tensors[fp8Scale], ok = c.View(s, int64(e))
		return ok
	}
	return true
}

// half narrows the scales of gate and up to those of one: they are joined along the rows, so neither may end inside a block.
func (r *fp8Reader) half(m *Module, c *Checks, s *Slice, part int) bool {
	dims := shapeOf(c.Catalog, int(s.Tensor))
	n, _, ok := shape2(c.Catalog, int(m.Tensors[fp8Weight]))
	by := r.scaling.blocks.Rows
	switch {
	case !ok || len(dims) != 3 || dims[1] == 0 || dims[1]%2 != 0:
		c.Fault(s.Tensor, stages.CodeShape, "is no scale of gate and up of all experts", "[experts, 2 x rows, columns]", formatShape(dims), "")
		return false
	case by == 0 || n%by != 0:
		c.Fault(s.Tensor, stages.CodeUnsupported, fmt.Sprintf("joins scales of gate and up of %d output features, which end inside a block", n),
			fmt.Sprintf("output features that are whole blocks of %d", by), "", "use a release with scales for each expert")
		return false
	}
	s.Rows = dims[1] / 2
	s.From = int64(part) * s.Rows
	return true
}
