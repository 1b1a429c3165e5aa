package decode

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/coldload/coldload/internal/cpu/cputest"
	"github.com/coldload/coldload/internal/optest"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// packAWQ packs fields [R][N] along N as AWQ does, field by field.
func packAWQ(fields []uint32, n int) (out []byte) {
	words := make([]uint32, len(fields)/8)
	for i, f := range fields {
		words[i/8] |= f << (4 * []int{0, 4, 1, 5, 2, 6, 3, 7}[i%n%8])
	}
	for _, w := range words {
		out = binary.LittleEndian.AppendUint32(out, w)
	}
	return out
}

// awqCase is a module of version gemm: any zero point from 0 to 15.
func awqCase(seed uint64, group, k, n int) *gptqCase {
	r := rand.New(rand.NewPCG(seed, 4))
	c := randomCase(r, GPTQLayout{Bits: 4, Group: group}, k, n)
	for i := range c.stored {
		c.stored[i] = r.Uint32N(16)
		c.zeros[i] = int(c.stored[i])
	}
	return c
}

// awqSources are the Op's inputs. F16 holds the scales of a case exactly.
func (c *gptqCase) awqSources() [][]byte {
	return [][]byte{packAWQ(c.codes, c.n), c.sources(safetensors.F16)[dequantScales], packAWQ(c.stored, c.n)}
}

func awqOp(tb testing.TB, c *gptqCase, to stages.DType) stages.Op {
	tb.Helper()
	op, err := AWQDequant(c.Group, c.Groups, safetensors.F16, to)
	if err != nil {
		tb.Fatal(err)
	}
	return op
}

func TestAWQDequant(t *testing.T) {
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			for i, x := range [][3]int{ // group, K, N
				{32, 64, 8}, {32, 96, 16}, {32, 32, 24}, {64, 192, 64}, {128, 256, 72}, {64, 64, 80}, {128, 1152, 136}, {128, 384, 336}, {544, 544, 272}, {32, 1056, 528},
			} {
				c := awqCase(uint64(i), x[0], x[1], x[2])
				for _, to := range dequantTargets {
					sources.WantRows(t, awqOp(t, c, to), c.n, c.weights(to), c.awqSources()...)
				}
			}
		})
	}
}

func FuzzAWQDequant(f *testing.F) {
	f.Add(uint64(1), uint8(9), uint8(3), uint8(1))
	f.Fuzz(func(t *testing.T, seed uint64, words, blocks, options uint8) {
		k := 32 * (1 + int(blocks)%12)
		c := awqCase(seed, 32<<(options&3), k, 8*(1+int(words)%80))
		to := dequantTargets[seed%3]
		want, src := c.weights(to), c.awqSources()
		for mask := range cputest.Masks() {
			t.Run(mask, func(t *testing.T) { sources.WantRows(t, awqOp(t, c, to), c.n, want, src...) })
		}
	})
}

func TestAWQRefuses(t *testing.T) {
	c := awqCase(1, 32, 64, 16)
	src := c.awqSources()
	sources.RefusesSources(t, awqOp(t, c, safetensors.BF16), 16, 128, src...)
	sources.Refuses(t, awqOp(t, c, safetensors.BF16), "half a word", 4, 128, make([]byte, 128), make([]byte, 16), make([]byte, 4))
	if _, err := AWQDequant(32, 2, safetensors.I32, safetensors.F16); err == nil {
		t.Error("I32 scales are taken")
	}
	binary.LittleEndian.PutUint16(src[dequantScales], 0x7C00)
	sources.Refuses(t, awqOp(t, c, safetensors.BF16), "infinite scale", 16, 128, src...)
}

