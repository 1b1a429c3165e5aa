package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/coldload/coldload/stages"
)

// siblings are the Modules that a rule finds below one scope.
type siblings struct {
	scope   string
	rule    int
	experts bool
	members []sibling
}

// sibling is one of them; expert is -1 outside experts.
type sibling struct {
	expert, member int
	module         int32
}

type siblingKey struct {
	scope   string
	rule    int
	experts bool
}

// group turns Modules into Groups: fused, stacked, or one by one.
func (c *compiler) group() {
	c.groupOf = make([]int32, len(c.modules))
	for i := range c.groupOf {
		c.groupOf[i] = none
	}
	c.groupStacks()
	all := c.collect()
	complete := c.completeRules(all)
	for _, s := range all {
		if s.experts {
			c.groupExperts(s, c.rules.known || complete[siblingKey{"", s.rule, true}])
		} else {
			c.groupFused(s, c.rules.known || complete[siblingKey{"", s.rule, false}])
		}
	}
	for i := range c.modules {
		if c.groupOf[i] == none {
			c.alone(int32(i))
		}
	}
}

// collect finds the siblings, in the order of their first Module.
func (c *compiler) collect() []*siblings {
	if c.opt.NoFuse {
		return nil
	}
	var all []*siblings
	by := map[siblingKey]*siblings{}
	for i, m := range c.modules {
		if m.stacked {
			continue
		}
		at, ok := c.rules.locate(m.Base)
		if !ok {
			if c.rules.misnumbered(m.Base) {
				m.ok = false
				c.checks.ModuleFault(m, stages.CodeMember, misnumbered, "experts.0 and so on, without leading zeros", m.Base, "")
			}
			continue
		}
		key := siblingKey{at.scope, at.rule, at.expert >= 0}
		s := by[key]
		if s == nil {
			s = &siblings{scope: at.scope, rule: at.rule, experts: at.expert >= 0}
			by[key] = s
			all = append(all, s)
		}
		s.members = append(s.members, sibling{at.expert, at.member, int32(i)})
	}
	return all
}

// completeRules tells which rules are satisfied somewhere: a rule that the checkpoint follows once must hold everywhere.
func (c *compiler) completeRules(all []*siblings) map[siblingKey]bool {
	done := map[siblingKey]bool{}
	for _, s := range all {
		want := 3
		if !s.experts {
			want = len(c.rules.fuse[s.rule].members)
		}
		perExpert := map[int]int{}
		for _, m := range s.members {
			perExpert[m.expert]++
			if perExpert[m.expert] == want {
				done[siblingKey{"", s.rule, s.experts}] = true
			}
		}
	}
	return done
}

// groupFused makes the Group of q, k, v or of gate, up.
func (c *compiler) groupFused(s *siblings, strict bool) {
	rule := c.rules.fuse[s.rule]
	found := make([]*Module, len(rule.members))
	for _, m := range s.members {
		found[m.member] = c.modules[m.module]
	}
	if missing := missingMembers(rule.members, found); len(missing) > 0 {
		anchor := slices.Index(rule.members, rule.anchor)
		if strict && (anchor < 0 || found[anchor] != nil) {
			c.missing(s, missing)
		}
		return
	}
	g := &Group{Name: s.scope + "." + rule.fused, Members: rule.members, Modules: found}
	c.form(g, s.members)
}

func missingMembers(names []string, found []*Module) (missing []string) {
	for i, m := range found {
		if m == nil {
			missing = append(missing, names[i])
		}
	}
	return missing
}

// missing reports members that must be there, and takes the others out of the plan.
func (c *compiler) missing(s *siblings, names []string) {
	c.spoil(s.members)
	c.checks.ModuleFault(c.modules[s.members[0].module], stages.CodeMember,
		"members of "+s.scope+" that fuse with it are missing", strings.Join(names, ", "), "",
		"the checkpoint is incomplete: get it again, or load it unfused (--no-fuse)")
}

// spoil marks Modules whose faults are reported already.
func (c *compiler) spoil(members []sibling) {
	for _, m := range members {
		c.modules[m.module].ok = false
	}
}

// form checks that the members of g agree and adds it.
func (c *compiler) form(g *Group, members []sibling) {
	if !c.agree(g) {
		c.spoil(members)
		return
	}
	c.countFused(g)
	c.addGroup(g, members)
}

// countFused notes for the Plan's summary what became one.
func (c *compiler) countFused(g *Group) {
	_, into := cutLast(g.Name)
	key := into + " " + strings.Join(g.Members, " ")
	f := c.fused[key]
	if f == nil {
		f = &Fused{Into: into, Members: g.Members, Stacked: g.Stacked(), Example: g.Name}
		c.fused[key] = f
	}
	f.Groups++
	f.Modules += len(g.Modules)
}

func (c *compiler) addGroup(g *Group, members []sibling) {
	for _, m := range members {
		c.groupOf[m.module] = int32(len(c.groups))
	}
	c.groups = append(c.groups, g)
}

// alone makes the Group of a Module that neither fuses nor stacks. A dense one is no more than its tensors.
func (c *compiler) alone(i int32) {
	m := c.modules[i]
	if !m.ok {
		return
	}
	if m.reader == isDense {
		for _, t := range m.Tensors {
			if t != none {
				c.owner[t] = ownerNone
			}
		}
		return
	}
	_, last := cutLast(m.Base)
	g := &Group{Name: m.Base, Members: []string{last}, Modules: []*Module{m}}
	c.addGroup(g, []sibling{{-1, 0, i}})
}

