package synth

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coldload/coldload/safetensors"
)

func mustTensors(t *testing.T, o Options) []Spec {
	t.Helper()
	specs, err := Tensors(o)
	if err != nil {
		t.Fatal(err)
	}
	return specs
}

func find(t *testing.T, specs []Spec, name string) Spec {
	t.Helper()
	i := slices.IndexFunc(specs, func(s Spec) bool { return s.Name == name })
	if i < 0 {
		t.Fatalf("no tensor %q", name)
	}
	return specs[i]
}

// TestEveryModelLists builds the list of every model in every format: names are unique, sizes are sane.
func TestEveryModelLists(t *testing.T) {
	for _, m := range Models() {
		for _, f := range Formats() {
			if !m.Has(f) {
				continue
			}
			seen := map[string]bool{}
			total := int64(0)
			for _, s := range mustTensors(t, Options{Model: m.Name, Format: f, Layers: min(m.Layers, 5)}) {
				n, err := s.Bytes()
				if err != nil || n <= 0 || seen[s.Name] || s.Fill == nil {
					t.Fatalf("%s: %s: bytes %d, error %v, seen %v", m.Name, s.Name, n, err, seen[s.Name])
				}
				seen[s.Name] = true
				total += n
			}
			t.Logf("%s %s: %d tensors, %.2f GB", m.Name, f, len(seen), float64(total)/1e9)
		}
	}
}

// TestParameterCounts compares whole models with the numbers of parameters that their makers give (in billions; of models that also see, those of the
// language model).
func TestParameterCounts(t *testing.T) {
	for model, want := range map[string]float64{
		"qwen3-30b-a3b": 30.53, "qwen3-235b-a22b": 235.09, "mixtral-8x7b": 46.70, "deepseek-v3": 671.03, "glm-4.5-air": 106.85,
		"minimax-m2": 228.69, "llama-3-8b": 8.03, "qwen2-7b": 7.62, "qwen2-moe": 14.32,
		"gpt-oss-20b": 20.91, "gpt-oss-120b": 116.83,
		"deepseek-v3-mtp": 684.49, "deepseek-v2-lite": 15.71, "kimi-k2": 1026.41, "kimi-k2.5": 1026.41, "glm-4.5": 358.34, "llama-4-scout": 107.77,
		"qwen3-vl-30b-a3b": 30.53, "qwen3.5-35b-a3b": 34.66, "deepseek-v3.2": 685.36,
	} {
		total := int64(0)
		for _, s := range mustTensors(t, Options{Model: model, Format: FormatNone}) {
			n, err := safetensors.Elements(s.Shape)
			if err != nil {
				t.Fatal(err)
			}
			total += n
		}
		if got := float64(total) / 1e9; math.Abs(got-want) > 0.006 {
			t.Errorf("%s: %.3f billion parameters, want %.2f", model, got, want)
		}
	}
}

