package file

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// control runs f on the descriptor, which stays open for that time; a file that is closed is os.ErrClosed.
func control(f *os.File, call func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var callErr error
	if err := raw.Control(func(fd uintptr) {
		for {
			if callErr = call(int(fd)); !errors.Is(callErr, unix.EINTR) {
				return
			}
		}
	}); err != nil {
		return err
	}
	return callErr
}

func pathError(op string, f *os.File, err error) error {
	if err == nil || errors.Is(err, os.ErrClosed) {
		return err
	}
	return &os.PathError{Op: op, Path: f.Name(), Err: err}
}

func pwritev(f *os.File, bufs [][]byte, off int64) (n int, err error) {
	err = control(f, func(fd int) (err error) {
		n, err = unix.Pwritev(fd, bufs, off)
		return err
	})
	return n, pathError("write", f, err)
}

// openDirect opens a file for writes past the page cache. It fails with EINVAL when block is not enough for that, as the system does
// when the file system has no such way.
func openDirect(path string, block int64) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Statx_t
	err = control(f, func(fd int) error { return unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st) })
	told := err == nil && st.Mask&unix.STATX_DIOALIGN != 0
	if told && (!aligns(st.Dio_offset_align, block) || !aligns(st.Dio_mem_align, block)) {
		return nil, errors.Join(&os.PathError{Op: "open", Path: path, Err: unix.EINVAL}, f.Close())
	}
	return f, nil // a kernel that does not tell shows at the first write
}

// aligns says whether multiples of block are multiples of n; 0 is none.
func aligns(n uint32, block int64) bool { return n > 0 && block%int64(n) == 0 }

// notDirect says whether an error means that a file cannot be written past the page cache, or not by this process now.
func notDirect(err error) bool {
	for _, e := range []error{unix.EINVAL, unix.EOPNOTSUPP, unix.ENOSYS, unix.EMFILE, unix.ENFILE, errNoProgress} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// readRandom keeps the system from reading ahead: what comes behind may be being written past the page cache.
func readRandom(f *os.File) {
	_ = control(f, func(fd int) error { return unix.Fadvise(fd, 0, 0, unix.FADV_RANDOM) }) // a hint
}

// allocate falls back to a file with holes where the file system cannot reserve blocks.
func allocate(f *os.File, n int64) error {
	err := control(f, func(fd int) error { return unix.Fallocate(fd, 0, 0, n) })
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return f.Truncate(n)
	}
	return pathError("allocate", f, err)
}

func syncData(f *os.File) error { return pathError("sync", f, control(f, unix.Fdatasync)) }

// startWrite hands a range of the page cache to the disk.
func startWrite(f *os.File, off, n int64) error {
	return control(f, func(fd int) error {
		return unsupported(unix.SyncFileRange(fd, off, n, unix.SYNC_FILE_RANGE_WRITE))
	})
}

// waitWritten waits until a range of the page cache is on the disk, and drops it.
func waitWritten(f *os.File, off, n int64) error {
	const all = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	err := control(f, func(fd int) error {
		if err := unsupported(unix.SyncFileRange(fd, off, n, all)); err != nil {
			return err
		}
		_ = unix.Fadvise(fd, off, n, unix.FADV_DONTNEED) // a hint
		return nil
	})
	return pathError("write", f, err)
}

// unsupported forgives file systems without write-back: there is nothing to control then.
func unsupported(err error) error {
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ESPIPE) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

// drop forgets the clean pages of a file.
func drop(f *os.File) {
	_ = control(f, func(fd int) error { return unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED) }) // a hint
}

// freeBytes is what a file system has for this user; false when it does not tell.
func freeBytes(dir string) (int64, bool) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil || st.Blocks == 0 {
		return 0, false
	}
	return int64(st.Bavail) * st.Frsize, true
}

// allocatedBytes is what a file takes on the disk.
func allocatedBytes(path string) int64 {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return 0
	}
	return st.Blocks * 512
}

// isMount reports whether something is mounted at dir.
func isMount(dir, parent string) bool {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, 0, unix.STATX_TYPE, &st); err == nil && st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
	}
	var a, b unix.Stat_t
	return unix.Stat(dir, &a) == nil && unix.Stat(parent, &b) == nil && a.Dev != b.Dev
}
