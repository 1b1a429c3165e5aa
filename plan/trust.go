package plan

import (
	"fmt"
	"reflect"
	"slices"

	"github.com/coldload/coldload/stages"
)

// A Format may be a user's own. What it gets wrong must not lose a tensor in silence: each promise that the Plan rests on is checked here.

const formatAdvice = "correct the format"

// formatOf names the format of a Module.
func (c *compiler) formatOf(m *Module) string {
	if m.reader < 0 {
		return "dense"
	}
	return c.method
}

// formatFault reports what the format of a Module has done wrong.
func (c *compiler) formatFault(m *Module, code stages.Code, problem, expected, found string) {
	c.checks.ModuleFault(m, code, "format "+c.formatOf(m)+" "+problem, expected, found, formatAdvice)
}

// understand has the format look at a Module, and reports whether the Module can be used.
func (c *compiler) understand(m *Module, r Reader) bool {
	before := c.faults.count()
	ok := r.Module(m, &c.checks)
	switch {
	case !ok && c.faults.count() == before:
		c.formatFault(m, stages.CodeUnsupported, "says that the module is unusable, and not why", "", "")
	case !ok:
	case m.K < 0 || m.N < 0:
		c.formatFault(m, stages.CodeShape, "gives the module an impossible shape", "", fmt.Sprintf("%d input, %d output features", m.K, m.N))
		return false
	case m.Spec != nil && !reflect.ValueOf(m.Spec).Comparable():
		c.formatFault(m, stages.CodeUnsupported, "gives the module a Spec that cannot be compared", "a comparable type", fmt.Sprintf("%T", m.Spec))
		return false
	}
	return ok
}

// compiled has the format compile the Builder's Group. Nothing, without a reason and without a fault, is a fault.
func (c *compiler) compiled(r Reader, b *Builder) (reason string) {
	faults, added := c.faults.count(), c.added
	reason = r.Compile(b.group, b)
	if reason == "" && c.faults.count() == faults && c.added == added {
		c.formatFault(b.group.First(), stages.CodeUnsupported, "makes no output of the module "+b.group.Name+", and gives no reason", "", "")
	}
	return reason
}

// findUnused reports the tensors of Modules that no Output needs: every tensor is used or listed as ignored. Those outside of Modules are
// kept one by one.
func (c *compiler) findUnused() {
	if c.faults.count() > 0 {
		return // what is at fault makes nothing
	}
	used := make([]uint64, (c.in.Catalog.Len()+len(c.views.list)+63)/64)
	mark := func(t int32) { used[t/64] |= 1 << (t % 64) }
	for _, r := range c.plan.recipes {
		if _, one := r.(single); !one {
			eachTensor(r, mark)
		}
	}
	for _, r := range c.dropped {
		eachTensor(r, mark)
	}
	for _, m := range c.modules {
		for _, t := range m.Tensors {
			if t != none && used[t/64]&(1<<(t%64)) == 0 && (c.owner == nil || c.owner[c.views.real(t)] >= 0) {
				c.checks.Fault(t, stages.CodeExtra, "format "+c.formatOf(m)+" makes nothing of this tensor of the module "+m.Base, "", "", formatAdvice)
			}
		}
	}
}

// runs reports whether a load can run the Ops that the format gave.
func (b *Builder) runs(suffix string, op stages.Op, checks []Check) bool {
	ok := b.runsOne(suffix, op)
	for i := 0; ok && i < len(checks); i++ {
		ok = b.runsOne(suffix, checks[i].Op)
	}
	return ok
}

func (b *Builder) runsOne(suffix string, op stages.Op) bool {
	found := "nil"
	if op != nil {
		p := op.Phase()
		if p == stages.PhaseDecode || p == stages.PhaseFuse || p == stages.PhaseRepack {
			return true
		}
		found = fmt.Sprintf("%s of phase %s", op, p)
	}
	b.c.formatFault(b.group.First(), stages.CodeUnsupported, "makes ."+suffix+" with an Op that no stage runs", "an Op of phase decode, fuse or repack", found)
	return false
}

// unique reports whether the Group has no other Output of that name.
func (b *Builder) unique(suffix string) bool {
	if slices.Contains(b.suffixes, suffix) {
		b.c.formatFault(b.group.First(), stages.CodeDuplicate, "makes two Outputs of the name "+b.group.Name+"."+suffix, "", "")
		return false
	}
	b.suffixes = append(b.suffixes, suffix)
	return true
}

// holds reports whether the tensors have the bytes that a grid reads of them.
func (b *Builder) holds(suffix string, r *grid) bool {
	for i, t := range r.tensors {
		m := b.group.Modules[i/len(r.columns)*len(b.group.Members)+i%len(r.columns)]
		col := r.columns[i%len(r.columns)]
		if t == none {
			b.c.formatFault(m, stages.CodeMember, "makes ."+suffix+" of a tensor that the module has not", "", "")
			return false
		}
		size := b.c.in.Catalog.Extent(int(t)).Len
		if r.rows < 0 || col.src < 0 || col.width < 0 || col.src > 0 && r.rows > size/col.src && !r.joined {
			b.c.formatFault(m, stages.CodeShape, "makes ."+suffix+" of bytes that the tensor "+b.c.in.Catalog.Name(int(t))+" has not", fmt.Sprintf("at most %d bytes", size),
				fmt.Sprintf("%d rows of %d bytes", r.rows, col.src))
			return false
		}
		if r.joined && (col.src == 0 || r.rows < (size+col.src-1)/col.src) {
			b.c.formatFault(m, stages.CodeShape, "makes ."+suffix+" of less than the tensor "+b.c.in.Catalog.Name(int(t))+" has", fmt.Sprintf("%d bytes", size),
				fmt.Sprintf("%d rows of %d bytes", r.rows, col.src))
			return false
		}
	}
	return true
}
