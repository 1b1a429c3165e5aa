package repack

import "encoding/binary"

// marlin8Row repacks one row of 8-bit tiles: rows are the four GPTQ rows (4 input features each, one word a column) of 16 input features,
// dst the row of 4N Marlin words. len(rows[i]) = 4N, len(dst) = 16N bytes, N a multiple of 64.
//
// It is the reference: column 16j+8h+c0 of a tile gives the output words 32*c0 + 8q + 2j + h, q = 0..3. Those of q = 0 and 1 come from
// packed rows 0 and 2, the others from rows 1 and 3: a 4x2 transpose of bytes.
func marlin8Row(dst []byte, rows *[4][]byte) {
	for t := 0; len(dst) >= 16*tileN; t++ {
		var x [4][]byte
		for i := range x {
			x[i] = rows[i][4*tileN*t : 4*tileN*(t+1) : 4*tileN*(t+1)]
		}
		marlin8Tile(dst[:16*tileN:16*tileN], &x)
		dst = dst[16*tileN:]
	}
}

func marlin8Tile(dst []byte, x *[4][]byte) {
	for c0 := 0; c0 < 8; c0 += 2 { // columns c0 and c0+1 are the halves of a 64-bit word
		for p := range 2 {
			a, b, d := (*[232]byte)(x[p][4*c0:]), (*[232]byte)(x[2+p][4*c0:]), (*[192]byte)(dst[128*c0+64*p:])
			for j := range 4 {
				a, b, d := (*[40]byte)(a[64*j:]), (*[40]byte)(b[64*j:]), (*[168]byte)(d[8*j:])
				x0, x1 := marlin8Words(binary.LittleEndian.Uint64(a[:]), binary.LittleEndian.Uint64(b[:]))
				y0, y1 := marlin8Words(binary.LittleEndian.Uint64(a[32:]), binary.LittleEndian.Uint64(b[32:]))
				binary.LittleEndian.PutUint64(d[0:], uint64(uint32(x0))|y0<<32)
				binary.LittleEndian.PutUint64(d[32:], uint64(uint32(x1))|y1<<32)
				binary.LittleEndian.PutUint64(d[128:], x0>>32|y0>>32<<32)
				binary.LittleEndian.PutUint64(d[160:], x1>>32|y1>>32<<32)
			}
		}
	}
}

// marlin8Words makes the words of an even q and of the next, for two columns.
func marlin8Words(a, b uint64) (w0, w1 uint64) {
	a, b = exchange(a, b, evenBytes, 8)
	return exchange(a, b, evenPairs, 16)
}
