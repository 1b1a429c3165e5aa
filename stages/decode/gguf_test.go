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

// ggufValue is the formula of the format, element by element. Every product is exact in float64 and in float32, so that only the difference
// of Q4_K rounds.
func ggufValue(t gguf.Type, b []byte, e int) float32 {
	f16 := func(at int) float64 { return float64(convert.F16ToF32(binary.LittleEndian.Uint16(b[at:]))) }
	fp4 := []float64{0, .5, 1, 1.5, 2, 3, 4, 6}
	switch t { //nolint:exhaustive // the others are not read
	case gguf.Q4_0:
		return float32(f16(0) * float64(int(b[2+e%16]>>(4*(e/16))&15)-8))
	case gguf.Q8_0:
		return float32(f16(0) * float64(int8(b[2+e])))
	case gguf.Q4_K:
		s, j := b[4:16], e/32
		nib := b[16+32*(e/64)+e%32] >> (4 * (j & 1)) & 15
		var sc, mn byte
		if j < 4 {
			sc, mn = s[j]&63, s[j+4]&63
		} else {
			sc, mn = s[j+4]&15|(s[j-4]>>6)<<4, (s[j+4]>>4)|(s[j]>>6)<<4
		}
		return float32(f16(0)*float64(sc)*float64(nib)) - float32(f16(2)*float64(mn)) // both exact
	case gguf.Q6_K:
		h, u, l := e/128, e%128/32, e%32
		lo, hi := b[64*h+32*(u%2)+l]>>(4*(u/2))&15, b[128+32*h+l]>>(2*u)&3
		return float32(f16(208) * float64(int8(b[192+e/16])) * float64(int(lo|hi<<4)-32))
	case gguf.MXFP4:
		c := b[1+e%16] >> (4 * (e / 16)) & 15
		v := math.Ldexp(fp4[c&7], int(b[0])-127)
		if c > 8 {
			v = -v
		}
		return float32(v)
	}
	panic(t)
}

var ggufTypes = []gguf.Type{gguf.Q4_0, gguf.Q8_0, gguf.Q4_K, gguf.Q6_K, gguf.MXFP4}

// randomBlocks are blocks of random bytes with scales of ordinary size.
func randomBlocks(r *rand.Rand, t gguf.Type, n int) []byte {
	_, size := t.Block()
	b := make([]byte, n*int(size))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	scale := func(at int) { binary.LittleEndian.PutUint16(b[at:], uint16(r.Uint32N(2)<<15|r.Uint32N(0x4400))) }
	for i := range n {
		at := i * int(size)
		switch t { //nolint:exhaustive // the others are not read
		case gguf.Q4_0, gguf.Q8_0:
			scale(at)
		case gguf.Q4_K:
			scale(at)
			scale(at + 2)
		case gguf.Q6_K:
			scale(at + 208)
		case gguf.MXFP4:
			b[at] = byte(100 + r.Uint32N(30))
		}
	}
	return b
}

// ggufReference decodes with the formula, and rounds with the scalar conversion. What F16 cannot hold is told by ok.
func ggufReference(t gguf.Type, to stages.DType, src []byte) (out []byte, ok bool) {
	elements, size := t.Block()
	for ; len(src) > 0; src = src[size:] {
		for e := range int(elements) {
			v := ggufValue(t, src[:size], e)
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
	for _, typ := range ggufTypes {
		elements, _ := typ.Block()
		for _, to := range []stages.DType{safetensors.F32, safetensors.F16, safetensors.BF16} {
			op, err := decode.GGUFDequant(typ, to)
			if err != nil {
				t.Fatal(err)
			}
			done := 0
			for _, shape := range [][2]int{{1, 1}, {1, 2}, {3, 1}, {2, 5}, {5, 16 * 256 / int(elements)}, {1, 9000 / int(elements)}} {
				src := randomBlocks(r, typ, shape[0]*shape[1])
				if typ == gguf.Q6_K && to == safetensors.F16 {
					for i := 209; i < len(src); i += 210 {
						src[i] &= 0xBF // scales below 2, which F16 holds
					}
				}
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
			want, _ := ggufReference(typ, to, randomBlocks(r, typ, 1))
			src := randomBlocks(r, typ, 2)
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
		{gguf.Q4_K, q4k, map[int]float32{0: 5*4 - 14, 32: 0, 128: float32(2|3<<4)*15 - 2*float32(9|1<<4)}},
		{gguf.Q6_K, q6k, map[int]float32{0: -0.5 * 2 * (5 | 3<<4 - 32), 64: 0.5 * 3 * (12 - 32), 96: 0}},
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
		{"infinite d of Q4_K", gguf.Q4_K, safetensors.F16, set(gguf.Q4_K, 0, 0xFC00), []string{"Q4_K scale", "-Inf"}},
		{"infinite dmin", gguf.Q4_K, safetensors.F16, set(gguf.Q4_K, 2, 0xFC00), []string{"Q4_K scale", "-Inf", "byte 1144"}},
		{"infinite d of Q6_K", gguf.Q6_K, safetensors.F16, set(gguf.Q6_K, 208, 0x7C00), []string{"Q6_K scale", "byte 1210"}},
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
	for _, typ := range []gguf.Type{gguf.Q5_K, gguf.F32, 99} {
		if _, err := decode.GGUFDequant(typ, safetensors.F32); !errors.Is(err, decode.ErrNoCast) {
			t.Errorf("%s: %v", typ, err)
		}
	}
	if _, err := decode.GGUFDequant(gguf.Q4_K, safetensors.I32); !errors.Is(err, decode.ErrNoCast) {
		t.Errorf("to I32: %v", err)
	}
}

// FuzzGGUFDequant compares any block with the formula.
func FuzzGGUFDequant(f *testing.F) {
	r := rand.New(rand.NewPCG(3, 4))
	for i, typ := range ggufTypes {
		f.Add(uint8(i), uint8(0), randomBlocks(r, typ, 1))
	}
	f.Fuzz(func(t *testing.T, which, dtype uint8, data []byte) {
		typ := ggufTypes[int(which)%len(ggufTypes)]
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
				v := ggufValue(typ, src[i:i+int(size)], e)
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
