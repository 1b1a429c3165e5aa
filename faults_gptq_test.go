package coldload_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// config is a config.json with a GPTQ section; changes overwrite the section's keys, nil removes one.
func config(model string, changes map[string]any) map[string]any {
	q := map[string]any{"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": false, "sym": true}
	for k, v := range changes {
		if v == nil {
			delete(q, k)
		} else {
			q[k] = v
		}
	}
	return map[string]any{"model_type": model, "quantization_config": q}
}

// gptqWith is a build of one file and a config with these changes.
func gptqWith(model string, changes map[string]any, items ...ckpt.Item) func(b *ckpt.Builder) string {
	return only(func(b *ckpt.Builder) { b.Shard(single, items...).JSON("config.json", config(model, changes)) })
}

func gptq(items ...ckpt.Item) func(b *ckpt.Builder) string { return gptqWith("llama", nil, items...) }

const (
	attn  = "model.layers.0.self_attn."
	mlp   = "model.layers.0.mlp."
	oProj = attn + "o_proj"
)

// o is a Module that nothing fuses with: K 256, N 128, groups of 64.
func o(opt ckpt.GPTQOptions) *ckpt.Module { return ckpt.GPTQ(oProj, 256, 128, 4, 64, opt) }

// qkv are three Modules of one K.
func qkv(opt ckpt.GPTQOptions) (q, k, v *ckpt.Module) {
	at := func(name string, n int) *ckpt.Module {
		opt.Seed += 10
		return ckpt.GPTQ(attn+name, 256, n, 4, 64, opt)
	}
	return at("q_proj", 256), at("k_proj", 64), at("v_proj", 128)
}

func i32(name string, shape ...int64) ckpt.T { return ckpt.Dense(name, safetensors.I32, 1, shape...) }

func f32s(name string, shape []int64, values ...float32) ckpt.T {
	var data []byte
	for _, v := range values {
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(v))
	}
	return ckpt.T{Name: name, DType: safetensors.F32, Shape: shape, Data: data}
}

// scalesOf are the Module's scales as F32, with one replaced.
func scalesOf(m *ckpt.Module, at int, value float32) ckpt.T {
	values := make([]float32, len(m.Scales))
	for i, s := range m.Scales {
		values[i] = s.Float32()
	}
	if at >= 0 {
		values[at] = value
	}
	return f32s(m.Base+".scales", []int64{int64(len(values) / m.N), int64(m.N)}, values...)
}

// f16Scales are the Module's scales with one replaced by these bits.
func f16Scales(m *ckpt.Module, at int, bits uint16) ckpt.T {
	t := ckpt.T{Name: m.Base + ".scales", DType: safetensors.F16, Shape: []int64{int64(len(m.Scales) / m.N), int64(m.N)}}
	for i, s := range m.Scales {
		v := s.Bits()
		if i == at {
			v = bits
		}
		t.Data = binary.LittleEndian.AppendUint16(t.Data, v)
	}
	return t
}

// bombs are n entries of dynamic, with their number in each pattern.
func bombs(pattern string, n int) map[string]any {
	entries := make(map[string]any, n)
	for i := range n {
		entries[fmt.Sprintf(pattern, i)] = map[string]any{}
	}
	return entries
}

