package plan

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/discover"
)

// gptqTensors is a Catalog of tensors that need no file, one after the other in one Shard.
type gptqTensors []stages.Tensor

func (c gptqTensors) Len() int                               { return len(c) }
func (c gptqTensors) Name(i int) string                      { return c[i].Name }
func (c gptqTensors) DType(i int) stages.DType               { return c[i].DType }
func (c gptqTensors) AppendShape(dst []int64, i int) []int64 { return append(dst, c[i].Shape...) }
func (c gptqTensors) Extent(i int) stages.Extent             { return c[i].Extent }
func (c gptqTensors) ShardName(int32) string                 { return "model.safetensors" }
func (c gptqTensors) Shards() int                            { return 1 }
func (c gptqTensors) Lookup(name string) (int, bool) {
	i := slices.IndexFunc(c, func(t stages.Tensor) bool { return t.Name == name })
	return i, i >= 0
}

// gptqModule adds the tensors of a module. extra says which it has beside those that all have: "g_idx", "bias".
func gptqModule(c *gptqTensors, base string, k, n, bits, group int64, extra string) {
	groups := int64(1)
	if group > 0 {
		groups = (k + group - 1) / group
	}
	add := func(suffix string, d stages.DType, dims ...int64) {
		size, off := int64(d.Bits()/8), int64(0)
		for _, x := range dims {
			size *= x
		}
		if n := len(*c); n > 0 {
			off = (*c)[n-1].Extent.End()
		}
		*c = append(*c, stages.Tensor{Name: base + "." + suffix, DType: d, Shape: dims, Extent: stages.Extent{Off: off, Len: size}})
	}
	add("qweight", safetensors.I32, k*bits/32, n)
	add("qzeros", safetensors.I32, groups, (n*bits+31)/32)
	add("scales", safetensors.F16, groups, n)
	if strings.Contains(extra, "g_idx") {
		add("g_idx", safetensors.I32, k)
	}
	if strings.Contains(extra, "bias") {
		add("bias", safetensors.F16, n)
	}
}

// gptqQuant reads a quantisation config as the program does, and the rest of config.json.
func gptqQuant(t *testing.T, q map[string]any) (*discover.ModelConfig, *discover.QuantConfig) {
	t.Helper()
	dir := t.TempDir()
	text, err := json.Marshal(map[string]any{"model_type": "qwen3_moe", "torch_dtype": "bfloat16", "num_experts": 2, "quantization_config": q})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"config.json": text, "model.safetensors": []byte("\x02\x00\x00\x00\x00\x00\x00\x00{}")} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ck, err := discover.Discover(t.Context(), dir, discover.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ck.Close(); err != nil {
			t.Error(err)
		}
	})
	return ck.Config, ck.Quant
}

// gptqWith is a config of 4 bits in groups of 128 with changes; nil takes a key away.
func gptqWith(changes map[string]any) map[string]any {
	q := map[string]any{"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": false, "sym": true}
	for key, v := range changes {
		q[key] = v
		if v == nil {
			delete(q, key)
		}
	}
	return q
}

func gptqPlan(t *testing.T, c gptqTensors, changes map[string]any, opt Options) (*Plan, error) {
	t.Helper()
	model, quant := gptqQuant(t, gptqWith(changes))
	return Make(Input{Catalog: c, Model: model, Quant: quant}, opt)
}

// gptqShapes are a Plan's Outputs, one line each, sorted.
func gptqShapes(p *Plan) (lines []string) {
	for _, o := range p.Outputs {
		lines = append(lines, fmt.Sprintf("%s %s %v %s %s", o.Name, o.DType, o.Shape, o.Layout, o.Kind))
	}
	slices.Sort(lines)
	return lines
}

const (
	gptqO = "model.layers.0.self_attn.o_proj"
	gptqX = "model.layers.0.mlp.experts"
)

