package discover

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/coldload/coldload/stages"
)

// withConfigs makes a Checkpoint of one Shard and the config files.
func withConfigs(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := folder(t, files)
	fill(t, dir, map[string]string{"model.safetensors": "w"})
	return dir
}

// TestFixtures reads the config files of real tools (transformers 5.23, gptqmodel 7.7, compressed-tensors 0.20).
func TestFixtures(t *testing.T) {
	llama := ModelConfig{ModelType: "llama", Architectures: []string{"LlamaForCausalLM"}, DType: "bfloat16", NumLayers: 1, HiddenSize: 256, TieWordEmbeddings: true}
	moe := ModelConfig{ModelType: "qwen3_moe", Architectures: []string{"Qwen3MoeForCausalLM"}, DType: "bfloat16", NumLayers: 1, NumExperts: 4, HiddenSize: 256, IntermediateSize: 512, TieWordEmbeddings: true}
	for _, tc := range []struct {
		name   string
		base   ModelConfig
		change func(*ModelConfig)
		method string // empty: not quantised
		bits   int64
		group  int64
	}{
		{"gptq_dense_8b_g128", llama, func(c *ModelConfig) { c.IntermediateSize = 256 }, "gptq", 8, 128},
		{"gptq_dense_4b_g32_asym_v2", llama, func(c *ModelConfig) { c.IntermediateSize = 384 }, "gptq", 4, 32},
		{"gptq_dense_4b_g128_desc_act_bias", llama, func(c *ModelConfig) {
			c.ModelType, c.Architectures, c.IntermediateSize = "qwen2", []string{"Qwen2ForCausalLM"}, 512
		}, "gptq", 4, 128},
		{"gptq_moe_4b_g128_sharded", moe, func(c *ModelConfig) { c.MoEIntermediateSize = 256 }, "gptq", 4, 128},
		{"awq_moe_4b_g64", moe, func(c *ModelConfig) { c.MoEIntermediateSize = 128 }, "awq", 4, 64},
		{"ct_moe_w4a16_g32", moe, func(c *ModelConfig) { c.MoEIntermediateSize = 128 }, "compressed-tensors", 0, 0},
		{"fp8_block_dense", llama, func(c *ModelConfig) { c.IntermediateSize = 256 }, "fp8", 0, 0},
		{"plain_bf16_sharded", moe, func(c *ModelConfig) {
			c.NumLayers, c.HiddenSize, c.IntermediateSize, c.MoEIntermediateSize = 2, 128, 256, 64
		}, "", 0, 0},
		{"mxfp4_gptoss", moe, func(c *ModelConfig) {
			c.ModelType, c.Architectures, c.TieWordEmbeddings = "gpt_oss", []string{"GptOssForCausalLM"}, false
			c.HiddenSize, c.IntermediateSize = 128, 128
		}, "mxfp4", 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := withConfigs(t, nil)
			if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", tc.name))); err != nil {
				t.Fatal(err)
			}
			ck := discover(t, dir, Options{})
			want := tc.base
			tc.change(&want)
			want.Present, want.Doc = true, ck.Config.Doc
			if !reflect.DeepEqual(*ck.Config, want) {
				t.Errorf("config %+v, want %+v", *ck.Config, want)
			}
			if len(ck.Notes) > 0 {
				t.Errorf("notes %q", ck.Notes)
			}
			if tc.method == "" {
				if ck.Quant != nil {
					t.Errorf("quant %+v", ck.Quant)
				}
				return
			}
			bits, _, f1 := ck.Quant.Int("bits", "w_bit")
			group, _, f2 := ck.Quant.Int("group_size", "q_group_size")
			if ck.Quant.Method != tc.method || ck.Quant.Where != "config.json: quantization_config" || bits != tc.bits || group != tc.group || f1 != nil || f2 != nil {
				t.Errorf("%s in %s, %d bits, group %d, %v, %v", ck.Quant.Method, ck.Quant.Where, bits, group, f1, f2)
			}
		})
	}
}

func TestNoConfig(t *testing.T) {
	ck := discover(t, withConfigs(t, nil), Options{})
	if !reflect.DeepEqual(*ck.Config, ModelConfig{}) || ck.Quant != nil {
		t.Errorf("config %+v, quant %+v", ck.Config, ck.Quant)
	}
}

