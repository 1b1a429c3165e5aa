package coldload_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// TestModuleTellsItsShape: of the original in every layout, and of a folder that was packed from it.
func TestModuleTellsItsShape(t *testing.T) {
	const attn, experts, down = "model.layers.0.self_attn.qkv_proj", "model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.mlp.experts.down_proj"
	type shape struct {
		K, N                 int64
		Experts, Bits, Group int
	}
	want := map[string]map[string]shape{
		"gptq_moe_4b_g128_sharded":  {attn: {256, 512, 0, 4, 128}, experts: {256, 512, 4, 4, 128}, down: {256, 256, 4, 4, 128}},
		"gptq_dense_8b_g128":        {attn: {256, 512, 0, 8, 128}},
		"gptq_dense_4b_g32_asym_v2": {attn: {256, 512, 0, 4, 32}},
		"awq_moe_4b_g64":            {attn: {256, 512, 0, 4, 64}, experts: {256, 256, 4, 4, 64}, down: {128, 256, 4, 4, 64}},
		"plain_bf16_sharded":        {},
	}
	for name, modules := range want {
		original := openFixture(t, name, coldload.Options{})
		for _, layout := range []stages.Layout{stages.LayoutMarlin, stages.LayoutExllama, stages.LayoutDequant, stages.LayoutRaw} {
			opt := coldload.Options{Layout: layout}
			dir := filepath.Join(t.TempDir(), "packed")
			if _, err := coldload.Pack(t.Context(), fixturePath(name), dir, opt, coldload.PackOptions{}); err != nil {
				t.Fatal(err)
			}
			for what, ck := range map[string]*coldload.Checkpoint{"original": original, "packed": openPath(t, dir, coldload.Options{})} {
				for module, w := range modules {
					m, err := loadModule(t.Context(), ck, module, opt)
					if err != nil {
						t.Fatal(err)
					}
					if what == "packed" && layout == stages.LayoutDequant {
						w.Bits, w.Group = 0, 0 // it is dense now
					}
					if got := (shape{m.K, m.N, m.Experts, m.Bits, m.Group}); got != w {
						t.Errorf("%s %s %s of %s: %+v, want %+v", what, layout, module, name, got, w)
					}
					if err := m.Close(); err != nil {
						t.Error(err)
					}
				}
			}
		}
	}
	one := ckpt.GPTQ(oProj, 256, 128, 4, -1, ckpt.GPTQOptions{})
	dir := ckpt.New(t).Shard(single, one, ckpt.Dense("a.weight", safetensors.BF16, 1, 6, 4)).JSON("config.json", config("llama", map[string]any{"group_size": -1})).Write()
	ck := openPath(t, dir, coldload.Options{})
	for module, w := range map[string]shape{oProj: {256, 128, 0, 4, -1}, "a": {4, 6, 0, 0, 0}} {
		m, err := ck.Linear(t.Context(), module, coldload.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if got := (shape{m.K, m.N, m.Experts, m.Bits, m.Group}); got != w {
			t.Errorf("%s: %+v, want %+v", module, got, w)
		}
	}
}

// TestModuleWithRules: a rule that renames does not hide the parts, and cannot make two of one name.
func TestModuleWithRules(t *testing.T) {
	const module = "model.layers.0.self_attn.qkv_proj"
	ck := openFixture(t, "gptq_moe_4b_g128_sharded", coldload.Options{})
	rename := func(to func(string) string) coldload.Options {
		return coldload.Options{Rules: []stages.Rule{ruleFunc(func(o stages.Output) stages.Rewrite { return stages.Rewrite{Name: to(o.Name)} })}}
	}
	m, err := ck.Linear(t.Context(), module, rename(func(s string) string { return "engine." + strings.ReplaceAll(s, ".", "_") }))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if got := fmt.Sprint(m.Parts()); got != "[scales qweight]" && got != "[qweight scales]" {
		t.Errorf("parts %s", got)
	}
	for _, suffix := range m.Parts() {
		x, ok := m.Part(suffix)
		same, _ := m.Lookup("engine." + strings.ReplaceAll(module+"."+suffix, ".", "_"))
		if !ok || len(x.Bytes) == 0 || &x.Bytes[0] != &same.Bytes[0] {
			t.Errorf("part %s: %v", suffix, ok)
		}
	}
	if _, ok := m.Part("bias"); ok {
		t.Error("a bias that is not there")
	}
	_, err = ck.Linear(t.Context(), module, rename(func(string) string { return "x" }))
	if refused, ok := errors.AsType[*stages.RefusedError](err); !ok || !hasFault(refused, stages.CodeDuplicate, []string{"x", "two Outputs would have this name"}) {
		t.Errorf("two of one name: %v", err)
	}
}

// TestModulesRefused: what is not there, has no config or does not fit together is said as a load says it.
func TestModulesRefused(t *testing.T) {
	ctx := t.Context()
	ck := openFixture(t, "gptq_moe_4b_g128_sharded", coldload.Options{})
	const pattern = "model.layers.0.mlp.experts.{e}"
	for what, call := range map[string]func() error{
		"Linear": func() error { _, err := ck.Linear(ctx, "nothing", coldload.Options{}); return err },
		"Experts": func() error {
			_, err := ck.Experts(ctx, pattern, []string{"side_proj"}, 4, coldload.Options{})
			return err
		},
		"too many": func() error {
			_, err := ck.Experts(ctx, pattern, []string{"down_proj"}, 5, coldload.Options{})
			return err
		},
		"GPTQ": func() error { _, err := ck.GPTQ("nothing"); return err },
	} {
		err := call()
		if _, ok := errors.AsType[*stages.RefusedError](err); !ok || !errors.Is(err, coldload.ErrNotFound) || !strings.Contains(err.Error(), "no such module") {
			t.Errorf("%s: %v, want ErrNotFound in a refusal", what, err)
		}
	}
	if _, err := ck.Experts(ctx, pattern, []string{"gate_proj", "gate_proj"}, 4, coldload.Options{}); !errors.Is(err, coldload.ErrOptions) || !strings.Contains(err.Error(), "given twice") {
		t.Errorf("one member twice: %v", err)
	}

	expert := func(name string, e, n int) *ckpt.Module {
		return ckpt.GPTQ(fmt.Sprintf("x.%d.%s", e, name), 128, n, 4, 64, ckpt.GPTQOptions{})
	}
	wide := openPath(t, ckpt.New(t).Shard(single, expert("gate_proj", 0, 64), expert("up_proj", 0, 128), expert("gate_proj", 1, 64), expert("up_proj", 1, 128)).
		JSON("config.json", config("llama", nil)).Write(), coldload.Options{})
	_, err := wide.Experts(ctx, "x.{e}", []string{"gate_proj", "up_proj"}, 2, coldload.Options{})
	if refused, ok := errors.AsType[*stages.RefusedError](err); !ok || !hasFault(refused, stages.CodeMismatch, []string{"x.0.up_proj", "output features differs", "64", "128"}) {
		t.Errorf("gate and up of two widths: %v", err)
	}

	q, k, v := qkv(ckpt.GPTQOptions{})
	bare := openPath(t, ckpt.New(t).Shard(single, q, k, v).JSON("config.json", map[string]any{"model_type": "llama"}).Write(), coldload.Options{})
	for what, call := range map[string]func() error{
		"Linear":        func() error { _, err := bare.Linear(ctx, attn+"q_proj", coldload.Options{}); return err },
		"Linear, fused": func() error { _, err := bare.Linear(ctx, attn+"qkv_proj", coldload.Options{}); return err },
		"GPTQ":          func() error { _, err := bare.GPTQ(attn + "q_proj"); return err },
	} {
		refused, ok := errors.AsType[*stages.RefusedError](call())
		if !ok || !hasFault(refused, stages.CodeConfig, []string{attn + "q_proj.qweight", "looks quantised (gptq), but no file says how"}) {
			t.Errorf("%s without a config: %v", what, call())
		}
	}
}
