package decode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/coldload/coldload/internal/convert"
	"github.com/coldload/coldload/internal/cpu/cputest"
	"github.com/coldload/coldload/internal/optest"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// fp8Sources are the inputs of FP8Dequant, and one more than it has.
var fp8Sources = optest.Sources{"weight", "weight_scale", "x"}

// fp8Case is a module of F8 weights.
type fp8Case struct {
	stages.Blocks

	n, k   int
	codes  []byte    // [N][K]
	scales []float32 // by blocks
}

// randomFP8 makes a module whose scales are exact in every dtype but F8_E8M0. nan says whether some of the codes are no numbers.
func randomFP8(r *rand.Rand, b stages.Blocks, n, k int, nan bool) *fp8Case {
	c := &fp8Case{Blocks: b, n: n, k: k}
	for range n * k {
		code := byte(r.Uint32())
		if code&0x7F == 0x7F && !nan {
			code--
		}
		c.codes = append(c.codes, code)
	}
	rows, cols := b.Grid(int64(n), int64(k))
	for range rows * cols {
		c.scales = append(c.scales, math.Float32frombits(r.Uint32()&0x807F_0000|0x3C00_0000))
	}
	return c
}

// weights is the slow formula: [N][K], rounded once.
func (c *fp8Case) weights(to stages.DType) (out []byte) {
	_, cols := c.Grid(int64(c.n), int64(c.k))
	for n := range int64(c.n) {
		for k := range int64(c.k) {
			r, g := int64(0), int64(0)
			if c.Rows > 0 {
				r = n / c.Rows
			}
			if c.Cols > 0 {
				g = k / c.Cols
			}
			v := convert.E4M3ToF32(c.codes[n*int64(c.k)+k])
			if v != v {
				u := math.Float32bits(v)
				out = append(out, map[stages.DType][]byte{
					safetensors.F32:  binary.LittleEndian.AppendUint32(nil, u),
					safetensors.BF16: binary.LittleEndian.AppendUint16(nil, uint16(u>>16)),
					safetensors.F16:  binary.LittleEndian.AppendUint16(nil, uint16(u>>16&0x8000|0x7E00)),
				}[to]...)
				continue
			}
			out = appendRounded(out, to, v*c.scales[r*cols+g])
		}
	}
	return out
}

func (c *fp8Case) sources(scales stages.DType) [][]byte {
	var s []byte
	for _, v := range c.scales {
		s = appendRounded(s, scales, v)
	}
	return [][]byte{c.codes, s}
}

func fp8Op(tb testing.TB, b stages.Blocks, scales, to stages.DType) stages.Op {
	tb.Helper()
	op, err := FP8Dequant(b, scales, to)
	if err != nil {
		tb.Fatal(err)
	}
	return op
}

var fp8Shapes = []stages.Blocks{{}, {Rows: 1}, {Rows: 128, Cols: 128}, {Rows: 3, Cols: 32}, {Rows: 5, Cols: 7}, {Cols: 64}}

var fp8Floats = []stages.DType{safetensors.F32, safetensors.F16, safetensors.BF16}

func TestFP8Dequant(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 1))
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			for _, b := range fp8Shapes {
				for _, shape := range [][2]int{{1, 1}, {3, 31}, {5, 32}, {130, 96}, {7, 160}, {129, 1056}, {2, 2080}} {
					for i, to := range fp8Floats {
						c := randomFP8(r, b, shape[0], shape[1], i == 1 && shape[1] == 160)
						scales := fp8Floats[r.IntN(3)]
						fp8Sources.WantRows(t, fp8Op(t, b, scales, to), c.n, c.weights(to), c.sources(scales)...)
					}
				}
			}
		})
	}
}

// TestFP8DequantCodes: every code that is a number, in every target and with every kernel, normal stores and others.
func TestFP8DequantCodes(t *testing.T) {
	c := &fp8Case{n: 1, k: 256 << 10, scales: []float32{1}}
	for i := range c.k {
		code := byte(i)
		if code&0x7F == 0x7F {
			code = 0x80
		}
		c.codes = append(c.codes, code)
	}
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			for _, to := range fp8Floats {
				want := c.weights(to)
				for _, soon := range []bool{false, true} {
					src := c.sources(safetensors.F32)
					j := &stages.Job{
						Dst: make([]byte, len(want)), Rows: 1, RowBytes: len(want), Stride: len(want), Src: src, Soon: soon,
						Inputs: []stages.Input{{Tensor: "m.weight"}, {Tensor: "m.weight_scale"}},
					}
					if err := fp8Op(t, c.Blocks, safetensors.F32, to).Run(j); err != nil {
						t.Fatal(err)
					}
					if string(j.Dst) != string(want) {
						t.Errorf("%s, soon %v: other values", to, soon)
					}
				}
			}
		})
	}
}

func TestFP8DequantE8M0(t *testing.T) {
	c := randomFP8(rand.New(rand.NewPCG(8, 2)), stages.Blocks{Rows: 1, Cols: 32}, 4, 64, false)
	codes := []byte{120, 127, 130, 119, 121, 122, 123, 124}
	for i, e := range codes {
		c.scales[i] = float32(math.Ldexp(1, int(e)-127))
	}
	for _, to := range fp8Floats {
		fp8Sources.WantRows(t, fp8Op(t, c.Blocks, safetensors.F8E8M0, to), c.n, c.weights(to), c.codes, codes)
	}
}

