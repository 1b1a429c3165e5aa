package plan

import (
	"strings"

	"github.com/coldload/coldload/stages"
)

// Mixed is implemented by the Reader of a checkpoint whose Modules are of several kinds: Open returns one of its Readers, which names the
// others. Every tensor that a Module may be marked by is shown to all of them, this one first, and is the first one's that takes it. So
// those whose first parts have one name must be Pickers that never take the same tensor; see scoped.
type Mixed interface {
	Reader
	// Others are the further Readers of the checkpoint. They are not asked for others of their own.
	Others() []Reader
}

// readersOf lists a Reader and its others.
func readersOf(r Reader) []Reader {
	all := []Reader{r}
	if m, ok := r.(Mixed); ok {
		all = append(all, m.Others()...)
	}
	return all
}

// scope tells whether a Module is one of a Reader's by its name, from what the config says. problem says why no Reader of the checkpoint has it;
// it is "" where another one has.
type scope func(base string) (mine bool, problem string)

// scoped is a Reader of some of a checkpoint's Modules. What its scope gives to no Reader at all, and is stored as one stores it all the same,
// is refused.
type scoped struct {
	Reader
	covers scope
	others []Reader
	unsure func(base string) string // what to note of a Module whose name the config may mean otherwise; nil for nothing
}

// mix makes one Reader of several, the first of which has the others.
func mix(all []*scoped) Reader {
	for _, r := range all[1:] {
		all[0].others = append(all[0].others, r)
	}
	return all[0]
}

func (s *scoped) Others() []Reader { return s.others }

func (s *scoped) Picks(c *Checks, i int32) bool {
	if !picks(s.Reader, c, i) {
		return false
	}
	mine, problem := s.covers(strings.TrimSuffix(c.Catalog.Name(int(i)), "."+s.Parts()[0]))
	return mine || problem != ""
}

// Stack is that of the Reader, for stacks whose name its scope covers. One that no Reader has is refused, as a Module is.
func (s *scoped) Stack(c *Checks, i int32) (x Stack, ok bool) {
	if stacker, can := s.Reader.(Stacker); can {
		x, ok = stacker.Stack(c, i)
	}
	if !ok {
		return x, false
	}
	mine, problem := s.covers(x.Name)
	if problem != "" {
		c.Fault(i, stages.CodeConfig, problem, "a weight that is not quantised", "one that is", "the config does not belong to these weights")
	}
	return x, mine || problem != ""
}

func (s *scoped) Module(m *Module, c *Checks) bool {
	if mine, problem := s.covers(m.Base); !mine {
		c.ModuleFault(m, stages.CodeConfig, problem, "a weight that is not quantised", "a ."+s.Parts()[0]+" that is",
			"the config does not belong to these weights")
		return false
	}
	return s.Reader.Module(m, c)
}

func (s *scoped) Left(c *Checks, i int32) Leftover {
	for _, p := range s.Parts() {
		base, ok := strings.CutSuffix(c.Catalog.Name(int(i)), "."+p)
		if !ok {
			continue
		}
		if mine, problem := s.covers(base); !mine && problem == "" {
			return LeftoverOther
		}
	}
	return left(s.Reader, c, i)
}

// picks reports whether a tensor with the name of a Reader's first part marks one of its Modules.
func picks(r Reader, c *Checks, i int32) bool {
	p, ok := r.(Picker)
	return !ok || p.Picks(c, i)
}

// leftScale is what a scale is that no Module took, of parts by these names: it means nothing beside a dense weight, and else lacks its weight.
func leftScale(c *Checks, i int32, parts ...string) Leftover {
	for _, part := range parts {
		base, ok := strings.CutSuffix(c.Catalog.Name(int(i)), "."+part)
		if !ok {
			continue
		}
		if _, dense := c.Catalog.Lookup(base + ".weight"); dense {
			return LeftoverMeaningless
		}
		c.Fault(i, stages.CodeMember, "belongs to a quantised module whose .weight is missing", base+".weight", "",
			"the checkpoint is incomplete: get it again")
		return LeftoverFaulty
	}
	return LeftoverOther
}

// left is what a tensor that no Module took is to a Reader: to one that does not say so itself, those are faulty that only a quantised
// Module has, and whose Module has not the one that marks it. A bias needs none: dense layers have biases too.
func left(r Reader, c *Checks, i int32) Leftover {
	if p, ok := r.(Picker); ok {
		return p.Left(c, i)
	}
	parts := r.Parts()
	name := c.Catalog.Name(int(i))
	for _, p := range parts[1:] {
		if p == "bias" || !strings.HasSuffix(name, "."+p) {
			continue
		}
		c.Fault(i, stages.CodeMember, "belongs to a quantised module whose ."+parts[0]+" is missing",
			strings.TrimSuffix(name, p)+parts[0], "", "the checkpoint is incomplete: get it again")
		return LeftoverFaulty
	}
	return LeftoverOther
}
