package decode

import (
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/x448/float16"

	"github.com/coldload/coldload/internal/cpu/cputest"
	"github.com/coldload/coldload/internal/optest"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

var nvfp4Names = optest.Sources{"weight", "weight_scale", "weight_scale_2", "more"}

// slowNVFP4 decodes one weight after the other, as the tools of either kind do.
func slowNVFP4(codes, scales []byte, n, k int, global float32, divisor bool, to stages.DType) (out []byte) {
	magnitude := [8]float32{0, 0.5, 1, 1.5, 2, 3, 4, 6}
	for i := range n * k {
		code := codes[i/2] >> (4 * (i % 2)) & 15
		v := magnitude[code&7]
		if code&8 != 0 {
			v = -v
		}
		c := scales[i/16]
		m := float64(c & 7)
		s := m * 0x1p-9
		if e := int(c >> 3 & 15); e > 0 {
			s = math.Ldexp(1+m/8, e-7)
		}
		if c&0x80 != 0 {
			s = -s
		}
		scale := float32(s)
		var w float32
		if divisor {
			scale /= global
			w = v * scale
		} else {
			w = v * scale
			w *= global
		}
		u := math.Float32bits(w)
		switch to {
		case safetensors.F32:
			out = binary.LittleEndian.AppendUint32(out, u)
		case safetensors.BF16:
			out = binary.LittleEndian.AppendUint16(out, uint16((u+0x7FFF+u>>16&1)>>16))
		default:
			out = binary.LittleEndian.AppendUint16(out, float16.Fromfloat32(w).Bits())
		}
	}
	return out
}

func le32(v float32) []byte { return binary.LittleEndian.AppendUint32(nil, math.Float32bits(v)) }

func TestNVFP4Dequant(t *testing.T) {
	r := rand.New(rand.NewPCG(16, 4))
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			for _, to := range []stages.DType{safetensors.F32, safetensors.F16, safetensors.BF16} {
				for _, divisor := range []bool{false, true} {
					op, err := NVFP4Dequant(divisor, to)
					if err != nil {
						t.Fatal(err)
					}
					for _, k := range []int{16, 32, 48, 80, 256, 1008} {
						n := 1 + r.IntN(9)
						codes, scales := make([]byte, n*k/2), make([]byte, n*k/16)
						for i := range codes {
							codes[i] = byte(r.Uint32())
						}
						for i := range scales {
							scales[i] = byte(r.IntN(0x7F)) | byte(r.IntN(8)/7)<<7
						}
						global := float32(math.Ldexp(1+r.Float64(), r.IntN(20)-18))
						if divisor {
							global = 1 / global
						}
						want := slowNVFP4(codes, scales, n, k, global, divisor, to)
						nvfp4Names.WantRows(t, op, n, want, codes, scales, le32(global))
					}
				}
			}
		})
	}
}

