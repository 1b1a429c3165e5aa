package coldload_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/leak"
	"github.com/coldload/coldload/internal/packed"
	"github.com/coldload/coldload/internal/synth"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/sinks/discard"
	sinkfile "github.com/coldload/coldload/sinks/file"
	"github.com/coldload/coldload/sinks/host"
	"github.com/coldload/coldload/sources/file"
	"github.com/coldload/coldload/stages"
)

// wide is set by .ci/full.
var wide = flag.Bool("wide", false, "let every single operation fail, and soak for longer, where the tests take samples otherwise")

// errWalk is what the operation fails with that a walk has come to.
var errWalk = errors.New("the walk came by")

// walker lets one operation of a load fail: of those called op the one with the number at, counted from 0.
type walker struct {
	op     string
	at     int
	panics bool

	mu   sync.Mutex
	met  bool
	seen map[string]int // how often each was called
}

// begin begins anew, and lets another operation fail.
func (w *walker) begin(op string, at int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.op, w.at, w.met, w.seen = op, at, false, nil
}

// step is one operation.
func (w *walker) step(op string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seen == nil {
		w.seen = map[string]int{}
	}
	w.seen[op]++
	if op != w.op || w.seen[op]-1 != w.at {
		return nil
	}
	w.met = true
	if w.panics {
		panic(errWalk)
	}
	return errWalk
}

// progress can fail by a panic alone.
func (w *walker) progress(coldload.Progress) {
	if w.panics {
		_ = w.step("progress")
	}
}

// walkedSource lets calls of a Source fail.
type walkedSource struct {
	*file.Source

	w *walker
}

func (s walkedSource) Fetch(ctx context.Context, ranges []stages.Extent) (stages.Views, error) {
	if err := s.w.step("Fetch"); err != nil {
		return nil, err
	}
	return s.Source.Fetch(ctx, ranges)
}

func (s walkedSource) FetchPadded(ctx context.Context, ranges []stages.Extent, padding int64) (stages.Views, error) {
	if err := s.w.step("Fetch"); err != nil {
		return nil, err
	}
	return s.Source.FetchPadded(ctx, ranges, padding)
}

func (s walkedSource) View(ctx context.Context, e stages.Extent) ([]byte, error) {
	if err := s.w.step("View"); err != nil {
		return nil, err
	}
	return s.Source.View(ctx, e)
}

func (s walkedSource) ReadInto(ctx context.Context, e stages.Extent, dst []byte) error {
	if err := s.w.step("ReadInto"); err != nil {
		return err
	}
	return s.Source.ReadInto(ctx, e, dst)
}

func (s walkedSource) Verify(ctx context.Context) error {
	if err := s.w.step("Verify"); err != nil {
		return err
	}
	return s.Source.Verify(ctx)
}

func (s walkedSource) Close() error {
	err := s.Source.Close()
	return errors.Join(err, s.w.step("Close of the source"))
}

// walkedSink lets calls of a Sink fail.
type walkedSink struct {
	stages.Sink

	w *walker
}

func (s walkedSink) Begin(ctx context.Context, outputs []stages.Output) error {
	if err := s.w.step("Begin"); err != nil {
		return err
	}
	return s.Sink.Begin(ctx, outputs)
}

func (s walkedSink) Reserve(ctx context.Context, slab stages.Slab) ([]byte, error) {
	if err := s.w.step("Reserve"); err != nil {
		return nil, err
	}
	return s.Sink.Reserve(ctx, slab)
}

func (s walkedSink) Write(ctx context.Context, slab stages.Slab, b []byte) error {
	if err := s.w.step("Write"); err != nil {
		return err
	}
	return s.Sink.Write(ctx, slab, b)
}

func (s walkedSink) Commit(ctx context.Context) error {
	if err := s.w.step("Commit"); err != nil {
		return err
	}
	return s.Sink.Commit(ctx)
}

func (s walkedSink) Close() error {
	err := s.Sink.Close()
	return errors.Join(err, s.w.step("Close of the sink"))
}

// walkedFiles lets the calls fail that only sinks/file has.
type walkedFiles struct {
	walkedSink

	files *sinkfile.Sink
}

