package plan

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/coldload/coldload/stages"
)

// Request names one module to plan by itself.
type Request struct {
	Name    string   // of the Outputs, without suffix
	Bases   []string // the modules it is made of, expert by expert, members in order
	Experts int      // 0 when it is not stacked
}

// Single is what a Plan of one module knows of it.
type Single struct {
	K, N    int64 // input and output features, without padding; of one expert when it is stacked
	Experts int   // 0 when it is not stacked
	// Bits and Group are those of the codes in the checkpoint: 0 when it has none, and Group -1 for one group over all of K.
	Bits, Group int
	Padding     *stages.Padding // nil for none
	// Outputs are the names of the Outputs by suffix, as rules made them.
	Outputs map[string]string
	// Suffixes are the keys of Outputs, in the order in which they were made.
	Suffixes []string
}

// Quantised is implemented by the Spec of a format with codes of so many bits, that share a scale in groups: -1 is one group over all of K.
type Quantised interface {
	CodeBits() int
	GroupSize() int
}

// MakeModule plans one module: the Plan of a whole checkpoint would make the same Outputs for it, if its rules fuse it so. What does not fit
// together is a *stages.RefusedError.
func MakeModule(in Input, opt Options, q Request) (*Plan, error) {
	c := newCompiler(in, opt)
	c.single = &Single{Experts: q.Experts, Outputs: map[string]string{}}
	c.prefix = q.Name
	c.plan.Single = c.single
	if in.Packed != nil {
		c.requestPacked(q)
	} else if c.openFormat(); len(c.faults.list) == 0 {
		c.request(q)
	}
	if len(c.faults.list) == 0 {
		c.checkNames()
		c.plan.Summary.Format = c.method
		c.sumOutputs()
	}
	if len(c.faults.list) == 0 {
		c.plan.join = joinUnder(opt.Budget, opt.Staging != nil)
		c.plan.layOut(TargetBatch(opt.Budget))
		c.measure()
	}
	c.plan.Faults = c.faults.list
	return c.plan, stages.Refuse(c.plan.Faults...)
}

// requestPacked takes a module of a packed folder as it is. Experts that are packed under the name of a dense checkpoint's tensor are turned and
// named as a module is, as they are in such a checkpoint.
func (c *compiler) requestPacked(q Request) {
	p := c.in.Packed
	c.method = MethodPacked
	c.comparePacked(p)
	c.plan.Summary.Layout = p.Layout
	list := p.module(c.in.Catalog, q.Name)
	if len(list) == 0 && c.requestedStack(q) {
		return
	}
	for _, t := range list {
		if shape := shapeOf(c.in.Catalog, int(t)); q.Experts > 0 && (len(shape) == 0 || shape[0] != int64(q.Experts)) {
			c.checks.Fault(t, stages.CodeMember, "is not a stack of so many experts", strconv.Itoa(q.Experts), formatShape(shape), "")
		}
		c.takeOutput(int(t))
	}
	c.single.fromShapes(c.in, list)
	if len(list) == 0 {
		c.faults.add(stages.Fault{
			Code: stages.CodeNotFound, Tensor: q.Name, Problem: "no such module in the packed folder", Expected: "outputs " + q.Name + "....",
			Advice: "a packed folder has the modules as they were fused when it was packed: `coldload plan` lists them",
		})
	}
}

func (c *compiler) request(q Request) {
	members := len(q.Bases) / max(q.Experts, 1)
	if members == 0 || members*max(q.Experts, 1) != len(q.Bases) {
		c.faults.add(stages.Fault{
			Code: stages.CodeMember, Tensor: q.Name, Problem: "has no members, or not the same for every expert",
			Expected: fmt.Sprintf("%d experts with the same members", q.Experts), Found: fmt.Sprintf("%d modules", len(q.Bases)),
		})
		return
	}
	if c.requestedStack(q) {
		return
	}
	g := &Group{Name: q.Name, Experts: q.Experts}
	for i, base := range q.Bases {
		c.addRequested(base)
		if i < members {
			_, last := cutLast(base)
			g.Members = append(g.Members, last)
		}
	}
	g.Modules = c.modules
	if len(c.faults.list) == 0 && c.agree(g) && c.sameWidths(g) {
		c.single.of(g)
		c.compileGroup(g)
		c.findUnused()
	}
}

// requestedStack makes what is asked for of tensors that hold all experts, when the checkpoint has no modules under the names of single ones.
func (c *compiler) requestedStack(q Request) bool {
	if base := q.Bases[0]; c.isQuantised(base) || c.exists(base+".weight") || !c.requestStack(q) {
		return false
	}
	if len(c.faults.list) > 0 {
		return true
	}
	g := c.stacks[0].group
	if q.Experts > 0 && q.Experts != g.Experts {
		c.checks.ModuleFault(g.First(), stages.CodeMember, "is one of another number of experts", strconv.Itoa(q.Experts), strconv.Itoa(g.Experts), "")
		return true
	}
	c.single.Experts = g.Experts
	c.single.of(g)
	c.compileGroup(g)
	c.findUnused()
	return true
}

