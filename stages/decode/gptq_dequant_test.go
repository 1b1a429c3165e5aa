package decode

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/coldload/coldload/internal/optest"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

const vectorK, vectorN = 128, 256

// vectorCodes are the codes of the golden vectors, [K][N].
func vectorCodes(bits int) []uint32 {
	q := make([]uint32, vectorK*vectorN)
	for i := range q {
		q[i] = optest.Hash(uint32(i/vectorN), uint32(i%vectorN)) & (1<<bits - 1)
	}
	return q
}

// TestGoldenCodesDecode: the packer of these tests makes the golden arrays, and with scales of one the Op gives code - zero back.
func TestGoldenCodesDecode(t *testing.T) {
	for _, g := range []struct {
		bits   int
		planar bool
		crc    uint32
		sha    string
	}{
		{2, false, 0xBDFF5FD8, "ce6b181a5f1ee9af"},
		{3, false, 0xE64E3A1D, "343dd114b2b92571"},
		{4, false, 0xF1295A29, "1a2d7c4042e8a2f8"},
		{8, false, 0x5ABC376D, "8d96db5fcc14c1d0"},
		{3, true, 0xDCDF324B, "0b35e9c49775fa2a"},
		{5, true, 0x407B30AC, "2ae2d8b479bc548d"},
		{6, true, 0x3552ED31, "fb2b62321bc14d40"},
		{7, true, 0x474BE31D, "8f02093c727dfa7f"},
	} {
		codes := vectorCodes(g.bits)
		optest.WantGolden(t, fmt.Sprintf("%d bits, planar %v", g.bits, g.planar), optest.PackRows(codes, vectorN, g.bits, g.planar), g.crc, g.sha)
		for _, symmetric := range []bool{true, false} {
			c := &gptqCase{GPTQLayout: GPTQLayout{Bits: g.bits, Planar: g.planar, Symmetric: symmetric, Group: 32, Groups: 4}, n: vectorN, codes: codes}
			for i := range c.Groups * c.n {
				f := optest.Hash(1000+uint32(i/c.n), uint32(i%c.n)) & (1<<g.bits - 1)
				z := int(f)
				if symmetric {
					z = 1 << (g.bits - 1)
				}
				c.stored, c.zeros, c.scales = append(c.stored, f), append(c.zeros, z), append(c.scales, 1)
			}
			for k := range vectorK {
				c.gIdx = append(c.gIdx, int32(k/32))
			}
			c.want(t, safetensors.F16, safetensors.F32)
		}
	}
}

// TestGoldenZeros: the two ways to store the same zero points.
func TestGoldenZeros(t *testing.T) {
	z := make([]uint32, 4*vectorN)
	for i := range z {
		z[i] = 1 + optest.Hash(1000+uint32(i/vectorN), uint32(i%vectorN))%15
	}
	v2 := optest.PackColumns(z, vectorN, 4, false)
	optest.WantGolden(t, "v2", v2, 0xA7F6DFCA, "e187898cd7151a92")
	for i := range z {
		z[i]--
	}
	v1 := optest.PackColumns(z, vectorN, 4, false)
	optest.WantGolden(t, "v1", v1, 0x0DD92FEA, "74250a509df5804e")
	c := randomCase(rand.New(rand.NewPCG(1, 1)), GPTQLayout{Bits: 4, Group: 32, ZeroBias: 1}, vectorK, vectorN)
	for i := range z {
		c.zeros[i] = int(z[i]) + 1
	}
	for bias, qzeros := range map[int][]byte{0: v2, 1: v1} {
		c.ZeroBias = bias
		src := c.sources(safetensors.F16)
		src[2] = qzeros
		sources.WantRows(t, c.op(t, safetensors.F16, safetensors.F32), c.n, c.weights(safetensors.F32), src...)
	}
}