// TestRealShapes spot-checks names and shapes that are known of the real checkpoints.
func TestRealShapes(t *testing.T) {
	tests := []struct {
		model  string
		format Format
		name   string
		want   string
	}{
		{"qwen3-30b-a3b", FormatGPTQ, "model.layers.0.mlp.experts.127.gate_proj.qweight", "I32[256 768]"},
		{"qwen3-30b-a3b", FormatGPTQ, "model.layers.0.mlp.experts.0.down_proj.scales", "F16[6 2048]"},
		{"qwen3-30b-a3b", FormatGPTQ, "model.layers.0.self_attn.q_proj.qzeros", "I32[16 512]"},
		{"qwen3-30b-a3b", FormatGPTQ, "model.layers.0.self_attn.q_norm.weight", "BF16[128]"},
		{"qwen3-30b-a3b", FormatGPTQ, "model.layers.0.mlp.gate.weight", "BF16[128 2048]"},
		{"qwen3-30b-a3b", FormatAWQ, "model.layers.0.mlp.experts.127.gate_proj.qweight", "I32[2048 96]"},
		{"qwen3-30b-a3b", FormatAWQ, "model.layers.0.mlp.experts.0.down_proj.qzeros", "I32[6 256]"},
		{"glm-4.5-air", FormatAWQ, "model.layers.0.mlp.down_proj.weight", "BF16[4096 10944]"}, // 10944 is no multiple of 128
		{"qwen3-30b-a3b", FormatNone, "lm_head.weight", "BF16[151936 2048]"},
		{"qwen3-235b-a22b", FormatNone, "model.layers.0.self_attn.o_proj.weight", "BF16[4096 8192]"},
		{"mixtral-8x7b", FormatNone, "model.layers.0.block_sparse_moe.experts.7.w2.weight", "BF16[4096 14336]"},
		{"mixtral-8x7b", FormatGPTQ, "model.layers.0.block_sparse_moe.experts.7.w3.g_idx", "I32[4096]"},
		{"deepseek-v3", FormatNone, "model.layers.0.self_attn.kv_a_proj_with_mqa.weight", "BF16[576 7168]"},
		{"deepseek-v3", FormatNone, "model.layers.0.self_attn.q_b_proj.weight", "BF16[24576 1536]"},
		{"deepseek-v3", FormatNone, "model.layers.0.self_attn.kv_b_proj.weight", "BF16[32768 512]"},
		{"deepseek-v3", FormatNone, "model.layers.2.mlp.gate_proj.weight", "BF16[18432 7168]"},
		{"deepseek-v3", FormatNone, "model.layers.3.mlp.gate.e_score_correction_bias", "F32[256]"},
		{"deepseek-v3", FormatGPTQ, "model.layers.3.mlp.shared_experts.down_proj.qweight", "I32[256 7168]"},
		{"deepseek-v3", FormatFP8, "model.layers.0.self_attn.kv_a_proj_with_mqa.weight", "F8_E4M3[576 7168]"},
		{"deepseek-v3", FormatFP8, "model.layers.0.self_attn.kv_a_proj_with_mqa.weight_scale_inv", "F32[5 56]"},
		{"deepseek-v3", FormatFP8Tensor, "model.layers.3.mlp.experts.255.up_proj.input_scale", "F32[]"},
		{"deepseek-v3", FormatNVFP4, "model.layers.3.mlp.experts.255.up_proj.weight_scale", "F8_E4M3[2048 448]"},
		{"deepseek-v3", FormatNVFP4, "model.layers.3.mlp.experts.255.up_proj.weight_scale_2", "F32[]"},
		{"glm-4.5-air", FormatNVFP4Compressed, "model.layers.0.mlp.down_proj.weight_packed", "U8[4096 5472]"},
		{"glm-4.5-air", FormatNVFP4Compressed, "model.layers.0.mlp.down_proj.weight_global_scale", "F32[1]"},
		{"glm-4.5-air", FormatFP8Channel, "model.layers.0.self_attn.q_proj.weight_scale", "BF16[12288 1]"},
		{"glm-4.5-air", FormatGPTQ, "model.layers.0.self_attn.q_proj.bias", "F16[12288]"},
		{"glm-4.5-air", FormatGPTQ, "model.layers.0.mlp.down_proj.weight", "BF16[4096 10944]"}, // 10944 is no multiple of 128
		{"glm-4.5-air", FormatGPTQ, "model.layers.1.mlp.experts.0.down_proj.qweight", "I32[176 4096]"},
		{"deepseek-v3-mtp", FormatFP8, "model.layers.4.eh_proj.weight", "BF16[7168 14336]"},
		{"deepseek-v3-mtp", FormatFP8, "model.layers.4.shared_head.head.weight", "BF16[129280 7168]"},
		{"deepseek-v3-mtp", FormatFP8, "model.layers.4.mlp.experts.255.down_proj.weight_scale_inv", "F32[56 16]"},
		{"deepseek-v3.2", FormatFP8, "model.layers.0.self_attn.indexer.wq_b.weight", "F8_E4M3[8192 1536]"},
		{"deepseek-v3.2", FormatFP8, "model.layers.0.self_attn.indexer.wk.weight_scale_inv", "F32[1 56]"},
		{"deepseek-v3.2", FormatFP8, "model.layers.0.self_attn.indexer.weights_proj.weight", "BF16[64 7168]"},
		{"deepseek-v2-lite", FormatNone, "model.layers.0.self_attn.q_proj.weight", "BF16[3072 2048]"},
		{"deepseek-v2-lite", FormatNone, "model.layers.1.mlp.shared_experts.down_proj.weight", "BF16[2048 2816]"},
		{"kimi-k2.5", FormatCompressed, "language_model.model.layers.1.mlp.experts.383.up_proj.weight_packed", "I32[2048 896]"},
		{"kimi-k2.5", FormatCompressed, "language_model.model.layers.1.mlp.shared_experts.up_proj.weight", "BF16[2048 7168]"},
		{"kimi-k2.5", FormatCompressed, "language_model.lm_head.weight", "BF16[163840 7168]"},
		{"glm-4.5", FormatNone, "model.layers.3.mlp.experts.159.gate_proj.weight", "BF16[1536 5120]"},
		{"glm-4.5", FormatNone, "model.layers.0.self_attn.q_norm.weight", "BF16[128]"},
		{"llama-4-scout", FormatNone, "language_model.model.layers.0.feed_forward.experts.gate_up_proj", "BF16[16 5120 16384]"},
		{"llama-4-scout", FormatNone, "language_model.model.layers.0.feed_forward.experts.down_proj", "BF16[16 8192 5120]"},
		{"llama-4-scout", FormatNone, "language_model.model.layers.0.feed_forward.router.weight", "BF16[16 5120]"},
		{"llama-4-scout", FormatGPTQ, "language_model.model.layers.0.feed_forward.experts.15.up_proj.qweight", "I32[640 8192]"},
		{"qwen3-vl-30b-a3b", FormatNone, "model.language_model.layers.0.mlp.experts.gate_up_proj", "BF16[128 2048 1536]"},
		{"qwen3-vl-30b-a3b", FormatFP8, "model.language_model.layers.0.mlp.experts.down_proj_scale_inv", "F32[128 6 16]"},
		{"qwen3.5-35b-a3b", FormatNone, "model.language_model.layers.0.mlp.experts.gate_up_proj", "BF16[256 1024 2048]"},
		{"qwen3.5-35b-a3b", FormatFP8, "model.language_model.layers.0.mlp.experts.255.up_proj.weight", "F8_E4M3[512 2048]"},
		{"qwen3.5-35b-a3b", FormatNone, "model.language_model.layers.3.self_attn.q_proj.weight", "BF16[8192 2048]"},
		{"qwen3.5-35b-a3b", FormatNone, "model.language_model.layers.0.linear_attn.conv1d.weight", "BF16[8192 1 4]"},
		{"minimax-m2", FormatNone, "model.layers.0.self_attn.q_norm.weight", "BF16[6144]"},
		{"minimax-m2", FormatNone, "model.layers.0.block_sparse_moe.e_score_correction_bias", "F32[256]"},
		{"llama-3-8b", FormatNone, "model.layers.0.mlp.down_proj.weight", "BF16[4096 14336]"},
		{"qwen2-7b", FormatNone, "model.layers.0.self_attn.k_proj.bias", "BF16[512]"},
		{"qwen2-moe", FormatNone, "model.layers.0.mlp.shared_expert_gate.weight", "BF16[1 2048]"},
		{"qwen2-moe", FormatGPTQ, "model.layers.0.mlp.shared_expert.up_proj.scales", "F16[16 5632]"},
		{"gpt-oss-20b", FormatMXFP4, "model.layers.0.mlp.experts.gate_up_proj_blocks", "U8[32 5760 90 16]"},
		{"gpt-oss-20b", FormatMXFP4, "model.layers.0.mlp.experts.down_proj_scales", "U8[32 2880 90]"},
		{"gpt-oss-120b", FormatNone, "model.layers.0.mlp.experts.gate_up_proj", "BF16[128 2880 5760]"},
		{"gpt-oss-120b", FormatMXFP4, "model.layers.0.self_attn.sinks", "BF16[64]"},
		{"qwen3-30b-a3b", FormatMXFP4Pack, "model.layers.0.mlp.experts.127.gate_proj.weight_packed", "U8[768 1024]"},
		{"qwen3-30b-a3b", FormatMXFP4Pack, "model.layers.0.mlp.experts.127.gate_proj.weight_scale", "U8[768 64]"},
	}
	for _, tt := range tests {
		s := find(t, mustTensors(t, Options{Model: tt.model, Format: tt.format, Layers: 4}), tt.name)
		if got := fmt.Sprintf("%s%v", s.DType, s.Shape); got != tt.want {
			t.Errorf("%s %s: %s, want %s", tt.model, tt.name, got, tt.want)
		}
	}
}

