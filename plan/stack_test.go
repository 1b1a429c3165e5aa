package plan_test

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"testing"

	"github.com/coldload/coldload/plan"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/discover"
)

// stackFormat is a format with codes and scales of all experts in two tensors: up_codes [E, N, K] and up_scales [E, N].
type stackFormat struct {
	members []string // of the stack that gate_codes marks; nil for one member
	pair    plan.Pair
	rows    bool // gate and up are rows of one tensor
	wild    plan.Slice
}

func (*stackFormat) Name() string                                               { return "own" }
func (f *stackFormat) Open(*discover.QuantConfig) (plan.Reader, []stages.Fault) { return f, nil }
func (*stackFormat) Parts() []string                                            { return []string{"codes", "scales"} }

func (f *stackFormat) tensor(c *plan.Checks, name string) plan.Slice {
	if i, ok := c.Catalog.Lookup(name); ok {
		return plan.Slice{Tensor: int32(i)}
	}
	return plan.NoSlice
}

func (f *stackFormat) Stack(c *plan.Checks, i int32) (plan.Stack, bool) {
	base, ok := strings.CutSuffix(c.Catalog.Name(int(i)), "_codes")
	if !ok || path.Ext(base) == ".up" && f.members != nil {
		return plan.Stack{}, false
	}
	s := plan.Stack{Name: base, Pair: f.pair}
	names := f.members
	if names == nil || path.Ext(base) != ".gate" {
		names = []string{path.Ext(base)[1:]}
	} else {
		s.Name = strings.TrimSuffix(base, "gate") + "gate_up"
	}
	scope := strings.TrimSuffix(base, path.Ext(base)[1:])
	for m, name := range names {
		tensors := []plan.Slice{f.tensor(c, scope+name+"_codes"), f.tensor(c, scope+name+"_scales")}
		if f.rows {
			tensors = []plan.Slice{f.tensor(c, base+"_codes"), f.tensor(c, base+"_scales")}
			n := c.Catalog.AppendShape(nil, int(tensors[0].Tensor))[1] / int64(len(names))
			for p := range tensors {
				tensors[p].From, tensors[p].Rows = int64(m)*n, n
			}
		}
		if f.wild != (plan.Slice{}) {
			tensors[1] = f.wild
		}
		s.Members = append(s.Members, plan.StackMember{Name: name, Tensors: tensors})
	}
	return s, true
}

func (*stackFormat) Module(m *plan.Module, c *plan.Checks) bool {
	s := c.Catalog.AppendShape(nil, int(m.Tensors[0]))
	if len(s) != 2 || !m.Has(1) {
		c.ModuleFault(m, stages.CodeShape, "is no module", "", fmt.Sprint(s), "")
		return false
	}
	m.N, m.K, m.Spec = s[0], s[1], ownSpec{}
	return true
}

func (*stackFormat) Compile(g *plan.Group, b *plan.Builder) string {
	b.Codes("codes", 0, []int64{g.N(), g.First().K})
	b.Segments("scales", 1, []int64{g.N()}, b.DType())
	return ""
}

func stackTensors(name string, e, n, k int64) []stages.Tensor {
	const scope = "model.layers.0.mlp.experts."
	return []stages.Tensor{
		{Name: scope + name + "_codes", DType: safetensors.U8, Shape: []int64{e, n, k}},
		{Name: scope + name + "_scales", DType: safetensors.F32, Shape: []int64{e, n}},
	}
}

func stackPlan(t *testing.T, f *stackFormat, opt plan.Options, experts int, tensors ...[]stages.Tensor) (*plan.Plan, *catalog, error) {
	t.Helper()
	var all []stages.Tensor
	for _, list := range tensors {
		all = append(all, list...)
	}
	cat := newCatalog(all)
	in := newConfigs(t).input(t, cat, map[string]any{
		"model_type": "qwen3_moe", "num_experts": experts, "quantization_config": map[string]any{"quant_method": "own"},
	})
	opt.Formats = []plan.Format{f}
	p, err := plan.Make(in, opt)
	return p, cat, err
}

// TestStacks: tensors of all experts become what those of single experts would, of the same bytes, whoever joins what.
func TestStacks(t *testing.T) {
	down := stackTensors("down", 3, 16, 8)
	for name, x := range map[string]struct {
		format  stackFormat
		opt     plan.Options
		tensors [][]stages.Tensor
		want    string
	}{
		"one member": {stackFormat{}, plan.Options{}, [][]stages.Tensor{stackTensors("up", 3, 8, 16), down}, "up[3 8 16] down[3 16 8]"},
		"two tensors": {
			stackFormat{members: []string{"gate", "up"}},
			plan.Options{},
			[][]stages.Tensor{stackTensors("gate", 3, 8, 16), stackTensors("up", 3, 8, 16), down},
			"gate_up[3 16 16] down[3 16 8]",
		},
		"two tensors, not joined": {
			stackFormat{members: []string{"gate", "up"}},
			plan.Options{NoFuse: true},
			[][]stages.Tensor{stackTensors("gate", 3, 8, 16), stackTensors("up", 3, 8, 16), down},
			"gate[3 8 16] up[3 8 16] down[3 16 8]",
		},
		"rows of one": {
			stackFormat{members: []string{"gate", "up"}, rows: true},
			plan.Options{},
			[][]stages.Tensor{stackTensors("gate", 3, 16, 16)},
			"gate_up[3 16 16]",
		},
		"cast": {stackFormat{}, plan.Options{DType: safetensors.BF16}, [][]stages.Tensor{down}, "down[3 16 8]"},
	} {
		t.Run(name, func(t *testing.T) {
			p, cat, err := stackPlan(t, &x.format, x.opt, 3, x.tensors...)
			if err != nil {
				t.Fatal(err)
			}
			covers(t, p, cat.tensors)
			got := map[string]bool{}
			for _, o := range p.Outputs {
				if base, ok := strings.CutSuffix(o.Name, ".codes"); ok {
					got[strings.TrimPrefix(base, "model.layers.0.mlp.experts.")+fmt.Sprint(o.Shape)] = true
				}
			}
			for w := range strings.SplitSeq(strings.ReplaceAll(x.want, "] ", "];"), ";") {
				if !got[w] {
					t.Errorf("no %s among %v", w, got)
				}
				delete(got, w)
			}
			if len(got) > 0 {
				t.Errorf("also %v", got)
			}
		})
	}
}

