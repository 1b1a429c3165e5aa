package plan_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coldload/coldload/internal/synth"
	"github.com/coldload/coldload/plan"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// packed is a module of compressed-tensors.
type packed struct {
	k, n, bits, groups int64
	zeros, order, bias bool
}

func (p packed) tensors(base string) []stages.Tensor {
	all := []stages.Tensor{
		tensor(base+".weight_packed", safetensors.I32, p.n, p.k*p.bits/32), tensor(base+".weight_scale", safetensors.BF16, p.n, p.groups),
		tensor(base+".weight_shape", safetensors.I64, 2),
	}
	if p.zeros {
		all = append(all, tensor(base+".weight_zero_point", safetensors.I32, (p.n*p.bits+31)/32, p.groups))
	}
	if p.order {
		all = append(all, tensor(base+".weight_g_idx", safetensors.I32, p.k))
	}
	if p.bias {
		all = append(all, tensor(base+".bias", safetensors.BF16, p.n))
	}
	return all
}

// configGroup is an entry of config_groups, with changes to its weights.
func configGroup(targets []string, weights map[string]any) map[string]any {
	w := map[string]any{"num_bits": 4, "type": "int", "symmetric": true, "strategy": "group", "group_size": 32, "dynamic": false, "observer": "minmax"}
	maps.Copy(w, weights)
	return map[string]any{"targets": targets, "weights": w, "input_activations": nil, "output_activations": nil, "format": "pack-quantized"}
}

func compressedConfig(groups map[string]any, ignore ...string) map[string]any {
	return map[string]any{"model_type": "qwen3_moe", "torch_dtype": "bfloat16", "quantization_config": map[string]any{
		"quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed", "version": "0.20.0",
		"config_groups": groups, "ignore": ignore, "kv_cache_scheme": nil, "sparsity_config": map[string]any{}, "transform_config": nil,
	}}
}

const (
	ctO    = "model.layers.0.self_attn.o_proj"
	ctDown = "model.layers.0.mlp.down_proj"
)

func ctOutputs(p *plan.Plan) (lines []string) {
	for _, o := range p.Outputs {
		lines = append(lines, fmt.Sprintf("%s %s %v %s %s", o.Name, o.DType, o.Shape, o.Layout, o.Kind))
	}
	slices.Sort(lines)
	return lines
}

// TestCompressedOutputs has the names, dtypes and shapes of every layout.
// TestCompressedSynthActOrder: a checkpoint whose groups are as long as its rows has a g_idx of zeros, as the tool writes it.
func TestCompressedSynthActOrder(t *testing.T) {
	o := synth.Options{Model: "micro", Format: synth.FormatCompressed, DescAct: true}
	for _, group := range []int{32, 128} {
		o.Group = group
		if _, err := plan.Make(synthInput(t, o), plan.Options{Strict: true}); err != nil {
			t.Errorf("group %d: %v", group, err)
		}
	}
}

