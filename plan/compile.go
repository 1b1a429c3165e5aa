package plan

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/coldload/coldload/internal/convert"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/decode"
)

// compiler holds what is known while a Plan is made.
type compiler struct {
	in   Input
	opt  Options
	plan *Plan

	faults     faultList
	checks     Checks
	rules      rules
	formats    []Format
	method     string
	readers    []Reader // of the quantised Modules; none when there are none
	modules    []*Module
	views      *views    // in.Catalog
	stacks     []stacked // whose Modules are among modules
	owner      []int32   // per tensor: index into modules, or one of the marks below
	groups     []*Group  // in file order of their first tensor
	groupOf    []int32   // per module: index into groups, or -1
	names      map[string]struct{}
	fused      map[string]*Fused // by members and name
	kept       map[string]*Kept
	dropped    []recipe   // of Outputs that a rule does not want
	suffixes   []string   // of the Outputs of one Group
	added      int        // Outputs that were asked for, dropped ones too
	single     *Single    // of a Plan of one module, else nil
	denseStack denseStack // that is asked for
	inStacks   int        // Modules of stacks
	noted      []string   // formats of noteOnce
	prefix     string     // of its Outputs' names: its own
}

// Marks in compiler.owner.
const (
	ownerNone    = int32(-1)
	ownerIgnored = int32(-2)
	ownerBroken  = int32(-3) // part of a Module that is at fault
)

func newCompiler(in Input, opt Options) *compiler {
	if opt.Layout == "" && in.Packed == nil {
		opt.Layout = stages.LayoutMarlin
	}
	v := newViews(in.Catalog)
	in.Catalog = v
	c := &compiler{
		in: in, opt: opt, views: v, formats: slices.Concat(opt.Formats, formats),
		plan:  &Plan{catalog: v, Summary: Summary{Layout: opt.Layout, Tensors: in.Catalog.Len(), Shards: in.Catalog.Shards()}},
		names: map[string]struct{}{}, fused: map[string]*Fused{}, kept: map[string]*Kept{},
	}
	c.checks = Checks{Catalog: in.Catalog, Model: in.Model, ActOrder: opt.ActOrder, faults: &c.faults, views: v}
	c.rules = rulesFor(in.Model.ModelType, in.Model.TextModelType)
	return c
}

func (c *compiler) run() {
	c.owner = make([]int32, c.in.Catalog.Len())
	for i := range c.owner {
		c.owner[i] = ownerNone
	}
	if c.in.Packed != nil {
		c.takePacked(c.in.Packed)
	} else {
		c.recognise()
	}
	c.choose()
	c.describe()
	c.countSlabs()
	if len(c.faults.list) == 0 {
		c.plan.join = joinUnder(c.opt.Budget, c.opt.Staging != nil)
		c.plan.layOut(TargetBatch(c.opt.Budget))
		c.measure()
	}
	if c.faults.dropped > 0 {
		c.note("%d more faults are not listed", c.faults.dropped)
	}
	c.plan.Faults = c.faults.list
}

// recognise finds the Modules of the Checkpoint and compiles them.
func (c *compiler) recognise() {
	c.openFormat()
	c.noteLayers()
	c.ignore()
	c.findQuantised()
	c.findDense()
	c.group()
	c.compile()
	c.findUnused()
}

// mostSlabs bounds the list of Slabs, which takes memory for bytes that a sparse file only claims to have. They are 16 TiB.
const mostSlabs = 1 << 23

// countSlabs refuses what no machine could load.
func (c *compiler) countSlabs() {
	if n := c.plan.slabs(); n > mostSlabs {
		c.faults.add(stages.Fault{
			Code: stages.CodeUnsupported, Problem: "the checkpoint is larger than anything that this version loads",
			Expected: fmt.Sprintf("at most %d slabs of up to %d bytes", mostSlabs, mostSlab), Found: fmt.Sprint(n),
		})
	}
}

