package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/discover"
)

// fp8 is the quantisation method of DeepSeek, of transformers and of vLLM. Other methods store FP8 too, and differ in how the config says how the
// scales lie and in what they are called: see fp8_config.go.
type fp8 struct{}

// fp8Scaling is how the config says that scales lie.
type fp8Scaling struct {
	part   string // the suffix of their tensors
	blocks stages.Blocks
}

// The parts of an FP8 Module.
const (
	fp8Weight = iota
	fp8Scale
	fp8Bias
	fp8Input // scale of the activations, of a static scheme
)

func (fp8) Name() string { return "fp8" }

// MarksTensor says that a tensor gives FP8 away: a weight beside its scale. Some checkpoints just store F8.
func (fp8) MarksTensor(c Catalog, i int) bool {
	base, ok := strings.CutSuffix(c.Name(i), ".weight")
	if !ok || c.DType(i) != safetensors.F8E4M3 {
		return false
	}
	_, scale := c.Lookup(base + ".weight_scale")
	_, inverse := c.Lookup(base + ".weight_scale_inv")
	return scale || inverse
}

func (fp8) Open(q *discover.QuantConfig) (Reader, []stages.Fault) {
	c := NewConfigReader(q.Object, q.Where)
	c.only(fp8Keys, fp8OverKeys...)
	r := &fp8Reader{where: q.Where, scaling: fp8Native(c)}
	r.alternatives(c)
	// transformers leaves out modules whose name begins or ends with an entry.
	return without(r, c.where, readParts(c, false, "modules_to_not_convert", "ignored_layers")...), c.Faults()
}

// fp8Reader reads Modules whose weights are F8_E4M3 values with scales.
//
//	weight F8_E4M3 [N, K]   weight_scale or weight_scale_inv: of blocks, of every output feature or one   bias [N], optional   input_scale, optional
type fp8Reader struct {
	where   string // the config, for messages
	scaling fp8Scaling
	others  []Reader
	// also is a name that scales may have instead: weights beside those are another Reader's. "" for none.
	also string
	// strict takes only weights beside scales of its own name, and judges nothing else that is left.
	strict bool
	turned map[string]bool // by scope of experts in stacks: whether they are input-major
}

func (r *fp8Reader) Others() []Reader { return r.others }

// fp8Spec is what the Modules of one Group must have in common.
type fp8Spec struct {
	blocks       stages.Blocks
	scales       stages.DType
	bias, static stages.DType // of the bias and the input_scale; Invalid for none
	turned       bool         // the weight is [K, N], in a stack
}

// CodeBits and GroupSize make it Quantised.
func (s fp8Spec) CodeBits() int { return 8 }

// GroupSize is the number of input features that share a scale.
func (s fp8Spec) GroupSize() int {
	if s.blocks.Cols == 0 {
		return -1
	}
	return int(s.blocks.Cols)
}

func (s fp8Spec) String() string {
	t := fmt.Sprintf("FP8, %s scales of %s", s.scales, describeBlocks(s.blocks))
	if s.bias != safetensors.Invalid {
		t += ", " + s.bias.String() + " bias"
	}
	if s.static != safetensors.Invalid {
		t += ", static activations"
	}
	if s.turned {
		t += ", input-major"
	}
	return t
}

// describeBlocks says what shares a scale.
func describeBlocks(b stages.Blocks) string {
	switch {
	case b == stages.Blocks{}:
		return "whole tensors"
	case b.Cols == 0:
		return "output features"
	}
	return fmt.Sprintf("blocks of %d x %d", b.Rows, b.Cols)
}

// Differs names the first thing in which another Spec is not this one.
func (s fp8Spec) Differs(other Spec) (what, expected, found string) {
	turned := map[bool]string{true: "input-major", false: "output-major"}
	static := map[bool]string{true: "an input_scale", false: "no input_scale"}
	t, ok := other.(fp8Spec)
	switch {
	case !ok:
	case s.scales != t.scales:
		return "dtype of the scales", s.scales.String(), t.scales.String()
	case s.turned != t.turned:
		return "order of the axes", turned[s.turned], turned[t.turned]
	case s.bias != t.bias:
		return "bias", biasOf(s.bias), biasOf(t.bias)
	case s.static != t.static:
		return "scale of the activations", static[s.static != safetensors.Invalid], static[t.static != safetensors.Invalid]
	}
	return "format", s.String(), fmt.Sprint(other)
}

func (r *fp8Reader) Parts() []string {
	return []string{"weight", r.scaling.part, "bias", "input_scale"}
}