// agree reports whether the Modules of a Group can become one: same format, same Spec, same input features, and for experts the same
// shape expert by expert.
func (c *compiler) agree(g *Group) bool {
	for _, m := range g.Modules {
		if !m.ok {
			return false // reported where it was found
		}
	}
	first, n := g.First(), len(g.Members)
	ok := true
	differ := func(m *Module, what string, expected, found any) {
		ok = false
		c.checks.ModuleFault(m, stages.CodeMismatch, what+" differs from "+first.Base+", with which it becomes "+g.Name,
			fmt.Sprint(expected), fmt.Sprint(found), "load it unfused (--no-fuse)")
	}
	for i, m := range g.Modules {
		like := g.Modules[i%n] // the same member of the first expert
		switch {
		case m.Spec != first.Spec || !c.samePartsAs(m, first):
			what, expected, found := specsDiffer(first.Spec, m.Spec)
			differ(m, what, expected, found)
		case m.K != first.K:
			differ(m, "number of input features", first.K, m.K)
		case m.N != like.N:
			differ(m, "number of output features", like.N, m.N)
		}
	}
	return ok
}

// samePartsAs reports whether two Modules have the same parts in the same order: those of one Reader have.
func (c *compiler) samePartsAs(m, first *Module) bool {
	return m.reader == first.reader || slices.Equal(c.readerOf(m).Parts(), c.readerOf(first).Parts())
}

// specsDiffer names in what two Specs differ: one thing, when their type can tell.
func specsDiffer(a, b Spec) (what, expected, found string) {
	if d, ok := a.(interface {
		Differs(other Spec) (what, expected, found string)
	}); ok {
		return d.Differs(b)
	}
	return "format", fmt.Sprint(a), fmt.Sprint(b)
}

// groupExperts makes the two Groups of a layer's routed experts.
func (c *compiler) groupExperts(s *siblings, strict bool) {
	rule := c.rules.experts[s.rule]
	names := [...]string{rule.gate, rule.up, rule.down}
	count := 0
	for _, m := range s.members {
		count = max(count, m.expert+1)
	}
	// A family that is not in the table may number experts of several kinds in one row: more of them than the config says are no fault.
	if want := c.in.Model.NumExperts; count < want || want > 0 && c.rules.known && count > want {
		c.wrongExperts(s, count, want, names[:])
		return
	}
	if len(s.members) != 3*count {
		if strict {
			c.missingExperts(s, count, names[:])
		}
		return
	}
	slices.SortFunc(s.members, func(a, b sibling) int {
		if a.expert != b.expert {
			return a.expert - b.expert
		}
		return a.member - b.member
	})
	var gateUp, down []sibling
	for _, m := range s.members {
		if m.member < 2 {
			gateUp = append(gateUp, m)
		} else {
			down = append(down, m)
		}
	}
	gu := &Group{Name: s.scope + "." + fusedGateUp, Experts: count, Members: names[:2], Modules: c.modulesOf(gateUp)}
	d := &Group{Name: s.scope + "." + fusedDown, Experts: count, Members: names[2:], Modules: c.modulesOf(down)}
	if c.expertsAgree(gu, d) {
		c.form(gu, gateUp)
		c.form(d, down)
		return
	}
	c.spoil(s.members)
}

func (c *compiler) modulesOf(list []sibling) []*Module {
	out := make([]*Module, len(list))
	for i, m := range list {
		out[i] = c.modules[m.module]
	}
	return out
}

// expertsAgree checks the shapes of gate, up and down against each other: gate and up map H to I, down maps I to H.
func (c *compiler) expertsAgree(gu, d *Group) bool {
	gate, up, down := gu.Modules[0], gu.Modules[1], d.Modules[0]
	if !gate.ok || !up.ok || !down.ok {
		return false
	}
	report := func(m *Module, what string, expected, found int64) {
		c.checks.ModuleFault(m, stages.CodeMismatch, what, fmt.Sprint(expected), fmt.Sprint(found), "the checkpoint is damaged: get it again")
	}
	ok := true
	if up.N != gate.N {
		report(up, "number of output features differs from "+gate.Base, gate.N, up.N)
		ok = false
	}
	if down.N != gate.K {
		report(down, "number of output features is not the number of input features of "+gate.Base, gate.K, down.N)
		ok = false
	}
	if down.K != gate.N {
		report(down, "number of input features is not the number of output features of "+gate.Base, gate.N, down.K)
		ok = false
	}
	return ok
}

// wrongExperts reports a layer whose number of experts is not the config's.
func (c *compiler) wrongExperts(s *siblings, count, want int, names []string) {
	if count < want {
		c.missingExperts(s, want, names)
		return
	}
	c.spoil(s.members)
	c.checks.ModuleFault(c.modules[s.members[0].module], stages.CodeConfig, "has more experts than the config says",
		fmt.Sprintf("experts 0 to %d", want-1), fmt.Sprintf("expert %d", count-1), "check the number of experts in config.json")
}

// missingExperts lists the experts and members of 0..count-1 that are not there.
func (c *compiler) missingExperts(s *siblings, count int, names []string) {
	have := map[[2]int]bool{}
	for _, m := range s.members {
		have[[2]int{m.expert, m.member}] = true
	}
	const most = 8
	var list []string
	for e := 0; e < count && len(list) < most; e++ {
		for m, name := range names {
			if !have[[2]int{e, m}] {
				list = append(list, fmt.Sprintf("%d.%s", e, name))
			}
		}
	}
	n := len(names)*count - len(have)
	found := strings.Join(list, ", ")
	if n > len(list) {
		found += fmt.Sprintf(" and %d more", n-len(list))
	}
	c.spoil(s.members)
	c.checks.ModuleFault(c.modules[s.members[0].module], stages.CodeMember,
		fmt.Sprintf("%d of the modules of %s are missing", n, s.scope),
		fmt.Sprintf("%s of experts 0 to %d", strings.Join(names, ", "), count-1), "no "+found,
		"the checkpoint is incomplete: get it again")
}
