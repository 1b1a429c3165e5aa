package repack

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/coldload/coldload/internal/nibbles"
	"github.com/coldload/coldload/stages"
)

// ZeroLayout says how 4-bit zero points are stored, eight to a word along N.
type ZeroLayout struct {
	EvensFirst bool // the order of a word's fields: [nibbles.EvensFirst]; otherwise column by column
	// OneLess says that a field is one less than its zero point. One whole-word add gives them back, which is also what a writer means
	// that stored 0 as all ones. Where that is in doubt, decode.CheckZeroFields refuses such a field.
	OneLess bool
}

// MarlinZeros makes the Op that permutes and packs zero points as the Marlin kernels of unsigned 4-bit codes read them.
//
// Input: one, R rows of N/8 words as l says. Destination: R rows of N/8 words: column n is nibble (n%64)/16 + 4((n%16)/8) of word
// 8(n/64) + n%8. N is a multiple of 64.
func MarlinZeros(l ZeroLayout) stages.Op { return marlinZeros{l} }

type marlinZeros struct{ ZeroLayout }

func (marlinZeros) Phase() stages.Phase { return stages.PhaseRepack }
func (marlinZeros) String() string      { return "permute zero points" }

// ZeroPadding is the stored word that makes eight zero points of 0: what [Padding] fills with.
func (l ZeroLayout) ZeroPadding() uint32 {
	if l.OneLess {
		return -0x1111_1111 & math.MaxUint32
	}
	return 0
}

// zeroBlock is the bytes of the zero points of 64 columns.
const zeroBlock = 32

func (op marlinZeros) Run(j *stages.Job) error {
	if err := wantSources(op, j, j.Rows*j.RowBytes); err != nil {
		return err
	}
	return op.runWide(j, j.RowBytes)
}

// runWide is Run for columns that lie in longer rows, apart bytes from one to the next.
func (op marlinZeros) runWide(j *stages.Job, apart int) error {
	if j.RowBytes%zeroBlock != 0 {
		return fmt.Errorf("%s: %d bytes a row are no whole blocks of %d columns", op, j.RowBytes, tileN)
	}
	for i := range j.Rows {
		op.row(j.Row(i), j.Src[0][i*apart:][:j.RowBytes])
	}
	return nil
}

// row permutes blocks of 64 columns: their words, the even ones before the odd ones, are transposed.
func (op marlinZeros) row(dst, src []byte) {
	add := uint32(0)
	if op.OneLess {
		add = 0x1111_1111
	}
	for ; len(dst) >= zeroBlock; dst, src = dst[zeroBlock:], src[zeroBlock:] {
		var w [8]uint64 // the lower halves
		for p, from := range nibbles.EvensFirst {
			word := binary.LittleEndian.Uint32(src[4*from:])
			if op.EvensFirst {
				word = nibbles.Natural(word)
			}
			w[p] = uint64(word + add)
		}
		nibbles.Transpose(&w)
		for c, word := range w {
			binary.LittleEndian.PutUint32(dst[4*c:], uint32(word))
		}
	}
}

// RowsMarlinZeros is MarlinZeros for zero points whose rows are those of the weight, eight to a word along N and one word for every group: those
// of compressed-tensors. Zero points and codes are stored larger by the same, which cancels: what is stored is what kernels of unsigned codes
// read.
//
// Input: one, N/8 rows of R words. Destination: R rows of N/8 words, as those of [MarlinZeros]. N is a multiple of 64.
func RowsMarlinZeros() stages.Op { return rowsMarlinZeros{} }

type rowsMarlinZeros struct{}

func (rowsMarlinZeros) Phase() stages.Phase { return stages.PhaseRepack }
func (rowsMarlinZeros) String() string      { return "transpose and permute zero points" }

func (op rowsMarlinZeros) Run(j *stages.Job) error {
	if j.RowBytes%zeroBlock != 0 {
		return fmt.Errorf("%s: %d bytes a row are no whole blocks of %d columns", op, j.RowBytes, tileN)
	}
	if err := wantSources(op, j, j.Rows*j.RowBytes); err != nil {
		return err
	}
	for at := 0; at < j.RowBytes; at += zeroBlock {
		op.block(j, at, j.Src[0][at*j.Rows:(at+zeroBlock)*j.Rows])
	}
	return nil
}

// block permutes the zero points of 64 columns, which become the bytes from at on of every row: src is eight rows of words, and two neighbours
// are transposed at a time.
func (rowsMarlinZeros) block(j *stages.Job, at int, src []byte) {
	stride := 4 * j.Rows
	var w [8]uint64
	for g := 0; g+1 < j.Rows; g += 2 {
		for p, from := range nibbles.EvensFirst {
			w[p] = binary.LittleEndian.Uint64(src[int(from)*stride+4*g:])
		}
		nibbles.Transpose(&w)
		low, high := j.Row(g)[at:at+zeroBlock], j.Row(g + 1)[at:at+zeroBlock]
		for c, pair := range w {
			binary.LittleEndian.PutUint32(low[4*c:], uint32(pair))
			binary.LittleEndian.PutUint32(high[4*c:], uint32(pair>>32))
		}
	}
	if g := j.Rows - 1; j.Rows%2 == 1 {
		for p, from := range nibbles.EvensFirst {
			w[p] = uint64(binary.LittleEndian.Uint32(src[int(from)*stride+4*g:]))
		}
		nibbles.Transpose(&w)
		last := j.Row(g)[at : at+zeroBlock]
		for c, word := range w {
			binary.LittleEndian.PutUint32(last[4*c:], uint32(word))
		}
	}
}
