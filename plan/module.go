package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/discover"
)

// Format is a quantisation method: how its Modules are recognised and what they become. Each Format is one file of this package, or of
// a user's own.
type Format interface {
	// Name is the quant_method of the config: "gptq".
	Name() string
	// Open interprets the quantisation config of one checkpoint.
	Open(q *discover.QuantConfig) (Reader, []stages.Fault)
}

// Namer is implemented by a Format whose checkpoints name their tensors in a way of its own, whatever the model is.
type Namer interface {
	// Naming is the Family that takes the place of the model_type's, and what people should know about the names.
	Naming() (f Family, notes []string)
}

// Reader is a Format set up for one checkpoint. It is used by one goroutine.
type Reader interface {
	// Parts are the suffixes of the tensors that make a Module, without the dot. The first marks a Module; it must be there.
	Parts() []string
	// Module checks the tensors of m, sets m.K, m.N and m.Spec, and reports what is wrong. ok is false when the Module is unusable: it has
	// reported a fault then.
	Module(m *Module, c *Checks) (ok bool)
	// Compile adds the Outputs of a Group in the layout asked for, or says why that layout cannot hold it before it adds any. Every tensor
	// of every Module must be read by an Output or by a Check.
	Compile(g *Group, b *Builder) (reason string)
}

// Picker is implemented by a Reader to which the name of its first part is no sure sign of a Module: dense layers have a .weight too.
type Picker interface {
	// Picks reports whether tensor i, which has the name of a first part, marks a Module.
	Picks(c *Checks, i int32) bool
	// Left is asked about every tensor that no Module took. It reports a fault of one that is LeftoverFaulty.
	Left(c *Checks, i int32) Leftover
}

// Leftover is what a tensor is that no quantised Module took.
type Leftover uint8

// The leftovers.
const (
	LeftoverOther       Leftover = iota // none of the format's
	LeftoverMeaningless                 // beside a layer that is not quantised: it is ignored
	LeftoverFaulty                      // of something that is not there, or that the format does not process
)

// Spec is what the Modules of one Group must have in common beyond their shapes: bits, group size, flags, dtypes. Two Specs are compared
// with ==, so its type must be comparable. One with a method Differs(other Spec) (what, expected, found string) names the one thing in which
// another differs.
type Spec interface{ String() string }

// Module is the tensors that make one linear layer in one quantisation format.
type Module struct {
	Base    string  // name without the suffix: "model.layers.0.mlp.experts.3.gate_proj"
	Tensors []int32 // by the Format's Parts; -1 where there is none
	K, N    int64   // input and output features
	Spec    Spec
	reader  int32 // index into the compiler's readers, or isDense
	ok      bool
	stacked bool // the checkpoint holds it in tensors with those of all other experts
}

// InStack reports whether the checkpoint holds the Module in tensors with those of all other experts. Raw and dequantised Outputs of such Modules
// keep the names and the orientation of the checkpoint.
func (m *Module) InStack() bool { return m.stacked }

// Has reports whether the Module has a tensor for the part.
func (m *Module) Has(part int) bool { return m.Tensors[part] != none }

// Group is what becomes one module of the engine: one Module, or members that fuse, or the members of all experts of a layer.
type Group struct {
	Name    string    // of the Outputs, without suffix: "model.layers.0.mlp.experts.gate_up_proj"
	Experts int       // 0 when it is not stacked
	Members []string  // last name components of the members; one entry when nothing fuses
	Modules []*Module // expert by expert, members in order
	// Pair says that the one member of every expert is gate and up, joined in the checkpoint.
	Pair Pair
}

// Stacked reports whether the Outputs have a leading axis of experts.
func (g *Group) Stacked() bool { return g.Experts > 0 }

// First is the first Module, which stands for all in what they have in common.
func (g *Group) First() *Module { return g.Modules[0] }

// N is the sum of the members' output features.
func (g *Group) N() int64 {
	var n int64
	for _, m := range g.Modules[:len(g.Members)] {
		n += m.N
	}
	return n
}

// Checks collects faults while the tensors are looked at.
type Checks struct {
	Catalog  Catalog
	Model    *discover.ModelConfig
	ActOrder bool // Options.ActOrder
	faults   *faultList
	views    *views
}

