package convert

import (
	"math"

	"github.com/coldload/coldload/safetensors"
)

// E8M0ToF32 is the value of an F8_E8M0: 2^(e-127), always exact; 0xFF is NaN. Source: LAYOUTS 0.1.
func E8M0ToF32(e uint8) float32 {
	switch e {
	case 0:
		return 0x1p-127 // the only subnormal one
	case 0xFF:
		return float32(math.NaN())
	}
	return math.Float32frombits(uint32(e) << 23)
}

// ScalesToF32 is the Kernel that turns scales of a dtype into F32: that of Func, and for F8_E8M0, which only scales are, one of its own.
func ScalesToF32(from safetensors.DType) (Kernel, bool) {
	if from == safetensors.F8E8M0 {
		return e8m0ToF32, true
	}
	return Func(from, safetensors.F32)
}

// e8m0ToF32 is exact: nothing overflows.
func e8m0ToF32(dst, src []byte) int {
	for i, e := range src {
		le.PutUint32(dst[4*i:], math.Float32bits(E8M0ToF32(e)))
	}
	return -1
}
