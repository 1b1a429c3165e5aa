package decode

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/x448/float16"

	"github.com/coldload/coldload/internal/optest"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// sources are the inputs of a dequantising Op, and two more than it has.
var sources = optest.Sources{"qweight", "scales", "qzeros", "g_idx", "x", "y"}

// gptqCase is a module with everything known that its tensors encode.
type gptqCase struct {
	GPTQLayout

	n      int
	codes  []uint32  // [K][N]
	stored []uint32  // [G][N], the fields of qzeros
	zeros  []int     // [G][N], what they mean
	scales []float32 // [G][N]
	gIdx   []int32   // [K]
}

// randomCase makes a module whose stored zero points are never all ones.
func randomCase(r *rand.Rand, l GPTQLayout, k, n int) *gptqCase {
	c := &gptqCase{GPTQLayout: l, n: n}
	c.Groups = (k + l.Group - 1) / l.Group
	for range k * n {
		c.codes = append(c.codes, r.Uint32()&(1<<l.Bits-1))
	}
	for range c.Groups * n {
		f := r.Uint32N(1<<l.Bits - 1)
		c.stored = append(c.stored, f)
		z := int(f) + l.ZeroBias
		if l.Symmetric {
			z = 1 << (l.Bits - 1)
		}
		c.zeros = append(c.zeros, z)
		c.scales = append(c.scales, float16.Frombits(uint16(r.Uint32()&0x83FF|0x2000)).Float32())
	}
	for i := range k {
		g := int32(i / l.Group)
		if l.ActOrder {
			g = r.Int32N(int32(c.Groups))
		}
		c.gIdx = append(c.gIdx, g)
	}
	return c
}

// weights is the slow formula: [N][K], rounded once.
func (c *gptqCase) weights(to stages.DType) (out []byte) {
	k := len(c.codes) / c.n
	for n := range c.n {
		for i := range k {
			at := int(c.gIdx[i])*c.n + n
			out = appendRounded(out, to, c.scales[at]*float32(int(c.codes[i*c.n+n])-c.zeros[at]))
		}
	}
	return out
}

func appendRounded(b []byte, to stages.DType, v float32) []byte {
	u := math.Float32bits(v)
	if to == safetensors.F32 {
		return binary.LittleEndian.AppendUint32(b, u)
	}
	if to == safetensors.BF16 {
		return binary.LittleEndian.AppendUint16(b, uint16((u+0x7FFF+u>>16&1)>>16))
	}
	return binary.LittleEndian.AppendUint16(b, float16.Fromfloat32(v).Bits())
}

// sources are the Op's inputs.
func (c *gptqCase) sources(scales stages.DType) [][]byte {
	var s []byte
	for _, v := range c.scales {
		s = appendRounded(s, scales, v)
	}
	src := [][]byte{optest.PackRows(c.codes, c.n, c.Bits, c.Planar), s, optest.PackColumns(c.stored, c.n, c.Bits, c.Planar)}
	if c.ActOrder {
		var g []byte
		for _, v := range c.gIdx {
			g = binary.LittleEndian.AppendUint32(g, uint32(v))
		}
		src = append(src, g)
	}
	return src
}

// op is the Op for the module.
func (c *gptqCase) op(tb testing.TB, scales, to stages.DType) stages.Op {
	tb.Helper()
	op, err := GPTQDequant(c.GPTQLayout, scales, to)
	if err != nil {
		tb.Fatal(err)
	}
	return op
}

// want runs the Op and compares every byte; see wantRows.
func (c *gptqCase) want(t *testing.T, scales, to stages.DType) {
	t.Helper()
	if scales == safetensors.BF16 { // what is stored is what counts
		rounded := *c
		rounded.scales = nil
		for _, s := range c.scales {
			rounded.scales = append(rounded.scales, math.Float32frombits(math.Float32bits(s)&0xFFFF0000))
		}
		c = &rounded
	}
	sources.WantRows(t, c.op(t, scales, to), c.n, c.weights(to), c.sources(scales)...)
}
