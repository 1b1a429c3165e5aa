package repack

import (
	"encoding/binary"
	"fmt"

	"github.com/coldload/coldload/stages"
)

// RowsMarlin makes the Op that repacks codes of 4 or 8 bits, whose rows are those of the weight, to Marlin words: the symmetric integer
// codes of compressed-tensors.
//
// Input: one, the whole codes of a module: I32 [N, K*bits/32], 32/bits codes a word along K. Destination: K/16 rows of N*bits/2 words, as
// those of [GPTQMarlin]. N is a multiple of 64 and K of 16.
//
// The words, transposed, are GPTQ's. That is done for 64 rows and two cache lines of each at a time, in the first-level cache, so every
// byte is read and written once.
func RowsMarlin(bits int) (stages.Op, error) {
	if err := checkBits(bits); err != nil {
		return nil, err
	}
	return rowsMarlin{bits: bits}, nil
}

type rowsMarlin struct{ bits int }

func (rowsMarlin) Phase() stages.Phase { return stages.PhaseRepack }
func (op rowsMarlin) String() string {
	return fmt.Sprintf("repack rows of %d-bit codes to marlin", op.bits)
}

func (op rowsMarlin) Run(j *stages.Job) error {
	n, err := marlinColumns(op, j, op.bits)
	if err != nil {
		return err
	}
	if err := wantSources(op, j, j.Rows*j.RowBytes); err != nil {
		return err
	}
	tmp := borrow(blockWords * tileRow)
	defer scratch.Put(tmp)
	words := j.Rows * op.bits / 2 // of a row of codes
	for c := 0; c < n; c += tileN {
		strip := j.Src[0][4*words*c : 4*words*(c+tileN)]
		for w := 0; w < words; w += blockWords {
			m := min(blockWords, words-w)
			transposeBlock((*tmp)[:m*tileRow], strip, w, words)
			rect(j, w*2/op.bits, c, m*2/op.bits, (*tmp)[:m*tileRow], op.bits)
		}
	}
	return nil
}

const (
	// tileRow is a packed row of GPTQ's of one tile, in bytes.
	tileRow = 4 * tileN
	// lineWords is how many words of a row of codes are transposed at a time: a cache line. blockWords are repacked at a time.
	lineWords, blockWords = 16, 2 * lineWords
)

// rect repacks GPTQ rows of the columns of one tile, from column c on, to rows rows of the destination.
func rect(j *stages.Job, row, c, rows int, packed []byte, bits int) {
	at := row*j.Stride + 2*bits*c
	end := at + (rows-1)*j.Stride + 2*bits*tileN
	(&marlinRect{
		dst: j.Dst[at:end:end], stride: j.Stride, rows: rows, n: tileN, src: packed, total: j.Rows * j.RowBytes, soon: j.Soon,
	}).repack(bits)
}

// transposeBlock transposes words of a strip of tileN rows, from word w of each on. What is two lines further in each row is prefetched,
// and at the rows' end the beginning of the next strip: so many rows are more streams than the hardware follows.
func transposeBlock(dst, strip []byte, w, words int) {
	for ; len(dst) > 0; w += lineWords {
		n := min(len(dst), lineWords*tileRow)
		ahead := 2 * 4 * lineWords
		if w+2*lineWords >= words {
			ahead += (tileN - 1) * 4 * words
		}
		transpose(dst[:n], strip[4*w:], 4*words, ahead)
		dst = dst[n:]
	}
}

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

// CheckWord compares one Marlin word with the codes.
func (op rowsMarlin) CheckWord(j *stages.Job, row, word int) error {
	return compareCodes(j, op.bits, row, word, func(k, n int) uint32 { return rowCode(j, op.bits, k, n) })
}

