package packed

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// DifferenceKind says what is wrong.
type DifferenceKind string

// The kinds of Difference.
const (
	Differs DifferenceKind = "differs" // the bytes are not those that were packed
	Missing DifferenceKind = "missing" // named by the manifest and not there
	Extra   DifferenceKind = "extra"   // there and not named by the manifest
	Damaged DifferenceKind = "damaged" // cannot be read, has another size, or breaks a rule of its format
)

// Difference is one thing that is not as it was packed.
type Difference struct {
	File   string         `json:"file"` // relative to the folder
	Output string         `json:"output,omitempty"`
	Kind   DifferenceKind `json:"kind"`
	Detail string         `json:"detail"`
}

// String is the Difference as one line.
func (d Difference) String() string {
	if d.Output == "" {
		return fmt.Sprintf("%s: %s: %s", d.File, d.Kind, d.Detail)
	}
	return fmt.Sprintf("%s: %s: %s: %s", d.File, d.Output, d.Kind, d.Detail)
}

// Report is what Verify found. The folder is as it was packed when there is no Difference.
type Report struct {
	Manifest    *Manifest    // nil when it cannot be used; then nothing else was looked at
	Differences []Difference // all of them, by file and Output
	Outputs     int          // Outputs whose bytes were hashed
	Bytes       int64        // bytes that were hashed
}

// Folder is a packed folder that may be damaged.
type Folder interface {
	// Open opens a regular file by its name with slashes. It is an fs.ErrNotExist when there is none, and a *stages.RefusedError when
	// what is there must not be read.
	Open(name string) (*os.File, error)
	// FS is the folder, for walking.
	FS() (fs.FS, error)
}

// VerifyOptions configures Verify. The zero value is good.
type VerifyOptions struct {
	Workers  int                     // how many read and hash at once; default one per CPU
	Progress func(done, total int64) // told of the bytes of Outputs, from several goroutines at once; nil for none
	Pipeline pipeline.Config         // says how the reading reports on itself
}

// readBytes is what a worker reads and holds at once. Larger Slabs are read in pieces of it.
const readBytes = 4 << 20

// Verify reads the packed folder once, in parallel, and lists everything that is not as the manifest says: files that are missing,
// extra or of another size, headers and the index that do not agree with it, and every Output whose digest differs. It holds 4 MiB a
// worker, 32 bytes a Slab and the manifest.
//
// An error means that it could not look: ctx ended, no file can be opened any more. What cannot be read inside the folder is a Difference.
func Verify(ctx context.Context, dir Folder, opt VerifyOptions) (*Report, error) {
	if opt.Workers <= 0 {
		opt.Workers = runtime.GOMAXPROCS(0)
	}
	v := &verifier{dir: dir, opt: opt, report: &Report{}}
	m, err := readFrom(dir.Open)
	if err != nil {
		return v.report, v.manifest(err)
	}
	v.report.Manifest = m
	if err := v.run(ctx, m); err != nil {
		return nil, err
	}
	slices.SortFunc(v.report.Differences, func(a, b Difference) int {
		return compare(a.File, b.File, a.Output, b.Output, string(a.Kind), string(b.Kind), a.Detail, b.Detail)
	})
	return v.report, nil
}

func compare(pairs ...string) int {
	for i := 0; i < len(pairs); i += 2 {
		if c := strings.Compare(pairs[i], pairs[i+1]); c != 0 {
			return c
		}
	}
	return 0
}

type verifier struct {
	dir Folder
	opt VerifyOptions

	mu     sync.Mutex // guards report and done
	report *Report
	done   int64
	total  int64

	shards map[string]bool // those whose Outputs can be read
}

func (v *verifier) add(file, output string, kind DifferenceKind, format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.report.Differences = append(v.report.Differences, Difference{file, output, kind, fmt.Sprintf(format, args...)})
}

// again reports why a file, or an Output of one, that was read before could not be read again; unless something is known of it already, since most
// often it failed before. What the process lacks is an error.
func (v *verifier) again(file, output string, err error) error {
	if exhausted(err) {
		return err
	}
	v.mu.Lock()
	known := slices.ContainsFunc(v.report.Differences, func(d Difference) bool { return d.File == file && d.Output == output })
	v.mu.Unlock()
	if !known {
		v.add(file, output, Damaged, "%v", err)
	}
	return nil
}

