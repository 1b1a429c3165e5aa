package coldload_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// What the closest existing loader gets wrong, row by row: right here, or refused by name.

const (
	usersAttn = "model.layers.0.self_attn."
	usersMLP  = "model.layers.0.mlp."
)

// usersConfig is a config.json of 4 bits in groups of 64, with changes to its GPTQ section.
func usersConfig(model string, changes map[string]any) map[string]any {
	q := map[string]any{"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": false, "sym": true}
	maps.Copy(q, changes)
	return map[string]any{"model_type": model, "quantization_config": q}
}

func usersBuild(config map[string]any, items ...ckpt.Item) func(b *ckpt.Builder) string {
	return only(func(b *ckpt.Builder) { b.Shard(single, items...).JSON("config.json", config) })
}

// usersLinear is a module of K 256 and N 128 in groups of 64.
func usersLinear(name string, bits int) *ckpt.Module {
	return ckpt.GPTQ(name, 256, 128, bits, 64, ckpt.GPTQOptions{})
}

// usersWidth replaces the Module's scales by some of another width.
func usersWidth(m *ckpt.Module, n int64) ckpt.Item {
	return ckpt.Replace(m, ckpt.Dense(m.Base+".scales", safetensors.F16, 1, int64(m.K/m.GroupSize), n))
}

func TestUsersFiles(t *testing.T) {
	indexed := func(change func(weights map[string]string)) func(b *ckpt.Builder) string {
		return only(func(b *ckpt.Builder) {
			b.Shard(shard1, u8("a", "one"), u8("b", "two")).Shard(shard2, u8("c", "three"))
			weights := b.WeightMap()
			change(weights)
			b.Index(weights)
		})
	}
	refuses(t, []row{
		{name: "weight_map with ..", code: stages.CodeEscape, says: []string{index, "../x.safetensors"}, build: indexed(func(w map[string]string) { w["a"] = "../x.safetensors" })},
		{name: "weight_map with an absolute path", code: stages.CodeEscape, says: []string{index, "/x.safetensors"}, build: indexed(func(w map[string]string) { w["a"] = "/x.safetensors" })},
		{name: "link out of the folder", code: stages.CodeEscape, says: []string{shard2, "link"}, build: func(b *ckpt.Builder) string {
			other := ckpt.New(t).Shard("x.safetensors", u8("c", "three")).Write()
			b.Shard(shard1, u8("a", "one")).Symlink(shard2, other+"/x.safetensors").Index(map[string]string{"a": shard1, "c": shard2})
			return ""
		}},
		{name: "one tensor in two shards", code: stages.CodeDuplicate, says: []string{"a", shard1, shard2}, build: only(func(b *ckpt.Builder) {
			b.Shard(shard1, u8("a", "one")).Shard(shard2, u8("a", "two"), u8("c", "x")).Index(map[string]string{"a": shard1, "c": shard2})
		})},
		{name: "wrong shard", code: stages.CodeWrongShard, says: []string{"a", "it in " + shard2, "it in " + shard1}, build: indexed(func(w map[string]string) { w["a"] = shard2 })},
		{name: "missing shard of a quantised model", code: stages.CodeMissingShard, says: []string{shard2, "missing"}, build: only(func(b *ckpt.Builder) {
			b.Shard(shard1, usersLinear(usersAttn+"o_proj", 4)).JSON("config.json", usersConfig("llama", nil))
			weights := b.WeightMap()
			weights[usersMLP+"down_proj.qweight"] = shard2
			b.Index(weights)
		})},
		{name: "single file that disagrees with the index", code: stages.CodeAmbiguous, says: []string{single, index}, build: only(func(b *ckpt.Builder) {
			b.Shard(shard1, u8("a", "one")).Shard(shard2, u8("c", "x")).AutoIndex().Shard(single, u8("z", "other"))
		})},
	})
	loads(t, []row{{
		name: "single file that agrees with the index", build: only(func(b *ckpt.Builder) {
			b.Shard(shard1, u8("a", "one")).Shard(shard2, u8("c", "x")).AutoIndex().Shard(single, u8("a", "ONE"), u8("c", "X"))
		}),
		check: func(got loaded) {
			got.t.Helper()
			got.same("a", safetensors.U8, []int64{3}, []byte("one"))
			notes(got.t, got.res.Notes, single, index)
		},
	}})
}

