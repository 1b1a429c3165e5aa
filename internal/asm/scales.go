package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// transposedScales emits the kernels that transpose scales of one or two bytes and put their columns into another order.
func transposedScales() {
	function("fence", "func()", "fence makes non-temporal stores visible before anything that follows.")
	SFENCE()
	RET()
	for _, size := range []int{1, 2} {
		for _, nt := range []bool{false, true} {
			(&scaleKernel{size: size, wide: true, nt: nt, dwords: 16, r: zs, name: suffix(fmt.Sprintf("transposeScales%dAVX512", size), nt)}).kernel()
		}
		(&scaleKernel{size: size, dwords: 8, r: ys, name: fmt.Sprintf("transposeScales%dAVX2", size)}).kernel()
	}
}

// scaleKernel emits one of them. A register of each row makes as many rows of a register as it has scales: rows that become neighbours are
// interleaved to dwords, of which a register then has every half, or quarter, of its lanes; those are transposed.
type scaleKernel struct {
	size, dwords int
	wide         bool
	nt           bool // non-temporal stores
	r            []VecPhysical
	name         string
}

func (k *scaleKernel) kernel() {
	neighbours := 4 / k.size // in a dword; the parts of a lane are as many
	doc := []string{
		fmt.Sprintf("%s transposes %d bytes of each of %d rows, which begin rows bytes behind src, to rows of dst, stride bytes apart.",
			k.name, 4*k.dwords, neighbours*k.dwords),
		"AVX-512 reads only the elements in mask. As many bytes as are read are prefetched next bytes behind src.",
	}
	if k.nt {
		doc = []string{k.name + " is the same with non-temporal stores, which are for fence to end: dst and stride are multiples of 64."}
	}
	function(k.name, "func(dst, src *byte, rows *int, mask uint64, stride, next int)", doc...)
	Load(Param("dst"), RDI)
	Load(Param("src"), RSI)
	Load(Param("rows"), RDX)
	Load(Param("stride"), R9)
	Load(Param("next"), R10)
	ADDQ(RSI, R10)
	if k.wide {
		m, err := Param("mask").Resolve()
		if err != nil {
			panic(err)
		}
		KMOVQ(m.Addr, K1)
	}
	LEAQ(Mem{Base: R9, Index: R9, Scale: 2}, R12)
	MOVQ(R9, R13) // the rows of dst that are of one lane
	SHLQ(U8(map[int]uint8{1: 4, 2: 3}[k.size]), R13)
	for part := range neighbours {
		x := append([]VecPhysical(nil), k.r[:k.dwords]...)
		for i := range x {
			k.interleave(x[i], neighbours*i, part)
			PREFETCHT0(at(R10, 4*k.dwords*(k.dwords*part+i)))
		}
		k.write(x)
		if part+1 < neighbours {
			LEAQ(Mem{Base: RDI, Index: R9, Scale: 4}, RDI)
		}
	}
	leave(false)
}

// write transposes the dwords of x and writes them: the rows of a lane follow each other, those of the next are R13 further.
func (k *scaleKernel) write(x []VecPhysical) {
	if k.wide {
		x = transpose16(x, k.r[k.dwords])
	} else {
		x = transpose8(x, k.r[k.dwords])
	}
	MOVQ(RDI, RAX)
	for lane := range k.dwords / 4 {
		for d, m := range []Mem{at(RAX, 0), plus(RAX, R9, 0), {Base: RAX, Index: R9, Scale: 2}, plus(RAX, R12, 0)} {
			switch {
			case k.nt:
				VMOVNTDQ(x[4*lane+d], m)
			case k.wide:
				VMOVDQU32(x[4*lane+d], m)
			default:
				VMOVDQU(x[4*lane+d], m)
			}
		}
		if lane+1 < k.dwords/4 {
			ADDQ(R13, RAX)
		}
	}
}