func TestCompressedOutputs(t *testing.T) {
	linear := map[string]any{"group_0": configGroup([]string{"Linear"}, nil)}
	order := map[string]any{"group_0": configGroup([]string{"Linear"}, map[string]any{"actorder": "group"})}
	asym := map[string]any{"group_0": configGroup([]string{"Linear"}, map[string]any{"symmetric": false})}
	asym8 := map[string]any{"group_0": configGroup([]string{"Linear"}, map[string]any{"symmetric": false, "num_bits": 8})}
	asymOrder := map[string]any{"group_0": configGroup([]string{"Linear"}, map[string]any{"symmetric": false, "actorder": "group"})}
	channel := map[string]any{"group_0": configGroup([]string{"Linear"}, map[string]any{"strategy": "channel", "group_size": nil, "num_bits": 8})}
	for _, x := range []struct {
		name   string
		module packed
		groups map[string]any
		opt    plan.Options
		want   []string
		kept   string
	}{
		{"marlin, act-order, bias", packed{k: 256, n: 128, bits: 4, groups: 8, order: true, bias: true}, order, plan.Options{}, []string{
			ctO + ".bias BF16 [128] marlin repacked",
			ctO + ".g_idx I32 [256] marlin repacked",
			ctO + ".g_idx_sort_indices I32 [256] marlin repacked",
			ctO + ".qweight I32 [16 256] marlin repacked",
			ctO + ".scales BF16 [8 128] marlin repacked",
		}, ""},
		{"marlin, trivial g_idx", packed{k: 256, n: 128, bits: 4, groups: 8, order: true}, linear, plan.Options{DType: safetensors.F16}, []string{
			ctO + ".qweight I32 [16 256] marlin repacked",
			ctO + ".scales F16 [8 128] marlin repacked",
		}, ""},
		{"marlin, 8 bits by channel", packed{k: 128, n: 64, bits: 8, groups: 1}, channel, plan.Options{}, []string{
			ctO + ".qweight I32 [8 256] marlin repacked",
			ctO + ".scales BF16 [1 64] marlin repacked",
		}, ""},
		{"asymmetric", packed{k: 256, n: 128, bits: 4, groups: 8, zeros: true}, asym, plan.Options{}, []string{
			ctO + ".qweight I32 [16 256] marlin repacked",
			ctO + ".qzeros I32 [8 16] marlin repacked",
			ctO + ".scales BF16 [8 128] marlin repacked",
		}, ""},
		{"asymmetric, 8 bits", packed{k: 256, n: 128, bits: 8, groups: 8, zeros: true}, asym8, plan.Options{}, []string{
			ctO + ".weight_packed I32 [128 64] raw kept",
			ctO + ".weight_scale BF16 [128 8] raw kept",
			ctO + ".weight_shape I64 [2] raw kept",
			ctO + ".weight_zero_point I32 [32 8] raw kept",
		}, "zero points with 4 bits only"},
		{"asymmetric, act-order", packed{k: 256, n: 128, bits: 4, groups: 8, zeros: true, order: true}, asymOrder, plan.Options{}, []string{
			ctO + ".weight_g_idx I32 [256] raw kept",
			ctO + ".weight_packed I32 [128 32] raw kept",
			ctO + ".weight_scale BF16 [128 8] raw kept",
			ctO + ".weight_shape I64 [2] raw kept",
			ctO + ".weight_zero_point I32 [16 8] raw kept",
		}, "no act-order with zero points"},
		{"filled up", packed{k: 96, n: 40, bits: 4, groups: 3, bias: true}, linear, plan.Options{}, []string{
			ctO + ".bias BF16 [64] marlin repacked",
			ctO + ".qweight I32 [8 128] marlin repacked",
			ctO + ".scales BF16 [4 64] marlin repacked",
		}, ""},
		{"no tiles", packed{k: 96, n: 40, bits: 4, groups: 3}, linear, plan.Options{NoPad: true}, []string{
			ctO + ".weight_packed I32 [40 12] raw kept",
			ctO + ".weight_scale BF16 [40 3] raw kept",
			ctO + ".weight_shape I64 [2] raw kept",
		}, "not a multiple of 64"},
		{"exllama", packed{k: 256, n: 128, bits: 4, groups: 8}, linear, plan.Options{Layout: stages.LayoutExllama}, []string{
			ctO + ".weight_packed I32 [128 32] raw kept",
			ctO + ".weight_scale BF16 [128 8] raw kept",
			ctO + ".weight_shape I64 [2] raw kept",
		}, "gptq checkpoints only"},
		{"dequantised", packed{k: 96, n: 40, bits: 4, groups: 3, zeros: true, bias: true}, asym, plan.Options{Layout: stages.LayoutDequant, DType: safetensors.F32}, []string{
			ctO + ".bias F32 [40] raw cast",
			ctO + ".weight F32 [40 96] raw dequantised",
		}, ""},
		{"raw, act-order, cast", packed{k: 256, n: 128, bits: 4, groups: 8, order: true}, order, plan.Options{Layout: stages.LayoutRaw, DType: safetensors.F16}, []string{
			ctO + ".weight_g_idx I32 [256] raw kept",
			ctO + ".weight_packed I32 [128 32] raw kept",
			ctO + ".weight_scale F16 [128 8] raw cast",
			ctO + ".weight_shape I64 [2] raw kept",
		}, ""},
	} {
		in := newConfigs(t).input(t, newCatalog(x.module.tensors(ctO)), compressedConfig(x.groups))
		p, err := plan.Make(in, x.opt)
		if err != nil {
			t.Errorf("%s: %v", x.name, err)
			continue
		}
		if got := ctOutputs(p); !slices.Equal(got, x.want) {
			t.Errorf("%s:\n%s\nwant\n%s", x.name, strings.Join(got, "\n"), strings.Join(x.want, "\n"))
		}
		if kept := fmt.Sprint(p.Summary.Kept); (x.kept == "") != (len(p.Summary.Kept) == 0) || !strings.Contains(kept, x.kept) {
			t.Errorf("%s: kept %s, want %q", x.name, kept, x.kept)
		}
		strict := x.opt
		strict.Strict = true
		if _, err := plan.Make(in, strict); (err != nil) != (x.kept != "") {
			t.Errorf("%s, strict: error %v", x.name, err)
		}
	}
}

