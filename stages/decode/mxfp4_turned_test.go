package decode

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/coldload/coldload/internal/cpu"
	"github.com/coldload/coldload/internal/cpu/cputest"
	"github.com/coldload/coldload/internal/optest"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// turnedMost is the largest exponent with which every code fits.
func turnedMost(to stages.DType) int {
	if to == safetensors.F16 {
		return 140
	}
	return 252
}

// turnedBoth runs a module by decodeAndTurn, and by the kernels with its codes, its scales and its destination against pages that cannot be touched. It
// reports whether there was a kernel.
func turnedBoth(t *testing.T, c *mxfp4Case, to stages.DType, gap int, apart, atEnd, stream bool) bool {
	t.Helper()
	guarded := &mxfp4Case{n: c.n, k: c.k, codes: cputest.Guarded(t, c.codes, atEnd), scales: cputest.Guarded(t, c.scales, atEnd)}
	want, frame := guarded.jobTurned(to, gap, apart)
	got := *want
	for i := range frame {
		frame[i] = optest.Canary
	}
	got.Dst = cputest.Guarded(t, want.Dst, atEnd)
	f, err := fp4Of(MXFP4Group, safetensors.F8E8M0, to)
	if err != nil {
		t.Fatal(err)
	}
	tile := &mxfp4Tile{fp4Job: fp4Job{fp4: &f, global: 1, divisor: 1}}
	for at := 0; at < c.k; at += turnedColumns {
		cols := min(turnedColumns, c.k-at)
		if err := tile.decodeAndTurn(want, 0, c.n, at, cols, stream); err != nil {
			t.Fatal(err)
		}
		if !tile.turned(&got, 0, c.n, at, cols, stream) {
			return false
		}
	}
	if !bytes.Equal(got.Dst, want.Dst) {
		t.Fatalf("%d x %d to %s, gap %d, apart %v, stream %v: differs, or more was written", c.n, c.k, to, gap, apart, stream)
	}
	return true
}

// TestFP4TurnedKernels compares the kernels with the reference bit for bit, with every scale there is, and wants that they are used where they can be.
func TestFP4TurnedKernels(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 31))
	for mask := range cputest.Masks() {
		for _, to := range fp8Floats {
			for _, n := range []int{1, 31, 32, 48, 64} {
				for _, k := range []int{32, 64, 160, 512, 1056} {
					c := randomMXFP4(r, n, k)
					for i := range c.scales {
						c.scales[i] = byte(r.IntN(turnedMost(to) + 1))
					}
					for i, gap := range []int{0, 64, 6} {
						used := turnedBoth(t, c, to, gap, i%2 == 0, k%64 == 0, true) && turnedBoth(t, c, to, gap, i%2 == 1, k%64 != 0, false)
						if want := cpu.X86.AVX2 && n%turnedBlock == 0; used != want {
							t.Fatalf("%s, %d x %d to %s: kernels used: %v, want %v", mask, n, k, to, used, want)
						}
					}
				}
			}
		}
	}
}

// TestTurnedScalesOfAllSizes: every exponent that fits goes through the kernels, and one more does not.
func TestTurnedScalesOfAllSizes(t *testing.T) {
	for range cputest.Masks() {
		for _, to := range fp8Floats {
			c := &mxfp4Case{n: 32, k: 32 * 256, codes: bytes.Repeat([]byte{0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE}, 32*32*256/16), scales: make([]byte, 32*256)}
			for i := range c.scales {
				c.scales[i] = byte(min(i%256, turnedMost(to)))
			}
			used := turnedBoth(t, c, to, 0, false, true, false)
			if want := cpu.X86.AVX2; used != want {
				t.Fatalf("to %s: kernels used: %v, want %v", to, used, want)
			}
			c.scales[31] = byte(turnedMost(to) + 1)
			clear(c.codes[31*16 : 32*16]) // that scale has no codes but zeros: it fits all the same, by the reference
			if turnedBoth(t, c, to, 0, false, true, false) {
				t.Errorf("to %s: a scale of 2^%d went through the kernels", to, turnedMost(to)+1-127)
			}
		}
	}
}

// TestTurnedPastTheCaches: whole modules whose destination goes past the caches, with what is left of blocks of outputs.
func TestTurnedPastTheCaches(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 32))
	for mask := range cputest.Masks() {
		for _, to := range fp8Floats {
			op, err := MXFP4DequantTurned(to)
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range []int{192, 96, 101} {
				c := randomMXFP4(r, n, 2*cpu.MinStream/n/32*32)
				want := turnSlow(c.weights(to), c.n, c.k, to.Bits()/8)
				j, _ := c.jobTurned(to, 0, n%64 != 0)
				j.Dst = cputest.Aligned(len(j.Dst), 0)
				if err := op.Run(j); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(j.Dst, want) {
					t.Fatalf("%s, %d x %d to %s: differs", mask, c.n, c.k, to)
				}
			}
		}
	}
}

// FuzzFP4TurnedKernels: any codes and scales that fit, by the kernels of every kind of processor and by the reference.
func FuzzFP4TurnedKernels(f *testing.F) {
	f.Add([]byte("some codes and scales"), uint8(2), uint8(9), uint8(1))
	f.Fuzz(func(t *testing.T, data []byte, n, groups, how uint8) {
		to := fp8Floats[int(how)%3]
		c := &mxfp4Case{n: turnedBlock * (int(n%2) + 1), k: 32 * (int(groups%40) + 1)}
		fill := func(size, limit int) []byte {
			b := make([]byte, size)
			for i := range b {
				if len(data) > 0 {
					b[i] = byte(int(data[i%len(data)]+byte(i/len(data))) % limit)
				}
			}
			return b
		}
		c.codes, c.scales = fill(c.n*c.k/2, 256), fill(c.n*c.k/32, turnedMost(to)+1)
		for mask := range cputest.Masks() {
			t.Run(mask, func(t *testing.T) { turnedBoth(t, c, to, int(how>>5)*2, how&8 != 0, how&16 != 0, how&4 != 0) })
		}
	})
}

// BenchmarkMXFP4DequantTurned decodes an expert of gpt-oss, 5760 x 2880: as it lies, and with every output feature an Input of its own. "x-memcpy" is the ratio
// to a copy of as many bytes as are written.
func BenchmarkMXFP4DequantTurned(b *testing.B) {
	const n, k = 5760, 2880
	c := randomMXFP4(rand.New(rand.NewPCG(4, 5)), n, k)
	for _, to := range fp8Floats {
		for _, apart := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/apart=%v", to, apart), func(b *testing.B) {
				op, err := MXFP4DequantTurned(to)
				if err != nil {
					b.Fatal(err)
				}
				j, _ := c.jobTurned(to, 0, apart)
				j.Dst = cputest.Memory(b, len(j.Dst))
				cputest.Ratio(b, len(j.Dst), func() {
					if err := op.Run(j); err != nil {
						b.Fatal(err)
					}
				})
			})
		}
	}
}
