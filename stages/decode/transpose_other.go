//go:build purego || !amd64

package decode

// transposeKernel turns as many of the columns, of elements of 2 or 4 bytes, as the processor has a kernel for, and returns how many that were. The
// arguments are those of transposeGeneric.
func transposeKernel(_, _ []byte, _, _, _, _, _ int, _ bool) int { return 0 }
