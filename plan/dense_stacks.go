package plan

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// Experts that are not quantised and lie in one tensor for each of gate and up, and down:
//
//	experts.gate_up_proj [E, H, 2I] and experts.down_proj [E, I, H]: input-major, as Llama-4, Qwen3-VL-MoE and gpt-oss have them
//	experts.gate_up_proj [E, 2I, H] and experts.down_proj [E, H, I]: output-major, as Qwen3.5-MoE has them
//	experts.gate_up_proj_bias [E, 2I] and experts.down_proj_bias [E, H], optional
//
// A Plan of the whole checkpoint keeps them as they are, and checks that they fit together. A caller who asks for them as modules gets [N, K] of every
// expert, with the order of gate's and up's features as it is: gpt-oss's alternate. Source: LAYOUTS A5, B.

// denseStack is the Reader of such a tensor that is asked for.
type denseStack struct {
	dense

	turned bool // it is input-major
}

// Module takes the rows and columns as the layer has them.
func (r denseStack) Module(m *Module, c *Checks) bool { return denseModule(m, c, r.turned) }

// fusedBias is what the names of biases end in.
const fusedBias = "_bias"

// requestDenseStack makes the Modules of the tensor that a Request names, when the checkpoint has it.
func (c *compiler) requestDenseStack(q Request) bool {
	i, ok := c.in.Catalog.Lookup(q.Name)
	scope, last := cutLast(q.Name)
	if !ok || !isFusedName(scope, last) || !isFloat(c.in.Catalog.DType(i)) {
		return false
	}
	m := lookExperts(c.in.Catalog, scope, isExpertWeight)
	turned, problem := m.orient(c.in.Model.HiddenSize, c.rules.fused)
	if m.down == none || m.gateUp == none {
		problem = "the other of " + fusedGateUp + " and " + fusedDown + " is not there, or quantised"
	}
	if problem != "" {
		c.checks.Fault(int32(i), stages.CodeShape, "does not tell its input features from its output features: "+problem,
			fmt.Sprintf("%s of hidden size %d", c.rules.fused, c.in.Model.HiddenSize), m.String(), "check config.json, or load the tensor as it is")
		return true
	}
	c.denseStack.turned = turned
	s := Stack{Name: q.Name, Members: []StackMember{{Name: last, Tensors: []Slice{
		denseWeight: {Tensor: int32(i)}, denseBias: c.checks.Find(q.Name + fusedBias),
	}}}}
	if last == fusedGateUp {
		s.Pair = c.rules.fused.pair()
	}
	if e, ok := c.stackShape(s, c.readerAt(isDenseStack)); ok {
		c.addStacked(s, isDenseStack, e)
	}
	return true
}

// isFusedName reports whether a name is that of a tensor of all experts.
func isFusedName(scope, last string) bool {
	_, parent := cutLast(scope)
	return parent == expertsScope && (last == fusedGateUp || last == fusedDown)
}

// checkDenseStacks checks the experts that are kept as they are: that there are as many as the config says, that gate and up go with down, and
// that both go with the hidden size. Of a family that is not known to have them so, names alone say what they are: what does not fit is noted.
func (c *compiler) checkDenseStacks() {
	cat := c.in.Catalog
	seen, quantised := map[string]bool{}, map[string]bool{} // by scope
	for _, s := range c.stacks {
		scope, _ := cutLast(s.group.Name)
		quantised[scope] = true
	}
	for i := range c.owner {
		scope, last := cutLast(cat.Name(i))
		if c.owner[i] != ownerNone || !isFusedName(scope, last) || !isFloat(cat.DType(i)) || len(shapeOf(cat, i)) != 3 || seen[scope] {
			continue
		}
		seen[scope] = true
		c.checkExperts(int32(i), scope, quantised[scope])
	}
}

