package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// lowNibbles loads a mask of the lower halves of bytes.
func (k *actOrderKernel) lowNibbles() VecPhysical {
	mask := k.r[len(k.r)-1]
	VPBROADCASTD(dword("lowNibbles", 0x0F0F0F0F), mask)
	return mask
}

// take makes low of its own lower halves of bytes and the upper ones of high. t is destroyed where there is no instruction for it.
func (k *actOrderKernel) take(mask, high, low, t VecPhysical) {
	if k.wide {
		VPTERNLOGD(U8(0xE2), high, mask, low) // mask ? low : high
		return
	}
	VPAND(mask, low, low)
	VPANDN(high, mask, t)
	VPOR(t, low, low)
}

// spread4 loads the constants, and returns what emits the work on a packed row: the codes of columns 32 further join those of the others, first those of even
// features, then those of odd ones.
func (k *actOrderKernel) spread4() func() {
	mask, last := k.lowNibbles(), len(k.r)-1
	switch k.level {
	case "VBMI":
		k.move(k.pairs, k.r[last-1])
	case "AVX512":
		k.move(k.bytes, k.r[last-1])
		k.move(k.qwords, k.r[last-2])
		k.move(k.apart, k.r[last-3])
	default:
		VBROADCASTI128(k.dwords, k.r[last-1])
	}
	return func() {
		for odd := range 2 {
			if k.wide {
				k.spreadWide(mask, odd)
			} else {
				k.spreadNarrow(mask, odd)
			}
		}
	}
}

// joined leaves the codes of even or odd features in x: of the columns at low, and of those at high, which are 32 further.
func (k *actOrderKernel) joined(mask VecPhysical, odd int, low, high Mem, x, t, u VecPhysical) {
	k.move(low, x)
	k.move(high, t)
	if odd == 1 {
		VPSRLD(U8(4), x, x)
	} else {
		VPSLLD(U8(4), t, t)
	}
	k.take(mask, t, x, u)
}

// spreadWide: bytes b of j = 0 and of j = 1 are words, two columns side by side, which interleave; they are two lines to a register.
func (k *actOrderKernel) spreadWide(mask VecPhysical, odd int) {
	last := len(k.r) - 1
	x := [2]VecPhysical{k.r[8*odd], k.r[8*odd+1]}
	t, u := k.r[8*odd+2], k.r[8*odd+3]
	for j := range x {
		k.joined(mask, odd, at(RSI, 64*j), at(RSI, 64*(j+2)), x[j], t, u)
		if k.level == "VBMI" {
			VPERMB(x[j], k.r[last-1], x[j])
			continue
		}
		VPERMQ(x[j], k.r[last-2], x[j])
		VPSHUFB(k.r[last-1], x[j], x[j])
	}
	VPUNPCKLWD(x[1], x[0], t) // bytes 0 and 1
	VPUNPCKHWD(x[1], x[0], u) // bytes 2 and 3
	for i, lines := range []VecPhysical{t, u} {
		if k.level != "VBMI" {
			VPERMQ(lines, k.r[last-3], lines)
		}
		k.move(lines, at(RDI, 128*odd+64*i))
	}
}

// spreadNarrow: the bytes of four columns are a dword, with those eight further words, and with those of j = 1 qwords.
func (k *actOrderKernel) spreadNarrow(mask VecPhysical, odd int) {
	order := k.r[len(k.r)-2]
	var words [2][2]VecPhysical // of j, for bytes 0 and 1, and 2 and 3
	for j := range words {
		x := k.r[4*j : 4*j+2]
		for h := range x {
			k.joined(mask, odd, at(RSI, 64*j+32*h), at(RSI, 64*(j+2)+32*h), x[h], k.r[8], k.r[9])
			VPSHUFB(order, x[h], x[h])
		}
		words[j] = [2]VecPhysical{k.r[4*j+2], x[0]}
		VPUNPCKLBW(x[1], x[0], words[j][0])
		VPUNPCKHBW(x[1], x[0], words[j][1])
	}
	for i := range 2 {
		a, b, t := words[0][i], words[1][i], k.r[8]
		VPUNPCKLWD(b, a, t)
		VPUNPCKHWD(b, a, a)
		k.move(t, at(RDI, 128*odd+64*i))
		k.move(a, at(RDI, 128*odd+64*i+32))
	}
}

// tiles4 loads the constants, and returns what emits the work on a tile. The features 2q and 2q+1, each with the one eight further, are byte by byte the
// halves of dwords q, one for each j.
func (k *actOrderKernel) tiles4() func() {
	mask := k.lowNibbles()
	if !k.wide {
		return func() { k.narrowTile(mask) }
	}
	c := k.wideConstants()
	var halves [2]VecPhysical
	for i := range halves {
		halves[i] = k.r[len(k.r)-4-i]
		k.move(k.columnPairs[i], halves[i])
	}
	return func() { k.wideTile(mask, c, halves) }
}

// wideConstants loads how far lines move that are in both halves of a register: of a code that belongs into the lower half of its byte, and of one
// that belongs into the upper half.
func (k *actOrderKernel) wideConstants() (c [2]VecPhysical) {
	for i, m := range []Mem{k.low, k.high} {
		c[i] = k.r[len(k.r)-2-i]
		k.move(m, c[i])
	}
	return c
}