// TestAgainstTheRealTool gives micro the sizes of the fixture's model: names, dtypes, shapes and their order in the files must be those
// that GPTQModel wrote.
func TestAgainstTheRealTool(t *testing.T) {
	dir := filepath.Join("..", "..", "testdata", "fixtures", "gptq_moe_4b_g128_sharded", "checkpoint")
	files, err := filepath.Glob(filepath.Join(dir, "*.safetensors"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no shards in %s: %v", dir, err)
	}
	var want []string
	for _, f := range files {
		want = append(want, headerEntries(t, f)...)
	}
	m, err := FindModel("micro")
	if err != nil {
		t.Fatal(err)
	}
	m.Layers, m.Hidden, m.Heads, m.KVHeads, m.HeadDim, m.Vocab, m.MoE = 1, 256, 4, 2, 64, 512, qwen3MoE(4, 2, 256)
	l := &lister{o: Options{Format: FormatGPTQ, ShardSize: 300 << 10}.withDefaults(), m: m, dense: map[string]bool{}}
	l.model()
	shards, err := l.shards()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range shards {
		for _, spec := range s.Specs {
			if spec.Name != "lm_head.weight" { // the fixture ties it to the embedding
				got = append(got, fmt.Sprintf("%s %s %v", spec.Name, spec.DType, spec.Shape))
			}
		}
	}
	if d := firstDifference(got, want); d != "" {
		t.Error(d)
	}
}

// TestAgainstTransformers does so with gpt-oss.
func TestAgainstTransformers(t *testing.T) {
	want := headerEntries(t, filepath.Join("..", "..", "testdata", "fixtures", "mxfp4_gptoss", "checkpoint", "model.safetensors"))
	m, err := FindModel("micro-gpt-oss")
	if err != nil {
		t.Fatal(err)
	}
	m.Layers, m.Hidden, m.Vocab, m.MoE = 1, 128, 256, gptOSSMoE(4, 128)
	l := &lister{o: Options{Format: FormatMXFP4}.withDefaults(), m: m, dense: map[string]bool{}}
	l.model()
	shards, err := l.shards()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, spec := range shards[0].Specs {
		got = append(got, fmt.Sprintf("%s %s %v", spec.Name, spec.DType, spec.Shape))
	}
	if d := firstDifference(got, want); d != "" {
		t.Error(d)
	}
}

func firstDifference(got, want []string) string {
	for i := range max(len(got), len(want)) {
		g, w := "nothing", "nothing"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			return fmt.Sprintf("entry %d: %s, want %s", i, g, w)
		}
	}
	return ""
}

