package repack

import (
	"encoding/binary"
	"fmt"

	"github.com/coldload/coldload/internal/cpu"
	"github.com/coldload/coldload/internal/nibbles"
	"github.com/coldload/coldload/stages"
)

// RowsMarlin makes the Op that repacks codes of 4 or 8 bits, whose rows are those of the weight, to Marlin words: the symmetric integer
// codes of compressed-tensors.
//
// Input: one, the whole codes of a module: I32 [N, K*bits/32], 32/bits codes a word along K. Destination: K/16 rows of N*bits/2 words, as
// those of [GPTQMarlin]. N is a multiple of 64 and K of 16.
//
// The words, transposed, are GPTQ's. Every byte is read and written once, 64 rows at a time.
func RowsMarlin(bits int) (stages.Op, error) {
	if err := checkBits(bits); err != nil {
		return nil, err
	}
	return rowsMarlin{bits: bits}, nil
}

// SignedRowsMarlin is RowsMarlin for signed codes of 8 bits, I8 [N, K], which become the kernels' unsigned ones: 128 larger.
func SignedRowsMarlin() stages.Op { return rowsMarlin{bits: 8, signed: true} }

type rowsMarlin struct {
	bits   int
	signed bool
}

func (rowsMarlin) Phase() stages.Phase { return stages.PhaseRepack }
func (op rowsMarlin) String() string {
	if op.signed {
		return "repack rows of signed codes to marlin"
	}
	return fmt.Sprintf("repack rows of %d-bit codes to marlin", op.bits)
}

func (op rowsMarlin) Run(j *stages.Job) error {
	if op.signed {
		return repackStrips(op, j, op.bits, nibbles.FlipSigns)
	}
	return repackRows(op, j, op.bits)
}

// repackRows is the Run of an Op that repacks codes which lie along K, as the rows of the weight do: one source of N rows.
func repackRows(op stages.Op, j *stages.Job, bits int) error {
	return repackStrips(op, j, bits, nil)
}

// repackStrips is repackRows for codes that are changed first: change, when it is given, writes those of src to dst, a strip of tileN rows at a
// time, which the second-level cache holds.
func repackStrips(op stages.Op, j *stages.Job, bits int, change func(dst, src []byte)) error {
	n, err := marlinColumns(op, j, bits)
	if err != nil {
		return err
	}
	size := j.Rows * j.RowBytes
	if err := wantSources(op, j, size); err != nil {
		return err
	}
	c := rowsColumn{stride: j.Stride, rows: j.Rows, bits: bits}
	c.stream = cpu.Streams(j.Soon, size, j.Dst, j.Stride)
	var strip []byte
	if change != nil {
		borrowed := borrow(tileN * c.rowBytes())
		defer scratch.Put(borrowed)
		strip = *borrowed
	}
	for at := 0; at < n && j.Rows > 0; at += tileN {
		c.dst, c.src = j.Dst[2*bits*at:], j.Src[0][at*c.rowBytes():]
		if change != nil {
			change(strip, c.src[:len(strip)])
			c.src = strip
		}
		c.repack()
	}
	return nil
}

// lineWords is how many words of a row of codes are transposed at a time: a cache line.
const lineWords = 16

// transposeBlock transposes words of a strip of tileN rows, from word w of each on. So many rows are more streams than the hardware follows.
// Short ones, which lie close together, are prefetched in the order of the addresses while the strip before is transposed. Of long ones what
// is two lines further in each row is, and at the rows' end the beginning of the next strip.
func transposeBlock(dst, strip []byte, w, words int) {
	for ; len(dst) > 0; w += lineWords {
		n := min(len(dst), lineWords*tileRow)
		ahead, step := 2*4*lineWords, 4*words
		switch {
		case len(strip) <= closeRows:
			ahead, step = len(strip)+w*tileRow-4*w, 4*lineWords
		case w+2*lineWords >= words:
			ahead += (tileN - 1) * 4 * words
		}
		transpose(dst[:n], strip[4*w:], 4*words, ahead, step)
		dst = dst[n:]
	}
}

