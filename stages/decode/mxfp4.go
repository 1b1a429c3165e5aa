package decode

import (
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// MXFP4Group is how many input features share a scale in MXFP4.
const MXFP4Group = 32

// MXFP4Dequant makes the Op that turns a module of MXFP4 into floating-point weights: w = code * 2^(e-127), which F32 and BF16 hold exactly.
//
// Inputs: the whole codes, bytes [N, K/2] with the low nibble first, and their scales F8_E8M0 [N, K/32]. Destination: N rows of K elements
// of to (F32, F16 or BF16); K is a multiple of 32. A scale that is no number (0xFF) and weights that to cannot hold are
// *stages.DataErrors. Source: LAYOUTS A5, F5.
func MXFP4Dequant(to stages.DType) (stages.Op, error) {
	f, err := fp4Of(MXFP4Group, safetensors.F8E8M0, to)
	if err != nil {
		return nil, err
	}
	return &mxfp4Dequant{f}, nil
}

type mxfp4Dequant struct{ fp4 }

func (op *mxfp4Dequant) String() string { return "dequantise MXFP4 to " + op.to.String() }

func (op *mxfp4Dequant) Run(j *stages.Job) error {
	if err := op.check(op, j, 2); err != nil {
		return err
	}
	return op.run(j, 1, 1)
}
