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
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

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

// VerifyOptions configures Verify. The zero value is good.
type VerifyOptions struct {
	Workers  int                     // how many read and hash at once; default one per CPU
	Progress func(done, total int64) // told of the bytes of Outputs, from several goroutines at once; nil for none
}

// readBytes is what a worker reads and holds at once. Larger Slabs are read in pieces of it.
const readBytes = 4 << 20

// Verify reads the packed folder dir once, in parallel, and lists everything that is not as the manifest says: files that are missing,
// extra or of another size, headers and the index that do not agree with it, and every Output whose digest differs. It holds 4 MiB a
// worker, 32 bytes a Slab and the manifest.
//
// An error means that it could not look: no such folder, ctx ended. What cannot be read inside the folder is a Difference.
func Verify(ctx context.Context, dir string, opt VerifyOptions) (*Report, error) {
	if _, err := os.ReadDir(dir); err != nil {
		return nil, fmt.Errorf("packed: %w", err)
	}
	if opt.Workers <= 0 {
		opt.Workers = runtime.GOMAXPROCS(0)
	}
	v := &verifier{dir: dir, opt: opt, report: &Report{}}
	m, err := ReadFile(dir)
	if err != nil {
		v.manifest(err)
		return v.report, nil
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
	dir string
	opt VerifyOptions

	mu     sync.Mutex // guards report and done
	report *Report
	done   int64
	total  int64

	shards map[string]*os.File // those whose Outputs can be read
}

func (v *verifier) add(file, output string, kind DifferenceKind, format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.report.Differences = append(v.report.Differences, Difference{file, output, kind, fmt.Sprintf(format, args...)})
}

// manifest reports why there is none to go by.
func (v *verifier) manifest(err error) {
	re, ok := errors.AsType[*stages.RefusedError](err)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		v.add(ManifestName, "", Missing, "the folder was not packed, or not completely")
	case !ok:
		v.add(ManifestName, "", Damaged, "%v", err)
	default:
		for _, f := range re.Faults {
			v.add(ManifestName, f.Tensor, Damaged, "%s", f.String())
		}
	}
}

func (v *verifier) run(ctx context.Context, m *Manifest) error {
	defer v.close()
	for _, o := range m.Outputs {
		v.total += o.Bytes
	}
	v.extra(m)
	v.open(m)
	headers := v.headers(m)
	v.index(m, headers)
	if err := v.files(ctx, m); err != nil {
		return err
	}
	return v.outputs(ctx, m)
}

func (v *verifier) close() {
	for _, f := range v.shards {
		_ = f.Close() // it was only read
	}
}

// extra looks for what the manifest does not name.
func (v *verifier) extra(m *Manifest) {
	known := map[string]bool{ManifestName: true, ".": true}
	for _, s := range m.Shards {
		known[s.File] = true
	}
	for _, f := range m.Files {
		for name := f.Name; name != "."; name = parent(name) {
			known[name] = true
		}
	}
	_ = fs.WalkDir(os.DirFS(v.dir), ".", func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			v.add(name, "", Damaged, "%v", err)
			return nil
		}
		if known[name] {
			return nil
		}
		v.add(name, "", Extra, "the manifest does not name it")
		return nil
	})
}

func parent(name string) string {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i]
	}
	return "."
}

// regular opens a file that must be there with this size, and reports when it is not.
func (v *verifier) regular(name string, size int64) *os.File {
	path := filepath.Join(v.dir, filepath.FromSlash(name))
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		v.add(name, "", Missing, "the manifest names it")
		return nil
	case err != nil:
		v.add(name, "", Damaged, "%v", err)
		return nil
	case !st.Mode().IsRegular():
		v.add(name, "", Damaged, "not a regular file")
		return nil
	case st.Size() != size:
		v.add(name, "", Damaged, "%d bytes, packed were %d", st.Size(), size)
	}
	f, err := os.Open(path)
	if err != nil {
		v.add(name, "", Damaged, "%v", err)
		return nil
	}
	return f
}

// open opens the shards. One of another size is still read as far as it goes.
func (v *verifier) open(m *Manifest) {
	v.shards = make(map[string]*os.File, len(m.Shards))
	for _, s := range m.Shards {
		if f := v.regular(s.File, s.Bytes); f != nil {
			v.shards[s.File] = f
		}
	}
}

