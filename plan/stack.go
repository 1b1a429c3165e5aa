package plan

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/coldload/coldload/stages"
)

// Stacker is implemented by a Reader of checkpoints that hold the Modules of all experts of a layer in tensors with an axis of experts in
// front: gpt-oss's gate_up_proj_blocks [E, 2I, H/32, 16].
//
// The Plan cuts such a tensor into virtual ones, one for every expert, without that axis, and makes a Module of them for every expert:
// Module is asked about the first, whose K, N and Spec all others get, and Compile about a Group of them all, as of experts that the
// checkpoint has one by one. Options.NoFuse joins no Members, but leaves experts stacked that the checkpoint has so.
type Stacker interface {
	// Stack says what tensor i belongs to, if it is one that marks a stack: each stack has one such tensor. What is wrong with the others
	// (one is missing) it reports as a fault, and returns ok all the same, with NoSlice in its place.
	Stack(c *Checks, i int32) (s Stack, ok bool)
}

// Stack is what Modules of all experts of a layer become.
type Stack struct {
	Name    string // of the Group, and so of its Outputs: "model.layers.0.mlp.experts.gate_up_proj"
	Members []StackMember
	Pair    Pair
}

// StackMember is one Module of every expert. Members fuse in their order.
type StackMember struct {
	Name    string  // last name component: "gate_proj"
	Tensors []Slice // by the Reader's Parts; the first must be there
}

// Pair says that the output features of one Module are those of gate and up, joined in the checkpoint already.
type Pair uint8

// The ways in which gate and up lie in one Module.
const (
	NoPair          Pair = iota
	PairHalves           // first those of gate, then those of up
	PairInterleaved      // those of gate are even, those of up are odd: gpt-oss
)

// mostStacked bounds the Modules of stacks, whose description takes memory that no tensor of their own has paid for.
const mostStacked = 1 << 18

// stacked is a Stack that was found, with its Modules.
type stacked struct {
	group       *Group
	first, last int // its Modules among the compiler's
}

// findStacks makes the Modules of tensors that hold those of all experts, for one of the readers.
func (c *compiler) findStacks(reader int32) {
	s, ok := c.readerAt(reader).(Stacker)
	if !ok {
		return
	}
	for i := range c.owner {
		if c.owner[i] != ownerNone {
			continue
		}
		before := c.faults.count()
		if x, ok := s.Stack(&c.checks, int32(i)); ok {
			c.addStack(x, reader, c.faults.count() == before)
		}
	}
}

// addStack adds the Modules of a Stack; sound is false when the format has found a fault of it.
func (c *compiler) addStack(s Stack, reader int32, sound bool) {
	e, ok := c.stackShape(s, c.readerAt(reader))
	if !ok || !sound {
		c.spoilStack(s)
		return
	}
	if !c.opt.NoFuse || len(s.Members) == 1 {
		c.addStacked(s, reader, e)
		return
	}
	above, _ := cutLast(s.Name)
	for _, m := range s.Members {
		c.addStacked(Stack{Name: above + "." + m.Name, Members: []StackMember{m}, Pair: s.Pair}, reader, e)
	}
}

// spoilStack marks the tensors of a Stack whose faults are reported already.
func (c *compiler) spoilStack(s Stack) {
	for _, m := range s.Members {
		for _, t := range m.Tensors {
			if t.Tensor >= 0 && int(t.Tensor) < len(c.owner) {
				c.owner[t.Tensor] = ownerBroken
			}
		}
	}
}

// stackShape checks that all tensors of a Stack have the same number of experts, and the one that the config says.
func (c *compiler) stackShape(s Stack, r Reader) (e int64, ok bool) {
	parts := len(r.Parts())
	if len(s.Members) == 0 || s.Name == "" {
		c.stackFault(s, "describes a stack without a name or members")
		return 0, false
	}
	for _, m := range s.Members {
		if len(m.Tensors) != parts || m.Tensors[0].Tensor < 0 || m.Name == "" {
			c.stackFault(s, fmt.Sprintf("describes a member of the stack %s without a name, its first part, or as many parts as it has (%d)", s.Name, parts))
			return 0, false
		}
		for _, t := range m.Tensors {
			n, ok := c.expertsOf(t)
			switch {
			case t.Tensor < 0:
			case !ok:
				return 0, false
			case e == 0:
				e = n
			case n != e:
				c.checks.Fault(t.Tensor, stages.CodeMismatch, "has another number of experts than "+c.views.Name(int(s.Members[0].Tensors[0].Tensor)),
					strconv.FormatInt(e, 10), strconv.FormatInt(n, 10), "the checkpoint is damaged: get it again")
				return 0, false
			}
		}
	}
	if want := int64(c.in.Model.NumExperts); want > 0 && want != e {
		c.wrongStack(s.Members[0].Tensors[0].Tensor, want, e)
		return 0, false
	}
	return e, true
}

// wrongStack reports a tensor of another number of experts than the config's.
func (c *compiler) wrongStack(t int32, want, found int64) {
	c.checks.Fault(t, stages.CodeConfig, "has not as many experts as the config says", fmt.Sprintf("%d along the first axis", want),
		strconv.FormatInt(found, 10), "check the number of experts in config.json")
}

// expertsOf is the number of experts of a Slice; ok is false when it was no Slice, and a fault says so.
func (c *compiler) expertsOf(s Slice) (n int64, ok bool) {
	if s.Tensor < 0 {
		return 0, false
	}
	at, problem := c.views.slice(s)
	if problem != "" {
		c.checks.sliceFault(s, problem)
		return 0, false
	}
	return c.views.slices[at].experts, true
}

