package decode

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/coldload/coldload/internal/cpu/cputest"
	"github.com/coldload/coldload/internal/optest"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// fp4Sources are the inputs of MXFP4Dequant, and one more than it has.
var fp4Sources = optest.Sources{"weight_packed", "weight_scale", "x"}

// fp4Slow is the value of a code by the definition of the format: a sign, two bits of exponent and one of fraction.
func fp4Slow(code byte) float64 {
	e, m := int(code>>1&3), float64(code&1)
	v := m / 2
	if e > 0 {
		v = math.Ldexp(1+m/2, e-1)
	}
	if code>>3 != 0 {
		return math.Copysign(v, -1)
	}
	return v
}

// mxfp4Case is a module of MXFP4.
type mxfp4Case struct {
	n, k          int
	codes, scales []byte
}

// randomMXFP4 makes a module whose weights fit in every target.
func randomMXFP4(r *rand.Rand, n, k int) *mxfp4Case {
	c := &mxfp4Case{n: n, k: k}
	for range n * k / 2 {
		c.codes = append(c.codes, byte(r.Uint32()))
	}
	for range n * k / 32 {
		c.scales = append(c.scales, byte(100+r.IntN(40)))
	}
	return c
}

// at is the weight of output n, input k, in a type that holds all of them.
func (c *mxfp4Case) at(n, k int) float64 {
	code := c.codes[(n*c.k+k)/2] >> (4 * (k % 2)) & 15
	return math.Ldexp(fp4Slow(code), int(c.scales[(n*c.k+k)/32])-127)
}

// weights is the slow formula: [N][K], rounded once.
func (c *mxfp4Case) weights(to stages.DType) (out []byte) {
	for n := range c.n {
		for k := range c.k {
			out = appendRounded(out, to, float32(c.at(n, k)))
		}
	}
	return out
}

func mxfp4Op(tb testing.TB, to stages.DType) stages.Op {
	tb.Helper()
	op, err := MXFP4Dequant(to)
	if err != nil {
		tb.Fatal(err)
	}
	return op
}

func TestFP4Values(t *testing.T) {
	for c := range byte(16) {
		if got, want := float64(fp4Value(c)), fp4Slow(c); got != want || math.Signbit(got) != math.Signbit(want) {
			t.Errorf("code %#x: %g, want %g", c, got, want)
		}
	}
}

func TestMXFP4Dequant(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 1))
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			for _, shape := range [][2]int{{1, 32}, {3, 64}, {5, 96}, {130, 128}, {7, 160}, {129, 1056}, {2, 2080}, {33, 2880}, {1, 70_016}} {
				for _, to := range fp8Floats {
					c := randomMXFP4(r, shape[0], shape[1])
					fp4Sources.WantRows(t, mxfp4Op(t, to), c.n, c.weights(to), c.codes, c.scales)
				}
			}
		})
	}
}

// TestMXFP4EveryPair: every code with every scale gives its value in every target, or is refused where it does not fit.
func TestMXFP4EveryPair(t *testing.T) {
	limits := map[stages.DType]float64{safetensors.F32: math.Inf(1), safetensors.F16: 65520, safetensors.BF16: 0x1p128 - 0x1p119}
	for mask := range cputest.Masks() {
		for to, limit := range limits {
			for code := range byte(16) {
				c := &mxfp4Case{n: 255, k: 32}
				fits := 0
				for e := range byte(255) {
					pair := code
					if v := float32(math.Ldexp(fp4Slow(code), int(e)-127)); math.Abs(float64(v)) >= limit {
						j, _ := fp4Sources.Job(1, 32*to.Bits()/8, 0, append([]byte{code << 4}, make([]byte, 15)...), []byte{e})
						err := mxfp4Op(t, to).Run(j)
						if _, ok := errors.AsType[*stages.DataError](err); !ok || !strings.Contains(err.Error(), "output 0, input 1 does") {
							t.Errorf("%s: code %#x with scale %d to %s: error %v", mask, code, e, to, err)
						}
						pair = 0 // zero fits with every scale
					} else {
						fits++
					}
					c.scales = append(c.scales, e)
					for range 16 {
						c.codes = append(c.codes, pair|pair<<4)
					}
				}
				if fits < 140 {
					t.Fatalf("code %#x: only %d scales fit in %s", code, fits, to)
				}
				fp4Sources.WantRows(t, mxfp4Op(t, to), c.n, c.weights(to), c.codes, c.scales)
			}
		}
	}
}

