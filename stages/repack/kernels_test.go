package repack

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/coldload/coldload/internal/cpu/cputest"
)

func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	rng := rand.New(rand.NewPCG(seed, 1))
	for i := 0; i < n; i += 8 {
		var w [8]byte
		binary.LittleEndian.PutUint64(w[:], rng.Uint64())
		copy(b[i:], w[:])
	}
	return b
}

// marlinOf follows the element formulas of LAYOUTS C1, one weight at a time.
func marlinOf(src []byte, k, n, bits int) []byte {
	per := 32 / bits
	out := make([]uint32, k/16*n*bits/2)
	for kk := range k {
		for nn := range n {
			code := binary.LittleEndian.Uint32(src[4*(kk/per*n+nn):]) >> (bits * (kk % per)) & (1<<bits - 1)
			var w, p int
			if bits == 4 {
				w = 128*(nn/64) + 16*(nn%8) + 4*((kk%8)/2) + (nn%64)/16
				p = (kk%16)/8 + 2*((nn%16)/8) + 4*(kk%2)
			} else {
				w = 256*(nn/64) + 32*(nn%8) + 8*((kk%8)/2) + 2*((nn%64)/16) + (nn%16)/8
				p = (kk%16)/8 + 2*(kk%2)
			}
			out[kk/16*n*bits/2+w] |= code << (bits * p)
		}
	}
	b := make([]byte, 4*len(out))
	for i, w := range out {
		binary.LittleEndian.PutUint32(b[4*i:], w)
	}
	return b
}

// checkMarlin repacks into rows stride bytes apart, between canaries, and compares with want: memory that is read soon, and other.
func checkMarlin(t *testing.T, bits, rows, n, stride, dstShift int, src, want []byte) {
	t.Helper()
	checkMarlinInto(t, false, bits, rows, n, stride, dstShift, src, want)
	checkMarlinInto(t, true, bits, rows, n, stride, dstShift, src, want)
}

func checkMarlinInto(t *testing.T, soon bool, bits, rows, n, stride, dstShift int, src, want []byte) {
	t.Helper()
	const pad = 128
	size := 2 * bits * n
	span := (rows-1)*stride + size
	buf := cputest.Aligned(2*pad+span, dstShift)
	for i := range buf {
		buf[i] = canary
	}
	(&marlinRect{dst: buf[pad : pad+span : pad+span], stride: stride, rows: rows, n: n, src: src, soon: soon}).repack(bits)
	what := fmt.Sprintf("bits=%d rows=%d n=%d stride=%d shift=%d soon=%v", bits, rows, n, stride, dstShift, soon)
	untouched := func(b []byte) bool { return bytes.Count(b, []byte{canary}) == len(b) }
	at := 0
	for i := range rows {
		row := pad + i*stride
		if !untouched(buf[at:row]) {
			t.Fatalf("%s: wrote before row %d", what, i)
		}
		if !bytes.Equal(buf[row:row+size], want[i*size:(i+1)*size]) {
			t.Fatalf("%s: row %d differs", what, i)
		}
		at = row + size
	}
	if !untouched(buf[at:]) {
		t.Fatalf("%s: wrote behind", what)
	}
}

func TestMarlinKernels(t *testing.T) {
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			for _, bits := range []int{4, 8} {
				for tiles := 1; tiles <= 9; tiles++ {
					for rows := 1; rows <= 3; rows++ {
						n := 64 * tiles
						src := random(uint64(tiles), 2*bits*n*rows)
						want := marlinOf(src, 16*rows, n, bits)
						for shift := range 5 {
							shift = []int{0, 1, 8, 56, 63}[shift]
							checkMarlin(t, bits, rows, n, 2*bits*n+[]int{0, 64, 4, 1, 256}[tiles%5], shift, cputest.AlignedCopy(src, (3*shift+8)%64), want)
						}
					}
				}
			}
		})
	}
}

// Sizes at which the dispatch changes its mind: non-temporal stores, several calls, rows longer than a call.
func TestMarlinKernelsLarge(t *testing.T) {
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			for _, bits := range []int{4, 8} {
				for _, c := range []struct{ rows, n, stride int }{
					{4, 256 << 10 / (8 * bits), 0},
					{4, 256 << 10 / (8 * bits), 64},
					{4, 256 << 10 / (8 * bits), 32},
					{3, 64*((1<<20)/(128*bits)) - 64, 128},
					{2, 64 * ((1<<20)/(128*bits) + 3), 64},
					{900, 128, 1024},
				} {
					size := 2 * bits * c.n
					src := random(7, size*c.rows)
					want := make([]byte, size*c.rows)
					(&marlinRect{dst: want, stride: size, rows: c.rows, n: c.n, src: src}).generic(bits)
					for _, shift := range []int{0, 4} {
						checkMarlin(t, bits, c.rows, c.n, size+c.stride, shift, cputest.AlignedCopy(src, 56), want)
					}
				}
			}
		})
	}
}

