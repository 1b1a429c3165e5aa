package synth

import (
	"maps"
	"slices"

	"github.com/coldload/coldload/safetensors"
)

// The NVFP4 formats: FP4 codes with an F8_E4M3 scale for 16 of them and an F32 one for the tensor.
const (
	FormatNVFP4           Format = "nvfp4"            // ModelOpt, whose last scale multiplies
	FormatNVFP4Compressed Format = "nvfp4-compressed" // compressed-tensors, whose last scale divides
)

// nvfp4Group is how many codes share a scale.
const nvfp4Group = 16

// nvfp4 reports whether a Format is one of NVFP4.
func (f Format) nvfp4() bool { return f == FormatNVFP4 || f == FormatNVFP4Compressed }

// nvfp4 adds the tensors of a module of n outputs and k inputs. As the tools have it, the largest scale is about 448, and modules with the
// same input, which fuse, have the same scale of the tensor and the same scale of activations.
func (l *lister) nvfp4(base string, n, k int, bias bool, input string) {
	codes, global, activations, factor := "weight", "weight_scale_2", "input_scale", uint64(0x3A0000003A000000) // 2^-11 to 2^-10
	var one []int64
	if l.o.Format == FormatNVFP4Compressed {
		codes, global, activations, factor = "weight_packed", "weight_global_scale", "input_global_scale", 0x4400000044000000 // 2^9 to 2^10
		one = []int64{1}
	}
	rows, cols := int64(n), int64(k)
	shared := func(what string) func(safetensors.DType, uint64) Fill {
		return func(safetensors.DType, uint64) Fill {
			return masked(tensorSeed(l.o.Seed, input+what), 0x007FFFFF007FFFFF, factor)
		}
	}
	l.add(base+"."+codes, safetensors.U8, []int64{rows, cols / 2}, Random)
	l.add(base+".weight_scale", safetensors.F8E4M3, []int64{rows, cols / nvfp4Group}, func(_ safetensors.DType, seed uint64) Fill {
		return masked(seed, 0x1E1E1E1E1E1E1E1E, 0x6060606060606060) // 32 to 448
	})
	l.add(base+"."+global, safetensors.F32, one, shared("."+global))
	l.add(base+"."+activations, safetensors.F32, one, shared("."+activations))
	if bias {
		l.add(base+".bias", safetensors.BF16, []int64{rows}, Random)
	}
}

// nvfp4Config has the keys that the tools write.
func (l *lister) nvfp4Config() map[string]any {
	ignore := []string{"lm_head"}
	if l.o.Format == FormatNVFP4 {
		return map[string]any{
			"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": nvfp4Group, "kv_cache_quant_algo": nil, "ignore": ignore,
			"producer": map[string]any{"name": "modelopt", "version": "0.39.0"},
		}
	}
	for _, pattern := range slices.Sorted(maps.Keys(l.dense)) {
		ignore = append(ignore, "re:"+pattern)
	}
	four := func(dynamic any) map[string]any {
		return map[string]any{
			"actorder": nil, "block_structure": nil, "dynamic": dynamic, "group_size": nvfp4Group, "num_bits": 4, "observer": "minmax",
			"observer_kwargs": map[string]any{}, "scale_dtype": "torch.float8_e4m3fn", "strategy": "tensor_group", "symmetric": true, "type": "float", "zp_dtype": nil,
		}
	}
	const format = "nvfp4-pack-quantized"
	return map[string]any{
		"config_groups": map[string]any{"group_0": map[string]any{
			"format": format, "input_activations": four("local"), "output_activations": nil, "targets": []string{"Linear"}, "weights": four(false),
		}},
		"format": format, "global_compression_ratio": nil, "ignore": ignore, "kv_cache_scheme": nil, "quant_method": "compressed-tensors",
		"quantization_status": "compressed", "sparsity_config": map[string]any{}, "transform_config": map[string]any{}, "version": "0.20.0",
	}
}
