package repack

import (
	"encoding/binary"
	"fmt"

	"github.com/coldload/coldload/stages"
)

// CheckWord compares the codes in one word, or of 3 bits in the three words of its column, with those of the file.
func (op gptqExllama) CheckWord(j *stages.Job, row, word int) error {
	n, first, codes := j.RowBytes/4, row, 32/op.bits
	if op.bits == 3 {
		first, codes = row/3*3, 32
	}
	var all [32]int
	features := all[:codes]
	for i := range features {
		features[i] = first*32/op.bits + i
	}
	if op.groups > 0 {
		places := all
		featuresAt(j.Src[1], op.groups, places[:codes], features)
	}
	for i, k := range features {
		if is, must := op.code(j, first, word, i), op.stored(j, n, word, k); is != must {
			return mismatch(fmt.Sprintf("code of input feature %d, output feature %d", k, word), must, is)
		}
	}
	return nil
}

// stored is the code of input feature k and output feature n in the file.
func (op gptqExllama) stored(j *stages.Job, columns, n, k int) uint32 {
	if op.bits != 3 {
		return columnCode(j.Src[0], op.bits, columns, k, n)
	}
	bit := func(at int) uint32 {
		return binary.LittleEndian.Uint32(j.Src[0][4*(at/32*columns+n):]) >> (at % 32) & 1
	}
	return bit(3*k) | bit(3*k+1)<<1 | bit(3*k+2)<<2
}

// code is the i-th code of a column in the result, from row first on. Source: LAYOUTS D.
func (op gptqExllama) code(j *stages.Job, first, n, i int) uint32 {
	word := func(row int) uint32 { return binary.LittleEndian.Uint32(j.Row(first + row)[4*n:]) }
	switch {
	case op.bits == 8:
		return word(0) >> (8 * i) & 0xFF
	case op.bits != 3:
		return word(0) >> (i/2*op.bits + i%2*16) & (1<<op.bits - 1)
	case i < 30:
		return word(i/10) >> (i%10/2*3 + i%2*16) & 7
	default:
		at := 15 + i%2*16
		return word(0)>>at&1 | word(1)>>at&1<<1 | word(2)>>at&1<<2
	}
}
