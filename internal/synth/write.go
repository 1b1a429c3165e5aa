package synth

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// Result says what was written.
type Result struct {
	Dir     string
	Model   string // empty for WriteSparse
	Shards  int
	Tensors int
	Bytes   int64 // tensor data
}

// Write makes the checkpoint in dir, which must be absent or empty. Equal Options (but for Workers, Progress and Sparse) give equal files.
//
// Wrong Options give ErrOptions, a folder that has something in it ErrNotEmpty, a disk that is too small ErrNoSpace, all before a byte is
// written. When ctx ends, or writing fails, everything that was written is removed and the error (the cause of ctx) returned. Until the
// last byte is written no file has its final name; files are not synced to the disk.
func Write(ctx context.Context, dir string, o Options) (Result, error) {
	l, err := list(o)
	if err != nil {
		return Result{}, err
	}
	shards, err := l.shards()
	if err != nil {
		return Result{}, err
	}
	w := &writer{shards: shards, docs: l.documents(), workers: l.o.Workers, sparse: l.o.Sparse, progress: l.o.Progress}
	r, err := w.run(ctx, dir)
	r.Model = l.m.Name
	return r, err
}

// WriteSparse writes specs as a checkpoint of the given number of Shards whose data are holes, in the order of specs and with about as many
// tensors in each; docs are further JSON files by name ("config.json"). It is for tests of what reads only headers. The rules of Write hold
// for dir and for failures.
func WriteSparse(ctx context.Context, dir string, specs []Spec, shards int, docs map[string]any) (Result, error) {
	if shards < 1 || shards > max(1, len(specs)) {
		return Result{}, fmt.Errorf("%w: %d tensors cannot fill %d shards", ErrOptions, len(specs), shards)
	}
	cut := make([]Shard, shards)
	for i := range cut {
		from, to := i*len(specs)/shards, (i+1)*len(specs)/shards
		cut[i].Specs = specs[from:to:to]
	}
	if err := finish(cut); err != nil {
		return Result{}, err
	}
	w := &writer{shards: cut, docs: docs, sparse: true}
	return w.run(ctx, dir)
}

// chunk is how many bytes a worker makes and writes at a time: large enough that the system call is free, small enough for the cache.
const chunk = 1 << 20

// writer is one run.
type writer struct {
	shards   []Shard
	docs     map[string]any
	workers  int
	sparse   bool
	progress func(done, total int64)

	mu          sync.Mutex // guards done, and serialises progress
	done, total int64
	buffers     [][]byte // one per worker
}

func (w *writer) run(ctx context.Context, dir string) (r Result, err error) {
	t, err := openTarget(dir)
	if err != nil {
		return Result{}, err
	}
	defer func() {
		if err != nil {
			r, err = Result{}, errors.Join(err, t.abort())
		}
	}()
	r = Result{Dir: dir, Shards: len(w.shards)}
	for i := range w.shards {
		r.Bytes += w.shards[i].Bytes
		r.Tensors += len(w.shards[i].Specs)
	}
	w.total = r.Bytes
	if err := checkSpace(dir, w.need(r)); err != nil {
		return r, err
	}
	w.buffers = make([][]byte, w.workers)
	for i := range w.buffers {
		w.buffers[i] = make([]byte, chunk)
	}
	for i := range w.shards {
		if err := w.shard(ctx, t, &w.shards[i]); err != nil {
			return r, err
		}
	}
	return r, w.publish(t)
}

// need is the disk space of the run in bytes.
func (w *writer) need(r Result) int64 {
	const perTensor = 300 // in a header and in the index, rounded up
	n := int64(r.Tensors) * perTensor
	if !w.sparse {
		n += r.Bytes
	}
	return n
}

// publish gives the Shards their names and adds what makes them a checkpoint, the index last.
func (w *writer) publish(t *target) error {
	for i := range w.shards {
		if err := t.publish(w.shards[i].Name); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(w.docs)) {
		if err := t.writeJSON(name, w.docs[name]); err != nil {
			return err
		}
	}
	if len(w.shards) > 1 && w.shards[0].gguf == nil {
		return t.write("model.safetensors.index.json", indexFile(w.shards))
	}
	return nil
}

// shard writes one file under its unfinished name.
func (w *writer) shard(ctx context.Context, t *target, s *Shard) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	layout, err := s.layout()
	if err != nil {
		return err
	}
	f, err := t.create(s.Name + partial)
	if err != nil {
		return err
	}
	err = w.fill(ctx, f, s, layout)
	if closing := f.Close(); err == nil && closing != nil {
		err = fmt.Errorf("synth: %w", closing)
	}
	return err
}

// fill writes the header, and the data unless the run is sparse.
func (w *writer) fill(ctx context.Context, f *os.File, s *Shard, layout fileLayout) error {
	if _, err := f.Write(layout.Header()); err != nil {
		return fmt.Errorf("synth: %w", err)
	}
	if err := f.Truncate(layout.FileSize()); err != nil {
		return fmt.Errorf("synth: %w", err)
	}
	if w.sparse {
		return nil
	}
	// Workers take the next chunk of the file, whichever tensors lie there: both one large tensor and many small ones spread evenly, and
	// the file grows in order. This fan-out ends within the call; package pipeline is for loading.
	start := int64(len(layout.Header()))
	g, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for _, buf := range w.buffers {
		g.Go(func() error {
			for {
				off := next.Add(chunk) - chunk
				if off >= s.Bytes {
					return nil
				}
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				b := buf[:min(chunk, s.Bytes-off)]
				s.render(b, off)
				if _, err := f.WriteAt(b, start+off); err != nil {
					return fmt.Errorf("synth: %w", err)
				}
				w.advance(int64(len(b)))
			}
		})
	}
	return g.Wait()
}

// advance reports n more bytes.
func (w *writer) advance(n int64) {
	if w.progress == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done += n
	w.progress(w.done, w.total)
}
