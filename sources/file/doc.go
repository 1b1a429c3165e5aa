// Package file reads Shards that lie in a local file system.
//
// A range is read in one of two ways. mmap hands out the page cache itself: nothing is copied, and the pages count as the file's memory,
// not as the process's own. pread copies into buffers outside of the Go heap, which are reused and bounded. [ModeAuto] picks per range:
// what the page cache holds is mapped, the rest is copied, because a page fault on a cold page holds a processor for the whole of the
// disk's answer and mapping it is no faster than reading it.
//
// Mapped bytes can vanish when the file is truncated. The range is faulted in by a system call first, which reports a bad page as an
// error; a page that is lost after that raises a fault, so only code under a fault guard may touch Views.
package file
