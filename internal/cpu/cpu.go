// Package cpu says which vector instructions the kernels may use.
//
// The features are read once, when the program starts. Disable takes some of them away, to look for a fault in a kernel or to run the
// tests as an older processor would: the command does so when it is asked to, tests do, the libraries never. The linker can do it too, for
// every test of a run: -ldflags "-X github.com/coldload/coldload/internal/cpu.disabled=avx512". A feature that is taken away takes those
// with it that build on it. The build tag purego leaves all assembly out.
package cpu

import (
	"fmt"
	"strings"
)

// Features are instruction sets, each with everything below it and with the operating system's support.
type Features struct {
	AVX2       bool // with F16C
	AVX512     bool // F, BW, DQ and VL
	AVX512VBMI bool
}

// The names of features, for Disable.
const (
	AVX2       = "avx2"
	AVX512     = "avx512"
	AVX512VBMI = "avx512vbmi"
)

// disabled is a list of features with commas between. It is for the linker.
var disabled string

// X86 is what the kernels look at. On other processors, and under the build tag purego, it is empty.
var X86 = detect().without(strings.Split(disabled, ",")...)

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

// Disable takes features away until restore is called. No kernel may run during either call.
func Disable(names ...string) (restore func()) {
	before := X86
	X86 = X86.without(names...)
	return func() { X86 = before }
}

// Parse splits a list of names for Disable with commas between, and refuses a name that is no feature's: a slip of the pen must not turn
// a run without a feature into one with it.
func Parse(list string) ([]string, error) {
	var names []string
	for name := range strings.SplitSeq(list, ",") {
		switch name = strings.TrimSpace(name); name {
		case "":
		case AVX2, AVX512, AVX512VBMI:
			names = append(names, name)
		default:
			return nil, fmt.Errorf("no feature of the processor is called %q, only %s, %s and %s", name, AVX512VBMI, AVX512, AVX2)
		}
	}
	return names, nil
}

// Masks is every list of names for Disable that makes a difference to the kernels, from none to all.
func Masks() [][]string {
	return [][]string{nil, {AVX512VBMI}, {AVX512}, {AVX2}}
}
