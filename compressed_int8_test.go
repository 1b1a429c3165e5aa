package coldload_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"strings"
	"testing"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/sinks/host"
	"github.com/coldload/coldload/stages"
)

// signedTwin is a symmetric GPTQ module of 8 bits as int-quantized would store it: the same values.
type signedTwin struct{ m *ckpt.Module }

func (t signedTwin) Tensors() (all []ckpt.T) {
	for _, x := range (twin{m: t.m}).Tensors() {
		switch x.Name {
		case t.m.Base + ".weight_packed":
			x.Name, x.DType, x.Shape = t.m.Base+".weight", safetensors.I8, []int64{int64(t.m.N), int64(t.m.K)}
			x.Data = bytes.Clone(x.Data)
			for i := range x.Data {
				x.Data[i] -= 128
			}
		case t.m.Base + ".weight_shape":
			continue
		}
		all = append(all, x)
	}
	return all
}

// oneScale stores the scales of a module, which are all the same, once.
type oneScale struct{ ckpt.Item }

func (o oneScale) Tensors() []ckpt.T {
	all := o.Item.Tensors()
	for i := range all {
		if strings.HasSuffix(all[i].Name, ".weight_scale") {
			all[i].Shape, all[i].Data = []int64{1}, all[i].Data[:2]
		}
	}
	return all
}

// intConfig is a config of one group of such weights in a format.
func intConfig(model, format string, weights map[string]any) map[string]any {
	w := map[string]any{"num_bits": 8, "type": "int", "symmetric": true, "strategy": "channel", "dynamic": false}
	maps.Copy(w, weights)
	group := map[string]any{"targets": []string{"Linear"}, "weights": w, "format": format}
	if format == "int-quantized" {
		group["input_activations"] = map[string]any{"num_bits": 8, "type": "int", "strategy": "token", "dynamic": true}
	}
	return map[string]any{"model_type": model, "quantization_config": map[string]any{
		"quant_method": "compressed-tensors", "format": format, "config_groups": map[string]any{"group_0": group},
	}}
}

// TestInt8IsGPTQ: int-quantized weights, and packed ones with one scale, become what GPTQ's of the same values become.
func TestInt8IsGPTQ(t *testing.T) {
	signed := func(m *ckpt.Module) ckpt.Item { return signedTwin{m} }
	packed := func(m *ckpt.Module) ckpt.Item { return twin{m: m} }
	one := func(of func(m *ckpt.Module) ckpt.Item) func(m *ckpt.Module) ckpt.Item {
		return func(m *ckpt.Module) ckpt.Item { return oneScale{of(m)} }
	}
	for _, x := range []struct {
		name, format string
		bits, group  int
		same         bool // all scales of a module are the same
		twin         func(m *ckpt.Module) ckpt.Item
		weights      map[string]any
	}{
		{"channel", "int-quantized", 8, -1, false, signed, nil},
		{"groups", "int-quantized", 8, 32, false, signed, map[string]any{"strategy": "group", "group_size": 32}},
		{"tensor", "int-quantized", 8, -1, true, one(signed), map[string]any{"strategy": "tensor"}},
		{"packed, tensor", "pack-quantized", 8, -1, true, one(packed), map[string]any{"strategy": "tensor"}},
		{"packed, 4 bits, tensor", "pack-quantized", 4, -1, true, one(packed), map[string]any{"strategy": "tensor", "num_bits": 4}},
	} {
		t.Run(x.name, func(t *testing.T) {
			var originals, twins ckpt.List
			add := func(base string, k, n int, seed uint64) {
				m := ckpt.GPTQ(base, k, n, x.bits, x.group, ckpt.GPTQOptions{Seed: seed, V2: true, Bias: true, NoGIdx: true})
				for i := range m.Scales {
					if x.same {
						m.Scales[i] = m.Scales[0]
					}
				}
				originals, twins = append(originals, m), append(twins, x.twin(m))
			}
			add(attn+"q_proj", 256, 192, 1)
			add(attn+"k_proj", 256, 64, 2)
			add(attn+"v_proj", 256, 64, 3)
			add(oProj, 192, 256, 4)
			add(mlp+"odd_proj", 160, 96, 5) // no whole tiles: it is padded
			for e := range 2 {
				for i, m := range []string{"gate_proj", "up_proj", "down_proj"} {
					k, n := 256, 128
					if i == 2 {
						k, n = n, k
					}
					add(fmt.Sprintf("%sexperts.%d.%s", mlp, e, m), k, n, uint64(10*e+i))
				}
			}
			reference := gptqWith("qwen3_moe", map[string]any{"bits": x.bits, "group_size": x.group, "sym": true, "checkpoint_format": "gptq_v2"}, originals)
			build := only(func(b *ckpt.Builder) {
				b.Shard(single, twins).JSON("config.json", intConfig("qwen3_moe", x.format, x.weights))
			})
			for _, opt := range []coldload.Options{
				{}, {DType: safetensors.BF16}, {NoFuse: true}, {Layout: stages.LayoutDequant, DType: safetensors.F32}, {Layout: stages.LayoutDequant},
			} {
				sameAsTwin(t, fmt.Sprint(opt.Layout, opt.DType, opt.NoFuse), loadPath(t, build, opt), loadPath(t, reference, opt))
			}
		})
	}
}