func TestModelConfig(t *testing.T) {
	for _, tc := range []struct {
		name, json string
		want       ModelConfig
		note       string
	}{
		{name: "empty", json: `{}`},
		{name: "nulls are absent", json: `{"num_experts": null, "dtype": null, "architectures": null, "text_config": null, "quantization_config": null, "tie_word_embeddings": null}`},
		{name: "old dtype", json: `{"torch_dtype": "float16"}`, want: ModelConfig{DType: "float16"}},
		{name: "dtype with its module", json: `{"dtype": "torch.bfloat16", "torch_dtype": "float16"}`, want: ModelConfig{DType: "bfloat16"}},
		{name: "mixtral", json: `{"num_local_experts": 8}`, want: ModelConfig{NumExperts: 8}},
		{name: "qwen", json: `{"num_experts": 128}`, want: ModelConfig{NumExperts: 128}},
		{name: "deepseek", json: `{"n_routed_experts": 256}`, want: ModelConfig{NumExperts: 256}},
		{name: "ernie", json: `{"moe_num_experts": 64}`, want: ModelConfig{NumExperts: 64}},
		{name: "synonyms that agree", json: `{"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 0}`, want: ModelConfig{NumExperts: 4}},
		{
			name: "wrapper", json: `{"model_type": "vl", "dtype": "bfloat16", "hidden_size": 1, "tie_word_embeddings": false,
				"text_config": {"model_type": "t", "dtype": "float32", "hidden_size": 64, "num_experts": 8, "num_hidden_layers": 2, "tie_word_embeddings": true}}`,
			want: ModelConfig{ModelType: "vl", TextModelType: "t", DType: "bfloat16", HiddenSize: 64, NumExperts: 8, NumLayers: 2},
		},
		{
			name: "wrapper twice", json: `{"thinker_config": {"text_config": {"num_experts": 8, "dtype": "float16", "tie_word_embeddings": true}}}`,
			want: ModelConfig{NumExperts: 8, DType: "float16", TieWordEmbeddings: true},
		},
		{name: "first name wins", json: `{"num_layers": 28, "num_hidden_layers": 56}`, want: ModelConfig{NumLayers: 56}},
		{name: "one number a layer", json: `{"num_experts": [16, 16], "moe_intermediate_size": [3072, 3072]}`, want: ModelConfig{NumExperts: 16, MoEIntermediateSize: 3072}},
		{name: "layers that differ", json: `{"intermediate_size": [64, 32], "hidden_size": []}`, note: "intermediate_size differs between layers"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ck := discover(t, withConfigs(t, map[string]string{configName: tc.json}), Options{})
			tc.want.Present, tc.want.Doc = true, ck.Config.Doc
			if !reflect.DeepEqual(*ck.Config, tc.want) {
				t.Errorf("config %+v, want %+v", *ck.Config, tc.want)
			}
			if string(ck.Config.Doc.Raw()) != tc.json {
				t.Errorf("raw %s", ck.Config.Doc.Raw())
			}
			if notes := strings.Join(ck.Notes, ""); !strings.Contains(notes, tc.note) || (tc.note == "") != (notes == "") {
				t.Errorf("notes %q", notes)
			}
		})
	}
}

func TestConfigRefused(t *testing.T) {
	one := []stages.Code{stages.CodeConfig}
	for _, tc := range []struct {
		name, json string
		want       []stages.Code
		words      []string
	}{
		{"empty", ``, one, []string{"config.json", "not valid JSON"}},
		{"array", `[]`, one, []string{"not an object"}},
		{"truncated", `{"a": `, one, []string{"at byte 6"}},
		{"trailing", `{} {}`, one, []string{"after the end"}},
		{"byte order mark", "\ufeff{}", one, nil},
		{"duplicate", `{"a": 1, "a": 2}`, one, []string{`"a" twice`, "at byte 9"}},
		{"duplicate through an escape", `{"a": 1, "\u0061": 2}`, one, []string{"twice"}},
		{"duplicate, deep", `{"x": [{"a": 1, "a": 1}]}`, one, []string{"twice"}},
		{"UTF-8", "{\"a\": \"\xff\"}", one, []string{"UTF-8", "at byte 7"}},
		{"Infinity", `{"time_step_limit": [0.0, Infinity]}`, one, []string{"Python wrote Infinity", "at byte 26"}},
		{"NaN", `{"a": NaN}`, one, []string{"Python wrote NaN"}},
		{"text for a number", `{"num_experts": "x"}`, one, []string{"num_experts", "a whole number", `"x"`}},
		{"digits in a text", `{"num_experts": "8"}`, one, []string{`found "8"`}},
		{"negative", `{"hidden_size": -1}`, one, []string{"hidden_size", "from 0", "-1"}},
		{"fraction", `{"num_hidden_layers": 1.5}`, one, []string{"num_hidden_layers"}},
		{"whole fraction", `{"num_hidden_layers": 4.0}`, one, []string{"found 4.0"}},
		{"exponent", `{"num_hidden_layers": 1e2}`, one, nil},
		{"huge", `{"num_experts": 99999999999999999999}`, one, nil},
		{"large", `{"num_experts": 2000000}`, one, []string{"1048576"}},
		{"bool for a number", `{"num_experts": true}`, one, nil},
		{"object for a number", `{"num_experts": {}}`, one, nil},
		{"list with a text", `{"num_experts": [1, "x"]}`, one, []string{"a list of whole numbers"}},
		{"list with a null", `{"num_experts": [1, null]}`, one, nil},
		{"number for a text", `{"model_type": 1}`, one, []string{"model_type", "a string"}},
		{"text for a list", `{"architectures": "x"}`, one, []string{"architectures", "a list of strings"}},
		{"text for a bool", `{"tie_word_embeddings": "true"}`, one, []string{"true or false"}},
		{"text for a section", `{"text_config": "x"}`, one, []string{"text_config", "an object"}},
		{"in a section", `{"text_config": {"num_experts": -4}}`, one, []string{"text_config.num_experts"}},
		{"experts that differ", `{"num_experts": 4, "n_routed_experts": 8}`, one, []string{"num_experts", "n_routed_experts", "4 and 8"}},
		{"text for a quantisation", `{"quantization_config": "gptq"}`, one, []string{"quantization_config", "an object"}},
		{"method of the wrong type", `{"quantization_config": {"quant_method": 4}}`, one, []string{"quantization_config.quant_method"}},
		{"everything", `{"num_experts": "x", "hidden_size": -1, "model_type": []}`, slices.Repeat(one, 3), nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			wantFaults(t, refused(t, withConfigs(t, map[string]string{configName: tc.json}), Options{}), tc.want, tc.words...)
		})
	}
	t.Run("folder", func(t *testing.T) {
		wantFaults(t, refused(t, withConfigs(t, map[string]string{configName + "/": ""}), Options{}), one, "a folder")
	})
	t.Run("too large", func(t *testing.T) {
		dir := withConfigs(t, map[string]string{configName: ""})
		if err := os.Truncate(filepath.Join(dir, configName), maxConfig+1); err != nil {
			t.Fatal(err)
		}
		wantFaults(t, refused(t, dir, Options{}), one, "too large", "67108864", "67108865")
	})
}