func TestUsersRefusals(t *testing.T) {
	linear := func(config map[string]any, item ckpt.Item) func(b *ckpt.Builder) string {
		return usersBuild(usersConfig("llama", config), item)
	}
	o := usersAttn + "o_proj"
	plain := usersLinear(o, 4)
	qkv := func(change func(k *ckpt.Module) ckpt.Item) func(b *ckpt.Builder) string {
		at := func(name string) *ckpt.Module { return usersLinear(usersAttn+name, 4) }
		return usersBuild(usersConfig("llama", nil), at("q_proj"), change(at("k_proj")), at("v_proj"))
	}
	gate, up := usersLinear(usersMLP+"gate_proj", 4), usersLinear(usersMLP+"up_proj", 4)
	ct := map[string]any{"model_type": "llama", "quantization_config": map[string]any{"quant_method": "compressed-tensors", "format": "marlin-24", "config_groups": map[string]any{
		"group_0": map[string]any{"targets": []string{"Linear"}, "weights": map[string]any{"num_bits": 8, "strategy": "channel"}},
	}}}
	refuses(t, []row{
		{
			name: "4 bits in the config, 8 in the data", code: stages.CodeShape, says: []string{single, o, "config says 4 bits, the shapes say 8"},
			build: linear(nil, usersLinear(o, 8)),
		},
		{
			name: "8 bits in the config, 4 in the data", code: stages.CodeShape, says: []string{single, o, "config says 8 bits, the shapes say 4"},
			build: linear(map[string]any{"bits": 8}, plain),
		},
		{
			name: "config's groups too small", code: stages.CodeShape, says: []string{o + ".scales", "groups of 32 over 256", "expected 8 rows", "4 rows (group size 64)"},
			build: linear(map[string]any{"group_size": 32}, plain),
		},
		{
			name: "config's groups too large", code: stages.CodeShape, says: []string{o + ".scales", "groups of 128 over 256", "expected 2 rows", "4 rows (group size 64)"},
			build: linear(map[string]any{"group_size": 128}, plain),
		},
		{
			name: "member's scales too narrow", code: stages.CodeShape, says: []string{usersAttn + "k_proj.scales", "expected 128", "found 64"},
			build: qkv(func(k *ckpt.Module) ckpt.Item { return usersWidth(k, 64) }),
		},
		{
			name: "widths off, the sum right: gate", code: stages.CodeShape, says: []string{gate.Base + ".scales", "expected 128", "found 96"},
			build: usersBuild(usersConfig("llama", nil), usersWidth(gate, 96), usersWidth(up, 160)),
		},
		{
			name: "widths off, the sum right: up", code: stages.CodeShape, says: []string{up.Base + ".scales", "expected 128", "found 160"},
			build: usersBuild(usersConfig("llama", nil), usersWidth(gate, 96), usersWidth(up, 160)),
		},
		{
			name: "AWQ data under a gptq config", code: stages.CodeShape, says: []string{o, "AWQ", "gptq"},
			build: linear(nil, ckpt.List{
				ckpt.Dense(o+".qweight", safetensors.I32, 1, 256, 16), ckpt.Dense(o+".qzeros", safetensors.I32, 1, 4, 16),
				ckpt.Dense(o+".scales", safetensors.F16, 1, 4, 128),
			}),
		},
		{
			name: "compressed-tensors", code: stages.CodeUnsupported, says: []string{"config.json", "format marlin-24 is not supported"},
			build: usersBuild(ct, ckpt.Dense(o+".weight_packed", safetensors.I32, 1, 128, 32), ckpt.Dense(o+".weight_scale", safetensors.F16, 1, 128, 4)),
		},
		{
			name: "expert of 48 columns, strict", code: stages.CodeLayout, says: []string{"gate_proj", "48", "--strict"}, opt: coldload.Options{Strict: true, NoPad: true},
			build: usersBuild(usersConfig("zebra", map[string]any{"group_size": -1}), usersNarrow()),
		},
	})
	loads(t, []row{{
		name: "expert of 48 columns", opt: coldload.Options{NoPad: true}, build: usersBuild(usersConfig("zebra", map[string]any{"group_size": -1}), usersNarrow()),
		check: func(got loaded) {
			got.t.Helper()
			kept := fmt.Sprint(got.res.Plan.Summary.Kept)
			if !strings.Contains(kept, "48 output features are not a multiple of 64") {
				got.t.Errorf("kept: %s", kept)
			}
			if x, ok := got.mem.Lookup(usersMLP + "experts.gate_up_proj.qweight"); !ok || x.Layout != stages.LayoutRaw || !slices.Equal(x.Shape, []int64{1, 16, 96}) {
				got.t.Errorf("gate_up_proj: %+v", x)
			}
		},
	}})
}

