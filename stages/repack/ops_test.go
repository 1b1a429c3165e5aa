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
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// marlinSlow follows the element formulas, one weight at a time, on codes [K][N].
func marlinSlow(codes []byte, n, bits int) []byte {
	out := make([]uint32, len(codes)/16*bits/2)
	for i, code := range codes {
		k, c := i/n, i%n
		row := k / 16 * n * bits / 2
		if bits == 4 {
			w := 128*(c/64) + 16*(c%8) + 4*((k%8)/2) + (c%64)/16
			out[row+w] |= uint32(code) << (4 * ((k%16)/8 + 2*((c%16)/8) + 4*(k%2)))
		} else {
			w := 256*(c/64) + 32*(c%8) + 8*((k%8)/2) + 2*((c%64)/16) + (c%16)/8
			out[row+w] |= uint32(code) << (8 * ((k%16)/8 + 2*(k%2)))
		}
	}
	return bytesOf(out)
}

// exllamaSlow follows the formulas of the exllama shuffle.
func exllamaSlow(codes []byte, n, bits int) []byte {
	if bits == 8 {
		return pack(codes, n, bits)
	}
	k := len(codes) / n
	out := make([]uint32, k*bits/32*n)
	for i, code := range codes {
		kk, c := i/n, i%n
		if bits != 3 {
			per := 32 / bits
			out[kk/per*n+c] |= uint32(code) << (bits*(kk%per/2) + 16*(kk%2))
			continue
		}
		block := kk / 32 * 3 * n
		switch in := kk % 32; {
		case in < 30:
			out[block+in/10*n+c] |= uint32(code) << (3*(in%10/2) + 16*(in%10%2))
		default:
			for t := range 3 {
				out[block+t*n+c] |= uint32(code) >> t & 1 << (15 + 16*(in-30))
			}
		}
	}
	return bytesOf(out)
}

func randomCodes(r *rand.Rand, k, n, bits int) []byte {
	codes := make([]byte, k*n)
	for i := range codes {
		codes[i] = byte(r.Uint32()) & (1<<bits - 1)
	}
	return codes
}

const canary = 0xA5

// inside runs an Op whose destination is a rectangle amid canaries, with sources at odd addresses, and returns the rectangle's rows. It
// fails when a byte around them changed.
func inside(t *testing.T, o stages.Op, rows, rowBytes int, src ...[]byte) []byte {
	t.Helper()
	const before, after = 24, 40
	stride := rowBytes + before + after
	slab := bytes.Repeat([]byte{canary}, stride*rows+64)
	for i := range src {
		src[i] = append(make([]byte, 1, 1+len(src[i])), src[i]...)[1:]
	}
	end := before
	if rows > 0 {
		end += (rows-1)*stride + rowBytes
	}
	j := &stages.Job{Dst: slab[before:end:end], Rows: rows, RowBytes: rowBytes, Stride: stride, Src: src, Inputs: make([]stages.Input, len(src))}
	if err := o.Run(j); err != nil {
		t.Fatal(err)
	}
	var out []byte
	for i := range rows {
		row := slab[before+i*stride : before+i*stride+rowBytes]
		out = append(out, row...)
		for at := range row {
			row[at] = canary
		}
	}
	if i := slices.IndexFunc(slab, func(b byte) bool { return b != canary }); i >= 0 {
		t.Errorf("%s: byte %d outside of the rectangle was written", o, i)
	}
	return out
}

// TestMarlinIsTheFormula compares with the element formula: all numbers of rows, some widths, any place in a Slab.
func TestMarlinIsTheFormula(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, bits := range []int{4, 8} {
		o, err := GPTQMarlin(bits)
		o = op(t, o, err)
		for _, n := range []int{64, 128, 192, 1024} {
			for rows := range 10 {
				codes := randomCodes(r, 16*rows, n, bits)
				if !bytes.Equal(inside(t, o, rows, 2*bits*n, pack(codes, n, bits)), marlinSlow(codes, n, bits)) {
					t.Errorf("%s: %d rows of %d columns differ from the formula", o, rows, n)
				}
			}
		}
	}
	codes := randomCodes(r, 64, 128, 4)
	if got, want := marlinSlow(codes, 128, 4), bytesOf(marlin4Slow(words(pack(codes, 128, 4)), 64, 128)); !bytes.Equal(got, want) {
		t.Error("the two formulas of this package differ")
	}
}

