package synth

import "github.com/coldload/coldload/safetensors"

// The FP8 formats: F8_E4M3 weights with scales, as the tools that people use call them.
const (
	FormatFP8        Format = "fp8"         // blocks of 128 x 128, F32 weight_scale_inv: DeepSeek-V3 and transformers
	FormatFP8Tensor  Format = "fp8-tensor"  // one F32 weight_scale and one input_scale for every tensor: ModelOpt
	FormatFP8Channel Format = "fp8-channel" // one BF16 weight_scale for every output feature: compressed-tensors
)

// fp8Block is the side of a block that shares a scale.
const fp8Block = 128

// fp8Config is the quantization_config of the FP8 formats; nil for any other.
func fp8Config(f Format) map[string]any {
	switch f { //nolint:exhaustive // the others have none
	case FormatFP8:
		return map[string]any{
			"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": []int{fp8Block, fp8Block},
		}
	case FormatFP8Tensor:
		return map[string]any{"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": nil, "ignore": []string{"lm_head"}}
	case FormatFP8Channel:
		weights := map[string]any{
			"num_bits": 8, "type": "float", "symmetric": true, "strategy": "channel", "dynamic": false, "group_size": nil, "block_structure": nil,
		}
		return map[string]any{
			"quant_method": "compressed-tensors", "format": "float-quantized", "quantization_status": "compressed",
			"config_groups": map[string]any{"group_0": map[string]any{"targets": []string{"Linear"}, "weights": weights, "format": nil}},
			"ignore":        []string{"lm_head"}, "kv_cache_scheme": nil,
		}
	}
	return nil
}

// fp8 adds the tensors of a quantised module of n outputs and k inputs.
func (l *lister) fp8(base string, n, k int, bias bool) {
	l.add(base+".weight", safetensors.F8E4M3, []int64{int64(n), int64(k)}, Random)
	if bias {
		l.add(base+".bias", safetensors.BF16, []int64{int64(n)}, Random)
	}
	switch l.o.Format { //nolint:exhaustive // only these come here
	case FormatFP8:
		l.add(base+".weight_scale_inv", safetensors.F32, []int64{fp8Blocks(n), fp8Blocks(k)}, fp8Scales)
	case FormatFP8Tensor:
		l.add(base+".weight_scale", safetensors.F32, nil, fp8Scales)
		l.add(base+".input_scale", safetensors.F32, nil, fp8Scales)
	case FormatFP8Channel:
		l.add(base+".weight_scale", safetensors.BF16, []int64{int64(n), 1}, func(_ safetensors.DType, seed uint64) Fill {
			return masked(seed, 0x007F007F007F007F, 0x3A003A003A003A00)
		})
	}
}

// fp8Scales are F32 values from 2^-11 to 2^-10.
func fp8Scales(_ safetensors.DType, seed uint64) Fill {
	return masked(seed, 0x007FFFFF007FFFFF, 0x3A0000003A000000)
}

// fp8Blocks is the number of blocks along an axis, the last of which may end early.
func fp8Blocks(n int) int64 { return int64((n + fp8Block - 1) / fp8Block) }