// gemvCase is a module of version gemv or gemv_fast, packed weight by weight.
func gemvCase(c *gptqCase, l AWQGemvLayout) (src [][]byte, want func(to stages.DType) []byte) {
	k, n, z := len(c.codes)/c.n, c.n, 8*l.ZeroWords
	weight, scales, zeros := make([]byte, n*k/2), make([]byte, 2*n*z), make([]byte, n*z/2)
	if l.Fast {
		zeros = make([]byte, 2*n*z)
	}
	half := func(b []byte, i int, v float32) { copy(b[2*i:], appendRounded(nil, safetensors.F16, v)) }
	for i, code := range c.codes {
		kk, nn := i/n, i%n
		at := nn*k + kk // nibble
		if l.Fast {
			word := nn/4*k + kk/64*64 + nn%4*16 + kk%64/32*8 + kk%8
			at = 4*word + kk%32/8
		}
		weight[at/2] |= byte(code << (4 * (at % 2)))
	}
	offset := func(g, nn int) float32 { return -c.scales[g*n+nn] * float32(c.zeros[g*n+nn]) }
	for g := range c.Groups {
		for nn := range n {
			if l.Fast {
				half(scales, g*n+nn, c.scales[g*n+nn])
				half(zeros, g*n+nn, offset(g, nn))
				continue
			}
			half(scales, nn*z+g, c.scales[g*n+nn])
			zeros[nn*z/2+g/2] |= byte(c.stored[g*n+nn] << (4 * (g % 2)))
		}
	}
	return [][]byte{weight, scales, zeros}, func(to stages.DType) (out []byte) {
		if !l.Fast {
			return c.weights(to)
		}
		for nn := range n {
			for kk := range k {
				g := kk / l.Group
				stored := halfValue(zeros[2*(g*n+nn):])
				out = appendRounded(out, to, float32(float64(c.scales[g*n+nn])*float64(c.codes[kk*n+nn])+float64(stored)))
			}
		}
		return out
	}
}

func halfValue(b []byte) float32 {
	u := binary.LittleEndian.Uint16(b)
	v := math.Ldexp(float64(u&0x3FF|0x400), int(u>>10&31)-25)
	if u>>10&31 == 0 {
		v = math.Ldexp(float64(u&0x3FF), -24)
	}
	if u>>15 == 1 {
		v = -v
	}
	return float32(v)
}

func gemvLayout(c *gptqCase, fast bool, words int) AWQGemvLayout {
	return AWQGemvLayout{Fast: fast, Group: c.Group, Groups: c.Groups, ZeroWords: words}
}

func TestAWQGemvDequant(t *testing.T) {
	for mask := range cputest.Masks() {
		for i, x := range [][4]int{{32, 64, 8, 4}, {64, 192, 12, 2}, {128, 1152, 4, 2}, {128, 128, 20, 1}} { // group, K, N, Z
			c := awqCase(uint64(i), x[0], x[1], x[2])
			for _, fast := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%v/fast=%v", mask, x, fast), func(t *testing.T) {
					src, want := gemvCase(c, gemvLayout(c, fast, x[3]))
					for _, to := range dequantTargets {
						op, err := AWQGemvDequant(gemvLayout(c, fast, x[3]), safetensors.F16, to)
						if err != nil {
							t.Fatal(err)
						}
						sources.WantRows(t, op, c.n, want(to), src...)
					}
				})
			}
		}
	}
}

// TestGoldenAWQCodes: the packers of these tests are those of the layouts' description.
func TestGoldenAWQCodes(t *testing.T) {
	const k, n = 128, 256
	c := &gptqCase{GPTQLayout: GPTQLayout{Bits: 4, Group: 32, Groups: 4}, n: n, scales: make([]float32, 4*n), stored: make([]uint32, 4*n), zeros: make([]int, 4*n)}
	for i := range k * n {
		c.codes = append(c.codes, optest.Hash(uint32(i/n), uint32(i%n))&15)
	}
	optest.WantGolden(t, "gemm", packAWQ(c.codes, n), 0xE8374EB3, "6afc9a88a3562813")
	src, _ := gemvCase(c, gemvLayout(c, false, 4))
	optest.WantGolden(t, "gemv", src[0], 0x9549B76E, "12469b9bba33bbdd")
	src, _ = gemvCase(c, gemvLayout(c, true, 4))
	optest.WantGolden(t, "gemv_fast", src[0], 0x6F34BA84, "c99fe944f1827989")
}