// headers compares each shard's header with the manifest, both ways, and returns those that can be read.
func (v *verifier) headers(m *Manifest) map[string]*safetensors.Header {
	headers := make(map[string]*safetensors.Header, len(m.Shards))
	for _, s := range m.Shards {
		f := v.shards[s.File]
		if f == nil {
			continue
		}
		h, err := safetensors.ReadHeader(f, s.Bytes)
		if err != nil {
			v.add(s.File, "", Damaged, "header: %v", err)
			continue
		}
		headers[s.File] = h
		sum := sha256.New()
		if _, err := io.Copy(sum, io.NewSectionReader(f, 0, h.DataOffset())); err != nil {
			v.add(s.File, "", Damaged, "header: %v", err)
		} else if got := sumOf(sum); got != s.HeaderSHA256 {
			v.add(s.File, "", Differs, "header: sha256 %s, packed was %s", got, s.HeaderSHA256)
		}
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
	return headers
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

// index compares the index with the headers, both ways.
func (v *verifier) index(m *Manifest, headers map[string]*safetensors.Header) {
	const name = safetensors.IndexName
	i := slices.IndexFunc(m.Files, func(f File) bool { return f.Name == name })
	if i < 0 {
		v.add(name, "", Missing, "the manifest does not name it")
		return
	}
	path := filepath.Join(v.dir, name)
	if st, err := os.Lstat(path); err != nil || !st.Mode().IsRegular() || st.Size() > maxManifestBytes {
		return // the check of the files tells
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return
	}
	ix, err := safetensors.ParseIndex(data)
	if err != nil {
		v.add(name, "", Damaged, "%v", err)
		return
	}
	if len(headers) < len(m.Shards) {
		return // the index would be blamed for headers that are missing
	}
	if len(m.Outputs) == 0 && ix.Len() == 0 {
		return
	}
	err = ix.Check(headers)
	if faults, ok := errors.AsType[*safetensors.FaultsError](err); ok {
		for _, f := range faults.Faults {
			v.add(name, f.Tensor, Differs, "%v", f)
		}
	} else if err != nil {
		v.add(name, "", Differs, "%v", err)
	}
}

// files hashes the files that are no shards.
func (v *verifier) files(ctx context.Context, m *Manifest) error {
	for _, f := range m.Files {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		file := v.regular(f.Name, f.Bytes)
		if file == nil {
			continue
		}
		h := sha256.New()
		_, err := io.Copy(h, file)
		_ = file.Close() // it was only read
		if err != nil {
			v.add(f.Name, "", Damaged, "%v", err)
		} else if got := sumOf(h); got != f.SHA256 {
			v.add(f.Name, "", Differs, "sha256 %s, packed was %s", got, f.SHA256)
		}
	}
	return nil
}

// outputs hashes every Output whose shard is there.
func (v *verifier) outputs(ctx context.Context, m *Manifest) error {
	q := newQueue(m, v.shards)
	p := pipeline.New(ctx, pipeline.Config{})
	pipeline.Into(pipeline.From(p, "read", q.all()), &hasher{v: v, q: q}, pipeline.Workers(v.opt.Workers))
	return p.Wait()
}

// hasher is the sink that hashes runs of Slabs.
type hasher struct {
	v    *verifier
	q    *queue
	bufs sync.Pool // of *[]byte: one per worker
}

func (h *hasher) Name() string { return "hash" }

func (h *hasher) Write(_ context.Context, r run) error {
	buf, ok := h.bufs.Get().(*[]byte)
	if !ok {
		b := make([]byte, readBytes)
		buf = &b
	}
	defer h.bufs.Put(buf)
	h.v.hash(h.q, r, *buf)
	return nil
}

func (h *hasher) Commit(context.Context) error { return nil }
func (h *hasher) Close() error                 { return nil }

// hash hashes the Slabs of one run.
func (v *verifier) hash(q *queue, r run, buf []byte) {
	file := q.m.Outputs[q.order[r.at]].File
	if r.bytes > int64(len(buf)) { // one large Slab
		v.large(q, r, buf)
	} else if _, err := v.shards[file].ReadAt(buf[:r.bytes], r.off); err != nil {
		v.unreadable(q, r, buf)
	} else {
		off := int64(0)
		for s := range r.slabs(q) {
			v.slab(q, s, q.m.Outputs[s.Output].Digest.Algorithm.Sum(buf[off:off+s.Len]))
			off += s.Len
		}
	}
	v.mu.Lock()
	v.done += r.bytes
	v.report.Bytes += r.bytes
	done := v.done
	v.mu.Unlock()
	if v.opt.Progress != nil {
		v.opt.Progress(done, v.total)
	}
}

func (v *verifier) large(q *queue, r run, buf []byte) {
	s := r.first
	o := &q.m.Outputs[s.Output]
	h := o.Digest.Algorithm.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{io.NewSectionReader(v.shards[o.File], r.off, r.bytes)}, buf); err != nil {
		q.fail(s, err)
	}
	v.slab(q, s, sumOf(h))
}

// unreadable reads a run again, Slab by Slab, to see which it is.
func (v *verifier) unreadable(q *queue, r run, buf []byte) {
	off := r.off
	for s := range r.slabs(q) {
		o := &q.m.Outputs[s.Output]
		if _, err := v.shards[o.File].ReadAt(buf[:s.Len], off); err != nil {
			q.fail(s, err)
		}
		v.slab(q, s, o.Digest.Algorithm.Sum(buf[:s.Len]))
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
