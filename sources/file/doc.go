// Package file reads Shards that lie in a local file system.
//
// A range is read in one of three ways. mmap hands out the page cache itself: nothing is copied, and the pages count as the file's memory,
// not as the process's own. direct reads past the page cache (O_DIRECT) into buffers outside of the Go heap, which are reused and bounded.
// pread copies into the same buffers and works everywhere. [ModeAuto] picks per range: what the page cache holds is mapped, the rest is
// read directly where the file system is a local disk's, because a page fault on a cold page holds a processor for the whole of the
// disk's answer, and filling the page cache costs more processor time than the disk takes. What is read directly stays out of the page
// cache, so that a second load is cold again, and what was there stays there.
//
// Direct reads want three things, measured on a disk that gives 4 GB/s: buffers of huge pages (with small ones a request to the disk is
// cut into pieces of 1 MiB, and it gives a third), requests of some MiB (2 to 16 are the same), and one that is always waiting at the
// disk. One goroutine that does nothing else is enough for that; beside stages that keep every processor busy it takes several, because a
// read counts as made only when its goroutine has a processor again. How a device likes it is learnt from the first reads: see tuner.
//
// A direct read starts and ends at a block of the disk, so the ends of a range, and small gaps between ranges, are read too. That padding
// is told before admission ([Source.Padding]) and charged to the Batch; ranges that have no room for it are copied.
//
// Mapped bytes can vanish when the file is truncated. The range is faulted in by a system call first, which reports a bad page as an
// error; a page that is lost after that raises a fault, so only code under a fault guard may touch Views.
package file
