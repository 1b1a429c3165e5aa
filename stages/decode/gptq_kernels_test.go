package decode

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/coldload/coldload/internal/convert"
	"github.com/coldload/coldload/internal/cpu"
	"github.com/coldload/coldload/internal/cpu/cputest"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// module is a GPTQ module with its sources off the lines, and what it must become.
type module struct {
	layout     GPTQLayout
	scales, to stages.DType
	n, k       int
	src        [][]byte
	want       []byte // rows of k elements
}

func newModule(l GPTQLayout, scales, to stages.DType, n, k int, seed uint64) *module {
	rng := rand.New(rand.NewPCG(seed, 2))
	l.Groups = (k + l.Group - 1) / l.Group
	m := &module{layout: l, scales: scales, to: to, n: n, k: k}
	weight := make([]byte, k*l.Bits/8*n)
	for i := range weight {
		weight[i] = byte(rng.Uint32())
	}
	size := scales.Bits() / 8
	s := make([]byte, l.Groups*n*size)
	for i := range l.Groups * n {
		x := float32(math.Ldexp(rng.Float64()-0.5, rng.IntN(9)-12))
		switch rng.IntN(40) {
		case 0:
			x = 0
		case 1:
			x = 0x1p-24 // products are subnormal halves
		case 2:
			x = float32(math.Copysign(0, -1))
		case 3:
			if scales != safetensors.F16 {
				x = 0x1p-130
			}
		}
		switch scales {
		case safetensors.F32:
			binary.LittleEndian.PutUint32(s[4*i:], math.Float32bits(x))
		case safetensors.F16:
			binary.LittleEndian.PutUint16(s[2*i:], convert.F32ToF16(x))
		default:
			binary.LittleEndian.PutUint16(s[2*i:], convert.F32ToBF16(x))
		}
	}
	words := (n*l.Bits + 31) / 32
	zeros := make([]byte, l.Groups*words*4)
	most := 1<<l.Bits - 1
	for at := 0; at < len(zeros); at += 4 {
		var w uint32
		for f := 0; f < 32; f += l.Bits {
			v := rng.IntN(most) // not all ones
			if (l.WrapZeros || l.ZeroBias == 0) && rng.IntN(4) == 0 {
				v = most
			}
			w |= uint32(v) << f
		}
		binary.LittleEndian.PutUint32(zeros[at:], w)
	}
	m.src = [][]byte{cputest.AlignedCopy(weight, 56), cputest.AlignedCopy(s, 10), cputest.AlignedCopy(zeros, 4)}
	if l.ActOrder {
		order := make([]byte, 4*k)
		for i := range k {
			binary.LittleEndian.PutUint32(order[4*i:], uint32(rng.IntN(l.Groups)))
		}
		m.src = append(m.src, cputest.AlignedCopy(order, 4))
	}
	m.reference()
	return m
}

// reference follows the formula, one weight at a time.
func (m *module) reference() {
	l, size := m.layout, m.to.Bits()/8
	toF32, _ := convert.Func(m.scales, safetensors.F32)
	fromF32, _ := convert.Func(safetensors.F32, m.to)
	m.want = make([]byte, m.n*m.k*size)
	words, per := (m.n*l.Bits+31)/32, 32/l.Bits
	mask := uint32(1)<<l.Bits - 1
	var scale, value [4]byte
	for n := range m.n {
		for k := range m.k {
			g := k / l.Group
			if l.ActOrder {
				g = int(binary.LittleEndian.Uint32(m.src[dequantOrder][4*k:]))
			}
			zero := int(1) << (l.Bits - 1)
			if !l.Symmetric {
				w := binary.LittleEndian.Uint32(m.src[dequantZeros][4*(g*words+n/per):])
				full := false
				for f := 0; f < 32; f += l.Bits {
					full = full || w>>f&mask == mask
				}
				if l.ZeroBias == 1 && full {
					for f := 0; f < 32; f += l.Bits {
						w += 1 << f
					}
					zero = int(w >> (l.Bits * (n % per)) & mask)
				} else {
					zero = int(w>>(l.Bits*(n%per))&mask) + l.ZeroBias
				}
			}
			s := m.scales.Bits() / 8
			toF32(scale[:], m.src[dequantScales][(g*m.n+n)*s:][:s])
			code := binary.LittleEndian.Uint32(m.src[dequantWeight][4*(k/per*m.n+n):]) >> (l.Bits * (k % per)) & mask
			w := math.Float32frombits(binary.LittleEndian.Uint32(scale[:])) * float32(int(code)-zero)
			binary.LittleEndian.PutUint32(value[:], math.Float32bits(w))
			if m.to == safetensors.F32 {
				copy(m.want[(n*m.k+k)*size:], value[:])
			} else {
				fromF32(m.want[(n*m.k+k)*size:], value[:])
			}
		}
	}
}

