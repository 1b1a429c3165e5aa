package repack

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"strconv"
	"sync"

	"github.com/coldload/coldload/internal/cpu"
	"github.com/coldload/coldload/stages"
)

// order is how act-order sorts the input features of a module: by group, those of one group in their own order. Row k of a repacked
// weight takes source row perm[k].
type order struct {
	perm   []int32
	sorted []int32 // the groups of the sorted rows
}

// sortByGroup makes the order of a g_idx: I32 [K]. groups is how many there are; every group must own K/groups features, because the
// kernels find the group of a sorted feature by dividing.
func sortByGroup(j *stages.Job, input, groups int) (*order, error) {
	b := j.Src[input]
	k := len(b) / 4
	counts := make([]int32, groups+1)
	for i := range k {
		g := int32(binary.LittleEndian.Uint32(b[4*i:]))
		if g < 0 || int(g) >= groups {
			return nil, &stages.DataError{
				Tensor: j.Inputs[input].Tensor, Problem: fmt.Sprintf("g_idx[%d] is out of range", i),
				Expected: fmt.Sprintf("0 to %d", groups-1), Found: strconv.Itoa(int(g)), Advice: "the checkpoint is damaged: get it again",
			}
		}
		counts[g+1]++
	}
	for g := range groups {
		if int(counts[g+1])*groups != k {
			return nil, &stages.DataError{
				Tensor: j.Inputs[input].Tensor, Problem: fmt.Sprintf("group %d has the wrong number of input features", g),
				Expected: strconv.Itoa(k / groups), Found: strconv.Itoa(int(counts[g+1])),
				Advice: "kernels need groups of one size: use --layout raw",
			}
		}
	}
	for g := range groups {
		counts[g+1] += counts[g]
	}
	o := &order{perm: make([]int32, k), sorted: make([]int32, k)}
	for i := range k {
		g := binary.LittleEndian.Uint32(b[4*i:])
		at := counts[g]
		counts[g]++
		o.perm[at], o.sorted[at] = int32(i), int32(g)
	}
	return o, nil
}

// ordered checks the sources of an Op that sorts the rows of codes by group, codes and g_idx, and makes the order of its input features.
func ordered(op stages.Op, j *stages.Job, features, groups int) (*order, error) {
	if err := wantSources(op, j, j.Rows*j.RowBytes, 4*features); err != nil {
		return nil, err
	}
	return sortByGroup(j, 1, groups)
}

// actOrder is what the Ops that repack act-order codes have in common.
type actOrder struct{ bits, groups int }

func (actOrder) Phase() stages.Phase { return stages.PhaseRepack }

// begin checks the Job of op, and gives N and the order of the input features.
func (a actOrder) begin(op stages.Op, j *stages.Job) (n int, o *order, err error) {
	if n, err = marlinColumns(op, j, a.bits); err != nil {
		return 0, nil, err
	}
	if tileK*j.Rows > mostFeatures {
		return 0, nil, fmt.Errorf("%s: %d input features, more than %d", op, tileK*j.Rows, mostFeatures)
	}
	o, err = ordered(op, j, tileK*j.Rows, a.groups)
	return n, o, err
}

// Act-order takes input features one by one, wherever they are. So a strip of the weight, which is tileN columns of all features, is spread
// first: to a line for each, as the tiles want them.
const (
	// tileRow is a packed row of GPTQ's of one tile, in bytes.
	tileRow = 4 * tileN
	// blockWords are the packed rows that are made of rows of codes at a time, in the first-level cache.
	blockWords = 32
	// lineBytes is the line of a feature in a strip: a byte for each column, column 16j + 8h + c at byte 8c + 2j + h. A code of 4 bits is in
	// both halves of its byte.
	lineBytes = tileN
	// stripsBytes is how many spread strips are made at a time, in the second-level cache: those of a packed weight that lie side by side,
	// because its rows lie far apart.
	stripsBytes = 256 << 10
	// stripAhead is how many of its rows are taken at a time, and how far ahead they are prefetched.
	stripAhead = 16
	// mostFeatures is how many lines a strip has: they begin at 32 bits.
	mostFeatures = 1 << 26
)

