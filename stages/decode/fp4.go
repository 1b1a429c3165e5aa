package decode

import (
	"fmt"
	"sync"

	"github.com/coldload/coldload/internal/convert"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// fp4 is what the Ops have in common that turn FP4 codes (E2M1) into floating-point weights. They differ in the scales: how many codes share
// one, of which dtype they are, and whether there is one more for the whole tensor.
//
// The codes are bytes [N, K/2], two codes each, the low nibble first; the scales [N, K/group]. w = code * scale * global in F32, in this
// order, rounded once to the target. Source: LAYOUTS 0.1, A5, A6, F5.
type fp4 struct {
	group      int          // input features that share a scale: a multiple of 2
	scales, to stages.DType // to is F32, F16 or BF16
	toF32      convert.Kernel
}

// fp4Of wants scales that become F32, and a target.
func fp4Of(group int, scales, to stages.DType) (fp4, error) {
	toF32, ok := convert.ScalesToF32(scales)
	if !ok || !convert.Supported(safetensors.F32, to) {
		return fp4{}, fmt.Errorf("%w: %s scales to %s weights", ErrNoCast, scales, to)
	}
	return fp4{group: group, scales: scales, to: to, toF32: toF32}, nil
}

func (*fp4) Phase() stages.Phase { return stages.PhaseDecode }

// The first inputs of the Ops.
const (
	fp4Codes = iota
	fp4Scales
)

// check compares the sizes of codes and scales with the destination and looks for scales that are not finite.
func (f *fp4) check(op stages.Op, j *stages.Job, inputs int) error {
	size := f.to.Bits() / 8
	n, k := j.Rows, j.RowBytes/size
	if n <= 0 || k <= 0 || k*size != j.RowBytes || k%f.group != 0 {
		return fmt.Errorf("%s: %d rows of %d bytes, want rows of whole groups of %d weights", op, n, j.RowBytes, f.group)
	}
	if err := wantInputs(op, j, inputs); err != nil {
		return err
	}
	for i, want := range []int{fp4Codes: n * k / 2, fp4Scales: n * (k / f.group) * f.scales.Bits() / 8} {
		if len(j.Src[i]) != want {
			return fmt.Errorf("%s: input %d has %d bytes, want %d", op, i, len(j.Src[i]), want)
		}
	}
	if at := convert.FirstNonFinite(f.scales, j.Src[fp4Scales]); at >= 0 {
		return convert.NonFinite(j.Inputs[fp4Scales].Tensor, f.scales, at)
	}
	return nil
}

// fp4Job is the state of one Run. Workers reuse its memory from module to module.
type fp4Job struct {
	*fp4

	job     *stages.Job
	k       int
	global  float32 // multiplies every weight; 1 where there is none
	divisor float32 // of every scale; 1 where there is none

	factors []float32 // the scales of some rows

	// firstN and firstK are the place of job's first weight in what is decoded, for errors.
	firstN, firstK int
}

var fp4Jobs = sync.Pool{New: func() any { return new(fp4Job) }}

// run decodes a Job that was checked: w = code * (scale / divisor) * global.
func (f *fp4) run(j *stages.Job, global, divisor float32) error {
	d, ok := fp4Jobs.Get().(*fp4Job)
	if !ok {
		d = new(fp4Job)
	}
	defer func() {
		d.fp4, d.job = nil, nil
		fp4Jobs.Put(d)
	}()
	d.fp4, d.job, d.k, d.global, d.divisor = f, j, j.RowBytes/(f.to.Bits()/8), global, divisor
	return d.rows()
}

// fp4Chunk is about how many weights are decoded at a time: the scales of so many become F32 together, in the first-level cache.
const fp4Chunk = 64 << 10

func (d *fp4Job) rows() error {
	groups, size := d.k/d.group, d.scales.Bits()/8
	each := max(1, fp4Chunk/d.k)
	for first := 0; first < d.job.Rows; first += each {
		end := min(first+each, d.job.Rows)
		d.factors = sized(d.factors, (end-first)*groups)
		d.toF32(asBytes(d.factors), d.job.Src[fp4Scales][first*groups*size:end*groups*size])
		if d.divisor != 1 {
			for i := range d.factors {
				d.factors[i] /= d.divisor
			}
		}
		if err := d.decode(first, end); err != nil {
			return err
		}
	}
	return nil
}

// decode decodes the rows from first to end, whose scales are d.factors.
func (d *fp4Job) decode(first, end int) error {
	if d.kernel(first, end) {
		return nil
	}
	groups := d.k / d.group
	for n := first; n < end; n++ {
		scales := d.factors[(n-first)*groups : (n-first+1)*groups]
		if at := fp4Row(d.job.Row(n), d.codes(n), scales, d.global, d.group, d.to); at >= 0 {
			return d.tooLarge(n, at, scales[at/d.group])
		}
	}
	return nil
}

// codes are those of row n.
func (d *fp4Job) codes(n int) []byte { return d.job.Src[fp4Codes][n*d.k/2 : (n+1)*d.k/2] }

// tooLarge is the error for the weight of output n, input k.
func (d *fp4Job) tooLarge(n, k int, scale float32) error {
	code := d.codes(n)[k/2] >> (4 * (k % 2)) & 15
	found := fmt.Sprintf("%g times %g", fp4Value(code), scale)
	if d.global != 1 {
		found += fmt.Sprintf(" times %g", d.global)
	}
	advice := "use --dtype f32"
	switch d.to { //nolint:exhaustive // the targets
	case safetensors.F16:
		advice = "use --dtype bf16 or f32"
	case safetensors.F32:
		advice = "use --layout raw"
	}
	return &stages.DataError{
		Tensor: d.job.Inputs[fp4Scales].Tensor, Problem: fmt.Sprintf("the weight of output %d, input %d does not fit in %s", d.firstN+n, d.firstK+k, d.to),
		Expected: "finite weights", Found: found, Advice: advice,
	}
}
