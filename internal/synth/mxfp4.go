package synth

import (
	"github.com/coldload/coldload/safetensors"
)

// The formats of MXFP4: 4-bit floating-point codes that share an exponent in groups of 32.
const (
	FormatMXFP4     Format = "mxfp4"            // gpt-oss: the experts of a layer in blocks and scales, everything else BF16
	FormatMXFP4Pack Format = "mxfp4-compressed" // mxfp4-pack-quantized of compressed-tensors: every linear layer by itself
)

// mxfp4Group is how many input features share a scale.
const mxfp4Group = 32

// mxfp4Config is the quantization_config of gpt-oss.
func mxfp4Config() map[string]any {
	return map[string]any{
		"quant_method":           "mxfp4",
		"modules_to_not_convert": []string{"model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"},
	}
}

// joinedExperts adds the experts of a layer as tensors that hold all of them: BF16, input features first, or in MXFP4, output features first.
// Gate and up are interleaved.
func (l *lister) joinedExperts(p string) {
	e := l.m.MoE
	for _, m := range []struct {
		name string
		n, k int
	}{{"gate_up_proj", 2 * e.Inner, l.m.Hidden}, {"down_proj", l.m.Hidden, e.Inner}} {
		experts, n, k := int64(e.Experts), int64(m.n), int64(m.k)
		if l.o.Format == FormatMXFP4 {
			l.add(p+m.name+"_blocks", safetensors.U8, []int64{experts, n, k / mxfp4Group, mxfp4Group / 2}, Random)
			l.add(p+m.name+"_scales", safetensors.U8, []int64{experts, n, k / mxfp4Group}, e8m0Scales)
		} else {
			l.add(p+m.name, safetensors.BF16, []int64{experts, k, n}, Random)
		}
		l.add(p+m.name+"_bias", safetensors.BF16, []int64{experts, n}, Random)
	}
}

// mxfp4Pack adds the tensors of a module of compressed-tensors.
func (l *lister) mxfp4Pack(base string, n, k int, bias bool) {
	l.add(base+".weight_packed", safetensors.U8, []int64{int64(n), int64(k) / 2}, Random)
	l.add(base+".weight_scale", safetensors.U8, []int64{int64(n), int64(k) / mxfp4Group}, e8m0Scales)
	if bias {
		l.add(base+".bias", safetensors.BF16, []int64{int64(n)}, Random)
	}
}

// mxfp4PackConfig has the keys that llm-compressor writes.
func (l *lister) mxfp4PackConfig() map[string]any {
	c := l.compressedConfig()
	c["format"] = "mxfp4-pack-quantized"
	c["config_groups"] = map[string]any{"group_0": map[string]any{
		"format": "mxfp4-pack-quantized", "input_activations": nil, "output_activations": nil, "targets": []string{"Linear"},
		"weights": map[string]any{
			"actorder": nil, "block_structure": nil, "dynamic": false, "group_size": mxfp4Group, "num_bits": 4, "observer": "minmax",
			"observer_kwargs": map[string]any{}, "scale_dtype": "torch.uint8", "strategy": "group", "symmetric": true, "type": "float", "zp_dtype": nil,
		},
	}}
	return c
}

// e8m0Scales are 2^-15 to 2^-8.
func e8m0Scales(_ safetensors.DType, seed uint64) Fill {
	return masked(seed, 0x0707070707070707, 0x7070707070707070)
}
