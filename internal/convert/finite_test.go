package convert

import (
	"math"
	"testing"

	"github.com/coldload/coldload/safetensors"
)

func TestFirstNonFiniteOfEveryValue(t *testing.T) {
	for _, d := range []safetensors.DType{safetensors.F16, safetensors.BF16, safetensors.F8E4M3, safetensors.F8E5M2} {
		for i := range uint64(1 << d.Bits()) {
			x := decode(d, i).value
			want := -1
			if math.IsNaN(x) || math.IsInf(x, 0) {
				want = 0
			}
			if got := FirstNonFinite(d, pack(d, []uint64{i})); got != want {
				t.Fatalf("%s %#x: %d, want %d", d, i, got, want)
			}
		}
	}
}

func TestFirstNonFiniteAtEveryPlace(t *testing.T) {
	cases := map[safetensors.DType]struct {
		largest uint64
		bad     []uint64
	}{
		safetensors.F64:        {0xFFEF_FFFF_FFFF_FFFF, []uint64{0x7FF0_0000_0000_0000, 0xFFF0_0000_0000_0001}},
		safetensors.F32:        {0xFF7F_FFFF, []uint64{0x7F80_0000, 0xFF80_0000, 0x7F80_0001, 0xFFFF_FFFF}},
		safetensors.C64:        {0xFF7F_FFFF_7F7F_FFFF, []uint64{0x7F80_0000, 0xFF80_0000_0000_0000}},
		safetensors.F16:        {0xFBFF, []uint64{0x7C00, 0xFE00}},
		safetensors.BF16:       {0xFF7F, []uint64{0xFF80, 0x7FC0}},
		safetensors.F8E4M3:     {0xFE, []uint64{0x7F, 0xFF}},
		safetensors.F8E5M2:     {0xFB, []uint64{0x7C, 0xFF}},
		safetensors.F8E8M0:     {0xFE, []uint64{0xFF}},
		safetensors.F8E4M3FNUZ: {0xFF, []uint64{0x80}},
		safetensors.F8E5M2FNUZ: {0x7F, []uint64{0x80}},
	}
	for d, c := range cases {
		for n := range 68 {
			v := make([]uint64, n)
			for i := range v {
				v[i] = c.largest
			}
			if got := FirstNonFinite(d, pack(d, v)); got != -1 {
				t.Fatalf("%s n=%d: %d, want none", d, n, got)
			}
			for i := range v {
				w := bytes64(v)
				w[i], w[n-1] = c.bad[i%len(c.bad)], c.bad[0]
				misaligned := append([]byte{0xFF}, pack(d, w)...)[1:]
				if got := FirstNonFinite(d, misaligned); got != i {
					t.Fatalf("%s n=%d: %d, want %d", d, n, got, i)
				}
			}
		}
	}
	if FirstNonFinite(safetensors.I32, pack(safetensors.I32, []uint64{0x7F80_0000})) != -1 {
		t.Error("an integer is not finite")
	}
	if FirstNonFinite(safetensors.F32, []byte{0, 0, 0, 0, 0xFF, 0xFF, 0xFF}) != -1 {
		t.Error("a torn element counted")
	}
}
