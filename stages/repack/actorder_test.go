package repack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/coldload/coldload/internal/cpu/cputest"
	"github.com/coldload/coldload/internal/optest"
	"github.com/coldload/coldload/stages"
)

func TestActOrderIsTheFormula(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 1))
	for _, bits := range []int{4, 8} {
		for _, s := range [][3]int{{16, 64, 1}, {32, 64, 2}, {64, 128, 64}, {96, 192, 3}, {128, 64, 4}} {
			k, n, groups := s[0], s[1], s[2]
			codes, g := codesOf(r, k, n, bits), balancedGroups(r, k, groups)
			want := slowMarlin(permuteRows(codes, n, slowPerm(g)), n, bits)
			sources.WantRows(t, mustOp(t)(GPTQMarlinActOrder(bits, groups)), k/16, want, optest.PackRows(codes, n, bits, false), gptqInts(g))
		}
	}
}

// TestActOrderOfATrivialOrder is the plain repacking.
func TestActOrderOfATrivialOrder(t *testing.T) {
	codes := codesOf(rand.New(rand.NewPCG(9, 2)), 64, 64, 4)
	g := make([]int32, 64)
	for k := range g {
		g[k] = int32(k / 16)
	}
	sources.WantRows(t, mustOp(t)(GPTQMarlinActOrder(4, 4)), 4, slowMarlin(codes, 64, 4), optest.PackRows(codes, 64, 4, false), gptqInts(g))
}

func TestSortedOutputs(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 3))
	for _, s := range [][2]int{{1, 1}, {2, 2}, {32, 4}, {128, 1}, {128, 128}, {96, 3}} {
		g := balancedGroups(r, s[0], s[1])
		perm := slowPerm(g)
		sorted := slices.Clone(g)
		slices.Sort(sorted)
		sources.WantRows(t, SortIndices(s[1]), 1, gptqInts(perm), gptqInts(g))
		sources.WantRows(t, SortedGroups(s[1]), 1, gptqInts(sorted), gptqInts(g))
	}
	for _, op := range []stages.Op{SortIndices(2), SortedGroups(2)} {
		refusesSizes(t, op, 1, 128, gptqInts(balancedGroups(r, 32, 2)))
	}
}

