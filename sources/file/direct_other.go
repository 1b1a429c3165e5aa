//go:build !linux

package file

import (
	"errors"
	"os"
)

// layered is not asked for: without resident, nothing is read directly on its own accord.
func layered(*os.File) bool { return true }

// openDirect cannot be done.
func openDirect(*os.File) (*os.File, int64, error) { return nil, 0, errors.ErrUnsupported }

func preadDirect(*os.File, []byte, int64) (int, error) { return 0, errors.ErrUnsupported }

func refused(error) bool { return true }

func device(*os.File) uint64 { return 0 }
