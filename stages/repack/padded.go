package repack

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/coldload/coldload/stages"
)

// Member is where columns of one input lie in a row of a kernel's layout: N of them, from column At on. Columns are output features.
type Member struct {
	At, N int
	Same  bool // they are of the input of the Member before, where its own end: gate and up that are one tensor
}

// Padding says how the rows of a kernel's layout come from members that do not fill whole tiles by themselves.
type Padding struct {
	Members []Member // in order, without overlap
	N       int      // columns of a row, a multiple of 64
	// Bits is what one column of one row is in a source. Rows is how many source rows these bits are spread over; 0 says that a source has
	// rows along the other axis instead, as a weight [N, K] has: one for so many Columns (0 is 1), with what is in them one after the other.
	Bits, Rows, Columns int
	// Fill is the word that a source would have in the padding: the one that the Op turns into zeros.
	Fill uint32
}

// across is how many columns a source row has along the other axis.
func (p *Padding) across() int { return max(p.Columns, 1) }

// colBits is what a column takes in a source row, in bits.
func (p *Padding) colBits() int { return p.Bits / max(p.Rows, 1) }

// check reports a Padding that cannot be.
func (p *Padding) check() error {
	end := 0
	for i, m := range p.Members {
		if i == 0 && m.Same || m.N <= 0 || m.At < end || m.At+m.N > p.N || m.At*p.colBits()%8 != 0 || m.N*p.colBits()%8 != 0 || m.At%p.across() != 0 || m.N%p.across() != 0 {
			return fmt.Errorf("repack: columns %d to %d of %d are no place for a member", m.At, m.At+m.N, p.N)
		}
		end = m.At + m.N
	}
	if p.N%tileN != 0 || p.N == 0 || len(p.Members) == 0 || p.Bits <= 0 || p.Rows < 0 || p.Rows > 0 && p.Bits%p.Rows != 0 || p.Rows == 0 && p.across()*p.Bits%8 != 0 || tileN%p.across() != 0 {
		return fmt.Errorf("repack: rows of %d columns of %d bits in %d rows cannot be", p.N, p.Bits, p.Rows)
	}
	return nil
}

// Padded makes the Op that does what inner does for the rows of all members at once, with zeros in the padding. inner has one source, works on every
// 64 columns by themselves and on every row of its destination by itself, but for what it settles by a look at all sources first.
//
// Inputs: one for every member that is not the Same as the one before, what inner would get for that tensor alone; of fewer rows than the destination when the input features are padded,
// and then the last of them may be filled in part. Further inputs go to inner as they are. Destination: rows of p.N columns.
//
// Tiles that lie in one member go through inner as they are. Only those at the members' ends, and the row in which the input features end, are put
// together in scratch memory of some 32 KiB first. Source: LAYOUTS C8.
func Padded(inner stages.Op, p Padding) (stages.Op, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	op := &padded{op: inner, Padding: p, pieces: p.pieces()}
	op.wide, _ = inner.(wide)
	op.from, op.inputs = p.sources()
	return op, nil
}

// sources finds where the columns of every member come from, and counts the inputs.
func (p *Padding) sources() (list []source, inputs int) {
	for i, m := range p.Members {
		s := source{input: inputs}
		if m.Same {
			s = list[i-1]
			s.from += p.Members[i-1].N
		} else {
			inputs++
		}
		list = append(list, s)
	}
	columns := 0
	for i := len(list) - 1; i >= 0; i-- { // the last member of an input knows how many it has
		columns = max(columns, list[i].from+p.Members[i].N)
		list[i].columns = columns
		if !p.Members[i].Same {
			columns = 0
		}
	}
	return list, inputs
}

type padded struct {
	Padding
	op     stages.Op
	wide   wide // op, when it is one
	pieces []piece
	from   []source // of every member
	inputs int
}

// source is where the columns of a member come from: which input, that has so many, and from which of them on.
type source struct{ input, columns, from int }

func (p *padded) Phase() stages.Phase { return p.op.Phase() }
func (p *padded) String() string      { return p.op.String() + ", padded" }

// piece is some tiles of a row.
type piece struct {
	at, n  int // columns
	member int // that has all of them; noMember when there are several, or padding
	empty  bool
}

const noMember = -1

