package plan_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/coldload/coldload/internal/synth"
	"github.com/coldload/coldload/plan"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// made is an Output that a family must have: its name below model.layers.<layer>, and its shape.
type made struct {
	layer int
	name  string
	shape string
}

// families are the real models, with what must become of some of their layers. Quantised shapes are Marlin's: [K/16, 2N].
var families = []struct {
	model, family string
	layers        int
	outputs       []made
	padded        map[synth.Format]string // what is filled up to whole tiles
}{
	{
		model: "qwen3-30b-a3b", family: "Qwen3-MoE", layers: 2, outputs: []made{
			{0, "self_attn.qkv_proj.qweight", "[128 10240]"},
			{1, "self_attn.qkv_proj.scales", "[16 5120]"},
			{1, "mlp.experts.gate_up_proj.qweight", "[128 128 3072]"},
			{1, "mlp.experts.gate_up_proj.scales", "[128 16 1536]"},
			{1, "mlp.experts.down_proj.qweight", "[128 48 4096]"},
			{0, "mlp.experts.down_proj.scales", "[128 6 2048]"},
			{0, "mlp.gate.weight", "[128 2048]"},
			{0, "self_attn.q_norm.weight", "[128]"},
		},
	},
	{
		model: "mixtral-8x7b", family: "Mixtral", layers: 2, outputs: []made{
			{0, "self_attn.qkv_proj.qweight", "[256 12288]"},
			{1, "block_sparse_moe.experts.gate_up_proj.qweight", "[8 256 57344]"},
			{1, "block_sparse_moe.experts.down_proj.qweight", "[8 896 8192]"},
			{1, "block_sparse_moe.experts.down_proj.scales", "[8 112 4096]"},
			{1, "block_sparse_moe.gate.weight", "[8 4096]"},
		},
	},
	{
		model: "deepseek-v3", family: "DeepSeek-V2/V3", layers: 4, outputs: []made{
			{0, "self_attn.fused_qkv_a_proj.qweight", "[448 4224]"},
			{0, "self_attn.q_b_proj.qweight", "[96 49152]"},
			{0, "self_attn.kv_b_proj.qweight", "[32 65536]"},
			{2, "mlp.gate_up_proj.qweight", "[448 73728]"},
			{2, "mlp.down_proj.qweight", "[1152 14336]"},
			{3, "mlp.experts.gate_up_proj.qweight", "[256 448 8192]"},
			{3, "mlp.experts.down_proj.qweight", "[256 128 14336]"},
			{3, "mlp.shared_experts.gate_up_proj.qweight", "[448 8192]"},
			{3, "mlp.gate.e_score_correction_bias", "[256]"},
		},
	},
	{
		model: "kimi-k2", family: "Kimi-K2", layers: 2, outputs: []made{
			{1, "mlp.experts.gate_up_proj.qweight", "[384 448 8192]"},
			{1, "mlp.experts.gate_up_proj.scales", "[384 56 4096]"},
			{1, "mlp.experts.down_proj.qweight", "[384 128 14336]"},
			{1, "mlp.gate.e_score_correction_bias", "[384]"},
		},
	},
	{
		model: "glm-4.5-air", family: "GLM-4.5", layers: 2, outputs: []made{
			{0, "self_attn.qkv_proj.qweight", "[256 28672]"},
			{0, "self_attn.qkv_proj.bias", "[14336]"},
			{0, "mlp.gate_up_proj.qweight", "[256 43776]"},
			{1, "mlp.experts.gate_up_proj.qweight", "[128 256 5632]"},
			{1, "mlp.experts.down_proj.qweight", "[128 88 8192]"},
			{1, "mlp.shared_experts.gate_up_proj.qweight", "[256 5632]"},
		},
		padded: map[synth.Format]string{synth.FormatFP8: "[4096 10944] padded to [4096 11008] in 1"},
	},
	{
		model: "deepseek-v2-lite", family: "DeepSeek-V2/V3", layers: 2, outputs: []made{
			{0, "self_attn.q_proj.qweight", "[128 6144]"},
			{0, "self_attn.kv_a_proj_with_mqa.qweight", "[128 1152]"},
			{0, "self_attn.kv_b_proj.qweight", "[32 8192]"},
			{1, "mlp.experts.gate_up_proj.qweight", "[64 128 5632]"},
			{1, "mlp.shared_experts.down_proj.qweight", "[176 4096]"},
		},
		padded: map[synth.Format]string{synth.FormatFP8: "[2048 10944] padded to [2048 11008] in 1"},
	},
	{
		model: "glm-4.5", family: "GLM-4.5", layers: 3, outputs: []made{
			{0, "mlp.gate_up_proj.qweight", "[320 49152]"},
			{3, "self_attn.qkv_proj.qweight", "[320 28672]"},
			{3, "mlp.experts.gate_up_proj.qweight", "[160 320 6144]"},
			{3, "mlp.experts.down_proj.qweight", "[160 96 10240]"},
			{3, "mlp.gate.e_score_correction_bias", "[160]"},
			{3, "eh_proj.weight", "[5120 10240]"},
			{3, "shared_head.head.weight", "[151552 5120]"},
		},
	},
	{
		model: "minimax-m2", family: "MiniMax-M2", layers: 2, outputs: []made{
			{0, "self_attn.qkv_proj.qweight", "[192 16384]"},
			{1, "block_sparse_moe.experts.gate_up_proj.qweight", "[256 192 6144]"},
			{1, "block_sparse_moe.experts.down_proj.qweight", "[256 96 6144]"},
			{1, "block_sparse_moe.e_score_correction_bias", "[256]"},
			{1, "self_attn.q_norm.weight", "[6144]"},
		},
	},
	{
		model: "llama-3-8b", family: "Llama", layers: 3, outputs: []made{
			{0, "self_attn.qkv_proj.qweight", "[256 12288]"},
			{2, "mlp.gate_up_proj.qweight", "[256 57344]"},
			{2, "mlp.gate_up_proj.scales", "[32 28672]"},
			{2, "mlp.down_proj.qweight", "[896 8192]"},
			{2, "self_attn.o_proj.qweight", "[256 8192]"},
		},
	},
	{
		model: "qwen2-7b", family: "Qwen2", layers: 2, outputs: []made{
			{0, "self_attn.qkv_proj.qweight", "[224 9216]"},
			{0, "self_attn.qkv_proj.bias", "[4608]"},
			{1, "mlp.gate_up_proj.qweight", "[224 75776]"},
			{1, "mlp.down_proj.scales", "[148 3584]"},
		},
	},
	{
		model: "qwen2-moe", family: "Qwen2-MoE", layers: 2, outputs: []made{
			{0, "self_attn.qkv_proj.qweight", "[128 12288]"},
			{0, "self_attn.qkv_proj.bias", "[6144]"},
			{1, "mlp.experts.gate_up_proj.qweight", "[60 128 5632]"},
			{1, "mlp.experts.down_proj.qweight", "[60 88 4096]"},
			{1, "mlp.shared_expert.gate_up_proj.qweight", "[128 22528]"},
			{1, "mlp.shared_expert_gate.weight", "[1 2048]"},
		},
	},
}

