//go:build purego || !amd64

package convert

// accelerate leaves the kernels as they are: plain Go.
func accelerate(generics map[pair]Kernel, _ int) map[pair]Kernel { return generics }

// finiteBytes is how many bytes at the start of b are known to hold no lane of which (x & abs) + add has the top bit. None is.
func finiteBytes(_ []byte, _ int, _, _ uint64) int { return 0 }
