package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

func repack() {
	for _, nt := range []bool{false, true} {
		marlin4VBMI(nt)
		marlin4AVX512(nt)
		marlin4AVX2(nt)
		marlin8AVX512(nt)
		marlin8AVX2(nt)
		awqMarlinAVX512(nt)
		awqMarlinAVX2(nt)
	}
	gather(4)
	gather(8)
	actOrder()
	permutations()
	rowsMarlins()
	transposes()
	transposedScales()
	scalesOfNVFP4()
	exllama()
}

const marlinArgs = "func(dst, src *byte, tiles, rows, dstStride, srcStride, ahead, gap, step int)"

// marlin is the frame of a repack kernel: it walks over rows of tiles. src is the first packed row; a tile reads packed of them,
// srcStride bytes apart and 256 bytes of each. tile emits the work on one tile, with what it needs in the registers below; size is the
// bytes of a tile in dst.
//
// The sources of a row of tiles are several streams, which start anywhere in a line. The hardware follows them badly when they are short,
// so a kernel prefetches what the caller says: for every tile, 256 bytes at each of packed places that are gap bytes apart, the first
// ahead bytes behind the row's first and step bytes further for every tile.
func marlin(name string, nt bool, packed, size int, setup, tile func()) {
	doc := name + " repacks rows of tiles (dst: dstStride bytes apart; src: packed rows, srcStride bytes apart)."
	if nt {
		name += "NT"
		doc = name + " is the same with non-temporal stores: dst and dstStride are multiples of 64."
	}
	function(name, marlinArgs, doc)
	Load(Param("dst"), R9)
	Load(Param("src"), R10)
	Load(Param("rows"), R11)
	Load(Param("dstStride"), R12)
	Load(Param("srcStride"), R13)
	Load(Param("gap"), R8)
	setup()
	row, each := name+"Row", name+"Tile"
	Label(row)
	MOVQ(R9, RDI)
	MOVQ(R10, RSI)
	LEAQ(plus(R10, R13, 0), RDX)
	Load(Param("tiles"), RCX)
	Load(Param("ahead"), RAX)
	ADDQ(R10, RAX)
	Label(each)
	lines := func(base Register) { // in this order: of a contiguous source the hardware then sees a stream
		for off := 0; off < 256; off += 64 {
			PREFETCHT0(at(base, off))
		}
		for off := 0; off < 256; off += 64 {
			PREFETCHT0(plus(base, R8, off))
		}
	}
	lines(RAX)
	if packed == 4 {
		LEAQ(Mem{Base: RAX, Index: R8, Scale: 2}, RBX)
		lines(RBX)
	}
	ADDQ(NewParamAddr("step", 64), RAX)
	tile()
	ADDQ(U32(256), RSI)
	ADDQ(U32(256), RDX)
	ADDQ(U32(uint32(size)), RDI)
	DECQ(RCX)
	JNZ(LabelRef(each))
	ADDQ(R12, R9)
	for range packed / 2 {
		LEAQ(Mem{Base: R10, Index: R13, Scale: 2}, R10)
	}
	DECQ(R11)
	JNZ(LabelRef(row))
	leave(nt)
}

// The registers of the frame.
var (
	tileDst = RDI
	rowA    = RSI // packed row 0 of the tile
	rowB    = RDX // packed row 1
	stride  = R13
)

// rowC and rowD are off bytes into packed rows 2 and 3 of the tile.
func rowC(off int) Mem { return Mem{Base: rowA, Index: stride, Scale: 2, Disp: off} }
func rowD(off int) Mem { return Mem{Base: rowB, Index: stride, Scale: 2, Disp: off} }

// splitNibbles leaves the even nibbles of a and b in a, the odd ones in spare: a | b<<4 byte by byte. It destroys b. mask is 0F0F0F0F.
func splitNibbles512(a, b, mask, spare, spare2 VecPhysical) (even, odd VecPhysical) {
	VPSRLD(U8(4), a, spare)
	VPSLLD(U8(4), b, spare2)
	VPTERNLOGD(U8(0xE2), spare2, mask, a) // mask ? a : b<<4
	VPTERNLOGD(U8(0xE2), b, mask, spare)  // mask ? a>>4 : b
	return a, spare
}

var (
	index4   = [4]Mem{}
	hasIndex bool
)

