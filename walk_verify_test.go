package coldload_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/leak"
	"github.com/coldload/coldload/internal/packed"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/sources/file"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/discover"
)

// verifyWalk is a walk through the verification of a packed folder.
type verifyWalk struct {
	dir    string // whose parent holds nothing else
	tree   map[string]string
	verify func(ctx context.Context, w *walker) ([]packed.Difference, error)
	panics bool
	all    bool // every operation, not a sample
	check  func(t *testing.T, w *walker, found []packed.Difference, err error)
}

// packedWalk packs src into several small shards with all digests.
func packedWalk(t *testing.T, src string) *verifyWalk {
	t.Helper()
	v := &verifyWalk{dir: filepath.Join(t.TempDir(), "packed")}
	if _, err := coldload.Pack(t.Context(), src, v.dir, coldload.Options{}, coldload.PackOptions{ShardSize: 300_000, PlainDigests: true}); err != nil {
		t.Fatal(err)
	}
	v.tree = ckpt.Tree(t, filepath.Dir(v.dir))
	return v
}

func (v *verifyWalk) run(t *testing.T, kinds int) {
	t.Helper()
	clean := &walker{panics: v.panics}
	if found, err := v.verify(t.Context(), clean); err != nil || len(found) > 0 {
		t.Fatal(err, found)
	}
	if len(clean.seen) != kinds {
		t.Errorf("kinds of operations: %v, want %d", clean.seen, kinds)
	}
	walkOver(t, clean, v.all, v.next)
}

// next lets one operation fail. What is verified stays as it is, and nothing comes beside it.
func (v *verifyWalk) next(t *testing.T, op string, at int) bool {
	t.Helper()
	before := leak.Now()
	w := &walker{op: op, at: at, panics: v.panics}
	found, err := v.verify(t.Context(), w)
	before.Check(t)
	switch {
	case w.met:
		v.check(t, w, found, err)
	case err != nil || len(found) > 0:
		t.Errorf("nothing failed: %v, %v", err, found)
	}
	if !maps.Equal(ckpt.Tree(t, filepath.Dir(v.dir)), v.tree) {
		t.Error("the folder is another")
	}
	return w.met
}

// walkVerify lets the verification fail that computes again: at its source, at a stage, and as it tells of its progress, where it is cancelled.
func walkVerify(t *testing.T, src string, panics bool) {
	t.Helper()
	for _, io := range []file.Mode{file.ModeMmap, file.ModePread} {
		t.Run(fmt.Sprintf("verify by %s, panics %v", io, panics), func(t *testing.T) {
			v := packedWalk(t, src)
			v.panics, v.all = panics, *wide
			v.verify = func(ctx context.Context, w *walker) ([]packed.Difference, error) {
				return verifyAgainst(ctx, v.dir, src, w, io)
			}
			v.check = func(t *testing.T, w *walker, found []packed.Difference, err error) {
				t.Helper()
				if len(found) > 0 {
					t.Errorf("differences that are not there: %v", found)
				}
				if late := w.op == "progress" && err == nil && !panics; !late { // it may be done as it is cancelled
					w.check(t, err)
				}
			}
			v.run(t, 6)
		})
	}
}

func verifyAgainst(ctx context.Context, dir, src string, w *walker, io file.Mode) ([]packed.Difference, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	opt := w.demandOptions()
	opt.Budget = 300 << 10
	opt.Source = func(shards []file.Shard) (stages.Source, error) {
		s, err := file.New(shards, file.Options{IO: io})
		if failed := w.step("open"); err == nil && failed != nil {
			return nil, errors.Join(failed, s.Close())
		}
		return walkedSource{s, w}, err
	}
	res, err := coldload.Verify(ctx, dir, coldload.VerifyOptions{Against: src, Load: opt, Workers: 2, Progress: func(int64, int64) {
		if err := w.step("progress"); err != nil {
			cancel(err)
		}
	}})
	return res.Differences, err
}

// walkedFolder lets files of a packed folder fail: as they are opened, because there are no more descriptors or the disk fails, or as they are read.
type walkedFolder struct {
	*discover.Checkpoint

	w *walker
}

func (f walkedFolder) Open(name string) (*os.File, error) {
	for op, cause := range map[string]error{"descriptors": syscall.EMFILE, "disk": syscall.EIO} {
		if f.w.step(op) != nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: cause}
		}
	}
	if f.w.step("read") != nil {
		return os.OpenFile(filepath.Join(f.Dir, name), os.O_WRONLY, 0) // as large as it should be, and no byte of it can be had
	}
	return f.Checkpoint.Open(name)
}

func (f walkedFolder) FS() (fs.FS, error) {
	if err := f.w.step("folder"); err != nil {
		return nil, err
	}
	return f.Checkpoint.FS()
}

// walkFolder lets the reading of the folder fail. What keeps it from looking is an error; what it cannot read is a difference of that file.
func walkFolder(t *testing.T, src string) {
	t.Helper()
	t.Run("verify, files", func(t *testing.T) {
		v := packedWalk(t, src)
		v.all = true
		v.verify = func(ctx context.Context, w *walker) (_ []packed.Difference, err error) {
			dir, err := discover.Locate(v.dir, discover.Options{})
			if err != nil {
				return nil, err
			}
			defer func() { err = errors.Join(err, dir.Close()) }()
			rep, err := packed.Verify(ctx, walkedFolder{dir, w}, packed.VerifyOptions{Workers: 1})
			if err != nil {
				return nil, err
			}
			return rep.Differences, nil
		}
		v.check = func(t *testing.T, w *walker, found []packed.Difference, err error) {
			t.Helper()
			switch w.op {
			case "folder":
				w.check(t, err)
			case "descriptors":
				if _, ok := errors.AsType[*fs.PathError](err); !ok || !errors.Is(err, syscall.EMFILE) {
					t.Errorf("error %v, want one with the file", err)
				}
			default:
				text := map[string]string{"disk": syscall.EIO.Error(), "read": syscall.EBADF.Error()}[w.op]
				if err != nil || len(found) == 0 || slices.ContainsFunc(found, func(d packed.Difference) bool { return !strings.Contains(d.Detail, text) }) {
					t.Errorf("%v %v, want differences with %q", err, found, text)
				}
			}
		}
		v.run(t, 4)
	})
}