// manifest reports why there is none to go by.
func (v *verifier) manifest(err error) error {
	re, ok := errors.AsType[*stages.RefusedError](err)
	switch {
	case exhausted(err):
		return err
	case errors.Is(err, fs.ErrNotExist):
		v.add(ManifestName, "", Missing, "the folder was not packed, or not completely")
	case !ok:
		v.add(ManifestName, "", Damaged, "%v", err)
	default:
		for _, f := range re.Faults {
			v.add(ManifestName, f.Tensor, Damaged, "%s", f.String())
		}
	}
	return nil
}

// exhausted tells an error of this process from one of a file.
func exhausted(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM)
}

func (v *verifier) run(ctx context.Context, m *Manifest) error {
	for _, o := range m.Outputs {
		v.total += o.Bytes
		if o.Bytes == 0 {
			v.report.Outputs++ // there is nothing to hash
		}
	}
	if err := v.extra(m); err != nil {
		return err
	}
	headers, err := v.headers(ctx, m)
	if err != nil {
		return err
	}
	if err := v.files(ctx, m); err != nil {
		return err
	}
	if err := v.index(m, headers); err != nil {
		return err
	}
	return v.outputs(ctx, m)
}

// extra looks for what the manifest does not name.
func (v *verifier) extra(m *Manifest) error {
	known := map[string]bool{ManifestName: true, ".": true}
	for _, s := range m.Shards {
		known[s.File] = true
	}
	for _, f := range m.Files {
		for name := f.Name; name != "."; name = parent(name) {
			known[name] = true
		}
	}
	dir, err := v.dir.FS()
	if err != nil {
		return fmt.Errorf("packed: %w", err)
	}
	return fs.WalkDir(dir, ".", func(name string, _ fs.DirEntry, err error) error {
		switch {
		case exhausted(err) || err != nil && name == ".":
			return fmt.Errorf("packed: %w", err)
		case err != nil:
			v.add(name, "", Damaged, "%v", err)
		case !known[name]:
			v.add(name, "", Extra, "the manifest does not name it")
		}
		return nil
	})
}

func parent(name string) string {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i]
	}
	return "."
}

// regular opens a file that must be there with this size, and reports when it is not: the file is nil then, or has another size.
func (v *verifier) regular(name string, size int64) (*os.File, error) {
	f, err := v.dir.Open(name)
	re, refused := errors.AsType[*stages.RefusedError](err)
	switch {
	case exhausted(err):
		return nil, err
	case errors.Is(err, fs.ErrNotExist):
		v.add(name, "", Missing, "the manifest names it")
		return nil, nil
	case refused:
		v.add(name, "", Damaged, "%s", re.Faults[0].String())
		return nil, nil
	case err != nil:
		v.add(name, "", Damaged, "%v", err)
		return nil, nil
	}
	st, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if !st.Mode().IsRegular() {
		v.add(name, "", Damaged, "not a regular file")
		return nil, f.Close()
	}
	if st.Size() != size {
		v.add(name, "", Damaged, "%d bytes, packed were %d", st.Size(), size)
	}
	return f, nil
}

// headers compares each shard's header with the manifest, both ways, and returns those that can be read. It notes which shards are there:
// one of another size is still read as far as it goes.
func (v *verifier) headers(ctx context.Context, m *Manifest) (map[string]*safetensors.Header, error) {
	v.shards = make(map[string]bool, len(m.Shards))
	headers := make(map[string]*safetensors.Header, len(m.Shards))
	for i := range m.Shards {
		f, err := v.regular(m.Shards[i].File, m.Shards[i].Bytes)
		if err != nil {
			return nil, err
		}
		if f == nil {
			continue
		}
		v.shards[m.Shards[i].File] = true
		v.header(ctx, f, &m.Shards[i], headers)
		_ = f.Close() // it was only read
	}
	found := make(map[string]int, len(headers))
	for i := range m.Outputs {
		v.entry(&m.Outputs[i], headers, found)
	}
	for _, file := range slices.Sorted(maps.Keys(headers)) {
		if headers[file].Len() == found[file] {
			continue
		}
		for name := range headers[file].Names() {
			if o, ok := m.Lookup(name); !ok || o.File != file {
				v.add(file, name, Extra, "in the header and not in the manifest")
			}
		}
	}
	return headers, nil
}

func (v *verifier) header(ctx context.Context, f *os.File, s *Shard, headers map[string]*safetensors.Header) {
	h, err := safetensors.ReadHeader(f, s.Bytes)
	if err != nil {
		v.add(s.File, "", Damaged, "header: %v", err)
		return
	}
	headers[s.File] = h
	if got, _, err := HashReader(ctx, io.NewSectionReader(f, 0, h.DataOffset())); err != nil {
		v.add(s.File, "", Damaged, "header: %v", err)
	} else if got != s.HeaderSHA256 {
		v.add(s.File, "", Differs, "header: sha256 %s, packed was %s", got, s.HeaderSHA256)
	}
}

