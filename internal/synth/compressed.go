package synth

import (
	"cmp"
	"encoding/binary"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/coldload/coldload/safetensors"
)

// compresses reports whether a linear layer is stored packed. What the model's maker left dense stays so.
func (l *lister) compresses(base string, n, k int) bool {
	if l.ignore == nil && len(l.m.Ignore) > 0 {
		patterns := make([]string, len(l.m.Ignore))
		for i, p := range l.m.Ignore {
			patterns[i] = "(?:" + strings.TrimPrefix(p, "re:") + ")"
		}
		l.ignore = regexp.MustCompile("^(?:" + strings.Join(patterns, "|") + ")")
	}
	return l.packs(n, k) && (l.ignore == nil || !l.ignore.MatchString(base))
}

// compressed adds the tensors of a module in format pack-quantized of compressed-tensors, with BF16 scales.
func (l *lister) compressed(base string, n, k int, bias bool, input string) {
	group, first := l.o.Group, len(l.specs)
	if group < 0 {
		group = k
	}
	rows, cols := int64(n), int64(k)
	shape := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, uint64(n)), uint64(k))
	l.add(base+".weight_packed", safetensors.I32, []int64{rows, cols * int64(l.o.Bits) / 32}, Random)
	l.add(base+".weight_scale", safetensors.BF16, []int64{rows, cols / int64(group)}, func(_ safetensors.DType, seed uint64) Fill { return bf16Scales(seed) })
	l.add(base+".weight_shape", safetensors.I64, []int64{2}, func(safetensors.DType, uint64) Fill { return Constant(shape...) })
	if l.o.Asym {
		l.add(base+".weight_zero_point", safetensors.I32, []int64{rows * int64(l.o.Bits) / 32, cols / int64(group)}, Random)
	}
	if l.o.DescAct { // the tool writes it of one group, too
		l.add(base+".weight_g_idx", safetensors.I32, []int64{cols}, func(safetensors.DType, uint64) Fill {
			return orderFill{seed: tensorSeed(l.o.Seed, input), rows: cols, group: int64(group)}
		})
	}
	if bias {
		l.add(base+".bias", safetensors.BF16, []int64{rows}, Random)
	}
	for i := first; i < len(l.specs); i++ {
		l.specs[i].quantised = true
	}
}

// bf16Scales are positive BF16 values in [2^-7, 2^-6).
func bf16Scales(seed uint64) Fill { return masked(seed, 0x007F007F007F007F, 0x3C003C003C003C00) }

// compressedConfig has the keys that llm-compressor writes.
func (l *lister) compressedConfig() map[string]any {
	ignore := append([]string{cmp.Or(l.m.Head, "lm_head")}, l.m.Ignore...)
	if e := l.m.MoE; e != nil {
		ignore = append(ignore, `re:.*\.`+e.Block+`\.`+cmp.Or(e.Router, "gate")+`$`)
	}
	for _, pattern := range slices.Sorted(maps.Keys(l.dense)) {
		ignore = append(ignore, "re:"+pattern)
	}
	weights := map[string]any{
		"actorder": nil, "block_structure": nil, "dynamic": false, "group_size": l.o.Group, "num_bits": l.o.Bits, "observer": "minmax",
		"observer_kwargs": map[string]any{}, "strategy": "group", "symmetric": !l.o.Asym, "type": "int",
	}
	if l.o.DescAct {
		weights["actorder"] = "group"
	}
	if l.o.Group < 0 {
		weights["strategy"], weights["group_size"] = "channel", nil
	}
	return map[string]any{
		"config_groups": map[string]any{"group_0": map[string]any{
			"format": "pack-quantized", "input_activations": nil, "output_activations": nil, "targets": []string{"Linear"}, "weights": weights,
		}},
		"format": "pack-quantized", "global_compression_ratio": nil, "ignore": ignore, "kv_cache_scheme": nil,
		"quant_method": "compressed-tensors", "quantization_status": "compressed", "sparsity_config": map[string]any{},
		"transform_config": map[string]any{}, "version": "0.20.0",
	}
}