// TestWorkedPacking has the words that the description of the layouts works out by hand.
func TestWorkedPacking(t *testing.T) {
	cycle := func(n int) []uint32 {
		codes := make([]uint32, 32)
		for i := range codes {
			codes[i] = uint32(i % n)
		}
		return codes
	}
	for _, w := range []struct {
		bits   int
		planar bool
		codes  []uint32
		words  []uint32
	}{
		{4, false, []uint32{1, 2, 3, 4, 5, 6, 7, 8}, []uint32{0x87654321}},
		{8, false, []uint32{0x11, 0x22, 0x33, 0x44}, []uint32{0x44332211}},
		{2, false, cycle(4), []uint32{0xE4E4E4E4, 0xE4E4E4E4}},
		{3, false, cycle(8), []uint32{0x88FAC688, 0xC688FAC6, 0xFAC688FA}},
		{3, true, cycle(8), []uint32{0xE4E4E4E4, 0xE4E4E4E4, 0xF0F0F0F0}},
		{5, true, cycle(32), []uint32{0x76543210, 0xFEDCBA98, 0x76543210, 0xFEDCBA98, 0xFFFF0000}},
	} {
		if got := optest.PackAlong(w.codes, w.bits, w.planar); !slices.Equal(got, w.words) {
			t.Errorf("%d bits, planar %v: %08X, want %08X", w.bits, w.planar, got, w.words)
		}
		row := zeroRow{bits: w.bits, planes: planesOf(w.bits, w.planar)}
		for _, x := range w.words {
			row.b = binary.LittleEndian.AppendUint32(row.b, x)
		}
		for i, code := range w.codes {
			if got := row.field(i); got != int(code) {
				t.Errorf("%d bits, planar %v: field %d is %d, want %d", w.bits, w.planar, i, got, code)
			}
		}
		if len(w.codes) == 32 {
			codes := make([]uint8, 32)
			unpack(codes, append(row.b, make([]byte, 8)...), w.bits, row.planes)
			for i, code := range w.codes {
				if codes[i] != uint8(code) {
					t.Errorf("%d bits, planar %v: code %d is %d, want %d", w.bits, w.planar, i, codes[i], code)
				}
			}
		}
	}
	for _, p := range []struct {
		bits   int
		planar bool
		zero   uint32
		word   uint32
	}{
		{2, false, 1, 0x55555555},
		{4, false, 7, 0x77777777},
		{8, false, 127, 0x7F7F7F7F},
		{2, false, 2, 0xAAAAAAAA},
		{4, true, 8, 0x88888888},
		{8, false, 128, 0x80808080},
	} {
		if got := PackConstant(p.bits, p.planar, p.zero); len(got) != p.bits || slices.ContainsFunc(got, func(w uint32) bool { return w != p.word }) {
			t.Errorf("%d bits, %d: %08X, want %08X", p.bits, p.zero, got, p.word)
		}
	}
}

// one is a module of 32 by 8 of 4 bits with one scale and one weight code.
func one(code uint32, scale float32) *gptqCase {
	c := &gptqCase{GPTQLayout: GPTQLayout{Bits: 4, Symmetric: true, Group: 32, Groups: 1}, n: 8, gIdx: make([]int32, 32)}
	for range 32 * 8 {
		c.codes = append(c.codes, code)
	}
	for range 8 {
		c.stored, c.zeros, c.scales = append(c.stored, 0), append(c.zeros, 8), append(c.scales, scale)
	}
	return c
}

// TestWorkedDequant: one weight by hand, rounded to each dtype.
func TestWorkedDequant(t *testing.T) {
	c := one(3, 0.012298583984375) // F16 of 0.0123
	for to, want := range map[stages.DType][]byte{
		safetensors.F32:  binary.LittleEndian.AppendUint32(nil, math.Float32bits(-0.061492919921875)),
		safetensors.F16:  {0xDF, 0xAB},
		safetensors.BF16: {0x7C, 0xBD},
	} {
		j, _ := sources.Job(8, 32*len(want), 0, c.sources(safetensors.F16)...)
		if err := c.op(t, safetensors.F16, to).Run(j); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(j.Dst, bytes.Repeat(want, 32*8)) {
			t.Errorf("%s: %x, want %x", to, j.Dst[:len(want)], want)
		}
	}
}