// TestGPTQOutputs has the names, dtypes and shapes of every layout.
func TestGPTQOutputs(t *testing.T) {
	experts := func(bits int64, extra string) (c gptqTensors) {
		for e := range 2 {
			at := fmt.Sprintf("%s.%d.", gptqX, e)
			gptqModule(&c, at+"gate_proj", 256, 128, bits, 128, extra)
			gptqModule(&c, at+"up_proj", 256, 128, bits, 128, extra)
			gptqModule(&c, at+"down_proj", 128, 256, bits, 128, extra)
		}
		return c
	}
	linear := func(k, n, bits, group int64, extra string) (c gptqTensors) {
		gptqModule(&c, gptqO, k, n, bits, group, extra)
		return c
	}
	act := map[string]any{"desc_act": true}
	for _, x := range []struct {
		name    string
		c       gptqTensors
		changes map[string]any
		opt     Options
		want    []string
	}{
		{"marlin, 8 bits, act-order, bias", linear(256, 128, 8, 128, "g_idx bias"), map[string]any{"bits": 8, "desc_act": true}, Options{}, []string{
			gptqO + ".bias F16 [128] marlin repacked",
			gptqO + ".g_idx I32 [256] marlin repacked",
			gptqO + ".g_idx_sort_indices I32 [256] marlin repacked",
			gptqO + ".qweight I32 [16 512] marlin repacked",
			gptqO + ".scales F16 [2 128] marlin repacked",
		}},
		{"marlin, experts", experts(4, "g_idx bias"), nil, Options{DType: safetensors.BF16}, []string{
			gptqX + ".down_proj.bias BF16 [2 256] marlin repacked",
			gptqX + ".down_proj.qweight I32 [2 8 512] marlin repacked",
			gptqX + ".down_proj.scales BF16 [2 1 256] marlin repacked",
			gptqX + ".gate_up_proj.bias BF16 [2 256] marlin repacked",
			gptqX + ".gate_up_proj.qweight I32 [2 16 512] marlin repacked",
			gptqX + ".gate_up_proj.scales BF16 [2 2 256] marlin repacked",
		}},
		{"marlin, experts, act-order asked for", experts(8, "g_idx"), map[string]any{"bits": 8}, Options{ActOrder: true}, []string{
			gptqX + ".down_proj.g_idx I32 [2 128] marlin repacked",
			gptqX + ".down_proj.g_idx_sort_indices I32 [2 128] marlin repacked",
			gptqX + ".down_proj.qweight I32 [2 8 1024] marlin repacked",
			gptqX + ".down_proj.scales F16 [2 1 256] marlin repacked",
			gptqX + ".gate_up_proj.g_idx I32 [2 256] marlin repacked",
			gptqX + ".gate_up_proj.g_idx_sort_indices I32 [2 256] marlin repacked",
			gptqX + ".gate_up_proj.qweight I32 [2 16 1024] marlin repacked",
			gptqX + ".gate_up_proj.scales F16 [2 2 256] marlin repacked",
		}},
		{"exllama, act-order", linear(256, 128, 4, 128, "g_idx bias"), act, Options{Layout: stages.LayoutExllama}, []string{
			gptqO + ".bias F16 [128] exllama repacked",
			gptqO + ".g_idx_sort_indices I32 [256] exllama repacked",
			gptqO + ".qweight I32 [32 128] exllama repacked",
			gptqO + ".qzeros I32 [2 16] exllama repacked",
			gptqO + ".scales F16 [2 128] exllama repacked",
		}},
		{"exllama, 3 bits", linear(256, 64, 3, 128, ""), map[string]any{"bits": 3, "sym": false}, Options{Layout: stages.LayoutExllama}, []string{
			gptqO + ".qweight I32 [24 64] exllama repacked",
			gptqO + ".qzeros I32 [2 6] exllama repacked",
			gptqO + ".scales F16 [2 64] exllama repacked",
		}},
		{"dequantised in the model's dtype", linear(96, 40, 4, 128, "bias"), nil, Options{Layout: stages.LayoutDequant}, []string{
			gptqO + ".bias BF16 [40] raw cast",
			gptqO + ".weight BF16 [40 96] raw dequantised",
		}},
		{"dequantised experts", experts(4, "g_idx"), act, Options{Layout: stages.LayoutDequant, DType: safetensors.F32}, []string{
			gptqX + ".down_proj.weight F32 [2 256 128] raw stacked",
			gptqX + ".gate_up_proj.weight F32 [2 256 256] raw stacked",
		}},
		{"raw experts", experts(4, "g_idx"), act, Options{Layout: stages.LayoutRaw}, []string{
			gptqX + ".down_proj.g_idx I32 [2 128] raw stacked",
			gptqX + ".down_proj.qweight I32 [2 16 256] raw stacked",
			gptqX + ".down_proj.qzeros I32 [2 1 32] raw stacked",
			gptqX + ".down_proj.scales F16 [2 1 256] raw stacked",
			gptqX + ".gate_up_proj.g_idx I32 [2 256] raw stacked",
			gptqX + ".gate_up_proj.qweight I32 [2 32 256] raw stacked",
			gptqX + ".gate_up_proj.qzeros I32 [2 2 32] raw stacked",
			gptqX + ".gate_up_proj.scales F16 [2 2 256] raw stacked",
		}},
	} {
		p, err := gptqPlan(t, x.c, x.changes, x.opt)
		if err != nil {
			t.Errorf("%s: %v", x.name, err)
			continue
		}
		if got := gptqShapes(p); !slices.Equal(got, x.want) {
			t.Errorf("%s:\n%s\nwant\n%s", x.name, strings.Join(got, "\n"), strings.Join(x.want, "\n"))
		}
		if len(p.Summary.Kept) > 0 {
			t.Errorf("%s: kept %v", x.name, p.Summary.Kept)
		}
	}
}