// check runs the Op with rows gap bytes apart, shift bytes behind a line, between canaries.
func (m *module) check(t *testing.T, gap, shift int) {
	t.Helper()
	const canary, pad = 0xA5, 128
	op, err := GPTQDequant(m.layout, m.scales, m.to)
	if err != nil {
		t.Fatal(err)
	}
	row := m.k * m.to.Bits() / 8
	stride := row + gap
	span := (m.n-1)*stride + row
	buf := cputest.Aligned(span+2*pad, shift)
	for i := range buf {
		buf[i] = canary
	}
	err = op.Run(&stages.Job{
		Dst: buf[pad : pad+span : pad+span], Rows: m.n, RowBytes: row, Stride: stride, Soon: gap == 128, Src: m.src, Inputs: make([]stages.Input, len(m.src)),
	})
	if err != nil {
		t.Fatal(err)
	}
	what := fmt.Sprintf("%+v %s->%s n=%d k=%d gap=%d shift=%d", m.layout, m.scales, m.to, m.n, m.k, gap, shift)
	at := 0
	for n := range m.n {
		start := pad + n*stride
		if bytes.Count(buf[at:start], []byte{canary}) != start-at {
			t.Fatalf("%s: wrote before row %d", what, n)
		}
		if got, want := buf[start:start+row], m.want[n*row:(n+1)*row]; !bytes.Equal(got, want) {
			i := 0
			for got[i] == want[i] {
				i++
			}
			i -= i % (m.to.Bits() / 8)
			t.Fatalf("%s: row %d, feature %d: %x, want %x", what, n, 8*i/m.to.Bits(), got[i:i+4], want[i:i+4])
		}
		at = start + row
	}
	if bytes.Count(buf[at:], []byte{canary}) != len(buf)-at {
		t.Fatalf("%s: wrote behind", what)
	}
}

var dequantTargets = []stages.DType{safetensors.BF16, safetensors.F16, safetensors.F32}

func TestDequantKernels(t *testing.T) {
	seed := uint64(0)
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			for _, bits := range []int{4, 8} {
				for i, to := range dequantTargets {
					for _, n := range []int{1, 8, 12, 16, 24, 32, 40, 264, 300} {
						for _, k := range []int{32, 96, 288} {
							seed++
							l := GPTQLayout{Bits: bits, Group: []int{32, 16, 64, 1024}[seed%4], Symmetric: seed%3 == 0, ActOrder: seed%5 < 2}
							if !l.Symmetric {
								l.ZeroBias = int(seed / 3 % 2)
								l.WrapZeros = seed%7 < 3
								l.Planar = n%32 == 0 && seed%11 == 0
							}
							m := newModule(l, dequantTargets[(i+int(seed))%3], to, n, k, seed)
							m.check(t, []int{0, 64, 4, 30}[seed%4], []int{0, 0, 2, 4, 60}[seed%5])
						}
					}
				}
			}
		})
	}
}

// Long destinations: non-temporal stores, several panels, several calls for a row.
func TestDequantKernelsLarge(t *testing.T) {
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			for i, to := range dequantTargets {
				m := newModule(GPTQLayout{Bits: 4 << (i % 2), Group: 128, Symmetric: i == 1}, safetensors.F16, to, 536, 608, uint64(i))
				m.check(t, 0, 0)
				m.check(t, 128, 0)
				m.check(t, 0, 4)
			}
		})
	}
}

// No kernel reads or writes a byte outside: sources and destinations lie against pages that cannot be touched.
func TestDequantKernelsStayInside(t *testing.T) {
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			for i, to := range dequantTargets {
				for _, bits := range []int{4, 8} {
					for _, n := range []int{16, 32, 272} {
						m := newModule(GPTQLayout{Bits: bits, Group: 32, ZeroBias: i % 2, ActOrder: n == 32}, safetensors.F16, to, n, 288, uint64(n))
						for _, atEnd := range []bool{false, true} {
							op, err := GPTQDequant(m.layout, m.scales, m.to)
							if err != nil {
								t.Fatal(err)
							}
							row := m.k * to.Bits() / 8
							j := &stages.Job{Dst: cputest.Guarded(t, make([]byte, n*row), atEnd), Rows: n, RowBytes: row, Stride: row, Inputs: make([]stages.Input, len(m.src))}
							for _, b := range m.src {
								j.Src = append(j.Src, cputest.Guarded(t, b, atEnd))
							}
							if err := op.Run(j); err != nil {
								t.Fatal(err)
							}
							if !bytes.Equal(j.Dst, m.want) {
								t.Errorf("bits=%d n=%d to %s: differs", bits, n, to)
							}
						}
					}
				}
			}
		})
	}
}

func TestDequantOtherWidths(t *testing.T) {
	m := newModule(GPTQLayout{Bits: 2, Group: 32, ZeroBias: 1}, safetensors.F16, safetensors.BF16, 40, 64, 1)
	m.check(t, 0, 0)
}

