package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	orderFixture = "gptq_dense_4b_g128_desc_act_bias"
	asymFixture  = "gptq_dense_4b_g32_asym_v2"
)

// planned are the outputs that plan lists, by name.
func planned(t *testing.T, args ...string) map[string]map[string]any {
	t.Helper()
	list, _ := command(t, append([]string{"plan", "--json"}, args...)...).object(t)["output_list"].([]any)
	all := map[string]map[string]any{}
	for _, x := range list {
		o, _ := x.(map[string]any)
		name, _ := o["name"].(string)
		all[name] = o
	}
	return all
}

// TestLayouts: plan, load and pack take the same flags and make the same of them.
func TestLayouts(t *testing.T) {
	t.Parallel()
	const qkv, q = "model.layers.0.self_attn.qkv_proj", "model.layers.0.self_attn.q_proj"
	for _, c := range []struct {
		args   []string
		layout string
		has    map[string]string // output and its layout
		not    []string
	}{
		{nil, "marlin", map[string]string{qkv + ".qweight": "marlin", qkv + ".g_idx_sort_indices": "marlin", qkv + ".bias": "marlin"}, []string{qkv + ".qzeros"}},
		{[]string{"--layout", "exllama"}, "exllama", map[string]string{qkv + ".qweight": "exllama", qkv + ".qzeros": "exllama"}, []string{qkv + ".g_idx"}},
		{[]string{"--layout=raw"}, "raw", map[string]string{qkv + ".qweight": "raw", qkv + ".g_idx": "raw"}, []string{qkv + ".g_idx_sort_indices"}},
		{[]string{"--layout", "dequant"}, "dequant", map[string]string{qkv + ".weight": "raw", qkv + ".bias": "raw"}, []string{qkv + ".qweight"}},
		{[]string{"--no-fuse"}, "marlin", map[string]string{q + ".qweight": "marlin"}, []string{qkv + ".qweight"}},
		{[]string{"--layout", "dequant", "--no-fuse", "--dtype", "f32"}, "dequant", map[string]string{q + ".weight": "raw"}, []string{qkv + ".weight"}},
	} {
		args := append([]string{fixture(orderFixture)}, c.args...)
		all := planned(t, args...)
		for name, layout := range c.has {
			if all[name]["layout"] != layout {
				t.Errorf("%q: %s is %v, want layout %s", c.args, name, all[name], layout)
			}
		}
		for _, name := range c.not {
			if all[name] != nil {
				t.Errorf("%q: there is %s", c.args, name)
			}
		}
		for _, to := range [][]string{{"load"}, {"pack"}} {
			line := append([]string{to[0], "--json"}, args...)
			if to[0] == "pack" {
				line = append(line, filepath.Join(t.TempDir(), "out"))
			}
			o := command(t, line...).object(t)
			if n, _ := o["outputs"].(float64); int(n) != len(all) || o["layout"] != c.layout {
				t.Errorf("%q: %v outputs in layout %v, the plan has %d", line, o["outputs"], o["layout"], len(all))
			}
		}
	}
}

// TestStrict: what the layout cannot hold is kept raw and told of, or refused.
func TestStrict(t *testing.T) {
	t.Parallel()
	const why = "exllama has no kernels for stacked experts"
	exllama := []string{"--layout", "exllama"}
	for _, verb := range []string{"plan", "load"} {
		if r := command(t, slices.Concat([]string{verb, fixture(gptqFixture)}, exllama)...); r.code != exitDone {
			t.Errorf("%s: exit code %d, stderr %s", verb, r.code, r.err)
		}
		r := command(t, slices.Concat([]string{verb, fixture(gptqFixture), "--strict"}, exllama)...)
		if r.code != exitRefused || !strings.Contains(r.err, why) || !strings.Contains(r.err, "without --strict") {
			t.Errorf("%s --strict: exit code %d, stderr %s", verb, r.code, r.err)
		}
		for _, layout := range []string{"exllama", "marlin"} {
			if r := command(t, verb, fixture(asymFixture), "--strict", "--layout", layout); r.code != exitDone {
				t.Errorf("%s --strict --layout %s: exit code %d, stderr %s", verb, layout, r.code, r.err)
			}
		}
	}
	out := func() string { return filepath.Join(t.TempDir(), "out") }
	for _, line := range [][]string{{"plan"}, {"load"}, {"load", "--to", "file:" + out()}, {"pack", out()}} {
		args := slices.Concat(line[:1], []string{fixture(gptqFixture)}, line[1:], exllama)
		r := command(t, args...)
		if !strings.Contains(r.out, "\nkept raw: what layout exllama cannot hold\n  - "+why+": ") {
			t.Errorf("%s does not say why modules are kept:\n%s", line, r.out)
		}
	}
	for _, line := range [][]string{{"plan"}, {"load"}, {"pack", out()}} {
		o := command(t, slices.Concat(line[:1], []string{fixture(gptqFixture)}, line[1:], exllama, []string{"--json"})...).object(t)
		if kept, ok := o["kept"].([]any); !ok || len(kept) != 1 || !strings.Contains(fmt.Sprint(kept[0]), why) {
			t.Errorf("%s --json: kept is %v", line, o["kept"])
		}
	}
	if kept, ok := command(t, "load", fixture(gptqFixture), "--json").object(t)["kept"].([]any); !ok || len(kept) != 0 {
		t.Errorf("kept is %v where all is held", kept)
	}
}

