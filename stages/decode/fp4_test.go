package decode

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/coldload/coldload/internal/convert"
	"github.com/coldload/coldload/internal/cpu/cputest"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// fp4Module is random codes with F8_E4M3 scales of both signs, and what they are by the reference.
type fp4Module struct {
	f             fp4
	n, k          int
	global        float32
	codes, scales []byte
	want          []byte
}

func randomFP4(t *testing.T, r *rand.Rand, group, n, k int, to stages.DType) *fp4Module {
	t.Helper()
	f, err := fp4Of(group, safetensors.F8E4M3, to)
	if err != nil {
		t.Fatal(err)
	}
	m := &fp4Module{f: f, n: n, k: k, global: float32(r.NormFloat64()), codes: make([]byte, n*k/2), scales: make([]byte, n*k/group)}
	for i := range m.codes {
		m.codes[i] = byte(r.Uint32())
	}
	factors := make([]float32, len(m.scales))
	for i := range m.scales {
		m.scales[i] = byte(r.IntN(0x7F) | r.IntN(2)<<7)
		factors[i] = convert.E4M3ToF32(m.scales[i])
	}
	row := k * to.Bits() / 8
	m.want = make([]byte, n*row)
	for i := range n {
		if at := fp4Row(m.want[i*row:(i+1)*row], m.codes[i*k/2:(i+1)*k/2], factors[i*k/group:(i+1)*k/group], m.global, group, to); at >= 0 {
			t.Fatal("a weight does not fit")
		}
	}
	return m
}

// run decodes into rows gap bytes apart, and wants canaries between them as they were.
func (m *fp4Module) run(t *testing.T, dst []byte, gap int, soon bool) {
	t.Helper()
	row := m.k * m.f.to.Bits() / 8
	for i := range dst {
		dst[i] = 0xA5
	}
	j := &stages.Job{Dst: dst, Rows: m.n, RowBytes: row, Stride: row + gap, Src: [][]byte{m.codes, m.scales}, Inputs: make([]stages.Input, 2), Soon: soon}
	if err := m.f.run(j, m.global, 1); err != nil {
		t.Fatal(err)
	}
	for i := range m.n {
		between := dst[i*j.Stride+row : min(len(dst), (i+1)*j.Stride)]
		if !bytes.Equal(j.Row(i), m.want[i*row:(i+1)*row]) || bytes.Count(between, []byte{0xA5}) != len(between) {
			t.Fatalf("%d codes a scale to %s, %d x %d, gap %d, soon %v: row %d differs, or more was written", m.f.group, m.f.to, m.n, m.k, gap, soon, i)
		}
	}
}

// TestFP4Kernels compares the kernels with the reference, bit for bit: rows that are whole blocks and others, and destinations that go past
// the caches.
func TestFP4Kernels(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 21))
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			for _, group := range []int{16, 32} {
				for _, to := range fp8Floats {
					for blocks := 1; blocks <= 9; blocks++ {
						m := randomFP4(t, r, group, 1+blocks%3, group*blocks, to)
						for _, gap := range []int{0, 2, 64} {
							m.run(t, cputest.Aligned((m.n-1)*(m.k*to.Bits()/8+gap)+m.k*to.Bits()/8, gap%3), gap, false)
						}
					}
					m := randomFP4(t, r, group, 70, 2080, to)
					for _, soon := range []bool{false, true} {
						m.run(t, cputest.Aligned(m.n*m.k*to.Bits()/8, 0), 0, soon)
					}
				}
			}
		})
	}
}

// TestFP4KernelsGuarded: nothing before or behind the sources and the destination is touched.
func TestFP4KernelsGuarded(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 22))
	for range cputest.Masks() {
		for _, group := range []int{16, 32} {
			for _, to := range fp8Floats {
				for _, atEnd := range []bool{false, true} {
					m := randomFP4(t, r, group, 3, 96, to)
					m.codes, m.scales = cputest.Guarded(t, m.codes, atEnd), cputest.Guarded(t, m.scales, atEnd)
					m.run(t, cputest.Guarded(t, make([]byte, len(m.want)), atEnd), 0, false)
				}
			}
		}
	}
}

// FuzzFP4Kernels: any codes and scales, by the kernels of every kind of processor and by the reference.
func FuzzFP4Kernels(f *testing.F) {
	f.Add(uint64(1), uint8(3), uint8(5), false)
	f.Add(uint64(2), uint8(1), uint8(66), true)
	f.Fuzz(func(t *testing.T, seed uint64, n, groups uint8, small bool) {
		group := 32
		if small {
			group = 16
		}
		m := randomFP4(t, rand.New(rand.NewPCG(seed, 23)), group, int(n%5)+1, group*(int(groups%80)+1), fp8Floats[seed%3])
		for mask := range cputest.Masks() {
			t.Run(mask, func(t *testing.T) { m.run(t, cputest.Aligned(len(m.want), int(seed%2)), 0, false) })
		}
	})
}
