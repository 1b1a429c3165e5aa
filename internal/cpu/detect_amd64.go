//go:build !purego

package cpu

import "github.com/klauspost/cpuid/v2"

func detect() Features {
	var f Features
	f.AVX2 = cpuid.CPU.Supports(cpuid.AVX2, cpuid.F16C)
	f.AVX512 = f.AVX2 && cpuid.CPU.Supports(cpuid.AVX512F, cpuid.AVX512BW, cpuid.AVX512DQ, cpuid.AVX512VL)
	f.AVX512VBMI = f.AVX512 && cpuid.CPU.Supports(cpuid.AVX512VBMI)
	return f
}
