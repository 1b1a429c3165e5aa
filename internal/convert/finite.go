package convert

import (
	"bytes"
	"math/bits"

	"github.com/coldload/coldload/safetensors"
)

// FirstNonFinite is the index of the first element of b that is an infinity or a NaN, or -1. b holds elements of the given type, little
// endian, at any alignment; bytes at the end that make no whole element are ignored. A complex element counts when either half does. The
// types that can only hold finite values (integers, BOOL, F4, F6) have none.
func FirstNonFinite(dtype safetensors.DType, b []byte) int {
	switch dtype { //nolint:exhaustive // the rest cannot be non-finite
	case safetensors.F16:
		return firstAtLeast(b, 2, inf16*ones16, top16)
	case safetensors.BF16:
		return firstAtLeast(b, 2, infBF16*ones16, top16)
	case safetensors.F32:
		return firstAtLeast(b, 4, inf32*ones32, top32)
	case safetensors.C64:
		return firstAtLeast(b[:len(b)&^7], 8, inf32*ones32, top32)
	case safetensors.F64:
		return firstAtLeast(b, 8, inf64, 1<<63)
	case safetensors.F8E5M2:
		return firstAtLeast(b, 1, 0x7C*ones8, top8)
	case safetensors.F8E4M3:
		return firstAtLeast(b, 1, 0x7F*ones8, top8)
	case safetensors.F8E8M0:
		return bytes.IndexByte(b, 0xFF)
	case safetensors.F8E4M3FNUZ, safetensors.F8E5M2FNUZ:
		return bytes.IndexByte(b, 0x80)
	}
	return -1
}

const (
	ones8 = 0x0101_0101_0101_0101
	top8  = 0x80 * ones8
)

// firstAtLeast is the index of the first element of size bytes whose magnitude is at least limit, or -1. limit and top hold, in every
// lane, the limit and the lane's top bit.
func firstAtLeast(b []byte, size int, limit, top uint64) int {
	add, whole := top-limit, len(b)-len(b)%size
	b = b[:whole]
	b = b[finiteBytes(b, bits.TrailingZeros64(top)+1, ^top, add):]
	for len(b) >= 32 {
		x, y, z, w := le.Uint64(b)&^top, le.Uint64(b[8:])&^top, le.Uint64(b[16:])&^top, le.Uint64(b[24:])&^top
		if ((x+add)|(y+add)|(z+add)|(w+add))&top != 0 {
			break
		}
		b = b[32:]
	}
	for ; len(b) > 0; b = b[min(8, len(b)):] {
		if found := (wordOf(b)&^top + add) & top; found != 0 {
			return (whole - len(b) + bits.TrailingZeros64(found)/8) / size
		}
	}
	return -1
}

// wordOf is the first 8 bytes of b, or what there is of them and zeros, which are finite in every type.
func wordOf(b []byte) uint64 {
	if len(b) >= 8 {
		return le.Uint64(b)
	}
	var word [8]byte
	copy(word[:], b)
	return le.Uint64(word[:])
}
