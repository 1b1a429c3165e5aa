package decode

import (
	"encoding/binary"

	"github.com/coldload/coldload/internal/nibbles"
	"github.com/coldload/coldload/stages"
)

// AWQDequant makes the Op that turns a 4-bit AWQ module of version gemm into floating-point weights: w = scale * (code - zero), in F32,
// rounded once. It is [GPTQDequant] with codes and zero points that lie otherwise: eight columns to a word, [nibbles.EvensFirst].
//
// Inputs: the whole qweight I32 [K, N/8], scales [groups, N] of dtype scales, qzeros I32 [groups, N/8]. Destination: N rows of K elements
// of to (F32, F16 or BF16). group is how many input features share a scale. Errors are those of GPTQDequant.
func AWQDequant(group, groups int, scales, to stages.DType) (stages.Op, error) {
	c, err := floatsOf(scales, to)
	if err != nil {
		return nil, err
	}
	l := GPTQLayout{Bits: 4, Group: group, Groups: groups}
	return &gptqDequant{GPTQLayout: l, alongN: true, floats: c}, nil
}

// turn makes words of eight codes along K out of words along N: of rows times eight input features, from 8*first on, and of some columns, a
// multiple of eight, from c on. The word of a row and a column, both counted from the first, is number row*perRow + column*perColumn of dst.
func (d *dequantiser) turn(dst []byte, perRow, perColumn, first, rows, c, columns int) {
	row := d.n / 2 // bytes of an input feature
	for r := range rows {
		src := d.job.Src[dequantWeight][8*(first+r)*row:]
		for at := 0; at < columns; at += 16 { // two words; one at the end
			two := at+16 <= columns
			var w [8]uint64
			for i := range w {
				words := src[i*row+(c+at)/2:]
				if two {
					w[i] = binary.LittleEndian.Uint64(words)
				} else {
					w[i] = uint64(binary.LittleEndian.Uint32(words))
				}
			}
			nibbles.Transpose(&w)
			for f, words := range w {
				out := dst[4*(r*perRow+(at+int(nibbles.EvensFirst[f]))*perColumn):]
				binary.LittleEndian.PutUint32(out, uint32(words))
				if two {
					binary.LittleEndian.PutUint32(out[32*perColumn:], uint32(words>>32))
				}
			}
		}
	}
}