// TestAsymmetricModels: what synth writes with zero points goes to Marlin with them.
func TestAsymmetricModels(t *testing.T) {
	for _, f := range []synth.Format{synth.FormatGPTQ, synth.FormatCompressed} {
		for _, group := range []int{32, -1} {
			o := synth.Options{Model: "micro", Format: f, Group: group, Asym: true}
			config, err := synth.Config(o)
			if err != nil {
				t.Fatal(err)
			}
			p, err := plan.Make(newConfigs(t).input(t, catalogOf(t, o), config), plan.Options{})
			if err != nil {
				t.Errorf("%s, group %d: %v", f, group, err)
				continue
			}
			count := map[string]int{}
			for _, out := range p.Outputs {
				count[out.Name[strings.LastIndex(out.Name, ".")+1:]]++
			}
			if n := count["qweight"]; n == 0 || count["qzeros"] != n || len(p.Summary.Kept) > 0 {
				t.Errorf("%s, group %d: %v, kept %v", f, group, count, p.Summary.Kept)
			}
		}
	}
}

// TestCompressedFuses: q, k and v become one; raw tensors lie one below the other.
func TestCompressedFuses(t *testing.T) {
	asym := map[string]any{"group_0": configGroup([]string{"Linear"}, map[string]any{"symmetric": false})}
	var all []stages.Tensor
	for m, n := range map[string]int64{"q": 128, "k": 64, "v": 64} {
		all = append(all, packed{k: 128, n: n, bits: 4, groups: 4, zeros: true}.tensors("model.layers.0.self_attn."+m+"_proj")...)
	}
	p, err := plan.Make(newConfigs(t).input(t, newCatalog(all), compressedConfig(asym)), plan.Options{Layout: stages.LayoutRaw})
	const qkv = "model.layers.0.self_attn.qkv_proj"
	want := []string{
		qkv + ".weight_packed I32 [256 16] raw fused", qkv + ".weight_scale BF16 [256 4] raw fused",
		qkv + ".weight_shape I64 [3 2] raw fused", qkv + ".weight_zero_point I32 [32 4] raw fused",
	}
	if err != nil || !slices.Equal(ctOutputs(p), want) {
		t.Errorf("error %v, %v", err, ctOutputs(p))
	}
}

