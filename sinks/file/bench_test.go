package file

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/coldload/coldload/internal/packed"
	"github.com/coldload/coldload/stages"
)

// BenchmarkHash compares the digests on Slabs of the usual size and on small ones, one core each.
func BenchmarkHash(b *testing.B) {
	data := make([]byte, 64<<20)
	for i := range data {
		data[i] = byte(i * 7)
	}
	for _, a := range []packed.Algorithm{packed.BLAKE3, packed.SHA256} {
		for _, n := range []int{4 << 10, 64 << 10, 2 << 20} {
			b.Run(fmt.Sprintf("%s/%dKiB", a, n>>10), func(b *testing.B) {
				b.SetBytes(int64(n))
				off := 0
				for b.Loop() {
					a.Sum(data[off : off+n])
					off = (off + n) % len(data)
				}
			})
		}
	}
}

// BenchmarkPack writes 1 GiB in Outputs of 64 MiB and Slabs of 2 MiB, and compares it with the same bytes written by pwrite, both with two
// goroutines and until they are on the disk. The Slabs are filled once, so that only the sink is measured.
func BenchmarkPack(b *testing.B) {
	const size, slab, workers = 1 << 30, 2 << 20, 2
	var outputs []stages.Output
	for i := range size / (64 << 20) {
		outputs = append(outputs, raw(fmt.Sprintf("layers.%d.qweight", i), 64<<20, slab))
	}
	data := make([]byte, 32<<20)
	pattern(stages.Slab{}, data)
	spread := func(do func(i int, s stages.Slab) error) error {
		slabs := slabsOf(outputs)
		var g errgroup.Group
		for w := range workers {
			g.Go(func() error {
				for i := w; i < len(slabs); i += workers {
					if err := do(i, slabs[i]); err != nil {
						return err
					}
				}
				return nil
			})
		}
		return g.Wait()
	}
	b.Run("pwrite", func(b *testing.B) {
		b.SetBytes(size)
		path := filepath.Join(b.TempDir(), "raw")
		for b.Loop() {
			f, err := os.Create(path)
			if err == nil {
				err = allocate(f, size)
			}
			if err == nil {
				err = spread(func(i int, _ stages.Slab) error {
					off := int64(i) * slab
					_, err := f.WriteAt(data[off%int64(len(data)):][:slab], off)
					return err
				})
			}
			if err == nil {
				err = f.Sync()
			}
			if err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			drop(f)
			if err := f.Close(); err != nil {
				b.Fatal(err)
			}
			if err := os.Remove(path); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
	b.Run("sink", func(b *testing.B) {
		b.SetBytes(size)
		dir := filepath.Join(b.TempDir(), "out")
		for b.Loop() {
			opt := options(dir)
			opt.ShardSize = 0
			s := New(opt)
			if err := s.Begin(b.Context(), outputs); err != nil {
				b.Fatal(err)
			}
			if err := spread(func(_ int, slab stages.Slab) error {
				buf, err := s.Reserve(b.Context(), slab)
				if err != nil {
					return err
				}
				if buf[0] == 0 && buf[len(buf)-1] == 0 { // a fresh buffer
					copy(buf, data)
					buf[0], buf[len(buf)-1] = 1, 1
				}
				return s.Write(b.Context(), slab, buf)
			}); err != nil {
				b.Fatal(err)
			}
			if err := s.Commit(b.Context()); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
			if err := os.RemoveAll(dir); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
}

// BenchmarkSmall writes Outputs of 4 KiB in Batches of 2048, as 8 MiB Batches hold them.
func BenchmarkSmall(b *testing.B) {
	const n, batch = 1 << 16, 2048
	outputs := make([]stages.Output, n)
	for i := range outputs {
		outputs[i] = raw(fmt.Sprintf("layers.%d.scales", i), 4096, 4096)
	}
	b.SetBytes(n * 4096)
	dir := filepath.Join(b.TempDir(), "out")
	for b.Loop() {
		s := New(options(dir))
		s.opt.ShardSize = defaultShardSize
		if err := s.Begin(b.Context(), outputs); err != nil {
			b.Fatal(err)
		}
		for some := range slices.Chunk(slabsOf(outputs), batch) {
			bufs := make([][]byte, len(some))
			for i, slab := range some {
				buf, err := s.Reserve(b.Context(), slab)
				if err != nil {
					b.Fatal(err)
				}
				bufs[i] = buf
			}
			if err := s.WriteBatch(b.Context(), some, bufs); err != nil {
				b.Fatal(err)
			}
		}
		if err := s.Commit(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/output")
}
