package file

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/coldload/coldload/internal/packed"
	"github.com/coldload/coldload/internal/staging"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// Options configures a Sink. Dir and Manifest.Program are needed.
type Options struct {
	// Dir is the folder to make. It may be absent or empty; its parents are made when they are missing.
	Dir string
	// Overwrite replaces whatever Dir is, when the new folder is complete. It also packs again what is complete already.
	Overwrite bool
	// Protect names files and folders that are read meanwhile: Begin refuses a Dir that is or holds one of them, also by the names that it
	// needs beside Dir.
	Protect []string
	// Layout is what the header of every shard says as coldload.layout; default raw.
	Layout stages.Layout
	// ShardSize is the most that the Outputs of one shard take, in bytes; default 5 GB (5e9).
	ShardSize int64
	// Key is a JSON value that is equal only for equal work: options that decide the result, identity of the sources, what Files will
	// hold. The program version, the Outputs and the Options here that change the result are part of it anyway.
	Key jsontext.Value
	// Origin is a JSON value that tells from what, here and now, the Slabs are made, such as times of change of the sources. What an
	// earlier run left is gone on with only when it is the same. It leaves no trace in the folder.
	Origin jsontext.Value
	// Manifest has Program, Options and Sources, which are copied to the manifest that is written.
	Manifest packed.Manifest
	// SourceSums is asked by Commit for the SHA-256 of the Sources of Manifest, in their order, for the manifest: they may not be known before.
	// They are no part of what decides whether two runs do equal work. Nil for none.
	SourceSums func() []packed.Sum
	// Files are written at Commit, before the manifest.
	Files []File
	// Algorithm of the digests; default packed.BLAKE3.
	Algorithm packed.Algorithm
	// PlainDigests also computes the SHA-256 of each whole Output. It is done by reading back what was written, since the Slabs come in
	// any order: each byte is read and hashed once more.
	PlainDigests bool
	// DirtyBytes bounds what waits in the page cache to be written, in bytes; default 128 MiB.
	DirtyBytes int64
	// Note takes what the user should hear of, one sentence each; nil drops it. It is called from Begin and Commit.
	Note func(text string)
}

// File is another file of the folder.
type File struct {
	Name  string                  // with slashes, relative to the folder
	Bytes int64                   // about its size, for the check of free space
	Write func(w io.Writer) error // called once, by Commit; equal work must give equal bytes
}

const (
	defaultShardSize = 5_000_000_000
	defaultDirty     = 128 << 20
	// What is written is made durable and named in the journal after a sixteenth of the result, between these bounds: often enough that
	// a killed run loses little, seldom enough that the disk does not notice.
	minFlush, maxFlush = 1 << 20, 256 << 20
	// maxReady is how many Slabs may wait for that: small ones take more memory here than on the disk.
	maxReady = 1 << 14
	// maxShards is what readers accept (safetensors.Limits).
	maxShards = 10_000
)

func (o Options) withDefaults() Options {
	if o.ShardSize <= 0 {
		o.ShardSize = defaultShardSize
	}
	if o.Layout == "" {
		o.Layout = stages.LayoutRaw
	}
	if o.Algorithm == "" {
		o.Algorithm = packed.BLAKE3
	}
	if o.DirtyBytes <= 0 {
		o.DirtyBytes = defaultDirty
	}
	if o.Note == nil {
		o.Note = func(string) {}
	}
	return o
}

