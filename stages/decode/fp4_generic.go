package decode

import (
	"encoding/binary"
	"math"

	"github.com/coldload/coldload/internal/convert"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// fp4Magnitudes are the values of the codes without a sign. Source: LAYOUTS 0.1.
var fp4Magnitudes = [8]float32{0, 0.5, 1, 1.5, 2, 3, 4, 6}

// fp4Value is the value of an FP4 code: bit 3 is the sign.
func fp4Value(code byte) float32 {
	v := fp4Magnitudes[code&7]
	if code&8 != 0 {
		return -v
	}
	return v
}

// fp4Row decodes a row of codes, two to a byte, into weights of to: group of them share one of scales. It returns the first input feature
// whose weight to cannot hold, or -1. It is the reference for the kernels: each group has sixteen weights at most, which are computed once.
func fp4Row(dst, codes []byte, scales []float32, global float32, group int, to stages.DType) int {
	var weights [16]uint32 // the bits of those of a group, of to
	size := to.Bits() / 8
	for g, scale := range scales {
		infinite := fp4Weights(&weights, scale, global, to)
		src, out := codes[g*group/2:(g+1)*group/2], dst[g*group*size:(g+1)*group*size]
		if infinite != 0 {
			for i, b := range src {
				if infinite>>(b&15)&1 != 0 {
					return g*group + 2*i
				}
				if infinite>>(b>>4)&1 != 0 {
					return g*group + 2*i + 1
				}
			}
		}
		if size == 4 {
			for i, b := range src {
				binary.LittleEndian.PutUint64(out[8*i:], uint64(weights[b&15])|uint64(weights[b>>4])<<32)
			}
			continue
		}
		for i, b := range src {
			binary.LittleEndian.PutUint32(out[4*i:], weights[b&15]|weights[b>>4]<<16)
		}
	}
	return -1
}

// fp4Weights computes the weights of all codes with one scale. infinite has a bit for every code whose weight to cannot hold.
func fp4Weights(weights *[16]uint32, scale, global float32, to stages.DType) (infinite uint16) {
	limit := infiniteFrom(to)
	for c, v := range fp4Magnitudes {
		w := v * scale * global
		bits, sign := math.Float32bits(w), uint32(1)<<31
		switch to { //nolint:exhaustive // the targets
		case safetensors.F16:
			bits, sign = uint32(convert.F32ToF16(w)), 1<<15
		case safetensors.BF16:
			bits, sign = uint32(convert.F32ToBF16(w)), 1<<15
		}
		weights[c], weights[c+8] = bits, bits^sign
		if abs(w) >= limit {
			infinite |= 0x101 << c
		}
	}
	return infinite
}