// pieces cuts the row where the tiles of one member begin and end.
func (p *Padding) pieces() (list []piece) {
	cuts := []int{0, p.N}
	for _, m := range p.Members {
		for _, at := range []int{m.At, m.At + m.N} {
			cuts = append(cuts, at/tileN*tileN, (at+tileN-1)/tileN*tileN)
		}
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	for i, at := range cuts[:len(cuts)-1] {
		t := piece{at: at, n: cuts[i+1] - at, member: noMember, empty: true}
		for i, m := range p.Members {
			if m.At < at+t.n && at < m.At+m.N {
				t.empty = false
				if m.At <= at && at+t.n <= m.At+m.N {
					t.member = i
				}
			}
		}
		if last := len(list) - 1; last >= 0 && list[last].member == t.member && list[last].empty == t.empty {
			list[last].n += t.n
			continue
		}
		list = append(list, t)
	}
	return list
}

// wide is an Op that can take its columns out of longer source rows, apart bytes from one to the next.
type wide interface {
	runWide(j *stages.Job, apart int) error
}

// screener is an Op that looks at the values of a source before anything is made of them, so that its errors name the element of the tensor.
type screener interface {
	screen(j *stages.Job, input int) error
}

// settler is an Op that has to know something of all sources, of which the first inputs are the members', before it makes anything of them. It
// looks at them once, screens them, and returns the Op that makes one tile as well as all.
type settler interface {
	settle(j *stages.Job, inputs int) (stages.Op, error)
}

func (p *padded) Run(j *stages.Job) error {
	units, err := p.units(j)
	if err != nil {
		return err
	}
	if p, err = p.ready(j); err != nil {
		return err
	}
	full, filled := units/p.perRow(), (units+p.perRow()-1)/p.perRow() // rows
	borrowed := borrow(p.panelRows() * tileN * p.Bits / 8)
	defer scratch.Put(borrowed)
	for _, c := range p.pieces {
		done := 0 // rows
		switch {
		case c.empty:
			done = filled
			p.clear(j, c, 0, filled)
		case c.member != noMember && p.direct(c, full == filled):
			done = full
			err = p.run(j, c, full, units)
		}
		if err == nil {
			err = p.assemble(j, c, done, filled, units, *borrowed)
		}
		if err != nil {
			return err
		}
	}
	p.clear(j, piece{n: p.N}, filled, j.Rows)
	return nil
}

// ready looks at the sources, and returns what makes the Job of them.
func (p *padded) ready(j *stages.Job) (*padded, error) {
	switch op := p.op.(type) {
	case settler:
		settled := *p
		var err error
		settled.op, err = op.settle(j, p.inputs)
		return &settled, err
	case screener:
		for i := range p.inputs {
			if err := op.screen(j, i); err != nil {
				return nil, err
			}
		}
	}
	return p, nil
}

// perRow is how many units of a source make a row: its rows, or bytes of its rows along the other axis.
func (p *padded) perRow() int {
	if p.Rows > 0 {
		return p.Rows
	}
	return p.across() * p.Bits / 8
}

// units is how many rows every source has, or how many bytes each of them along the other axis.
func (p *padded) units(j *stages.Job) (int, error) {
	if len(j.Src) < p.inputs {
		return 0, fmt.Errorf("%s: %d inputs, want %d", p, len(j.Src), p.inputs)
	}
	if j.RowBytes*8%p.N != 0 || j.RowBytes == 0 {
		return 0, fmt.Errorf("%s: %d bytes a row are not %d columns", p, j.RowBytes, p.N)
	}
	units := 0
	for i, from := range p.from {
		unit, size := from.columns/p.across(), len(j.Src[from.input])
		if p.Rows > 0 {
			unit = from.columns * p.colBits() / 8
		}
		n := size / unit
		if size%unit != 0 || i > 0 && n != units || n > j.Rows*p.perRow() {
			return 0, fmt.Errorf("%s: input %d has %d bytes, want %d for each of %d rows", p, from.input, size, unit, units)
		}
		units = n
	}
	return units, nil
}

// direct reports whether the Op can take tiles of a member as they lie in its source. whole says that the last row is filled.
func (p *padded) direct(c piece, whole bool) bool {
	if p.Rows == 0 {
		return whole
	}
	return p.wide != nil || c.n == p.from[c.member].columns
}

// job is op's share of j: rows rows of the columns of c, from row on.
func (p *padded) job(j *stages.Job, c piece, row, rows int) *stages.Job {
	bits := j.RowBytes * 8 / p.N
	size, at := bits*c.n/8, row*j.Stride+bits*c.at/8
	end := at + (rows-1)*j.Stride + size
	return &stages.Job{Dst: j.Dst[at:end:end], Rows: rows, RowBytes: size, Stride: j.Stride, Soon: j.Soon, Scanned: j.Scanned, Warn: j.Warn}
}

// run gives op the tiles of one member, in rows rows.
func (p *padded) run(j *stages.Job, c piece, rows, units int) error {
	if rows == 0 {
		return nil
	}
	sub, s := p.job(j, c, 0, rows), p.from[c.member]
	src, from := j.Src[s.input], s.from+c.at-p.Members[c.member].At
	if p.Rows == 0 {
		p.give(sub, j, s.input, src[from/p.across()*units:(from+c.n)/p.across()*units])
		return p.op.Run(sub)
	}
	apart := s.columns * p.colBits() / 8
	p.give(sub, j, s.input, src[from*p.colBits()/8:rows*p.Rows*apart])
	if c.n == s.columns {
		return p.op.Run(sub)
	}
	return p.wide.runWide(sub, apart)
}

// give makes src, of the input with that number, and what comes behind the members' inputs the sources of sub.
func (p *padded) give(sub, j *stages.Job, input int, src []byte) {
	sub.Src = append([][]byte{src}, j.Src[p.inputs:]...)
	sub.Inputs = append([]stages.Input{j.Inputs[input]}, j.Inputs[p.inputs:]...)
}

// clear zeroes the rows from first to end of the columns of c.
func (p *padded) clear(j *stages.Job, c piece, first, end int) {
	if first >= end || c.n == 0 {
		return
	}
	sub := p.job(j, c, first, end-first)
	for r := range sub.Rows {
		clear(sub.Row(r))
	}
}

// panelRows is how many rows of a tile are put together at a time: 32 KiB of their sources.
func (p *padded) panelRows() int { return max(1, (32<<10)/(tileN*p.Bits/8)) }

// assemble makes the rows from first to end of the columns of c through scratch memory, tile by tile.
func (p *padded) assemble(j *stages.Job, c piece, first, end, units int, panel []byte) error {
	for ; c.n > 0; c.at, c.n = c.at+tileN, c.n-tileN {
		tile := piece{at: c.at, n: tileN}
		for row := first; row < end; {
			rows := min(p.panelRows(), end-row)
			src := panel[:rows*tileN*p.Bits/8]
			input := p.gather(j, tile.at, row, rows, units, src)
			sub := p.job(j, tile, row, rows)
			p.give(sub, j, input, src)
			if err := p.op.Run(sub); err != nil {
				return err
			}
			row += rows
		}
	}
	return nil
}

// gather fills panel with the source of rows rows, from row on, of the tile at column at, as op wants it. It returns a member that has some.
func (p *padded) gather(j *stages.Job, at, row, rows, units int, panel []byte) (input int) {
	fill(panel, p.Fill)
	first, last := row*p.perRow(), min((row+rows)*p.perRow(), units)
	for i, m := range p.Members {
		from, to := max(at, m.At), min(at+tileN, m.At+m.N)
		if from >= to {
			continue
		}
		s := p.from[i]
		input = s.input
		off := s.from + from - m.At
		if p.Rows == 0 {
			for c := from; c < to; c += p.across() {
				k := (off + c - from) / p.across()
				copy(panel[(c-at)/p.across()*rows*p.perRow():], j.Src[input][k*units+first:k*units+last])
			}
			continue
		}
		apart, width, n := s.columns*p.colBits()/8, tileN*p.colBits()/8, (to-from)*p.colBits()/8
		for u := first; u < last; u++ {
			copy(panel[(u-first)*width+(from-at)*p.colBits()/8:], j.Src[input][u*apart+off*p.colBits()/8:][:n])
		}
	}
	return input
}

// fill repeats a word.
func fill(b []byte, word uint32) {
	if word == 0 {
		clear(b)
		return
	}
	for ; len(b) >= 4; b = b[4:] {
		binary.LittleEndian.PutUint32(b, word)
	}
}
