package repack

import "encoding/binary"

const (
	tileK = 16 // input features in one row of Marlin tiles
	tileN = 64 // output features in one tile

	loNibbles = 0x0F0F_0F0F_0F0F_0F0F
	hiNibbles = loNibbles << 4
	evenBytes = 0x00FF_00FF_00FF_00FF
	oddBytes  = evenBytes << 8
	evenPairs = 0x0000_FFFF_0000_FFFF
	oddPairs  = evenPairs << 16
)

// marlin4Row repacks one row of 4-bit tiles: lo and hi are the two GPTQ rows (8 input features each, one word a column) of 16 input
// features, dst the row of 2N Marlin words. len(lo) = len(hi) = 4N, len(dst) = 8N bytes, N a multiple of 64.
//
// It is the reference: a tile's column c0+16j and its neighbour 8 further give the four output words 16*c0 + 4q + j, q = 0..3. Even and
// odd nibbles of the four input words are gathered, then a 4x4 transpose of bytes puts them in place.
func marlin4Row(dst, lo, hi []byte) {
	for len(dst) >= 8*tileN {
		marlin4Tile(dst[:8*tileN:8*tileN], lo[:4*tileN:4*tileN], hi[:4*tileN:4*tileN])
		dst, lo, hi = dst[8*tileN:], lo[4*tileN:], hi[4*tileN:]
	}
}

func marlin4Tile(dst, lo, hi []byte) {
	_, _, _ = dst[511], lo[255], hi[255]
	for c0 := 0; c0 < 8; c0 += 2 { // columns c0 and c0+1 are the halves of a 64-bit word
		for j := range 4 {
			in := 4 * (16*j + c0)
			a, a2 := binary.LittleEndian.Uint64(lo[in:]), binary.LittleEndian.Uint64(lo[in+32:])
			b, b2 := binary.LittleEndian.Uint64(hi[in:]), binary.LittleEndian.Uint64(hi[in+32:])

			e, o := a&loNibbles|(b&loNibbles)<<4, a>>4&loNibbles|b&hiNibbles
			e2, o2 := a2&loNibbles|(b2&loNibbles)<<4, a2>>4&loNibbles|b2&hiNibbles

			t0, t1 := e&evenBytes|(e2&evenBytes)<<8, e>>8&evenBytes|e2&oddBytes
			u0, u1 := o&evenBytes|(o2&evenBytes)<<8, o>>8&evenBytes|o2&oddBytes

			w0, w1 := t0&evenPairs|(u0&evenPairs)<<16, t1&evenPairs|(u1&evenPairs)<<16
			w2, w3 := t0>>16&evenPairs|u0&oddPairs, t1>>16&evenPairs|u1&oddPairs

			out := dst[4*(16*c0+j):][:116:116]
			binary.LittleEndian.PutUint32(out, uint32(w0))
			binary.LittleEndian.PutUint32(out[16:], uint32(w1))
			binary.LittleEndian.PutUint32(out[32:], uint32(w2))
			binary.LittleEndian.PutUint32(out[48:], uint32(w3))
			binary.LittleEndian.PutUint32(out[64:], uint32(w0>>32))
			binary.LittleEndian.PutUint32(out[80:], uint32(w1>>32))
			binary.LittleEndian.PutUint32(out[96:], uint32(w2>>32))
			binary.LittleEndian.PutUint32(out[112:], uint32(w3>>32))
		}
	}
}
