package ckpt

import (
	"encoding/binary"

	"github.com/x448/float16"

	"github.com/coldload/coldload/internal/synth"
	"github.com/coldload/coldload/safetensors"
)

// GPTQOptions vary a Module. The zero value is symmetric, v1, without act-order and bias.
type GPTQOptions struct {
	Seed    uint64
	DescAct bool    // g_idx is a random balanced order
	GIdx    []int32 // g_idx to use, of length K: another Module's, or a wrong one; the values need not be valid
	NoGIdx  bool    // leave g_idx out
	Asym    bool    // random zero points from 1 to 2^bits-1, which both formats can hold
	V2      bool    // checkpoint_format gptq_v2: stores the zero point itself, not one less
	Bias    bool
}

// Module is one GPTQ linear layer with everything known that its tensors encode.
type Module struct {
	Base                  string
	K, N, Bits, GroupSize int
	V2                    bool

	Codes  []byte            // [K][N], each below 2^Bits
	Zeros  []byte            // [G][N], the zero points themselves
	Scales []float16.Float16 // [G][N], positive normal
	GIdx   []int32           // [K]; nil when left out
	Bias   []float16.Float16 // [N], or nil
}

// GPTQ is a Module of k inputs and n outputs with seeded random values. bits is 2, 3, 4 or 8; group is the number of rows that share a
// scale, or -1 for all; k and n must be multiples of 32.
func GPTQ(base string, k, n, bits, group int, o GPTQOptions) *Module {
	if group < 0 {
		group = k
	}
	groups := (k + group - 1) / group
	m := &Module{
		Base: base, K: k, N: n, Bits: bits, GroupSize: group, V2: o.V2,
		Codes:  randomBytes(o.Seed, k*n, 1<<bits),
		Zeros:  make([]byte, groups*n),
		Scales: randomScales(o.Seed+1, groups*n),
		GIdx:   groupIndex(k, group, o),
	}
	if o.Asym {
		m.Zeros = randomBytes(o.Seed+2, groups*n, 1<<bits-1)
		for i := range m.Zeros {
			m.Zeros[i]++
		}
	} else {
		for i := range m.Zeros {
			m.Zeros[i] = 1 << (bits - 1)
		}
	}
	if o.Bias {
		m.Bias = randomScales(o.Seed+3, n)
	}
	return m
}

func groupIndex(k, group int, o GPTQOptions) []int32 {
	switch {
	case o.NoGIdx:
		return nil
	case o.GIdx != nil:
		return o.GIdx
	case o.DescAct:
		return synth.ActOrder(o.Seed+4, k, group)
	}
	idx := make([]int32, k)
	for i := range idx {
		idx[i] = int32(i / group)
	}
	return idx
}

// Group is the group of input row k.
func (m *Module) Group(k int) int {
	if m.GIdx == nil {
		return k / m.GroupSize
	}
	return int(m.GIdx[k])
}

// Tensors are g_idx, scales, bias, qweight and qzeros, in the order in which GPTQModel writes them.
func (m *Module) Tensors() []T {
	k, n, bits := int64(m.K), int64(m.N), int64(m.Bits)
	groups := int64(len(m.Scales)) / n
	var ts []T
	if m.GIdx != nil {
		ts = append(ts, T{Name: m.Base + ".g_idx", DType: safetensors.I32, Shape: []int64{int64(len(m.GIdx))}, Data: int32Bytes(m.GIdx)})
	}
	ts = append(ts, T{Name: m.Base + ".scales", DType: safetensors.F16, Shape: []int64{groups, n}, Data: float16Bytes(m.Scales)})
	if m.Bias != nil {
		ts = append(ts, T{Name: m.Base + ".bias", DType: safetensors.F16, Shape: []int64{n}, Data: float16Bytes(m.Bias)})
	}
	return append(ts,
		T{Name: m.Base + ".qweight", DType: safetensors.I32, Shape: []int64{k * bits / 32, n}, Data: m.qweight()},
		T{Name: m.Base + ".qzeros", DType: safetensors.I32, Shape: []int64{groups, n * bits / 32}, Data: m.qzeros()},
	)
}

// Weight is the dequantised weight [N][K], scale * (code - zero point), exact in float32.
func (m *Module) Weight() []float32 {
	w := make([]float32, m.N*m.K)
	for k := range m.K {
		row := m.Group(k) * m.N
		for n := range m.N {
			code := float32(m.Codes[k*m.N+n]) - float32(m.Zeros[row+n])
			w[n*m.K+k] = m.Scales[row+n].Float32() * code
		}
	}
	return w
}

// qweight packs every column of codes as one stream of bits, low bits first, into words that lie in rows.
func (m *Module) qweight() []byte {
	out := make([]byte, m.K*m.Bits/32*m.N*4)
	column := make([]byte, m.K)
	for n := range m.N {
		for k := range column {
			column[k] = m.Codes[k*m.N+n]
		}
		for r, word := range packStream(column, m.Bits) {
			binary.LittleEndian.PutUint32(out[(r*m.N+n)*4:], word)
		}
	}
	return out
}

// qzeros packs every row of zero points as one stream.
func (m *Module) qzeros() []byte {
	var out []byte
	row := make([]byte, m.N)
	for g := 0; g < len(m.Zeros); g += m.N {
		for n := range row {
			row[n] = m.Zeros[g+n]
			if !m.V2 {
				row[n]--
			}
		}
		for _, word := range packStream(row, m.Bits) {
			out = binary.LittleEndian.AppendUint32(out, word)
		}
	}
	return out
}

// packStream packs fields of the given width one after the other, low bits first, into 32-bit words; a field may straddle two words.
func packStream(fields []byte, width int) []uint32 {
	words := make([]uint32, (len(fields)*width+31)/32)
	for i, f := range fields {
		at := i * width
		v := uint64(f) << (at % 32)
		words[at/32] |= uint32(v)
		if high := uint32(v >> 32); high != 0 {
			words[at/32+1] |= high
		}
	}
	return words
}

// randomBytes are n values below limit.
func randomBytes(seed uint64, n, limit int) []byte {
	b := make([]byte, n*2)
	synth.Random(safetensors.U16, seed).Fill(b, 0)
	for i := range n {
		b[i] = byte(int(binary.LittleEndian.Uint16(b[2*i:])) * limit >> 16)
	}
	return b[:n]
}

// randomScales are n values from 2^-7 to 2^-6.
func randomScales(seed uint64, n int) []float16.Float16 {
	b := make([]byte, n*2)
	synth.Random(safetensors.U16, seed).Fill(b, 0)
	scales := make([]float16.Float16, n)
	for i := range scales {
		scales[i] = float16.Frombits(binary.LittleEndian.Uint16(b[2*i:])&0x03FF | 0x2000)
	}
	return scales
}

func int32Bytes(values []int32) []byte {
	b := make([]byte, 0, len(values)*4)
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, uint32(v))
	}
	return b
}

func float16Bytes(values []float16.Float16) []byte {
	b := make([]byte, 0, len(values)*2)
	for _, v := range values {
		b = binary.LittleEndian.AppendUint16(b, v.Bits())
	}
	return b
}
