package repack

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"testing"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// The golden vectors come from the reference implementations of the layouts: K = 128, N = 256, groups of 32.
const (
	goldenK = 128
	goldenN = 256
)

// hash is their generator.
func hash(a, b uint32) uint32 {
	x := a*2654435761 ^ b*2246822519
	return (x ^ x>>15) * 3266489917 >> 16
}

func TestGenerator(t *testing.T) {
	for i, want := range []uint32{0, 22986, 53954, 51216} {
		if got := hash(0, uint32(i)); got != want {
			t.Errorf("h(0,%d) = %d, want %d", i, got, want)
		}
	}
}

// goldenCodes are the codes [K][N] of a width.
func goldenCodes(bits int) []byte {
	codes := make([]byte, goldenK*goldenN)
	for i := range codes {
		codes[i] = byte(hash(uint32(i/goldenN), uint32(i%goldenN)) & (1<<bits - 1))
	}
	return codes
}

// pack is the qweight of codes [K][N]: every column one stream of bits.
func pack(codes []byte, n, bits int) []byte {
	k := len(codes) / n
	out := make([]uint32, k*bits/32*n)
	for kk := range k {
		for nn := range n {
			code := uint64(codes[kk*n+nn]) << (bits * kk % 32)
			at := bits*kk/32*n + nn
			out[at] |= uint32(code)
			if high := uint32(code >> 32); high != 0 {
				out[at+n] |= high
			}
		}
	}
	return bytesOf(out)
}

