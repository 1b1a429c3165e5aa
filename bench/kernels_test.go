package bench

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/coldload/coldload/gguf"
	"github.com/coldload/coldload/internal/cpu/cputest"
	"github.com/coldload/coldload/internal/offheap"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/decode"
	"github.com/coldload/coldload/stages/repack"
)

// kernel is an Op and a Part that it runs on: rows of so many bytes, from a bulk source and from side sources.
type kernel struct {
	name      string
	op        stages.Op
	rows, row int // of the destination
	in        int // bytes of the bulk source
	elements  func(b []byte)
	sides     [][]byte
	// counted are the bytes that make the rate: half of those read and written, as a copy moves each twice.
	counted int
}

const (
	n, k   = 1536, 2048 // a module: output and input features
	groups = k / 128
)

// BenchmarkKernels times Ops on one core, as every kind of processor that this one can play, against a copy from memory to memory: Part
// after Part from memory to memory, and one Part again and again in the second-level cache. x-memcpy is the median ratio of the rates.
func BenchmarkKernels(b *testing.B) {
	src, dst := memory(b, region+64), memory(b, region)
	for _, k := range kernels(b) {
		b.Run(k.name, func(b *testing.B) {
			k.elements(src)
			for mask := range cputest.Masks() {
				b.Run(mask+"/memory", func(b *testing.B) { k.bench(b, dst, src, region) })
				b.Run(mask+"/cache", func(b *testing.B) { k.bench(b, dst, src, 0) })
			}
		})
	}
}

// region is the bytes of one round from memory to memory: several times the largest cache.
const region = 128 << 20

func kernels(b *testing.B) []kernel {
	b.Helper()
	must := func(op stages.Op, err error) stages.Op {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
		return op
	}
	f32, f16, bf16, f8 := safetensors.F32, safetensors.F16, safetensors.BF16, safetensors.F8E4M3
	order := make([]byte, 4*k)
	for i := range k {
		binary.LittleEndian.PutUint32(order[4*i:], uint32(i*37%k/128))
	}
	scalesOf := make([]byte, 2*groups*n)
	small16(scalesOf)
	zeros := bytes.Repeat([]byte{0x77}, groups*n)
	dequant := func(bits int, to stages.DType) stages.Op {
		b.Helper()
		return must(decode.GPTQDequant(decode.GPTQLayout{Bits: bits, Symmetric: true, Group: 128, Groups: groups}, f16, to))
	}
	rows := func(bits int) stages.Op {
		b.Helper()
		return must(decode.RowsDequant(decode.RowsLayout{Bits: bits, Symmetric: true, Group: 128, Groups: groups}, f16, bf16))
	}
	marlin := func(name string, op stages.Op, bits int, sides ...[]byte) kernel {
		return kernel{name, op, k / 16, 2 * bits * n, k * n * bits / 8, random, sides, k * n * bits / 8}
	}
	exllama := func(name string, bits, groups int, sides ...[]byte) kernel {
		b.Helper()
		return kernel{name, must(repack.GPTQExllama(bits, groups)), k * bits / 32, 4 * n, k * n * bits / 8, random, sides, k * n * bits / 8}
	}
	cast := func(from, to stages.DType, elements func([]byte)) kernel {
		b.Helper()
		const elementsOfPart = 256 << 10
		in, out := elementsOfPart*from.Bits()/8, elementsOfPart*to.Bits()/8
		return kernel{fmt.Sprintf("cast-%s-to-%s", from, to), must(decode.Cast(from, to)), 1, out, in, elements, nil, (in + out) / 2}
	}
	// scales has as many as a module with so many groups.
	scales := func(name string, op stages.Op, groups, in, out int, elements func([]byte)) kernel {
		return kernel{name, op, groups, out * n, groups * in * n, elements, nil, groups * n * (in + out) / 2}
	}
	// decoded are weights of to, of bits each before.
	decoded := func(name string, op stages.Op, bits int, elements func([]byte), sides ...[]byte) kernel {
		return kernel{name, op, n, 2 * k, k * n * bits / 8, elements, sides, k * n * (bits + 16) / 16}
	}
	// blocks are weights of to from ggml's.
	blocks := func(t gguf.Type) kernel {
		b.Helper()
		elements, size := t.Block()
		in := n * k / int(elements) * int(size)
		op := must(decode.GGUFDequant(t, bf16))
		return kernel{"ggml-" + t.String() + "-to-BF16", op, n, 2 * k, in, func(b []byte) { fill(b, 0x22) }, nil, (in + 2*n*k) / 2}
	}
	one := []byte{0, 0, 0x80, 0x3F}
	return []kernel{
		marlin("gptq4-to-marlin", must(repack.GPTQMarlin(4)), 4),
		marlin("gptq8-to-marlin", must(repack.GPTQMarlin(8)), 8),
		marlin("gptq4-act-order-to-marlin", must(repack.GPTQMarlinActOrder(4, groups)), 4, order),
		marlin("rows4-to-marlin", must(repack.RowsMarlin(4)), 4),
		marlin("rows8-to-marlin", must(repack.RowsMarlin(8)), 8),
		marlin("rows4-act-order-to-marlin", must(repack.RowsMarlinActOrder(4, groups)), 4, order),
		marlin("fp8-to-marlin", repack.FP8Marlin(), 8),
		scales("scales-grouped-F16", must(repack.MarlinScales(f16, f16, repack.Grouped)), 512, 2, 2, small16),
		scales("scales-grouped-F16-to-BF16", must(repack.MarlinScales(f16, bf16, repack.Grouped)), 512, 2, 2, small16),
		scales("rows-scales-grouped-BF16", must(repack.RowsMarlinScales(bf16, bf16, repack.Grouped)), k/32, 2, 2, smallBF16),
		scales("rows-scales-grouped-F16-to-BF16", must(repack.RowsMarlinScales(f16, bf16, repack.Grouped)), k/32, 2, 2, small16),
		scales("mxfp4-scales", repack.MXFP4MarlinScales(), k/32, 1, 1, smallBytes),
		scales("nvfp4-scales", must(repack.NVFP4MarlinScales(f16, false)), k/16, 1, 1, smallBytes),
		scales("fp8-scales-F32-to-BF16", must(repack.FP8MarlinScales(stages.Blocks{Rows: 1, Cols: 128}, f32, bf16, repack.Grouped, stages.ExponentFused)), groups, 4, 2, smallF32),
		exllama("gptq2-to-exllama", 2, 0),
		exllama("gptq3-to-exllama", 3, 0),
		exllama("gptq4-to-exllama", 4, 0),
		exllama("gptq4-act-order-to-exllama", 4, groups, order),
		cast(f16, f32, small16),
		cast(bf16, f32, smallBF16),
		cast(f32, bf16, smallBF16),
		cast(f32, f16, smallBF16),
		cast(bf16, f16, smallBF16),
		cast(f8, bf16, smallBF16),
		decoded("gptq4-to-BF16", dequant(4, bf16), 4, random, scalesOf, zeros[:groups*n/2]),
		decoded("gptq8-to-BF16", dequant(8, bf16), 8, random, scalesOf, zeros),
		decoded("rows4-to-BF16", rows(4), 4, random, scalesOf),
		decoded("rows8-to-BF16", rows(8), 8, random, scalesOf),
		decoded("fp8-to-BF16", must(decode.FP8Dequant(stages.Blocks{Rows: 128, Cols: 128}, bf16, bf16)), 8, smallBytes, make([]byte, 2*n/128*k/128)),
		decoded("mxfp4-to-BF16", must(decode.MXFP4Dequant(bf16)), 4, random, bytes.Repeat([]byte{0x75}, n*k/32)),
		{"mxfp4-turned-to-BF16", must(decode.MXFP4DequantTurned(bf16)), k, 2 * n, k * n / 2, random, [][]byte{bytes.Repeat([]byte{0x75}, n*k/32)}, k * n * 20 / 16},
		decoded("nvfp4-to-BF16", must(decode.NVFP4Dequant(false, bf16)), 4, random, bytes.Repeat([]byte{0x35}, n*k/16), one),
		blocks(gguf.Q4_0),
		blocks(gguf.Q8_0),
		blocks(gguf.Q4K),
		blocks(gguf.Q6K),
		blocks(gguf.MXFP4),
		{"transpose-BF16", must(decode.Transpose(bf16, bf16)), n, 2 * k, 2 * k * n, random, nil, 2 * k * n},
		{"transpose-F32", must(decode.Transpose(f32, f32)), n, 4 * k, 4 * k * n, random, nil, 4 * k * n},
		{"copy", decode.Copy(), 1, 1 << 20, 1 << 20, random, nil, 1 << 20},
	}
}

