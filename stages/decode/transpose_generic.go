package decode

// transposeGeneric writes rows x columns elements of size bytes (1, 2, 4 or 8) of src, the rows srcStride bytes apart, to dst: column c of row
// r is element r of row c, the rows of dst dstStride bytes apart. It is the reference for the kernels.
func transposeGeneric(dst, src []byte, dstStride, srcStride, rows, columns, size int) {
	turned, line := 0, 4
	switch size {
	case 2:
		turned = columns &^ 3
	case 4:
		turned, line = columns&^1, 2
	}
	done := 0 // rows of which the turned columns are written
	if turned > 0 {
		done = rows &^ (line - 1)
		for r := 0; r < done; r += line {
			for c := 0; c < turned; c += line {
				if size == 2 {
					turn4x4(dst[c*dstStride+2*r:], src[r*srcStride+2*c:], dstStride, srcStride)
				} else {
					turn2x2(dst[c*dstStride+4*r:], src[r*srcStride+4*c:], dstStride, srcStride)
				}
			}
		}
	}
	for r := range rows {
		first := 0
		if r < done {
			first = turned
		}
		for c := first; c < columns; c++ {
			copy(dst[c*dstStride+r*size:c*dstStride+r*size+size], src[r*srcStride+c*size:])
		}
	}
}

// turn4x4 transposes 4 x 4 elements of 16 bits: first pairs of words, then the halves of each.
func turn4x4(dst, src []byte, dstStride, srcStride int) {
	a, b := le.Uint64(src), le.Uint64(src[srcStride:])
	c, d := le.Uint64(src[2*srcStride:]), le.Uint64(src[3*srcStride:])
	const even = 0x0000FFFF0000FFFF
	ab0, ab1 := a&even|b&even<<16, a>>16&even|b&^even // columns 0 and 2, and 1 and 3, of rows 0 and 1
	cd0, cd1 := c&even|d&even<<16, c>>16&even|d&^even
	const low = 0x00000000FFFFFFFF
	le.PutUint64(dst, ab0&low|cd0<<32)
	le.PutUint64(dst[dstStride:], ab1&low|cd1<<32)
	le.PutUint64(dst[2*dstStride:], ab0>>32|cd0&^low)
	le.PutUint64(dst[3*dstStride:], ab1>>32|cd1&^low)
}

// turn2x2 transposes 2 x 2 elements of 32 bits.
func turn2x2(dst, src []byte, dstStride, srcStride int) {
	a, b := le.Uint64(src), le.Uint64(src[srcStride:])
	le.PutUint64(dst, a&0xFFFFFFFF|b<<32)
	le.PutUint64(dst[dstStride:], a>>32|b&^0xFFFFFFFF)
}
