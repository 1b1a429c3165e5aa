package repack

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/coldload/coldload/internal/cpu/cputest"
	"github.com/coldload/coldload/internal/optest"
)

// packAWQ packs fields [R][N] along N as AWQ does, field by field.
func packAWQ(fields []uint32, n int) []byte {
	out := make([]uint32, len(fields)/8)
	for i, f := range fields {
		field := []int{0, 4, 1, 5, 2, 6, 3, 7}[i%n%8]
		out[i/8] |= f << (4 * field)
	}
	return gptqBytes(out)
}

// vectorZeros are the zero points of the golden vectors, [G][N].
func vectorZeros() []uint32 {
	z := make([]uint32, 4*vectorN)
	for i := range z {
		z[i] = 1 + optest.Hash(uint32(1000+i/vectorN), uint32(i%vectorN))%15
	}
	return z
}

func less(fields []uint32) []uint32 {
	out := make([]uint32, len(fields))
	for i, f := range fields {
		out[i] = f - 1
	}
	return out
}

func TestGoldenAWQ(t *testing.T) {
	q := packAWQ(vectorCodes(4), vectorN)
	optest.WantGolden(t, "awq qweight", q, 0xE8374EB3, "6afc9a88a3562813")
	optest.WantGolden(t, "its marlin words", runOp(t, AWQMarlin(), vectorK/16, 8*vectorN, q), 0x6E3F22E3, "7fcf76c26945d29e")

	z := vectorZeros()
	awq, v2, v1 := packAWQ(z, vectorN), optest.PackColumns(z, vectorN, 4, false), optest.PackColumns(less(z), vectorN, 4, false)
	optest.WantGolden(t, "awq qzeros", awq, 0xF37F32CA, "b5d702bd8b5bddca")
	optest.WantGolden(t, "gptq_v2 qzeros", v2, 0xA7F6DFCA, "e187898cd7151a92")
	optest.WantGolden(t, "gptq qzeros", v1, 0x0DD92FEA, "74250a509df5804e")
	for _, x := range []struct {
		l   ZeroLayout
		src []byte
	}{{ZeroLayout{EvensFirst: true}, awq}, {ZeroLayout{}, v2}, {ZeroLayout{OneLess: true}, v1}} {
		got := runOp(t, MarlinZeros(x.l), 4, vectorN/2, x.src)
		optest.WantGolden(t, "marlin zero points", got, 0x0E8F0205, "a0972635c61219ab")
	}
}

// TestWorkedAWQExamples has the words that the description of the layouts works out by hand.
func TestWorkedAWQExamples(t *testing.T) {
	tile := make([]uint32, 16*64)
	for i := range tile {
		tile[i] = uint32(7*(i/64)+3*(i%64)) & 15
	}
	q := packAWQ(tile, 64)
	for at, want := range map[int]uint32{0: 0x5F932C60, 4: 0xD71BA4E8, 32: 0xC60A93D7, 36: 0x4E821B5F} {
		if got := binary.LittleEndian.Uint32(q[at:]); got != want {
			t.Errorf("qweight at %d is %#x, want %#x", at, got, want)
		}
	}
	got := runOp(t, AWQMarlin(), 1, 512, q)
	optest.WantGolden(t, "tile", got, 0x583A8B4A, shaOf(got))

	for _, x := range []struct {
		zero func(n uint32) uint32
		want []uint32
	}{
		{func(n uint32) uint32 { return n % 16 }, []uint32{0x88880000, 0x99991111, 0xAAAA2222, 0xBBBB3333, 0xCCCC4444, 0xDDDD5555, 0xEEEE6666, 0xFFFF7777}},
		{func(n uint32) uint32 { return (5*n + 3) % 16 }, []uint32{0xBBBB3333, 0x00008888, 0x5555DDDD, 0xAAAA2222, 0xFFFF7777, 0x4444CCCC, 0x99991111, 0xEEEE6666}},
	} {
		z := make([]uint32, 64)
		for n := range z {
			z[n] = x.zero(uint32(n))
		}
		got := runOp(t, MarlinZeros(ZeroLayout{EvensFirst: true}), 1, 32, packAWQ(z, 64))
		if string(got) != string(gptqBytes(x.want)) {
			t.Errorf("zero points %x, want %08X", got, x.want)
		}
	}
}

// slowMarlinZeros follows the element formula.
func slowMarlinZeros(z []uint32) []byte {
	out := make([]uint32, len(z)/8)
	for i, v := range z {
		n := i % 64
		out[i/64*8+n%8] |= v << (4 * (n/16 + 4*(n%16/8)))
	}
	return gptqBytes(out)
}

// TestZerosThatWrap: a writer that subtracts one from whole words leaves all ones for 0, and a borrow next to it.
func TestZerosThatWrap(t *testing.T) {
	z := make([]uint32, 128)
	for i := range z {
		z[i] = uint32(i*7) % 16
	}
	stored := optest.PackColumns(z, 128, 4, false)
	for at := 0; at < len(stored); at += 4 {
		binary.LittleEndian.PutUint32(stored[at:], binary.LittleEndian.Uint32(stored[at:])-0x11111111)
	}
	sources.WantRows(t, MarlinZeros(ZeroLayout{OneLess: true}), 1, slowMarlinZeros(z), stored)
}

func TestAWQOpsRefuse(t *testing.T) {
	q := packAWQ(make([]uint32, 32*128), 128)
	refusesSizes(t, AWQMarlin(), 2, 1024, q)
	z := packAWQ(make([]uint32, 3*128), 128)
	refusesSizes(t, MarlinZeros(ZeroLayout{}), 3, 64, z)
	sources.Refuses(t, AWQMarlin(), "half a tile", 1, 256, make([]byte, 256))
	sources.Refuses(t, MarlinZeros(ZeroLayout{}), "half a block", 1, 16, make([]byte, 16))
}