// closeRows is how many bytes the rows of a strip may take to be prefetched in the order of their addresses: the second-level cache holds them.
const closeRows = 128 << 10

// transposeRows transposes words: src begins with tileN rows, stride bytes apart, whose first len(dst)/tileRow words become the rows of dst.
// It is the reference.
func transposeRows(dst, src []byte, stride int) {
	words := len(dst) / tileRow
	if words == 0 {
		return
	}
	for r := range tileN {
		row := src[r*stride : r*stride+4*words]
		for w := range words {
			binary.LittleEndian.PutUint32(dst[w*tileRow+4*r:], binary.LittleEndian.Uint32(row[4*w:]))
		}
	}
}

// RowsMarlinActOrder is RowsMarlin for act-order: the input features are sorted by group first, stably.
//
// Inputs: the whole codes I32 [N, K*bits/32] and g_idx I32 [K]. Destination: K/16 rows of N*bits/2 words.
func RowsMarlinActOrder(bits, groups int) (stages.Op, error) {
	if err := checkBits(bits); err != nil {
		return nil, err
	}
	return rowsMarlinActOrder{actOrder{bits: bits, groups: groups}}, nil
}

type rowsMarlinActOrder struct{ actOrder }

func (op rowsMarlinActOrder) String() string {
	return fmt.Sprintf("repack rows of %d-bit act-order codes to marlin", op.bits)
}

func (op rowsMarlinActOrder) Run(j *stages.Job) error {
	n, o, err := op.begin(op, j)
	if err != nil {
		return err
	}
	words := j.Rows * op.bits / 2 // of a row of codes
	strip, packed := borrow(words*tileRow), borrow(min(words, blockWords)*tileRow)
	defer scratch.Put(strip)
	defer scratch.Put(packed)
	lines := o.lines(op.bits)
	for c := 0; c < n; c += tileN {
		src := j.Src[0][4*words*c : 4*words*(c+tileN)]
		for w := 0; w < words; w += blockWords {
			m := min(blockWords, words-w)
			transposeBlock((*packed)[:m*tileRow], src, w, words)
			spreadStrip((*strip)[w*tileRow:(w+m)*tileRow], *packed, tileRow, op.bits)
		}
		op.repackStrip(j, c, *strip, lines)
	}
	return nil
}

// RowsMarlinScales makes the Op that casts scales, whose rows are those of the weight, from one dtype to another (F16 or BF16), transposes
// them and permutes every row, as [MarlinScales] does.
//
// Input: one, [N, G] of from. Destination: G rows of N elements of to; N is a multiple of 64. A value that is not finite, before or after
// the cast, is a *stages.DataError.
func RowsMarlinScales(from, to stages.DType, p Permutation) (stages.Op, error) {
	cast, err := scaleCastOf(from, to, p)
	if err != nil {
		return nil, err
	}
	return &rowsMarlinScales{cast}, nil
}

type rowsMarlinScales struct{ scaleCast }

func (op *rowsMarlinScales) String() string {
	return fmt.Sprintf("transpose and permute scales %s->%s, %s", op.from, op.to, op.perm)
}

func (op *rowsMarlinScales) Run(j *stages.Job) error {
	size, n, groups := op.from.Bits()/8, j.RowBytes/2, j.Rows
	if n%tileN != 0 || j.RowBytes%2 != 0 {
		return fmt.Errorf("%s: %d columns are no whole blocks of %d", op, n, tileN)
	}
	if err := op.check(op, j, n*groups); err != nil {
		return err
	}
	strips := newScaleStrips(j, 2, op.perm.columns())
	defer strips.finish()
	tmp := borrow(strips.bytes())
	defer scratch.Put(tmp)
	for c := 0; c < n && groups > 0; c += tileN {
		src := j.Src[0][c*groups*size : (c+tileN)*groups*size]
		if err := op.finite(j, c*groups, src); err != nil {
			return err
		}
		if op.from != op.to {
			if at := op.cast(*tmp, src); at >= 0 {
				return tooLarge(j, op.to, c*groups+at)
			}
			src = *tmp
		}
		strips.transpose(j.Dst[2*c:], src)
	}
	return nil
}
