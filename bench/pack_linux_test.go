package bench

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/offheap"
)

// BenchmarkPack packs a checkpoint and in the same rounds does the least that it takes:
//
//	read, read-cold  pread of all its files, from the page cache and from the disk
//	write, direct    as many bytes as the packed folder has into a new file, until they are durable: through the page cache, and past it
//
// x-limit is the time of pack over that of the slower of reading and of the faster way of writing, the median over the rounds. Files are
// removed, and what is dirty is written, outside the clock.
func BenchmarkPack(b *testing.B) {
	files, size := shards(b, checkpointDir(b))
	dir := b.TempDir()
	out := packedBytes(b, filepath.Dir(files[0].Name()), dir)
	pack := func() (func() error, error) {
		to := filepath.Join(dir, "packed")
		return func() error { return os.RemoveAll(to) }, packTo(b.Context(), filepath.Dir(files[0].Name()), to)
	}
	read := func() (func() error, error) { return nil, readAll(files, nil) }
	cold := func() error { return errors.Join(settle(dir), evict(files)) }
	list := []contender{
		{"read", nil, read},
		{"read-cold", cold, read},
		{"write", func() error { return settle(dir) }, rawWriter(b, dir, out, 0)},
		{"direct", func() error { return settle(dir) }, rawWriter(b, dir, out, unix.O_DIRECT)},
		{"pack-cold", cold, pack},
		{"pack", func() error { return errors.Join(settle(dir), readAll(files, nil)) }, pack},
	}
	all := race(b, list...)
	for _, c := range list {
		n := size
		if c.name == "write" || c.name == "direct" {
			n = out
		}
		b.ReportMetric(rate(n, all[c.name].median()), c.name+"-GB/s")
	}
	b.ReportMetric(ratio(all["pack"], slower(all["read"], faster(all["write"], all["direct"]))), "pack-x-limit")
	b.ReportMetric(ratio(all["pack-cold"], slower(all["read-cold"], faster(all["write"], all["direct"]))), "cold-x-limit")
	b.ReportMetric(float64(size)/1e6, "in-MB")
	b.ReportMetric(float64(out)/1e6, "out-MB")
}

// slower is the longer of two times, round by round.
func slower(a, b times) times {
	t := slices.Clone(a)
	for i := range t {
		t[i] = max(t[i], b[i])
	}
	return t
}

func faster(a, b times) times {
	t := slices.Clone(a)
	for i := range t {
		t[i] = min(t[i], b[i])
	}
	return t
}

func packTo(ctx context.Context, from, to string) error {
	_, err := coldload.Pack(ctx, from, to, coldload.Options{}, coldload.PackOptions{})
	return err
}

// packedBytes is what the packed folder's shards take.
func packedBytes(b *testing.B, from, dir string) (n int64) {
	b.Helper()
	to := filepath.Join(dir, "first")
	if err := packTo(b.Context(), from, to); err != nil {
		b.Fatal(err)
	}
	_, n = shards(b, to)
	if err := os.RemoveAll(to); err != nil {
		b.Fatal(err)
	}
	return n
}

// settle waits until nothing is waiting to be written.
func settle(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
}

// evict takes files out of the page cache.
func evict(files []*os.File) error {
	var errs []error
	for _, f := range files {
		errs = append(errs, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
	}
	return errors.Join(errs...)
}

// rawWriter writes n bytes, a multiple of the block size more or less, with one goroutine per processor.
func rawWriter(b *testing.B, dir string, n int64, flags int) func() (func() error, error) {
	b.Helper()
	region, err := offheap.Alloc(blockBytes)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = region.Free() })
	block := region.Bytes()
	for i := range block {
		block[i] = byte(i * 7)
	}
	path := filepath.Join(dir, "raw")
	n -= n % blockBytes
	return func() (func() error, error) {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|flags, 0o600)
		if err != nil {
			return nil, err
		}
		err = unix.Fallocate(int(f.Fd()), 0, 0, n)
		if err == nil {
			err = onAllCores(spans(n), func(_ int, s span) error {
				_, err := f.WriteAt(block[:s.len], s.off)
				return err
			})
		}
		if err == nil {
			err = f.Sync()
		}
		return func() error { return os.Remove(path) }, errors.Join(err, f.Close())
	}
}
