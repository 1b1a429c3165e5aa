package repack

import "github.com/coldload/coldload/stages"

// CheckWord lets the Op that makes single tiles compare one row of the tile that the word is in, with its source put together for that alone.
func (p *padded) CheckWord(j *stages.Job, row, word int) error {
	c, ok := p.op.(stages.Checker)
	units, err := p.units(j)
	if err != nil || !ok {
		return err
	}
	words := j.RowBytes / 4 * tileN / p.N // of a tile
	at := word / words * tileN
	src := make([]byte, tileN*p.Bits/8)
	sub := p.job(j, piece{at: at, n: tileN}, row, 1)
	p.give(sub, j, p.gather(j, at, row, 1, units, src), src)
	return c.CheckWord(sub, 0, word%words)
}