// The references themselves, and that nothing happens without rows or columns.
func TestMarlinGeneric(t *testing.T) {
	for _, bits := range []int{4, 8} {
		src := random(3, 2*bits*192*2)
		got := make([]byte, len(src))
		(&marlinRect{dst: got, stride: 2 * bits * 192, rows: 2, n: 192, src: src}).generic(bits)
		if !bytes.Equal(got, marlinOf(src, 32, 192, bits)) {
			t.Errorf("bits=%d: the generic code differs from the formula", bits)
		}
		(&marlinRect{stride: 64, rows: 3}).repack(bits)
		(&marlinRect{n: 64}).repack(bits)
	}
}

func TestMarlinShortBuffersPanic(t *testing.T) {
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			for _, bits := range []int{4, 8} {
				size := 2 * bits * 64
				for _, short := range [][2]int{{1, 0}, {0, 1}} {
					func() {
						defer func() {
							if recover() == nil {
								t.Errorf("bits=%d: no panic %v", bits, short)
							}
						}()
						dst, src := make([]byte, 2*size-short[0]), make([]byte, 2*size-short[1])
						(&marlinRect{dst: slices.Clip(dst), stride: size, rows: 2, n: 64, src: slices.Clip(src)}).repack(bits)
					}()
				}
			}
		})
	}
}

// gatherSlow moves one code at a time.
func gatherSlow(qweight []byte, n int, rows []int32, bits int) []byte {
	per, out := 32/bits, make([]byte, n)
	for c := 0; c < n; c += 4 {
		var w uint32
		for i, r := range rows {
			at := int(r)/per*n + c
			w |= binary.LittleEndian.Uint32(qweight[at:]) >> (bits * (int(r) % per)) & (1<<bits - 1) << (bits * i)
		}
		binary.LittleEndian.PutUint32(out[c:], w)
	}
	return out
}

func checkGather(t *testing.T, qweight []byte, n int, rows []int32, bits, shift int) {
	t.Helper()
	buf := cputest.Aligned(n+128, shift)
	for i := range buf {
		buf[i] = canary
	}
	gather(buf[64:64+n:64+n], qweight, rows, bits)
	if !bytes.Equal(buf[64:64+n], gatherSlow(qweight, n, rows, bits)) {
		t.Fatalf("bits=%d n=%d shift=%d rows %v: differs", bits, n, shift, rows)
	}
	if bytes.Count(buf[:64], []byte{canary}) != 64 || bytes.Count(buf[64+n:], []byte{canary}) != 64 {
		t.Fatalf("bits=%d n=%d shift=%d: wrote outside", bits, n, shift)
	}
}

func TestGatherKernels(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 5))
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			for _, bits := range []int{2, 4, 8} {
				per := 32 / bits
				for words := 1; words <= 67; words++ {
					n := 4 * words
					qweight := cputest.AlignedCopy(random(uint64(words), 8*n), words%64)
					rows := make([]int32, per)
					for range 3 {
						for i := range rows {
							rows[i] = rng.Int32N(int32(8 * per))
						}
						checkGather(t, qweight, n, rows, bits, words%61)
					}
					for i := range rows {
						rows[i] = int32(8*per - 1)
					}
					checkGather(t, qweight, n, rows, bits, 0)
				}
				n := 300<<10 + 36 // several calls
				checkGather(t, random(9, 2*n), n, []int32{3, 1, 0, 2, 1, 1, 3, 2, 0, 1, 2, 3, 3, 2, 1, 0}[:per], bits, 0)
			}
		})
	}
}

func TestPermutationKernels(t *testing.T) {
	formula := map[Permutation]func(i int) int{
		Grouped: func(i int) int { return i&^63 + 8*(i%8) + i%64/8 },
		Single:  func(i int) int { return i&^31 + 2*(i%32/8) + i%2 + 8*(i%8/2) },
	}
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			for p, from := range formula {
				for blocks := range 20 {
					if blocks == 19 {
						blocks = 1<<20/64 + 3 // several calls
					}
					size := 2 * p.block() * blocks
					src := cputest.AlignedCopy(random(uint64(blocks), size), blocks%7)
					buf := cputest.Aligned(size+128, 0)
					for i := range buf {
						buf[i] = canary
					}
					if p == Grouped && blocks%2 == 1 {
						groupedStream(buf[64:64+size:64+size], src)
					} else {
						p.row(buf[64:64+size:64+size], src)
					}
					for i := range size / 2 {
						if j := from(i); buf[64+2*i] != src[2*j] || buf[65+2*i] != src[2*j+1] {
							t.Fatalf("%s, %d blocks: element %d differs", p, blocks, i)
						}
					}
					if bytes.Count(buf[:64], []byte{canary}) != 64 || bytes.Count(buf[64+size:], []byte{canary}) != 64 {
						t.Fatalf("%s, %d blocks: wrote outside", p, blocks)
					}
				}
			}
		})
	}
}

