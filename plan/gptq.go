package plan

import (
	"fmt"
	"strings"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/decode"
	"github.com/coldload/coldload/stages/discover"
	"github.com/coldload/coldload/stages/repack"
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
	descAct bool
	sym     bool
}

// gptqSpec is what the Modules of one Group must have in common.
type gptqSpec struct {
	gptqParams
	scales stages.DType
	gIdx   bool
	bias   stages.DType // Invalid for none
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
	if s.gIdx {
		t += ", g_idx"
	}
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
	where   string // the config, for messages
	dynamic []gptqOverride
}

func (gptq) Open(q *discover.QuantConfig) (Reader, []stages.Fault) { return gptqOpen(q) }

func (*gptqReader) Parts() []string { return []string{"qweight", "scales", "qzeros", "g_idx", "bias"} }

// params are those of one Module: the config's, or an override's. ok is false when `dynamic` says that it is not quantised. Overrides
// that exclude are looked at first, as the quantiser does.
func (r *gptqReader) params(base string) (p gptqParams, ok bool) {
	for _, o := range r.dynamic {
		if o.negative && o.re.MatchString(base) {
			return p, false
		}
	}
	for _, o := range r.dynamic {
		if !o.negative && o.re.MatchString(base) {
			return o.params, true
		}
	}
	return r.base, true
}

func (r *gptqReader) Module(m *Module, c *Checks) bool {
	p, quantised := r.params(m.Base)
	if !quantised {
		c.ModuleFault(m, stages.CodeConfig, "`dynamic` in "+r.where+" says it is not quantised", "a .weight", "a .qweight",
			"the config does not belong to these weights")
		return false
	}
	if _, ok := c.Catalog.Lookup(m.Base + ".weight"); ok {
		c.ModuleFault(m, stages.CodeMismatch, "has a quantised and a dense weight", ".qweight or .weight", "both", "remove one of them")
		return false
	}
	if !r.members(m, c) || !r.shapes(m, c, p) {
		return false
	}
	spec := gptqSpec{gptqParams: p, scales: c.Catalog.DType(int(m.Tensors[gptqScales])), gIdx: m.Has(gptqGIdx)}
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
			c.Fault(t, stages.CodeShape, "has the wrong dtype", "F16, BF16 or F32", d.String(), "")
			ok = false
		}
		if !float && d != safetensors.I32 {
			c.Fault(t, stages.CodeShape, "has the wrong dtype", "I32", d.String(), "")
			ok = false
		}
	}
	return ok
}

// shapes checks the shapes against each other and against the config, and sets K and N.
func (r *gptqReader) shapes(m *Module, c *Checks, p gptqParams) bool {
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
	return r.columns(m, c, p, cols, sCols, zCols) && r.groups(m, c, p, sRows, zRows) && r.vectors(m, c)
}

