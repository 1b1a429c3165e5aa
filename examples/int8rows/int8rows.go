// Package int8rows teaches coldload a quantisation format of its own, to show what that takes: one signed byte a weight and one scale a
// row. A checkpoint in this format says quant_method "int8rows" and has, for every linear layer,
//
//	<module>.codes     I8  [N, K]
//	<module>.row_scale F32 [N]
//
// with w[n][k] = codes[n][k] * row_scale[n]. Fusing, stacking, dtypes, memory, errors and telemetry come from coldload:
//
//	coldload.Load(ctx, path, sink, coldload.Options{Formats: []plan.Format{int8rows.Format{}}})
package int8rows

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/coldload/coldload/plan"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/discover"
)

// Format is the quantisation method. The zero value is ready for coldload.Options.Formats.
type Format struct{}

// Name is the quant_method of the config.
func (Format) Name() string { return "int8rows" }

// Open finds nothing to read in the config: the format has no parameters.
func (Format) Open(*discover.QuantConfig) (plan.Reader, []stages.Fault) { return reader{}, nil }

type reader struct{}

const (
	codes = iota
	rowScale
)

// Parts are the tensors of a module; the first marks it.
func (reader) Parts() []string { return []string{"codes", "row_scale"} }

// spec is what modules that fuse must have in common: nothing beyond the format.
type spec struct{}

func (spec) String() string { return "int8rows" }

// Module checks shapes and dtypes before a byte is read.
func (reader) Module(m *plan.Module, c *plan.Checks) bool {
	if !m.Has(rowScale) {
		c.ModuleFault(m, stages.CodeMember, "has no row_scale", m.Base+".row_scale", "", "get the checkpoint again")
		return false
	}
	shape := c.Catalog.AppendShape(nil, int(m.Tensors[codes]))
	scales := c.Catalog.AppendShape(nil, int(m.Tensors[rowScale]))
	if len(shape) != 2 || len(scales) != 1 || scales[0] != shape[0] ||
		c.Catalog.DType(int(m.Tensors[codes])) != safetensors.I8 || c.Catalog.DType(int(m.Tensors[rowScale])) != safetensors.F32 {
		c.ModuleFault(m, stages.CodeShape, "is no int8rows module", "codes I8 [N, K] and row_scale F32 [N]", fmt.Sprint(shape, scales), "")
		return false
	}
	m.N, m.K, m.Spec = shape[0], shape[1], spec{}
	return true
}

// Compile makes F32 weights, whatever layout is asked for: "" says that nothing was kept back.
func (reader) Compile(_ *plan.Group, b *plan.Builder) string {
	b.Tall(plan.Tall{Suffix: "weight", Parts: []int{codes, rowScale}, DType: safetensors.F32, Op: dequant{}})
	return ""
}

// dequant is the Op: it reads both tensors and writes the member's rows of the Output, fused and stacked or not.
type dequant struct{}

// Phase says which stage runs it.
func (dequant) Phase() stages.Phase { return stages.PhaseDecode }

func (dequant) String() string { return "dequantise int8rows" }

// Run handles one member.
func (op dequant) Run(j *stages.Job) error {
	k := j.RowBytes / 4
	if len(j.Src) != 2 || len(j.Src[codes]) != j.Rows*k || len(j.Src[rowScale]) != 4*j.Rows {
		return fmt.Errorf("%s: inputs do not fit %d rows of %d", op, j.Rows, k)
	}
	for n := range j.Rows {
		scale := math.Float32frombits(binary.LittleEndian.Uint32(j.Src[rowScale][4*n:]))
		if math.IsNaN(float64(scale)) || math.IsInf(float64(scale), 0) {
			return &stages.DataError{Tensor: j.Inputs[rowScale].Tensor, Problem: fmt.Sprintf("element %d is not finite", n)}
		}
		row := j.Row(n)
		for i, c := range j.Src[codes][n*k : (n+1)*k] {
			binary.LittleEndian.PutUint32(row[4*i:], math.Float32bits(scale*float32(int8(c))))
		}
	}
	return nil
}

// CheckWord compares one weight with its source: a sample of what Run has written is looked at while a load runs. It reads the format by its
// definition, and so shares nothing with Run that could be wrong in the same way.
func (dequant) CheckWord(j *stages.Job, row, word int) error {
	scale := math.Float32frombits(binary.LittleEndian.Uint32(j.Src[rowScale][4*row:]))
	want := scale * float32(int8(j.Src[codes][row*(j.RowBytes/4)+word]))
	got := math.Float32frombits(binary.LittleEndian.Uint32(j.Row(row)[4*word:]))
	if got != want {
		return &stages.MismatchError{What: fmt.Sprintf("weight of output %d, input %d", row, word), Want: fmt.Sprint(want), Got: fmt.Sprint(got)}
	}
	return nil
}
