//go:build purego || !amd64

package decode

// kernel reports whether there is a kernel for the rows. There is none.
func (*fp4Job) kernel(_, _ int) bool { return false }