// Picks reports whether a .weight is quantised. Its dtype says so, and no list of modules and no scale beside it does: transformers leaves
// scales that nothing was written to beside the BF16 weights of layers that it could not quantise.
func (r *fp8Reader) Picks(c *Checks, i int32) bool {
	base := strings.TrimSuffix(c.Catalog.Name(int(i)), "weight")
	_, own := c.Catalog.Lookup(base + r.scaling.part)
	switch d := c.Catalog.DType(int(i)); d { //nolint:exhaustive // the others are no weights of a dense layer
	case safetensors.F64, safetensors.F32, safetensors.F16, safetensors.BF16:
		return false
	case safetensors.F8E4M3:
		_, also := c.Catalog.Lookup(base + r.also)
		return own || !r.strict && (r.also == "" || !also)
	}
	return own && !r.strict
}

// Left looks at a tensor that no Module took: scales beside a dense weight mean nothing, all others must have their weight.
func (r *fp8Reader) Left(c *Checks, i int32) Leftover {
	if r.strict {
		return r.leftAlone(c, i)
	}
	if l := leftScale(c, i, r.scaling.part, r.Parts()[fp8Input]); l != LeftoverOther {
		return l
	}
	name := c.Catalog.Name(int(i))
	for _, suffix := range []string{"_scale_inv", "_scale", fp8FusedInput} {
		scaled, ok := strings.CutSuffix(name, suffix)
		if !ok {
			continue
		}
		t, found := c.Catalog.Lookup(scaled)
		switch {
		case found && isFloat(c.Catalog.DType(t)):
			return LeftoverMeaningless
		case suffix == "_scale_inv" || found && c.Catalog.DType(t) == safetensors.F8E4M3:
			c.Fault(i, stages.CodeUnsupported, "is the FP8 scale of something that is neither the .weight of a layer nor all experts of one",
				"."+r.scaling.part+" beside .weight, or "+fusedGateUp+r.fusedScale()+" and "+fusedDown+r.fusedScale()+" below experts", "",
				"use a release with weights and scales for each expert")
			return LeftoverFaulty
		}
	}
	return LeftoverOther
}

// leftAlone looks at a tensor that has the name of scales, and that no weight took.
func (r *fp8Reader) leftAlone(c *Checks, i int32) Leftover {
	base, ok := strings.CutSuffix(c.Catalog.Name(int(i)), "."+r.scaling.part)
	t, found := c.Catalog.Lookup(base + ".weight")
	switch {
	case !ok:
	case found && isFloat(c.Catalog.DType(t)) && c.Catalog.DType(int(i)) == safetensors.F8E8M0:
		return LeftoverMeaningless
	case found && c.Catalog.DType(t) == safetensors.F8E4M3:
		c.Fault(i, stages.CodeMismatch, "is a second scale of a weight", "one", c.Catalog.Name(int(i)), "remove the one that is wrong")
		return LeftoverFaulty
	case !found && c.Catalog.DType(int(i)) == safetensors.F8E8M0:
		c.Fault(i, stages.CodeMember, "belongs to a quantised module whose .weight is missing", base+".weight", "", "the checkpoint is incomplete: get it again")
		return LeftoverFaulty
	}
	return LeftoverOther
}

func (r *fp8Reader) Module(m *Module, c *Checks) bool {
	if !m.Has(fp8Scale) && !m.InStack() && !r.sharedScale(m, c) || r.isMXFP8(m, c) || !r.members(m, c) {
		return false
	}
	w := m.Tensors[fp8Weight]
	n, k, ok := shape2(c.Catalog, int(w))
	if !ok || n == 0 || k == 0 || n > 1<<40 || k > 1<<40 {
		c.Fault(w, stages.CodeShape, "is the weight of a linear layer", "[out_features, in_features]", formatShape(shapeOf(c.Catalog, int(w))), "")
		return false
	}
	scope, _ := cutLast(c.Catalog.Name(int(w)))
	turned := m.InStack() && r.turned[scope]
	if turned {
		n, k = k, n
	}
	m.K, m.N = k, n
	if !r.shapes(m, c, turned) {
		return false
	}
	spec := fp8Spec{turned: turned, blocks: r.scaling.blocks, scales: c.Catalog.DType(int(m.Tensors[fp8Scale]))}
	if m.Has(fp8Bias) {
		spec.bias = c.Catalog.DType(int(m.Tensors[fp8Bias]))
	}
	if m.Has(fp8Input) {
		spec.static = c.Catalog.DType(int(m.Tensors[fp8Input]))
	}
	m.Spec = spec
	return true
}

