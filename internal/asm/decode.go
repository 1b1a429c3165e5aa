package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

const dequantArgs = "func(dst, src *byte, dstStride, srcStride int, scales, zeros *float32, offsets *int32, blocks, columns, ahead int)"

func decode() {
	var idx []uint16
	for i := range uint16(16) {
		idx = append(idx, i, 16+i)
	}
	pairs := wordsTable("dequantPairs", idx)
	awqTurnAVX2()
	for _, nt := range []bool{false, true} {
		for _, bits := range []int{4, 8} {
			for _, to := range []string{"BF16", "F16", "F32"} {
				dequant(bits, to, true, nt, pairs)
				dequant(bits, to, false, nt, pairs)
			}
		}
	}
	decodeFP8()
	decodeFP4()
	decodeGGUF()
	transposeSquares()
	rowsDequants()
}

// dequant emits a kernel for w = scale * (code - zero): 16 (AVX-512) or 8 (AVX2) columns side by side, one input feature after another;
// then a transpose, because the destination has the input features side by side.
//
// A code becomes a float without a conversion: in the fraction of 2^23 it is 2^23 + code, and zeros hold 2^23 + zero.
func dequant(bits int, to string, wide, nt bool, pairs Mem) {
	name, put := variant(fmt.Sprintf("dequant%dTo%s", bits, to), wide, nt)
	lanes, r := 8, ys
	if wide {
		lanes, r = 16, zs
	}
	doc := []string{
		fmt.Sprintf("%s decodes columns times %d columns of blocks times 32 input features. The scale and the zero", name, lanes),
		"of input feature k are offsets[k] bytes behind scales and zeros. ahead is how far in front of its use src is prefetched.",
	}
	if nt {
		doc = append(doc, "dst and dstStride are multiples of 64.")
	}
	function(name, dequantArgs, doc...)
	Load(Param("dst"), RDI)
	Load(Param("src"), RSI)
	Load(Param("dstStride"), R8)
	Load(Param("srcStride"), R9)
	Load(Param("scales"), R10)
	Load(Param("zeros"), R11)

	size, per := 2, 32/bits
	if to == "F32" {
		size = 4
	}
	next := len(r)
	constant := func(name string, x uint32) VecPhysical {
		next--
		VPBROADCASTD(dword(name, x), r[next])
		return r[next]
	}
	field := constant(fmt.Sprintf("code%d", bits), 1<<bits-1)
	magic := constant("two23", 0x4B00_0000)
	var one, halfLess, upper, interleave VecPhysical
	if to == "BF16" {
		one, halfLess = constant("one", 1), constant("halfLess", 0x7FFF)
		if wide {
			upper = constant("upperWords", 0xFFFF_0000)
		}
	}
	if to == "F16" && wide {
		next--
		interleave = r[next]
		VMOVDQU64(pairs, interleave)
	}
	var stack Mem
	if !wide {
		stack = AllocLocal(256)
	}

	// A line of each column's row is made of rounds*lanes registers of values; k counts the input features of the block.
	word, a, b := r[next-1], r[next-2], r[next-3]
	k := 0
	value := func(x VecPhysical) {
		if k%per == 0 {
			if wide {
				VMOVDQU32(at(RDX, 0), word)
			} else {
				VMOVDQU(at(RDX, 0), word)
			}
			MOVQ(RDX, RAX)
			ADDQ(NewParamAddr("ahead", 72), RAX)
			PREFETCHT0(at(RAX, 0))
			ADDQ(R9, RDX)
		}
		code := word
		if shift := bits * (k % per); shift > 0 {
			VPSRLD(U8(uint8(shift)), word, x)
			code = x
		}
		if wide {
			if code != x {
				VMOVDQA64(code, x)
			}
			VPTERNLOGD(U8(0xEA), magic, field, x) // x & field | magic
		} else {
			VPAND(field, code, x)
			VPOR(magic, x, x)
		}
		MOVLQSX(at(R12, 4*k), RBX)
		VSUBPS(plus(R11, RBX, 0), x, x)
		VMULPS(plus(R10, RBX, 0), x, x)
		k++
	}
	// round leaves a rounded bfloat16 in the upper half of every dword.
	round := func(x, t VecPhysical) {
		VPSRLD(U8(16), x, t)
		if wide {
			VPANDD(one, t, t)
		} else {
			VPAND(one, t, t)
		}
		VPADDD(halfLess, t, t)
		VPADDD(t, x, x)
	}
	// dwords fills x with what 4 bytes of each column's row hold.
	dwords := func(x VecPhysical) {
		switch to {
		case "F32":
			value(x)
		case "BF16":
			value(x)
			round(x, a)
			value(b)
			round(b, a)
			VPSRLD(U8(16), x, x)
			if wide {
				VPTERNLOGD(U8(0xF8), upper, b, x) // x | b & upper
			} else {
				VPBLENDW(U8(0xAA), b, x, x) // odd words of b
			}
		case "F16":
			value(x)
			value(b)
			VCVTPS2PH(U8(0), x, halfOf(x))
			VCVTPS2PH(U8(0), b, halfOf(b))
			if wide {
				VINSERTI64X4(U8(1), halfOf(b), x, x)
				VPERMW(x, interleave, x)
			} else {
				VPMOVZXWD(halfOf(x), x)
				VPMOVZXWD(halfOf(b), b)
				VPSLLD(U8(16), b, b)
				VPOR(b, x, x)
			}
		}
	}

	Label(name + "Columns")
	Load(Param("offsets"), R12)
	Load(Param("blocks"), RCX)
	MOVQ(RDI, R13)
	MOVQ(RSI, RDX)
	Label(name + "Block")
	k = 0
	for lineAt := range size * 32 / 64 { // lines of a block in each row
		if wide {
			for i := range 16 {
				dwords(zs[i])
			}
			MOVQ(R13, RAX)
			for i, row := range transpose16(zs[:16], a) {
				if i > 0 && i%2 == 0 {
					LEAQ(Mem{Base: RAX, Index: R8, Scale: 2}, RAX)
				}
				if i%2 == 0 {
					put(row, at(RAX, 64*lineAt))
				} else {
					put(row, plus(RAX, R8, 64*lineAt))
				}
			}
			continue
		}
		for half := range 2 {
			for i := range 8 {
				dwords(ys[i])
			}
			MOVQ(R13, RAX)
			for i, row := range transpose8(ys[:8], a) {
				if half == 0 {
					VMOVDQU(row, stack.Offset(32*i))
					continue
				}
				if i > 0 && i%2 == 0 {
					LEAQ(Mem{Base: RAX, Index: R8, Scale: 2}, RAX)
				}
				VMOVDQU(stack.Offset(32*i), b)
				to := func(off int) Mem {
					if i%2 == 0 {
						return at(RAX, 64*lineAt+off)
					}
					return plus(RAX, R8, 64*lineAt+off)
				}
				put(b, to(0))
				put(row, to(32))
			}
		}
	}
	ADDQ(U32(uint32(32*size)), R13)
	ADDQ(U32(128), R12)
	DECQ(RCX)
	JNZ(LabelRef(name + "Block"))
	ADDQ(U32(uint32(4*lanes)), RSI)
	ADDQ(U32(uint32(4*lanes)), R10)
	ADDQ(U32(uint32(4*lanes)), R11)
	for range lanes / 8 {
		LEAQ(Mem{Base: RDI, Index: R8, Scale: 8}, RDI)
	}
	DECQ(NewParamAddr("columns", 64))
	JNZ(LabelRef(name + "Columns"))
	leave(nt)
}

// halfOf is the register of half the width.
func halfOf(r VecPhysical) VecPhysical {
	for i, z := range zs {
		if r == z {
			return append(ys, Y16, Y17, Y18, Y19, Y20, Y21, Y22, Y23, Y24, Y25, Y26, Y27, Y28, Y29, Y30, Y31)[i]
		}
	}
	for i, y := range ys {
		if r == y {
			return xs[i]
		}
	}
	panic("no half")
}
