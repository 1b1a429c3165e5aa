package plan

import (
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/decode"
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
	codes := m.Tensors[mxfp4Codes]
	n, bytes, ok := shape2(c.Catalog, int(codes))
	if !ok || n <= 0 || bytes <= 0 || n > 1<<40 || bytes > 1<<40 || bytes%(decode.MXFP4Group/2) != 0 {
		c.Fault(codes, stages.CodeShape, "is no matrix of MXFP4 codes", "[out_features, in_features/2], in_features a multiple of 32",
			formatShape(shapeOf(c.Catalog, int(codes))), "the checkpoint is damaged, or "+r.where+" belongs to another one")
		return false
	}
	m.N, m.K = n, 2*bytes
	return mxfp4Module(m, c, mxfp4ExpertParts, false, "the checkpoint is incomplete, or "+r.where+" belongs to another one", safetensors.I8)
}

// Compile adds the Outputs for the layout asked for.
func (*mxfp4ExpertReader) Compile(g *Group, b *Builder) string { return compileMXFP4(g, b) }
