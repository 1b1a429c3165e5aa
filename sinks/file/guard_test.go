//go:build unix

package file

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/coldload/coldload/internal/packed"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/stages"
)

// half begins a load and writes half of the Slabs.
func half(tb testing.TB, s *Sink, outputs []stages.Output) (rest []stages.Slab) {
	tb.Helper()
	if err := s.Begin(tb.Context(), outputs); err != nil {
		tb.Fatal(err)
	}
	slabs := slabsOf(outputs)
	for _, slab := range slabs[:len(slabs)/2] {
		if err := pass(tb.Context(), s, slab); err != nil {
			tb.Fatal(err)
		}
	}
	return slabs[len(slabs)/2:]
}

func finish(s *Sink, rest []stages.Slab) error {
	ctx := context.Background()
	for _, slab := range rest {
		if err := pass(ctx, s, slab); err != nil {
			return errors.Join(err, s.Close())
		}
	}
	return errors.Join(s.Commit(ctx), s.Close())
}

// TestAsideOfSomebody: a folder that has the name OUT.coldload-old and was not put there by a sink stays as it is, whatever happens.
func TestAsideOfSomebody(t *testing.T) {
	outputs := work()
	want := undisturbed(t, outputs)
	mine := map[string]string{"thesis.tex": "the only copy"}
	old := map[string]string{"config.json": "old"}
	for name, c := range map[string]struct {
		prepare   func(t *testing.T, dir string)
		overwrite bool
		refused   bool
	}{
		"nothing at the target":       {func(*testing.T, string) {}, false, false},
		"an empty folder":             {func(t *testing.T, dir string) { t.Helper(); plant(t, dir, map[string]string{}); mkdir(t, dir) }, true, false},
		"complete":                    {func(t *testing.T, dir string) { t.Helper(); resume0(t, dir, outputs) }, false, false},
		"complete, a torn journal":    {func(t *testing.T, dir string) { t.Helper(); resume0(t, dir, outputs); journal0(t, dir, "") }, false, false},
		"complete, a foreign journal": {func(t *testing.T, dir string) { t.Helper(); resume0(t, dir, outputs); journal0(t, dir, "my journal") }, false, false},
		"something else":              {func(t *testing.T, dir string) { t.Helper(); plant(t, dir, old) }, false, true},
		"to be replaced":              {func(t *testing.T, dir string) { t.Helper(); plant(t, dir, old) }, true, true},
		"to be replaced, complete":    {func(t *testing.T, dir string) { t.Helper(); resume0(t, dir, outputs) }, true, true},
		"to be replaced, and partial": {func(t *testing.T, dir string) { t.Helper(); partial(t, dir, outputs); plant(t, dir, old) }, true, true},
		"partial":                     {func(t *testing.T, dir string) { t.Helper(); partial(t, dir, outputs) }, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "out")
			c.prepare(t, dir)
			plant(t, dir+".coldload-old", mine)
			before := ckpt.Tree(t, filepath.Dir(dir))
			opt := options(dir)
			opt.Overwrite = c.overwrite
			err := pack(t.Context(), New(opt), outputs)
			if err := same(ckpt.Tree(t, dir+".coldload-old"), mine); err != nil {
				t.Fatal("it was touched:", err)
			}
			if c.refused {
				if !errors.Is(err, ErrTargetExists) || c.overwrite && !strings.Contains(err.Error(), "move it away") {
					t.Errorf("got %v", err)
				}
				if err := same(ckpt.Tree(t, filepath.Dir(dir)), before); err != nil {
					t.Error(err)
				}
				return
			}
			if err != nil && !errors.Is(err, ErrAlreadyDone) {
				t.Fatal(err)
			}
			if err := same(ckpt.Tree(t, dir), want); err != nil {
				t.Error(err)
			}
		})
	}
	// It comes while the load runs.
	dir := filepath.Join(t.TempDir(), "out")
	plant(t, dir, old)
	opt := options(dir)
	opt.Overwrite = true
	s := New(opt)
	rest := half(t, s, outputs)
	plant(t, dir+".coldload-old", mine)
	if err := finish(s, rest); !errors.Is(err, ErrTargetExists) {
		t.Errorf("got %v", err)
	}
	if err := errors.Join(same(ckpt.Tree(t, dir), old), same(ckpt.Tree(t, dir+".coldload-old"), mine)); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(dir + ".coldload-old"); err != nil {
		t.Fatal(err)
	}
	if got := resume(t, opt, outputs, want); got != 21800 {
		t.Errorf("%d bytes resumed", got)
	}
}

