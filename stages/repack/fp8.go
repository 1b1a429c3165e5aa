package repack

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/coldload/coldload/internal/convert"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// FP8Marlin makes the Op that repacks F8 weights as a checkpoint holds them to Marlin words of 8 bits.
//
// Input: one, the whole weight F8_E4M3 [N, K], N a multiple of 64. Destination: K/16 rows of 4N words. Element (k, n) lies where
// [GPTQMarlin] puts an 8-bit code. Source: LAYOUTS C1.2, C1.4 and C3.
func FP8Marlin() stages.Op { return fp8Marlin{} }

type fp8Marlin struct{}

func (fp8Marlin) Phase() stages.Phase { return stages.PhaseRepack }
func (fp8Marlin) String() string      { return "repack FP8 to marlin" }

func (op fp8Marlin) Run(j *stages.Job) error { return repackRows(op, j, 8) }

// FP8MarlinScales makes the Op that makes Marlin scales of those of an FP8 module: one for every output feature in each group of b.Cols
// input features.
//
// Input: the whole scales, as b has them for [N, K], of dtype from (F32, F16, BF16 or F8_E8M0). Destination: one row of N elements of to
// (F16 or BF16) for each group, permuted; N is a multiple of the permutation's block. The cast comes first, as the engines do it, then with
// exponent fused the factor that the kernels' conversion of F8_E4M3 leaves out: 2^8 for F16, 2^120 for BF16. A value that is not finite,
// before or after, is a *stages.DataError. Source: LAYOUTS C3.
//
// With members given, there is one input for each of them, and the rest of the row is padding: zeros, as are the rows of groups that the
// inputs have not.
func FP8MarlinScales(b stages.Blocks, from, to stages.DType, p Permutation, exponent stages.Exponent, members ...Member) (stages.Op, error) {
	if err := checkScales(to); err != nil {
		return nil, err
	}
	toF32, ok := convert.ScalesToF32(from)
	fromF32, ok2 := convert.Func(safetensors.F32, to)
	if !ok || !ok2 {
		return nil, errNoCast(from, to)
	}
	op := &fp8MarlinScales{blocks: b, from: from, to: to, perm: p, factor: 1, members: members, toF32: toF32, fromF32: fromF32}
	switch {
	case exponent == stages.ExponentPlain:
	case to == safetensors.F16:
		op.factor, op.normal, op.infinite, op.step = 0x1p8, 0x0400, 0x7C00, 8<<10
	default:
		op.factor, op.normal, op.infinite, op.step = 0x1p120, 0x0080, 0x7F80, 120<<7
	}
	return op, nil
}

type fp8MarlinScales struct {
	blocks         stages.Blocks
	from, to       stages.DType
	perm           Permutation
	members        []Member // empty: one, whose columns are all
	factor         float32  // of the value once it is cast: exact
	toF32, fromF32 convert.Kernel
	// As bits of to: the least normal number, infinity, and what the factor adds to the exponent, 0 for 1.
	normal, infinite, step uint16
}

func (*fp8MarlinScales) Phase() stages.Phase { return stages.PhaseRepack }

func (op *fp8MarlinScales) String() string {
	return fmt.Sprintf("FP8 scales %s->%s times %g, %s", op.from, op.to, op.factor, op.perm)
}

func (op *fp8MarlinScales) Run(j *stages.Job) error {
	n := j.RowBytes / 2
	if n <= 0 || n%op.perm.block() != 0 || j.RowBytes%2 != 0 {
		return fmt.Errorf("%s: %d columns are no whole blocks of %d", op, n, op.perm.block())
	}
	members := op.members
	if len(members) == 0 {
		members = []Member{{N: n}}
	}
	groups, err := op.groups(j, members, n)
	if err != nil {
		return err
	}
	size, total := op.from.Bits()/8, 0
	for _, src := range j.Src {
		total += 2 * len(src) / size
	}
	borrowed := borrow(total + 2*n)
	defer scratch.Put(borrowed)
	row, cast := (*borrowed)[:2*n], (*borrowed)[2*n:]
	off := 0
	for i, src := range j.Src {
		if err := op.cast(j, i, cast[off:]); err != nil {
			return err
		}
		off += 2 * len(src) / size
	}
	if len(op.members) == 0 && op.blocks.Rows == 1 && n%tileN == 0 {
		op.transpose(j, cast)
		return nil
	}
	clear(row)
	for g := range groups {
		off := 0
		for i, m := range members {
			op.spread(row[2*m.At:2*(m.At+m.N)], cast[off+2*g:], groups)
			off += 2 * len(j.Src[i]) / size
		}
		op.perm.row(j.Row(g), row)
	}
	for g := groups; g < j.Rows; g++ {
		clear(j.Row(g))
	}
	return nil
}

// transpose is for scales of single output features: they are a matrix, [N, G].
func (op *fp8MarlinScales) transpose(j *stages.Job, cast []byte) {
	strips := newScaleStrips(j, 2, op.perm.columns())
	defer strips.finish()
	for c := 0; c < j.RowBytes/2 && j.Rows > 0; c += tileN {
		strips.transpose(j.Dst[2*c:], cast[2*c*j.Rows:2*(c+tileN)*j.Rows])
	}
}

