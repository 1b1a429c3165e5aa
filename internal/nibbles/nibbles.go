// Package nibbles has what the formats of 4-bit codes share: eight codes to a 32-bit word.
package nibbles

// EvensFirst is an order in which formats and kernels keep eight neighbours in a word: the even ones, then the odd ones. Field p holds
// neighbour EvensFirst[p].
var EvensFirst = [8]uint8{0, 2, 4, 6, 1, 3, 5, 7}

// FieldOf is the inverse: neighbour i is in field FieldOf[i].
var FieldOf = [8]uint8{0, 4, 1, 5, 2, 6, 3, 7}

// Natural puts the fields of a word that is EvensFirst into the order of the neighbours.
func Natural(w uint32) uint32 { return spread(w&0xFFFF) | spread(w>>16)<<4 }

// spread moves nibbles 0 to 3 to 0, 2, 4 and 6.
func spread(w uint32) uint32 {
	w = (w | w<<8) & 0x00FF_00FF
	return (w | w<<4) & 0x0F0F_0F0F
}

// Transpose makes nibble i of word j nibble j of word i, in the lower and in the upper halves of w: two transposes for the price of one.
func Transpose(w *[8]uint64) {
	const nibbles, bytes, pairs = 0x0F0F_0F0F_0F0F_0F0F, 0x00FF_00FF_00FF_00FF, 0x0000_FFFF_0000_FFFF
	a, b := exchange(w[0], w[1], nibbles, 4) // written out, the words stay in registers
	c, d := exchange(w[2], w[3], nibbles, 4)
	e, f := exchange(w[4], w[5], nibbles, 4)
	g, h := exchange(w[6], w[7], nibbles, 4)
	a, c = exchange(a, c, bytes, 8)
	b, d = exchange(b, d, bytes, 8)
	e, g = exchange(e, g, bytes, 8)
	f, h = exchange(f, h, bytes, 8)
	w[0], w[4] = exchange(a, e, pairs, 16)
	w[1], w[5] = exchange(b, f, pairs, 16)
	w[2], w[6] = exchange(c, g, pairs, 16)
	w[3], w[7] = exchange(d, h, pairs, 16)
}

// exchange lets the bits of x that lie shift above the mask and those of y under the mask change places.
func exchange(x, y, mask uint64, shift uint) (newX, newY uint64) {
	t := (x>>shift ^ y) & mask
	return x ^ t<<shift, y ^ t
}
