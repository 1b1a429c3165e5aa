package plan_test

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/coldload/coldload/internal/synth"
	"github.com/coldload/coldload/plan"
)

// modelKinds are the modules that a model must have after it was planned, by their names within a layer, and nothing else: those of every layer, of
// one with a dense MLP, of one with experts, and of one that predicts further tokens.
type modelKinds struct {
	models               []string
	family               string
	every, dense, sparse []string
	mtp                  bool
	linear               []string // of layers with linear attention, whose others then have attention
	attention            []string
	kept                 map[synth.Format]string // why some stay raw
}

var (
	layerNorms = []string{"input_layernorm", "post_attention_layernorm"}
	plainQKV   = append([]string{"self_attn.qkv_proj", "self_attn.o_proj"}, layerNorms...)
	normedQKV  = append([]string{"self_attn.q_norm", "self_attn.k_norm"}, plainQKV...)
	latentQKV  = append([]string{
		"self_attn.fused_qkv_a_proj", "self_attn.q_a_layernorm", "self_attn.q_b_proj", "self_attn.kv_a_layernorm", "self_attn.kv_b_proj",
		"self_attn.o_proj",
	}, layerNorms...)
	denseMLP = []string{"mlp.gate_up_proj", "mlp.down_proj"}
	qwenMoE  = []string{"mlp.gate", "mlp.experts.gate_up_proj", "mlp.experts.down_proj"}
	liteMoE  = append([]string{"mlp.shared_experts.gate_up_proj", "mlp.shared_experts.down_proj"}, qwenMoE...)
	deepMoE  = append([]string{"mlp.gate.e_score_correction_bias"}, liteMoE...)
	ownGate  = append([]string{"mlp.shared_expert.gate_up_proj", "mlp.shared_expert.down_proj", "mlp.shared_expert_gate"}, qwenMoE...)
	blockMoE = []string{"block_sparse_moe.gate", "block_sparse_moe.experts.gate_up_proj", "block_sparse_moe.experts.down_proj"}
	further  = []string{"embed_tokens", "enorm", "hnorm", "eh_proj", "shared_head.norm", "shared_head.head"}
)

var everyModel = []modelKinds{
	{models: []string{"qwen3-30b-a3b", "qwen3-235b-a22b", "tiny-moe", "micro"}, family: "Qwen3-MoE", every: normedQKV, sparse: qwenMoE},
	{models: []string{"mixtral-8x7b"}, family: "Mixtral", every: plainQKV, sparse: blockMoE},
	{models: []string{"deepseek-v3"}, family: "DeepSeek-V2/V3", every: latentQKV, dense: denseMLP, sparse: deepMoE},
	{models: []string{"deepseek-v3-mtp"}, family: "DeepSeek-V2/V3", every: latentQKV, dense: denseMLP, sparse: deepMoE, mtp: true},
	{
		models: []string{"deepseek-v3.2"}, family: "DeepSeek-V2/V3", dense: denseMLP, sparse: deepMoE, mtp: true, every: slices.Concat(latentQKV, []string{
			"self_attn.indexer.k_norm", "self_attn.indexer.weights_proj", "self_attn.indexer.wk", "self_attn.indexer.wq_b",
		}),
	},
	{
		models: []string{"deepseek-v2-lite"}, family: "DeepSeek-V2/V3", dense: denseMLP, sparse: liteMoE, every: append([]string{
			"self_attn.q_proj", "self_attn.kv_a_proj_with_mqa", "self_attn.kv_a_layernorm", "self_attn.kv_b_proj", "self_attn.o_proj",
		}, layerNorms...),
	},
	{models: []string{"kimi-k2", "kimi-k2.5"}, family: "Kimi-K2", every: latentQKV, dense: denseMLP, sparse: deepMoE},
	{models: []string{"glm-4.5-air"}, family: "GLM-4.5", every: plainQKV, dense: denseMLP, sparse: deepMoE},
	{models: []string{"glm-4.5"}, family: "GLM-4.5", every: normedQKV, dense: denseMLP, sparse: deepMoE, mtp: true},
	{
		models: []string{"minimax-m2"}, family: "MiniMax-M2", every: normedQKV,
		sparse: append([]string{"block_sparse_moe.e_score_correction_bias"}, blockMoE...),
	},
	{models: []string{"llama-3-8b"}, family: "Llama", every: plainQKV, dense: denseMLP},
	{models: []string{"qwen2-7b"}, family: "Qwen2", every: plainQKV, dense: denseMLP},
	{models: []string{"qwen2-moe"}, family: "Qwen2-MoE", every: plainQKV, sparse: ownGate},
	{
		models: []string{"gpt-oss-20b", "gpt-oss-120b", "micro-gpt-oss"}, family: "gpt-oss", every: append([]string{"self_attn.sinks"}, plainQKV...),
		sparse: []string{"mlp.router", "mlp.experts.gate_up_proj", "mlp.experts.down_proj"},
	},
	{
		models: []string{"llama-4-scout"}, family: "Llama-4", every: plainQKV, sparse: []string{
			"feed_forward.router", "feed_forward.experts.gate_up_proj", "feed_forward.experts.down_proj", "feed_forward.shared_expert.gate_up_proj",
			"feed_forward.shared_expert.down_proj",
		},
	},
	{
		models: []string{"qwen3-vl-30b-a3b"}, family: "Qwen3-VL-MoE", every: normedQKV, sparse: qwenMoE,
		kept: map[synth.Format]string{synth.FormatFP8: "its weights are input-major, which nothing repacks to Marlin"},
	},
	{
		models: []string{"qwen3.5-35b-a3b"}, family: "Qwen3.5", every: layerNorms, sparse: ownGate,
		attention: []string{"self_attn.q_norm", "self_attn.k_norm", "self_attn.qkv_proj", "self_attn.o_proj"},
		linear: []string{
			"linear_attn.A_log", "linear_attn.conv1d", "linear_attn.dt_bias", "linear_attn.in_proj_a", "linear_attn.in_proj_b", "linear_attn.in_proj_qkv",
			"linear_attn.in_proj_z", "linear_attn.norm", "linear_attn.out_proj",
		},
	},
}

