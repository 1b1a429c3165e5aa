package decode_test

import (
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/coldload/coldload/gguf"
	"github.com/coldload/coldload/internal/convert"
	"github.com/coldload/coldload/internal/optest"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/decode"
)

var ggufSource = optest.Sources{"weight", "one too many"}

// ggufReference decodes with the formula, and rounds with the scalar conversion. What F16 cannot hold is told by ok.
func ggufReference(t gguf.Type, to stages.DType, src []byte) (out []byte, ok bool) {
	elements, size := t.Block()
	for ; len(src) > 0; src = src[size:] {
		for e := range int(elements) {
			v := optest.GGUFValue(t, src[:size], e)
			switch to {
			case safetensors.F32:
				out = binary.LittleEndian.AppendUint32(out, math.Float32bits(v))
			case safetensors.F16:
				h := convert.F32ToF16(v)
				if h&0x7C00 == 0x7C00 {
					return nil, false
				}
				out = binary.LittleEndian.AppendUint16(out, h)
			default:
				out = binary.LittleEndian.AppendUint16(out, convert.F32ToBF16(v))
			}
		}
	}
	return out, true
}

func TestGGUFDequant(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, typ := range optest.GGUFTypes {
		elements, _ := typ.Block()
		for _, to := range []stages.DType{safetensors.F32, safetensors.F16, safetensors.BF16} {
			op, err := decode.GGUFDequant(typ, to)
			if err != nil {
				t.Fatal(err)
			}
			done := 0
			for _, shape := range [][2]int{{1, 1}, {1, 2}, {3, 1}, {2, 5}, {5, 16 * 256 / int(elements)}, {1, 9000 / int(elements)}} {
				src := optest.GGUFBlocks(r, typ, shape[0]*shape[1])
				want, ok := ggufReference(typ, to, src)
				if !ok {
					continue
				}
				done++
				ggufSource.WantRows(t, op, shape[0], want, src)
			}
			if done == 0 {
				t.Errorf("%s to %s: nothing was compared", typ, to)
			}
			want, _ := ggufReference(typ, to, optest.GGUFBlocks(r, typ, 1))
			src := optest.GGUFBlocks(r, typ, 2)
			ggufSource.RefusesSources(t, op, 2, len(want), src)
			ggufSource.Refuses(t, op, "half a block", 4, len(want)/2, src)
			ggufSource.Refuses(t, op, "half a value", 2, len(want)+1, src)
			if op.Phase() != stages.PhaseDecode || !strings.Contains(op.String(), typ.String()) {
				t.Errorf("%s in phase %s", op, op.Phase())
			}
		}
	}
}

// TestGGUFGolden: blocks by hand.
func TestGGUFGolden(t *testing.T) {
	f32 := func(b []byte, i int) float32 { return math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:])) }
	q4k := make([]byte, 144)
	binary.LittleEndian.PutUint16(q4k, 0x3C00)     // d = 1
	binary.LittleEndian.PutUint16(q4k[2:], 0x4000) // dmin = 2
	q4k[4+0], q4k[4+4] = 5|3<<6, 7|1<<6            // scale 0 and the upper bits of scale 4; minimum 0 and those of minimum 4
	q4k[4+8] = 2 | 9<<4                            // low bits of scale 4 and minimum 4
	q4k[16], q4k[16+64] = 0xB4, 0x0F
	q6k := make([]byte, 210)
	q6k[0], q6k[128], q6k[192], q6k[196] = 0xC5, 0b10_00_00_11, 0xFE, 3
	binary.LittleEndian.PutUint16(q6k[208:], 0x3800)
	for _, test := range []struct {
		typ   gguf.Type
		block []byte
		want  map[int]float32
	}{
		{gguf.Q4_0, append([]byte{0, 0x3C, 0xF0}, make([]byte, 15)...), map[int]float32{0: -8, 16: 7, 1: -8, 31: -8}},
		{gguf.Q8_0, append([]byte{0, 0xBC, 0x80, 0x7F}, make([]byte, 30)...), map[int]float32{0: 128, 1: -127, 2: 0}},
		{gguf.Q4K, q4k, map[int]float32{0: 5*4 - 14, 32: 0, 128: float32(2|3<<4)*15 - 2*float32(9|1<<4)}},
		{gguf.Q6K, q6k, map[int]float32{0: -0.5 * 2 * (5 | 3<<4 - 32), 64: 0.5 * 3 * (12 - 32), 96: 0}},
		{gguf.MXFP4, append([]byte{128, 0xF7, 0x80}, make([]byte, 14)...), map[int]float32{0: 12, 16: -12, 1: 0, 17: 0}},
	} {
		op, err := decode.GGUFDequant(test.typ, safetensors.F32)
		if err != nil {
			t.Fatal(err)
		}
		elements, _ := test.typ.Block()
		j, _ := ggufSource.Job(1, 4*int(elements), 0, test.block)
		if err := op.Run(j); err != nil {
			t.Fatal(err)
		}
		for e, want := range test.want {
			if got := f32(j.Dst, e); got != want || test.typ == gguf.MXFP4 && want == 0 && math.Signbit(float64(got)) {
				t.Errorf("%s: element %d is %g, want %g", test.typ, e, got, want)
			}
		}
	}
}

