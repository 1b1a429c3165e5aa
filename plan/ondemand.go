package plan

import (
	"fmt"
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

// MakeModule plans one module: the Plan of a whole checkpoint would make the same Outputs for it, if its rules fuse it so. What does not fit
// together is a *stages.RefusedError.
func MakeModule(in Input, opt Options, q Request) (*Plan, error) {
	c := newCompiler(in, opt)
	if in.Packed != nil {
		c.requestPacked(q)
	} else if c.openFormat(); len(c.faults.list) == 0 {
		c.request(q)
	}
	if len(c.faults.list) == 0 {
		c.plan.Summary.Format = c.method
		c.sumOutputs()
		c.plan.layOut(TargetBatch(opt.Budget))
		c.measure()
	}
	c.plan.Faults = c.faults.list
	return c.plan, stages.Refuse(c.plan.Faults...)
}

// requestPacked takes a module of a packed folder as it is.
func (c *compiler) requestPacked(q Request) {
	p := c.in.Packed
	c.method = MethodPacked
	c.comparePacked(p)
	c.plan.Summary.Layout = p.Layout
	list := p.Modules()[q.Name]
	for _, t := range list {
		if shape := shapeOf(c.in.Catalog, int(t)); q.Experts > 0 && (len(shape) == 0 || shape[0] != int64(q.Experts)) {
			c.checks.Fault(t, stages.CodeMember, "is not a stack of so many experts", strconv.Itoa(q.Experts), formatShape(shape), "")
		}
		c.takeOutput(int(t))
	}
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
	g := &Group{Name: q.Name, Experts: q.Experts}
	for i, base := range q.Bases {
		c.addRequested(base)
		if i < members {
			_, last := cutLast(base)
			g.Members = append(g.Members, last)
		}
	}
	g.Modules = c.modules
	if len(c.faults.list) == 0 && c.agree(g) {
		c.compileGroup(g)
		c.findUnused()
	}
}

// addRequested recognises one module: quantised when it has what marks one, else dense.
func (c *compiler) addRequested(base string) {
	switch {
	case c.reader != nil && c.exists(base+"."+c.reader.Parts()[0]):
		c.addModule(base, c.reader.Parts(), c.reader)
	case c.exists(base + ".weight"):
		c.addModule(base, dense{}.Parts(), dense{})
	default:
		c.faults.add(stages.Fault{
			Code: stages.CodeNotFound, Tensor: base, Problem: "no such module", Expected: "a quantised or a dense weight", Found: "neither",
			Advice: "`coldload plan` lists what the checkpoint has",
		})
	}
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
	quantised := func(base string) bool { return c.reader != nil && c.exists(base+"."+c.reader.Parts()[0]) }
	switch {
	case quantised(name):
	case len(members) > 0 && quantised(members[0]):
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

// GPTQModule looks at one module without planning anything.
func GPTQModule(in Input, opt Options, base string) (GPTQInfo, error) {
	if in.Packed != nil {
		return GPTQInfo{}, stages.Refuse(stages.Fault{
			Code: stages.CodeUnsupported, Tensor: base, Problem: "is in a packed folder, in its final form", Advice: "load it as it is, or open the original",
		})
	}
	c := newCompiler(in, opt)
	c.openFormat()
	r, ok := c.reader.(*gptqReader)
	if !ok {
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
