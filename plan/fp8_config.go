package plan

import (
	"slices"
	"strings"

	"github.com/coldload/coldload/stages"
)

// The keys of FP8 that say how weights are stored, and those of its writers (DeepSeek, transformers, AutoFP8, GPTQModel) that are about other things.
var (
	fp8Keys = []string{
		"quant_method", "method", "fmt", "checkpoint_format", "format", "scale_fmt", "activation_scheme", "expert_dtype", "weight_scale_semantics",
		"weight_block_size", "modules_to_not_convert", "ignored_layers",
	}
	fp8OverKeys = append([]string{
		"modules_to_convert", "dequantize", "kv_cache_scheme", "kv_cache_quant_targets", "kv_cache_dtype", "is_checkpoint_fp8_serialized", "ignore",
	}, gptqModelKeys...)
)

// fp8Native reads the config of DeepSeek, of transformers and of vLLM: blocks in weight_scale_inv, or one scale for every tensor in
// weight_scale.
func fp8Native(c *ConfigReader) fp8Scaling {
	for _, key := range []string{"fmt", "checkpoint_format", "format"} {
		switch v := c.Text("e4m3", key); v {
		case "e4m3", "float8_e4m3fn", "fp8":
		default:
			c.Unsupported(key, v, "e4m3")
		}
	}
	for key, known := range map[string][]string{
		"scale_fmt": {"float", "ue8m0"}, "activation_scheme": {"dynamic", "static"}, "expert_dtype": fp8ExpertDTypes(),
	} {
		if v := c.Text(known[0], key); !slices.Contains(known, v) {
			c.Unsupported(key, v, strings.Join(known, ", "))
		}
	}
	// GPTQModel's FP8 means by it that scales are divisors.
	if v := c.Text("", "weight_scale_semantics"); v != "" {
		c.Unsupported("weight_scale_semantics", v, "scales that multiply, as they do where the key is absent")
	}
	if !c.Has("weight_block_size") {
		return fp8Scaling{part: "weight_scale"}
	}
	return fp8Scaling{part: "weight_scale_inv", blocks: fp8BlockSize(c, "weight_block_size")}
}

// fp8ExpertFormat is how experts are stored that are narrower than the rest of an FP8 checkpoint, which says so by expert_dtype.
type fp8ExpertFormat struct {
	dtype string
	scale string // the name of scales in such checkpoints, those of FP8 weights too
	open  func(where string) Reader
}

// fp8ExpertFormats are those that are processed. A new one adds its file and a line here.
var fp8ExpertFormats = []fp8ExpertFormat{mxfp4Experts}

// fp8ExpertDTypes lists the values of expert_dtype, the default first.
func fp8ExpertDTypes() []string {
	list := []string{"fp8"}
	for _, f := range fp8ExpertFormats {
		list = append(list, f.dtype)
	}
	return list
}

// alternatives adds Readers for the other names that scales have: one scale of a tensor may have the name of blocks', where the config has no
// block size; and checkpoints with narrower experts have a name of their own.
func (r *fp8Reader) alternatives(c *ConfigReader) {
	if r.scaling.blocks == (stages.Blocks{}) {
		r.also = "weight_scale_inv"
	}
	dtype := c.Text("fp8", "expert_dtype")
	for _, f := range fp8ExpertFormats {
		if f.dtype == dtype {
			r.also = f.scale
			r.others = append(r.others, f.open(r.where))
		}
	}
	if r.also != "" {
		r.others = append(r.others, &fp8Reader{where: r.where, scaling: fp8Scaling{part: r.also, blocks: r.scaling.blocks}, strict: true})
	}
}

// mostBlock bounds the sides of a block: no layer has as many features.
const mostBlock = 1 << 30

// fp8BlockSize reads the two sides of a block.
func fp8BlockSize(c *ConfigReader, key string) stages.Blocks {
	v, ok, f := c.o.Ints(key)
	if f != nil {
		c.faults = append(c.faults, *f)
		return stages.Blocks{}
	}
	if !ok || len(v) != 2 || min(v[0], v[1]) <= 0 || max(v[0], v[1]) > mostBlock {
		c.Unknown(key, v, "two positive numbers, such as [128, 128]")
		return stages.Blocks{}
	}
	return stages.Blocks{Rows: v[0], Cols: v[1]}
}

// floatQuantized is the formats of compressed-tensors that store plain floating-point values: the first with quantised activations, which is
// nothing to the weights, the second without. The dtype of a weight says that it is quantised.
var floatQuantized = compressedFormat{names: []string{"float-quantized", "naive-quantized"}, open: floatOpen, evident: true}

func floatOpen(g *compressedGroup) Reader {
	return &fp8Reader{where: g.where, scaling: fp8Scaling{part: "weight_scale", blocks: fp8Strategy(g.weights)}}
}

// fp8Strategy reads how a group's weights are quantised.
func fp8Strategy(w *ConfigReader) (b stages.Blocks) {
	if bits, kind := w.Int(0, "num_bits"), w.Text("", "type"); bits != 8 || kind != "float" {
		w.Unsupported("weights", describeWeights(bits, kind), "8 bits, type float")
	}
	if !w.Bool(true, "symmetric") {
		w.Unsupported("symmetric", false, "true")
	}
	if w.Bool(false, "dynamic") {
		w.Unsupported("dynamic", true, "false, for weights")
	}
	switch strategy := w.Text("", "strategy"); strategy {
	case "tensor":
	case "channel":
		b.Rows = 1
	case "block":
		b = fp8BlockSize(w, "block_structure")
	case "group":
		if w.Int(0, "group_size") == 32 {
			strategy = "group of 32 values (MXFP8)"
		}
		w.Unsupported("strategy", strategy, "tensor, channel and block")
	default:
		w.Unsupported("strategy", strategy, "tensor, channel and block")
	}
	return b
}

// modelOptFP8 is ModelOpt's algorithm of one scale for every tensor. It has nothing to read: the algorithm's name says it all.
var modelOptFP8 = modelOptAlgorithm{name: "FP8", open: func(c *ConfigReader) Reader {
	return &fp8Reader{where: c.where, scaling: fp8Scaling{part: "weight_scale"}}
}}