func TestExllamaIsTheFormula(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for _, bits := range []int{2, 3, 4, 8} {
		o, err := GPTQExllama(bits, 0)
		o = op(t, o, err)
		for _, n := range []int{1, 8, 40} {
			for blocks := range 4 {
				codes := randomCodes(r, 32*blocks, n, bits)
				if !bytes.Equal(inside(t, o, blocks*bits, 4*n, pack(codes, n, bits)), exllamaSlow(codes, n, bits)) {
					t.Errorf("%s: %d blocks of %d columns differ from the formula", o, blocks, n)
				}
			}
		}
	}
}

// balanced is a random g_idx in which every group has as many features.
func balanced(r *rand.Rand, k, groups int) []int32 {
	g := make([]int32, k)
	for i := range g {
		g[i] = int32(i % groups)
	}
	r.Shuffle(k, func(i, j int) { g[i], g[j] = g[j], g[i] })
	return g
}

func int32Bytes(values []int32) []byte {
	var b []byte
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, uint32(v))
	}
	return b
}

// stableOrder is the stable sort of a g_idx.
func stableOrder(g []int32) []int32 {
	perm := make([]int32, len(g))
	for i := range perm {
		perm[i] = int32(i)
	}
	slices.SortStableFunc(perm, func(a, b int32) int { return int(g[a] - g[b]) })
	return perm
}

// TestActOrder compares with codes whose rows were sorted one by one.
func TestActOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for range 20 {
		n, groups := 64*(1+r.IntN(3)), 1+r.IntN(8)
		k := 32 * groups * (1 + r.IntN(2))
		g := balanced(r, k, groups)
		perm := stableOrder(g)
		sorted := make([]int32, k)
		for i, p := range perm {
			sorted[i] = g[p]
		}
		if got := inside(t, SortIndices(groups), 1, 4*k, int32Bytes(g)); !bytes.Equal(got, int32Bytes(perm)) {
			t.Errorf("the order of %d features in %d groups is not the stable sort", k, groups)
		}
		if got := inside(t, SortedGroups(groups), 1, 4*k, int32Bytes(g)); !bytes.Equal(got, int32Bytes(sorted)) {
			t.Errorf("the sorted groups of %d features are wrong", k)
		}
		for _, bits := range []int{2, 4, 8} {
			codes := randomCodes(r, k, n, bits)
			var moved []byte
			for _, p := range perm {
				moved = append(moved, codes[int(p)*n:(int(p)+1)*n]...)
			}
			ex, err := GPTQExllama(bits, groups)
			if got := inside(t, op(t, ex, err), k*bits/32, 4*n, pack(codes, n, bits), int32Bytes(g)); !bytes.Equal(got, exllamaSlow(moved, n, bits)) {
				t.Errorf("%s: K %d, N %d, %d groups differ", ex, k, n, groups)
			}
			if bits == 2 {
				continue
			}
			o, err := GPTQMarlinActOrder(bits, groups)
			if got := inside(t, op(t, o, err), k/16, 2*bits*n, pack(codes, n, bits), int32Bytes(g)); !bytes.Equal(got, marlinSlow(moved, n, bits)) {
				t.Errorf("%s: K %d, N %d, %d groups differ", o, k, n, groups)
			}
		}
	}
}

func TestBadOrders(t *testing.T) {
	data := func(o stages.Op, groups int, g []int32, says ...string) {
		t.Helper()
		j := &stages.Job{Dst: make([]byte, 4*len(g)), Rows: 1, RowBytes: 4 * len(g), Stride: 4 * len(g), Src: [][]byte{int32Bytes(g)}, Inputs: []stages.Input{{Tensor: "m.g_idx"}}}
		err := o.Run(j)
		d, ok := errors.AsType[*stages.DataError](err)
		if !ok || d.Tensor != "m.g_idx" {
			t.Fatalf("%d groups of %v: error %v, want a DataError", groups, g, err)
		}
		for _, s := range says {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%v does not say %q", err, s)
			}
		}
	}
	for _, o := range []func(int) stages.Op{SortIndices, SortedGroups} {
		data(o(2), 2, []int32{0, 1, 2, 0}, "g_idx[2]", "0 to 1", "found 2")
		data(o(2), 2, []int32{0, -1, 1, 0}, "g_idx[1]", "found -1")
		data(o(2), 2, []int32{0, 0, 1, 0}, "group 0", "expected 2", "found 3")
		data(o(2), 2, []int32{0, 1, 1}, "group 0", "expected 1", "found 1")
		data(o(2), 2, []int32{math.MinInt32, 1}, "g_idx[0]")
	}
}

