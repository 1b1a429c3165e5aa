package repack

import "encoding/binary"

const (
	tileK = 16 // input features in one row of Marlin tiles
	tileN = 64 // output features in one tile

	loNibbles = 0x0F0F_0F0F_0F0F_0F0F
	evenBytes = 0x00FF_00FF_00FF_00FF
	evenPairs = 0x0000_FFFF_0000_FFFF
)

// marlin4Row repacks one row of 4-bit tiles: lo and hi are the two GPTQ rows (8 input features each, one word a column) of 16 input
// features, dst the row of 2N Marlin words. len(lo) = len(hi) = 4N, len(dst) = 8N bytes, N a multiple of 64.
//
// It is the reference: a tile's column c0+16j and its neighbour 8 further give the four output words 16*c0 + 4q + j, q = 0..3. The odd
// nibbles of the upper input words change places with the even ones of the lower, and a 4x4 transpose of bytes puts them in order.
func marlin4Row(dst, lo, hi []byte) {
	for len(dst) >= 8*tileN {
		marlin4Tile(dst[:8*tileN:8*tileN], lo[:4*tileN:4*tileN], hi[:4*tileN:4*tileN])
		dst, lo, hi = dst[8*tileN:], lo[4*tileN:], hi[4*tileN:]
	}
}

func marlin4Tile(dst, lo, hi []byte) {
	for c0 := 0; c0 < 8; c0 += 2 { // columns c0 and c0+1 are the halves of a 64-bit word
		l, h, d := (*[232]byte)(lo[4*c0:]), (*[232]byte)(hi[4*c0:]), (*[128]byte)(dst[64*c0:])
		marlin4Pair((*[120]byte)(d[0:]), (*[104]byte)(l[0:]), (*[104]byte)(h[0:]))
		marlin4Pair((*[120]byte)(d[8:]), (*[104]byte)(l[128:]), (*[104]byte)(h[128:]))
	}
}

// marlin4Pair makes the words of j and j+1, which lie side by side: with half as many stores, more lines of memory are under way at once.
func marlin4Pair(dst *[120]byte, lo, hi *[104]byte) {
	x0, x1, x2, x3 := marlin4Words(
		binary.LittleEndian.Uint64(lo[0:]), binary.LittleEndian.Uint64(hi[0:]),
		binary.LittleEndian.Uint64(lo[32:]), binary.LittleEndian.Uint64(hi[32:]))
	y0, y1, y2, y3 := marlin4Words(
		binary.LittleEndian.Uint64(lo[64:]), binary.LittleEndian.Uint64(hi[64:]),
		binary.LittleEndian.Uint64(lo[96:]), binary.LittleEndian.Uint64(hi[96:]))
	binary.LittleEndian.PutUint64(dst[0:], uint64(uint32(x0))|y0<<32)
	binary.LittleEndian.PutUint64(dst[16:], uint64(uint32(x1))|y1<<32)
	binary.LittleEndian.PutUint64(dst[32:], uint64(uint32(x2))|y2<<32)
	binary.LittleEndian.PutUint64(dst[48:], uint64(uint32(x3))|y3<<32)
	binary.LittleEndian.PutUint64(dst[64:], x0>>32|y0>>32<<32)
	binary.LittleEndian.PutUint64(dst[80:], x1>>32|y1>>32<<32)
	binary.LittleEndian.PutUint64(dst[96:], x2>>32|y2>>32<<32)
	binary.LittleEndian.PutUint64(dst[112:], x3>>32|y3>>32<<32)
}

// marlin4Words makes the words q = 0..3 of two columns: of a and b, which are theirs, and of a2 and b2, which are those 8 further. (It
// gets the words, not where they lie: that is a quarter faster.)
func marlin4Words(a, b, a2, b2 uint64) (w0, w1, w2, w3 uint64) {
	e, o := exchange(a, b, loNibbles, 4)
	e2, o2 := exchange(a2, b2, loNibbles, 4)
	t0, t1 := exchange(e, e2, evenBytes, 8)
	u0, u1 := exchange(o, o2, evenBytes, 8)
	w0, w2 = exchange(t0, u0, evenPairs, 16)
	w1, w3 = exchange(t1, u1, evenPairs, 16)
	return w0, w1, w2, w3
}

// exchange lets the bits of x that lie shift above the mask and those of y under the mask change places.
func exchange(x, y, mask uint64, shift uint) (newX, newY uint64) {
	t := (x>>shift ^ y) & mask
	return x ^ t<<shift, y ^ t
}