// members checks that the tensors are there and have dtypes that can be read.
func (r *fp8Reader) members(m *Module, c *Checks) bool {
	ok := true
	if !m.Has(fp8Scale) {
		c.Fault(m.Tensors[fp8Weight], stages.CodeMember, "is there, but ."+r.scaling.part+" of its module is missing", m.Base+"."+r.scaling.part, "",
			"the checkpoint is incomplete, or "+r.where+" is not its config")
		ok = false
	}
	floats := []stages.DType{safetensors.F32, safetensors.F16, safetensors.BF16}
	for part, dtypes := range [][]stages.DType{
		fp8Weight: {safetensors.F8E4M3}, fp8Scale: append(floats[:3:3], safetensors.F8E8M0), fp8Bias: floats, fp8Input: floats,
	} {
		if m.Has(part) && !c.hasDType(m.Tensors[part], dtypes) {
			ok = false
		}
	}
	return ok
}

// isMXFP8 refuses a Module of MXFP8 by that name: it has the weights of FP8 and an exponent for every 32 input features, and a tensor of these has the
// name of other scales. A config that says such blocks is taken at its word.
func (r *fp8Reader) isMXFP8(m *Module, c *Checks) bool {
	const group = 32
	w := m.Tensors[fp8Weight]
	n, k, ok := shape2(c.Catalog, int(w))
	if !ok || k%group != 0 || c.Catalog.DType(int(w)) != safetensors.F8E4M3 || r.scaling.blocks == (stages.Blocks{Rows: 1, Cols: group}) {
		return false
	}
	scale := m.Tensors[fp8Scale]
	for _, part := range []string{"weight_scale_inv", "weight_scale"} {
		if t, there := c.Catalog.Lookup(m.Base + "." + part); there && scale == none {
			scale = int32(t)
		}
	}
	if scale == none {
		return false
	}
	d, s := c.Catalog.DType(int(scale)), formatShape(shapeOf(c.Catalog, int(scale)))
	rows, cols := r.scaling.blocks.Grid(n, k)
	if d != safetensors.F8E8M0 && d != safetensors.U8 || s != formatShape([]int64{n, k / group}) || d == safetensors.F8E8M0 && s == formatShape([]int64{rows, cols}) {
		return false
	}
	m.Tensors[fp8Scale] = scale // it is a part of the Module, whatever is wrong with it
	c.Fault(scale, stages.CodeUnsupported, "is the scale of an MXFP8 weight, an exponent for every 32 input features: MXFP8 is not supported yet",
		"scales of "+describeBlocks(r.scaling.blocks), d.String()+" "+s,
		"it would need a reader and kernels of its own: use a release in FP8 with scales of blocks, of output features or of tensors")
	return true
}

// shapes checks the tensors beside the weight against its shape and the config.
func (r *fp8Reader) shapes(m *Module, c *Checks, turned bool) bool {
	ok := true
	for part, t := range m.Tensors {
		if t == none || part == fp8Weight {
			continue
		}
		shape := formatShape(shapeOf(c.Catalog, int(t)))
		var want []string
		switch part {
		case fp8Scale:
			want = r.scaleShapes(m, turned)
		case fp8Bias:
			want = []string{formatShape([]int64{m.N})}
		case fp8Input:
			want = []string{"[]", "[1]"}
		}
		if !slices.Contains(want, shape) {
			problem := "has the wrong shape"
			if part == fp8Scale {
				problem = fmt.Sprintf("%s says scales of %s over %s", r.where, describeBlocks(r.scaling.blocks), formatShape([]int64{m.N, m.K}))
			}
			c.Fault(t, stages.CodeShape, problem, strings.Join(want, " or "), shape, "the checkpoint is damaged, or "+r.where+" is not its config")
			ok = false
		}
	}
	return ok
}

// scaleShapes are the shapes that the scales may have.
func (r *fp8Reader) scaleShapes(m *Module, turned bool) []string {
	rows, cols := r.scaling.blocks.Grid(m.N, m.K)
	if turned { // its blocks are square
		rows, cols = cols, rows
	}
	grid := formatShape([]int64{rows, cols})
	switch b := r.scaling.blocks; {
	case b == stages.Blocks{}:
		return []string{"[]", "[1]", grid}
	case b.Cols == 0:
		return []string{grid, formatShape([]int64{rows})}
	}
	return []string{grid}
}

// Compile adds the Outputs for the layout asked for.
func (r *fp8Reader) Compile(g *Group, b *Builder) string {
	spec, ok := g.First().Spec.(fp8Spec)
	if !ok {
		return "not an FP8 module"
	}
	o := &fp8Outputs{r: r, g: g, b: b, spec: spec, m: g.First()}
	return b.inLayout(layouts{marlin: o.marlin, exllama: because("the exllama kernels have no FP8 weights"), dequant: o.dequant, raw: o.raw})
}
