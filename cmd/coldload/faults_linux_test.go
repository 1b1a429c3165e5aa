package main

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coldload/coldload/internal/synth"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/safetensors"
)

// ways are the ways to read.
var ways = []string{"auto", "mmap", "pread", "direct"}

// badByte is a byte in the middle of the largest tensor of the first shard, and the names of both.
func badByte(t *testing.T, src string) (shard, tensor string, offset int64) {
	t.Helper()
	shards, err := filepath.Glob(filepath.Join(src, "*.safetensors"))
	if err != nil || len(shards) == 0 {
		t.Fatal(shards, err)
	}
	f, err := safetensors.Open(shards[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, most := f.Header(), int64(0)
	for i := range h.Len() {
		if begin, end := h.Extent(i); end-begin > most {
			most, tensor, offset = end-begin, h.Name(i), h.DataOffset()+(begin+end)/2
		}
	}
	return filepath.Base(shards[0]), tensor, offset
}

// TestRealBadBlock: a byte of the checkpoint that the disk cannot read, met in every way of reading. The error names file, tensor and place.
func TestRealBadBlock(t *testing.T) {
	realFaults(t)
	p := tiny(t)
	shard, tensor, offset := badByte(t, p.src)
	m := mountSlow(t, p.src, "-bad", strconv.FormatInt(offset, 10))
	for _, io := range ways {
		t.Run(io, func(t *testing.T) {
			for _, to := range []string{toHost, toDiscard} {
				finish(t, program(t, "load", m.dir, "--to", to, "--io", io)).failed(t, exitFailed, shard, tensor, "cannot be read")
			}
			dir := filepath.Join(t.TempDir(), "out")
			finish(t, program(t, append(p.line(m.dir, dir), "--io", io)...)).failed(t, exitFailed, shard, "cannot be read")
			p.nothingLooksDone(t, dir)
		})
	}
	t.Run("in the header", func(t *testing.T) {
		m := mountSlow(t, p.src, "-bad", "8200")
		for _, cmd := range []string{"plan", "load"} {
			finish(t, program(t, cmd, m.dir)).failed(t, exitFailed, shard, "input/output error")
		}
	})
	t.Run("verify", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "out")
		p.goesOn(t, dir)
		shard, _, offset := badByte(t, dir)
		m := mountSlow(t, dir, "-bad", strconv.FormatInt(offset, 10))
		if e := finish(t, program(t, "verify", m.dir)); e.code != exitFailed && e.code != exitDifferent || !strings.Contains(e.out+e.err, shard) {
			t.Errorf("exit code %d, %s%s", e.code, e.out, e.err)
		}
	})
}

// TestRealShortReads: a file system that gives less than was asked for, and maps nothing, changes no byte.
func TestRealShortReads(t *testing.T) {
	realFaults(t)
	p := micro(t)
	m := mountSlow(t, p.src, "-short", "1000")
	for _, io := range []string{"auto", "pread", "direct"} {
		dir := filepath.Join(t.TempDir(), "out")
		if e := finish(t, program(t, append(p.line(m.dir, dir), "--io", io)...)); e.code != exitDone {
			t.Errorf("%s: exit code %d, %s", io, e.code, e.err)
		}
		if d := differing(shardsOf(ckpt.Tree(t, dir)), shardsOf(p.want)); len(d) > 0 {
			t.Errorf("%s: %q differ", io, d)
		}
	}
	finish(t, program(t, "load", m.dir, "--io", "mmap")).failed(t, exitFailed, ".safetensors", "map")
}

// shardsOf are the weights of a packed folder.
func shardsOf(tree map[string]string) map[string]string {
	shards := make(map[string]string)
	for name, data := range tree {
		if filepath.Ext(name) == ".safetensors" {
			shards[name] = data
		}
	}
	return shards
}

