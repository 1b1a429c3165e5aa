package synth

import (
	"encoding/binary"
	"math/bits"

	"github.com/coldload/coldload/safetensors"
)

// Fill makes the bytes of one tensor. It is immutable and safe for concurrent use.
type Fill interface {
	// Fill writes the len(dst) bytes of the tensor that start at byte off. The bytes do not depend on how the tensor is cut into calls.
	Fill(dst []byte, off int64)
}

// Random is a Fill of reproducible random values. Floating-point types get small finite values (from 2^-11 to 2^-7 or nearly so, of either
// sign, and exact in F16 when the type is BF16, so that no cast overflows); BOOL gets 0 and 1; integers get random bits.
func Random(d safetensors.DType, seed uint64) Fill {
	if m, ok := masks[d]; ok {
		return masked(seed, m.and, m.or)
	}
	return masked(seed, ^uint64(0), 0)
}

// masks are the bits that Random keeps and sets in every 8 bytes of a type that does not take all values.
var masks = map[safetensors.DType]struct{ and, or uint64 }{
	safetensors.BOOL: {0x0101010101010101, 0},
	safetensors.BF16: {0x81FF81FF81FF81FF, 0x3A003A003A003A00}, // sign, 2 of the exponent's bits, mantissa
	safetensors.F16:  {0x8FFF8FFF8FFF8FFF, 0x1000100010001000},
	safetensors.F32:  {0x81FFFFFF81FFFFFF, 0x3A0000003A000000},
	safetensors.C64:  {0x81FFFFFF81FFFFFF, 0x3A0000003A000000},
	safetensors.F64:  {0x803FFFFFFFFFFFFF, 0x3F40000000000000},
	// Positive, and below the exponents of NaN and infinity.
	safetensors.F8E4M3:     {0x3F3F3F3F3F3F3F3F, 0},
	safetensors.F8E4M3FNUZ: {0x3F3F3F3F3F3F3F3F, 0},
	safetensors.F8E5M2:     {0x3F3F3F3F3F3F3F3F, 0},
	safetensors.F8E5M2FNUZ: {0x3F3F3F3F3F3F3F3F, 0},
	safetensors.F8E8M0:     {0x0707070707070707, 0x7878787878787878}, // 2^-7 to 1
}

// Constant is a Fill that repeats pattern; an empty pattern means zeros.
func Constant(pattern ...byte) Fill {
	if len(pattern) == 0 {
		pattern = []byte{0}
	}
	return constantFill(pattern)
}

// f16Scales are positive F16 values in [2^-7, 2^-6), evenly spread: what a quantiser's scales look like.
func f16Scales(seed uint64) Fill { return masked(seed, 0x03FF03FF03FF03FF, 0x2000200020002000) }

// bf16Norms are BF16 values in [1, 1.125): what a norm's weights look like.
func bf16Norms(seed uint64) Fill { return masked(seed, 0x000F000F000F000F, 0x3F803F803F803F80) }

// masked keeps the bits of and, and sets those of or, in every 8 bytes of a random stream.
func masked(seed, and, or uint64) Fill { return randomFill{seed: seed, and: and, or: or} }

// randomFill is a stream of 8-byte words; word i is a hash of seed and i (wyrand), which needs no state and one multiplication a word.
type randomFill struct{ seed, and, or uint64 }

const (
	wyStep = 0xa0761d6478bd642f
	wyMix  = 0xe7037ed1a0b428db

	wyStep2 = wyStep * 2 & (1<<64 - 1)
	wyStep3 = wyStep * 3 & (1<<64 - 1)
	wyStep4 = wyStep * 4 & (1<<64 - 1)
)

func wyhash(x uint64) uint64 {
	hi, lo := bits.Mul64(x, x^wyMix)
	return hi ^ lo
}

func (f randomFill) word(i uint64) uint64 { return wyhash(f.seed+i*wyStep)&f.and | f.or }

