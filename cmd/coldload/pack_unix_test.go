//go:build unix

package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/synth"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/stages"
)

// checkpointOf writes a synthetic checkpoint.
func checkpointOf(t *testing.T, o synth.Options) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "checkpoint")
	if _, err := synth.Write(t.Context(), dir, o); err != nil {
		t.Fatal(err)
	}
	return dir
}

// differing names the files that are not the same in both.
func differing(a, b map[string]string) (names []string) {
	for name := range a {
		if a[name] != b[name] {
			names = append(names, name)
		}
	}
	for name := range b {
		if _, ok := a[name]; !ok {
			names = append(names, name)
		}
	}
	return names
}

// TestKilledPack kills pack at 20 random moments. The target never looks finished, and the next run makes the same folder as one that was
// not disturbed, from what the killed ones left.
func TestKilledPack(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	t.Parallel()
	src := checkpointOf(t, synth.Options{Model: "tiny-moe", Layers: 2})
	args := func(dir string) []string {
		return []string{"pack", src, dir, "--shard-size", "8MB", "--budget", "32MiB", "--json"}
	}
	undisturbed := filepath.Join(t.TempDir(), "packed")
	start := time.Now()
	if out, err := program(t, args(undisturbed)...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	took := time.Since(start)
	want := ckpt.Tree(t, undisturbed)

	rng := rand.New(rand.NewPCG(uint64(start.UnixNano()), 4))
	dir := filepath.Join(t.TempDir(), "packed")
	killed := 0
	for range 20 {
		cmd := program(t, args(dir)...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rng.Int64N(int64(took))))
		_ = cmd.Process.Kill()
		if _ = cmd.Wait(); cmd.ProcessState.ExitCode() < 0 {
			killed++
		}
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		// It was through: what is there is whole. Begin anew.
		if r := command(t, "verify", dir); r.code != exitDone {
			t.Fatalf("a folder that looks finished is not: %s%s", r.out, r.err)
		}
		if d := differing(ckpt.Tree(t, dir), want); len(d) > 0 {
			t.Errorf("%q differ", d)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	out, err := program(t, args(dir)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	o := result{out: string(out)}.object(t)
	if d := differing(ckpt.Tree(t, dir), want); len(d) > 0 {
		t.Errorf("%q differ after %d kills", d, killed)
	}
	entries, err := os.ReadDir(filepath.Dir(dir))
	if err != nil || len(entries) != 1 {
		t.Errorf("%v is left beside the folder, %v", entries, err)
	}
	if killed < 5 {
		t.Errorf("only %d of 20 runs were killed: the test does not see what it is for", killed)
	}
	t.Logf("%d runs of %v were killed; the last took over %v bytes", killed, took, o["resumed_bytes"])
}

// TestKilledLatePack: a run that is killed at about 70 % has little to read again.
func TestKilledLatePack(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	t.Parallel()
	src := checkpointOf(t, synth.Options{Model: "tiny-moe"})
	dir := filepath.Join(t.TempDir(), "packed")
	args := []string{"pack", src, dir, "--shard-size", "32MB", "--budget", "32MiB", "--workers", "1", "--json"}
	outputs := outputsOf(t, src)
	var total int64
	for i := range outputs {
		total += outputs[i].Size
	}
	cmd := program(t, args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// The journal names what is durable. It is up to a sixteenth behind what is written, and more is on its way: 70 % or so are made.
	for deadline := time.Now().Add(time.Minute); named(t, dir, outputs) < total*6/10; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) || cmd.ProcessState != nil {
			t.Fatal("the process did not come so far")
		}
		if _, err := os.Stat(dir); err == nil {
			t.Skip("it was through before it could be killed")
		}
	}
	_ = cmd.Process.Signal(syscall.SIGKILL)
	_ = cmd.Wait() // it was killed
	if _, err := os.Stat(dir); err == nil {
		t.Skip("it was through before it could be killed")
	}
	out, err := program(t, args...).Output()
	if err != nil {
		t.Fatal(err)
	}
	o := result{out: string(out)}.object(t)
	read, _ := o["bytes_read"].(float64)
	in, _ := o["bytes_in"].(float64)
	if read == 0 || read > 0.45*in {
		t.Errorf("%.0f of %.0f bytes were read again", read, in)
	}
	t.Logf("read %.1f %% again, %v bytes taken over", 100*read/in, o["resumed_bytes"])
	if r := command(t, "verify", dir, "--against", src); r.code != exitDone {
		t.Error(r.out, r.err)
	}
}

// named is how many bytes of Outputs the journal names.
func named(t *testing.T, dir string, outputs []stages.Output) (n int64) {
	t.Helper()
	text, err := os.ReadFile(dir + ".partial.journal")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		_, record, _ := strings.Cut(line, " ")
		var r struct {
			Slabs []struct {
				Output, First int
				Sums          string
			}
		}
		if json.Unmarshal([]byte(record), &r) != nil {
			break // it is being written
		}
		for _, s := range r.Slabs {
			for i := range len(s.Sums) / 64 {
				n += outputs[s.Output].Slab(s.Output, s.First+i).Len
			}
		}
	}
	return n
}

// outputsOf is what a pack makes, in its order.
func outputsOf(t *testing.T, path string) []stages.Output {
	t.Helper()
	ck, err := coldload.Open(t.Context(), path, coldload.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := ck.Plan(coldload.Options{Budget: 32 << 20}, nil)
	if err = errors.Join(err, ck.Close()); err != nil {
		t.Fatal(err)
	}
	return p.Outputs
}

// TestSecondPack: while one pack writes to a folder, a second is told so, and does not disturb it.
func TestSecondPack(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	t.Parallel()
	src := checkpointOf(t, synth.Options{Model: "tiny-moe", Layers: 4})
	dir := filepath.Join(t.TempDir(), "packed")
	first := program(t, "pack", src, dir, "--workers", "1")
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(dir + ".partial"); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the first did not begin")
		}
	}
	if err := first.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	second := command(t, "pack", src, dir)
	if err := first.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if second.code != exitUsage || !strings.Contains(second.err, "being written by another process") {
		t.Errorf("exit code %d, stderr %s", second.code, second.err)
	}
	if err := first.Wait(); err != nil {
		t.Errorf("the first: %v", err)
	}
	if r := command(t, "verify", dir); r.code != exitDone {
		t.Error(r.out, r.err)
	}
}

// TestInterruptedPack: Ctrl-C ends it with 130 and says what is kept.
func TestInterruptedPack(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	t.Parallel()
	src := checkpointOf(t, synth.Options{Model: "tiny-moe"})
	dir := filepath.Join(t.TempDir(), "packed")
	outputs := outputsOf(t, src)
	cmd := program(t, "pack", src, dir, "--workers", "1", "--budget", "32MiB")
	code, stderr := interrupt(t, cmd, syscall.SIGINT, func() bool { return named(t, dir, outputs) > 0 })
	if code != 130 || !strings.Contains(stderr, "stopped by a signal") || !strings.Contains(stderr, "the same command goes on from there") {
		t.Errorf("exit code %d, stderr %s", code, stderr)
	}
	if r := command(t, "load", dir+".partial"); r.code != exitRefused {
		t.Errorf("what is half done was loaded: %d, %s", r.code, r.err)
	}
	if r := command(t, "pack", src, dir, "--workers", "1", "--budget", "32MiB"); r.code != exitDone || !strings.Contains(r.out, "An earlier run had made") {
		t.Errorf("exit code %d, %s%s", r.code, r.out, r.err)
	}
}