// sameAsTwin compares what was loaded, byte for byte.
func sameAsTwin(t *testing.T, name string, got, want *host.Memory) {
	t.Helper()
	n := 0
	for out, w := range want.All() {
		n++
		if g, ok := got.Lookup(out); !ok || g.DType != w.DType || fmt.Sprint(g.Shape) != fmt.Sprint(w.Shape) || !bytes.Equal(g.Bytes, w.Bytes) {
			t.Errorf("%s: %s is not what it should become", name, out)
		}
	}
	if n != len(got.Outputs()) {
		t.Errorf("%s: %d outputs, want %d", name, len(got.Outputs()), n)
	}
}

// TestInt8Raw: members lie one below the other, and what is wrong with values ends the load.
func TestInt8Raw(t *testing.T) {
	m := ckpt.GPTQ(oProj, 256, 128, 8, -1, ckpt.GPTQOptions{Bias: true, NoGIdx: true})
	input := f32s(oProj+".input_scale", []int64{1}, 0.5)
	build := func(items ...ckpt.Item) func(*ckpt.Builder) string {
		return only(func(b *ckpt.Builder) {
			b.Shard(single, items...).JSON("config.json", intConfig("llama", "int-quantized", nil))
		})
	}
	mem := loadPath(t, build(signedTwin{m}, input), coldload.Options{Layout: stages.LayoutRaw, DType: safetensors.BF16})
	for name, want := range map[string]string{"weight": "I8 [128 256]", "weight_scale": "BF16 [128 1]", "bias": "BF16 [128]", "input_scale": "F32 [1]"} {
		got, ok := mem.Lookup(oProj + "." + name)
		if !ok || fmt.Sprint(got.DType, got.Shape) != want {
			t.Errorf("%s is %v %v, want %s", name, got.DType, got.Shape, want)
		}
	}
	nan := signedTwin{m}.Tensors()[1]
	nan.Data = bytes.Clone(nan.Data)
	binary.LittleEndian.PutUint16(nan.Data[2*9:], 0x7E00)
	for _, layout := range []stages.Layout{stages.LayoutMarlin, stages.LayoutDequant, stages.LayoutRaw} {
		opt := coldload.Options{Layout: layout}
		breaks(t, []row{
			{name: string(layout) + ": NaN scale", opt: opt, build: build(ckpt.Replace(signedTwin{m}, nan)), says: []string{single, oProj + ".weight_scale", "element 9", "not finite"}},
			{name: string(layout) + ": NaN input_scale", opt: opt, build: build(signedTwin{m}, f32s(oProj+".input_scale", nil, float32(math.NaN()))), says: []string{single, oProj + ".input_scale", "not finite"}},
		})
	}
}

