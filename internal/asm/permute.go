package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// loop emits a loop of count times body, count > 0.
func loop(label string, count Register, body func()) {
	Label(label)
	body()
	DECQ(count)
	JNZ(LabelRef(label))
}

// permutations are the kernels for scales: an 8x8 transpose of 16-bit elements, and a 4x4 transpose of pairs of them.
func permutations() {
	const args = "func(dst, src *byte, blocks int)"
	start := func(name, doc string) {
		function(name, args, name+" "+doc)
		Load(Param("dst"), RDI)
		Load(Param("src"), RSI)
		Load(Param("blocks"), RCX)
	}
	next := func(n int) {
		ADDQ(U32(uint32(n)), RSI)
		ADDQ(U32(uint32(n)), RDI)
	}

	var idx []uint16
	for i := range uint16(64) {
		idx = append(idx, 8*(i%8)+i/8)
	}
	grouped := wordsTable("groupedWords", idx)
	for _, nt := range []bool{false, true} {
		name, doc, put := suffix("groupedAVX512", nt), "transposes 8x8 elements of 16 bits, blocks times.", store(unaligned512)
		if nt {
			doc, put = "is the same with non-temporal stores: dst is a multiple of 64.", nonTemporal
		}
		start(name, doc)
		VMOVDQU64(grouped, Z2)
		VMOVDQU64(grouped.Offset(64), Z3)
		loop(name+"Block", RCX, func() {
			VMOVDQU64(at(RSI, 0), Z0)
			VMOVDQU64(at(RSI, 64), Z1)
			VMOVDQA64(Z0, Z4)
			VPERMT2W(Z1, Z2, Z0)
			VPERMT2W(Z1, Z3, Z4)
			put(Z0, at(RDI, 0))
			put(Z4, at(RDI, 64))
			next(128)
		})
		leave(nt)
	}

	start("groupedAVX2", "transposes 8x8 elements of 16 bits, blocks times.")
	loop("grouped256", RCX, func() {
		r, spare := append([]VecPhysical(nil), xs[:8]...), X8
		for i := range 8 {
			VMOVDQU(at(RSI, 16*i), r[i])
		}
		pair := func(i, k int, lo, hi func(ops ...Op)) {
			lo(r[k], r[i], spare)
			hi(r[k], r[i], r[k])
			r[i], spare = spare, r[i]
		}
		for i := 0; i < 8; i += 2 { // r[i]: columns 0-3, r[i+1]: columns 4-7 of rows i and i+1
			pair(i, i+1, VPUNPCKLWD, VPUNPCKHWD)
		}
		for _, i := range []int{0, 1, 4, 5} { // r[i]: the lower two of these columns, r[i+2]: the upper two; four rows
			pair(i, i+2, VPUNPCKLDQ, VPUNPCKHDQ)
		}
		for i := range 4 {
			pair(i, i+4, VPUNPCKLQDQ, VPUNPCKHQDQ)
		}
		for i, k := range []int{0, 4, 2, 6, 1, 5, 3, 7} {
			VMOVDQU(r[k], at(RDI, 16*i))
		}
		next(128)
	})
	leave(false)

	var pairs []uint32
	for i := range uint32(16) {
		pairs = append(pairs, i/4+4*(i%4))
	}
	single := dwordsTable("singleDwords", pairs)
	start("singleAVX512", "transposes 4x4 pairs of elements, blocks times.")
	VMOVDQU64(single, Z1)
	loop("single512", RCX, func() {
		VPERMD(at(RSI, 0), Z1, Z0)
		VMOVDQU64(Z0, at(RDI, 0))
		next(64)
	})
	leave(false)

	start("singleAVX2", "transposes 4x4 pairs of elements, blocks times.")
	loop("single256", RCX, func() {
		for i := range 4 {
			VMOVDQU(at(RSI, 16*i), xs[i])
		}
		VPUNPCKLDQ(X1, X0, X4)
		VPUNPCKHDQ(X1, X0, X5)
		VPUNPCKLDQ(X3, X2, X6)
		VPUNPCKHDQ(X3, X2, X7)
		VPUNPCKLQDQ(X6, X4, X0)
		VPUNPCKHQDQ(X6, X4, X1)
		VPUNPCKLQDQ(X7, X5, X2)
		VPUNPCKHQDQ(X7, X5, X3)
		for i := range 4 {
			VMOVDQU(xs[i], at(RDI, 16*i))
		}
		next(64)
	})
	leave(false)
}

// gather emits the kernels that make a packed row from fields of 32/bits rows: field i from the row off[i] bytes behind src, which moves
// right by shift[i] bits (AVX2) or rotates right by them (AVX-512).
func gather(bits int) {
	fields := 32 / bits
	args := fmt.Sprintf("func(dst, src *byte, off *[8]int, shift *[8]uint32, blocks int)")
	offs := []Register{RAX, RBX, RDX, R8, R9, R10, R11, R12}[:fields]
	start := func(name string, width int) {
		function(name, args, fmt.Sprintf("%s makes blocks of %d bytes of a packed row: field i comes from the row at src + off[i].", name, width))
		Load(Param("dst"), RDI)
		Load(Param("src"), RSI)
		Load(Param("off"), R13)
		for i, r := range offs {
			MOVQ(at(R13, 8*i), r)
		}
		Load(Param("shift"), R13)
		Load(Param("blocks"), RCX)
	}
	mask := uint32(1)<<bits - 1
	name := fmt.Sprintf("gather%dAVX512", bits)
	start(name, 64)
	for i := range offs {
		VPBROADCASTD(at(R13, 4*i), zs[16+i])
		if i > 0 {
			VPBROADCASTD(dword(fmt.Sprintf("field%dof%d", i, bits), mask<<(bits*i)), zs[24+i])
		}
	}
	loop(name+"Block", RCX, func() {
		for i, off := range offs {
			VMOVDQU32(plus(RSI, off, 0), zs[i])
			VPRORVD(zs[16+i], zs[i], zs[i])
			if i > 0 {
				VPTERNLOGD(U8(0xD8), zs[24+i], zs[i], Z0) // mask ? new : old
			}
		}
		VMOVDQU32(Z0, at(RDI, 0))
		ADDQ(U32(64), RSI)
		ADDQ(U32(64), RDI)
	})
	leave(false)

	name = fmt.Sprintf("gather%dAVX2", bits)
	start(name, 32)
	VPBROADCASTD(dword(fmt.Sprintf("field0of%d", bits), mask), Y15)
	for i := range offs {
		VPBROADCASTD(at(R13, 4*i), ys[i])
	}
	loop(name+"Block", RCX, func() {
		for i, off := range offs {
			to := ys[8+i%3]
			if i == 0 {
				to = Y14
			}
			VMOVDQU(plus(RSI, off, 0), to)
			VPSRLVD(ys[i], to, to)
			VPAND(Y15, to, to)
			if i > 0 {
				VPSLLD(U8(uint8(bits*i)), to, to)
				VPOR(to, Y14, Y14)
			}
		}
		VMOVDQU(Y14, at(RDI, 0))
		ADDQ(U32(32), RSI)
		ADDQ(U32(32), RDI)
	})
	leave(false)
}
