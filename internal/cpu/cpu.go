// Package cpu says which vector instructions the kernels may use.
//
// The features are read once, when the program starts. The environment variable COLDLOAD_CPU_DISABLE takes some of them away, to look
// for a fault in a kernel or to run the tests as an older processor would: a list of "avx512vbmi", "avx512" and "avx2", with commas
// between. It is the one place where the library looks at the environment. A feature that is taken away takes those with it that build on
// it. The build tag purego leaves all assembly out.
package cpu

import (
	"os"
	"strings"
)

// Features are instruction sets, each with everything below it and with the operating system's support.
type Features struct {
	AVX2       bool // with F16C
	AVX512     bool // F, BW, DQ and VL
	AVX512VBMI bool
}

// EnvDisable names the environment variable.
const EnvDisable = "COLDLOAD_CPU_DISABLE"

// The names of features, in EnvDisable and for Disable.
const (
	AVX2       = "avx2"
	AVX512     = "avx512"
	AVX512VBMI = "avx512vbmi"
)

// X86 is what the kernels look at. On other processors, and under the build tag purego, it is empty.
var X86 = detect().without(strings.Split(os.Getenv(EnvDisable), ",")...)

// without is f less the named features and those that build on them. It ignores names that it does not know.
func (f Features) without(names ...string) Features {
	for _, name := range names {
		switch strings.TrimSpace(name) {
		case AVX2:
			f = Features{}
		case AVX512:
			f.AVX512, f.AVX512VBMI = false, false
		case AVX512VBMI:
			f.AVX512VBMI = false
		}
	}
	return f
}

// String is the best of the features: "avx512vbmi", "avx512", "avx2" or "generic".
func (f Features) String() string {
	switch {
	case f.AVX512VBMI:
		return AVX512VBMI
	case f.AVX512:
		return AVX512
	case f.AVX2:
		return AVX2
	}
	return "generic"
}

// Disable takes features away until restore is called. It is for tests: no kernel may run during either call.
func Disable(names ...string) (restore func()) {
	before := X86
	X86 = X86.without(names...)
	return func() { X86 = before }
}

// Masks is every list of names for Disable that makes a difference to the kernels, from none to all.
func Masks() [][]string {
	return [][]string{nil, {AVX512VBMI}, {AVX512}, {AVX2}}
}
