package plan_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/coldload/coldload/internal/synth"
	"github.com/coldload/coldload/plan"
	"github.com/coldload/coldload/stages"
)

// layerNotes are the notes about layers that a Plan of a synthetic checkpoint has when without leaves out tensors.
func layerNotes(t *testing.T, o synth.Options, without func(name string) bool) (notes []string) {
	t.Helper()
	in := synthInput(t, o)
	var list []stages.Tensor
	for i := range in.Catalog.Len() {
		name := in.Catalog.Name(i)
		if !without(name) {
			list = append(list, stages.Tensor{Name: name, DType: in.Catalog.DType(i), Shape: in.Catalog.AppendShape(nil, i)})
		}
	}
	in.Catalog = newCatalog(list)
	p, err := plan.Make(in, plan.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range p.Notes {
		if strings.HasPrefix(n, "config says") || strings.Contains(n, "missing from single layers") || strings.Contains(n, "which all other layers of its kind have") {
			notes = append(notes, n)
		}
	}
	return notes
}

// TestLayerNotes: what a checkpoint without an index lacks is noted by name, and nothing is noted of one that is whole.
func TestLayerNotes(t *testing.T) {
	never := func(string) bool { return false }
	for _, m := range synth.Models() {
		for _, layers := range []int{1, 4, 5} {
			o := synth.Options{Model: m.Name, Format: synth.FormatNone, Narrow: true, Layers: layers}
			if notes := layerNotes(t, o, never); len(notes) > 0 {
				t.Errorf("%s of %d layers: %q", m.Name, layers, notes)
			}
		}
	}
	begins := func(prefixes ...string) func(string) bool {
		return func(name string) bool {
			return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
		}
	}
	dense := synth.Options{Model: "llama-3-8b", Narrow: true, Layers: 5, Bits: 4, Group: 32}
	hybrid := synth.Options{Model: "qwen3.5-35b-a3b", Format: synth.FormatNone, Narrow: true, Layers: 16}
	deep := synth.Options{Model: "deepseek-v2-lite", Format: synth.FormatNone, Narrow: true, Layers: 5}
	for name, test := range map[string]struct {
		o       synth.Options
		without func(string) bool
		want    []string
	}{
		"the last layers": {dense, begins("model.layers.3.", "model.layers.4."), []string{"config says 5 layers, found 3 of them: model.layers.3 "}},
		"one between":     {dense, begins("model.layers.2."), []string{"config says 5 layers, found 4 of them: model.layers.2 "}},
		"a module":        {dense, begins("model.layers.3.self_attn.o_proj."), []string{"model.layers.3 has no self_attn.o_proj,"}},
		"a norm":          {dense, begins("model.layers.0.input_layernorm."), []string{"model.layers.0 has no input_layernorm,"}},
		"a whole block":   {dense, begins("model.layers.1.mlp."), []string{"model.layers.1 has no mlp,"}},
		"in two layers":   {dense, begins("model.layers.1.self_attn.o_proj.", "model.layers.2.self_attn.o_proj."), nil},
		"of one kind":     {hybrid, begins("model.language_model.layers.7.self_attn.o_proj."), []string{"7 has no self_attn.o_proj,"}},
		"of another":      {hybrid, begins("model.language_model.layers.6.linear_attn.out_proj."), []string{"6 has no linear_attn.out_proj,"}},
		"of the sparse":   {deep, begins("model.layers.2.mlp.shared_experts.down_proj."), []string{"model.layers.2 has no mlp.shared_experts.down_proj,"}},
		"of all":          {deep, begins("model.layers.0.self_attn.o_proj."), []string{"model.layers.0 has no self_attn.o_proj,"}},
	} {
		notes := layerNotes(t, test.o, test.without)
		if len(notes) != len(test.want) || len(notes) > 0 && !strings.Contains(notes[0], test.want[0]) {
			t.Errorf("%s: %q, want %q", name, notes, test.want)
		}
	}
}

// synthInput is what a Plan of a synthetic checkpoint is made from.
func synthInput(t *testing.T, o synth.Options) plan.Input {
	t.Helper()
	config, err := synth.Config(o)
	if err != nil {
		t.Fatal(err)
	}
	return newConfigs(t).input(t, catalogOf(t, o), config)
}
