package plan_test

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/coldload/coldload/plan"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

func tensor(name string, d stages.DType, dims ...int64) stages.Tensor {
	return stages.Tensor{Name: name, DType: d, Shape: dims}
}

// linear is one layer in one of the two formats, drawn.
type linear struct {
	quantised  bool
	bits       int64
	group      int64
	gIdx, bias bool
	dtype      stages.DType // of dense weights, of scales and biases
}

func (l linear) tensors(base string, k, n int64) []stages.Tensor {
	var all []stages.Tensor
	if l.bias {
		all = append(all, tensor(base+".bias", l.dtype, n))
	}
	if !l.quantised {
		return append(all, tensor(base+".weight", l.dtype, n, k))
	}
	groups := int64(1)
	if l.group > 0 {
		groups = (k + l.group - 1) / l.group
	}
	if l.gIdx {
		all = append(all, tensor(base+".g_idx", safetensors.I32, k))
	}
	return append(all,
		tensor(base+".qweight", safetensors.I32, k*l.bits/32, n), tensor(base+".scales", l.dtype, groups, n),
		tensor(base+".qzeros", safetensors.I32, groups, n*l.bits/32),
	)
}

// drawModel is a checkpoint that is right: its tensors, in no order, and its config.
func drawModel(t *rapid.T) (all []stages.Tensor, config map[string]any) {
	group := rapid.SampledFrom([]int64{-1, 16, 32, 64, 128}).Draw(t, "group")
	bits := rapid.SampledFrom([]int64{4, 4, 8, 2, 3}).Draw(t, "bits")
	order := rapid.Bool().Draw(t, "act-order")
	layer := rapid.Custom(func(t *rapid.T) linear {
		return linear{
			quantised: rapid.Bool().Draw(t, "quantised"), bits: bits, group: group, gIdx: rapid.Bool().Draw(t, "g_idx") || order, bias: rapid.Bool().Draw(t, "bias"),
			dtype: rapid.SampledFrom([]stages.DType{safetensors.F16, safetensors.BF16, safetensors.F32}).Draw(t, "dtype"),
		}
	})
	features := rapid.SampledFrom([]int64{32, 64, 96, 128, 192, 256, 1024})
	members := rapid.SampledFrom([][3]string{{"gate_proj", "up_proj", "down_proj"}, {"w1", "w3", "w2"}}).Draw(t, "members")
	count := rapid.IntRange(0, 5).Draw(t, "experts")
	add := func(l linear, base string, k, n int64) { all = append(all, l.tensors(base, k, n)...) }
	for i := range rapid.IntRange(1, 3).Draw(t, "layers") {
		p := fmt.Sprintf("model.layers.%d.", i)
		hidden, inner := features.Draw(t, "hidden"), features.Draw(t, "inner")
		a, m, x, y, o := layer.Draw(t, "attention"), layer.Draw(t, "mlp"), layer.Draw(t, "gate and up"), layer.Draw(t, "down"), layer.Draw(t, "o")
		for _, name := range []string{"q_proj", "k_proj", "v_proj"} {
			add(a, p+"self_attn."+name, hidden, features.Draw(t, name))
		}
		add(o, p+"self_attn.o_proj", inner, hidden)
		add(m, p+"mlp.gate_proj", hidden, inner)
		add(m, p+"mlp.up_proj", hidden, inner)
		for e := range count {
			base := fmt.Sprintf("%sblock.experts.%d.", p, e)
			add(x, base+members[0], hidden, inner)
			add(x, base+members[1], hidden, inner)
			add(y, base+members[2], inner, hidden)
		}
		all = append(all,
			tensor(p+"norm.weight", safetensors.F32, hidden), tensor(p+"rotary_emb.inv_freq", safetensors.F32, 8), tensor(p+"none", safetensors.U8, 0),
			tensor(p+"scalar", safetensors.F16), tensor(p+"big", safetensors.BF16, rapid.SampledFrom([]int64{1, 2 << 20, 5 << 20}).Draw(t, "big")),
		)
	}
	model := rapid.SampledFrom([]string{"", "novel", "qwen3_moe", "minimax_m2", "llama4"}).Draw(t, "model_type")
	if model == "qwen3_moe" && members[0] == "w1" {
		model = "mixtral"
	}
	config = map[string]any{"model_type": model, "quantization_config": map[string]any{
		"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": order, "sym": rapid.Bool().Draw(t, "symmetric"),
	}}
	if count > 0 && rapid.Bool().Draw(t, "count is known") {
		config["num_experts"] = count
	}
	return all, config
}

// drawOrder puts the tensors into Shards in some order.
func drawOrder(t *rapid.T, all []stages.Tensor) *catalog {
	all = rapid.Permutation(all).Draw(t, "order")
	shards := make([][]stages.Tensor, rapid.IntRange(1, 3).Draw(t, "shards"))
	for _, x := range all {
		s := rapid.IntRange(0, len(shards)-1).Draw(t, "shard")
		shards[s] = append(shards[s], x)
	}
	return newCatalog(shards...)
}

