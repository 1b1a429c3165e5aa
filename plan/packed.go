package plan

import (
	"slices"
	"strings"

	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/decode"
)

// MethodPacked is the quantisation method that the config of a packed folder names.
const MethodPacked = "coldload"

// Packed is what the manifest of a packed folder says of it: its Outputs are the tensors of the Catalog, in their final form.
type Packed struct {
	Program string // version of the program that packed it
	// Layout, DType, NoFuse and ActOrder are what was asked for when it was packed: nothing else can be had from it.
	Layout   stages.Layout
	DType    stages.DType
	NoFuse   bool
	ActOrder bool
	Outputs  []stages.Output // sorted by name; one for each tensor of the Catalog, which agrees with it
}

// takePacked makes every Output of a packed folder as it is.
func (c *compiler) takePacked(p *Packed) {
	c.method = MethodPacked
	c.comparePacked(p)
	c.plan.Summary.Layout = p.Layout
	c.plan.Outputs = make([]stages.Output, 0, len(p.Outputs))
	c.plan.recipes = make([]recipe, 0, len(p.Outputs))
	for i := range c.owner {
		name := c.in.Catalog.Name(i)
		at, ok := slices.BinarySearchFunc(p.Outputs, name, func(o stages.Output, name string) int { return strings.Compare(o.Name, name) })
		if !ok {
			c.checks.Fault(int32(i), stages.CodeExtra, "is in the header and not in the manifest", "", "", "pack again")
			continue
		}
		c.takeOutput(p.Outputs[at], int32(i))
	}
	c.note("packed by coldload %s: the outputs are taken as they are", p.Program)
}

// takeOutput makes one of them from its tensor.
func (c *compiler) takeOutput(o stages.Output, tensor int32) {
	o.SlabBytes = slabOf(o.Size)
	c.add(o, single{op: decode.Copy(), tensor: tensor, from: 1, to: 1})
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
	if c.opt.ActOrder && !p.ActOrder {
		refuse("order of input features", "that of the config", "act-order")
	}
}

// packedWithoutManifest says that the config of a Checkpoint is that of a packed folder, and the manifest is not there.
func packedWithoutManifest(where string) stages.Fault {
	return stages.Fault{
		Code: stages.CodeMissing, File: where, Problem: "belongs to a folder that coldload packed, but the folder's manifest coldload.json is not there",
		Advice: "the folder is not complete: finish packing it, or bring the manifest",
	}
}
