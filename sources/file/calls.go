package file

import (
	"os"

	"github.com/coldload/coldload/stages"
)

// calls are the system calls that a kernel, a file system or a sandbox may refuse. Tests refuse them in its place.
type calls struct {
	// cachestat is the share of the range's pages that the page cache holds, 0 to 1.
	cachestat func(f *os.File, e stages.Extent) (float64, error)
	// mincore is the same by way of a mapping of the whole file.
	mincore func(m []byte, e stages.Extent) (float64, error)
	// openDirect opens the file once more, for reads past the page cache, and says what alignment they need, in bytes.
	openDirect func(f *os.File) (*os.File, int64, error)
	// preadDirect is one such read. Like read(2) it may be short.
	preadDirect func(f *os.File, dst []byte, off int64) (int, error)
}