func mkdir(tb testing.TB, dir string) {
	tb.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
}

func resume0(tb testing.TB, dir string, outputs []stages.Output) {
	tb.Helper()
	if err := pack(tb.Context(), New(options(dir)), outputs); err != nil {
		tb.Fatal(err)
	}
}

func journal0(tb testing.TB, dir, content string) {
	tb.Helper()
	plant(tb, filepath.Dir(dir), map[string]string{filepath.Base(dir) + JournalSuffix: content})
}

// TestAsideOfAnotherInode: the journal names the folder that was moved and not whatever has the name now.
func TestAsideOfAnotherInode(t *testing.T) {
	outputs := work()
	dir := filepath.Join(t.TempDir(), "out")
	plant(t, dir, map[string]string{"a": "old"})
	opt := options(dir)
	opt.Overwrite = true
	s := New(opt)
	s.disk.before = func(op, path string) error { // killed when the old folder is moved and the new one is not
		if op == "rename" && path == dir || op != "rename" && s.target != nil && s.target.journal != nil && s.target.journal.aside.Moved {
			return errCrash
		}
		return nil
	}
	if err := pack(t.Context(), s, outputs); !errors.Is(err, errCrash) {
		t.Fatal(err)
	}
	if err := os.Rename(dir+".coldload-old", dir+"-kept"); err != nil {
		t.Fatal(err)
	}
	mine := map[string]string{"thesis.tex": "the only copy"}
	plant(t, dir+".coldload-old", mine)
	if err := pack(t.Context(), New(options(dir)), outputs); err != nil && !errors.Is(err, ErrAlreadyDone) {
		t.Fatal(err)
	}
	if err := same(ckpt.Tree(t, dir+".coldload-old"), mine); err != nil {
		t.Error(err)
	}
	verified(t, dir)
}

// TestProtectedNames: no name that the sink needs may be something that is read, or hold it.
func TestProtectedNames(t *testing.T) {
	for _, suffix := range []string{"", ".partial", ".partial.journal", ".coldload-old"} {
		for _, below := range []string{"", "a/b/model.safetensors"} {
			above := t.TempDir()
			dir := filepath.Join(above, "out")
			source := filepath.Join(dir+suffix, filepath.FromSlash(below))
			plant(t, filepath.Join(dir+suffix), map[string]string{"a/b/model.safetensors": "weights"})
			link := filepath.Join(t.TempDir(), "link")
			if err := os.Symlink(source, link); err != nil {
				t.Fatal(err)
			}
			for _, protect := range []string{source, link} {
				opt := options(dir)
				opt.Overwrite, opt.Protect = true, []string{filepath.Join(above, "elsewhere"), protect}
				err := refusal(t, opt, ErrTarget)
				if !strings.Contains(err.Error(), "which is read") || !strings.Contains(err.Error(), "choose another folder") {
					t.Errorf("%s holds %s: %v", suffix, below, err)
				}
				if err := Precheck(dir, true, opt.Protect); !errors.Is(err, ErrTarget) {
					t.Errorf("%s holds %s: Precheck: %v", suffix, below, err)
				}
			}
		}
	}
}