// spread is what a packed row of a tile becomes in a strip, in bytes.
func (a actOrder) spread() int { return 32 / a.bits * lineBytes }

// lines says of every sorted feature where its line begins in a strip. Each line is there once, so all of them lie in a strip of so many.
func (o *order) lines() []uint32 {
	list := make([]uint32, len(o.perm))
	for i, k := range o.perm {
		list[i] = uint32(k) * lineBytes
	}
	return list
}

// strips spreads a packed weight, I32 [words, n] of whole strips, and calls take with each of them and its first column.
func (a actOrder) strips(codes []byte, n, words int, take func(c int, strip []byte)) {
	size := words * a.spread()
	most := max(1, stripsBytes/max(1, size))
	strips := borrow(min(most, n/tileN) * size)
	defer scratch.Put(strips)
	for c := 0; c < n; c += most * tileN {
		m := min(most, (n-c)/tileN)
		for w := 0; w < words; w += stripAhead {
			rows := min(stripAhead, words-w)
			for s := range m {
				spreadStrip((*strips)[s*size+w*a.spread():][:rows*a.spread()], codes[4*(w*n+c+s*tileN):], 4*n, a.bits)
			}
		}
		for s := range m {
			take(c+s*tileN, (*strips)[s*size:(s+1)*size])
		}
	}
}

// repackStrip repacks a spread strip, which is of the columns from c to c+tileN, with its input features in the order of lines.
func (a actOrder) repackStrip(j *stages.Job, c int, strip []byte, lines []uint32) {
	t := sortedColumn{dst: j.Dst[2*a.bits*c:], stride: j.Stride, rows: j.Rows, strip: strip, features: lines, bits: a.bits}
	t.stream = !j.Soon && j.Rows*j.RowBytes >= cpu.MinStream && cpu.ToLine(t.dst) == 0 && t.stride%cpu.Line == 0
	t.tiles()
}

// spreadRows spreads packed rows of a tile, which begin stride bytes apart, to a strip. It is the reference.
func spreadRows(strip, src []byte, stride, bits int) {
	per, mask := 32/bits, uint32(1)<<bits-1
	for ; len(strip) > 0; strip, src = strip[per*lineBytes:], src[min(stride, len(src)):] {
		for n := range tileN {
			word, at := binary.LittleEndian.Uint32(src[4*n:]), 8*(n%8)+n/8%2+2*(n/16)
			for i := range per {
				code := word >> (bits * i) & mask
				if bits == 4 {
					code |= code << 4
				}
				strip[i*lineBytes+at] = byte(code)
			}
		}
	}
}

// sortedColumn is a column of tiles, or of packed rows, to make of a spread strip.
type sortedColumn struct {
	dst      []byte // the first tile or row, and the others stride bytes apart
	stride   int
	rows     int // of tiles, or packed ones
	strip    []byte
	features []uint32 // where the lines begin that they take, as many for each: order.lines
	bits     int
	stream   bool // they go past the caches
}

// tilesGeneric makes tiles of Marlin's, which take tileK lines each. It is the reference.
func (t *sortedColumn) tilesGeneric() {
	for i := range t.rows {
		tile, features := t.dst[i*t.stride:][:2*t.bits*tileN], t.features[i*tileK:(i+1)*tileK]
		for q := range 8 { // the feature is 2(q/2) + q%2, or 8 more
			near, far := t.strip[features[q]:][:lineBytes], t.strip[features[8+q]:][:lineBytes]
			for at := range lineBytes {
				if t.bits == 4 {
					tile[64*(at/8)+16*(q/2)+4*(at%8/2)+2*(q%2)+at%2] = near[at]&0x0F | far[at]&0xF0
					continue
				}
				to := tile[128*(at/8)+32*(q/2)+4*(at%8)+2*(q%2):]
				to[0], to[1] = near[at], far[at]
			}
		}
	}
}

// SortIndices makes the Op that writes the order of a module's input features: the stable sort of its g_idx.
//
// Input: one, g_idx: I32 [K]. Destination: one row, I32 [K].
func SortIndices(groups int) stages.Op { return sortOp{groups: groups, indices: true} }

