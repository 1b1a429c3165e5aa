package file

import (
	"errors"
	"os"
	"slices"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/coldload/coldload/stages"
)

// kernel remembers what this kernel lacks, so that it is asked once.
type kernel struct {
	calls
	noPopulate  atomic.Bool // before Linux 5.14
	noCachestat atomic.Bool // before Linux 6.5
}

// populate faults the pages of b in for reading; b starts on a page. It is a system call: the goroutine's processor is free meanwhile, and
// a page that cannot be had is EFAULT instead of a signal. A kernel without it does nothing: the pages are then faulted in by touch,
// under the fault guard.
func (k *kernel) populate(b []byte) error {
	if k.noPopulate.Load() {
		return nil
	}
	for {
		err := unix.Madvise(b, unix.MADV_POPULATE_READ)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
			k.noPopulate.Store(true)
			return nil
		default:
			return err
		}
	}
}

// systemCalls are the kernel's own.
func systemCalls() calls {
	return calls{cachestat: cachestat, mincore: mincore, openDirect: openDirect, preadDirect: preadDirect}
}

// resident is the share of e's pages that the page cache holds, 0 to 1. known is false when the kernel does not tell.
func (k *kernel) resident(sh *shard, e stages.Extent) (share float64, known bool) {
	if !k.noCachestat.Load() {
		share, err := k.cachestat(sh.File, e)
		if !errors.Is(err, unix.ENOSYS) {
			// EPERM included: mincore would then call every page resident.
			return share, err == nil
		}
		k.noCachestat.Store(true)
	}
	m, err := sh.mapping()
	if err != nil {
		return 0, false
	}
	share, err = k.mincore(m, e)
	return share, err == nil
}

// cachestat asks for e's pages. e is not empty: a length of 0 would mean the rest of the file.
func cachestat(f *os.File, e stages.Extent) (float64, error) {
	var st unix.Cachestat_t
	r := unix.CachestatRange{Off: uint64(e.Off), Len: uint64(e.Len)}
	if err := unix.Cachestat(uint(f.Fd()), &r, &st, 0); err != nil {
		return 0, err
	}
	first, end := pages(e)
	return float64(st.Cache) / float64(end-first), nil
}

// mincore asks for e's pages through a mapping of the whole file. Kernels since 5.2 call every page resident when the process neither
// owns the file nor may write it; mapping a cold range is then slower than it could be, but right.
func mincore(m []byte, e stages.Extent) (float64, error) {
	first, end := pages(e)
	state := make([]byte, end-first)
	start := first * int64(os.Getpagesize())
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[start])), uintptr(e.End()-start),
		uintptr(unsafe.Pointer(&state[0])))
	if errno != 0 {
		return 0, errno
	}
	n := 0
	for _, s := range state {
		n += int(s & 1)
	}
	return float64(n) / float64(len(state)), nil
}

// pages are the numbers of e's first page and of the one after its last.
func pages(e stages.Extent) (first, end int64) {
	size := int64(os.Getpagesize())
	return e.Off / size, (e.End() + size - 1) / size
}

// networkTypes are the file systems whose pages may come from another machine or from another process at any time.
var networkTypes = []uint32{
	unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.CEPH_SUPER_MAGIC,
	unix.AFS_SUPER_MAGIC, unix.AFS_FS_MAGIC, unix.CODA_SUPER_MAGIC, unix.NCP_SUPER_MAGIC, unix.V9FS_MAGIC,
	unix.FUSE_SUPER_MAGIC, // virtiofs too
	0x0bd00bd0,            // Lustre
	0x47504653,            // GPFS (Spectrum Scale)
	0x19830326,            // BeeGFS
	0x01161970,            // GFS2
	0x7461636f,            // OCFS2
	0xaad7aaea,            // PanFS
	0x786f4256,            // VirtualBox shared folders
}

// remote reports whether f lies on a network file system, or on one that does not tell.
func remote(f *os.File) bool {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return true
	}
	return slices.Contains(networkTypes, uint32(st.Type))
}

// discard gives the memory of a private mapping's pages back; b starts on a page.
func discard(b []byte) bool { return unix.Madvise(b, unix.MADV_DONTNEED) == nil }
