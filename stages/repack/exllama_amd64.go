//go:build !purego

package repack

import "github.com/coldload/coldload/internal/cpu"

// exllamaKernels are the kernels for words of codes of 2 bits and of 4: AVX2 or AVX-512; normal stores or non-temporal.
var exllamaKernels = [2][2][2]func(dst, src *byte, lines int){
	{{exllama2AVX2, exllama2AVX2NT}, {exllama2AVX512, exllama2AVX512NT}},
	{{exllama4AVX2, exllama4AVX2NT}, {exllama4AVX512, exllama4AVX512NT}},
}

// exllama3Kernels are those for three rows of codes of 3 bits.
var exllama3Kernels = [2][2]func(dst, src *byte, lines, dstStride, srcStride int){
	{exllama3AVX2, exllama3AVX2NT}, {exllama3AVX512, exllama3AVX512NT},
}

// exllamaLines is exllamaRow for whole lines at the start of a row, of codes of 2 or 4 bits. It returns how many bytes they have.
func exllamaLines(dst, src []byte, bits int, stream bool) (done int) {
	if !cpu.X86.AVX2 || bits == 8 {
		return 0
	}
	wide, past := cpu.Levels(stream)
	kernel := exllamaKernels[bits/4][wide][past]
	dst = dst[:len(src)] // the kernels trust this
	for len(src)-done >= cpu.Line {
		n := min(len(src)-done, cpu.MaxCall) / cpu.Line
		kernel(&dst[done], &src[done], n)
		done += n * cpu.Line
	}
	return done
}

// exllama3Lines is exllama3Rows for whole lines at the start of three rows of n bytes, stride bytes apart in dst and side by side in src.
func exllama3Lines(dst, src []byte, n, stride int, stream bool) (done int) {
	if !cpu.X86.AVX2 || n == 0 {
		return 0
	}
	_, _ = dst[2*stride+n-1], src[3*n-1] // the kernels trust these bounds
	wide, past := cpu.Levels(stream)
	for n-done >= cpu.Line {
		lines := min(n-done, cpu.MaxCall/3) / cpu.Line
		exllama3Kernels[wide][past](&dst[done], &src[done], lines, stride, n)
		done += lines * cpu.Line
	}
	return done
}