// validate returns every fault of the options.
func (o Options) validate() error {
	var errs []error
	if !o.Algorithm.Valid() {
		errs = append(errs, fmt.Errorf("file: hash %q is not known", o.Algorithm))
	}
	if o.Key != nil && !o.Key.IsValid() || o.Origin != nil && !o.Origin.IsValid() {
		errs = append(errs, errors.New("file: the key or the origin is no JSON"))
	}
	seen := map[string]bool{safetensors.IndexName: true, packed.ManifestName: true}
	for _, f := range o.Files {
		if !packed.FileName(f.Name) || seen[f.Name] || f.Write == nil || isShard(f.Name) {
			errs = append(errs, fmt.Errorf("file: %q cannot be a file of the folder", f.Name))
		}
		seen[f.Name] = true
	}
	for _, f := range o.Files {
		for dir := path.Dir(f.Name); dir != "." && dir != "/"; dir = path.Dir(dir) {
			if seen[dir] || isShard(dir) {
				errs = append(errs, fmt.Errorf("file: %q cannot be a file of the folder: %q is one", f.Name, dir))
			}
		}
	}
	return errors.Join(errs...)
}

// isShard says that a name may be one of a shard.
func isShard(name string) bool { return path.Ext(name) == ".safetensors" }

// Sink is a stages.Sink that writes a packed folder. It is a Stager, a BatchWriter, a Digester and a SlabResumer too.
//
// Memory: the buffers of Slabs between Reserve and Write (see package staging), about 30 bytes an Output and 33 a Slab, and in Begin
// the header of one shard, of at most 100,000 Outputs.
type Sink struct {
	opt     Options
	disk    disk
	state   state
	outputs []stages.Output
	key     packed.Sum
	origin  packed.Sum // the key of the journal
	shards  []*shard
	offsets []int64 // where each Output begins in its file
	digests *packed.Digests
	resumed []atomic.Uint64 // Slabs of an earlier run, as bits; nil without one
	taken   int64           // bytes of an earlier run
	kept    int64           // bytes that Close left to a later one
	target  *target
	plain   []packed.Sum
	every   int64 // flush after so many bytes; set by Begin unless a test has
	block   int64 // a power of two that direct writes are multiples of
	failed  atomic.Bool

	byName  func() []int32 // the Outputs by their names, made when they are first asked for
	handles handles
	scratch sync.Pool // *[]byte, to read back

	buffers   sync.Mutex // guards pool and held
	pool      *staging.Pool
	held      map[slabID]staging.Block
	writeback writeback

	waiting    sync.Mutex // guards ready and readyBytes
	ready      []stages.Slab
	readyBytes int64
	flushing   sync.Mutex // guards the journal, named and the shards' left
	named      int64      // bytes that the journal names
}

// state needs no lock: the contract of stages.Sink orders Begin, Commit and Close against every other call.
type state uint8

const (
	fresh state = iota
	begun
	committed
	closed
)

// slabID tells Slabs apart.
type slabID struct{ output, index int }

var (
	_ stages.Sink        = (*Sink)(nil)
	_ stages.Stager      = (*Sink)(nil)
	_ stages.BatchWriter = (*Sink)(nil)
	_ stages.Digester    = (*Sink)(nil)
	_ stages.Resumer     = (*Sink)(nil)
	_ stages.SlabResumer = (*Sink)(nil)
)

// New makes a Sink for one load. It touches nothing before Begin.
func New(opt Options) *Sink {
	return &Sink{
		opt: opt.withDefaults(), pool: staging.New(), held: make(map[slabID]staging.Block),
		block: int64(max(dataAlign, os.Getpagesize())),
	}
}

// Name is "file", for spans.
func (*Sink) Name() string { return "file" }

