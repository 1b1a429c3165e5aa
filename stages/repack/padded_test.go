package repack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/coldload/coldload/internal/cpu/cputest"
	"github.com/coldload/coldload/internal/optest"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// members are the inputs of a padded Op, and one more than it has.
var members = optest.Sources{"q", "k", "v", "other"}

// jointly are those of members and, once more, all that have one factor.
var jointly = optest.Sources{"q", "k", "v", "q", "k", "v"}

// paddedRow draws members of multiples of by columns in a row of whole tiles: one after the other, or each in a share of its own.
func paddedRow(r *rand.Rand, by int) (list []Member, n int) {
	count, shares := 1+r.IntN(3), r.IntN(2) == 0
	width := by * (1 + r.IntN(260/by))
	for range count {
		if !shares {
			width = by * (1 + r.IntN(260/by))
		}
		list = append(list, Member{At: n, N: width, Same: len(list) > 0 && r.IntN(3) == 0})
		n += width
		if shares {
			n = (n + 63) / 64 * 64
		}
	}
	return list, (n+63)/64*64 + 64*r.IntN(2)
}

// spreadOut puts the columns of the members, each [rows][N], where they belong in rows of n, and fills up with rows of nothing.
func spreadOut(list []Member, n, rows int, columns [][]uint32) []uint32 {
	out := make([]uint32, rows*n)
	for i, m := range list {
		for at, v := range columns[i] {
			out[at/m.N*n+m.At+at%m.N] = v
		}
	}
	return out
}

// joined are the columns of every input, [rows][N], and its N.
func joined(list []Member, columns [][]uint32) (all [][]uint32, widths []int) {
	for first := 0; first < len(list); {
		end, n := first, 0
		var compact []Member
		for ; end == first || end < len(list) && list[end].Same; end++ {
			compact = append(compact, Member{At: n, N: list[end].N})
			n += list[end].N
		}
		all = append(all, spreadOut(compact, n, len(columns[first])/list[first].N, columns[first:end]))
		widths = append(widths, n)
		first = end
	}
	return all, widths
}

// packEach packs the inputs.
func packEach(list []Member, columns [][]uint32, packs func(codes []uint32, n int) []byte) (src [][]byte) {
	all, widths := joined(list, columns)
	for i, codes := range all {
		src = append(src, packs(codes, widths[i]))
	}
	return src
}

// codesFor draws every member's codes.
func codesFor(r *rand.Rand, list []Member, k, bits int) (codes [][]uint32) {
	for _, m := range list {
		codes = append(codes, codesOf(r, k, m.N, bits))
	}
	return codes
}

// paddedCases are the codes of all formats: how a member's are packed, and what its features must be multiples of.
var paddedCases = []struct {
	name       string
	op         func() (stages.Op, error)
	bits, rows int // bits of a code; rows of a Padding
	byN, byK   int
	packs      func(codes []uint32, n int) []byte
}{
	{"gptq 4", func() (stages.Op, error) { return GPTQMarlin(4) }, 4, 2, 8, 8, func(c []uint32, n int) []byte { return optest.PackRows(c, n, 4, false) }},
	{"gptq 8", func() (stages.Op, error) { return GPTQMarlin(8) }, 8, 4, 1, 4, func(c []uint32, n int) []byte { return optest.PackRows(c, n, 8, false) }},
	{"awq", func() (stages.Op, error) { return AWQMarlin(), nil }, 4, 16, 8, 1, packAWQ},
	{"rows 4", func() (stages.Op, error) { return RowsMarlin(4) }, 4, 0, 1, 8, func(c []uint32, n int) []byte { return packRowsOf(c, n, 4) }},
	{"rows 8", func() (stages.Op, error) { return RowsMarlin(8) }, 8, 0, 1, 4, func(c []uint32, n int) []byte { return packRowsOf(c, n, 8) }},
	{"fp8", func() (stages.Op, error) { return FP8Marlin(), nil }, 8, 0, 1, 1, alongK},
}

// TestPaddedCodes fills up the matrix of codes first and repacks it one element at a time, and compares.
func TestPaddedCodes(t *testing.T) {
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			r := rand.New(rand.NewPCG(9, 9))
			for _, c := range paddedCases {
				for range 12 {
					list, n := paddedRow(r, c.byN)
					k := c.byK * (1 + r.IntN(300/c.byK))
					rows := (k+15)/16 + r.IntN(3)
					codes := codesFor(r, list, k, c.bits)
					src := packEach(list, codes, c.packs)
					op := mustOp(t)(Padded(mustOp(t)(c.op()), Padding{Members: list, N: n, Bits: 16 * c.bits, Rows: c.rows}))
					members.WantRows(t, op, rows, slowMarlin(spreadOut(list, n, 16*rows, codes), n, c.bits), src...)
				}
			}
		})
	}
}