func (c *compiler) note(format string, args ...any) {
	c.plan.Notes = append(c.plan.Notes, fmt.Sprintf(format, args...))
}

// ignoredSuffixes are tensors that carry no weights: what their module computes again, and scratch memory of kernels. A model may be such a
// module itself, and then its tensor has nothing before the suffix.
var ignoredSuffixes = []string{".rotary_emb.inv_freq", ".workspace"}

func (c *compiler) ignore() {
	for i := range c.owner {
		name := c.in.Catalog.Name(i)
		for _, s := range ignoredSuffixes {
			if strings.HasSuffix(name, s) || name == s[1:] {
				c.owner[i] = ownerIgnored
				c.plan.Summary.Ignored++
				c.plan.Summary.IgnoredIn += c.in.Catalog.Extent(i).Len
			}
		}
	}
	if n := c.plan.Summary.Ignored; n > 0 {
		c.note("%d tensors are ignored: they hold no weights (%s)", n, strings.Join(ignoredSuffixes, ", "))
	}
}

// findQuantised makes the Modules of the checkpoint's quantisation format, or formats.
func (c *compiler) findQuantised() {
	for r := range c.readers {
		c.findStacks(int32(r))
	}
	for i := range c.owner {
		if c.owner[i] != ownerNone {
			continue
		}
		if base, r := c.marked(int32(i)); r != none {
			c.addModule(base, r)
			c.noteUnsure(base, c.readers[r])
		}
	}
	c.findLeftovers()
	c.findUnannounced()
}

// noteUnsure notes the first Module of which the config may be read to say that it is not quantised.
func (c *compiler) noteUnsure(base string, r Reader) {
	s, ok := r.(*scoped)
	if !ok || s.unsure == nil {
		return
	}
	if text := s.unsure(base); text != "" {
		c.noteOnce("%s: entries are taken for whole components of names, and the tensors decide", text)
	}
}

// marked is the Module that a tensor marks, and its Reader; none when it marks none.
func (c *compiler) marked(i int32) (base string, reader int32) {
	name := c.in.Catalog.Name(int(i))
	for r, reader := range c.readers {
		if base, ok := strings.CutSuffix(name, "."+reader.Parts()[0]); ok && picks(reader, &c.checks, i) {
			return base, int32(r)
		}
	}
	return "", none
}

// findLeftovers has the Readers look at the tensors that no Module took.
func (c *compiler) findLeftovers() {
	meaningless := 0
	for i := range c.owner {
		if c.owner[i] != ownerNone {
			continue
		}
		switch c.left(int32(i)) {
		case LeftoverOther:
		case LeftoverFaulty:
			c.owner[i] = ownerBroken
		case LeftoverMeaningless:
			c.owner[i] = ownerIgnored
			c.plan.Summary.Ignored++
			c.plan.Summary.IgnoredIn += c.in.Catalog.Extent(i).Len
			meaningless++
		}
	}
	if meaningless > 0 {
		c.note("%d scales are ignored: the weights beside them are not quantised", meaningless)
	}
}

// left is what a tensor is to the first Reader to which it is something.
func (c *compiler) left(i int32) Leftover {
	for _, r := range c.readers {
		if what := left(r, &c.checks, i); what != LeftoverOther {
			return what
		}
	}
	return LeftoverOther
}

// The readers of Modules that are not quantised.
const (
	isDense      = int32(-2)
	isDenseStack = int32(-3) // of those that lie in a tensor of all experts
)

// addModule collects the tensors of a Module and has its Reader, an index into readers or isDense, check them.
func (c *compiler) addModule(base string, reader int32) {
	m := &Module{Base: base, reader: reader}
	r := c.readerOf(m)
	parts := r.Parts()
	m.Tensors = make([]int32, len(parts))
	for p, suffix := range parts {
		m.Tensors[p] = none
		if t, ok := c.in.Catalog.Lookup(base + "." + suffix); ok {
			m.Tensors[p] = int32(t)
		}
	}
	m.ok = c.understand(m, r)
	c.own(m, int32(len(c.modules)))
	c.modules = append(c.modules, m)
}

