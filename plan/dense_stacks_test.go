package plan_test

import (
	"fmt"
	"testing"

	"github.com/coldload/coldload/plan"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// TestTurnedExpertsOfRealSizes: Llama-4's experts of 160 and 80 MiB, in Batches that the budget holds.
func TestTurnedExpertsOfRealSizes(t *testing.T) {
	const scope, e, h, inner = "language_model.model.layers.0.feed_forward.experts.", 2, 5120, 8192
	cat := newCatalog([]stages.Tensor{
		{Name: scope + "down_proj", DType: safetensors.BF16, Shape: []int64{e, inner, h}},
		{Name: scope + "gate_up_proj", DType: safetensors.BF16, Shape: []int64{e, h, 2 * inner}},
	})
	in := newConfigs(t).input(t, cat, map[string]any{"model_type": "llama4", "text_config": map[string]any{"hidden_size": h, "num_local_experts": e}})
	staging := func(s stages.Slab) int64 { return s.Len }
	for _, x := range []struct {
		budget  int64
		staging func(stages.Slab) int64
		dtype   stages.DType
		batches int
		largest int64 // MiB
	}{
		{256 << 20, nil, safetensors.Invalid, 4, 160},     // a whole expert at once
		{256 << 20, staging, safetensors.Invalid, 6, 160}, // gate and up in two halves: what is written is held as well
		{64 << 20, nil, safetensors.Invalid, 12, 40},      // Slab by Slab
		{0, nil, safetensors.F32, 4, 160},                 // without a bound
	} {
		t.Run(fmt.Sprintf("%d %s", x.budget>>20, x.dtype), func(t *testing.T) {
			p, err := plan.Make(in, plan.Options{Budget: x.budget, Staging: x.staging, DType: x.dtype})
			if err != nil {
				t.Fatal(err)
			}
			covers(t, p, cat.tensors)
			if p.BatchCount() != x.batches || p.Summary.LargestBatch>>20 != x.largest {
				t.Errorf("%d batches, the largest of %d MiB", p.BatchCount(), p.Summary.LargestBatch>>20)
			}
			for i := range p.Outputs {
				if o := &p.Outputs[i]; o.SlabBytes > 64<<20 || o.Kind != stages.KindStacked {
					t.Errorf("%s: %s in slabs of %d", o.Name, o.Kind, o.SlabBytes)
				}
			}
		})
	}
}

// TestTurnedExpertsRetyped: a Rule gets them in another dtype.
func TestTurnedExpertsRetyped(t *testing.T) {
	const scope = "model.layers.0.mlp.experts."
	cat := newCatalog([]stages.Tensor{
		{Name: scope + "down_proj", DType: safetensors.BF16, Shape: []int64{3, 8, 32}},
		{Name: scope + "gate_up_proj", DType: safetensors.BF16, Shape: []int64{3, 32, 16}},
	})
	in := newConfigs(t).input(t, cat, map[string]any{"model_type": "qwen3_vl_moe", "text_config": map[string]any{"hidden_size": 32}})
	p, err := plan.Make(in, plan.Options{Rules: []stages.Rule{toF32{}}})
	if err != nil {
		t.Fatal(err)
	}
	covers(t, p, cat.tensors)
	for _, o := range p.Outputs {
		if o.DType != safetensors.F32 || o.Size != 4*o.Shape[0]*o.Shape[1]*o.Shape[2] {
			t.Errorf("%+v", o)
		}
	}
}

type toF32 struct{}

func (toF32) Rewrite(stages.Output) stages.Rewrite { return stages.Rewrite{DType: safetensors.F32} }