func TestNVFP4DequantRefuses(t *testing.T) {
	codes, scales := slices.Repeat([]byte{0x77}, 64), slices.Repeat([]byte{0x7E}, 8)
	inf := float32(math.Inf(1))
	for _, x := range []struct {
		what    string
		divisor bool
		to      stages.DType
		scale   byte
		global  float32
		tensor  string
	}{
		{"NaN scale", false, safetensors.F32, 0x7F, 1, "m.weight_scale"},
		{"negative NaN scale", true, safetensors.BF16, 0xFF, 1, "m.weight_scale"},
		{"infinite", false, safetensors.F32, 0x38, inf, "m.weight_scale_2"},
		{"no number", true, safetensors.F32, 0x38, float32(math.NaN()), "m.weight_scale_2"},
		{"zero divisor", true, safetensors.F32, 0x38, 0, "m.weight_scale_2"},
		{"tiny divisor", true, safetensors.F32, 0x38, 0x1p-125, "m.weight_scale_2"},
		{"too large for F16", false, safetensors.F16, 0x7E, 100, "m.weight_scale"},
		{"too large for F32", false, safetensors.F32, 0x7E, math.MaxFloat32 / 100, "m.weight_scale"},
		{"too large for BF16", true, safetensors.BF16, 0x7E, 0x1p-119, "m.weight_scale"},
	} {
		op, err := NVFP4Dequant(x.divisor, x.to)
		if err != nil {
			t.Fatal(err)
		}
		s := slices.Clone(scales)
		s[5] = x.scale
		j, _ := nvfp4Names.Job(2, 64*x.to.Bits()/8, 0, codes, s, le32(x.global))
		err = op.Run(j)
		if de, ok := errors.AsType[*stages.DataError](err); !ok || de.Tensor != x.tensor {
			t.Errorf("%s: %v", x.what, err)
		}
	}
	op, err := NVFP4Dequant(false, safetensors.BF16)
	if err != nil {
		t.Fatal(err)
	}
	nvfp4Names.RefusesSources(t, op, 2, 128, codes, scales, le32(1))
	nvfp4Names.Refuses(t, op, "K is no multiple of 16", 2, 2*24, codes[:24], scales[:2], le32(1))
	if _, err := NVFP4Dequant(false, safetensors.F8E4M3); !errors.Is(err, ErrNoCast) {
		t.Errorf("F8 weights: %v", err)
	}
}

func TestScalesOfMembers(t *testing.T) {
	names := optest.Sources{"weight_scale_2", "weight_scale_2"}
	warned := 0
	run := func(op stages.Op, a, b []byte) error {
		j, _ := names.Job(0, 0, 0, a, b)
		j.Warn = func(string, ...any) { warned++ }
		return op.Run(j)
	}
	if err := errors.Join(run(CheckSameScale(), le32(3), le32(3)), run(WarnOtherScale(), le32(3), le32(3))); err != nil || warned > 0 {
		t.Errorf("equal scales: %v, %d warnings", err, warned)
	}
	if _, ok := errors.AsType[*stages.DataError](run(CheckSameScale(), le32(3), le32(4))); !ok {
		t.Error("different scales are one")
	}
	if err := run(WarnOtherScale(), le32(3), le32(4)); err != nil || warned != 1 {
		t.Errorf("different scales: %v, %d warnings", err, warned)
	}
	for _, op := range []stages.Op{CheckSameScale(), WarnOtherScale()} {
		for _, bad := range [][]byte{le32(float32(math.NaN())), le32(float32(math.Inf(-1))), {1, 2, 3}, nil} {
			if run(op, bad, le32(1)) == nil || run(op, le32(1), bad) == nil {
				t.Errorf("%s: takes %x", op, bad)
			}
		}
	}
}

// FuzzNVFP4Dequant compares all targets with the slow way.
func FuzzNVFP4Dequant(f *testing.F) {
	f.Add(make([]byte, 40), float32(1), false, byte(0))
	f.Add(slices.Repeat([]byte{0x3F, 0xC4, 0x18}, 30), float32(0.003), true, byte(2))
	f.Fuzz(func(t *testing.T, b []byte, global float32, divisor bool, target byte) {
		const k = 32
		n := len(b) / (k/2 + k/16)
		if n == 0 || n > 100 {
			return
		}
		to := []stages.DType{safetensors.F32, safetensors.F16, safetensors.BF16}[target%3]
		codes, scales := b[:n*k/2], b[n*k/2:n*k/2+n*k/16]
		op, err := NVFP4Dequant(divisor, to)
		if err != nil {
			t.Fatal(err)
		}
		j, _ := nvfp4Names.Job(n, k*to.Bits()/8, 0, codes, scales, le32(global))
		err = op.Run(j)
		if _, ok := errors.AsType[*stages.DataError](err); err != nil && !ok {
			t.Fatal(err)
		}
		if err == nil && string(j.Dst) != string(slowNVFP4(codes, scales, n, k, global, divisor, to)) {
			t.Error("other weights")
		}
	})
}