func TestQuantConfigFaults(t *testing.T) {
	c := func(name string, code stages.Code, key string, value any, says ...string) row {
		return row{name: name, code: code, says: append(says, "config.json"), build: gptqWith("llama", map[string]any{key: value}, o(ckpt.GPTQOptions{}))}
	}
	noConfig := func(name, method string, items ...ckpt.Item) row {
		return row{
			name: "no config: " + name, code: stages.CodeConfig, says: []string{single, "looks quantised (" + method + ")", "quantization_config", "; add "},
			build: only(func(b *ckpt.Builder) {
				b.Shard(single, items...).JSON("config.json", map[string]any{"model_type": "llama"})
			}),
		}
	}
	refuses(t, []row{
		c("unknown method", stages.CodeUnsupported, "quant_method", "zip", `unknown quantisation method "zip"`, "gptq"),
		c("bits 5", stages.CodeConfig, "bits", 5, "bits", "2, 3, 4 or 8", "found 5"),
		c("bits 0", stages.CodeConfig, "bits", 0, "bits", "found 0"),
		c("bits -4", stages.CodeConfig, "bits", -4, "bits", "found -4"),
		c("bits as text", stages.CodeConfig, "bits", "four", "bits"),
		c("bits 4.5", stages.CodeConfig, "bits", 4.5, "bits"),
		c("no bits", stages.CodeConfig, "bits", nil, `"bits" is missing`),
		c("no group_size", stages.CodeConfig, "group_size", nil, `"group_size" is missing`),
		c("group_size 0", stages.CodeConfig, "group_size", 0, "group_size", "-1 or a positive number", "found 0"),
		c("group_size -2", stages.CodeConfig, "group_size", -2, "group_size", "found -2"),
		c("group_size near 2^63", stages.CodeConfig, "group_size", int64(math.MaxInt64), "group_size"),
		c("marlin", stages.CodeUnsupported, "checkpoint_format", "marlin", "marlin", "not supported yet"),
		c("is_marlin_format", stages.CodeUnsupported, "is_marlin_format", true, "marlin", "not supported yet"),
		c("unknown format", stages.CodeConfig, "checkpoint_format", "v9", "checkpoint_format", "found v9"),
		c("pack_dtype", stages.CodeConfig, "pack_dtype", "int64", "pack_dtype", "int32", "int64"),
		c("dynamic is a list", stages.CodeConfig, "dynamic", []int{1}, "dynamic"),
		c("dynamic entry is no object", stages.CodeConfig, "dynamic", map[string]any{"x": 1}, "dynamic", `"x"`),
		c("dynamic with look-ahead", stages.CodeConfig, "dynamic", map[string]any{"-:(?!x)": map[string]any{}}, "dynamic", "-:(?!x)", "look-around"),
		c("dynamic with a possessive quantifier", stages.CodeConfig, "dynamic", map[string]any{`a*+`: map[string]any{}}, "dynamic", "cannot be used", "possessive"),
		c("dynamic of another format", stages.CodeUnsupported, "dynamic", map[string]any{`+:.*o_proj`: map[string]any{"checkpoint_format": "gptq_v2"}}, `dynamic: "+:.*o_proj"`, "checkpoint_format gptq_v2", "as the whole checkpoint"),
		c("dynamic in other words", stages.CodeUnsupported, "dynamic", map[string]any{`x`: map[string]any{"pack_dtype": "int8"}}, `dynamic: "x"`, "pack_dtype int8"),
		c("dynamic of marlin", stages.CodeUnsupported, "dynamic", map[string]any{`x`: map[string]any{"is_marlin_format": true}}, `dynamic: "x"`, "is_marlin_format"),
		c("dynamic with other bits than the shapes", stages.CodeShape, "dynamic", map[string]any{`.*o_proj`: map[string]any{"bits": 8}}, "`bits` in", `dynamic: ".*o_proj"`),
		c("dynamic with other groups than the shapes", stages.CodeShape, "dynamic", map[string]any{`.*o_proj`: map[string]any{"group_size": 32}}, `dynamic: ".*o_proj"`),
		c("dynamic with a pattern of 5000 bytes", stages.CodeConfig, "dynamic", map[string]any{strings.Repeat("(a?)*", 1000): map[string]any{}}, "dynamic", "5000 bytes", "4096"),
		c("dynamic with repetitions of repetitions", stages.CodeConfig, "dynamic", bombs("((a{1,30}){1,30}x|y)*%d", 1000), "dynamic", "cannot be used", "bytes of memory"),
		c("dynamic with classes", stages.CodeConfig, "dynamic", bombs(strings.Repeat(`\w`, 100)+"%d", 100), "dynamic", "cannot be used", "bytes of memory"),
		c("dynamic with too many patterns", stages.CodeConfig, "dynamic", bombs(`-:.*\.layer%d\..*`, 50_000), "dynamic", "cannot be used", "bytes of memory"),
		c("dynamic with a back-reference", stages.CodeConfig, "dynamic", map[string]any{`(a)\1`: map[string]any{}}, "dynamic", "cannot be used"),
		{
			name: "dynamic says a quantised module is not", code: stages.CodeConfig, says: []string{single, oProj, "not quantised", ".weight", ".qweight"},
			build: gptqWith("llama", map[string]any{"dynamic": map[string]any{`-:.*o_proj$`: map[string]any{}}}, o(ckpt.GPTQOptions{})),
		},
		noConfig("gptq", "gptq", o(ckpt.GPTQOptions{})),
		noConfig("compressed-tensors", "compressed-tensors", i32(oProj+".weight_packed", 8, 8)),
		noConfig("fp8", "fp8", ckpt.Dense(oProj+".weight", safetensors.F8E4M3, 1, 8, 8), ckpt.Dense(oProj+".weight_scale", safetensors.F32, 1, 1)),
		noConfig("block fp8", "fp8", ckpt.Dense(oProj+".weight", safetensors.F8E4M3, 1, 8, 8), ckpt.Dense(oProj+".weight_scale_inv", safetensors.F32, 1, 1, 1)),
		{
			name: "no config at all: gptq", code: stages.CodeConfig, says: []string{single, "looks quantised"},
			build: only(func(b *ckpt.Builder) { b.Shard(single, o(ckpt.GPTQOptions{})) }),
		},
		{
			name: "configs that contradict each other", code: stages.CodeConfig, says: []string{"quantize_config.json", "group_size", "64", "128"},
			build: only(func(b *ckpt.Builder) {
				b.Shard(single, o(ckpt.GPTQOptions{})).JSON("config.json", config("llama", nil))
				b.JSON("quantize_config.json", map[string]any{"bits": 4, "group_size": 128})
			}),
		},
		{
			name: "compressed-tensors data under a gptq config", code: stages.CodeConfig, says: []string{single, oProj + ".weight_packed", "expected gptq", "found compressed-tensors"},
			build: gptq(i32(oProj+".weight_packed", 8, 8), ckpt.Dense(oProj+".weight_scale", safetensors.F16, 1, 8, 1)),
		},
		{
			name: "fp8 data under a gptq config", code: stages.CodeConfig, says: []string{single, oProj + ".weight", "expected gptq", "found fp8"},
			build: gptq(ckpt.Dense(oProj+".weight", safetensors.F8E4M3, 1, 8, 8), ckpt.Dense(oProj+".weight_scale_inv", safetensors.F32, 1, 1, 1)),
		},
	})
}

