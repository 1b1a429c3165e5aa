package file

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/coldload/coldload/internal/synth/ckpt"
)

// tmpfs mounts a small file system.
func tmpfs(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("mounting needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestSmallDisk(t *testing.T) {
	above := tmpfs(t, "1m")
	outputs := append(work(), raw("big", 2<<20, 1<<20))
	s := New(options(filepath.Join(above, "out")))
	err := s.Begin(t.Context(), outputs)
	full, ok := errors.AsType[*SpaceError](err)
	if !ok || !errors.Is(err, syscall.ENOSPC) || full.Need < 2<<20 || full.Free > 1<<20 || !strings.Contains(err.Error(), "are free") {
		t.Errorf("got %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if left := ckpt.Tree(t, above); len(left) != 0 {
		t.Errorf("%d files are left", len(left))
	}
}

// TestDiskFillsUp: the space was there when it was looked at.
func TestDiskFillsUp(t *testing.T) {
	above := tmpfs(t, "1m")
	outputs := append(work(), raw("big", 700<<10, 64<<10))
	s := New(options(filepath.Join(above, "out")))
	s.disk.before = func(op, path string) error {
		if op == "create" && strings.Contains(path, "model-00001") {
			plant(t, above, map[string]string{"other": strings.Repeat("x", 500<<10)})
		}
		return nil
	}
	err := s.Begin(t.Context(), outputs)
	if _, ok := errors.AsType[*SpaceError](err); !ok || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if left := ckpt.Tree(t, above); len(left) != 1 {
		t.Errorf("%d files are left", len(left)-1)
	}
}

// TestOtherFilesCount: what the caller's files take is asked for at the beginning.
func TestOtherFilesCount(t *testing.T) {
	opt := options(filepath.Join(tmpfs(t, "1m"), "out"))
	opt.Files = append(opt.Files, text("tokenizer.json", strings.Repeat("x", 2<<20)))
	s := New(opt)
	err := s.Begin(t.Context(), work())
	if full, ok := errors.AsType[*SpaceError](err); !ok || full.Late || full.Need < 2<<20 {
		t.Errorf("got %v", err)
	}
	// And at the end, when they are larger than they were said to be.
	opt.Dir = filepath.Join(tmpfs(t, "1m"), "out")
	opt.Files[len(opt.Files)-1].Bytes = 1
	err = errors.Join(s.Close(), pack(t.Context(), New(opt), work()))
	if full, ok := errors.AsType[*SpaceError](err); !ok || !full.Late || full.Need <= full.Free {
		t.Errorf("got %v", err)
	}
}

// TestNoMoreFiles: a disk with free bytes that has no inodes is not said to lack bytes.
func TestNoMoreFiles(t *testing.T) {
	for inodes := 2; inodes < 12; inodes++ {
		s := New(options(filepath.Join(tmpfs(t, fmt.Sprintf("10m,nr_inodes=%d", inodes)), "out")))
		err := pack(t.Context(), s, work())
		if _, ok := errors.AsType[*SpaceError](err); ok || !errors.Is(err, syscall.ENOSPC) || strings.Contains(err.Error(), "are free") {
			t.Errorf("%d inodes: %v", inodes, err)
		}
	}
}

// TestResumeOnAFullDisk: what a partial folder holds is not asked for twice.
func TestResumeOnAFullDisk(t *testing.T) {
	above := tmpfs(t, "2m")
	outputs := append(work(), raw("big", 1200<<10, 64<<10))
	dir := filepath.Join(above, "out")
	partial(t, dir, outputs)
	s := New(options(dir))
	if err := pack(t.Context(), s, outputs); err != nil {
		t.Fatal(err)
	}
	if s.Resumed() == 0 {
		t.Error("nothing was resumed")
	}
	verified(t, dir)
}

func TestReadOnlyTarget(t *testing.T) {
	above := tmpfs(t, "1m")
	if err := unix.Mount("", above, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Skip(err)
	}
	for _, dir := range []string{"out", "not/there/out"} {
		err := refusal(t, options(filepath.Join(above, dir)), ErrTarget)
		if !errors.Is(err, syscall.EROFS) || !strings.Contains(err.Error(), "can be written to") {
			t.Errorf("got %v", err)
		}
	}
}

func TestMountPoint(t *testing.T) {
	dir := tmpfs(t, "1m")
	_ = refusal(t, options(dir), ErrTarget)
}