// TestPaddedSlabs: a Part of some rows, of the last of which there is nothing, gives those rows.
func TestPaddedSlabs(t *testing.T) {
	list, n := []Member{{At: 0, N: 200}, {At: 200, N: 72}}, 320
	const k, rows = 104, 10
	codes := codesFor(rand.New(rand.NewPCG(9, 10)), list, k, 4)
	want := slowMarlin(spreadOut(list, n, 16*rows, codes), n, 4)
	op := mustOp(t)(Padded(GPTQMarlin4(), Padding{Members: list, N: n, Bits: 64, Rows: 2}))
	for _, each := range []int{1, 2, 3, 4} {
		for row := 0; row < rows; row += each {
			count := min(each, rows-row)
			var src [][]byte
			for i, m := range list {
				b := optest.PackRows(codes[i], m.N, 4, false)
				src = append(src, b[min(len(b), row*8*m.N):min(len(b), (row+count)*8*m.N)])
			}
			members.WantRows(t, op, count, want[8*n*row:8*n*(row+count)], src...)
		}
	}
}

// TestPaddedLarge: members whose tiles go past the caches.
func TestPaddedLarge(t *testing.T) {
	list, n := []Member{{At: 0, N: 1000}, {At: 1000, N: 1344}}, 2432
	const k, rows = 2024, 128
	for _, c := range paddedCases {
		r := rand.New(rand.NewPCG(9, 11))
		codes := codesFor(r, list, k, c.bits)
		src := packEach(list, codes, c.packs)
		want := slowMarlin(spreadOut(list, n, 16*rows, codes), n, c.bits)
		op := mustOp(t)(Padded(mustOp(t)(c.op()), Padding{Members: list, N: n, Bits: 16 * c.bits, Rows: c.rows}))
		dst := cputest.AlignedCopy(make([]byte, len(want)), 0)
		for i := range dst {
			dst[i] = optest.Canary
		}
		j := &stages.Job{Dst: dst, Rows: rows, RowBytes: len(want) / rows, Stride: len(want) / rows, Src: src, Inputs: make([]stages.Input, len(src))}
		if err := op.Run(j); err != nil || string(dst) != string(want) {
			t.Errorf("%s: differs (%v)", c.name, err)
		}
	}
}

// TestPaddedZeros: zero points of the padding are 0, however the others are stored.
func TestPaddedZeros(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 12))
	for _, l := range []ZeroLayout{{}, {OneLess: true}, {EvensFirst: true}, {EvensFirst: true, OneLess: true}} {
		for range 30 {
			list, n := paddedRow(r, 8)
			groups := 1 + r.IntN(5)
			zeros := codesFor(r, list, groups, 4)
			if l.OneLess {
				for _, z := range zeros {
					for at := range z {
						z[at] = max(z[at], 1)
					}
				}
			}
			src := packEach(list, zeros, func(z []uint32, n int) []byte {
				if l.OneLess {
					z = less(z)
				}
				if l.EvensFirst {
					return packAWQ(z, n)
				}
				return optest.PackColumns(z, n, 4, false)
			})
			rows := groups + r.IntN(3)
			op := mustOp(t)(Padded(MarlinZeros(l), Padding{Members: list, N: n, Bits: 4, Rows: 1, Fill: l.ZeroPadding()}))
			members.WantRows(t, op, rows, slowMarlinZeros(spreadOut(list, n, rows, zeros)), src...)
		}
	}
}

// TestPaddedRowsZeros: those that lie as the rows of the weight do.
func TestPaddedRowsZeros(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 15))
	for range 40 {
		list, n := paddedRow(r, 8)
		groups := 1 + r.IntN(70)
		rows := groups + r.IntN(3)
		zeros := codesFor(r, list, groups, 4)
		src := packEach(list, zeros, func(z []uint32, n int) []byte {
			packed := optest.PackColumns(z, n, 4, false) // [G][N/8] words
			out := make([]byte, len(packed))
			for i := range len(packed) / 4 {
				copy(out[4*(i%(n/8)*groups+i/(n/8)):], packed[4*i:4*i+4])
			}
			return out
		})
		op := mustOp(t)(Padded(RowsMarlinZeros(), Padding{Members: list, N: n, Bits: 4, Columns: 8}))
		members.WantRows(t, op, rows, slowMarlinZeros(spreadOut(list, n, rows, zeros)), src...)
	}
}

