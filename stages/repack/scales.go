package repack

import (
	"fmt"

	"github.com/coldload/coldload/internal/convert"
	"github.com/coldload/coldload/internal/cpu"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// Permutation names one of the two orders that Marlin kernels want along N.
type Permutation uint8

// The permutations. Scales take Grouped when there is more than one group, else Single; biases always take Single.
const (
	Grouped Permutation = iota // blocks of 64, an 8x8 transpose
	Single                     // blocks of 32
)

func (p Permutation) String() string { return [...]string{"grouped", "single"}[p] }

func (p Permutation) block() int { return [...]int{64, 32}[p] }

func (p Permutation) row(dst, src []byte) {
	if p == Grouped {
		grouped(dst, src)
	} else {
		single(dst, src)
	}
}

// MarlinScales makes the Op that casts scales or biases from one dtype to another (F16 or BF16) and permutes every row.
//
// Input: one, R rows of N elements of from. Destination: R rows of N elements of to; N is a multiple of the permutation's block. The cast
// comes first, as the engines do it. A value that is not finite, before or after the cast, is a *stages.DataError.
func MarlinScales(from, to stages.DType, p Permutation) (stages.Op, error) {
	cast, err := scaleCastOf(from, to, p)
	if err != nil {
		return nil, err
	}
	return &marlinScales{cast}, nil
}

// scaleCast is what the Ops have in common that cast scales and permute them.
type scaleCast struct {
	from, to stages.DType
	perm     Permutation
	cast     func(dst, src []byte) int
}

func scaleCastOf(from, to stages.DType, p Permutation) (scaleCast, error) {
	if err := checkScales(to); err != nil {
		return scaleCast{}, err
	}
	cast, ok := convert.Func(from, to)
	if !ok {
		return scaleCast{}, errNoCast(from, to)
	}
	return scaleCast{from: from, to: to, perm: p, cast: cast}, nil
}

func checkScales(to stages.DType) error {
	if to != safetensors.F16 && to != safetensors.BF16 {
		return fmt.Errorf("repack: marlin scales are F16 or BF16, not %s", to)
	}
	return nil
}

func errNoCast(from, to stages.DType) error {
	return fmt.Errorf("repack: no cast from %s to %s", from, to)
}

func (*scaleCast) Phase() stages.Phase { return stages.PhaseRepack }

// check wants one source of n scales in the Job of op.
func (c *scaleCast) check(op stages.Op, j *stages.Job, n int) error {
	return wantSources(op, j, n*c.from.Bits()/8)
}

// finite wants some of the scales, the first of which is first, to be finite: piece by piece, so that they are read from memory once.
func (c *scaleCast) finite(j *stages.Job, first int, scales []byte) error {
	if i := convert.FirstNonFinite(c.from, scales); i >= 0 {
		return convert.NonFinite(j.Inputs[0].Tensor, c.from, first+i)
	}
	return nil
}

// screen wants every scale of one source of j to be finite, before the cast and after it.
func (c *scaleCast) screen(j *stages.Job, input int) error {
	src, size := j.Src[input], c.from.Bits()/8
	one := &stages.Job{Inputs: j.Inputs[input : input+1]}
	if i := convert.FirstNonFinite(c.from, src); i >= 0 {
		return convert.NonFinite(one.Inputs[0].Tensor, c.from, i)
	}
	if c.from == c.to {
		return nil
	}
	tmp := borrow(2 * castBlock)
	defer scratch.Put(tmp)
	for done := 0; len(src) > 0; done += castBlock {
		n := min(castBlock, len(src)/size)
		if at := c.cast((*tmp)[:2*n], src[:n*size]); at >= 0 {
			return tooLarge(one, c.to, done+at)
		}
		src = src[n*size:]
	}
	return nil
}

type marlinScales struct{ scaleCast }

func (op *marlinScales) String() string {
	return fmt.Sprintf("permute scales %s->%s, %s", op.from, op.to, op.perm)
}

func (op *marlinScales) Run(j *stages.Job) error {
	size := op.from.Bits() / 8
	n := j.RowBytes / 2
	if n%op.perm.block() != 0 || j.RowBytes%2 != 0 {
		return fmt.Errorf("%s: %d columns are no whole blocks of %d", op, n, op.perm.block())
	}
	if err := op.check(op, j, j.Rows*n); err != nil {
		return err
	}
	rows, stream := j.Rows, !j.Soon && j.Rows*j.RowBytes >= cpu.MinStream
	if j.Stride == j.RowBytes { // whole blocks next to each other are one row
		rows, n = 1, rows*n
	}
	var tmp []byte
	if op.from != op.to {
		borrowed := borrow(2 * castBlock)
		defer scratch.Put(borrowed)
		tmp = *borrowed
	}
	for r := range rows {
		if err := op.permute(j, r*n, j.Dst[r*j.Stride:][:2*n], j.Src[0][r*n*size:(r+1)*n*size], tmp, stream); err != nil {
			return err
		}
	}
	return nil
}

// castBlock is how many elements are looked at and cast before they are permuted: a multiple of both blocks that stays in the first-level
// cache. Stores past the caches end with it, which takes as long as some kilobytes do.
const castBlock = 8192

// permute handles one row, the first scale of which is first, block by block: through tmp, of castBlock elements, where there is a cast.
func (op *marlinScales) permute(j *stages.Job, first int, dst, src, tmp []byte, stream bool) error {
	size := op.from.Bits() / 8
	for len(dst) > 0 {
		n := min(castBlock, len(dst)/2)
		block := src[:n*size]
		if err := op.finite(j, first, block); err != nil {
			return err
		}
		if op.from != op.to {
			if i := op.cast(tmp[:2*n], block); i >= 0 {
				return tooLarge(j, op.to, first+i)
			}
			block = tmp[:2*n]
		}
		if stream && op.perm == Grouped {
			groupedStream(dst[:2*n], block)
		} else {
			op.perm.row(dst[:2*n], block)
		}
		dst, src, first = dst[2*n:], src[n*size:], first+n
	}
	return nil
}

func tooLarge(j *stages.Job, to stages.DType, at int) error {
	return &stages.DataError{
		Tensor:   j.Inputs[0].Tensor,
		Problem:  fmt.Sprintf("element %d does not fit in %s", at, to),
		Expected: "values that stay finite in " + to.String(),
		Found:    "a finite value that becomes infinite",
		Advice:   "use --dtype bf16, which has the range of F32",
	}
}