// No kernel reads or writes a byte outside: sources and destinations lie against pages that cannot be touched.
func TestKernelsStayInside(t *testing.T) {
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			for _, atEnd := range []bool{false, true} {
				for _, bits := range []int{4, 8} {
					for _, c := range [][2]int{{1, 64}, {1, 192}, {3, 128}, {2, 16 << 10}, {1, 128 << 10}} {
						rows, n := c[0], c[1]
						b := random(uint64(n), 2*bits*n*rows)
						want := make([]byte, len(b))
						(&marlinRect{dst: want, stride: 2 * bits * n, rows: rows, n: n, src: b}).generic(bits)
						dst := cputest.Guarded(t, make([]byte, len(b)), atEnd)
						(&marlinRect{dst: dst, stride: 2 * bits * n, rows: rows, n: n, src: cputest.Guarded(t, b, atEnd)}).repack(bits)
						if !bytes.Equal(dst, want) {
							t.Errorf("bits=%d rows=%d n=%d: differs", bits, rows, n)
						}
					}
					for words := 1; words < 70; words++ {
						dst, src := cputest.Guarded(t, make([]byte, 4*words), atEnd), cputest.Guarded(t, random(1, 4*words), atEnd)
						gather(dst, src, []int32{3, 1, 0, 2, 1, 1, 3, 2}[:32/bits], bits)
					}
				}
				for _, p := range []Permutation{Grouped, Single} {
					for blocks := 1; blocks < 9; blocks++ {
						b := random(2, 2*p.block()*blocks)
						p.row(cputest.Guarded(t, b, atEnd), cputest.Guarded(t, b, atEnd))
						if p == Grouped {
							groupedStream(cputest.Guarded(t, b, atEnd), cputest.Guarded(t, b, atEnd))
						}
					}
				}
			}
		})
	}
}

func TestKernelsDoNotAllocate(t *testing.T) {
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			src, dst := random(1, 1<<20), make([]byte, 1<<20)
			for name, f := range map[string]func(){
				"marlin4": func() {
					(&marlinRect{dst: dst, stride: 1024, rows: 1024, n: 128, src: src}).repack(4)
				},
				"marlin8": func() {
					(&marlinRect{dst: dst, stride: 2048, rows: 512, n: 128, src: src}).repack(8)
				},
				"gather4": func() { gather(dst[:1000], src, []int32{1, 2, 3, 4, 5, 6, 7, 8}, 4) },
				"gather8": func() { gather(dst[:1000], src, []int32{1, 2, 3, 4}, 8) },
				"grouped": func() { grouped(dst[:4096], src[:4096]) },
				"single":  func() { single(dst[:4096], src[:4096]) },
			} {
				if n := testing.AllocsPerRun(5, f); n != 0 {
					t.Errorf("%s: %v allocations", name, n)
				}
			}
		})
	}
}

// FuzzMarlinKernels takes the shape from its arguments and the codes from the data, repeated.
func FuzzMarlinKernels(f *testing.F) {
	f.Add([]byte{1, 2, 3}, uint8(3), uint8(2), uint8(5), uint8(9), true)
	f.Fuzz(func(t *testing.T, data []byte, tiles, rows, gap, shift uint8, four bool) {
		if len(data) == 0 {
			return
		}
		bits, n, r := 8, 64*(1+int(tiles)%12), 1+int(rows)%5
		if four {
			bits = 4
		}
		src := bytes.Repeat(data, 2*bits*n*r/len(data)+1)[:2*bits*n*r]
		want := marlinOf(src, 16*r, n, bits)
		for mask := range cputest.Masks() {
			t.Run(mask, func(t *testing.T) {
				checkMarlin(t, bits, r, n, 2*bits*n+int(gap), int(shift)%64, cputest.AlignedCopy(src, int(gap)%64), want)
			})
		}
	})
}

func FuzzGatherKernels(f *testing.F) {
	f.Add([]byte{1, 2, 3}, uint64(7), uint8(33), true)
	f.Fuzz(func(t *testing.T, data []byte, order uint64, words uint8, four bool) {
		if len(data) == 0 || words == 0 {
			return
		}
		bits, n := 8, 4*int(words)
		if four {
			bits = 4
		}
		rows := make([]int32, 32/bits)
		for i := range rows {
			rows[i] = int32(order >> (8 * i) % uint64(4*len(rows)))
		}
		qweight := bytes.Repeat(data, 4*n/len(data)+1)[:4*n]
		for mask := range cputest.Masks() {
			t.Run(mask, func(t *testing.T) { checkGather(t, qweight, n, rows, bits, int(order%64)) })
		}
	})
}

func ExamplePermutation() {
	fmt.Println(Grouped, Single)
	// Output: grouped single
}
