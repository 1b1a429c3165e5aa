package repack

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/coldload/coldload/internal/convert"
	"github.com/coldload/coldload/internal/cpu"
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

func (op fp8Marlin) Run(j *stages.Job) error {
	n, err := marlinColumns(op, j, 8)
	if err != nil {
		return err
	}
	if err := wantSources(op, j, j.Rows*j.RowBytes); err != nil {
		return err
	}
	if j.Rows == 0 || n == 0 {
		return nil
	}
	stream := !j.Soon && j.Rows*j.RowBytes >= cpu.MinStream && cpu.ToLine(j.Dst) == 0 && j.Stride%cpu.Line == 0
	k := tileK * j.Rows
	for t := range n / tileN {
		src := j.Src[0][t*tileN*k : (t+1)*tileN*k]
		done := fp8Columns(j.Dst[16*tileN*t:], src, j.Rows, j.Stride, stream)
		for r := done; r < j.Rows; r++ {
			fp8Tile(j.Dst[r*j.Stride+16*tileN*t:][:16*tileN], src[tileK*r:], k)
		}
	}
	return nil
}

// CheckWord compares one Marlin word with the weights.
func (fp8Marlin) CheckWord(j *stages.Job, row, word int) error {
	k := tileK * j.Rows
	return compareCodes(j, 8, row, word, func(i, n int) uint32 { return uint32(j.Src[0][n*k+i]) })
}

// fp8Tile repacks one tile of 16 input features: src holds its 64 rows, k bytes apart and 16 bytes of each. It is the reference: dword q of
// column c0 + 8m is word 32*c0 + 8q + m of the tile, and has the bytes 2q, 2q+8, 2q+1, 2q+9 of the column.
func fp8Tile(dst, src []byte, k int) {
	for n := range tileN {
		row := src[n*k : n*k+tileK]
		low, high := binary.LittleEndian.Uint64(row), binary.LittleEndian.Uint64(row[8:])
		at := 4 * (32*(n%8) + n/8)
		for q := range 4 {
			a, b := uint32(low>>(16*q)), uint32(high>>(16*q))
			binary.LittleEndian.PutUint32(dst[at+32*q:], a&0xFF|b&0xFF<<8|a&0xFF00<<8|b&0xFF00<<16)
		}
	}
}

// FP8MarlinScales makes the Op that makes Marlin scales of those of an FP8 module: one for every output feature in each group of b.Cols
// input features.
//
// Input: the whole scales, as b has them for [N, K], of dtype from (F32, F16, BF16 or F8_E8M0). Destination: one row of N elements of to
// (F16 or BF16) for each group, permuted; N is a multiple of the permutation's block. The cast comes first, as the engines do it, then with
// exponent fused the factor that the kernels' conversion of F8_E4M3 leaves out: 2^8 for F16, 2^120 for BF16. A value that is not finite,
// before or after, is a *stages.DataError. Source: LAYOUTS C3.
func FP8MarlinScales(b stages.Blocks, from, to stages.DType, p Permutation, exponent stages.Exponent) (stages.Op, error) {
	if err := checkScales(to); err != nil {
		return nil, err
	}
	toF32, ok := convert.ScalesToF32(from)
	fromF32, ok2 := convert.Func(safetensors.F32, to)
	if !ok || !ok2 {
		return nil, errNoCast(from, to)
	}
	op := &fp8MarlinScales{blocks: b, from: from, to: to, perm: p, factor: 1, toF32: toF32, fromF32: fromF32}
	switch {
	case exponent == stages.ExponentPlain:
	case to == safetensors.F16:
		op.factor = 0x1p8
	default:
		op.factor = 0x1p120
	}
	return op, nil
}

type fp8MarlinScales struct {
	blocks         stages.Blocks
	from, to       stages.DType
	perm           Permutation
	factor         float32 // of the value once it is cast: exact
	toF32, fromF32 convert.Kernel
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
	b, _ := op.blocks.Grid(int64(n), 1)
	blocks := int(b)
	if err := wantSources(op, j, blocks*j.Rows*op.from.Bits()/8); err != nil {
		return err
	}
	if i := convert.FirstNonFinite(op.from, j.Src[0]); i >= 0 {
		return convert.NonFinite(j.Inputs[0].Tensor, op.from, i)
	}
	borrowed := borrow(2*blocks*j.Rows + 2*n)
	defer scratch.Put(borrowed)
	cast, row := (*borrowed)[:2*blocks*j.Rows], (*borrowed)[2*blocks*j.Rows:]
	if err := op.cast(j, cast); err != nil {
		return err
	}
	each := n
	if op.blocks.Rows > 0 {
		each = int(op.blocks.Rows)
	}
	for g := range j.Rows {
		for i := range n {
			copy(row[2*i:2*i+2], cast[2*(i/each*j.Rows+g):])
		}
		op.perm.row(j.Row(g), row)
	}
	return nil
}

// CheckWord compares two scales with those of the file.
func (op *fp8MarlinScales) CheckWord(j *stages.Job, row, word int) error {
	return compareHalves(j, row, word, func(g, column int) uint16 {
		n := op.perm.source(column)
		if op.blocks.Rows > 0 {
			n /= int(op.blocks.Rows)
		} else {
			n = 0
		}
		i, size := n*j.Rows+g, op.from.Bits()/8
		var wide [4]byte
		var out [2]byte
		op.toF32(wide[:], j.Src[0][i*size:(i+1)*size])
		op.fromF32(out[:], wide[:])
		value := convert.F16ToF32(binary.LittleEndian.Uint16(out[:]))
		if op.to == safetensors.BF16 {
			value = convert.BF16ToF32(binary.LittleEndian.Uint16(out[:]))
		}
		binary.LittleEndian.PutUint32(wide[:], math.Float32bits(value*op.factor))
		op.fromF32(out[:], wide[:])
		return binary.LittleEndian.Uint16(out[:])
	})
}

// cast fills dst with the scales as they are to be, in the order of the file.
func (op *fp8MarlinScales) cast(j *stages.Job, dst []byte) error {
	size := op.from.Bits() / 8
	var wide [4]byte
	for i := range len(dst) / 2 {
		op.toF32(wide[:], j.Src[0][i*size:(i+1)*size])
		out := dst[2*i : 2*i+2]
		if op.fromF32(out, wide[:]) >= 0 {
			return tooLarge(j, op.to, i)
		}
		if op.factor == 1 {
			continue
		}
		u := binary.LittleEndian.Uint16(out)
		value := convert.F16ToF32(u)
		if op.to == safetensors.BF16 {
			value = convert.BF16ToF32(u)
		}
		binary.LittleEndian.PutUint32(wide[:], math.Float32bits(value*op.factor))
		if op.fromF32(out, wide[:]) >= 0 || math.IsInf(float64(value*op.factor), 0) {
			return op.tooLargeFused(j, i, value)
		}
	}
	return nil
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
