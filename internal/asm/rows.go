package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// transposes emits the kernels that turn 64 rows of a line of words into rows of 64 words, which is how GPTQ has them.
func transposes() {
	transposeLine("transpose16AVX512", 16, zs, unaligned512, func(lane int, m Mem, r VecPhysical) { VINSERTI32X4(U8(uint8(lane)), m, r, r) })
	transposeLine("transpose8AVX2", 8, ys, unaligned256, func(lane int, m Mem, r VecPhysical) { VINSERTI128(U8(uint8(lane)), m, r, r) })
}

// transposeLine: lanes rows at a time become lanes columns. Four words of each row are loaded at a time, those of rows 4l to 4l+3 into the
// 128-bit lanes l of four registers, which costs no shuffles; then each lane is a 4x4 transpose.
func transposeLine(name string, lanes int, r []VecPhysical, put store, insert func(lane int, m Mem, r VecPhysical)) {
	function(name, "func(dst, src *byte, stride, ahead, step int)",
		fmt.Sprintf("%s transposes %d words of each of 64 rows, stride bytes apart, and prefetches 64 places, step bytes apart, from ahead bytes behind src on.", name, lanes))
	Load(Param("dst"), RDI)
	Load(Param("src"), RSI)
	Load(Param("stride"), R8)
	Load(Param("ahead"), R9)
	ADDQ(RSI, R9)
	Load(Param("step"), R11)
	LEAQ(Mem{Base: R8, Index: R8, Scale: 2}, R10)
	MOVQ(U32(uint32(64/lanes)), RCX)
	// Rows 4l to 4l+3 are at the pointer of lane l, at one, two and three strides from it.
	pointers := []GPPhysical{RSI, RAX, RBX, RDX}[:lanes/4]
	row := func(lane, i, off int) Mem {
		switch p := pointers[lane]; i {
		case 0:
			return at(p, off)
		case 3:
			return plus(p, R10, off)
		default:
			return Mem{Base: p, Index: R8, Scale: uint8(i), Disp: off}
		}
	}
	Label(name + "Rows")
	for lane := 1; lane < len(pointers); lane++ {
		LEAQ(Mem{Base: pointers[lane-1], Index: R8, Scale: 4}, pointers[lane])
	}
	for quarter := range lanes / 4 {
		set := r[8*(quarter%2):]
		x, t := set[:4], set[4:8]
		for i := range 4 {
			VMOVDQU(row(0, i, 16*quarter), xs[8*(quarter%2)+i])
			for lane := 1; lane < len(pointers); lane++ {
				insert(lane, row(lane, i, 16*quarter), x[i])
			}
			PREFETCHT0(at(R9, 0)) // lanes places in all
			ADDQ(R11, R9)
		}
		VPUNPCKLDQ(x[1], x[0], t[0])
		VPUNPCKHDQ(x[1], x[0], t[1])
		VPUNPCKLDQ(x[3], x[2], t[2])
		VPUNPCKHDQ(x[3], x[2], t[3])
		for half := range 2 {
			VPUNPCKLQDQ(t[2+half], t[half], x[0])
			VPUNPCKHQDQ(t[2+half], t[half], x[1])
			put(x[0], at(RDI, 256*(4*quarter+2*half)))
			put(x[1], at(RDI, 256*(4*quarter+2*half+1)))
		}
	}
	LEAQ(Mem{Base: pointers[len(pointers)-1], Index: R8, Scale: 4}, RSI)
	ADDQ(U32(uint32(4*lanes)), RDI)
	DECQ(RCX)
	JNZ(LabelRef(name + "Rows"))
	leave(false)
}

// rowsDequants emits the kernels for codes that lie one after the other along K, as their weights do.
func rowsDequants() {
	tables := rowsTables{
		shifts: dwordsTable("nibbleShifts", []uint32{0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28}),
		low:    dwordsTable("wordsLow", []uint32{0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1}),
		high:   dwordsTable("wordsHigh", []uint32{2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3}),
	}
	var odd []uint16
	for i := range uint16(32) {
		odd = append(odd, 2*i+1)
	}
	tables.odd = wordsTable("oddWords", odd)
	for _, nt := range []bool{false, true} {
		for _, bits := range []int{4, 8} {
			for _, to := range []string{"BF16", "F16", "F32"} {
				(&rowsKernel{bits: bits, to: to, nt: nt, rowsTables: tables}).avx512()
				(&rowsKernel{bits: bits, to: to, nt: nt, rowsTables: tables}).avx2()
			}
		}
	}
}

type rowsTables struct {
	shifts    Mem // of the nibbles of a word, twice
	low, high Mem // which word holds a code: of the first 16, of the next 16
	odd       Mem // the upper halves of 32 dwords
}

// rowsKernel emits one of them: w = scale * (code - zero), 32 codes at a time, all of one group. As in dequant, a code becomes a float in
// the fraction of 2^23, and zeros hold 2^23 + zero.
type rowsKernel struct {
	rowsTables

	bits int
	to   string
	nt   bool

	put                store
	next               int // the constants' registers
	field, magic       VecPhysical
	one, halfLess, odd VecPhysical
	shifts, low, high  VecPhysical
	scale, zero, work  VecPhysical
}