// usersNarrow is one expert of 128 hidden and 48 intermediate features.
func usersNarrow() ckpt.List {
	at := func(name string, k, n int) ckpt.Item {
		return ckpt.GPTQ(usersMLP+"experts.0."+name, k, n, 4, -1, ckpt.GPTQOptions{})
	}
	return ckpt.List{at("gate_proj", 128, 48), at("up_proj", 128, 48), at("down_proj", 48, 128)}
}

// usersRight loads a checkpoint in every layout, fused or not, and compares with the reference: what is right is right in all of them. only
// names the layouts in which it must load; in the others it must fail as the reference says.
func usersRight(t *testing.T, c *rndCheckpoint, opt coldload.Options, only ...stages.Layout) {
	t.Helper()
	dir := c.write(t, rand.New(rand.NewPCG(1, 2)), 2)
	for _, layout := range []stages.Layout{stages.LayoutMarlin, stages.LayoutExllama, stages.LayoutDequant, stages.LayoutRaw} {
		for _, apart := range []bool{false, true} {
			opt.Layout, opt.NoFuse = layout, apart
			want := rndExpect(c, opt)
			if slices.Contains(only, layout) && len(want.refuse)+len(want.fails) > 0 {
				t.Errorf("%s: the reference fails: %v, %v", layout, want.refuse, want.fails)
			}
			if len(want.refuse)+len(want.fails) > 0 {
				continue
			}
			mem, _ := loadHost(t, dir, opt)
			for _, d := range want.compare(mem) {
				t.Errorf("%s, apart %v: %s", layout, apart, d)
			}
		}
	}
}

// usersDraw makes modules of values from a seed.
func usersDraw(format string, wraps bool) *rndDraw {
	c := &rndCheckpoint{model: "qwen3_moe", count: "num_experts", format: format, wraps: wraps}
	return &rndDraw{values: rand.New(rand.NewPCG(3, 4)), c: c}
}

// experts adds stacked experts of H 128 and I 64, each with an order of its own when they have one.
func (r *rndDraw) experts(count int, p rndParams) {
	scope := usersMLP + "experts"
	gu := &rndUnit{name: scope + ".gate_up_proj", members: 2, experts: count}
	down := &rndUnit{name: scope + ".down_proj", members: 1, experts: count, down: true}
	for e := range count {
		at := func(name string, k, n int) *rndModule {
			return r.module(fmt.Sprintf("%s.%d.%s", scope, e, name), k, n, p)
		}
		gate, up := at("gate_proj", 128, 64), at("up_proj", 128, 64)
		up.gIdx = slices.Clone(gate.gIdx)
		gu.modules = append(gu.modules, gate, up)
		down.modules = append(down.modules, at("down_proj", 64, 128))
	}
	r.c.units = append(r.c.units, gu, down)
}

// linear adds one module.
func (r *rndDraw) linear(name string, p rndParams) *rndModule {
	m := r.module(name, 128, 128, p)
	r.c.units = append(r.c.units, &rndUnit{name: name, members: 1, modules: []*rndModule{m}})
	return m
}

