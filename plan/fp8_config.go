package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/discover"
)

// fp8Formats are the configs that FP8 checkpoints have. Source: LAYOUTS A3, A4, A6.
var fp8Formats = []Format{
	fp8{name: "fp8", claims: isMethod("fp8"), scales: fp8Native},
	fp8{name: compressedMethod + " float-quantized", claims: isFloatQuantized, scales: fp8CompressedTensors},
	fp8{name: "modelopt FP8", claims: isModelOptFP8, scales: fp8ModelOpt},
}

func isMethod(name string) func(*discover.QuantConfig) bool {
	return func(q *discover.QuantConfig) bool { return q.Method == name }
}

// fp8Native reads the config of DeepSeek, of transformers and of vLLM: blocks in weight_scale_inv, or one scale for every tensor in
// weight_scale.
func fp8Native(c *ConfigReader, q *discover.QuantConfig) fp8Scaling {
	for _, key := range []string{"fmt", "checkpoint_format", "format"} {
		switch v := c.Text("e4m3", key); v {
		case "e4m3", "float8_e4m3fn", "fp8":
		default:
			c.Unsupported(key, v, "e4m3")
		}
	}
	for key, known := range map[string][]string{
		"scale_fmt": {"float", "ue8m0"}, "activation_scheme": {"dynamic", "static"}, "expert_dtype": {"fp8"},
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
	return fp8Scaling{part: "weight_scale_inv", blocks: fp8BlockSize(c, q.Object, "weight_block_size")}
}

// mostBlock bounds the sides of a block: no layer has as many features.
const mostBlock = 1 << 30

// fp8BlockSize reads the two sides of a block.
func fp8BlockSize(c *ConfigReader, o *discover.Object, key string) stages.Blocks {
	v, ok, f := o.Ints(key)
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

// isFloatQuantized reports whether compressed-tensors stores plain floating-point values.
func isFloatQuantized(q *discover.QuantConfig) bool {
	format, _, _ := q.Text("format")
	return q.Method == compressedMethod && (format == "float-quantized" || format == "naive-quantized")
}

// fp8CompressedTensors reads the config of llm-compressor: one group of Modules, quantised to 8-bit floating-point weights.
func fp8CompressedTensors(c *ConfigReader, q *discover.QuantConfig) (s fp8Scaling) {
	s.part = "weight_scale"
	for _, key := range []string{"sparsity_config", "transform_config"} {
		o, ok, _ := q.Object.Object(key)
		if !ok || len(o.Members()) == 0 {
			continue
		}
		if format, _, _ := o.Text("format"); key == "sparsity_config" && format == "dense" {
			continue
		}
		c.Unsupported(key, "of a checkpoint of FP8 weights", "checkpoints without one")
	}
	groups, ok, f := q.Object.Object("config_groups")
	if f != nil || !ok || len(groups.Members()) != 1 {
		n := 0
		if ok {
			n = len(groups.Members())
		}
		c.Unsupported("config_groups", fmt.Sprintf("of %d groups", n), "one group for all FP8 weights")
		return s
	}
	group, ok, f := groups.Object(groups.Members()[0].Key)
	if f != nil || !ok {
		c.Unknown("config_groups", groups.Members()[0].Key, "a group that is an object")
		return s
	}
	whole, _, _ := q.Text("format")
	if own, ok, _ := group.Text("format"); ok && own != whole {
		c.Unsupported("format", own+" of a group", whole+", as the whole checkpoint has it")
	}
	weights, ok, f := group.Object("weights")
	if f != nil || !ok {
		c.Unknown("weights", "nothing", "an object that says how the weights are quantised")
		return s
	}
	w := NewConfigReader(weights, q.Where)
	s.blocks = fp8Strategy(w, weights)
	c.faults = append(c.faults, w.Faults()...)
	return s
}

// fp8Strategy reads how a group's weights are quantised.
func fp8Strategy(w *ConfigReader, o *discover.Object) (b stages.Blocks) {
	if bits, kind := w.Int(0, "num_bits"), w.Text("", "type"); bits != 8 || kind != "float" {
		w.Unsupported("weights", fmt.Sprintf("of %d bits, type %q,", bits, kind), "8 bits, type float")
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
		b = fp8BlockSize(w, o, "block_structure")
	default:
		w.Unsupported("strategy", strategy, "tensor, channel and block")
	}
	return b
}

// isModelOptFP8 reports whether ModelOpt quantised to FP8 with a scale for every tensor.
func isModelOptFP8(q *discover.QuantConfig) bool {
	algo, _, _ := q.Text("quant_algo")
	return q.Method == "modelopt" && algo == "FP8"
}

// fp8ModelOpt has nothing to read: the algorithm's name says it all.
func fp8ModelOpt(*ConfigReader, *discover.QuantConfig) fp8Scaling {
	return fp8Scaling{part: "weight_scale"}
}
