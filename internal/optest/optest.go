// Package optest runs Ops as a load does, for the tests of those who have some: destinations framed by canaries, sources at odd addresses
// that must stay as they are, golden vectors, and GPTQ's packing written out bit by bit. Only tests import it.
package optest

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/coldload/coldload/stages"
)

// Canary fills what an Op must not write to.
const Canary = 0xA5

// Sources are the names of an Op's inputs, for errors: "m.qweight" when the first is qweight.
type Sources []string

// Job is a Job of rows that lie gap bytes apart, with its destination framed by canaries, at an odd address as its sources are.
func (names Sources) Job(rows, rowBytes, gap int, src ...[]byte) (j *stages.Job, frame []byte) {
	j = &stages.Job{Rows: rows, RowBytes: rowBytes, Stride: rowBytes + gap, Warn: func(string, ...any) {}}
	n := max(0, (rows-1)*j.Stride+rowBytes)
	frame = bytes.Repeat([]byte{Canary}, n+2)
	j.Dst = frame[1 : n+1 : n+1]
	for i, s := range src {
		j.Src = append(j.Src, append([]byte{0xFF}, s...)[1:])
		j.Inputs = append(j.Inputs, stages.Input{Tensor: "m." + names[i], Extent: stages.Extent{Len: int64(len(s))}})
	}
	return j, frame
}

// WantRows runs op and compares its rows with want; canaries lie before, behind and between them, and the sources must stay as they are. A
// Checker is asked about some words of them.
func (names Sources) WantRows(t *testing.T, op stages.Op, rows int, want []byte, src ...[]byte) {
	t.Helper()
	rowBytes := len(want) / rows
	for _, gap := range []int{0, 3, 64} {
		j, frame := names.Job(rows, rowBytes, gap, src...)
		if err := op.Run(j); err != nil {
			t.Fatalf("%s: %v", op, err)
		}
		canaries := 0
		for at, b := range frame {
			row, in := (at-1)/j.Stride, (at-1)%j.Stride
			if at > 0 && row < rows && in < rowBytes {
				if b != want[row*rowBytes+in] {
					t.Fatalf("%s, gap %d: row %d, byte %d: %#x, want %#x", op, gap, row, in, b, want[row*rowBytes+in])
				}
				continue
			}
			canaries++
			if b != Canary {
				t.Fatalf("%s, gap %d: wrote outside of its rows, at %d", op, gap, at)
			}
		}
		if canaries < 2 {
			t.Fatal("no canaries")
		}
		for i := range src {
			if !bytes.Equal(j.Src[i], src[i]) {
				t.Errorf("%s: source %d was changed", op, i)
			}
		}
		WantChecks(t, op, j)
	}
}

// WantChecks asks an Op that is a Checker about some words of what it wrote for j: it agrees with them, and not when a bit is wrong.
func WantChecks(t *testing.T, op stages.Op, j *stages.Job) {
	t.Helper()
	c, ok := op.(stages.Checker)
	if !ok || j.RowBytes < 4 {
		return
	}
	r := rand.New(rand.NewPCG(uint64(j.Rows), uint64(j.RowBytes)))
	for range 10 {
		row, word := r.IntN(j.Rows), r.IntN(j.RowBytes/4)
		if err := c.CheckWord(j, row, word); err != nil {
			t.Fatalf("%s: the self-check of row %d, word %d: %v", op, row, word, err)
		}
		at, bit := &j.Row(row)[4*word+r.IntN(4)], byte(1)<<r.IntN(8)
		*at ^= bit
		err := c.CheckWord(j, row, word)
		*at ^= bit
		if _, ok := errors.AsType[*stages.MismatchError](err); !ok {
			t.Fatalf("%s: the self-check of row %d, word %d with a bit that is wrong: %v", op, row, word, err)
		}
	}
}