// hasDType reports a tensor that has none of the dtypes.
func (c *Checks) hasDType(t int32, want []stages.DType) bool {
	d := c.Catalog.DType(int(t))
	if slices.Contains(want, d) {
		return true
	}
	names := make([]string, len(want))
	for i, d := range want {
		names[i] = d.String()
	}
	c.wrongDType(t, strings.Join(names, " or "))
	return false
}

// wrongDType reports a tensor of another dtype than those that want lists.
func (c *Checks) wrongDType(t int32, want string) {
	d, advice := c.Catalog.DType(int(t)), ""
	switch d { //nolint:exhaustive // nobody stores weights in the others
	case safetensors.F8E5M2, safetensors.F8E5M2FNUZ, safetensors.F8E4M3FNUZ:
		advice = "weights in " + d.String() + " would need kernels and a decoder of their own: use a release whose weights are F8_E4M3 or BF16"
	}
	c.Fault(t, stages.CodeShape, "has the wrong dtype", want, d.String(), advice)
}

// Find is the tensor of that name, for all experts that it holds; NoSlice when there is none.
func (c *Checks) Find(name string) Slice {
	if t, ok := c.Catalog.Lookup(name); ok {
		return Slice{Tensor: int32(t)}
	}
	return NoSlice
}

// View makes a virtual tensor of one expert's share of a tensor that holds those of all experts, for a Module whose part lies in one: its number
// is good for Module.Tensors and for the Catalog. A share that is not there is a fault, and ok is false.
func (c *Checks) View(s Slice, expert int64) (i int32, ok bool) {
	i, problem := c.views.add(s, expert)
	if problem != "" {
		c.sliceFault(s, problem)
	}
	return i, problem == ""
}

// sliceFault reports a Slice that cannot be had.
func (c *Checks) sliceFault(s Slice, problem string) {
	if s.Tensor < 0 || int(s.Tensor) >= c.Catalog.Len() {
		c.faults.add(stages.Fault{Code: stages.CodeUnsupported, Problem: fmt.Sprintf("a format asks for tensor %d, which is none", s.Tensor), Advice: formatAdvice})
		return
	}
	c.Fault(s.Tensor, stages.CodeShape, problem, "tensors of all experts, one after the other along the first axis",
		formatShape(shapeOf(c.Catalog, int(s.Tensor))), "")
}

// Fault reports one fault of tensor i, naming its file. Without advice it gets that of its Code.
func (c *Checks) Fault(i int32, code stages.Code, problem, expected, found, advice string) {
	advice = cmp.Or(advice, generalAdvice[code])
	c.faults.add(stages.Fault{
		Code: code, File: c.Catalog.ShardName(c.Catalog.Extent(int(i)).Shard), Tensor: c.Catalog.Name(int(i)),
		Problem: problem, Expected: expected, Found: found, Advice: advice,
	})
}

// generalAdvice is what to do about a fault of which nothing better is known.
var generalAdvice = map[stages.Code]string{
	stages.CodeShape:       "the checkpoint is damaged, or its config is that of another one: get both again",
	stages.CodeMember:      "the checkpoint is incomplete: get it again",
	stages.CodeMismatch:    "the checkpoint is damaged: get it again",
	stages.CodeConfig:      "give the checkpoint the config that its quantiser wrote",
	stages.CodeUnsupported: "use a release in a format that is supported",
}

// ModuleFault reports one fault of a Module as a whole. Without advice it gets that of its Code.
func (c *Checks) ModuleFault(m *Module, code stages.Code, problem, expected, found, advice string) {
	advice = cmp.Or(advice, generalAdvice[code])
	file := ""
	for _, t := range m.Tensors {
		if t != none {
			file = c.Catalog.ShardName(c.Catalog.Extent(int(t)).Shard)
			break
		}
	}
	c.faults.add(stages.Fault{Code: code, File: file, Tensor: m.Base, Problem: problem, Expected: expected, Found: found, Advice: advice})
}

// faultList keeps every fault up to a number that no reader wants to pass, so that a hostile checkpoint cannot fill the memory.
type faultList struct {
	list    []stages.Fault
	dropped int
}

const mostFaults = 10000

// count is how many faults were added.
func (l *faultList) count() int { return len(l.list) + l.dropped }

func (l *faultList) add(f ...stages.Fault) {
	for _, f := range f {
		if len(l.list) >= mostFaults {
			l.dropped++
			continue
		}
		l.list = append(l.list, f)
	}
}
