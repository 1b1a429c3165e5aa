package coldload_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

const expertsAt = mlp + "experts."

// experts are the Modules of routed experts, expert by expert: gate, up, down.
func experts(n, hidden, inner, group int, members [3]string, opt ckpt.GPTQOptions) (all []*ckpt.Module) {
	for e := range n {
		for i, name := range members {
			k, out := hidden, inner
			if i == 2 {
				k, out = inner, hidden
			}
			opt.Seed++
			all = append(all, ckpt.GPTQ(fmt.Sprintf("%s%d.%s", expertsAt, e, name), k, out, 4, group, opt))
		}
	}
	return all
}

var proj = [3]string{"gate_proj", "up_proj", "down_proj"}

func list(modules ...*ckpt.Module) (items ckpt.List) {
	for _, m := range modules {
		items = append(items, m)
	}
	return items
}

// moe is a build of routed experts under a family that knows how many there are.
func moe(count int, items ...ckpt.Item) func(b *ckpt.Builder) string {
	return only(func(b *ckpt.Builder) {
		c := config("qwen3_moe", nil)
		c["num_experts"] = count
		b.Shard(single, items...).JSON("config.json", c)
	})
}

// three are dense q, k and v.
func three(suffix string) ckpt.List {
	const d = safetensors.BF16
	return ckpt.List{
		ckpt.Dense(attn+"q_proj"+suffix, d, 1, 8, 4), ckpt.Dense(attn+"k_proj"+suffix, d, 2, 2, 4), ckpt.Dense(attn+"v_proj"+suffix, d, 3, 6, 4),
	}
}

// layer2 moves an Item to layer 1.
func layer2(item ckpt.Item) (moved ckpt.List) {
	for _, t := range item.Tensors() {
		t.Name = strings.Replace(t.Name, "layers.0.", "layers.1.", 1)
		moved = append(moved, t)
	}
	return moved
}

func family(model string, items ...ckpt.Item) func(b *ckpt.Builder) string {
	return only(func(b *ckpt.Builder) {
		b.Shard(single, items...).JSON("config.json", map[string]any{"model_type": model})
	})
}