// readerOf is the Reader of a Module.
func (c *compiler) readerOf(m *Module) Reader { return c.readerAt(m.reader) }

// readerAt is the Reader of an index.
func (c *compiler) readerAt(reader int32) Reader {
	switch reader {
	case isDense:
		return dense{}
	case isDenseStack:
		return c.denseStack
	}
	return c.readers[reader]
}

// findDense makes Modules of the dense layers whose names fuse or stack. All other dense tensors are kept one by one.
func (c *compiler) findDense() {
	c.checkDenseStacks()
	for i := range c.owner {
		if c.owner[i] != ownerNone {
			continue
		}
		base, ok := strings.CutSuffix(c.in.Catalog.Name(i), ".weight")
		if !ok {
			continue
		}
		if _, ok := c.rules.locate(base); ok || c.rules.misnumbered(base) && !c.opt.NoFuse {
			c.addModule(base, isDense)
		}
	}
}

// compile makes the Outputs, in file order of the first tensor of each.
func (c *compiler) compile() {
	c.makeRoom()
	done := make([]bool, len(c.groups))
	for i, o := range c.owner {
		switch {
		case o == ownerNone:
			c.keep(int32(i))
		case o < 0:
		default:
			g := c.groupOf[o]
			if g >= 0 && !done[g] {
				done[g] = true
				c.compileGroup(c.groups[g])
			}
		}
	}
	c.plan.Summary.Modules, c.plan.Summary.Groups = len(c.modules), len(c.groups)
}

// makeRoom allocates the Outputs once: there can be half a million, and growing would hold them twice.
func (c *compiler) makeRoom() {
	const perGroup = 5 // a Module's tensors, about
	n := perGroup * len(c.groups)
	for _, o := range c.owner {
		if o == ownerNone {
			n++
		}
	}
	c.plan.Outputs = make([]stages.Output, 0, n)
	c.plan.recipes = make([]recipe, 0, n)
}

// compileGroup asks the Group's format for its Outputs, and for raw ones when the layout cannot hold it.
func (c *compiler) compileGroup(g *Group) {
	r := c.readerOf(g.First())
	b := &Builder{c: c, group: g, layout: c.opt.Layout, suffixes: c.suffixes[:0]}
	defer func() { c.suffixes = b.suffixes }() // one list serves all Groups
	reason := c.compiled(r, b)
	if reason == "" {
		return
	}
	k := c.kept[reason]
	if k == nil {
		k = &Kept{Reason: reason, Example: g.Name}
		c.kept[reason] = k
	}
	k.Groups++
	if c.opt.Strict {
		c.checks.ModuleFault(g.First(), stages.CodeLayout, "the "+string(c.opt.Layout)+" layout cannot hold it: "+reason, "", "",
			"load it without --strict to keep it raw")
		return
	}
	b.layout = stages.LayoutRaw
	if again := c.compiled(r, b); again != "" {
		c.checks.ModuleFault(g.First(), stages.CodeLayout, again, "", "", "")
	}
}

// keep makes the Output of a tensor that is part of no Group.
func (c *compiler) keep(t int32) {
	cat := c.in.Catalog
	from := cat.DType(int(t))
	to, op, err := castTo(from, c.opt.DType)
	if err != nil {
		c.checks.Fault(t, stages.CodeUnsupported, err.Error(), "", from.String(), "use --dtype keep")
		return
	}
	o := stages.Output{
		Name: cat.Name(int(t)), DType: to, Shape: shapeOf(cat, int(t)), Layout: stages.LayoutRaw, Kind: stages.KindKept,
		Size: cat.Extent(int(t)).Len,
	}
	r := single{op: op, tensor: t, from: 1, to: 1}
	if from != to {
		o.Kind = stages.KindCast
		r.from, r.to = uint8(elementBytes(from)), uint8(elementBytes(to))
		size, ok := castSize(o.Size, from, to)
		if !ok {
			c.checks.Fault(t, stages.CodeShape, "too large to cast to "+to.String(), "", "", "use --dtype keep")
			return
		}
		o.Size = size
	}
	o.SlabBytes = slabOf(o.Size)
	c.add(o, r)
}

