package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// rowsMarlins emits the kernels that repack columns of codes which lie along K, as the rows of a weight do.
func rowsMarlins() {
	tables := rowsMarlinTables{}
	var four, eight []uint8
	for range 4 {
		for q := range uint8(4) {
			eight = append(eight, 2*q, 2*q+8, 2*q+1, 2*q+9)
		}
		for half := uint8(0); half < 16; half += 8 {
			for q := range uint8(4) {
				four = append(four, half+q, half+q+4)
			}
		}
	}
	tables.four, tables.eight = bytesTable("rowsMarlin4Bytes", four), bytesTable("rowsMarlin8Bytes", eight)
	tables.highNibbles = ConstData("highNibblesOfLow", U64(0xF0F0_F0F0))
	for _, bits := range []int{4, 8} {
		for _, nt := range []bool{false, true} {
			(&rowsMarlin{bits: bits, wide: true, nt: nt, put: unaligned512, r: zs}).kernel(&tables)
			(&rowsMarlin{bits: bits, nt: nt, put: unaligned256, r: ys}).kernel(&tables)
		}
	}
}

type rowsMarlinTables struct {
	four, eight Mem // bytes of a lane: see their users
	highNibbles Mem // of the lower dword of a qword
}

// rowsMarlin emits one of them. The eight rows of a tile that are eight apart make whole cache lines of it, one with 4 bits and two with 8:
// so the kernel takes a line of each of these, and that eight times, each time one row further. Then the next line of the 64 rows.
type rowsMarlin struct {
	bits     int
	wide, nt bool
	put      store
	r        []VecPhysical
	order    VecPhysical // the shuffle of bytes
	mask     VecPhysical // 4 bits
}

// The registers of the frame: the rows are at RAX, RBX and RDX, with R8 and 2*R8 from each; lines of dst go to R13 and RCX, R9 apart.
func (k *rowsMarlin) kernel(tables *rowsMarlinTables) {
	name := fmt.Sprintf("rowsMarlin%dAVX2", k.bits)
	if k.wide {
		name = fmt.Sprintf("rowsMarlin%dAVX512", k.bits)
	}
	if k.nt {
		k.put = nonTemporal
	}
	name = suffix(name, k.nt)
	tiles := 32 / k.bits // a line
	doc := []string{
		fmt.Sprintf("%s repacks a column of tiles: 64 rows of src, srcStride bytes apart, lines times 64 bytes of each; a line", name),
		fmt.Sprintf("is of %d tiles, dstStride bytes apart. It prefetches what lies ahead bytes further in each row, and, where next is not 0,", tiles),
		"in the order of the addresses what begins next bytes behind src, as many bytes as it reads.",
	}
	if k.nt {
		doc = append(doc, "dst and dstStride are multiples of 64.")
	}
	function(name, "func(dst, src *byte, lines, dstStride, srcStride, ahead, next int)", doc...)
	Load(Param("dst"), RDI)
	Load(Param("src"), RSI)
	Load(Param("dstStride"), R9)
	Load(Param("srcStride"), R10)
	MOVQ(R10, R8) // 8 rows of src
	SHLQ(U8(3), R8)
	LEAQ(Mem{Base: R8, Index: R8, Scale: 2}, R11) // 24 rows
	LEAQ(Mem{Base: R9, Index: R9, Scale: 2}, R12) // 3 rows of dst
	columns, next := AllocLocal(8), AllocLocal(8)
	Load(Param("next"), RCX)
	ADDQ(RSI, RCX)
	MOVQ(RCX, next)
	k.constants(tables)
	Label(name + "Line")
	MOVQ(RSI, RAX)
	MOVQ(RDI, R13)
	MOVQ(U64(8), RCX)
	MOVQ(RCX, columns)
	Label(name + "Column")
	k.prefetch(name+"NoNext", next)
	LEAQ(plus(RAX, R11, 0), RBX) // row 24
	LEAQ(plus(RBX, R11, 0), RDX) // row 48
	k.line(tiles)
	ADDQ(R10, RAX)
	ADDQ(U32(uint32(16*k.bits)), R13)
	DECQ(columns)
	JNZ(LabelRef(name + "Column"))
	ADDQ(U32(64), RSI)
	LEAQ(Mem{Base: RDI, Index: R9, Scale: uint8(tiles)}, RDI)
	DECQ(NewParamAddr("lines", 16))
	JNZ(LabelRef(name + "Line"))
	leave(k.nt)
}