func bytesOf(words []uint32) []byte {
	b := make([]byte, 0, 4*len(words))
	for _, w := range words {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	return b
}

// goldenPerm is an order of the rows that no g_idx gives.
func goldenPerm() []int32 {
	perm := make([]int32, goldenK)
	for k := range perm {
		perm[k] = int32((37*k + 11) % goldenK)
	}
	return perm
}

// gathered is qweight with its rows in another order.
func gathered(qweight []byte, n int, perm []int32, bits int) []byte {
	per := 32 / bits
	out := make([]byte, len(qweight))
	for r := range len(perm) / per {
		gatherRow(out[4*n*r:4*n*(r+1)], qweight, perm[per*r:per*(r+1)], bits)
	}
	return out
}

// goldenScales are 16-bit patterns. Not all are finite, so only the permutations themselves are run on them.
func goldenScales() []byte {
	var b []byte
	for i := range 4 * goldenN {
		b = binary.LittleEndian.AppendUint16(b, uint16(hash(uint32(3000+i/goldenN), uint32(i%goldenN))))
	}
	return b
}

func permuted(p Permutation, rows []byte) []byte {
	out := make([]byte, len(rows))
	for at := 0; at < len(rows); at += 2 * goldenN {
		p.row(out[at:at+2*goldenN], rows[at:at+2*goldenN])
	}
	return out
}

func op(t *testing.T, o stages.Op, err error) stages.Op {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// whole runs an Op on one Slab that it fills.
func whole(t *testing.T, o stages.Op, rowBytes int, src ...[]byte) []byte {
	t.Helper()
	dst := make([]byte, len(src[0]))
	j := &stages.Job{Dst: dst, Rows: len(dst) / rowBytes, RowBytes: rowBytes, Stride: rowBytes, Src: src, Inputs: make([]stages.Input, len(src))}
	if err := o.Run(j); err != nil {
		t.Fatal(err)
	}
	return dst
}

func TestGoldenVectors(t *testing.T) {
	marlin := func(bits int, qweight []byte) []byte {
		o, err := GPTQMarlin(bits)
		return whole(t, op(t, o, err), goldenN*bits*2, qweight)
	}
	exllama := func(bits int, qweight []byte) []byte {
		o, err := GPTQExllama(bits, 0)
		return whole(t, op(t, o, err), 4*goldenN, qweight)
	}
	packed := func(bits int) []byte { return pack(goldenCodes(bits), goldenN, bits) }
	ordered := func(bits int) []byte { return gathered(packed(bits), goldenN, goldenPerm(), bits) }
	scales := goldenScales()
	for _, g := range []struct {
		name string
		got  []byte
		crc  uint32
		sha  string
	}{
		{"qweight of 2 bits", packed(2), 0xBDFF5FD8, "ce6b181a5f1ee9af"},
		{"qweight of 3 bits", packed(3), 0xE64E3A1D, "343dd114b2b92571"},
		{"qweight of 4 bits", packed(4), 0xF1295A29, "1a2d7c4042e8a2f8"},
		{"qweight of 8 bits", packed(8), 0x5ABC376D, "8d96db5fcc14c1d0"},
		{"marlin 4-bit", marlin(4, packed(4)), 0x6E3F22E3, "7fcf76c26945d29e"},
		{"marlin 4-bit by name", whole(t, GPTQMarlin4(), goldenN*8, packed(4)), 0x6E3F22E3, "7fcf76c26945d29e"},
		{"marlin 8-bit", marlin(8, packed(8)), 0x231479A8, "322e1252971ad632"},
		{"marlin 4-bit in another order", marlin(4, ordered(4)), 0x500D3912, "f97ebc455da2cde5"},
		{"marlin 8-bit in another order", marlin(8, ordered(8)), 0xE36427F3, "4a63025834c195de"},
		{"exllama 2-bit", exllama(2, packed(2)), 0x7D04E362, "2a28641c144adee0"},
		{"exllama 3-bit", exllama(3, packed(3)), 0xBF8491E0, "fc6ecb477779bdcb"},
		{"exllama 4-bit", exllama(4, packed(4)), 0xF896F0FD, "2ab85d2e05bf9799"},
		{"exllama 8-bit", exllama(8, packed(8)), 0x5ABC376D, "8d96db5fcc14c1d0"},
		{"exllama 4-bit in another order", exllama(4, ordered(4)), 0x3FC1B99B, "b64737b0735139c3"},
		{"scales", scales, 0xC3C80255, "de2caf51e3fa4267"},
		{"scales grouped", permuted(Grouped, scales), 0x4DDCCEC3, "725f1e32c0dc4bd0"},
		{"bias", permuted(Single, scales[:2*goldenN]), 0x7A0C3066, "15d353972219dc5f"},
	} {
		sum := sha256.Sum256(g.got)
		if crc := crc32.ChecksumIEEE(g.got); crc != g.crc || hex.EncodeToString(sum[:8]) != g.sha {
			t.Errorf("%s: CRC %08X, SHA %x; want %08X, %s", g.name, crc, sum[:8], g.crc, g.sha)
		}
	}
}

// TestWorkedExamples are tiles that can be checked by hand.
func TestWorkedExamples(t *testing.T) {
	codes := func(k, n int, f func(k, n int) int) []byte {
		c := make([]byte, k*n)
		for i := range c {
			c[i] = byte(f(i/n, i%n))
		}
		return c
	}
	tile := pack(codes(16, 64, func(k, n int) int { return (7*k + 3*n) % 16 }), 64, 4)
	check := func(name string, got, want []uint32) {
		t.Helper()
		for i, w := range want {
			if got[i] != w {
				t.Errorf("%s: word %d is %08X, want %08X", name, i, got[i], w)
			}
		}
	}
	check("rows 0 to 7", words(tile), []uint32{0x1A3C5E70, 0x4D6F81A3, 0x7092B4D6, 0xA3C5E709})
	check("rows 8 to 15", words(tile[256:]), []uint32{0x92B4D6F8, 0xC5E7092B, 0xF81A3C5E, 0x2B4D6F81})
	marlin := whole(t, GPTQMarlin4(), 512, tile)
	check("4-bit tile", words(marlin), []uint32{0x7FF70880, 0x7FF70880, 0x7FF70880, 0x7FF70880, 0x5DD5E66E, 0x5DD5E66E, 0x5DD5E66E, 0x5DD5E66E, 0x3BB3C44C})
	check("its word 16", words(marlin[64:]), []uint32{0xA22A3BB3})
	check("its word 124", words(marlin[4*124:]), []uint32{0x6EE6F77F, 0x6EE6F77F, 0x6EE6F77F, 0x6EE6F77F})
	if crc := crc32.ChecksumIEEE(marlin); crc != 0x583A8B4A {
		t.Errorf("4-bit tile: CRC %08X", crc)
	}
	reversed := make([]int32, 16)
	for k := range reversed {
		reversed[k] = int32(15 - k)
	}
	check("reversed tile", words(whole(t, GPTQMarlin4(), 512, gathered(tile, 64, reversed, 4))), []uint32{0x2AA29119, 0x2AA29119, 0x2AA29119, 0x2AA29119})

	set := whole(t, GPTQMarlin4(), 1024, pack(codes(32, 128, func(k, n int) int { return (7*k + 3*n + n/16 + 5*(k/16)) % 16 }), 128, 4))
	check("row 0", words(set), []uint32{0x7FF70880, 0x80081991, 0x91192AA2, 0xA22A3BB3})
	check("row 0, second tile", words(set[512:]), []uint32{0xB33B4CC4, 0xC44C5DD5, 0xD55D6EE6, 0xE66E7FF7})
	check("row 1", words(set[1024:]), []uint32{0xC44C5DD5, 0xD55D6EE6, 0xE66E7FF7, 0xF77F8008})
	if crc := crc32.ChecksumIEEE(set); crc != 0x802E215A {
		t.Errorf("tile set: CRC %08X", crc)
	}

	eight, err := GPTQMarlin(8)
	got := whole(t, op(t, eight, err), 1024, pack(codes(16, 64, func(k, n int) int { return (7*k + 3*n) % 256 }), 64, 8))
	check("8-bit tile", words(got), []uint32{0x3F073800, 0x571F5018, 0x6F376830, 0x874F8048, 0x9F679860, 0xB77FB078, 0xCF97C890, 0xE7AFE0A8})
	if crc := crc32.ChecksumIEEE(got); crc != 0xD621E6BE {
		t.Errorf("8-bit tile: CRC %08X", crc)
	}
	if got := [...]uint32{exllama4(0x76543210), exllama4(0x87654321), exllama2(0xE4E4E4E4)}; got != [...]uint32{0x75316420, 0x86427531, 0xDDDD8888} {
		t.Errorf("exllama words %08X", got)
	}
	three, err := GPTQExllama(3, 0)
	check("exllama of 3 bits", words(whole(t, op(t, three, err), 4, bytesOf([]uint32{0x88FAC688, 0xC688FAC6, 0xFAC688FA}))), []uint32{0x9F590D10, 0xB3EBA1A2, 0xD67DC434})
}

// TestPermutations compares with their formulas, and with themselves: each undoes itself.
func TestPermutations(t *testing.T) {
	row := make([]byte, 2*goldenN)
	for i := range goldenN {
		binary.LittleEndian.PutUint16(row[2*i:], uint16(i))
	}
	from := map[Permutation]func(i int) int{
		Grouped: func(i int) int { return i/64*64 + 8*(i%8) + i%64/8 },
		Single:  func(i int) int { return i/32*32 + 2*(i%32/8) + i%2 + 8*(i%8/2) },
	}
	for p, source := range from {
		out := permuted(p, row)
		for i := range goldenN {
			if got := int(binary.LittleEndian.Uint16(out[2*i:])); got != source(i) {
				t.Errorf("%s: element %d is %d, want %d", p, i, got, source(i))
			}
		}
		if string(permuted(p, out)) != string(row) {
			t.Errorf("%s is not its own inverse", p)
		}
	}
	scales, err := MarlinScales(safetensors.F16, safetensors.F16, Grouped)
	if got := op(t, scales, err).String(); got != "permute scales F16->F16, grouped" {
		t.Errorf("it is called %q", got)
	}
}