// unlike are the formats of which families does not have the shapes, which are those of 4-bit codes with a scale for 128 input features:
// how many times wider their codes are, how many times as many rows of scales they have (0: one row), and the method in their configs.
var unlike = map[synth.Format]struct {
	method      string
	wider, rows int64
}{
	synth.FormatFP8:        {"fp8", 2, 1},
	synth.FormatFP8Tensor:  {"modelopt", 2, 0},
	synth.FormatFP8Channel: {"compressed-tensors", 2, 0},
	synth.FormatMXFP4Pack:  {"compressed-tensors", 1, 4},
	synth.FormatNVFP4:      {"modelopt", 1, 8},

	synth.FormatNVFP4Compressed: {"compressed-tensors", 1, 8},
}

// TestRealFamilies plans checkpoints with the names and shapes of real models, quantised and not.
func TestRealFamilies(t *testing.T) {
	for _, f := range families {
		for _, format := range slices.DeleteFunc(synth.Formats(), synth.IsGGUF) {
			if m, err := synth.FindModel(f.model); err != nil || !m.Has(format) {
				continue
			}
			t.Run(f.model+" "+string(format), func(t *testing.T) {
				o := synth.Options{Model: f.model, Layers: f.layers, Format: format}
				cat := catalogOf(t, o)
				config, err := synth.Config(o)
				if err != nil {
					t.Fatal(err)
				}
				p, err := plan.Make(newConfigs(t).input(t, cat, config), plan.Options{})
				if err != nil {
					t.Fatal(err)
				}
				checkFamily(t, p, f.family, format, f.padded[format])
				for _, m := range f.outputs {
					checkMade(t, p, m, format)
				}
				covers(t, p, cat.tensors)
				batchesAreSmall(t, p, 8<<20)
				if s := p.Summary; s.BytesRead > s.BytesIn+s.BytesIn/50 {
					t.Errorf("%d bytes are read of %d, %d of them by scans: more than 2 %% twice", s.BytesRead, s.BytesIn, s.Scanned)
				}
			})
		}
	}
}

// catalogOf is what the headers of a synthetic checkpoint would say.
func catalogOf(t *testing.T, o synth.Options) *catalog {
	t.Helper()
	shards, err := synth.Shards(o)
	if err != nil {
		t.Fatal(err)
	}
	lists := make([][]stages.Tensor, len(shards))
	for i, s := range shards {
		for _, x := range s.Specs {
			lists[i] = append(lists[i], tensor(x.Name, x.DType, x.Shape...))
		}
	}
	return newCatalog(lists...)
}