// TestRealFileChanges: somebody truncates or rewrites a shard below a file system that is far away, while it is read.
func TestRealFileChanges(t *testing.T) {
	realFaults(t)
	p := tiny(t)
	for name, change := range map[string]func(path string) error{
		"truncated": func(path string) error { return os.Truncate(path, 1<<20) },
		"emptied":   func(path string) error { return os.Truncate(path, 0) },
		"grown":     func(path string) error { return os.Truncate(path, 1<<30) },
	} {
		for _, io := range ways {
			t.Run(name+" by "+io, func(t *testing.T) {
				src := t.TempDir()
				if err := os.CopyFS(src, os.DirFS(p.src)); err != nil {
					t.Fatal(err)
				}
				shard, _, _ := badByte(t, src)
				m := mountSlow(t, src, "-latency", "8ms")
				dir := filepath.Join(t.TempDir(), "out")
				cmd := program(t, append(p.line(m.dir, dir), "--io", io, "--workers", "1")...)
				code, stderr := spoil(t, cmd, dir, func() error { return change(filepath.Join(src, shard)) })
				ended{result: result{code: code, err: stderr}}.failed(t, exitFailed, shard)
				p.nothingLooksDone(t, dir)
			})
		}
	}
}

// spoil starts a pack, and does something when it has begun to write.
func spoil(t *testing.T, cmd *exec.Cmd, dir string, do func() error) (code int, stderr string) {
	t.Helper()
	var err strings.Builder
	cmd.Stderr = &err
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the pack begins", func() bool {
		_, err := os.Stat(dir + ".partial")
		return err == nil
	})
	if err := do(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // the exit code says it
	return cmd.ProcessState.ExitCode(), err.String()
}

// TestRealChangeThatFails lets the first change that a pack makes to its disk fail, then the second, and so on until a pack succeeds; and the
// same with a disk on which nothing succeeds from there on. The error names the place; nothing looks done; the next run makes what a run makes
// that was not disturbed.
func TestRealChangeThatFails(t *testing.T) {
	realFaults(t)
	p := micro(t)
	for _, dead := range []bool{false, true} {
		harmless := 0
		for n := 1; ; n++ {
			flags := []string{"-fail", strconv.Itoa(n)}
			if dead {
				flags = append(flags, "-dead")
			}
			changes, done := p.failsAt(t, flags)
			if t.Failed() {
				t.Fatalf("change %d, dead %v", n, dead)
			}
			if changes < n {
				t.Logf("dead %v: %d changes failed, one at a time; %d of them do not matter for the result", dead, n-1, harmless)
				if n < 20 {
					t.Error("too few changes: the test does not see what it is for")
				}
				break
			}
			if done {
				harmless++
			}
		}
	}
}

// failsAt packs into a mount with the flags, and says how many changes there were and whether the pack was done in spite of one that failed.
func (p *packing) failsAt(t *testing.T, flags []string) (changes int, done bool) {
	t.Helper()
	above := t.TempDir()
	m := mountSlow(t, above, flags...)
	e := finish(t, program(t, p.line(p.src, filepath.Join(m.dir, "out"))...))
	changes = m.stop()
	dir := filepath.Join(above, "out") // seen from below: nothing fails there
	if e.code != exitDone && (e.code != exitFailed || !strings.Contains(e.err, "input/output error") || !strings.Contains(e.err, m.dir)) {
		t.Errorf("exit code %d, stderr %s", e.code, e.err)
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		p.nothingLooksDone(t, dir)
	} else if d := differing(ckpt.Tree(t, dir), p.want); len(d) > 0 {
		t.Errorf("exit code %d, it looks done, and %q differ", e.code, d)
	}
	p.again(t, dir)
	return changes, e.code == exitDone
}