// frame emits the loops over groups and over blocks of 32 codes around block, which moves no pointer.
func (k *rowsKernel) frame(level string, r []VecPhysical, setup, block func()) {
	name := suffix(fmt.Sprintf("rows%dTo%s%s", k.bits, k.to, level), k.nt)
	doc := []string{name + " decodes groups groups of blocks times 32 codes, each with its scale and its zero point."}
	if k.nt {
		doc = append(doc, "dst is a multiple of 64.")
	}
	function(name, "func(dst, src *byte, scales, zeros *float32, groups, blocks int)", doc...)
	Load(Param("dst"), RDI)
	Load(Param("src"), RSI)
	Load(Param("scales"), R10)
	Load(Param("zeros"), R11)
	Load(Param("groups"), R12)
	Load(Param("blocks"), R13)
	k.next = len(r)
	take := func() VecPhysical {
		k.next--
		return r[k.next]
	}
	constant := func(name string, x uint32) VecPhysical {
		v := take()
		VPBROADCASTD(dword(name, x), v)
		return v
	}
	k.field, k.magic = constant(fmt.Sprintf("code%d", k.bits), 1<<k.bits-1), constant("two23", 0x4B00_0000)
	if k.to == "BF16" {
		k.one, k.halfLess = constant("one", 1), constant("halfLess", 0x7FFF)
	}
	k.scale, k.zero, k.work = take(), take(), take()
	setup()
	Label(name + "Group")
	VBROADCASTSS(at(R10, 0), k.scale)
	VBROADCASTSS(at(R11, 0), k.zero)
	MOVQ(R13, RCX)
	Label(name + "Block")
	block()
	size := 2
	if k.to == "F32" {
		size = 4
	}
	ADDQ(U32(uint32(4*k.bits)), RSI)
	ADDQ(U32(uint32(32*size)), RDI)
	DECQ(RCX)
	JNZ(LabelRef(name + "Block"))
	ADDQ(U32(4), R10)
	ADDQ(U32(4), R11)
	DECQ(R12)
	JNZ(LabelRef(name + "Group"))
	leave(k.nt)
}

func (k *rowsKernel) avx512() {
	k.put = unaligned512
	if k.nt {
		k.put = nonTemporal
	}
	k.frame("AVX512", zs, func() {
		load := func(m Mem) VecPhysical {
			k.next--
			VMOVDQU64(m, zs[k.next])
			return zs[k.next]
		}
		if k.bits == 4 {
			k.shifts, k.low, k.high = load(k.rowsTables.shifts), load(k.rowsTables.low), load(k.rowsTables.high)
		}
		if k.to == "BF16" {
			k.odd = load(k.rowsTables.odd)
		}
	}, func() {
		a, b := Z0, Z1
		if k.bits == 4 {
			VMOVDQU(at(RSI, 0), X2)
			VPERMD(Z2, k.low, a)
			VPERMD(Z2, k.high, b)
			VPSRLVD(k.shifts, a, a)
			VPSRLVD(k.shifts, b, b)
		} else {
			VPMOVZXBD(at(RSI, 0), a)
			VPMOVZXBD(at(RSI, 16), b)
		}
		for _, x := range []VecPhysical{a, b} {
			VPTERNLOGD(U8(0xEA), k.magic, k.field, x) // x & field | magic
			VSUBPS(k.zero, x, x)
			VMULPS(k.scale, x, x)
			if k.to == "BF16" { // rounded, in the upper half of every dword
				VPSRLD(U8(16), x, k.work)
				VPANDD(k.one, k.work, k.work)
				VPADDD(k.halfLess, k.work, k.work)
				VPADDD(k.work, x, x)
			}
		}
		switch k.to {
		case "BF16":
			VPERMT2W(b, k.odd, a)
		case "F16":
			VCVTPS2PH(U8(0), a, Y0)
			VCVTPS2PH(U8(0), b, Y1)
			VINSERTI64X4(U8(1), Y1, a, a)
		case "F32":
			k.put(b, at(RDI, 64))
		}
		k.put(a, at(RDI, 0))
	})
}

func (k *rowsKernel) avx2() {
	k.put = unaligned256
	if k.nt {
		k.put = nonTemporal
	}
	k.frame("AVX2", ys, func() {
		if k.bits == 4 {
			k.next--
			k.shifts = ys[k.next]
			VMOVDQU(k.rowsTables.shifts, k.shifts)
		}
	}, func() {
		value := func(i int, x VecPhysical) { // of codes 8i to 8i+7
			if k.bits == 4 {
				VPBROADCASTD(at(RSI, 4*i), x)
				VPSRLVD(k.shifts, x, x)
				VPAND(k.field, x, x)
			} else {
				VPMOVZXBD(at(RSI, 8*i), x)
			}
			VPOR(k.magic, x, x)
			VSUBPS(k.zero, x, x)
			VMULPS(k.scale, x, x)
			if k.to == "BF16" {
				VPSRLD(U8(16), x, k.work)
				VPAND(k.one, k.work, k.work)
				VPADDD(k.halfLess, k.work, k.work)
				VPADDD(k.work, x, x)
				VPSRLD(U8(16), x, x)
			}
		}
		for i := range 4 {
			value(i, ys[i%2])
			switch {
			case k.to == "F32":
				k.put(ys[i%2], at(RDI, 32*i))
				continue
			case i%2 == 0:
				continue
			case k.to == "BF16":
				VPACKUSDW(Y1, Y0, Y0)
				VPERMQ(U8(0xD8), Y0, Y0)
			default:
				VCVTPS2PH(U8(0), Y0, X0)
				VCVTPS2PH(U8(0), Y1, X1)
				VINSERTI128(U8(1), X1, Y0, Y0)
			}
			k.put(Y0, at(RDI, 32*(i/2)))
		}
	})
}
