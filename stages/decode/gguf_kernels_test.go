package decode

import (
	"math"
	"math/rand/v2"
	"testing"
	"unsafe"

	"github.com/coldload/coldload/gguf"
	"github.com/coldload/coldload/internal/cpu/cputest"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// checkGGUFValues compares what the kernels of this processor make of blocks with the reference, bit for bit: all that is no number is one.
// Source and destination lie against pages that cannot be touched.
func checkGGUFValues(t *testing.T, typ gguf.Type, blocks []byte, atEnd bool) {
	t.Helper()
	made, err := GGUFDequant(typ, safetensors.F32)
	if err != nil {
		t.Fatal(err)
	}
	op, _ := made.(*ggufDequant)
	want := make([]float32, len(blocks)/op.bytes*op.elements)
	op.block.decode(want, blocks)
	dst := cputest.Guarded(t, asBytes(make([]float32, len(want))), atEnd)
	got := singles(dst)
	op.values(got, cputest.Guarded(t, blocks, atEnd))
	for i, w := range want {
		if g := got[i]; math.Float32bits(g) != math.Float32bits(w) && (g == g || w == w) {
			t.Fatalf("%s: value %d is %g, want %g", typ, i, g, w)
		}
	}
}

// singles are the elements of b, which begins at a multiple of 4.
func singles(b []byte) []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/4)
}

// TestGGUFKernels: any bytes, scales that are no numbers among them.
func TestGGUFKernels(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 31))
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			for typ := range ggufBlocks {
				_, size := typ.Block()
				for n := 1; n < 40; n++ {
					blocks := make([]byte, n*int(size))
					for i := range blocks {
						blocks[i] = byte(r.Uint32())
					}
					checkGGUFValues(t, typ, blocks, n%2 == 0)
				}
			}
		})
	}
}

// TestGGUFEveryScale: all exponents of MXFP4, and all scales of the others.
func TestGGUFEveryScale(t *testing.T) {
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			for typ, b := range ggufBlocks {
				_, size := typ.Block()
				blocks := make([]byte, 0, int(size)<<16)
				for scale := range 1 << 16 {
					block := make([]byte, size)
					for i := range block {
						block[i] = byte(i*37 + scale)
					}
					for _, at := range b.scales {
						le.PutUint16(block[at:], uint16(scale))
					}
					if blocks = append(blocks, block...); typ == gguf.MXFP4 && scale == 255 {
						break
					}
				}
				checkGGUFValues(t, typ, blocks, true)
			}
		})
	}
}

// BenchmarkGGUFDequant decodes rows of 4096 weights. "x-memcpy" is the ratio to a copy that moves as many bytes, in and out.
func BenchmarkGGUFDequant(b *testing.B) {
	const k, total = 4096, 64 << 20
	for typ := range ggufBlocks {
		b.Run(typ.String(), func(b *testing.B) {
			for mask := range cputest.Masks() {
				b.Run(mask, func(b *testing.B) {
					op, err := GGUFDequant(typ, safetensors.BF16)
					if err != nil {
						b.Fatal(err)
					}
					elements, size := typ.Block()
					row, rows := k/int(elements)*int(size), total/(2*k)
					src, dst := cputest.Memory(b, rows*row), cputest.Memory(b, total)
					for i := range src {
						src[i] = 0x22
					}
					j := &stages.Job{Dst: dst, Rows: rows, RowBytes: 2 * k, Stride: 2 * k, Src: [][]byte{src}, Inputs: make([]stages.Input, 1)}
					cputest.Ratio(b, (total+len(src))/2, func() {
						if err := op.Run(j); err != nil {
							b.Fatal(err)
						}
					})
				})
			}
		})
	}
}
