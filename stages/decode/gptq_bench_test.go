package decode

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// BenchmarkGPTQDequant measures weights written, for a module of 1024 by 1024.
func BenchmarkGPTQDequant(b *testing.B) {
	const k, n = 1024, 1024
	for _, x := range []struct {
		name string
		l    GPTQLayout
		to   stages.DType
	}{
		{"4bit/bf16", GPTQLayout{Bits: 4, Symmetric: true, Group: 128}, safetensors.BF16},
		{"4bit/f16", GPTQLayout{Bits: 4, Symmetric: true, Group: 128}, safetensors.F16},
		{"4bit/f32", GPTQLayout{Bits: 4, Symmetric: true, Group: 128}, safetensors.F32},
		{"4bit/group32/bf16", GPTQLayout{Bits: 4, Symmetric: true, Group: 32}, safetensors.BF16},
		{"4bit/order/bf16", GPTQLayout{Bits: 4, Symmetric: true, Group: 128, ActOrder: true}, safetensors.BF16},
		{"4bit/asymmetric/bf16", GPTQLayout{Bits: 4, ZeroBias: 1, Group: 128}, safetensors.BF16},
		{"8bit/bf16", GPTQLayout{Bits: 8, Symmetric: true, Group: 128}, safetensors.BF16},
		{"8bit/f16", GPTQLayout{Bits: 8, Symmetric: true, Group: 128}, safetensors.F16},
		{"8bit/order/bf16", GPTQLayout{Bits: 8, Symmetric: true, Group: 128, ActOrder: true}, safetensors.BF16},
		{"3bit/bf16", GPTQLayout{Bits: 3, Symmetric: true, Group: 128}, safetensors.BF16},
		{"2bit/bf16", GPTQLayout{Bits: 2, Symmetric: true, Group: 128}, safetensors.BF16},
		{"planar6/bf16", GPTQLayout{Bits: 6, Planar: true, Symmetric: true, Group: 128}, safetensors.BF16},
	} {
		b.Run(x.name, func(b *testing.B) {
			c := randomCase(rand.New(rand.NewPCG(1, 1)), x.l, k, n)
			j, _ := sources.Job(n, k*x.to.Bits()/8, 0, c.sources(safetensors.F16)...)
			op := c.op(b, safetensors.F16, x.to)
			b.ReportAllocs()
			b.SetBytes(int64(len(j.Dst)))
			for b.Loop() {
				if err := op.Run(j); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("copy", func(b *testing.B) {
		src, dst := make([]byte, 2*k*n), make([]byte, 2*k*n)
		b.SetBytes(2 * k * n)
		for b.Loop() {
			copy(dst, src)
		}
	})
}

func BenchmarkGPTQChecks(b *testing.B) {
	c := randomCase(rand.New(rand.NewPCG(1, 2)), GPTQLayout{Bits: 4, Group: 128}, 1<<14, 64)
	for i := range c.stored {
		c.stored[i] = 7
	}
	src := c.sources(safetensors.F16)
	for _, x := range []struct {
		op  stages.Op
		src []byte
	}{{CheckZeros(PackConstant(4, false, 7), ""), src[2]}, {CheckZeroFields(4, c.Groups), src[2]}, {CheckFinite(safetensors.F16), src[1]}} {
		b.Run(fmt.Sprint(x.op), func(b *testing.B) {
			j, _ := sources.Job(0, 0, 0, x.src)
			b.SetBytes(int64(len(x.src)))
			for b.Loop() {
				if err := x.op.Run(j); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
