package offheap

import "golang.org/x/sys/unix"

// adviseHuge asks for huge pages. It is a hint: a kernel without them serves small pages, which only costs time.
func adviseHuge(b []byte) {
	if len(b) >= HugePage {
		_ = unix.Madvise(b, unix.MADV_HUGEPAGE)
	}
}
