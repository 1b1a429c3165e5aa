package cpu

import "unsafe"

// What the callers of kernels have in common.
const (
	// Line is a cache line, in bytes. Non-temporal stores must not straddle it.
	Line = 64
	// MaxCall bounds what one call of a kernel reads or writes, in bytes: it cannot be interrupted, and the collector would wait for it.
	MaxCall = 1 << 20
	// MinStream is the size of a destination, in bytes, from which on it goes past the caches: it would not stay there until it is read.
	MinStream = 256 << 10
)

// ToLine is how many bytes behind the start of b the next cache line begins: 0 when b begins with one.
func ToLine(b []byte) int { return int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) % Line) }