func TestQuantShapeFaults(t *testing.T) {
	m := func(name string, code stages.Code, item ckpt.Item, says ...string) row {
		return row{name: name, code: code, says: append(says, single, oProj), build: gptq(item)}
	}
	with := func(x ckpt.T) ckpt.Item { return ckpt.Replace(o(ckpt.GPTQOptions{}), x) }
	full := o(ckpt.GPTQOptions{Bias: true})
	rows := []row{
		m("8-bit data", stages.CodeShape, ckpt.GPTQ(oProj, 256, 128, 8, 64, ckpt.GPTQOptions{}), "config says 4 bits, the shapes say 8", ".qzeros"),
		m("2-bit data", stages.CodeShape, ckpt.GPTQ(oProj, 256, 128, 2, 64, ckpt.GPTQOptions{}), "config says 4 bits, the shapes say 2"),
		m("group size too small", stages.CodeShape, ckpt.GPTQ(oProj, 256, 128, 4, 128, ckpt.GPTQOptions{}), "groups of 64 over 256", "expected 4 rows", "2 rows (group size 128)", "group_size"),
		m("group size too large", stages.CodeShape, ckpt.GPTQ(oProj, 256, 128, 4, 32, ckpt.GPTQOptions{}), "groups of 64 over 256", "expected 4 rows", "8 rows (group size 32)"),
		m("groups where the data has one", stages.CodeShape, ckpt.GPTQ(oProj, 256, 128, 4, -1, ckpt.GPTQOptions{}), "expected 4 rows", "1 rows (group size 256)"),
		m("no scales", stages.CodeMember, ckpt.Without(full, "scales"), ".scales of its module is missing", oProj+".scales", "incomplete"),
		m("no qzeros", stages.CodeMember, ckpt.Without(full, "qzeros"), ".qzeros of its module is missing", oProj+".qzeros"),
		m("scales without qweight", stages.CodeMember, ckpt.Without(full, "qweight"), oProj+".scales", ".qweight is missing", "incomplete"),
		m("qzeros without qweight", stages.CodeMember, ckpt.Without(full, "qweight", "scales", "g_idx"), oProj+".qzeros", ".qweight is missing"),
		m("g_idx without qweight", stages.CodeMember, ckpt.Without(full, "qweight", "scales", "qzeros"), oProj+".g_idx", ".qweight is missing"),
		m("quantised and dense", stages.CodeMismatch, ckpt.List{full, ckpt.Dense(oProj+".weight", safetensors.F16, 1, 128, 256)}, "a quantised and a dense weight", "both"),
		m("qweight of one dim", stages.CodeShape, with(i32(oProj+".qweight", 4096)), "not a matrix", "2 dims", "[4096]"),
		m("qweight scalar", stages.CodeShape, with(i32(oProj+".qweight")), "not a matrix", "[]"),
		m("scales of three dims", stages.CodeShape, with(ckpt.Dense(oProj+".scales", safetensors.F16, 1, 4, 1, 128)), oProj+".scales", "not a matrix"),
		m("qweight of five dims", stages.CodeShape, with(i32(oProj+".qweight", 1, 1, 1, 32, 128)), "not a matrix", "[1, 1, 1, 32, 128]"),
		m("qweight without rows", stages.CodeShape, with(i32(oProj+".qweight", 0, 128)), oProj+".qweight", "[0, 128]"),
		m("qweight without columns", stages.CodeShape, with(i32(oProj+".qweight", 32, 0)), oProj+".qweight", "[32, 0]"),
		m("qweight 2^57 by 0", stages.CodeShape, with(i32(oProj+".qweight", 1<<57, 0)), oProj+".qweight", "0]"),
		m("scales without rows", stages.CodeShape, with(ckpt.Dense(oProj+".scales", safetensors.F16, 1, 0, 128)), oProj+".scales", "expected 4 rows", "0 rows"),
		m("scales of no column", stages.CodeShape, with(ckpt.Dense(oProj+".scales", safetensors.F16, 1, 4, 0)), oProj+".scales", "128", "0"),
		m("scales 0 by 2^58", stages.CodeShape, with(ckpt.Dense(oProj+".scales", safetensors.F16, 1, 0, 1<<58)), oProj+".scales"),
		m("qzeros 0 by 2^57", stages.CodeShape, with(i32(oProj+".qzeros", 0, 1<<57)), oProj+".qzeros"),
		m("qzeros without rows", stages.CodeShape, with(i32(oProj+".qzeros", 0, 16)), oProj+".qzeros", "expected 4", "found 0"),
		m("scales too narrow", stages.CodeShape, with(ckpt.Dense(oProj+".scales", safetensors.F16, 1, 4, 64)), oProj+".scales", "128", "64"),
		m("scales too wide", stages.CodeShape, with(ckpt.Dense(oProj+".scales", safetensors.F16, 1, 4, 256)), oProj+".scales", "128", "256"),
		m("qzeros too high", stages.CodeShape, with(i32(oProj+".qzeros", 5, 16)), oProj+".qzeros", "expected 4", "found 5"),
		m("g_idx too short", stages.CodeShape, with(i32(oProj+".g_idx", 255)), oProj+".g_idx", "[256]", "[255]"),
		m("g_idx of no bytes", stages.CodeShape, with(i32(oProj+".g_idx", 0)), oProj+".g_idx", "[256]", "[0]"),
		m("g_idx of two dims", stages.CodeShape, with(i32(oProj+".g_idx", 256, 1)), oProj+".g_idx", "[256]", "[256, 1]"),
		m("bias too long", stages.CodeShape, ckpt.Replace(full, ckpt.Dense(oProj+".bias", safetensors.F16, 1, 129)), oProj+".bias", "[128]", "[129]"),
		m("bias I32", stages.CodeShape, ckpt.Replace(full, i32(oProj+".bias", 128)), oProj+".bias", "F16, BF16 or F32", "I32"),
		m("qweight U8", stages.CodeShape, with(ckpt.Dense(oProj+".qweight", safetensors.U8, 1, 32, 128)), oProj+".qweight", "expected I32", "found U8"),
		m("g_idx I64", stages.CodeShape, with(ckpt.Dense(oProj+".g_idx", safetensors.I64, 1, 256)), oProj+".g_idx", "expected I32", "found I64"),
		m("scales F64", stages.CodeShape, with(ckpt.Dense(oProj+".scales", safetensors.F64, 1, 4, 128)), oProj+".scales", "F64"),
		m("awq data", stages.CodeShape, ckpt.List{
			i32(oProj+".qweight", 256, 16), i32(oProj+".qzeros", 4, 16), ckpt.Dense(oProj+".scales", safetensors.F16, 1, 4, 128),
		}, "AWQ", "gptq"),
		m("N is no multiple of 8", stages.CodeShape, ckpt.List{
			i32(oProj+".qweight", 32, 12), i32(oProj+".qzeros", 4, 2), ckpt.Dense(oProj+".scales", safetensors.F16, 1, 4, 12),
		}, "whole words", "12"),
	}
	rows = append(rows,
		row{
			name: "group_size -1 where the data has groups", code: stages.CodeShape, says: []string{oProj + ".scales", "expected 1 rows", "4 rows (group size 64)"},
			build: gptqWith("llama", map[string]any{"group_size": -1}, o(ckpt.GPTQOptions{})),
		},
		row{
			name: "lm_head without scales", code: stages.CodeMember, says: []string{"lm_head.qweight", "lm_head.scales"},
			build: gptq(ckpt.Without(ckpt.GPTQ("lm_head", 256, 128, 4, 64, ckpt.GPTQOptions{}), "scales")),
		},
		row{
			name: "override that the shapes contradict", code: stages.CodeShape, says: []string{oProj + ".scales", "groups of 32", "expected 8 rows", "4 rows"},
			build: gptqWith("llama", map[string]any{"dynamic": map[string]any{`+:.*o_proj$`: map[string]any{"group_size": 32}}}, o(ckpt.GPTQOptions{})),
		},
	)
	refuses(t, rows)
}

