package repack

import (
	"fmt"

	"github.com/coldload/coldload/internal/convert"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// The codes of FP4 are repacked by [RowsMarlin] as integers of 4 bits are. Their scales are bytes, in an order of their own.

// MXFP4MarlinScales makes the Op that transposes the scales of an MXFP4 module and permutes every row, for kernels that compute in BF16.
//
// Input: one, the whole scales F8_E8M0 [N, G]. Destination: G rows of N bytes, N a multiple of 64. The bytes stay as they are. A scale that
// is no number (0xFF) is a *stages.DataError. Source: LAYOUTS C4.
func MXFP4MarlinScales() stages.Op { return mxfp4MarlinScales{} }

type mxfp4MarlinScales struct{}

func (mxfp4MarlinScales) Phase() stages.Phase { return stages.PhaseRepack }
func (mxfp4MarlinScales) String() string      { return "transpose and permute MXFP4 scales" }

func (op mxfp4MarlinScales) Run(j *stages.Job) error {
	if j.RowBytes%tileN != 0 {
		return fmt.Errorf("%s: %d columns are no whole blocks of %d", op, j.RowBytes, tileN)
	}
	if err := wantSources(op, j, j.Rows*j.RowBytes); err != nil {
		return err
	}
	if err := op.screen(j, 0); err != nil {
		return err
	}
	fp4Scales(j, nil)
	return nil
}

// screen wants every scale of one source to be a number.
func (mxfp4MarlinScales) screen(j *stages.Job, input int) error {
	if at := convert.FirstNonFinite(safetensors.F8E8M0, j.Src[input]); at >= 0 {
		return convert.NonFinite(j.Inputs[input].Tensor, safetensors.F8E8M0, at)
	}
	return nil
}

// fp4Scales transposes bytes [N, G] to the Job's G rows of N and puts the columns of each into the order that the kernels read FP4 scales
// in. G and N are those of the Job, N a multiple of tileN. change, when it is given, makes of every byte another one first, in place.
func fp4Scales(j *stages.Job, change func([]byte)) {
	strips := newScaleStrips(j.Stride, j.Rows, 1, &fp4Columns)
	tmp := borrow(strips.bytes())
	defer scratch.Put(tmp)
	for c := 0; c < j.RowBytes && j.Rows > 0; c += tileN {
		strip := j.Src[0][c*j.Rows : (c+tileN)*j.Rows]
		if change != nil {
			copy(*tmp, strip)
			change(*tmp)
			strip = *tmp
		}
		strips.transpose(j.Dst[c:], strip)
	}
}