// TestCompressedGroups: names go before patterns, and patterns before classes, whatever the order of the groups; what is ignored, or has
// no group, and is stored packed all the same, is refused.
func TestCompressedGroups(t *testing.T) {
	eight := map[string]any{"num_bits": 8}
	for _, x := range []struct {
		name   string
		groups map[string]any
		ignore []string
		bits   int64 // of ctDown; ctO has 4
		says   string
	}{
		{"a class", map[string]any{"a": configGroup([]string{"Linear"}, nil)}, []string{"lm_head"}, 4, ""},
		{"a pattern first", map[string]any{"a": configGroup([]string{"Linear"}, nil), "b": configGroup([]string{`re:.*mlp\.down_proj$`}, eight)}, nil, 8, ""},
		{"a name before a pattern", map[string]any{"a": configGroup([]string{"re:.*down.*", "Linear"}, nil), "b": configGroup([]string{ctDown}, eight)}, nil, 8, ""},
		{"patterns match from the start", map[string]any{"a": configGroup([]string{"Linear"}, nil), "b": configGroup([]string{"re:mlp"}, eight)}, nil, 4, ""},
		{"another class alone", map[string]any{"a": configGroup([]string{"MoELinear"}, nil)}, nil, 4, ""},
		{"classes that nobody can tell", map[string]any{"a": configGroup([]string{"X"}, nil), "b": configGroup([]string{"Y"}, eight)}, nil, 4, "no group of config_groups"},
		{"no group", map[string]any{"a": configGroup([]string{ctO}, nil)}, nil, 4, "no group of config_groups"},
		{"ignored", map[string]any{"a": configGroup([]string{"Linear"}, nil)}, []string{"re:.*mlp.*"}, 4, "`ignore` says"},
		{"ignored by name", map[string]any{"a": configGroup([]string{"Linear"}, nil)}, []string{ctDown}, 4, "`ignore` says"},
		{"the wrong bits", map[string]any{"a": configGroup([]string{"Linear"}, eight)}, nil, 4, "does not go with"},
	} {
		cat := newCatalog(slices.Concat(packed{k: 256, n: 128, bits: 4, groups: 8}.tensors(ctO), packed{k: 256, n: 128, bits: x.bits, groups: 8}.tensors(ctDown)))
		p, err := plan.Make(newConfigs(t).input(t, cat, compressedConfig(x.groups, x.ignore...)), plan.Options{})
		if x.says != "" {
			if err == nil || !strings.Contains(err.Error(), x.says) {
				t.Errorf("%s: error %v, want %q", x.name, err, x.says)
			}
			continue
		}
		want := fmt.Sprintf("%s.qweight I32 [16 %d] marlin repacked", ctDown, 64*x.bits)
		if err != nil || !slices.Contains(ctOutputs(p), want) {
			t.Errorf("%s: error %v, %v, want %s", x.name, err, ctOutputs(p), want)
		}
	}
}