// columns checks the widths: they tell the bits, and AWQ's packing along the other axis.
func (r *gptqReader) columns(m *Module, c *Checks, p gptqParams, cols, sCols, zCols int64) bool {
	q := m.Tensors[gptqQweight]
	if sCols != cols {
		if cols*(32/p.bits) == sCols && !m.Has(gptqGIdx) {
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
			"correct `bits` in "+r.where+", or get the checkpoint again")
		return false
	}
	if m.N*p.bits%32 != 0 || m.K%32 != 0 && m.K*p.bits%32 != 0 {
		c.Fault(q, stages.CodeShape, "does not fill whole words", fmt.Sprintf("output features that are a multiple of %d", 32/gcd(32, p.bits)),
			fmt.Sprint(m.N), "")
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
func (r *gptqReader) groups(m *Module, c *Checks, p gptqParams, sRows, zRows int64) bool {
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
			fmt.Sprintf("%d rows", want), found, "correct `group_size` in "+r.where+", or get the checkpoint again")
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

func (r *gptqReader) Compile(g *Group, b *Builder) string {
	if b.Layout() == stages.LayoutMarlin {
		return r.marlin(g, b)
	}
	r.raw(g, b)
	return ""
}

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

// marlin makes the Outputs that the Marlin kernels read.
func (r *gptqReader) marlin(g *Group, b *Builder) string {
	m := g.First()
	spec, ok := m.Spec.(gptqSpec)
	if !ok {
		return "not a gptq module"
	}
	scales := b.DType()
	if keeps(scales) {
		scales = spec.scales
	}
	if reason := marlinHolds(g, spec, scales, keeps(b.DType())); reason != "" {
		return reason
	}
	perm := repack.Single
	if spec.groupsOf(m) > 1 {
		perm = repack.Grouped
	}
	permute, err := repack.MarlinScales(spec.scales, scales, perm)
	if err != nil {
		return err.Error()
	}
	words := g.N() * spec.bits / 2
	b.Grid(Grid{
		Suffix: "qweight", Part: gptqQweight, DType: safetensors.I32, Layout: stages.LayoutMarlin, Kind: stages.KindRepacked,
		Op: repack.GPTQMarlin4(), Rows: m.K / 16, Cols: words,
		Width:  func(m *Module) int64 { return m.N * spec.bits / 2 * 4 },
		Source: func(m *Module) int64 { return m.N * spec.bits / 2 * 4 },
		Checks: r.checks(spec, m),
	})
	b.Grid(Grid{
		Suffix: "scales", Part: gptqScales, DType: scales, Layout: stages.LayoutMarlin, Kind: stages.KindRepacked,
		Op: permute, Rows: spec.groupsOf(m), Cols: g.N(),
		Width:  func(m *Module) int64 { return m.N * elementBytes(scales) },
		Source: func(m *Module) int64 { return m.N * elementBytes(spec.scales) },
	})
	return r.marlinBias(g, b, spec)
}

func (r *gptqReader) marlinBias(g *Group, b *Builder, spec gptqSpec) string {
	if spec.bias == safetensors.Invalid {
		return ""
	}
	to := b.DType()
	if keeps(to) {
		to = spec.bias
	}
	op, err := repack.MarlinScales(spec.bias, to, repack.Single)
	if err != nil {
		return err.Error()
	}
	b.Grid(Grid{
		Suffix: "bias", Part: gptqBias, DType: to, Layout: stages.LayoutMarlin, Kind: stages.KindRepacked, Op: op, Rows: 1, Cols: g.N(),
		Dims:   []int64{g.N()},
		Width:  func(m *Module) int64 { return m.N * elementBytes(to) },
		Source: func(m *Module) int64 { return m.N * elementBytes(spec.bias) },
	})
	return ""
}

// checks prove what the config promises about tensors that the layout does not need.
func (r *gptqReader) checks(spec gptqSpec, m *Module) []Check {
	list := []Check{{Part: gptqQzeros, Op: decode.CheckZeros(r.zeroWord(spec))}}
	if spec.gIdx {
		list = append(list, Check{Part: gptqGIdx, Op: decode.CheckGroupOrder(int(spec.span(m)))})
	}
	return list
}

// zeroWord is the word of packed zero points of a symmetric Module: 2^(bits-1) in every field, one less in format v1.
func (r *gptqReader) zeroWord(spec gptqSpec) uint32 {
	z := uint32(1) << (spec.bits - 1)
	if !r.v2 {
		z--
	}
	var w uint32
	for at := int64(0); at < 32; at += spec.bits {
		w |= z << at
	}
	return w
}

// marlinHolds says why the Marlin kernels cannot hold a Group; "" when they can. The limits are those of the kernels' tile shapes: dense
// (128,128), (64,256), (64,128), (128,64) over K and N; experts need 128 hidden and whole groups of intermediate features. scales is the
// dtype that the scales get; keep says that the bias keeps its own.
func marlinHolds(g *Group, spec gptqSpec, scales stages.DType, keep bool) string {
	m := g.First()
	switch {
	case scales != safetensors.F16 && scales != safetensors.BF16:
		return "Marlin takes F16 or BF16 scales, these are " + scales.String() + " (use --dtype f16 or bf16)"
	case spec.group != -1 && spec.group != 32 && spec.group != 64 && spec.group != 128 && spec.groupsOf(m) > 1:
		return fmt.Sprintf("Marlin has groups of 32, 64, 128 or all, not %d", spec.group)
	case m.K%spec.span(m) != 0:
		return fmt.Sprintf("%d input features are no whole groups of %d", m.K, spec.group)
	}
	for _, m := range g.Modules[:len(g.Members)] {
		if m.N%64 != 0 {
			return fmt.Sprintf("%d output features are not a multiple of 64", m.N)
		}
	}
	if spec.bias == safetensors.F32 && keep {
		return "Marlin takes an F16 or BF16 bias, this one is F32 (use --dtype f16 or bf16)"
	}
	if g.Stacked() {
		return marlinHoldsExperts(g, spec)
	}
	if n := g.N(); n%64 == 0 && m.K%128 == 0 || n%128 == 0 && m.K%64 == 0 {
		return ""
	}
	return fmt.Sprintf("[%d, %d] has no whole tiles: N%%64 and K%%128, or N%%128 and K%%64, must be 0", g.N(), m.K)
}

// marlinHoldsExperts wants the hidden size to be a multiple of 128 and the intermediate size one of max(64, group). For gate and up the
// first is K and the second N; for down it is the other way round.
func marlinHoldsExperts(g *Group, spec gptqSpec) string {
	m := g.First()
	hidden, inter := m.K, m.N
	if len(g.Members) == 1 {
		hidden, inter = m.N, m.K
	}
	if hidden%128 != 0 {
		return fmt.Sprintf("hidden size %d of the experts is not a multiple of 128", hidden)
	}
	if by := max(64, spec.group); inter%by != 0 {
		return fmt.Sprintf("intermediate size %d of the experts is not a multiple of %d", inter, by)
	}
	return ""
}

// raw keeps the tensors in GPTQ's own layout, members side by side along N.
func (r *gptqReader) raw(g *Group, b *Builder) {
	m := g.First()
	spec, ok := m.Spec.(gptqSpec)
	if !ok {
		return
	}
	add := func(part int, rows, cols int64, width func(m *Module) int64, dims []int64, checks []Check) {
		d := b.SourceDType(part)
		b.Grid(Grid{
			Suffix: r.Parts()[part], Part: part, DType: d, Layout: stages.LayoutRaw, Kind: b.Kind(), Op: b.Copy(),
			Rows: rows, Cols: cols, Dims: dims, Width: width, Source: width, Shared: part == gptqGIdx, Checks: checks,
		})
	}
	words := func(m *Module) int64 { return m.N * 4 }
	zeros := func(m *Module) int64 { return m.N * spec.bits / 32 * 4 }
	groups := spec.groupsOf(m)
	add(gptqQweight, m.K*spec.bits/32, g.N(), words, nil, r.checks(spec, m))
	r.rawFloats(b, gptqScales, groups, g.N(), nil, decode.CheckFinite(spec.scales))
	add(gptqQzeros, groups, g.N()*spec.bits/32, zeros, nil, nil)
	if spec.gIdx {
		all := func(m *Module) int64 { return m.K * 4 }
		add(gptqGIdx, 1, m.K, all, []int64{m.K}, nil)
	}
	if spec.bias != safetensors.Invalid {
		r.rawFloats(b, gptqBias, 1, g.N(), []int64{g.N()}, decode.CheckFinite(spec.bias))
	}
}

// rawFloats adds scales or biases, cast when that is asked for.
func (r *gptqReader) rawFloats(b *Builder, part int, rows, cols int64, dims []int64, finite stages.Op) {
	from := b.SourceDType(part)
	to, op, err := castTo(from, b.DType())
	if err != nil || from == to {
		to, op = from, b.Copy()
	}
	b.Grid(Grid{
		Suffix: r.Parts()[part], Part: part, DType: to, Layout: stages.LayoutRaw, Kind: b.Kind(), Op: op, Rows: rows, Cols: cols, Dims: dims,
		Width:  func(m *Module) int64 { return m.N * elementBytes(to) },
		Source: func(m *Module) int64 { return m.N * elementBytes(from) },
		Checks: []Check{{Part: part, Op: finite}},
	})
}
