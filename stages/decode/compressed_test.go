package decode

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/x448/float16"

	"github.com/coldload/coldload/internal/cpu/cputest"
	"github.com/coldload/coldload/internal/optest"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// rowsSources are the inputs of RowsDequant, and one more than it has.
var rowsSources = optest.Sources{"weight_packed", "weight_scale", "weight_zero_point", "weight_g_idx", "x"}

// rowsCase is a module with its sources and the weights that it must become.
type rowsCase struct {
	op      stages.Op
	n       int
	src     [][]byte
	weights []byte
}

// newRowsCase makes a module of random codes by the formula, one weight at a time.
func newRowsCase(tb testing.TB, r *rand.Rand, l RowsLayout, n int, scales, to stages.DType) *rowsCase {
	tb.Helper()
	op, err := RowsDequant(l, scales, to)
	if err != nil {
		tb.Fatal(err)
	}
	k, per := l.Group*l.Groups, 32/l.Bits
	codes, zeros, s := make([]uint32, k), make([]uint32, (n+per-1)/per*per*l.Groups), make([]float32, n*l.Groups)
	for i := range zeros { // [N][G]
		zeros[i] = r.Uint32() & (1<<l.Bits - 1)
	}
	order := make([]byte, 4*k)
	for i := range k {
		g := i / l.Group
		if l.ActOrder {
			g = r.IntN(l.Groups)
		}
		binary.LittleEndian.PutUint32(order[4*i:], uint32(g))
	}
	c := &rowsCase{op: op, n: n, src: make([][]byte, 2)}
	if l.OneScale {
		s = s[:1]
	}
	for i := range s {
		s[i] = math.Float32frombits(r.Uint32()&0x80070000 | 0x3C000000) // exact in every dtype
		c.src[rowsScales] = appendRounded(c.src[rowsScales], scales, s[i])
	}
	for row := range n {
		for i := range codes {
			codes[i] = r.Uint32() & (1<<l.Bits - 1)
			g := int(binary.LittleEndian.Uint32(order[4*i:]))
			z := uint32(1) << (l.Bits - 1)
			if !l.Symmetric {
				z = zeros[row*l.Groups+g]
			}
			c.weights = appendRounded(c.weights, to, s[(row*l.Groups+g)%len(s)]*float32(int(codes[i])-int(z)))
			if l.Signed {
				codes[i] = uint32(uint8(int8(int(codes[i]) - 128)))
			}
		}
		for _, w := range optest.PackAlong(codes, l.Bits, false) {
			c.src[rowsCodes] = binary.LittleEndian.AppendUint32(c.src[rowsCodes], w)
		}
	}
	if !l.Symmetric {
		words := make([]uint32, len(zeros)/per)
		for i, z := range zeros {
			row, g := i/l.Groups, i%l.Groups
			words[row/per*l.Groups+g] |= z << (l.Bits * (row % per))
		}
		var b []byte
		for _, w := range words {
			b = binary.LittleEndian.AppendUint32(b, w)
		}
		c.src = append(c.src, b)
	}
	if l.ActOrder {
		c.src = append(c.src, order)
	}
	return c
}

var rowsLayouts = []RowsLayout{
	{Symmetric: true, Group: 32, Groups: 5},
	{Symmetric: true, Group: 128, Groups: 3},
	{Symmetric: true, Group: 96, Groups: 1},
	{Group: 32, Groups: 4},
	{Group: 64, Groups: 1},
	{Symmetric: true, Group: 8, Groups: 9},
	{Group: 40, Groups: 3},
	{Symmetric: true, ActOrder: true, Group: 32, Groups: 40},
	{ActOrder: true, Group: 64, Groups: 2},
}

// TestRowsDequant compares with the formula: every layout, dtype and kind of processor.
func TestRowsDequant(t *testing.T) {
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, 3))
			for _, l := range rowsLayouts {
				for _, l.Bits = range []int{4, 8} {
					for _, scales := range dequantTargets {
						for _, to := range dequantTargets {
							c := newRowsCase(t, r, l, 1+r.IntN(20), scales, to)
							rowsSources.WantRows(t, c.op, c.n, c.weights, c.src...)
						}
					}
				}
			}
		})
	}
}

