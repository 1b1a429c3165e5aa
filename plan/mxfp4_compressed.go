package plan

import (
	"fmt"
	"strings"

	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/decode"
)

// mxfp4Quantized is the format of compressed-tensors for MXFP4: Kimi-K3's experts. Activations that are quantised while the model runs are
// nothing to the weights.
var mxfp4Quantized = compressedFormat{names: []string{"mxfp4-pack-quantized"}, open: mxfp4Open}

func mxfp4Open(g *compressedGroup) Reader {
	if activations, ok := g.object("input_activations"); ok {
		a := NewConfigReader(activations, g.where)
		if !a.Has("dynamic") || a.Text("", "dynamic") == "" && !a.Bool(false, "dynamic") {
			g.Unsupported("input_activations", "with scales of their own", "activations that are not quantised, or dynamic ones")
		}
	}
	w := g.weights
	w.Need("num_bits")
	if bits, kind := w.Int(4, "num_bits"), w.Text("float", "type"); bits != 4 || kind != "float" {
		w.Unsupported("weights", fmt.Sprintf("of %d bits, type %q,", bits, kind), "4 bits, type float")
	}
	if strategy := w.Text("group", "strategy"); strategy != "group" {
		w.Unsupported("strategy", strategy, "group")
	}
	if size := w.Int(decode.MXFP4Group, "group_size"); size != decode.MXFP4Group {
		w.Unsupported("group_size", size, fmt.Sprint(decode.MXFP4Group))
	}
	if !w.Bool(true, "symmetric") {
		w.Unsupported("symmetric", false, "true")
	}
	if w.Has("dynamic") && w.Bool(true, "dynamic") {
		w.Unsupported("dynamic", true, "weights that were quantised once")
	}
	for _, key := range []string{"actorder", "block_structure"} {
		if w.Has(key) {
			w.Unsupported(key, "of weights", "groups of neighbours")
		}
	}
	switch d := strings.TrimPrefix(w.Text("uint8", "scale_dtype"), "torch."); d {
	case "uint8", "float8_e8m0fnu":
	default:
		w.Unsupported("scale_dtype", d, "uint8 and float8_e8m0fnu, which hold exponents")
	}
	return &mxfp4PackReader{where: g.where}
}

// mxfp4PackReader reads the Modules of a config group.
//
//	weight_packed U8 [N, K/2]   weight_scale U8 or F8_E8M0 [N, K/32]   bias [N], optional
type mxfp4PackReader struct{ where string }

// mxfp4PackNames are the suffixes of a Module's tensors, and of its Outputs.
var mxfp4PackNames = mxfp4Names{raw: [3]string{"weight_packed", "weight_scale", "bias"}, weight: "weight", bias: "bias"}

func (*mxfp4PackReader) Parts() []string { return mxfp4PackNames.raw[:] }

func (r *mxfp4PackReader) Module(m *Module, c *Checks) bool {
	if _, ok := c.Catalog.Lookup(m.Base + ".weight"); ok {
		c.ModuleFault(m, stages.CodeMismatch, "has a quantised and a dense weight", ".weight_packed or .weight", "both", "remove one of them")
		return false
	}
	return mxfp4Matrix(m, c, mxfp4PackNames, r.where)
}

// Compile adds the Outputs for the layout asked for.
func (*mxfp4PackReader) Compile(g *Group, b *Builder) string { return compileMXFP4(g, b) }
