package repack

import (
	"encoding/binary"

	"github.com/coldload/coldload/internal/nibbles"
	"github.com/coldload/coldload/stages"
)

// AWQMarlin makes the Op that repacks 4-bit AWQ codes (version gemm) to Marlin words.
//
// Input: one, rows of qweight: I32 [16R, N/8], eight codes a word along N, [nibbles.EvensFirst]. Destination: R rows of 2N words as
// [GPTQMarlin] makes them, row r holding the input features 16r..16r+15 of the Part. N is a multiple of 64.
func AWQMarlin() stages.Op { return awqMarlin{} }

type awqMarlin struct{}

func (awqMarlin) Phase() stages.Phase { return stages.PhaseRepack }
func (awqMarlin) String() string      { return "repack awq 4-bit to marlin" }

func (op awqMarlin) Run(j *stages.Job) error {
	n, err := marlinColumns(op, j, 4)
	if err != nil {
		return err
	}
	if err := wantSources(op, j, j.Rows*j.RowBytes); err != nil {
		return err
	}
	(&marlinRect{dst: j.Dst, stride: j.Stride, rows: j.Rows, n: n, src: j.Src[0], soon: j.Soon}).repackAWQ()
	return nil
}

// runWide is Run for columns that lie in longer packed rows, apart bytes from one to the next.
func (op awqMarlin) runWide(j *stages.Job, apart int) error {
	n, err := marlinColumns(op, j, 4)
	if err != nil {
		return err
	}
	(&marlinRect{dst: j.Dst, stride: j.Stride, rows: j.Rows, n: n, src: j.Src[0], apart: apart, soon: j.Soon}).repackAWQ()
	return nil
}

// genericAWQ repacks row by row.
func (r *marlinRect) genericAWQ() {
	apart := r.between(r.n / 2)
	for i := range r.rows {
		awqMarlinRow(r.dst[i*r.stride:i*r.stride+8*r.n], r.src[16*apart*i:], r.n, apart)
	}
}

// awqMarlinRow repacks one row of tiles: src is 16 rows of n/8 words, apart bytes from one to the next, dst the row of 2n
// Marlin words, n a multiple of 64.
//
// It is the reference: the words of a tile lie in pairs, 16 columns each. The pair j of the input features 2q, 2q+8, 2q+1 and 2q+9 are eight
// words, whose transpose is the output words 16*c0 + 4q + j of the columns c0 = 0..7. Two pairs are transposed together.
func awqMarlinRow(dst, src []byte, n, apart int) {
	for t := range n / tileN {
		for i := range 8 {
			q, j := i/2, i%2*2
			var w [8]uint64
			for i, k := range [4]int{2 * q, 2*q + 8, 2*q + 1, 2*q + 9} {
				words := src[apart*k+32*t+8*j:][:16]
				a, b := binary.LittleEndian.Uint64(words), binary.LittleEndian.Uint64(words[8:])
				w[i+i/2*2], w[i+i/2*2+2] = uint64(uint32(a))|b<<32, a>>32|b>>32<<32
			}
			nibbles.Transpose(&w)
			out := (*[456]byte)(dst[4*(2*tileN*t+4*q+j):])
			for f, two := range w {
				binary.LittleEndian.PutUint64(out[64*int(nibbles.EvensFirst[f]&7):], two)
			}
		}
	}
}