// headerEntries lists a file's tensors in the order of their data.
func headerEntries(t *testing.T, name string) []string {
	t.Helper()
	f, err := safetensors.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var lines []string
	for _, info := range f.All() {
		lines = append(lines, fmt.Sprintf("%s %s %v", info.Name, info.DType, info.Shape))
	}
	return lines
}

func TestConfig(t *testing.T) {
	config, err := Config(Options{Model: "glm-4.5-air", Layers: 2, DescAct: true, Bits: 8, Group: 128})
	if err != nil {
		t.Fatal(err)
	}
	if config["num_hidden_layers"] != 2 || config["n_routed_experts"] != 128 || config["first_k_dense_replace"] != 1 {
		t.Errorf("config: %v", config)
	}
	q, ok := config["quantization_config"].(map[string]any)
	if !ok {
		t.Fatal("no quantization_config")
	}
	if q["bits"] != 8 || q["desc_act"] != true || q["quant_method"] != "gptq" || q["checkpoint_format"] != "gptq" {
		t.Errorf("quantization_config: %v", q)
	}
	want := `{"-:^model\\.layers\\.\\d+\\.mlp\\.down_proj$":{}}` // the layer that 128 does not divide stays BF16
	if got, _ := json.Marshal(q["dynamic"]); string(got) != want {
		t.Errorf("dynamic: %s, want %s", got, want)
	}
	plain, err := Config(Options{Model: "micro", Format: FormatNone})
	if err != nil || plain["quantization_config"] != nil {
		t.Errorf("unquantised config: %v, %v", plain, err)
	}
}

