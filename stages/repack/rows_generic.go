package repack

import "encoding/binary"

// rowsColumn is a column of tiles to repack, from codes that lie along K.
type rowsColumn struct {
	dst    []byte // the first tile, and the others stride bytes apart
	stride int
	rows   int    // of tiles
	src    []byte // tileN rows of codes, one after another, and what comes behind them
	bits   int
	stream bool // the tiles go past the caches
}

// rowBytes is a row of codes.
func (c *rowsColumn) rowBytes() int { return tileK * c.rows * c.bits / 8 }

// generic repacks tile by tile.
func (c *rowsColumn) generic() {
	for r := range c.rows {
		rowsTile(c.dst[r*c.stride:][:2*c.bits*tileN], c.src[tileK*c.bits/8*r:], c.rowBytes(), c.bits)
	}
}

// rowsTile repacks one tile: src begins with its 64 rows, stride bytes apart, of which each has 16 codes in it. It is the reference: the
// words of the rows, transposed, are those of GPTQ's packed rows.
func rowsTile(dst, src []byte, stride, bits int) {
	var packed [4 * 4 * tileN]byte
	words := tileK * bits / 32
	for c := range tileN {
		row := src[c*stride:]
		for w := range words {
			binary.LittleEndian.PutUint32(packed[4*(w*tileN+c):], binary.LittleEndian.Uint32(row[4*w:]))
		}
	}
	marlinRow(dst, packed[:4*words*tileN], tileN, 4*tileN, bits)
}