func TestMemberFaults(t *testing.T) {
	bf := safetensors.BF16
	dense := three(".weight")
	noK := ckpt.Without(dense, "k_proj.weight")
	gate, up := ckpt.GPTQ(mlp+"gate_proj", 256, 128, 4, 64, ckpt.GPTQOptions{}), ckpt.GPTQ(mlp+"up_proj", 256, 128, 4, 64, ckpt.GPTQOptions{Seed: 5})
	q, k, v := qkv(ckpt.GPTQOptions{})
	four := experts(4, 256, 128, 64, proj, ckpt.GPTQOptions{})
	at := func(e int, member string) string { return fmt.Sprintf("%s%d.%s", expertsAt, e, member) }
	without := func(prefixes ...string) ckpt.Item {
		return list(slices.DeleteFunc(slices.Clone(four), func(m *ckpt.Module) bool {
			return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(m.Base, p) })
		})...)
	}
	swapped := func(base string, item ckpt.Item) ckpt.Item { return ckpt.List{without(base), item} }
	refuses(t, []row{
		{name: "k_proj is missing, known family", code: stages.CodeMember, says: []string{single, attn + "q_proj", "k_proj", "--no-fuse"}, build: family("llama", noK)},
		{name: "k_proj is missing where another layer has it", code: stages.CodeMember, says: []string{attn + "q_proj", "expected k_proj"}, build: family("novel", noK, layer2(dense))},
		{name: "up_proj is missing, known family", code: stages.CodeMember, says: []string{mlp + "gate_proj", "expected up_proj"}, build: gptq(gate)},
		{name: "gate_proj is missing where another layer has it", code: stages.CodeMember, says: []string{mlp + "up_proj", "expected gate_proj"}, build: gptqWith("novel", nil, up, layer2(ckpt.List{gate, up}))},
		{name: "kv_a_proj_with_mqa is missing", code: stages.CodeMember, says: []string{attn + "q_a_proj", "expected kv_a_proj_with_mqa"}, build: family("deepseek_v3", ckpt.Dense(attn+"q_a_proj.weight", bf, 1, 4, 4))},
		{name: "q_proj's bias without q_proj", code: stages.CodeMember, says: []string{attn, "expected q_proj"}, build: family("qwen2", ckpt.Without(dense, "q_proj.weight"), ckpt.Dense(attn+"q_proj.bias", bf, 1, 8))},
		{name: "bias on one member", code: stages.CodeMismatch, says: []string{single, attn + "k_proj", "bias differs", "expected a bias in BF16, found no bias", "--no-fuse"}, build: family("qwen2", dense, ckpt.Dense(attn+"q_proj.bias", bf, 1, 8))},
		{name: "biases of different dtypes", code: stages.CodeMismatch, says: []string{attn + "k_proj", "bias in BF16", "bias in F32"}, build: family("qwen2", dense, three(".x"), ckpt.Dense(attn+"q_proj.bias", bf, 1, 8), ckpt.Dense(attn+"k_proj.bias", safetensors.F32, 1, 2), ckpt.Dense(attn+"v_proj.bias", bf, 1, 6))},
		{name: "bias of the wrong length", code: stages.CodeShape, says: []string{attn + "q_proj.bias", "[8]", "[7]"}, build: family("qwen2", dense, ckpt.Dense(attn+"q_proj.bias", bf, 1, 7))},
		{name: "dtypes differ", code: stages.CodeMismatch, says: []string{attn + "v_proj: dtype differs", "expected BF16, found F16"}, build: family("llama", ckpt.Replace(dense, ckpt.Dense(attn+"v_proj.weight", safetensors.F16, 1, 6, 4)))},
		{name: "K differs", code: stages.CodeMismatch, says: []string{attn + "v_proj", "input features", "expected 4", "found 5"}, build: family("llama", ckpt.Replace(dense, ckpt.Dense(attn+"v_proj.weight", bf, 1, 6, 5)))},
		{name: "weight of three dims", code: stages.CodeShape, says: []string{attn + "v_proj.weight", "[6, 4, 1]"}, build: family("llama", ckpt.Replace(dense, ckpt.Dense(attn+"v_proj.weight", bf, 1, 6, 4, 1)))},
		{name: "quantised K differs", code: stages.CodeMismatch, says: []string{attn + "v_proj", "input features", "256", "128"}, build: gptq(q, k, ckpt.GPTQ(attn+"v_proj", 128, 128, 4, 64, ckpt.GPTQOptions{}))},
		{name: "group sizes differ", code: stages.CodeMismatch, says: []string{single, attn + "v_proj: group size differs", "expected 64, found 128"}, build: gptqWith("llama", map[string]any{"dynamic": map[string]any{`+:.*\.v_proj`: map[string]any{"group_size": 128}}}, q, k, ckpt.GPTQ(attn+"v_proj", 256, 128, 4, 128, ckpt.GPTQOptions{}))},
		{name: "quantised and dense members", code: stages.CodeMismatch, says: []string{attn, "gptq 4 bits", "dense BF16"}, build: gptq(q, k, ckpt.Dense(attn+"v_proj.weight", bf, 1, 128, 256))},
		{name: "quantised bias on one member", code: stages.CodeMismatch, says: []string{attn + "v_proj: bias differs", "expected no bias, found a bias in F16"}, build: gptq(q, k, ckpt.GPTQ(attn+"v_proj", 256, 128, 4, 64, ckpt.GPTQOptions{Bias: true}))},
		{name: "act-order of one member", code: stages.CodeMismatch, says: []string{attn + "v_proj: order of input features differs", "expected no act-order, found act-order"}, build: gptqWith("llama", map[string]any{"dynamic": map[string]any{`+:.*\.v_proj`: map[string]any{"desc_act": true}}}, q, k, v)},
		{name: "symmetry of one member", code: stages.CodeMismatch, says: []string{attn + "v_proj: symmetry differs", "expected symmetric, found asymmetric"}, build: gptqWith("llama", map[string]any{"dynamic": map[string]any{`+:.*\.v_proj`: map[string]any{"sym": false}}}, q, k, v)},
		{name: "dtypes of scales differ", code: stages.CodeMismatch, says: []string{attn + "v_proj", "dtype of the scales differs", "expected F16, found F32"}, build: gptq(q, k, ckpt.Replace(v, scalesOf(v, -1, 0)))},
		{name: "a member's scales are too narrow", code: stages.CodeShape, says: []string{single, attn + "k_proj.scales", "expected 64", "found 32"}, build: gptq(q, v, ckpt.Replace(k, ckpt.Dense(attn+"k_proj.scales", safetensors.F16, 1, 4, 32)))},
		{name: "gate and up scales are off, the sum is right", code: stages.CodeShape, says: []string{mlp + "gate_proj.scales", "expected 128", "found 96"}, build: gptq(
			ckpt.Replace(gate, ckpt.Dense(mlp+"gate_proj.scales", safetensors.F16, 1, 4, 96)), ckpt.Replace(up, ckpt.Dense(mlp+"up_proj.scales", safetensors.F16, 1, 4, 160)),
		)},

		{name: "an expert is missing", code: stages.CodeMember, says: []string{single, "3 of the modules", "no 2.gate_proj, 2.up_proj, 2.down_proj", "experts 0 to 3"}, build: moe(4, without(at(2, "")))},
		{name: "the last expert is missing", code: stages.CodeMember, says: []string{"3 of the modules", "3.gate_proj", "experts 0 to 3"}, build: moe(4, without(at(3, "")))},
		{name: "the first expert is missing", code: stages.CodeMember, says: []string{"3 of the modules", "0.gate_proj"}, build: moe(4, without(at(0, "")))},
		{name: "an expert lacks a member", code: stages.CodeMember, says: []string{"1 of the modules", "no 1.up_proj"}, build: moe(4, without(at(1, "up_proj")))},
		{name: "an expert is missing, unknown family", code: stages.CodeMember, says: []string{"no 2.gate_proj"}, build: gptqWith("novel", nil, without(at(2, "")))},
		{name: "the last expert is missing, unknown family with a count", code: stages.CodeMember, says: []string{"no 3.gate_proj"}, build: only(func(b *ckpt.Builder) {
			c := config("novel", nil)
			c["num_experts"] = 4
			b.Shard(single, without(at(3, ""))).JSON("config.json", c)
		})},
		{name: "an expert lacks a member, unknown family", code: stages.CodeMember, says: []string{"no 1.down_proj"}, build: gptqWith("", nil, without(at(1, "down_proj")))},
		{name: "more experts than the config says", code: stages.CodeConfig, says: []string{single, "more experts", "experts 0 to 2", "expert 3", "config.json"}, build: moe(3, list(four...))},
		{name: "an expert of number 999999", code: stages.CodeConfig, says: []string{"more experts", "expert 999999"}, build: moe(4, list(four...), ckpt.GPTQ(at(999999, "gate_proj"), 256, 128, 4, 64, ckpt.GPTQOptions{}))},
		{name: "an expert of number 999999, unknown family", code: stages.CodeMember, says: []string{"no 4.gate_proj", "more"}, build: gptqWith("novel", nil, list(four...), ckpt.GPTQ(at(999999, "gate_proj"), 256, 128, 4, 64, ckpt.GPTQOptions{}))},
		{name: "numbers with leading zeros", code: stages.CodeMember, says: []string{"no 2.gate_proj"}, build: moe(4, without(at(2, "")), ckpt.GPTQ(expertsAt+"02.gate_proj", 256, 128, 4, 64, ckpt.GPTQOptions{}))},
		{name: "all numbers with leading zeros", code: stages.CodeMember, says: []string{expertsAt + "00", "leading zero"}, build: moe(1, ckpt.GPTQ(expertsAt+"00.gate_proj", 256, 128, 4, 64, ckpt.GPTQOptions{}))},
		{name: "a dense expert with leading zeros", code: stages.CodeMember, says: []string{expertsAt + "007", "leading zero"}, build: moe(1, ckpt.Dense(expertsAt+"007.gate_proj.weight", bf, 1, 4, 4))},
		{name: "a number beyond all experts", code: stages.CodeMember, says: []string{expertsAt + "99999999"}, build: moe(4, list(four...), ckpt.GPTQ(at(99999999, "gate_proj"), 256, 128, 4, 64, ckpt.GPTQOptions{}))},
		{name: "a dense expert among quantised ones", code: stages.CodeMismatch, says: []string{at(2, "up_proj"), "gptq 4 bits", "dense BF16"}, build: moe(4, swapped(at(2, "up_proj"), ckpt.Dense(at(2, "up_proj.weight"), bf, 1, 128, 256)))},
		{name: "an expert of another width", code: stages.CodeMismatch, says: []string{at(2, "up_proj"), "output features", "expected 128", "found 192"}, build: moe(4, swapped(at(2, "up_proj"), ckpt.GPTQ(at(2, "up_proj"), 256, 192, 4, 64, ckpt.GPTQOptions{})))},
		{name: "an expert of another K", code: stages.CodeMismatch, says: []string{at(2, "up_proj"), "input features", "expected 256", "found 128"}, build: moe(4, swapped(at(2, "up_proj"), ckpt.GPTQ(at(2, "up_proj"), 128, 128, 4, 64, ckpt.GPTQOptions{})))},
		{name: "an expert both quantised and dense", code: stages.CodeMismatch, says: []string{at(2, "up_proj"), "both"}, build: moe(4, list(four...), ckpt.Dense(at(2, "up_proj.weight"), bf, 1, 128, 256))},
		{name: "down does not fit gate", code: stages.CodeMismatch, says: []string{at(0, "down_proj"), at(0, "gate_proj"), "expected 256", "found 128"}, build: moe(1, list(
			ckpt.GPTQ(at(0, "gate_proj"), 256, 128, 4, 64, ckpt.GPTQOptions{}), ckpt.GPTQ(at(0, "up_proj"), 256, 128, 4, 64, ckpt.GPTQOptions{}), ckpt.GPTQ(at(0, "down_proj"), 128, 128, 4, 64, ckpt.GPTQOptions{}),
		))},
		{name: "expert widths differ, the sum is right", code: stages.CodeMismatch, says: []string{at(0, "up_proj"), at(0, "gate_proj"), "expected 64", "found 192"}, build: moe(1, list(
			ckpt.GPTQ(at(0, "gate_proj"), 256, 64, 4, 64, ckpt.GPTQOptions{}), ckpt.GPTQ(at(0, "up_proj"), 256, 192, 4, 64, ckpt.GPTQOptions{}), ckpt.GPTQ(at(0, "down_proj"), 128, 256, 4, 64, ckpt.GPTQOptions{}),
		))},
		{name: "two namings of experts in one place", code: stages.CodeDuplicate, says: []string{expertsAt + "gate_up_proj"}, build: gptqWith("novel", nil, list(four...), list(experts(4, 256, 128, 64, [3]string{"w1", "w3", "w2"}, ckpt.GPTQOptions{})...))},

		{name: "fused name is taken", code: stages.CodeDuplicate, says: []string{attn + "qkv_proj.weight", "remove one"}, build: family("llama", dense, ckpt.Dense(attn+"qkv_proj.weight", bf, 1, 16, 4))},
		{name: "fused quantised name is taken", code: stages.CodeDuplicate, says: []string{attn + "qkv_proj.qweight"}, build: gptq(q, k, v, ckpt.GPTQ(attn+"qkv_proj", 256, 128, 4, 64, ckpt.GPTQOptions{}))},
		{name: "fused raw name is taken", opt: coldload.Options{Layout: stages.LayoutRaw}, code: stages.CodeDuplicate, says: []string{attn + "qkv_proj.qweight"}, build: gptq(q, k, v, ckpt.GPTQ(attn+"qkv_proj", 256, 128, 4, 64, ckpt.GPTQOptions{}))},
		{name: "fused name is taken by a raw module", code: stages.CodeDuplicate, says: []string{attn + "qkv_proj.qweight"}, build: gptq(q, k, v, ckpt.GPTQ(attn+"qkv_proj", 256, 96, 4, 64, ckpt.GPTQOptions{}))},
		{name: "stacked name is taken", code: stages.CodeDuplicate, says: []string{expertsAt + "down_proj.qweight"}, build: moe(4, list(four...), i32(expertsAt+"down_proj.x", 4), ckpt.GPTQ(expertsAt+"down_proj", 256, 128, 4, 64, ckpt.GPTQOptions{}))},
	})
}

