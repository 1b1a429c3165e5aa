package repack

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/coldload/coldload/internal/convert"
	"github.com/coldload/coldload/internal/cpu/cputest"
	"github.com/coldload/coldload/internal/optest"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// packRowsOf packs codes [K][N] along K, one row for each output.
func packRowsOf(codes []uint32, n, bits int) (out []byte) {
	row := make([]uint32, len(codes)/n)
	for c := range n {
		for k := range row {
			row[k] = codes[k*n+c]
		}
		out = append(out, gptqBytes(optest.PackAlong(row, bits, false))...)
	}
	return out
}

// TestRowsGolden: the golden vectors of the packing and of what becomes of it.
func TestRowsGolden(t *testing.T) {
	optest.WantGolden(t, "rows of 4 bits", packRowsOf(vectorCodes(4), vectorN, 4), 0x9549B76E, "12469b9bba33bbdd")
	for bits, want := range map[int]struct {
		crc, permCRC uint32
		sha, permSHA string
	}{
		4: {0x6E3F22E3, 0x500D3912, "7fcf76c26945d29e", "f97ebc455da2cde5"},
		8: {0x231479A8, 0xE36427F3, "322e1252971ad632", "4a63025834c195de"},
	} {
		src := packRowsOf(vectorCodes(bits), vectorN, bits)
		out := runOp(t, mustOp(t)(RowsMarlin(bits)), vectorK/16, 2*bits*vectorN, src)
		optest.WantGolden(t, fmt.Sprintf("marlin, %d bits", bits), out, want.crc, want.sha)
		out = runOp(t, mustOp(t)(RowsMarlinActOrder(bits, vectorK)), vectorK/16, 2*bits*vectorN, src, orderOf(vectorPerm()))
		optest.WantGolden(t, fmt.Sprintf("marlin, %d bits, act-order", bits), out, want.permCRC, want.permSHA)
	}
}

// TestRowsMarlin compares with the formula, with rows of words that end within a block.
func TestRowsMarlin(t *testing.T) {
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, 2))
			for _, bits := range []int{4, 8} {
				for _, rows := range []int{1, 2, 3, 4, 5, 7, 8, 9, 12, 16, 17, 20} {
					for _, n := range []int{64, 192} {
						k := tileK * rows
						codes := codesOf(r, k, n, bits)
						src := packRowsOf(codes, n, bits)
						sources.WantRows(t, mustOp(t)(RowsMarlin(bits)), rows, slowMarlin(codes, n, bits), src)
						g := balancedGroups(r, k, rows)
						want := slowMarlin(permuteRows(codes, n, slowPerm(g)), n, bits)
						sources.WantRows(t, mustOp(t)(RowsMarlinActOrder(bits, rows)), rows, want, src, gptqInts(g))
					}
				}
			}
		})
	}
}

// TestRowsMarlinLarge: modules whose destination goes past the caches, with rows apart, against GPTQ's way to the same words.
func TestRowsMarlinLarge(t *testing.T) {
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			r := rand.New(rand.NewPCG(3, 4))
			for _, bits := range []int{4, 8} {
				const rows, n = 68, 640
				codes := codesOf(r, tileK*rows, n, bits)
				want := runOp(t, mustOp(t)(GPTQMarlin(bits)), rows, 2*bits*n, optest.PackRows(codes, n, bits, false))
				src := cputest.AlignedCopy(packRowsOf(codes, n, bits), 56)
				for _, c := range []struct {
					gap, shift int
					soon       bool
				}{{0, 0, false}, {0, 0, true}, {64, 0, false}, {4, 4, false}} {
					stride := 2*bits*n + c.gap
					dst := cputest.Aligned(rows*stride, c.shift)
					for i := range dst {
						dst[i] = canary
					}
					j := stages.Job{Rows: rows, RowBytes: 2 * bits * n, Stride: stride, Src: [][]byte{src}, Dst: dst[:(rows-1)*stride+2*bits*n], Soon: c.soon}
					if err := mustOp(t)(RowsMarlin(bits)).Run(&j); err != nil {
						t.Fatal(err)
					}
					for i := range rows {
						row := dst[i*stride : (i+1)*stride]
						if !bytes.Equal(row[:2*bits*n], want[i*2*bits*n:(i+1)*2*bits*n]) || bytes.Count(row[2*bits*n:], []byte{canary}) != c.gap {
							t.Fatalf("bits=%d %+v: row %d differs, or more was written", bits, c, i)
						}
					}
				}
			}
		})
	}
}

