package bench

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/offheap"
	"github.com/coldload/coldload/internal/synth"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/sinks/discard"
	"github.com/coldload/coldload/sinks/host"
)

var (
	checkpoint = flag.String("checkpoint", "", "folder of a checkpoint to load; empty writes a synthetic one")
	model      = flag.String("model", "tiny-moe", "synthetic model")
	layers     = flag.Int("layers", 1, "layers of the synthetic model; 0 means all")
	tensors    = flag.Int("tensors", 2000, "tensors of BenchmarkManyTensors")
)

// blockBytes is what one read or copy of the limits moves.
const blockBytes = 4 << 20

// BenchmarkLoad loads a checkpoint that is in the page cache, and in the same rounds does the least that any loader must do:
//
//	read   pread of all files into a few buffers that are used again
//	fresh  pread of all files into fresh memory, as large as they are: what a result in memory costs at least
//	copy   a memory copy of as many bytes as the result has
//
// x-read and x-fresh are time against time, the median over the rounds. Before what fills fresh memory, as much memory is touched and given
// back, outside the clock: a hypervisor may have taken away what lay free, and getting it back costs more than the load does.
func BenchmarkLoad(b *testing.B) {
	files, size := shards(b, checkpointDir(b))
	var out int64
	list := []contender{
		{"read", nil, func() (func() error, error) { return nil, readAll(files, nil) }},
		{"fresh", touch(size), func() (func() error, error) {
			region, err := offheap.Alloc(size)
			if err != nil {
				return nil, err
			}
			return region.Free, readAll(files, region.Bytes())
		}},
		{"copy", nil, copier(b, size)},
		{"discard", nil, func() (func() error, error) {
			res, err := coldload.Load(b.Context(), filepath.Dir(files[0].Name()), discard.New(), coldload.Options{})
			out = res.BytesOut()
			return nil, err
		}},
		{"host", touch(size), func() (func() error, error) {
			sink := host.New(host.Options{})
			_, err := coldload.Load(b.Context(), filepath.Dir(files[0].Name()), sink, coldload.Options{})
			if err != nil {
				return nil, err
			}
			return sink.Memory().Close, nil
		}},
	}
	all := race(b, list...)
	for _, c := range list {
		b.ReportMetric(rate(size, all[c.name].median()), c.name+"-GB/s")
	}
	b.ReportMetric(ratio(all["discard"], all["read"]), "discard-x-read")
	b.ReportMetric(ratio(all["host"], all["fresh"]), "host-x-fresh")
	b.ReportMetric(float64(size)/1e6, "in-MB")
	b.ReportMetric(float64(out)/1e6, "out-MB")
}

// touch makes the system hold n bytes of free memory.
func touch(n int64) func() error {
	return func() error {
		region, err := offheap.Alloc(n)
		if err != nil {
			return err
		}
		mem := region.Bytes()
		for at := 0; at < len(mem); at += 4096 {
			mem[at] = 1
		}
		return region.Free()
	}
}

// checkpointDir is the checkpoint asked for, or a synthetic one that ends with the benchmark.
func checkpointDir(b *testing.B) string {
	b.Helper()
	if *checkpoint != "" {
		return *checkpoint
	}
	dir := filepath.Join(b.TempDir(), "checkpoint")
	if _, err := synth.Write(b.Context(), dir, synth.Options{Model: *model, Layers: *layers}); err != nil {
		b.Fatal(err)
	}
	return dir
}

// shards opens the weight files of a folder.
func shards(b *testing.B, dir string) (files []*os.File, size int64) {
	b.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.safetensors"))
	if err != nil || len(paths) == 0 {
		b.Fatalf("no shards in %s: %v", dir, err)
	}
	for _, p := range paths {
		f, err := os.Open(p)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = f.Close() })
		st, err := f.Stat()
		if err != nil {
			b.Fatal(err)
		}
		files, size = append(files, f), size+st.Size()
	}
	return files, size
}