// TestEveryFaultIsTold: not only the first.
func TestEveryFaultIsTold(t *testing.T) {
	bad := gptq(
		ckpt.Without(o(ckpt.GPTQOptions{}), "scales"),
		ckpt.GPTQ("lm_head", 256, 128, 8, 64, ckpt.GPTQOptions{}),
		ckpt.Without(ckpt.GPTQ("a", 256, 128, 4, 64, ckpt.GPTQOptions{}), "qweight", "scales"),
		ckpt.Without(three(".weight"), "k_proj.weight"),
	)
	_, _, err := tryLoad(t, row{build: bad})
	refused, ok := errors.AsType[*stages.RefusedError](err)
	if !ok {
		t.Fatalf("error %v, want a refusal", err)
	}
	for _, part := range []string{oProj + ".qweight", "lm_head.qzeros", "a.qzeros", "a.g_idx", attn + "q_proj"} {
		if !strings.Contains(refused.Error(), part) {
			t.Errorf("%v\ndoes not tell of %s", refused, part)
		}
	}
	if len(refused.Faults) != 5 {
		t.Errorf("%d faults, want 5", len(refused.Faults))
	}
	headers := only(func(b *ckpt.Builder) {
		b.File(shard1, []byte("x")).File(shard2, withLength(1<<40, "{}")).Index(map[string]string{"a": shard1, "b": shard2})
	})
	_, _, err = tryLoad(t, row{build: headers})
	if refused, ok = errors.AsType[*stages.RefusedError](err); !ok || len(refused.Faults) != 2 {
		t.Errorf("error %v, want both shards' faults", err)
	}
}

