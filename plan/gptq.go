package plan

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/discover"
)

// gptq recognises the checkpoints of AutoGPTQ and GPTQModel: codes packed along K, scales and zero points by group.
//
//	qweight I32 [K*bits/32, N]   scales [G, N]   qzeros I32 [G, N*bits/32]   g_idx I32 [K], optional   bias [N], optional
type gptq struct{}

// The parts of a GPTQ Module.
const (
	gptqQweight = iota
	gptqScales
	gptqQzeros
	gptqGIdx
	gptqBias
)

// gptqParams is what the config says of a Module.
type gptqParams struct {
	bits    int64
	group   int64 // -1: one group over all of K
	descAct bool  // the input features are sorted by group: in a Spec, because the config says so or the user does
	sym     bool
}

// gptqSpec is what the Modules of one Group must have in common.
type gptqSpec struct {
	gptqParams
	scales stages.DType
	bias   stages.DType // Invalid for none
}

// CodeBits and GroupSize make it Quantised.
func (s gptqSpec) CodeBits() int  { return int(s.bits) }
func (s gptqSpec) GroupSize() int { return int(s.group) }

// Differs names the first thing in which another Spec is not this one.
func (s gptqSpec) Differs(other Spec) (what, expected, found string) {
	t, ok := other.(gptqSpec)
	order := map[bool]string{true: "act-order", false: "no act-order"}
	sym := map[bool]string{true: "symmetric", false: "asymmetric"}
	switch {
	case !ok:
	case s.bits != t.bits:
		return "number of bits", strconv.FormatInt(s.bits, 10), strconv.FormatInt(t.bits, 10)
	case s.group != t.group:
		return "group size", strconv.FormatInt(s.group, 10), strconv.FormatInt(t.group, 10)
	case s.sym != t.sym:
		return "symmetry", sym[s.sym], sym[t.sym]
	case s.descAct != t.descAct:
		return "order of input features", order[s.descAct], order[t.descAct]
	case s.scales != t.scales:
		return "dtype of the scales", s.scales.String(), t.scales.String()
	case s.bias != t.bias:
		return "bias", biasOf(s.bias), biasOf(t.bias)
	}
	return "format", s.String(), fmt.Sprint(other)
}

// biasOf describes a bias by its dtype.
func biasOf(d stages.DType) string {
	if d == safetensors.Invalid {
		return "no bias"
	}
	return "a bias in " + d.String()
}

func (s gptqSpec) String() string {
	t := fmt.Sprintf("gptq %d bits, group %d", s.bits, s.group)
	if !s.sym {
		t += ", asymmetric"
	}
	if s.descAct {
		t += ", act-order"
	}
	t += ", " + s.scales.String() + " scales"
	if s.bias != safetensors.Invalid {
		t += ", " + s.bias.String() + " bias"
	}
	return t
}

func (gptq) Name() string { return "gptq" }

// Marks says that a tensor of this name gives the format away.
func (gptq) Marks(name string) bool { return strings.HasSuffix(name, ".qweight") }

// gptqReader is GPTQ set up for one checkpoint.
type gptqReader struct {
	base    gptqParams
	v2      bool   // zero points are stored as they are, not one less
	planar  bool   // gptq_p: codes lie in bit planes; zero points as in v2
	wraps   bool   // the writer is known to wrap zero points: see decode.GPTQLayout
	where   string // the config, for messages
	dynamic []gptqOverride
}

func (gptq) Open(q *discover.QuantConfig) (Reader, []stages.Fault) { return gptqOpen(q) }

func (*gptqReader) Parts() []string { return []string{"qweight", "scales", "qzeros", "g_idx", "bias"} }

// params are those of one Module: the config's, or an override's; where names which. ok is false when `dynamic` says that it is not quantised.
// Overrides that exclude are looked at first, as the quantiser does.
func (r *gptqReader) params(base string) (p gptqParams, where string, ok bool) {
	for _, o := range r.dynamic {
		if o.negative && o.re.MatchString(base) {
			return p, o.where, false
		}
	}
	for _, o := range r.dynamic {
		if !o.negative && o.re.MatchString(base) {
			return o.params, o.where, true
		}
	}
	return r.base, r.where, true
}

