package plan

import (
	"cmp"
	"strings"

	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/decode"
)

// MethodPacked is the quantisation method that the config of a packed folder names.
const MethodPacked = "coldload"

// Packed is what the manifest of a packed folder says of it: its Outputs are the tensors of the Catalog, in their final form.
type Packed struct {
	Program string // version of the program that packed it
	// Layout, DType, NoFuse, NoPad and ActOrder are what was asked for when it was packed: nothing else can be had from it.
	Layout   stages.Layout
	DType    stages.DType
	NoFuse   bool
	NoPad    bool
	ActOrder bool
	// FP8Exponent likewise.
	FP8Exponent stages.Exponent
	// Output is what only the manifest says of the Output that is tensor i.
	Output func(i int) PackedOutput
	// Modules are the tensors of every module; see [ModuleTensors].
	Modules func() map[string][]int32
}

// PackedOutput is what a manifest says of an Output beyond what the header says.
type PackedOutput struct {
	Layout  stages.Layout
	Kind    stages.Kind
	Padding *stages.Padding // nil for none
}

// takePacked makes every Output of a packed folder as it is.
func (c *compiler) takePacked(p *Packed) {
	c.method = MethodPacked
	c.comparePacked(p)
	c.plan.Summary.Layout = p.Layout
	cat := c.in.Catalog
	c.plan.Outputs = make([]stages.Output, 0, cat.Len())
	c.plan.recipes = make([]recipe, 0, cat.Len())
	for i := range cat.Len() {
		c.takeOutput(i)
	}
	c.note("packed by coldload %s: the outputs are taken as they are", p.Program)
}

// takeOutput makes the Output that is tensor i.
func (c *compiler) takeOutput(i int) {
	cat := c.in.Catalog
	o := stages.Output{Name: cat.Name(i), DType: cat.DType(i), Shape: shapeOf(cat, i), Size: cat.Extent(i).Len}
	o.SlabBytes = slabOf(o.Size)
	p := c.in.Packed.Output(i)
	o.Layout, o.Kind, o.Padding = p.Layout, p.Kind, p.Padding
	c.add(o, single{op: decode.Copy(), tensor: int32(i), from: 1, to: 1})
}

// ModuleTensors lists the tensors of every module of a packed folder, by the module's name: what stands before the last dot.
func ModuleTensors(c Catalog) map[string][]int32 {
	all := map[string][]int32{}
	for i := range c.Len() {
		base, _ := cutLast(c.Name(i))
		all[base] = append(all[base], int32(i))
	}
	return all
}

// module lists the tensors of a module: NAME.*, or NAME_* as the raw experts of gpt-oss are called. Those of dense experts, which are NAME itself and
// maybe NAME_bias, are none of these.
func (p *Packed) module(c Catalog, name string) []int32 {
	all := p.Modules()
	if list := all[name]; len(list) > 0 {
		return list
	}
	if _, dense := c.Lookup(name); dense {
		return nil
	}
	scope, _ := cutLast(name)
	var list []int32
	for _, t := range all[scope] {
		if strings.HasPrefix(c.Name(int(t)), name+"_") {
			list = append(list, t)
		}
	}
	return list
}

// comparePacked refuses what a packed folder cannot give.
func (c *compiler) comparePacked(p *Packed) {
	refuse := func(option, expected, found string) {
		c.faults.add(stages.Fault{
			Code: stages.CodeLayout, Problem: "the folder was packed with another " + option + ", and what is packed is taken as it is",
			Expected: expected, Found: found, Advice: "leave the option out, or pack the original checkpoint with it",
		})
	}
	if c.opt.Layout != "" && c.opt.Layout != p.Layout {
		refuse("layout", string(p.Layout), string(c.opt.Layout))
	}
	if !keeps(c.opt.DType) && c.opt.DType != p.DType {
		expected := "keep"
		if !keeps(p.DType) {
			expected = p.DType.String()
		}
		refuse("dtype", expected, c.opt.DType.String())
	}
	if c.opt.NoFuse && !p.NoFuse {
		refuse("choice of fusion", "fused", "not fused")
	}
	if c.opt.NoPad && !p.NoPad {
		refuse("choice of padding", "padded", "not padded")
	}
	if c.opt.ActOrder && !p.ActOrder {
		refuse("order of input features", "that of the config", "act-order")
	}
	if c.opt.FP8Exponent != "" && c.opt.FP8Exponent != cmp.Or(p.FP8Exponent, stages.ExponentFused) {
		refuse("exponent of FP8 scales", string(cmp.Or(p.FP8Exponent, stages.ExponentFused)), string(c.opt.FP8Exponent))
	}
}
