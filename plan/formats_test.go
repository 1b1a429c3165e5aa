package plan_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/coldload/coldload/plan"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/discover"
)

// ownFormat is a format of the user's own with one thing wrong.
type ownFormat struct {
	open    func() (plan.Reader, []stages.Fault)
	module  func(m *plan.Module) bool
	compile func(b *plan.Builder) string
}

func (*ownFormat) Name() string { return "own" }

func (f *ownFormat) Open(*discover.QuantConfig) (plan.Reader, []stages.Fault) {
	if f.open != nil {
		return f.open()
	}
	return f, nil
}

func (*ownFormat) Parts() []string { return []string{"codes", "row_scale"} }

type ownSpec struct{}

func (ownSpec) String() string { return "own" }

// listSpec cannot be compared.
type listSpec []int

func (listSpec) String() string { return "list" }

func (f *ownFormat) Module(m *plan.Module, c *plan.Checks) bool {
	s := c.Catalog.AppendShape(nil, int(m.Tensors[0]))
	m.N, m.K, m.Spec = s[0], s[1], ownSpec{}
	return f.module == nil || f.module(m)
}

func (f *ownFormat) Compile(_ *plan.Group, b *plan.Builder) string {
	if f.compile != nil {
		return f.compile(b)
	}
	b.Tall(plan.Tall{Suffix: "weight", Parts: []int{0, 1}, DType: safetensors.F32, Op: ownOp(stages.PhaseDecode)})
	return ""
}

// ownOp is an Op of the phase that it is.
type ownOp stages.Phase

func (o ownOp) Phase() stages.Phase { return stages.Phase(o) }
func (ownOp) String() string        { return "own op" }
func (ownOp) Run(*stages.Job) error { return nil }
func ownTall(op stages.Op) plan.Tall {
	return plan.Tall{Suffix: "weight", Parts: []int{0, 1}, DType: safetensors.F32, Op: op}
}
func bytesOf4(*plan.Module) int64 { return 4 }
func tallOf(parts ...int) plan.Tall {
	t := ownTall(ownOp(stages.PhaseDecode))
	t.Parts = parts
	return t
}

func compiles(t ...plan.Tall) ownFormat {
	return ownFormat{compile: func(b *plan.Builder) string {
		for _, t := range t {
			b.Tall(t)
		}
		return ""
	}}
}

// TestFormatsOfOnesOwn: a format that loses a tensor, or gives what no load can run, is refused by name.
func TestFormatsOfOnesOwn(t *testing.T) {
	const base = "model.layers.0.mlp.down_proj"
	cat := newCatalog([]stages.Tensor{
		tensor(base+".codes", safetensors.I8, 2, 4), tensor(base+".row_scale", safetensors.F32, 2), tensor("model.norm.weight", safetensors.F32, 4),
	})
	in := newConfigs(t).input(t, cat, map[string]any{"model_type": "llama", "quantization_config": map[string]any{"quant_method": "own"}})
	grid := func(rows int64) ownFormat {
		return ownFormat{compile: func(b *plan.Builder) string {
			b.Grid(plan.Grid{Suffix: "codes", Rows: rows, Cols: 4, DType: safetensors.I8, Op: b.Copy(), Width: bytesOf4, Source: bytesOf4, Checks: []plan.Check{{Part: 1, Op: ownOp(stages.PhaseDecode)}}})
			return ""
		}}
	}
	for name, x := range map[string]struct {
		format ownFormat
		says   []string // none: it is right
	}{
		"right":              {ownFormat{}, nil},
		"right, in rows":     {grid(2), nil},
		"no reader":          {ownFormat{open: func() (plan.Reader, []stages.Fault) { return nil, nil }}, []string{"opens to nothing"}},
		"unusable, no fault": {ownFormat{module: func(*plan.Module) bool { return false }}, []string{base, "not why"}},
		"negative shape":     {ownFormat{module: func(m *plan.Module) bool { m.K = -4; return true }}, []string{base, "impossible shape", "-4"}},
		"uncomparable spec":  {ownFormat{module: func(m *plan.Module) bool { m.Spec = listSpec{1}; return true }}, []string{base, "cannot be compared", "listSpec"}},
		"no output":          {compiles(), []string{base, "makes no output"}},
		"a tensor is lost":   {compiles(tallOf(0)), []string{base + ".row_scale", "makes nothing of this tensor", base}},
		"one name twice":     {compiles(tallOf(0, 1), tallOf(0, 1)), []string{base, "two Outputs of the name " + base + ".weight"}},
		"nil op":             {compiles(ownTall(nil)), []string{base, ".weight", "Op that no stage runs", "nil"}},
		"op of upload":       {compiles(ownTall(ownOp(stages.PhaseUpload))), []string{base, "phase upload"}},
		"op of nothing":      {compiles(ownTall(ownOp(77))), []string{base, "phase 77"}},
		"check of index": {compiles(plan.Tall{
			Suffix: "weight", Parts: []int{0, 1}, DType: safetensors.F32, Op: ownOp(stages.PhaseDecode), Checks: []plan.Check{{Op: ownOp(stages.PhaseIndex)}},
		}), []string{base, "phase index"}},
		"bytes of a neighbour": {grid(3), []string{base, "codes", "bytes that the tensor", "at most 8 bytes", "3 rows of 4 bytes"}},
		"negative rows":        {grid(-1), []string{base, "-1 rows"}},
	} {
		p, err := plan.Make(in, plan.Options{Formats: []plan.Format{&x.format}})
		if x.says == nil {
			if err != nil || len(p.Outputs) != 2 {
				t.Errorf("%s: %d outputs, error %v", name, len(p.Outputs), err)
			}
			continue
		}
		if _, ok := errors.AsType[*stages.RefusedError](err); !ok || len(p.Faults) != 1 {
			t.Errorf("%s: error %v, want one fault", name, err)
			continue
		}
		for _, s := range append(x.says, "format own", "correct the format") {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%s: %v: does not say %q", name, err, s)
			}
		}
		if name == "no reader" {
			continue
		}
		one, err := plan.MakeModule(in, plan.Options{Formats: []plan.Format{&x.format}}, plan.Request{Name: base, Bases: []string{base}})
		if err == nil || len(one.Faults) != 1 {
			t.Errorf("%s, by itself: error %v, want one fault", name, err)
		}
	}
}
