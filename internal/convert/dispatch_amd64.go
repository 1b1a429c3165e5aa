//go:build !purego

package convert

import (
	"maps"

	"github.com/coldload/coldload/internal/cpu"
	"github.com/coldload/coldload/safetensors"
)

// vectorKernel converts blocks of elements. overflow is not 0 when a finite one became infinite; it has converted all of them then, too.
type vectorKernel func(dst, src *byte, blocks int) (overflow uint64)

// twin is the assembly for one pair of types.
type twin struct {
	avx2, avx2NT vectorKernel // blocks of 32 elements
	wide, wideNT vectorKernel // blocks of 64 elements
	vbmi         bool         // wide needs AVX512VBMI
}

var twins = map[pair]twin{
	{safetensors.F32, safetensors.F16}:  {f32ToF16AVX2, f32ToF16AVX2NT, f32ToF16AVX512, f32ToF16AVX512NT, false},
	{safetensors.F32, safetensors.BF16}: {f32ToBF16AVX2, f32ToBF16AVX2NT, f32ToBF16AVX512, f32ToBF16AVX512NT, false},

	{safetensors.F16, safetensors.F32}:  {f16ToF32AVX2, f16ToF32AVX2NT, f16ToF32AVX512, f16ToF32AVX512NT, false},
	{safetensors.F16, safetensors.BF16}: {f16ToBF16AVX2, f16ToBF16AVX2NT, f16ToBF16AVX512, f16ToBF16AVX512NT, false},

	{safetensors.BF16, safetensors.F32}: {bf16ToF32AVX2, bf16ToF32AVX2NT, bf16ToF32AVX512, bf16ToF32AVX512NT, false},
	{safetensors.BF16, safetensors.F16}: {bf16ToF16AVX2, bf16ToF16AVX2NT, bf16ToF16AVX512, bf16ToF16AVX512NT, false},

	{safetensors.F8E4M3, safetensors.F32}:  {e4m3ToF32AVX2, e4m3ToF32AVX2NT, e4m3ToF32VBMI, e4m3ToF32VBMINT, true},
	{safetensors.F8E4M3, safetensors.F16}:  {e4m3ToF16AVX2, e4m3ToF16AVX2NT, e4m3ToF16VBMI, e4m3ToF16VBMINT, true},
	{safetensors.F8E4M3, safetensors.BF16}: {e4m3ToBF16AVX2, e4m3ToBF16AVX2NT, e4m3ToBF16VBMI, e4m3ToBF16VBMINT, true},

	{safetensors.F8E5M2, safetensors.F32}:  {e5m2ToF32AVX2, e5m2ToF32AVX2NT, e5m2ToF32VBMI, e5m2ToF32VBMINT, true},
	{safetensors.F8E5M2, safetensors.F16}:  {e5m2ToF16AVX2, e5m2ToF16AVX2NT, e5m2ToF16VBMI, e5m2ToF16VBMINT, true},
	{safetensors.F8E5M2, safetensors.BF16}: {e5m2ToBF16AVX2, e5m2ToBF16AVX2NT, e5m2ToBF16VBMI, e5m2ToBF16VBMINT, true},
}

// accelerate puts a Kernel that chooses in the place of each generic one that has a twin. Destinations of up to cached bytes are left in the
// caches.
func accelerate(generics map[pair]Kernel, cached int) map[pair]Kernel {
	kernels := maps.Clone(generics)
	for p, t := range twins {
		kernels[p] = t.kernel(generics[p], p.from.Bits()/8, p.to.Bits()/8, cached)
	}
	return kernels
}

// kernel makes the Kernel of a pair of types with elements of from and to bytes.
func (t twin) kernel(generic Kernel, from, to, cached int) Kernel {
	return func(dst, src []byte) int {
		n := len(src) / from
		plain, stream, block := t.avx2, t.avx2NT, 32
		switch f := &cpu.X86; {
		case f.AVX512VBMI, f.AVX512 && !t.vbmi:
			plain, stream, block = t.wide, t.wideNT, 64
		case f.AVX2:
		default:
			return generic(dst, src)
		}
		if n < block {
			return generic(dst, src)
		}
		_ = dst[n*to-1] // the kernels trust the bounds
		first := -1
		// run converts whole blocks from element i on.
		run := func(k vectorKernel, i, blocks int) {
			if k(&dst[i*to], &src[i*from], blocks) != 0 && first < 0 {
				end := i + blocks*block
				first = i + generic(dst[i*to:end*to], src[i*from:end*from])
			}
		}
		i, kernel := 0, plain
		if n*to > cached {
			if lead := cpu.ToLine(dst); lead%to == 0 {
				kernel = stream
				if i = lead / to; i > 0 {
					run(plain, 0, 1) // up to the line and beyond
				}
			}
		}
		for each := cpu.MaxCall / max(from, to) / block; i+block <= n; {
			blocks := min(each, (n-i)/block)
			run(kernel, i, blocks)
			i += blocks * block
		}
		if i < n {
			run(plain, n-block, 1) // the last elements, some of them for the second time
		}
		return first
	}
}

// finiteBytes is how many bytes at the start of b are known to hold no lane (of bits) of which (x & abs) + add has the top bit.
func finiteBytes(b []byte, bits int, abs, add uint64) int {
	const block = 256
	if !cpu.X86.AVX2 {
		return 0
	}
	known := 0
	for len(b)-known >= block {
		n := min(len(b)-known, cpu.MaxCall) / block
		left := finiteBlocks(&b[known], n, bits, abs, add)
		known += (n - left) * block
		if left > 0 {
			break
		}
	}
	return known
}

func finiteBlocks(src *byte, blocks, bits int, abs, add uint64) (left int) {
	switch wide := cpu.X86.AVX512; {
	case bits == 8 && wide:
		return finite8AVX512(src, blocks, abs, add)
	case bits == 16 && wide:
		return finite16AVX512(src, blocks, abs, add)
	case bits == 32 && wide:
		return finite32AVX512(src, blocks, abs, add)
	case bits == 64 && wide:
		return finite64AVX512(src, blocks, abs, add)
	case bits == 8:
		return finite8AVX2(src, blocks, abs, add)
	case bits == 16:
		return finite16AVX2(src, blocks, abs, add)
	case bits == 32:
		return finite32AVX2(src, blocks, abs, add)
	default:
		return finite64AVX2(src, blocks, abs, add)
	}
}