// What is wrong with a module must not depend on the processor.
func TestDequantFaultsAreTheSameEverywhere(t *testing.T) {
	f32 := math.Float32bits
	for name, c := range map[string]struct {
		to    stages.DType
		scale uint32
		zero  uint32 // a word of zeros
	}{
		"half":        {safetensors.F16, f32(9000), 0},
		"bfloat":      {safetensors.BF16, f32(3e38), 0},
		"f32":         {safetensors.F32, f32(-3e38), 0},
		"zero point":  {safetensors.BF16, f32(1), 0x00F0_0000},
		"fits":        {safetensors.F16, f32(4000), 0},
		"nearly half": {safetensors.F16, f32(65519.0 / 15), 0},
	} {
		var first string
		for i, names := range cpu.Masks() {
			restore := cpu.Disable(names...)
			m := newModule(GPTQLayout{Bits: 4, Group: 32, ZeroBias: 1}, safetensors.F32, c.to, 296, 64, 5)
			for _, at := range []int{277, 20, 296 + 18} {
				binary.LittleEndian.PutUint32(m.src[dequantScales][4*at:], c.scale)
			}
			binary.LittleEndian.PutUint32(m.src[dequantZeros][4*20:], c.zero)
			op, _ := GPTQDequant(m.layout, m.scales, m.to)
			row := m.k * m.to.Bits() / 8
			dst := make([]byte, m.n*row)
			err := op.Run(&stages.Job{Dst: dst, Rows: m.n, RowBytes: row, Stride: row, Src: m.src, Inputs: make([]stages.Input, 3)})
			got := fmt.Sprint(err)
			if err == nil {
				got = hex.EncodeToString(dst)
			}
			if i == 0 {
				first = got
			}
			if got != first {
				t.Errorf("%s, without %v: %.300s; want %.300s", name, names, got, first)
			}
			if (err == nil) != (name == "fits" || name == "nearly half") {
				t.Errorf("%s, without %v: %v", name, names, err)
			}
			restore()
		}
	}
}

func FuzzDequantKernels(f *testing.F) {
	f.Add(uint64(1), uint8(8), uint8(2), uint8(3), true)
	f.Fuzz(func(t *testing.T, seed uint64, columns, blocks, options uint8, four bool) {
		l := GPTQLayout{Bits: 8, Group: 16 << (options & 3), Symmetric: options&4 != 0, ActOrder: options&8 != 0, ZeroBias: int(options >> 4 & 1), WrapZeros: options&32 != 0}
		if four {
			l.Bits = 4
		}
		m := newModule(l, dequantTargets[seed%3], dequantTargets[seed/3%3], 1+int(columns), 32*(1+int(blocks)%12), seed)
		for mask := range cputest.Masks() {
			t.Run(mask, func(t *testing.T) { m.check(t, int(seed%97), int(options)%64) })
		}
	})
}

// BenchmarkDequant reports bytes of the destination a second, and the ratio to a copy of as many.
func BenchmarkDequant(b *testing.B) {
	const total = 128 << 20
	for _, bits := range []int{4, 8} {
		for _, to := range dequantTargets {
			for _, shape := range [][2]int{{2048, 768}} {
				for _, asym := range []bool{false, true} {
					k, n := shape[0], shape[1]
					b.Run(fmt.Sprintf("bits=%d/to=%s/k=%d/n=%d/asym=%v", bits, to, k, n, asym), func(b *testing.B) {
						for mask := range cputest.Masks() {
							b.Run(mask, func(b *testing.B) {
								groups, size := k/128, to.Bits()/8
								op, err := GPTQDequant(GPTQLayout{Bits: bits, Group: 128, Groups: groups, Symmetric: !asym, ZeroBias: 0}, safetensors.F16, to)
								if err != nil {
									b.Fatal(err)
								}
								modules := total / (k * n * size)
								dst := cputest.Memory(b, total)
								packed := k * n * bits / 8
								src := cputest.Memory(b, modules*packed+64)
								scales := bytes.Repeat([]byte{0x00, 0x20}, groups*n)
								zeros := bytes.Repeat([]byte{0x77}, groups*n*bits/8)
								cputest.Ratio(b, modules*k*n*size, func() {
									for i := range modules {
										err := op.Run(&stages.Job{
											Dst: dst[i*k*n*size : (i+1)*k*n*size], Rows: n, RowBytes: k * size, Stride: k * size,
											Src: [][]byte{src[56+i*packed : 56+(i+1)*packed], scales, zeros}, Inputs: make([]stages.Input, 3),
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
		}
	}
}

// TestDequantKernelsAlong: more columns than a panel has, of a destination that goes past the caches.
func TestDequantKernelsAlong(t *testing.T) {
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			for i, to := range dequantTargets {
				for _, order := range []bool{false, true} {
					l := GPTQLayout{Bits: 8, Group: 32, ZeroBias: 1, WrapZeros: true, ActOrder: order}
					m := newModule(l, dequantTargets[(i+1)%3], to, panelAlong+40, 160, uint64(i))
					for _, at := range [][2]int{{0, 0}, {192, 0}, {4, 0}, {0, 4}} {
						gap := at[0]
						if row := m.k * to.Bits() / 8; gap%cpu.Line == 0 {
							gap += -row & (cpu.Line - 1) // whole lines
						}
						m.check(t, gap, at[1])
					}
				}
			}
		})
	}
}
