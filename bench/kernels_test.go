package bench

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/coldload/coldload/internal/offheap"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/decode"
	"github.com/coldload/coldload/stages/repack"
)

// kernel is an Op and the shape of a Part that it runs on. Sizes are for one row.
type kernel struct {
	name     string
	op       stages.Op
	in, out  int // bytes
	elements func(b []byte)
}

// BenchmarkKernels times Ops on one core against a copy of the bytes that they read, at two sizes: a Part that stays in the second-level
// cache, and one that comes from memory. The rates count source bytes.
func BenchmarkKernels(b *testing.B) {
	for _, k := range kernels(b) {
		for _, size := range []int{256 << 10, 64 << 20} {
			b.Run(fmt.Sprintf("%s/%dKiB", k.name, size>>10), func(b *testing.B) { k.bench(b, size) })
		}
	}
}

func kernels(b *testing.B) []kernel {
	b.Helper()
	const n = 1536 // columns
	must := func(op stages.Op, err error) stages.Op {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
		return op
	}
	f16, bf16, f32 := safetensors.F16, safetensors.BF16, safetensors.F32
	return []kernel{
		{"gptq4-to-marlin", repack.GPTQMarlin4(), 8 * n, 8 * n, random},
		{"scales-grouped-F16", must(repack.MarlinScales(f16, f16, repack.Grouped)), 2 * n, 2 * n, small16},
		{"scales-grouped-F16-to-BF16", must(repack.MarlinScales(f16, bf16, repack.Grouped)), 2 * n, 2 * n, small16},
		{"cast-BF16-to-F16", must(decode.Cast(bf16, f16)), 2 * n, 2 * n, smallBF16},
		{"cast-BF16-to-F32", must(decode.Cast(bf16, f32)), 2 * n, 4 * n, smallBF16},
		{"copy", decode.Copy(), 2 * n, 2 * n, random},
	}
}

func (k kernel) bench(b *testing.B, size int) {
	b.Helper()
	rows := size / k.in
	job := stages.Job{
		Rows: rows, RowBytes: k.out, Stride: k.out, Dst: memory(b, rows*k.out), Src: [][]byte{memory(b, rows*k.in)},
		Inputs: []stages.Input{{Tensor: "t"}}, Warn: func(string, ...any) {},
	}
	k.elements(job.Src[0])
	dst := memory(b, rows*k.in)
	copy(dst, job.Src[0])
	times := max(1, (64<<20)/size) // a round takes some milliseconds
	all := race(b,
		contender{"op", nil, func() (func() error, error) {
			for range times {
				if err := k.op.Run(&job); err != nil {
					return nil, err
				}
			}
			return nil, nil
		}},
		contender{"copy", nil, func() (func() error, error) {
			for range times {
				copy(dst, job.Src[0])
			}
			return nil, nil
		}},
	)
	bytes := int64(times) * int64(rows*k.in)
	b.ReportMetric(rate(bytes, all["op"].median()), "GB/s")
	b.ReportMetric(rate(bytes, all["copy"].median()), "copy-GB/s")
	b.ReportMetric(ratio(all["op"], all["copy"]), "x-copy")
}

// memory is touched, and backed by huge pages as results are.
func memory(b *testing.B, n int) []byte {
	b.Helper()
	r, err := offheap.Alloc(int64(n))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = r.Free() })
	clear(r.Bytes())
	return r.Bytes()
}

func random(b []byte) {
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(b) // it never fails
}

// small16 fills b with F16 numbers between 2^-6 and 2^-5, as scales are.
func small16(b []byte) { fill16(b, 0x2400, 0x03FF) }

// smallBF16 fills b with BF16 numbers of both signs around 2^-6, as weights are.
func smallBF16(b []byte) { fill16(b, 0x3C00, 0x80FF) }

func fill16(b []byte, base, free uint16) {
	rng := rand.New(rand.NewPCG(1, 2))
	for i := 0; i+1 < len(b); i += 2 {
		v := base | uint16(rng.Uint32())&free
		b[i], b[i+1] = byte(v), byte(v>>8)
	}
}