// interleave are the indices that interleave the lower, then the upper halves of two registers: by dwords, by qwords.
func interleave() [4]Mem {
	if hasIndex {
		return index4
	}
	hasIndex = true
	var d [2][]uint32
	var q [2][]uint64
	for half := range 2 {
		for i := range uint32(8) {
			d[half] = append(d[half], 8*uint32(half)+i, 16+8*uint32(half)+i)
		}
		for i := range uint64(4) {
			q[half] = append(q[half], 4*uint64(half)+i, 8+4*uint64(half)+i)
		}
	}
	index4 = [4]Mem{
		dwordsTable("interleaveLowD", d[0]), dwordsTable("interleaveHighD", d[1]),
		qwordsTable("interleaveLowQ", q[0]), qwordsTable("interleaveHighQ", q[1]),
	}
	return index4
}

var marlin4Index Mem

// marlin4VBMI: for each of the four groups of 16 columns, one VPERMT2B per half makes output dwords d = 4c+q of bytes
// L[4c+q], L[32+4c+q], H[4c+q], H[32+4c+q]; then the four groups are interleaved.
func marlin4VBMI(nt bool) {
	if !nt {
		var idx []uint8
		for d := range uint8(32) {
			idx = append(idx, d, 32+d, 64+d, 96+d)
		}
		marlin4Index = bytesTable("marlin4Bytes", idx)
	}
	order := interleave()
	mask, lowB, highB, lowD, highD, lowQ, highQ := Z31, Z30, Z29, Z28, Z27, Z26, Z25
	put := store(unaligned512)
	if nt {
		put = nonTemporal
	}
	marlin("marlin4VBMI", nt, 2, 512, func() {
		VPBROADCASTD(dword("lowNibbles", 0x0F0F0F0F), mask)
		VMOVDQU64(marlin4Index, lowB)
		VMOVDQU64(marlin4Index.Offset(64), highB)
		for i, r := range []VecPhysical{lowD, highD, lowQ, highQ} {
			VMOVDQU64(order[i], r)
		}
	}, func() {
		var half [2][4]VecPhysical
		for j := range 4 {
			a, b, odd, tmp, low := zs[5*(j%2)], zs[5*(j%2)+1], zs[5*(j%2)+2], zs[5*(j%2)+3], zs[10+j]
			high := zs[14+j]
			VMOVDQU32(at(rowA, 64*j), a)
			VMOVDQU32(at(rowB, 64*j), b)
			splitNibbles512(a, b, mask, odd, tmp)
			VMOVDQA64(a, low)
			VPERMT2B(odd, lowB, low)
			VMOVDQA64(a, high)
			VPERMT2B(odd, highB, high)
			half[0][j], half[1][j] = low, high
		}
		for h, x := range half {
			// p, r: pairs (x0, x1) and (x2, x3) of dwords 0..7; q, s: of dwords 8..15.
			p, q, r, s := x[0], zs[0], x[2], zs[1]
			VMOVDQA64(x[0], q)
			VMOVDQA64(x[2], s)
			VPERMT2D(x[1], lowD, p)
			VPERMT2D(x[1], highD, q)
			VPERMT2D(x[3], lowD, r)
			VPERMT2D(x[3], highD, s)
			for i, pair := range [][2]VecPhysical{{p, r}, {q, s}} {
				t := zs[2+i]
				VMOVDQA64(pair[0], t)
				VPERMT2Q(pair[1], lowQ, pair[0])
				VPERMT2Q(pair[1], highQ, t)
				put(pair[0], at(tileDst, 256*h+128*i))
				put(t, at(tileDst, 256*h+128*i+64))
			}
		}
	})
}

var marlin4Order [2]Mem

