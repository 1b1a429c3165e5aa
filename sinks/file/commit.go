package file

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/coldload/coldload/internal/packed"
	"github.com/coldload/coldload/safetensors"
)

// Commit makes the folder complete and gives it its name. It fails with ErrIncomplete, naming the first Output that lacks a Slab, unless
// every Slab was written. After an error nothing has the target's name, and what was written stays for a later run.
func (s *Sink) Commit(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if s.state != begun {
		return errors.New("file: Commit on a sink that is not between Begin and Commit")
	}
	if s.failed.Load() {
		return errors.New("file: Commit after an error")
	}
	for i := range s.outputs {
		if n := s.digests.Missing(i); n > 0 {
			return fmt.Errorf("file: %w: output %s lacks %d of %d slabs", ErrIncomplete, s.outputs[i].Name, n, s.outputs[i].Slabs())
		}
	}
	if err := s.complete(ctx); err != nil {
		s.failed.Store(true)
		return fmt.Errorf("file: %w", s.full(err))
	}
	s.state = committed
	// From here on the result is there: what is left over is the next run's to remove.
	if err := s.target.tidy(s.key); err != nil {
		s.opt.Note(fmt.Sprintf("%s is complete, but what the run needed could not be removed: %v", s.target.dir, err))
	}
	return nil
}

func (s *Sink) complete(ctx context.Context) error {
	if err := s.settleShards(ctx); err != nil {
		return err
	}
	m := s.opt.Manifest
	m.Key, m.Files, m.Sources = s.key, nil, s.sources()
	for _, f := range s.opt.Files {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := s.carry(&m, f.Name, f.Write); err != nil {
			return err
		}
	}
	m.Outputs = nil
	m.Shards = make([]packed.Shard, len(s.shards))
	for i, sh := range s.shards {
		m.Shards[i] = packed.Shard{File: sh.name, Bytes: sh.size, HeaderSHA256: sh.sum}
	}
	byName := s.byName()
	if err := s.carry(&m, safetensors.IndexName, func(w io.Writer) error { return s.writeIndex(w, byName) }); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := s.publish(&m, byName); err != nil { // nothing that looks finished stays
		return errors.Join(err, s.disk.remove(filepath.Join(s.target.partial, packed.ManifestName)))
	}
	return nil
}

// sources are those of the manifest with their sums.
func (s *Sink) sources() []packed.Source {
	list := slices.Clone(s.opt.Manifest.Sources)
	if s.opt.SourceSums != nil {
		for i, sum := range s.opt.SourceSums() {
			list[i].SHA256 = sum
		}
	}
	return list
}

// publish writes the manifest and gives the folder its name.
func (s *Sink) publish(m *packed.Manifest, byName []int32) error {
	path := filepath.Join(s.target.partial, packed.ManifestName)
	if err := s.disk.writeFile(path, func(f *os.File) error { return m.WriteWith(asked{&s.disk, f}, s.entries(byName)) }); err != nil {
		return err
	}
	if err := s.disk.syncDir(s.target.partial); err != nil {
		return err
	}
	return s.target.publish(s.key, s.opt.Overwrite)
}

// settleShards makes every shard durable, and computes what is not known of those of an earlier run.
func (s *Sink) settleShards(ctx context.Context) error {
	s.flushing.Lock()
	err := s.flush()
	s.flushing.Unlock()
	if err != nil {
		return err
	}
	if s.plain != nil && s.resumed != nil {
		for i := range s.outputs {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if s.plain[i] != (packed.Sum{}) || s.outputs[i].Size == 0 {
				continue
			}
			if err := s.readBack(i); err != nil {
				return err
			}
		}
	}
	for _, sh := range s.shards { // one without data was never synced
		if err := errors.Join(s.handles.sync(sh), s.handles.close(sh)); err != nil {
			return err
		}
	}
	return nil
}

// asked writes through a disk.
type asked struct {
	d *disk
	f *os.File
}