func drawOptions(t *rapid.T) plan.Options {
	return plan.Options{
		Layout: rapid.SampledFrom([]stages.Layout{"", stages.LayoutMarlin, stages.LayoutExllama, stages.LayoutDequant, stages.LayoutRaw}).Draw(t, "layout"),
		DType:  rapid.SampledFrom([]stages.DType{safetensors.Invalid, safetensors.F16, safetensors.BF16, safetensors.F32}).Draw(t, "dtype"),
		NoFuse: rapid.Bool().Draw(t, "no-fuse"),
		Budget: rapid.SampledFrom([]int64{0, 64 << 20, 1 << 30}).Draw(t, "budget"),
	}
}

// TestPlansAreComplete: whatever lies where, every byte is used and made once, in file order, in Batches that are small.
func TestPlansAreComplete(t *testing.T) {
	c := newConfigs(t)
	rapid.Check(t, func(t *rapid.T) {
		all, config := drawModel(t)
		opt := drawOptions(t)
		in := c.input(t, drawOrder(t, all), config)
		p, err := plan.Make(in, opt)
		if err != nil {
			t.Fatalf("%v", err)
		}
		cat, ok := in.Catalog.(*catalog)
		if !ok {
			t.Fatalf("no catalog")
		}
		covers(t, p, cat.tensors)
		batchesAreSmall(t, p, plan.TargetBatch(opt.Budget))
		again, err := plan.Make(in, opt)
		if err != nil || text(p) != text(again) {
			t.Errorf("the second plan differs (%v)", err)
		}
		other, err := plan.Make(c.input(t, drawOrder(t, all), config), opt)
		if err != nil || !reflect.DeepEqual(byName(p), byName(other)) {
			t.Errorf("tensors in another order make other outputs (%v)", err)
		}
		small := opt
		small.Budget = 6 << 20
		if p, err = plan.Make(in, small); err == nil {
			covers(t, p, cat.tensors)
			batchesAreSmall(t, p, plan.TargetBatch(small.Budget))
		}
	})
}

// text is everything that a Plan says and will do.
func text(p *plan.Plan) string {
	var b strings.Builder
	fmt.Fprintln(&b, p.Outputs, p.Summary, p.Notes)
	for batch := range p.Batches() {
		fmt.Fprintln(&b, batch.Seq, batch.Name, batch.Slabs, batch.Ranges)
		for i := range batch.Parts {
			fmt.Fprintln(&b, batch.Parts[i].Op.String(), batch.Parts[i].Slab, batch.Parts[i].Dst, batch.Parts[i].Inputs)
		}
	}
	return b.String()
}

// byName are the Outputs of a Plan, whatever their order.
func byName(p *plan.Plan) map[string]stages.Output {
	m := map[string]stages.Output{}
	for _, o := range p.Outputs {
		m[o.Name] = o
	}
	return m
}

// TestSpoiledPlans: a checkpoint with one thing wrong is refused or complete, and never a panic.
func TestSpoiledPlans(t *testing.T) {
	c := newConfigs(t)
	rapid.Check(t, func(t *rapid.T) {
		all, config := drawModel(t)
		for range rapid.IntRange(1, 3).Draw(t, "faults") {
			all = spoil(t, all)
		}
		makeAndCheck(t, c, all, config)
	})
}

// spoil removes a tensor, or changes its dtype, shape or name.
func spoil(t *rapid.T, all []stages.Tensor) []stages.Tensor {
	all = slices.Clone(all)
	i := rapid.IntRange(0, len(all)-1).Draw(t, "tensor")
	x := &all[i]
	switch rapid.IntRange(0, 4).Draw(t, "fault") {
	case 0:
		return slices.Delete(all, i, i+1)
	case 1:
		x.DType = drawDType(t)
	case 2:
		x.Shape = drawShape(t)
	case 3:
		if len(x.Shape) > 0 {
			x.Shape = slices.Clone(x.Shape)
			x.Shape[0] = 0
		}
	default:
		x.Name = drawName(t)
	}
	if x.DType.Bits() < 8 { // keep it whole bytes
		x.Shape = append(slices.Clone(x.Shape), 8)
	}
	slices.SortFunc(all, func(a, b stages.Tensor) int { return cmp.Compare(a.Name, b.Name) })
	return slices.CompactFunc(all, func(a, b stages.Tensor) bool { return a.Name == b.Name })
}

func drawDType(t *rapid.T) stages.DType {
	return rapid.SampledFrom([]stages.DType{
		safetensors.F16, safetensors.BF16, safetensors.F32, safetensors.F64, safetensors.F8E4M3, safetensors.I32, safetensors.I64, safetensors.U8,
		safetensors.BOOL, safetensors.F4, safetensors.C64,
	}).Draw(t, "dtype")
}

func drawShape(t *rapid.T) []int64 {
	return rapid.SliceOfN(rapid.SampledFrom([]int64{0, 1, 2, 3, 4, 8, 32, 64, 128, 129}), 0, 3).Draw(t, "shape")
}