func TestQuantisedThatLoads(t *testing.T) {
	bias := o(ckpt.GPTQOptions{Bias: true})
	v2 := o(ckpt.GPTQOptions{V2: true})
	bare := o(ckpt.GPTQOptions{NoGIdx: true})
	one := ckpt.GPTQ(oProj, 256, 128, 4, -1, ckpt.GPTQOptions{})
	wide := ckpt.GPTQ(oProj, 64, 128, 4, 64, ckpt.GPTQOptions{})
	odd := ckpt.GPTQ(oProj, 96, 96, 4, 32, ckpt.GPTQOptions{Bias: true})
	strange := ckpt.GPTQ(oProj, 256, 128, 4, 16, ckpt.GPTQOptions{})
	partial := ckpt.GPTQ(oProj, 96, 128, 4, 64, ckpt.GPTQOptions{})
	head := ckpt.GPTQ("lm_head", 128, 192, 4, 64, ckpt.GPTQOptions{})
	marlin := func(m *ckpt.Module, d stages.DType) func(got loaded) {
		return func(got loaded) {
			got.t.Helper()
			groups := int64(len(m.Scales) / m.N)
			got.same(m.Base+".qweight", safetensors.I32, []int64{int64(m.K / 16), int64(2 * m.N)}, marlinWords(m))
			got.same(m.Base+".scales", d, []int64{groups, int64(m.N)}, marlinScales(d, m))
			if m.Bias == nil {
				got.names(m.Base+".qweight", m.Base+".scales")
			} else {
				got.same(m.Base+".bias", safetensors.F16, []int64{int64(m.N)}, biases(true, m))
			}
			if len(got.res.Warnings) > 0 {
				got.t.Errorf("warnings: %q", got.res.Warnings)
			}
		}
	}
	raw := func(m *ckpt.Module, reasons ...string) func(got loaded) {
		return func(got loaded) {
			got.t.Helper()
			for _, x := range m.Tensors() {
				got.same(x.Name, x.DType, x.Shape, x.Data)
			}
			got.names(names(m)...)
			kept := fmt.Sprint(got.res.Plan.Summary.Kept)
			if !containsAll(kept, reasons) || (len(reasons) == 0) != (len(got.res.Plan.Summary.Kept) == 0) {
				got.t.Errorf("kept %s, want %q", kept, reasons)
			}
		}
	}
	loads(t, []row{
		{name: "plain", build: gptq(o(ckpt.GPTQOptions{})), check: marlin(o(ckpt.GPTQOptions{}), safetensors.F16)},
		{name: "bias", build: gptq(bias), check: marlin(bias, safetensors.F16)},
		{name: "without g_idx", build: gptq(bare), check: marlin(bare, safetensors.F16)},
		{name: "v2", build: gptqWith("llama", map[string]any{"checkpoint_format": "gptq_v2"}, v2), check: marlin(v2, safetensors.F16)},
		{name: "one group", build: gptqWith("llama", map[string]any{"group_size": -1}, one), check: marlin(one, safetensors.F16)},
		{name: "one group, act-order has no meaning", build: gptqWith("llama", map[string]any{"group_size": -1, "desc_act": true}, one), check: marlin(one, safetensors.F16)},
		{name: "one group as large as K", build: gptq(wide), check: marlin(wide, safetensors.F16)},
		{name: "lm_head", build: gptq(head), check: marlin(head, safetensors.F16)},
		{name: "bf16", opt: coldload.Options{DType: safetensors.BF16}, build: gptq(bare), check: marlin(bare, safetensors.BF16)},
		{name: "K of the data but the config in quantize_config.json", build: only(func(b *ckpt.Builder) {
			b.Shard(single, bare).JSON("quantize_config.json", map[string]any{"bits": 4, "group_size": 64})
		}), check: marlin(bare, safetensors.F16)},
		{name: "raw", opt: coldload.Options{Layout: stages.LayoutRaw}, build: gptq(bias), check: raw(bias)},
		{name: "K and N without whole tiles", opt: coldload.Options{NoPad: true}, build: gptqWith("llama", map[string]any{"group_size": 32}, odd), check: raw(odd, "96 output features are not a multiple of 64")},
		{name: "groups of 16", build: gptqWith("llama", map[string]any{"group_size": 16}, strange), check: raw(strange, "groups of 32, 64, 128 or all, not 16")},
		{name: "a group that is cut off", build: gptq(partial), check: raw(partial, "no whole groups of 64")},
		{name: "dynamic groups", build: gptqWith("llama", map[string]any{"group_size": 128, "dynamic": map[string]any{
			`-:.*v_proj`: map[string]any{}, `+:model\.layers\.\d+\.self_attn\.o_proj$`: map[string]any{"group_size": 64},
		}}, o(ckpt.GPTQOptions{})), check: marlin(o(ckpt.GPTQOptions{}), safetensors.F16)},
		{name: "config without a quantised module", build: gptq(ckpt.Dense(oProj+".weight", safetensors.F16, 1, 4, 4)), check: func(got loaded) {
			got.names(oProj + ".weight")
		}},
		{name: "a bias without its weight", build: gptq(o(ckpt.GPTQOptions{}), ckpt.Dense("model.norm.bias", safetensors.F16, 1, 4)), check: func(got loaded) {
			got.names(oProj+".qweight", oProj+".scales", "model.norm.bias")
		}},
		{name: "ignored tensors", build: gptq(o(ckpt.GPTQOptions{}), i32(oProj+".workspace", 16), ckpt.Dense(attn+"rotary_emb.inv_freq", safetensors.F32, 1, 8)), check: func(got loaded) {
			got.names(oProj+".qweight", oProj+".scales")
			notes(got.t, got.res.Notes, "2 tensors are ignored")
		}},
	})
}

