package decode

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/coldload/coldload/internal/convert"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// NVFP4Group is how many input features share a scale in NVFP4.
const NVFP4Group = 16

// NVFP4Dequant makes the Op that turns a module of NVFP4 into floating-point weights.
//
// Inputs: the whole codes, bytes [N, K/2] with the low nibble first; their scales F8_E4M3 [N, K/16]; the scale of the tensor, one F32.
// Destination: N rows of K elements of to (F32, F16 or BF16); K is a multiple of 16. All is computed in F32 and rounded once to the target,
// as the tools of either kind do it: with a multiplier (ModelOpt) w = code * scale * global, with a divisor (compressed-tensors) w = code *
// (scale / global). Scales that are not finite, a divisor that nothing can be divided by and weights that to cannot hold are
// *stages.DataErrors. Source: LAYOUTS A6, F5.
func NVFP4Dequant(divisor bool, to stages.DType) (stages.Op, error) {
	f, err := fp4Of(NVFP4Group, safetensors.F8E4M3, to)
	if err != nil {
		return nil, err
	}
	return &nvfp4Dequant{fp4: f, divisor: divisor}, nil
}

type nvfp4Dequant struct {
	fp4

	divisor bool // the scale of the tensor is one
}

// nvfp4Global is the input with the scale of the tensor.
const nvfp4Global = 2

func (op *nvfp4Dequant) String() string { return "dequantise NVFP4 to " + op.to.String() }

func (op *nvfp4Dequant) Run(j *stages.Job) error {
	if err := op.check(op, j, 3); err != nil {
		return err
	}
	if n := len(j.Src[nvfp4Global]); n != 4 {
		return fmt.Errorf("%s: input %d has %d bytes, want 4", op, nvfp4Global, n)
	}
	if at := convert.FirstNonFinite(safetensors.F32, j.Src[nvfp4Global]); at >= 0 {
		return convert.NonFinite(j.Inputs[nvfp4Global].Tensor, safetensors.F32, at)
	}
	global := math.Float32frombits(binary.LittleEndian.Uint32(j.Src[nvfp4Global]))
	if !op.divisor {
		return op.run(j, global, 1)
	}
	if q := largestE4M3 / global; q-q != 0 { //nolint:gocritic // infinite, or no number
		return &stages.DataError{
			Tensor: j.Inputs[nvfp4Global].Tensor, Problem: "nothing can be divided by this scale",
			Expected: "a divisor that leaves the weights finite", Found: fmt.Sprint(global), Advice: "get the checkpoint again",
		}
	}
	return op.run(j, 1, global)
}

// CheckSameScale makes the Op that checks that two tensors of one F32 each are the same: the scales of members that become one module, which
// has one. A difference is a *stages.DataError.
func CheckSameScale() stages.Op { return checkSameScale{} }

type checkSameScale struct{}

func (checkSameScale) Phase() stages.Phase { return stages.PhaseDecode }
func (checkSameScale) String() string      { return "check that the scales of members are one" }

func (op checkSameScale) Run(j *stages.Job) error {
	a, b, err := twoScales(op, j)
	if err != nil || a == b {
		return err
	}
	return &stages.DataError{
		Tensor: j.Inputs[0].Tensor, Problem: "differs from " + j.Inputs[1].Tensor + ", whose module becomes one with this one and has one scale",
		Expected: fmt.Sprint(b), Found: fmt.Sprint(a), Advice: "load it unfused (--no-fuse)",
	}
}

// WarnOtherScale makes the Op that warns where two tensors of one F32 each differ: the scales of members of an expert, which an engine may
// take for one.
func WarnOtherScale() stages.Op { return warnOtherScale{} }

type warnOtherScale struct{}

func (warnOtherScale) Phase() stages.Phase { return stages.PhaseDecode }
func (warnOtherScale) String() string      { return "compare the scales of members" }

func (op warnOtherScale) Run(j *stages.Job) error {
	a, b, err := twoScales(op, j)
	if err == nil && a != b {
		j.Warn("is %g and %s is %g: each member of an expert has its own, and an engine that takes the first for both computes wrong weights",
			a, j.Inputs[1].Tensor, b)
	}
	return err
}

// twoScales reads two tensors of one F32.
func twoScales(op stages.Op, j *stages.Job) (a, b float32, err error) {
	if err := wantInputs(op, j, 2); err != nil {
		return 0, 0, err
	}
	for i, src := range j.Src {
		if len(src) != 4 {
			return 0, 0, fmt.Errorf("%s: input %d has %d bytes, want 4", op, i, len(src))
		}
		if at := convert.FirstNonFinite(safetensors.F32, src); at >= 0 {
			return 0, 0, convert.NonFinite(j.Inputs[i].Tensor, safetensors.F32, at)
		}
	}
	bits := func(i int) float32 { return math.Float32frombits(binary.LittleEndian.Uint32(j.Src[i])) }
	return bits(0), bits(1), nil
}