// entry compares an Output with its entry in the header, and counts it when it has one.
func (v *verifier) entry(o *Output, headers map[string]*safetensors.Header, found map[string]int) {
	h := headers[o.File]
	if h == nil {
		return
	}
	i, ok := h.Lookup(o.Name)
	if !ok {
		v.add(o.File, o.Name, Missing, "in the manifest and not in the header")
		return
	}
	found[o.File]++
	info := h.Info(i)
	if off := h.DataOffset() + info.Begin; info.DType != o.DType || !slices.Equal(info.Shape, o.Shape) || off != o.Offset {
		v.add(o.File, o.Name, Differs, "header: %s %v at %d, packed was %s %v at %d", info.DType, info.Shape, off, o.DType, o.Shape, o.Offset)
	}
}

// index compares the index with the headers, both ways. Its own bytes were compared before.
func (v *verifier) index(m *Manifest, headers map[string]*safetensors.Header) error {
	const name = safetensors.IndexName
	if !slices.ContainsFunc(m.Files, func(f File) bool { return f.Name == name }) {
		v.add(name, "", Missing, "the manifest does not name it")
		return nil
	}
	f, err := v.dir.Open(name)
	if err != nil {
		return v.again(name, "", err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxManifestBytes))
	if err = errors.Join(err, f.Close()); err != nil {
		return v.again(name, "", err)
	}
	ix, err := safetensors.ParseIndex(data)
	if err != nil {
		v.add(name, "", Damaged, "%v", err)
		return nil
	}
	if len(headers) < len(m.Shards) {
		return nil // the index would be blamed for headers that are missing
	}
	if len(m.Outputs) == 0 && ix.Len() == 0 {
		return nil
	}
	err = ix.Check(headers)
	if faults, ok := errors.AsType[*safetensors.FaultsError](err); ok {
		for _, f := range faults.Faults {
			v.add(name, f.Tensor, Differs, "%v", f)
		}
	} else if err != nil {
		v.add(name, "", Differs, "%v", err)
	}
	return nil
}

// files hashes the files that are no shards.
func (v *verifier) files(ctx context.Context, m *Manifest) error {
	for _, f := range m.Files {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		file, err := v.regular(f.Name, f.Bytes)
		if err != nil {
			return err
		}
		if file == nil {
			continue
		}
		got, _, err := HashReader(ctx, file)
		_ = file.Close() // it was only read
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			v.add(f.Name, "", Damaged, "%v", err)
		} else if got != f.SHA256 {
			v.add(f.Name, "", Differs, "sha256 %s, packed was %s", got, f.SHA256)
		}
	}
	return nil
}

// outputs hashes every Output whose shard is there.
func (v *verifier) outputs(ctx context.Context, m *Manifest) error {
	q := newQueue(m, v.shards)
	p := pipeline.New(ctx, v.opt.Pipeline)
	pipeline.Into(pipeline.From(p, "read", q.all(), pipeline.SpanName("")), &hasher{v: v, q: q}, pipeline.Workers(v.opt.Workers), pipeline.Measure(run.work))
	if err := p.Wait(); err != nil {
		return err
	}
	return v.plain(ctx, m)
}

// plain hashes the Outputs that have a plain digest too. It reads them again: a plain hash takes the bytes in order.
func (v *verifier) plain(ctx context.Context, m *Manifest) error {
	p := pipeline.New(ctx, v.opt.Pipeline)
	outputs := pipeline.From(p, "read", func(yield func(*Output, error) bool) {
		for i := range m.Outputs {
			if o := &m.Outputs[i]; o.SHA256 != (Sum{}) && (o.Bytes == 0 || v.shards[o.File]) && !yield(o, nil) {
				return
			}
		}
	}, pipeline.SpanName(""))
	pipeline.Into(outputs, plainHasher{v}, pipeline.Workers(v.opt.Workers), pipeline.Measure(func(o *Output) pipeline.Work {
		return pipeline.Work{Items: 1, BytesIn: o.Bytes}
	}))
	return p.Wait()
}

// plainHasher is the sink that hashes whole Outputs.
type plainHasher struct{ v *verifier }

func (plainHasher) Name() string                 { return "plain hash" }
func (plainHasher) Commit(context.Context) error { return nil }
func (plainHasher) Close() error                 { return nil }