func (a asked) Write(p []byte) (int, error) {
	if err := a.d.append(a.f, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// carry writes a file and enters it in the manifest.
func (s *Sink) carry(m *packed.Manifest, name string, write func(io.Writer) error) error {
	counted := &counter{h: sha256.New()}
	path := filepath.Join(s.target.partial, filepath.FromSlash(name))
	if err := s.disk.writeFile(path, func(f *os.File) error {
		buf := bufio.NewWriterSize(asked{&s.disk, f}, 256<<10)
		if err := write(io.MultiWriter(buf, counted)); err != nil {
			return err
		}
		return buf.Flush()
	}); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if dir := filepath.Dir(path); dir != s.target.partial {
		if err := s.disk.syncDir(dir); err != nil {
			return err
		}
	}
	entry := packed.File{Name: name, Bytes: counted.n}
	counted.h.Sum(entry.SHA256[:0])
	m.Files = append(m.Files, entry)
	return nil
}

type counter struct {
	h hash.Hash
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.h.Write(p)
}

// entries makes the Outputs' entries of the manifest, one by one.
func (s *Sink) entries(byName []int32) iter.Seq[*packed.Output] {
	return func(yield func(*packed.Output) bool) {
		for _, i := range byName {
			o := &s.outputs[i]
			entry := packed.Output{
				Name: o.Name, DType: o.DType, Shape: o.Shape, Layout: o.Layout, LayoutVersion: packed.LayoutVersion(o.Layout), Kind: o.Kind, Padding: o.Padding,
				File: s.shardOf(int(i)).name, Offset: s.offsets[i], Bytes: o.Size,
				Digest: packed.Digest{Algorithm: s.opt.Algorithm, SlabBytes: o.SlabBytes, Root: s.digests.Root(int(i))},
			}
			if s.plain != nil {
				entry.SHA256 = s.plain[i]
				if o.Size == 0 {
					entry.SHA256 = sha256.Sum256(nil)
				}
			}
			if !yield(&entry) {
				return
			}
		}
	}
}

// writeIndex writes model.safetensors.index.json as the tools of Hugging Face do, sorted by name.
func (s *Sink) writeIndex(w io.Writer, byName []int32) error {
	if _, err := fmt.Fprintf(w, "{\n  \"metadata\": {\n    \"total_size\": %d\n  },\n  \"weight_map\": {", s.total()); err != nil {
		return err
	}
	line := make([]byte, 0, 512)
	for n, i := range byName {
		line = append(line[:0], ",\n    "[min(1, max(0, 1-n)):]...)
		line, _ = jsontext.AppendQuote(line, s.outputs[i].Name) // the header has it, so it is valid
		line = append(line, ": \""+s.shardOf(int(i)).name+"\""...)
		if _, err := w.Write(line); err != nil {
			return err
		}
	}
	end := "\n  }\n}\n"
	if len(byName) == 0 {
		end = "}\n}\n"
	}
	_, err := io.WriteString(w, end)
	return err
}

// Close lets go of everything. Without Commit, what is written is made durable and stays in OUT.partial for a later run; when nothing is,
// the folder goes. It is idempotent.
func (s *Sink) Close() error {
	state := s.state
	s.state = closed
	if state == closed {
		return nil
	}
	var errs []error
	if state == begun && !s.failed.Load() {
		s.flushing.Lock()
		errs = append(errs, s.flush())
		s.flushing.Unlock()
	}
	errs = append(errs, s.handles.closeAll())
	if state != committed && s.target != nil && s.target.journal != nil {
		errs = append(errs, s.abandon())
	}
	s.buffers.Lock()
	defer s.buffers.Unlock()
	clear(s.held)
	return errors.Join(append(errs, s.pool.Close())...)
}

// abandon keeps what a later run can go on with.
func (s *Sink) abandon() error {
	switch t := s.target; {
	case s.named > 0 && t.worthless:
		s.kept = s.named
		return t.release()
	case t.worthless:
		return t.discard()
	case t.made && t.journal.n == 0:
		return t.forget() // this sink made it, and nothing is in it
	default:
		return t.release()
	}
}
