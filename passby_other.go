//go:build !linux

package coldload

import "os"

// passBy does nothing where a system cannot be told.
func passBy(*os.File) {}