// Begin takes the target and makes the shards; see the package's documentation. It keeps the slice of outputs.
//
// It fails with ErrAlreadyDone when there is nothing to do, with a *TargetError when the folder cannot be used, with a *SpaceError when
// the disk is too small, and with a *stages.RefusedError when the Outputs cannot be held.
func (s *Sink) Begin(ctx context.Context, outputs []stages.Output) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if s.state != fresh {
		return errors.New("file: Begin on a sink that was used before")
	}
	if err := errors.Join(s.opt.validate(), check(outputs)); err != nil {
		return err
	}
	s.outputs = outputs
	s.shards = assign(outputs, s.opt.ShardSize)
	if len(s.shards) > maxShards {
		return stages.Refuse(stages.Fault{
			Code: stages.CodeSink, Problem: "too many shards", Expected: fmt.Sprintf("at most %d", maxShards), Found: fmt.Sprint(len(s.shards)),
			Advice: "choose larger shards",
		})
	}
	var err error
	if s.offsets, err = layOut(s.shards, outputs, s.opt.Layout); err != nil {
		return err
	}
	if s.key, err = s.makeKey(); err != nil {
		return err
	}
	s.origin = sha256.Sum256(append(s.key[:], s.opt.Origin...))
	s.digests = packed.NewDigests(s.opt.Algorithm, outputs)
	if s.opt.PlainDigests {
		s.plain = make([]packed.Sum, len(outputs))
	}
	if s.every == 0 {
		s.every = min(max(s.total()/16, minFlush), maxFlush)
	}
	s.writeback.half = s.opt.DirtyBytes / 2
	s.byName = sync.OnceValue(func() []int32 { return sorted(outputs) })
	s.handles.d, s.handles.block, s.handles.random = &s.disk, s.block, s.opt.PlainDigests
	s.handles.limit = cmp.Or(s.handles.limit, maxOpen)
	s.writeback.handles = &s.handles
	if err := s.enter(); err != nil {
		return err
	}
	s.state = begun
	return nil
}

func (s *Sink) total() (n int64) {
	for i := range s.outputs {
		n += s.outputs[i].Size
	}
	return n
}

// makeKey hashes everything that decides what the folder will hold.
func (s *Sink) makeKey() (packed.Sum, error) {
	h := sha256.New()
	enc := jsontext.NewEncoder(h)
	for _, v := range []any{
		packed.FormatVersion, s.opt.Manifest.Program, s.opt.Manifest.Options, s.opt.Manifest.Sources, s.opt.Key, s.opt.Layout,
		s.opt.ShardSize, s.opt.Algorithm, s.opt.PlainDigests,
	} {
		if b, ok := v.(jsontext.Value); ok && len(b) == 0 {
			v = nil
		}
		if err := json.MarshalEncode(enc, v); err != nil {
			return packed.Sum{}, fmt.Errorf("file: key: %w", err)
		}
	}
	for _, f := range s.opt.Files {
		if err := enc.WriteToken(jsontext.String(f.Name)); err != nil {
			return packed.Sum{}, fmt.Errorf("file: key: %w", err)
		}
	}
	for i := range s.outputs {
		if err := json.MarshalEncode(enc, &s.outputs[i]); err != nil {
			return packed.Sum{}, fmt.Errorf("file: key: %w", err)
		}
	}
	var key packed.Sum
	h.Sum(key[:0])
	return key, nil
}

// enter does what Begin does to the disk.
func (s *Sink) enter() error {
	t, err := resolve(&s.disk, s.opt.Dir, s.opt.Overwrite, s.opt.Protect)
	if err != nil {
		return err
	}
	at, err := s.mayReplace(t)
	if err != nil {
		return err
	}
	if at == done && !s.opt.Overwrite {
		if _, err := os.Lstat(t.state); err == nil && t.acquire() == nil {
			_ = t.tidy(s.key) // what a killed run left is tried again the next time
		}
		return fmt.Errorf("file: %s: %w", t.dir, ErrAlreadyDone)
	}
	if err := t.acquire(); err != nil {
		return err
	}
	s.target = t
	completed, err := t.recover(s.key)
	if err != nil {
		return err
	}
	if at, err = s.mayReplace(t); err != nil {
		return err
	}
	if completed || at == done && !s.opt.Overwrite {
		s.target = nil
		return errors.Join(fmt.Errorf("file: %s: %w", t.dir, ErrAlreadyDone), t.tidy(s.key))
	}
	if at != nothing {
		if err := t.makeRoom(); err != nil {
			return err
		}
	}
	if err := s.fill(); err != nil {
		return unusable(t.partial, err)
	}
	return nil
}

