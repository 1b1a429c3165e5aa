package main

import (
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
	name, put := variant("fp8To"+to, wide, nt)
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