// TestPlanSaysWhatWasAsked: flags that decide what is made stand in the text.
func TestPlanSaysWhatWasAsked(t *testing.T) {
	t.Parallel()
	plain := command(t, "plan", fixture(gptqFixture)).out
	if !strings.Contains(plain, "asked for   layout marlin, dtype keep\n") {
		t.Errorf("the plan says\n%s", plain)
	}
	all := command(t, "plan", fixture(gptqFixture), "--no-fuse", "--act-order", "--strict").out
	if !strings.Contains(all, "asked for   layout marlin, dtype keep, nothing fused or stacked, strict, act-order wherever there is a g_idx\n") {
		t.Errorf("the plan says\n%s", all)
	}
}

// TestActOrder: the flag takes the order of g_idx where the config does not say it.
func TestActOrder(t *testing.T) {
	t.Parallel()
	const indices = "model.layers.0.self_attn.qkv_proj.g_idx_sort_indices"
	if planned(t, fixture(gptqFixture))[indices] != nil || planned(t, fixture(gptqFixture), "--act-order")[indices] == nil {
		t.Error("--act-order changes nothing in the plan, or is on by itself")
	}
	if r := command(t, "load", fixture(gptqFixture), "--act-order", "--layout", "dequant"); r.code != exitDone {
		t.Errorf("exit code %d, stderr %s", r.code, r.err)
	}
}

// TestFP8Exponent: the flag takes the factor out of the scales, says so, and knows no other value.
func TestFP8Exponent(t *testing.T) {
	t.Parallel()
	const fp8 = "fp8_block_dense"
	plain := command(t, "plan", fixture(fp8), "--fp8-exponent", "plain").out
	if !strings.Contains(plain, "asked for   layout marlin, dtype keep, FP8 scales without the exponent factor\n") || !strings.Contains(plain, "marlin_plain") {
		t.Errorf("the plan says\n%s", plain)
	}
	if fused := command(t, "plan", fixture(fp8), "--fp8-exponent", "fused").out; fused != command(t, "plan", fixture(fp8)).out {
		t.Errorf("fused is not the default:\n%s", fused)
	}
	if r := command(t, "load", fixture(fp8), "--fp8-exponent", "half"); r.code != exitUsage {
		t.Errorf("exit code %d, stderr %s", r.code, r.err)
	}
}

// TestF32NeedsALayout: the kernels' layouts hold no F32, which is wrong usage wherever it is asked for.
func TestF32NeedsALayout(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"plan", "load", "pack"} {
		for _, layout := range []string{"marlin", "exllama", "raw", "dequant"} {
			args := []string{verb, fixture(gptqFixture), "--dtype", "f32", "--layout", layout}
			if verb == "pack" {
				args = slices.Insert(args, 2, filepath.Join(t.TempDir(), "out"))
			}
			want := exitDone
			if layout == "marlin" || layout == "exllama" {
				want = exitUsage
			}
			if r := command(t, args...); r.code != want || want == exitUsage && !strings.Contains(r.err, "layout "+layout+" holds F16 or BF16 scales") {
				t.Errorf("%q: exit code %d, stderr %s", args, r.code, r.err)
			}
		}
	}
}

// TestHelpOfLayouts: the help says what each value and flag does.
func TestHelpOfLayouts(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"plan", "load", "pack"} {
		help := command(t, verb, "--help").out
		for _, want := range []string{"marlin|exllama|raw|dequant", "--no-fuse ", "--strict ", "--act-order ", "dequant makes floating-point weights", "kept raw and the plan gives the reason"} {
			if !strings.Contains(help, want) {
				t.Errorf("the help of %s lacks %q:\n%s", verb, want, help)
			}
		}
	}
}
