package coldload_test

import (
	"maps"
	"testing"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/convert"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// The configs of FP8 checkpoints.
var (
	fp8BlockConfig = map[string]any{"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": []int{128, 128}}
	fp8PlainConfig = map[string]any{"quant_method": "fp8", "activation_scheme": "static"}
	modelOptConfig = map[string]any{"quant_method": "modelopt", "quant_algo": "FP8"}
)

// floatQuantized is a config of compressed-tensors; weights overwrites what its one group says of the weights.
func floatQuantized(weights map[string]any) map[string]any {
	w := map[string]any{"num_bits": 8, "type": "float", "symmetric": true, "strategy": "channel", "dynamic": false}
	maps.Copy(w, weights)
	return map[string]any{
		"quant_method": "compressed-tensors", "format": "float-quantized",
		"config_groups": map[string]any{"group_0": map[string]any{"targets": []string{"Linear"}, "weights": w}},
	}
}

// changed is a config with other values; nil removes a key.
func changed(config map[string]any, key string, value any) map[string]any {
	c := maps.Clone(config)
	if c[key] = value; value == nil {
		delete(c, key)
	}
	return c
}

func fp8With(quant map[string]any, items ...ckpt.Item) func(b *ckpt.Builder) string {
	return only(func(b *ckpt.Builder) {
		b.Shard(single, items...)
		b.JSON("config.json", map[string]any{"model_type": "llama", "torch_dtype": "bfloat16", "quantization_config": quant})
	})
}

// f8 is a weight of 256 input features.
func f8(base string, n int64) ckpt.T {
	return ckpt.Dense(base+".weight", safetensors.F8E4M3, 1, n, 256)
}

// block is an FP8 module of 256 input features in blocks of 128 x 128 whose scales are all the same.
func block(base string, n int64, scale float32) ckpt.List {
	shape := []int64{(n + 127) / 128, 2}
	values := make([]float32, shape[0]*shape[1])
	for i := range values {
		values[i] = scale
	}
	return ckpt.List{f8(base, n), f32s(base+".weight_scale_inv", shape, values...)}
}

// perTensor is an FP8 module with one scale.
func perTensor(base string, n int64, scale float32) ckpt.List {
	return ckpt.List{f8(base, n), f32s(base+".weight_scale", nil, scale)}
}

func TestFP8ConfigFaults(t *testing.T) {
	c := func(name string, code stages.Code, quant map[string]any, says ...string) row {
		return row{name: name, code: code, says: append(says, "config.json"), build: fp8With(quant, block(oProj, 128, 1))}
	}
	own := floatQuantized(nil)
	own["config_groups"] = map[string]any{"group_0": map[string]any{
		"targets": []string{"Linear"}, "format": "marlin-24", "weights": map[string]any{"num_bits": 8},
	}}
	refuses(t, []row{
		c("fmt", stages.CodeUnsupported, changed(fp8BlockConfig, "fmt", "e5m2"), "fmt e5m2", "e4m3"),
		c("scale_fmt", stages.CodeUnsupported, changed(fp8BlockConfig, "scale_fmt", "e4m3"), "scale_fmt e4m3"),
		c("activation_scheme", stages.CodeUnsupported, changed(fp8BlockConfig, "activation_scheme", "odd"), "activation_scheme odd"),
		c("expert_dtype", stages.CodeUnsupported, changed(fp8BlockConfig, "expert_dtype", "int4"), "expert_dtype int4", "fp8, fp4"),
		c("divisors", stages.CodeUnsupported, changed(fp8BlockConfig, "weight_scale_semantics", "inverse"), "weight_scale_semantics inverse"),
		c("one side", stages.CodeConfig, changed(fp8BlockConfig, "weight_block_size", []int{128}), "weight_block_size", "two positive numbers"),
		c("a side of 0", stages.CodeConfig, changed(fp8BlockConfig, "weight_block_size", []int{128, 0}), "weight_block_size"),
		c("a side near 2^63", stages.CodeConfig, changed(fp8BlockConfig, "weight_block_size", []int64{1 << 62, 128}), "weight_block_size"),
		c("sides as text", stages.CodeConfig, changed(fp8BlockConfig, "weight_block_size", "128"), "weight_block_size"),
		c("modelopt in blocks", stages.CodeUnsupported, changed(modelOptConfig, "quant_algo", "FP8_PB_WO"), "quant_algo FP8_PB_WO is not supported yet", "supported are FP8"),
		c("packed integers", stages.CodeUnsupported, changed(floatQuantized(nil), "format", "pack-quantized"), "type float is not supported", "int"),
		c("integers", stages.CodeUnsupported, floatQuantized(map[string]any{"type": "int"}), `8 bits, type "int"`),
		c("4 bits", stages.CodeUnsupported, floatQuantized(map[string]any{"num_bits": 4}), "4 bits"),
		c("asymmetric", stages.CodeUnsupported, floatQuantized(map[string]any{"symmetric": false}), "symmetric false"),
		c("dynamic weights", stages.CodeUnsupported, floatQuantized(map[string]any{"dynamic": true}), "dynamic true"),
		c("groups", stages.CodeUnsupported, floatQuantized(map[string]any{"strategy": "group"}), "strategy group"),
		c("MXFP8", stages.CodeUnsupported, floatQuantized(map[string]any{"strategy": "group", "group_size": 32}), "(MXFP8) is not supported yet", "tensor, channel and block"),
		c("MXFP8 by its name", stages.CodeUnsupported, changed(floatQuantized(nil), "format", "mxfp8-quantized"), "format mxfp8-quantized is not supported yet", "float-quantized"),
		c("MXFP8 of ModelOpt", stages.CodeUnsupported, changed(modelOptConfig, "quant_algo", "MXFP8"), "quant_algo MXFP8 is not supported yet", "NVFP4"),
		c("no block_structure", stages.CodeConfig, floatQuantized(map[string]any{"strategy": "block"}), "block_structure"),
		c("a format of a group", stages.CodeUnsupported, own, "group_0", "format marlin-24 is not supported yet", "pack-quantized", "float-quantized"),
		c("sparse", stages.CodeUnsupported, changed(floatQuantized(nil), "sparsity_config", map[string]any{"format": "sparse-24"}), "sparsity_config"),
		c("rotated", stages.CodeUnsupported, changed(floatQuantized(nil), "transform_config", map[string]any{"config_groups": 1}), "transform_config"),
	})
}

func TestFP8ShapeFaults(t *testing.T) {
	b := func(name string, code stages.Code, item ckpt.Item, says ...string) row {
		return row{name: name, code: code, says: append(says, single), build: fp8With(fp8BlockConfig, item)}
	}
	with := func(x ckpt.T) ckpt.Item { return ckpt.Replace(block(oProj, 128, 1), x) }
	scale := oProj + ".weight_scale_inv"
	mx := exponents(scale, 127, 128, 8)
	mx.DType = safetensors.F8E8M0
	refuses(t, []row{
		b("no scale", stages.CodeMember, f8(oProj, 128), ".weight_scale_inv of its module is missing", scale),
		b("no weight", stages.CodeMember, f32s(scale, []int64{1, 2}, 1, 1), ".weight is missing", oProj+".weight"),
		b("scale of another shape", stages.CodeShape, with(f32s(scale, []int64{2, 1}, 1, 1)), "blocks of 128 x 128 over [128, 256]", "expected [1, 2]", "[2, 1]", "is not its config"),
		b("scale of another dtype", stages.CodeShape, with(ckpt.Dense(scale, safetensors.I32, 1, 1, 2)), "wrong dtype", "F8_E8M0", "found I32"),
		b("E5M2", stages.CodeShape, with(ckpt.Dense(oProj+".weight", safetensors.F8E5M2, 1, 128, 256)), "wrong dtype", "F8_E4M3", "F8_E5M2", "would need kernels and a decoder"),
		b("MXFP8 under the name of blocks", stages.CodeUnsupported, with(mx), scale, "MXFP8 is not supported yet", "F8_E8M0 [128, 8]", "a reader and kernels"),
		b("MXFP8 under the name of one", stages.CodeUnsupported, ckpt.List{f8(oProj, 128), exponents(oProj+".weight_scale", 127, 128, 8)}, oProj+".weight_scale", "MXFP8 is not supported yet"),
		{
			name: "MXFP8 where the config says nothing", code: stages.CodeUnsupported, says: []string{single, "MXFP8 is not supported yet"},
			build: fp8With(fp8PlainConfig, ckpt.Replace(block(oProj, 128, 1), exponents(scale, 127, 128, 8))),
		},
		b("bytes", stages.CodeShape, with(ckpt.Dense(oProj+".weight", safetensors.U8, 1, 128, 256)), "wrong dtype", "U8"),
		b("one dim", stages.CodeShape, with(ckpt.Dense(oProj+".weight", safetensors.F8E4M3, 1, 128*256)), "[out_features, in_features]"),
		b("no rows", stages.CodeShape, with(ckpt.Dense(oProj+".weight", safetensors.F8E4M3, 1, 0, 256)), "[0, 256]"),
		b("bias of another length", stages.CodeShape, ckpt.List{block(oProj, 128, 1), ckpt.Dense(oProj+".bias", safetensors.BF16, 1, 127)}, oProj+".bias", "[128]", "[127]"),
		b("input_scale of many", stages.CodeShape, ckpt.List{block(oProj, 128, 1), f32s(oProj+".input_scale", []int64{2}, 1, 1)}, oProj+".input_scale", "[] or [1]"),
		b("scales of all experts in one", stages.CodeUnsupported, f32s(mlp+"experts.down_proj_scale_inv", []int64{1, 1, 1}, 1), "experts.down_proj_scale_inv", "nor all experts of one"),
		b("experts in one", stages.CodeMember, ckpt.List{
			ckpt.Dense(mlp+"experts.down_proj", safetensors.F8E4M3, 1, 2, 128, 128), f32s(mlp+"experts.down_proj_scale", []int64{2}, 1, 1),
		}, "experts.down_proj", "but the other of gate_up_proj and down_proj"),
		{
			name: "scales in blocks under a config of one", code: stages.CodeShape, says: []string{single, "weight_scale_inv", "scales of whole tensors", "[1, 2]"},
			build: fp8With(fp8PlainConfig, block(oProj, 128, 1)),
		},
		{
			name: "members with and without a bias", code: stages.CodeMismatch, says: []string{"bias differs", "--no-fuse"},
			build: fp8With(fp8BlockConfig, block(attn+"q_proj", 128, 1), block(attn+"k_proj", 128, 1), block(attn+"v_proj", 128, 1),
				ckpt.Dense(attn+"q_proj.bias", safetensors.BF16, 1, 128)),
		},
		{
			name: "members that end inside a block, raw", code: stages.CodeLayout, says: []string{"end inside a block", "--no-fuse"}, opt: coldload.Options{Layout: stages.LayoutRaw},
			build: fp8With(fp8BlockConfig, block(mlp+"gate_proj", 192, 1), block(mlp+"up_proj", 192, 1)),
		},
		{
			name: "tiles that do not fit", code: stages.CodeLayout, says: []string{"multiple of 64"}, opt: coldload.Options{Strict: true, NoPad: true},
			build: fp8With(fp8BlockConfig, block(oProj, 96, 1)),
		},
		{
			name: "blocks that Marlin has not", code: stages.CodeLayout, says: []string{"groups of 128"}, opt: coldload.Options{Strict: true},
			build: fp8With(changed(fp8BlockConfig, "weight_block_size", []int{128, 64}), ckpt.Replace(block(oProj, 128, 1), f32s(scale, []int64{1, 4}, 1, 1, 1, 1))),
		},
		{
			name: "codes that a rule wants cast", code: stages.CodeUnsupported, says: []string{"mean nothing without their scales"},
			opt:   coldload.Options{Layout: stages.LayoutRaw, Rules: []stages.Rule{retypeAll{}}},
			build: fp8With(fp8BlockConfig, block(oProj, 128, 1)),
		},
	})
}

// retypeAll wants everything to be BF16.
type retypeAll struct{}

func (retypeAll) Rewrite(stages.Output) stages.Rewrite {
	return stages.Rewrite{DType: safetensors.BF16}
}

func TestFP8ByteFaults(t *testing.T) {
	var rows []row
	for _, layout := range []stages.Layout{stages.LayoutMarlin, stages.LayoutDequant, stages.LayoutRaw} {
		inf := convert.F16ToF32(0x7C00)
		rows = append(rows, row{
			name: "infinite scale, " + string(layout), says: []string{oProj + ".weight_scale_inv", single, "finite"}, opt: coldload.Options{Layout: layout},
			build: fp8With(fp8BlockConfig, block(oProj, 128, inf)),
		}, row{
			name: "infinite input_scale, " + string(layout), says: []string{oProj + ".input_scale", single, "finite"}, opt: coldload.Options{Layout: layout},
			build: fp8With(fp8BlockConfig, block(oProj, 128, 1), f32s(oProj+".input_scale", nil, inf)),
		})
	}
	breaks(t, append(rows, row{
		name: "scale that the exponent makes infinite", says: []string{oProj + ".weight_scale_inv", "2^120", "--fp8-exponent plain"},
		build: fp8With(fp8BlockConfig, block(oProj, 128, 256)),
	}))
}

// TestFP8Fuses: members keep scales of their own when they become one module, whatever the layout.
func TestFP8Fuses(t *testing.T) {
	q, k, v := perTensor(attn+"q_proj", 128, 0.5), perTensor(attn+"k_proj", 64, 0.25), perTensor(attn+"v_proj", 64, 2)
	dense := ckpt.Dense(attn+"indexer.weight", safetensors.BF16, 1, 24, 256)
	left := f32s(attn+"indexer.weight_scale", nil, convert.F16ToF32(0x7E00)) // nothing was written to it
	build := fp8With(fp8PlainConfig, q, k, v, dense, left)
	path := func() string {
		b := ckpt.New(t)
		build(b)
		return b.Write()
	}()
	mem, res := loadHost(t, path, coldload.Options{})
	scales, ok := mem.Lookup(attn + "qkv_proj.scales")
	if !ok || scales.DType != safetensors.BF16 || len(scales.Bytes) != 2*256 {
		t.Fatalf("scales %v", scales)
	}
	for i := range 256 {
		want := map[bool]float32{true: 0.5, false: 0.25}[i < 128]
		if i >= 192 {
			want = 2
		}
		u := uint16(scales.Bytes[2*i]) | uint16(scales.Bytes[2*i+1])<<8
		if got := convert.BF16ToF32(u - 120<<7); got != want {
			t.Fatalf("scale %d is %g, want %g", i, got, want)
		}
	}
	if _, kept := mem.Lookup(attn + "indexer.weight_scale"); kept || res.TensorsIn == 0 {
		t.Error("the scale of a dense weight was kept")
	}
	opt := coldload.Options{Layout: stages.LayoutDequant, DType: safetensors.F32}
	fused, _ := loadHost(t, path, opt)
	opt.NoFuse = true
	apart, _ := loadHost(t, path, opt)
	checkFusedFrom(t, fused, apart)
	raw, _ := loadHost(t, path, coldload.Options{Layout: stages.LayoutRaw})
	if x, _ := raw.Lookup(attn + "qkv_proj.weight_scale"); len(x.Shape) != 1 || x.Shape[0] != 3 {
		t.Errorf("raw scales %v", x.Shape)
	}
}

// TestFP8Tools: the configs of the other tools, with scales of activations and of the cache.
func TestFP8Tools(t *testing.T) {
	for name, quant := range map[string]map[string]any{"modelopt": modelOptConfig, "compressed-tensors": floatQuantized(map[string]any{"strategy": "tensor"})} {
		t.Run(name, func(t *testing.T) {
			b := ckpt.New(t)
			fp8With(quant, perTensor(oProj, 128, 0.5), f32s(oProj+".input_scale", nil, 3), f32s(attn+"k_proj.k_scale", nil, 1))(b)
			path := b.Write()
			mem, _ := loadHost(t, path, coldload.Options{Strict: true})
			for _, out := range []string{"qweight", "scales", "input_scale"} {
				if _, ok := mem.Lookup(oProj + "." + out); !ok {
					t.Errorf("no %s", out)
				}
			}
			if _, ok := mem.Lookup(attn + "k_proj.k_scale"); !ok {
				t.Error("the scale of the cache was not kept")
			}
			loadHost(t, path, coldload.Options{Layout: stages.LayoutDequant, Strict: true})
		})
	}
}