// sameWidths reports whether the members of every expert have the same output features, as gate and up must have.
func (c *compiler) sameWidths(g *Group) bool {
	first := g.First()
	for _, m := range g.Modules {
		if g.Stacked() && m.N != first.N {
			c.checks.ModuleFault(m, stages.CodeMismatch, "number of output features differs from "+first.Base, strconv.FormatInt(first.N, 10),
				strconv.FormatInt(m.N, 10), "members of experts that become one have the same shape")
			return false
		}
	}
	return true
}

// of takes the figures of a Group.
func (s *Single) of(g *Group) {
	s.K, s.N = g.First().K, g.N()
	if q, ok := g.First().Spec.(Quantised); ok {
		s.Bits, s.Group = q.CodeBits(), q.GroupSize()
	}
}

// fromShapes finds the figures of a module of a packed folder by the shapes of its Outputs, which the layouts fix. A group size that they do
// not tell stays 0.
func (s *Single) fromShapes(in Input, list []int32) {
	shapes := map[string][]int64{} // without the axis of experts
	codes := stages.LayoutRaw
	for _, t := range list {
		_, suffix := cutLast(in.Catalog.Name(int(t)))
		shape := shapeOf(in.Catalog, int(t))
		if len(shape) == 3 {
			s.Experts, shape = int(shape[0]), shape[1:]
		}
		shapes[suffix] = shape
		if suffix == "qweight" {
			p := in.Packed.Output(int(t))
			codes, s.Padding = p.Layout, p.Padding
		}
	}
	matrix := func(suffix string) (rows, cols int64) {
		if x := shapes[suffix]; len(x) == 2 {
			return x[0], x[1]
		}
		return 0, 0
	}
	s.N, s.K = matrix("weight")
	rows, cols := matrix("qweight")
	groups, n := matrix("scales")
	if rows == 0 || groups == 0 || n == 0 {
		return
	}
	s.N = n
	if codes == stages.LayoutMarlin {
		s.K, s.Bits = rows*16, int(cols*2/n)
		defer s.unpad()
	} else if _, zeros := matrix("qzeros"); zeros > 0 {
		s.Bits = int(zeros * 32 / n)
		s.K = rows * 32 / max(int64(s.Bits), 1)
		switch {
		case zeros == n: // rows of four output features, with scales that are filled up
			s.K, s.Bits = cols, 4
			return
		case cols != n && rows == groups: // rows of output features, their scales filled up
			s.N, s.K = rows, 8*cols
			return
		case cols != n: // packed along the output features
			s.K = rows
		}
	}
	switch {
	case groups == 1:
		s.Group = -1
	case s.K%groups == 0:
		s.Group = int(s.K / groups)
	}
}

// unpad makes the features those of the module without its padding.
func (s *Single) unpad() {
	if s.Padding != nil {
		s.N, s.K = s.Padding.Unpadded[0], s.Padding.Unpadded[1]
	}
}

// isQuantised tells whether the checkpoint has what marks a quantised module of that name.
func (c *compiler) isQuantised(base string) bool {
	return c.quantisedReader(base) != none
}

// quantisedReader is the Reader of a quantised module; none when there is no such module.
func (c *compiler) quantisedReader(base string) int32 {
	for i, r := range c.readers {
		if t, ok := c.in.Catalog.Lookup(base + "." + r.Parts()[0]); ok && picks(r, &c.checks, int32(t)) {
			return int32(i)
		}
	}
	return none
}

// addRequested recognises one module: quantised when it has what marks one, else dense.
func (c *compiler) addRequested(base string) {
	reader := c.quantisedReader(base)
	switch {
	case reader != none:
		c.addModule(base, reader)
	case c.exists(base + ".weight"):
		c.addModule(base, isDense)
	case c.looksQuantised(base):
	default:
		c.faults.add(stages.Fault{
			Code: stages.CodeNotFound, Tensor: base, Problem: "no such module", Expected: "a quantised or a dense weight", Found: "neither",
			Advice: "`coldload plan` lists what the checkpoint has",
		})
	}
}

// looksQuantised reports tensors of a module that only quantised checkpoints have, when nothing says how they were quantised. It looks at every
// name, which only a module that is not there is worth.
func (c *compiler) looksQuantised(base string) bool {
	for i := range c.in.Catalog.Len() {
		if method, ok := c.quantisedBy(i); ok && strings.HasPrefix(c.in.Catalog.Name(i), base+".") {
			c.unannounced(i, method)
			return true
		}
	}
	return false
}