func TestMembersThatLoad(t *testing.T) {
	raw := coldload.Options{Layout: stages.LayoutRaw}
	q, k, v := qkv(ckpt.GPTQOptions{Bias: true})
	four := experts(4, 256, 128, 64, proj, ckpt.GPTQOptions{})
	w := experts(3, 256, 128, 64, [3]string{"w1", "w3", "w2"}, ckpt.GPTQOptions{Bias: true})
	one := experts(2, 128, 64, -1, proj, ckpt.GPTQOptions{})
	narrow := experts(2, 128, 48, -1, proj, ckpt.GPTQOptions{}) // K 48 is no multiple of 32: the packer allows it where words are whole
	marlin := func(all []*ckpt.Module) func(got loaded) {
		return func(got loaded) {
			got.t.Helper()
			checkStack(got, all, true)
		}
	}
	kept := func(all []*ckpt.Module, reason string) func(got loaded) {
		return func(got loaded) {
			got.t.Helper()
			checkStack(got, all, false)
			if s := fmt.Sprint(got.res.Plan.Summary.Kept); !strings.Contains(s, reason) {
				got.t.Errorf("kept %s, want %q", s, reason)
			}
		}
	}
	shuffled := list(four[7], four[2], four[11], four[0], four[4], four[9], four[1], four[3], four[10], four[8], four[5], four[6])
	dense := three(".weight")
	loads(t, []row{
		{name: "q, k, v", build: gptq(v, q, k), check: func(got loaded) {
			got.same(attn+"qkv_proj.qweight", safetensors.I32, []int64{16, 2 * 448}, marlinWords(q, k, v))
			got.same(attn+"qkv_proj.scales", safetensors.F16, []int64{4, 448}, marlinScales(safetensors.F16, q, k, v))
			got.same(attn+"qkv_proj.bias", safetensors.F16, []int64{448}, biases(true, q, k, v))
			got.names(attn+"qkv_proj.qweight", attn+"qkv_proj.scales", attn+"qkv_proj.bias")
		}},
		{name: "q, k, v raw", opt: raw, build: gptq(v, q, k), check: func(got loaded) {
			got.same(attn+"qkv_proj.qweight", safetensors.I32, []int64{32, 448}, rawWords(q, k, v))
			got.same(attn+"qkv_proj.scales", safetensors.F16, []int64{4, 448}, rawScales(safetensors.F16, q, k, v))
			got.same(attn+"qkv_proj.qzeros", safetensors.I32, []int64{4, 56}, rawZeros(q, k, v))
			got.same(attn+"qkv_proj.g_idx", safetensors.I32, []int64{256}, dataOf(q, attn+"q_proj.g_idx"))
			got.same(attn+"qkv_proj.bias", safetensors.F16, []int64{448}, biases(false, q, k, v))
		}},
		{name: "q, k, v unfused", opt: coldload.Options{NoFuse: true}, build: gptq(q, k, v), check: func(got loaded) {
			for _, m := range []*ckpt.Module{q, k, v} {
				got.same(m.Base+".bias", safetensors.F16, []int64{int64(m.N)}, biases(true, m))
				got.same(m.Base+".qweight", safetensors.I32, []int64{16, int64(2 * m.N)}, marlinWords(m))
			}
		}},
		{name: "experts", build: moe(4, list(four...)), check: marlin(four)},
		{name: "experts in another order", build: moe(4, shuffled), check: marlin(four)},
		{name: "experts in two shards", build: only(func(b *ckpt.Builder) {
			c := config("qwen3_moe", nil)
			c["num_experts"] = 4
			b.Shard(shard1, shuffled[:7]).Shard(shard2, shuffled[7:]).AutoIndex().JSON("config.json", c)
		}), check: marlin(four)},
		{name: "experts raw", opt: raw, build: moe(4, shuffled), check: kept(four, "")},
		{name: "experts of an unknown family", build: gptqWith("novel", nil, shuffled), check: func(got loaded) {
			marlin(four)(got)
			notes(got.t, got.res.Notes, `"novel" is not in the table`)
		}},
		{name: "experts w1, w3, w2 with bias", build: gptqWith("mixtral", nil, list(w...)), check: marlin(w)},
		{name: "experts of one group", build: gptqWith("qwen3_moe", map[string]any{"group_size": -1}, list(one...)), check: marlin(one)},
		{name: "experts of N 48", opt: coldload.Options{NoPad: true}, build: gptqWith("qwen3_moe", map[string]any{"group_size": -1}, list(narrow...)), check: kept(narrow, "48 output features are not a multiple of 64")},
		{name: "dense members", build: family("llama", dense), check: func(got loaded) {
			got.same(attn+"qkv_proj.weight", safetensors.BF16, []int64{16, 4}, joinBytes(dense, attn+"q_proj.weight", attn+"k_proj.weight", attn+"v_proj.weight"))
		}},
		{name: "k_proj is missing, unknown family", build: family("novel", ckpt.Without(dense, "k_proj.weight")), check: func(got loaded) {
			got.names(attn+"q_proj.weight", attn+"v_proj.weight")
			notes(got.t, got.res.Notes, "novel", "unfused")
		}},
		{name: "up_proj is missing, unknown family", build: gptqWith("novel", nil, ckpt.GPTQ(mlp+"gate_proj", 256, 128, 4, 64, ckpt.GPTQOptions{})), check: func(got loaded) {
			got.names(mlp+"gate_proj.qweight", mlp+"gate_proj.scales")
		}},
		{name: "a family without names that fuse", build: family("novel", ckpt.Dense("transformer.h.0.attn.c_attn.weight", safetensors.F16, 1, 6, 2)), check: func(got loaded) {
			got.names("transformer.h.0.attn.c_attn.weight")
			notes(got.t, got.res.Notes, "unknown family", "novel", "unfused")
		}},
		{name: "one layer quantised, the other dense", build: gptq(q, k, v, layer2(dense)), check: func(got loaded) {
			got.same(attn+"qkv_proj.qweight", safetensors.I32, []int64{16, 2 * 448}, marlinWords(q, k, v))
			got.same("model.layers.1.self_attn.qkv_proj.weight", safetensors.BF16, []int64{16, 4}, joinBytes(dense, attn+"q_proj.weight", attn+"k_proj.weight", attn+"v_proj.weight"))
		}},
		{name: "dense router beside quantised experts", build: moe(4, list(four...), ckpt.Dense(mlp+"gate.weight", safetensors.BF16, 1, 4, 256)), check: func(got loaded) {
			got.same(mlp+"gate.weight", safetensors.BF16, []int64{4, 256}, dataOf(ckpt.Dense(mlp+"gate.weight", safetensors.BF16, 1, 4, 256), mlp+"gate.weight"))
		}},
		{name: "members of no bytes", build: family("llama", ckpt.Dense(attn+"q_proj.weight", safetensors.F16, 1, 0, 4), ckpt.Dense(attn+"k_proj.weight", safetensors.F16, 2, 0, 4), ckpt.Dense(attn+"v_proj.weight", safetensors.F16, 3, 0, 4)), check: func(got loaded) {
			got.same(attn+"qkv_proj.weight", safetensors.F16, []int64{0, 4}, nil)
		}},
		{name: "one member of no bytes, in another shard", build: only(func(b *ckpt.Builder) {
			b.Shard(shard1, ckpt.Dense(attn+"q_proj.weight", safetensors.F16, 1, 2, 4), ckpt.Dense(attn+"v_proj.weight", safetensors.F16, 2, 2, 4))
			b.Shard(shard2, ckpt.Dense(attn+"k_proj.weight", safetensors.F16, 3, 0, 4)).AutoIndex().JSON("config.json", map[string]any{"model_type": "llama"})
		}), check: func(got loaded) {
			item := ckpt.List{ckpt.Dense(attn+"q_proj.weight", safetensors.F16, 1, 2, 4), ckpt.Dense(attn+"v_proj.weight", safetensors.F16, 2, 2, 4)}
			got.same(attn+"qkv_proj.weight", safetensors.F16, []int64{4, 4}, joinBytes(item, attn+"q_proj.weight", attn+"v_proj.weight"))
		}},
		{name: "members of no input features", build: family("llama", ckpt.Dense(attn+"q_proj.weight", safetensors.F16, 1, 1<<58, 0), ckpt.Dense(attn+"k_proj.weight", safetensors.F16, 2, 1<<58, 0), ckpt.Dense(attn+"v_proj.weight", safetensors.F16, 3, 1<<58, 0)), check: func(got loaded) {
			got.same(attn+"qkv_proj.weight", safetensors.F16, []int64{3 << 58, 0}, nil)
		}},
		{name: "tied embeddings", build: only(func(b *ckpt.Builder) {
			b.Shard(single, ckpt.Dense("model.embed_tokens.weight", safetensors.BF16, 1, 4, 4)).JSON("config.json", map[string]any{"model_type": "llama", "tie_word_embeddings": true})
		}), check: func(got loaded) { got.names("model.embed_tokens.weight") }},
	})
	strict := moe(2, list(narrow...))
	refuses(t, []row{{
		name: "experts of N 48, strict", opt: coldload.Options{Strict: true, NoPad: true}, code: stages.CodeLayout, says: []string{single, "48 output features", "--strict"},
		build: gptqWith("qwen3_moe", map[string]any{"group_size": -1}, list(narrow...)),
	}, {
		name: "experts of N 48 under groups of 64", code: stages.CodeShape, says: []string{"groups of 64"}, build: strict,
	}})
}

