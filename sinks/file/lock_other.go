//go:build !unix

package file

import "os"

// rename removes an empty folder that is in the way.
func rename(from, to string) error {
	_ = os.Remove(to) // fails when it is not empty, and then so does Rename
	return os.Rename(from, to)
}

// lock does nothing: this system has no such lock, and two sinks must not write to one target.
func lock(*os.File) (bool, error) { return true, nil }
