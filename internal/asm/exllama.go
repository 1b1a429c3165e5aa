package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// exllama emits the kernels that shuffle the codes of every word: the even ones close up in the lower half, the odd ones in the upper half.
func exllama() {
	var halves []uint8 // bytes 0, 2 and 1, 3 of every dword side by side
	for i := range uint8(64) {
		halves = append(halves, i%16&^3+[]uint8{0, 2, 1, 3}[i%4])
	}
	order := bytesTable("exllamaBytes", halves)
	for _, nt := range []bool{false, true} {
		for _, wide := range []bool{true, false} {
			for _, bits := range []int{2, 3, 4} {
				k := &exllamaKernel{bits: bits, nt: nt, wide: wide, width: 32, r: ys, put: unaligned256}
				if wide {
					k.width, k.r, k.put = 64, zs, unaligned512
				}
				if nt {
					k.put = nonTemporal
				}
				k.next = len(k.r)
				k.kernel(order)
			}
		}
	}
}

// exllamaKernel emits one of them.
type exllamaKernel struct {
	bits, width int
	wide, nt    bool
	r           []VecPhysical
	put         store
	next        int // the constants' registers, from the last on
}

func (k *exllamaKernel) kernel(order Mem) {
	name := suffix(fmt.Sprintf("exllama%d%s", k.bits, map[bool]string{true: "AVX512", false: "AVX2"}[k.wide]), k.nt)
	args, doc := "func(dst, src *byte, lines int)", []string{name + " shuffles the words of lines of 64 bytes."}
	if k.bits == 3 {
		args = "func(dst, src *byte, lines, dstStride, srcStride int)"
		doc = []string{name + " shuffles the codes of three rows of lines of 64 bytes, dstStride and srcStride bytes apart."}
	}
	if k.nt {
		doc = append(doc, "dst and the rows are multiples of 64.")
	}
	function(name, args, doc...)
	Load(Param("dst"), RDI)
	Load(Param("src"), RSI)
	Load(Param("lines"), RCX)
	var line func(off int)
	if k.bits == 3 {
		Load(Param("dstStride"), R8)
		Load(Param("srcStride"), R9)
		line = k.threes()
	} else {
		line = k.words(order)
	}
	loop(name+"Line", RCX, func() {
		for off := 0; off < 64; off += k.width {
			line(off)
		}
		ADDQ(U32(64), RSI)
		ADDQ(U32(64), RDI)
	})
	leave(k.nt)
}

// constant is a register with x in every lane.
func (k *exllamaKernel) constant(name string, x uint32) VecPhysical {
	k.next--
	VPBROADCASTD(dword(name, x), k.r[k.next])
	return k.r[k.next]
}

func (k *exllamaKernel) load(m Mem, to VecPhysical) {
	if k.wide {
		VMOVDQU32(m, to)
	} else {
		VMOVDQU(m, to)
	}
}

func (k *exllamaKernel) and(m, x, to VecPhysical) {
	if k.wide {
		VPANDD(m, x, to)
	} else {
		VPAND(m, x, to)
	}
}

func (k *exllamaKernel) or(a, x, to VecPhysical) {
	if k.wide {
		VPORD(a, x, to)
	} else {
		VPOR(a, x, to)
	}
}

// fold is (x | x >> n) & mask.
func (k *exllamaKernel) fold(x, spare, mask VecPhysical, n uint8) {
	VPSRLD(U8(n), x, spare)
	if k.wide {
		VPTERNLOGD(U8(0xA8), mask, spare, x)
		return
	}
	VPOR(spare, x, x)
	VPAND(mask, x, x)
}

// words sets up what shuffles a register of codes of 2 or 4 bits. Even and odd codes close up in their bytes, then pairs of bytes in one.
func (k *exllamaKernel) words(order Mem) func(off int) {
	mask, pairs := k.constant("lowNibbles", 0x0F0F0F0F), k.constant("nibblePairs", 0x10011001)
	k.next--
	halves := k.r[k.next]
	k.load(order, halves)
	var codes VecPhysical
	if k.bits == 2 {
		codes = k.constant("evenCodes2", 0x33333333)
	}
	return func(off int) {
		even, odd, spare := k.r[0], k.r[1], k.r[2]
		k.load(at(RSI, off), even)
		VPSRLD(U8(uint8(k.bits)), even, odd)
		for _, x := range []VecPhysical{even, odd} {
			if k.bits == 2 {
				k.and(codes, x, x)
				k.fold(x, spare, mask, 2)
			} else {
				k.and(mask, x, x)
			}
			VPMADDUBSW(pairs, x, x)
		}
		VPSLLD(U8(8), odd, odd)
		k.or(odd, even, even)
		VPSHUFB(halves, even, even)
		k.put(even, at(RDI, off))
	}
}

// threes sets up what shuffles a register of each of three rows: ten codes of 3 bits to a word, and the bits of two more apart.
func (k *exllamaKernel) threes() func(off int) {
	first, second := k.constant("codes3", 0x071C71C7), k.constant("codes3by2", 0x0703F03F)
	third, fourth := k.constant("codes3by4", 0x07000FFF), k.constant("codes3by5", 0x7FFF)
	low, high := k.constant("bit15", 1<<15), k.constant("bit31", 1<<31)
	return func(off int) {
		a, b, c := k.r[0], k.r[1], k.r[2]
		k.load(at(RSI, off), a)
		k.load(plus(RSI, R9, off), b)
		k.load(Mem{Base: RSI, Index: R9, Scale: 2, Disp: off}, c)
		for t, to := range []Mem{at(RDI, off), plus(RDI, R8, off), {Base: RDI, Index: R8, Scale: 2, Disp: off}} {
			even, odd, spare := k.r[3], k.r[4], k.r[5]
			switch t {
			case 0:
				even = a
			case 1: // the codes begin two bits before the word
				VPSRLD(U8(30), a, even)
				VPSLLD(U8(2), b, spare)
				k.or(spare, even, even)
			case 2:
				VPSRLD(U8(28), b, even)
				VPSLLD(U8(4), c, spare)
				k.or(spare, even, even)
			}
			VPSRLD(U8(3), even, odd)
			k.and(first, odd, odd)
			k.and(first, even, k.r[6])
			even = k.r[6]
			for _, x := range []VecPhysical{even, odd} {
				k.fold(x, spare, second, 3)
				k.fold(x, spare, third, 6)
				k.fold(x, spare, fourth, 12)
			}
			VPSLLD(U8(16), odd, odd)
			k.or(odd, even, even)
			VPSRLD(U8(uint8(11+t)), c, spare) // bit 26 + t
			k.and(low, spare, spare)
			k.or(spare, even, even)
			if t < 2 {
				VPSLLD(U8(uint8(2-t)), c, spare) // bit 29 + t
				k.and(high, spare, spare)
			} else {
				k.and(high, c, spare)
			}
			k.or(spare, even, even)
			k.put(even, to)
		}
	}
}