// TestRealFullDisk: disks too small from the beginning, and disks that others fill while the pack writes.
func TestRealFullDisk(t *testing.T) {
	realFaults(t)
	p := tiny(t)
	ext4 := []string{"mkfs.ext4", "-q"}
	t.Run("too small, tmpfs", func(t *testing.T) {
		dir := filepath.Join(mountTmpfs(t, "4m"), "out")
		finish(t, program(t, p.line(p.src, dir)...)).failed(t, exitUsage, "not enough space")
		p.nothingLooksDone(t, dir)
	})
	t.Run("too small, ext4", func(t *testing.T) {
		dir := filepath.Join(mountLoop(t, filepath.Join(t.TempDir(), "disk"), 8<<20, ext4...), "out")
		finish(t, program(t, p.line(p.src, dir)...)).failed(t, exitUsage, "not enough space")
		p.nothingLooksDone(t, dir)
	})
	// Without extents nothing can be allocated before it is written.
	t.Run("filled meanwhile", func(t *testing.T) {
		above := mountLoop(t, filepath.Join(t.TempDir(), "disk"), 512<<20, append(ext4, "-O", "^extent,^64bit,^metadata_csum")...)
		dir := filepath.Join(above, "out")
		cmd := program(t, append(p.line(p.src, dir), "--workers", "1")...)
		code, stderr := spoil(t, cmd, dir, func() error { return fill(filepath.Join(above, "others")) })
		if code == exitDone {
			t.Skip("it was through before the disk was full")
		}
		ended{result: result{code: code, err: stderr}}.failed(t, exitFailed, "space")
		p.nothingLooksDone(t, dir)
		if err := os.Remove(filepath.Join(above, "others")); err != nil {
			t.Fatal(err)
		}
		p.goesOn(t, dir)
	})
	// A disk that promised more than it has: its own file lies on a small file system.
	t.Run("thin", func(t *testing.T) {
		below := mountTmpfs(t, "16m")
		dir := filepath.Join(mountLoop(t, filepath.Join(below, "disk"), 512<<20, ext4...), "out")
		e := finish(t, program(t, p.line(p.src, dir)...))
		if e.code != exitFailed || !containsEach(e.err, []string{dir}) {
			t.Errorf("exit code %d, %s", e.code, e.err)
		}
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the target is there: %v", err)
		}
	})
}

// fill takes all the space that a file system has left.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	for size := 1 << 20; size >= 512; size /= 2 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}

// TestRealTargetGone: the target, or what is made of it, is removed or made read-only while it is written.
func TestRealTargetGone(t *testing.T) {
	realFaults(t)
	p := tiny(t)
	t.Run("read-only", func(t *testing.T) {
		above := mountTmpfs(t, "1m")
		if err := syscall.Mount("", above, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(above, "out")
		finish(t, program(t, p.line(p.src, dir)...)).failed(t, exitUsage, "read-only file system", dir)
		p.nothingLooksDone(t, dir)
	})
	for name, remove := range map[string]func(above, dir string) error{
		"partial removed": func(_, dir string) error { return removeBusy(dir + ".partial") },
		"all removed":     func(above, _ string) error { return removeBusy(above) },
		"partial replaced": func(_, dir string) error {
			return errors.Join(os.Rename(dir+".partial", dir+"-else"), os.Mkdir(dir+".partial", 0o700))
		},
	} {
		t.Run(name, func(t *testing.T) {
			above := filepath.Join(t.TempDir(), "above")
			if err := os.Mkdir(above, 0o700); err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(above, "out")
			m := mountSlow(t, p.src, "-latency", "20ms")
			code, stderr := spoil(t, program(t, append(p.line(m.dir, dir), "--workers", "1")...), dir, func() error { return remove(above, dir) })
			ended{result: result{code: code, err: stderr}}.failed(t, exitFailed, dir)
			if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the target is there: %v", err)
			}
		})
	}
}

// removeBusy removes a folder in which somebody makes files meanwhile.
func removeBusy(path string) (err error) {
	for range 100 {
		if err = os.RemoveAll(path); err == nil {
			return nil
		}
	}
	return err
}

