package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

func decodeFP8() {
	var idx []uint16
	for i := range uint16(32) {
		idx = append(idx, 2*i+1) // the upper halves of the dwords of two registers
	}
	odd := wordsTable("fp8OddWords", idx)
	for _, nt := range []bool{false, true} {
		for _, to := range []string{"BF16", "F16", "F32"} {
			fp8(to, true, nt, odd)
			fp8(to, false, nt, odd)
		}
	}
}

// fp8 emits a kernel for w = value * scale of F8_E4M3 values. Shifted by 7 bits such a byte is the half of 2^-8 times its value, subnormals
// too, which the processor turns into a float exactly; the scales hold 2^8 in return. NaN is not among the values.
func fp8(to string, wide, nt bool, odd Mem) {
	name, put := fmt.Sprintf("fp8To%sAVX2", to), store(unaligned256)
	if wide {
		name, put = fmt.Sprintf("fp8To%sAVX512", to), unaligned512
	}
	if nt {
		put = nonTemporal
	}
	name = suffix(name, nt)
	doc := []string{
		name + " decodes rows of runs times blocks times 32 weights, of which none is NaN or becomes infinite. Each run has",
		"a scale, the same in all rows. src lies row by row, dst has rows dstStride bytes apart.",
	}
	if nt {
		doc = append(doc, "dst and dstStride are multiples of 64.")
	}
	function(name, "func(dst, src *byte, scales *float32, rows, runs, blocks, dstStride int)", doc...)
	Load(Param("dst"), R8)
	Load(Param("src"), RSI)
	Load(Param("scales"), R9)
	Load(Param("rows"), R10)
	Load(Param("runs"), R11)
	Load(Param("blocks"), R12)
	Load(Param("dstStride"), R13)
	var scale VecPhysical
	var block func()
	if wide {
		scale, block = fp8Wide(to, put, odd)
	} else {
		scale, block = fp8Narrow(to, put)
	}
	Label(name + "Row")
	MOVQ(R8, RDI)
	MOVQ(R9, RAX)
	MOVQ(R11, RBX)
	Label(name + "Run")
	VBROADCASTSS(at(RAX, 0), scale)
	ADDQ(U32(4), RAX)
	MOVQ(R12, RCX)
	Label(name + "Block")
	block()
	ADDQ(U32(32), RSI)
	DECQ(RCX)
	JNZ(LabelRef(name + "Block"))
	DECQ(RBX)
	JNZ(LabelRef(name + "Run"))
	ADDQ(R13, R8)
	DECQ(R10)
	JNZ(LabelRef(name + "Row"))
	leave(nt)
}

// fp8Setup broadcasts what a kernel needs: the mask of sign and magnitude, and what rounds to a bfloat16.
func fp8Setup(to string, mask, one, halfLess VecPhysical) {
	VPBROADCASTD(dword("signAndE4M3", 0xBF80_BF80), mask)
	if to == "BF16" {
		VPBROADCASTD(dword("one", 1), one)
		VPBROADCASTD(dword("halfLess", 0x7FFF), halfLess)
	}
}

// fp8Wide emits the setup of the AVX-512 kernels. It returns the register of the scale and what emits a block.
func fp8Wide(to string, put store, odd Mem) (scale VecPhysical, block func()) {
	scale, mask, one, halfLess, order := Z31, Z30, Z29, Z28, Z27
	fp8Setup(to, mask, one, halfLess)
	if to == "BF16" {
		VMOVDQU64(odd, order)
	}
	return scale, func() { fp8WideBlock(to, put, scale, mask, one, halfLess, order) }
}

func fp8WideBlock(to string, put store, scale, mask, one, halfLess, order VecPhysical) {
	VPMOVSXBW(at(RSI, 0), Z0)
	VPSLLW(U8(7), Z0, Z0)
	VPANDD(mask, Z0, Z0)
	VEXTRACTI64X4(U8(1), Z0, Y1)
	VCVTPH2PS(Y0, Z0)
	VCVTPH2PS(Y1, Z1)
	for _, x := range []VecPhysical{Z0, Z1} {
		VMULPS(scale, x, x)
	}
	switch to {
	case "F32":
		put(Z0, at(RDI, 0))
		put(Z1, at(RDI, 64))
		ADDQ(U32(128), RDI)
	case "F16":
		VCVTPS2PH(U8(0), Z0, Y0)
		VCVTPS2PH(U8(0), Z1, Y1)
		VINSERTI64X4(U8(1), Y1, Z0, Z0)
		put(Z0, at(RDI, 0))
		ADDQ(U32(64), RDI)
	case "BF16":
		for i, x := range []VecPhysical{Z0, Z1} {
			t := zs[2+i]
			VPSRLD(U8(16), x, t)
			VPANDD(one, t, t)
			VPADDD(halfLess, t, t)
			VPADDD(t, x, x)
		}
		VPERMT2W(Z1, order, Z0)
		put(Z0, at(RDI, 0))
		ADDQ(U32(64), RDI)
	}
}