// TestRowsMarlinGuarded: the kernels touch nothing before or behind their source and destination, wherever a row ends within a line.
func TestRowsMarlinGuarded(t *testing.T) {
	for mask := range cputest.Masks() {
		for _, bits := range []int{4, 8} {
			for rows := 1; rows <= 20; rows++ {
				for _, atEnd := range []bool{false, true} {
					const n = 128
					codes := codesOf(rand.New(rand.NewPCG(3, 5)), tileK*rows, n, bits)
					j := &stages.Job{
						Rows: rows, RowBytes: 2 * bits * n, Stride: 2 * bits * n, Src: [][]byte{cputest.Guarded(t, packRowsOf(codes, n, bits), atEnd)},
						Dst: cputest.Guarded(t, make([]byte, 2*bits*n*rows), atEnd),
					}
					if err := mustOp(t)(RowsMarlin(bits)).Run(j); err != nil {
						t.Fatalf("%s: %v", mask, err)
					}
					if !bytes.Equal(j.Dst, slowMarlin(codes, n, bits)) {
						t.Errorf("%s, %d bits, %d rows, at end %v: differs", mask, bits, rows, atEnd)
					}
				}
			}
		}
	}
}

// TestSignedRowsMarlin: signed codes become those that are 128 larger, and nothing is read or written around them.
func TestSignedRowsMarlin(t *testing.T) {
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			r := rand.New(rand.NewPCG(7, 2))
			for rows := 1; rows <= 20; rows++ {
				for _, n := range []int{64, 192} {
					codes := codesOf(r, tileK*rows, n, 8)
					src := packRowsOf(codes, n, 8)
					for i := range src {
						src[i] -= 128
					}
					want := slowMarlin(codes, n, 8)
					sources.WantRows(t, SignedRowsMarlin(), rows, want, src)
					for _, atEnd := range []bool{false, true} {
						j := &stages.Job{
							Rows: rows, RowBytes: 16 * n, Stride: 16 * n, Src: [][]byte{cputest.Guarded(t, src, atEnd)},
							Dst: cputest.Guarded(t, make([]byte, 16*n*rows), atEnd),
						}
						if err := SignedRowsMarlin().Run(j); err != nil || !bytes.Equal(j.Dst, want) {
							t.Errorf("%d rows of %d, at end %v: differs, error %v", rows, n, atEnd, err)
						}
					}
				}
			}
		})
	}
	refusesSizes(t, SignedRowsMarlin(), 3, 16*64, make([]byte, 3*16*64))
}

// TestRowsMarlinSeveralCalls: rows longer than a call of a kernel reads.
func TestRowsMarlinSeveralCalls(t *testing.T) {
	const n = 64
	for _, bits := range []int{4, 8} {
		rows := 300*32/bits + 3
		codes := codesOf(rand.New(rand.NewPCG(3, 6)), tileK*rows, n, bits)
		src, want := packRowsOf(codes, n, bits), slowMarlin(codes, n, bits)
		for mask := range cputest.Masks() {
			t.Run(fmt.Sprintf("%s/bits=%d", mask, bits), func(t *testing.T) {
				sources.WantRows(t, mustOp(t)(RowsMarlin(bits)), rows, want, src)
			})
		}
	}
}

// TestTransposeKernels: every number of words, against pages that cannot be touched.
func TestTransposeKernels(t *testing.T) {
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			for words := 0; words <= 35; words++ {
				for _, more := range []int{0, 4, 6} { // bytes of a row behind the words
					stride := 4*words + more
					b := random(uint64(words), max(0, (tileN-1)*stride+4*words))
					want := make([]byte, words*tileRow)
					transposeRows(want, b, stride)
					for r := range tileN {
						for w := range words {
							if !bytes.Equal(want[w*tileRow+4*r:][:4], b[r*stride+4*w:][:4]) {
								t.Fatalf("the reference: row %d, word %d", r, w)
							}
						}
					}
					for _, atEnd := range []bool{false, true} {
						if words == 0 {
							transpose(nil, nil, stride, 0, 0)
							continue
						}
						dst := cputest.Guarded(t, make([]byte, len(want)), atEnd)
						transpose(dst, cputest.Guarded(t, b, atEnd), stride, 1<<20, 64)
						if !bytes.Equal(dst, want) {
							t.Errorf("%d words, stride %d: differs", words, stride)
						}
					}
				}
			}
		})
	}
}