// cast16 is the reference cast of F16, BF16 or F32 to one of the first two, for values that both hold.
func encode(d stages.DType, values []float32) (b []byte) {
	for _, v := range values {
		switch d {
		case safetensors.F32:
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
		case safetensors.BF16:
			b = binary.LittleEndian.AppendUint16(b, uint16(math.Float32bits(v)>>16))
		default:
			b = binary.LittleEndian.AppendUint16(b, half(v))
		}
	}
	return b
}

// half is an F16 of a value that it holds exactly and normally.
func half(v float32) uint16 {
	u := math.Float32bits(v)
	return uint16(u>>16&0x8000 | (u>>23&0xFF-112)<<10 | u>>13&0x3FF)
}

// TestScalesAreCastThenPermuted uses values of 8 significant bits, which every dtype holds.
func TestScalesAreCastThenPermuted(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	for _, p := range []Permutation{Grouped, Single} {
		for _, from := range []stages.DType{safetensors.F32, safetensors.F16, safetensors.BF16} {
			for _, to := range []stages.DType{safetensors.F16, safetensors.BF16} {
				o, err := MarlinScales(from, to, p)
				o = op(t, o, err)
				for _, n := range []int{64, 192, 1024, 1088, 4160} {
					for _, rows := range []int{0, 1, 5} {
						values := make([]float32, rows*n)
						want := make([]float32, rows*n)
						for i := range values {
							values[i] = float32(128+r.IntN(128)) / float32(int(1)<<r.IntN(10)) * float32(1-2*r.IntN(2))
						}
						for i := range want {
							at := i % n
							from := at/64*64 + 8*(at%8) + at%64/8
							if p == Single {
								from = at/32*32 + 2*(at%32/8) + at%2 + 8*(at%8/2)
							}
							want[i] = values[i-at+from]
						}
						if !bytes.Equal(inside(t, o, rows, 2*n, encode(from, values)), encode(to, want)) {
							t.Errorf("%s: %d rows of %d differ", o, rows, n)
						}
					}
				}
			}
		}
	}
}

func TestBadScales(t *testing.T) {
	const n = 2048
	values := make([]float32, 2*n)
	for i := range values {
		values[i] = 1
	}
	run := func(from, to stages.DType, at int, bits uint32) error {
		src := encode(from, values)
		if from == safetensors.F32 {
			binary.LittleEndian.PutUint32(src[4*at:], bits)
		} else {
			binary.LittleEndian.PutUint16(src[2*at:], uint16(bits))
		}
		o, err := MarlinScales(from, to, Grouped)
		j := &stages.Job{Dst: make([]byte, 4*n), Rows: 2, RowBytes: 2 * n, Stride: 2 * n, Src: [][]byte{src}, Inputs: []stages.Input{{Tensor: "m.scales"}}}
		return op(t, o, err).Run(j)
	}
	for name, err := range map[string]error{
		"element 4095 is not finite":        run(safetensors.F16, safetensors.F16, 4095, 0x7C00),
		"element 0 is not finite":           run(safetensors.F16, safetensors.BF16, 0, 0xFE01),
		"element 77 is not finite":          run(safetensors.BF16, safetensors.F16, 77, 0x7F80),
		"element 3000 is not finite":        run(safetensors.F32, safetensors.F16, 3000, 0xFF800000),
		"element 3001 does not fit in F16":  run(safetensors.F32, safetensors.F16, 3001, math.Float32bits(65520)),
		"element 1500 does not fit in F16":  run(safetensors.BF16, safetensors.F16, 1500, 0x7F7F),
		"element 1024 does not fit in BF16": run(safetensors.F32, safetensors.BF16, 1024, math.Float32bits(math.MaxFloat32)),
		"element 2048 does not fit in F16":  run(safetensors.F32, safetensors.F16, 2048, 0xC8000000),
	} {
		d, ok := errors.AsType[*stages.DataError](err)
		if !ok || d.Tensor != "m.scales" || !strings.Contains(err.Error(), name) {
			t.Errorf("error %v, want %q", err, name)
		}
	}
	if err := run(safetensors.F32, safetensors.F16, 5, math.Float32bits(65519)); err != nil {
		t.Errorf("65519 rounds to 65504: %v", err)
	}
}