// both leaves the codes of all columns, of feature near in the lower halves of bytes and of feature far in the upper ones: those of j = 0 and 1 in the
// lower half of x, those of 2 and 3 in the upper one.
func (k *actOrderKernel) both(mask VecPhysical, c [2]VecPhysical, near, far int, x, t VecPhysical) {
	VBROADCASTI64X4(k.line(near, 0), x)
	VBROADCASTI64X4(k.line(far, 0), t)
	VPSRLVD(c[0], x, x)
	VPSLLVD(c[1], t, t)
	k.take(mask, t, x, t)
}

func (k *actOrderKernel) wideTile(mask VecPhysical, c, halves [2]VecPhysical) {
	var x [2][4]VecPhysical // of q: columns c, c+1, c+4, c+5, for c = 0 and 2
	for q := range 4 {
		v := [2]VecPhysical{k.r[2*q], k.r[8+q]}
		for p := range v {
			k.both(mask, c, 2*q+p, 2*q+p+8, v[p], k.r[12+(2*q+p)%4])
		}
		x[0][q], x[1][q] = k.r[2*q+1], v[0]
		VPUNPCKLWD(v[1], v[0], x[0][q])
		VPUNPCKHWD(v[1], v[0], x[1][q])
	}
	for i, r := range x {
		for column, index := range halves {
			var pairs [2]VecPhysical // q = 0 and 1, and 2 and 3: of a column in the lower half, of the next one in the upper half
			for p := range pairs {
				a, b := r[2*p], r[2*p+1]
				pairs[p] = a
				if column == 0 { // a is needed once more
					pairs[p] = k.r[8+2*i+p]
					VMOVDQA64(a, pairs[p])
				}
				VPERMT2Q(b, index, pairs[p])
			}
			t := k.r[12+2*i+column]
			VSHUFI64X2(U8(0x44), pairs[1], pairs[0], t)
			VSHUFI64X2(U8(0xEE), pairs[1], pairs[0], pairs[0])
			k.put(t, at(RDI, 64*(2*i+4*column)))
			k.put(pairs[0], at(RDI, 64*(2*i+4*column+1)))
		}
	}
}

// parts leaves the codes of the columns of j = 0 and 1 in x, and those of 2 and 3 in y: of feature near in the lower halves of bytes and of feature far in
// the upper ones. It exchanges the upper halves of near with the lower ones of far.
func (k *actOrderKernel) parts(mask VecPhysical, near, far int, x, y, t VecPhysical) {
	k.move(k.line(near, 0), x)
	k.move(k.line(far, 0), y)
	VPSRLD(U8(4), x, t)
	VPXOR(y, t, t)
	VPAND(mask, t, t)
	VPXOR(t, y, y)
	VPSLLD(U8(4), t, t)
	VPXOR(t, x, x)
}

// narrowTile makes four columns of a lane two by two, so that whole lines of the tile are written at a time.
func (k *actOrderKernel) narrowTile(mask VecPhysical) {
	r := k.r[8:14]
	for i := range 2 {
		var x [4][2]VecPhysical // of q: columns 2i and 2i+1, and four further in the upper lane
		for q := range x {
			for p := range 2 {
				k.parts(mask, 2*q+p, 2*q+p+8, r[p], r[2+p], r[4+p])
			}
			for _, part := range [2][]VecPhysical{r[:2], r[2:4]} {
				if i == 0 {
					VPUNPCKLWD(part[1], part[0], part[0])
				} else {
					VPUNPCKHWD(part[1], part[0], part[0])
				}
			}
			x[q] = [2]VecPhysical{k.r[2*q], k.r[2*q+1]}
			VPUNPCKLQDQ(r[2], r[0], x[q][0])
			VPUNPCKHQDQ(r[2], r[0], x[q][1])
		}
		for c := range 2 {
			for pair := 0; pair < 4; pair += 2 {
				k.halves(x[pair][c], x[pair+1][c], k.r[8+pair], 64*(2*i+c)+16*pair, 4*64)
			}
		}
	}
}

// packed4 loads the constants, and returns what emits the work on a packed row of exllama's: byte by byte the codes of two even features each, then those of
// two odd ones.
func (k *actOrderKernel) packed4() func() {
	mask := k.lowNibbles()
	features := [4][2]int{{0, 2}, {4, 6}, {1, 3}, {5, 7}}
	if k.wide {
		c := k.wideConstants()
		return func() {
			r := k.r[:6]
			for b, f := range features {
				k.both(mask, c, f[0], f[1], r[b], k.r[6+b])
			}
			x := bytesToDwords(r) // by columns c and c+4, whose dwords are those of j and h
			y := quarters(x[:], r[2])
			for j := range 2 { // with j+2
				VSHUFI64X2(U8(0x44), y[2*j+1], y[2*j], k.r[6])
				VSHUFI64X2(U8(0xEE), y[2*j+1], y[2*j], y[2*j])
				k.put(k.r[6], at(RDI, 64*j))
				k.put(y[2*j], at(RDI, 64*(j+2)))
			}
		}
	}
	return func() {
		halves := [2][]VecPhysical{k.r[:6], append(append([]VecPhysical(nil), k.r[6:10]...), k.r[4:6]...)}
		for b, f := range features {
			k.parts(mask, f[0], f[1], halves[0][b], halves[1][b], k.r[10+b])
		}
		for high, r := range halves {
			x := bytesToDwords(r)
			for i, y := range quarters(x[:], r[2]) {
				k.put(y, at(RDI, 64*2*high+32*i))
			}
		}
	}
}