func TestUsersRight(t *testing.T) {
	all := []stages.Layout{stages.LayoutMarlin, stages.LayoutExllama, stages.LayoutDequant, stages.LayoutRaw}
	p := rndParams{bits: 4, group: 32, sym: true, order: "trivial", scales: safetensors.F16, biasType: safetensors.F16}
	with := func(change func(p *rndParams)) rndParams {
		q := p
		change(&q)
		return q
	}
	order := with(func(p *rndParams) { p.descAct, p.order = true, "balanced" })
	for _, bits := range []int{4, 8} {
		t.Run(fmt.Sprintf("act-order of %d-bit experts, each its own", bits), func(t *testing.T) {
			order.bits = bits
			r := usersDraw("gptq", false)
			r.experts(3, order)
			usersRight(t, r.c, coldload.Options{}, all...)
			usersRight(t, r.c, coldload.Options{DType: safetensors.BF16}, all...)
		})
	}
	t.Run("bias on experts", func(t *testing.T) {
		r := usersDraw("gptq", false)
		r.experts(2, with(func(p *rndParams) { p.bias = true }))
		usersRight(t, r.c, coldload.Options{}, all...)
		mem, _ := loadHost(t, r.c.write(t, rand.New(rand.NewPCG(1, 2)), 1), coldload.Options{})
		if x, ok := mem.Lookup(usersMLP + "experts.gate_up_proj.bias"); !ok || !slices.Equal(x.Shape, []int64{2, 128}) || x.Layout != stages.LayoutMarlin {
			t.Errorf("gate_up_proj.bias: %+v", x)
		}
	})
	t.Run("8 bits", func(t *testing.T) {
		r := usersDraw("gptq", false)
		r.linear(usersAttn+"o_proj", with(func(p *rndParams) { p.bits = 8 }))
		r.experts(2, with(func(p *rndParams) { p.bits = 8 }))
		usersRight(t, r.c, coldload.Options{}, all...)
	})
	t.Run("one group", func(t *testing.T) {
		for _, act := range []bool{false, true} {
			r := usersDraw("gptq", false)
			r.linear(usersAttn+"o_proj", with(func(p *rndParams) { p.group, p.descAct = -1, act }))
			r.experts(2, with(func(p *rndParams) { p.group, p.descAct = -1, act }))
			usersRight(t, r.c, coldload.Options{}, all...)
		}
	})
	t.Run("an override that has groups where the rest has one", func(t *testing.T) {
		r := usersDraw("gptq", false)
		r.linear(usersAttn+"o_proj", with(func(p *rndParams) { p.group, p.descAct = -1, true }))
		r.linear("lm_head", order)
		usersRight(t, r.c, coldload.Options{}, all...)
	})
	t.Run("asymmetric gptq_v2", func(t *testing.T) {
		r := usersDraw("gptq_v2", false)
		m := r.linear(usersAttn+"o_proj", with(func(p *rndParams) { p.sym, p.full = false, true }))
		usersRight(t, r.c, coldload.Options{}, all...)
		if !slices.Equal((&rndLoad{c: r.c}).zeros(m)[:8], usersInts(m.stored[:8])) {
			t.Error("the reference does not take the zero points as stored")
		}
	})
	t.Run("lm_head", func(t *testing.T) {
		r := usersDraw("gptq", false)
		r.linear("lm_head", p)
		usersRight(t, r.c, coldload.Options{}, all...)
	})
}

func usersInts(v []uint32) (out []int) {
	for _, x := range v {
		out = append(out, int(x))
	}
	return out
}

