package decode

import (
	"github.com/coldload/coldload/gguf"
	"github.com/coldload/coldload/internal/values"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// CheckWord computes the weights in one word again, each by itself.
func (op *ggufDequant) CheckWord(j *stages.Job, row, word int) error {
	k := j.RowBytes / (op.to.Bits() / 8)
	return checkWeights(j, row, word, op.to, func(i int) float32 {
		return ggufElement(op.typ, j.Src[0][(row*k+i)/op.elements*op.bytes:], i%op.elements)
	})
}

// ggufElement is element e of the block at the start of b. Source: LAYOUTS A7.
func ggufElement(t gguf.Type, b []byte, e int) float32 {
	low := func(q []byte) int { return int(q[e%16] >> (e / 16 * 4) & 15) } // of blocks of 32
	half := func(at int) float32 { return valueAt(safetensors.F16, b[at:], 0) }
	switch t {
	case gguf.Q4_0:
		return half(0) * float32(low(b[2:])-8)
	case gguf.Q8_0:
		return half(0) * float32(int8(b[2+e]))
	case gguf.MXFP4:
		return valueAt(safetensors.F8E8M0, b, 0) * float32(values.FP4(byte(low(b[1:])))+0) // there is no -0
	case gguf.Q4K:
		scale, minimum := q4kSixBits(b[4:16], e/32)
		code := b[16+e/64*32+e%32] >> (e / 32 % 2 * 4) & 15
		return float32(float32(half(0)*scale)*float32(code)) - float32(half(2)*minimum)
	default: // Q6_K
		r := e % 128 // of a half
		code := int(b[e/128*64+r%64]>>(r/64*4)&15) | int(b[128+e/128*32+r%32]>>(r/32*2)&3)<<4
		return float32(half(208)*float32(int8(b[192+e/16]))) * float32(code-32)
	}
}

// q4kSixBits are the j-th scale and minimum of 12 bytes: the low six bits of bytes j and j+4, or from the fifth on four bits in either half of byte
// j+4, and two above those of the scale and the minimum four before.
func q4kSixBits(s []byte, j int) (scale, minimum float32) {
	if j < 4 {
		return float32(s[j] % 64), float32(s[4+j] % 64)
	}
	return float32(s[4+j]%16 + s[j-4]/64*16), float32(s[4+j]/16 + s[j]/64*16)
}