func (s walkedFiles) StagingBytes(slab stages.Slab) int64 { return s.files.StagingBytes(slab) }
func (s walkedFiles) DoneSlab(slab stages.Slab) bool      { return s.files.DoneSlab(slab) }

func (s walkedFiles) WriteBatch(ctx context.Context, slabs []stages.Slab, bufs [][]byte) error {
	if err := s.w.step("Write"); err != nil {
		return err
	}
	return s.files.WriteBatch(ctx, slabs, bufs)
}

func (s walkedFiles) Digest(ctx context.Context, slabs []stages.Slab, bufs [][]byte) error {
	if err := s.w.step("Digest"); err != nil {
		return err
	}
	return s.files.Digest(ctx, slabs, bufs)
}

// walkedDiscard is a Stager too.
type walkedDiscard struct {
	walkedSink

	discard *discard.Sink
}

func (s walkedDiscard) StagingBytes(slab stages.Slab) int64 { return s.discard.StagingBytes(slab) }

// places is a word of the error's text by which its place is known.
var places = map[string]string{
	"Fetch": "fetch", "Reserve": "fetch", "Digest": "digest", "Write": "upload", "Commit": "upload", "Verify": "upload",
	"stage": "mine", "View": walkedTensor, "ReadInto": walkedTensor,
}

// TestFaultWalk lets operation 0 of a load fail, then 1, 2, ... until a load succeeds: of each kind, by an error and by a panic, into every sink,
// of what is asked of an open Checkpoint, and of a verification.
// (Without -wide it takes the first two, the last two and some between.) After each the
// error is the one that was met, with its place; no goroutine, no file, no mapping and no memory is left; nothing on the disk looks complete; and
// the next load makes what one makes that nothing disturbed.
func TestFaultWalk(t *testing.T) {
	src := filepath.Join(t.TempDir(), "ck")
	if _, err := synth.Write(t.Context(), src, synth.Options{Model: "micro", ShardSize: 200 << 10}); err != nil {
		t.Fatal(err)
	}
	want := filepath.Join(t.TempDir(), "want")
	if err := loadWalked(t.Context(), src, filesInto(want), &walker{}, file.ModeAuto); err != nil {
		t.Fatal(err)
	}
	tree := ckpt.Tree(t, want)
	for _, panics := range []bool{false, true} {
		for name, into := range map[string]func(dir string) func(w *walker) stages.Sink{"host": memoryInto, "discard": nowhere, "file": filesInto} {
			for _, io := range []file.Mode{file.ModeMmap, file.ModePread} {
				t.Run(fmt.Sprintf("%s by %s, panics %v", name, io, panics), func(t *testing.T) {
					f := faultWalk{src: src, into: into, io: io, panics: panics}
					if name == "file" {
						f.tree = tree
					}
					f.run(t)
				})
			}
		}
		walkDemands(t, src, panics)
		walkVerify(t, src, panics)
	}
	walkFolder(t, src)
}

func memoryInto(string) func(w *walker) stages.Sink {
	return func(w *walker) stages.Sink { return walkedSink{host.New(host.Options{}), w} }
}

func nowhere(string) func(w *walker) stages.Sink {
	return func(w *walker) stages.Sink {
		s := discard.New()
		return walkedDiscard{walkedSink{s, w}, s}
	}
}

func filesInto(dir string) func(w *walker) stages.Sink {
	return func(w *walker) stages.Sink {
		s := sinkfile.New(sinkfile.Options{Dir: dir, ShardSize: 300_000, Key: []byte(`"walk"`), Manifest: packed.Manifest{Program: "walk", Options: []byte(`{}`)}})
		return walkedFiles{walkedSink{s, w}, s}
	}
}