// TestWrappedZeros: what 0x0000000F means to a reader that adds one word by word, and to one that refuses.
func TestWrappedZeros(t *testing.T) {
	c := one(9, 1)
	c.Symmetric, c.ZeroBias = false, 1
	c.stored = []uint32{15, 0, 0, 0, 0, 0, 0, 0}
	if err := c.run(t, safetensors.F32); !says(err, "m.qzeros", "group 0", "output 0", "all ones", "at most 14", "gptq_v2") {
		t.Errorf("error %v", err)
	}
	c.WrapZeros = true
	c.zeros = []int{0, 2, 1, 1, 1, 1, 1, 1} // 0x11111120
	c.want(t, safetensors.F16, safetensors.F32)

	// The exporter that wraps subtracts one word from the zero points 0, 0, 5, 1, 15, 0, 2, 3.
	z := []int{0, 0, 5, 1, 15, 0, 2, 3}
	word := uint32(0)
	for i, v := range z {
		word |= uint32(v) << (4 * i)
	}
	word -= 0x11111111
	for i := range c.stored {
		c.stored[i] = word >> (4 * i) & 15
	}
	c.zeros = z
	c.want(t, safetensors.F16, safetensors.F32)

	// Fields of three bits fill no word: they wrap one by one.
	three := randomCase(rand.New(rand.NewPCG(2, 2)), GPTQLayout{Bits: 3, ZeroBias: 1, Group: 32}, 32, 32)
	three.stored[17], three.zeros[17] = 7, 0
	if err := three.run(t, safetensors.F32); !says(err, "m.qzeros", "output 17", "stored as 7") {
		t.Errorf("error %v", err)
	}
	three.WrapZeros = true
	three.want(t, safetensors.F16, safetensors.F32)

	// In gptq_v2 fifteen is a zero point like others.
	v2 := one(9, 1)
	v2.Symmetric, v2.stored, v2.zeros = false, []uint32{15, 0, 1, 2, 3, 4, 5, 6}, []int{15, 0, 1, 2, 3, 4, 5, 6}
	v2.want(t, safetensors.F16, safetensors.F32)
}

// run runs the Op on the module.
func (c *gptqCase) run(t *testing.T, to stages.DType) error {
	t.Helper()
	j, _ := sources.Job(c.n, len(c.codes)/c.n*to.Bits()/8, 0, c.sources(safetensors.F32)...)
	op, err := GPTQDequant(c.GPTQLayout, safetensors.F32, to)
	if err != nil {
		t.Fatal(err)
	}
	return op.Run(j)
}

// says reports whether err is a DataError that says all of the parts.
func says(err error, parts ...string) bool {
	if _, ok := errors.AsType[*stages.DataError](err); !ok {
		return false
	}
	return !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(err.Error(), p) })
}

// layouts are all kinds of module.
func layouts() (all []GPTQLayout) {
	for bits := 2; bits <= 8; bits++ {
		for _, planar := range []bool{false, true} {
			if !planar && bits > 4 && bits < 8 {
				continue
			}
			for _, group := range []int{8, 32, 48, 128, 4096} {
				l := GPTQLayout{Bits: bits, Planar: planar, Group: group, ZeroBias: 1}
				if planar {
					l.ZeroBias = 0
				}
				order, sym := l, l
				order.ActOrder, sym.Symmetric = true, true
				all = append(all, l, order, sym)
			}
		}
	}
	return all
}

func TestDequantIsTheFormula(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	shapes := [][2]int{{32, 32}, {96, 64}, {128, 32}, {1024, 32}, {1056, 32}, {64, 96}, {32, 64}, {160, 32}, {96, 32}, {64, 32}, {256, 32}}
	for i, l := range layouts() {
		s := shapes[i%len(shapes)]
		c := randomCase(r, l, s[0], s[1])
		for _, to := range []stages.DType{safetensors.F32, safetensors.F16, safetensors.BF16} {
			c.want(t, safetensors.F16, to)
		}
		c.want(t, safetensors.F32, safetensors.BF16)
		c.want(t, safetensors.BF16, safetensors.F16)
	}
}