// Linear finds what a module name stands for: the first that exists of the quantised module itself, its quantised members, the dense
// module, its dense members. Members are those that the rules fuse into a module of that name: q, k, v into qkv_proj.
func Linear(in Input, opt Options, name string) Request {
	q := Request{Name: name, Bases: []string{name}}
	if in.Packed != nil {
		return q
	}
	c := newCompiler(in, opt)
	c.openFormat()
	members := fusedMembers(name)
	switch {
	case c.isQuantised(name):
	case len(members) > 0 && c.isQuantised(members[0]):
		q.Bases = members
	case c.exists(name + ".weight"):
	case len(members) > 0:
		q.Bases = members
	}
	return q
}

// fusedMembers are the modules that a rule fuses into one of that name.
func fusedMembers(name string) (bases []string) {
	scope, last := cutLast(name)
	for _, r := range fuseRules {
		if r.fused == last && scope != "" {
			for _, m := range r.members {
				bases = append(bases, scope+"."+m)
			}
			return bases
		}
	}
	return nil
}

// Experts is the Request for members of n experts. pattern is the name of one expert's module scope, with {e} for its number:
// "model.layers.0.mlp.experts.{e}".
func Experts(pattern string, members []string, n int) (Request, error) {
	if strings.Count(pattern, "{e}") != 1 {
		return Request{}, fmt.Errorf("plan: the pattern %q has not one {e} for the number of the expert", pattern)
	}
	if n <= 0 || n > mostExperts || len(members) == 0 {
		return Request{}, fmt.Errorf("plan: %d experts with %d members", n, len(members))
	}
	for i, m := range members {
		if slices.Contains(members[:i], m) {
			return Request{}, fmt.Errorf("plan: the member %q of the experts is given twice", m)
		}
	}
	q := Request{Name: strings.TrimSuffix(strings.Replace(pattern, "{e}", "", 1), ".") + "." + stackedName(members), Experts: n}
	for e := range n {
		scope := strings.Replace(pattern, "{e}", fmt.Sprint(e), 1)
		for _, m := range members {
			q.Bases = append(q.Bases, scope+"."+m)
		}
	}
	return q, nil
}

// stackedName is the name that members of experts get together.
func stackedName(members []string) string {
	for _, r := range expertRules {
		switch {
		case len(members) == 2 && members[0] == r.gate && members[1] == r.up:
			return fusedGateUp
		case len(members) == 1 && members[0] == r.down:
			return fusedDown
		}
	}
	return strings.Join(members, "_")
}

// GPTQInfo is what a GPTQ module is made of.
type GPTQInfo struct {
	K, N                                int64
	Bits, Group                         int // Group is -1 for one over all of K
	Symmetric, ActOrder                 bool
	Format                              string // checkpoint_format: gptq, gptq_v2 or gptq_p
	QWeight, Scales, QZeros, GIdx, Bias int    // tensors of the Catalog; -1 for none
}

// gptqReader is the Reader of the checkpoint's GPTQ Modules.
func (c *compiler) gptqReader() (*gptqReader, bool) {
	for _, r := range c.readers {
		if g, ok := r.(*gptqReader); ok {
			return g, true
		}
	}
	return nil, false
}

// GPTQModule looks at one module without planning anything.
func GPTQModule(in Input, opt Options, base string) (GPTQInfo, error) {
	if in.Packed != nil {
		return GPTQInfo{}, stages.Refuse(stages.Fault{
			Code: stages.CodeUnsupported, Tensor: base, Problem: "is in a packed folder, in its final form", Advice: "load it as it is, or open the original",
		})
	}
	c := newCompiler(in, opt)
	c.openFormat()
	r, ok := c.gptqReader()
	if !ok && len(c.faults.list) == 0 && !c.looksQuantised(base) {
		c.faults.add(stages.Fault{Code: stages.CodeUnsupported, Tensor: base, Problem: "the checkpoint is not quantised with gptq", Found: c.method})
	}
	if len(c.faults.list) == 0 {
		c.addRequested(base)
	}
	if len(c.faults.list) > 0 {
		return GPTQInfo{}, stages.Refuse(c.faults.list...)
	}
	m := c.modules[0]
	spec, ok := m.Spec.(gptqSpec)
	if !ok {
		return GPTQInfo{}, stages.Refuse(stages.Fault{Code: stages.CodeMismatch, Tensor: base, Problem: "is not quantised", Expected: "a gptq module", Found: m.Spec.String()})
	}
	return GPTQInfo{
		K: m.K, N: m.N, Bits: int(spec.bits), Group: int(spec.group), Symmetric: spec.sym, ActOrder: spec.descAct, Format: r.format(),
		QWeight: int(m.Tensors[gptqQweight]), Scales: int(m.Tensors[gptqScales]), QZeros: int(m.Tensors[gptqQzeros]),
		GIdx: int(m.Tensors[gptqGIdx]), Bias: int(m.Tensors[gptqBias]),
	}, nil
}