// TestRowsDequantSigned: codes stored as what they are, with scales of groups, of output features and of the module.
func TestRowsDequantSigned(t *testing.T) {
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			r := rand.New(rand.NewPCG(6, 3))
			for _, l := range []RowsLayout{
				{Group: 32, Groups: 5, Signed: true},
				{Group: 104, Groups: 1, Signed: true},
				{Group: 96, Groups: 1, Signed: true, OneScale: true},
				{Group: 160, Groups: 1, OneScale: true},
			} {
				l.Bits, l.Symmetric = 8, true
				for _, scales := range dequantTargets {
					for _, to := range dequantTargets {
						c := newRowsCase(t, r, l, 1+r.IntN(20), scales, to)
						rowsSources.WantRows(t, c.op, c.n, c.weights, c.src...)
					}
				}
				c := newRowsCase(t, r, l, 7, safetensors.F16, safetensors.F16)
				if !l.OneScale { // which is shorter than what is taken away there
					rowsSources.RefusesSources(t, c.op, c.n, len(c.weights)/c.n, c.src...)
				}
				rowsSources.Refuses(t, c.op, "a row too many", c.n+1, len(c.weights)/c.n, c.src...)
				binary.LittleEndian.PutUint16(c.src[rowsScales], float16.Fromfloat32(60000).Bits())
				c.src[rowsCodes][3] = 0x81
				j, _ := rowsSources.Job(c.n, len(c.weights)/c.n, 0, c.src...)
				if err := c.op.Run(j); err == nil || !strings.Contains(err.Error(), "60000 times") {
					t.Errorf("error %v", err)
				}
			}
		})
	}
}

// TestRowsDequantLarge: destinations that go past the caches, on a line and off it, with rows apart.
func TestRowsDequantLarge(t *testing.T) {
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			r := rand.New(rand.NewPCG(2, 3))
			for _, bits := range []int{4, 8} {
				for _, to := range dequantTargets {
					const n = 130
					c := newRowsCase(t, r, RowsLayout{Bits: bits, Group: 32, Groups: 34}, n, safetensors.BF16, to)
					row := len(c.weights) / n
					for _, x := range []struct{ gap, shift int }{{0, 0}, {64, 0}, {4, 0}, {0, 4}} {
						stride := row + x.gap
						dst := cputest.Aligned(n*stride, x.shift)
						for i := range dst {
							dst[i] = optest.Canary
						}
						j := stages.Job{Rows: n, RowBytes: row, Stride: stride, Dst: dst[:(n-1)*stride+row], Src: c.src}
						if err := c.op.Run(&j); err != nil {
							t.Fatal(err)
						}
						for i := range n {
							got := dst[i*stride : (i+1)*stride]
							if !bytes.Equal(got[:row], c.weights[i*row:(i+1)*row]) || bytes.Count(got[row:], []byte{optest.Canary}) != x.gap {
								t.Fatalf("bits=%d %s %+v: row %d differs, or more was written", bits, to, x, i)
							}
						}
					}
				}
			}
		})
	}
}

// TestRowsKernelsStayInside: sources and destinations lie against pages that cannot be touched.
func TestRowsKernelsStayInside(t *testing.T) {
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			r := rand.New(rand.NewPCG(3, 3))
			for _, bits := range []int{4, 8} {
				for _, to := range dequantTargets {
					for _, atEnd := range []bool{false, true} {
						c := newRowsCase(t, r, RowsLayout{Bits: bits, Group: 32, Groups: 3}, 9, safetensors.F16, to)
						j, _ := rowsSources.Job(c.n, len(c.weights)/c.n, 0, c.src...)
						j.Dst = cputest.Guarded(t, make([]byte, len(c.weights)), atEnd)
						for i := range j.Src {
							j.Src[i] = cputest.Guarded(t, c.src[i], atEnd)
						}
						if err := c.op.Run(j); err != nil || !bytes.Equal(j.Dst, c.weights) {
							t.Errorf("bits=%d %s: error %v, or other weights", bits, to, err)
						}
					}
				}
			}
		})
	}
}