// fp8Narrow is fp8Wide for AVX2.
func fp8Narrow(to string, put store) (scale VecPhysical, block func()) {
	scale, mask, one, halfLess := Y15, Y14, Y13, Y12
	fp8Setup(to, mask, one, halfLess)
	return scale, func() { fp8NarrowBlock(to, put, scale, mask, one, halfLess) }
}

func fp8NarrowBlock(to string, put store, scale, mask, one, halfLess VecPhysical) {
	for half := range 2 {
		VPMOVSXBW(at(RSI, 16*half), Y0)
		VPSLLW(U8(7), Y0, Y0)
		VPAND(mask, Y0, Y0)
		VEXTRACTI128(U8(1), Y0, X1)
		VCVTPH2PS(X0, Y0)
		VCVTPH2PS(X1, Y1)
		for _, y := range []VecPhysical{Y0, Y1} {
			VMULPS(scale, y, y)
		}
		switch to {
		case "F32":
			put(Y0, at(RDI, 64*half))
			put(Y1, at(RDI, 64*half+32))
		case "F16":
			VCVTPS2PH(U8(0), Y0, X0)
			VCVTPS2PH(U8(0), Y1, X1)
			VINSERTI128(U8(1), X1, Y0, Y0)
			put(Y0, at(RDI, 32*half))
		case "BF16":
			for i, y := range []VecPhysical{Y0, Y1} {
				t := ys[2+i]
				VPSRLD(U8(16), y, t)
				VPAND(one, t, t)
				VPADDD(halfLess, t, t)
				VPADDD(t, y, y)
				VPSRLD(U8(16), y, y)
			}
			VPACKUSDW(Y1, Y0, Y0) // lanes 0 of both, then lanes 1
			VPERMQ(U8(0xD8), Y0, Y0)
			put(Y0, at(RDI, 32*half))
		}
	}
	size := 2
	if to == "F32" {
		size = 4
	}
	ADDQ(U32(uint32(32*size)), RDI)
}

// marlinFP8 emits the kernels that repack columns of 8-bit codes which lie along K, as F8 weights do. The 16 bytes of a column in a row of
// tiles are the four dwords q = 0..3 of the output, with bytes 2q, 2q+8, 2q+1, 2q+9; the rest moves dwords: of the columns c0 + 8m, those
// of q lie side by side.
func marlinFP8() {
	var shuffle []uint8
	for range 4 {
		for q := range uint8(4) {
			shuffle = append(shuffle, 2*q, 2*q+8, 2*q+1, 2*q+9)
		}
	}
	table := bytesTable("marlinFP8Bytes", shuffle)
	for _, nt := range []bool{false, true} {
		marlinFP8Kernel(true, nt, table)
		marlinFP8Kernel(false, nt, table)
	}
}

// marlinFP8Ahead is how far in front of its use a row is prefetched, in bytes: 64 rows are read at once, which no hardware follows.
const marlinFP8Ahead = 192

