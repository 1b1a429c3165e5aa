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

// Streams says that a destination of size bytes goes past the caches: unless it is read again soon, when it is large, and it and its rows, stride bytes
// apart, begin with lines. dst is where a kernel begins in it.
func Streams(soon bool, size int, dst []byte, stride int) bool {
	return !soon && size >= MinStream && ToLine(dst) == 0 && stride%Line == 0
}

// Levels are the places of a kernel among those for AVX2 and AVX-512, and among those with normal stores and non-temporal ones.
func Levels(stream bool) (wide, past int) {
	if X86.AVX512 {
		wide = 1
	}
	if stream {
		past = 1
	}
	return wide, past
}
