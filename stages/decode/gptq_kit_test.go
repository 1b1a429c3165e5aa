package decode

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/x448/float16"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// gptqHash is the generator of the golden vectors.
func gptqHash(a, b uint32) uint32 {
	x := a*2654435761 ^ b*2246822519
	return (x ^ x>>15) * 3266489917 >> 16
}

// planeWidths are the planes of planar packing, written out again.
var planeWidths = map[int][]int{2: {2}, 3: {2, 1}, 4: {4}, 5: {4, 1}, 6: {4, 2}, 7: {4, 2, 1}, 8: {8}}

// packAlong packs one line of codes into words, as a stream of bits or in planes, bit by bit.
func packAlong(codes []uint32, bits int, planar bool) []uint32 {
	w := make([]uint32, (len(codes)*bits+31)/32)
	for i, code := range codes {
		if !planar {
			for b := range bits {
				w[(bits*i+b)/32] |= code >> b & 1 << ((bits*i + b) % 32)
			}
			continue
		}
		c, word, off := i%32, i/32*bits, 0
		for _, width := range planeWidths[bits] {
			per := 32 / width
			w[word+c/per] |= code >> off & (1<<width - 1) << (width * (c % per))
			word, off = word+width, off+width
		}
	}
	return w
}

// packRows packs codes [K][N] along K.
func packRows(codes []uint32, n, bits int, planar bool) []byte {
	k := len(codes) / n
	out := make([]byte, k*bits/32*n*4)
	column := make([]uint32, k)
	for c := range n {
		for i := range column {
			column[i] = codes[i*n+c]
		}
		for r, w := range packAlong(column, bits, planar) {
			binary.LittleEndian.PutUint32(out[4*(r*n+c):], w)
		}
	}
	return out
}

// packColumns packs fields [G][N] along N.
func packColumns(fields []uint32, n, bits int, planar bool) (out []byte) {
	for ; len(fields) > 0; fields = fields[n:] {
		for _, w := range packAlong(fields[:n], bits, planar) {
			out = binary.LittleEndian.AppendUint32(out, w)
		}
	}
	return out
}

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
	src := [][]byte{packRows(c.codes, c.n, c.Bits, c.Planar), s, packColumns(c.stored, c.n, c.Bits, c.Planar)}
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
	wantRows(t, c.op(t, scales, to), c.n, c.weights(to), c.sources(scales)...)
}

// gptqJob is a Job with its destination framed by canaries, at an odd address as its sources are.
func gptqJob(rows, rowBytes, gap int, src ...[]byte) (j *stages.Job, frame []byte) {
	j = &stages.Job{Rows: rows, RowBytes: rowBytes, Stride: rowBytes + gap, Warn: func(string, ...any) {}}
	n := max(0, (rows-1)*j.Stride+rowBytes)
	frame = bytes.Repeat([]byte{canary}, n+2)
	j.Dst = frame[1 : n+1 : n+1]
	for i, s := range src {
		j.Src = append(j.Src, append([]byte{0xFF}, s...)[1:])
		j.Inputs = append(j.Inputs, stages.Input{
			Tensor: "m." + []string{"qweight", "scales", "qzeros", "g_idx", "x", "y"}[i], Extent: stages.Extent{Len: int64(len(s))},
		})
	}
	return j, frame
}

// wantRows runs op and compares its rows with want; canaries lie before, behind and between them, and the sources must stay as they are.
func wantRows(t *testing.T, op stages.Op, rows int, want []byte, src ...[]byte) {
	t.Helper()
	rowBytes := len(want) / rows
	for _, gap := range []int{0, 3, 64} {
		j, frame := gptqJob(rows, rowBytes, gap, src...)
		if err := op.Run(j); err != nil {
			t.Fatalf("%s: %v", op, err)
		}
		for at, b := range frame {
			row, in := (at-1)/j.Stride, (at-1)%j.Stride
			if at > 0 && row < rows && in < rowBytes {
				if b != want[row*rowBytes+in] {
					t.Fatalf("%s, gap %d: row %d, byte %d: %#x, want %#x", op, gap, row, in, b, want[row*rowBytes+in])
				}
			} else if b != canary {
				t.Fatalf("%s, gap %d: wrote outside of its rows, at %d", op, gap, at)
			}
		}
		for i := range src {
			if !bytes.Equal(j.Src[i], src[i]) {
				t.Errorf("%s: source %d was changed", op, i)
			}
		}
	}
}

// wantGolden compares data with a line of the table of golden vectors.
func wantGolden(t *testing.T, what string, data []byte, crc uint32, sha string) {
	t.Helper()
	sum := sha256.Sum256(data)
	if got := crc32.ChecksumIEEE(data); got != crc || hex.EncodeToString(sum[:8]) != sha {
		t.Errorf("%s: CRC-32 %#08X, SHA-256 %x, want %#08X, %s", what, got, sum[:8], crc, sha)
	}
}