// castTo is the dtype of an Output made from a tensor of dtype from when want is asked for, and the Op that makes it. Only
// floating-point tensors are cast.
func castTo(from, want stages.DType) (to stages.DType, op stages.Op, err error) {
	if keeps(want) || from == want || !convert.Supported(from, want) {
		return from, decode.Copy(), nil
	}
	op, err = decode.Cast(from, want)
	return want, op, err
}

// castSize is what n bytes of from take in to.
func castSize(n int64, from, to stages.DType) (int64, bool) {
	elements := n / elementBytes(from)
	size := elements * elementBytes(to)
	return size, size/elementBytes(to) == elements && size >= 0
}

// add appends an Output with its recipe. Two Outputs of one name would overwrite each other: that is a fault.
func (c *compiler) add(o stages.Output, r recipe) {
	c.added++
	name := o.Name
	o, r, ok := c.rewrite(o, r)
	if !ok {
		return
	}
	if c.single != nil {
		if o.Padding != nil {
			c.single.Padding = o.Padding
		}
		suffix := strings.TrimPrefix(strings.TrimPrefix(name, c.prefix), ".")
		c.single.Suffixes = append(c.single.Suffixes, suffix)
		c.single.Outputs[suffix] = o.Name
	}
	c.plan.Outputs = append(c.plan.Outputs, o)
	c.plan.recipes = append(c.plan.recipes, r)
}

// checkNames reports Outputs that share a name: a fused name that a tensor of the checkpoint already has, or that two Groups get. Names
// of tensors that are kept one by one are unique unless a rule renames them, so only those of Groups need to be looked up.
func (c *compiler) checkNames() {
	renamed := len(c.opt.Rules) > 0 // then any name may be any other's
	for i := range c.plan.Outputs {
		if _, one := c.plan.recipes[i].(single); one && !renamed {
			continue
		}
		o := &c.plan.Outputs[i]
		problem, advice := "", "the checkpoint holds both the fused and the separate weights: remove one"
		if t, exists := c.in.Catalog.Lookup(o.Name); exists && !renamed && c.owner != nil && c.owner[t] == ownerNone {
			problem = "would be made from its members, but the checkpoint has a tensor of that name"
		}
		if _, twice := c.names[o.Name]; twice {
			problem = "would be made twice, from different modules"
			if renamed {
				problem, advice = "two Outputs would have this name", "change the rule that renames"
			}
		}
		c.names[o.Name] = struct{}{}
		if problem != "" {
			c.faults.add(stages.Fault{
				Code: stages.CodeDuplicate, Tensor: o.Name, Problem: problem,
				Advice: advice,
			})
		}
	}
}

// describe fills in what the Plan says about itself.
func (c *compiler) describe() {
	c.checkNames()
	c.countDropped()
	s := &c.plan.Summary
	s.Format = c.method
	for i := range c.in.Catalog.Len() {
		s.BytesIn += c.in.Catalog.Extent(i).Len
	}
	c.sumOutputs()
	c.describeFamily()
}

// sumOutputs adds up what was made and what the layout cannot hold.
func (c *compiler) sumOutputs() {
	s := &c.plan.Summary
	for i := range c.plan.Outputs {
		s.BytesOut += c.plan.Outputs[i].Size
	}
	s.Padded = c.padded()
	for _, k := range c.kept {
		s.Kept = append(s.Kept, *k)
	}
	sort.Slice(s.Kept, func(i, j int) bool { return s.Kept[i].Reason < s.Kept[j].Reason })
	for _, f := range c.fused {
		s.Fused = append(s.Fused, *f)
	}
	sort.Slice(s.Fused, func(i, j int) bool {
		return s.Fused[i].Into+s.Fused[i].Members[0] < s.Fused[j].Into+s.Fused[j].Members[0]
	})
}

