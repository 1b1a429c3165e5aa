package decode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/coldload/coldload/internal/convert"
	"github.com/coldload/coldload/internal/convert/rows"
	"github.com/coldload/coldload/internal/values"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// ErrNoCast says that there is no cast between two dtypes.
var ErrNoCast = errors.New("no such cast")

// Cast is the Op that converts a tensor from one dtype to another: F64, F32, F16, BF16, F8_E4M3 or F8_E5M2 to F32, F16 or BF16, else
// the error is ErrNoCast. It has one Input of Rows * (RowBytes / size of to) elements, next to each other. Values are rounded once, to
// nearest even; NaN, infinities and signs stay.
//
// It returns the same Op for the same pair at every call; for from == to that is Copy. Its Run fails with a *stages.DataError that names
// the tensor and the first finite value that to cannot hold, and with a plain error when the sizes do not agree.
func Cast(from, to stages.DType) (stages.Op, error) {
	if from == to && convert.Supported(from, to) {
		return Copy(), nil
	}
	if op, ok := casts[pair{from, to}]; ok {
		return op, nil
	}
	return nil, fmt.Errorf("%w: from %s to %s", ErrNoCast, from, to)
}

type pair struct{ from, to stages.DType }

type cast struct {
	pair

	kernel           convert.Kernel
	fromSize, toSize int // bytes of an element
}

var casts = makeCasts()

func makeCasts() map[pair]*cast {
	all := map[pair]*cast{}
	for from := range stages.DType(math.MaxUint8) {
		for _, to := range []stages.DType{safetensors.F32, safetensors.F16, safetensors.BF16} {
			if kernel, ok := convert.Func(from, to); ok {
				p := pair{from, to}
				all[p] = &cast{pair: p, kernel: kernel, fromSize: from.Bits() / 8, toSize: to.Bits() / 8}
			}
		}
	}
	return all
}

func (c *cast) Phase() stages.Phase { return stages.PhaseDecode }

func (c *cast) String() string { return "cast " + c.from.String() + "->" + c.to.String() }

// maxRun bounds one call of a kernel, in source bytes: an assembly kernel cannot be interrupted, and the collector would wait for it.
const maxRun = 1 << 20

func (c *cast) Run(j *stages.Job) error {
	if j.RowBytes%c.toSize != 0 {
		return fmt.Errorf("rows of %d bytes are no whole %s elements", j.RowBytes, c.to)
	}
	srcRow := j.RowBytes / c.toSize * c.fromSize
	if err := rows.Check(j, srcRow); err != nil {
		return err
	}
	src := j.Src[0]
	if len(src) == 0 {
		return nil
	}
	if rows.Contiguous(j) {
		return c.run(j, j.Dst, 0, len(src))
	}
	for i := range j.Rows {
		if err := c.run(j, j.Row(i), i*srcRow, srcRow); err != nil {
			return err
		}
	}
	return nil
}

// run converts n bytes of the source from off on, to dst.
func (c *cast) run(j *stages.Job, dst []byte, off, n int) error {
	src, most := j.Src[0], maxRun
	if j.Soon {
		most = convert.MaxCached / c.toSize * c.fromSize
	}
	for end := off + n; off < end; {
		step := min(most, end-off)
		if k := c.kernel(dst, src[off:off+step]); k >= 0 {
			return c.overflow(j, off/c.fromSize+k)
		}
		dst = dst[step/c.fromSize*c.toSize:]
		off += step
	}
	return nil
}

// CheckWord casts one element or two again, each by itself.
func (c *cast) CheckWord(j *stages.Job, row, word int) error {
	return checkElements(j, row, word, c.toSize, func(i int, out []byte) {
		values.Put(out, c.to, values.Of(c.from, j.Src[0][(row*j.RowBytes/c.toSize+i)*c.fromSize:]))
	})
}

// overflow is the error for the i-th element of the source.
func (c *cast) overflow(j *stages.Job, i int) error {
	value := c.value(j.Src[0][i*c.fromSize:])
	found, tensor := fmt.Sprintf("%v at element %d", value, i), ""
	if len(j.Inputs) > 0 {
		// The Op does not know where in the tensor its source begins, but where in the file.
		tensor = j.Inputs[0].Tensor
		found += fmt.Sprintf(" of this part, byte %d of the file", j.Inputs[0].Extent.Off+int64(i)*int64(c.fromSize))
	}
	return &stages.DataError{
		Tensor:   tensor,
		Problem:  "a finite value does not fit",
		Expected: "at most " + limits[c.to] + " for " + c.to.String(),
		Found:    found,
		Advice:   c.advice(value),
	}
}

// limits are the largest finite values, as printed.
var limits = map[stages.DType]string{
	safetensors.F32:  strconv.FormatFloat(math.MaxFloat32, 'g', -1, 32),
	safetensors.F16:  "65504",
	safetensors.BF16: strconv.FormatFloat(float64(convert.BF16ToF32(0x7F7F)), 'g', -1, 32),
}

var le = binary.LittleEndian

// value is the first element of b, of one of the dtypes that can overflow.
func (c *cast) value(b []byte) float64 {
	if c.from == safetensors.F64 {
		return math.Float64frombits(le.Uint64(b))
	}
	if c.from == safetensors.F32 {
		return float64(math.Float32frombits(le.Uint32(b)))
	}
	return float64(convert.BF16ToF32(le.Uint16(b)))
}

// advice names another dtype only when the value fits there.
func (c *cast) advice(value float64) string {
	if c.to == safetensors.F16 && math.Abs(value) <= float64(convert.BF16ToF32(0x7F7F)) {
		return "use --dtype bf16 or keep"
	}
	return "use --dtype keep"
}