// TestCompressedConfigFaults: what is not processed is refused by name.
func TestCompressedConfigFaults(t *testing.T) {
	weights := func(key string, v any) func(map[string]any) {
		return func(q map[string]any) {
			q["config_groups"] = map[string]any{"group_0": configGroup([]string{"Linear"}, map[string]any{key: v})}
		}
	}
	group := func(key string, v any) func(map[string]any) {
		return func(q map[string]any) {
			g := configGroup([]string{"Linear"}, nil)
			g[key] = v
			q["config_groups"] = map[string]any{"group_0": g}
		}
	}
	top := func(key string, v any) func(map[string]any) { return func(q map[string]any) { q[key] = v } }
	for _, x := range []struct {
		change func(q map[string]any)
		says   []string // none: it is right
	}{
		{func(map[string]any) {}, nil},
		{top("quantization_status", "frozen"), nil},
		{top("sparsity_config", map[string]any{"format": "dense"}), nil},
		{top("kv_cache_scheme", map[string]any{"num_bits": 8}), nil},
		{weights("actorder", "weight"), nil},
		{weights("actorder", "static"), nil},
		{weights("actorder", false), nil},
		{weights("strategy", nil), nil},
		{weights("actorder", "group"), []string{"weight_g_idx of its module is missing", ctO}},
		{weights("actorder", true), []string{"weight_g_idx of its module is missing"}},
		{weights("actorder", "sorted"), []string{"actorder", "sorted", "group or dynamic"}},
		{weights("symmetric", false), []string{"weight_zero_point of its module is missing"}},
		{weights("symmetric", "yes"), []string{"symmetric", "true or false"}},
		{weights("num_bits", 3), []string{"num_bits 3 is not supported yet", "4 and 8"}},
		{weights("num_bits", nil), []string{`"num_bits" is missing`}},
		{weights("type", "float"), []string{"type float is not supported yet"}},
		{weights("dynamic", true), []string{"dynamic true is not supported yet"}},
		{weights("strategy", "tensor"), []string{"group_size", "none with strategy tensor"}},
		{weights("strategy", "tensor_group"), []string{"strategy tensor_group is not supported yet", "group, channel and tensor"}},
		{weights("strategy", "channel"), []string{"group_size", "none with strategy channel"}},
		{weights("strategy", "rows"), []string{"strategy", "rows"}},
		{weights("group_size", 0), []string{"group_size", "positive"}},
		{weights("group_size", nil), []string{`"group_size" is missing`}},
		{weights("group_size", 96), []string{ctO, "no whole groups", "96"}},
		{weights("group_size", 64), []string{ctO, "does not go with", "[128, 4]", "[128, 8]"}},
		{weights("block_structure", []int{128, 128}), []string{"block_structure of weights is not supported yet"}},
		{weights("rotation", "hadamard"), []string{`"rotation" is not known`}},
		{group("input_activations", map[string]any{"num_bits": 8}), []string{"input_activations quantised is not supported yet"}},
		{group("output_activations", map[string]any{"num_bits": 8}), []string{"output_activations quantised is not supported yet"}},
		{group("format", "marlin-24"), []string{"format marlin-24 is not supported yet", "group_0"}},
		{group("format", nil), nil},
		{group("targets", nil), []string{`"targets" is missing`}},
		{group("targets", []string{"re:(?<=x)y"}), []string{"targets", "cannot be used"}},
		{group("weights", nil), []string{`"weights" is missing`}},
		{group("new_key", 1), []string{`"new_key" is not known`}},
		{top("format", "mixed-precision"), nil}, // the group's own format goes before
		{top("quantization_status", "initialized"), []string{"quantization_status initialized is not supported yet"}},
		{top("sparsity_config", map[string]any{"format": "sparse-24-bitmask"}), []string{"sparsity_config", "sparse-24-bitmask", "not supported yet"}},
		{top("transform_config", map[string]any{"config_groups": map[string]any{}}), []string{"transform_config", "not supported yet"}},
		{top("config_groups", nil), []string{`"config_groups" is missing`}},
		{top("config_groups", map[string]any{}), []string{"config_groups", "no group"}},
		{top("config_groups", map[string]any{"group_0": nil}), []string{"group_0", "an object"}},
		{top("config_groups", []int{1}), []string{"config_groups", "an object"}},
		{top("ignore", "lm_head"), []string{"ignore", "a list of strings"}},
		{top("pruning", "yes"), []string{`"pruning" is not known`}},
	} {
		config := compressedConfig(map[string]any{"group_0": configGroup([]string{"Linear"}, nil)})
		q, ok := config["quantization_config"].(map[string]any)
		if !ok {
			t.Fatal("no quantization_config")
		}
		x.change(q)
		cat := newCatalog(packed{k: 256, n: 128, bits: 4, groups: 8}.tensors(ctO))
		_, err := plan.Make(newConfigs(t).input(t, cat, config), plan.Options{})
		if len(x.says) == 0 && err != nil {
			t.Errorf("%v: %v", q, err)
		}
		for _, s := range x.says {
			if err == nil || !strings.Contains(err.Error(), s) {
				t.Errorf("%v: error %v, does not say %q", q, err, s)
			}
		}
	}
}