// slowRow permutes a row by the formulas.
func slowRow(p Permutation, row []uint32) (out []byte) {
	for i := range row {
		from := i/32*32 + 2*(i%32/8) + i%2 + 8*(i%8/2)
		if p == Grouped {
			from = i/64*64 + 8*(i%8) + i%64/8
		}
		out = binary.LittleEndian.AppendUint16(out, uint16(row[from]))
	}
	return out
}

// TestPaddedScales: scales of both ways to lie, kept and cast.
func TestPaddedScales(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 13))
	for _, along := range []bool{false, true} {
		for _, from := range []stages.DType{safetensors.F16, safetensors.F32} {
			for range 30 {
				list, n := paddedRow(r, 1)
				groups, p := 1+r.IntN(70), Permutation(r.IntN(2))
				rows := groups + r.IntN(3)
				values := codesFor(r, list, groups, 10)
				for _, list := range values {
					for at := range list {
						list[at]++ // half holds no 0
					}
				}
				src := packEach(list, values, func(v []uint32, n int) (b []byte) {
					for at := range v {
						x := float32(v[at])
						if along {
							x = float32(v[at%groups*n+at/groups])
						}
						if from == safetensors.F16 {
							b = binary.LittleEndian.AppendUint16(b, half(x))
						} else {
							b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
						}
					}
					return b
				})
				for _, list := range values {
					for at, v := range list {
						list[at] = uint32(half(float32(v)))
					}
				}
				inner, inRows := MarlinScales, 1
				if along {
					inner, inRows = RowsMarlinScales, 0
				}
				op := mustOp(t)(Padded(mustOp(t)(inner(from, safetensors.F16, p)), Padding{Members: list, N: n, Bits: from.Bits(), Rows: inRows}))
				var want []byte
				for all := spreadOut(list, n, rows, values); len(all) > 0; all = all[n:] {
					want = append(want, slowRow(p, all[:n])...)
				}
				members.WantRows(t, op, rows, want, src...)
			}
		}
	}
}

// TestPaddedFP8Scales: every member's blocks are its own.
func TestPaddedFP8Scales(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 14))
	for _, b := range []stages.Blocks{{}, {Rows: 1}, {Rows: 128, Cols: 128}, {Rows: 16, Cols: 128}} {
		for range 30 {
			list, n := paddedRow(r, 1)
			for i := range list {
				list[i].Same = false // blocks end with their input
			}
			groups := 1
			if b.Cols > 0 {
				groups += r.IntN(4)
			}
			rows, p := groups+r.IntN(3), Permutation(r.IntN(2))
			columns, src := make([][]uint32, len(list)), [][]byte(nil)
			for i, m := range list {
				blocks, _ := b.Grid(int64(m.N), 1)
				each := m.N
				if b.Rows > 0 {
					each = int(b.Rows)
				}
				scales := make([]float32, int(blocks)*groups)
				for at := range scales {
					scales[at] = float32(1 + r.IntN(100))
				}
				src = append(src, scaleBytes(safetensors.F32, scales))
				for g := range groups {
					for c := range m.N {
						columns[i] = append(columns[i], uint32(half(256*scales[c/each*groups+g])))
					}
				}
			}
			op := mustOp(t)(FP8MarlinScales(b, safetensors.F32, safetensors.F16, p, stages.ExponentFused, list...))
			var want []byte
			for all := spreadOut(list, n, rows, columns); len(all) > 0; all = all[n:] {
				want = append(want, slowRow(p, all[:n])...)
			}
			members.WantRows(t, op, rows, want, src...)
			members.Refuses(t, op, "a source too few", rows, 2*n, src[1:]...)
			members.Refuses(t, op, "a short source", rows, 2*n, append([][]byte{src[0][1:]}, src[1:]...)...)
		}
	}
}