// TestTargetAppears: what comes to the target while the load runs is not replaced unless that was asked for.
func TestTargetAppears(t *testing.T) {
	outputs := work()
	want := undisturbed(t, outputs)
	mine := map[string]string{"notes.txt": "mine"}
	for _, emptyBefore := range []bool{false, true} {
		dir := filepath.Join(t.TempDir(), "out")
		if emptyBefore {
			mkdir(t, dir)
		}
		s := New(options(dir))
		rest := half(t, s, outputs)
		plant(t, dir, mine)
		err := finish(s, rest)
		if !errors.Is(err, ErrTargetExists) || !errors.Is(err, ErrTarget) {
			t.Errorf("got %v", err)
		}
		if err := same(ckpt.Tree(t, dir), mine); err != nil {
			t.Fatal("it was touched:", err)
		}
		if s.Kept() != 21800 {
			t.Errorf("%d bytes are kept", s.Kept())
		}
		if _, err := os.Stat(filepath.Join(dir+".partial", packed.ManifestName)); err == nil {
			t.Error("a manifest is left")
		}
		_ = refusal(t, options(dir), ErrTargetExists) // and this keeps it too
		opt := options(dir)
		opt.Overwrite = true
		if got := resume(t, opt, outputs, want); got != 21800 {
			t.Errorf("%d bytes resumed", got)
		}
	}
	for name, appear := range map[string]func(dir string) error{
		"a file": func(dir string) error { return os.WriteFile(dir, []byte("x"), 0o600) },
		"a link": func(dir string) error { return os.Symlink(t.TempDir(), dir) },
	} {
		dir := filepath.Join(t.TempDir(), "out")
		opt := options(dir)
		opt.Overwrite = true
		s := New(opt)
		rest := half(t, s, outputs)
		if err := appear(dir); err != nil {
			t.Fatal(err)
		}
		if err := finish(s, rest); !errors.Is(err, ErrTargetExists) {
			t.Errorf("%s: %v", name, err)
		}
		if err := os.Remove(dir); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestForeignJournal: what has the journal's name and is none is not touched, nor what it leads to.
func TestForeignJournal(t *testing.T) {
	for name, put := range map[string]func(path, victim string) error{
		"a file":          func(path, _ string) error { return os.WriteFile(path, []byte("my diary\nof two lines\n"), 0o600) },
		"one long line":   func(path, _ string) error { return os.WriteFile(path, []byte(strings.Repeat("x", 5<<20)), 0o600) },
		"a link":          func(path, victim string) error { return os.Symlink(victim, path) },
		"a dangling link": func(path, victim string) error { return os.Symlink(victim+"-gone", path) },
		"a folder":        func(path, _ string) error { return os.Mkdir(path, 0o755) },
		"a pipe":          func(path, _ string) error { return syscall.Mkfifo(path, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			above := t.TempDir()
			dir, victim := filepath.Join(above, "out"), filepath.Join(above, "victim")
			plant(t, above, map[string]string{"victim": "precious"})
			if err := put(dir+JournalSuffix, victim); err != nil {
				t.Fatal(err)
			}
			before, err := os.Lstat(dir + JournalSuffix)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				s := New(options(dir))
				err := s.Begin(t.Context(), work())
				if !errors.Is(err, ErrTargetExists) || !errors.Is(err, ErrTarget) || !strings.Contains(err.Error(), "move it away") {
					t.Errorf("got %v", err)
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
			after, err := os.Lstat(dir + JournalSuffix)
			if err != nil || after.Mode() != before.Mode() || after.Size() != before.Size() || !after.ModTime().Equal(before.ModTime()) {
				t.Errorf("it was touched: %v", err)
			}
			if b, err := os.ReadFile(victim); err != nil || string(b) != "precious" {
				t.Errorf("what it leads to was touched: %q, %v", b, err)
			}
			if _, err := os.Lstat(victim + "-gone"); err == nil {
				t.Error("what it leads to was made")
			}
		})
	}
}

// TestForeignPartial: OUT.partial is a folder of its own, or refused.
func TestForeignPartial(t *testing.T) {
	for name, put := range map[string]func(path, victim string) error{
		"a link": func(path, victim string) error { return os.Symlink(victim, path) },
		"a file": func(path, _ string) error { return os.WriteFile(path, []byte("x"), 0o600) },
	} {
		above := t.TempDir()
		dir, victim := filepath.Join(above, "out"), filepath.Join(above, "victim")
		mkdir(t, victim)
		if err := put(dir+".partial", victim); err != nil {
			t.Fatal(err)
		}
		s := New(options(dir))
		if err := s.Begin(t.Context(), work()); !errors.Is(err, ErrTargetExists) {
			t.Errorf("%s: %v", name, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if len(ckpt.Tree(t, victim)) > 0 {
			t.Errorf("%s: something was written behind it", name)
		}
	}
}

// TestJournalThatSaysNothing: the text is true, whoever made the folder.
func TestJournalThatSaysNothing(t *testing.T) {
	outputs := work()
	for name, c := range map[string]struct {
		journal  func(line string) string
		contains string
	}{
		"none":  {nil, "no journal is beside it"},
		"empty": {func(string) string { return "" }, "does not say what it is"},
		"zeros": {func(line string) string { return strings.Repeat("\x00", len(line)) }, "does not say what it is"},
		"torn":  {func(line string) string { return line[:len(line)-9] }, "does not say what it is"},
	} {
		dir := filepath.Join(t.TempDir(), "out")
		partial(t, dir, outputs)
		text, err := os.ReadFile(dir + JournalSuffix)
		if err != nil {
			t.Fatal(err)
		}
		line, _, _ := strings.Cut(string(text), "\n")
		if err := os.Remove(dir + JournalSuffix); err != nil {
			t.Fatal(err)
		}
		if c.journal != nil {
			journal0(t, dir, c.journal(line))
		}
		err = refusal(t, options(dir), ErrTargetExists)
		if !strings.Contains(err.Error(), c.contains) || strings.Contains(err.Error(), "not made by coldload") {
			t.Errorf("%s: %v", name, err)
		}
		// Alone it is of no consequence.
		if err := os.RemoveAll(dir + ".partial"); err != nil {
			t.Fatal(err)
		}
		if err := pack(t.Context(), New(options(dir)), outputs); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		alone(t, dir)
	}
}

// TestFailedCleanUp: a folder that could not be removed keeps the journal that says whose it is.
func TestFailedCleanUp(t *testing.T) {
	outputs := work()
	want := undisturbed(t, outputs)
	dir := filepath.Join(t.TempDir(), "out")
	s := New(options(dir))
	s.disk.before = func(op, path string) error {
		if op == "removeall" && path == dir+".partial" {
			return syscall.EBUSY
		}
		return nil
	}
	if err := s.Begin(t.Context(), outputs); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(dir + ".partial"); err != nil {
		t.Fatal(err)
	}
	_ = resume(t, options(dir), outputs, want) // not refused as somebody's
}

// TestRefusedRunKeepsPartial: a run that is refused does not throw away what another one has left.
func TestRefusedRunKeepsPartial(t *testing.T) {
	outputs := work()
	want := undisturbed(t, outputs)
	dir := filepath.Join(t.TempDir(), "out")
	partial(t, dir, outputs)
	plant(t, dir, map[string]string{"a": "b"})
	_ = refusal(t, options(dir), ErrTargetExists)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	// Nor does one that fails before it has read the journal.
	s := New(options(dir))
	s.disk.before = func(op, _ string) error {
		if op == "removeall" {
			return syscall.EIO
		}
		return nil
	}
	plant(t, dir+".partial", map[string]string{"x": "y"})
	if err := errors.Join(s.Begin(t.Context(), outputs), s.Close()); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	if resume(t, options(dir), outputs, want) == 0 {
		t.Error("nothing is left")
	}
	// A complete folder beside the partial one of other work.
	partial(t, dir+"2", outputs)
	for _, suffix := range []string{".partial", JournalSuffix} {
		if err := os.Rename(dir+"2"+suffix, dir+suffix); err != nil {
			t.Fatal(err)
		}
	}
	s = New(options(dir))
	if err := s.Begin(t.Context(), outputs); !errors.Is(err, ErrAlreadyDone) {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir + JournalSuffix); err != nil {
		t.Error("the partial folder has no journal any more")
	}
}

// TestCurrentFolder: a shell does not find itself in a folder that is gone.
func TestCurrentFolder(t *testing.T) {
	above := t.TempDir()
	dir := filepath.Join(above, "out")
	mkdir(t, filepath.Join(dir, "below"))
	for _, at := range []string{dir, filepath.Join(dir, "below")} {
		t.Chdir(at)
		for _, name := range []string{dir, "."} {
			if name == "." && at != dir {
				continue
			}
			opt := options(name)
			opt.Overwrite = true
			s := New(opt)
			err := s.Begin(t.Context(), work())
			if !errors.Is(err, ErrTarget) || !strings.Contains(err.Error(), "current folder") {
				t.Errorf("%s in %s: %v", name, at, err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	t.Chdir(above)
	opt := options("out")
	opt.Overwrite = true
	if err := pack(t.Context(), New(opt), work()); err != nil {
		t.Error(err)
	}
}

// TestModeIsKept: a folder that is private stays so, also while it is made.
func TestModeIsKept(t *testing.T) {
	outputs := work()
	for _, full := range []bool{false, true} {
		for _, mode := range []fs.FileMode{0o700, 0o770, 0o2750} {
			dir := filepath.Join(t.TempDir(), "out")
			mkdir(t, dir)
			if full {
				plant(t, dir, map[string]string{"a": "b"})
			}
			if err := syscall.Chmod(dir, uint32(mode)); err != nil {
				t.Fatal(err)
			}
			was, err := os.Stat(dir)
			if err != nil {
				t.Fatal(err)
			}
			opt := options(dir)
			opt.Overwrite = full
			s := New(opt)
			rest := half(t, s, outputs)
			if st, err := os.Stat(dir + ".partial"); err != nil || st.Mode() != was.Mode() {
				t.Errorf("while it is made: %v, want %v", st.Mode(), was.Mode())
			}
			if err := finish(s, rest); err != nil {
				t.Fatal(err)
			}
			if st, err := os.Stat(dir); err != nil || st.Mode() != was.Mode() {
				t.Errorf("it has %v, had %v", st.Mode(), was.Mode())
			}
		}
	}
}

// TestDamaged: a result with a file missing or cut is called what it is.
func TestDamaged(t *testing.T) {
	outputs := work()
	for name, harm := range map[string]func(dir string) error{
		"config.json is missing":                      func(dir string) error { return os.Remove(filepath.Join(dir, "config.json")) },
		"model-00002-of-00004.safetensors has 7 byte": func(dir string) error { return os.Truncate(filepath.Join(dir, "model-00002-of-00004.safetensors"), 7) },
		"source/quantize_config.json is not a regula": func(dir string) error {
			path := filepath.Join(dir, "source", "quantize_config.json")
			return errors.Join(os.Remove(path), os.Mkdir(path, 0o755))
		},
	} {
		dir := filepath.Join(t.TempDir(), "out")
		resume0(t, dir, outputs)
		if err := harm(dir); err != nil {
			t.Fatal(err)
		}
		err := refusal(t, options(dir), ErrTargetExists)
		for _, want := range []string{"it is this very result, but damaged", name, "say that it may be replaced"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%v: lacks %q", err, want)
			}
		}
	}
}

// TestPrecheck: it says what Begin will say, and touches nothing.
func TestPrecheck(t *testing.T) {
	above := t.TempDir()
	plant(t, above, map[string]string{"full/a": "b", "file": "x", "packed/" + packed.ManifestName: "{}", "old/a": "b", "old.coldload-old/c": "d"})
	mkdir(t, filepath.Join(above, "empty"))
	before := ckpt.Tree(t, above)
	for _, c := range []struct {
		dir       string
		overwrite bool
		want      error
	}{
		{"absent", false, nil},
		{"not/there/yet", false, nil},
		{"empty", false, nil},
		{"full", true, nil},
		{"packed", false, nil},
		{"full", false, ErrTargetExists},
		{"file", true, ErrTargetExists},
		{"file/below", true, ErrTarget},
		{"old", true, ErrTargetExists},
		{"", true, ErrTarget},
	} {
		dir := c.dir
		if dir != "" {
			dir = filepath.Join(above, dir)
		}
		if err := Precheck(dir, c.overwrite, []string{filepath.Join(above, "source")}); !errors.Is(err, c.want) {
			t.Errorf("%q: %v, want %v", c.dir, err, c.want)
		}
	}
	if err := same(ckpt.Tree(t, above), before); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(above); err != nil || len(entries) != 6 {
		t.Errorf("%v %v", entries, err)
	}
}

// TestNamesOfFiles: no name may be the folder of another one.
func TestNamesOfFiles(t *testing.T) {
	for _, names := range [][]string{
		{"source", "source/x.json"},
		{"source/x.json", "source"},
		{"a/b/c", "a"},
		{"model.safetensors.index.json/x"},
		{"coldload.json/x"},
		{"model-00001-of-00004.safetensors/x"},
	} {
		s := New(options(filepath.Join(t.TempDir(), "out")))
		s.opt.Files = nil
		for _, name := range names {
			s.opt.Files = append(s.opt.Files, text(name, ""))
		}
		if err := s.Begin(t.Context(), work()); err == nil {
			t.Errorf("%q is accepted", names)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
