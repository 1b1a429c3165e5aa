package repack

import (
	"fmt"

	"github.com/coldload/coldload/stages"
)

// GPTQMarlin makes the Op that repacks symmetric GPTQ codes of 4 or 8 bits without act-order to Marlin words.
//
// Input: one, rows of qweight: I32 [R*bits/2, N], 32/bits codes a word along K. Destination: R rows of N*bits/2 words, row r holding the
// input features 16r..16r+15 of the Part. N is a multiple of 64.
//
// 4 bits: element (k, n) is nibble (k%16)/8 + 2((n%16)/8) + 4(k%2) of word 128(n/64) + 16(n%8) + 4((k%8)/2) + (n%64)/16 of row k/16.
// 8 bits: byte (k%16)/8 + 2(k%2) of word 256(n/64) + 32(n%8) + 8((k%8)/2) + 2((n%64)/16) + (n%16)/8.
func GPTQMarlin(bits int) (stages.Op, error) {
	if err := checkBits(bits); err != nil {
		return nil, err
	}
	return gptqMarlin{bits: bits}, nil
}

func checkBits(bits int) error {
	if bits != 4 && bits != 8 {
		return fmt.Errorf("repack: marlin has 4 or 8 bits, not %d", bits)
	}
	return nil
}

type gptqMarlin struct{ bits int }

func (gptqMarlin) Phase() stages.Phase { return stages.PhaseRepack }
func (op gptqMarlin) String() string   { return fmt.Sprintf("repack gptq %d-bit to marlin", op.bits) }

func (op gptqMarlin) Run(j *stages.Job) error {
	n, err := marlinColumns(op, j, op.bits)
	if err != nil {
		return err
	}
	if err := wantSources(op, j, j.Rows*j.RowBytes); err != nil {
		return err
	}
	(&marlinRect{dst: j.Dst, stride: j.Stride, rows: j.Rows, n: n, src: j.Src[0], soon: j.Soon}).repack(op.bits)
	return nil
}

// marlinColumns is N, from the bytes of a destination row.
func marlinColumns(op stages.Op, j *stages.Job, bits int) (int, error) {
	n := j.RowBytes / (2 * bits)
	if n%tileN != 0 || j.RowBytes%(2*bits) != 0 {
		return 0, fmt.Errorf("%s: %d bytes a row are no whole tiles of %d columns", op, j.RowBytes, tileN)
	}
	return n, nil
}

// runWide is Run for columns that lie in longer packed rows, apart bytes from one to the next.
func (op gptqMarlin) runWide(j *stages.Job, apart int) error {
	n, err := marlinColumns(op, j, op.bits)
	if err != nil {
		return err
	}
	(&marlinRect{dst: j.Dst, stride: j.Stride, rows: j.Rows, n: n, src: j.Src[0], apart: apart, soon: j.Soon}).repack(op.bits)
	return nil
}

// marlinRow repacks the GPTQ rows of 16 input features, which lie apart bytes from one to the next in src.
func marlinRow(dst, src []byte, n, apart, bits int) {
	row := func(i int) []byte { return src[i*apart : i*apart+4*n] }
	if bits == 4 {
		marlin4Row(dst, row(0), row(1))
		return
	}
	marlin8Row(dst, &[4][]byte{row(0), row(1), row(2), row(3)})
}

// GPTQMarlinActOrder is GPTQMarlin for act-order: the input features are sorted by group first, stably.
//
// Inputs: the whole qweight I32 [K*bits/32, N] and g_idx I32 [K]. Destination: K/16 rows of N*bits/2 words.
func GPTQMarlinActOrder(bits, groups int) (stages.Op, error) {
	if err := checkBits(bits); err != nil {
		return nil, err
	}
	return gptqMarlinActOrder{actOrder{bits: bits, groups: groups}}, nil
}

type gptqMarlinActOrder struct{ actOrder }

func (op gptqMarlinActOrder) String() string {
	return fmt.Sprintf("repack gptq %d-bit act-order to marlin", op.bits)
}

func (op gptqMarlinActOrder) Run(j *stages.Job) error {
	n, o, err := op.begin(op, j)
	if err != nil {
		return err
	}
	lines := o.lines(op.bits)
	eachStrip(j.Src[0], n, j.Rows*op.bits/2, op.bits, func(c int, strip []byte) { op.repackStrip(j, c, strip, lines) })
	return nil
}

// wantSources checks that the Job has one source for each size, of exactly that many bytes.
func wantSources(op stages.Op, j *stages.Job, sizes ...int) error {
	if len(j.Src) != len(sizes) {
		return fmt.Errorf("%s: %d inputs, want %d", op, len(j.Src), len(sizes))
	}
	for i, n := range sizes {
		if len(j.Src[i]) != n {
			return fmt.Errorf("%s: input %d has %d bytes, want %d", op, i, len(j.Src[i]), n)
		}
	}
	return nil
}

// GPTQMarlin4 is GPTQMarlin of 4 bits.
func GPTQMarlin4() stages.Op { return gptqMarlin{bits: 4} }