// TestActOrderNeedsGroupsOfOneSize names the group, what it must have and what it has.
func TestActOrderNeedsGroupsOfOneSize(t *testing.T) {
	g := balancedGroups(rand.New(rand.NewPCG(9, 4)), 32, 4)
	q := make([]byte, 32*64/2)
	ops := map[string]func(idx []byte) error{}
	add := func(op stages.Op, rows, rowBytes int, withWeight bool) {
		ops[op.String()] = func(idx []byte) error {
			src := [][]byte{q, idx}
			if !withWeight {
				src = src[1:]
			}
			j, frame := sources.Job(rows, rowBytes, 0, src...)
			err := op.Run(j)
			if err != nil && slices.ContainsFunc(frame, func(b byte) bool { return b != optest.Canary }) {
				t.Errorf("%s: wrote before it failed", op)
			}
			if de, ok := errors.AsType[*stages.DataError](err); ok && de.Tensor != j.Inputs[len(src)-1].Tensor {
				t.Errorf("%s: blames %s", op, de.Tensor)
			}
			return err
		}
	}
	add(mustOp(t)(GPTQMarlinActOrder(4, 4)), 2, 512, true)
	add(mustOp(t)(GPTQExllama(4, 4)), 4, 256, true)
	add(SortIndices(4), 1, 128, false)
	add(SortedGroups(4), 1, 128, false)
	for name, run := range ops {
		for _, c := range []struct {
			change func(g []int32)
			says   []string
		}{
			{func(g []int32) { g[5] = 4 }, []string{"g_idx[5] is out of range", "expected 0 to 3", "found 4"}},
			{func(g []int32) { g[0] = -1 }, []string{"g_idx[0] is out of range", "found -1"}},
			{func(g []int32) { g[31] = 1 << 30 }, []string{"g_idx[31] is out of range"}},
			{func(g []int32) { g[slices.Index(g, 2)] = 3 }, []string{"group 2 has the wrong number", "expected 8", "found 7", "--layout raw"}},
			{func(g []int32) { clear(g) }, []string{"group 0 has the wrong number", "expected 8", "found 32"}},
		} {
			idx := slices.Clone(g)
			c.change(idx)
			err := run(gptqInts(idx))
			if _, ok := errors.AsType[*stages.DataError](err); !ok {
				t.Errorf("%s: error %v, want a DataError", name, err)
				continue
			}
			for _, s := range c.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%s: %v does not say %q", name, err, s)
				}
			}
		}
		if err := run(gptqInts(g)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestGroupsThatDoNotDivide: K is no multiple of the number of groups, so they cannot be of one size.
func TestGroupsThatDoNotDivide(t *testing.T) {
	j, _ := sources.Job(1, 128, 0, gptqInts(make([]int32, 32)))
	if err := SortIndices(3).Run(j); err == nil {
		t.Error("32 features in 3 groups of one size")
	}
}

// TestActOrderAllocations: the order of a module, and nothing that grows with its columns.
func TestActOrderAllocations(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 5))
	for _, bits := range []int{4, 8} {
		for _, n := range []int{64, 1024} {
			g := gptqInts(balancedGroups(r, 128, 4))
			marlin, _ := sources.Job(8, n*bits*2, 0, make([]byte, 128*n*bits/8), g)
			exllama, _ := sources.Job(4*bits, 4*n, 0, make([]byte, 128*n*bits/8), g)
			sorted, _ := sources.Job(1, 512, 0, g)
			for op, j := range map[stages.Op]*stages.Job{
				mustOp(t)(GPTQMarlinActOrder(bits, 4)): marlin, mustOp(t)(GPTQExllama(bits, 4)): exllama, SortIndices(4): sorted, SortedGroups(4): sorted,
			} {
				if a := testing.AllocsPerRun(20, func() {
					if err := op.Run(j); err != nil {
						t.Fatal(err)
					}
				}); a > 8 {
					t.Errorf("%s, %d columns: %v allocations", op, n, a)
				}
			}
		}
	}
}

func FuzzActOrder(f *testing.F) {
	f.Add(uint64(1), uint8(2), uint8(1), uint8(2), true)
	f.Fuzz(func(t *testing.T, seed uint64, rows, tiles, groups uint8, eight bool) {
		r := rand.New(rand.NewPCG(seed, 0))
		bits := 4
		if eight {
			bits = 8
		}
		k, n := 16*int(rows%4+1), 64*int(tiles%3+1)
		count := 1 << (groups % 5)
		codes, g := codesOf(r, k, n, bits), balancedGroups(r, k, count)
		ordered := permuteRows(codes, n, slowPerm(g))
		q, idx := optest.PackRows(codes, n, bits, false), gptqInts(g)
		sources.WantRows(t, mustOp(t)(GPTQMarlinActOrder(bits, count)), k/16, slowMarlin(ordered, n, bits), q, idx)
		sources.WantRows(t, mustOp(t)(GPTQExllama(bits, count)), k*bits/32, slowExllama(ordered, n, bits), q, idx)
	})
}

// FuzzGIdx feeds any bytes as g_idx: an error or an order, never a panic.
func FuzzGIdx(f *testing.F) {
	f.Add(gptqInts([]int32{0, 1, 1, 0}), uint8(2))
	f.Add(gptqInts([]int32{-1, 1 << 30}), uint8(1))
	f.Fuzz(func(t *testing.T, idx []byte, groups uint8) {
		if groups == 0 || len(idx)%4 != 0 {
			t.Skip()
		}
		j, _ := sources.Job(1, len(idx), 0, idx)
		if err := SortIndices(int(groups)).Run(j); err != nil {
			return
		}
		seen := make([]bool, len(idx)/4)
		for at := 0; at < len(idx); at += 4 {
			k := int(j.Dst[at]) | int(j.Dst[at+1])<<8 | int(j.Dst[at+2])<<16 | int(j.Dst[at+3])<<24
			if k >= len(seen) || seen[k] {
				t.Fatalf("%v is no permutation", j.Dst)
			}
			seen[k] = true
		}
	})
}