// TestGPTQKeptRaw: what a layout cannot hold, and why.
func TestGPTQKeptRaw(t *testing.T) {
	marlin, noPad, exllama, dequant := Options{}, Options{NoPad: true}, Options{Layout: stages.LayoutExllama}, Options{Layout: stages.LayoutDequant}
	for _, x := range []struct {
		opt         Options
		k, n        int64
		bits, group int64
		changes     map[string]any
		why         string // "" when it is held
	}{
		{marlin, 128, 64, 4, 128, nil, ""},
		{marlin, 64, 128, 4, 64, nil, ""},
		{marlin, 64, 128, 8, -1, nil, ""},
		{marlin, 64, 128, 4, 64, map[string]any{"checkpoint_format": "gptq_p"}, ""},
		{marlin, 64, 64, 4, 64, nil, ""},
		{noPad, 64, 64, 4, 64, nil, "no whole tiles"},
		{noPad, 64, 128, 4, 64, nil, ""},
		{noPad, 128, 96, 4, 64, nil, "96 output features are not a multiple of 64"},
		{noPad, 96, 128, 4, 32, nil, "no whole tiles: N%64 and K%128, or N%128 and K%64, must be 0 (padding is off)"},
		{marlin, 96, 128, 4, 32, map[string]any{"desc_act": true}, "with act-order nothing is padded"},
		{marlin, 192, 128, 4, 128, nil, "192 input features are no whole groups of 128"},
		{marlin, 128, 128, 4, 256, nil, "128 input features are no whole groups of 256"},
		{marlin, 256, 128, 4, 256, nil, ""},
		{marlin, 512, 128, 4, 256, nil, "groups of 32, 64, 128 or all, not 256"},
		{marlin, 128, 128, 4, 16, nil, "not 16"},
		{marlin, 128, 128, 2, 128, nil, "4 or 8 bits, not 2"},
		{marlin, 128, 128, 3, 128, nil, "4 or 8 bits, not 3"},
		{marlin, 128, 128, 6, 128, map[string]any{"checkpoint_format": "gptq_p"}, "4 or 8 bits, not 6"},
		{marlin, 128, 128, 4, 128, map[string]any{"sym": false}, ""},
		{marlin, 128, 128, 8, 128, map[string]any{"sym": false}, "zero points with 4 bits only"},
		{marlin, 256, 128, 4, 128, map[string]any{"sym": false, "desc_act": true}, "no act-order with zero points"},
		{Options{DType: safetensors.F32}, 128, 128, 4, 128, nil, "F16 or BF16 scales, these are F32"},
		{exllama, 96, 40, 4, 32, nil, ""},
		{exllama, 96, 40, 8, 32, map[string]any{"sym": false}, ""},
		{exllama, 96, 32, 3, 32, nil, ""},
		{exllama, 96, 32, 3, 32, map[string]any{"checkpoint_format": "gptq_p"}, "planar codes of 3 bits"},
		{exllama, 96, 32, 2, 32, map[string]any{"checkpoint_format": "gptq_p"}, ""},
		{exllama, 128, 64, 4, -1, nil, "no single group"},
		{exllama, 96, 64, 4, 64, nil, "96 input features are no whole groups of 64"},
		{exllama, 40, 64, 4, 8, nil, "40 input features are not a multiple of 32"},
		{exllama, 96, 32, 3, 32, map[string]any{"desc_act": true}, "act-order of 3-bit codes"},
		{Options{Layout: stages.LayoutExllama, DType: safetensors.BF16}, 128, 64, 4, 64, nil, "F16 scales, these are BF16"},
		{dequant, 40, 64, 4, 64, nil, "40 input features are not a multiple of 32"},
		{dequant, 96, 24, 4, 64, nil, ""},
	} {
		changes := map[string]any{"bits": x.bits, "group_size": x.group}
		maps.Copy(changes, x.changes)
		var c gptqTensors
		gptqModule(&c, gptqO, x.k, x.n, x.bits, x.group, "g_idx")
		p, err := gptqPlan(t, c, changes, x.opt)
		if err != nil {
			t.Errorf("%v: %v", x, err)
			continue
		}
		if kept := fmt.Sprint(p.Summary.Kept); len(p.Summary.Kept) == 0 != (x.why == "") || !strings.Contains(kept, x.why) {
			t.Errorf("%v: kept %s", x, kept)
		}
		if x.why != "" {
			x.opt.Strict = true
			if _, err := gptqPlan(t, c, changes, x.opt); !gptqFault(err, stages.CodeLayout, x.why) {
				t.Errorf("%v: strict: %v", x, err)
			}
		}
	}
}