// TestActOrderIsSharedByMembersThatFuse: q, k, v read one input, and so do gate and up of one expert.
func TestActOrderIsSharedByMembersThatFuse(t *testing.T) {
	specs := mustTensors(t, Options{Model: "micro", Group: 32, DescAct: true})
	idx := func(module string) string {
		s := find(t, specs, "model.layers.0."+module+".g_idx")
		b := make([]byte, s.Shape[0]*4)
		s.Fill.Fill(b, 0)
		return string(b)
	}
	if q := idx("self_attn.q_proj"); q != idx("self_attn.k_proj") || q != idx("self_attn.v_proj") {
		t.Error("q, k and v differ")
	}
	if g := idx("mlp.experts.0.gate_proj"); g != idx("mlp.experts.0.up_proj") || g == idx("mlp.experts.1.gate_proj") {
		t.Error("gate and up of one expert must agree, and those of two experts differ")
	}
}

func TestBitsAndGroups(t *testing.T) {
	for bits, rows := range map[int]int64{2: 16, 3: 24, 4: 32, 8: 64} {
		s := find(t, mustTensors(t, Options{Model: "micro", Bits: bits, Group: -1}), "model.layers.1.self_attn.q_proj.qweight")
		if s.Shape[0] != rows {
			t.Errorf("%d bits: %d rows, want %d", bits, s.Shape[0], rows)
		}
	}
	s := find(t, mustTensors(t, Options{Model: "micro", Group: -1}), "model.layers.1.self_attn.q_proj.scales")
	if s.Shape[0] != 1 {
		t.Errorf("one group: scales %v", s.Shape)
	}
}

func TestSortedOrder(t *testing.T) {
	shards, err := Shards(Options{Model: "micro", Order: OrderSorted, ShardSize: 200 << 10})
	if err != nil || len(shards) < 3 {
		t.Fatalf("%d shards, %v", len(shards), err)
	}
	for _, s := range shards {
		if !slices.IsSortedFunc(s.Specs, func(a, b Spec) int {
			if a.DType != b.DType {
				return int(b.DType) - int(a.DType)
			}
			return strings.Compare(a.Name, b.Name)
		}) {
			t.Errorf("%s is not sorted", s.Name)
		}
	}
	if shards[0].Specs[0].DType != safetensors.I32 {
		t.Error("I32 must come first")
	}
}

func TestWrongOptions(t *testing.T) {
	for _, o := range []Options{
		{Model: "gpt-7"},
		{Format: "int5"},
		{Bits: 5},
		{Group: -2},
		{Format: FormatAWQ, Bits: 8},
		{Format: FormatCompressed, Bits: 3},
		{Format: FormatCompressed, DescAct: true, Group: -1},
		{Layers: -1},
		{ShardSize: -1},
		{Workers: -1},
		{Order: "random"},
		{Model: "micro", Format: FormatMXFP4},
		{Model: "gpt-oss-20b", Format: FormatGPTQ},
		{Model: "gpt-oss-20b", Format: FormatMXFP4Pack},
	} {
		if _, err := Tensors(o); !errors.Is(err, ErrOptions) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	own := map[Format]map[string]bool{
		FormatGPTQ: {"bits": true, "group": true, "desc-act": true, "asym": true}, FormatAWQ: {"bits": true, "group": true},
		FormatCompressed: {"bits": true, "group": true, "desc-act": true, "asym": true},
	}
	for _, f := range Formats() {
		for option, o := range map[string]Options{"bits": {Bits: 4}, "group": {Group: 128}, "desc-act": {DescAct: true}, "asym": {Asym: true}} {
			o.Format, o.Model = f, "qwen3-30b-a3b"
			if f == FormatMXFP4 {
				o.Model = "gpt-oss-20b"
			}
			err := o.Validate()
			if says := err != nil && strings.Contains(err.Error(), string(f)+" has no option "+option); says == own[f][option] || own[f][option] != (err == nil) {
				t.Errorf("%s with %s: %v", f, option, err)
			}
		}
	}
	err := Options{Model: "gpt-7", Bits: 5}.Validate()
	if err == nil || !strings.Contains(err.Error(), "gpt-7") || !strings.Contains(err.Error(), "not 5") || !strings.Contains(err.Error(), "micro") {
		t.Errorf("not every fault is told: %v", err)
	}
}
