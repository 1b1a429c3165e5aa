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
	start("groupedAVX512", "transposes 8x8 elements of 16 bits, blocks times.")
	VMOVDQU64(grouped, Z2)
	VMOVDQU64(grouped.Offset(64), Z3)
	loop("grouped512", RCX, func() {
		VMOVDQU64(at(RSI, 0), Z0)
		VMOVDQU64(at(RSI, 64), Z1)
		VMOVDQA64(Z0, Z4)
		VPERMT2W(Z1, Z2, Z0)
		VPERMT2W(Z1, Z3, Z4)
		VMOVDQU64(Z0, at(RDI, 0))
		VMOVDQU64(Z4, at(RDI, 64))
		next(128)
	})
	leave(false)

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

// gatherStrips emits the kernels that do what those of gather do, word row after word row, in a strip of 64 columns that stays in the
// second-level cache.
func gatherStrips(bits int) {
	for _, wide := range []bool{true, false} {
		k := &gatherStrip{bits: bits, fields: 32 / bits, wide: wide, r: ys, parts: 8, name: fmt.Sprintf("gatherStrip%dAVX2", bits)}
		if wide {
			k.r, k.parts, k.name = zs, 4, fmt.Sprintf("gatherStrip%dAVX512", bits)
		}
		k.kernel()
	}
}

// copyStrips emits the kernels that copy a strip of 64 columns out of longer packed rows.
func copyStrips() {
	for _, wide := range []bool{true, false} {
		name, r, width, move := "copyStripAVX2", ys, 32, store(unaligned256)
		if wide {
			name, r, width, move = "copyStripAVX512", zs, 64, unaligned512
		}
		function(
			name, "func(dst, src *byte, rows, stride, ahead int)",
			name+" copies rows of 256 bytes, which are stride bytes apart in src, to follow each other, and prefetches what lies ahead bytes behind each.",
		)
		Load(Param("dst"), RDI)
		Load(Param("src"), RSI)
		Load(Param("rows"), RCX)
		Load(Param("stride"), R8)
		Load(Param("ahead"), R9)
		loop(name+"Row", RCX, func() {
			for i := range 4 {
				PREFETCHT0(plus(RSI, R9, 64*i))
			}
			for i := range gatherStripRow / width {
				move(at(RSI, width*i), r[i])
				move(r[i], at(RDI, width*i))
			}
			ADDQ(R8, RSI)
			ADDQ(U32(gatherStripRow), RDI)
		})
		leave(false)
	}
}

// gatherStrip emits one of them. parts are the registers that a row of 256 bytes takes.
type gatherStrip struct {
	bits, fields, parts int
	wide                bool
	r                   []VecPhysical
	name                string
}

const gatherStripRow = 256

func (k *gatherStrip) kernel() {
	function(
		k.name, "func(dst, src *byte, fields *uint32, words int)",
		fmt.Sprintf("%s makes words packed rows of 64 words: each takes %d fields, the next of the list, from the rows of src. An entry of the", k.name, k.fields),
		"list is where its row begins, a multiple of 256, and in the lowest byte how many bits its words turn right (AVX-512) or move right (AVX2).",
	)
	Load(Param("dst"), RDI)
	Load(Param("src"), RSI)
	Load(Param("fields"), RDX)
	Load(Param("words"), RCX)
	mask := uint32(1)<<k.bits - 1
	if k.wide {
		for i := 1; i < k.fields; i++ {
			VPBROADCASTD(dword(fmt.Sprintf("field%dof%d", i, k.bits), mask<<(k.bits*i)), k.r[24+i])
		}
	} else {
		VPBROADCASTD(dword(fmt.Sprintf("field0of%d", k.bits), mask), Y15)
		VPBROADCASTD(dword("turn", 31), Y14)
	}
	loop(k.name+"Word", RCX, func() {
		for part := 0; part < k.parts; part += 4 {
			for i := range k.fields {
				k.field(i, part)
			}
			for p := range 4 {
				if k.wide {
					VMOVDQU32(k.r[p], at(RDI, 64*p))
				} else {
					VMOVDQU(k.r[p], at(RDI, 32*(part+p)))
				}
			}
		}
		ADDQ(U32(uint32(4*k.fields)), RDX)
		ADDQ(U32(gatherStripRow), RDI)
	})
	leave(false)
}

// field adds field i of four registers to the first four registers.
func (k *gatherStrip) field(i, part int) {
	row, turn := []GPPhysical{RAX, RBX, R8, R9}[i%4], k.r[12+i%2]
	MOVL(at(RDX, 4*i), row.As32())
	VPBROADCASTD(at(RDX, 4*i), turn)
	if !k.wide {
		VPAND(Y14, turn, turn)
	}
	ANDQ(I32(-gatherStripRow), row)
	for p := range 4 {
		to := k.r[4+4*(i%2)+p]
		if i == 0 {
			to = k.r[p]
		}
		if k.wide {
			VMOVDQU32(plus(RSI, row, 64*p), to)
			VPRORVD(turn, to, to)
			if i > 0 {
				VPTERNLOGD(U8(0xD8), k.r[24+i], to, k.r[p]) // mask ? new : old
			}
			continue
		}
		VMOVDQU(plus(RSI, row, 32*(part+p)), to)
		VPSRLVD(turn, to, to)
		VPAND(Y15, to, to)
		if i > 0 {
			VPSLLD(U8(uint8(k.bits*i)), to, to)
			VPOR(to, k.r[p], k.r[p])
		}
	}
}