// constants loads what the kernel keeps in registers.
func (k *rowsMarlin) constants(tables *rowsMarlinTables) {
	k.order, k.mask = k.r[len(k.r)-1], k.r[len(k.r)-2]
	table := tables.eight
	if k.bits == 4 {
		table = tables.four
		VPBROADCASTQ(tables.highNibbles, k.mask)
	}
	if k.wide {
		VMOVDQU64(table, k.order)
	} else {
		VMOVDQU(table, k.order)
	}
}

// prefetch emits what is prefetched beside the eight lines of a column.
func (k *rowsMarlin) prefetch(noNext string, next Mem) {
	Load(Param("ahead"), RCX)
	ADDQ(RAX, RCX)
	for m := range 8 {
		PREFETCHT0([]Mem{at(RCX, 0), plus(RCX, R8, 0), {Base: RCX, Index: R8, Scale: 2}}[m%3])
		if m%3 == 2 {
			ADDQ(R11, RCX)
		}
	}
	CMPQ(NewParamAddr("next", 48), U8(0))
	JE(LabelRef(noNext))
	MOVQ(next, RCX)
	for i := range 8 {
		PREFETCHT1(at(RCX, 64*i))
	}
	ADDQ(U32(512), RCX)
	MOVQ(RCX, next)
	Label(noNext)
}

// line emits the work on a line of eight rows, in pieces of a register.
func (k *rowsMarlin) line(tiles int) {
	LEAQ(Mem{Base: R13, Index: R9, Scale: 4}, RCX)
	if k.wide {
		k.piece(0, []Mem{
			at(R13, 0), plus(R13, R9, 0),
			{Base: R13, Index: R9, Scale: 2},
			plus(R13, R12, 0),
			at(RCX, 0), plus(RCX, R9, 0),
			{Base: RCX, Index: R9, Scale: 2},
			plus(RCX, R12, 0),
		}[:tiles])
		return
	}
	first := []Mem{at(R13, 0), plus(R13, R9, 0), {Base: R13, Index: R9, Scale: 2}, plus(R13, R12, 0)}
	if k.bits == 4 {
		k.piece(0, first)
		k.piece(32, []Mem{at(RCX, 0), plus(RCX, R9, 0), {Base: RCX, Index: R9, Scale: 2}, plus(RCX, R12, 0)})
		return
	}
	k.piece(0, first[:2])
	k.piece(32, first[2:])
}

// piece repacks a register of each of the rows, off bytes into them, to the tiles at dst.
func (k *rowsMarlin) piece(off int, dst []Mem) {
	rows := []Mem{
		at(RAX, off), plus(RAX, R8, off),
		{Base: RAX, Index: R8, Scale: 2, Disp: off},
		at(RBX, off), plus(RBX, R8, off),
		{Base: RBX, Index: R8, Scale: 2, Disp: off},
		at(RDX, off), plus(RDX, R8, off),
	}
	x := append([]VecPhysical(nil), k.r[:8]...)
	for m, row := range rows {
		if k.wide {
			VMOVDQU32(row, x[m])
		} else {
			VMOVDQU(row, x[m])
		}
		if k.bits == 4 {
			k.exchangeNibbles(x[m], k.r[8+m%2*2], k.r[9+m%2*2])
		}
		VPSHUFB(k.order, x[m], x[m])
	}
	if k.bits == 8 {
		k.eight(x, dst)
	} else {
		k.four(x, dst)
	}
}

