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
	return fp4Scales(j, func(first int, strip, _ []byte) ([]byte, error) {
		if at := convert.FirstNonFinite(safetensors.F8E8M0, strip); at >= 0 {
			return nil, convert.NonFinite(j.Inputs[0].Tensor, safetensors.F8E8M0, first+at)
		}
		return strip, nil
	})
}

// screen wants every scale of one source to be a number.
func (mxfp4MarlinScales) screen(j *stages.Job, input int) error {
	if at := convert.FirstNonFinite(safetensors.F8E8M0, j.Src[input]); at >= 0 {
		return convert.NonFinite(j.Inputs[input].Tensor, safetensors.F8E8M0, at)
	}
	return nil
}

// fp4Scales transposes bytes [N, G] to the Job's G rows of N and puts the columns of each into the order that the kernels read FP4 scales
// in. G and N are those of the Job, N a multiple of tileN. look sees every strip of tileN columns first, while it is read from memory, with
// how many scales come before it. It returns the strip, or what it has made of it in tmp, which has the room.
func fp4Scales(j *stages.Job, look func(first int, strip, tmp []byte) ([]byte, error)) error {
	strips := newScaleStrips(j, 1, &fp4Columns)
	defer strips.finish()
	tmp := borrow(strips.bytes())
	defer scratch.Put(tmp)
	for c := 0; c < j.RowBytes && j.Rows > 0; c += tileN {
		strip, err := look(c*j.Rows, j.Src[0][c*j.Rows:(c+tileN)*j.Rows], *tmp)
		if err != nil {
			return err
		}
		strips.transpose(j.Dst[c:], strip)
	}
	return nil
}
