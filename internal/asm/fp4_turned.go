package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// turnedFP4 emits the kernels for w = code * scale of FP4 codes that lie turned: four input features of an output feature are a word, the words of 32
// output features are a line, and eight lines share their scales.
func (t fp4Tables) turnedFP4() {
	var first, second []uint32 // of 16 pairs of dwords, which lie apart
	for i := range uint32(8) {
		first, second = append(first, i, 16+i), append(second, 8+i, 24+i)
	}
	lower, upper := dwordsTable("fp4FirstPairs", first), dwordsTable("fp4SecondPairs", second)
	for _, nt := range []bool{false, true} {
		for _, to := range []string{"BF16", "F16", "F32"} {
			(&fp4Turned{fp4Tables: t, to: to, nt: nt, wide: true, lower: lower, upper: upper}).kernel()
			(&fp4Turned{fp4Tables: t, to: to, nt: nt}).kernel()
		}
	}
}

// fp4Turned emits one of them. The two words of a dword are neighbours: the even one is looked up in its place, the odd one moved there, and their weights are
// put next to each other again.
type fp4Turned struct {
	fp4Tables

	to           string
	nt, wide     bool
	lower, upper Mem
	put          store
}

// The constants of the kernels, by register.
var (
	turnedValues             = Z31
	turnedLower, turnedUpper = Z30, Z29 // F32
	turnedMagnitudes         = Y15
	turnedSign               = Y14
)

// turnedOdd has a bit for every odd word.
const turnedOdd = 0xAAAA_AAAA

func (k *fp4Turned) kernel() {
	var name string
	name, k.put = variant("fp4TurnedTo"+k.to, k.wide, k.nt)
	size := 2
	if k.to == "F32" {
		size = 4
	}
	doc := []string{
		fmt.Sprintf("%s decodes groups times 32 input features, a row of dst each, of blocks times 32 output features.", name),
		"src has the codes of four input features in words, those of all output features next to each other. scales are as many a group, of each block the even output features first.",
	}
	if k.nt {
		doc = append(doc, "dst and dstStride are multiples of 64.")
	}
	function(name, "func(dst, src *byte, scales *float32, groups, blocks, dstStride int)", doc...)
	Load(Param("dst"), R8)
	Load(Param("src"), RSI)
	Load(Param("scales"), R9)
	Load(Param("groups"), R10)
	Load(Param("blocks"), R11)
	Load(Param("dstStride"), R12)
	LEAQ(Mem{Base: R12, Index: R12, Scale: 2}, R13)
	k.constants()
	Label(name + "Group")
	MOVQ(U32(8), RBX)
	Label(name + "Line")
	MOVQ(R8, RDI)
	MOVQ(R9, RDX)
	MOVQ(R11, RCX)
	Label(name + "Block")
	for i := range 4 {
		row := []Mem{at(RDI, 0), plus(RDI, R12, 0), {Base: RDI, Index: R12, Scale: 2}, plus(RDI, R13, 0)}[i]
		if k.wide {
			k.wideRow(i, row)
		} else {
			k.narrowRow(i, row)
		}
	}
	ADDQ(U32(64), RSI)
	ADDQ(U32(128), RDX)
	ADDQ(U32(uint32(32*size)), RDI)
	DECQ(RCX)
	JNZ(LabelRef(name + "Block"))
	LEAQ(Mem{Base: R8, Index: R12, Scale: 4}, R8)
	DECQ(RBX)
	JNZ(LabelRef(name + "Line"))
	MOVQ(RDX, R9)
	DECQ(R10)
	JNZ(LabelRef(name + "Group"))
	leave(k.nt)
}

// constants loads what stays in registers.
func (k *fp4Turned) constants() {
	if !k.wide {
		VMOVDQU(k.magnitudes, turnedMagnitudes)
		VPBROADCASTD(dword("sign", 1<<31), turnedSign)
		return
	}
	VMOVDQU64(k.values, turnedValues)
	switch k.to {
	case "BF16":
		MOVL(U32(turnedOdd), EAX)
		KMOVD(EAX, K1)
	case "F32":
		VMOVDQU64(k.lower, turnedLower)
		VMOVDQU64(k.upper, turnedUpper)
	}
}

// wideRow decodes code i of 32 words. VPERMPS looks at the lowest four bits alone.
func (k *fp4Turned) wideRow(i int, row Mem) {
	if i == 0 {
		VMOVDQU64(at(RSI, 0), Z0)
	}
	even, odd := VecPhysical(Z0), VecPhysical(Z2)
	if i > 0 {
		even = Z1
		VPSRLD(U8(uint8(4*i)), Z0, even)
	}
	VPSRLD(U8(uint8(16+4*i)), Z0, odd)
	VPERMPS(turnedValues, even, Z1)
	VPERMPS(turnedValues, odd, Z2)
	VMULPS(at(RDX, 0), Z1, Z1)
	VMULPS(at(RDX, 64), Z2, Z2)
	switch k.to {
	case "BF16": // which holds every weight: there is nothing to round
		VPSRLD(U8(16), Z1, Z1)
		VPBLENDMW(Z2, Z1, K1, Z1)
		k.put(Z1, row)
	case "F16":
		VCVTPS2PH(U8(0), Z1, Y1)
		VCVTPS2PH(U8(0), Z2, Y2)
		VPMOVZXWD(Y1, Z1)
		VPMOVZXWD(Y2, Z2)
		VPSLLD(U8(16), Z2, Z2)
		VPORD(Z2, Z1, Z1)
		k.put(Z1, row)
	default:
		VMOVDQA64(Z1, Z3)
		VPERMT2PS(Z2, turnedLower, Z1)
		VPERMT2PS(Z2, turnedUpper, Z3)
		k.put(Z1, row)
		k.put(Z3, row.Offset(64))
	}
}

// narrowRow does it with 16 words at a time, whose sign it moves apart.
func (k *fp4Turned) narrowRow(i int, row Mem) {
	for h := range 2 {
		VMOVDQU(at(RSI, 32*h), Y0)
		even, odd := VecPhysical(Y0), VecPhysical(Y2)
		if i > 0 {
			even = Y1
			VPSRLD(U8(uint8(4*i)), Y0, even)
		}
		VPSRLD(U8(uint8(16+4*i)), Y0, odd)
		for o, code := range []VecPhysical{even, odd} {
			v := []VecPhysical{Y3, Y4}[o]
			VPERMPS(turnedMagnitudes, code, v)
			VPSLLD(U8(28), code, Y5)
			VPAND(turnedSign, Y5, Y5)
			VPXOR(Y5, v, v)
			VMULPS(at(RDX, 32*h+64*o), v, v)
		}
		switch k.to {
		case "BF16":
			VPSRLD(U8(16), Y3, Y3)
			VPBLENDW(U8(turnedOdd&0xFF), Y4, Y3, Y3)
			k.put(Y3, row.Offset(32*h))
		case "F16":
			VCVTPS2PH(U8(0), Y3, X3)
			VCVTPS2PH(U8(0), Y4, X4)
			VPUNPCKLWD(X4, X3, X1)
			VPUNPCKHWD(X4, X3, X2)
			VINSERTI128(U8(1), X2, Y1, Y1)
			k.put(Y1, row.Offset(32*h))
		default:
			VUNPCKLPS(Y4, Y3, Y1)
			VUNPCKHPS(Y4, Y3, Y2)
			VPERM2I128(U8(0x20), Y2, Y1, Y3)
			VPERM2I128(U8(0x31), Y2, Y1, Y4)
			k.put(Y3, row.Offset(64*h))
			k.put(Y4, row.Offset(64*h+32))
		}
	}
}
