package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fileSet are the shards of a folder, open.
type fileSet struct {
	files []*os.File
	sizes []int64
	size  int64
}

func openShards(dir string) (*fileSet, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.safetensors"))
	if err != nil {
		return nil, err
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("no .safetensors files in %s", dir)
	}
	s := &fileSet{}
	for _, path := range paths {
		if err := s.add(path); err != nil {
			return nil, errors.Join(err, s.close())
		}
	}
	return s, nil
}

func (s *fileSet) add(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	s.files = append(s.files, f)
	st, err := f.Stat()
	if err != nil {
		return err
	}
	s.sizes, s.size = append(s.sizes, st.Size()), s.size+st.Size()
	return nil
}

func (s *fileSet) close() error {
	var errs []error
	for _, f := range s.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// warm reads all files through the page cache, always in the same way, until they are there.
func (s *fileSet) warm(ctx context.Context) error {
	buf := make([]byte, 4<<20)
	read := func(f *os.File) error {
		_, err := io.CopyBuffer(onlyWriter{}, io.NewSectionReader(f, 0, 1<<62), buf)
		return err
	}
	return s.until(ctx, read, func(share float64) bool { return share > 0.999 }, "the page cache does not keep the files: is there memory enough?")
}

// onlyWriter takes bytes; unlike io.Discard it takes them from the buffer that is offered.
type onlyWriter struct{}

func (onlyWriter) Write(b []byte) (int, error) { return len(b), nil }

// evict takes all files out of the page cache, until they are gone.
func (s *fileSet) evict(ctx context.Context) error {
	drop := func(f *os.File) error {
		return errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
	}
	return s.until(ctx, drop, func(share float64) bool { return share < 0.001 }, "the page cache does not let go of the files: does another program use them?")
}

// until does something to every file until the share of them that is in the page cache is good. Other programs may undo some of it.
func (s *fileSet) until(ctx context.Context, do func(*os.File) error, good func(share float64) bool, otherwise string) error {
	var share float64
	for range tries {
		for _, f := range s.files {
			if err := do(f); err != nil {
				return fmt.Errorf("%s: %w", f.Name(), err)
			}
		}
		var err error
		if share, err = s.cached(); err != nil || good(share) {
			return errors.Join(err, ctx.Err())
		}
	}
	return fmt.Errorf("%.2f %% of the files are in the page cache: %s", 100*share, otherwise)
}

// cached is the share of the files that is in the page cache.
func (s *fileSet) cached() (float64, error) {
	var pages float64
	for i, f := range s.files {
		n, err := resident(f, s.sizes[i])
		if err != nil {
			return 0, fmt.Errorf("what of %s is in the page cache: %w", f.Name(), err)
		}
		pages += n
	}
	return min(1, pages*float64(os.Getpagesize())/float64(s.size)), nil
}

// resident is the number of a file's pages in the page cache.
func resident(f *os.File, size int64) (float64, error) {
	var st unix.Cachestat_t
	err := unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{Len: uint64(size)}, &st, 0)
	if errors.Is(err, unix.ENOSYS) {
		return mincore(f, size)
	}
	return float64(st.Cache), err
}

// mincore is what kernels before 6.5 have.
func mincore(f *os.File, size int64) (pages float64, err error) {
	m, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return 0, err
	}
	state := make([]byte, (size+int64(os.Getpagesize())-1)/int64(os.Getpagesize()))
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(size), uintptr(unsafe.Pointer(&state[0]))); errno != 0 {
		return 0, errors.Join(errno, unix.Munmap(m))
	}
	for _, s := range state {
		pages += float64(s & 1)
	}
	return pages, unix.Munmap(m)
}

// settle waits until nothing waits to be written on the disk of dir.
func settle(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
}