func (h plainHasher) Write(ctx context.Context, o *Output) error {
	got := Sum(sha256.Sum256(nil))
	if o.Bytes > 0 {
		f, err := h.v.dir.Open(o.File)
		if err != nil {
			return h.v.again(o.File, o.Name, err)
		}
		got, _, err = HashReader(ctx, io.NewSectionReader(f, o.Offset, o.Bytes))
		_ = f.Close() // it was only read
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return h.v.again(o.File, o.Name, err)
		}
	}
	if got != o.SHA256 {
		h.v.add(o.File, o.Name, Differs, "sha256 %s, packed was %s", got, o.SHA256)
	}
	return nil
}

// hasher is the sink that hashes runs of Slabs.
type hasher struct {
	v     *verifier
	q     *queue
	hands sync.Pool // of *hand: one per worker
}

// hand is what a worker holds for a run. Opening the shard for each run of 4 MiB costs nothing beside hashing it, and a folder of
// thousands of shards takes no more descriptors than there are workers.
type hand struct {
	buf  []byte
	file *os.File
}

func (w *hand) close() {
	if w.file != nil {
		_ = w.file.Close() // it was only read
		w.file = nil
	}
}

func (h *hasher) Name() string { return "hash" }

func (h *hasher) Write(_ context.Context, r run) error {
	w, ok := h.hands.Get().(*hand)
	if !ok {
		w = &hand{buf: make([]byte, readBytes)}
	}
	defer h.hands.Put(w)
	defer w.close() // the pool closes nothing, and who is told of the progress may panic
	return h.v.hash(h.q, r, w)
}

func (h *hasher) Commit(context.Context) error { return nil }
func (h *hasher) Close() error                 { return nil }

// hash hashes the Slabs of one run.
func (v *verifier) hash(q *queue, r run, w *hand) error {
	f, err := v.dir.Open(q.m.Outputs[q.order[r.at]].File)
	if exhausted(err) {
		return err
	}
	w.file = f
	switch {
	case err != nil: // it was there
		for s := range r.slabs(q) {
			q.fail(s, err)
			v.slab(q, s, Sum{})
		}
	case r.bytes > int64(len(w.buf)): // one large Slab
		v.large(q, r, w)
	default:
		v.small(q, r, w)
	}
	v.mu.Lock()
	v.done += r.bytes
	v.report.Bytes += r.bytes
	done := v.done
	v.mu.Unlock()
	if v.opt.Progress != nil {
		v.opt.Progress(done, v.total)
	}
	return nil
}

func (v *verifier) small(q *queue, r run, w *hand) {
	if _, err := w.file.ReadAt(w.buf[:r.bytes], r.off); err != nil {
		v.unreadable(q, r, w)
		return
	}
	off := int64(0)
	for s := range r.slabs(q) {
		v.slab(q, s, q.m.Outputs[s.Output].Digest.Algorithm.Sum(w.buf[off:off+s.Len]))
		off += s.Len
	}
}

func (v *verifier) large(q *queue, r run, w *hand) {
	s := r.first
	o := &q.m.Outputs[s.Output]
	h := o.Digest.Algorithm.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{io.NewSectionReader(w.file, r.off, r.bytes)}, w.buf); err != nil {
		q.fail(s, err)
	}
	v.slab(q, s, sumOf(h))
}

// unreadable reads a run again, Slab by Slab, to see which it is.
func (v *verifier) unreadable(q *queue, r run, w *hand) {
	off := r.off
	for s := range r.slabs(q) {
		o := &q.m.Outputs[s.Output]
		if _, err := w.file.ReadAt(w.buf[:s.Len], off); err != nil {
			q.fail(s, err)
		}
		v.slab(q, s, o.Digest.Algorithm.Sum(w.buf[:s.Len]))
		off += s.Len
	}
}

// slab takes the hash of a Slab, and compares the Output with its last one.
func (v *verifier) slab(q *queue, s stages.Slab, sum Sum) {
	last, root, err := q.add(s, sum)
	if !last {
		return
	}
	o := &q.m.Outputs[s.Output]
	v.mu.Lock()
	v.report.Outputs++
	v.mu.Unlock()
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		v.add(o.File, o.Name, Damaged, "the file ends before it")
	case err != nil:
		v.add(o.File, o.Name, Damaged, "%v", err)
	case root != o.Digest.Root:
		v.add(o.File, o.Name, Differs, "%s %s, packed was %s", o.Digest.Algorithm, root, o.Digest.Root)
	}
}