// TestRealOutOfMemory: a process that the kernel kills for its memory leaves what a later run goes on with; one that is refused memory says so.
func TestRealOutOfMemory(t *testing.T) {
	realFaults(t)
	p := tiny(t)
	t.Run("killed", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "out")
		cmd := program(t, p.line(p.src, dir)...)
		limited(t, 28<<20, cmd)
		if e := finish(t, cmd); !e.killed {
			t.Fatalf("exit code %d, not killed: %s", e.code, e.err)
		}
		p.nothingLooksDone(t, dir)
		p.goesOn(t, dir)
	})
	t.Run("enough", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "out")
		cmd := program(t, p.line(p.src, dir)...)
		limited(t, (32+64)<<20, cmd) // what the design promises: the budget and 64 MiB
		if e := finish(t, cmd); e.code != exitDone {
			t.Fatalf("exit code %d: %s", e.code, e.err)
		}
		p.whole(t, dir)
	})
	t.Run("refused", func(t *testing.T) {
		big := checkpointOf(t, synth.Options{Model: "qwen3-235b-a22b", Layers: 2, Sparse: true})
		cmd := program(t, "load", big, "--to", toHost)
		shell(t, cmd, `ulimit -v "$0" && exec "$@"`, strconv.Itoa(3<<20)) // KiB
		finish(t, cmd).failed(t, exitFailed, "cannot allocate memory")
	})
	t.Run("file too large", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "out")
		cmd := program(t, p.line(p.src, dir)...)
		shell(t, cmd, `ulimit -f "$0" && exec "$@"`, "4000") // KiB
		finish(t, cmd).failed(t, exitFailed, "file too large", dir)
		p.nothingLooksDone(t, dir)
		p.goesOn(t, dir)
	})
	t.Run("few descriptors", func(t *testing.T) {
		src := sparse(t, 300, 100, 4096)
		cmd := program(t, "load", src, "--to", toDiscard)
		shell(t, cmd, `ulimit -n "$0" && exec "$@"`, "40")
		finish(t, cmd).failed(t, exitFailed, "too many open files", ".safetensors")
	})
}

// TestRealSignals stops packs and loads by a signal at any moment, also more than once. A signal that comes in time is told by the exit code.
func TestRealSignals(t *testing.T) {
	realFaults(t)
	p := tiny(t)
	m := mountSlow(t, p.src, "-latency", "2ms")
	rng := rand.New(rand.NewPCG(9, uint64(time.Now().UnixNano())))
	stopped := 0
	for i := range 40 {
		dir := filepath.Join(t.TempDir(), "out")
		sig := []syscall.Signal{syscall.SIGINT, syscall.SIGTERM}[i%2]
		args := append(p.line(m.dir, dir), "--workers", "2")
		if i%4 >= 2 {
			args = []string{"load", m.dir, "--to", toDiscard, "--workers", "2"}
		}
		cmd := program(t, args...)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i)*10*time.Millisecond + time.Duration(rng.Int64N(int64(10*time.Millisecond))))
		_ = cmd.Process.Signal(sig) // it may have ended
		_ = cmd.Wait()              // the exit code says it
		switch code := cmd.ProcessState.ExitCode(); code {
		case exitDone:
		case exitSignal + int(sig):
			stopped++
			if !strings.Contains(stderr.String(), "stopped by a signal") {
				t.Errorf("after %d: %s", i, &stderr)
			}
			p.nothingLooksDone(t, dir)
		case -1: // before the program asked for signals
			p.nothingLooksDone(t, dir)
		default:
			t.Errorf("after %d: exit code %d, %s", i, code, &stderr)
		}
		if i%8 == 0 {
			p.next(t, m.dir, dir)
		}
	}
	t.Logf("%d of 40 were stopped", stopped)
	if stopped < 10 {
		t.Error("too few: the test does not see what it is for")
	}
}

// next packs src into dir, which makes the same shards.
func (p *packing) next(t *testing.T, src, dir string) {
	t.Helper()
	if r := command(t, p.line(src, dir)...); r.code != exitDone {
		t.Errorf("the next run: exit code %d, %s", r.code, r.err)
	}
	if d := differing(shardsOf(ckpt.Tree(t, dir)), shardsOf(p.want)); len(d) > 0 {
		t.Errorf("the next run: %q differ", d)
	}
}

