package repack

import (
	"fmt"

	"github.com/coldload/coldload/stages"
)

// GPTQMarlin4 repacks symmetric 4-bit GPTQ codes without act-order to Marlin words.
//
// Input: one, rows of qweight: I32 [2R, N], 8 codes a word along K. Destination: R rows of 2N words, row r holding the input features
// 16r..16r+15 of the Part. N is a multiple of 64.
//
// Element (k, n) is nibble (k%16)/8 + 2((n%16)/8) + 4(k%2) of word 128(n/64) + 16(n%8) + 4((k%8)/2) + (n%64)/16 of row k/16.
func GPTQMarlin4() stages.Op { return gptqMarlin4{} }

type gptqMarlin4 struct{}

func (gptqMarlin4) Phase() stages.Phase { return stages.PhaseRepack }
func (gptqMarlin4) String() string      { return "repack gptq 4-bit to marlin" }

func (op gptqMarlin4) Run(j *stages.Job) error {
	n := j.RowBytes / 8
	if n%tileN != 0 || j.RowBytes%8 != 0 {
		return fmt.Errorf("%s: %d bytes a row are no whole tiles of %d columns", op, j.RowBytes, tileN)
	}
	if err := wantSources(op, j, j.Rows*j.RowBytes); err != nil {
		return err
	}
	src := j.Src[0]
	for i := range j.Rows {
		rows := src[i*8*n : (i+1)*8*n]
		marlin4Row(j.Row(i), rows[:4*n], rows[4*n:])
	}
	return nil
}

// wantSources checks that the Job has one source for each size, of exactly that many bytes.
func wantSources(op stages.Op, j *stages.Job, sizes ...int) error {
	if len(j.Src) != len(sizes) {
		return fmt.Errorf("%s: %d inputs, want %d", op, len(j.Src), len(sizes))
	}
	for i, n := range sizes {
		if len(j.Src[i]) != n {
			return fmt.Errorf("%s: input %d has %d bytes, want %d", op, i, len(j.Src[i]), n)
		}
	}
	return nil
}
