package decode

import (
	"fmt"
	"sync"

	"github.com/coldload/coldload/internal/cpu"
	"github.com/coldload/coldload/stages"
)

// Transpose is the Op that writes the columns of a tensor as rows, cast from one dtype to another as [Cast] does it: from and to are equal,
// or a pair that Cast has, else the error is ErrNoCast.
//
// Inputs: the rows of a matrix [K, N], of dtype from. Either one Input has all of them, next to each other, or there are K Inputs of one row
// each, which may be parts of longer ones. Destination: N rows of K elements of to, at any Stride. Weights that a checkpoint holds
// input-major are turned so. Source: LAYOUTS B1.
func Transpose(from, to stages.DType) (stages.Op, error) {
	op := transposed{from: from, to: to, size: from.Bits() / 8, toSize: to.Bits() / 8}
	if from.Bits()%8 != 0 || from.Bits() == 0 {
		return nil, fmt.Errorf("%w: %s is not of whole bytes", ErrNoCast, from)
	}
	if from != to {
		kernel, err := Cast(from, to)
		if err != nil {
			return nil, err
		}
		op.cast, _ = kernel.(*cast)
	}
	return op, nil
}

// transposed is comparable, so that two Ops of one kind are one.
type transposed struct {
	from, to     stages.DType
	size, toSize int   // bytes of an element
	cast         *cast // nil when the dtype stays
}

func (transposed) Phase() stages.Phase { return stages.PhaseDecode }

func (op transposed) String() string {
	if op.cast == nil {
		return "transpose " + op.from.String()
	}
	return "transpose and " + op.cast.String()
}

// A tile of the source is turned at a time, in the first-level cache: tileRows of its rows, which are as many elements of a row of the destination,
// and tileColumns of its columns.
const (
	tileRows    = 64
	tileColumns = 128
)

// tileBytes is what a tile takes, of elements of 8 bytes.
const tileBytes = tileRows * tileColumns * 8

// turns has the memory in which tiles are turned before they are cast, and rows are gathered.
var turns = sync.Pool{New: func() any { return new([2 * tileBytes]byte) }}

func (op transposed) Run(j *stages.Job) error {
	k, n := j.RowBytes/op.toSize, j.Rows
	if n < 0 || k < 0 || k*op.toSize != j.RowBytes {
		return fmt.Errorf("%s: %d rows of %d bytes are no whole %s elements", op, j.Rows, j.RowBytes, op.to)
	}
	if n == 0 || k == 0 {
		return nil
	}
	if err := op.fits(j, k, n); err != nil {
		return err
	}
	space, ok := turns.Get().(*[2 * tileBytes]byte)
	if !ok {
		space = new([2 * tileBytes]byte)
	}
	defer turns.Put(space)
	for at := 0; at < k; at += tileRows {
		for c := 0; c < n; c += tileColumns {
			if err := op.tile(j, space, at, min(tileRows, k-at), c, min(tileColumns, n-c)); err != nil {
				return err
			}
		}
	}
	return nil
}

// fits checks that the Inputs are a matrix of k rows of n elements, and that the destination has room.
func (op transposed) fits(j *stages.Job, k, n int) error {
	want := n * op.size
	if len(j.Src) == 1 {
		want *= k
	} else if len(j.Src) != k {
		return fmt.Errorf("%s: %d inputs for %d rows", op, len(j.Src), k)
	}
	for i, src := range j.Src {
		if len(src) != want {
			return fmt.Errorf("%s: input %d has %d bytes, want %d", op, i, len(src), want)
		}
	}
	if j.Stride < j.RowBytes && n > 1 || len(j.Dst) < (n-1)*j.Stride+j.RowBytes {
		return fmt.Errorf("%s: %d rows of %d bytes every %d do not fit into %d bytes", op, n, j.RowBytes, j.Stride, len(j.Dst))
	}
	return nil
}

// tile turns rows of the source from row at on, the columns from c on.
func (op transposed) tile(j *stages.Job, space *[2 * tileBytes]byte, at, rows, c, columns int) error {
	src, stride := j.Src[0], j.Rows*op.size
	if len(j.Src) > 1 {
		stride = columns * op.size
		for r := range rows {
			copy(space[tileBytes+r*stride:], j.Src[at+r][c*op.size:(c+columns)*op.size])
		}
		src = space[tileBytes:]
	} else {
		src = src[at*stride+c*op.size:]
	}
	if op.cast == nil {
		stream := !j.Soon && j.Rows*j.RowBytes >= cpu.MinStream
		transpose(j.Dst[c*j.Stride+at*op.size:], src, j.Stride, stride, rows, columns, op.size, stream)
		return nil
	}
	transpose(space[:], src, rows*op.size, stride, rows, columns, op.size, false)
	for i := range columns {
		dst := j.Row(c + i)[at*op.toSize:][:rows*op.toSize]
		if r := op.cast.kernel(dst, space[i*rows*op.size:][:rows*op.size]); r >= 0 {
			return op.overflow(j, at+r, c+i)
		}
	}
	return nil
}

// overflow is the error for row r, column c of the source, which the target cannot hold.
func (op transposed) overflow(j *stages.Job, r, c int) error {
	value, input := j.Src[0], stages.Input{}
	at := r*j.Rows + c
	if len(j.Src) > 1 {
		value, at = j.Src[r], c
	}
	if i := min(r, len(j.Inputs)-1); i >= 0 {
		input = j.Inputs[i]
	}
	found := op.cast.value(value[at*op.size:])
	return &stages.DataError{
		Tensor:   input.Tensor,
		Problem:  "a finite value does not fit",
		Expected: "at most " + limits[op.to] + " for " + op.to.String(),
		Found:    fmt.Sprintf("%v at row %d, column %d of this part, byte %d of the file", found, r, c, input.Extent.Off+int64(at*op.size)),
		Advice:   op.cast.advice(found),
	}
}

// transpose writes columns of src, stride bytes from row to row, as rows of dst, past the caches with stream. Both hold all of them: see
// transposeGeneric.
func transpose(dst, src []byte, dstStride, srcStride, rows, columns, size int, stream bool) {
	if size == 2 || size == 4 {
		whole := transposeKernel(dst, src, dstStride, srcStride, rows, columns, size, stream)
		if whole == columns {
			return
		}
		dst, src, columns = dst[whole*dstStride:], src[whole*size:], columns-whole
	}
	transposeGeneric(dst, src, dstStride, srcStride, rows, columns, size)
}