// TestUsersZeros: a stored zero point of 15 in an asymmetric checkpoint of format gptq. Who wrote it decides; a kernel that adds one to
// what is stored cannot have it in any case.
func TestUsersZeros(t *testing.T) {
	p := rndParams{bits: 4, group: 32, order: "trivial", scales: safetensors.F16, full: true}
	three := p
	three.bits = 3
	r3 := usersDraw("gptq", true)
	r3.linear(usersAttn+"o_proj", three)
	usersRight(t, r3.c, coldload.Options{}, stages.LayoutDequant, stages.LayoutRaw, stages.LayoutMarlin) // 3 bits wrap one by one
	for _, wraps := range []bool{false, true} {
		r := usersDraw("gptq", wraps)
		r.linear(usersAttn+"o_proj", p)
		build := func(*ckpt.Builder) string { return r.c.write(t, rand.New(rand.NewPCG(1, 2)), 1) }
		says := []string{single, usersAttn + "o_proj.qzeros", "stored as 15, all ones", "gptq_v2"}
		rows := []row{{name: fmt.Sprintf("exllama, wraps %v", wraps), opt: coldload.Options{Layout: stages.LayoutExllama}, says: says, build: build}}
		if wraps {
			usersRight(t, r.c, coldload.Options{}, stages.LayoutDequant, stages.LayoutRaw, stages.LayoutMarlin)
		} else {
			for _, layout := range []stages.Layout{stages.LayoutDequant, stages.LayoutRaw, stages.LayoutMarlin} {
				rows = append(rows, row{name: string(layout) + ", unknown writer", opt: coldload.Options{Layout: layout}, says: says, build: build})
			}
		}
		breaks(t, rows)
	}
}

// TestUsersBadBytes: what only the bytes show.
func TestUsersBadBytes(t *testing.T) {
	p := rndParams{bits: 4, group: 32, sym: true, descAct: true, order: "balanced", scales: safetensors.F32}
	uneven := usersDraw("gptq", false)
	m := uneven.linear(usersAttn+"o_proj", p)
	m.scaleType = safetensors.F16
	m.scales = uneven.floats(len(m.scales), safetensors.F16)
	m.gIdx[slices.Index(m.gIdx, 1)] = 2
	beyond := usersDraw("gptq", false)
	beyond.linear(usersAttn+"o_proj", p).setScale(1e6)
	build := func(r *rndDraw) func(*ckpt.Builder) string {
		return func(*ckpt.Builder) string { return r.c.write(t, rand.New(rand.NewPCG(1, 2)), 1) }
	}
	groups := []string{single, usersAttn + "o_proj.g_idx", "group 1 has the wrong number of input features", "expected 32", "found 31", "--layout raw"}
	scales := []string{single, usersAttn + "o_proj.scales", "F16", "--dtype bf16"}
	half := coldload.Options{DType: safetensors.F16}
	outside := usersDraw("gptq", false)
	p.scales = safetensors.F16
	outside.linear(usersAttn+"o_proj", p).gIdx[77] = 4
	for _, layout := range []stages.Layout{stages.LayoutMarlin, stages.LayoutExllama, stages.LayoutDequant, stages.LayoutRaw} {
		breaks(t, []row{{
			name: "g_idx out of range, " + string(layout), opt: coldload.Options{Layout: layout}, build: build(outside),
			says: []string{single, usersAttn + "o_proj.g_idx", "g_idx[77] is out of range", "0 to 3", "found 4"},
		}})
	}
	breaks(t, []row{
		{name: "groups of several sizes, marlin", build: build(uneven), says: groups},
		{name: "groups of several sizes, exllama", opt: coldload.Options{Layout: stages.LayoutExllama}, build: build(uneven), says: groups},
		{name: "F32 scales beyond F16, marlin", opt: half, build: build(beyond), says: scales},
		{name: "F32 scales beyond F16, raw", opt: coldload.Options{Layout: stages.LayoutRaw, DType: safetensors.F16}, build: build(beyond), says: scales},
		{name: "F32 scales beyond F16, dequantised", opt: coldload.Options{Layout: stages.LayoutDequant, DType: safetensors.F16}, build: build(beyond), says: scales},
	})
	usersRight(t, uneven.c, coldload.Options{}, stages.LayoutRaw, stages.LayoutDequant)
	usersRight(t, beyond.c, coldload.Options{DType: safetensors.BF16}, stages.LayoutMarlin, stages.LayoutRaw, stages.LayoutDequant)
}
