//go:build !unix

package cputest

import "testing"

// Guarded is a copy of b. There are no guards here.
func Guarded(t *testing.T, b []byte, _ bool) []byte {
	t.Helper()
	return AlignedCopy(b, 0)
}