func (f randomFill) Fill(dst []byte, off int64) {
	i := uint64(off) / 8
	var edge [8]byte
	if head := off % 8; head != 0 {
		binary.LittleEndian.PutUint64(edge[:], f.word(i))
		dst = dst[copy(dst, edge[head:]):]
		i++
	}
	n := len(dst) / 8 * 8
	f.words(dst[:n], i)
	if n < len(dst) {
		binary.LittleEndian.PutUint64(edge[:], f.word(i+uint64(n/8)))
		copy(dst[n:], edge[:])
	}
}

// words fills dst, whose length is a multiple of 8, from word i on. Four words a turn keep the multiplier busy.
func (f randomFill) words(dst []byte, i uint64) {
	x := f.seed + i*wyStep
	for ; len(dst) >= 32; dst = dst[32:] {
		binary.LittleEndian.PutUint64(dst, wyhash(x)&f.and|f.or)
		binary.LittleEndian.PutUint64(dst[8:], wyhash(x+wyStep)&f.and|f.or)
		binary.LittleEndian.PutUint64(dst[16:], wyhash(x+wyStep2)&f.and|f.or)
		binary.LittleEndian.PutUint64(dst[24:], wyhash(x+wyStep3)&f.and|f.or)
		x += wyStep4
	}
	for ; len(dst) > 0; dst = dst[8:] {
		binary.LittleEndian.PutUint64(dst, wyhash(x)&f.and|f.or)
		x += wyStep
	}
}

type constantFill []byte

func (f constantFill) Fill(dst []byte, off int64) {
	at := int(off % int64(len(f)))
	n := copy(dst, f[at:])
	for n < len(dst) && n < len(f) {
		n += copy(dst[n:], f) // one whole period
	}
	for n < len(dst) { // then double what is there, which keeps the period
		n += copy(dst[n:], dst[n%len(f):n])
	}
}

// groupFill is a trivial g_idx: input row k is in group k/group.
type groupFill struct{ group int64 }

func (f groupFill) Fill(dst []byte, off int64) {
	fillInt32(dst, off, func(k int64) int32 { return int32(k / f.group) })
}

// orderFill is the g_idx of act-order: every group keeps its number of rows, in a random order over all rows.
type orderFill struct {
	seed        uint64
	rows, group int64
}

func (f orderFill) Fill(dst []byte, off int64) {
	idx := ActOrder(f.seed, int(f.rows), int(f.group))
	fillInt32(dst, off, func(k int64) int32 { return idx[k] })
}

// ActOrder is a g_idx as act-order leaves it: rows entries, in which every group of the given number of rows occurs as often as in the
// trivial one. The same seed gives the same order.
func ActOrder(seed uint64, rows, group int) []int32 {
	idx := make([]int32, rows)
	for k := range idx {
		idx[k] = int32(k / group)
	}
	random := randomFill{seed: seed, and: ^uint64(0)}
	for i := rows - 1; i > 0; i-- { // Fisher-Yates
		j, _ := bits.Mul64(random.word(uint64(i)), uint64(i+1))
		idx[i], idx[j] = idx[j], idx[i]
	}
	return idx
}

// fillInt32 writes the little-endian values at(0), at(1), ... from byte off on; a piece may begin and end inside a value.
func fillInt32(dst []byte, off int64, at func(int64) int32) {
	var edge [4]byte
	for i := off / 4; len(dst) > 0; i++ {
		binary.LittleEndian.PutUint32(edge[:], uint32(at(i)))
		n := copy(dst, edge[off%4:])
		dst, off = dst[n:], off+int64(n)
	}
}

// tensorSeed gives every tensor a stream of its own.
func tensorSeed(seed uint64, name string) uint64 {
	h := uint64(14695981039346656037) // FNV-1a
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 1099511628211
	}
	return wyhash(h ^ wyhash(seed+wyStep))
}
