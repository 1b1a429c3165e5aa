//go:build unix

package file

import (
	"errors"
	"os"
	"syscall"
)

// rename replaces an empty folder too, which os.Rename refuses.
func rename(from, to string) error { return syscall.Rename(from, to) }

// lock takes the file for this process without waiting; false when another has it. Closing the file lets go.
func lock(f *os.File) (bool, error) {
	for {
		switch err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
		case err == nil:
			return true, nil
		case errors.Is(err, syscall.EWOULDBLOCK):
			return false, nil
		case !errors.Is(err, syscall.EINTR):
			return false, &os.PathError{Op: "lock", Path: f.Name(), Err: err}
		}
	}
}
