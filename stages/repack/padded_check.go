package repack

import (
	"encoding/binary"

	"github.com/coldload/coldload/stages"
)

// CheckWord lets the Op that makes single tiles compare one row of the tile that the word is in, with its source put together for that alone, byte
// by byte. Rows behind those of the members are zeros.
func (p *padded) CheckWord(j *stages.Job, row, word int) error {
	s := p.look(j)
	if row*s.perRow >= s.units {
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
	tile, src := word/words, make([]byte, tileN*p.Bits/8)
	s.tile(src, tile*tileN, row)
	return c.CheckWord(&stages.Job{
		Dst: j.Row(row)[4*words*tile:][:4*words], Rows: 1, RowBytes: 4 * words, Stride: 4 * words, Scanned: j.Scanned, Warn: j.Warn,
		Src: append([][]byte{src}, j.Src[s.inputs:]...), Inputs: j.Inputs,
	}, 0, word%words)
}

// paddedSources are the sources of a Job, as their Members say.
type paddedSources struct {
	*Padding

	job    *stages.Job
	inputs int // the members'
	perRow int // units of a source in a row of the destination: its rows, or bytes of them along the other axis
	units  int // that every source has
}

// look counts what the sources have.
func (p *Padding) look(j *stages.Job) paddedSources {
	s := paddedSources{Padding: p, job: j, perRow: p.Rows}
	for _, m := range p.Members {
		if !m.Same {
			s.inputs++
		}
	}
	_, _, columns := p.member(p.Members[0].At)
	s.units = len(j.Src[0]) * 8 * p.Rows / max(1, columns*p.Bits)
	if p.Rows == 0 {
		s.perRow = p.Bits * max(1, p.Columns) / 8
		s.units = len(j.Src[0]) * max(1, p.Columns) / columns
	}
	return s
}

// member is where column c comes from: the input, -1 for padding, the column in it, and how many that has.
func (p *Padding) member(c int) (input, column, columns int) {
	input = -1
	found := -1
	for _, m := range p.Members {
		if !m.Same {
			if found >= 0 {
				break
			}
			input, columns = input+1, 0
		}
		if m.At <= c && c < m.At+m.N {
			found = columns + c - m.At
		}
		columns += m.N
	}
	if found < 0 {
		return -1, 0, 0
	}
	return input, found, columns
}

// tile fills b with the source that the tile at column at would have in one row by itself.
func (s *paddedSources) tile(b []byte, at, row int) {
	if s.Rows == 0 { // every line of the source has columns of its own
		across, unit := max(1, s.Columns), row*s.perRow
		for c := 0; c < tileN; c += across {
			input, column, _ := s.member(at + c)
			s.put(b, c*s.Bits/8, s.perRow, input, column/across*s.units+unit, s.units-unit)
		}
		return
	}
	bits := s.Bits / s.Rows // of a column in a line
	for c, size := 0, max(1, bits/8); c < tileN; c += 8 * size / bits {
		input, column, columns := s.member(at + c)
		for line := range s.Rows {
			unit := row*s.Rows + line
			s.put(b, (line*tileN+c)*bits/8, size, input, (unit*columns+column)*bits/8, size*max(0, s.units-unit))
		}
	}
}

// put fills size bytes of b, from at on, with those of an input from from on, of which there are has. The others, and all without an input, are
// padding.
func (s *paddedSources) put(b []byte, at, size, input, from, has int) {
	for i := at; i < at+size; i++ {
		b[i] = byte(s.Fill >> (8 * (i % 4)))
	}
	if n := min(size, has); input >= 0 && n > 0 {
		copy(b[at:], s.job.Src[input][from:from+n])
	}
}