func names(item ckpt.Item) (all []string) {
	for _, x := range item.Tensors() {
		all = append(all, x.Name)
	}
	return all
}

// TestF32Scales: Marlin has no F32 scales, so they stay raw unless the user asks for a dtype that holds them.
func TestF32Scales(t *testing.T) {
	m := o(ckpt.GPTQOptions{})
	exact := ckpt.Replace(m, scalesOf(m, -1, 0))
	f16 := coldload.Options{DType: safetensors.F16}
	loads(t, []row{
		{name: "keep", build: gptq(exact), check: func(got loaded) {
			got.same(oProj+".scales", safetensors.F32, []int64{4, 128}, rawScales(safetensors.F32, m))
			got.same(oProj+".qweight", safetensors.I32, []int64{32, 128}, rawWords(m))
			if k := got.res.Plan.Summary.Kept; len(k) != 1 || !strings.Contains(k[0].Reason, "F16 or BF16 scales, these are F32") {
				got.t.Errorf("kept: %v", k)
			}
		}},
		{name: "f16", opt: f16, build: gptq(exact), check: func(got loaded) {
			got.same(oProj+".scales", safetensors.F16, []int64{4, 128}, marlinScales(safetensors.F16, m))
			got.same(oProj+".qweight", safetensors.I32, []int64{16, 256}, marlinWords(m))
		}},
		{name: "f16, F32 bias", opt: f16, build: gptq(ckpt.Replace(o(ckpt.GPTQOptions{Bias: true}), f32s(oProj+".bias", []int64{128}, ones(128)...))), check: func(got loaded) {
			var want []byte
			for range 128 {
				want = appendFloat(want, safetensors.F16, 1)
			}
			got.same(oProj+".bias", safetensors.F16, []int64{128}, want)
			got.same(oProj+".qweight", safetensors.I32, []int64{16, 256}, marlinWords(m))
		}},
		{name: "raw f16", opt: coldload.Options{DType: safetensors.F16, Layout: stages.LayoutRaw}, build: gptq(exact), check: func(got loaded) {
			got.same(oProj+".scales", safetensors.F16, []int64{4, 128}, rawScales(safetensors.F16, m))
		}},
	})
	refuses(t, []row{{
		name: "strict", opt: coldload.Options{Strict: true}, build: gptq(exact), code: stages.CodeLayout, says: []string{single, oProj, "F32", "--strict"},
	}})
	beyond := gptq(ckpt.Replace(m, scalesOf(m, 130, 70000)))
	breaks(t, []row{
		{name: "beyond F16", opt: f16, build: beyond, says: []string{single, oProj + ".scales", "element 130", "F16", "bf16"}},
		{name: "beyond F16, raw", opt: coldload.Options{DType: safetensors.F16, Layout: stages.LayoutRaw}, build: beyond, says: []string{single, oProj + ".scales", "70000", "F16"}},
	})
	loads(t, []row{{name: "beyond F16, kept", build: beyond}, {name: "beyond F16, as BF16", opt: coldload.Options{DType: safetensors.BF16}, build: beyond}})
}

