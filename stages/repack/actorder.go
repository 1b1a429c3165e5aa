package repack

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"strconv"
	"sync"

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

const (
	// tileRow is a packed row of GPTQ's of one tile, in bytes. A strip has one after another, of all input features.
	tileRow = 4 * tileN
	// blockWords are the rows of a strip that are repacked at a time, in the first-level cache.
	blockWords = 32
	// stripsBytes is how much of a packed weight is taken at a time: in strips, which the second-level cache holds, because every row
	// of them is read as often as it has codes, and those of a weight lie far apart.
	stripsBytes = 256 << 10
	// stripAhead is how many of their rows are taken at a time, and how far ahead they are prefetched.
	stripAhead = 16
	// mostFeatures is how many input features have their fields in 32 bits, with 8 bits each.
	mostFeatures = 1 << 26
)

// fields says of every sorted feature where the row of a strip begins that has it, which is a multiple of tileRow, and in the lowest byte
// how many bits its words are to move.
func (o *order) fields(bits int) []uint32 {
	per := 32 / bits
	list := make([]uint32, len(o.perm))
	for i, k := range o.perm {
		list[i] = uint32(int(k)/per*tileRow | fieldTurn(int(k)%per, i%per, bits))
	}
	return list
}

// repackStrip repacks a strip of packed rows, which is of the columns from c to c+tileN, with its input features in the order of fields.
func (a actOrder) repackStrip(j *stages.Job, c int, strip []byte, fields []uint32) {
	tmp, per := borrow(blockWords*tileRow), 32/a.bits
	defer scratch.Put(tmp)
	for w := 0; w < len(strip)/tileRow; w += blockWords {
		packed := (*tmp)[:min(blockWords*tileRow, len(strip)-w*tileRow)]
		gatherStrip(packed, strip, fields[per*w:], a.bits)
		rows := len(packed) / (2 * a.bits * tileN)
		at := w*2/a.bits*j.Stride + 2*a.bits*c
		end := at + (rows-1)*j.Stride + 2*a.bits*tileN
		(&marlinRect{
			dst: j.Dst[at:end:end], stride: j.Stride, rows: rows, n: tileN, src: packed, total: j.Rows * j.RowBytes, soon: j.Soon,
		}).repack(a.bits)
	}
}

// copyStripRows copies rows of a strip out of longer rows, which begin stride bytes apart. It is the reference.
func copyStripRows(dst, src []byte, stride int) {
	for i := range len(dst) / tileRow {
		copy(dst[i*tileRow:(i+1)*tileRow], src[i*stride:])
	}
}

// gatherStripRows makes packed rows from the fields of a strip. It is the reference.
func gatherStripRows(dst, strip []byte, fields []uint32, width int) {
	for per := 32 / width; len(dst) > 0; dst, fields = dst[tileRow:], fields[per:] {
		out := dst[:tileRow]
		clear(out)
		for i := 0; i < per; i += 2 {
			gather2(out, stripField(strip, fields[i], i, width), stripField(strip, fields[i+1], i+1, width))
		}
	}
}

// stripField brings a field of a strip to field to.
func stripField(strip []byte, field uint32, to, width int) pick {
	row, turn := int(field&^(tileRow-1)), int(field&(tileRow-1))
	mask := uint64(1<<width-1) << (width * to)
	return pick{row: strip[row : row+tileRow], turn: width*to - turn, mask: mask | mask<<32}
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