// TestRowsMarlinScales compares with the formula: every number of groups, cast or not.
func TestRowsMarlinScales(t *testing.T) {
	formula := map[Permutation]func(i int) int{
		Grouped: func(i int) int { return i&^63 + 8*(i%8) + i%64/8 },
		Single:  func(i int) int { return i&^31 + 2*(i%32/8) + i%2 + 8*(i%8/2) },
	}
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			r := rand.New(rand.NewPCG(5, 6))
			for groups := 1; groups < 70; groups++ {
				n := 64 * (1 + groups%3)
				from := []stages.DType{safetensors.F16, safetensors.BF16, safetensors.F32}[groups/3%3]
				to := []stages.DType{safetensors.F16, safetensors.BF16}[groups%2]
				var src []byte
				values := make([]uint16, 0, n*groups) // [N][G], in the target
				for range n * groups {
					v := convert.BF16ToF32(uint16(r.Uint32()&0x807F | 0x3C00)) // exact in F16, too
					src = appendFloat(src, from, v)
					values = append(values, binary.LittleEndian.Uint16(appendFloat(nil, to, v)))
				}
				for perm, at := range formula {
					var want []byte
					for g := range groups {
						for i := range n {
							want = binary.LittleEndian.AppendUint16(want, values[at(i)*groups+g])
						}
					}
					sources.WantRows(t, mustOp(t)(RowsMarlinScales(from, to, perm)), groups, want, src)
				}
			}
		})
	}
}

func appendFloat(b []byte, d stages.DType, v float32) []byte {
	switch d { //nolint:exhaustive // the dtypes of scales
	case safetensors.F16:
		return binary.LittleEndian.AppendUint16(b, convert.F32ToF16(v))
	case safetensors.BF16:
		return binary.LittleEndian.AppendUint16(b, convert.F32ToBF16(v))
	}
	var w [4]byte
	kernel, _ := convert.Func(safetensors.BF16, safetensors.F32)
	kernel(w[:], binary.LittleEndian.AppendUint16(nil, convert.F32ToBF16(v)))
	return append(b, w[:]...)
}

// TestScaleStrips: every number of groups, of one byte or two, in every order, against pages that cannot be touched.
func TestScaleStrips(t *testing.T) {
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			for size := 1; size <= 2; size++ {
				for groups := 1; groups <= 140; groups++ {
					order := []*columnOrder{&groupedColumns, &singleColumns, &fp4Columns}[groups%3]
					src := random(uint64(groups), tileN*groups*size)
					want := make([]byte, 0, len(src))
					for g := range groups {
						for _, from := range order {
							at := (from*groups + g) * size
							want = append(want, src[at:at+size]...)
						}
					}
					for _, atEnd := range []bool{false, true} {
						dst := cputest.Guarded(t, make([]byte, len(src)), atEnd)
						strips := newScaleStrips(&stages.Job{Rows: groups, RowBytes: tileN * size, Stride: tileN * size}, size, order)
						strips.stream = groups%2 == 0
						strips.transpose(dst, cputest.Guarded(t, src, atEnd))
						if !bytes.Equal(dst, want) {
							t.Fatalf("size %d, %d groups: differs", size, groups)
						}
					}
				}
			}
		})
	}
}

// checkScaleStrips transposes a strip of scales as every kind of processor, and compares with the reference.
func checkScaleStrips(t *testing.T, seed uint64, groups, size, gap int, order *columnOrder, stream, atEnd bool) {
	t.Helper()
	row, stride := tileN*size, tileN*size+gap
	src := random(seed, tileN*groups*size)
	j := &stages.Job{Rows: groups, RowBytes: row, Stride: stride}
	want := make([]byte, groups*stride)
	newScaleStrips(j, size, order).generic(want, src)
	for mask := range cputest.Masks() {
		s := newScaleStrips(j, size, order)
		s.stream = stream && stride%64 == 0
		framed, dst := canaries((groups-1)*stride + row)
		s.transpose(dst, cputest.Guarded(t, src, atEnd))
		for g := range groups {
			if string(dst[g*stride:][:row]) != string(want[g*stride:][:row]) {
				t.Fatalf("%s: group %d of %d, %d bytes, stream %v: differs", mask, g, groups, size, stream)
			}
		}
		wantFrame(t, framed, groups, row, stride)
	}
}