// marlin4AVX512 does without VBMI: columns 0-7 and 8-15 of a group are loaded as halves of different registers, so that interleaving
// bytes, then words, makes the output dwords. The lower half of a register is of groups 0 and 1, the upper half of groups 2 and 3.
func marlin4AVX512(nt bool) {
	if !nt {
		marlin4Order = [2]Mem{
			qwordsTable("marlin4Low", []uint64{0, 4, 1, 5, 8, 12, 9, 13}), qwordsTable("marlin4High", []uint64{2, 6, 3, 7, 10, 14, 11, 15}),
		}
	}
	mask, low, high := Z31, Z30, Z29
	put := store(unaligned512)
	if nt {
		put = nonTemporal
	}
	marlin("marlin4AVX512", nt, 2, 512, func() {
		VPBROADCASTD(dword("lowNibbles", 0x0F0F0F0F), mask)
		VMOVDQU64(marlin4Order[0], low)
		VMOVDQU64(marlin4Order[1], high)
	}, func() {
		var groups [2][4]VecPhysical
		for p := range 2 {
			var even, odd [2]VecPhysical
			for c := range 2 { // columns 0-7, 8-15
				a, b, o, t := zs[4*c], zs[4*c+1], zs[4*c+2], zs[4*c+3]
				off := 64*p + 32*c
				VMOVDQU(at(rowA, off), ys[4*c])
				VINSERTI64X4(U8(1), at(rowA, off+128), a, a)
				VMOVDQU(at(rowB, off), ys[4*c+1])
				VINSERTI64X4(U8(1), at(rowB, off+128), b, b)
				even[c], odd[c] = splitNibbles512(a, b, mask, o, t)
			}
			l0, l1, h0, h1 := Z8, Z9, Z10, Z11
			VPUNPCKLBW(even[1], even[0], l0)
			VPUNPCKHBW(even[1], even[0], l1)
			VPUNPCKLBW(odd[1], odd[0], h0)
			VPUNPCKHBW(odd[1], odd[0], h1)
			out := [4]VecPhysical{zs[12+4*p], zs[13+4*p], zs[14+4*p], zs[15+4*p]}
			VPUNPCKLWD(h0, l0, out[0])
			VPUNPCKHWD(h0, l0, out[1])
			VPUNPCKLWD(h1, l1, out[2])
			VPUNPCKHWD(h1, l1, out[3])
			groups[p] = out
		}
		for m := range 4 {
			t0, t1, t2 := zs[3*(m%2)], zs[3*(m%2)+1], zs[3*(m%2)+2]
			VPUNPCKLDQ(groups[1][m], groups[0][m], t0)
			VPUNPCKHDQ(groups[1][m], groups[0][m], t1)
			VMOVDQA64(t0, t2)
			VPERMT2Q(t1, low, t0)
			VPERMT2Q(t1, high, t2)
			put(t0, at(tileDst, 64*m))
			put(t2, at(tileDst, 256+64*m))
		}
	})
}

// marlin4AVX2 works as marlin4AVX512, one group a register. Half of the intermediate values wait on the stack.
func marlin4AVX2(nt bool) {
	mask := Y15
	put := store(unaligned256)
	if nt {
		put = nonTemporal
	}
	var stack Mem
	marlin("marlin4AVX2", nt, 2, 512, func() {
		stack = AllocLocal(256)
		VPBROADCASTD(dword("lowNibbles", 0x0F0F0F0F), mask)
	}, func() {
		split := func(off int, a, b, even, tmp VecPhysical) { // even; odd in a
			VMOVDQU(at(rowA, off), a)
			VMOVDQU(at(rowB, off), b)
			VPAND(mask, a, even)
			VPAND(mask, b, tmp)
			VPSLLD(U8(4), tmp, tmp)
			VPOR(tmp, even, even)
			VPSRLD(U8(4), a, a)
			VPAND(mask, a, a)
			VPANDN(b, mask, b)
			VPOR(b, a, a)
		}
		for j := range 4 {
			split(64*j, Y8, Y9, Y10, Y11)
			split(64*j+32, Y9, Y11, Y12, Y13)
			even, odd, even2, odd2 := Y10, Y8, Y12, Y9
			VPUNPCKLBW(even2, even, Y11)
			VPUNPCKHBW(even2, even, Y13)
			VPUNPCKLBW(odd2, odd, Y14)
			VPUNPCKHBW(odd2, odd, Y10)
			VPUNPCKLWD(Y14, Y11, ys[j])
			VPUNPCKHWD(Y14, Y11, ys[4+j])
			VPUNPCKLWD(Y10, Y13, Y12)
			VPUNPCKHWD(Y10, Y13, Y9)
			VMOVDQU(Y12, stack.Offset(32*j))
			VMOVDQU(Y9, stack.Offset(128+32*j))
		}
		for m := range 4 {
			var x [4]VecPhysical
			for j := range 4 {
				if x[j] = ys[4*(m%2)+j]; m >= 2 {
					VMOVDQU(stack.Offset(128*(m-2)+32*j), x[j])
				}
			}
			VPUNPCKLDQ(x[1], x[0], Y8)
			VPUNPCKHDQ(x[1], x[0], Y9)
			VPUNPCKLDQ(x[3], x[2], Y10)
			VPUNPCKHDQ(x[3], x[2], Y11)
			VPUNPCKLQDQ(Y10, Y8, Y12)
			VPUNPCKHQDQ(Y10, Y8, Y13)
			VPUNPCKLQDQ(Y11, Y9, Y14)
			VPUNPCKHQDQ(Y11, Y9, Y8)
			VPERM2I128(U8(0x20), Y13, Y12, Y9)
			VPERM2I128(U8(0x20), Y8, Y14, Y10)
			VPERM2I128(U8(0x31), Y13, Y12, Y12)
			VPERM2I128(U8(0x31), Y8, Y14, Y14)
			put(Y9, at(tileDst, 64*m))
			put(Y10, at(tileDst, 64*m+32))
			put(Y12, at(tileDst, 256+64*m))
			put(Y14, at(tileDst, 256+64*m+32))
		}
	})
}

