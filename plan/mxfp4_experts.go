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

// mxfp4ExpertParts are the suffixes of a Module's tensors.
var mxfp4ExpertParts = mxfp4Raw{"weight", "scale", "bias"}

func (*mxfp4ExpertReader) Parts() []string { return mxfp4ExpertParts[:] }

// Picks reports whether a .weight is of packed codes: bytes beside a scale.
func (*mxfp4ExpertReader) Picks(c *Checks, i int32) bool {
	d := c.Catalog.DType(int(i))
	name := c.Catalog.Name(int(i))
	_, scale := c.Catalog.Lookup(name[:len(name)-len(mxfp4ExpertParts[mxfp4Codes])] + mxfp4ExpertParts[mxfp4Scales])
	return scale && (d == safetensors.I8 || d == safetensors.U8)
}

// Left leaves scales without a weight to the Reader of the FP8 weights, which have the same name.
func (*mxfp4ExpertReader) Left(*Checks, int32) Leftover { return LeftoverOther }

func (r *mxfp4ExpertReader) Module(m *Module, c *Checks) bool {
	return mxfp4Matrix(m, c, mxfp4ExpertParts, r.where, safetensors.I8)
}

// Compile adds the Outputs for the layout asked for.
func (*mxfp4ExpertReader) Compile(g *Group, b *Builder) string { return compileMXFP4(g, b) }
