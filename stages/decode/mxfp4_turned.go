package decode

import (
	"errors"
	"fmt"
	"sync"

	"github.com/coldload/coldload/internal/convert"
	"github.com/coldload/coldload/internal/cpu"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// MXFP4DequantTurned is [MXFP4Dequant] for weights that come out input-major, as those of gpt-oss do: what is a row of codes is a column of weights.
//
// Inputs: n output features, the codes [n, K/2] and the scales [n, K/32]. Either there are two, which have all of them next to each other, or 2n of one
// row each, first those of codes, which may be parts of longer ones. Destination: K rows of n elements of to, at any Stride. The errors are
// those of MXFP4Dequant; they count within what is given, and say where in the file that is.
func MXFP4DequantTurned(to stages.DType) (stages.Op, error) {
	f, err := fp4Of(MXFP4Group, safetensors.F8E8M0, to)
	if err != nil {
		return nil, err
	}
	return &mxfp4Turned{f}, nil
}

type mxfp4Turned struct{ fp4 }

func (op *mxfp4Turned) String() string { return "dequantise MXFP4 to input-major " + op.to.String() }

const (
	turnedBlock   = 32  // output features that the kernels decode at a time, with a word of the codes of each
	turnedColumns = 512 // input features whose codes are transposed at a time
)

// mxfp4Tile is the memory of one Run. Workers reuse it from module to module; the caches hold it.
//
// Where there is a kernel, the codes of tileRows output features and turnedColumns input features are transposed before they are decoded: they are a quarter
// of the weights. Else tileRows by tileColumns of them are gathered and decoded, and the weights are transposed.
type mxfp4Tile struct {
	fp4Job

	tile    stages.Job
	inputs  [2]stages.Input
	sources [2][]byte
	codes   [tileRows * turnedColumns / 2]byte // gathered
	words   [tileRows * turnedColumns / 2]byte // turned
	scales  [tileRows * tileColumns / MXFP4Group]byte
	weights [tileRows * tileColumns * 4]byte
}

var mxfp4Tiles = sync.Pool{New: func() any { return new(mxfp4Tile) }}

func (op *mxfp4Turned) Run(j *stages.Job) error {
	size := op.to.Bits() / 8
	k, n := j.Rows, j.RowBytes/size
	if n <= 0 || k <= 0 || n*size != j.RowBytes || k%MXFP4Group != 0 {
		return fmt.Errorf("%s: %d rows of %d bytes, want whole groups of %d rows of %s", op, k, j.RowBytes, MXFP4Group, op.to)
	}
	if err := op.fits(j, k, n); err != nil {
		return err
	}
	t, ok := mxfp4Tiles.Get().(*mxfp4Tile)
	if !ok {
		t = new(mxfp4Tile)
	}
	defer func() {
		t.fp4, t.job, t.firstN, t.firstK = nil, nil, 0, 0
		t.inputs = [2]stages.Input{}
		mxfp4Tiles.Put(t)
	}()
	t.fp4, t.global, t.divisor = &op.fp4, 1, 1
	t.inputs = [2]stages.Input{fp4Codes: j.Inputs[0], fp4Scales: j.Inputs[len(j.Inputs)/2]}
	stream := !j.Soon && j.Rows*j.RowBytes >= cpu.MinStream
	for first := 0; first < n; {
		rows := min(tileRows, n-first)
		if rows > turnedBlock {
			rows -= rows % turnedBlock
		}
		for at := 0; at < k; at += turnedColumns {
			cols := min(turnedColumns, k-at)
			if t.turned(j, first, rows, at, cols, stream) {
				continue
			}
			if err := t.decodeAndTurn(j, first, rows, at, cols, stream); err != nil {
				return err
			}
		}
		first += rows
	}
	return nil
}

// decodeAndTurn makes the weights of some output and input features tile by tile: it decodes them as they lie, and transposes what comes out. It is the
// reference for turned.
func (t *mxfp4Tile) decodeAndTurn(j *stages.Job, first, rows, at, cols int, stream bool) error {
	size := t.to.Bits() / 8
	for end := at + cols; at < end; at += tileColumns {
		cols := min(tileColumns, end-at)
		t.gather(j, first, rows, at, cols)
		if err := t.rows(); err != nil {
			if e, ok := errors.AsType[*stages.DataError](err); ok {
				e.Found += fmt.Sprintf(", among the outputs whose codes begin at byte %d of the file", t.inputs[fp4Codes].Extent.Off)
			}
			return err
		}
		transpose(j.Dst[at*j.Stride+first*size:], t.weights[:], j.Stride, cols*size, rows, cols, size, stream)
	}
	return nil
}

// fits checks that the Inputs are n rows of k codes with their scales, all of which are numbers, and that the destination has room.
func (op *mxfp4Turned) fits(j *stages.Job, k, n int) error {
	each := n
	if len(j.Src) != 2 {
		if len(j.Src) != 2*n {
			return fmt.Errorf("%s: %d inputs for %d output features", op, len(j.Src), n)
		}
		each = 1
	}
	for i, src := range j.Src {
		want := each * k / 2
		if i >= len(j.Src)/2 {
			want = each * k / MXFP4Group
		}
		if len(src) != want {
			return fmt.Errorf("%s: input %d has %d bytes, want %d", op, i, len(src), want)
		}
	}
	if j.Stride < j.RowBytes && k > 1 || len(j.Dst) < (k-1)*j.Stride+j.RowBytes {
		return fmt.Errorf("%s: %d rows of %d bytes every %d do not fit into %d bytes", op, k, j.RowBytes, j.Stride, len(j.Dst))
	}
	for i := len(j.Src) / 2; i < len(j.Src); i++ {
		if at := convert.FirstNonFinite(op.scales, j.Src[i]); at >= 0 {
			e := convert.NonFinite(j.Inputs[i].Tensor, op.scales, at)
			e.Found += fmt.Sprintf(", byte %d of the file", j.Inputs[i].Extent.Off+int64(at))
			return e
		}
	}
	return nil
}

// gather makes t the Job of some output and input features, with all that it reads next to each other.
func (t *mxfp4Tile) gather(j *stages.Job, first, rows, at, cols int) {
	scales := cols / MXFP4Group
	for r := range rows {
		copy(t.scales[r*scales:], featureOf(j, fp4Scales, first+r, j.Rows/MXFP4Group)[at/MXFP4Group:][:scales])
	}
	row := cols * t.to.Bits() / 8
	t.sources = [2][]byte{t.gatherCodes(j, first, rows, at, cols), t.scales[:rows*scales]}
	t.tile = stages.Job{Dst: t.weights[:rows*row], Rows: rows, RowBytes: row, Stride: row, Src: t.sources[:], Inputs: t.inputs[:], Soon: true}
	t.job, t.k = &t.tile, cols
	t.firstN, t.firstK = first, at
}

// gatherCodes lays those of some output and input features next to each other.
func (t *mxfp4Tile) gatherCodes(j *stages.Job, first, rows, at, cols int) []byte {
	row := cols / 2
	for r := range rows {
		copy(t.codes[r*row:], featureOf(j, fp4Codes, first+r, j.Rows/2)[at/2:][:row])
	}
	return t.codes[:rows*row]
}

// featureOf is the part (fp4Codes or fp4Scales) of output feature n, of size bytes: an Input of its own, or a piece of one.
func featureOf(j *stages.Job, part, n, size int) []byte {
	if half := len(j.Src) / 2; half > 1 {
		return j.Src[part*half+n]
	}
	return j.Src[part][n*size : (n+1)*size]
}
