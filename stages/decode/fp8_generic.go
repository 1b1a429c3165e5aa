//go:build purego || !amd64

package decode

// hasKernel reports whether there is a kernel for the weights. There is none.
func (*fp8Job) hasKernel() bool { return false }

// kernel is never called.
func (*fp8Job) kernel(_, _ int, _ []float32) {}
