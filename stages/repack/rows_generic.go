package repack

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

// generic is the reference: the words of the rows, transposed, are those of GPTQ's packed rows. Two cache lines of each row are taken at a time.
func (c *rowsColumn) generic() {
	var packed [blockWords * tileRow]byte
	per, words := c.bits/2, c.rowBytes()/4 // words of a row in a tile, and in all
	for w := 0; w < words; w += blockWords {
		block := packed[:min(blockWords, words-w)*tileRow]
		transposeRows(block, c.src[4*w:], c.rowBytes())
		for r := w / per; len(block) > 0; r++ {
			marlinRow(c.dst[r*c.stride:][:2*c.bits*tileN], block[:per*tileRow], tileN, tileRow, c.bits)
			block = block[per*tileRow:]
		}
	}
}