// TestDequantOfOddColumns: numbers of columns that are no multiple of those decoded together, nor of 32.
func TestDequantOfOddColumns(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for bits, widths := range map[int][]int{2: {16, 48, 80}, 4: {8, 24, 40}, 8: {4, 12, 17, 20}, 3: {32, 96}} {
		for _, n := range widths {
			if n*bits%32 != 0 {
				n += 3
			}
			c := randomCase(r, GPTQLayout{Bits: bits, Group: 32, ZeroBias: 1}, 64, n)
			c.want(t, safetensors.F16, safetensors.BF16)
		}
	}
}

// TestDequantThatDoesNotFit: an error when a weight is too large, none when only a code that does not occur would be.
func TestDequantThatDoesNotFit(t *testing.T) {
	for _, x := range []struct {
		code  uint32
		scale float32
		to    stages.DType
		fits  bool
	}{
		{0, 8188, safetensors.F16, true}, // -8 * 8188 = -65504
		{0, 8190.1, safetensors.F16, false},
		{15, 9000, safetensors.F16, true},
		{9, 65504, safetensors.F16, true}, // the code 0 would not fit
		{8, math.MaxFloat32, safetensors.F16, true},
		{9, 65536, safetensors.F16, false},
		{9, math.MaxFloat32, safetensors.F32, true},
		{7, -math.MaxFloat32, safetensors.F32, true},
		{10, math.MaxFloat32, safetensors.F32, false},
		{9, math.MaxFloat32, safetensors.BF16, false}, // rounds up
		{9, math.MaxFloat32 / 2, safetensors.BF16, true},
		{0, math.MaxFloat32 / 4, safetensors.BF16, false},
		{0, math.MaxFloat32, safetensors.F16, false},
	} {
		c := one(x.code, x.scale)
		err := c.run(t, x.to)
		if x.fits && err != nil {
			t.Errorf("%d, %g, %s: %v", x.code, x.scale, x.to, err)
		}
		if !x.fits && !says(err, "m.scales", "does not fit in "+x.to.String(), "output 0, input 0") {
			t.Errorf("%d, %g, %s: error %v", x.code, x.scale, x.to, err)
		}
	}
	c := randomCase(rand.New(rand.NewPCG(4, 4)), GPTQLayout{Bits: 4, Symmetric: true, Group: 32}, 2048, 40)
	for k := range 2048 {
		c.codes[k*40+37] = 8
	}
	for g := range c.Groups {
		c.scales[g*40+37] = 1e38
	}
	c.want(t, safetensors.F32, safetensors.F16)
	c.codes[1500*40+37] = 12
	if err := c.run(t, safetensors.F16); !says(err, "output 37, input 1500", "1e+38 times 4") {
		t.Errorf("error %v", err)
	}
}

func TestDequantRefusesBadValues(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))} {
		c := randomCase(r, GPTQLayout{Bits: 4, Symmetric: true, Group: 32}, 64, 16)
		c.scales[21] = bad
		if err := c.run(t, safetensors.F32); !says(err, "m.scales", "element 21", "not finite") {
			t.Errorf("%g: error %v", bad, err)
		}
	}
	for _, bad := range []int32{-1, 2, 1 << 30, math.MinInt32} {
		c := randomCase(r, GPTQLayout{Bits: 4, Symmetric: true, Group: 32, ActOrder: true}, 64, 16)
		c.gIdx[63] = bad
		if err := c.run(t, safetensors.F32); !says(err, "m.g_idx", "g_idx[63] is out of range", "0 to 1", strconv.Itoa(int(bad))) {
			t.Errorf("%d: error %v", bad, err)
		}
	}
}

// TestDequantRefusesWrongSizes: errors, no panics, and no byte written.
func TestDequantRefusesWrongSizes(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 6))
	for _, l := range []GPTQLayout{
		{Bits: 4, Group: 32, ZeroBias: 1},
		{Bits: 3, Group: 32, ZeroBias: 1, ActOrder: true},
		{Bits: 6, Planar: true, Group: 32},
	} {
		c := randomCase(r, l, 64, 32)
		op, good := c.op(t, safetensors.F16, safetensors.BF16), c.sources(safetensors.F16)
		sources.RefusesSources(t, op, 32, 128, good...)
		for _, s := range [][2]int{{31, 128}, {33, 128}, {0, 128}, {32, 0}, {32, 127}, {32, 129}, {32, 126}, {32, 64}, {16, 256}, {-1, 128}} {
			sources.Refuses(t, op, fmt.Sprintf("%d rows of %d", s[0], s[1]), s[0], s[1], good...)
		}
	}
}

