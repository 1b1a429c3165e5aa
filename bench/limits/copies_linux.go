package main

import (
	"errors"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/coldload/coldload/internal/offheap"
)

// freshCopy copies all files from the page cache into fresh memory of huge pages by all processors: the least that a warm load can cost.
// Mapping and the memory's pages are within the clock, giving them back is not.
func freshCopy(s *fileSet) (reading, error) {
	const step = 8 << 20
	var views [][]byte
	var into *offheap.Region
	r, err := timed(func() (err error) {
		list := pieces(s.sizes, step)
		if views, err = mapAll(s); err != nil {
			return err
		}
		if into, err = offheap.Alloc(step * int64(len(list))); err != nil {
			return err
		}
		return onCores(list, func(_ int, p piece) error {
			src := views[p.file][p.off : p.off+p.size]
			if err := unix.Madvise(src, unix.MADV_POPULATE_READ); err != nil {
				return err
			}
			copy(into.Bytes()[p.at:], src)
			return nil
		})
	})
	for _, v := range views {
		err = errors.Join(err, unix.Munmap(v))
	}
	if into != nil {
		err = errors.Join(err, into.Free())
	}
	return r, err
}

func mapAll(s *fileSet) (views [][]byte, err error) {
	for i, f := range s.files {
		v, err := unix.Mmap(int(f.Fd()), 0, int(s.sizes[i]), unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			return views, err
		}
		views = append(views, v)
	}
	return views, nil
}

// memory are two pieces of memory, far larger than the caches.
type memory struct {
	src, dst []byte
	all      buffers
}

func makeMemory(region int64) (*memory, error) {
	all, err := makeBuffers(2, region+4096)
	if err != nil {
		return nil, err
	}
	return &memory{src: all[0].Bytes(), dst: all[1].Bytes()[:region], all: all}, nil
}

// copyOne copies all of src so many times with one processor.
func (m *memory) copyOne(passes int) (reading, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return timed(func() error {
		for range passes {
			copy(m.dst, m.src[offset:])
		}
		return nil
	})
}

// copyAll does so with all processors.
func (m *memory) copyAll(passes int) (reading, error) {
	return timed(func() error {
		for range passes {
			err := onCores(pieces([]int64{int64(len(m.dst))}, 8<<20), func(_ int, p piece) error {
				copy(m.dst[p.off:p.off+p.size], m.src[offset+p.off:])
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// offset of sources: tensors lie off the processor's lines in files.
const offset = 56