// TestInt8Faults: configs and tensors that contradict each other.
func TestInt8Faults(t *testing.T) {
	m := ckpt.GPTQ(oProj, 256, 128, 8, -1, ckpt.GPTQOptions{NoGIdx: true})
	c := func(name string, code stages.Code, weights map[string]any, says ...string) row {
		return row{name: name, code: code, says: append(says, "config.json"), build: only(func(b *ckpt.Builder) {
			b.Shard(single, signedTwin{m}).JSON("config.json", intConfig("llama", "int-quantized", weights))
		})}
	}
	s := func(name string, code stages.Code, item ckpt.Item, says ...string) row {
		return row{name: name, code: code, says: append(says, single), build: only(func(b *ckpt.Builder) {
			b.Shard(single, item).JSON("config.json", intConfig("llama", "int-quantized", nil))
		})}
	}
	with := func(x ckpt.T) ckpt.Item { return ckpt.Replace(signedTwin{m}, x) }
	weight, scale := oProj+".weight", oProj+".weight_scale"
	refuses(t, []row{
		c("4 bits", stages.CodeUnsupported, map[string]any{"num_bits": 4}, "num_bits 4", "8"),
		c("asymmetric", stages.CodeUnsupported, map[string]any{"symmetric": false}, "symmetric false"),
		c("act-order", stages.CodeUnsupported, map[string]any{"strategy": "group", "group_size": 128, "actorder": "group"}, "actorder of int-quantized weights"),
		c("floats", stages.CodeUnsupported, map[string]any{"type": "float"}, "type float"),
		c("tensor of asymmetric weights", stages.CodeUnsupported, map[string]any{"strategy": "tensor", "symmetric": false}, "strategy tensor of asymmetric weights"),
		s("no scale", stages.CodeMember, signedTwin{m}.Tensors()[0], ".weight_scale of its module is missing", scale),
		s("no weight", stages.CodeMember, signedTwin{m}.Tensors()[1], ".weight is missing", weight),
		s("scales of groups", stages.CodeShape, with(ckpt.Dense(scale, safetensors.F16, 1, 128, 2)), scale, "[128, 1]", "[128, 2]"),
		s("scales that are integers", stages.CodeShape, with(ckpt.Dense(scale, safetensors.I32, 1, 128, 1)), scale, "wrong dtype", "I32"),
		s("bytes", stages.CodeConfig, with(ckpt.Dense(weight, safetensors.U8, 1, 128, 256)), scale, "weight of another dtype", "U8"),
		s("one dim", stages.CodeShape, with(ckpt.Dense(weight, safetensors.I8, 1, 128*256)), weight, "[out_features, in_features]"),
		s("no rows", stages.CodeShape, with(ckpt.Dense(weight, safetensors.I8, 1, 0, 256)), weight, "[0, 256]"),
		s("odd input features", stages.CodeShape, with(ckpt.Dense(weight, safetensors.I8, 1, 128, 255)), weight, "a multiple of 4", "255"),
		s("bias of another length", stages.CodeShape, ckpt.List{signedTwin{m}, ckpt.Dense(oProj+".bias", safetensors.BF16, 1, 127)}, oProj+".bias", "[128]", "[127]"),
		s("input_scale of many", stages.CodeShape, ckpt.List{signedTwin{m}, f32s(oProj+".input_scale", []int64{2}, 1, 1)}, oProj+".input_scale", "[1]", "[2]"),
		s("zero points", stages.CodeMismatch, ckpt.List{signedTwin{m}, ckpt.Dense(oProj+".weight_zero_point", safetensors.I8, 1, 128, 1)}, "there are zero points"),
		{name: "no config", code: stages.CodeConfig, says: []string{single, weight, "looks quantised (compressed-tensors)"}, build: only(func(b *ckpt.Builder) {
			b.Shard(single, signedTwin{m}).JSON("config.json", map[string]any{"model_type": "llama"})
		})},
	})
	loads(t, []row{
		{name: "a scale of a dense weight", build: only(func(b *ckpt.Builder) {
			b.Shard(single, signedTwin{m}, ckpt.Dense(mlp+"down_proj.weight", safetensors.BF16, 1, 128, 256), ckpt.Dense(mlp+"down_proj.weight_scale", safetensors.BF16, 1, 128, 1)).
				JSON("config.json", intConfig("llama", "int-quantized", nil))
		}), check: func(got loaded) {
			if _, ok := got.mem.Lookup(mlp + "down_proj.weight_scale"); ok {
				got.t.Error("the scale is kept")
			}
		}},
	})
}