// gptqFault reports whether err is a refusal that has a fault of this code which says all of the parts.
func gptqFault(err error, code stages.Code, parts ...string) bool {
	refused, ok := errors.AsType[*stages.RefusedError](err)
	return ok && slices.ContainsFunc(refused.Faults, func(f stages.Fault) bool {
		return f.Code == code && !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(f.String(), p) })
	})
}

func TestGPTQConfigs(t *testing.T) {
	var c gptqTensors
	gptqModule(&c, gptqO, 128, 128, 4, 128, "g_idx")
	for _, x := range []struct {
		changes map[string]any
		code    stages.Code
		says    string
	}{
		{map[string]any{"bits": 5}, stages.CodeConfig, "5 to 7 only in checkpoint_format gptq_p"},
		{map[string]any{"bits": 1}, stages.CodeConfig, "2, 3, 4 or 8"},
		{map[string]any{"bits": nil}, stages.CodeConfig, `"bits" is missing`},
		{map[string]any{"group_size": 0}, stages.CodeConfig, "-1 or a positive number"},
		{map[string]any{"checkpoint_format": "marlin"}, stages.CodeUnsupported, "gptq, gptq_v2 and gptq_p"},
		{map[string]any{"checkpoint_format": "gptq_v3"}, stages.CodeConfig, "gptq_v3"},
		{map[string]any{"pack_dtype": "int64"}, stages.CodeConfig, "pack_dtype"},
		{map[string]any{"dynamic": map[string]any{"(?=x)": map[string]any{}}}, stages.CodeConfig, "look-around"},
		{map[string]any{"dynamic": map[string]any{"x": map[string]any{"bits": 6}}}, stages.CodeConfig, "only in checkpoint_format gptq_p"},
		{map[string]any{"dynamic": map[string]any{"-:.*o_proj": map[string]any{}}}, stages.CodeConfig, "says it is not quantised"},
		{map[string]any{"bits": 8}, stages.CodeShape, "config says 8 bits, the shapes say 4"},
		{map[string]any{"bits": 2}, stages.CodeShape, "config says 2 bits, the shapes say 4"},
	} {
		if _, err := gptqPlan(t, c, x.changes, Options{}); !gptqFault(err, x.code, x.says) {
			t.Errorf("%v: %v", x.changes, err)
		}
	}
	for _, changes := range []map[string]any{
		{"bits": nil, "w_bit": 4},
		{"bits": nil, "wbits": 4, "group_size": nil, "q_group_size": 128},
		{"pack_dtype": "torch.int32"},
		{"format": "gptq_v2"},
		{"dynamic": map[string]any{"-:.*q_proj": map[string]any{}, ".*o_proj": map[string]any{"group_size": 128}}, "group_size": 64},
		{"desc_act": true},
		{"sym": nil, "desc_act": nil},
	} {
		if _, err := gptqPlan(t, c, changes, Options{}); err != nil {
			t.Errorf("%v: %v", changes, err)
		}
	}
	var bare gptqTensors
	gptqModule(&bare, gptqO, 128, 128, 4, 128, "")
	if _, err := gptqPlan(t, bare, map[string]any{"desc_act": true}, Options{}); !gptqFault(err, stages.CodeMember, gptqO, "no g_idx") {
		t.Errorf("act-order without g_idx: %v", err)
	}
	if _, err := gptqPlan(t, bare, nil, Options{ActOrder: true}); err != nil {
		t.Errorf("act-order asked for, without g_idx: %v", err)
	}
}

