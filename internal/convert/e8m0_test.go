package convert

import (
	"math"
	"testing"

	"github.com/coldload/coldload/safetensors"
)

// TestE8M0: every byte is its power of two, exactly, one by one and in bulk.
func TestE8M0(t *testing.T) {
	src := make([]byte, 256)
	for i := range src {
		src[i] = byte(i)
	}
	kernel, ok := ScalesToF32(safetensors.F8E8M0)
	dst := make([]byte, 4*len(src))
	if !ok || kernel(dst, src) != -1 {
		t.Fatal("no kernel, or an overflow")
	}
	for e := range 256 {
		got, bulk := E8M0ToF32(uint8(e)), math.Float32frombits(le.Uint32(dst[4*e:]))
		if e == 255 {
			if got == got || bulk == bulk { //nolint:gocritic // NaN
				t.Errorf("255 is %g and %g, want NaN", got, bulk)
			}
			continue
		}
		if want := math.Ldexp(1, e-127); float64(got) != want || got != bulk {
			t.Errorf("%d is %g and %g, want %g", e, got, bulk, want)
		}
	}
}

func TestScalesToF32(t *testing.T) {
	for d, want := range map[safetensors.DType]bool{safetensors.F32: true, safetensors.BF16: true, safetensors.F16: true, safetensors.I32: false} {
		if _, ok := ScalesToF32(d); ok != want {
			t.Errorf("%s: %v, want %v", d, ok, want)
		}
	}
}
