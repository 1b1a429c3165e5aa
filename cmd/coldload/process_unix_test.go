//go:build unix

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/coldload/coldload/internal/synth"
	"github.com/coldload/coldload/safetensors"
)

// sparse is a checkpoint of n tensors of the given size that takes no disk.
func sparse(t *testing.T, n, shards int, bytesEach int64) string {
	t.Helper()
	specs := make([]synth.Spec, n)
	for i := range specs {
		specs[i] = synth.Spec{Name: fmt.Sprintf("model.layers.%d.mlp.some_experts.%d.some_proj.weight", i/1000, i%1000), DType: safetensors.BF16, Shape: []int64{bytesEach / 2}}
	}
	dir := filepath.Join(t.TempDir(), "sparse")
	if _, err := synth.WriteSparse(t.Context(), dir, specs, shards, nil); err != nil {
		t.Fatal(err)
	}
	return dir
}

// interrupt starts a process, waits until it is at work, and signals it.
func interrupt(t *testing.T, cmd *exec.Cmd, sig syscall.Signal, atWork func() bool) (code int, stderr string) {
	t.Helper()
	var err bytes.Buffer
	cmd.Stderr = &err
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); !atWork(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the process did not begin")
		}
	}
	if err := cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // the exit code says it
	return cmd.ProcessState.ExitCode(), err.String()
}

func TestInterruptedSynth(t *testing.T) {
	t.Parallel()
	for sig, want := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143} {
		temp := t.TempDir()
		cmd := program(t, "synth", filepath.Join(temp, "ck"), "--model", "qwen3-235b-a22b", "--layers", "2")
		code, stderr := interrupt(t, cmd, sig, func() bool {
			files, err := filepath.Glob(filepath.Join(temp, "ck", "*"))
			return err == nil && len(files) > 0
		})
		if code != want || !strings.HasPrefix(stderr, "coldload: ") || !strings.Contains(stderr, "stopped by a signal") {
			t.Errorf("exit code %d, want %d; stderr %q", code, want, stderr)
		}
		wantEmpty(t, temp)
	}
}

func TestInterruptedLoad(t *testing.T) {
	t.Parallel()
	dir := sparse(t, 200, 1, 256<<20)
	cmd := program(t, "load", dir, "--to", "discard", "--io", "pread", "--workers", "1", "--json")
	var out bytes.Buffer
	cmd.Stdout = &out
	code, stderr := interrupt(t, cmd, syscall.SIGINT, func() bool { return hasOpen(cmd.Process.Pid, dir) })
	if code != 130 || !strings.Contains(stderr, "stopped by a signal (interrupt)") {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	if o := (result{out: out.String()}).object(t); o["error"] == nil || o["faults"] == nil {
		t.Error(o)
	}
}

// Ctrl-C: what was done until then is sent all the same.
func TestInterruptedLoadIsExported(t *testing.T) {
	t.Parallel()
	r := newReceiver(t, "")
	dir := sparse(t, 200, 1, 256<<20)
	cmd, _, _ := exporting(t, []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + r.URL}, "load", dir, "--to", "discard", "--io", "pread", "--workers", "1")
	code, stderr := interrupt(t, cmd, syscall.SIGINT, func() bool { return hasOpen(cmd.Process.Pid, dir) })
	if code != 130 || strings.Contains(stderr, "telemetry") {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	r.end()
	roots := r.named("coldload.load")
	if len(roots) != 1 || roots[0].GetStatus().GetCode() != tracepb.Status_STATUS_CODE_ERROR || len(r.named("coldload.phase.discover")) != 1 {
		t.Errorf("roots %v", roots)
	}
}

// hasOpen tells whether a process has a file of the folder open. Where that cannot be seen, a second must do.
func hasOpen(pid int, dir string) bool {
	fds, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "fd", "*"))
	if err != nil || len(fds) == 0 {
		time.Sleep(time.Second)
		return true
	}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, dir) && strings.HasSuffix(to, ".safetensors") {
			return true
		}
	}
	return false
}

// A reader that has seen enough is no failure; a full disk is one.
func TestStdoutGone(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"plan", fixture(gptqFixture)}, {"plan", fixture(gptqFixture), "--json"}, {"load", fixture(gptqFixture)}, {"--help"}} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		cmd := program(t, args...)
		var stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = w, &stderr
		if err := cmd.Run(); err != nil || stderr.Len() > 0 {
			t.Errorf("%q: %v, stderr %q", args, err, &stderr)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("no /dev/full")
	}
	defer full.Close()
	cmd := program(t, "plan", fixture(gptqFixture))
	cmd.Stdout = full
	if _ = cmd.Run(); cmd.ProcessState.ExitCode() != exitFailed {
		t.Errorf("a full stdout: exit code %d", cmd.ProcessState.ExitCode())
	}
}

// peakOfMany runs a command over half a million tensors, which must stay within the memory that the design promises.
func peakOfMany(t *testing.T, args func(checkpoint string) []string) (o map[string]any) {
	t.Helper()
	if testing.Short() || raceEnabled {
		t.Skip("takes seconds, and the race detector takes memory")
	}
	const tensors = 500_000
	cmd := program(t, append(args(sparse(t, tensors, 300, 512)), "--budget", "16MiB", "--json")...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	o = result{out: string(out)}.object(t)
	peak, _ := o["peak_anon_bytes"].(float64)
	if limit := float64(16<<20 + 64<<20 + 400*tensors); peak == 0 || peak > limit {
		t.Errorf("peak of %.0f bytes, want at most %.0f", peak, limit)
	}
	t.Logf("peak %.0f MB, %v s", peak/1e6, o["seconds"])
	return o
}

// Half a million tensors: planned and loaded.
func TestManyTensors(t *testing.T) {
	o := peakOfMany(t, func(src string) []string { return []string{"load", src, "--to", "discard"} })
	if seconds, _ := o["seconds"].(float64); seconds > 20 {
		t.Errorf("took %.1f s", seconds)
	}
}

// Half a million tensors packed: the sink's share of the memory is small too.
func TestPackManyTensors(t *testing.T) {
	peakOfMany(t, func(src string) []string { return []string{"pack", src, filepath.Join(t.TempDir(), "out")} })
}