// span is a piece of work of one goroutine.
type span struct {
	file     int
	off, len int64
	at       int64 // in all files together
}

// spans cuts n bytes, per file, into blocks.
func spans(sizes ...int64) (list []span) {
	var at int64
	for i, n := range sizes {
		for off := int64(0); off < n; off += blockBytes {
			l := min(blockBytes, n-off)
			list = append(list, span{file: i, off: off, len: l, at: at})
			at += l
		}
	}
	return list
}

// onAllCores deals the spans out to as many goroutines as there are processors.
func onAllCores(list []span, work func(worker int, s span) error) error {
	var g errgroup.Group
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		g.Go(func() error {
			for i := w; i < len(list); i += workers {
				if err := work(w, list[i]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// readAll reads every byte of the files into dst, or into one buffer per goroutine when dst is nil.
func readAll(files []*os.File, dst []byte) error {
	var sizes []int64
	for _, f := range files {
		st, err := f.Stat()
		if err != nil {
			return err
		}
		sizes = append(sizes, st.Size())
	}
	buffers := make([][]byte, runtime.GOMAXPROCS(0))
	if dst == nil {
		for i := range buffers {
			buffers[i] = make([]byte, blockBytes)
		}
	}
	return onAllCores(spans(sizes...), func(worker int, s span) error {
		into := buffers[worker]
		if dst != nil {
			into = dst[s.at:]
		}
		_, err := files[s.file].ReadAt(into[:s.len], s.off)
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return err
	})
}

// copier copies n bytes in all between two pieces of memory that are larger than the caches and were touched before.
func copier(b *testing.B, n int64) func() (func() error, error) {
	b.Helper()
	const window = 128 << 20
	var mem [2][]byte
	for i := range mem {
		region, err := offheap.Alloc(window)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = region.Free() })
		mem[i] = region.Bytes()
		for at := 0; at < window; at += 4096 {
			mem[i][at] = byte(at)
		}
	}
	return func() (func() error, error) {
		return nil, onAllCores(spans(n), func(_ int, s span) error {
			at := s.at % window
			at -= at % blockBytes
			copy(mem[1][at:at+s.len], mem[0][at:at+s.len])
			return nil
		})
	}
}

// BenchmarkManyTensors opens, plans and loads a checkpoint of many small tensors (4 KiB each, in shards that are holes), where what a
// tensor costs counts and what a byte costs does not.
func BenchmarkManyTensors(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "many")
	n := *tensors
	specs := make([]synth.Spec, n)
	for i := range specs {
		name := fmt.Sprintf("model.layers.%d.block.%d.some_proj.weight", i/1000, i%1000)
		specs[i] = synth.Spec{Name: name, DType: safetensors.BF16, Shape: []int64{2048}}
	}
	if _, err := synth.WriteSparse(b.Context(), dir, specs, max(1, n/5000), nil); err != nil {
		b.Fatal(err)
	}
	var heap uint64
	all := race(b,
		contender{"open", nil, func() (func() error, error) {
			ck, err := coldload.Open(b.Context(), dir, coldload.Options{})
			if err != nil {
				return nil, err
			}
			return ck.Close, nil
		}},
		contender{"open-and-plan", nil, func() (func() error, error) {
			ck, err := coldload.Open(b.Context(), dir, coldload.Options{})
			if err != nil {
				return nil, err
			}
			p, err := ck.Plan(coldload.Options{}, nil)
			if err != nil {
				return nil, errors.Join(err, ck.Close())
			}
			return func() error {
				heap = liveHeap()
				runtime.KeepAlive(p)
				return ck.Close()
			}, nil
		}},
		contender{"load", nil, func() (func() error, error) {
			_, err := coldload.Load(b.Context(), dir, discard.New(), coldload.Options{})
			return nil, err
		}},
	)
	for name, t := range all {
		b.ReportMetric(float64(t.median().Nanoseconds())/float64(n), name+"-ns/tensor")
	}
	b.ReportMetric(float64(heap)/float64(n), "heap-B/tensor")
}

func liveHeap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