// of counts the modules of a model of so many layers.
func (k modelKinds) of(m synth.Model, layers int) map[string]int {
	count := map[string]int{"embed_tokens": 1, "norm": 1, "lm_head": 1}
	add := func(lists ...[]string) {
		for _, name := range slices.Concat(lists...) {
			count[name]++
		}
	}
	for i := range layers {
		add(k.every)
		if m.MoE != nil && i >= m.MoE.DenseLayers {
			add(k.sparse)
		} else {
			add(k.dense)
		}
		if i%4 == 3 {
			add(k.attention)
		} else {
			add(k.linear)
		}
	}
	if k.mtp {
		add(k.every, k.sparse, further)
	}
	return count
}

// layerNumber is what the names of modules of a kind differ in, and partSuffix what the parts of one module do.
var (
	layerNumber = regexp.MustCompile(`^(language_model\.)?(model\.)?(language_model\.)?(layers\.\d+\.)?`)
	partSuffix  = regexp.MustCompile(`(_scale_inv|\.(weight|bias|qweight|qzeros|scales|global_scale|g_idx\w*|input_scale|weight_\w+|input_global_scale))$`)
)

// kindsOf counts the modules of a Plan.
func kindsOf(p *plan.Plan) map[string]int {
	modules := map[string]bool{}
	for i := range p.Outputs {
		name := p.Outputs[i].Name
		if stack, ok := strings.CutSuffix(name, "_proj_bias"); ok { // of all experts
			name = stack + "_proj"
		}
		modules[partSuffix.ReplaceAllString(name, "")] = true
	}
	count := map[string]int{}
	for name := range modules {
		count[layerNumber.ReplaceAllString(name, "")]++
	}
	return count
}

// TestEveryModel plans every model in every format: what fuses and stacks does, and nothing is left over or lost.
func TestEveryModel(t *testing.T) {
	known := map[string]bool{}
	for _, k := range everyModel {
		for _, name := range k.models {
			known[name] = true
			m, err := synth.FindModel(name)
			if err != nil {
				t.Fatal(err)
			}
			layers := 1
			if m.MoE != nil {
				layers += m.MoE.DenseLayers
			}
			if m.Linear != nil {
				layers = 4
			}
			for _, format := range slices.DeleteFunc(synth.Formats(), synth.IsGGUF) {
				if m.Has(format) {
					t.Run(name+" "+string(format), func(t *testing.T) {
						checkKinds(t, k, m, synth.Options{Model: name, Layers: layers, Format: format})
					})
				}
			}
		}
	}
	for _, m := range synth.Models() {
		if !known[m.Name] {
			t.Errorf("nothing says what must become of %s", m.Name)
		}
	}
}

// checkKinds plans a model of few layers, or of all, and returns its number of tensors.
func checkKinds(t *testing.T, k modelKinds, m synth.Model, o synth.Options) int {
	t.Helper()
	cat := catalogOf(t, o)
	config, err := synth.Config(o)
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.Make(newConfigs(t).input(t, cat, config), plan.Options{})
	if err != nil {
		t.Fatal(err)
	}
	layers := o.Layers
	if layers == 0 {
		layers = m.Layers
	}
	got, want := kindsOf(p), k.of(m, layers)
	if !maps.Equal(got, want) {
		t.Errorf("modules %v, want %v", got, want)
	}
	var kept []string
	for _, r := range p.Summary.Kept {
		kept = append(kept, r.Reason)
	}
	if p.Summary.Family != k.family || len(p.Faults) > 0 || strings.Join(kept, "; ") != k.kept[o.Format] {
		t.Errorf("family %q, faults %v, kept raw %q; want %q and %q", p.Summary.Family, p.Faults, kept, k.family, k.kept[o.Format])
	}
	for i := range p.Outputs {
		if x := &p.Outputs[i]; strings.Contains(x.Name, ".experts.") && x.Shape[0] != int64(m.MoE.Experts) {
			t.Errorf("%s: shape %v, not of %d experts", x.Name, x.Shape, m.MoE.Experts)
		}
	}
	return cat.Len()
}

// TestWholeModel plans all layers of a model as it is released.
func TestWholeModel(t *testing.T) {
	if testing.Short() {
		t.Skip("a hundred thousand tensors")
	}
	m, err := synth.FindModel("deepseek-v3-mtp")
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(everyModel, func(k modelKinds) bool { return k.models[0] == m.Name })
	if n := checkKinds(t, everyModel[i], m, synth.Options{Model: m.Name, Format: synth.FormatFP8}); n < 90000 {
		t.Errorf("only %d tensors", n)
	}
}
