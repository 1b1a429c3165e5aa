//go:build unix

package file

import (
	"errors"
	"os"
	"syscall"
)

// How a file is opened that may be something else.
const (
	noFollow = syscall.O_NOFOLLOW
	noWait   = syscall.O_NONBLOCK
)

// inode is the number that a folder keeps when it is renamed.
func inode(st os.FileInfo) uint64 {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return sys.Ino
	}
	return 0
}

// notEmpty says that a folder could not be replaced because it is not empty.
func notEmpty(err error) bool {
	return errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EEXIST)
}

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
