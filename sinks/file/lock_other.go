//go:build !unix

package file

import (
	"errors"
	"io/fs"
	"os"
)

// This system has no such ways to open a file: what has the name is looked at before.
const (
	noFollow = 0
	noWait   = 0
)

// inode does not tell.
func inode(os.FileInfo) uint64 { return 0 }

// notEmpty says that a folder could not be replaced because it is not empty.
func notEmpty(err error) bool { return errors.Is(err, fs.ErrExist) }

// rename removes an empty folder that is in the way.
func rename(from, to string) error {
	_ = os.Remove(to) // fails when it is not empty, and then so does Rename
	return os.Rename(from, to)
}

// lock does nothing: this system has no such lock, and two sinks must not write to one target.
func lock(*os.File) (bool, error) { return true, nil }
