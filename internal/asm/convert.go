package main

import (
	"fmt"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// conversion is one pair of element types. Through f32, in registers: read makes 16 (AVX-512) or 8 (AVX2) of them, write stores what two
// registers of them become.
type conversion struct {
	name     string
	from, to int // bytes of an element
	// limit and width say which magnitudes of f32 overflow: limit <= m < limit + width; none when limit is 0.
	limit, width uint32
	read         func(v *vector, src Mem, x VecPhysical)
	// write stores the elements of x and y; for a to of 4 bytes, nothing is left to do but to store.
	write func(v *vector, x, y, spare VecPhysical) (out VecPhysical)
}

// vector is the state of one kernel: its width and its constants. Registers 8 and up hold constants, 0 to 7 are free.
type vector struct {
	wide  bool // AVX-512
	put   store
	next  int
	reg   map[string]VecPhysical
	accum VecPhysical // the smallest distance of a magnitude from the limit
}

func (v *vector) bytes() int {
	if v.wide {
		return 64
	}
	return 32
}

func (v *vector) r(i int) VecPhysical {
	if v.wide {
		return zs[i]
	}
	return ys[i]
}

// half is the register of half the width.
func (v *vector) half(r VecPhysical) VecPhysical {
	for i := range 16 {
		if v.wide && r == zs[i] {
			return ys[i]
		}
		if !v.wide && r == ys[i] {
			return xs[i]
		}
	}
	panic("no half")
}

// constant is a register with x in every dword. The kernel must have asked for it before its loop.
func (v *vector) constant(name string, x uint32) VecPhysical {
	if r, ok := v.reg[name]; ok {
		return r
	}
	r := v.r(v.next)
	v.next++
	VPBROADCASTD(dword(name, x), r)
	v.reg[name] = r
	return r
}

func (v *vector) table(name string, m Mem) VecPhysical {
	if r, ok := v.reg[name]; ok {
		return r
	}
	r := v.r(v.next)
	v.next++
	VMOVDQU64(m, r)
	v.reg[name] = r
	return r
}

func (v *vector) and(a, b, to VecPhysical) {
	if v.wide {
		VPANDD(a, b, to)
	} else {
		VPAND(a, b, to)
	}
}

func (v *vector) or(a, b, to VecPhysical) {
	if v.wide {
		VPORD(a, b, to)
	} else {
		VPOR(a, b, to)
	}
}

// quieten sets the quiet bit of the NaNs of x, or, when nan is set, of those of from, which it puts into x.
func (v *vector) quieten(from, x, spare VecPhysical) {
	quiet := v.reg["quiet"]
	if v.wide {
		VCMPPS(U8(3), from, from, K1)
		VPORD(quiet, from, K1, x)
		return
	}
	VCMPPS(U8(3), from, from, spare) // all ones where from is NaN
	if from == x {
		VPAND(quiet, spare, spare)
		VPOR(spare, x, x)
		return
	}
	VPOR(quiet, from, from)
	VBLENDVPS(spare, from, x, x)
}

func readF32(v *vector, src Mem, x VecPhysical) {
	if v.wide {
		VMOVDQU32(src, x)
	} else {
		VMOVDQU(src, x)
	}
}

func readF16(_ *vector, src Mem, x VecPhysical) { VCVTPH2PS(src, x) }

func readBF16(_ *vector, src Mem, x VecPhysical) {
	VPMOVZXWD(src, x)
	VPSLLD(U8(16), x, x)
}

// readBF16Quiet is for when f32 is the target: elsewhere the narrowing makes NaNs quiet.
func readBF16Quiet(v *vector, src Mem, x VecPhysical) {
	readBF16(v, src, x)
	v.quieten(x, x, v.r(6))
}

// readE5M2: the byte is the top of a half.
func readE5M2(v *vector, src Mem, x VecPhysical) {
	VPMOVZXBW(src, v.half(x))
	VPSLLW(U8(8), v.half(x), v.half(x))
	VCVTPH2PS(v.half(x), x)
}

// readE4M3: shifted into a half, the byte stands for 2^-8 of its value. The NaN comes out as 480, which is no other byte.
func readE4M3(v *vector, src Mem, x VecPhysical) {
	h, t := v.half(x), v.r(6)
	VPMOVZXBW(src, h)
	VPSLLW(U8(8), h, h)
	VPSRAW(U8(1), h, h)
	VPAND(v.half(v.reg["e4m3Bits"]), h, h)
	VCVTPH2PS(h, x)
	VMULPS(v.reg["e4m3Scale"], x, x)
	VPAND(v.reg["magnitude"], x, t)
	VPCMPEQD(v.reg["e4m3NaN"], t, t)
	VPAND(v.reg["e4m3Fix"], t, t)
	VPXOR(t, x, x)
}

func writeF16(v *vector, x, y, _ VecPhysical) VecPhysical {
	VCVTPS2PH(U8(0), x, v.half(x))
	VCVTPS2PH(U8(0), y, v.half(y))
	if v.wide {
		VINSERTI64X4(U8(1), v.half(y), x, x)
	} else {
		VINSERTI128(U8(1), v.half(y), x, x)
	}
	return x
}

// upperWords packs the upper halves of the dwords of x and y.
func upperWords(v *vector, x, y VecPhysical) VecPhysical {
	if v.wide {
		VPERMT2W(y, v.reg["oddWords"], x)
		return x
	}
	VPSRLD(U8(16), x, x)
	VPSRLD(U8(16), y, y)
	VPACKUSDW(y, x, x)
	VPERMQ(U8(0xD8), x, x)
	return x
}

// writeBF16 rounds to nearest even: + 7FFF + the lowest bit that stays.
func writeBF16(v *vector, x, y, spare VecPhysical) VecPhysical {
	round := func(x, t VecPhysical) VecPhysical {
		VPSRLD(U8(16), x, t)
		v.and(v.reg["one"], t, t)
		VPADDD(v.reg["halfLess"], t, t)
		VPADDD(x, t, t)
		v.quieten(x, t, v.r(6))
		return t
	}
	a := round(x, spare)
	b := round(y, x)
	return upperWords(v, a, b)
}

// writeUpper is for values that a bfloat16 holds exactly.
func writeUpper(v *vector, x, y, _ VecPhysical) VecPhysical { return upperWords(v, x, y) }

var conversions = []conversion{
	{name: "bf16ToF32", from: 2, to: 4, read: readBF16Quiet},
	{name: "f16ToF32", from: 2, to: 4, read: readF16},
	{name: "f32ToBF16", from: 4, to: 2, limit: 0x7F7F_8000, width: 0x8000, read: readF32, write: writeBF16},
	{name: "f32ToF16", from: 4, to: 2, limit: 0x477F_F000, width: 0x7F80_0000 - 0x477F_F000, read: readF32, write: writeF16},
	{name: "bf16ToF16", from: 2, to: 2, limit: 0x477F_F000, width: 0x7F80_0000 - 0x477F_F000, read: readBF16, write: writeF16},
	{name: "f16ToBF16", from: 2, to: 2, read: readF16, write: writeBF16},
	{name: "e5m2ToF32", from: 1, to: 4, read: readE5M2},
	{name: "e5m2ToF16", from: 1, to: 2, read: readE5M2, write: writeF16},
	{name: "e5m2ToBF16", from: 1, to: 2, read: readE5M2, write: writeUpper},
	{name: "e4m3ToF32", from: 1, to: 4, read: readE4M3},
	{name: "e4m3ToF16", from: 1, to: 2, read: readE4M3, write: writeF16},
	{name: "e4m3ToBF16", from: 1, to: 2, read: readE4M3, write: writeUpper},
}

const convertArgs = "func(dst, src *byte, blocks int) (overflow uint64)"

func convert() {
	var odd []uint16
	for i := range uint16(32) {
		odd = append(odd, 2*i+1)
	}
	oddWords := wordsTable("oddWords", odd)
	for _, nt := range []bool{false, true} {
		for _, c := range conversions {
			c.emit(false, nt, oddWords)
			if c.from > 1 { // F8 has VBMI and AVX2
				c.emit(true, nt, oddWords)
			}
		}
		f8VBMI(nt)
	}
	finite()
}

func suffix(name string, nt bool) string {
	if nt {
		return name + "NT"
	}
	return name
}

// emit makes one kernel: blocks of four registers of f32, that is 64 (AVX-512) or 32 (AVX2) elements.
func (c *conversion) emit(wide, nt bool, oddWords Mem) {
	v := &vector{wide: wide, put: unaligned256, next: 8, reg: map[string]VecPhysical{}}
	name := c.name + "AVX2"
	if wide {
		v.put, v.next, name = unaligned512, 16, c.name+"AVX512"
	}
	if nt {
		v.put = nonTemporal
	}
	name = suffix(name, nt)
	lanes := v.bytes() / 4
	doc := fmt.Sprintf("%s converts blocks of %d elements.", name, 4*lanes)
	if c.limit != 0 {
		doc += " overflow is not 0 when a finite one became infinite."
	}
	if nt {
		doc += " dst is a multiple of 64."
	}
	function(name, convertArgs, doc)
	Load(Param("dst"), RDI)
	Load(Param("src"), RSI)
	Load(Param("blocks"), RCX)
	if wide && c.to == 2 {
		v.table("oddWords", oddWords)
	}
	switch c.name {
	case "bf16ToF32":
		v.constant("quiet", 0x0040_0000)
	case "f32ToBF16", "f16ToBF16":
		v.constant("quiet", 0x0040_0000)
		v.constant("one", 1)
		v.constant("halfLess", 0x7FFF)
	case "e4m3ToF32", "e4m3ToF16", "e4m3ToBF16":
		v.constant("e4m3Bits", 0xBFFF_BFFF)
		v.constant("e4m3Scale", math.Float32bits(256))
		v.constant("e4m3NaN", math.Float32bits(480))
		v.constant("e4m3Fix", math.Float32bits(480)^0x7FC0_0000)
		v.constant("magnitude", 0x7FFF_FFFF)
	}
	if c.limit != 0 {
		v.constant("magnitude", 0x7FFF_FFFF)
		v.constant("limit"+c.name, c.limit)
		v.accum = v.r(v.next)
		if wide {
			VPTERNLOGD(U8(0xFF), v.accum, v.accum, v.accum)
		} else {
			VPCMPEQD(v.accum, v.accum, v.accum)
		}
	}
	x, y, spare, t := v.r(0), v.r(1), v.r(2), v.r(3)
	loop(name+"Block", RCX, func() {
		for off := 0; off < 4*lanes*c.from; off += 64 {
			PREFETCHT0(at(RSI, 2048+off))
		}
		for i := range 4 {
			r := x
			if i%2 == 1 {
				r = y
			}
			c.read(v, at(RSI, i*lanes*c.from), r)
			if c.limit != 0 {
				v.and(v.reg["magnitude"], r, t)
				VPSUBD(v.reg["limit"+c.name], t, t)
				VPMINUD(t, v.accum, v.accum)
			}
			if c.to == 4 {
				v.put(r, at(RDI, 4*i*lanes))
			} else if i%2 == 1 {
				v.put(c.write(v, x, y, spare), at(RDI, 2*(i-1)*lanes))
			}
		}
		ADDQ(U32(uint32(4*lanes*c.from)), RSI)
		ADDQ(U32(uint32(4*lanes*c.to)), RDI)
	})
	XORL(EAX, EAX)
	if c.limit != 0 {
		// Some distance below width, as an unsigned number?
		if wide {
			VPBROADCASTD(dword("width"+c.name, c.width), x)
			VPCMPUD(U8(1), x, v.accum, K1)
			KMOVW(K1, EAX)
		} else {
			VPBROADCASTD(dword("below"+c.name, c.width-1), x)
			VPMINUD(x, v.accum, x)
			VPCMPEQD(x, v.accum, x)
			VMOVMSKPS(x, EAX)
		}
	}
	Store(RAX, Return("overflow"))
	leave(nt)
}

// f8VBMI emits the kernels that look 8-bit floats up: two tables of 128 bytes, for the lower and the upper byte of the element, and the
// sign. A bfloat16 is the upper half of an f32, and every 8-bit float is one exactly.
func f8VBMI(nt bool) {
	value := map[string]func(c uint8) float64{
		"e4m3": func(c uint8) float64 {
			e, m := int(c>>3&15), float64(c&7)
			if c == 0x7F {
				return math.NaN()
			}
			if e == 0 {
				return math.Ldexp(m, -9)
			}
			return math.Ldexp(1+m/8, e-7)
		},
		"e5m2": func(c uint8) float64 {
			e, m := int(c>>2&31), float64(c&3)
			switch {
			case e == 31 && m == 0:
				return math.Inf(1)
			case e == 31:
				return math.NaN()
			case e == 0:
				return math.Ldexp(m, -16)
			}
			return math.Ldexp(1+m/4, e-15)
		},
	}
	for _, from := range []string{"e4m3", "e5m2"} {
		var half, bfloat [2][]uint8
		for c := range uint8(128) {
			x := value[from](c)
			b := uint16(math.Float32bits(float32(x)) >> 16)
			h := halfBits(x)
			if math.IsNaN(x) {
				b, h = 0x7FC0, 0x7E00
				if from == "e5m2" { // keeps its payload
					b |= uint16(c&1) << 5
					h |= uint16(c) << 8
				}
			}
			half[0], half[1] = append(half[0], uint8(h)), append(half[1], uint8(h>>8))
			bfloat[0], bfloat[1] = append(bfloat[0], uint8(b)), append(bfloat[1], uint8(b>>8))
		}
		for _, to := range []string{"F16", "BF16", "F32"} {
			table, tableName := append(bfloat[0], bfloat[1]...), from+"BF16Bytes"
			if to == "F16" {
				table, tableName = append(half[0], half[1]...), from+"F16Bytes"
			}
			m, ok := constants[tableName]
			if !ok {
				m = bytesTable(tableName, table)
				constants[tableName] = m
			}
			f8Kernel(from+"To"+to+"VBMI", to == "F32", nt, m)
		}
	}
}

// halfBits is the half of a number that is one.
func halfBits(x float64) uint16 {
	if math.IsInf(x, 1) {
		return 0x7C00
	}
	if x < 0x1p-14 {
		return uint16(x * 0x1p24)
	}
	f, e := math.Frexp(x) // 0.5 <= f < 1
	return uint16(e+14)<<10 | uint16((2*f-1)*1024)
}

func f8Kernel(name string, f32, nt bool, table Mem) {
	name = suffix(name, nt)
	put := store(unaligned512)
	doc := name + " converts blocks of 64 elements."
	if nt {
		put, doc = nonTemporal, doc+" dst is a multiple of 64."
	}
	function(name, convertArgs, doc)
	Load(Param("dst"), RDI)
	Load(Param("src"), RSI)
	Load(Param("blocks"), RCX)
	for i, r := range []VecPhysical{Z16, Z17, Z18, Z19} {
		VMOVDQU64(table.Offset(64*i), r)
	}
	VPBROADCASTD(dword("signBytes", 0x8080_8080), Z20)
	order, ok := constants["f8Order"], false
	if order, ok = constants["f8Order"]; !ok {
		// In-lane interleaving spreads dword k of lane l over output register k, lane l; or qword k over register k for 16 bits.
		var d []uint32
		for l := range uint32(4) {
			for k := range uint32(4) {
				d = append(d, 4*k+l)
			}
		}
		order = dwordsTable("f8OrderD", d)
		constants["f8Order"] = order
		constants["f8OrderQ"] = qwordsTable("f8OrderQ", []uint64{0, 4, 1, 5, 2, 6, 3, 7})
	}
	if !f32 {
		order = constants["f8OrderQ"]
	} else {
		VPXORD(Z22, Z22, Z22)
	}
	VMOVDQU64(order, Z21)
	loop(name+"Block", RCX, func() {
		PREFETCHT0(at(RSI, 2048))
		if f32 {
			VPERMD(at(RSI, 0), Z21, Z0)
		} else {
			VPERMQ(at(RSI, 0), Z21, Z0)
		}
		VMOVDQA64(Z0, Z1)
		VMOVDQA64(Z0, Z2)
		VPERMI2B(Z17, Z16, Z1)
		VPERMI2B(Z19, Z18, Z2)
		VPTERNLOGD(U8(0xF8), Z20, Z0, Z2) // | c & 80
		VPUNPCKLBW(Z2, Z1, Z3)
		VPUNPCKHBW(Z2, Z1, Z4)
		out := []VecPhysical{Z3, Z4}
		if f32 {
			VPUNPCKLWD(Z3, Z22, Z5)
			VPUNPCKHWD(Z3, Z22, Z6)
			VPUNPCKLWD(Z4, Z22, Z7)
			VPUNPCKHWD(Z4, Z22, Z8)
			out = []VecPhysical{Z5, Z6, Z7, Z8}
		}
		for i, r := range out {
			put(r, at(RDI, 64*i))
		}
		ADDQ(U32(64), RSI)
		ADDQ(U32(uint32(64*len(out))), RDI)
	})
	XORL(EAX, EAX)
	Store(RAX, Return("overflow"))
	leave(nt)
}

// finite emits the kernels that look for infinities and NaNs: lanes whose magnitude (and with abs) plus add has the top bit.
func finite() {
	lanes := []struct {
		bits int
		add  func(ops ...Op)
	}{{8, VPADDB}, {16, VPADDW}, {32, VPADDD}, {64, VPADDQ}}
	for _, wide := range []bool{false, true} {
		for _, l := range lanes {
			v := &vector{wide: wide}
			name := fmt.Sprintf("finite%dAVX2", l.bits)
			if wide {
				name = fmt.Sprintf("finite%dAVX512", l.bits)
			}
			function(name, "func(src *byte, blocks int, abs, add uint64) (left int)",
				name+" looks at blocks of 256 bytes until it finds one with a lane of which (x & abs) + add has the top bit. left is how many",
				"blocks are not known to have none: that one and those behind it.")
			Load(Param("src"), RSI)
			Load(Param("blocks"), RCX)
			VPBROADCASTQ(NewParamAddr("abs", 16), v.r(14))
			VPBROADCASTQ(NewParamAddr("add", 24), v.r(15))
			if wide {
				VPTERNLOGD(U8(0x55), v.r(14), v.r(14), v.r(13)) // not v.r(14)
			} else {
				VPCMPEQD(v.r(13), v.r(13), v.r(13))
				VPANDN(v.r(13), v.r(14), v.r(13))
			}
			Label(name + "Block")
			for off := 0; off < 256; off += 64 {
				PREFETCHT0(at(RSI, 2048+off))
			}
			for i := 0; i < 256/v.bytes(); i++ {
				x := v.r(i % 4)
				if wide {
					VPANDD(at(RSI, 64*i), v.r(14), x)
				} else {
					VPAND(at(RSI, 32*i), v.r(14), x)
				}
				if l.add(v.r(15), x, x); i >= 4 {
					v.or(x, v.r(4+i%4), v.r(4+i%4))
				} else if !wide {
					VMOVDQA(x, v.r(4+i))
				}
			}
			first := 4
			if wide {
				first = 0
			}
			v.or(v.r(first), v.r(first+1), v.r(8))
			v.or(v.r(first+2), v.r(first+3), v.r(9))
			v.or(v.r(8), v.r(9), v.r(8))
			if wide {
				VPTESTMD(v.r(13), v.r(8), K1)
				KORTESTW(K1, K1)
			} else {
				VPTEST(v.r(13), v.r(8))
			}
			JNZ(LabelRef(name + "Found"))
			ADDQ(U32(256), RSI)
			DECQ(RCX)
			JNZ(LabelRef(name + "Block"))
			Label(name + "Found")
			Store(RCX, Return("left"))
			leave(false)
		}
	}
}
