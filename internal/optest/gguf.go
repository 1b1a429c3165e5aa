package optest

import (
	"encoding/binary"
	"math"
	"math/rand/v2"

	"github.com/coldload/coldload/gguf"
	"github.com/coldload/coldload/internal/convert"
)

// GGUFTypes are the types of blocks that GGUFValue knows.
var GGUFTypes = []gguf.Type{gguf.Q4_0, gguf.Q8_0, gguf.Q4K, gguf.Q6K, gguf.MXFP4}

// GGUFValue is the value of element e of a block, by the formulas of the format, one element at a time. Every product is exact in float64 and in
// float32, so that only the difference of Q4_K rounds.
func GGUFValue(t gguf.Type, b []byte, e int) float32 {
	f16 := func(at int) float64 { return float64(convert.F16ToF32(binary.LittleEndian.Uint16(b[at:]))) }
	fp4 := []float64{0, .5, 1, 1.5, 2, 3, 4, 6}
	switch t { //nolint:exhaustive // the others are not read
	case gguf.Q4_0:
		return float32(f16(0) * float64(int(b[2+e%16]>>(4*(e/16))&15)-8))
	case gguf.Q8_0:
		return float32(f16(0) * float64(int8(b[2+e])))
	case gguf.Q4K:
		s, j := b[4:16], e/32
		nib := b[16+32*(e/64)+e%32] >> (4 * (j & 1)) & 15
		var sc, mn byte
		if j < 4 {
			sc, mn = s[j]&63, s[j+4]&63
		} else {
			sc, mn = s[j+4]&15|(s[j-4]>>6)<<4, (s[j+4]>>4)|(s[j]>>6)<<4
		}
		return float32(f16(0)*float64(sc)*float64(nib)) - float32(f16(2)*float64(mn)) // both exact
	case gguf.Q6K:
		h, u, l := e/128, e%128/32, e%32
		lo, hi := b[64*h+32*(u%2)+l]>>(4*(u/2))&15, b[128+32*h+l]>>(2*u)&3
		return float32(f16(208) * float64(int8(b[192+e/16])) * float64(int(lo|hi<<4)-32))
	case gguf.MXFP4:
		c := b[1+e%16] >> (4 * (e / 16)) & 15
		v := math.Ldexp(fp4[c&7], int(b[0])-127)
		if c > 8 {
			v = -v
		}
		return float32(v)
	}
	panic("optest: no formula for " + t.String())
}

// GGUFBlocks are n blocks of random bytes whose values F16 holds.
func GGUFBlocks(r *rand.Rand, t gguf.Type, n int) []byte {
	_, size := t.Block()
	b := make([]byte, n*int(size))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	scale := func(at int, most uint32) {
		binary.LittleEndian.PutUint16(b[at:], uint16(r.Uint32N(2)<<15|r.Uint32N(most)))
	}
	for at := 0; at < len(b); at += int(size) {
		switch t { //nolint:exhaustive // the others are not read
		case gguf.Q4_0, gguf.Q8_0:
			scale(at, 0x4400)
		case gguf.Q4K:
			scale(at, 0x4400)
			scale(at+2, 0x4400)
		case gguf.Q6K:
			scale(at+208, 0x4000)
		case gguf.MXFP4:
			b[at] = byte(100 + r.Uint32N(30))
		}
	}
	return b
}
