package decode

import (
	"encoding/binary"
	"fmt"
	"math"
	"sync"

	"github.com/coldload/coldload/internal/convert"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// FP8Dequant makes the Op that turns a module of F8_E4M3 weights into floating-point weights: w = value * scale in F32, rounded once.
//
// Inputs: the whole weight F8_E4M3 [N, K] and its scales, as b has them, of dtype scales (F32, F16, BF16 or F8_E8M0). Destination: N rows
// of K elements of to (F32, F16 or BF16). A code that is no number stays a NaN, as in a tensor that is cast. Scales that are not finite and
// weights that to cannot hold are *stages.DataErrors. Source: LAYOUTS A4, F4.
func FP8Dequant(b stages.Blocks, scales, to stages.DType) (stages.Op, error) {
	toF32, ok := convert.ScalesToF32(scales)
	fromF32, ok2 := convert.Func(safetensors.F32, to)
	if !ok || !ok2 {
		return nil, fmt.Errorf("%w: %s scales to %s weights", ErrNoCast, scales, to)
	}
	return &fp8Dequant{blocks: b, scales: scales, to: to, toF32: toF32, fromF32: fromF32}, nil
}

type fp8Dequant struct {
	blocks         stages.Blocks
	scales, to     stages.DType
	toF32, fromF32 convert.Kernel
}

func (*fp8Dequant) Phase() stages.Phase { return stages.PhaseDecode }
func (op *fp8Dequant) String() string   { return "dequantise FP8 to " + op.to.String() }

// fp8Job is the state of one Run. Workers reuse its memory from module to module.
type fp8Job struct {
	op     *fp8Dequant
	job    *stages.Job
	n, k   int
	scales []float32 // [blocks of N, blocks of K]
	raised []float32 // a row of them, times 2^8, for the kernels
	values [4 * chunk]byte
}

var fp8Jobs = sync.Pool{New: func() any { return new(fp8Job) }}

func (op *fp8Dequant) Run(j *stages.Job) error {
	size := op.to.Bits() / 8
	n, k := j.Rows, j.RowBytes/size
	if n <= 0 || k <= 0 || k*size != j.RowBytes {
		return fmt.Errorf("%s: %d rows of %d bytes, want rows of whole weights", op, n, j.RowBytes)
	}
	r, c := op.blocks.Grid(int64(n), int64(k))
	rows, cols := int(r), int(c)
	if err := wantInputs(op, j, 2); err != nil {
		return err
	}
	for i, want := range []int{n * k, rows * cols * op.scales.Bits() / 8} {
		if len(j.Src[i]) != want {
			return fmt.Errorf("%s: input %d has %d bytes, want %d", op, i, len(j.Src[i]), want)
		}
	}
	if at := convert.FirstNonFinite(op.scales, j.Src[1]); at >= 0 {
		return convert.NonFinite(j.Inputs[1].Tensor, op.scales, at)
	}
	d, ok := fp8Jobs.Get().(*fp8Job)
	if !ok {
		d = new(fp8Job)
	}
	defer func() {
		d.op, d.job = nil, nil
		fp8Jobs.Put(d)
	}()
	d.op, d.job, d.n, d.k = op, j, n, k
	d.scales = sized(d.scales, rows*cols)
	op.toF32(asBytes(d.scales), j.Src[1])
	return d.rows(rows, cols)
}

// fp8Chunk is about how many weights are looked at and then decoded, while they are in the second-level cache.
const fp8Chunk = 64 << 10

// rows decodes all rows: those of one row of scales after the other.
func (d *fp8Job) rows(rows, cols int) error {
	each := int(d.op.blocks.Rows)
	if each <= 0 {
		each = d.n
	}
	for r := range rows {
		scales := d.scales[r*cols : (r+1)*cols]
		quick, last := d.hasKernel() && d.fits(scales), min(d.n, (r+1)*each)
		for i := r * each; i < last; {
			end := min(last, i+max(1, fp8Chunk/d.k))
			if quick && convert.FirstNonFinite(safetensors.F8E4M3, d.job.Src[0][i*d.k:end*d.k]) < 0 {
				d.kernel(i, end, scales)
			} else if err := d.slow(i, end, scales); err != nil {
				return err
			}
			i = end
		}
	}
	return nil
}

// slow decodes the rows from i to end one by one.
func (d *fp8Job) slow(i, end int, scales []float32) error {
	for ; i < end; i++ {
		if at := d.row(d.job.Row(i), d.job.Src[0][i*d.k:(i+1)*d.k], scales); at >= 0 {
			return d.tooLarge(i, at, scales)
		}
	}
	return nil
}

// width is how many input features share a scale.
func (d *fp8Job) width() int {
	if d.op.blocks.Cols <= 0 {
		return d.k
	}
	return int(d.op.blocks.Cols)
}

// largestE4M3 is the largest value of an F8_E4M3.
const largestE4M3 = 448

// fits reports whether no weight with one of the scales can become infinite.
func (d *fp8Job) fits(scales []float32) bool {
	limit := infiniteFrom(d.op.to)
	for _, s := range scales {
		if !(abs(s)*largestE4M3 < limit) {
			return false
		}
	}
	return true
}

// row decodes one row and returns the first input feature whose weight the target cannot hold, or -1. It is the reference for the kernels.
func (d *fp8Job) row(dst, src []byte, scales []float32) int {
	size, width := d.op.to.Bits()/8, d.width()
	for k := 0; k < d.k; {
		scale := scales[k/width]
		end := min(d.k, k+chunk, (k/width+1)*width)
		for i, c := range src[k:end] {
			v := convert.E4M3ToF32(c)
			w := v * scale
			if w-w != 0 && v == v { //nolint:gocritic // infinite, and not by a code that is no number
				return k + i
			}
			binary.LittleEndian.PutUint32(d.values[4*i:], math.Float32bits(w))
		}
		if at := d.op.fromF32(dst[k*size:end*size], d.values[:4*(end-k)]); at >= 0 {
			return k + at
		}
		k = end
	}
	return -1
}

// tooLarge is the error for the weight of output n, input k.
func (d *fp8Job) tooLarge(n, k int, scales []float32) error {
	advice := "use --dtype f32"
	switch d.op.to { //nolint:exhaustive // the targets
	case safetensors.F16:
		advice = "use --dtype bf16 or f32"
	case safetensors.F32:
		advice = "use --layout raw"
	}
	return &stages.DataError{
		Tensor: d.job.Inputs[1].Tensor, Problem: fmt.Sprintf("the weight of output %d, input %d does not fit in %s", n, k, d.op.to),
		Expected: "finite weights",
		Found:    fmt.Sprintf("%g times %g", scales[k/d.width()], convert.E4M3ToF32(d.job.Src[0][n*d.k+k])), Advice: advice,
	}
}
