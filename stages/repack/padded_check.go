package repack

import (
	"encoding/binary"

	"github.com/coldload/coldload/stages"
)

// CheckWord lets the Op that makes single tiles compare one row of the tile that the word is in, with its source put together for that alone.
// Rows behind those of the members are zeros.
func (p *padded) CheckWord(j *stages.Job, row, word int) error {
	units, err := p.units(j)
	if err != nil {
		return err
	}
	if row*p.perRow() >= units {
		if got := binary.LittleEndian.Uint32(j.Row(row)[4*word:]); got != 0 {
			return mismatch("padding", 0, got)
		}
		return nil
	}
	c, ok := p.op.(stages.Checker)
	if !ok {
		return nil
	}
	words := j.RowBytes / 4 * tileN / p.N // of a tile
	at := word / words * tileN
	src := make([]byte, tileN*p.Bits/8)
	sub := p.job(j, piece{at: at, n: tileN}, row, 1)
	p.give(sub, j, p.gather(j, at, row, 1, units, src), src)
	return c.CheckWord(sub, 0, word%words)
}
