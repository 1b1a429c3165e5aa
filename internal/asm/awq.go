package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

const awqArgs = "func(dst, src *byte, steps, rows, dstStride, srcStride int)"

// awqFrame walks over rows of tiles; src is packed along N, so that a row of tiles reads 16 rows of it, srcStride bytes apart. A step reads
// width bytes of each and writes as many tiles as those are: 512 bytes for every 32. What the next row of tiles reads is prefetched as one
// stream: it lies behind. row(i) is the i-th source row of the step.
func awqFrame(name string, nt bool, width int, setup func(), step func(row func(i int) Mem)) {
	doc := name + " repacks rows of tiles from codes packed along N (dst: dstStride bytes apart; src: packed rows, srcStride bytes apart)."
	if nt {
		name = suffix(name, nt)
		doc = name + " is the same with non-temporal stores: dst and dstStride are multiples of 64."
	}
	function(name, awqArgs, doc)
	Load(Param("dst"), R9)
	Load(Param("src"), R10)
	Load(Param("rows"), R11)
	Load(Param("srcStride"), R13)
	LEAQ(Mem{Base: R13, Index: R13, Scale: 2}, RBX) // three of them
	setup()
	each, tile := name+"Row", name+"Step"
	base := []Register{RSI, RDX, R8, RAX} // rows 0, 4, 8, 12
	Label(each)
	MOVQ(R9, RDI)
	MOVQ(R10, RSI)
	for i := 1; i < 4; i++ {
		LEAQ(Mem{Base: base[i-1], Index: R13, Scale: 4}, base[i])
	}
	LEAQ(Mem{Base: RAX, Index: R13, Scale: 4}, R10)
	MOVQ(R10, R12)
	Load(Param("steps"), RCX)
	Label(tile)
	for off := 0; off < 16*width; off += 64 {
		PREFETCHT0(at(R12, off))
	}
	step(func(i int) Mem {
		b := base[i/4]
		return []Mem{at(b, 0), {Base: b, Index: R13, Scale: 1}, {Base: b, Index: R13, Scale: 2}, {Base: b, Index: RBX, Scale: 1}}[i%4]
	})
	for _, b := range base {
		ADDQ(U32(uint32(width)), b)
	}
	ADDQ(U32(uint32(16*width)), R12)
	ADDQ(U32(uint32(16*width)), RDI)
	DECQ(RCX)
	JNZ(LabelRef(tile))
	ADDQ(NewParamAddr("dstStride", 32), R9)
	DECQ(R11)
	JNZ(LabelRef(each))
	leave(nt)
}

// evensFirst is the column of eight whose codes register i of a transpose holds.
var evensFirst = [8]int{0, 2, 4, 6, 1, 3, 5, 7}

// loadPairs loads the rows of q = 2h and 2h+1 and leaves eight registers, dwords of which are a column pair's words in the order in which
// their nibbles are transposed: in every 128-bit lane its pairs 0 and 1 for the first q, then for the second. It takes nine registers.
func loadPairs(h int, r []VecPhysical, row func(i int) Mem, load func(m, r Op)) []VecPhysical {
	out := make([]VecPhysical, 8)
	free := append([]VecPhysical(nil), r...)
	next := func() VecPhysical {
		x := free[len(free)-1]
		free = free[:len(free)-1]
		return x
	}
	for i, k := range [4]int{4 * h, 4*h + 8, 4*h + 1, 4*h + 9} {
		x, y, t := next(), next(), next()
		load(row(k), x)
		load(row(k+2), y)
		VSHUFPS(U8(0x88), y, x, t)
		VSHUFPS(U8(0xDD), y, x, x)
		out[i+i/2*2], out[i+i/2*2+2] = t, x
		free = append(free, y)
	}
	return out
}

// transposeNibbles transposes the 8x8 nibbles of every dword of eight registers, in place. exchange lets the bits of x that lie shift above
// the mask and those of y under the mask change places.
func transposeNibbles(r []VecPhysical, exchange func(x, y VecPhysical, shift int)) {
	for _, by := range []int{1, 2, 4} {
		for i := range 8 {
			if i&by == 0 {
				exchange(r[i], r[i+by], 4*by)
			}
		}
	}
}

// exchange256 works with AVX2: two masks, two spare registers.
func exchange256(nibbles, bytes, a, b VecPhysical) func(x, y VecPhysical, shift int) {
	return func(x, y VecPhysical, shift int) {
		n := U8(uint8(shift))
		VPSLLD(n, y, a)
		VPSRLD(n, x, b)
		if shift == 16 {
			VPBLENDW(U8(0xAA), a, x, x)
			VPBLENDW(U8(0x55), b, y, y)
			return
		}
		mask := nibbles
		if shift == 8 {
			mask = bytes
		}
		VPAND(mask, x, x)
		VPANDN(a, mask, a)
		VPOR(a, x, x)
		VPAND(mask, b, b)
		VPANDN(y, mask, y)
		VPOR(b, y, y)
	}
}

// exchange512 works with AVX-512: three masks, two spare registers.
func exchange512(masks [3]VecPhysical, a, b VecPhysical) func(x, y VecPhysical, shift int) {
	return func(x, y VecPhysical, shift int) {
		mask := masks[map[int]int{4: 0, 8: 1, 16: 2}[shift]]
		VPSLLD(U8(uint8(shift)), y, a)
		VPSRLD(U8(uint8(shift)), x, b)
		VPTERNLOGD(U8(0xE2), a, mask, x) // mask ? x : y<<shift
		VPTERNLOGD(U8(0xB8), b, mask, y) // mask ? x>>shift : y
	}
}

