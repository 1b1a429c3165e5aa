package file

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/coldload/coldload/internal/synth/ckpt"
)

// refusal begins a load, which must fail with want and leave the folder above dir as it is.
func refusal(t *testing.T, opt Options, want error) error {
	t.Helper()
	above := filepath.Dir(opt.Dir)
	before := treeIf(t, above)
	s := New(opt)
	err := s.Begin(t.Context(), work())
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := same(treeIf(t, above), before); err != nil {
		t.Fatal(err)
	}
	return err
}

func TestTarget(t *testing.T) {
	outputs := work()
	want := undisturbed(t, outputs)
	old := map[string]string{"notes.txt": "mine"}
	fresh := func(t *testing.T) string {
		t.Helper()
		return filepath.Join(t.TempDir(), "out")
	}

	t.Run("empty folder", func(t *testing.T) {
		dir := fresh(t)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		resume(t, options(dir), outputs, want)
	})
	t.Run("link to an empty folder", func(t *testing.T) {
		dir := fresh(t)
		if err := errors.Join(os.Mkdir(dir+"-real", 0o755), os.Symlink("out-real", dir)); err != nil {
			t.Fatal(err)
		}
		if err := pack(t.Context(), New(options(dir)), outputs); err != nil {
			t.Fatal(err)
		}
		if err := same(ckpt.Tree(t, dir+"-real"), want); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("complete", func(t *testing.T) {
		dir := fresh(t)
		resume(t, options(dir), outputs, want)
		_ = refusal(t, options(dir), ErrAlreadyDone)
		other := options(dir)
		other.Key = []byte(`{"bits":8}`)
		_ = refusal(t, other, ErrTargetExists)
		damaged := options(dir)
		if err := os.Remove(filepath.Join(dir, "config.json")); err != nil {
			t.Fatal(err)
		}
		_ = refusal(t, damaged, ErrTargetExists)
		damaged.Overwrite = true
		resume(t, damaged, outputs, want)
		resume(t, damaged, outputs, want) // packs again although it is complete
	})
	t.Run("complete, with what a killed run left", func(t *testing.T) {
		dir := fresh(t)
		plant(t, dir, old)
		opt := options(dir)
		opt.Overwrite = true
		s := New(opt)
		s.disk.before = func(op, path string) error {
			if op == "removeall" && path == dir+".coldload-old" {
				return errCrash
			}
			return nil
		}
		if err := pack(t.Context(), s, outputs); err != nil {
			t.Fatal(err)
		}
		if err := same(ckpt.Tree(t, dir+".coldload-old"), old); err != nil {
			t.Fatal(err)
		}
		s = New(options(dir))
		if err := s.Begin(t.Context(), outputs); !errors.Is(err, ErrAlreadyDone) {
			t.Fatal(err)
		}
		alone(t, dir)
	})
	t.Run("something else", func(t *testing.T) {
		dir := fresh(t)
		plant(t, dir, old)
		err := refusal(t, options(dir), ErrTargetExists)
		if !errors.Is(err, ErrTarget) || !strings.Contains(err.Error(), dir) {
			t.Error(err)
		}
		opt := options(dir)
		opt.Overwrite = true
		s := New(opt)
		if err := s.Begin(t.Context(), outputs); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil { // nothing happens to it before the end
			t.Fatal(err)
		}
		if err := same(ckpt.Tree(t, dir), old); err != nil {
			t.Error(err)
		}
		resume(t, opt, outputs, want)
	})
	t.Run("a file", func(t *testing.T) {
		dir := fresh(t)
		plant(t, filepath.Dir(dir), map[string]string{"out": "x"})
		opt := options(dir)
		opt.Overwrite = true
		_ = refusal(t, opt, ErrTargetExists)
	})
	t.Run("a partial folder of somebody else", func(t *testing.T) {
		dir := fresh(t)
		plant(t, dir+".partial", old)
		_ = refusal(t, options(dir), ErrTargetExists)
	})
	t.Run("another key", func(t *testing.T) {
		dir := fresh(t)
		partial(t, dir, outputs)
		plant(t, dir+".partial", old)
		opt := options(dir)
		opt.Key = []byte(`{"bits":8}`)
		var notes []string
		opt.Note = func(text string) { notes = append(notes, text) }
		s := New(opt)
		if err := pack(t.Context(), s, outputs); err != nil {
			t.Fatal(err)
		}
		if s.Resumed() != 0 || len(notes) != 1 || !strings.Contains(notes[0], "starting afresh") {
			t.Errorf("%d bytes resumed, notes %q", s.Resumed(), notes)
		}
		alone(t, dir)
		if err := same(ckpt.Tree(t, dir), want); err == nil {
			t.Error("the key is not in the manifest")
		}
	})
	t.Run("what does not belong there", func(t *testing.T) {
		dir := fresh(t)
		partial(t, dir, outputs)
		plant(t, dir+".partial", old)
		resume(t, options(dir), outputs, want)
	})
	t.Run("locked", func(t *testing.T) {
		dir := fresh(t)
		s := New(options(dir))
		if err := s.Begin(t.Context(), outputs); err != nil {
			t.Fatal(err)
		}
		err := refusal(t, options(dir), ErrLocked)
		if !errors.Is(err, ErrTarget) {
			t.Error(err)
		}
		opt := options(dir)
		opt.Overwrite, opt.Key = true, []byte(`1`)
		_ = refusal(t, opt, ErrLocked)
		for _, slab := range slabsOf(outputs) {
			if err := pass(t.Context(), s, slab); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(s.Commit(t.Context()), s.Close()); err != nil {
			t.Fatal(err)
		}
		if err := same(ckpt.Tree(t, dir), want); err != nil {
			t.Error(err)
		}
	})
}

// TestLockOfARemovedFile: who waits for a lock whose file is removed meanwhile does not get in beside the next one.
func TestLockOfARemovedFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	a, err := resolve(&disk{}, dir, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.acquire(); err != nil {
		t.Fatal(err)
	}
	late, err := os.OpenFile(a.state, os.O_RDWR, 0) // opened before, locked after
	if err != nil {
		t.Fatal(err)
	}
	if err := a.forget(); err != nil {
		t.Fatal(err)
	}
	b, _ := resolve(&disk{}, dir, false, nil)
	if err := b.acquire(); err != nil {
		t.Fatal(err)
	}
	if ok, err := lock(late); !ok || err != nil {
		t.Fatalf("%v %v: the test is wrong", ok, err)
	}
	c, _ := resolve(&disk{}, dir, false, nil)
	if err := c.acquire(); !errors.Is(err, ErrLocked) {
		t.Errorf("got %v", err)
	}
	if err := errors.Join(late.Close(), b.forget()); err != nil {
		t.Fatal(err)
	}
}

// TestNoFileCanBeMade is a folder in which making a file says that there is none: the folder is refused, and nobody waits for the file.
func TestNoFileCanBeMade(t *testing.T) {
	const above = "/proc/self"
	if _, err := os.Stat(above); err != nil {
		t.Skip(err)
	}
	tg, err := resolve(&disk{}, above+"/out", false, nil)
	if err == nil {
		err = tg.acquire()
	}
	if !errors.Is(err, ErrTarget) {
		t.Errorf("got %v", err)
	}
}

// TestDiskFullWhileWriting is a disk that could not be allocated beforehand. It has room for what is missing, so no figures are given: they
// would not be why.
func TestDiskFullWhileWriting(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	s := New(options(dir))
	s.disk.before = func(op, _ string) error {
		if op == "write" && s.state == begun {
			return syscall.ENOSPC
		}
		return nil
	}
	err := pack(t.Context(), s, work())
	if _, ok := errors.AsType[*SpaceError](err); ok || !errors.Is(err, syscall.ENOSPC) || strings.Contains(err.Error(), "are free") {
		t.Errorf("got %v", err)
	}
	if len(ckpt.Tree(t, filepath.Dir(dir))) != 0 {
		t.Error("something is left")
	}
}

// treeIf is tree of a folder that may be absent.
func treeIf(tb testing.TB, dir string) map[string]string {
	tb.Helper()
	if _, err := os.Stat(dir); err != nil {
		return nil
	}
	return ckpt.Tree(tb, dir)
}