// exchangeNibbles makes of the words a, b of every qword, which are packed rows 2r and 2r+1 of a column, the even nibbles of both, a's in
// the lower halves of the bytes, and the odd ones.
func (k *rowsMarlin) exchangeNibbles(x, t, u VecPhysical) {
	VPSRLQ(U8(28), x, t)
	if k.wide {
		VPTERNLOGQ(U8(0x28), k.mask, x, t) // (t ^ x) & mask
		VPSLLQ(U8(28), t, u)
		VPTERNLOGQ(U8(0x96), u, t, x)
		return
	}
	VPXOR(x, t, t)
	VPAND(k.mask, t, t)
	VPXOR(t, x, x)
	VPSLLQ(U8(28), t, t)
	VPXOR(t, x, x)
}

// four: in every qword, which is of one tile, the bytes of the even and the odd nibbles lie side by side. With those of the column eight
// further between them they are the dwords q = 0..3 of the tile, four for each pair of rows; those of the four pairs belong together.
func (k *rowsMarlin) four(x []VecPhysical, dst []Mem) {
	var odd [4]VecPhysical // of odd tiles; those of even ones take the place of the rows
	for j := range odd {
		odd[j] = k.r[8+j]
		VPUNPCKHBW(x[2*j+1], x[2*j], odd[j])
		VPUNPCKLBW(x[2*j+1], x[2*j], x[2*j])
	}
	even := quarters([]VecPhysical{x[0], x[2], x[4], x[6]}, x[1])
	k.lanes(even, 0, everySecond(dst))
	k.lanes(quarters(odd[:], x[3]), 0, everySecond(dst[1:]))
}

func everySecond(m []Mem) (out []Mem) {
	for i := 0; i < len(m); i += 2 {
		out = append(out, m[i])
	}
	return out
}

// eight: the 16 bytes of a column in a tile are its dwords q = 0..3, with bytes 2q, 2q+8, 2q+1, 2q+9. Those of eight rows belong together.
func (k *rowsMarlin) eight(x []VecPhysical, dst []Mem) {
	low, high := quarters(x[:4], k.r[8]), quarters(x[4:], k.r[9])
	for p := range 2 {
		k.lanes([4]VecPhysical{low[2*p], high[2*p], low[2*p+1], high[2*p+1]}, 64*p, dst)
	}
}

// lanes writes the lanes l of the four registers side by side to dst[l], off bytes behind it.
func (k *rowsMarlin) lanes(x [4]VecPhysical, off int, dst []Mem) {
	a, b, c, d := x[0], x[1], x[2], x[3]
	t, u := k.r[12], k.r[13]
	if !k.wide {
		for i, pair := range [][2]VecPhysical{{a, b}, {c, d}} {
			VPERM2I128(U8(0x20), pair[1], pair[0], t)
			VPERM2I128(U8(0x31), pair[1], pair[0], pair[0])
			k.put(t, dst[0].Offset(off+32*i))
			k.put(pair[0], dst[1].Offset(off+32*i))
		}
		return
	}
	for l, r := range transposeLanes(x, t, u) {
		k.put(r, dst[l].Offset(off))
	}
}

// quarters transposes 4x4 dwords in every lane: dword q of the four registers of the result is that of the four given. It needs one
// register more.
func quarters(r []VecPhysical, spare VecPhysical) [4]VecPhysical {
	a, b, c, d := r[0], r[1], r[2], r[3]
	VPUNPCKLDQ(b, a, spare) // 0 0 1 1
	VPUNPCKHDQ(b, a, a)     // 2 2 3 3
	VPUNPCKLDQ(d, c, b)
	VPUNPCKHDQ(d, c, c)
	VPUNPCKLQDQ(b, spare, d) // 0
	VPUNPCKHQDQ(b, spare, b) // 1
	VPUNPCKLQDQ(c, a, spare) // 2
	VPUNPCKHQDQ(c, a, c)     // 3
	return [4]VecPhysical{d, b, spare, c}
}
