//go:build unix

package cputest

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Guarded is a copy of b between two pages that cannot be touched. It ends where the second one begins, or starts where the first one
// ends: a kernel that reads or writes one byte too many there kills the test. It is freed after the test.
func Guarded(t *testing.T, b []byte, atEnd bool) []byte {
	t.Helper()
	page := os.Getpagesize()
	room := (len(b) + page - 1) / page * page
	m, err := unix.Mmap(-1, 0, room+2*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Munmap(m); err != nil {
			t.Error(err)
		}
	})
	for _, guard := range [][]byte{m[:page], m[page+room:]} {
		if err := unix.Mprotect(guard, unix.PROT_NONE); err != nil {
			t.Fatal(err)
		}
	}
	off := page
	if atEnd {
		off += room - len(b)
	}
	g := m[off : off+len(b) : off+len(b)]
	copy(g, b)
	return g
}
