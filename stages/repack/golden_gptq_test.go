package repack

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/coldload/coldload/internal/optest"
)

func TestGoldenGPTQCodes(t *testing.T) {
	for _, g := range []struct {
		bits int
		crc  uint32
		sha  string
	}{
		{2, 0xBDFF5FD8, "ce6b181a5f1ee9af"},
		{3, 0xE64E3A1D, "343dd114b2b92571"},
		{4, 0xF1295A29, "1a2d7c4042e8a2f8"},
		{8, 0x5ABC376D, "8d96db5fcc14c1d0"},
	} {
		optest.WantGolden(t, "qweight", optest.PackRows(vectorCodes(g.bits), vectorN, g.bits, false), g.crc, g.sha)
	}
}

func TestGoldenMarlin(t *testing.T) {
	type golden struct {
		crc uint32
		sha string
	}
	for bits, g := range map[int]struct{ plain, ordered golden }{
		4: {golden{0x6E3F22E3, "7fcf76c26945d29e"}, golden{0x500D3912, "f97ebc455da2cde5"}},
		8: {golden{0x231479A8, "322e1252971ad632"}, golden{0xE36427F3, "4a63025834c195de"}},
	} {
		q := optest.PackRows(vectorCodes(bits), vectorN, bits, false)
		op := mustOp(t)(GPTQMarlin(bits))
		optest.WantGolden(t, op.String(), runOp(t, op, vectorK/16, vectorN*bits*2, q), g.plain.crc, g.plain.sha)
		op = mustOp(t)(GPTQMarlinActOrder(bits, vectorK))
		got := runOp(t, op, vectorK/16, vectorN*bits*2, q, orderOf(vectorPerm()))
		optest.WantGolden(t, op.String(), got, g.ordered.crc, g.ordered.sha)

		// The core by itself: rows gathered with the order, then repacked.
		per := 32 / bits
		var gathered []byte
		for k := 0; k < vectorK; k += per {
			row := make([]byte, 4*vectorN)
			gatherRow(row, q, vectorPerm()[k:k+per], bits)
			gathered = append(gathered, row...)
		}
		if !bytes.Equal(gathered, optest.PackRows(permuteRows(vectorCodes(bits), vectorN, vectorPerm()), vectorN, bits, false)) {
			t.Errorf("%d bits: gathered rows differ", bits)
		}
		op = mustOp(t)(GPTQMarlin(bits))
		optest.WantGolden(t, "gathered", runOp(t, op, vectorK/16, vectorN*bits*2, gathered), g.ordered.crc, g.ordered.sha)
	}
}

func TestGoldenExllama(t *testing.T) {
	for bits, g := range map[int]struct {
		crc uint32
		sha string
	}{4: {0xF896F0FD, "2ab85d2e05bf9799"}, 2: {0x7D04E362, "2a28641c144adee0"}, 3: {0xBF8491E0, "fc6ecb477779bdcb"}} {
		op := mustOp(t)(GPTQExllama(bits, 0))
		q := optest.PackRows(vectorCodes(bits), vectorN, bits, false)
		optest.WantGolden(t, op.String(), runOp(t, op, vectorK*bits/32, 4*vectorN, q), g.crc, g.sha)
	}
	op := mustOp(t)(GPTQExllama(4, vectorK))
	q := optest.PackRows(vectorCodes(4), vectorN, 4, false)
	optest.WantGolden(t, "after row perm", runOp(t, op, vectorK/8, 4*vectorN, q, orderOf(vectorPerm())), 0x3FC1B99B, "b64737b0735139c3")
}

// TestWorkedGPTQExamples has the tiles and words that the description of the layouts works out by hand.
func TestWorkedGPTQExamples(t *testing.T) {
	tile := make([]uint32, 16*64)
	for i := range tile {
		tile[i] = uint32(7*(i/64)+3*(i%64)) & 255
	}
	marlin := mustOp(t)(GPTQMarlin(8))
	got := runOp(t, marlin, 1, 1024, optest.PackRows(tile, 64, 8, false))
	want := gptqBytes([]uint32{0x3F073800, 0x571F5018, 0x6F376830, 0x874F8048, 0x9F679860, 0xB77FB078, 0xCF97C890, 0xE7AFE0A8})
	if !bytes.HasPrefix(got, want) {
		t.Errorf("8-bit tile starts %x", got[:32])
	}
	optest.WantGolden(t, "8-bit tile", got, 0xD621E6BE, shaOf(got))

	for i := range tile {
		tile[i] &= 15
	}
	reversed := make([]int32, 16)
	for k := range reversed {
		reversed[k] = int32(15 - k)
	}
	got = runOp(t, mustOp(t)(GPTQMarlinActOrder(4, 16)), 1, 512, optest.PackRows(tile, 64, 4, false), orderOf(reversed))
	if !bytes.HasPrefix(got, gptqBytes([]uint32{0x2AA29119, 0x2AA29119, 0x2AA29119, 0x2AA29119})) {
		t.Errorf("4-bit tile, reversed, starts %x", got[:16])
	}

	for _, w := range []struct{ from, to uint32 }{{0x76543210, 0x75316420}, {0x87654321, 0x86427531}} {
		if got := exllama4(w.from); got != w.to {
			t.Errorf("exllama4(%#x) = %#x, want %#x", w.from, got, w.to)
		}
	}
	if got := exllama2(0xE4E4E4E4); got != 0xDDDD8888 {
		t.Errorf("exllama2 = %#x", got)
	}
	src := gptqBytes([]uint32{0x88FAC688, 0xC688FAC6, 0xFAC688FA}) // 3-bit codes 0..7, four times
	got = runOp(t, mustOp(t)(GPTQExllama(3, 0)), 3, 4, src)
	for i, w := range []uint32{0x9F590D10, 0xB3EBA1A2, 0xD67DC434} {
		if x := binary.LittleEndian.Uint32(got[4*i:]); x != w {
			t.Errorf("exllama 3-bit word %d = %#x, want %#x", i, x, w)
		}
	}
}