func (r *gptqReader) Module(m *Module, c *Checks) bool {
	p, where, quantised := r.params(m.Base)
	if !quantised {
		c.ModuleFault(m, stages.CodeConfig, where+" says it is not quantised", "a .weight", "a .qweight",
			"the config does not belong to these weights")
		return false
	}
	if _, ok := c.Catalog.Lookup(m.Base + ".weight"); ok {
		c.ModuleFault(m, stages.CodeMismatch, "has a quantised and a dense weight", ".qweight or .weight", "both", "remove one of them")
		return false
	}
	if !r.members(m, c) || !r.shapes(m, c, p, where) {
		return false
	}
	p.descAct = p.group != -1 && (p.descAct || c.ActOrder && m.Has(gptqGIdx)) // one group has no order
	if p.descAct && !m.Has(gptqGIdx) {
		c.Fault(m.Tensors[gptqQweight], stages.CodeMember, "the config says act-order (desc_act), but there is no g_idx", m.Base+".g_idx", "",
			"the checkpoint is incomplete: get it again")
		return false
	}
	spec := gptqSpec{gptqParams: p, scales: c.Catalog.DType(int(m.Tensors[gptqScales]))}
	if m.Has(gptqBias) {
		spec.bias = c.Catalog.DType(int(m.Tensors[gptqBias]))
	}
	m.Spec = spec
	return true
}

// members checks that the tensors are there and have dtypes that can be read.
func (r *gptqReader) members(m *Module, c *Checks) bool {
	ok := true
	for _, part := range []int{gptqScales, gptqQzeros} {
		if !m.Has(part) {
			name := r.Parts()[part]
			c.Fault(m.Tensors[gptqQweight], stages.CodeMember, "is there, but ."+name+" of its module is missing", m.Base+"."+name, "",
				"the checkpoint is incomplete: get it again")
			ok = false
		}
	}
	for part, t := range m.Tensors {
		if t == none {
			continue
		}
		d := c.Catalog.DType(int(t))
		float := part == gptqScales || part == gptqBias
		if float && d != safetensors.F16 && d != safetensors.BF16 && d != safetensors.F32 {
			c.wrongDType(t, "F16, BF16 or F32")
			ok = false
		}
		if !float && d != safetensors.I32 {
			c.wrongDType(t, "I32")
			ok = false
		}
	}
	return ok
}

// shapes checks the shapes against each other and against the config, and sets K and N.
func (r *gptqReader) shapes(m *Module, c *Checks, p gptqParams, where string) bool {
	q := m.Tensors[gptqQweight]
	rows, cols, ok := shape2(c.Catalog, int(q))
	sRows, sCols, sOK := shape2(c.Catalog, int(m.Tensors[gptqScales]))
	zRows, zCols, zOK := shape2(c.Catalog, int(m.Tensors[gptqQzeros]))
	for part, good := range map[int]bool{gptqQweight: ok, gptqScales: sOK, gptqQzeros: zOK} {
		if !good {
			t := m.Tensors[part]
			c.Fault(t, stages.CodeShape, "is not a matrix", "2 dims", formatShape(shapeOf(c.Catalog, int(t))), "")
		}
	}
	if !ok || !sOK || !zOK {
		return false
	}
	if rows == 0 || cols == 0 || rows > 1<<40 || cols > 1<<40 {
		c.Fault(q, stages.CodeShape, "has an impossible shape", "rows and columns", formatShape([]int64{rows, cols}), "")
		return false
	}
	m.K, m.N = rows*32/p.bits, cols
	return r.columns(m, c, p, where, rows, cols, sCols, zCols) && r.groups(m, c, p, where, sRows, zRows) && r.vectors(m, c)
}

