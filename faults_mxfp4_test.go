package coldload_test

import (
	"fmt"
	"maps"
	"testing"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// mxfp4Config is the config of gpt-oss.
var mxfp4Config = map[string]any{"quant_method": "mxfp4", "modules_to_not_convert": []string{"model.layers.*.self_attn", "lm_head"}}

// mxfp4Packed is a config of compressed-tensors for MXFP4; group and weights overwrite what it says of its one group and of the weights.
func mxfp4Packed(group, weights map[string]any) map[string]any {
	w := map[string]any{
		"num_bits": 4, "type": "float", "symmetric": true, "strategy": "group", "group_size": 32, "dynamic": false, "scale_dtype": "torch.uint8",
	}
	maps.Copy(w, weights)
	g := map[string]any{"targets": []string{"Linear"}, "weights": w}
	maps.Copy(g, group)
	return map[string]any{
		"quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized", "config_groups": map[string]any{"group_0": g}, "ignore": []string{"lm_head"},
	}
}

func mxfp4With(quant map[string]any, items ...ckpt.Item) func(b *ckpt.Builder) string {
	return only(func(b *ckpt.Builder) {
		b.Shard(single, items...)
		config := map[string]any{"model_type": "gpt_oss", "torch_dtype": "bfloat16", "num_local_experts": 2}
		if quant != nil {
			config["quantization_config"] = quant
		}
		b.JSON("config.json", config)
	})
}

// exponents is a tensor of scales that are all 2^(e-127).
func exponents(name string, e byte, shape ...int64) ckpt.T {
	n := int64(1)
	for _, d := range shape {
		n *= d
	}
	data := make([]byte, n)
	for i := range data {
		data[i] = e
	}
	return ckpt.T{Name: name, DType: safetensors.U8, Shape: shape, Data: data}
}

// ossExperts are two experts of gpt-oss with 128 hidden and 64 intermediate features.
func ossExperts() ckpt.List {
	return ckpt.List{ossStack("gate_up_proj", 128), ossStack("down_proj", 64)}
}

// ossStack is one of their stacks, of 128 output features.
func ossStack(name string, k int64) ckpt.List {
	const n = 128
	at := expertsAt + name
	return ckpt.List{
		ckpt.Dense(at+"_blocks", safetensors.U8, 1, 2, n, k/32, 16), exponents(at+"_scales", 120, 2, n, k/32), ckpt.Dense(at+"_bias", safetensors.BF16, 2, 2, n),
	}
}

// mxPacked is a module of compressed-tensors of 128 output and 256 input features.
func mxPacked(base string) ckpt.List {
	return ckpt.List{ckpt.Dense(base+".weight_packed", safetensors.U8, 1, 128, 128), exponents(base+".weight_scale", 120, 128, 8)}
}

func TestMXFP4ConfigFaults(t *testing.T) {
	c := func(name string, code stages.Code, quant map[string]any, says ...string) row {
		return row{name: name, code: code, says: append(says, "config.json"), build: mxfp4With(quant, ossExperts())}
	}
	p := func(name string, code stages.Code, group, weights map[string]any, says ...string) row {
		return row{name: name, code: code, says: append(says, "group_0"), build: mxfp4With(mxfp4Packed(group, weights), mxPacked(oProj))}
	}
	refuses(t, []row{
		c("unknown key", stages.CodeUnsupported, changed(mxfp4Config, "block", 16), `"block" is not known`),
		c("a list that is none", stages.CodeConfig, changed(mxfp4Config, "modules_to_not_convert", 3), "modules_to_not_convert"),
		c("a pattern that Go has not", stages.CodeConfig, changed(mxfp4Config, "modules_to_not_convert", []string{"(?=x)"}), "(?=x)", "look-around"),
		c("experts that are not converted", stages.CodeConfig, changed(mxfp4Config, "modules_to_not_convert", []string{"model.layers.*.mlp"}), "gate_up_proj_blocks", "says that it is not quantised"),
		c("experts by their end", stages.CodeConfig, changed(mxfp4Config, "modules_to_not_convert", []string{"down_proj"}), "down_proj_blocks", "(down_proj)"),
		p("bits", stages.CodeUnsupported, nil, map[string]any{"num_bits": 8}, "8 bits", "4 bits, type float"),
		p("integers", stages.CodeUnsupported, nil, map[string]any{"type": "int"}, `type "int"`),
		p("groups of 16", stages.CodeUnsupported, nil, map[string]any{"group_size": 16}, "group_size 16", "32"),
		p("channels", stages.CodeUnsupported, nil, map[string]any{"strategy": "channel"}, "strategy channel"),
		p("asymmetric", stages.CodeUnsupported, nil, map[string]any{"symmetric": false}, "symmetric false"),
		p("dynamic weights", stages.CodeUnsupported, nil, map[string]any{"dynamic": true}, "dynamic true"),
		p("act-order", stages.CodeUnsupported, nil, map[string]any{"actorder": "group"}, "actorder of weights"),
		p("scales of a float type", stages.CodeUnsupported, nil, map[string]any{"scale_dtype": "torch.bfloat16"}, "scale_dtype bfloat16"),
		p("static activations", stages.CodeUnsupported, map[string]any{"input_activations": map[string]any{"num_bits": 4, "dynamic": false}}, nil, "input_activations with scales of their own"),
		p("outputs", stages.CodeUnsupported, map[string]any{"output_activations": map[string]any{"num_bits": 4}}, nil, "output_activations quantised"),
	})
}

func TestMXFP4ShapeFaults(t *testing.T) {
	b := func(name string, code stages.Code, item ckpt.Item, says ...string) row {
		return row{name: name, code: code, says: append(says, single), build: mxfp4With(mxfp4Config, item)}
	}
	with := func(x ckpt.T) ckpt.Item { return ckpt.Replace(ossExperts(), x) }
	without := func(name string) ckpt.Item {
		var list ckpt.List
		for _, x := range ossExperts().Tensors() {
			if x.Name != expertsAt+name {
				list = append(list, x)
			}
		}
		return list
	}
	u8 := func(name string, shape ...int64) ckpt.T {
		return ckpt.Dense(expertsAt+name, safetensors.U8, 1, shape...)
	}
	p := func(name string, code stages.Code, item ckpt.Item, says ...string) row {
		return row{name: name, code: code, says: append(says, single), build: mxfp4With(mxfp4Packed(nil, nil), item)}
	}
	packed := oProj + ".weight_packed"
	refuses(t, []row{
		b("no scales", stages.CodeMember, without("gate_up_proj_scales"), "gate_up_proj_blocks", "gate_up_proj_scales", "are missing"),
		b("no blocks", stages.CodeMember, without("down_proj_blocks"), "down_proj_scales", "blocks are missing", "down_proj_blocks"),
		b("nothing of down", stages.CodeMember, ossStack("gate_up_proj", 128), "gate_up_proj_blocks", "nothing of", "down_proj_blocks"),
		b("nothing of gate and up", stages.CodeMember, ossStack("down_proj", 64), "down_proj_blocks", "nothing of", "gate_up_proj_blocks"),
		b("scales of another shape", stages.CodeShape, with(exponents(expertsAt+"down_proj_scales", 120, 2, 128, 4)), "128 x 64 codes in groups of 32", "[128, 2]", "[128, 4]"),
		b("scales of another dtype", stages.CodeShape, with(ckpt.Dense(expertsAt+"down_proj_scales", safetensors.F8E4M3, 1, 2, 128, 2)), "U8 or F8_E8M0", "F8_E4M3"),
		b("signed blocks", stages.CodeShape, with(ckpt.Dense(expertsAt+"down_proj_blocks", safetensors.I8, 1, 2, 128, 2, 16)), "wrong dtype", "U8", "I8", "get both again"),
		b("blocks of 32 bytes", stages.CodeShape, with(u8("down_proj_blocks", 2, 128, 2, 32)), "down_proj_blocks", "in_features/32, 16]"),
		b("blocks without their axis", stages.CodeShape, with(u8("down_proj_blocks", 2, 128, 32)), "down_proj_blocks", "in_features/32, 16]"),
		b("blocks of no expert", stages.CodeShape, with(u8("down_proj_blocks", 0, 128, 2, 16)), "down_proj_blocks", "no axis of experts"),
		b("blocks of no rows", stages.CodeShape, with(u8("down_proj_blocks", 2, 0, 2, 16)), "down_proj_blocks", "[0, 2, 16]"),
		b("scales of another number of experts", stages.CodeMismatch, with(exponents(expertsAt+"down_proj_scales", 120, 3, 128, 2)), "another number of experts"),
		b("bias of another number of experts", stages.CodeMismatch, with(ckpt.Dense(expertsAt+"down_proj_bias", safetensors.BF16, 1, 1, 128)), "another number of experts"),
		b("bias of another length", stages.CodeShape, with(ckpt.Dense(expertsAt+"down_proj_bias", safetensors.BF16, 1, 2, 64)), "down_proj_bias", "[128]", "[64]"),
		b("bias of bytes", stages.CodeShape, with(u8("down_proj_bias", 2, 128)), "down_proj_bias", "BF16", "U8"),
		b("another layer", stages.CodeUnsupported, ckpt.List{ossExperts(), u8("q_proj_blocks", 2, 128, 2, 16), exponents(expertsAt+"q_proj_scales", 120, 2, 128, 2)}, "q_proj_blocks", "no layer of gpt-oss"),
		b("down that does not map back", stages.CodeMismatch, ckpt.List{ossStack("gate_up_proj", 128), ossStack("down_proj", 128)}, "does not map back"),
		b("more experts than the config says", stages.CodeConfig, ckpt.List{u8("down_proj_blocks", 3, 128, 2, 16), exponents(expertsAt+"down_proj_scales", 120, 3, 128, 2)}, "num"),
		{
			name: "OpenAI's names without a config", code: stages.CodeConfig, says: []string{`"quant_method": "mxfp4"`, "no file says how", "mlp1_weight.blocks"},
			build: mxfp4With(nil, ckpt.Dense("block.0.mlp.mlp1_weight.blocks", safetensors.U8, 1, 2, 128, 4, 16), exponents("block.0.mlp.mlp1_weight.scales", 120, 2, 128, 4)),
		},
		{
			name: "gpt-oss without a config", code: stages.CodeConfig, says: []string{`"quant_method": "mxfp4"`, "looks quantised (mxfp4)"},
			build: mxfp4With(nil, ossExperts()),
		},
		{
			name: "no kernels", code: stages.CodeLayout, says: []string{"no MXFP4 weights"}, opt: coldload.Options{Layout: stages.LayoutExllama, Strict: true},
			build: mxfp4With(mxfp4Config, ossExperts()),
		},
		{
			name: "F16 activations", code: stages.CodeLayout, says: []string{"BF16 activations alone", "--dtype bf16"}, opt: coldload.Options{DType: safetensors.F16, Strict: true},
			build: mxfp4With(mxfp4Config, ossExperts()),
		},
		{
			name: "a bias in F16", code: stages.CodeLayout, says: []string{"BF16 bias alone", "F16"}, opt: coldload.Options{Strict: true},
			build: mxfp4With(mxfp4Config, with(ckpt.Dense(expertsAt+"down_proj_bias", safetensors.F16, 1, 2, 128))),
		},
		{
			name: "codes that a rule wants cast", code: stages.CodeUnsupported, says: []string{"_blocks"},
			opt:   coldload.Options{Layout: stages.LayoutRaw, Rules: []stages.Rule{retypeAll{}}},
			build: mxfp4With(mxfp4Config, ossExperts()),
		},
		p("no scale", stages.CodeMember, ckpt.Without(mxPacked(oProj), "weight_scale"), packed, ".weight_scale", "missing"),
		p("no codes", stages.CodeMember, ckpt.Without(mxPacked(oProj), "weight_packed"), "weight_packed is missing"),
		p("words", stages.CodeShape, ckpt.Replace(mxPacked(oProj), ckpt.Dense(packed, safetensors.I32, 1, 128, 128)), "wrong dtype", "U8", "I32"),
		p("half a group", stages.CodeShape, ckpt.Replace(mxPacked(oProj), ckpt.Dense(packed, safetensors.U8, 1, 128, 120)), packed, "multiple of 32", "[128, 120]"),
		p("three dims", stages.CodeShape, ckpt.Replace(mxPacked(oProj), ckpt.Dense(packed, safetensors.U8, 1, 128, 8, 16)), packed, "[128, 8, 16]"),
		p("scales of another shape", stages.CodeShape, ckpt.Replace(mxPacked(oProj), exponents(oProj+".weight_scale", 120, 128, 4)), "128 x 256 codes", "[128, 8]"),
		p("a dense weight too", stages.CodeMismatch, ckpt.List{mxPacked(oProj), ckpt.Dense(oProj+".weight", safetensors.BF16, 1, 128, 256)}, "a quantised and a dense weight"),
		p("ignored", stages.CodeConfig, mxPacked("lm_head"), "lm_head", "`ignore` says"),
	})
}

func TestMXFP4ByteFaults(t *testing.T) {
	var rows []row
	for _, layout := range []stages.Layout{stages.LayoutMarlin, stages.LayoutDequant, stages.LayoutRaw} {
		nan := exponents(expertsAt+"down_proj_scales", 120, 2, 128, 2)
		nan.Data[256+77] = 0xFF
		inf := ckpt.T{Name: expertsAt + "down_proj_bias", DType: safetensors.BF16, Shape: []int64{2, 128}, Data: make([]byte, 512)}
		inf.Data[2*130], inf.Data[2*130+1] = 0x80, 0x7F
		packed := exponents(oProj+".weight_scale", 0xFF, 128, 8)
		rows = append(rows, row{
			name: "a scale that is no number, " + string(layout), says: []string{"down_proj_scales (expert 1)", single, "element 77 is not finite"},
			opt: coldload.Options{Layout: layout}, build: mxfp4With(mxfp4Config, ckpt.Replace(ossExperts(), nan)),
		}, row{
			name: "an infinite bias, " + string(layout), says: []string{"down_proj_bias (expert 1)", single, "element 2 is not finite"},
			opt: coldload.Options{Layout: layout}, build: mxfp4With(mxfp4Config, ckpt.Replace(ossExperts(), inf)),
		}, row{
			name: "a scale of compressed-tensors, " + string(layout), says: []string{oProj + ".weight_scale", single, "not finite"},
			opt: coldload.Options{Layout: layout}, build: mxfp4With(mxfp4Packed(nil, nil), ckpt.Replace(mxPacked(oProj), packed)),
		})
	}
	breaks(t, append(rows, row{
		name: "a weight that does not fit in F16", says: []string{"down_proj_scales (expert 0)", "does not fit in F16", "--dtype bf16"},
		opt:   coldload.Options{Layout: stages.LayoutDequant, DType: safetensors.F16},
		build: mxfp4With(mxfp4Config, ckpt.Replace(ossExperts(), exponents(expertsAt+"down_proj_scales", 150, 2, 128, 2))),
	}))
}

// TestMXFP4Loads: what the two methods allow.
func TestMXFP4Loads(t *testing.T) {
	const mlp0 = "block.0.mlp."
	original := ckpt.List{
		ckpt.Dense(mlp0+"mlp1_weight.blocks", safetensors.U8, 1, 2, 128, 4, 16), exponents(mlp0+"mlp1_weight.scales", 120, 2, 128, 4),
		ckpt.Dense(mlp0+"mlp1_bias", safetensors.BF16, 1, 2, 128),
		ckpt.Dense(mlp0+"mlp2_weight.blocks", safetensors.U8, 1, 2, 128, 2, 16), exponents(mlp0+"mlp2_weight.scales", 120, 2, 128, 2),
		ckpt.Dense(mlp0+"mlp2_bias", safetensors.BF16, 1, 2, 128), ckpt.Dense("block.0.attn.qkv.weight", safetensors.BF16, 1, 192, 128),
	}
	dynamic := map[string]any{"input_activations": map[string]any{"num_bits": 4, "type": "float", "dynamic": true}}
	e8m0 := ckpt.Dense(oProj+".weight_scale", safetensors.F8E8M0, 1, 128, 8)
	e8m0.Fill, e8m0.Data = nil, make([]byte, 1024)
	loads(t, []row{
		{
			name: "OpenAI's names", build: mxfp4With(mxfp4Config, original), opt: coldload.Options{Strict: true},
			check: func(l loaded) {
				l.names(mlp0+"mlp1.qweight", mlp0+"mlp1.scales", mlp0+"mlp1.bias", mlp0+"mlp2.qweight", mlp0+"mlp2.scales", mlp0+"mlp2.bias", "block.0.attn.qkv.weight")
			},
		},
		{
			name: "OpenAI's names, raw", build: mxfp4With(mxfp4Config, original), opt: coldload.Options{Layout: stages.LayoutRaw},
			check: func(l loaded) {
				var names []string
				for _, x := range original.Tensors() {
					names = append(names, x.Name)
				}
				l.names(names...)
			},
		},
		{
			name: "OpenAI's names, dequantised", build: mxfp4With(mxfp4Config, original), opt: coldload.Options{Layout: stages.LayoutDequant},
			check: func(l loaded) {
				l.names(mlp0+"mlp1_weight", mlp0+"mlp1_bias", mlp0+"mlp2_weight", mlp0+"mlp2_bias", "block.0.attn.qkv.weight")
				x, _ := l.mem.Lookup(mlp0 + "mlp2_weight") // [E, N, K] in OpenAI's own code
				if fmt.Sprint(x.Shape) != "[2 128 64]" {
					l.t.Errorf("mlp2_weight: %v", x.Shape)
				}
			},
		},
		{
			name: "dynamic activations", build: mxfp4With(mxfp4Packed(dynamic, nil), mxPacked(oProj)), opt: coldload.Options{Strict: true},
			check: func(l loaded) { l.names(oProj+".qweight", oProj+".scales") },
		},
		{
			name: "scales as F8_E8M0, a bias in F32", opt: coldload.Options{DType: safetensors.BF16, Strict: true},
			build: mxfp4With(mxfp4Packed(nil, nil), ckpt.Replace(mxPacked(oProj), e8m0), ckpt.Dense(oProj+".bias", safetensors.F32, 1, 128)),
			check: func(l loaded) { l.names(oProj+".qweight", oProj+".scales", oProj+".bias") },
		},
		{
			name: "dense experts", build: mxfp4With(mxfp4Config, ckpt.Dense(expertsAt+"down_proj_bias", safetensors.BF16, 1, 2, 128)),
			check: func(l loaded) { l.names(expertsAt + "down_proj_bias") },
		},
	})
}
