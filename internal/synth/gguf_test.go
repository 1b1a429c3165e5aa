package synth

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/coldload/coldload/gguf"
)

// TestGGUFNames spot-checks names, types and shapes that are known of the files that people share.
func TestGGUFNames(t *testing.T) {
	for _, x := range []struct {
		model  string
		format Format
		want   map[string]string
	}{
		{"qwen3-30b-a3b", FormatGGUF, map[string]string{
			"token_embd.weight": "Q4_K[151936 2048]", "output.weight": "Q6_K[151936 2048]", "output_norm.weight": "F32[2048]",
			"blk.0.attn_q.weight": "Q4_K[4096 2048]", "blk.0.attn_k.weight": "Q4_K[512 2048]", "blk.0.attn_v.weight": "Q6_K[512 2048]",
			"blk.0.attn_q_norm.weight": "F32[128]", "blk.0.ffn_gate_inp.weight": "F32[128 2048]", "blk.0.ffn_gate_exps.weight": "Q4_K[128 768 2048]",
			"blk.0.ffn_down_exps.weight": "Q6_K[128 2048 768]", "blk.47.ffn_down_exps.weight": "Q6_K[128 2048 768]",
			"blk.6.attn_v.weight": "Q4_K[512 2048]", "blk.8.attn_v.weight": "Q6_K[512 2048]",
		}},
		{"llama-3-8b", FormatGGUFQ4_0, map[string]string{
			"token_embd.weight": "Q4_0[128256 4096]", "output.weight": "Q6_K[128256 4096]", "blk.31.ffn_down.weight": "Q4_0[4096 14336]",
		}},
		{"mixtral-8x7b", FormatGGUF, map[string]string{"blk.0.ffn_up_exps.weight": "Q4_K[8 14336 4096]", "blk.0.ffn_gate_inp.weight": "F32[8 4096]"}},
		{"deepseek-v3", FormatGGUFMXFP4, map[string]string{
			"blk.0.ffn_gate.weight": "Q8_0[18432 7168]", "blk.3.ffn_gate_exps.weight": "MXFP4[256 2048 7168]", "blk.3.exp_probs_b.bias": "F32[256]",
			"blk.0.attn_kv_a_mqa.weight": "Q8_0[576 7168]", "blk.0.attn_k_b.weight": "Q8_0[128 512 128]", "blk.3.ffn_down_shexp.weight": "Q8_0[7168 2048]",
		}},
		{"qwen2-moe", FormatGGUF, map[string]string{
			"blk.0.attn_q.bias": "F32[2048]", "blk.0.ffn_gate_inp_shexp.weight": "F32[2048]", "blk.0.ffn_down_exps.weight": "Q8_0[60 2048 1408]", // 1408 is no multiple of 256
		}},
	} {
		shards, err := Shards(Options{Model: x.model, Format: x.format})
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]string{}
		for i := range shards {
			l, err := shards[i].ggufLayout()
			if err != nil {
				t.Fatal(err)
			}
			f, ok := l.(ggufFile)
			if !ok {
				t.Fatalf("%T", l)
			}
			for _, s := range f.l.Header().All() {
				found[s.Name] = fmt.Sprintf("%s%v", s.Type, s.Shape)
			}
		}
		for name, want := range x.want {
			if found[name] != want {
				t.Errorf("%s %s: %s is %s, want %s", x.model, x.format, name, found[name], want)
			}
		}
	}
}

// TestWriteGGUF: a set is complete, and equal whatever the workers.
func TestWriteGGUF(t *testing.T) {
	base := Options{Model: "micro", Format: FormatGGUF, ShardSize: 200_000, Workers: 1}
	parallel := base
	parallel.Workers = 4
	one, r := mustWrite(t, base)
	four, _ := mustWrite(t, parallel)
	want, got := digests(t, one), digests(t, four)
	if len(want) != r.Shards || r.Shards < 3 {
		t.Errorf("%d files, %d shards", len(want), r.Shards)
	}
	for name, sum := range want {
		if got[name] != sum {
			t.Errorf("%s differs between 1 and 4 workers", name)
		}
	}
	tensors := 0
	for i := range r.Shards {
		f, err := gguf.Open(filepath.Join(one, fmt.Sprintf("model-%05d-of-%05d.gguf", i+1, r.Shards)))
		if err != nil {
			t.Fatal(err)
		}
		tensors += f.Header().Len()
		if s := f.Header().Split(); s.No != i || s.Count != r.Shards || s.Tensors != r.Tensors {
			t.Errorf("file %d says %+v", i, s)
		}
		arch, _ := f.Header().Value("general.architecture")
		if s, ok := arch.Text(); (i == 0) != ok || ok && s != "qwen3moe" {
			t.Errorf("file %d is of %q", i, s)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	if tensors != r.Tensors {
		t.Errorf("%d tensors, want %d", tensors, r.Tensors)
	}
}

// TestGGUFModelsThatHaveNoNames are refused by name.
func TestGGUFModelsThatHaveNoNames(t *testing.T) {
	have := 0
	for _, m := range Models() {
		_, err := Tensors(Options{Model: m.Name, Format: FormatGGUF, Layers: 1})
		if errors.Is(err, ErrOptions) == m.Has(FormatGGUF) {
			t.Errorf("%s: %v", m.Name, err)
		}
		if err == nil {
			have++
		}
	}
	if have < 10 {
		t.Errorf("%d models have names", have)
	}
}