// TestRowsDequantFaults: values that cannot be, named, whatever the kernel.
func TestRowsDequantFaults(t *testing.T) {
	l := RowsLayout{Bits: 4, Symmetric: true, Group: 32, Groups: 2}
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			r := rand.New(rand.NewPCG(4, 3))
			fails := func(l RowsLayout, scales, to stages.DType, change func(src [][]byte), says ...string) {
				t.Helper()
				c := newRowsCase(t, r, l, 3, scales, to)
				change(c.src)
				j, _ := rowsSources.Job(c.n, len(c.weights)/c.n, 0, c.src...)
				err := c.op.Run(j)
				for _, s := range says {
					if err == nil || !strings.Contains(err.Error(), s) {
						t.Errorf("error %v, does not say %q", err, s)
					}
				}
			}
			infinite := func(src [][]byte) { binary.LittleEndian.PutUint16(src[rowsScales][6:], 0x7C00) }
			fails(l, safetensors.F16, safetensors.BF16, infinite, "m.weight_scale")
			large := func(src [][]byte) {
				binary.LittleEndian.PutUint16(src[rowsScales][6:], float16.Fromfloat32(60000).Bits())
				copy(src[rowsCodes][48:64], bytes.Repeat([]byte{0xFF}, 16)) // row 1, group 1: 7 times 60000
			}
			fails(l, safetensors.F16, safetensors.F16, large, "m.weight_scale", "output 1, input 32", "60000 times 7")
			order := RowsLayout{Bits: 4, ActOrder: true, Group: 32, Groups: 2}
			for _, g := range []uint32{2, math.MaxUint32} {
				fails(order, safetensors.F16, safetensors.F32, func(src [][]byte) { binary.LittleEndian.PutUint32(src[3][20:], g) }, "m.weight_g_idx", "g_idx[5]", "0 to 1")
			}
		})
	}
	for _, l := range []RowsLayout{
		{Bits: 3, Group: 32, Groups: 1},
		{Bits: 4, Groups: 1},
		{Bits: 4, Group: 32},
		{Bits: 4, Symmetric: true, Signed: true, Group: 32, Groups: 1},
		{Bits: 8, Signed: true, Group: 32, Groups: 1},
		{Bits: 4, Symmetric: true, OneScale: true, Group: 32, Groups: 2},
		{Bits: 4, OneScale: true, Group: 32, Groups: 1},
	} {
		if op, err := RowsDequant(l, safetensors.F16, safetensors.F16); err == nil {
			t.Errorf("%v was made of %+v", op, l)
		}
	}
	c := newRowsCase(t, rand.New(rand.NewPCG(5, 5)), RowsLayout{Bits: 4, ActOrder: true, Group: 32, Groups: 2}, 8, safetensors.F16, safetensors.BF16)
	rowsSources.RefusesSources(t, c.op, c.n, len(c.weights)/c.n, c.src...)
	rowsSources.Refuses(t, c.op, "a row too many", c.n+1, len(c.weights)/c.n, c.src...)
	rowsSources.Refuses(t, c.op, "rows too wide", c.n, len(c.weights)/c.n+2, c.src...)
}

// TestCheckShape reads both dtypes.
func TestCheckShape(t *testing.T) {
	op := CheckShape([]int64{256, 128}, 512)
	for _, x := range []struct {
		n, k int64
		ok   bool
	}{{256, 512, true}, {128, 512, true}, {512, 256, false}, {256, 511, false}, {-1, 512, false}, {0, 0, false}} {
		wide := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, uint64(x.n)), uint64(x.k))
		narrow := binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, uint32(x.n)), uint32(x.k))
		for _, b := range [][]byte{wide, narrow} {
			j, _ := optest.Sources{"weight_shape"}.Job(0, 0, 0, b)
			err := op.Run(j)
			if (err == nil) != x.ok || err != nil && !strings.Contains(err.Error(), fmt.Sprintf("m.weight_shape: contradicts the shape of weight_packed (expected [256, 512], found [%d, %d])", x.n, x.k)) {
				t.Errorf("%d x %d in %d bytes: error %v", x.n, x.k, len(b), err)
			}
		}
	}
	optest.Sources{"weight_shape", "x"}.RefusesSources(t, op, 0, 0, make([]byte, 16))
}

// FuzzRowsDequant: any layout, against the formula.
func FuzzRowsDequant(f *testing.F) {
	f.Add(uint64(1), uint8(4), uint8(2), uint8(3), uint8(3))
	f.Add(uint64(2), uint8(1), uint8(9), uint8(1), uint8(60))
	f.Fuzz(func(t *testing.T, seed uint64, eighths, groups, rows, options uint8) {
		l := RowsLayout{Bits: 4, Symmetric: options&1 != 0, ActOrder: options&2 != 0, Group: 8 * (1 + int(eighths)%40), Groups: 1 + int(groups)%12}
		if options&4 != 0 {
			l.Bits = 8
		}
		if seed%5 == 0 {
			l.Symmetric, l.Bits, l.Signed = true, 8, true
		}
		if seed%3 == 0 {
			l.Symmetric, l.OneScale, l.Groups = true, true, 1
		}
		c := newRowsCase(t, rand.New(rand.NewPCG(seed, 9)), l, 1+int(rows)%40, dequantTargets[options/8%3], dequantTargets[options/24%3])
		for mask := range cputest.Masks() {
			t.Run(mask, func(t *testing.T) { rowsSources.WantRows(t, c.op, c.n, c.weights, c.src...) })
		}
	})
}