func ones(n int) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = 1
	}
	return v
}

// TestBadValues: what only the bytes show.
func TestBadValues(t *testing.T) {
	m := o(ckpt.GPTQOptions{Bias: true})
	idx := func(change func(g []int32)) func(b *ckpt.Builder) string {
		g := append([]int32(nil), m.GIdx...)
		change(g)
		return gptq(ckpt.Replace(m, ckpt.Int32s(oProj+".g_idx", g...)))
	}
	order := o(ckpt.GPTQOptions{DescAct: true})
	rawOpt := coldload.Options{Layout: stages.LayoutRaw}
	nan, inf := gptq(ckpt.Replace(m, f16Scales(m, 200, 0x7E00))), gptq(ckpt.Replace(m, f16Scales(m, 511, 0xFC00)))
	badBias := ckpt.T{Name: oProj + ".bias", DType: safetensors.F16, Shape: []int64{128}, Data: append(make([]byte, 254), 0, 0x7C)}
	var rows []row
	for layout, opt := range map[string]coldload.Options{"marlin": {}, "raw": rawOpt} {
		rows = append(rows,
			row{name: layout + ": NaN scale", opt: opt, build: nan, says: []string{single, oProj + ".scales", "element 200", "not finite"}},
			row{name: layout + ": infinite scale", opt: opt, build: inf, says: []string{single, oProj + ".scales", "element 511", "not finite"}},
			row{name: layout + ": infinite bias", opt: opt, build: gptq(ckpt.Replace(m, badBias)), says: []string{single, oProj + ".bias", "element 127", "not finite"}},
			row{name: layout + ": g_idx out of range", opt: opt, build: idx(func(g []int32) { g[17] = 4 }), says: []string{single, oProj + ".g_idx", "g_idx[17]", "out of range", "0 to 3", "found 4"}},
			row{name: layout + ": g_idx negative", opt: opt, build: idx(func(g []int32) { g[0] = -1 }), says: []string{oProj + ".g_idx", "g_idx[0]", "out of range", "found -1"}},
			row{name: layout + ": g_idx of another group", opt: opt, build: idx(func(g []int32) { g[255] = 0 }), says: []string{single, oProj + ".g_idx", "g_idx[255]", "expected 3", "found 0", "--act-order"}},
			row{name: layout + ": act-order that the config denies", opt: opt, build: gptq(order), says: []string{single, oProj + ".g_idx", "desc_act is false", "--act-order"}},
			row{
				name: layout + ": g_idx beside one group", opt: opt, says: []string{oProj + ".g_idx", "g_idx[9]", "out of range", "0 to 0", "found 1"},
				build: gptqWith("llama", map[string]any{"group_size": -1}, ckpt.Replace(ckpt.GPTQ(oProj, 256, 128, 4, -1, ckpt.GPTQOptions{}), ckpt.Int32s(oProj+".g_idx", append(append(make([]int32, 9), 1), make([]int32, 246)...)...))),
			},
		)
	}
	q, k, v := qkv(ckpt.GPTQOptions{})
	k.GIdx[3] = 9
	rows = append(rows,
		row{name: "g_idx of a member", build: gptq(q, k, v), says: []string{single, attn + "k_proj.g_idx", "g_idx[3]"}},
		row{name: "g_idx of a member, raw", opt: rawOpt, build: gptq(q, k, v), says: []string{single, attn + "k_proj.g_idx", "g_idx[3]"}},
		row{
			name: "partial group, last index", build: gptq(ckpt.Replace(ckpt.GPTQ(oProj, 96, 128, 4, 64, ckpt.GPTQOptions{}), ckpt.Int32s(oProj+".g_idx", append(make([]int32, 95), 2)...))),
			says: []string{oProj + ".g_idx", "g_idx[64]", "expected 1", "found 0"},
		},
		row{
			name: "partial group, out of range", build: gptq(ckpt.Replace(ckpt.GPTQ(oProj, 96, 128, 4, 64, ckpt.GPTQOptions{}), ckpt.Int32s(oProj+".g_idx", append([]int32{2}, make([]int32, 95)...)...))),
			says: []string{oProj + ".g_idx", "g_idx[0]", "out of range", "0 to 1", "found 2"},
		},
		row{
			name: "dense value beyond F16", opt: coldload.Options{DType: safetensors.F16}, says: []string{single, "model.norm.weight", "1e+06", "--dtype bf16"},
			build: only(func(b *ckpt.Builder) { b.Shard(single, f32s("model.norm.weight", []int64{2}, 1, 1e6)) }),
		},
	)
	breaks(t, rows)
}

