package ckpt

import (
	"encoding/binary"

	"github.com/x448/float16"

	"github.com/coldload/coldload/safetensors"
)

// AWQ are the tensors of a 4-bit Module as AWQ stores them, in version gemm, gemv or gemv_fast. The Module has no act-order, and zero
// points below 16.
func (m *Module) AWQ(version string) List {
	k, n := int64(m.K), int64(m.N)
	groups := m.K / m.GroupSize
	words := int64(awqZeroWords(groups, m.GroupSize))
	tensor := func(suffix string, d safetensors.DType, data []byte, shape ...int64) T {
		return T{Name: m.Base + "." + suffix, DType: d, Shape: shape, Data: data}
	}
	var list List
	switch version {
	case "gemm":
		list = List{
			tensor("qweight", safetensors.I32, awqColumns(m.Codes, m.N), k, n/8),
			tensor("qzeros", safetensors.I32, awqColumns(m.Zeros, m.N), int64(groups), n/8),
			tensor("scales", safetensors.F16, float16Bytes(m.Scales), int64(groups), n),
		}
	case "gemv":
		scales, zeros := make([]float16.Float16, n*8*words), make([]byte, n*4*words)
		for g := range groups {
			for c := range m.N {
				scales[c*8*int(words)+g] = m.Scales[g*m.N+c]
				zeros[c*4*int(words)+g/2] |= m.Zeros[g*m.N+c] << (4 * (g % 2))
			}
		}
		codes := make([]byte, m.K*m.N/2)
		for i, code := range m.Codes {
			at := i%m.N*m.K + i/m.N
			codes[at/2] |= code << (4 * (at % 2))
		}
		list = List{
			tensor("qweight", safetensors.I32, codes, n, k/8), tensor("qzeros", safetensors.I32, zeros, n, words),
			tensor("scales", safetensors.F16, float16Bytes(scales), n, 8*words),
		}
	case "gemv_fast":
		pad := make([]float16.Float16, (8*int(words)-groups)*m.N)
		list = List{
			tensor("qweight", safetensors.I16, m.awqInterleaved(), n/4, k),
			tensor("qzeros", safetensors.F16, float16Bytes(append(m.AWQOffsets(), pad...)), 8*words, n),
			tensor("scales", safetensors.F16, float16Bytes(append(append([]float16.Float16(nil), m.Scales...), pad...)), 8*words, n),
		}
	}
	if m.Bias != nil {
		list = append(list, tensor("bias", safetensors.F16, float16Bytes(m.Bias), n))
	}
	return list
}

// AWQOffsets are -scale*zero [G][N], rounded: what version gemv_fast stores for the zero points.
func (m *Module) AWQOffsets() []float16.Float16 {
	out := make([]float16.Float16, len(m.Scales))
	for i, s := range m.Scales {
		out[i] = float16.Fromfloat32(-s.Float32() * float32(m.Zeros[i]))
	}
	return out
}

// awqColumns packs rows of n fields, eight to a word: even columns first.
func awqColumns(fields []byte, n int) []byte {
	out := make([]byte, len(fields)/2)
	for i, f := range fields {
		field := []int{0, 4, 1, 5, 2, 6, 3, 7}[i%n%8]
		at := out[i/8*4:]
		binary.LittleEndian.PutUint32(at, binary.LittleEndian.Uint32(at)|uint32(f)<<(4*field))
	}
	return out
}

// awqInterleaved packs the codes of four outputs into a row of 16-bit words, in blocks of 64 inputs.
func (m *Module) awqInterleaved() []byte {
	out := make([]byte, m.K*m.N/2)
	for i, code := range m.Codes {
		k, n := i/m.N, i%m.N
		word := n/4*m.K + k/64*64 + n%4*16 + k%64/32*8 + k%8
		nibble := 4*word + k%32/8
		out[nibble/2] |= code << (4 * (nibble % 2))
	}
	return out
}

// awqZeroWords is how many words the zero points of so many groups take, filled up.
func awqZeroWords(groups, group int) int {
	by := map[int]int{64: 2, 32: 4}[group]
	by = max(by, 1)
	return ((groups+7)/8 + by - 1) / by * by
}