// TestGPTQWholeWords: features that fill no words cannot have been packed.
func TestGPTQWholeWords(t *testing.T) {
	planar := map[string]any{"checkpoint_format": "gptq_p"}
	for _, x := range []struct {
		k, n, bits int64
		changes    map[string]any
		ok         bool
	}{
		{40, 24, 4, nil, true},
		{40, 20, 4, nil, false},
		{32, 20, 8, nil, true},
		{32, 18, 8, nil, false},
		{32, 48, 2, nil, true},
		{32, 40, 2, nil, false},
		{32, 32, 3, nil, true},
		{32, 48, 3, nil, false},
		{32, 32, 6, planar, true},
		{32, 48, 6, planar, false},
		{48, 32, 6, planar, false},
		{40, 32, 4, planar, false},
	} {
		changes := map[string]any{"bits": x.bits, "group_size": -1}
		maps.Copy(changes, x.changes)
		var c gptqTensors
		gptqModule(&c, gptqO, x.k, x.n, x.bits, -1, "")
		_, err := gptqPlan(t, c, changes, Options{Layout: stages.LayoutRaw})
		if x.ok && err != nil || !x.ok && !gptqFault(err, stages.CodeShape, gptqO, "does not fill whole words") {
			t.Errorf("%v: %v", x, err)
		}
	}
}