// checkExperts checks the experts of a layer, of which tensor i is one. half says that the checkpoint has others of that layer quantised.
func (c *compiler) checkExperts(i int32, scope string, half bool) {
	if half {
		c.checkHalf(i, scope)
	}
	known := c.rules.known && c.rules.fused.major != majorUnknown
	m := lookExperts(c.in.Catalog, scope, isFloat)
	if m.gateUp == none || m.down == none {
		if known && !half {
			c.checks.Fault(i, stages.CodeMember, "holds all experts of a layer, but the other of "+fusedGateUp+" and "+fusedDown+" is not there, or is no [E, n, k]",
				scope+"."+fusedGateUp+" and "+scope+"."+fusedDown, "", "the checkpoint is incomplete: get it again")
		}
		return
	}
	ways := m.ways(c.in.Model.HiddenSize)
	if len(ways) == 0 {
		const problem = "holds all experts of a layer, but gate, up and down do not go together"
		if !known {
			c.noteOnce("%s and others like it are kept as they are: its name is that of experts, and the shapes are not", c.in.Catalog.Name(int(i)))
			return
		}
		c.checks.Fault(m.down, stages.CodeShape, problem, fmt.Sprintf("%s of hidden size %d", c.rules.fused, c.in.Model.HiddenSize), m.String(),
			"check config.json; the checkpoint may be damaged")
		return
	}
	c.checkCounts(m, ways)
}

// checkHalf checks the number of dense experts beside quantised ones of the same layer.
func (c *compiler) checkHalf(i int32, scope string) {
	m := lookExperts(c.in.Catalog, scope, isExpertWeight)
	if m.gateUp == none || m.down == none {
		return
	}
	e, other := shapeOf(c.in.Catalog, int(i))[0], m.gateUp
	if other == i {
		other = m.down
	}
	if want := shapeOf(c.in.Catalog, int(other))[0]; want != e {
		c.checks.Fault(i, stages.CodeMismatch, "has another number of experts than "+c.in.Catalog.Name(int(other)), strconv.FormatInt(want, 10),
			strconv.FormatInt(e, 10), "the checkpoint is damaged: get it again")
	}
}

// checkCounts checks the number of experts, and the biases, which have an element for every output feature in one of the ways in which
// the weights may lie.
func (c *compiler) checkCounts(m expertDims, ways []bool) {
	cat := c.in.Catalog
	e := shapeOf(cat, int(m.gateUp))[0]
	if n := shapeOf(cat, int(m.down))[0]; n != e {
		c.checks.Fault(m.down, stages.CodeMismatch, "has another number of experts than "+cat.Name(int(m.gateUp)), strconv.FormatInt(e, 10),
			strconv.FormatInt(n, 10), "the checkpoint is damaged: get it again")
		return
	}
	if want := int64(c.in.Model.NumExperts); want > 0 && want != e {
		c.wrongStack(m.gateUp, want, e)
	}
	for _, x := range []struct {
		weight int32
		dims   [2]int64
	}{{m.gateUp, m.gu}, {m.down, m.d}} {
		b, ok := cat.Lookup(cat.Name(int(x.weight)) + fusedBias)
		if !ok {
			continue
		}
		s := shapeOf(cat, b)
		fits := func(turned bool) bool {
			n := x.dims[0]
			if turned {
				n = x.dims[1]
			}
			return len(s) == 2 && s[0] == e && s[1] == n
		}
		if !slices.ContainsFunc(ways, fits) {
			c.checks.Fault(int32(b), stages.CodeShape, "is no bias of all experts", fmt.Sprintf("%d experts with a value for each output feature of %s, %s",
				e, cat.Name(int(x.weight)), formatShape(shapeOf(cat, int(x.weight)))), formatShape(s), "the checkpoint is damaged: get it again")
		}
	}
}

// noteOnce notes what holds for many layers for the first of them.
func (c *compiler) noteOnce(format string, args ...any) {
	if slices.ContainsFunc(c.noted, func(s string) bool { return s == format }) {
		return
	}
	c.noted = append(c.noted, format)
	c.note(format, args...)
}

