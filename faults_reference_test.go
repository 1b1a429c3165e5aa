package coldload_test

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/x448/float16"

	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/safetensors"
)

// The slow reference: one weight at a time, from the element formulas of the formats. It knows nothing of the program but what a Module is.

// column is the Module and the column in it that is column n of the members side by side.
func column(members []*ckpt.Module, n int) (m *ckpt.Module, at int) {
	for _, m := range members {
		if n < m.N {
			return m, n
		}
		n -= m.N
	}
	return nil, 0
}

func width(members []*ckpt.Module) (n int) {
	for _, m := range members {
		n += m.N
	}
	return n
}

// marlinWords are the members fused along N, in Marlin words.
func marlinWords(members ...*ckpt.Module) []byte {
	k, n := members[0].K, width(members)
	out := make([]uint32, k/16*2*n)
	for kk := range k {
		for nn := range n {
			m, c := column(members, nn)
			code := uint32(m.Codes[kk*m.N+c])
			w := 128*(nn/64) + 16*(nn%8) + 4*((kk%8)/2) + (nn%64)/16
			p := (kk%16)/8 + 2*((nn%16)/8) + 4*(kk%2)
			out[kk/16*2*n+w] |= code << (4 * p)
		}
	}
	return leWords(out)
}

// rawWords are the members' qweight side by side.
func rawWords(members ...*ckpt.Module) []byte {
	k, n := members[0].K, width(members)
	out := make([]uint32, k/8*n)
	for kk := range k {
		for nn := range n {
			m, c := column(members, nn)
			out[kk/8*n+nn] |= uint32(m.Codes[kk*m.N+c]) << (4 * (kk % 8))
		}
	}
	return leWords(out)
}

// rawZeros are the members' qzeros side by side.
func rawZeros(members ...*ckpt.Module) []byte {
	groups, n := len(members[0].Zeros)/members[0].N, width(members)
	out := make([]uint32, groups*n/8)
	for g := range groups {
		for nn := range n {
			m, c := column(members, nn)
			z := uint32(m.Zeros[g*m.N+c])
			if !m.V2 {
				z--
			}
			out[(g*n+nn)/8] |= z << (4 * (nn % 8))
		}
	}
	return leWords(out)
}

// scaleAt is the scale of group g of column n of the members side by side.
func scaleAt(members []*ckpt.Module, g, n int) float32 {
	m, c := column(members, n)
	return m.Scales[g*m.N+c].Float32()
}

// rawScales are the members' scales side by side.
func rawScales(d safetensors.DType, members ...*ckpt.Module) (out []byte) {
	groups, n := len(members[0].Scales)/members[0].N, width(members)
	for g := range groups {
		for nn := range n {
			out = appendFloat(out, d, scaleAt(members, g, nn))
		}
	}
	return out
}

// marlinScales are the scales in the order of the kernels.
func marlinScales(d safetensors.DType, members ...*ckpt.Module) (out []byte) {
	groups, n := len(members[0].Scales)/members[0].N, width(members)
	for g := range groups {
		for nn := range n {
			from := single32(nn)
			if groups > 1 {
				from = nn/64*64 + 8*(nn%8) + nn%64/8
			}
			out = appendFloat(out, d, scaleAt(members, g, from))
		}
	}
	return out
}

// single32 is the source of element n under the permutation of channel-wise scales and biases.
func single32(n int) int { return n/32*32 + 2*(n%32/8) + n%2 + 8*(n%8/2) }

// biases are the members' biases side by side; permuted as the kernels want them or not.
func biases(permuted bool, members ...*ckpt.Module) (out []byte) {
	for n := range width(members) {
		if permuted {
			n = single32(n)
		}
		m, c := column(members, n)
		out = appendFloat(out, safetensors.F16, m.Bias[c].Float32())
	}
	return out
}

// appendFloat appends v, which the dtype holds without rounding, or rounded to nearest even for BF16.
func appendFloat(b []byte, d safetensors.DType, v float32) []byte {
	switch d {
	case safetensors.F32:
		return binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	case safetensors.BF16:
		u := math.Float32bits(v)
		return binary.LittleEndian.AppendUint16(b, uint16((u+0x7FFF+u>>16&1)>>16))
	default:
		return binary.LittleEndian.AppendUint16(b, float16.Fromfloat32(v).Bits())
	}
}

func leWords(words []uint32) []byte {
	b := make([]byte, 0, 4*len(words))
	for _, w := range words {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	return b
}

// dataOf is the bytes of one tensor of an Item.
func dataOf(item ckpt.Item, name string) []byte {
	all := item.Tensors()
	i := slices.IndexFunc(all, func(t ckpt.T) bool { return t.Name == name })
	t := all[i]
	if t.Data != nil {
		return t.Data
	}
	n := int64(t.DType.Bits() / 8)
	for _, d := range t.Shape {
		n *= d
	}
	data := make([]byte, n)
	if t.Fill != nil {
		t.Fill.Fill(data, 0)
	}
	return data
}

// joinBytes is the data of several tensors one after the other.
func joinBytes(item ckpt.Item, names ...string) (out []byte) {
	for _, n := range names {
		out = append(out, dataOf(item, n)...)
	}
	return out
}
