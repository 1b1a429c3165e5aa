package values

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/coldload/coldload/internal/convert"
	"github.com/coldload/coldload/safetensors"
)

// TestAgreesWithTheKernels: two accounts of the dtypes, written apart, are one, for all elements of the small dtypes and for many of the others,
// around every exponent.
func TestAgreesWithTheKernels(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 9))
	for _, from := range []safetensors.DType{
		safetensors.F64, safetensors.F32, safetensors.F16, safetensors.BF16, safetensors.F8E4M3, safetensors.F8E5M2,
	} {
		for _, to := range []safetensors.DType{safetensors.F32, safetensors.F16, safetensors.BF16} {
			kernel, ok := convert.Func(from, to)
			if !ok {
				t.Fatal(from, to)
			}
			size, all := from.Bits()/8, 1<<16
			if from.Bits() <= 16 {
				all = 1 << from.Bits()
			}
			for i := range all {
				u := uint64(i)
				if from.Bits() > 16 {
					u = rng.Uint64() >> (64 - from.Bits())
					if i%2 == 0 { // next to a number of few bits: ties
						u = u>>(from.Bits()-13)<<(from.Bits()-13) + uint64(rng.IntN(3)) - 1
					}
				}
				src := binary.LittleEndian.AppendUint64(nil, u)[:size]
				want, got := make([]byte, to.Bits()/8), make([]byte, to.Bits()/8)
				kernel(want, src)
				if Put(got, to, Of(from, src)); !bytes.Equal(got, want) && from != to { // a NaN that is copied stays as it is
					t.Fatalf("%s %#x to %s: %#x, want %#x", from, u, to, got, want)
				}
			}
		}
	}
}

func TestScalesAndCodes(t *testing.T) {
	for e := range 256 {
		if got, want := Of(safetensors.F8E8M0, []byte{byte(e)}), float64(convert.E8M0ToF32(byte(e))); got != want && (got == got || want == want) {
			t.Errorf("E8M0 %#x: %g, want %g", e, got, want)
		}
	}
	for c, want := range []float64{0, 0.5, 1, 1.5, 2, 3, 4, 6} {
		if got := FP4(byte(c)); got != want || FP4(byte(c)|8) != -want || !math.Signbit(FP4(byte(c)|8)) {
			t.Errorf("FP4 %d: %g, want %g", c, got, want)
		}
	}
}