// loadWalked loads src with what w lets fail.
func loadWalked(ctx context.Context, src string, into func(w *walker) stages.Sink, w *walker, io file.Mode) error {
	sink := into(w)
	_, err := coldload.Load(ctx, src, sink, coldload.Options{
		Progress: w.progress, Budget: 300 << 10, Workers: coldload.Workers{Fetch: 2, Decode: 2, Fuse: 1, Repack: 2, Digest: 1, Upload: 2},
		Source: func(shards []file.Shard) (stages.Source, error) {
			s, err := file.New(shards, file.Options{IO: io})
			return walkedSource{s, w}, err
		},
	})
	var memory *host.Memory
	switch s := sink.(type) {
	case walkedSink:
		if h, ok := s.Sink.(*host.Sink); ok {
			memory = h.Memory()
		}
	default:
	}
	if memory != nil {
		err = errors.Join(err, memory.Close())
	}
	return err
}

// faultWalk is one walk.
type faultWalk struct {
	src    string
	into   func(dir string) func(w *walker) stages.Sink
	io     file.Mode
	panics bool
	tree   map[string]string // of the folder that nothing disturbed; nil for a sink that writes none
}

func (f *faultWalk) run(t *testing.T) {
	t.Helper()
	clean := &walker{panics: f.panics}
	if err := loadWalked(t.Context(), f.src, f.into(filepath.Join(t.TempDir(), "out")), clean, f.io); err != nil {
		t.Fatal(err)
	}
	walkOver(t, clean, *wide, f.next)
	if len(clean.seen) < 7 {
		t.Error("too few kinds of operations: the walk does not see what it is for")
	}
}

// walkOver lets every operation fail that a clean run went through, of each kind one after the other, and then one that is not there; or a sample of
// them. next reports whether it was met.
func walkOver(t *testing.T, clean *walker, all bool, next func(t *testing.T, op string, at int) bool) {
	t.Helper()
	failed := map[string]int{}
	seen := maps.Clone(clean.seen) // which a walker that is used again forgets
	for op, calls := range seen {
		for at := range calls + 1 {
			if !all && at > 1 && at < calls-2 && at%9 != 0 {
				continue
			}
			if next(t, op, at) {
				failed[op]++
			}
			if t.Failed() {
				t.Fatalf("at %s %d", op, at)
			}
		}
	}
	t.Logf("failed, of %v: %v", seen, failed)
}

// next lets one operation fail, if there is one.
func (f *faultWalk) next(t *testing.T, op string, at int) bool {
	t.Helper()
	above := t.TempDir()
	before := leak.Now()
	w := &walker{op: op, at: at, panics: f.panics}
	err := loadWalked(t.Context(), f.src, f.into(filepath.Join(above, "out")), w, f.io)
	before.Check(t)
	switch {
	case w.met:
		w.check(t, err)
		f.disk(t, above, w)
	case err != nil:
		t.Errorf("nothing failed: %v", err)
	}
	return w.met
}

// check looks at the error of what the walker met.
func (w *walker) check(t *testing.T, err error) {
	t.Helper()
	if w.panics {
		if p, ok := errors.AsType[*pipeline.PanicError](err); !ok || p.Value != any(errWalk) {
			t.Errorf("%T, want a PanicError with what was met: %v", err, err)
			return
		}
	} else if !errors.Is(err, errWalk) {
		t.Errorf("error %v, want the one that was met", err)
		return
	}
	if !strings.Contains(err.Error(), places[w.op]) {
		t.Errorf("%v does not name its place, %s", err, places[w.op])
	}
}

// disk looks at what is left, and goes on from there.
func (f *faultWalk) disk(t *testing.T, above string, w *walker) {
	t.Helper()
	if f.tree == nil {
		return
	}
	dir := filepath.Join(above, "out")
	committed := strings.HasPrefix(w.op, "Close")
	if _, err := os.Stat(dir); (err == nil) != committed && w.op != "progress" { // whose last call comes after the commit
		t.Errorf("the folder: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir+".partial", packed.ManifestName)); err == nil {
		t.Error("a manifest is left")
	}
	err := loadWalked(t.Context(), f.src, f.into(dir), &walker{}, f.io)
	if err != nil && (!committed && w.op != "progress" || !errors.Is(err, sinkfile.ErrAlreadyDone)) {
		t.Errorf("the next load: %v", err)
	}
	if got := ckpt.Tree(t, dir); !maps.Equal(got, f.tree) {
		t.Error("the next load makes another folder")
	}
}