var marlin8Order [4]Mem

// marlin8AVX512: interleaving the bytes of packed rows 0 and 2 gives the output dwords q = 0, 1 of every column, rows 1 and 3 those of
// q = 2, 3. The rest moves dwords: line (c0, q/2) of the output is dword q of columns 8i + c0, i = 0..7, then dword q+1.
func marlin8AVX512(nt bool) {
	if !nt {
		var d [2][]uint32
		for b := range uint32(2) {
			for c := range uint32(2) {
				for q := range uint32(2) {
					in := 4*b + 2*c + q // in the lower half of the first register; +8 upper half, +16 second register
					d[b] = append(d[b], in, in+8, in+16, in+24)
				}
			}
		}
		marlin8Order = [4]Mem{
			dwordsTable("marlin8Even", d[0]), dwordsTable("marlin8Odd", d[1]),
			qwordsTable("marlin8Low", []uint64{0, 1, 8, 9, 2, 3, 10, 11}), qwordsTable("marlin8High", []uint64{4, 5, 12, 13, 6, 7, 14, 15}),
		}
	}
	idx := [4]VecPhysical{Z31, Z30, Z29, Z28}
	put := store(unaligned512)
	if nt {
		put = nonTemporal
	}
	marlin("marlin8AVX512", nt, 4, 1024, func() {
		for i, r := range idx {
			VMOVDQU64(marlin8Order[i], r)
		}
	}, func() {
		for pair := range 2 { // packed rows 0 and 2, then 1 and 3
			var lo, hi [4]VecPhysical // of the groups of 16 columns: columns 4l, 4l+1 and 4l+2, 4l+3
			for j := range 4 {
				x, y := zs[2*(j%2)], zs[2*(j%2)+1]
				lo[j], hi[j] = zs[4+j], zs[8+j]
				if pair == 0 {
					VMOVDQU32(at(rowA, 64*j), x)
					VMOVDQU32(rowC(64*j), y)
				} else {
					VMOVDQU32(at(rowB, 64*j), x)
					VMOVDQU32(rowD(64*j), y)
				}
				VPUNPCKLBW(y, x, lo[j])
				VPUNPCKHBW(y, x, hi[j])
			}
			for which, v := range [2][4]VecPhysical{lo, hi} {
				for b := range 2 { // columns c0 = 4b + 2*which and the next
					first, second := zs[12+2*b], zs[13+2*b]
					VMOVDQA64(v[0], first)
					VPERMT2D(v[1], idx[b], first)
					VMOVDQA64(v[2], second)
					VPERMT2D(v[3], idx[b], second)
					t := zs[16+b]
					VMOVDQA64(first, t)
					VPERMT2Q(second, idx[2], first)
					VPERMT2Q(second, idx[3], t)
					c0 := 4*b + 2*which
					put(first, at(tileDst, 128*c0+64*pair))
					put(t, at(tileDst, 128*(c0+1)+64*pair))
				}
			}
		}
	})
}

// marlin8AVX2 interleaves bytes in the same way and transposes 8x8 dwords, for two columns out of four and one pair of rows at a time.
func marlin8AVX2(nt bool) {
	put := store(unaligned256)
	if nt {
		put = nonTemporal
	}
	marlin("marlin8AVX2", nt, 4, 1024, func() {}, func() {
		for pair := range 2 {
			for which := range 2 {
				for i := range 8 {
					x, y := at(rowA, 32*i), rowC(32*i)
					if pair == 1 {
						x, y = at(rowB, 32*i), rowD(32*i)
					}
					VMOVDQU(x, ys[i])
					if which == 0 {
						VPUNPCKLBW(y, ys[i], ys[i])
					} else {
						VPUNPCKHBW(y, ys[i], ys[i])
					}
				}
				out := transpose8(ys[:8], Y8)
				for p, r := range out {
					c0, q := 4*(p/4)+2*which+p%4/2, p%2+2*pair
					put(r, at(tileDst, 128*c0+32*q))
				}
			}
		}
	})
}
