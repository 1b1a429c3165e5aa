package main

import (
	"fmt"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// decodeGGUF emits the kernels that compute the values of ggml's blocks. Products and sums are rounded one by one, as the reference does.
func decodeGGUF() {
	var values []uint32
	for _, v := range []float32{0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6} {
		values = append(values, math.Float32bits(v))
	}
	table := dwordsTable("ggufFP4Values", values)
	for _, wide := range []bool{true, false} {
		k := &ggufKernel{wide: wide, lanes: 8, r: ys}
		if wide {
			k.lanes, k.r = 16, zs
		}
		k.kernel("q4_0", 18, 32, k.q40)
		k.kernel("q8_0", 34, 32, k.q80)
		k.kernel("q4K", 144, 256, k.q4K)
		k.kernel("q6K", 210, 256, k.q6K)
		k.kernel("ggufMXFP4", 17, 32, func() func() { return k.mxfp4(table) })
	}
}

// ggufKernel emits one of them. lanes are the values of a register.
type ggufKernel struct {
	wide  bool
	lanes int
	r     []VecPhysical
	next  int // the constants' registers, from the last on
}

// kernel emits a loop over blocks of so many bytes, which hold so many elements. setup loads constants and returns what emits one block.
func (k *ggufKernel) kernel(format string, bytes, elements int, setup func() func()) {
	name := format + "BlocksAVX2"
	if k.wide {
		name = format + "BlocksAVX512"
	}
	function(name, "func(dst *float32, src *byte, blocks int)", fmt.Sprintf("%s computes the values of blocks of %d bytes: %d of each.", name, bytes, elements))
	Load(Param("dst"), RDI)
	Load(Param("src"), RSI)
	Load(Param("blocks"), RCX)
	k.next = len(k.r)
	block := setup()
	loop(name+"Block", RCX, func() {
		block()
		ADDQ(U32(uint32(bytes)), RSI)
		ADDQ(U32(uint32(4*elements)), RDI)
	})
	leave(false)
}

// constant is a register with x in every lane.
func (k *ggufKernel) constant(name string, x uint32) VecPhysical {
	k.next--
	VPBROADCASTD(dword(name, x), k.r[k.next])
	return k.r[k.next]
}

func (k *ggufKernel) and(a, b, to VecPhysical) {
	if k.wide {
		VPANDD(a, b, to)
	} else {
		VPAND(a, b, to)
	}
}

func (k *ggufKernel) or(a, b, to VecPhysical) {
	if k.wide {
		VPORD(a, b, to)
	} else {
		VPOR(a, b, to)
	}
}

// half broadcasts the F16 at m.
func (k *ggufKernel) half(m Mem, to VecPhysical) {
	x := k.low(to)
	VPBROADCASTW(m, x)
	VCVTPH2PS(x, to)
}

// low is the half of a register of 16-bit elements that has as many as the register has lanes.
func (k *ggufKernel) low(r VecPhysical) VecPhysical {
	if k.wide {
		return asY(r)
	}
	for i, y := range ys {
		if y == r {
			return xs[i]
		}
	}
	panic("no register of 256 bits")
}

// pieces calls f for every register of n bytes, with where they begin.
func (k *ggufKernel) pieces(n int, f func(i int)) {
	for i := 0; i < n; i += k.lanes {
		f(i)
	}
}

// q40: a scale, 16 bytes of codes, the low halves first, 8 more than what they stand for.
func (k *ggufKernel) q40() func() {
	field, eight := k.constant("code4", 15), k.constant("eight", 8)
	return func() {
		scale := k.r[0]
		k.half(at(RSI, 0), scale)
		k.pieces(16, func(i int) {
			low, high := k.r[1+i/k.lanes*2], k.r[2+i/k.lanes*2]
			VPMOVZXBD(at(RSI, 2+i), low)
			VPSRLD(U8(4), low, high)
			k.and(field, low, low)
			for h, x := range []VecPhysical{low, high} {
				VPSUBD(eight, x, x)
				VCVTDQ2PS(x, x)
				VMULPS(scale, x, x)
				VMOVUPS(x, at(RDI, 64*h+4*i))
			}
		})
	}
}

// q80: a scale, 32 signed bytes.
func (k *ggufKernel) q80() func() {
	return func() {
		scale := k.r[0]
		k.half(at(RSI, 0), scale)
		k.pieces(32, func(i int) {
			x := k.r[1+i/k.lanes]
			VPMOVSXBD(at(RSI, 2+i), x)
			VCVTDQ2PS(x, x)
			VMULPS(scale, x, x)
			VMOVUPS(x, at(RDI, 4*i))
		})
	}
}

// mxfp4: an exponent, which becomes a float by a shift but for the least and for that which is no number; codes as q40 has them.
func (k *ggufKernel) mxfp4(table Mem) func() {
	field, least, infinite := k.constant("code4", 15), k.constant("leastE8M0", 1<<22), k.constant("infinite", 0x7F80_0000)
	k.next -= 2
	values, upper := k.r[k.next], k.r[k.next+1]
	if k.wide {
		VMOVDQU64(table, values)
	} else {
		VMOVDQU(table, values)
		VMOVDQU(table.Offset(32), upper)
	}
	look := func(code, to, spare VecPhysical) {
		if k.wide {
			VPERMPS(values, code, to)
			return
		}
		VPERMPS(values, code, to)
		VPERMPS(upper, code, spare)
		VPSLLD(U8(28), code, code)
		VBLENDVPS(code, spare, to, to)
	}
	return func() {
		scale, t := k.r[0], k.r[1]
		MOVBLZX(at(RSI, 0), EAX)
		VMOVD(EAX, X0)
		VPBROADCASTD(X0, scale)
		VPSLLD(U8(23), scale, scale)
		VPMAXUD(least, scale, scale)
		if k.wide {
			VPCMPEQD(infinite, scale, K1)
			VPTERNLOGD_Z(U8(0xFF), t, t, K1, t)
		} else {
			VPCMPEQD(infinite, scale, t)
		}
		VPSRLD(U8(9), t, t)
		k.or(t, scale, scale)
		k.pieces(16, func(i int) {
			VPMOVZXBD(at(RSI, 1+i), k.r[1])
			VPSRLD(U8(4), k.r[1], k.r[2])
			k.and(field, k.r[1], k.r[1])
			for h, code := range []VecPhysical{k.r[1], k.r[2]} {
				look(code, k.r[3], k.r[4])
				VMULPS(scale, k.r[3], k.r[3])
				VMOVUPS(k.r[3], at(RDI, 64*h+4*i))
			}
		})
	}
}

// q4K: two scales, of the scales and the minima of 32 elements each, which are packed in twelve bytes; codes of pairs of 32 elements.
func (k *ggufKernel) q4K() func() {
	field := k.constant("code4", 15)
	factors := AllocLocal(64) // scales, then minima
	return func() {
		k.q4KFactors(factors)
		for pair := range 4 {
			k.pieces(32, func(i int) {
				VPMOVZXBD(at(RSI, 16+32*pair+i), k.r[0])
				VPSRLD(U8(4), k.r[0], k.r[1])
				k.and(field, k.r[0], k.r[0])
				for h, x := range []VecPhysical{k.r[0], k.r[1]} {
					VBROADCASTSS(factors.Offset(4*(2*pair+h)), k.r[2])
					VBROADCASTSS(factors.Offset(32+4*(2*pair+h)), k.r[3])
					VCVTDQ2PS(x, x)
					VMULPS(k.r[2], x, x)
					VSUBPS(k.r[3], x, x)
					VMOVUPS(x, at(RDI, 128*(2*pair+h)+4*i))
				}
			})
		}
	}
}

// q4KFactors computes the scales and the minima of a block. Of both, the first four have the lower six bits of their bytes, and the upper two
// bits of these are the upper ones of the other four, whose lower four bits share bytes.
func (k *ggufKernel) q4KFactors(factors Mem) {
	const six, four, two = 0x3F3F_3F3F, 0x0F0F_0F0F, 0x0303_0303
	MOVL(at(RSI, 4), EAX)
	MOVL(at(RSI, 8), EBX)
	MOVL(at(RSI, 12), EDX)
	for i, first := range []GPPhysical{EAX, EBX} { // scales, minima
		upper, lower := R8L, R9L
		MOVL(first, upper)
		SHRL(U8(6), upper)
		ANDL(U32(two), upper)
		SHLL(U8(4), upper)
		MOVL(EDX, lower)
		if i == 1 {
			SHRL(U8(4), lower)
		}
		ANDL(U32(four), lower)
		ORL(lower, upper)
		ANDL(U32(six), first)
		SHLQ(U8(32), R8)
		ORQ(R8, first.As64())
		VMOVQ(first.As64(), X0)
		VPMOVZXBD(X0, Y0)
		VCVTDQ2PS(Y0, Y0)
		VPBROADCASTW(at(RSI, 2*i), X1)
		VCVTPH2PS(X1, Y1)
		VMULPS(Y1, Y0, Y0)
		VMOVUPS(Y0, factors.Offset(32*i))
	}
}

// q6K: the lower four bits of the codes, their upper two, sixteen scales, and one of these. Of every 128 elements, 32 bytes of the upper bits
// belong to four times 32.
func (k *ggufKernel) q6K() func() {
	field, upper, bias := k.constant("code4", 15), k.constant("upperOf6", 0x30), k.constant("thirtyTwo", 32)
	factors := AllocLocal(64)
	return func() {
		k.half(at(RSI, 208), k.r[1])
		k.pieces(16, func(i int) {
			VPMOVSXBD(at(RSI, 192+i), k.r[0])
			VCVTDQ2PS(k.r[0], k.r[0])
			VMULPS(k.r[1], k.r[0], k.r[0])
			VMOVUPS(k.r[0], factors.Offset(4*i))
		})
		for h := range 2 {
			k.pieces(32, func(i int) {
				a, b, c := k.r[0], k.r[1], k.r[2]
				VPMOVZXBD(at(RSI, 64*h+i), a)
				VPMOVZXBD(at(RSI, 64*h+32+i), b)
				VPMOVZXBD(at(RSI, 128+32*h+i), c)
				for t := range 4 {
					x, y, low := k.r[3], k.r[4], []VecPhysical{a, b}[t%2]
					if t < 2 {
						k.and(field, low, x)
						VPSLLD(U8(uint8(4-2*t)), c, y)
						k.and(upper, y, y)
					} else {
						VPSRLD(U8(4), low, x)
						VPSRLD(U8(uint8(2*t-4)), c, y)
						k.and(upper, y, y)
					}
					k.or(y, x, x)
					VPSUBD(bias, x, x)
					VCVTDQ2PS(x, x)
					VBROADCASTSS(factors.Offset(4*(8*h+2*t+i/16)), y)
					VMULPS(y, x, x)
					VMOVUPS(x, at(RDI, 4*(128*h+32*t+i)))
				}
			})
		}
	}
}