// columns checks the widths: they tell the bits, and AWQ's packing along the other axis.
func (r *gptqReader) columns(m *Module, c *Checks, p gptqParams, where string, rows, cols, sCols, zCols int64) bool {
	q := m.Tensors[gptqQweight]
	if sCols != cols {
		if cols*32/p.bits == sCols && !m.Has(gptqGIdx) {
			c.Fault(q, stages.CodeShape, "is packed along the output features: this is AWQ, the config says gptq",
				fmt.Sprintf("%d columns", sCols), fmt.Sprint(cols), "give the checkpoint the config that its quantiser wrote")
		} else {
			c.Fault(m.Tensors[gptqScales], stages.CodeShape, "has not the columns of its qweight", fmt.Sprint(cols), fmt.Sprint(sCols), "")
		}
		return false
	}
	if want := (cols*p.bits + 31) / 32; zCols != want {
		problem := "has not the columns that the config's bits give"
		if bits := zCols * 32 / cols; bits*cols == zCols*32 && bits != p.bits && bits > 1 && bits < 9 {
			problem = fmt.Sprintf("the config says %d bits, the shapes say %d", p.bits, bits)
		}
		c.Fault(m.Tensors[gptqQzeros], stages.CodeShape, problem, fmt.Sprintf("%d columns", want), fmt.Sprint(zCols),
			"correct `bits` in "+where+", or get the checkpoint again")
		return false
	}
	multiple := int64(32)
	if !r.blocks(p) {
		multiple = 32 / gcd(32, p.bits)
	}
	if rows*32%p.bits != 0 || m.K%multiple != 0 || m.N%multiple != 0 {
		c.Fault(q, stages.CodeShape, "does not fill whole words", fmt.Sprintf("features that are a multiple of %d", multiple),
			fmt.Sprintf("%d input, %d output features", m.K, m.N), "")
		return false
	}
	return true
}

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// groups checks the heights: the shapes decide which groups there are, and the config must say the same.
func (r *gptqReader) groups(m *Module, c *Checks, p gptqParams, where string, sRows, zRows int64) bool {
	want := int64(1)
	if p.group > 0 {
		want = (m.K + p.group - 1) / p.group
	}
	if sRows != want {
		found := fmt.Sprintf("%d rows", sRows)
		if sRows > 0 && m.K%sRows == 0 {
			found += fmt.Sprintf(" (group size %d)", m.K/sRows)
		}
		c.Fault(m.Tensors[gptqScales], stages.CodeShape, fmt.Sprintf("the config says groups of %d over %d input features", p.group, m.K),
			fmt.Sprintf("%d rows", want), found, "correct `group_size` in "+where+", or get the checkpoint again")
		return false
	}
	if zRows != sRows {
		c.Fault(m.Tensors[gptqQzeros], stages.CodeShape, "has not the rows of its scales", fmt.Sprint(sRows), fmt.Sprint(zRows), "")
		return false
	}
	return true
}

// vectors checks g_idx and bias.
func (r *gptqReader) vectors(m *Module, c *Checks) bool {
	ok := true
	for part, want := range map[int]int64{gptqGIdx: m.K, gptqBias: m.N} {
		t := m.Tensors[part]
		if t == none {
			continue
		}
		if s := shapeOf(c.Catalog, int(t)); len(s) != 1 || s[0] != want {
			c.Fault(t, stages.CodeShape, "has the wrong length", formatShape([]int64{want}), formatShape(s), "")
			ok = false
		}
	}
	return ok
}

// format is the checkpoint_format.
func (r *gptqReader) format() string {
	switch {
	case r.planar:
		return "gptq_p"
	case r.v2:
		return "gptq_v2"
	}
	return "gptq"
}

// blocks reports whether codes and zero points come in blocks of 32 that fill whole words only together.
func (r *gptqReader) blocks(p gptqParams) bool { return r.planar || 32%p.bits != 0 }

// stream reports whether the codes lie as the kernels' repacking expects: one field after the other. Planes of a whole field are that too.
func (r *gptqReader) stream(s gptqSpec) bool { return !r.planar || 32%s.bits == 0 }

// groupsOf is G, the number of groups of a Module.
func (s gptqSpec) groupsOf(m *Module) int64 {
	if s.group <= 0 {
		return 1
	}
	return (m.K + s.group - 1) / s.group
}

// span is the number of input features that share a scale.
func (s gptqSpec) span(m *Module) int64 {
	if s.group <= 0 {
		return m.K
	}
	return s.group
}

// Compile adds the Outputs for the layout asked for.
func (r *gptqReader) Compile(g *Group, b *Builder) string {
	spec, ok := g.First().Spec.(gptqSpec)
	if !ok {
		return "not a gptq module"
	}
	o := &gptqOutputs{r: r, g: g, b: b, spec: spec, m: g.First()}
	return b.inLayout(layouts{marlin: o.marlin, exllama: o.exllama, dequant: o.dequant, raw: o.raw})
}
