//go:build !linux

package file

import (
	"errors"
	"os"
)

func pwritev(f *os.File, bufs [][]byte, off int64) (int, error) { return f.WriteAt(bufs[0], off) }

// openDirect: there is one way only.
func openDirect(path string, _ int64) (*os.File, error) {
	return nil, &os.PathError{Op: "open", Path: path, Err: errors.ErrUnsupported}
}

func notDirect(err error) bool {
	return errors.Is(err, errors.ErrUnsupported) || errors.Is(err, errNoProgress)
}
func readRandom(*os.File) {}

func allocate(f *os.File, n int64) error { return f.Truncate(n) }
func syncData(f *os.File) error          { return f.Sync() }

// Write-back is left to the system.
func startWrite(*os.File, int64, int64) error  { return nil }
func waitWritten(*os.File, int64, int64) error { return nil }
func drop(*os.File)                            {}

// freeBytes does not tell: a full disk shows while writing.
func freeBytes(string) (int64, bool) { return 0, false }
func allocatedBytes(string) int64    { return 0 }

// isMount does not tell: the rename at the end fails then.
func isMount(string, string) bool { return false }
