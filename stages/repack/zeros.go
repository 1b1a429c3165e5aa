package repack

import (
	"encoding/binary"
	"fmt"

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

// zeroBlock is the bytes of the zero points of 64 columns.
const zeroBlock = 32

func (op marlinZeros) Run(j *stages.Job) error {
	if j.RowBytes%zeroBlock != 0 {
		return fmt.Errorf("%s: %d bytes a row are no whole blocks of %d columns", op, j.RowBytes, tileN)
	}
	if err := wantSources(op, j, j.Rows*j.RowBytes); err != nil {
		return err
	}
	for i := range j.Rows {
		op.row(j.Row(i), j.Src[0][i*j.RowBytes:(i+1)*j.RowBytes])
	}
	return nil
}

// CheckWord compares the zero points in one word with those of the file. Source: LAYOUTS C2.
func (op marlinZeros) CheckWord(j *stages.Job, row, word int) error {
	got := binary.LittleEndian.Uint32(j.Row(row)[4*word:])
	for f := range 8 {
		n := tileN*(word/8) + 16*(f%4) + 8*(f/4) + word%8
		field := n % 8
		if op.EvensFirst {
			field = int(nibbles.FieldOf[field])
		}
		w := binary.LittleEndian.Uint32(j.Src[0][row*j.RowBytes+n/8*4:])
		if op.OneLess {
			w += 0x1111_1111
		}
		if is, must := got>>(4*f)&15, w>>(4*field)&15; is != must {
			return mismatch(fmt.Sprintf("zero point of group %d, output feature %d", row, n), must, is)
		}
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