// TestMXFP4Faults: a scale that is no number, and a weight that does not fit, are found where they are.
func TestMXFP4Faults(t *testing.T) {
	for mask := range cputest.Masks() {
		for _, x := range []struct {
			scale byte
			to    stages.DType
			says  string
		}{
			{0xFF, safetensors.BF16, "element 7 is not finite"},
			{127 + 14, safetensors.F16, "output 3, input 70"},
			{254, safetensors.BF16, "output 3, input 70"},
			{254, safetensors.F32, "output 3, input 70"},
		} {
			c := &mxfp4Case{n: 4, k: 128, codes: make([]byte, 256), scales: make([]byte, 16)}
			at := 14
			if x.scale == 0xFF {
				at = 7
			}
			c.scales[at], c.codes[3*64+35] = x.scale, 0x07 // 6
			j, _ := fp4Sources.Job(4, 128*x.to.Bits()/8, 0, c.codes, c.scales)
			err := mxfp4Op(t, x.to).Run(j)
			if data, ok := errors.AsType[*stages.DataError](err); !ok || !strings.Contains(fmt.Sprint(err), x.says) || data.Tensor != "m.weight_scale" {
				t.Errorf("%s, %d to %s: error %v, want %q", mask, x.scale, x.to, err, x.says)
			}
		}
	}
}

func TestMXFP4Refuses(t *testing.T) {
	for _, to := range []stages.DType{safetensors.I8, safetensors.F8E4M3, safetensors.F64} {
		if _, err := MXFP4Dequant(to); !errors.Is(err, ErrNoCast) {
			t.Errorf("to %s: error %v", to, err)
		}
	}
	c := randomMXFP4(rand.New(rand.NewPCG(4, 3)), 4, 64)
	op := mxfp4Op(t, safetensors.BF16)
	fp4Sources.RefusesSources(t, op, 4, 128, c.codes, c.scales)
	fp4Sources.Refuses(t, op, "no rows", 0, 128, c.codes, c.scales)
	fp4Sources.Refuses(t, op, "half a weight", 4, 127, c.codes, c.scales)
	fp4Sources.Refuses(t, op, "half a group", 4, 96, c.codes[:96], c.scales[:6])
}

// TestMXFP4Guarded: nothing before or behind the sources and the destination is touched.
func TestMXFP4Guarded(t *testing.T) {
	c := randomMXFP4(rand.New(rand.NewPCG(4, 6)), 5, 96)
	for mask := range cputest.Masks() {
		for _, to := range fp8Floats {
			for _, atEnd := range []bool{false, true} {
				row := c.k * to.Bits() / 8
				j := &stages.Job{Dst: cputest.Guarded(t, make([]byte, c.n*row), atEnd), Rows: c.n, RowBytes: row, Stride: row, Inputs: make([]stages.Input, 2)}
				for _, b := range [][]byte{c.codes, c.scales} {
					j.Src = append(j.Src, cputest.Guarded(t, b, atEnd))
				}
				if err := mxfp4Op(t, to).Run(j); err != nil {
					t.Fatalf("%s, %s: %v", mask, to, err)
				}
			}
		}
	}
}

