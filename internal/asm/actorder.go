package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// actOrder emits the kernels for act-order. spread gives every input feature of a strip of 64 columns a line of its own, with a byte for each
// code: qword c of it has the columns 16j + 8h + c, at byte 2j + h. Codes of 4 bits are in both halves of their bytes. tiles takes the lines in
// any order, 16 to a tile.
func actOrder() {
	t := &actOrderTables{}
	var bytes []uint8
	for range 4 {
		for b := range uint8(4) {
			for c := range uint8(2) {
				bytes = append(bytes, 4*c+b, 4*(2+c)+b)
			}
		}
	}
	t.bytes = bytesTable("spreadBytes", bytes)
	t.qwords = qwordsTable("spreadQwords", []uint64{0, 4, 1, 5, 2, 6, 3, 7})
	for pair := range uint32(2) {
		var columns []uint32
		for h := range uint32(2) {
			for lane := range uint32(4) {
				columns = append(columns, 4*lane+2*pair+h, 16+4*lane+2*pair+h)
			}
		}
		t.columns[pair] = dwordsTable(fmt.Sprintf("rowsColumns%d", pair), columns)
	}
	for _, bits := range []int{4, 8} {
		for _, wide := range []bool{true, false} {
			k := &actOrderKernel{bits: bits, wide: wide, r: ys, width: 32, level: "AVX2", actOrderTables: t}
			if wide {
				k.r, k.width, k.level = zs, 64, "AVX512"
			}
			k.spread()
			for _, nt := range []bool{false, true} {
				k.tiles(nt)
				k.packedRows(nt)
			}
		}
	}
}

type actOrderTables struct {
	bytes  Mem // of a lane with two columns and the two eight further: their bytes b side by side, for b = 0..3
	qwords Mem // brings the columns eight further beside theirs

	columns [2]Mem // which dwords of two registers, of the even and the odd qwords of lines, are 16 columns side by side
}

// actOrderKernel emits those of one width.
type actOrderKernel struct {
	*actOrderTables

	bits, width int
	wide        bool
	r           []VecPhysical
	level       string
	put         store
}

// move loads or stores a register.
func (k *actOrderKernel) move(from, to Op) {
	if k.wide {
		VMOVDQU32(from, to)
	} else {
		VMOVDQU(from, to)
	}
}

func (k *actOrderKernel) spread() {
	name := fmt.Sprintf("spread%d%s", k.bits, k.level)
	function(
		name, "func(dst, src *byte, rows, stride, ahead int)",
		fmt.Sprintf("%s spreads packed rows of 256 bytes, which are stride bytes apart in src, to %d lines each, and prefetches what lies ahead", name, 32/k.bits),
		"bytes behind each.",
	)
	Load(Param("dst"), RDI)
	Load(Param("src"), RSI)
	Load(Param("rows"), RCX)
	Load(Param("stride"), R8)
	Load(Param("ahead"), R9)
	last := len(k.r) - 1
	bytes, qwords, mask := k.r[last], k.r[last-1], k.r[last-2]
	k.move(k.bytes, bytes)
	if k.wide {
		k.move(k.qwords, qwords)
	}
	VPBROADCASTD(dword("lowNibbles", 0x0F0F0F0F), mask)
	loop(name+"Row", RCX, func() {
		for i := range 4 {
			PREFETCHT0(plus(RSI, R9, 64*i))
		}
		for half := 0; half < 64; half += k.width { // of the lines
			x := append([]VecPhysical(nil), k.r[:4]...)
			for j := range x {
				if k.wide {
					VPERMQ(at(RSI, 64*j), qwords, x[j])
				} else {
					VMOVDQU(at(RSI, 64*j+half/2), xs[j])
					VINSERTI128(U8(1), at(RSI, 64*j+32+half/2), x[j], x[j])
					VPERMQ(U8(0xD8), x[j], x[j])
				}
				VPSHUFB(bytes, x[j], x[j])
			}
			t := k.r[4:8]
			VPUNPCKLWD(x[1], x[0], t[0]) // bytes 0 and 1 of groups 0 and 1
			VPUNPCKHWD(x[1], x[0], t[1]) // bytes 2 and 3
			VPUNPCKLWD(x[3], x[2], t[2])
			VPUNPCKHWD(x[3], x[2], t[3])
			VPUNPCKLDQ(t[2], t[0], x[0])
			VPUNPCKHDQ(t[2], t[0], x[1])
			VPUNPCKLDQ(t[3], t[1], x[2])
			VPUNPCKHDQ(t[3], t[1], x[3])
			for b, codes := range x {
				if k.bits == 8 {
					k.move(codes, at(RDI, 64*b+half))
					continue
				}
				k.both(codes, mask, k.r[4+2*(b%2)], k.r[5+2*(b%2)])
				k.move(k.r[4+2*(b%2)], at(RDI, 64*2*b+half))
				k.move(codes, at(RDI, 64*(2*b+1)+half))
			}
		}
		ADDQ(R8, RSI)
		ADDQ(U32(uint32(64*32/k.bits)), RDI)
	})
	leave(false)
}

