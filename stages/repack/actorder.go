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
	perm []int32
	each int // rows of a group
}

// group is that of a sorted row.
func (o *order) group(k int) int32 { return int32(k / o.each) }

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
	o := &order{perm: make([]int32, k), each: k / max(1, groups)}
	for i := range k {
		g := binary.LittleEndian.Uint32(b[4*i:])
		at := counts[g]
		counts[g]++
		o.perm[at] = int32(i)
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
	// stripsBytes is how many spread strips are made at a time, in the second-level cache: those of a packed weight that lie side by side,
	// because its rows lie far apart.
	stripsBytes = 256 << 10
	// stripAhead is how many of its rows are taken at a time, and how far ahead they are prefetched.
	stripAhead = 16
	// mostFeatures is how many lines a strip has: they begin at 32 bits.
	mostFeatures = 1 << 26
)

// lineBytes is the line of a feature in a strip. With 8 bits column 16j + 8h + c is byte 8c + 2j + h of it. With 4 bits two columns share a byte:
// column 16j + 8h + c for j = 0 and 1 is the lower half of byte 4c + 2j + h, and 32 columns further is the upper half.
func lineBytes(bits int) int { return tileN * bits / 8 }

// lineOf is where the line of input feature k begins in a strip. The lines of a packed row are where its codes were, with 4 bits those of even features first.
func lineOf(k, bits int) int {
	if bits == 4 {
		k = k&^7 + k%2*4 + k%8/2
	}
	return k * lineBytes(bits)
}

// lines says of every sorted feature where its line begins in a strip. Each line is there once, so all of them lie in a strip of so many.
func (o *order) lines(width int) []uint32 {
	per := 32 / width // a power of two
	var lines [8]uint32
	for i := range per {
		lines[i] = uint32(lineOf(i, width))
	}
	list, row, last := make([]uint32, len(o.perm)), bits.TrailingZeros(uint(per)), int32(per-1)
	for i, k := range o.perm {
		list[i] = uint32(k>>row)*tileRow + lines[k&last]
	}
	return list
}

// eachStrip spreads a packed weight, I32 [words, n] of whole strips, and calls take with each of them and its first column.
func eachStrip(codes []byte, n, words, bits int, take func(c int, strip []byte)) {
	size := words * tileRow
	most := max(1, stripsBytes/max(1, size))
	strips := borrow(min(most, n/tileN) * size)
	defer scratch.Put(strips)
	for c := 0; c < n; c += most * tileN {
		m := min(most, (n-c)/tileN)
		for w := 0; w < words; w += stripAhead {
			rows := min(stripAhead, words-w)
			for s := range m {
				spreadStrip((*strips)[s*size+w*tileRow:][:rows*tileRow], codes[4*(w*n+c+s*tileN):], 4*n, bits)
			}
		}
		for s := range m {
			take(c+s*tileN, (*strips)[s*size:(s+1)*size])
		}
	}
}

// repackStrip repacks a spread strip, which is of the columns from c to c+tileN, with its input features in the order of lines.
func (a actOrder) repackStrip(j *stages.Job, c int, strip []byte, lines []uint32) {
	newSortedColumn(j, 2*a.bits*c, strip, lines, a.bits).tiles()
}

// spreadRows spreads packed rows of a tile, which begin stride bytes apart, to a strip. It is the reference.
func spreadRows(strip, src []byte, stride, bits int) {
	for ; len(strip) > 0; strip, src = strip[tileRow:], src[min(stride, len(src)):] {
		if bits == 4 {
			spreadRow4(strip[:tileRow], src[:tileRow])
			continue
		}
		for n := range tileN {
			at, _ := placeOf(n, bits)
			for i, code := range src[4*n : 4*n+4] {
				strip[i*lineBytes(bits)+at] = code
			}
		}
	}
}