func BenchmarkActOrder(b *testing.B) {
	r := rand.New(rand.NewPCG(9, 6))
	g := gptqInts(balancedGroups(r, benchK, benchK/128))
	for _, bits := range []int{4, 8} {
		b.Run(fmt.Sprintf("marlin%d", bits), func(b *testing.B) {
			benchOp(b, mustOp(b)(GPTQMarlinActOrder(bits, benchK/128)), benchK/16, benchN*bits*2, make([]byte, benchK*benchN*bits/8), g)
		})
	}
	b.Run("exllama4", func(b *testing.B) {
		benchOp(b, mustOp(b)(GPTQExllama(4, benchK/128)), benchK/8, benchN*4, make([]byte, benchK*benchN/2), g)
	})
	b.Run("indices", func(b *testing.B) { benchOp(b, SortIndices(benchK/128), 1, 4*benchK, g) })
}

// canaries is n bytes with as many canaries around them as a cache line has.
func canaries(n int) (framed, inner []byte) {
	framed = cputest.Aligned(n+128, 0)
	for i := range framed {
		framed[i] = canary
	}
	return framed, framed[64 : 64+n : 64+n]
}

// wantFrame reports whether what lies around rows of size bytes, stride bytes apart, is as canaries made it.
func wantFrame(t *testing.T, framed []byte, rows, size, stride int) {
	t.Helper()
	for i, b := range framed {
		if at := i - 64; b != canary && (at < 0 || at >= (rows-1)*stride+size || at%stride >= size) {
			t.Fatalf("%d rows of %d bytes, %d apart: wrote byte %d", rows, size, stride, at)
		}
	}
}

// checkStrips spreads packed rows, and makes tiles and exllama's rows of them in a random order, and compares with codes moved one by one.
func checkStrips(t *testing.T, r *rand.Rand, bits, tiles, gap, shift int, atEnd bool) {
	t.Helper()
	k, per := tiles*tileK, 32/bits
	words := k / per
	src := random(r.Uint64(), words*tileRow)
	perm := r.Perm(k)
	rows, o := make([]int32, k), &order{perm: make([]int32, k)}
	for i, f := range perm {
		rows[i], o.perm[i] = int32(f), int32(f)
	}
	var sorted []byte
	for w := range words {
		sorted = append(sorted, gatherSlow(src, tileRow, rows[per*w:per*(w+1)], bits)...)
	}
	want := marlinOf(sorted, k, tileN, bits)
	wide := make([]byte, (words-1)*(tileRow+gap)+tileRow)
	for w := range words {
		copy(wide[w*(tileRow+gap):], src[w*tileRow:(w+1)*tileRow])
	}
	strip := cputest.Guarded(t, make([]byte, k*lineBytes(bits)), atEnd)
	spreadStrip(strip, cputest.Guarded(t, wide, atEnd), tileRow+gap, bits)
	shuffled := make([]byte, len(sorted))
	exllamaRow(shuffled, sorted, bits)
	for _, stream := range []bool{false, true} {
		c := sortedColumn{strip: strip, features: o.lines(bits), bits: bits, stream: stream}
		c.rows = tiles
		checkSorted(t, &c, (*sortedColumn).tiles, want, gap, shift)
		c.rows = words
		checkSorted(t, &c, (*sortedColumn).packedRows, shuffled, gap, shift)
	}
}

// checkSorted wants c to make the rows of want, and to write nothing else.
func checkSorted(t *testing.T, c *sortedColumn, run func(*sortedColumn), want []byte, gap, shift int) {
	t.Helper()
	size := len(want) / c.rows
	c.stride = size + 64*(gap%3)
	if !c.stream {
		c.stride = size + gap
	}
	framed, dst := canaries((c.rows-1)*c.stride + size)
	if !c.stream {
		framed = cputest.AlignedCopy(framed, shift)
		dst = framed[64 : len(framed)-64]
	}
	c.dst = dst
	run(c)
	for i := range c.rows {
		if !bytes.Equal(dst[i*c.stride:][:size], want[i*size:(i+1)*size]) {
			t.Fatalf("bits=%d, row %d of %d, %d bytes each, stream %v: differs", c.bits, i, c.rows, size, c.stream)
		}
	}
	wantFrame(t, framed, c.rows, size, c.stride)
}

