package plan_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/coldload/coldload/plan"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// TestTurnedExpertsOfRealSizes: Llama-4's experts of 160 MiB, asked for as modules, in Batches that the budget holds.
func TestTurnedExpertsOfRealSizes(t *testing.T) {
	const scope, e, h, inner = "language_model.model.layers.0.feed_forward.experts.", 2, 5120, 8192
	in, cat := denseStacks(t, "llama4", scope, e, h, inner)
	staging := func(s stages.Slab) int64 { return s.Len }
	for _, x := range []struct {
		budget  int64
		staging func(stages.Slab) int64
		dtype   stages.DType
		batches int
		largest int64 // MiB
	}{
		{256 << 20, nil, safetensors.Invalid, 2, 160},     // a whole expert at once
		{256 << 20, staging, safetensors.Invalid, 4, 160}, // in two halves: what is written is held as well
		{64 << 20, nil, safetensors.Invalid, 8, 40},       // Slab by Slab
		{0, nil, safetensors.F32, 2, 160},                 // without a bound
	} {
		t.Run(fmt.Sprintf("%d %s", x.budget>>20, x.dtype), func(t *testing.T) {
			p := expertsPlan(t, in, scope, e, plan.Options{Budget: x.budget, Staging: x.staging, DType: x.dtype})
			covers(t, p, cat.tensors[1:])
			if p.BatchCount() != x.batches || p.Summary.LargestBatch>>20 != x.largest {
				t.Errorf("%d batches, the largest of %d MiB", p.BatchCount(), p.Summary.LargestBatch>>20)
			}
			for i := range p.Outputs {
				if o := &p.Outputs[i]; o.SlabBytes > 64<<20 || o.Kind != stages.KindStacked || fmt.Sprint(o.Shape) != fmt.Sprint([]int64{e, 2 * inner, h}) {
					t.Errorf("%s: %s %v in slabs of %d", o.Name, o.Kind, o.Shape, o.SlabBytes)
				}
			}
		})
	}
}

// denseStacks is a checkpoint of input-major experts, of which gate and up come last.
func denseStacks(t *testing.T, model, scope string, e, h, inner int64) (plan.Input, *catalog) {
	t.Helper()
	cat := newCatalog([]stages.Tensor{
		{Name: scope + "down_proj", DType: safetensors.BF16, Shape: []int64{e, inner, h}},
		{Name: scope + "gate_up_proj", DType: safetensors.BF16, Shape: []int64{e, h, 2 * inner}},
	})
	return newConfigs(t).input(t, cat, map[string]any{"model_type": model, "text_config": map[string]any{"hidden_size": h, "num_local_experts": e}}), cat
}

// expertsPlan plans gate and up as modules.
func expertsPlan(t *testing.T, in plan.Input, scope string, e int, opt plan.Options) *plan.Plan {
	t.Helper()
	q, err := plan.Experts(scope+"{e}", []string{"gate_proj", "up_proj"}, e)
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.MakeModule(in, opt, q)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestTurnedExpertsRetyped: a Rule gets them in another dtype, cut for it.
func TestTurnedExpertsRetyped(t *testing.T) {
	const scope = "model.layers.0.mlp.experts."
	for _, inner := range []int64{8, 163_840} {
		in, cat := denseStacks(t, "qwen3_vl_moe", scope, 3, 128, inner)
		p := expertsPlan(t, in, scope, 3, plan.Options{Rules: []stages.Rule{toF32{}}})
		covers(t, p, cat.tensors[1:])
		if o := p.Outputs[0]; o.DType != safetensors.F32 || o.Size != 4*3*2*inner*128 || o.SlabBytes > 64<<20 {
			t.Errorf("%+v", o)
		}
	}
}

// TestTurnedExpertsOfOddSizes: what no even share divides is one Slab, and found out at once.
func TestTurnedExpertsOfOddSizes(t *testing.T) {
	const scope, prime = "model.layers.0.mlp.experts.", 1_000_003
	in, _ := denseStacks(t, "llama4", scope, 1, 64, prime)
	p := expertsPlan(t, in, scope, 1, plan.Options{})
	if o := p.Outputs[0]; o.Slabs() != 1 {
		t.Errorf("%d slabs", o.Slabs())
	}
	in, _ = denseStacks(t, "llama4", scope, 1, 1<<27, 1) // more rows than pieces of rows can be listed
	p = expertsPlan(t, in, scope, 1, plan.Options{})
	if o := p.Outputs[0]; o.Slabs() != 1 || p.BatchCount() != 1 {
		t.Errorf("%d slabs in %d batches", o.Slabs(), p.BatchCount())
	}
	in, _ = denseStacks(t, "llama4", scope, 1, 1<<31, 1<<9)
	q, err := plan.Experts(scope+"{e}", []string{"down_proj"}, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plan.MakeModule(in, plan.Options{}, q); err == nil || !strings.Contains(err.Error(), "too large to be turned") {
		t.Errorf("a terabyte: %v", err)
	}
}

// TestMXFP4TurnedOfRealSizes: experts of gpt-oss, dequantised, are one Slab each; larger ones are cut where scales begin.
func TestMXFP4TurnedOfRealSizes(t *testing.T) {
	const scope = "model.layers.0.mlp.experts."
	for _, x := range []struct{ e, h, inner, slabs int64 }{{4, 2880, 2880, 4}, {1, 2560, 16384, 4}} {
		stack := func(name string, n, k int64) []stages.Tensor {
			return []stages.Tensor{
				{Name: scope + name + "_blocks", DType: safetensors.U8, Shape: []int64{x.e, n, k / 32, 16}},
				{Name: scope + name + "_scales", DType: safetensors.U8, Shape: []int64{x.e, n, k / 32}},
			}
		}
		cat := newCatalog(append(stack("down_proj", x.h, x.inner), stack("gate_up_proj", 2*x.inner, x.h)...))
		in := newConfigs(t).input(t, cat, map[string]any{
			"model_type": "gpt_oss", "hidden_size": x.h, "num_local_experts": x.e, "quantization_config": map[string]any{"quant_method": "mxfp4"},
		})
		for _, rules := range [][]stages.Rule{nil, {toF32{}}} {
			p, err := plan.Make(in, plan.Options{Layout: stages.LayoutDequant, DType: safetensors.BF16, Rules: rules})
			if err != nil {
				t.Fatal(err)
			}
			covers(t, p, cat.tensors)
			if s := p.Summary; s.BytesRead > s.BytesIn+s.BytesIn/50 {
				t.Errorf("%d bytes are read of %d", s.BytesRead, s.BytesIn)
			}
			for i := range p.Outputs {
				o := &p.Outputs[i]
				if o.SlabBytes > 64<<20 || o.Kind != stages.KindStacked || rules != nil && o.DType != safetensors.F32 {
					t.Errorf("%s: %s %s in slabs of %d", o.Name, o.DType, o.Kind, o.SlabBytes)
				}
				if o.Name == scope+"gate_up_proj" && (fmt.Sprint(o.Shape) != fmt.Sprint([]int64{x.e, x.h, 2 * x.inner}) || rules == nil && int64(o.Slabs()) != x.slabs) {
					t.Errorf("%v in %d slabs", o.Shape, o.Slabs())
				}
			}
		}
	}
}

type toF32 struct{}

func (toF32) Rewrite(stages.Output) stages.Rewrite { return stages.Rewrite{DType: safetensors.F32} }