// TestPlanarColumnsFillBlocks: planar zero points take 32 columns at a time.
func TestPlanarColumnsFillBlocks(t *testing.T) {
	c := randomCase(rand.New(rand.NewPCG(6, 7)), GPTQLayout{Bits: 6, Planar: true, Group: 32}, 32, 32)
	src := c.sources(safetensors.F16)
	src[0], src[1], src[2] = src[0][:len(src[0])/2], src[1][:len(src[1])/2], src[2][:len(src[2])/2]
	j, _ := sources.Job(16, 64, 0, src...)
	if err := c.op(t, safetensors.F16, safetensors.BF16).Run(j); err == nil {
		t.Error("16 columns were decoded")
	}
}

func TestGPTQDequantRefusesWhatItIsNotFor(t *testing.T) {
	for _, x := range []struct {
		l          GPTQLayout
		scales, to stages.DType
	}{
		{GPTQLayout{Bits: 1}, safetensors.F16, safetensors.F16},
		{GPTQLayout{Bits: 5}, safetensors.F16, safetensors.F16},
		{GPTQLayout{Bits: 9, Planar: true}, safetensors.F16, safetensors.F16},
		{GPTQLayout{Bits: -4}, safetensors.F16, safetensors.F16},
		{GPTQLayout{Bits: 4}, safetensors.I32, safetensors.F16},
		{GPTQLayout{Bits: 4}, safetensors.F16, safetensors.I32},
		{GPTQLayout{Bits: 4}, safetensors.F16, safetensors.F64},
	} {
		if op, err := GPTQDequant(x.l, x.scales, x.to); err == nil {
			t.Errorf("%s", op)
		}
	}
}

// TestDequantAllocations: its working memory, a few times a module and not a column.
func TestDequantAllocations(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	for _, n := range []int{32, 512} {
		c := randomCase(r, GPTQLayout{Bits: 4, Group: 32, ZeroBias: 1, ActOrder: true}, 128, n)
		j, _ := sources.Job(n, 256, 0, c.sources(safetensors.F16)...)
		op := c.op(t, safetensors.F16, safetensors.BF16)
		if a := testing.AllocsPerRun(10, func() {
			if err := op.Run(j); err != nil {
				t.Fatal(err)
			}
		}); a > 8 {
			t.Errorf("%d columns: %v allocations", n, a)
		}
	}
}

func FuzzDequant(f *testing.F) {
	f.Add(uint64(1), uint16(0), uint8(1), uint8(1), uint8(0))
	f.Add(uint64(2), uint16(41), uint8(3), uint8(2), uint8(2))
	f.Fuzz(func(t *testing.T, seed uint64, which uint16, blocks, columns, dtypes uint8) {
		all := layouts()
		l := all[int(which)%len(all)]
		floats := []stages.DType{safetensors.F16, safetensors.BF16, safetensors.F32}
		c := randomCase(rand.New(rand.NewPCG(seed, 1)), l, 32*int(blocks%5+1), 32*int(columns%3+1))
		c.want(t, floats[dtypes%3], floats[dtypes/3%3])
	})
}

// FuzzDequantBytes feeds any bytes: an error or weights, never a panic.
func FuzzDequantBytes(f *testing.F) {
	f.Add([]byte{1, 2, 3}, uint16(1), true)
	f.Fuzz(func(t *testing.T, data []byte, which uint16, wraps bool) {
		all := layouts()
		l := all[int(which)%len(all)]
		l.WrapZeros = wraps
		c := randomCase(rand.New(rand.NewPCG(9, 9)), l, 32, 32)
		j, _ := sources.Job(c.n, 64, 0, c.sources(safetensors.F16)...)
		for i := range data {
			s := j.Src[1+i%(len(j.Src)-1)]
			s[i*7%len(s)] ^= data[i]
		}
		if err := c.op(t, safetensors.F16, safetensors.F16).Run(j); err != nil && !says(err) {
			t.Error(err)
		}
	})
}
