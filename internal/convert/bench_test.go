package convert

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/coldload/coldload/internal/cpu/cputest"
	"github.com/coldload/coldload/safetensors"
)

// benchBytes is the source of one call: the size of a Batch. It is larger than L2 but may stay in L3.
const benchBytes = 8 << 20

// weights fills b with what a linear layer holds: normal numbers around zero, of which zeros are a given share.
func weights(dtype safetensors.DType, zeros float64) []byte {
	b := make([]byte, benchBytes)
	rng := rand.New(rand.NewPCG(11, 12))
	for i := range benchBytes / sizeOf(dtype) {
		x := rng.NormFloat64() * 0.02
		switch {
		case rng.Float64() < zeros:
		case dtype == safetensors.F64:
			put(dtype, b, i, math.Float64bits(x))
		case dtype == safetensors.F32:
			put(dtype, b, i, uint64(math.Float32bits(float32(x))))
		case dtype == safetensors.F16:
			put(dtype, b, i, uint64(F32ToF16(float32(x))))
		case dtype == safetensors.BF16:
			put(dtype, b, i, uint64(F32ToBF16(float32(x))))
		default:
			put(dtype, b, i, uint64(rng.Uint32N(0x78)))
		}
	}
	return b
}

// Rates are source bytes a second. "copy" is the memory's own pace for that many bytes.
func BenchmarkKernels(b *testing.B) {
	dst := make([]byte, 4*benchBytes)
	for _, from := range sources {
		src := weights(from, 0)
		b.Run(fmt.Sprintf("copy-%s", from), func(b *testing.B) { run(b, copyBytes, dst, src) })
		for _, to := range targets {
			if k, _ := Func(from, to); from != to {
				b.Run(fmt.Sprintf("%s-%s", from, to), func(b *testing.B) { run(b, k, dst, src) })
			}
		}
	}
}

// Half of the values are zeros: nearly every word takes the slow way.
func BenchmarkHalfZeros(b *testing.B) {
	dst := make([]byte, 4*benchBytes)
	for _, from := range []safetensors.DType{safetensors.F32, safetensors.F16, safetensors.BF16} {
		src := weights(from, 0.5)
		for _, to := range targets {
			if k, _ := Func(from, to); from != to {
				b.Run(fmt.Sprintf("%s-%s", from, to), func(b *testing.B) { run(b, k, dst, src) })
			}
		}
	}
}

func run(b *testing.B, k Kernel, dst, src []byte) {
	b.Helper()
	b.SetBytes(int64(len(src)))
	for b.Loop() {
		k(dst, src)
	}
}

func BenchmarkFirstNonFinite(b *testing.B) {
	for _, d := range sources {
		src := weights(d, 0)
		b.Run(d.String(), func(b *testing.B) {
			b.SetBytes(benchBytes)
			for b.Loop() {
				if i := FirstNonFinite(d, src); i >= 0 {
					b.Fatal(i)
				}
			}
		})
	}
}

// BenchmarkTwins reports, for every conversion, half of the bytes read and written a second, and that as a ratio to a copy, which also
// moves each byte twice: from memory to memory.
func BenchmarkTwins(b *testing.B) {
	const total = 128 << 20 // of the larger side
	for _, from := range sources[1:] {
		for _, to := range targets {
			if from == to {
				continue
			}
			b.Run(fmt.Sprintf("%s-%s", from, to), func(b *testing.B) {
				for mask := range cputest.Masks() {
					b.Run(mask, func(b *testing.B) {
						n := total / max(sizeOf(from), sizeOf(to))
						src, dst := cputest.Memory(b, n*sizeOf(from)+64), cputest.Memory(b, n*sizeOf(to))
						w := weights(from, 0)
						for at := 0; at < len(src); at += len(w) {
							copy(src[at:], w)
						}
						k, _ := Func(from, to)
						cputest.Ratio(b, n*(sizeOf(from)+sizeOf(to))/2, func() {
							const each = 1 << 20 // as stages/decode does it
							for at := 0; at < n*sizeOf(from); at += each {
								k(dst[at/sizeOf(from)*sizeOf(to):], src[8+at:8+at+each])
							}
						})
					})
				}
			})
		}
	}
}