// checkStack compares the stacked Outputs of experts with the reference.
func checkStack(got loaded, all []*ckpt.Module, marlin bool) {
	got.t.Helper()
	count := int64(len(all) / 3)
	for name, members := range map[string]func(e int) []*ckpt.Module{
		"gate_up_proj": func(e int) []*ckpt.Module { return all[3*e : 3*e+2] },
		"down_proj":    func(e int) []*ckpt.Module { return all[3*e+2 : 3*e+3] },
	} {
		first := members(0)
		k, n, groups := int64(first[0].K), int64(width(first)), int64(len(first[0].Scales)/first[0].N)
		var words, scales, bias, zeros, order []byte
		for e := range int(count) {
			m := members(e)
			if marlin {
				words, scales = append(words, marlinWords(m...)...), append(scales, marlinScales(safetensors.F16, m...)...)
			} else {
				words, scales = append(words, rawWords(m...)...), append(scales, rawScales(safetensors.F16, m...)...)
				zeros, order = append(zeros, rawZeros(m...)...), append(order, dataOf(m[0], m[0].Base+".g_idx")...)
			}
			if m[0].Bias != nil {
				bias = append(bias, biases(marlin, m...)...)
			}
		}
		base := expertsAt + name
		if marlin {
			got.same(base+".qweight", safetensors.I32, []int64{count, k / 16, 2 * n}, words)
		} else {
			got.same(base+".qweight", safetensors.I32, []int64{count, k / 8, n}, words)
			got.same(base+".qzeros", safetensors.I32, []int64{count, groups, n / 8}, zeros)
			got.same(base+".g_idx", safetensors.I32, []int64{count, k}, order)
		}
		got.same(base+".scales", safetensors.F16, []int64{count, groups, n}, scales)
		if bias != nil {
			got.same(base+".bias", safetensors.F16, []int64{count, n}, bias)
		}
	}
}
