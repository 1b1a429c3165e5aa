package plan

import (
	"fmt"
	"slices"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// denseStacks is the Reader of experts that are not quantised and lie in one tensor for each of gate and up, and down:
//
//	experts.gate_up_proj [E, H, 2I] and experts.down_proj [E, I, H]: input-major, as Llama-4, Qwen3-VL-MoE and gpt-oss have them
//	experts.gate_up_proj [E, 2I, H] and experts.down_proj [E, H, I]: output-major, as Qwen3.5-MoE has them
//	experts.gate_up_proj_bias [E, 2I] and experts.down_proj_bias [E, H], optional
//
// The order of gate's and up's features stays as it is: gpt-oss's alternate. Source: LAYOUTS A5, B.
type denseStacks struct {
	dense

	c      *compiler
	turned map[string]bool // by scope: whether it is input-major; no entry for one that is left as it is
	seen   map[string]bool // scopes
}

// fusedBias is what the names of biases end in.
const fusedBias = "_bias"

// Stack describes gate and up, or down, of the experts of a layer.
func (r *denseStacks) Stack(c *Checks, i int32) (Stack, bool) {
	cat := r.c.in.Catalog
	name := cat.Name(int(i))
	scope, last := cutLast(name)
	if _, parent := cutLast(scope); last != fusedGateUp && last != fusedDown || parent != expertsScope || !isFloat(cat.DType(int(i))) {
		return Stack{}, false
	}
	if !r.seen[scope] {
		if r.seen == nil {
			r.seen, r.turned = map[string]bool{}, map[string]bool{}
		}
		r.seen[scope] = true
		r.look(scope)
	}
	if _, ok := r.turned[scope]; !ok {
		return Stack{}, false
	}
	s := Stack{Name: name, Members: []StackMember{{Name: last, Tensors: []Slice{denseWeight: {Tensor: i}, denseBias: c.Find(name + fusedBias)}}}}
	if last == fusedGateUp {
		s.Pair = r.c.rules.fused.pair()
	}
	return s, true
}

// look finds out how the experts of a layer lie. What is not certain is left as it is.
func (r *denseStacks) look(scope string) {
	m := lookExperts(r.c.in.Catalog, scope, isFloat)
	if m.down == none || m.gateUp == none {
		r.leave(m, "the other of "+fusedGateUp+" and "+fusedDown+" is not there, or quantised")
		return
	}
	turned, problem := orient(m.gu, m.d, r.c.in.Model.HiddenSize, r.c.rules.fused)
	if problem != "" {
		r.leave(m, problem)
		return
	}
	r.turned[scope] = turned
	if f := r.c.rules.fused; f.major != majorUnknown && turned != (f.major == inputMajor) {
		r.c.noteOnce("experts of %s are %s, unlike those of its family's releases: their shapes prove it", scope, describeMajor(turned))
	}
}

// leave keeps the tensors of a layer as they are, and says so. In a family that is known to have them otherwise it is a fault.
func (r *denseStacks) leave(m expertDims, why string) {
	t := max(m.gateUp, m.down)
	if f := r.c.rules; f.known && f.fused.major != majorUnknown {
		r.c.checks.Fault(t, stages.CodeShape, "holds all experts of a layer in a way that its family does not: "+why,
			fmt.Sprintf("%s of hidden size %d", f.fused, r.c.in.Model.HiddenSize), m.String(), "check config.json, or use --no-fuse to keep it as it is")
		return
	}
	r.c.noteOnce("%s and others like it are kept as they are: %s", r.c.in.Catalog.Name(int(t)), why)
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

// Module takes the rows and columns as the layer has them.
func (r *denseStacks) Module(m *Module, c *Checks) bool {
	scope, _ := cutLast(c.Catalog.Name(int(m.Tensors[denseWeight])))
	return denseModule(m, c, r.turned[scope])
}

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

func describeMajor(turned bool) string {
	if turned {
		return "input-major"
	}
	return "output-major"
}

// orient tells whether experts of shapes gu (gate and up) and d (down) are input-major. hidden is the hidden size, 0 when nobody says it.
//
// A family that is known decides, if the shapes fit it. Else each of the two shapes must tell by itself, with the hidden size: the other axis is
// another number. problem says why it cannot be told.
func orient(gu, d [2]int64, hidden int64, f fusedExperts) (turned bool, problem string) {
	fits := func(h, i2, i, h2 int64) bool {
		return h == h2 && i2%2 == 0 && i2/2 == i && (hidden == 0 || h == hidden)
	}
	in, out := fits(gu[0], gu[1], d[0], d[1]), fits(gu[1], gu[0], d[1], d[0])
	sure := hidden > 0 && gu[0] != gu[1] && d[0] != d[1]
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
