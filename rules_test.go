package coldload_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/sinks/host"
	"github.com/coldload/coldload/stages"
)

// ruleFunc is a rule as a function.
type ruleFunc func(o stages.Output) stages.Rewrite

func (f ruleFunc) Rewrite(o stages.Output) stages.Rewrite { return f(o) }

func retype(name string, d stages.DType) ruleFunc {
	return func(o stages.Output) stages.Rewrite {
		if o.Name == name {
			return stages.Rewrite{DType: d}
		}
		return stages.Rewrite{}
	}
}

// TestRulesRetype: the bytes of an output that a rule retypes are those of a load that casts everything.
func TestRulesRetype(t *testing.T) {
	path := fixturePath("plain_bf16_sharded")
	plain, _ := loadHost(t, path, coldload.Options{})
	wide, _ := loadHost(t, path, coldload.Options{DType: safetensors.F32, Layout: stages.LayoutRaw})
	for _, name := range []string{"model.norm.weight", "model.layers.0.self_attn.qkv_proj.weight", "model.layers.1.mlp.experts.gate_up_proj.weight"} {
		got, _ := loadHost(t, path, coldload.Options{Rules: []stages.Rule{retype(name, safetensors.F32)}})
		for out, x := range got.All() {
			want, ok := plain.Lookup(out)
			if out == name {
				want, ok = wide.Lookup(out)
			}
			if !ok || x.DType != want.DType || !bytes.Equal(x.Bytes, want.Bytes) {
				t.Errorf("%s retyped: %s is not what a cast makes of it", name, out)
			}
		}
		back, _ := loadHost(t, path, coldload.Options{Rules: []stages.Rule{retype(name, safetensors.F32), retype(name, safetensors.BF16)}})
		x, _ := back.Lookup(name)
		if want, _ := plain.Lookup(name); x.DType != safetensors.BF16 || !bytes.Equal(x.Bytes, want.Bytes) {
			t.Errorf("%s retyped twice is not what it was", name)
		}
	}
}

// TestRulesRetypeQuantised: raw scales and biases and dequantised weights come in the dtype that a rule wants as in the one that all take.
func TestRulesRetypeQuantised(t *testing.T) {
	for _, layout := range []stages.Layout{stages.LayoutRaw, stages.LayoutDequant} {
		for _, name := range []string{"gptq_moe_4b_g128_sharded", "gptq_dense_4b_g128_desc_act_bias"} {
			path := fixturePath(name)
			plain, _ := loadHost(t, path, coldload.Options{Layout: layout})
			for _, to := range []stages.DType{safetensors.F32, safetensors.BF16, safetensors.F16} {
				cast, _ := loadHost(t, path, coldload.Options{Layout: layout, DType: to})
				float := func(n string) bool { x, _ := plain.Lookup(n); return x.DType != safetensors.I32 }
				all := ruleFunc(func(o stages.Output) stages.Rewrite {
					if float(o.Name) {
						return stages.Rewrite{DType: to}
					}
					return stages.Rewrite{}
				})
				back := ruleFunc(func(o stages.Output) stages.Rewrite {
					if x, _ := plain.Lookup(o.Name); float(o.Name) {
						return stages.Rewrite{DType: x.DType}
					}
					return stages.Rewrite{}
				})
				for what, x := range map[string]struct {
					want  *host.Memory
					rules []stages.Rule
				}{"once": {cast, []stages.Rule{all}}, "and back": {plain, []stages.Rule{all, back}}} {
					got, _ := loadHost(t, path, coldload.Options{Layout: layout, Rules: x.rules})
					for out, g := range got.All() {
						if w, ok := x.want.Lookup(out); !ok || g.DType != w.DType || fmt.Sprint(g.Shape) != fmt.Sprint(w.Shape) || !bytes.Equal(g.Bytes, w.Bytes) {
							t.Errorf("%s %s %s to %s: %s is %s, not what a load in that dtype makes", name, layout, what, to, out, g.DType)
						}
					}
					for i, o := range got.Outputs() {
						if w := x.want.Outputs()[i]; o.Name == w.Name && (o.Kind != w.Kind || o.SlabBytes != w.SlabBytes || o.Size != w.Size) {
							t.Errorf("%s %s %s to %s: %+v, want %+v", name, layout, what, to, o, w)
						}
					}
				}
			}
		}
	}
}

