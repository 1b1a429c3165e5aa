package plan_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/coldload/coldload/plan"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/discover"
)

// f8By is an FP8 module with scales of any shape.
func f8By(base string, n, k int64, scales ...int64) []stages.Tensor {
	return []stages.Tensor{tensor(base+".weight", safetensors.F8E4M3, n, k), tensor(base+".weight_scale", safetensors.F32, scales...)}
}

// mixedGroup is an entry of config_groups in a format of its own.
func mixedGroup(format string, weights map[string]any, targets ...string) map[string]any {
	g := configGroup(targets, weights)
	g["format"] = format
	return g
}

// floatWeights is what a config group says of FP8 weights by channel.
var floatWeights = map[string]any{"num_bits": 8, "type": "float", "strategy": "channel", "group_size": nil}

// mixedConfig is a checkpoint of int4 experts, int8 down projections of the first layer and FP8 attention; lm_head is ignored.
func mixedConfig(model string) map[string]any {
	fp8 := mixedGroup("float-quantized", floatWeights, "re:.*self_attn.*")
	fp8["input_activations"] = map[string]any{"num_bits": 8, "type": "float", "dynamic": true, "strategy": "token"}
	c := compressedConfig(map[string]any{
		"experts":   mixedGroup("pack-quantized", nil, `re:.*experts\..*`),
		"attention": fp8,
		"first":     mixedGroup("pack-quantized", map[string]any{"num_bits": 8, "strategy": "channel", "group_size": nil}, ctDown),
	}, "lm_head", "re:.*mlp.gate$")
	c["model_type"] = model
	q, _ := c["quantization_config"].(map[string]any)
	q["format"] = "mixed-precision"
	return c
}

func mixedTensors() (all []stages.Tensor) {
	for m, n := range map[string]int64{"q": 256, "k": 128, "v": 128} {
		all = append(all, f8By("model.layers.0.self_attn."+m+"_proj", n, 128, n, 1)...)
	}
	all = append(all, f8By(ctO, 128, 256, 128, 1)...)
	all = append(all, packed{k: 256, n: 128, bits: 8, groups: 1}.tensors(ctDown)...)
	for e := range 2 {
		at := fmt.Sprintf("model.layers.1.mlp.experts.%d.", e)
		all = slices.Concat(all, packed{k: 128, n: 128, bits: 4, groups: 4}.tensors(at+"gate_proj"),
			packed{k: 128, n: 128, bits: 4, groups: 4}.tensors(at+"up_proj"), packed{k: 128, n: 128, bits: 4, groups: 4}.tensors(at+"down_proj"))
	}
	return append(all, tensor("model.layers.1.mlp.gate.weight", safetensors.BF16, 2, 128), tensor("lm_head.weight", safetensors.BF16, 64, 128))
}