// padded counts the modules that were filled up, by their extents.
func (c *compiler) padded() []Padded {
	by, seen := map[stages.Padding]*Padded{}, map[string]bool{}
	for i := range c.plan.Outputs {
		o := &c.plan.Outputs[i]
		if o.Padding == nil {
			continue
		}
		module, _ := cutLast(o.Name)
		if seen[module] {
			continue
		}
		seen[module] = true
		p := by[*o.Padding]
		if p == nil {
			p = &Padded{Padding: *o.Padding, Example: module}
			by[*o.Padding] = p
		}
		p.Groups++
	}
	list := make([]Padded, 0, len(by))
	for _, p := range by {
		list = append(list, *p)
	}
	slices.SortFunc(list, func(a, b Padded) int { return strings.Compare(a.Example, b.Example) })
	return list
}

func (c *compiler) describeFamily() {
	model := c.in.Model.ModelType
	switch {
	case c.in.Packed != nil: // its names were made when it was packed
	case c.rules.known:
		c.plan.Summary.Family = c.rules.family.Name
	case len(c.fused) > 0 && model == "":
		c.note("no model_type: modules were fused and stacked by their names alone")
	case len(c.fused) > 0:
		c.note("model_type %q is not in the table of families: modules were fused and stacked by their names alone", model)
	case model == "":
		c.note("no model_type and no names that fuse: everything is loaded unfused")
	default:
		c.note("unknown family: model_type %q is not in the table and no names fuse; everything is loaded unfused", model)
	}
}

// measure builds every Batch once to know what it costs.
func (c *compiler) measure() {
	p, s := c.plan, &c.plan.Summary
	for b := range p.Batches() {
		staging, err := StagingOf(b, c.opt.Staging)
		if err != nil {
			c.faults.add(stages.Fault{Code: stages.CodeSink, Tensor: firstName(b), Problem: err.Error()})
			return
		}
		cost := b.Cost() + staging
		if b.Spare {
			s.Spare += b.InBytes
		} else {
			s.BytesRead += b.InBytes
			s.Parts += len(b.Parts)
		}
		if b.IsScan() && !b.Spare {
			s.Scanned += b.InBytes
		}
		if cost > s.LargestBatch {
			s.LargestBatch, s.LargestOut = cost, b.OutBytes
			s.LargestName = firstName(b)
		}
	}
	if c.opt.Budget > 0 && s.LargestBatch > c.opt.Budget {
		c.faults.add(stages.Fault{
			Code: stages.CodeBudget, Tensor: s.LargestName, Problem: "its Batch is larger than the budget",
			Expected: fmt.Sprintf("at most %d bytes", c.opt.Budget), Found: fmt.Sprintf("%d bytes", s.LargestBatch),
			Advice: fmt.Sprintf("use --budget %dMiB or more", (s.LargestBatch+1<<20-1)>>20),
		})
	}
}

// mostStaging bounds what a Sink may say that it holds for one Batch, in bytes: no machine has it, and sums of it do not overflow.
const mostStaging = 1 << 50

// StagingOf is what a Sink holds for a Batch by its own word; nil for one that holds nothing.
func StagingOf(b *stages.Batch, staging func(stages.Slab) int64) (n int64, err error) {
	if staging == nil {
		return 0, nil
	}
	for _, s := range b.Slabs {
		one := staging(s)
		if one < 0 || one > mostStaging-n {
			return 0, fmt.Errorf("the sink's StagingBytes says %d for a slab of %d bytes", one, s.Len)
		}
		n += one
	}
	return n, nil
}