// FuzzMXFP4Dequant: any bytes give the formula's weights, or an error that is right.
func FuzzMXFP4Dequant(f *testing.F) {
	f.Add([]byte("some codes and scales"), uint8(3), uint8(2), uint8(1))
	f.Fuzz(func(t *testing.T, data []byte, n, groups, to uint8) {
		c := &mxfp4Case{n: int(n%9) + 1, k: 32 * (int(groups%70) + 1)}
		fill := func(size int) []byte {
			b := make([]byte, size)
			for i := range b {
				if len(data) > 0 {
					b[i] = data[i%len(data)] + byte(i/len(data))
				}
			}
			return b
		}
		c.scales, c.codes = fill(c.n*c.k/32), fill(c.n*c.k/2)
		d := fp8Floats[int(to)%3]
		bad := strings.IndexByte(string(c.scales), 0xFF) >= 0
		for i := 0; !bad && i < c.n*c.k; i++ {
			bad = abs(float32(c.at(i/c.k, i%c.k))) >= infiniteFrom(d)
		}
		if !bad {
			fp4Sources.WantRows(t, mxfp4Op(t, d), c.n, c.weights(d), c.codes, c.scales)
			return
		}
		j, _ := fp4Sources.Job(c.n, c.k*d.Bits()/8, 0, c.codes, c.scales)
		if _, ok := errors.AsType[*stages.DataError](mxfp4Op(t, d).Run(j)); !ok {
			t.Error("what does not fit was not refused")
		}
	})
}