// TestMixedFormats: the Modules of one checkpoint have several formats, and every tensor is used.
func TestMixedFormats(t *testing.T) {
	cat := newCatalog(mixedTensors())
	in := newConfigs(t).input(t, cat, mixedConfig("qwen3_moe"))
	p, err := plan.Make(in, plan.Options{})
	if err != nil {
		t.Fatal(err)
	}
	covers(t, p, cat.tensors)
	const attn, experts = "model.layers.0.self_attn.", "model.layers.1.mlp.experts."
	want := []string{
		"lm_head.weight BF16 [64 128] raw kept",
		ctDown + ".qweight I32 [16 512] marlin repacked", ctDown + ".scales BF16 [1 128] marlin repacked",
		ctO + ".qweight I32 [16 512] marlin repacked", ctO + ".scales BF16 [1 128] marlin repacked",
		attn + "qkv_proj.qweight I32 [8 2048] marlin repacked", attn + "qkv_proj.scales BF16 [1 512] marlin repacked",
		experts + "down_proj.qweight I32 [2 8 256] marlin repacked", experts + "down_proj.scales BF16 [2 4 128] marlin repacked",
		experts + "gate_up_proj.qweight I32 [2 8 512] marlin repacked", experts + "gate_up_proj.scales BF16 [2 4 256] marlin repacked",
		"model.layers.1.mlp.gate.weight BF16 [2 128] raw kept",
	}
	slices.Sort(want)
	if got := ctOutputs(p); !slices.Equal(got, want) {
		t.Errorf("%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for name, bits := range map[string]int{ctO: 8, ctDown: 8, experts + "1.up_proj": 4, attn + "qkv_proj": 8} {
		one, err := plan.MakeModule(in, plan.Options{}, plan.Linear(in, plan.Options{}, name))
		if err != nil || one.Single.Bits != bits {
			t.Errorf("%s by itself: %d bits, error %v", name, one.Single.Bits, err)
		}
	}
}

// TestMixedFaults: what contradicts its group is refused, whichever format it looks like.
func TestMixedFaults(t *testing.T) {
	const q = "model.layers.0.self_attn.q_proj"
	const up = "model.layers.1.mlp.experts.1.up_proj"
	replace := func(base string, with ...stages.Tensor) func([]stages.Tensor) []stages.Tensor {
		return func(all []stages.Tensor) []stages.Tensor {
			all = slices.DeleteFunc(all, func(x stages.Tensor) bool { return strings.HasPrefix(x.Name, base+".") })
			return append(all, with...)
		}
	}
	without := func(name string) func([]stages.Tensor) []stages.Tensor { return replaceOne(name) }
	int4 := func(base string) []stages.Tensor { return packed{k: 128, n: 128, bits: 4, groups: 4}.tensors(base) }
	for name, x := range map[string]struct {
		change func([]stages.Tensor) []stages.Tensor
		says   []string // none: it is right
	}{
		"codes where FP8 is said":        {replace(q, int4(q)...), []string{q + ".weight_packed", "is of none of the formats"}},
		"FP8 where codes are said":       {replace(up, f8By(up, 128, 128, 128, 1)...), []string{up + ".weight", "looks quantised in another way"}},
		"codes of another group":         {replace(ctDown, int4(ctDown)...), []string{ctDown, "does not go with"}},
		"codes that are ignored":         {replace("lm_head", int4("lm_head")...), []string{"lm_head", "`ignore` says"}},
		"FP8 that is ignored":            {replace("lm_head", f8By("lm_head", 64, 128, 64, 1)...), []string{"lm_head", "`ignore` says"}},
		"FP8 of no group":                {replace("other", f8By("other", 64, 128, 64, 1)...), []string{"other", "no group of config_groups"}},
		"no codes":                       {without(up + ".weight_packed"), []string{up + ".weight_scale", ".weight_packed is missing"}},
		"no FP8 weight":                  {without(q + ".weight"), []string{q + ".weight_scale", ".weight is missing"}},
		"no FP8 scale":                   {without(q + ".weight_scale"), []string{q + ".weight", ".weight_scale of its module is missing"}},
		"no scale of codes":              {without(ctDown + ".weight_scale"), []string{ctDown + ".weight_packed", ".weight_scale of its module is missing"}},
		"a module that is not quantised": {replace(ctO, tensor(ctO+".weight", safetensors.BF16, 128, 256)), nil},
	} {
		cat := newCatalog(x.change(mixedTensors()))
		p, err := plan.Make(newConfigs(t).input(t, cat, mixedConfig("qwen3_moe")), plan.Options{})
		if x.says == nil {
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			covers(t, p, cat.tensors)
		}
		for _, s := range x.says {
			if err == nil || !strings.Contains(err.Error(), s) {
				t.Errorf("%s: error %v, does not say %q", name, err, s)
			}
		}
	}
}

func replaceOne(name string) func([]stages.Tensor) []stages.Tensor {
	return func(all []stages.Tensor) []stages.Tensor {
		return slices.DeleteFunc(all, func(x stages.Tensor) bool { return x.Name == name })
	}
}

// TestMixedMembers: members that fuse must have one format.
func TestMixedMembers(t *testing.T) {
	config := compressedConfig(map[string]any{
		"a": mixedGroup("pack-quantized", nil, "re:.*q_proj", "re:.*k_proj"),
		"b": mixedGroup("float-quantized", floatWeights, "re:.*v_proj"),
	})
	all := slices.Concat(
		packed{k: 128, n: 128, bits: 4, groups: 4}.tensors("model.layers.0.self_attn.q_proj"),
		packed{k: 128, n: 128, bits: 4, groups: 4}.tensors("model.layers.0.self_attn.k_proj"), f8By("model.layers.0.self_attn.v_proj", 128, 128, 128, 1))
	cat := newCatalog(all)
	in := newConfigs(t).input(t, cat, config)
	_, err := plan.Make(in, plan.Options{})
	for _, s := range []string{"v_proj", "format differs", "compressed-tensors int4", "FP8", "--no-fuse"} {
		if err == nil || !strings.Contains(err.Error(), s) {
			t.Errorf("error %v, does not say %q", err, s)
		}
	}
	p, err := plan.Make(in, plan.Options{NoFuse: true})
	if err != nil {
		t.Fatal(err)
	}
	covers(t, p, cat.tensors)
}

// TestModelOptMixed: every module has the algorithm that quantized_layers gives it.
func TestModelOptMixed(t *testing.T) {
	algo := func(name string) map[string]any { return map[string]any{"quant_algo": name} }
	cat := newCatalog(slices.Concat(f8By(ctO, 128, 256), f8By(ctDown, 128, 256), []stages.Tensor{tensor("lm_head.weight", safetensors.BF16, 64, 128)}))
	for _, x := range []struct {
		layers any
		says   []string // none: it is right
	}{
		{map[string]any{ctO: algo("FP8"), ctDown: algo("FP8")}, nil},
		{map[string]any{ctO: algo("FP8"), ctDown: map[string]any{"quant_algo": "FP8", "awq_block_size": nil}}, nil},
		{map[string]any{ctO: algo("FP8")}, []string{ctDown, "`quantized_layers` does not list it"}},
		{map[string]any{ctO: algo("FP8"), ctDown: algo("INT4_AWQ")}, []string{ctDown, "quant_algo INT4_AWQ is not supported yet, supported are FP8"}},
		{map[string]any{ctO: algo("FP8"), ctDown: map[string]any{}}, []string{ctDown, `"quant_algo" is missing`}},
		{map[string]any{ctO: 1}, []string{ctO, "an object"}},
		{map[string]any{}, []string{"quantized_layers", "no module"}},
		{nil, []string{`"quantized_layers" is missing`}},
		{[]int{1}, []string{"quantized_layers", "an object"}},
	} {
		in := newConfigs(t).input(t, cat, map[string]any{"model_type": "llama", "torch_dtype": "bfloat16", "quantization_config": map[string]any{
			"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": x.layers,
		}})
		p, err := plan.Make(in, plan.Options{})
		if x.says == nil {
			if err != nil {
				t.Errorf("%v: %v", x.layers, err)
				continue
			}
			covers(t, p, cat.tensors)
		}
		for _, s := range x.says {
			if err == nil || !strings.Contains(err.Error(), s) {
				t.Errorf("%v: error %v, does not say %q", x.layers, err, s)
			}
		}
	}
}

// tooMany is a config of more groups than a checkpoint may have.
func tooMany() map[string]any {
	groups := map[string]any{}
	for i := range 300 {
		groups[fmt.Sprint("group_", i)] = configGroup([]string{fmt.Sprint("module.", i)}, nil)
	}
	return groups
}

// TestTooManyKinds: every kind of module costs time for every tensor.
func TestTooManyKinds(t *testing.T) {
	in := newConfigs(t).input(t, newCatalog(packed{k: 256, n: 128, bits: 4, groups: 8}.tensors(ctO)), compressedConfig(tooMany()))
	if _, err := plan.Make(in, plan.Options{}); err == nil || !strings.Contains(err.Error(), "at most 256") {
		t.Errorf("error %v", err)
	}
}

// twoKinds is a format of the user's own with modules of two kinds that have the same parts: the dtype of the codes tells them apart.
type twoKinds struct {
	ownFormat

	codes  stages.DType
	others []plan.Reader
	takes  map[string]int // by dtype: how many modules it read
}

func (f *twoKinds) Open(*discover.QuantConfig) (plan.Reader, []stages.Fault) { return f, nil }
func (f *twoKinds) Others() []plan.Reader                                    { return f.others }
func (f *twoKinds) Picks(c *plan.Checks, i int32) bool                       { return c.Catalog.DType(int(i)) == f.codes }

func (f *twoKinds) Left(*plan.Checks, int32) plan.Leftover { return plan.LeftoverOther }

func (f *twoKinds) Module(m *plan.Module, c *plan.Checks) bool {
	f.takes[f.codes.String()]++
	return f.ownFormat.Module(m, c)
}

// TestMixedFormatOfOnesOwn: a Reader names others, each takes its own modules, and one that is nil is refused.
func TestMixedFormatOfOnesOwn(t *testing.T) {
	var all []stages.Tensor
	for base, d := range map[string]stages.DType{"a": safetensors.I8, "b": safetensors.U8, "c": safetensors.U8} {
		all = append(all, tensor(base+".codes", d, 2, 4), tensor(base+".row_scale", safetensors.F32, 2))
	}
	in := newConfigs(t).input(t, newCatalog(all), map[string]any{"model_type": "llama", "quantization_config": map[string]any{"quant_method": "own"}})
	takes := map[string]int{}
	second := &twoKinds{codes: safetensors.U8, takes: takes}
	p, err := plan.Make(in, plan.Options{Formats: []plan.Format{&twoKinds{codes: safetensors.I8, takes: takes, others: []plan.Reader{second}}}})
	if err != nil || len(p.Outputs) != 3 || !maps.Equal(takes, map[string]int{"I8": 1, "U8": 2}) {
		t.Errorf("%d outputs, %v, error %v", len(p.Outputs), takes, err)
	}
	_, err = plan.Make(in, plan.Options{Formats: []plan.Format{&twoKinds{codes: safetensors.I8, takes: takes, others: []plan.Reader{nil}}}})
	if err == nil || !strings.Contains(err.Error(), "opens to nothing") {
		t.Errorf("error %v", err)
	}
}

// TestFP4Experts: DeepSeek-V4's FP8 layers and MXFP4 experts, whose scales have one name; every tensor is used.
func TestFP4Experts(t *testing.T) {
	const experts, dense = "layers.0.ffn.experts.", "layers.0.attn.wo_a"
	tensors := func() (all []stages.Tensor) {
		for e := range 2 {
			for m, dims := range map[string][2]int64{"w1": {128, 256}, "w3": {128, 256}, "w2": {256, 128}} {
				base := fmt.Sprintf("%s%d.%s", experts, e, m)
				all = append(all, tensor(base+".weight", safetensors.I8, dims[0], dims[1]/2), tensor(base+".scale", safetensors.F8E8M0, dims[0], dims[1]/32))
			}
		}
		return append(all, tensor(dense+".weight", safetensors.F8E4M3, 256, 128), tensor(dense+".scale", safetensors.F8E8M0, 2, 1), tensor("norm.weight", safetensors.BF16, 256))
	}
	config := func(dtype string) map[string]any {
		return map[string]any{"model_type": "deepseek_v4", "torch_dtype": "bfloat16", "quantization_config": map[string]any{
			"quant_method": "fp8", "fmt": "e4m3", "scale_fmt": "ue8m0", "weight_block_size": []int{128, 128}, "expert_dtype": dtype,
		}}
	}
	cat := newCatalog(tensors())
	p, err := plan.Make(newConfigs(t).input(t, cat, config("fp4")), plan.Options{})
	if err != nil {
		t.Fatal(err)
	}
	covers(t, p, cat.tensors)
	want := []string{
		dense + ".qweight I32 [8 1024] marlin repacked", dense + ".scales BF16 [1 256] marlin repacked",
		experts + "down_proj.qweight I32 [2 8 512] marlin repacked", experts + "down_proj.scales F8_E8M0 [2 4 256] marlin repacked",
		experts + "gate_up_proj.qweight I32 [2 16 512] marlin repacked", experts + "gate_up_proj.scales F8_E8M0 [2 8 256] marlin repacked",
		"norm.weight BF16 [256] raw kept",
	}
	slices.Sort(want)
	if got := ctOutputs(p); !slices.Equal(got, want) {
		t.Errorf("%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for name, x := range map[string]struct {
		dtype  string
		change func([]stages.Tensor) []stages.Tensor
		says   []string
	}{
		"no weight":        {"fp4", replaceOne(dense + ".weight"), []string{dense + ".scale", ".weight is missing"}},
		"no scale":         {"fp4", replaceOne(dense + ".scale"), []string{dense + ".weight", "is missing"}},
		"no expert weight": {"fp4", replaceOne(experts + "1.w3.weight"), []string{experts + "1.w3.scale", ".weight is missing"}},
		"another dtype":    {"int4", func(all []stages.Tensor) []stages.Tensor { return all }, []string{"expert_dtype int4", "fp8, fp4"}},
		"scales of 2 names": {"fp4", func(all []stages.Tensor) []stages.Tensor {
			return append(all, tensor(dense+".weight_scale_inv", safetensors.F32, 2, 1))
		}, []string{dense + ".scale", "second scale"}},
	} {
		_, err := plan.Make(newConfigs(t).input(t, newCatalog(x.change(tensors())), config(x.dtype)), plan.Options{})
		for _, s := range x.says {
			if err == nil || !strings.Contains(err.Error(), s) {
				t.Errorf("%s: error %v, does not say %q", name, err, s)
			}
		}
	}
}

// TestFP8ScaleNames: without a block size, one scale for a tensor may have the name that scales of blocks have.
func TestFP8ScaleNames(t *testing.T) {
	all := append(f8By(ctDown, 128, 256), tensor(ctO+".weight", safetensors.F8E4M3, 128, 256), tensor(ctO+".weight_scale_inv", safetensors.F32, 1))
	config := map[string]any{"model_type": "llama", "torch_dtype": "bfloat16", "quantization_config": map[string]any{"quant_method": "fp8"}}
	cat := newCatalog(all)
	p, err := plan.Make(newConfigs(t).input(t, cat, config), plan.Options{})
	if err != nil {
		t.Fatal(err)
	}
	covers(t, p, cat.tensors)
	all[3] = tensor(ctO+".weight_scale_inv", safetensors.F32, 1, 2)
	if _, err := plan.Make(newConfigs(t).input(t, newCatalog(all), config), plan.Options{}); err == nil || !strings.Contains(err.Error(), "weight_scale_inv") {
		t.Errorf("scales of blocks without a block size: error %v", err)
	}
}