// bench runs the Op on so many bytes of sources or destinations, whichever are more: on Part after Part, each somewhere else; or, when size
// is 0, on the same small Part again and again. Sources lie off the lines, as they do in files.
func (k kernel) bench(b *testing.B, dst, src []byte, size int) {
	b.Helper()
	out := k.rows * k.row
	times, step := size/max(k.in, out), 1
	job := stages.Job{
		Rows: k.rows, RowBytes: k.row, Stride: k.row, Src: append([][]byte{nil}, k.sides...),
		Inputs: make([]stages.Input, 1+len(k.sides)), Warn: func(string, ...any) {},
	}
	if size == 0 {
		times, step, job.Soon = 16, 0, true
	}
	all := race(b,
		contender{"op", nil, func() (func() error, error) {
			for i := range times {
				i *= step
				job.Dst, job.Src[0] = dst[i*out:(i+1)*out:(i+1)*out], src[56+i*k.in:56+(i+1)*k.in]
				if err := k.op.Run(&job); err != nil {
					return nil, err
				}
			}
			return nil, nil
		}},
		contender{"copy", nil, func() (func() error, error) {
			copy(dst, src[56:])
			return nil, nil
		}},
	)
	done := int64(times * k.counted)
	b.ReportMetric(rate(done, all["op"].median()), "GB/s")
	b.ReportMetric(rate(region, all["copy"].median()), "memcpy-GB/s")
	b.ReportMetric(ratio(all["copy"], all["op"])*float64(done)/region, "x-memcpy")
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

func fill(b []byte, v byte) {
	for i := range b {
		b[i] = v
	}
}

// smallF32 fills b with F32 numbers between 2^-6 and 2^-5.
func smallF32(b []byte) {
	random(b)
	for i := 0; i+3 < len(b); i += 4 {
		b[i+2], b[i+3] = b[i+2]&0x7F, 0x3C
	}
}

// small16 fills b with F16 numbers between 2^-6 and 2^-5, as scales are.
func small16(b []byte) { fill16(b, 0x2400, 0x03FF) }

// smallBytes fills b with positive F8_E4M3 numbers around 1, which are scales as E8M0 too.
func smallBytes(b []byte) {
	random(b)
	for i := range b {
		b[i] = 0x30 + b[i]&0x0F
	}
}

// smallBF16 fills b with BF16 numbers of both signs around 2^-6, as weights are.
func smallBF16(b []byte) { fill16(b, 0x3C00, 0x80FF) }

func fill16(b []byte, base, free uint16) {
	rng := rand.New(rand.NewPCG(1, 2))
	for i := 0; i+1 < len(b); i += 2 {
		v := base | uint16(rng.Uint32())&free
		b[i], b[i+1] = byte(v), byte(v>>8)
	}
}