// awqMarlinAVX2 repacks one tile a step.
func awqMarlinAVX2(nt bool) {
	put := store(unaligned256)
	if nt {
		put = nonTemporal
	}
	nibbles, bytes := Y15, Y14
	awqFrame("awqMarlinAVX2", nt, 32, func() {
		VPBROADCASTD(dword("lowNibbles", 0x0F0F0F0F), nibbles)
		VPBROADCASTD(dword("evenBytes", 0x00FF00FF), bytes)
	}, func(row func(i int) Mem) {
		for h := range 2 {
			r := loadPairs(h, ys[:9], row, func(m, r Op) { VMOVDQU(m, r) })
			transposeNibbles(r, exchange256(nibbles, bytes, Y12, Y13))
			for f, x := range r {
				VPERMQ(U8(0xD8), x, x)
				put(x, at(RDI, 64*evensFirst[f]+32*h))
			}
		}
	})
}

var awqOrder [2]Mem

// awqMarlinAVX512 repacks two tiles a step.
func awqMarlinAVX512(nt bool) {
	if !nt {
		awqOrder = [2]Mem{
			qwordsTable("awqFirstTile", []uint64{0, 2, 1, 3, 8, 10, 9, 11}), qwordsTable("awqSecondTile", []uint64{4, 6, 5, 7, 12, 14, 13, 15}),
		}
	}
	put := store(unaligned512)
	if nt {
		put = nonTemporal
	}
	masks, first, second := [3]VecPhysical{Z31, Z30, Z29}, Z28, Z27
	awqFrame("awqMarlinAVX512", nt, 64, func() {
		VPBROADCASTD(dword("lowNibbles", 0x0F0F0F0F), masks[0])
		VPBROADCASTD(dword("evenBytes", 0x00FF00FF), masks[1])
		VPBROADCASTD(dword("evenWords", 0x0000FFFF), masks[2])
		VMOVDQU64(awqOrder[0], first)
		VMOVDQU64(awqOrder[1], second)
	}, func(row func(i int) Mem) {
		var half [2][]VecPhysical
		for h := range 2 {
			half[h] = loadPairs(h, zs[9*h:9*h+9], row, func(m, r Op) { VMOVDQU32(m, r) })
			transposeNibbles(half[h], exchange512(masks, Z20, Z21))
		}
		for f, x := range half[0] {
			t := zs[22+f%2]
			VMOVDQA64(x, t)
			VPERMT2Q(half[1][f], first, x)
			VPERMT2Q(half[1][f], second, t)
			put(x, at(RDI, 64*evensFirst[f]))
			put(t, at(RDI, 512+64*evensFirst[f]))
		}
	})
}

// awqTurnAVX2 makes words of eight codes along K of words along N: 8x8 nibbles of 8 rows at a time, then 8x8 words.
func awqTurnAVX2() {
	const name = "awqTurnAVX2"
	function(name, "func(dst, src *byte, blocks, rows, dstStride, srcStride int)",
		name+" turns rows times 8 packed rows (src: srcStride bytes apart) of blocks times 64 codes into rows of words along them (dst:",
		"dstStride bytes apart). The rows behind are prefetched.")
	Load(Param("dst"), R9)
	Load(Param("src"), R10)
	Load(Param("rows"), R11)
	Load(Param("srcStride"), R13)
	LEAQ(Mem{Base: R13, Index: R13, Scale: 2}, RBX)
	nibbles, bytes := Y15, Y14
	VPBROADCASTD(dword("lowNibbles", 0x0F0F0F0F), nibbles)
	VPBROADCASTD(dword("evenBytes", 0x00FF00FF), bytes)
	rows := func(base Register) []Mem {
		return []Mem{at(base, 0), {Base: base, Index: R13, Scale: 1}, {Base: base, Index: R13, Scale: 2}, {Base: base, Index: RBX, Scale: 1}}
	}
	Label(name + "Row")
	MOVQ(R9, RDI)
	MOVQ(R10, RSI)
	LEAQ(Mem{Base: RSI, Index: R13, Scale: 4}, RDX)
	LEAQ(Mem{Base: RDX, Index: R13, Scale: 4}, R10)
	MOVQ(R10, R8)
	LEAQ(Mem{Base: R8, Index: R13, Scale: 4}, R12)
	Load(Param("blocks"), RCX)
	Label(name + "Block")
	for i := range 4 {
		VMOVDQU(rows(RSI)[i], ys[i])
		VMOVDQU(rows(RDX)[i], ys[4+i])
		PREFETCHT0(rows(R8)[i])
		PREFETCHT0(rows(R12)[i])
	}
	transposeNibbles(ys[:8], exchange256(nibbles, bytes, Y12, Y13))
	columns := make([]VecPhysical, 8)
	for f, c := range evensFirst {
		columns[c] = ys[f]
	}
	for i, x := range transpose8(columns, Y8) {
		VMOVDQU(x, at(RDI, 32*i))
	}
	for _, b := range []Register{RSI, RDX, R8, R12} {
		ADDQ(U32(32), b)
	}
	ADDQ(U32(256), RDI)
	DECQ(RCX)
	JNZ(LabelRef(name + "Block"))
	ADDQ(NewParamAddr("dstStride", 32), R9)
	DECQ(R11)
	JNZ(LabelRef(name + "Row"))
	leave(false)
}
