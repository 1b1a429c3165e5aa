package plan

import "github.com/coldload/coldload/stages/decode"

// ModelOpt's algorithms of NVFP4: with quantised activations, which is nothing to the weights, and without.
var (
	modelOptNVFP4      = modelOptAlgorithm{name: "NVFP4", open: nvfp4ModelOptOpen}
	modelOptWeightOnly = modelOptAlgorithm{name: "W4A16_NVFP4", open: nvfp4ModelOptOpen}
)

func nvfp4ModelOptOpen(c *ConfigReader) Reader {
	nvfp4Groups(c)
	return &nvfp4ModelOpt{nvfp4Reader{where: c.where, parts: nvfp4ModelOptParts}}
}

// nvfp4Groups refuses other groups than there are: their size is a part of the format.
func nvfp4Groups(c *ConfigReader) {
	if size := c.Int(decode.NVFP4Group, "group_size"); size != decode.NVFP4Group {
		c.Unsupported("group_size", size, "16")
	}
}

// nvfp4PackQuantized is the format of compressed-tensors, with quantised activations or without.
var nvfp4PackQuantized = compressedFormat{names: []string{"nvfp4-pack-quantized"}, open: nvfp4CompressedOpen}

func nvfp4CompressedOpen(g *compressedGroup) Reader {
	c := g.weights
	if bits, kind := c.Int(0, "num_bits"), c.Text("", "type"); bits != 4 || kind != "float" {
		c.Unsupported("weights", describeWeights(bits, kind), "4 bits, type float")
	}
	nvfp4Groups(c)
	if !c.Bool(true, "symmetric") {
		c.Unsupported("symmetric", false, "true")
	}
	if c.Has("dynamic") && c.Bool(true, "dynamic") {
		c.Unsupported("dynamic", true, "weights that were quantised once")
	}
	if strategy := c.Text("tensor_group", "strategy"); strategy != "tensor_group" {
		c.Unsupported("strategy", strategy, "tensor_group")
	}
	switch scales := c.Text("torch.float8_e4m3fn", "scale_dtype"); scales {
	case "torch.float8_e4m3fn", "float8_e4m3fn":
	default:
		c.Unsupported("scale_dtype", scales, "torch.float8_e4m3fn")
	}
	for _, key := range []string{"actorder", "block_structure"} {
		if c.Has(key) && (key != "actorder" || packActOrder(c)) {
			c.Unsupported(key, "of FP4 weights", "none")
		}
	}
	return &nvfp4Reader{where: g.where, parts: nvfp4CompressedParts, divisor: true}
}
