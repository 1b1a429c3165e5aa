package file

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// mostAlign is the largest alignment that makes sense: a block.
const mostAlign = 1 << 20

// layeredTypes are the file systems that keep their bytes in memory or pass every call on to another one, so that a direct read gains
// nothing or is only pretended.
var layeredTypes = []uint32{unix.TMPFS_MAGIC, unix.RAMFS_MAGIC, unix.HUGETLBFS_MAGIC, unix.OVERLAYFS_SUPER_MAGIC, unix.ECRYPTFS_SUPER_MAGIC}

// layered reports whether f lies on one of them, or does not tell.
func layered(f *os.File) bool {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return true
	}
	return slices.Contains(layeredTypes, uint32(st.Type))
}

// openDirect opens f's file again with O_DIRECT. It goes through the descriptor, not through a path: what was checked when f was opened
// holds for it too. Setting the flag on a duplicate instead would set it on f as well.
func openDirect(f *os.File) (*os.File, int64, error) {
	align, err := directAlign(f)
	if err != nil {
		return nil, 0, err
	}
	d, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return nil, 0, err
	}
	if err := sameFile(f, d); err != nil {
		return nil, 0, errors.Join(err, d.Close())
	}
	return d, align, nil
}

// sameFile guards against a /proc that is not the kernel's.
func sameFile(a, b *os.File) error {
	ai, err := a.Stat()
	if err != nil {
		return err
	}
	bi, err := b.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(ai, bi) {
		return errors.New("another file was opened")
	}
	return nil
}

// directAlign asks what alignment direct reads of f need in the file (since Linux 6.1).
func directAlign(f *os.File) (int64, error) {
	var st unix.Statx_t
	err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st)
	if err != nil || st.Mask&unix.STATX_DIOALIGN == 0 {
		return leastAlign, nil //nolint:nilerr // not told: the first read shows whether a page is enough
	}
	return checkAlign(st.Dio_offset_align, st.Dio_mem_align)
}

// checkAlign turns what the kernel told into an alignment in the file. Buffers start on a page, so memory may need no more than that.
func checkAlign(offset, memory uint32) (int64, error) {
	odd := func(n uint32) bool { return n == 0 || n&(n-1) != 0 }
	if odd(offset) || odd(memory) || offset > mostAlign || int(memory) > os.Getpagesize() {
		return 0, fmt.Errorf("%w: direct reads aligned to %d bytes in the file and %d in memory", errors.ErrUnsupported, offset, memory)
	}
	return max(leastAlign, int64(offset)), nil
}

// preadDirect is one system call.
func preadDirect(f *os.File, dst []byte, off int64) (int, error) {
	for {
		n, err := unix.Pread(int(f.Fd()), dst, off)
		if !errors.Is(err, unix.EINTR) {
			return max(n, 0), err
		}
	}
}

// refused reports whether err means that this file is never read directly, rather than that these bytes cannot be.
func refused(err error) bool {
	for _, e := range []error{unix.EINVAL, unix.EOPNOTSUPP, unix.ENOSYS, unix.EPERM, unix.EACCES} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// device is the number of the device that f lies on.
func device(f *os.File) uint64 {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0
	}
	return st.Dev
}
