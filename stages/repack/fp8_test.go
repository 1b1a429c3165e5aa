package repack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/coldload/coldload/internal/convert"
	"github.com/coldload/coldload/internal/cpu/cputest"
	"github.com/coldload/coldload/internal/optest"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// alongK are codes [K][N] as [N][K] bytes.
func alongK(codes []uint32, n int) []byte {
	k := len(codes) / n
	out := make([]byte, len(codes))
	for i, c := range codes {
		out[i%n*k+i/n] = byte(c)
	}
	return out
}

func TestFP8Marlin(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 11))
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			for _, n := range []int{64, 128, 320} {
				for _, k := range []int{16, 32, 48, 64, 80, 112, 128, 192, 208, 240, 1024} {
					codes := codesOf(r, k, n, 8)
					sources.WantRows(t, FP8Marlin(), k/16, slowMarlin(codes, n, 8), alongK(codes, n))
				}
			}
		})
	}
}

// TestFP8MarlinGolden: the golden codes of 8 bits give the golden words, wherever they come from.
func TestFP8MarlinGolden(t *testing.T) {
	for mask := range cputest.Masks() {
		words := runOp(t, FP8Marlin(), vectorK/16, 16*vectorN, alongK(vectorCodes(8), vectorN))
		optest.WantGolden(t, "marlin 8-bit, "+mask, words, 0x231479A8, "322e1252971ad632")
	}
}

// TestFP8MarlinLarge is long enough for several calls of a kernel and for stores past the caches.
func TestFP8MarlinLarge(t *testing.T) {
	const n, k = 64, 20480
	codes := codesOf(rand.New(rand.NewPCG(8, 12)), k, n, 8)
	src, want := alongK(codes, n), slowMarlin(codes, n, 8)
	for mask := range cputest.Masks() {
		for _, soon := range []bool{false, true} {
			j := &stages.Job{Dst: make([]byte, len(want)), Rows: k / 16, RowBytes: 16 * n, Stride: 16 * n, Src: [][]byte{src}, Soon: soon}
			if err := FP8Marlin().Run(j); err != nil {
				t.Fatal(err)
			}
			if string(j.Dst) != string(want) {
				t.Errorf("%s, soon %v: other words", mask, soon)
			}
		}
	}
}

func TestFP8MarlinRefuses(t *testing.T) {
	refusesSizes(t, FP8Marlin(), 2, 16*64, make([]byte, 32*64))
	sources.Refuses(t, FP8Marlin(), "32 columns", 2, 16*32, make([]byte, 32*32))
}

// slowScales follows LAYOUTS C3: transpose, repeat, cut, cast, permute, multiply.
func slowScales(scales []float32, b stages.Blocks, n, groups int, to stages.DType, p Permutation, factor float32) (out []byte) {
	for g := range groups {
		row := make([]byte, 0, 2*n)
		for i := range int64(n) {
			at := int64(0)
			if b.Rows > 0 {
				at = i / b.Rows
			}
			s := scales[int(at)*groups+g]
			if to == safetensors.F16 {
				row = binary.LittleEndian.AppendUint16(row, convert.F32ToF16(convert.F16ToF32(convert.F32ToF16(s))*factor))
			} else {
				row = binary.LittleEndian.AppendUint16(row, convert.F32ToBF16(convert.BF16ToF32(convert.F32ToBF16(s))*factor))
			}
		}
		permuted := make([]byte, len(row))
		p.row(permuted, row)
		out = append(out, permuted...)
	}
	return out
}

func scaleBytes(d stages.DType, scales []float32) (b []byte) {
	for _, s := range scales {
		switch d { //nolint:exhaustive // what the tests use
		case safetensors.F32:
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(s))
		case safetensors.BF16:
			b = binary.LittleEndian.AppendUint16(b, convert.F32ToBF16(s))
		case safetensors.F16:
			b = binary.LittleEndian.AppendUint16(b, convert.F32ToF16(s))
		case safetensors.F8E8M0:
			b = append(b, byte(math.Float32bits(s)>>23))
		}
	}
	return b
}

func TestFP8MarlinScales(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 13))
	factors := map[stages.DType]map[stages.Exponent]float32{
		safetensors.F16:  {"": 256, stages.ExponentFused: 256, stages.ExponentPlain: 1},
		safetensors.BF16: {"": 0x1p120, stages.ExponentFused: 0x1p120, stages.ExponentPlain: 1},
	}
	for _, from := range []stages.DType{safetensors.F32, safetensors.BF16, safetensors.F16, safetensors.F8E8M0} {
		for to, exponents := range factors {
			for exponent, factor := range exponents {
				for _, b := range []stages.Blocks{{}, {Rows: 1}, {Rows: 1, Cols: 128}, {Rows: 128, Cols: 128}, {Rows: 100, Cols: 128}} {
					for _, n := range []int{64, 192, 576} {
						groups, perm := 1, Single
						if b.Cols > 0 {
							groups, perm = 3, Grouped
						}
						rows, _ := b.Grid(int64(n), 1)
						scales := make([]float32, int(rows)*groups)
						for i := range scales {
							scales[i] = float32(math.Ldexp(1, -r.IntN(10)))
							if from != safetensors.F8E8M0 {
								scales[i] *= 1 + float32(r.IntN(128))/128
							}
						}
						op := mustOp(t)(FP8MarlinScales(b, from, to, perm, exponent))
						sources.WantRows(t, op, groups, slowScales(scales, b, n, groups, to, perm, factor), scaleBytes(from, scales))
					}
				}
			}
		}
	}
}