// TestPaddedNVFP4Scales: one factor for all members, whether a scan found the largest scale or the Op looks for it, and zeros in the padding.
func TestPaddedNVFP4Scales(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 15))
	for range 30 {
		list, n := paddedRow(r, 1)
		groups, peak := 1+r.IntN(600), byte(1+r.IntN(nanE4M3-1))
		rows := groups + r.IntN(3)
		scales, found := codesFor(r, list, groups, 8), byte(0)
		src := packEach(list, scales, func(v []uint32, n int) (b []byte) {
			for at := range v {
				c := byte(v[at%groups*n+at/groups] % uint32(peak+1))
				b, found = append(b, c), max(found, c)
			}
			return b
		})
		joint := append(slices.Clone(src), src...)
		padding := Padding{Members: list, N: n, Bits: 8}
		for _, x := range []struct {
			act     stages.DType
			scanned bool
			src     [][]byte
		}{{safetensors.F16, false, src}, {safetensors.BF16, false, joint}, {safetensors.BF16, true, src}} {
			factor := slowFactor(x.act, src...)
			op := mustOp(t)(Padded(mustNVFP4Scales(t, x.act, x.scanned), padding))
			var want []byte
			for row := range rows {
				line := make([]byte, n)
				for i, m := range list {
					for c := range m.N {
						if row < groups {
							line[m.At+c] = slowByte(byte(scales[i][row*m.N+c]%uint32(peak+1)), factor)
						}
					}
				}
				want = append(want, slowFP4Scales(line, n)...)
			}
			j, frame := jointly.Job(rows, n, 3, x.src...)
			j.Scanned = uint64(found)
			if err := op.Run(j); err != nil {
				t.Fatal(err)
			}
			for row := range rows {
				if !bytes.Equal(j.Row(row), want[row*n:][:n]) {
					t.Fatalf("%s, %d members, %d groups in %d rows, peak %#x: row %d differs", op, len(list), groups, rows, peak, row)
				}
			}
			if got := bytes.Count(frame, []byte{optest.Canary}); got < len(frame)-rows*n {
				t.Errorf("%s: wrote beside the rows", op)
			}
			optest.WantChecks(t, op, j)
		}
	}
}

// TestPaddedNVFP4Refuses: the tensor and its own element are named, whichever tile they are in, and so is a larger scale than a scan found.
func TestPaddedNVFP4Refuses(t *testing.T) {
	padding := Padding{Members: []Member{{N: 40}, {At: 40, N: 104}}, N: 192, Bits: 8}
	good := [][]byte{bytes.Repeat([]byte{0x30}, 40*5), bytes.Repeat([]byte{0x31}, 104*5)}
	for at, bad := range map[int]byte{0: 0x7F, 519: 0xB8, 301: 0xFF} {
		src := [][]byte{good[0], bytes.Clone(good[1])}
		src[1][at] = bad
		for _, scanned := range []bool{false, true} {
			all := src
			if !scanned {
				all = append(slices.Clone(src), src...)
			}
			op := mustOp(t)(Padded(mustNVFP4Scales(t, safetensors.BF16, scanned), padding))
			j, frame := jointly.Job(6, 192, 0, all...)
			j.Scanned = 0x40
			err := op.Run(j)
			de, ok := errors.AsType[*stages.DataError](err)
			if !ok || de.Tensor != j.Inputs[len(all)-1].Tensor || !strings.Contains(err.Error(), fmt.Sprintf("element %d ", at)) {
				t.Errorf("scanned %v: %v, want element %d", scanned, err, at)
			}
			if bytes.Count(frame, []byte{optest.Canary}) != len(frame) {
				t.Error("wrote something")
			}
		}
	}
	op := mustOp(t)(Padded(mustNVFP4Scales(t, safetensors.BF16, true), padding))
	j, _ := jointly.Job(6, 192, 0, good...)
	j.Scanned = 0x30
	if err := op.Run(j); err == nil || !strings.Contains(err.Error(), "the file changed") || !strings.Contains(err.Error(), j.Inputs[1].Tensor) {
		t.Errorf("a larger scale than the scan found: %v", err)
	}
	jointly.Refuses(t, op, "joint sources beside a scan", 6, 192, append(slices.Clone(good), good...)...)
	jointly.Refuses(t, mustOp(t)(Padded(mustNVFP4Scales(t, safetensors.BF16, false), padding)), "no joint sources", 6, 192, good...)
}

// TestPaddedErrors name the member and the element of its tensor.
func TestPaddedErrors(t *testing.T) {
	list, n := []Member{{At: 0, N: 40}, {At: 40, N: 70}}, 128
	for _, c := range []struct {
		from, to stages.DType
		bad      uint32
		says     string
	}{
		{safetensors.F32, safetensors.F16, math.Float32bits(1e6), "element 137 does not fit in F16"},
		{safetensors.F32, safetensors.BF16, 0x7F80_0000, "element 137 is not finite"},
	} {
		for _, along := range []bool{false, true} {
			inner, rows := MarlinScales, 1
			if along {
				inner, rows = RowsMarlinScales, 0
			}
			op := mustOp(t)(Padded(mustOp(t)(inner(c.from, c.to, Grouped)), Padding{Members: list, N: n, Bits: 32, Rows: rows}))
			src := [][]byte{make([]byte, 4*2*40), make([]byte, 4*2*70)}
			binary.LittleEndian.PutUint32(src[1][4*137:], c.bad)
			j, frame := members.Job(2, 2*n, 0, src...)
			err := op.Run(j)
			de, ok := errors.AsType[*stages.DataError](err)
			if !ok || de.Tensor != "m.k" || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v, want %q of m.k", op, err, c.says)
			}
			if bytes.Count(frame, []byte{optest.Canary}) != len(frame) {
				t.Errorf("%s: wrote something", op)
			}
		}
	}
}