// mayReplace says what lies at the target, and refuses what must stay.
func (s *Sink) mayReplace(t *target) (found, error) {
	at, flaw, err := t.look(s.key)
	switch {
	case err != nil || s.opt.Overwrite:
		return at, err
	case at == damaged:
		return at, &TargetError{
			Path: t.dir, Err: fmt.Errorf("%w: it is this very result, but damaged: %w", ErrTargetExists, flaw), Advice: "say that it may be replaced",
		}
	case at == foreign:
		return at, t.exists()
	}
	return at, nil
}

// fill makes OUT.partial ready to be written to.
func (s *Sink) fill() error {
	t := s.target
	st, err := os.Lstat(t.partial)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case !st.IsDir():
		return t.notAFolder(t.partial)
	case t.journal.ok && st.Mode()&0o700 != 0o700: // killed while it got the mode of what it replaces
		if err := t.d.chmod(t.partial, st.Mode()|0o700); err != nil {
			return err
		}
	}
	empty, err := isEmpty(t.partial)
	if err != nil {
		return err
	}
	there := !empty
	switch {
	case there && !t.journal.ok && t.made:
		return &TargetError{
			Path: t.partial, Err: fmt.Errorf("%w, and no journal is beside it that says what it is", ErrTargetExists),
			Advice: "the name is needed: move it away, or remove it if it is of no use",
		}
	case there && !t.journal.ok:
		return &TargetError{
			Path: t.partial, Err: fmt.Errorf("%w, and its journal %s does not say what it is", ErrTargetExists, t.state),
			Advice: "nothing of it can be gone on with: remove both if they are of no use",
		}
	case there && t.journal.key != s.origin:
		s.opt.Note(t.partial + " was made with other options or from another checkpoint: starting afresh")
		t.worthless = true
		// The journal says whose the folder is until it is gone for good.
		if err := errors.Join(t.d.removeAll(t.partial), t.d.syncDir(filepath.Dir(t.dir))); err != nil {
			return err
		}
		there = false
	}
	if !there {
		t.worthless = true
		if err := t.start(s.origin); err != nil {
			return err
		}
	}
	if err := s.prepare(there); err != nil {
		return err
	}
	if there {
		if err := s.takeOver(); err != nil {
			return err
		}
		t.worthless = true
	}
	if err := s.checkSpace(); err != nil {
		return err
	}
	for _, sh := range s.shards {
		if !sh.kept {
			if err := s.create(sh); err != nil {
				return s.full(err)
			}
		}
	}
	return t.d.syncDir(t.partial)
}

// checkSpace compares what is missing on the disk with what is free.
func (s *Sink) checkSpace() error {
	free, ok := freeBytes(s.target.partial)
	if !ok {
		return nil
	}
	if need := s.missing(); need > free {
		return &SpaceError{Dir: s.target.partial, Need: need, Free: free}
	}
	return nil
}

// missing is about what the result takes on the disk beyond what is there.
func (s *Sink) missing() int64 {
	n := s.overhead()
	for _, sh := range s.shards {
		n += sh.size - min(allocatedBytes(sh.path), sh.size)
	}
	return n
}

// overhead is about what index, manifest, journal and the other files take.
func (s *Sink) overhead() int64 {
	n := int64(64 << 10)
	for i := range s.outputs {
		n += 2*int64(len(s.outputs[i].Name)) + 500 + 80*int64(s.outputs[i].Slabs())
	}
	for _, f := range s.opt.Files {
		n += f.Bytes
	}
	return n
}