// TestFP8DequantFaults: scales that are not finite, and weights that do not fit, are found where they are, with every kernel.
func TestFP8DequantFaults(t *testing.T) {
	for mask := range cputest.Masks() {
		for _, x := range []struct {
			scale float32
			to    stages.DType
			says  string
		}{
			{float32(math.Inf(1)), safetensors.BF16, "m.weight_scale"},
			{float32(math.NaN()), safetensors.F32, "m.weight_scale"},
			{200, safetensors.F16, "output 3, input 70"},
			{0x1p120, safetensors.BF16, "output 3, input 70"},
			{0x1p120, safetensors.F32, "output 3, input 70"},
		} {
			b := stages.Blocks{Rows: 2, Cols: 64}
			c := &fp8Case{Blocks: b, n: 4, k: 128, codes: make([]byte, 4*128), scales: []float32{1, 1, 1, x.scale}}
			c.codes[3*128+70] = 0x7E // 448
			j, _ := fp8Sources.Job(4, 128*x.to.Bits()/8, 0, c.sources(safetensors.F32)...)
			err := fp8Op(t, b, safetensors.F32, x.to).Run(j)
			if data, ok := errors.AsType[*stages.DataError](err); !ok || !strings.Contains(fmt.Sprint(err), x.says) || data.Tensor != "m.weight_scale" {
				t.Errorf("%s, %g to %s: error %v, want %q", mask, x.scale, x.to, err, x.says)
			}
		}
	}
}

func TestFP8DequantRefuses(t *testing.T) {
	for _, x := range [][2]stages.DType{{safetensors.I32, safetensors.F32}, {safetensors.F32, safetensors.I8}, {safetensors.F32, safetensors.F8E4M3}} {
		if _, err := FP8Dequant(stages.Blocks{}, x[0], x[1]); !errors.Is(err, ErrNoCast) {
			t.Errorf("%s to %s: error %v", x[0], x[1], err)
		}
	}
	c := randomFP8(rand.New(rand.NewPCG(8, 3)), stages.Blocks{Rows: 2, Cols: 32}, 4, 64, false)
	op := fp8Op(t, c.Blocks, safetensors.F32, safetensors.BF16)
	fp8Sources.RefusesSources(t, op, 4, 128, c.sources(safetensors.F32)...)
	fp8Sources.Refuses(t, op, "no rows", 0, 128, c.sources(safetensors.F32)...)
	fp8Sources.Refuses(t, op, "half a weight", 4, 127, c.sources(safetensors.F32)...)
	fp8Sources.Refuses(t, op, "rows too wide", 4, 130, c.sources(safetensors.F32)...)
}

// FuzzFP8Dequant compares the kernels with the formula.
func FuzzFP8Dequant(f *testing.F) {
	f.Add(uint64(1), uint8(3), uint16(96), uint8(2), uint8(1), true)
	f.Add(uint64(2), uint8(1), uint16(2080), uint8(0), uint8(0), false)
	f.Fuzz(func(t *testing.T, seed uint64, n uint8, k uint16, shape, to uint8, nan bool) {
		b := fp8Shapes[int(shape)%len(fp8Shapes)]
		c := randomFP8(rand.New(rand.NewPCG(seed, 4)), b, int(n%40)+1, int(k%3000)+1, nan)
		d := fp8Floats[int(to)%3]
		fp8Sources.WantRows(t, fp8Op(t, b, safetensors.F32, d), c.n, c.weights(d), c.sources(safetensors.F32)...)
	})
}

// TestFP8DequantGuarded: the kernels touch nothing before or behind their sources and destination.
func TestFP8DequantGuarded(t *testing.T) {
	c := randomFP8(rand.New(rand.NewPCG(8, 6)), stages.Blocks{Rows: 3, Cols: 32}, 5, 96, false)
	for mask := range cputest.Masks() {
		for _, to := range fp8Floats {
			for _, atEnd := range []bool{false, true} {
				row := c.k * to.Bits() / 8
				j := &stages.Job{Dst: cputest.Guarded(t, make([]byte, c.n*row), atEnd), Rows: c.n, RowBytes: row, Stride: row, Inputs: make([]stages.Input, 2)}
				for _, b := range c.sources(safetensors.F32) {
					j.Src = append(j.Src, cputest.Guarded(t, b, atEnd))
				}
				if err := fp8Op(t, c.Blocks, safetensors.F32, to).Run(j); err != nil {
					t.Fatalf("%s, %s: %v", mask, to, err)
				}
			}
		}
	}
}

// BenchmarkFP8Dequant decodes experts of 2048 x 7168. "x-memcpy" is the ratio to a copy of as many bytes as are written.
func BenchmarkFP8Dequant(b *testing.B) {
	const n, k, experts = 2048, 7168, 4
	blocks := stages.Blocks{Rows: 128, Cols: 128}
	scales := randomFP8(rand.New(rand.NewPCG(8, 5)), blocks, n, k, false).sources(safetensors.F32)[1]
	for _, to := range fp8Floats {
		b.Run(to.String(), func(b *testing.B) {
			for mask := range cputest.Masks() {
				b.Run(mask, func(b *testing.B) {
					row := k * to.Bits() / 8
					src, dst := cputest.Memory(b, experts*n*k+64), cputest.Memory(b, experts*n*row)
					for i := range src {
						src[i] = src[i]&0xBF | 0x10 // no NaN
					}
					op := fp8Op(b, blocks, safetensors.F32, to)
					cputest.Ratio(b, len(dst), func() {
						for e := range experts {
							j := &stages.Job{
								Dst: dst[e*n*row : (e+1)*n*row], Rows: n, RowBytes: row, Stride: row,
								Src: [][]byte{src[56+e*n*k : 56+(e+1)*n*k], scales},
							}
							if err := op.Run(j); err != nil {
								b.Fatal(err)
							}
						}
					})
				})
			}
		})
	}
}
