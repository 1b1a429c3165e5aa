package coldload

import (
	"os"

	"golang.org/x/sys/unix"
)

// passBy tells the system that reading f is no reason to keep its bytes. Else, when memory is short, what was hashed and then loaded would stay in the
// page cache, since it was used twice, and what was hashed and is still to be loaded would go: a disk would have to read it again. Systems before
// Linux 6.3 take no notice.
func passBy(f *os.File) {
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_NOREUSE) // advice: the bytes are the same without
}