// both leaves the lower nibbles of x in both halves of the bytes of low, and the upper ones in those of x.
func (k *actOrderKernel) both(x, mask, low, t VecPhysical) {
	VPSLLD(U8(4), x, low)
	VPSRLD(U8(4), x, t)
	if k.wide {
		VPTERNLOGD(U8(0xB8), x, mask, low) // mask ? x : low
		VPTERNLOGD(U8(0xE2), x, mask, t)   // mask ? t : x
		VMOVDQA64(t, x)
		return
	}
	high := k.r[8]
	VPAND(mask, x, high)
	VPANDN(low, mask, low)
	VPOR(high, low, low)
	VPAND(mask, t, t)
	VPANDN(x, mask, x)
	VPOR(t, x, x)
}

func (k *actOrderKernel) tiles(nt bool) {
	name := fmt.Sprintf("tiles%d%s", k.bits, k.level)
	doc := []string{
		fmt.Sprintf("%s makes a column of tiles, stride bytes apart, of lines of a strip: 16 for each, which begin features bytes behind it.", name),
	}
	k.put = unaligned256
	if k.wide {
		k.put = unaligned512
	}
	if nt {
		name, k.put = suffix(name, nt), nonTemporal
		doc = []string{name + " is the same with non-temporal stores: dst and stride are multiples of 64."}
	}
	function(name, "func(dst, strip *byte, features *uint32, tiles, stride int)", doc...)
	Load(Param("dst"), RDI)
	Load(Param("strip"), RSI)
	Load(Param("features"), RDX)
	Load(Param("tiles"), RCX)
	Load(Param("stride"), R8)
	mask := k.r[len(k.r)-1]
	VPBROADCASTD(dword("lowNibbles", 0x0F0F0F0F), mask)
	loop(name+"Tile", RCX, func() {
		for half := 0; half < 64; half += k.width {
			if k.bits == 4 {
				k.four(half, mask)
			} else {
				k.eight(half)
			}
		}
		ADDQ(U32(64), RDX)
		ADDQ(R8, RDI)
	})
	leave(nt)
}

// line is the line of a feature of the tile.
func (k *actOrderKernel) line(feature, half int) Mem {
	p := []GPPhysical{RAX, RBX, R9, R10, R11, R12, R13}[feature%7]
	MOVL(at(RDX, 4*feature), p.As32())
	return plus(RSI, p, half)
}

// four: the features 2q and 2q+1, each with the one eight further, are byte by byte the halves of dwords q, one for each j.
func (k *actOrderKernel) four(half int, mask VecPhysical) {
	var even, odd [4]VecPhysical // qwords of a line
	for q := range 4 {
		v := [2]VecPhysical{k.r[2*q], k.r[8]}
		for p := range v {
			k.move(k.line(2*q+p, half), v[p])
			further := k.line(2*q+p+8, half)
			if k.wide {
				VPTERNLOGD(U8(0xE2), further, mask, v[p]) // mask ? v : further
				continue
			}
			VPAND(mask, v[p], v[p])
			VPANDN(further, mask, k.r[9])
			VPOR(k.r[9], v[p], v[p])
		}
		even[q], odd[q] = k.r[2*q], k.r[2*q+1]
		VPUNPCKHWD(v[1], v[0], odd[q])
		VPUNPCKLWD(v[1], v[0], even[q])
	}
	for c, x := range [][4]VecPhysical{even, odd} {
		if k.wide {
			k.lanes(x, zs[10:12], c, 64, 0)
			continue
		}
		for pair := 0; pair < 4; pair += 2 {
			k.halves(x[pair], x[pair+1], k.r[10], 64*(half/8+c)+16*pair, 128)
		}
	}
}

// eight: the bytes of the features 2q, 2q+8, 2q+1 and 2q+9 are dwords q, one for each j and h.
func (k *actOrderKernel) eight(half int) {
	for pair := range 2 {
		var x [2][4]VecPhysical // of even and odd qwords: the lower and the upper dwords of q = 2*pair, then those of the next
		for i := range 2 {
			q := 2*pair + i
			r := k.r[8*i : 8*i+8]
			if !k.wide {
				r = k.r[:8]
			}
			for p := range 2 {
				k.move(k.line(2*q+p, half), r[p])
				further := k.line(2*q+p+8, half)
				VPUNPCKHBW(further, r[p], r[2+p])
				VPUNPCKLBW(further, r[p], r[p])
			}
			for c := range 2 {
				x[c][2*i], x[c][2*i+1] = r[4+2*c], r[5+2*c]
				VPUNPCKLWD(r[2*c+1], r[2*c], r[4+2*c])
				VPUNPCKHWD(r[2*c+1], r[2*c], r[5+2*c])
				if !k.wide {
					k.halves(r[4+2*c], r[5+2*c], k.r[8], 128*(half/8+c)+32*q, 256)
				}
			}
		}
		for c := 0; c < 2 && k.wide; c++ {
			k.lanes(x[c], zs[16:18], c, 128, 64*pair)
		}
	}
}