// TestGGUFFaults: scales that are not finite, and weights that are too large, name the tensor, what was found and where.
func TestGGUFFaults(t *testing.T) {
	set := func(t gguf.Type, at int, v uint16) []byte {
		_, size := t.Block()
		b := make([]byte, 3*size)
		binary.LittleEndian.PutUint16(b[int(size)+at:], v)
		return b
	}
	large := set(gguf.Q8_0, 0, 0x7BFF)
	large[34+5] = 2
	overflow := make([]byte, 34)
	overflow[17], overflow[18] = 254, 7
	for _, test := range []struct {
		name string
		typ  gguf.Type
		to   stages.DType
		src  []byte
		says []string
	}{
		{"infinite d", gguf.Q4_0, safetensors.BF16, set(gguf.Q4_0, 0, 0x7C00), []string{"Q4_0 scale", "+Inf", "byte 1018"}},
		{"d is no number", gguf.Q8_0, safetensors.F32, set(gguf.Q8_0, 0, 0x7E00), []string{"Q8_0 scale", "NaN", "byte 1034"}},
		{"infinite d of Q4_K", gguf.Q4K, safetensors.F16, set(gguf.Q4K, 0, 0xFC00), []string{"Q4_K scale", "-Inf"}},
		{"infinite dmin", gguf.Q4K, safetensors.F16, set(gguf.Q4K, 2, 0xFC00), []string{"Q4_K scale", "-Inf", "byte 1144"}},
		{"infinite d of Q6_K", gguf.Q6K, safetensors.F16, set(gguf.Q6K, 208, 0x7C00), []string{"Q6_K scale", "byte 1210"}},
		{"scale of MXFP4", gguf.MXFP4, safetensors.BF16, set(gguf.MXFP4, 0, 0xFF), []string{"MXFP4 scale", "0xFF", "byte 1017"}},
		{"too large for F16", gguf.Q8_0, safetensors.F16, large, []string{"does not fit in F16", "131008", "bf16"}},
		{"too large for F32", gguf.MXFP4, safetensors.F32, overflow, []string{"does not fit in F32", "--layout raw"}},
	} {
		op, err := decode.GGUFDequant(test.typ, test.to)
		if err != nil {
			t.Fatal(err)
		}
		elements, size := test.typ.Block()
		for _, gap := range []int{0, 8} {
			n := len(test.src) / int(size)
			j, _ := ggufSource.Job(n, int(elements)*test.to.Bits()/8, gap, test.src)
			j.Inputs[0].Extent.Off = 1000
			err = op.Run(j)
			data, ok := errors.AsType[*stages.DataError](err)
			if !ok || data.Tensor != "m.weight" {
				t.Errorf("%s: %v", test.name, err)
				continue
			}
			for _, s := range test.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%s: %v does not say %q", test.name, err, s)
				}
			}
		}
	}
	for _, typ := range []gguf.Type{gguf.Q5K, gguf.F32, 99} {
		if _, err := decode.GGUFDequant(typ, safetensors.F32); !errors.Is(err, decode.ErrNoCast) {
			t.Errorf("%s: %v", typ, err)
		}
	}
	if _, err := decode.GGUFDequant(gguf.Q4K, safetensors.I32); !errors.Is(err, decode.ErrNoCast) {
		t.Errorf("to I32: %v", err)
	}
}

// FuzzGGUFDequant compares any block with the formula.
func FuzzGGUFDequant(f *testing.F) {
	r := rand.New(rand.NewPCG(3, 4))
	for i, typ := range optest.GGUFTypes {
		f.Add(uint8(i), uint8(0), optest.GGUFBlocks(r, typ, 1))
	}
	f.Fuzz(func(t *testing.T, which, dtype uint8, data []byte) {
		typ := optest.GGUFTypes[int(which)%len(optest.GGUFTypes)]
		to := []stages.DType{safetensors.F32, safetensors.F16, safetensors.BF16}[dtype%3]
		elements, size := typ.Block()
		n := len(data) / int(size)
		if n == 0 || n > 64 {
			return
		}
		src := data[:n*int(size)]
		finite := true
		for i := 0; i < len(src) && finite; i += int(size) {
			for e := range int(elements) {
				v := optest.GGUFValue(typ, src[i:i+int(size)], e)
				finite = finite && v-v == 0 && (typ != gguf.MXFP4 || src[i] != 0xFF)
				finite = finite && (to != safetensors.F16 || convert.F32ToF16(v)&0x7C00 != 0x7C00) && (to != safetensors.BF16 || convert.F32ToBF16(v)&0x7F80 != 0x7F80)
			}
		}
		op, err := decode.GGUFDequant(typ, to)
		if err != nil {
			t.Fatal(err)
		}
		if !finite {
			j, _ := ggufSource.Job(n, int(elements)*to.Bits()/8, 0, src)
			if err := op.Run(j); err == nil {
				t.Fatalf("%s to %s: values that are not finite are accepted", typ, to)
			}
			return
		}
		want, ok := ggufReference(typ, to, src)
		if !ok {
			t.Fatal("the reference does not hold what is finite")
		}
		ggufSource.WantRows(t, op, n, want, src)
	})
}