// SortedGroups makes the Op that writes the g_idx of the sorted input features.
//
// Input: one, g_idx: I32 [K]. Destination: one row, I32 [K].
func SortedGroups(groups int) stages.Op { return sortOp{groups: groups} }

type sortOp struct {
	groups  int
	indices bool
}

func (sortOp) Phase() stages.Phase { return stages.PhaseRepack }

func (op sortOp) String() string {
	if op.indices {
		return "sort input features by group"
	}
	return "sort g_idx"
}

func (op sortOp) Run(j *stages.Job) error {
	if j.Rows != 1 || j.RowBytes%4 != 0 {
		return fmt.Errorf("%s: %d rows of %d bytes, want one of whole words", op, j.Rows, j.RowBytes)
	}
	if err := wantSources(op, j, j.RowBytes); err != nil {
		return err
	}
	o, err := sortByGroup(j, 0, op.groups)
	if err != nil {
		return err
	}
	list := o.sorted
	if op.indices {
		list = o.perm
	}
	dst := j.Row(0)
	for i, v := range list {
		binary.LittleEndian.PutUint32(dst[4*i:], uint32(v))
	}
	return nil
}

// scratch is memory for gathered rows. Workers reuse it from module to module.
var scratch = sync.Pool{New: func() any { return new([]byte) }}

// borrow returns n bytes of scratch memory, to be given back with scratch.Put. Their content is undefined.
func borrow(n int) *[]byte {
	p, ok := scratch.Get().(*[]byte)
	if !ok || cap(*p) < n {
		fresh := make([]byte, n)
		return &fresh
	}
	*p = (*p)[:n]
	return p
}

// gatherRow makes one packed GPTQ row of N words from rows picked one by one: field i of every word is taken from source row rows[i].
// qweight is I32 [K*width/32, N]. len(rows) = 32/width; width is 2, 4 or 8 bits.
func gatherRow(dst, qweight []byte, rows []int32, width int) {
	clear(dst)
	for i := 0; i < len(rows); i += 2 {
		a, b := pickField(qweight, len(dst), int(rows[i]), i, width), pickField(qweight, len(dst), int(rows[i+1]), i+1, width)
		gather2(dst, a, b)
	}
}

// pick is one field of every word of a row: the row, how far left to turn its words, and what to take of them then.
type pick struct {
	row  []byte
	turn int
	mask uint64 // for two words
}

// pickField brings feature k of a packed weight to field to. n is the length of a row in bytes.
func pickField(qweight []byte, n, k, to, width int) pick {
	per := 32 / width
	mask := uint64(1<<width-1) << (width * to)
	return pick{row: qweight[k/per*n : (k/per+1)*n], turn: width * (to - k%per), mask: mask | mask<<32}
}

// gather2 adds two fields to the words of dst. It turns two words as one: a field that moves within its word never leaves it.
func gather2(dst []byte, a, b pick) {
	const block = 64
	x, y := a.row, b.row
	for len(dst) >= block && len(x) >= block && len(y) >= block {
		d, x0, y0 := (*[block]byte)(dst), (*[block]byte)(x), (*[block]byte)(y)
		for i := 0; i <= block-8; i += 8 {
			w := bits.RotateLeft64(binary.LittleEndian.Uint64(x0[i:]), a.turn)&a.mask | bits.RotateLeft64(binary.LittleEndian.Uint64(y0[i:]), b.turn)&b.mask
			binary.LittleEndian.PutUint64(d[i:], binary.LittleEndian.Uint64(d[i:])|w)
		}
		dst, x, y = dst[block:], x[block:], y[block:]
	}
	for ; len(dst) >= 4; dst, x, y = dst[4:], x[4:], y[4:] {
		w := bits.RotateLeft32(binary.LittleEndian.Uint32(x), a.turn)&uint32(a.mask) | bits.RotateLeft32(binary.LittleEndian.Uint32(y), b.turn)&uint32(b.mask)
		binary.LittleEndian.PutUint32(dst, binary.LittleEndian.Uint32(dst)|w)
	}
}
