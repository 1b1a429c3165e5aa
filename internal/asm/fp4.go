package main

import (
	"fmt"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// decodeFP4 emits the kernels for w = code * scale * global of FP4 codes, 32 codes at a time, of which 32 or 16 share a scale.
func decodeFP4() {
	tables := fp4Tables{}
	var values, magnitudes []uint32
	for _, v := range []float32{0, 0.5, 1, 1.5, 2, 3, 4, 6} {
		magnitudes = append(magnitudes, math.Float32bits(v))
	}
	values = append(values, magnitudes...)
	for _, m := range magnitudes {
		values = append(values, m|1<<31)
	}
	tables.values, tables.magnitudes = dwordsTable("fp4Values", values), dwordsTable("fp4Magnitudes", magnitudes)
	upper := make([]uint16, 32)
	for i := 16; i < 32; i++ {
		upper[i] = 16
	}
	tables.upper = wordsTable("fp4Upper", upper)
	var low, high []uint8 // bytes of eight words, for sixteen codes
	for i := range uint8(16) {
		low, high = append(low, 2*(i%8)), append(high, 2*(i%8)+1)
	}
	tables.low, tables.high = bytesTable("fp4LowBytes", low), bytesTable("fp4HighBytes", high)
	tables.signs = qwordsTable("fp4Signs", []uint64{0, 0x8080_8080_8080_8080})
	for _, group := range []int{32, 16} {
		for _, nt := range []bool{false, true} {
			for _, to := range []string{"BF16", "F16", "F32"} {
				(&fp4Kernel{fp4Tables: tables, group: group, to: to, nt: nt, wide: true, r: zs}).kernel()
				(&fp4Kernel{fp4Tables: tables, group: group, to: to, nt: nt, r: ys}).kernel()
			}
		}
	}
	tables.turnedFP4()
}

type fp4Tables struct {
	values, magnitudes Mem // of the codes, without a sign of eight
	upper              Mem // 16 in the upper half of 32 words
	low, high          Mem // which bytes of the words of eight magnitudes
	signs              Mem // the sign of the upper eight codes, in the high bytes
}

// fp4Kernel emits one of them. The weights of all codes with a scale are computed and rounded at once: they are a table, in which the codes
// are looked up.
type fp4Kernel struct {
	fp4Tables

	group    int
	to       string
	nt, wide bool
	put      store
	r        []VecPhysical

	factors, global, nibbles VecPhysical // the values or magnitudes; the scale of all
	one, halfLess            VecPhysical // BF16
	upper                    VecPhysical // AVX-512, 16 codes a scale
	low, high, signs         VecPhysical // AVX2, 16-bit weights
	sign                     VecPhysical // AVX2, F32
}

func (k *fp4Kernel) kernel() {
	var name string
	name, k.put = variant(fmt.Sprintf("fp4By%dTo%s", k.group, k.to), k.wide, k.nt)
	size := 2
	if k.to == "F32" {
		size = 4
	}
	doc := []string{
		fmt.Sprintf("%s decodes rows of blocks times 32 codes, of which %d share a scale, times global. No weight becomes infinite.", name, k.group),
		"src and scales lie row by row, dst has rows dstStride bytes apart.",
	}
	if k.nt {
		doc = append(doc, "dst and dstStride are multiples of 64.")
	}
	function(name, "func(dst, src *byte, scales *float32, global float32, rows, blocks, dstStride int)", doc...)
	Load(Param("dst"), R8)
	Load(Param("src"), RSI)
	Load(Param("scales"), RDX)
	Load(Param("rows"), R10)
	Load(Param("blocks"), R11)
	Load(Param("dstStride"), R12)
	k.constants()
	Label(name + "Row")
	MOVQ(R8, RDI)
	MOVQ(R11, RCX)
	Label(name + "Block")
	if k.wide {
		k.wideBlock()
	} else {
		k.narrowBlock()
	}
	ADDQ(U32(16), RSI)
	ADDQ(U32(uint32(4*32/k.group)), RDX)
	ADDQ(U32(uint32(32*size)), RDI)
	DECQ(RCX)
	JNZ(LabelRef(name + "Block"))
	ADDQ(R12, R8)
	DECQ(R10)
	JNZ(LabelRef(name + "Row"))
	leave(k.nt)
}

// constants loads what stays in registers.
func (k *fp4Kernel) constants() {
	next := len(k.r)
	take := func() VecPhysical {
		next--
		return k.r[next]
	}
	load := func(m Mem) VecPhysical {
		v := take()
		if k.wide {
			VMOVDQU64(m, v)
		} else {
			VMOVDQU(m, v)
		}
		return v
	}
	both := func(m Mem) VecPhysical { // lanes
		v := take()
		VBROADCASTI128(m, v)
		return v
	}
	broadcast := func(name string, x uint32) VecPhysical {
		v := take()
		VPBROADCASTD(dword(name, x), v)
		return v
	}
	global, err := Param("global").Resolve()
	if err != nil {
		panic(err)
	}
	k.global = take()
	VBROADCASTSS(global.Addr, k.global)
	if k.to == "BF16" {
		k.one, k.halfLess = broadcast("one", 1), broadcast("halfLess", 0x7FFF)
	}
	if k.wide {
		k.nibbles = take()
		VPBROADCASTD(dword("lowNibbles", 0x0F0F_0F0F), k.nibbles)
		k.factors = load(k.values)
		if k.group == 16 && k.to != "F32" {
			k.upper = load(k.fp4Tables.upper)
		}
		return
	}
	k.nibbles, k.factors = broadcast("lowNibbles", 0x0F0F_0F0F), load(k.magnitudes)
	if k.to == "F32" {
		k.sign = broadcast("sign", 1<<31)
		return
	}
	k.low, k.high, k.signs = both(k.fp4Tables.low), both(k.fp4Tables.high), both(k.fp4Tables.signs)
}

// weights computes the weights of all factors with the scale at m, and for BF16 their bits.
func (k *fp4Kernel) weights(m Mem, x, t VecPhysical) {
	VBROADCASTSS(m, x)
	VMULPS(k.factors, x, x)
	VMULPS(k.global, x, x)
	if k.to != "BF16" {
		return
	}
	VPSRLD(U8(16), x, t)
	if k.wide {
		VPANDD(k.one, t, t)
	} else {
		VPAND(k.one, t, t)
	}
	VPADDD(k.halfLess, t, t)
	VPADDD(t, x, x)
	VPSRLD(U8(16), x, x)
}

// wideBlock: 16 weights are a table of dwords, which VPERMD looks up, or of words; two tables of words, of two scales, are one register.
func (k *fp4Kernel) wideBlock() {
	scales := 32 / k.group
	for s := range scales {
		k.weights(at(RDX, 4*s), k.r[s], k.r[2])
	}
	k.wideCodes()
	if k.to == "F32" {
		VPMOVZXBD(X4, Z5)
		VEXTRACTI128(U8(1), Y4, X4)
		VPMOVZXBD(X4, Z6)
		VPERMD(Z0, Z5, Z5)
		VPERMD(k.r[scales-1], Z6, Z6)
		k.put(Z5, at(RDI, 0))
		k.put(Z6, at(RDI, 64))
		return
	}
	for s := range scales {
		if k.to == "F16" {
			VCVTPS2PH(U8(0), k.r[s], ys[s])
		} else {
			VPMOVDW(k.r[s], ys[s])
		}
	}
	VPMOVZXBW(Y4, Z5)
	if k.group == 16 {
		VINSERTI64X4(U8(1), Y1, Z0, Z0)
		VPORD(k.upper, Z5, Z5)
	}
	VPERMW(Z0, Z5, Z5)
	k.put(Z5, at(RDI, 0))
}

// wideCodes leaves a byte of each of 32 codes in Y4.
func (k *fp4Kernel) wideCodes() {
	VPMOVZXBW(at(RSI, 0), Y4)
	VPSLLW(U8(4), Y4, Y5)
	VPORD(Y5, Y4, Y4)
	VPANDD(asY(k.nibbles), Y4, Y4)
}

// asY is the lower half of a register of 512 bits.
func asY(z VecPhysical) VecPhysical {
	for i, r := range zs {
		if r == z {
			return []VecPhysical{
				Y0, Y1, Y2, Y3, Y4, Y5, Y6, Y7, Y8, Y9, Y10, Y11, Y12, Y13, Y14, Y15,
				Y16, Y17, Y18, Y19, Y20, Y21, Y22, Y23, Y24, Y25, Y26, Y27, Y28, Y29, Y30, Y31,
			}[i]
		}
	}
	panic("no register of 512 bits")
}

// narrowBlock: the weights of the eight codes without a sign are a table of dwords; or their bytes, low and high, are two of sixteen bytes.
func (k *fp4Kernel) narrowBlock() {
	VPMOVZXBW(at(RSI, 0), Y4)
	VPSLLW(U8(4), Y4, Y5)
	VPOR(Y5, Y4, Y4)
	VPAND(k.nibbles, Y4, Y4)
	scales := 32 / k.group
	for s := range scales {
		k.weights(at(RDX, 4*s), k.r[s], Y2)
	}
	if k.to == "F32" {
		k.narrowF32(scales)
		return
	}
	for s := range scales {
		if k.to == "F16" {
			VCVTPS2PH(U8(0), k.r[s], xs[s])
			continue
		}
		VEXTRACTI128(U8(1), k.r[s], X2)
		VPACKUSDW(X2, xs[s], xs[s])
	}
	VINSERTI128(U8(1), xs[scales-1], Y0, Y0)
	VPSHUFB(k.low, Y0, Y1) // the low bytes of 16 codes, in both lanes
	VPSHUFB(k.high, Y0, Y0)
	VPXOR(k.signs, Y0, Y0)
	VPSHUFB(Y4, Y1, Y1)
	VPSHUFB(Y4, Y0, Y0)
	VPUNPCKLBW(Y0, Y1, Y2) // codes 0 to 7 and 16 to 23
	VPUNPCKHBW(Y0, Y1, Y3)
	VPERM2I128(U8(0x20), Y3, Y2, Y0)
	VPERM2I128(U8(0x31), Y3, Y2, Y1)
	k.put(Y0, at(RDI, 0))
	k.put(Y1, at(RDI, 32))
}

func (k *fp4Kernel) narrowF32(scales int) {
	VEXTRACTI128(U8(1), Y4, X5)
	for i := range 4 {
		code := []VecPhysical{X4, X4, X5, X5}[i]
		if i%2 == 1 {
			VPSRLDQ(U8(8), code, code)
		}
		VPMOVZXBD(code, Y6)
		VPERMPS(k.r[i/2*(scales-1)], Y6, Y7)
		VPSLLD(U8(28), Y6, Y6)
		VPAND(k.sign, Y6, Y6)
		VPXOR(Y6, Y7, Y7)
		k.put(Y7, at(RDI, 32*i))
	}
}