// lanes writes the lanes l of the four registers side by side to line 2l + c of the tile, which are size bytes apart, off bytes behind it.
func (k *actOrderKernel) lanes(x [4]VecPhysical, spare []VecPhysical, c, size, off int) {
	for l, r := range transposeLanes(x, spare[0], spare[1]) {
		k.put(r, at(RDI, size*(2*l+c)+off))
	}
}

// halves writes the lower halves of a and b side by side to off, the upper ones gap bytes further.
func (k *actOrderKernel) halves(a, b, spare VecPhysical, off, gap int) {
	VPERM2I128(U8(0x20), b, a, spare)
	VPERM2I128(U8(0x31), b, a, a)
	k.put(spare, at(RDI, off))
	k.put(a, at(RDI, off+gap))
}

// packedRows emits the kernel that makes the packed rows of a strip for exllama: of every column a dword, whose bytes are of the lines in rowBytes.
func (k *actOrderKernel) packedRows(nt bool) {
	name := suffix(fmt.Sprintf("packedRows%d%s", k.bits, k.level), nt)
	doc := []string{
		fmt.Sprintf("%s makes packed rows of 256 bytes, stride bytes apart, of lines of a strip: %d for each, which begin features bytes behind it.", name, 32/k.bits),
	}
	k.put = unaligned256
	if k.wide {
		k.put = unaligned512
	}
	if nt {
		doc, k.put = append(doc, "dst and stride are multiples of 64."), nonTemporal
	}
	function(name, "func(dst, strip *byte, features *uint32, rows, stride int)", doc...)
	Load(Param("dst"), RDI)
	Load(Param("strip"), RSI)
	Load(Param("features"), RDX)
	Load(Param("rows"), RCX)
	Load(Param("stride"), R8)
	last := len(k.r) - 1
	mask := k.r[last]
	VPBROADCASTD(dword("lowNibbles", 0x0F0F0F0F), mask)
	if k.wide {
		k.move(k.columns[0], k.r[last-1])
		k.move(k.columns[1], k.r[last-2])
	}
	loop(name+"Row", RCX, func() {
		if k.wide {
			x := k.words(0, mask, k.r[:6])
			for j := range 4 { // columns 16j to 16j+15
				even, odd := x[j/2], x[2+j/2]
				if j%2 == 0 {
					VMOVDQA64(even, k.r[6])
					VPERMT2D(odd, k.r[last-1], k.r[6])
					k.put(k.r[6], at(RDI, 64*j))
					continue
				}
				VPERMT2D(odd, k.r[last-2], even)
				k.put(even, at(RDI, 64*j))
			}
		} else {
			k.narrowRows(mask)
		}
		ADDQ(U32(uint32(4*32/k.bits)), RDX)
		ADDQ(R8, RDI)
	})
	leave(nt)
}

// words puts the codes of a packed row together, of a part of its lines that begins half bytes into them: x[0] and x[1] are of the even qwords, columns
// 16j + 8h + c for j = 0 and 1, and 2 and 3, in the order of the lines; x[2] and x[3] of the odd ones.
func (k *actOrderKernel) words(half int, mask VecPhysical, r []VecPhysical) [4]VecPhysical {
	rowBytes := [][]int{{0}, {1}, {2}, {3}}
	if k.bits == 4 {
		rowBytes = [][]int{{0, 2}, {4, 6}, {1, 3}, {5, 7}}
	}
	for b, features := range rowBytes {
		k.move(k.line(features[0], half), r[b])
		if k.bits == 8 {
			continue
		}
		upper := k.line(features[1], half)
		if k.wide {
			VPTERNLOGD(U8(0xE2), upper, mask, r[b]) // mask ? r : upper
			continue
		}
		VPAND(mask, r[b], r[b])
		VPANDN(upper, mask, r[4])
		VPOR(r[4], r[b], r[b])
	}
	a, b, c, d, t, u := r[0], r[1], r[2], r[3], r[4], r[5]
	VPUNPCKLBW(b, a, t)
	VPUNPCKHBW(b, a, a)
	VPUNPCKLBW(d, c, u)
	VPUNPCKHBW(d, c, c)
	VPUNPCKLWD(u, t, b)
	VPUNPCKHWD(u, t, t)
	VPUNPCKLWD(c, a, d)
	VPUNPCKHWD(c, a, a)
	return [4]VecPhysical{b, t, d, a}
}

// narrowRows: of each half of the lines, the columns 16j + 8h to 16j + 8h + 3 become lane h of a register; those of the other half belong behind them.
func (k *actOrderKernel) narrowRows(mask VecPhysical) {
	var halves [2][4]VecPhysical // by j
	for half := range 2 {
		r := k.r[6*half : 6*half+6]
		x, free := k.words(32*half, mask, r), r[2] // which is not among x
		for pair := range 2 {
			even, odd := x[pair], x[2+pair]
			VPUNPCKLDQ(odd, even, free)
			VPUNPCKHDQ(odd, even, even)
			VPERMQ(U8(0xD8), free, odd)
			VPERMQ(U8(0xD8), even, even)
			halves[half][2*pair], halves[half][2*pair+1] = odd, even
		}
	}
	for j := range 4 {
		k.halves(halves[0][j], halves[1][j], k.r[12], 64*j, 32)
	}
}
