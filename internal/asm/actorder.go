package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// actOrder emits the kernels for act-order. spread gives every input feature of a strip of 64 columns a line of its own. tiles takes the lines in any
// order, 16 to a tile of Marlin's; packedRows takes as many as make a packed row of exllama's.
//
// A line of codes of 8 bits has a byte for each column: qword c of it the columns 16j + 8h + c, at byte 2j + h. One of 4 bits has a byte for two
// columns: dword c of it 16j + 8h + c in the lower half of byte 2j + h, and 32 more in the upper half, for j = 0 and 1. Of the eight lines of a
// packed row those of even features come first.
func actOrder() {
	t := &actOrderTables{}
	var bytes, pairs, dwords []uint8
	for b := range uint8(4) {
		dwords = append(dwords, b, 4+b, 8+b, 12+b)
	}
	for range 4 {
		for b := range uint8(4) {
			for c := range uint8(2) {
				bytes = append(bytes, 4*c+b, 4*(2+c)+b)
			}
		}
	}
	for lane := range uint8(4) {
		for w := range uint8(8) {
			b, c := w/4*2+lane/2, lane%2*4+w%4
			pairs = append(pairs, 4*c+b, 4*(8+c)+b)
		}
	}
	t.bytes, t.pairs = bytesTable("spreadBytes", bytes), bytesTable("spreadPairs", pairs)
	t.dwords = bytesTable("spreadDwords", dwords)
	t.qwords = qwordsTable("spreadQwords", []uint64{0, 4, 1, 5, 2, 6, 3, 7})
	t.apart = qwordsTable("spreadApart", []uint64{0, 2, 4, 6, 1, 3, 5, 7})
	t.low = qwordsTable("upperShift4", []uint64{0, 0, 0, 0, 4 | 4<<32, 4 | 4<<32, 4 | 4<<32, 4 | 4<<32})
	t.high = qwordsTable("lowerShift4", []uint64{4 | 4<<32, 4 | 4<<32, 4 | 4<<32, 4 | 4<<32, 0, 0, 0, 0})
	for pair := range uint32(2) {
		var columns []uint32
		for h := range uint32(2) {
			for lane := range uint32(4) {
				columns = append(columns, 4*lane+2*pair+h, 16+4*lane+2*pair+h)
			}
		}
		t.columns[pair] = dwordsTable(fmt.Sprintf("rowsColumns%d", pair), columns)
		p := uint64(2 * pair)
		t.columnPairs[pair] = qwordsTable(fmt.Sprintf("tilesHalves%d", pair), []uint64{p, 4 + p, 8 + p, 12 + p, p + 1, p + 5, p + 9, p + 13})
	}
	for _, bits := range []int{4, 8} {
		for _, level := range []string{"VBMI", "AVX512", "AVX2"} {
			k := &actOrderKernel{bits: bits, wide: level != "AVX2", r: ys, width: 32, level: level, actOrderTables: t}
			if k.wide {
				k.r, k.width = zs, 64
			}
			if level == "VBMI" {
				if bits == 4 {
					k.spread()
				}
				continue
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
	pairs  Mem // both, and bytes b of all columns in two lanes: lower halves of two for b = 0 and 1, upper halves for 2 and 3
	dwords Mem // bytes b of the dwords of a lane side by side
	apart  Mem // brings the even qwords in front of the odd ones

	low, high   Mem    // how far to move a line that is in both halves of a register, so that all its codes are in the lower halves of bytes, or the upper
	columnPairs [2]Mem // of the registers of two features, which qwords belong to the same columns

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
	constants := k.spread8
	if k.bits == 4 {
		constants = k.spread4
	}
	body := constants()
	loop(name+"Row", RCX, func() {
		for i := range 4 {
			PREFETCHT0(plus(RSI, R9, 64*i))
		}
		body()
		ADDQ(R8, RSI)
		ADDQ(U32(256), RDI)
	})
	leave(false)
}

// spread8 loads the constants, and returns what emits the work on a packed row.
func (k *actOrderKernel) spread8() func() {
	last := len(k.r) - 1
	bytes, qwords := k.r[last], k.r[last-1]
	k.move(k.bytes, bytes)
	if k.wide {
		k.move(k.qwords, qwords)
	}
	return func() {
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
				k.move(codes, at(RDI, 64*b+half))
			}
		}
	}
}

func (k *actOrderKernel) tiles(nt bool) {
	constants := func() func() { return k.eight }
	if k.bits == 4 {
		constants = k.tiles4
	}
	k.sorted("tiles", "makes a column of tiles, stride bytes apart,", 16, nt, constants)
}

// packedRows emits the kernel that makes the packed rows of a strip for exllama: of every column a dword.
func (k *actOrderKernel) packedRows(nt bool) {
	constants := k.packed8
	if k.bits == 4 {
		constants = k.packed4
	}
	k.sorted("packedRows", "makes packed rows of 256 bytes, stride bytes apart,", 32/k.bits, nt, constants)
}

// sorted emits a kernel that makes rows of so many lines each, wherever they are in the strip: constants loads what stays in registers, and returns what
// emits the work on a row.
func (k *actOrderKernel) sorted(name, makes string, lines int, nt bool, constants func() func()) {
	name, k.put = variant(fmt.Sprintf("%s%d", name, k.bits), k.wide, nt)
	doc := []string{fmt.Sprintf("%s %s of lines of a strip: %d for each, which begin features bytes behind it.", name, makes, lines)}
	if nt {
		doc = append(doc, "dst and stride are multiples of 64.")
	}
	function(name, "func(dst, strip *byte, features *uint32, rows, stride int)", doc...)
	Load(Param("dst"), RDI)
	Load(Param("strip"), RSI)
	Load(Param("features"), RDX)
	Load(Param("rows"), RCX)
	Load(Param("stride"), R8)
	body := constants()
	loop(name+"Row", RCX, func() {
		body()
		ADDQ(U32(uint32(4*lines)), RDX)
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

// eight: the bytes of the features 2q, 2q+8, 2q+1 and 2q+9 are dwords q, one for each j and h.
func (k *actOrderKernel) eight() {
	for half := 0; half < 64; half += k.width {
		k.eightOf(half)
	}
}

// eightOf does it with a part of the lines, which begins half bytes into them.
func (k *actOrderKernel) eightOf(half int) {
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

// packed8 loads the constants, and returns what emits the work on a packed row, whose bytes are of its four lines.
func (k *actOrderKernel) packed8() func() {
	if !k.wide {
		return k.narrowRows
	}
	var columns [2]VecPhysical
	for i := range columns {
		columns[i] = k.r[len(k.r)-1-i]
		k.move(k.columns[i], columns[i])
	}
	return func() {
		x := k.words(0, k.r[:6])
		for j := range 4 { // columns 16j to 16j+15
			even, odd := x[j/2], x[2+j/2]
			if j%2 == 0 { // they are needed once more
				VMOVDQA64(even, k.r[6])
				even = k.r[6]
			}
			VPERMT2D(odd, columns[j%2], even)
			k.put(even, at(RDI, 64*j))
		}
	}
}

// words puts the codes of a packed row together, of a part of its lines that begins half bytes into them: x[0] and x[1] are of the even qwords, columns
// 16j + 8h + c for j = 0 and 1, and 2 and 3, in the order of the lines; x[2] and x[3] of the odd ones.
func (k *actOrderKernel) words(half int, r []VecPhysical) [4]VecPhysical {
	for b := range 4 {
		k.move(k.line(b, half), r[b])
	}
	return bytesToDwords(r)
}

// bytesToDwords makes dwords of the bytes of r[0] to r[3], by dwords of their lanes. It needs two registers more.
func bytesToDwords(r []VecPhysical) [4]VecPhysical {
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
func (k *actOrderKernel) narrowRows() {
	var halves [2][4]VecPhysical // by j
	for half := range 2 {
		r := k.r[6*half : 6*half+6]
		x, free := k.words(32*half, r), r[2] // which is not among x
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
