package main

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/coldload/coldload/internal/synth"
	"github.com/coldload/coldload/internal/synth/ckpt"
)

// slowfs is set by .ci/faults, which builds it.
var slowfs = flag.String("slowfs", "", "the program tools/slowfs: run the tests of what becomes of a load when the system says no")

// realFaults skips a test that needs more of the system than a plain run of the tests asks for.
func realFaults(t *testing.T) {
	t.Helper()
	if *slowfs == "" {
		t.Skip("needs root, FUSE and control groups: .ci/faults")
	}
}

// mount is a folder once more, where tools/slowfs lets things fail.
type mount struct {
	dir  string
	stop func() (changes int) // unmounts, and says how many changes there were
}

// mountSlow mounts folder with the flags of tools/slowfs until the end of the test.
func mountSlow(t *testing.T, folder string, flags ...string) *mount {
	t.Helper()
	var log bytes.Buffer
	dir := t.TempDir()
	cmd := exec.Command(*slowfs, append(flags, folder, dir)...)
	cmd.Stderr = &log
	pipe, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	out := bufio.NewReader(pipe)
	if line, err := out.ReadString('\n'); err != nil || line != "mounted\n" {
		t.Fatalf("no FUSE file system could be mounted: %q, %v; %s", line, err, &log)
	}
	m := &mount{dir: dir, stop: sync.OnceValue(func() (changes int) {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if _, err := fmt.Fscan(out, &changes); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("slowfs: %v, %s", err, &log)
		}
		return changes
	})}
	t.Cleanup(func() { m.stop() })
	return m
}

// mountTmpfs mounts a small file system in memory until the end of the test.
func mountTmpfs(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// mountLoop makes a file system of so many bytes in the file disk, and mounts it through a loop device until the end of the test.
func mountLoop(t *testing.T, disk string, bytes int64, mkfs ...string) string {
	t.Helper()
	dir := t.TempDir()
	if err := errors.Join(os.WriteFile(disk, nil, 0o600), os.Truncate(disk, bytes)); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{append(mkfs, disk), {"mount", "-o", "loop", disk, dir}} {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v: %s", args, err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

// limited makes a process run in a control group that may take so much memory.
func limited(t *testing.T, bytes int64, cmd *exec.Cmd) {
	t.Helper()
	group, limit := "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
	if _, err := os.Stat(group); err != nil {
		group, limit = "/sys/fs/cgroup", "memory.max"
	}
	group = filepath.Join(group, fmt.Sprintf("coldload-faults-%d-%d", os.Getpid(), bytes))
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Rmdir(group) }) // one that is left harms nobody
	if err := os.WriteFile(filepath.Join(group, limit), fmt.Append(nil, bytes), 0o600); err != nil {
		t.Fatal(err)
	}
	shell(t, cmd, `echo $$ >"$0/cgroup.procs" && exec "$@"`, group)
}

// shell makes a process begin with a script of bash, which is given $0 and the command line, and ends with exec "$@".
func shell(t *testing.T, cmd *exec.Cmd, script, zero string) {
	t.Helper()
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Path, cmd.Args = bash, append([]string{"bash", "-c", script, zero, cmd.Path}, cmd.Args[1:]...)
}

// ended is how a process ended.
type ended struct {
	result

	killed bool
}

// finish waits for a process, started or not.
func finish(t *testing.T, cmd *exec.Cmd) ended {
	t.Helper()
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // the exit code says it
	return ended{result{cmd.ProcessState.ExitCode(), out.String(), stderr.String()}, cmd.ProcessState.ExitCode() < 0}
}

// packing is a checkpoint that is packed again and again, and what must come of it.
type packing struct {
	src  string
	args []string
	want map[string]string
}

// newPacking packs a synthetic checkpoint once, undisturbed.
func newPacking(t *testing.T, o synth.Options, args ...string) *packing {
	t.Helper()
	p := &packing{src: checkpointOf(t, o), args: append(args, "--json")}
	dir := filepath.Join(t.TempDir(), "packed")
	if r := command(t, p.line(p.src, dir)...); r.code != exitDone {
		t.Fatal(r.out, r.err)
	}
	p.want = ckpt.Tree(t, dir)
	return p
}

// tiny and micro are the checkpoints of these tests: some hundred Batches, and a few.
func tiny(t *testing.T) *packing {
	t.Helper()
	return newPacking(t, synth.Options{Model: "tiny-moe", Layers: 1}, "--shard-size", "8MB", "--budget", "32MiB")
}

func micro(t *testing.T) *packing {
	t.Helper()
	return newPacking(t, synth.Options{Model: "micro", ShardSize: 200 << 10}, "--shard-size", "300KB", "--budget", "16MiB")
}

// line is the command line that packs src into dir.
func (p *packing) line(src, dir string) []string {
	return append([]string{"pack", src, dir}, p.args...)
}

// failed wants a process that has failed with the code, with all of says on stderr, and without a panic.
func (e ended) failed(t *testing.T, code int, says ...string) {
	t.Helper()
	if e.code != code || !containsEach(e.err, says) || strings.Contains(e.err+e.out, "goroutine ") {
		t.Errorf("exit code %d, want %d and all of %q; stderr %s", e.code, code, says, e.err)
	}
}

func containsEach(s string, parts []string) bool {
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}

// nothingLooksDone wants that after a failure dir is not there, that beside it is only what a later run goes on with, and that nobody takes
// that for a result, unless it is the whole of it.
func (p *packing) nothingLooksDone(t *testing.T, dir string) {
	t.Helper()
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is there: %v", dir, err)
	}
	partial := dir + ".partial"
	beside, err := filepath.Glob(dir + "?*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range beside {
		if path != partial && path != partial+".journal" {
			t.Errorf("%s is left", path)
		}
	}
	if _, err := os.Lstat(partial); err != nil || len(differing(ckpt.Tree(t, partial), p.want)) == 0 {
		return
	}
	if r := command(t, "load", partial, "--to", toDiscard); r.code != exitRefused {
		t.Errorf("what is half done was loaded: %d, %s%s", r.code, r.out, r.err)
	}
	if r := command(t, "verify", partial); r.code == exitDone {
		t.Errorf("what is half done was verified: %s", r.out)
	}
}

// goesOn packs into dir after whatever was: the result is the one of a run that nothing disturbed, and nothing else is left.
func (p *packing) goesOn(t *testing.T, dir string) {
	t.Helper()
	if r := command(t, p.line(p.src, dir)...); r.code != exitDone {
		t.Errorf("the next run: exit code %d, %s", r.code, r.err)
		return
	}
	p.whole(t, dir)
}

// whole wants the folder of a run that nothing disturbed, alone.
func (p *packing) whole(t *testing.T, dir string) {
	t.Helper()
	if d := differing(ckpt.Tree(t, dir), p.want); len(d) > 0 {
		t.Errorf("%q differ", d)
	}
	if beside, err := filepath.Glob(dir + "?*"); err != nil || len(beside) > 0 {
		t.Errorf("%q are left, %v", beside, err)
	}
}

// again packs into dir, where a complete folder may be.
func (p *packing) again(t *testing.T, dir string) {
	t.Helper()
	if r := command(t, p.line(p.src, dir)...); r.code != exitDone {
		t.Errorf("the next run: exit code %d, %s", r.code, r.err)
	}
	if d := differing(ckpt.Tree(t, dir), p.want); len(d) > 0 {
		t.Errorf("the next run: %q differ", d)
	}
}