func TestAWQGemvRefuses(t *testing.T) {
	c := awqCase(1, 32, 64, 8)
	for _, fast := range []bool{false, true} {
		op, err := AWQGemvDequant(gemvLayout(c, fast, 4), safetensors.F16, safetensors.F16)
		if err != nil {
			t.Fatal(err)
		}
		src, _ := gemvCase(c, gemvLayout(c, fast, 4))
		sources.RefusesSources(t, op, 8, 128, src...)
		sources.Refuses(t, op, "other features", 4, 256, src...)
		for at, what := range map[int]string{1: "scale", 2: "zero point"} {
			if at == 2 && !fast {
				continue
			}
			src, _ := gemvCase(c, gemvLayout(c, fast, 4))
			binary.LittleEndian.PutUint16(src[at][8:], 0x7E00)
			sources.Refuses(t, op, "a "+what+" that is not a number", 8, 128, src...)
		}
		big, _ := gemvCase(c, gemvLayout(c, fast, 4))
		for i := range 8 * 32 {
			binary.LittleEndian.PutUint16(big[1][2*i:], 0x7BFF)
		}
		j, _ := sources.Job(8, 128, 0, big...)
		if err := op.Run(j); err == nil {
			t.Error("weights that F16 cannot hold are made")
		}
	}
	if _, err := AWQGemvDequant(AWQGemvLayout{Group: 32, Groups: 2, ZeroWords: 4}, safetensors.F16, safetensors.I32); err == nil {
		t.Error("I32 weights are made")
	}
}

func FuzzAWQGemv(f *testing.F) {
	f.Add(uint64(1), uint8(2), uint8(2), uint8(0), true)
	f.Fuzz(func(t *testing.T, seed uint64, fours, groups, size uint8, fast bool) {
		g := 32 << (size % 3)
		k := g * 2 * (1 + int(groups)%6)
		c := awqCase(seed, g, k, 4*(1+int(fours)%8))
		l := gemvLayout(c, fast, 4)
		src, want := gemvCase(c, l)
		to := dequantTargets[seed%3]
		op, err := AWQGemvDequant(l, safetensors.F16, to)
		if err != nil {
			t.Fatal(err)
		}
		sources.WantRows(t, op, c.n, want(to), src...)
	})
}

// BenchmarkAWQDequant reports bytes of the destination a second, and the ratio to a copy of as many.
func BenchmarkAWQDequant(b *testing.B) {
	const total, k, n = 128 << 20, 2048, 768
	for _, to := range dequantTargets {
		b.Run(to.String(), func(b *testing.B) {
			for mask := range cputest.Masks() {
				b.Run(mask, func(b *testing.B) {
					c := &gptqCase{GPTQLayout: GPTQLayout{Bits: 4, Group: 128, Groups: k / 128}, n: n}
					op := awqOp(b, c, to)
					each := k * n * to.Bits() / 8
					dst, src := cputest.Memory(b, total), cputest.Memory(b, total/each*k*n/2+64)
					scales, zeros := make([]byte, 2*n*c.Groups), make([]byte, n/2*c.Groups)
					cputest.Ratio(b, total/each*each, func() {
						for i := range total / each {
							err := op.Run(&stages.Job{
								Dst: dst[i*each : (i+1)*each], Rows: n, RowBytes: each / n, Stride: each / n,
								Src: [][]byte{src[56+i*k*n/2 : 56+(i+1)*k*n/2], scales, zeros}, Inputs: make([]stages.Input, 3),
							})
							if err != nil {
								b.Fatal(err)
							}
						}
					})
				})
			}
		})
	}
}
