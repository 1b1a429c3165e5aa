package repack

import "encoding/binary"

// fp4ScaleOrder is the order of FP4 scales in a row, in blocks of 64: out[64B + 8a + c] = in[64B + a + fp4ScaleOrder[c]]. It is that of
// grouped scales, with the second and third of every four changing places. Source: LAYOUTS C4.
var fp4ScaleOrder = [8]int{0, 16, 8, 24, 32, 48, 40, 56}

// fp4ScaleRows writes four rows of 64 permuted scales, stride bytes apart. words has one word for each column, with the scales of the four
// groups in its bytes. It is the reference.
func fp4ScaleRows(dst []byte, stride int, words *[tileRow]byte) {
	for a := range 8 {
		var x [8]uint64 // eight columns that become neighbours
		for c, at := range fp4ScaleOrder {
			x[c] = uint64(binary.LittleEndian.Uint32(words[4*(a+at):]))
		}
		// Bytes of words are transposed in both halves at once.
		p, q := exchangeBytes(x[0]|x[4]<<32, x[1]|x[5]<<32)
		r, s := exchangeBytes(x[2]|x[6]<<32, x[3]|x[7]<<32)
		p, r = exchangePairs(p, r)
		q, s = exchangePairs(q, s)
		out := dst[8*a:]
		binary.LittleEndian.PutUint64(out, p)
		binary.LittleEndian.PutUint64(out[stride:], q)
		binary.LittleEndian.PutUint64(out[2*stride:], r)
		binary.LittleEndian.PutUint64(out[3*stride:], s)
	}
}

// exchangeBytes lets the odd bytes of x and the even ones of y change places.
func exchangeBytes(x, y uint64) (newX, newY uint64) {
	t := (x>>8 ^ y) & 0x00FF_00FF_00FF_00FF
	return x ^ t<<8, y ^ t
}

// exchangePairs does so with pairs of bytes.
func exchangePairs(x, y uint64) (newX, newY uint64) {
	t := (x>>16 ^ y) & 0x0000_FFFF_0000_FFFF
	return x ^ t<<16, y ^ t
}