// stackFault reports what a format has done wrong.
func (c *compiler) stackFault(s Stack, problem string) {
	c.formatFault(&Module{Base: s.Name}, stages.CodeUnsupported, problem, "", "")
}

// addStacked makes the Modules of every expert, and the Group of them.
func (c *compiler) addStacked(s Stack, reader int32, e int64) {
	r := c.readerAt(reader)
	n := len(s.Members)
	if c.inStacks += int(e) * n; c.inStacks > mostStacked {
		c.checks.Fault(s.Members[0].Tensors[0].Tensor, stages.CodeUnsupported, "makes too many modules",
			fmt.Sprintf("at most %d of all stacks", mostStacked), strconv.Itoa(c.inStacks), "")
		c.spoilStack(s)
		return
	}
	g := &Group{Name: s.Name, Experts: int(e), Pair: s.Pair, Modules: make([]*Module, 0, int(e)*n)}
	above, _ := cutLast(s.Name)
	parts := len(r.Parts())
	modules, tensors := make([]Module, int(e)*n), make([]int32, int(e)*n*parts)
	for i := range modules {
		m, of := &modules[i], s.Members[i%n]
		m.stacked, m.reader = true, reader
		m.Base, m.Tensors = above+"."+strconv.Itoa(i/n)+"."+of.Name, tensors[i*parts:(i+1)*parts:(i+1)*parts]
		for p, t := range of.Tensors {
			m.Tensors[p] = none
			if t.Tensor < 0 {
				continue
			}
			at, problem := c.views.add(t, int64(i/n))
			if problem != "" {
				c.checks.sliceFault(t, problem)
				c.spoilStack(s)
				return
			}
			m.Tensors[p] = at
		}
		if i < n {
			g.Members = append(g.Members, of.Name)
			m.ok = c.understand(m, r)
		} else {
			like := &modules[i%n] // its tensors have the same shapes
			m.K, m.N, m.Spec, m.ok = like.K, like.N, like.Spec, like.ok
		}
		g.Modules = append(g.Modules, m)
	}
	first := len(c.modules)
	for _, m := range g.Modules {
		c.own(m, int32(len(c.modules)))
		c.modules = append(c.modules, m)
	}
	c.stacks = append(c.stacks, stacked{group: g, first: first, last: len(c.modules)})
}

// own marks the tensors of a Module as its own. A tensor that several have a share of is that of the first.
func (c *compiler) own(m *Module, mark int32) {
	if c.owner == nil { // when only one module is wanted
		return
	}
	for _, t := range m.Tensors {
		if t == none {
			continue
		}
		if at := c.views.real(t); at == t || c.owner[at] == ownerNone {
			c.owner[at] = mark
		}
	}
}

// groupStacks makes the Groups of the stacks that were found.
func (c *compiler) groupStacks() {
	scopes := map[string][]*Group{}
	for _, s := range c.stacks {
		members := make([]sibling, 0, s.last-s.first)
		for i := s.first; i < s.last; i++ {
			members = append(members, sibling{0, 0, int32(i)})
		}
		if !c.agree(s.group) {
			c.spoil(members)
			continue
		}
		c.countFused(s.group)
		c.addGroup(s.group, members)
		above, _ := cutLast(s.group.Name)
		scopes[above] = append(scopes[above], s.group)
	}
	for _, s := range c.stacks {
		above, last := cutLast(s.group.Name)
		if last == fusedGateUp && s.group.First().ok {
			c.stackAgrees(s.group, scopes[above])
		}
	}
}

// stackAgrees checks gate and up of all experts against down of the same layer, when it is a stack as well.
func (c *compiler) stackAgrees(gu *Group, layer []*Group) {
	for _, d := range layer {
		if _, last := cutLast(d.Name); last != fusedDown || !d.First().ok {
			continue
		}
		gate, down := gu.First(), d.First()
		inner := gate.N
		if gu.Pair != NoPair {
			inner /= 2
		}
		if d.Experts != gu.Experts || down.N != gate.K || down.K != inner {
			c.checks.ModuleFault(down, stages.CodeMismatch, "does not map back what "+gu.Name+" maps",
				fmt.Sprintf("%d experts of [%d, %d]", gu.Experts, gate.K, inner), fmt.Sprintf("%d experts of [%d, %d]", d.Experts, down.N, down.K),
				"the checkpoint is damaged: get it again")
		}
	}
}

// requestStack finds the stack that a Request names, when the checkpoint has one, and makes its Modules.
func (c *compiler) requestStack(q Request) bool {
	for r := range c.readers {
		if c.requestStackOf(q, int32(r)) {
			return true
		}
	}
	return c.requestDenseStack(q)
}

// requestStackOf is requestStack for the stacks of one of the readers.
func (c *compiler) requestStackOf(q Request, reader int32) bool {
	s, ok := c.readerAt(reader).(Stacker)
	if !ok {
		return false
	}
	scope, _ := cutLast(q.Name)
	for i := range c.in.Catalog.Len() {
		if !strings.HasPrefix(c.in.Catalog.Name(i), scope) {
			continue
		}
		if x, ok := s.Stack(&c.checks, int32(i)); ok && x.Name == q.Name && len(c.faults.list) == 0 {
			if e, ok := c.stackShape(x, c.readerAt(reader)); ok {
				c.addStacked(x, reader, e)
			}
			return true
		}
	}
	return false
}
