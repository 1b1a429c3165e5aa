package main

import (
	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Rules for every kernel. Only VEX and EVEX moves touch vector registers, and VZEROUPPER comes before RET. BP, R14 and R15 stay alone.
// A kernel writes no pointers, calls nothing and is told where it may read and write by its Go caller, which has checked the bounds.

var (
	zs = []VecPhysical{
		Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z8, Z9, Z10, Z11, Z12, Z13, Z14, Z15,
		Z16, Z17, Z18, Z19, Z20, Z21, Z22, Z23, Z24, Z25, Z26, Z27, Z28, Z29, Z30, Z31,
	}
	ys = []VecPhysical{Y0, Y1, Y2, Y3, Y4, Y5, Y6, Y7, Y8, Y9, Y10, Y11, Y12, Y13, Y14, Y15}
	xs = []VecPhysical{X0, X1, X2, X3, X4, X5, X6, X7, X8, X9, X10, X11, X12, X13, X14, X15}
)

// function starts a kernel.
func function(name, signature string, doc ...string) {
	TEXT(name, attr.NOSPLIT, signature)
	Doc(doc...)
	Pragma("noescape")
}

// leave ends a kernel. fence makes non-temporal stores visible before anything that follows.
func leave(fence bool) {
	if fence {
		SFENCE()
	}
	VZEROUPPER()
	RET()
}

// at is the memory off bytes behind base.
func at(base Register, off int) Mem { return Mem{Base: base, Disp: off} }

// plus is the memory off bytes behind base + index.
func plus(base, index Register, off int) Mem {
	return Mem{Base: base, Index: index, Scale: 1, Disp: off}
}

// bytesTable, wordsTable, dwordsTable and qwordsTable put constants into the object file.
func bytesTable(name string, v []uint8) Mem {
	return table(name, v, func(x uint8) Constant { return U8(x) })
}

func wordsTable(name string, v []uint16) Mem {
	return table(name, v, func(x uint16) Constant { return U16(x) })
}

func dwordsTable(name string, v []uint32) Mem {
	return table(name, v, func(x uint32) Constant { return U32(x) })
}

func qwordsTable(name string, v []uint64) Mem {
	return table(name, v, func(x uint64) Constant { return U64(x) })
}

func table[T any](name string, v []T, constant func(T) Constant) Mem {
	m := GLOBL(name, attr.RODATA|attr.NOPTR)
	for i, x := range v {
		c := constant(x)
		DATA(i*c.Bytes(), c)
	}
	return m
}

// constants are 32-bit values that kernels broadcast; each is emitted once.
var constants = map[string]Mem{}

func dword(name string, v uint32) Mem {
	if _, ok := constants[name]; !ok {
		constants[name] = ConstData(name, U32(v))
	}
	return constants[name]
}

// store is the store instruction of a kernel.
type store func(reg, mem Op)

func unaligned512(r, m Op) { VMOVDQU32(r, m) }
func unaligned256(r, m Op) { VMOVDQU(r, m) }
func nonTemporal(r, m Op)  { VMOVNTDQ(r, m) }

// variant is a kernel's name for a width, and for non-temporal stores, and its stores.
func variant(name string, wide, nt bool) (string, store) {
	put := store(unaligned256)
	if wide {
		name, put = name+"AVX512", unaligned512
	} else {
		name += "AVX2"
	}
	if nt {
		put = nonTemporal
	}
	return suffix(name, nt), put
}

// transpose8 transposes 8x8 dwords in place: r[k], dword i becomes dword k of the i-th register of the result. It needs one register more.
func transpose8(r []VecPhysical, spare VecPhysical) []VecPhysical {
	out := append([]VecPhysical(nil), r...)
	pair := func(i, k int, lo, hi func(ops ...Op)) {
		lo(out[k], out[i], spare)
		hi(out[k], out[i], out[k])
		out[i], spare = spare, out[i]
	}
	for i := 0; i < 8; i += 2 { // out[i]: dwords 0, 1 of both lanes; out[i+1]: dwords 2, 3
		pair(i, i+1, VPUNPCKLDQ, VPUNPCKHDQ)
	}
	for _, i := range []int{0, 1, 4, 5} {
		pair(i, i+2, VPUNPCKLQDQ, VPUNPCKHQDQ)
	}
	// Now out[h+0], [h+2], [h+1], [h+3] hold dwords 0, 1, 2, 3 (and 4, 5, 6, 7 in the upper lane) of rows h..h+3, for h = 0 and 4.
	for i := range 4 {
		pair(i, i+4,
			func(o ...Op) { VPERM2I128(U8(0x20), o[0], o[1], o[2]) },
			func(o ...Op) { VPERM2I128(U8(0x31), o[0], o[1], o[2]) })
	}
	return []VecPhysical{out[0], out[2], out[1], out[3], out[4], out[6], out[5], out[7]}
}

// transpose16 transposes 16x16 dwords: r[k], dword i becomes dword k of the i-th register of the result. It needs one register more.
func transpose16(r []VecPhysical, spare VecPhysical) []VecPhysical {
	out := append([]VecPhysical(nil), r...)
	pair := func(i, k int, lo, hi func(ops ...Op)) {
		lo(out[k], out[i], spare)
		hi(out[k], out[i], out[k])
		out[i], spare = spare, out[i]
	}
	lanes := func(i, k int, lo, hi uint8) {
		pair(i, k,
			func(o ...Op) { VSHUFI32X4(U8(lo), o[0], o[1], o[2]) },
			func(o ...Op) { VSHUFI32X4(U8(hi), o[0], o[1], o[2]) })
	}
	for i := 0; i < 16; i += 2 {
		pair(i, i+1, VPUNPCKLDQ, VPUNPCKHDQ)
	}
	for i := 0; i < 16; i += 4 {
		pair(i, i+2, VPUNPCKLQDQ, VPUNPCKHQDQ)
		pair(i+1, i+3, VPUNPCKLQDQ, VPUNPCKHQDQ)
	}
	// Now out[4g+j] holds, of rows 4g to 4g+3, columns 4l+m in lane l, m = [0, 2, 1, 3][j].
	column := make([]VecPhysical, 16)
	for j, m := range []int{0, 2, 1, 3} {
		lanes(j, j+4, 0x44, 0xEE)    // lanes 0 and 1, lanes 2 and 3 of rows 0 to 7
		lanes(j+8, j+12, 0x44, 0xEE) // of rows 8 to 15
		lanes(j, j+8, 0x88, 0xDD)
		lanes(j+4, j+12, 0x88, 0xDD)
		column[m], column[4+m], column[8+m], column[12+m] = out[j], out[j+8], out[j+4], out[j+12]
	}
	return column
}

// transposeLanes transposes 4x4 lanes: lane k of the i-th register of the result is lane i of x[k]. It needs two registers more.
func transposeLanes(x [4]VecPhysical, t, u VecPhysical) [4]VecPhysical {
	a, b, c, d := x[0], x[1], x[2], x[3]
	VSHUFI32X4(U8(0x44), b, a, t) // a0 a1 b0 b1
	VSHUFI32X4(U8(0xEE), b, a, a) // a2 a3 b2 b3
	VSHUFI32X4(U8(0x44), d, c, u)
	VSHUFI32X4(U8(0xEE), d, c, c)
	VSHUFI32X4(U8(0x88), u, t, b) // a0 b0 c0 d0
	VSHUFI32X4(U8(0xDD), u, t, t)
	VSHUFI32X4(U8(0x88), c, a, d)
	VSHUFI32X4(U8(0xDD), c, a, a)
	return [4]VecPhysical{b, t, d, a}
}
