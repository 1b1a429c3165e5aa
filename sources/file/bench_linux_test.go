package file

import (
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/coldload/coldload/stages"
)

// BenchmarkColdFetch reads a file that the page cache holds nothing of, by as many goroutines as Fetchers says. Every byte is looked at
// (one in a page), so that mmap pays for its faults.
func BenchmarkColdFetch(b *testing.B) {
	const size, step = 512 << 20, 8 << 20
	path := filepath.Join(b.TempDir(), "shard")
	writeSynced(b, path, size)
	for _, mode := range []Mode{ModeDirect, ModePread, ModeMmap} {
		b.Run(mode.String(), func(b *testing.B) {
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				f, err := os.Open(path)
				if err != nil {
					b.Fatal(err)
				}
				if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
					b.Skip("no FADV_DONTNEED: ", err)
				}
				s, err := New([]Shard{{Name: "shard", File: f, Size: size}}, Options{IO: mode})
				if err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				readThrough(b, s, size, step)
				b.StopTimer()
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// writeSynced makes a file of size bytes that is on the disk.
func writeSynced(b *testing.B, path string, size int) {
	b.Helper()
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	piece := make([]byte, 8<<20)
	for i := range piece {
		piece[i] = byte(i * 7)
	}
	for range size / len(piece) {
		if _, err := f.Write(piece); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
}

func readThrough(b *testing.B, s *Source, size, step int64) {
	b.Helper()
	var next, sum atomic.Int64
	var g errgroup.Group
	for range s.Fetchers(b.Context()) {
		g.Go(func() error {
			for {
				off := next.Add(step) - step
				if off >= size {
					return nil
				}
				ranges := []stages.Extent{{Off: off, Len: step}}
				v, err := s.FetchPadded(b.Context(), ranges, s.Padding(ranges))
				if err != nil {
					return err
				}
				bytes := v.Bytes(0)
				for i := 0; i < len(bytes); i += os.Getpagesize() {
					sum.Add(int64(bytes[i]))
				}
				v.Release()
			}
		})
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
}