// TestWrongSizes: a Part that the plan made wrongly is an error, never a panic or a write.
func TestWrongSizes(t *testing.T) {
	four, eight := GPTQMarlin4(), op(t, gptqMarlin{bits: 8}, nil)
	order, err := GPTQMarlinActOrder(4, 2)
	order = op(t, order, err)
	ex, err := GPTQExllama(4, 0)
	ex = op(t, ex, err)
	ex3, err := GPTQExllama(3, 0)
	ex3 = op(t, ex3, err)
	exOrder, err := GPTQExllama(4, 2)
	exOrder = op(t, exOrder, err)
	scales, err := MarlinScales(safetensors.F32, safetensors.F16, Grouped)
	scales = op(t, scales, err)
	single, err := MarlinScales(safetensors.F16, safetensors.F16, Single)
	single = op(t, single, err)
	for _, test := range []struct {
		op             stages.Op
		rows, rowBytes int
		src            []int
	}{
		{four, 1, 512, nil},
		{four, 1, 512, []int{511}},
		{four, 1, 512, []int{513}},
		{four, 1, 512, []int{512, 0}},
		{four, 2, 512, []int{512}},
		{four, 1, 256, []int{256}}, // half a tile
		{four, 1, 513, []int{513}},
		{four, 1, 4, []int{4}},
		{eight, 1, 512, []int{512}},
		{eight, 1, 1024, []int{512}},
		{order, 1, 512, []int{512}},
		{order, 1, 512, []int{512, 32}},
		{order, 1, 256, []int{256, 64}},
		{ex, 2, 8, []int{8}},
		{ex, 2, 8, []int{17}},
		{ex3, 2, 8, []int{16}},
		{exOrder, 2, 8, []int{16}},
		{exOrder, 2, 8, []int{16, 60}},
		{scales, 1, 128, []int{128}},
		{scales, 1, 64, []int{128}}, // half a block
		{scales, 1, 129, []int{258}},
		{scales, 2, 128, []int{256}},
		{single, 1, 32, []int{32}},
		{SortIndices(2), 1, 16, []int{12}},
		{SortedGroups(2), 1, 16, nil},
	} {
		t.Run(fmt.Sprint(test.op, test.rows, test.rowBytes, test.src), func(t *testing.T) {
			j := &stages.Job{Dst: make([]byte, test.rows*test.rowBytes), Rows: test.rows, RowBytes: test.rowBytes, Stride: test.rowBytes}
			for _, n := range test.src {
				j.Src, j.Inputs = append(j.Src, make([]byte, n)), append(j.Inputs, stages.Input{})
			}
			err := test.op.Run(j)
			if err == nil {
				t.Fatal("no error")
			}
			if _, ok := errors.AsType[*stages.DataError](err); ok {
				t.Errorf("%v blames the data", err)
			}
			if test.op.Phase() != stages.PhaseRepack {
				t.Errorf("phase %s", test.op.Phase())
			}
		})
	}
}