// packedAWQ is random qweight of so many input and output features, and what it becomes by the element formulas.
func packedAWQ(seed uint64, k, n int) (src, want []byte) {
	codes := codesOf(rand.New(rand.NewPCG(seed, 3)), k, n, 4)
	return packAWQ(codes, n), slowMarlin(codes, n, 4)
}

// checkAWQ repacks into rows stride bytes apart, between canaries: memory that is read soon, and other.
func checkAWQ(t *testing.T, rows, n, gap, dstShift, srcShift int, src, want []byte) {
	t.Helper()
	const pad = 128
	size := 8 * n
	stride := size + gap
	span := (rows-1)*stride + size
	for _, soon := range []bool{false, true} {
		buf := cputest.Aligned(2*pad+span, dstShift)
		for i := range buf {
			buf[i] = canary
		}
		r := marlinRect{dst: buf[pad : pad+span : pad+span], stride: stride, rows: rows, n: n, src: cputest.AlignedCopy(src, srcShift), soon: soon}
		r.repackAWQ()
		for i, b := range buf {
			row, in := (i-pad)/stride, (i-pad)%stride
			if i >= pad && row < rows && in < size {
				if b != want[row*size+in] {
					t.Fatalf("rows %d, n %d, gap %d, shift %d, soon %v: row %d, byte %d: %#x, want %#x", rows, n, gap, dstShift, soon, row, in, b, want[row*size+in])
				}
			} else if b != canary {
				t.Fatalf("rows %d, n %d, gap %d, shift %d, soon %v: wrote outside, at %d", rows, n, gap, dstShift, soon, i)
			}
		}
	}
}

func TestAWQKernels(t *testing.T) {
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			for tiles := 1; tiles <= 9; tiles++ {
				for rows := 1; rows <= 3; rows++ {
					src, want := packedAWQ(uint64(tiles), 16*rows, 64*tiles)
					for _, shift := range []int{0, 1, 8, 56, 63} {
						checkAWQ(t, rows, 64*tiles, []int{0, 64, 4, 1, 256}[tiles%5], shift, (3*shift+8)%64, src, want)
					}
				}
			}
			// Non-temporal stores, several calls, rows longer than a call.
			for _, c := range [][2]int{{40, 3 * 64}, {300, 512}, {2, 2049 * 64}, {1, 2051 * 64}} {
				src, want := packedAWQ(7, 16*c[0], c[1])
				checkAWQ(t, c[0], c[1], 64, 0, 56, src, want)
				checkAWQ(t, c[0], c[1], 32, 4, 0, src, want)
			}
		})
	}
}

// No kernel reads or writes a byte outside: sources and destinations lie against pages that cannot be touched.
func TestAWQKernelsStayInside(t *testing.T) {
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			for _, atEnd := range []bool{false, true} {
				for _, c := range [][2]int{{1, 64}, {1, 192}, {3, 128}, {5, 320}} {
					src, want := packedAWQ(1, 16*c[0], c[1])
					dst := cputest.Guarded(t, make([]byte, len(want)), atEnd)
					(&marlinRect{dst: dst, stride: 8 * c[1], rows: c[0], n: c[1], src: cputest.Guarded(t, src, atEnd)}).repackAWQ()
					if !bytes.Equal(dst, want) {
						t.Errorf("%d rows of %d columns differ", c[0], c[1])
					}
				}
			}
			src, dst := make([]byte, 1<<20), make([]byte, 1<<20)
			r := marlinRect{dst: dst, stride: 1024, rows: 1024, n: 128, src: src}
			if n := testing.AllocsPerRun(5, r.repackAWQ); n != 0 {
				t.Errorf("%v allocations", n)
			}
		})
	}
}

// FuzzAWQKernels takes the shape from its arguments and the codes from the data, repeated: the kernels and the generic code agree.
func FuzzAWQKernels(f *testing.F) {
	f.Add([]byte{1, 2, 3}, uint8(3), uint8(2), uint8(5), uint8(9))
	f.Fuzz(func(t *testing.T, data []byte, tiles, rows, gap, shift uint8) {
		if len(data) == 0 {
			return
		}
		n, r := 64*(1+int(tiles)%12), 1+int(rows)%5
		src := bytes.Repeat(data, 8*n*r/len(data)+1)[:8*n*r]
		want := make([]byte, len(src))
		(&marlinRect{dst: want, stride: 8 * n, rows: r, n: n, src: src}).genericAWQ()
		for mask := range cputest.Masks() {
			t.Run(mask, func(t *testing.T) { checkAWQ(t, r, n, int(gap), int(shift)%64, int(gap)%64, src, want) })
		}
	})
}

func BenchmarkAWQMarlin(b *testing.B) {
	const total = 128 << 20
	for _, n := range []int{768, 1536, 8192, 28672} {
		b.Run(fmt.Sprintf("n=%d", n), func(b *testing.B) {
			for mask := range cputest.Masks() {
				b.Run(mask, func(b *testing.B) {
					src, dst := cputest.Memory(b, total+64), cputest.Memory(b, total)
					size, rows := 8*n, 2048/tileK
					cputest.Ratio(b, total/(rows*size)*rows*size, func() {
						for at := 0; at+rows*size <= total; at += rows * size {
							r := marlinRect{dst: dst[at:], stride: size, rows: rows, n: n, src: src[at+56 : at+56+rows*size]}
							r.repackAWQ()
						}
					})
				})
			}
		})
	}
}