// groups checks the sources of members in rows of n columns, and returns how many groups of input features they have scales for.
func (op *fp8MarlinScales) groups(j *stages.Job, members []Member, n int) (groups int, err error) {
	if len(j.Src) != len(members) {
		return 0, fmt.Errorf("%s: %d inputs, want %d", op, len(j.Src), len(members))
	}
	groups, end := j.Rows, 0
	for i, m := range members {
		blocks, _ := op.blocks.Grid(int64(m.N), 1)
		each := int(blocks) * op.from.Bits() / 8
		if m.Same || m.N <= 0 || m.At < end || m.At+m.N > n {
			return 0, fmt.Errorf("%s: columns %d to %d of %d are no place for a member", op, m.At, m.At+m.N, n)
		}
		if i == 0 && len(op.members) > 0 {
			groups = min(len(j.Src[0])/each, j.Rows)
		}
		if len(j.Src[i]) != each*groups {
			return 0, fmt.Errorf("%s: input %d has %d bytes, want %d", op, i, len(j.Src[i]), each*groups)
		}
		end = m.At + m.N
	}
	return groups, nil
}

// spread repeats every scale of a group, groups of them apart, for the output features of its block.
func (op *fp8MarlinScales) spread(row, cast []byte, groups int) {
	each := len(row)
	if op.blocks.Rows > 0 {
		each = min(2*int(op.blocks.Rows), len(row))
	}
	for block := 0; len(row) > 0; block++ {
		run := row[:min(each, len(row))]
		for done := copy(run, cast[2*block*groups:][:2]); done < len(run); done *= 2 {
			copy(run[done:], run[:done])
		}
		row = row[len(run):]
	}
}

// fp8Piece is how many scales are cast at a time, in the first-level cache.
const fp8Piece = 1024

// cast fills dst with the scales of one input as they are to be, in the order of the file.
func (op *fp8MarlinScales) cast(j *stages.Job, input int, dst []byte) error {
	src, size := j.Src[input], op.from.Bits()/8
	j = &stages.Job{Inputs: j.Inputs[input : input+1]} // for errors
	if i := convert.FirstNonFinite(op.from, src); i >= 0 {
		return convert.NonFinite(j.Inputs[0].Tensor, op.from, i)
	}
	borrowed := borrow(4 * fp8Piece)
	defer scratch.Put(borrowed)
	for first, all := 0, len(src)/size; first < all; first += fp8Piece {
		n := min(fp8Piece, all-first)
		wide, out := src[first*size:(first+n)*size], dst[2*first:2*(first+n)]
		if op.from != safetensors.F32 {
			op.toF32(*borrowed, wide)
			wide = (*borrowed)[:4*n]
		}
		if at := op.fromF32(out, wide); at >= 0 {
			return tooLarge(j, op.to, first+at)
		}
		if op.step == 0 {
			continue
		}
		if at := op.fuse(out); at >= 0 {
			return op.tooLargeFused(j, first+at, op.value(out[2*at:]))
		}
	}
	return nil
}

// value is the first scale of b, once it is cast.
func (op *fp8MarlinScales) value(b []byte) float32 {
	h := binary.LittleEndian.Uint16(b)
	if op.to == safetensors.F16 {
		return convert.F16ToF32(h)
	}
	return convert.BF16ToF32(h)
}

// fuse multiplies scales by the factor. It returns the index of the first that becomes infinite, which stays as it is, or -1.
func (op *fp8MarlinScales) fuse(b []byte) int {
	const lanes, signs = 0x0001_0001_0001_0001, 0x8000_8000_8000_8000
	add, i := uint64(op.step)*lanes, 0
	// Eight at a time, the factor is added to the exponents of numbers that are normal and stay finite: with normal added, or large, these set
	// the upper bit of their 16, or do not.
	normal, large := (0x8000-uint64(op.normal))*lanes, (0x8000+uint64(op.step)-uint64(op.infinite))*lanes
	for ; i+16 <= len(b); i += 16 {
		x, y := binary.LittleEndian.Uint64(b[i:]), binary.LittleEndian.Uint64(b[i+8:])
		m, n := x&^signs, y&^signs
		if (m+normal)&^(m+large)&(n+normal)&^(n+large)&signs != signs {
			if at := op.fuseEach(b[i : i+16]); at >= 0 {
				return i/2 + at
			}
			continue
		}
		binary.LittleEndian.PutUint64(b[i:], x+add)
		binary.LittleEndian.PutUint64(b[i+8:], y+add)
	}
	if at := op.fuseEach(b[i:]); at >= 0 {
		return i/2 + at
	}
	return -1
}

// fuseEach is fuse, one by one. It is the reference.
func (op *fp8MarlinScales) fuseEach(b []byte) int {
	for i := 0; i < len(b); i += 2 {
		v := op.value(b[i:]) * op.factor
		h := convert.F32ToBF16(v)
		if op.to == safetensors.F16 {
			h = convert.F32ToF16(v)
		}
		if h&^0x8000 >= op.infinite {
			return i / 2
		}
		binary.LittleEndian.PutUint16(b[i:], h)
	}
	return -1
}

// tooLargeFused is the error for scale i, which the factor makes infinite.
func (op *fp8MarlinScales) tooLargeFused(j *stages.Job, i int, value float32) error {
	return &stages.DataError{
		Tensor:   j.Inputs[0].Tensor,
		Problem:  fmt.Sprintf("element %d times 2^%d does not fit in %s", i, math.Ilogb(float64(op.factor)), op.to),
		Expected: "scales that stay finite with the exponent factor of FP8", Found: fmt.Sprintf("%g", value),
		Advice: "use --fp8-exponent plain with an engine whose kernels multiply themselves, or --layout dequant",
	}
}