// TestRulesDrop: what only dropped outputs need is not read, and counts as ignored; what others need too is read.
func TestRulesDrop(t *testing.T) {
	m := ckpt.GPTQ(oProj, 256, 128, 4, 64, ckpt.GPTQOptions{DescAct: true})
	build := gptqWith("llama", map[string]any{"desc_act": true}, m)
	drop := func(suffixes ...string) coldload.Options {
		return coldload.Options{Rules: []stages.Rule{ruleFunc(func(o stages.Output) stages.Rewrite {
			for _, s := range suffixes {
				if strings.HasSuffix(o.Name, s) {
					return stages.Rewrite{Drop: true}
				}
			}
			return stages.Rewrite{}
		})}}
	}
	for _, x := range []struct {
		suffixes []string
		left     []string
		ignored  int
	}{
		{nil, []string{".qweight", ".scales", ".g_idx", ".g_idx_sort_indices"}, 0},
		{[]string{".g_idx", ".g_idx_sort_indices"}, []string{".qweight", ".scales"}, 0}, // qweight needs the order
		{[]string{".scales"}, []string{".qweight", ".g_idx", ".g_idx_sort_indices"}, 1},
		{[]string{".qweight"}, []string{".scales", ".g_idx", ".g_idx_sort_indices"}, 2}, // and qzeros, which is only looked at with it
		{[]string{".qweight", ".g_idx", ".g_idx_sort_indices"}, []string{".scales"}, 3},
	} {
		loads(t, []row{{name: strings.Join(x.suffixes, " "), opt: drop(x.suffixes...), build: build, check: func(got loaded) {
			var want []string
			for _, s := range x.left {
				want = append(want, oProj+s)
			}
			got.names(want...)
			if s := got.res.Plan.Summary; s.Ignored != x.ignored || (s.IgnoredIn > 0) != (x.ignored > 0) {
				got.t.Errorf("%d tensors of %d bytes are ignored, want %d", s.Ignored, s.IgnoredIn, x.ignored)
			}
		}}})
	}
}

// TestRulesRefused: what a rule cannot have is a fault of the plan, before a byte moves.
func TestRulesRefused(t *testing.T) {
	all := func(w stages.Rewrite) coldload.Options {
		return coldload.Options{Rules: []stages.Rule{ruleFunc(func(stages.Output) stages.Rewrite { return w })}}
	}
	m := o(ckpt.GPTQOptions{})
	refuses(t, []row{
		{name: "two of one name", opt: all(stages.Rewrite{Name: "x"}), build: gptq(m), code: stages.CodeDuplicate, says: []string{"x", "two Outputs would have this name", "rule"}},
		{
			name: "the name of a kept tensor", code: stages.CodeDuplicate, says: []string{"a", "two Outputs would have this name"},
			opt: coldload.Options{Rules: []stages.Rule{ruleFunc(func(o stages.Output) stages.Rewrite {
				if o.Name == "b" {
					return stages.Rewrite{Name: "a"}
				}
				return stages.Rewrite{}
			})}},
			build: only(func(b *ckpt.Builder) { b.Shard(single, u8("a", "one"), u8("b", "two")) }),
		},
		{name: "another dtype of codes", opt: all(stages.Rewrite{DType: safetensors.F16}), build: gptq(m), code: stages.CodeUnsupported, says: []string{oProj + ".qweight", "wants it to be F16", "I32 in layout marlin"}},
		{name: "a dtype that nothing is cast to", opt: all(stages.Rewrite{DType: safetensors.I32}), build: only(func(b *ckpt.Builder) { b.Shard(single, f32s("a", []int64{1}, 1)) }), code: stages.CodeUnsupported, says: []string{"a rule wants it to be I32: only F32, F16 and BF16"}},
		{name: "another dtype of a kernel's scales", opt: coldload.Options{Rules: []stages.Rule{retype(oProj+".scales", safetensors.BF16)}}, build: gptq(m), code: stages.CodeUnsupported, says: []string{oProj + ".scales", "a kernel's layout", "layout marlin"}},
		{
			name: "another dtype of bytes", opt: all(stages.Rewrite{DType: safetensors.F16}), code: stages.CodeUnsupported, says: []string{"a", "F16", "U8"},
			build: only(func(b *ckpt.Builder) { b.Shard(single, u8("a", "one")) }),
		},
	})
	loads(t, []row{{
		name: "names that were swapped", build: only(func(b *ckpt.Builder) { b.Shard(single, u8("a", "one"), u8("b", "two")) }),
		opt: coldload.Options{Rules: []stages.Rule{ruleFunc(func(o stages.Output) stages.Rewrite {
			return stages.Rewrite{Name: map[string]string{"a": "b", "b": "a"}[o.Name]}
		})}},
		check: func(got loaded) {
			got.same("a", safetensors.U8, []int64{3}, []byte("two"))
			got.same("b", safetensors.U8, []int64{3}, []byte("one"))
		},
	}})
}