// TestCompressedTensorFaults: tensors that contradict each other or the config, and those that are missing.
func TestCompressedTensorFaults(t *testing.T) {
	whole := packed{k: 256, n: 128, bits: 4, groups: 8, bias: true}.tensors(ctO)
	change := func(suffix string, d stages.DType, dims ...int64) func([]stages.Tensor) []stages.Tensor {
		return func(all []stages.Tensor) []stages.Tensor {
			for i := range all {
				if all[i].Name == ctO+"."+suffix {
					all[i] = tensor(all[i].Name, d, dims...)
				}
			}
			return all
		}
	}
	without := func(suffix string) func([]stages.Tensor) []stages.Tensor {
		return func(all []stages.Tensor) []stages.Tensor {
			return slices.DeleteFunc(all, func(x stages.Tensor) bool { return x.Name == ctO+"."+suffix })
		}
	}
	with := func(suffix string, d stages.DType, dims ...int64) func([]stages.Tensor) []stages.Tensor {
		return func(all []stages.Tensor) []stages.Tensor { return append(all, tensor(ctO+"."+suffix, d, dims...)) }
	}
	i32, i64, bf16 := safetensors.I32, safetensors.I64, safetensors.BF16
	for _, x := range []struct {
		change func([]stages.Tensor) []stages.Tensor
		says   []string
	}{
		{without("weight_scale"), []string{"weight_packed", ".weight_scale of its module is missing"}},
		{without("weight_shape"), []string{"weight_packed", ".weight_shape of its module is missing"}},
		{without("weight_packed"), []string{"weight_scale", ".weight_packed is missing"}},
		{with("weight_zero_point", i32, 16, 8), []string{"says symmetric, but there are zero points"}},
		{with("weight", bf16, 128, 256), []string{"a quantised and a dense weight"}},
		{with("weight_g_idx", i32, 255), []string{"weight_g_idx", "[256]", "[255]"}},
		{with("weight_g_idx", i64, 256), []string{"weight_g_idx", "wrong dtype", "I32", "I64"}},
		{change("weight_packed", safetensors.U8, 128, 128), []string{"weight_packed", "wrong dtype", "I32", "U8"}},
		{change("weight_packed", i32, 128), []string{"weight_packed", "no matrix of packed codes"}},
		{change("weight_packed", i32, 0, 32), []string{"weight_packed", "no matrix of packed codes"}},
		{change("weight_packed", i32, 128, 1<<50), []string{"weight_packed", "no matrix of packed codes"}},
		{change("weight_scale", i32, 128, 8), []string{"weight_scale", "wrong dtype", "F16, BF16 or F32"}},
		{change("weight_scale", bf16, 8, 128), []string{"weight_scale", "[128, 8]", "[8, 128]"}},
		{change("weight_scale", bf16, 1), []string{"weight_scale", "[128, 8]", "[1]"}},
		{change("weight_shape", safetensors.F32, 2), []string{"weight_shape", "wrong dtype", "I64 or I32"}},
		{change("weight_shape", i64, 3), []string{"weight_shape", "[2]", "[3]"}},
		{change("bias", bf16, 64), []string{"bias", "[128]", "[64]"}},
	} {
		cat := newCatalog(x.change(slices.Clone(whole)))
		config := compressedConfig(map[string]any{"group_0": configGroup([]string{"Linear"}, nil)})
		_, err := plan.Make(newConfigs(t).input(t, cat, config), plan.Options{})
		for _, s := range append(x.says, "shard-0") {
			if err == nil || !strings.Contains(err.Error(), s) {
				t.Errorf("error %v, does not say %q", err, s)
			}
		}
	}
}

// TestCompressedMembersDiffer names the one thing that differs.
func TestCompressedMembersDiffer(t *testing.T) {
	groups := map[string]any{
		"a": configGroup([]string{"re:.*q_proj", "re:.*k_proj"}, nil),
		"b": configGroup([]string{"re:.*v_proj"}, map[string]any{"num_bits": 8}),
	}
	var all []stages.Tensor
	for m, bits := range map[string]int64{"q": 4, "k": 4, "v": 8} {
		all = append(all, packed{k: 128, n: 128, bits: bits, groups: 4}.tensors("model.layers.0.self_attn."+m+"_proj")...)
	}
	in := newConfigs(t).input(t, newCatalog(all), compressedConfig(groups))
	_, err := plan.Make(in, plan.Options{})
	if err == nil || !strings.Contains(err.Error(), "number of bits differs") || !strings.Contains(err.Error(), "--no-fuse") {
		t.Errorf("error %v", err)
	}
	if _, err := plan.Make(in, plan.Options{NoFuse: true}); err != nil {
		t.Errorf("unfused: %v", err)
	}
}

// TestKimiAtFullSize plans 61 layers of 384 experts, 200,000 tensors, from their headers.
func TestKimiAtFullSize(t *testing.T) {
	o := synth.Options{Model: "kimi-k2", Format: synth.FormatCompressed, Group: 32}
	cat := catalogOf(t, o)
	config, err := synth.Config(o)
	if err != nil {
		t.Fatal(err)
	}
	in := newConfigs(t).input(t, cat, config)
	start := time.Now()
	p, err := plan.Make(in, plan.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d tensors in %s, %d modules", cat.Len(), time.Since(start), p.Summary.Modules)
	checkMade(t, p, made{60, "mlp.experts.gate_up_proj.scales", "[384 224 4096]"}, o.Format)
}
