package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// scalesOfNVFP4 emits the kernels that find the largest of positive F8_E4M3, and those that make S0E5M3 of them too.
func scalesOfNVFP4() {
	for _, change := range []bool{false, true} {
		for _, wide := range []bool{true, false} {
			(&nvfp4Scales{change: change, wide: wide}).kernel()
		}
	}
}

// nvfp4Scales emits one of them. -0 counts as 0, so that whatever else is no positive number is the largest.
type nvfp4Scales struct{ change, wide bool }

func (k *nvfp4Scales) kernel() {
	name, args := "peakE4M3", "func(src *byte, lines int) uint8"
	doc := " returns the largest of lines of 64 bytes, where 0x80 counts as 0."
	if k.change {
		name, args = "changeE4M3", "func(dst, src *byte, lines int, small *byte, add uint64) uint8"
		doc = " adds add to each of lines of 64 bytes; for those below 8 it takes the byte of small, which are 16, and for those from 0x80 on 0. It returns what peakE4M3 does."
	}
	name += map[bool]string{true: "AVX512", false: "AVX2"}[k.wide]
	function(name, args, name+doc)
	Load(Param("src"), RSI)
	Load(Param("lines"), RCX)
	if k.change {
		Load(Param("dst"), RDI)
		Load(Param("small"), RAX)
	}
	if k.wide {
		k.line512(name)
	} else {
		k.line256(name)
	}
	for _, n := range []uint8{8, 4, 2, 1} {
		VPSRLDQ(U8(n), X0, X1)
		VPMAXUB(X1, X0, X0)
	}
	VMOVD(X0, EAX)
	Store(AL, ReturnIndex(0))
	leave(false)
}

// constant broadcasts a byte.
func (k *nvfp4Scales) constant(name string, v uint32, to VecPhysical) {
	VPBROADCASTD(dword(name, v*0x0101_0101), to)
}

func (k *nvfp4Scales) line512(name string) {
	zero, normal, add, small, scale := Z2, Z3, Z4, Z5, Z6
	k.constant("negativeZeros", 0x80, zero)
	if k.change {
		k.constant("leastNormal", 8, normal)
		VPBROADCASTQ(NewParamAddr("add", 32), add)
		VBROADCASTI32X4(at(RAX, 0), small)
	}
	VPXORD(Z0, Z0, Z0)
	loop(name+"Line", RCX, func() {
		VMOVDQU8(at(RSI, 0), scale)
		VPCMPB(U8(4), zero, scale, K1) // not equal
		VPMAXUB(scale, Z0, K1, Z0)
		if k.change {
			VPCMPB(U8(1), normal, scale, K2) // less, with the sign
			VPADDB(add, scale, Z7)
			VPSHUFB(scale, small, K2, Z7)
			VMOVDQU8(Z7, at(RDI, 0))
			ADDQ(U32(64), RDI)
		}
		ADDQ(U32(64), RSI)
	})
	VEXTRACTI64X4(U8(1), Z0, Y1)
	VPMAXUB(Y1, Y0, Y0)
	VEXTRACTI128(U8(1), Y0, X1)
	VPMAXUB(X1, X0, X0)
}

func (k *nvfp4Scales) line256(name string) {
	zero, normal, add, small := Y2, Y3, Y4, Y5
	k.constant("negativeZeros", 0x80, zero)
	if k.change {
		k.constant("leastNormal", 8, normal)
		VPBROADCASTQ(NewParamAddr("add", 32), add)
		VBROADCASTI128(at(RAX, 0), small)
	}
	VPXOR(Y0, Y0, Y0)
	loop(name+"Line", RCX, func() {
		for half := range 2 {
			scale, t, u := ys[6+3*half], ys[7+3*half], ys[8+3*half]
			VMOVDQU(at(RSI, 32*half), scale)
			VPCMPEQB(zero, scale, t)
			VPANDN(scale, t, t)
			VPMAXUB(t, Y0, Y0)
			if k.change {
				VPCMPGTB(scale, normal, t) // with the sign
				VPADDB(add, scale, u)
				VPSHUFB(scale, small, scale)
				VPBLENDVB(t, scale, u, u)
				VMOVDQU(u, at(RDI, 32*half))
			}
		}
		ADDQ(U32(64), RSI)
		if k.change {
			ADDQ(U32(64), RDI)
		}
	})
	VEXTRACTI128(U8(1), Y0, X1)
	VPMAXUB(X1, X0, X0)
}