// TestScaleStripKernels: what lies between the rows of scales stays as it is, and rows that begin anywhere are no whole lines.
func TestScaleStripKernels(t *testing.T) {
	orders := []*columnOrder{&groupedColumns, &singleColumns, &fp4Columns}
	for groups := 1; groups <= 140; groups += 3 {
		for _, size := range []int{1, 2} {
			for i, gap := range []int{0, 64, 4} {
				checkScaleStrips(t, uint64(groups), groups, size, gap, orders[(i+groups)%3], i < 2, groups%2 == 0)
			}
		}
	}
}

func FuzzScaleStripKernels(f *testing.F) {
	f.Add(uint64(1), uint8(65), uint8(0), true, true, false)
	f.Fuzz(func(t *testing.T, seed uint64, groups, gap uint8, wide, stream, atEnd bool) {
		size := 1
		if wide {
			size = 2
		}
		order := []*columnOrder{&groupedColumns, &singleColumns, &fp4Columns}[seed%3]
		checkScaleStrips(t, seed, 1+int(groups), size, int(gap), order, stream, atEnd)
	})
}

// TestRowsRefuse: sizes that do not fit, orders and values that cannot be.
func TestRowsRefuse(t *testing.T) {
	for _, bits := range []int{4, 8} {
		refusesSizes(t, mustOp(t)(RowsMarlin(bits)), 3, 2*bits*64, make([]byte, 3*2*bits*64))
		refusesSizes(t, mustOp(t)(RowsMarlinActOrder(bits, 3)), 3, 2*bits*64, make([]byte, 3*2*bits*64), gptqInts(balancedGroups(rand.New(rand.NewPCG(1, 1)), 48, 3)))
		sources.Refuses(t, mustOp(t)(RowsMarlinActOrder(bits, 3)), "groups of several sizes", 3, 2*bits*64, make([]byte, 3*2*bits*64), make([]byte, 4*48))
	}
	scales := mustOp(t)(RowsMarlinScales(safetensors.F16, safetensors.F16, Grouped))
	refusesSizes(t, scales, 3, 2*64, make([]byte, 3*2*64))
	for _, bits := range []uint16{0x7C00, 0xFC00, 0x7E00} {
		b := make([]byte, 3*2*64)
		binary.LittleEndian.PutUint16(b[10:], bits)
		sources.Refuses(t, scales, "not finite", 3, 2*64, b)
	}
	large := make([]byte, 4*64)
	binary.LittleEndian.PutUint32(large[4*5:], 0x47800000) // 65536
	sources.Refuses(t, mustOp(t)(RowsMarlinScales(safetensors.F32, safetensors.F16, Single)), "does not fit", 1, 2*64, large)
	for _, op := range []func() (stages.Op, error){
		func() (stages.Op, error) { return RowsMarlin(3) },
		func() (stages.Op, error) { return RowsMarlinActOrder(2, 1) },
		func() (stages.Op, error) { return RowsMarlinScales(safetensors.F16, safetensors.F32, Single) },
		func() (stages.Op, error) { return RowsMarlinScales(safetensors.I32, safetensors.F16, Single) },
	} {
		if op, err := op(); err == nil {
			t.Errorf("%v was made", op)
		}
	}
}

// FuzzRowsMarlin: any codes and any order, against GPTQ's way to the same words.
func FuzzRowsMarlin(f *testing.F) {
	f.Add(uint64(1), uint8(3), uint8(1), true, false)
	f.Add(uint64(2), uint8(9), uint8(2), false, true)
	f.Fuzz(func(t *testing.T, seed uint64, tiles, columns uint8, eight, order bool) {
		r := rand.New(rand.NewPCG(seed, 7))
		bits, rows, n := 4, int(tiles%40)+1, 64*(int(columns%4)+1)
		if eight {
			bits = 8
		}
		codes := codesOf(r, tileK*rows, n, bits)
		src, gptq := [][]byte{packRowsOf(codes, n, bits)}, [][]byte{optest.PackRows(codes, n, bits, false)}
		op, reference := mustOp(t)(RowsMarlin(bits)), mustOp(t)(GPTQMarlin(bits))
		if order {
			g := gptqInts(balancedGroups(r, tileK*rows, 4*rows))
			src, gptq = append(src, g), append(gptq, g)
			op, reference = mustOp(t)(RowsMarlinActOrder(bits, 4*rows)), mustOp(t)(GPTQMarlinActOrder(bits, 4*rows))
		}
		want := runOp(t, reference, rows, 2*bits*n, gptq...)
		for mask := range cputest.Masks() {
			t.Run(mask, func(t *testing.T) { sources.WantRows(t, op, rows, want, src...) })
		}
	})
}