// TestPaddedRefuses: places that cannot be, and sources of other sizes.
func TestPaddedRefuses(t *testing.T) {
	for name, p := range map[string]Padding{
		"the same as none": {Members: []Member{{N: 8, Same: true}}, N: 64, Bits: 64, Rows: 2},
		"no members":       {N: 64, Bits: 64, Rows: 2},
		"no whole tiles":   {Members: []Member{{At: 0, N: 8}}, N: 96, Bits: 64, Rows: 2},
		"over the end":     {Members: []Member{{At: 8, N: 64}}, N: 64, Bits: 64, Rows: 2},
		"overlap":          {Members: []Member{{At: 0, N: 32}, {At: 24, N: 8}}, N: 64, Bits: 64, Rows: 2},
		"before the row":   {Members: []Member{{At: -8, N: 16}}, N: 64, Bits: 64, Rows: 2},
		"nothing":          {Members: []Member{{At: 0, N: 0}}, N: 64, Bits: 64, Rows: 2},
		"no bits":          {Members: []Member{{At: 0, N: 8}}, N: 64, Rows: 2},
		"half a byte":      {Members: []Member{{At: 0, N: 7}}, N: 64, Bits: 64, Rows: 16},
		"uneven rows":      {Members: []Member{{At: 0, N: 8}}, N: 64, Bits: 64, Rows: 3},
		"half a word":      {Members: []Member{{At: 0, N: 4}}, N: 64, Bits: 4, Columns: 8},
		"columns of bits":  {Members: []Member{{At: 0, N: 8}}, N: 64, Bits: 4},
	} {
		if _, err := Padded(GPTQMarlin4(), p); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	list := []Member{{At: 0, N: 40}, {At: 40, N: 72}}
	op := mustOp(t)(Padded(GPTQMarlin4(), Padding{Members: list, N: 128, Bits: 64, Rows: 2}))
	src := [][]byte{make([]byte, 4*40*4), make([]byte, 4*72*4)}
	members.RefusesSources(t, op, 2, 1024, src...)
	members.Refuses(t, op, "more than the rows", 1, 1024, src...)
	members.Refuses(t, op, "another width", 2, 1000, src...)
	members.Refuses(t, op, "members of several lengths", 2, 1024, src[0][:160], src[1])
}

// FuzzPadded compares every format with the reference.
func FuzzPadded(f *testing.F) {
	for i := range paddedCases {
		f.Add(uint8(i), uint64(i), uint16(i), uint8(1))
	}
	f.Fuzz(func(t *testing.T, which uint8, seed uint64, features uint16, more uint8) {
		c := paddedCases[int(which)%len(paddedCases)]
		r := rand.New(rand.NewPCG(seed, 1))
		list, n := paddedRow(r, c.byN)
		k := c.byK * (1 + int(features)%300/c.byK)
		rows := (k+15)/16 + int(more)%9
		codes := codesFor(r, list, k, c.bits)
		src := packEach(list, codes, c.packs)
		op := mustOp(t)(Padded(mustOp(t)(c.op()), Padding{Members: list, N: n, Bits: 16 * c.bits, Rows: c.rows}))
		members.WantRows(t, op, rows, slowMarlin(spreadOut(list, n, 16*rows, codes), n, c.bits), src...)
	})
}

// BenchmarkPadded measures what the edges cost: a member of 43 tiles and a half with two thirds of a row of tiles at its end.
func BenchmarkPadded(b *testing.B) {
	const k, n = 2008, 43*64 + 32
	for _, c := range paddedCases {
		for _, padded := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/padded=%v", strings.ReplaceAll(c.name, " ", ""), padded), func(b *testing.B) {
				op, width, rows, from := mustOp(b)(c.op()), 43*64, 125, 2000
				if padded {
					op = mustOp(b)(Padded(op, Padding{Members: []Member{{At: 0, N: n}}, N: 44 * 64, Bits: 16 * c.bits, Rows: c.rows}))
					width, rows, from = 44*64, 128, k
				}
				columns := width
				if padded {
					columns = n
				}
				benchOp(b, op, rows, 2*c.bits*width, make([]byte, from*columns*c.bits/8))
			})
		}
	}
}
