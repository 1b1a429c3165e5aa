package repack

import "encoding/binary"

// marlin8Row repacks one row of 8-bit tiles: rows are the four GPTQ rows (4 input features each, one word a column) of 16 input features,
// dst the row of 4N Marlin words. len(rows[i]) = 4N, len(dst) = 16N bytes, N a multiple of 64.
//
// It is the reference: column 16j+8h+c0 of a tile gives the output words 32*c0 + 8q + 2j + h, q = 0..3, whose bytes come from two source
// rows, two bytes of each.
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
	_ = dst[1023]
	for c0 := range 8 {
		for j := range 4 {
			for h := range 2 {
				in := 4 * (16*j + 8*h + c0)
				out := 4 * (32*c0 + 2*j + h)
				for q := range 4 {
					a, b := binary.LittleEndian.Uint32(x[q/2][in:]), binary.LittleEndian.Uint32(x[2+q/2][in:])
					s := 16 * (q % 2)
					a, b = a>>s, b>>s
					w := a&0xFF | b&0xFF<<8 | a&0xFF00<<8 | b&0xFF00<<16
					binary.LittleEndian.PutUint32(dst[out+32*q:], w)
				}
			}
		}
	}
}