// TestStripKernels: every number of tiles, in rows that lie apart, against pages that cannot be touched.
func TestStripKernels(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 5))
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			for _, bits := range []int{4, 8} {
				for tiles := 1; tiles <= 18; tiles++ {
					for _, atEnd := range []bool{false, true} {
						checkStrips(t, r, bits, tiles, tiles*4%28, tiles*7%64, atEnd)
					}
				}
			}
		})
	}
}

// TestSpreadIsTheOrder: every kernel spreads as the reference does, and that as it says.
func TestSpreadIsTheOrder(t *testing.T) {
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			for _, bits := range []int{4, 8} {
				per := 32 / bits
				src, strip := random(3, 2*tileRow), make([]byte, 2*tileRow)
				spreadStrip(strip, src, tileRow, bits)
				for n := range tileN {
					j, h, c := n/16, n/8%2, n%8
					for k := range 2 * per {
						code := binary.LittleEndian.Uint32(src[k/per*tileRow+4*n:]) >> (bits * (k % per)) & (1<<bits - 1)
						at, up := k*64+8*c+2*j+h, 0
						if bits == 4 { // even features first, and columns 32 further in the upper half
							at, up = k/8*256+k%2*128+k%8/2*32+4*c+j%2*2+h, j/2*4
						}
						if got := strip[at] >> up & (1<<bits - 1); got != byte(code) {
							t.Fatalf("bits=%d, feature %d, column %d: %#x, want %#x", bits, k, n, got, code)
						}
					}
				}
			}
		})
	}
}

// TestSortedColumnsTrustNobody: a strip that is too short, or too few features, are refused before a kernel runs.
func TestSortedColumnsTrustNobody(t *testing.T) {
	for mask := range cputest.Masks() {
		for name, c := range map[string]sortedColumn{
			"strip": {dst: make([]byte, 512), stride: 512, rows: 1, strip: make([]byte, 15*32), features: make([]uint32, 16), bits: 4},
			"lines": {dst: make([]byte, 512), stride: 512, rows: 1, strip: make([]byte, 16*32), features: make([]uint32, 15), bits: 4},
			"dst":   {dst: make([]byte, 511), stride: 512, rows: 1, strip: make([]byte, 16*32), features: make([]uint32, 16), bits: 4},
		} {
			t.Run(mask+"/"+name, func(t *testing.T) {
				c.features = slices.Clip(c.features)
				for i := range c.features {
					c.features[i] = uint32(i * 32)
				}
				panics(t, c.tiles)
				c.rows, c.stride = 2, tileRow
				panics(t, c.packedRows)
			})
		}
	}
}

func panics(t *testing.T, f func()) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	f()
}

// FuzzStripKernels: any number of tiles, gap between the rows and alignment.
func FuzzStripKernels(f *testing.F) {
	f.Add(uint64(1), uint8(3), uint8(4), uint8(9), true, true)
	f.Fuzz(func(t *testing.T, seed uint64, tiles, gap, shift uint8, four, atEnd bool) {
		bits := 8
		if four {
			bits = 4
		}
		for mask := range cputest.Masks() {
			t.Run(mask, func(t *testing.T) {
				checkStrips(t, rand.New(rand.NewPCG(seed, 6)), bits, 1+int(tiles)%24, int(gap), int(shift)%64, atEnd)
			})
		}
	})
}

// TestActOrderTakesSeveralStrips: columns that are more than fit the second-level cache at once.
func TestActOrderTakesSeveralStrips(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 6))
	for mask := range cputest.Masks() {
		for _, bits := range []int{4, 8} {
			const k, n = 1024, 704
			codes, g := codesOf(r, k, n, bits), balancedGroups(r, k, 8)
			sorted := permuteRows(codes, n, slowPerm(g))
			want, shuffled := slowMarlin(sorted, n, bits), slowExllama(sorted, n, bits)
			t.Run(mask, func(t *testing.T) {
				q := optest.PackRows(codes, n, bits, false)
				sources.WantRows(t, mustOp(t)(GPTQMarlinActOrder(bits, 8)), k/16, want, q, gptqInts(g))
				sources.WantRows(t, mustOp(t)(GPTQExllama(bits, 8)), k*bits/32, shuffled, q, gptqInts(g))
			})
		}
	}
}