// interleave makes the dwords of some rows, the first of which is row, of one part of every lane.
func (k *scaleKernel) interleave(to VecPhysical, row, part int) {
	load := func(i int, to VecPhysical) {
		p := []GPPhysical{RAX, RBX, RCX, R8}[i]
		MOVQ(at(RDX, 8*(row+i)), p)
		switch {
		case !k.wide:
			VMOVDQU(plus(RSI, p, 0), to)
		case k.size == 1:
			VMOVDQU8_Z(plus(RSI, p, 0), K1, to)
		default:
			VMOVDQU16_Z(plus(RSI, p, 0), K1, to)
		}
	}
	a, b, c := k.r[k.dwords+1], k.r[k.dwords+2], k.r[k.dwords+3]
	pick := func(half int, low, high func(ops ...Op)) func(ops ...Op) { return []func(ops ...Op){low, high}[half] }
	if k.size == 2 {
		load(0, a)
		load(1, b)
		pick(part, VPUNPCKLWD, VPUNPCKHWD)(b, a, to)
		return
	}
	bytes := pick(part/2, VPUNPCKLBW, VPUNPCKHBW)
	load(0, a)
	load(1, b)
	bytes(b, a, a)
	load(2, b)
	load(3, c)
	bytes(c, b, b)
	pick(part%2, VPUNPCKLWD, VPUNPCKHWD)(b, a, to)
}

// transposeSquares emits the kernels that transpose squares of elements of two or four bytes, a register each way.
func transposeSquares() {
	for _, size := range []int{2, 4} {
		for _, k := range []*scaleKernel{
			{size: size, wide: true, dwords: 16, r: zs}, {size: size, wide: true, nt: true, dwords: 16, r: zs}, {size: size, dwords: 8, r: ys},
		} {
			k.square()
		}
	}
}

func (k *scaleKernel) square() {
	level := "AVX2"
	if k.wide {
		level = "AVX512"
	}
	side := 4 * k.dwords / k.size
	name := suffix(fmt.Sprintf("transposeSquares%d%s", k.size, level), k.nt)
	doc := fmt.Sprintf("%s transposes squares of %d x %d elements of %d bytes, which lie side by side in src and follow each other in dst.", name, side, side, k.size)
	if k.nt {
		doc = name + " is the same with non-temporal stores: dst and dstStride are multiples of 64."
	}
	function(name, "func(dst, src *byte, squares, dstStride, srcStride int)", doc)
	Load(Param("dst"), RDI)
	Load(Param("src"), RSI)
	Load(Param("squares"), RCX)
	Load(Param("dstStride"), R9)
	Load(Param("srcStride"), R10)
	LEAQ(Mem{Base: R9, Index: R9, Scale: 2}, R12)
	MOVQ(R9, R13) // the rows of dst that are of one lane
	SHLQ(U8(map[int]uint8{4: 2, 2: 3}[k.size]), R13)
	loop(name+"Square", RCX, func() {
		parts := 4 / k.size
		for part := range parts {
			MOVQ(RSI, RBX)
			x := append([]VecPhysical(nil), k.r[:k.dwords]...)
			for i := range x {
				k.pair(x[i], part, parts)
			}
			k.write(x)
			if part+1 < parts {
				LEAQ(Mem{Base: RDI, Index: R9, Scale: 4}, RDI)
			}
		}
		LEAQ(Mem{Base: RAX, Index: R9, Scale: 4}, RDI) // behind the last lane of the last part
		ADDQ(U32(uint32(4*k.dwords)), RSI)
	})
	leave(k.nt)
}

// pair makes the dwords of the row at RBX, or of it and the next, of one part of every lane, and moves RBX behind them.
func (k *scaleKernel) pair(to VecPhysical, part, parts int) {
	load := func(to VecPhysical) {
		if k.wide {
			VMOVDQU32(at(RBX, 0), to)
		} else {
			VMOVDQU(at(RBX, 0), to)
		}
		ADDQ(R10, RBX)
	}
	if parts == 1 {
		load(to)
		return
	}
	a, b := k.r[k.dwords+1], k.r[k.dwords+2]
	load(a)
	load(b)
	if part == 0 {
		VPUNPCKLWD(b, a, to)
	} else {
		VPUNPCKHWD(b, a, to)
	}
}
