package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// way is how raw bytes are read or written: by so many at once, in pieces of so many bytes, past the page cache or through it.
type way struct {
	depth  int
	block  int64
	direct bool
}

func (w way) String() string {
	how := "buffered"
	if w.direct {
		how = "direct"
	}
	return fmt.Sprintf("%s, %d x %d MiB", how, w.depth, w.block>>20)
}

func (w way) flag() int {
	if w.direct {
		return unix.O_DIRECT
	}
	return 0
}

// The ways that are tried; the best by the median of some tries is the limit of all rounds.
var (
	readWays  = []way{{2, 8 << 20, true}, {4, 8 << 20, true}, {8, 8 << 20, true}, {4, 16 << 20, true}, {16, 2 << 20, true}}
	writeWays = []way{{2, 8 << 20, true}, {4, 4 << 20, true}, {4, 8 << 20, true}, {8, 8 << 20, true}, {2, 4 << 20, false}}
)

// timed runs work and gives its seconds.
func timed(work func() error) (reading, error) {
	start := time.Now()
	err := work()
	return reading{Seconds: time.Since(start).Seconds()}, err
}

// rawRead reads all files into a few buffers.
func rawRead(s *fileSet, w way) (r reading, err error) {
	return timedReading(s, w, func(read func(worker int, p piece) ([]byte, error)) error {
		return onWorkers(w.depth, pieces(s.sizes, w.block), func(worker int, p piece) error {
			_, err := read(worker, p)
			return err
		})
	})
}

// timedReading gives the seconds of work, which is given a way to read a piece into the worker's own buffer.
func timedReading(s *fileSet, w way, work func(read func(worker int, p piece) ([]byte, error)) error) (r reading, err error) {
	bufs, err := makeBuffers(w.depth, w.block)
	if err != nil {
		return r, err
	}
	files, err := reopen(s, w.flag())
	if err != nil {
		return r, errors.Join(err, bufs.free())
	}
	r, err = timed(func() error {
		return work(func(worker int, p piece) ([]byte, error) {
			buf := bufs[worker].Bytes()
			return buf, readPiece(files.files[p.file], buf, p)
		})
	})
	return r, errors.Join(err, files.close(), bufs.free())
}

// reopen opens the files again, with flags.
func reopen(s *fileSet, flags int) (*fileSet, error) {
	again := &fileSet{sizes: s.sizes, size: s.size}
	for _, f := range s.files {
		d, err := os.OpenFile(f.Name(), os.O_RDONLY|flags, 0)
		if err != nil {
			return nil, errors.Join(err, again.close())
		}
		again.files = append(again.files, d)
	}
	return again, nil
}

// readPiece asks for whole blocks; the end of a file may give less.
func readPiece(f *os.File, buf []byte, p piece) error {
	for got := int64(0); got < p.size; {
		n, err := unix.Pread(int(f.Fd()), buf[got:(p.size+4095)&^4095], p.off+got)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("read %s: %w", f.Name(), err)
		case n == 0:
			return fmt.Errorf("read %s: it ends at %d", f.Name(), p.off+got)
		default:
			got += int64(n)
		}
	}
	return nil
}

// rawWrite writes n bytes into a new file until they are durable.
func rawWrite(path string, n int64, w way) (r reading, err error) {
	bufs, err := makeBuffers(1, w.block)
	if err != nil {
		return r, err
	}
	block := bufs[0].Bytes()
	r, err = timed(func() error {
		return writeFile(path, n, w, func(_ int, f *os.File, p piece) error {
			_, err := f.WriteAt(block[:p.size], p.off)
			return err
		})
	})
	return r, errors.Join(err, bufs.free())
}

// writeFile makes a file of n bytes, filled piece by piece, and durable.
func writeFile(path string, n int64, w way, fill func(worker int, f *os.File, p piece) error) error {
	n = (n + 4095) &^ 4095
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_RDWR|w.flag(), 0o600)
	if err != nil {
		return err
	}
	err = unix.Fallocate(int(f.Fd()), 0, 0, n)
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = f.Truncate(n)
	}
	if err == nil {
		err = onWorkers(w.depth, pieces([]int64{n}, w.block), func(worker int, p piece) error { return fill(worker, f, p) })
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// rawCopy reads all files and writes as many bytes into a new one, both past the page cache: what a disk does when it must do both.
func rawCopy(s *fileSet, path string, w way) (r reading, err error) {
	list := pieces(s.sizes, w.block)
	return timedReading(s, w, func(read func(worker int, p piece) ([]byte, error)) error {
		return writeFile(path, w.block*int64(len(list)), w, func(worker int, f *os.File, p piece) error {
			buf, err := read(worker, list[p.off/w.block])
			if err == nil {
				_, err = f.WriteAt(buf[:p.size], p.off)
			}
			return err
		})
	})
}

// tries is how often each way is tried, and whatever other programs may undo.
const tries = 3

// best tries all ways in turns and chooses that with the least median.
func best(ctx context.Context, ways []way, try func(context.Context, way) (reading, error)) (way, []probe, error) {
	probes := make([]probe, len(ways))
	for range tries {
		for i, w := range ways {
			r, err := try(ctx, w)
			if err != nil {
				return w, nil, fmt.Errorf("%s: %w", w, err)
			}
			probes[i].Way, probes[i].Seconds = w.String(), append(probes[i].Seconds, r.Seconds)
		}
	}
	least := 0
	for i := range probes {
		if spreadOf(probes[i].Seconds).Median < spreadOf(probes[least].Seconds).Median {
			least = i
		}
	}
	return ways[least], probes, nil
}