// TestOddZeros: zero points of a symmetric module do not count, but are worth a warning.
func TestOddZeros(t *testing.T) {
	m := o(ckpt.GPTQOptions{})
	zeros := ckpt.T{Name: oProj + ".qzeros", DType: safetensors.I32, Shape: []int64{4, 16}, Data: dataOf(m, oProj+".qzeros")}
	zeros.Data = append([]byte(nil), zeros.Data...)
	zeros.Data[4*5] = 0x78
	build := gptq(ckpt.Replace(m, zeros))
	warned := func(got loaded) {
		got.t.Helper()
		notes(got.t, got.res.Warnings, oProj+".qzeros", "word 5", "0x77777778", "0x77777777")
	}
	loads(t, []row{
		{name: "marlin", build: build, check: func(got loaded) {
			warned(got)
			got.same(oProj+".qweight", safetensors.I32, []int64{16, 256}, marlinWords(m))
			got.same(oProj+".scales", safetensors.F16, []int64{4, 128}, marlinScales(safetensors.F16, m))
		}},
		{name: "raw", opt: coldload.Options{Layout: stages.LayoutRaw}, build: build, check: func(got loaded) {
			warned(got)
			got.same(oProj+".qzeros", safetensors.I32, []int64{4, 16}, zeros.Data)
		}},
		{name: "v2 zeros under a v1 config", build: gptq(o(ckpt.GPTQOptions{V2: true})), check: func(got loaded) {
			notes(got.t, got.res.Warnings, oProj+".qzeros", "word 0", "0x88888888", "0x77777777")
		}},
	})
}