// spreadRow4 spreads a packed row of codes of 4 bits.
func spreadRow4(strip, src []byte) {
	word := func(j, h, c int) uint32 { return binary.LittleEndian.Uint32(src[4*(16*j+8*h+c):]) }
	for c := range 8 {
		var even, odd [4]uint32 // of two columns each: their codes of even and of odd features, four bytes
		for i := range even {
			low, high := word(i/2, i%2, c), word(i/2+2, i%2, c)
			even[i], odd[i] = joinNibbles(low, high)
		}
		for b := range 4 {
			binary.LittleEndian.PutUint32(strip[32*b+4*c:], bytesAt(&even, 8*b))
			binary.LittleEndian.PutUint32(strip[128+32*b+4*c:], bytesAt(&odd, 8*b))
		}
	}
}

// joinNibbles makes bytes of the lower halves of those of two words, a's below, and of the upper halves.
func joinNibbles(a, b uint32) (lower, upper uint32) {
	const low = 0x0F0F0F0F
	return a&low | b&low<<4, a>>4&low | b&^low
}

// bytesAt is the bytes at bit shift of four words.
func bytesAt(w *[4]uint32, shift int) uint32 {
	return w[0]>>shift&0xFF | w[1]>>shift&0xFF<<8 | w[2]>>shift&0xFF<<16 | w[3]>>shift<<24
}

// placeOf is which byte of a line has column n, and how far up in it.
func placeOf(n, bits int) (at, up int) {
	j, h, c := n/16, n/8%2, n%8
	if bits == 4 {
		return 4*c + j%2*2 + h, j / 2 * 4
	}
	return 8*c + 2*j + h, 0
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

// newSortedColumn is for the rows of j, from byte off of each on.
func newSortedColumn(j *stages.Job, off int, strip []byte, lines []uint32, bits int) *sortedColumn {
	t := &sortedColumn{dst: j.Dst[off:], stride: j.Stride, rows: j.Rows, strip: strip, features: lines, bits: bits}
	t.stream = cpu.Streams(j.Soon, j.Rows*j.RowBytes, t.dst, t.stride)
	return t
}

// code is that of a column in the line that begins at byte line of the strip.
func (t *sortedColumn) code(line uint32, column int) byte {
	at, up := placeOf(column, t.bits)
	return t.strip[int(line)+at] >> up & (1<<t.bits - 1)
}

// tilesGeneric makes tiles of Marlin's, which take tileK lines each: features q and q+8 share bytes, or lie side by side. It is the reference.
func (t *sortedColumn) tilesGeneric() {
	size := lineBytes(t.bits)
	for i := range t.rows {
		tile, features := t.dst[i*t.stride:][:2*t.bits*tileN], t.features[i*tileK:(i+1)*tileK]
		line := func(q int) []byte { return t.strip[features[q]:][:size] }
		for q := 0; q < 8; q += 2 {
			if t.bits == 4 {
				tileOf4(tile[8*q:], line(q), line(q+8), line(q+1), line(q+9))
				continue
			}
			for p := q; p < q+2; p++ {
				near, far := line(p), line(p+8)
				for at := range near {
					to := tile[128*(at/8)+4*(at%8)+16*q+2*(p-q):]
					to[0], to[1] = near[at], far[at]
				}
			}
		}
	}
}

// tileOf4 makes the dwords of a tile that are of two features and of those eight further, from the lines of each.
func tileOf4(tile, near, far, near1, far1 []byte) {
	for c := range 8 {
		word := func(line []byte) uint32 { return binary.LittleEndian.Uint32(line[4*c:]) }
		var a, b [2]uint32 // of j = 0 and 1, and of 2 and 3
		a[0], a[1] = joinNibbles(word(near), word(far))
		b[0], b[1] = joinNibbles(word(near1), word(far1))
		for half := range a {
			at := 64*c + 8*half
			binary.LittleEndian.PutUint32(tile[at:], a[half]&0xFFFF|b[half]<<16)
			binary.LittleEndian.PutUint32(tile[at+4:], a[half]>>16|b[half]&^0xFFFF)
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
	dst := j.Row(0)
	for i, v := range o.perm {
		if !op.indices {
			v = o.group(i)
		}
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