// TestGPTQOverrides: the order of one group is none, but an override may have groups, and then the config's order.
func TestGPTQOverrides(t *testing.T) {
	_, q := gptqQuant(t, gptqWith(map[string]any{"group_size": -1, "desc_act": true, "dynamic": map[string]any{
		"+:a":   map[string]any{"group_size": 64},
		"b":     map[string]any{"bits": 8, "desc_act": false},
		"-:c|d": map[string]any{},
		"c":     map[string]any{"bits": 8},
	}}))
	r, faults := gptqOpen(q)
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	for base, want := range map[string]gptqParams{
		"x":  {bits: 4, group: -1, descAct: true, sym: true},
		"xa": {bits: 4, group: -1, descAct: true, sym: true}, // patterns match from the start
		"ax": {bits: 4, group: 64, descAct: true, sym: true},
		"b":  {bits: 8, group: -1, sym: true},
	} {
		if p, _, ok := r.params(base); !ok || p != want {
			t.Errorf("%s: %+v, %v, want %+v", base, p, ok, want)
		}
	}
	for _, base := range []string{"c", "cx", "d"} {
		if _, _, ok := r.params(base); ok {
			t.Errorf("%s is quantised", base)
		}
	}
	var c gptqTensors
	gptqModule(&c, "a.x", 128, 128, 4, 64, "g_idx")
	gptqModule(&c, "x", 128, 128, 4, -1, "g_idx")
	p, err := gptqPlan(t, c, map[string]any{"group_size": -1, "desc_act": true, "dynamic": map[string]any{"a": map[string]any{"group_size": 64}}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	names := strings.Join(gptqShapes(p), "\n")
	if !strings.Contains(names, "a.x.g_idx_sort_indices") || strings.Contains(names, "\nx.g_idx") {
		t.Errorf("outputs\n%s", names)
	}
}

// TestGPTQWriters: who stores zero points by whole-word subtraction.
func TestGPTQWriters(t *testing.T) {
	for _, x := range []struct {
		quantizer any
		wraps     bool
	}{
		{[]string{"gptqmodel:0.9.0"}, true},
		{[]string{"gptqmodel:0.9.11-dev0"}, true},
		{[]string{"gptqmodel:1.0.0"}, true},
		{[]string{"GPTQModel:5.6.2"}, true},
		{"gptqmodel:4.0.0", true},
		{[]string{"optimum:1.17.1", "gptqmodel:4.0.0"}, true},
		{[]string{"gptqmodel:0.8.9"}, false},
		{[]string{"gptqmodel"}, false},
		{[]string{"gptqmodel:new"}, false},
		{[]string{"auto_gptq:1.0.0"}, false},
		{[]string{}, false},
		{7, false},
	} {
		_, q := gptqQuant(t, gptqWith(map[string]any{"meta": map[string]any{"quantizer": x.quantizer}}))
		if got := gptqWraps(q); got != x.wraps {
			t.Errorf("%v: %v", x.quantizer, got)
		}
	}
	if _, q := gptqQuant(t, gptqWith(nil)); gptqWraps(q) {
		t.Error("nothing said")
	}
}

// TestGPTQBatches: large modules are cut where their layout allows it, what needs a whole module has it, and every check runs once.
func TestGPTQBatches(t *testing.T) {
	const k, n = 4096, 4096
	for _, x := range []struct {
		name    string
		bits    int64
		changes map[string]any
		opt     Options
		slabs   int   // of the largest Output
		largest int64 // what the largest Batch may read, in bytes
	}{
		{"marlin 8", 8, nil, Options{}, 8, 8 << 20},
		{"marlin 4", 4, nil, Options{}, 4, 8 << 20},
		{"marlin 8, act-order", 8, map[string]any{"desc_act": true}, Options{}, 1, k*n + 1<<20},
		{"exllama 4", 4, nil, Options{Layout: stages.LayoutExllama}, 4, 8 << 20},
		{"exllama 3", 3, nil, Options{Layout: stages.LayoutExllama}, 1, 3*k*n/8 + 1<<20},
		{"dequant 4", 4, nil, Options{Layout: stages.LayoutDequant}, 1, k*n/2 + 1<<20},
		{"raw 8", 8, nil, Options{Layout: stages.LayoutRaw}, 8, 8 << 20},
	} {
		var c gptqTensors
		gptqModule(&c, gptqO, k, n, x.bits, 128, "g_idx")
		changes := map[string]any{"bits": x.bits}
		maps.Copy(changes, x.changes)
		p, err := gptqPlan(t, c, changes, x.opt)
		if err != nil {
			t.Errorf("%s: %v", x.name, err)
			continue
		}
		var largest *stages.Output
		for i := range p.Outputs {
			if largest == nil || p.Outputs[i].Size > largest.Size {
				largest = &p.Outputs[i]
			}
		}
		if largest.Slabs() != x.slabs {
			t.Errorf("%s: %s has %d Slabs, want %d", x.name, largest.Name, largest.Slabs(), x.slabs)
		}
		checks, written := map[string]int{}, int64(0)
		for b := range p.Batches() {
			if b.InBytes > x.largest {
				t.Errorf("%s: a Batch reads %d bytes", x.name, b.InBytes)
			}
			for i := range b.Parts {
				written += b.Parts[i].Dst.Bytes()
				if b.Parts[i].Slab == stages.NoSlab {
					checks[b.Parts[i].Op.String()+" of "+b.Parts[i].Inputs[0].Tensor]++
				}
			}
		}
		if written != p.Summary.BytesOut {
			t.Errorf("%s: %d bytes are written, want %d", x.name, written, p.Summary.BytesOut)
		}
		for what, times := range checks {
			if times != 1 {
				t.Errorf("%s: %s runs %d times", x.name, what, times)
			}
		}
		if len(checks) == 0 {
			t.Errorf("%s: no checks", x.name)
		}
	}
}

// TestGPTQBudget: a module that is needed whole does not fit a small budget, and the fault says which one does.
func TestGPTQBudget(t *testing.T) {
	var c gptqTensors
	gptqModule(&c, gptqO, 4096, 4096, 4, 128, "g_idx")
	act := map[string]any{"desc_act": true}
	_, err := gptqPlan(t, c, act, Options{Budget: 4 << 20})
	if !gptqFault(err, stages.CodeBudget, gptqO+".qweight", "--budget 9MiB") {
		t.Errorf("error %v", err)
	}
	if _, err := gptqPlan(t, c, act, Options{Budget: 9 << 20}); err != nil {
		t.Errorf("9 MiB: %v", err)
	}
	if _, err := gptqPlan(t, c, nil, Options{Budget: 4 << 20}); err != nil {
		t.Errorf("without act-order: %v", err)
	}
}
