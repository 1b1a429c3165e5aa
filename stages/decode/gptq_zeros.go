package decode

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"

	"github.com/coldload/coldload/stages"
)

// planes are the widths that make up a number of bits in planar packing (GPTQModel's gptq_p): every 32 codes take that many words, plane
// by plane from the low bits up. A plane of width w takes w words, 32/w codes in each.
var planes = [9][]int{2: {2}, 3: {2, 1}, 4: {4}, 5: {4, 1}, 6: {4, 2}, 7: {4, 2, 1}, 8: {8}}

// oneplane are the widths of codes that lie one after the other: 32 of them are one plane, as wide as a code.
var oneplane = [9][]int{{}, {1}, {2}, {3}, {4}, {5}, {6}, {7}, {8}}

func planesOf(bits int, planar bool) []int {
	if planar {
		return planes[bits]
	}
	return oneplane[bits]
}

// zeroRow is a row of packed zero points.
type zeroRow struct {
	b      []byte
	bits   int
	planes []int
}

// field is the one of column n, as it is stored.
func (r zeroRow) field(n int) int {
	code, off := 0, 0
	for _, width := range r.planes {
		at := 32*(n/32*r.bits+off) + width*(n%32) // in bits
		code |= r.read(at, width) << off
		off += width
	}
	return code
}

// read is width bits from bit at on. They may lie in two bytes, and a row is not always a whole number of blocks of 32 fields.
func (r zeroRow) read(at, width int) int {
	v := int(r.b[at/8])
	if next := at/8 + 1; next < len(r.b) {
		v |= int(r.b[next]) << 8
	}
	return v >> (at % 8) & (1<<width - 1)
}

// full reports whether a field of the word that holds column n is all ones: then adding one would carry, and readers disagree. Fields that
// do not fill words are looked at one by one.
func (r zeroRow) full(n int) bool {
	if 32%r.bits != 0 {
		return r.field(n) == 1<<r.bits-1
	}
	w := r.word(n)
	for by := 1; by < r.bits; by *= 2 {
		w &= w >> by // the lowest bit of a field gathers all of them
	}
	return w&r.ones() != 0
}

// word is the one that holds column n. Fields fill words.
func (r zeroRow) word(n int) uint32 { return binary.LittleEndian.Uint32(r.b[r.bits*n/32*4:]) }

// ones is one in every field of a word.
func (r zeroRow) ones() uint32 { return math.MaxUint32 / (1<<r.bits - 1) }

// wrapped is the zero point of column n after one whole-word add of one to every field. Fields fill words.
func (r zeroRow) wrapped(n int) int {
	return int((r.word(n) + r.ones()) >> (r.bits * n % 32) & (1<<r.bits - 1))
}

// fullField is the error for a zero point that readers understand differently.
func fullField(tensor string, g, n, bits int) *stages.DataError {
	most := 1<<bits - 1
	return &stages.DataError{
		Tensor: tensor, Problem: fmt.Sprintf("a zero point of group %d near output %d is stored as %d, all ones", g, n, most),
		Expected: fmt.Sprintf("at most %d in checkpoint_format gptq", most-1), Found: strconv.Itoa(most),
		Advice: "the writer's meaning is ambiguous: convert the checkpoint to gptq_v2",
	}
}

// CheckZeroFields makes the Op that refuses stored zero points of all ones, for a layout whose kernels add one to what is stored (they lie
// one after the other, as in checkpoint_format gptq): they read 2^bits, other readers wrap to 0 or carry.
//
// Input: one, qzeros: I32 [groups, columns*bits/32]. No destination.
func CheckZeroFields(bits, groups int) stages.Op { return checkZeroFields{bits: bits, groups: groups} }

type checkZeroFields struct{ bits, groups int }

func (checkZeroFields) Phase() stages.Phase { return stages.PhaseDecode }
func (op checkZeroFields) String() string   { return fmt.Sprintf("check %d-bit zero points", op.bits) }

func (op checkZeroFields) Run(j *stages.Job) error {
	if err := wantInputs(op, j, 1); err != nil {
		return err
	}
	size := len(j.Src[0]) / op.groups
	if size*op.groups != len(j.Src[0]) || size%4 != 0 {
		return fmt.Errorf("%s: %d bytes are no %d rows of whole words", op, len(j.Src[0]), op.groups)
	}
	for g := range op.groups {
		row := zeroRow{b: j.Src[0][g*size : (g+1)*size], bits: op.bits, planes: planesOf(op.bits, false)}
		step := 1
		if 32%op.bits == 0 {
			step = 32 / op.bits
		}
		for n := 0; n < 8*size/op.bits; n += step {
			if row.full(n) {
				return fullField(j.Inputs[0].Tensor, g, n, op.bits)
			}
		}
	}
	return nil
}
