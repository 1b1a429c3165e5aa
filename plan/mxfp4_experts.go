package plan

import (
	"github.com/coldload/coldload/safetensors"
)

// mxfp4Experts are MXFP4 experts of an FP8 checkpoint, one by one: DeepSeek-V4's. Source: LAYOUTS B.
var mxfp4Experts = fp8ExpertFormat{dtype: "fp4", scale: "scale", open: func(where string) Reader { return &mxfp4ExpertReader{where: where} }}

// mxfp4ExpertReader reads the Modules of such experts: their codes have a dtype that no other weight of the checkpoint has.
//
//	weight I8 [N, K/2]   scale F8_E8M0 or U8 [N, K/32]   bias [N], optional
type mxfp4ExpertReader struct{ where string }

// mxfp4ExpertNames are the suffixes of a Module's tensors, and of its Outputs.
var mxfp4ExpertNames = mxfp4Names{raw: [3]string{"weight", "scale", "bias"}, weight: "weight", bias: "bias"}

func (*mxfp4ExpertReader) Parts() []string { return mxfp4ExpertNames.raw[:] }

// Picks reports whether a .weight is of packed codes: bytes beside a scale.
func (*mxfp4ExpertReader) Picks(c *Checks, i int32) bool {
	d := c.Catalog.DType(int(i))
	name := c.Catalog.Name(int(i))
	_, scale := c.Catalog.Lookup(name[:len(name)-len(mxfp4ExpertNames.raw[mxfp4Codes])] + mxfp4ExpertNames.raw[mxfp4Scales])
	return scale && (d == safetensors.I8 || d == safetensors.U8)
}

// Left leaves scales without a weight to the Reader of the FP8 weights, which have the same name.
func (*mxfp4ExpertReader) Left(*Checks, int32) Leftover { return LeftoverOther }

func (r *mxfp4ExpertReader) Module(m *Module, c *Checks) bool {
	return mxfp4Matrix(m, c, mxfp4ExpertNames, r.where, safetensors.I8)
}

// Compile adds the Outputs for the layout asked for.
func (*mxfp4ExpertReader) Compile(g *Group, b *Builder) string { return compileMXFP4(g, b) }