// drawName makes names of the words that mean something.
func drawName(t *rapid.T) string {
	var name strings.Builder
	name.WriteString(rapid.SampledFrom([]string{"", "model.layers.0.", "."}).Draw(t, "prefix"))
	words := []string{
		"self_attn", "mlp", "experts", "0", "1", "00", "999999", "12345678", "q_proj", "k_proj", "v_proj", "qkv_proj", "gate_proj", "up_proj",
		"gate_up_proj", "down_proj", "w1", "w2", "w3", "q_a_proj", "kv_a_proj_with_mqa", "rotary_emb", "feed_forward", "",
	}
	for range rapid.IntRange(0, 5).Draw(t, "words") {
		name.WriteString(rapid.SampledFrom(words).Draw(t, "word") + ".")
	}
	return name.String() + rapid.SampledFrom([]string{
		"weight", "bias", "qweight", "scales", "qzeros", "g_idx", "workspace", "inv_freq", "weight_packed", "x_blocks", "x_scales", "weight_scale", "",
	}).Draw(t, "suffix")
}

// TestStrangePlans: tensors with any of the names that mean something, of any shape.
func TestStrangePlans(t *testing.T) {
	c := newConfigs(t)
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfNDistinct(rapid.Custom(drawName), 1, 40, rapid.ID).Draw(t, "names")
		var all []stages.Tensor
		usual := rapid.SampledFrom([][]int64{{8, 16}, {4, 64}, {0, 4}}).Draw(t, "usual shape")
		for _, n := range names {
			x := tensor(n, drawDType(t), usual...)
			if rapid.Bool().Draw(t, "odd") {
				x.Shape = drawShape(t)
			}
			if x.DType.Bits() < 8 {
				x.Shape = append(slices.Clone(x.Shape), 8)
			}
			all = append(all, x)
		}
		config := map[string]any{"model_type": rapid.SampledFrom([]string{"", "novel", "llama", "qwen3_moe", "deepseek_v3", "minimax_m2"}).Draw(t, "model_type")}
		if rapid.Bool().Draw(t, "quantised") {
			config["quantization_config"] = map[string]any{"quant_method": "gptq", "bits": 4, "group_size": rapid.SampledFrom([]int64{-1, 32, 1 << 30, 1 << 40}).Draw(t, "group")}
		}
		makeAndCheck(t, c, all, config)
	})
}

// makeAndCheck makes a Plan, which must be complete unless it is refused.
func makeAndCheck(t *rapid.T, c *configs, all []stages.Tensor, config map[string]any) {
	t.Helper()
	in := c.input(t, drawOrder(t, all), config)
	p, err := plan.Make(in, drawOptions(t))
	if p == nil {
		t.Fatalf("no plan")
	}
	if err != nil {
		if refused, ok := errors.AsType[*stages.RefusedError](err); !ok || len(refused.Faults) == 0 || len(p.Faults) != len(refused.Faults) {
			t.Errorf("error %v, want a refusal with the plan's faults", err)
		}
		for _, f := range p.Faults {
			if f.Code == "" || f.Problem == "" || f.Tensor == "" && f.File == "" {
				t.Errorf("fault %+v says too little", f)
			}
		}
		return
	}
	cat, ok := in.Catalog.(*catalog)
	if !ok {
		t.Fatalf("no catalog")
	}
	covers(t, p, cat.tensors)
}

// TestSkip: what a sink has already is not made again, and all the rest is.
func TestSkip(t *testing.T) {
	c := newConfigs(t)
	rapid.Check(t, func(t *rapid.T) {
		all, config := drawModel(t)
		p, err := plan.Make(c.input(t, drawOrder(t, all), config), plan.Options{})
		if err != nil {
			t.Fatalf("%v", err)
		}
		done := map[[2]int]bool{}
		var bytes int64
		for i := range p.Outputs {
			for s := range p.Outputs[i].Slabs() {
				if rapid.Bool().Draw(t, "done") {
					done[[2]int{i, s}] = true
					bytes += p.Outputs[i].Slab(i, s).Len
				}
			}
		}
		rest := p.Skip(func(s stages.Slab) bool { return done[[2]int{s.Output, s.Index}] }, 0)
		slabs := map[[2]int]int{}
		for b := range rest.Batches() {
			for _, s := range b.Slabs {
				slabs[[2]int{s.Output, s.Index}]++
			}
		}
		want := 0
		for i := range p.Outputs {
			for s := range p.Outputs[i].Slabs() {
				if done[[2]int{i, s}] {
					continue
				}
				want++
				if slabs[[2]int{i, s}] != 1 {
					t.Errorf("%s: slab %d is made %d times", p.Outputs[i].Name, s, slabs[[2]int{i, s}])
				}
			}
		}
		if len(slabs) != want || rest.Summary.Skipped != bytes {
			t.Errorf("%d slabs, want %d; %d bytes skipped, want %d", len(slabs), want, rest.Summary.Skipped, bytes)
		}
	})
}