// full adds the figures to an error of a disk that is full, unless they tell something else: there may be a quota, or no room for more
// files.
func (s *Sink) full(err error) error {
	if !isFull(err) {
		return err
	}
	e := &SpaceError{Dir: s.target.partial, Need: s.missing(), Late: s.state == begun}
	free, told := freeBytes(e.Dir)
	switch e.Free = free; {
	case told && e.Need > e.Free:
		return fmt.Errorf("%w: %w", e, err)
	case !e.Late:
		return &TargetError{Path: e.Dir, Err: err, Advice: "the disk may have no room for more files, or not for this user; choose another folder"}
	}
	return err
}

// takeOver goes on where the journal ends. A shard that is not as it was left is struck out of it first. The journal is read twice: its
// lines may take more memory than all else.
func (s *Sink) takeOver() error {
	byName := make(map[string]*shard, len(s.shards))
	for _, sh := range s.shards {
		byName[sh.name] = sh
	}
	since := make(map[string]int)  // the line from which on a shard's lines hold
	holds := make(map[string]bool) // there are such lines
	line := 0
	if _, _, err := s.target.journal.read(func(r record) {
		line++
		if r.Lost {
			since[r.Shard] = line
		}
		holds[r.Shard] = !r.Lost
	}); err != nil {
		return err
	}
	s.resumed = make([]atomic.Uint64, (s.digests.Len()+63)/64)
	line = 0
	var failed error
	if _, _, err := s.target.journal.read(func(r record) {
		line++
		sh := byName[r.Shard]
		if failed != nil || sh == nil || !sh.kept || line <= since[r.Shard] {
			return
		}
		for _, run := range r.Slabs {
			if err := s.settle(sh, run); err != nil {
				failed = fmt.Errorf("journal: %s: %w", r.Shard, err)
				return
			}
		}
	}); err != nil {
		return err
	}
	if failed != nil {
		return failed
	}
	var lost []record
	for _, sh := range s.shards {
		if !sh.kept && holds[sh.name] {
			lost = append(lost, record{Shard: sh.name, Lost: true})
		}
	}
	if len(lost) == 0 {
		return nil
	}
	return s.target.journal.append(lost...)
}

func (s *Sink) settle(sh *shard, r slabRun) error {
	sums, err := r.sums()
	if err != nil {
		return err
	}
	if r.Output < sh.first || r.Output >= sh.end || r.First < 0 || r.First+len(sums) > s.outputs[r.Output].Slabs() {
		return fmt.Errorf("output %d has no slabs %d to %d", r.Output, r.First, r.First+len(sums))
	}
	for i, sum := range sums {
		slab := s.outputs[r.Output].Slab(r.Output, r.First+i)
		if s.digests.Has(slab) {
			continue
		}
		if _, err := s.digests.Add(slab, sum); err != nil {
			return err
		}
		n := s.digests.Number(slab)
		s.resumed[n/64].Or(1 << (n % 64))
		sh.left -= slab.Len
		s.named += slab.Len
		s.taken += slab.Len
	}
	return nil
}

// Resumed is what an earlier run has left, in bytes of Outputs. It may be asked after Begin.
func (s *Sink) Resumed() int64 { return s.taken }

// Kept is what a later run can go on with, in bytes of Outputs: 0 after a Commit. It may be asked after Close.
func (s *Sink) Kept() int64 { return s.kept }

// Done says that an earlier run has left the whole Output.
func (s *Sink) Done(o stages.Output) bool {
	if s.resumed == nil || o.Size == 0 {
		return false
	}
	byName := s.byName()
	at, ok := slices.BinarySearchFunc(byName, o.Name, func(i int32, name string) int { return strings.Compare(s.outputs[i].Name, name) })
	if !ok {
		return false
	}
	i := int(byName[at])
	for k := range s.outputs[i].Slabs() {
		if !s.DoneSlab(s.outputs[i].Slab(i, k)) {
			return false
		}
	}
	return true
}

// DoneSlab says that an earlier run has left the Slab.
func (s *Sink) DoneSlab(slab stages.Slab) bool {
	if s.resumed == nil {
		return false
	}
	n := s.digests.Number(slab)
	return s.resumed[n/64].Load()&(1<<(n%64)) != 0
}