func checkFamily(t *testing.T, p *plan.Plan, family string, format synth.Format, padded string) {
	t.Helper()
	var extents []string
	for _, k := range p.Summary.Padded {
		extents = append(extents, k.String())
	}
	if p.Summary.Family != family || len(p.Faults) > 0 || len(p.Summary.Kept) > 0 || strings.Join(extents, "; ") != padded {
		t.Errorf("family %q, faults %v, kept raw %v, padded %v; want %q and padded %q alone", p.Summary.Family, p.Faults, p.Summary.Kept, extents, family, padded)
	}
	want := string(format)
	if u, ok := unlike[format]; ok {
		want = u.method
	}
	if p.Summary.Format != want {
		t.Errorf("format %q, want %q", p.Summary.Format, want)
	}
}

// checkMade checks one Output. In an unquantised checkpoint it is the weight [N, K] that the quantised one stands for.
func checkMade(t *testing.T, p *plan.Plan, m made, format synth.Format) {
	t.Helper()
	base, quantised := strings.CutSuffix(m.name, ".qweight")
	name, shape := fmt.Sprintf("model.layers.%d.%s", m.layer, m.name), m.shape
	if format == synth.FormatNone {
		if strings.HasSuffix(m.name, ".scales") {
			return
		}
		if quantised {
			name = fmt.Sprintf("model.layers.%d.%s.weight", m.layer, base)
		}
	}
	i := slices.IndexFunc(p.Outputs, func(o stages.Output) bool { return o.Name == name })
	if i < 0 {
		t.Errorf("%s: no such output", name)
		return
	}
	got := slices.Clone(p.Outputs[i].Shape)
	u, other := unlike[format]
	switch n := len(got); {
	case format == synth.FormatNone && quantised:
		got[n-2], got[n-1] = got[n-1]/16, got[n-2]*2
	case other && quantised:
		got[n-1] /= u.wider
	case other && u.rows == 0 && strings.HasSuffix(m.name, ".scales"):
		if got[n-2] != 1 {
			t.Errorf("%s: shape %v, want one row", name, got)
		}
		return
	case other && u.rows > 0 && strings.HasSuffix(m.name, ".scales"):
		got[n-2] /= u.rows
	}
	if fmt.Sprint(got) != shape {
		t.Errorf("%s: shape %v, want %s", name, got, shape)
	}
}

// batchesAreSmall checks that no Batch is larger than the target, but one that holds a single Slab, beside those of a scale.
func batchesAreSmall(t T, p *plan.Plan, target int64) {
	t.Helper()
	for b := range p.Batches() {
		slabs := 0
		for _, s := range b.Slabs {
			if s.Len > 8 {
				slabs++
			}
		}
		if slabs > 1 && max(b.UsedBytes, b.OutBytes) > target {
			t.Errorf("batch %d: %d slabs of %d bytes from %d, more than %d", b.Seq, len(b.Slabs), b.OutBytes, b.UsedBytes, target)
		}
	}
}

// TestNothingIsTooLarge: sizes that only a sparse file can claim are refused before they are listed.
func TestNothingIsTooLarge(t *testing.T) {
	c := newConfigs(t)
	one := func(name string, dims ...int64) stages.Tensor {
		return stages.Tensor{Name: name, DType: safetensors.U8, Shape: dims}
	}
	for name, list := range map[string][]stages.Tensor{
		"one":    {one("a", 1<<59)},
		"dense":  {one("l.self_attn.q_proj.weight", 1<<29, 1<<30), one("l.self_attn.k_proj.weight", 1<<29, 1<<30), one("l.self_attn.v_proj.weight", 1, 1<<30)},
		"stack":  {one("experts.0.gate_proj.weight", 1<<29, 1<<29), one("experts.0.up_proj.weight", 1<<29, 1<<29), one("experts.0.down_proj.weight", 1<<29, 1<<29)},
		"spread": {one("a", 1<<43), one("b", 1<<43), one("c", 1)},
	} {
		_, err := plan.Make(c.input(t, newCatalog(list), map[string]any{}), plan.Options{Budget: 1 << 30})
		want := "larger than anything"
		if name == "stack" {
			want = "larger than the budget" // it has few Slabs, each as large as an expert
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	bf := stages.Tensor{Name: "l.mlp.gate_proj.weight", DType: safetensors.F8E4M3, Shape: []int64{1 << 29, 1 << 30}}
	up := bf
	up.Name = "l.mlp.up_proj.weight"
	if _, err := plan.Make(c.input(t, newCatalog([]stages.Tensor{bf, up}), map[string]any{}), plan.Options{DType: safetensors.F32}); err == nil {
		t.Error("a cast that overflows: no error")
	}
}