// rowCode is the code of input feature k and output feature n of a Part's whole codes, whose rows are those of the weight.
func rowCode(j *stages.Job, bits, k, n int) uint32 {
	words := j.Rows * bits / 2 // of a row
	return binary.LittleEndian.Uint32(j.Src[0][4*(n*words+k*bits/32):]) >> (k * bits % 32) & (1<<bits - 1)
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
	words, per := j.Rows*op.bits/2, 32/op.bits
	strip, tmp := borrow(words*tileRow), borrow(blockWords*tileRow)
	defer scratch.Put(strip)
	defer scratch.Put(tmp)
	for c := 0; c < n; c += tileN {
		src := j.Src[0][4*words*c : 4*words*(c+tileN)]
		for w := 0; w < words; w += blockWords {
			m := min(blockWords, words-w)
			transposeBlock((*strip)[w*tileRow:(w+m)*tileRow], src, w, words)
		}
		for w := 0; w < words; w += blockWords {
			m := min(blockWords, words-w)
			for i := range m {
				k := per * (w + i)
				gather((*tmp)[i*tileRow:(i+1)*tileRow], *strip, o.perm[k:k+per], op.bits)
			}
			rect(j, w*2/op.bits, c, m*2/op.bits, (*tmp)[:m*tileRow], op.bits)
		}
	}
	return nil
}

// CheckWord compares one Marlin word with the codes.
func (op rowsMarlinActOrder) CheckWord(j *stages.Job, row, word int) error {
	return op.compareSorted(j, row, word, func(k, n int) uint32 { return rowCode(j, op.bits, k, n) })
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
	tmp := borrow(blockWords*tileRow + 2*tileN*groups)
	defer scratch.Put(tmp)
	block, natural := (*tmp)[:blockWords*tileRow], (*tmp)[blockWords*tileRow:]
	for c := 0; c < n; c += tileN {
		src := j.Src[0][c*groups*size : (c+tileN)*groups*size]
		if op.from != op.to {
			if at := op.cast(natural, src); at >= 0 {
				return tooLarge(j, op.to, c*groups+at)
			}
			src = natural
		}
		op.strip(j, c, src, block)
	}
	return nil
}

// CheckWord compares two scales with those of the file.
func (op *rowsMarlinScales) CheckWord(j *stages.Job, row, word int) error {
	return compareHalves(j, row, word, func(g, column int) uint16 { return op.one(j.Src[0], op.perm.source(column)*j.Rows+g) })
}

// strip transposes the scales of the columns from c to c+tileN: [tileN, G] of the target's dtype. A word has those of two groups.
func (op *rowsMarlinScales) strip(j *stages.Job, c int, src, block []byte) {
	var rows [2][2 * tileN]byte
	groups := j.Rows
	for g := 0; g < groups; g += 2 * blockWords {
		words := min(blockWords, (groups-g)/2)
		transpose(block[:words*tileRow], src[2*g:], 2*groups, 0)
		for w := range words {
			split(&rows, (*[tileRow]byte)(block[w*tileRow:]))
			for i := range rows {
				op.perm.row(j.Row(g + 2*w + i)[2*c:2*(c+tileN)], rows[i][:])
			}
		}
	}
	if g := groups - 1; groups%2 == 1 {
		for r := range tileN {
			copy(rows[0][2*r:2*r+2], src[2*(r*groups+g):])
		}
		op.perm.row(j.Row(g)[2*c:2*(c+tileN)], rows[0][:])
	}
}

// splitWords takes the halves of words apart. It is the reference.
func splitWords(rows *[2][2 * tileN]byte, words *[tileRow]byte) {
	for i := range tileN / 4 {
		w := (*[16]byte)(words[16*i:])
		a, b := binary.LittleEndian.Uint64(w[0:]), binary.LittleEndian.Uint64(w[8:])
		low := a&0xFFFF | a>>32<<16&0xFFFF_0000 | b<<32&0xFFFF_0000_0000 | b>>32<<48
		high := a>>16&0xFFFF | a>>48<<16 | b<<16&0xFFFF_0000_0000 | b>>48<<48
		binary.LittleEndian.PutUint64(rows[0][8*i:], low)
		binary.LittleEndian.PutUint64(rows[1][8*i:], high)
	}
}