// TestStackOrder: expert by expert gate's rows come before up's, and every Input says whose it is.
func TestStackOrder(t *testing.T) {
	gate, up := stackTensors("gate", 2, 8, 16), stackTensors("up", 2, 8, 16)
	p, cat, err := stackPlan(t, &stackFormat{members: []string{"gate", "up"}}, plan.Options{}, 2, gate, up)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for b := range p.Batches() {
		for _, part := range b.Parts {
			for _, in := range part.Inputs {
				name, _, _ := strings.Cut(in.Tensor, " (")
				i, _ := cat.Lookup(name)
				if strings.HasSuffix(name, "_codes") {
					s := b.Slabs[part.Slab]
					got = append(got, fmt.Sprintf("%s+%d->%d", path.Ext(in.Tensor)[1:], in.Extent.Off-cat.Extent(i).Off, s.Off+part.Dst.Off))
				}
			}
		}
	}
	want := "[gate_codes (expert 0)+0->0 up_codes (expert 0)+0->128 gate_codes (expert 1)+128->256 up_codes (expert 1)+128->384]"
	if fmt.Sprint(got) != want {
		t.Errorf("got %v\nwant %s", got, want)
	}
}

// TestStackOnDemand: a stack is found by the name of its Outputs.
func TestStackOnDemand(t *testing.T) {
	cat := newCatalog(append(stackTensors("gate_up_proj", 3, 32, 16), stackTensors("down_proj", 3, 16, 16)...))
	in := newConfigs(t).input(t, cat, map[string]any{"model_type": "qwen3_moe", "quantization_config": map[string]any{"quant_method": "own"}})
	opt := plan.Options{Formats: []plan.Format{&stackFormat{pair: plan.PairHalves}}, NoFuse: true}
	q, err := plan.Experts("model.layers.0.mlp.experts.{e}", []string{"gate_proj", "up_proj"}, 3)
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.MakeModule(in, opt, q)
	if err != nil {
		t.Fatal(err)
	}
	if s := p.Single; s.Experts != 3 || s.N != 32 || s.K != 16 || s.Outputs["codes"] != "model.layers.0.mlp.experts.gate_up_proj.codes" || len(p.Outputs) != 2 {
		t.Errorf("%+v %v", s, p.Outputs)
	}
	if q, err = plan.Experts("model.layers.0.mlp.experts.{e}", []string{"gate_proj", "up_proj"}, 4); err != nil {
		t.Fatal(err)
	}
	if _, err := plan.MakeModule(in, opt, q); err == nil || !strings.Contains(err.Error(), "another number of experts") {
		t.Errorf("four of three experts: %v", err)
	}
}

func TestStackFaults(t *testing.T) {
	for want, x := range map[string]struct {
		format  stackFormat
		experts int
		tensors []stages.Tensor
	}{
		"has not as many experts as the config says": {experts: 4, tensors: stackTensors("up", 3, 8, 16)},
		"has no axis of experts":                     {tensors: stackTensors("up", 0, 8, 16)},
		"has another number of experts than":         {tensors: append(stackTensors("up", 3, 8, 16)[:1], stackTensors("up", 2, 8, 16)[1])},
		"is no module":                               {tensors: stackTensors("up", 3, 8, 16)[:1]},
		"experts that end within a byte": {tensors: []stages.Tensor{
			{Name: "experts.up_codes", DType: safetensors.F4, Shape: []int64{2, 1, 1}}, {Name: "experts.up_scales", DType: safetensors.F32, Shape: []int64{2, 1}},
		}},
		"which is none":             {format: stackFormat{wild: plan.Slice{Tensor: 7}}, tensors: stackTensors("up", 3, 8, 16)},
		"has 8 rows, not 4 from":    {format: stackFormat{wild: plan.Slice{Tensor: 1, From: 5, Rows: 4}}, tensors: stackTensors("up", 3, 8, 16)},
		"from row -1":               {format: stackFormat{wild: plan.Slice{Tensor: 1, From: -1, Rows: 4}}, tensors: stackTensors("up", 3, 8, 16)},
		"has more than 1048576":     {tensors: stackTensors("up", 1<<20+1, 1, 1)},
		"makes too many modules":    {tensors: stackTensors("up", 1<<19, 1, 1)},
		"belongs to a quantised":    {tensors: []stages.Tensor{{Name: "x.scales", DType: safetensors.F32, Shape: []int64{2, 1}}}},
		"without a name, its first": {format: stackFormat{members: []string{"gate", "other"}}, tensors: stackTensors("gate", 3, 8, 16)},
		"does not map back": {
			tensors: append(stackTensors("gate_up_proj", 3, 8, 16), stackTensors("down_proj", 3, 16, 8)...),
			format:  stackFormat{pair: plan.PairHalves},
		},
	} {
		t.Run(want, func(t *testing.T) {
			_, _, err := stackPlan(t, &x.format, plan.Options{}, x.experts, x.tensors)
			var refused *stages.RefusedError
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v", err)
			}
		})
	}
}