func marlinFP8Kernel(wide, nt bool, table Mem) {
	name, lanes, put, r := "marlinFP8AVX2", 2, store(unaligned256), ys
	if wide {
		name, lanes, put, r = "marlinFP8AVX512", 4, unaligned512, zs
	}
	if nt {
		put = nonTemporal
	}
	name = suffix(name, nt)
	doc := []string{
		fmt.Sprintf("%s repacks a column of tiles: 64 rows of src, srcStride bytes apart, steps times %d bytes of each;", name, 32*lanes),
		"dst has rows of tiles dstStride bytes apart.",
	}
	if nt {
		doc = append(doc, "dst and dstStride are multiples of 64.")
	}
	function(name, "func(dst, src *byte, steps, dstStride, srcStride int)", doc...)
	Load(Param("dst"), RDI)
	Load(Param("src"), RSI)
	Load(Param("dstStride"), R9)
	Load(Param("srcStride"), R10)
	MOVQ(R10, R8) // 8 rows of src
	SHLQ(U8(3), R8)
	LEAQ(Mem{Base: R8, Index: R8, Scale: 2}, R11) // 24 rows
	LEAQ(Mem{Base: R9, Index: R9, Scale: 2}, R12) // 3 rows of dst
	columns := AllocLocal(8)
	order := r[len(r)-1]
	if wide {
		VMOVDQU64(table, order)
	} else {
		VMOVDQU(table, order)
	}
	Label(name + "Step")
	MOVQ(RSI, RAX)
	MOVQ(RDI, R13)
	MOVQ(U64(8), RCX)
	MOVQ(RCX, columns)
	Label(name + "Column")
	LEAQ(Mem{Base: R13, Index: R9, Scale: uint8(lanes)}, RCX)
	LEAQ(plus(RAX, R11, 0), RBX) // row 24
	LEAQ(plus(RBX, R11, 0), RDX) // row 48
	rows := func(m, off int) Mem {
		return []Mem{
			at(RAX, off), plus(RAX, R8, off),
			{Base: RAX, Index: R8, Scale: 2, Disp: off},
			at(RBX, off), plus(RBX, R8, off),
			{Base: RBX, Index: R8, Scale: 2, Disp: off},
			at(RDX, off), plus(RDX, R8, off),
		}[m]
	}
	// Two registers of a row at once: they share a line, and 64 rows some bytes of which are a power of two apart soon lose theirs.
	for half, dst := range []Register{R13, RCX} {
		off := 16 * lanes * half
		for m := range 8 {
			if off%64 == 0 {
				PREFETCHT0(rows(m, off+marlinFP8Ahead))
			}
			if wide {
				VMOVDQU32(rows(m, off), r[m])
			} else {
				VMOVDQU(rows(m, off), r[m])
			}
			VPSHUFB(order, r[m], r[m])
		}
		// Within lanes: dword q of columns 0..3 in low[q], of columns 4..7 in high[q].
		low, high := quarters(r[:4], r[8]), quarters(r[4:8], r[9])
		if wide {
			marlinFP8Wide(dst, low, high, put)
		} else {
			marlinFP8Narrow(dst, low, high, put)
		}
	}
	ADDQ(R10, RAX)
	ADDQ(U32(128), R13)
	DECQ(columns)
	JNZ(LabelRef(name + "Column"))
	ADDQ(U32(uint32(32*lanes)), RSI)
	LEAQ(Mem{Base: RDI, Index: R9, Scale: uint8(2 * lanes)}, RDI)
	DECQ(NewParamAddr("steps", 16))
	JNZ(LabelRef(name + "Step"))
	leave(nt)
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

// dstRow is row l of four or two that begin at base, off bytes behind the column's first.
func dstRow(base Register, l, off int) Mem {
	return []Mem{at(base, off), plus(base, R9, off), {Base: base, Index: R9, Scale: 2, Disp: off}, plus(base, R12, off)}[l]
}

// marlinFP8Wide writes lane l of low[q] and high[q] to row l behind dst, for q = 0, 1 and then 2, 3: a transpose of 4x4 lanes each.
func marlinFP8Wide(dst Register, low, high [4]VecPhysical, put store) {
	for p := range 2 {
		a, b, c, d := low[2*p], high[2*p], low[2*p+1], high[2*p+1]
		t, u := Z10, Z11
		VSHUFI32X4(U8(0x44), b, a, t) // a0 a1 b0 b1
		VSHUFI32X4(U8(0xEE), b, a, a) // a2 a3 b2 b3
		VSHUFI32X4(U8(0x44), d, c, u)
		VSHUFI32X4(U8(0xEE), d, c, c)
		VSHUFI32X4(U8(0x88), u, t, b) // a0 b0 c0 d0
		VSHUFI32X4(U8(0xDD), u, t, t)
		VSHUFI32X4(U8(0x88), c, a, d)
		VSHUFI32X4(U8(0xDD), c, a, a)
		for l, x := range []VecPhysical{b, t, d, a} {
			put(x, dstRow(dst, l, 64*p))
		}
	}
}

// marlinFP8Narrow does the same with two lanes.
func marlinFP8Narrow(dst Register, low, high [4]VecPhysical, put store) {
	for q := range 4 {
		VPERM2I128(U8(0x20), high[q], low[q], Y10)
		VPERM2I128(U8(0x31), high[q], low[q], Y11)
		put(Y10, dstRow(dst, 0, 32*q))
		put(Y11, dstRow(dst, 1, 32*q))
	}
}