// BenchmarkMXFP4Dequant decodes experts of gpt-oss, 5760 x 2880. "x-memcpy" is the ratio to a copy of as many bytes as are written.
func BenchmarkMXFP4Dequant(b *testing.B) {
	const n, k, experts = 5760, 2880, 2
	c := randomMXFP4(rand.New(rand.NewPCG(4, 5)), n, k)
	for _, to := range fp8Floats {
		b.Run(to.String(), func(b *testing.B) {
			for mask := range cputest.Masks() {
				b.Run(mask, func(b *testing.B) {
					row := k * to.Bits() / 8
					src, dst := cputest.Memory(b, experts*n*k/2), cputest.Memory(b, experts*n*row)
					for at := 0; at < len(src); at += len(c.codes) {
						copy(src[at:], c.codes)
					}
					op := mxfp4Op(b, to)
					cputest.Ratio(b, len(dst), func() {
						for e := range experts {
							j := &stages.Job{
								Dst: dst[e*n*row : (e+1)*n*row], Rows: n, RowBytes: row, Stride: row,
								Src: [][]byte{src[e*n*k/2 : (e+1)*n*k/2], c.scales},
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

// jobTurned is a Job of the whole module, or of every row of it as an Input of its own.
func (c *mxfp4Case) jobTurned(to stages.DType, gap int, apart bool) (j *stages.Job, frame []byte) {
	src, names := [][]byte{c.codes, c.scales}, fp4Sources[:2]
	if apart {
		src, names = nil, nil
		for i, all := range [][]byte{c.codes, c.scales} {
			each := len(all) / c.n
			for n := range c.n {
				src, names = append(src, all[n*each:(n+1)*each]), append(names, fp4Sources[i])
			}
		}
	}
	j, frame = names.Job(c.k, c.n*to.Bits()/8, gap, src...)
	for i := range j.Inputs {
		j.Inputs[i].Extent.Off = 1000 * int64(i+1)
	}
	return j, frame
}

// TestMXFP4DequantTurned: what MXFP4Dequant makes comes out as columns, and nothing else is written.
func TestMXFP4DequantTurned(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 9))
	for mask := range cputest.Masks() {
		for _, shape := range [][2]int{{1, 32}, {3, 64}, {64, 128}, {65, 160}, {130, 416}, {7, 1056}, {200, 96}} {
			for _, to := range fp8Floats {
				op, err := MXFP4DequantTurned(to)
				if err != nil {
					t.Fatal(err)
				}
				c := randomMXFP4(r, shape[0], shape[1])
				want := turnSlow(c.weights(to), c.n, c.k, to.Bits()/8)
				for _, gap := range []int{0, 6} {
					for _, apart := range []bool{false, true} {
						j, frame := c.jobTurned(to, gap, apart)
						if err := op.Run(j); err != nil {
							t.Fatal(err)
						}
						for i := range c.k {
							if row := j.Row(i); string(row) != string(want[i*len(row):(i+1)*len(row)]) {
								t.Fatalf("%s %v to %s, gap %d, apart %v: row %d differs", mask, shape, to, gap, apart, i)
							}
							for g := range gap {
								if at := 1 + i*j.Stride + j.RowBytes + g; i < c.k-1 && frame[at] != optest.Canary {
									t.Fatalf("wrote behind row %d", i)
								}
							}
						}
						if frame[0] != optest.Canary || frame[len(frame)-1] != optest.Canary {
							t.Fatal("wrote outside of the destination")
						}
						optest.WantChecks(t, op, j)
					}
				}
			}
		}
	}
}

// TestMXFP4TurnedFaults: what cannot be decoded is found where it is, and what is no such module is refused.
func TestMXFP4TurnedFaults(t *testing.T) {
	for _, apart := range []bool{false, true} {
		for _, x := range []struct {
			scale byte
			says  string
		}{{0xFF, "is not finite"}, {127 + 14, "output 70, input 135"}} {
			c := &mxfp4Case{n: 80, k: 160, codes: make([]byte, 6400), scales: make([]byte, 400)}
			c.scales[70*5+4], c.codes[70*80+67] = x.scale, 0x70 // 6
			op, err := MXFP4DequantTurned(safetensors.F16)
			if err != nil {
				t.Fatal(err)
			}
			j, _ := c.jobTurned(safetensors.F16, 0, apart)
			data, ok := errors.AsType[*stages.DataError](op.Run(j))
			if !ok || !strings.Contains(data.Error(), x.says) || data.Tensor != "m.weight_scale" || !strings.Contains(data.Found, "of the file") {
				t.Errorf("%v: error %v, want %q", apart, data, x.says)
			}
		}
	}
	if _, err := MXFP4DequantTurned(safetensors.I8); !errors.Is(err, ErrNoCast) {
		t.Errorf("to I8: error %v", err)
	}
	op, err := MXFP4DequantTurned(safetensors.BF16)
	if err != nil {
		t.Fatal(err)
	}
	c := randomMXFP4(rand.New(rand.NewPCG(4, 3)), 4, 64)
	fp4Sources.RefusesSources(t, op, 64, 8, c.codes, c.scales)
	fp4Sources.Refuses(t, op, "no rows", 0, 8, c.codes, c.scales)
	fp4Sources.Refuses(t, op, "half a weight", 64, 7, c.codes, c.scales)
	fp4Sources.Refuses(t, op, "half a group", 48, 8, c.codes[:96], c.scales[:6])
	j, _ := c.jobTurned(safetensors.BF16, 0, false)
	j.Dst = j.Dst[:len(j.Dst)-1]
	if op.Run(j) == nil {
		t.Error("a destination that is too small was accepted")
	}
}

// FuzzMXFP4DequantTurned: any bytes give what the formula gives, as columns, or are refused as MXFP4Dequant refuses them.
func FuzzMXFP4DequantTurned(f *testing.F) {
	f.Add([]byte("some codes and scales"), uint8(70), uint8(4), uint8(1))
	f.Fuzz(func(t *testing.T, data []byte, n, groups, to uint8) {
		c := &mxfp4Case{n: int(n%80) + 1, k: 32 * (int(groups%9) + 1)}
		fill := func(size int) []byte {
			b := make([]byte, size)
			for i := range b {
				if len(data) > 0 {
					b[i] = data[i%len(data)] + byte(i/len(data))
				}
			}
			return b
		}
		c.scales, c.codes = fill(c.n*c.k/32), fill(c.n*c.k/2)
		d := fp8Floats[int(to)%3]
		op, err := MXFP4DequantTurned(d)
		if err != nil {
			t.Fatal(err)
		}
		plain, _ := fp4Sources.Job(c.n, c.k*d.Bits()/8, 0, c.codes, c.scales)
		j, _ := c.jobTurned(d, 0, to&4 != 0)
		want, got := mxfp4Op(t, d).Run(plain), op.Run(j)
		if (want == nil) != (got == nil) {
			t.Fatalf("error %v, untransposed %v", got, want)
		}
		if got == nil && string(j.Dst) != string(turnSlow(plain.Dst, c.n, c.k, d.Bits()/8)) {
			t.Fatal("other weights")
		}
	})
}