// TestMixedIsItsParts: modules of several formats in one checkpoint become what each becomes in a checkpoint of its own.
func TestMixedIsItsParts(t *testing.T) {
	q, k, v := qkv(ckpt.GPTQOptions{NoGIdx: true, Asym: true})
	down := ckpt.GPTQ(mlp+"down_proj", 256, 128, 8, -1, ckpt.GPTQOptions{Seed: 7, NoGIdx: true})
	scale := ckpt.Dense(oProj+".weight_scale", safetensors.BF16, 3, 128, 1)
	fp8 := ckpt.List{f8(oProj, 128), scale}
	codes := ckpt.List{twin{q, true, false}, twin{k, true, false}, twin{v, true, false}}
	dense := ckpt.Dense("model.norm.weight", safetensors.BF16, 5, 256)

	group := func(config map[string]any, format string, targets ...string) map[string]any {
		quant, _ := config["quantization_config"].(map[string]any)
		if quant == nil {
			quant = config
		}
		groups, _ := quant["config_groups"].(map[string]any)
		g, _ := groups["group_0"].(map[string]any)
		g = maps.Clone(g)
		g["format"], g["targets"] = format, targets
		return g
	}
	fp8Config, codesConfig, intsConfig := floatQuantized(nil), twinConfig("llama", 4, 64, true, false), intConfig("llama", "int-quantized", nil)
	mixed := map[string]any{"model_type": "llama", "torch_dtype": "bfloat16", "quantization_config": map[string]any{
		"quant_method": "compressed-tensors", "format": "mixed-precision", "config_groups": map[string]any{
			"a": group(codesConfig, "pack-quantized", "re:.*[qkv]_proj"),
			"b": group(fp8Config, "float-quantized", oProj),
			"c": group(intsConfig, "int-quantized", "Linear"),
		},
	}}
	part := func(config map[string]any, items ...ckpt.Item) func(*ckpt.Builder) string {
		if config["model_type"] == nil {
			config = map[string]any{"model_type": "llama", "quantization_config": config}
		}
		config = maps.Clone(config)
		config["torch_dtype"] = "bfloat16"
		return only(func(b *ckpt.Builder) { b.Shard(single, items...).JSON("config.json", config) })
	}
	for _, opt := range []coldload.Options{
		{}, {NoFuse: true}, {Layout: stages.LayoutDequant, DType: safetensors.F32}, {Layout: stages.LayoutRaw}, {DType: safetensors.BF16},
	} {
		got := loadPath(t, part(mixed, codes, fp8, signedTwin{down}, dense), opt)
		n := 0
		for _, build := range []func(*ckpt.Builder) string{part(codesConfig, codes), part(fp8Config, fp8), part(intsConfig, signedTwin{down}), part(nil, dense)} {
			for name, w := range loadPath(t, build, opt).All() {
				n++
				if g, ok := got.Lookup(name); !ok || g.DType != w.DType || !bytes.Equal(g.Bytes, w.Bytes) {
					t.Errorf("%s, fused %v: %s is not what it becomes alone", opt.Layout, !opt.NoFuse, name)
				}
			}
		}
		if n != len(got.Outputs()) {
			t.Errorf("%s: %d outputs, want %d", opt.Layout, len(got.Outputs()), n)
		}
	}
}