// Refuses runs op on what it must refuse: an error, no panic, and no byte written.
func (names Sources) Refuses(t *testing.T, op stages.Op, what string, rows, rowBytes int, src ...[]byte) {
	t.Helper()
	j, frame := names.Job(rows, rowBytes, 0, src...)
	if err := op.Run(j); err == nil {
		t.Errorf("%s: %s: no error", op, what)
	}
	if bytes.Count(frame, []byte{Canary}) != len(frame) {
		t.Errorf("%s: %s: wrote something", op, what)
	}
}

// RefusesSources runs op with every source a little too short and too long and empty, without any, and with one too few and too many.
func (names Sources) RefusesSources(t *testing.T, op stages.Op, rows, rowBytes int, src ...[]byte) {
	t.Helper()
	for i := range src {
		for _, by := range []int{-4, -1, 1, 4} {
			other := slices.Clone(src)
			other[i] = append(slices.Clone(src[i]), make([]byte, 4)...)[:len(src[i])+by]
			names.Refuses(t, op, "source of another size", rows, rowBytes, other...)
		}
		other := slices.Clone(src)
		other[i] = nil
		names.Refuses(t, op, "empty source", rows, rowBytes, other...)
	}
	names.Refuses(t, op, "no sources", rows, rowBytes)
	names.Refuses(t, op, "the first source is missing", rows, rowBytes, src[1:]...)
	names.Refuses(t, op, "the last source is missing", rows, rowBytes, src[:len(src)-1]...)
	names.Refuses(t, op, "a source too many", rows, rowBytes, append(slices.Clone(src), src[0])...)
}

// WantGolden compares data with a line of the table of golden vectors.
func WantGolden(t *testing.T, what string, data []byte, crc uint32, sha string) {
	t.Helper()
	sum := sha256.Sum256(data)
	if got := crc32.ChecksumIEEE(data); got != crc || hex.EncodeToString(sum[:8]) != sha {
		t.Errorf("%s: CRC-32 %#08X, SHA-256 %x, want %#08X, %s", what, got, sum[:8], crc, sha)
	}
}

// Hash is the generator of the golden vectors.
func Hash(a, b uint32) uint32 {
	x := a*2654435761 ^ b*2246822519
	return (x ^ x>>15) * 3266489917 >> 16
}

// planeWidths are the planes of planar packing, written out again.
var planeWidths = map[int][]int{2: {2}, 3: {2, 1}, 4: {4}, 5: {4, 1}, 6: {4, 2}, 7: {4, 2, 1}, 8: {8}}

// PackAlong packs one line of codes into words, as a stream of bits or in planes, bit by bit.
func PackAlong(codes []uint32, bits int, planar bool) []uint32 {
	w := make([]uint32, (len(codes)*bits+31)/32)
	for i, code := range codes {
		if !planar {
			for b := range bits {
				w[(bits*i+b)/32] |= code >> b & 1 << ((bits*i + b) % 32)
			}
			continue
		}
		c, word, off := i%32, i/32*bits, 0
		for _, width := range planeWidths[bits] {
			per := 32 / width
			w[word+c/per] |= code >> off & (1<<width - 1) << (width * (c % per))
			word, off = word+width, off+width
		}
	}
	return w
}

// PackRows packs codes [K][N] along K.
func PackRows(codes []uint32, n, bits int, planar bool) []byte {
	k := len(codes) / n
	out := make([]byte, k*bits/32*n*4)
	column := make([]uint32, k)
	for c := range n {
		for i := range column {
			column[i] = codes[i*n+c]
		}
		for r, w := range PackAlong(column, bits, planar) {
			binary.LittleEndian.PutUint32(out[4*(r*n+c):], w)
		}
	}
	return out
}

// PackColumns packs fields [G][N] along N.
func PackColumns(fields []uint32, n, bits int, planar bool) (out []byte) {
	for ; len(fields) > 0; fields = fields[n:] {
		for _, w := range PackAlong(fields[:n], bits, planar) {
			out = binary.LittleEndian.AppendUint32(out, w)
		}
	}
	return out
}
