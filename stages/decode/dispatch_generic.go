//go:build purego || !amd64

package decode

// hasKernel reports whether there is a kernel for the codes. There is none.
func (*dequantiser) hasKernel() bool { return false }

// decodePanel is never called.
func (*dequantiser) decodePanel(*panel, int, int) {}

func (d *rowsDequantiser) hasKernel() bool { return false }

func (d *rowsDequantiser) kernel(int, []byte, []float32) {}
