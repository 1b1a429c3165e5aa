package coldload_test

import (
	"encoding/json"
	"testing"

	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// quantText is a quantization_config as a tool writes it.
func quantText(t *testing.T, text string) map[string]any {
	t.Helper()
	var q map[string]any
	if err := json.Unmarshal([]byte(text), &q); err != nil {
		t.Fatal(err)
	}
	return q
}

// quantised are o_proj as the four methods store it, and a small config of each.
var quantised = map[string]struct {
	item   ckpt.Item
	config string
}{
	"gptq":     {o(ckpt.GPTQOptions{}), `{"quant_method": "gptq", "bits": 4, "group_size": 64}`},
	"awq":      {ckpt.GPTQ(oProj, 256, 128, 4, 64, ckpt.GPTQOptions{NoGIdx: true, Asym: true}).AWQ("gemm"), `{"quant_method": "awq", "bits": 4, "group_size": 64}`},
	"fp8":      {block(oProj, 128, 1), `{"quant_method": "fp8", "weight_block_size": [128, 128]}`},
	"modelopt": {perTensor(oProj, 128, 1), `{"quant_method": "modelopt", "quant_algo": "FP8"}`},
}

// TestUnknownConfigKeys: a key that nobody knows is refused by name, whatever the method.
func TestUnknownConfigKeys(t *testing.T) {
	const advice = "a version that knows it, or remove the key"
	var bad, good []row
	for method, m := range quantised {
		with := func(key string, value any) func(b *ckpt.Builder) string {
			return fp8With(changed(quantText(t, m.config), key, value), m.item)
		}
		for what, value := range map[string]any{"true": true, "number": 0, "text": "x", "list": []int{1}, "object": map[string]any{"a": nil}} {
			bad = append(bad, row{
				name: method + ": " + what, code: stages.CodeUnsupported, build: with("new_flag", value),
				says: []string{"config.json", `"new_flag" is not known`, "one of ", advice},
			})
		}
		for what, value := range map[string]any{"false": false, "no text": "", "empty list": []int{}, "empty object": map[string]any{}} {
			good = append(good, row{name: method + ": " + what, build: with("new_flag", value)})
		}
		good = append(good, row{name: method + ": null", build: fp8With(quantText(t, m.config[:len(m.config)-1]+`, "new_flag": null}`), m.item)})
	}
	entry := func(name string, code stages.Code, key string, value any, says ...string) row {
		return row{name: name, code: code, build: fp8With(changed(quantText(t, quantised["gptq"].config), key, value), quantised["gptq"].item), says: says}
	}
	dynamic := func(key string, value any) map[string]any { return map[string]any{".*": map[string]any{key: value}} }
	mixed := quantText(t, `{"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": {"`+oProj+`": {"quant_algo": "FP8", "rotated": true}}}`)
	bad = append(bad,
		entry("gptq: an override", stages.CodeUnsupported, "dynamic", dynamic("foo", 1), `dynamic: ".*"`, `"foo" is not known`, advice),
		entry("gptq: a backend of AWQ", stages.CodeConfig, "backend", "llm-awq", "backend", "llm-awq", "AWQ"),
		entry("gptq: zero points of a symmetric checkpoint", stages.CodeConfig, "zero_point", true, "zero_point", "false, as `sym` is true"),
		entry("gptq: codes that are no integers", stages.CodeUnsupported, "data_type", "mx_fp", "data_type mx_fp"),
		entry("gptq: scales of scales", stages.CodeUnsupported, "super_bits", 6, `"super_bits" is not known`),
		row{name: "modelopt: a layer", code: stages.CodeUnsupported, build: fp8With(mixed, quantised["modelopt"].item), says: []string{"quantized_layers", oProj, `"rotated" is not known`}},
		row{
			name: "modelopt: scales of inputs", code: stages.CodeUnsupported, says: []string{`"pre_quant_scale" is not known`},
			build: fp8With(changed(quantText(t, quantised["modelopt"].config), "pre_quant_scale", true), quantised["modelopt"].item),
		},
	)
	refuses(t, bad)
	loads(t, good)
}

// TestConfigsOfTools: the configs that tools write are read.
func TestConfigsOfTools(t *testing.T) {
	var rows []row
	for name, c := range map[string]struct{ method, text string }{
		"AutoGPTQ": {"gptq", `{"bits": 4, "group_size": 64, "damp_percent": 0.01, "desc_act": false, "static_groups": false, "sym": true, "true_sequential": true,
			"model_name_or_path": null, "model_file_base_name": "model", "is_marlin_format": false, "quant_method": "gptq"}`},
		"transformers, GPTQ": {"gptq", `{"batch_size": 1, "bits": 4, "block_name_to_quantize": null, "cache_block_outputs": true, "damp_percent": 0.01, "dataset": "c4",
			"desc_act": false, "exllama_config": {"version": 1}, "group_size": 64, "max_input_length": null, "model_seqlen": 2048,
			"module_name_preceding_first_block": ["model.embed_tokens"], "modules_in_block_to_quantize": [["self_attn.k_proj", "self_attn.v_proj"], ["self_attn.o_proj"]],
			"pad_token_id": 1, "quant_method": "gptq", "sym": true, "tokenizer": null, "true_sequential": true, "use_cuda_fp16": false, "use_exllama": true}`},
		"transformers and GPTQModel": {"gptq", `{"act_group_aware": true, "backend": "auto", "batch_size": 1, "bits": 4, "cache_block_outputs": true, "checkpoint_format": "gptq",
			"damp_percent": 0.1, "dataset": ["a text"], "desc_act": false, "format": "gptq", "group_size": 64, "meta": {"quantizer": ["optimum:2.1.0", "gptqmodel:6.0.3"]},
			"quant_method": "gptq", "sym": true, "true_sequential": true}`},
		"AutoRound, GPTQ": {"gptq", `{"bits": 4, "data_type": "int", "group_size": 64, "sym": true, "enable_quanted_input": false, "iters": 1000, "nsamples": 512, "seqlen": 2048,
			"low_gpu_mem_usage": true, "autoround_version": "0.13.0", "dynamic": {"-:.*linear_attn.*": {}, "+:.*down_proj.*": {"bits": 8, "data_type": "int", "act_bits": 16}},
			"lm_head": false, "provider": "auto-round", "block_name_to_quantize": "model.layers", "quant_method": "gptq", "damp_percent": 0.01, "desc_act": false, "true_sequential": false}`},
		"AutoAWQ": {"awq", `{"bits": 4, "group_size": 64, "modules_to_not_convert": ["visual"], "quant_method": "awq", "version": "gemm", "zero_point": true}`},
		"transformers, AWQ": {"awq", `{"backend": "autoawq", "bits": 4, "do_fuse": false, "exllama_config": null, "fuse_max_seq_len": null, "group_size": 64,
			"modules_to_fuse": null, "modules_to_not_convert": null, "quant_method": "awq", "version": "gemm", "zero_point": true}`},
		"llm-awq's own":  {"awq", `{"quant_method": "awq", "zero_point": true, "q_group_size": 64, "w_bit": 4, "version": "GEMM"}`},
		"AutoRound, AWQ": {"awq", `{"bits": 4, "group_size": 64, "sym": false, "data_type": "int", "iters": 200, "autoround_version": "0.5.1", "quant_method": "awq", "zero_point": true, "version": "gemm"}`},
		"experts' quantisers": {"awq", `{"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm", "zero_point": true,
			"modules_to_not_convert": ["model.layers.1.", ".shared_expert", "linear_attn", "gate", "visual."]}`},
		"DeepSeek": {"fp8", `{"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "scale_fmt": "ue8m0", "weight_block_size": [128, 128]}`},
		"MiniMax":  {"fp8", `{"activation_scheme": "dynamic", "fmt": "float8_e4m3fn", "quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": ["gate", "e_score_correction_bias", "lm_head"]}`},
		"Qwen":     {"fp8", `{"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head", "model.layers.0.mlp.gate", "model.layers.0.input_layernorm"]}`},
		"Mistral":  {"fp8tensor", `{"activation_scheme": "static", "dequantize": false, "modules_to_not_convert": ["model.vision_tower", "model.multi_modal_projector", "lm_head"], "quant_method": "fp8", "weight_block_size": null}`},
		"AutoFP8":  {"fp8tensor", `{"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"], "kv_cache_quant_targets": ["k_proj", "v_proj"]}`},
		"ModelOpt": {"modelopt", `{"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_scheme": {"num_bits": 8, "type": "float", "dynamic": false}, "producer": {"name": "modelopt", "version": "0.33.0"},
			"ignore": ["lm_head", "model.layers.1*", "model.layers.0.self_attn.o", "*.mlp.gate"], "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float"}}}}`},
	} {
		item := quantised[c.method].item
		if c.method == "fp8tensor" {
			item = quantised["modelopt"].item
		}
		rows = append(rows, row{name: name, build: fp8With(quantText(t, c.text), item)})
	}
	loads(t, rows)
}

// TestExcludedButQuantised: a module that the config says is not quantised, and that is by its tensors, is refused with the entry. What only some tools
// would take for its name is noted at most.
func TestExcludedButQuantised(t *testing.T) {
	for _, list := range []struct {
		method, key string
		bad, good   []string
	}{
		{
			"awq", "modules_to_not_convert",
			[]string{"o_proj", oProj, "self_attn", ".self_attn.", "model.layers.0.", "layers.0.self_attn", "model"},
			[]string{"o_pro", "attn", "layers.00", "model.layers.0.self_attn.o_proj.x", "", "."},
		},
		{"fp8", "modules_to_not_convert", []string{"o_proj", oProj, "model.layers.0", "self_attn.o_proj"}, []string{"proj", "self_attn", "model.layers.0.self_attn.o", "layers.0", ""}},
		{"fp8", "ignored_layers", []string{oProj}, []string{"_proj", attn + "q_proj"}},
		{
			"modelopt", "exclude_modules",
			[]string{oProj, "model.layers.0.self_attn*", "*o_proj", "*.self_attn.?_proj", "model.layers.[!1].*"},
			[]string{"o_proj", "self_attn", "model.layers.0.self_attn", "model.layers.1*", "*self_attn", "model.layers.0.mlp*", "[", ""},
		},
		{"modelopt", "ignore", []string{oProj, "*proj"}, []string{"lm_head"}},
	} {
		m := quantised[list.method]
		with := func(entry string) func(b *ckpt.Builder) string {
			return fp8With(changed(quantText(t, m.config), list.key, []string{"lm_head", entry}), m.item)
		}
		var bad, good []row
		for _, e := range list.bad {
			bad = append(bad, row{
				name: list.method + ": " + list.key + " " + e, code: stages.CodeConfig, build: with(e),
				says: []string{single, oProj, "config.json", "`" + list.key + "` says that it is not quantised (" + e + ")", "expected a weight that is not quantised", "found a ."},
			})
		}
		for _, e := range list.good {
			good = append(good, row{name: list.method + ": " + list.key + " " + e, build: with(e)})
		}
		bad = append(bad, row{
			name: list.method + ": no list", code: stages.CodeConfig, says: []string{list.key, "a list of strings"},
			build: fp8With(changed(quantText(t, m.config), list.key, 3), m.item),
		})
		refuses(t, bad)
		loads(t, good)
	}
	layers := `{"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": {"` + oProj + `": {"quant_algo": "FP8"}}, "exclude_modules": ["*self_attn*"]}`
	experts := ckpt.List{
		ckpt.Dense(mlp+"experts.gate_up_proj", safetensors.F8E4M3, 1, 2, 256, 128), f32s(mlp+"experts.gate_up_proj_scale_inv", []int64{2, 2, 1}, 1, 1, 1, 1),
		ckpt.Dense(mlp+"experts.down_proj", safetensors.F8E4M3, 1, 2, 128, 128), f32s(mlp+"experts.down_proj_scale_inv", []int64{2, 1, 1}, 1, 1),
	}
	refuses(t, []row{
		{name: "mixed", code: stages.CodeConfig, build: fp8With(quantText(t, layers), quantised["modelopt"].item), says: []string{oProj, "`exclude_modules` says", "(*self_attn*)"}},
		{
			name: "experts in one tensor", code: stages.CodeConfig, says: []string{"experts.", "`modules_to_not_convert` says", "(model.layers.0.mlp.experts)"},
			build: fp8With(changed(fp8BlockConfig, "modules_to_not_convert", []string{"model.layers.0.mlp.experts"}), experts),
		},
	})
	part := func(name string) *ckpt.Module {
		return ckpt.GPTQ(mlp+name, 256, 128, 4, 64, ckpt.GPTQOptions{NoGIdx: true, Asym: true})
	}
	loads(t, []row{{
		name: "a part of a component", build: fp8With(changed(quantText(t, quantised["awq"].config), "modules_to_not_convert", []string{"gate"}), part("gate_proj").AWQ("gemm"), part("up_proj").AWQ("gemm")),
		check: func(got loaded) {
			notes(got.t, got.res.Plan.Notes, "modules_to_not_convert", `"gate" is in the name of `+mlp+"gate_proj", "whole components")
		},
	}})
}