func TestOpsThatAreNot(t *testing.T) {
	for name, err := range map[string]error{
		"marlin 3 bits":       second(GPTQMarlin(3)),
		"marlin 0 bits":       second(GPTQMarlin(0)),
		"act-order 2 bits":    second(GPTQMarlinActOrder(2, 1)),
		"exllama 5 bits":      second(GPTQExllama(5, 0)),
		"exllama 3, ordered":  second(GPTQExllama(3, 4)),
		"scales to F32":       second(MarlinScales(safetensors.F16, safetensors.F32, Grouped)),
		"scales from I32":     second(MarlinScales(safetensors.I32, safetensors.F16, Grouped)),
		"scales from nothing": second(MarlinScales(safetensors.Invalid, safetensors.F16, Grouped)),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func second(_ stages.Op, err error) error { return err }

// TestRunDoesNotAllocate: an Op serves a million Parts.
func TestRunDoesNotAllocate(t *testing.T) {
	const n, rows = 256, 4
	four, eight := GPTQMarlin4(), op(t, gptqMarlin{bits: 8}, nil)
	scales, err := MarlinScales(safetensors.F32, safetensors.BF16, Grouped)
	scales = op(t, scales, err)
	same, err := MarlinScales(safetensors.F16, safetensors.F16, Single)
	same = op(t, same, err)
	for _, test := range []struct {
		op       stages.Op
		rowBytes int
		src      int
	}{{four, 8 * n, rows * 8 * n}, {eight, 16 * n, rows * 16 * n}, {scales, 2 * n, rows * 4 * n}, {same, 2 * n, rows * 2 * n}} {
		j := &stages.Job{Dst: make([]byte, rows*test.rowBytes), Rows: rows, RowBytes: test.rowBytes, Stride: test.rowBytes, Src: [][]byte{make([]byte, test.src)}}
		if allocs := testing.AllocsPerRun(20, func() {
			if err := test.op.Run(j); err != nil {
				t.Fatal(err)
			}
		}); allocs > 0 && (!raceEnabled || test.op != scales) { // only the cast takes memory from a pool
			t.Errorf("%s: %v allocations", test.op, allocs)
		}
	}
}

// FuzzMarlin compares the Op with the formula on any bytes.
func FuzzMarlin(f *testing.F) {
	f.Add([]byte{1, 2, 3}, uint8(1), uint8(1), false)
	f.Add([]byte(nil), uint8(0), uint8(0), true)
	f.Fuzz(func(t *testing.T, seed []byte, rows, tiles uint8, wide bool) {
		bits := 4
		if wide {
			bits = 8
		}
		k, n := 16*int(rows%4), 64*(1+int(tiles%4))
		qweight := make([]byte, k*n*bits/8)
		for i := range qweight {
			if len(seed) > 0 {
				qweight[i] = seed[i%len(seed)] + byte(i/len(seed))
			}
		}
		codes := make([]byte, k*n)
		w := words(qweight)
		for i := range codes {
			per := 32 / bits
			codes[i] = byte(w[i/n/per*n+i%n] >> (bits * (i / n % per)) & (1<<bits - 1))
		}
		o, err := GPTQMarlin(bits)
		if got := inside(t, op(t, o, err), k/16, 2*bits*n, qweight); !bytes.Equal(got, marlinSlow(codes, n, bits)) {
			t.Errorf("%d rows, %d columns, %d bits differ from the formula", k, n, bits)
		}
	})
}

// FuzzExllama3 compares the shuffle of 3-bit codes with the formula: codes straddle words.
func FuzzExllama3(f *testing.F) {
	f.Add(uint32(0x88FAC688), uint32(0xC688FAC6), uint32(0xFAC688FA))
	f.Fuzz(func(t *testing.T, a, b, c uint32) {
		stream := [3]uint32{a, b, c}
		codes := make([]byte, 32)
		for i := range codes {
			for bit := range 3 {
				at := 3*i + bit
				codes[i] |= byte(stream[at/32]>>(at%32)&1) << bit
			}
		}
		o, err := GPTQExllama(3, 0)
		if got := whole(t, op(t, o, err), 4, bytesOf(stream[:])); !bytes.Equal(got, exllamaSlow(codes, 1, 3)) {
			t.Errorf("%08X: %x differs from the formula", stream, got)
		}
	})
}

// TestMarlinScalesLarge: scales that go past the caches, more than one block of the cast, in rows next to each other and apart.
func TestMarlinScalesLarge(t *testing.T) {
	const rows, n = 9, castBlock + castBlock/2 + 64
	values := make([]float32, rows*n)
	r := rand.New(rand.NewPCG(8, 21))
	for i := range values {
		values[i] = float32(math.Ldexp(1+float64(r.IntN(64))/64, -r.IntN(8)))
	}
	src := scaleBytes(safetensors.F16, values)
	for mask := range cputest.Masks() {
		for _, to := range []stages.DType{safetensors.F16, safetensors.BF16} {
			for _, p := range []Permutation{Grouped, Single} {
				cast, want := scaleBytes(to, values), make([]byte, 2*rows*n)
				if p == Grouped {
					groupedRow(want, cast)
				} else {
					singleRow(want, cast)
				}
				op := mustOp(t)(MarlinScales(safetensors.F16, to, p))
				for _, gap := range []int{0, 64, 6} {
					stride := 2*n + gap
					j := &stages.Job{
						Dst: cputest.Aligned((rows-1)*stride+2*n, 0), Rows: rows, RowBytes: 2 * n, Stride: stride,
						Src: [][]byte{bytes.Clone(src)}, Inputs: []stages.Input{{Tensor: "m.scales"}},
					}
					if err := op.Run(j); err != nil {
						t.Fatal(err)
					}
					for i := range rows {
						if !bytes.Equal(j.Row(i), want[2*n*i:2*n*(i+1)]) {
							t.Fatalf("%s, %s, %s, rows %d bytes apart: row %d differs", mask, to, p, gap, i)
						}
					}
					const at = 5*n + castBlock + 7
					binary.LittleEndian.PutUint16(j.Src[0][2*at:], 0x7C00)
					if err := op.Run(j); err == nil || !strings.Contains(err.Error(), fmt.Sprint(at)) {
						t.Errorf("%s, %s, %s: error %v, want element %d", mask, to, p, err, at)
					}
				}
			}
		}
	}
}
