package repack

import (
	"encoding/binary"
	"testing"

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