// TestRealClocks: a process whose clocks began elsewhere, one that was stopped for a while, and files from before and after all times.
func TestRealClocks(t *testing.T) {
	realFaults(t)
	p := micro(t)
	t.Run("offset", func(t *testing.T) {
		for _, offset := range []string{"--monotonic 1000000000 --boottime 1000000000", "--boottime 7"} {
			dir := filepath.Join(t.TempDir(), "out")
			cmd := program(t, p.line(p.src, dir)...)
			shell(t, cmd, `exec unshare --time `+offset+` "$@"`, "clock")
			if e := finish(t, cmd); e.code != exitDone {
				t.Fatalf("%s: exit code %d, %s", offset, e.code, e.err)
			}
			p.whole(t, dir)
		}
	})
	t.Run("stopped", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "out")
		m := mountSlow(t, p.src, "-latency", "20ms")
		cmd := program(t, append(p.line(m.dir, dir), "--workers", "1")...)
		code, stderr := spoil(t, cmd, dir, func() error {
			err := cmd.Process.Signal(syscall.SIGSTOP)
			time.Sleep(1500 * time.Millisecond)
			return errors.Join(err, cmd.Process.Signal(syscall.SIGCONT))
		})
		if code != exitDone {
			t.Errorf("exit code %d, %s", code, stderr)
		}
		if d := differing(shardsOf(ckpt.Tree(t, dir)), shardsOf(p.want)); len(d) > 0 {
			t.Errorf("%q differ", d)
		}
	})
	t.Run("files", func(t *testing.T) {
		for _, year := range []int{1903, 1970, 2100} {
			src := t.TempDir()
			if err := os.CopyFS(src, os.DirFS(p.src)); err != nil {
				t.Fatal(err)
			}
			for name := range shardsOf(ckpt.Tree(t, src)) {
				at := time.Date(year, 1, 1, 0, 0, 0, 1, time.UTC)
				if err := os.Chtimes(filepath.Join(src, name), at, at); err != nil {
					t.Fatal(err)
				}
			}
			dir := filepath.Join(t.TempDir(), "out")
			if e := finish(t, program(t, p.line(src, dir)...)); e.code != exitDone {
				t.Errorf("%d: exit code %d, %s", year, e.code, e.err)
			}
			p.whole(t, dir)
		}
	})
}

// TestRealStdout: a pack whose reader has gone is done all the same; one whose result cannot be told, because the disk of its stdout is full,
// has packed and fails.
func TestRealStdout(t *testing.T) {
	realFaults(t)
	p := micro(t)
	for script, want := range map[string]int{`"$@" | true; exit "${PIPESTATUS[0]}"`: exitDone, `exec "$@" >/dev/full`: exitFailed} {
		dir := filepath.Join(t.TempDir(), "out")
		cmd := program(t, p.line(p.src, dir)...)
		shell(t, cmd, script, "stdout")
		if e := finish(t, cmd); e.code != want {
			t.Errorf("%s: exit code %d, %s", script, e.code, e.err)
		}
		p.whole(t, dir)
	}
}

// TestRealKill kills packs from a far file system at random moments, until one is through.
func TestRealKill(t *testing.T) {
	realFaults(t)
	p := tiny(t)
	dir := filepath.Join(t.TempDir(), "out")
	rng := rand.New(rand.NewPCG(10, uint64(time.Now().UnixNano())))
	killed := 0
	for range 25 {
		cmd := program(t, p.line(p.src, dir)...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rng.Int64N(int64(400 * time.Millisecond))))
		_ = cmd.Process.Kill()
		if _ = cmd.Wait(); cmd.ProcessState.ExitCode() < 0 {
			killed++
		}
		if _, err := os.Stat(dir); err == nil {
			p.again(t, dir)
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			continue
		}
		p.nothingLooksDone(t, dir)
	}
	p.goesOn(t, dir)
	t.Logf("%d of 25 were killed", killed)
	if killed < 3 {
		t.Error("too few: the test does not see what it is for")
	}
}