// isFloat reports whether a tensor of that dtype can be the weight of a dense layer.
func isFloat(d stages.DType) bool {
	return d == safetensors.F64 || d == safetensors.F32 || d == safetensors.F16 || d == safetensors.BF16
}

// isExpertWeight reports whether a tensor of that dtype can be the weights of all experts, in the shape that they have: dense or of FP8. A layer may
// have one of each. Source: LAYOUTS A4.
func isExpertWeight(d stages.DType) bool { return isFloat(d) || d == safetensors.F8E4M3 }

// expertDims are the tensors of the experts of a layer, and their shapes without the axis of experts.
type expertDims struct {
	gateUp, down int32 // none when they are not there
	gu, d        [2]int64
}

func (m expertDims) String() string {
	return fmt.Sprintf("[E, %d, %d] and [E, %d, %d]", m.gu[0], m.gu[1], m.d[0], m.d[1])
}

// lookExperts looks up the tensors of a layer's experts whose dtype is one of those wanted.
func lookExperts(cat Catalog, scope string, wanted func(stages.DType) bool) expertDims {
	m := expertDims{gateUp: none, down: none}
	look := func(name string, t *int32, dims *[2]int64) {
		i, ok := cat.Lookup(scope + "." + name)
		if !ok || !wanted(cat.DType(i)) {
			return
		}
		if s := shapeOf(cat, i); len(s) == 3 && s[1] > 0 && s[2] > 0 {
			*t, *dims = int32(i), [2]int64{s[1], s[2]}
		}
	}
	look(fusedGateUp, &m.gateUp, &m.gu)
	look(fusedDown, &m.down, &m.d)
	return m
}

// fusedExperts is how a family holds all experts of a layer in one tensor.
type fusedExperts struct {
	major       major
	interleaved bool // gate and up alternate
}

// major says which axis comes first.
type major uint8

const (
	majorUnknown major = iota
	inputMajor         // [E, in, out]
	outputMajor        // [E, out, in]
)

func (f fusedExperts) pair() Pair {
	if f.interleaved {
		return PairInterleaved
	}
	return PairHalves
}

func (f fusedExperts) String() string {
	if f.major == outputMajor {
		return "[E, 2I, H] and [E, H, I]"
	}
	return "[E, H, 2I] and [E, I, H]"
}

// ways are the ways in which the weights may lie by their shapes, input-major (true) or not. hidden is the hidden size, 0 when nobody says it.
func (m expertDims) ways(hidden int64) (turned []bool) {
	fits := func(h, i2, i, h2 int64) bool {
		return h == h2 && i2%2 == 0 && i2/2 == i && (hidden == 0 || h == hidden)
	}
	if fits(m.gu[0], m.gu[1], m.d[0], m.d[1]) {
		turned = append(turned, true)
	}
	if fits(m.gu[1], m.gu[0], m.d[1], m.d[0]) {
		turned = append(turned, false)
	}
	return turned
}

// orient tells whether experts are input-major. hidden is the hidden size, 0 when nobody says it.
//
// A family that is known decides, if the shapes fit it. Else each of the two shapes must tell by itself, with the hidden size: the other axis is
// another number. problem says why it cannot be told.
func (m expertDims) orient(hidden int64, f fusedExperts) (turned bool, problem string) {
	ways := m.ways(hidden)
	in, out := slices.Contains(ways, true), slices.Contains(ways, false)
	sure := hidden > 0 && m.gu[0] != m.gu[1] && m.d[0] != m.d[1]
	switch {
	case in && (f.major == inputMajor || sure):
		return true, ""
	case out && (f.major == outputMajor || sure):
		return false, ""
	case !in && !out:
		return false, "their shapes are not those of gate, up and down"
	case hidden == 0:
		return false, "config.json does not say the hidden size, so nothing tells whether rows are inputs or outputs"
	}
	return false, "their shapes do not tell whether rows are inputs or outputs"
}