// TestFP8MarlinScalesFaults: what is not finite, before the cast, after it or with the factor, is named.
func TestFP8MarlinScalesFaults(t *testing.T) {
	for _, x := range []struct {
		scale    float32
		to       stages.DType
		exponent stages.Exponent
		says     string // "" for none
	}{
		{float32(math.NaN()), safetensors.BF16, stages.ExponentPlain, "finite"},
		{255, safetensors.BF16, stages.ExponentFused, ""},
		{256, safetensors.BF16, stages.ExponentFused, "2^120"},
		{256, safetensors.BF16, stages.ExponentPlain, ""},
		{255, safetensors.F16, stages.ExponentFused, ""},
		{256, safetensors.F16, stages.ExponentFused, "2^8"},
		{70000, safetensors.F16, stages.ExponentPlain, "F16"},
	} {
		op := mustOp(t)(FP8MarlinScales(stages.Blocks{}, safetensors.F32, x.to, Single, x.exponent))
		j, _ := sources.Job(1, 128, 0, scaleBytes(safetensors.F32, []float32{x.scale}))
		err := op.Run(j)
		data, ok := errors.AsType[*stages.DataError](err)
		if x.says == "" && err != nil || x.says != "" && (!ok || !strings.Contains(err.Error(), x.says) || data.Tensor != "m.qweight") {
			t.Errorf("%g to %s, %s: error %v, want %q", x.scale, x.to, x.exponent, err, x.says)
		}
	}
	op := mustOp(t)(FP8MarlinScales(stages.Blocks{Rows: 128, Cols: 128}, safetensors.F32, safetensors.BF16, Grouped, ""))
	refusesSizes(t, op, 2, 512, make([]byte, 2*2*4))
	for _, d := range [][2]stages.DType{{safetensors.F32, safetensors.F32}, {safetensors.I32, safetensors.BF16}} {
		if _, err := FP8MarlinScales(stages.Blocks{}, d[0], d[1], Single, ""); err == nil {
			t.Errorf("%s to %s: no error", d[0], d[1])
		}
	}
}

// TestFP8MarlinFuse: every finite number among others times the factor, eight at a time, is what the formula makes of it.
func TestFP8MarlinFuse(t *testing.T) {
	for _, to := range []stages.DType{safetensors.F16, safetensors.BF16} {
		op, ok := mustOp(t)(FP8MarlinScales(stages.Blocks{}, safetensors.F32, to, Single, stages.ExponentFused)).(*fp8MarlinScales)
		if !ok {
			t.Fatal("another Op")
		}
		for h := range uint16(0xFFFF) {
			if h&op.infinite == op.infinite {
				continue
			}
			b := make([]byte, 18) // eight and one
			for i := range 9 {
				binary.LittleEndian.PutUint16(b[2*i:], op.normal)
			}
			at := int(h % 9)
			binary.LittleEndian.PutUint16(b[2*at:], h)
			want, bad := bytes.Clone(b), -1
			for i := 0; i < len(b) && bad < 0; i += 2 {
				v := op.value(b[i:]) * op.factor
				made := scaleBytes(to, []float32{v})
				if math.IsInf(float64(op.value(made)), 0) {
					bad = i / 2
				} else {
					copy(want[i:], made)
				}
			}
			if got := op.fuse(b); got != bad || bad < 0 && !bytes.Equal(b, want) || bad >= 0 && !bytes.Equal(b[2*bad:2*bad+2], want[2*bad:2*bad+2]) {
				t.Fatalf("%s %#04x: %d and %x, want %d and %x", to, h, got, b, bad, want)
			}
		}
	}
}

// FuzzFP8Marlin compares the kernels with the formula.
func FuzzFP8Marlin(f *testing.F) {
	f.Add(uint64(1), uint8(1), uint8(5))
	f.Add(uint64(2), uint8(3), uint8(64))
	f.Fuzz(func(t *testing.T, seed uint64, tiles, rows uint8) {
		n, k := tileN*(int(tiles%4)+1), tileK*(int(rows%80)+1)
		codes := codesOf(rand.New(rand.NewPCG(seed, 14)), k, n, 8)
		sources.WantRows(t, FP8Marlin(), k/tileK, slowMarlin(codes, n, 8), alongK(codes, n))
	})
}

// FuzzFP8MarlinScales: any scales, in blocks of any size, against the formula.
func FuzzFP8MarlinScales(f *testing.F) {
	f.Add(uint64(1), uint8(3), uint8(1), uint8(1), true)
	f.Add(uint64(2), uint8(40), uint8(2), uint8(128), false)
	f.Fuzz(func(t *testing.T, seed uint64, groups, columns, block uint8, half bool) {
		r := rand.New(rand.NewPCG(seed, 15))
		g, n, b := int(groups%80)+1, 64*(int(columns%4)+1), stages.Blocks{Rows: int64(block), Cols: 128}
		to, factor := safetensors.BF16, float32(0x1p120)
		if half {
			to, factor = safetensors.F16, 256
		}
		rows, _ := b.Grid(int64(n), 1)
		scales := make([]float32, int(rows)*g)
		for i := range scales {
			scales[i] = float32(math.Ldexp(1+r.Float64(), -r.IntN(12)-2))
		}
		want := slowScales(scales, b, n, g, to, Grouped, factor)
		for mask := range cputest.Masks() {
			t.Run(mask, func(t *testing.T) {
				op := mustOp(t)(FP8MarlinScales(b, safetensors.F32, to, Grouped, stages.ExponentFused))
				sources.WantRows(t, op, g, want, scaleBytes(safetensors.F32, scales))
			})
		}
	})
}