// StagingBytes is the size of the buffer that Reserve will hand out for the Slab, in bytes. It depends on the Slab's length only.
func (s *Sink) StagingBytes(slab stages.Slab) int64 {
	if slab.Len < directBytes {
		return staging.BlockBytes(slab.Len)
	}
	return staging.AlignedBytes(slab.Len, s.block)
}

// buffer takes from the pool what the Slab needs. A large one lies as its place in the file does, so that its blocks can be written from
// where they are; unless that would keep it from a cache line, to which the Ops may want it aligned.
func (s *Sink) buffer(slab stages.Slab) (staging.Block, error) {
	if slab.Len < directBytes {
		return s.pool.Get(slab.Len)
	}
	phase := int64(0)
	if off := s.offsets[slab.Output]; off%lineBytes == 0 {
		phase = (off + slab.Off) & (s.block - 1)
	}
	return s.pool.GetAligned(slab.Len, phase, s.block)
}

// Reserve hands out a buffer of slab.Len bytes. It holds anything: buffers are used again and not cleared. It never waits and does not
// look at the context.
func (s *Sink) Reserve(_ context.Context, slab stages.Slab) ([]byte, error) {
	if err := s.exists(slab); err != nil {
		return nil, fmt.Errorf("file: reserve: %w", err)
	}
	s.buffers.Lock()
	defer s.buffers.Unlock()
	id := slabID{slab.Output, slab.Index}
	if _, ok := s.held[id]; ok {
		return nil, fmt.Errorf("file: reserve: slab %d of %s is reserved already", slab.Index, s.outputs[slab.Output].Name)
	}
	b, err := s.buffer(slab)
	if err != nil {
		return nil, fmt.Errorf("file: reserve slab %d of %s: %w", slab.Index, s.outputs[slab.Output].Name, err)
	}
	s.held[id] = b
	return b.Bytes(slab.Len), nil
}

// exists says whether the Slab exists and the Sink takes Slabs now.
func (s *Sink) exists(slab stages.Slab) error {
	if s.state != begun {
		return errors.New("the sink is not between Begin and Commit")
	}
	return slab.In(s.outputs)
}

// claim takes the buffers of Slabs that are about to be written. On error none is held any more, either.
func (s *Sink) claim(slabs []stages.Slab, bufs [][]byte) ([]staging.Block, error) {
	if len(slabs) != len(bufs) {
		return nil, fmt.Errorf("file: write: %d slabs with %d buffers", len(slabs), len(bufs))
	}
	var firstErr error
	blocks := make([]staging.Block, 0, len(slabs))
	s.buffers.Lock()
	defer s.buffers.Unlock()
	for i, slab := range slabs {
		err := s.exists(slab)
		if err == nil {
			id := slabID{slab.Output, slab.Index}
			b, ok := s.held[id]
			switch {
			case !ok:
				err = fmt.Errorf("slab %d of %s is not reserved", slab.Index, s.outputs[slab.Output].Name)
			case int64(len(bufs[i])) != slab.Len || unsafe.SliceData(bufs[i]) != unsafe.SliceData(b.Bytes(slab.Len)):
				err = fmt.Errorf("slab %d of %s: these are not the bytes that Reserve gave", slab.Index, s.outputs[slab.Output].Name)
			default:
				delete(s.held, id)
				blocks = append(blocks, b)
			}
		}
		if err != nil && firstErr == nil {
			firstErr = fmt.Errorf("file: write: %w", err)
		}
	}
	return blocks, firstErr
}

func (s *Sink) free(blocks []staging.Block) error {
	s.buffers.Lock()
	defer s.buffers.Unlock()
	var errs []error
	for _, b := range blocks {
		errs = append(errs, s.pool.Put(b))
	}
	return errors.Join(errs...)
}
