package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/coldload/coldload/internal/cpu"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

func TestExitCodes(t *testing.T) {
	t.Parallel()
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	gptq := fixture(gptqFixture)
	for _, c := range []struct {
		name string
		args []string
		code int
		says string // on stderr
	}{
		{"plan", []string{"plan", gptq}, exitDone, ""},
		{"load", []string{"load", gptq}, exitDone, ""},
		{"load and discard", []string{"load", gptq, "--to", "discard", "--dtype=bf16", "--budget", "1MiB", "--workers", "1", "--io", "pread"}, exitDone, ""},
		{"synth", []string{"synth", filepath.Join(t.TempDir(), "new"), "--model", "micro", "--format", "none"}, exitDone, ""},
		{"help", []string{"load", "--help"}, exitDone, ""},
		{"version", []string{"--version"}, exitDone, ""},

		{"bad bytes", []string{"load", broken(t)}, exitFailed, "scales"},

		{"nothing", nil, exitUsage, "a command is needed"},
		{"unknown command", []string{"lode"}, exitUsage, `unknown command "lode" (known: demo, help, load, pack, plan, report, synth, verify)`},
		{"unknown flag", []string{"load", gptq, "--fast"}, exitUsage, "unknown flag: --fast"},
		{"no path", []string{"load"}, exitUsage, "load needs one PATH"},
		{"two paths", []string{"plan", "a", "b"}, exitUsage, `not also "b"`},
		{"demo with a path", []string{"demo", "a"}, exitUsage, "demo takes no arguments"},
		{"bad number", []string{"load", gptq, "--workers", "many"}, exitUsage, "--workers many"},
		{"negative workers", []string{"load", gptq, "--workers", "-1"}, exitUsage, "--workers -1: must not be negative"},
		{"bad size", []string{"load", gptq, "--budget", "12 parsecs"}, exitUsage, "--budget 12 parsecs is no size"},
		{"unknown layout", []string{"load", gptq, "--layout", "zigzag"}, exitUsage, "--layout zigzag is not known (known: marlin, exllama, raw, dequant)"},
		{"f32 with marlin", []string{"load", gptq, "--dtype", "f32"}, exitUsage, "layout marlin"},
		{"f32 with marlin in plan", []string{"plan", gptq, "--dtype", "f32"}, exitUsage, "layout marlin"},
		{"unknown model", []string{"synth", filepath.Join(t.TempDir(), "x"), "--model", "gpt-9"}, exitUsage, "unknown model"},
		{"zero bits", []string{"synth", filepath.Join(t.TempDir(), "x"), "--bits", "0"}, exitUsage, "must not be 0"},
		{"group of a format without", []string{"synth", filepath.Join(t.TempDir(), "x"), "--format", "nvfp4", "--group", "128"}, exitUsage, "format nvfp4 has no option group"},
		{"act-order of a format without", []string{"synth", filepath.Join(t.TempDir(), "x"), "--format", "gguf", "--desc-act"}, exitUsage, "format gguf has no option desc-act"},
		{"bits of a fixed width", []string{"synth", filepath.Join(t.TempDir(), "x"), "--format", "fp8", "--bits", "8"}, exitUsage, "format fp8 has no option bits"},
		{"full folder", []string{"synth", full}, exitUsage, "choose a folder that is absent or empty"},
		{"folder is a file", []string{"synth", filepath.Join(full, "file")}, exitUsage, "choose another folder"},
		{"folder below a file", []string{"synth", filepath.Join(full, "file", "x")}, exitUsage, "choose another folder"},

		{"missing shard", []string{"plan", damaged(t)}, exitRefused, "checkpoint refused: 1 fault"},
		{"missing shard in load", []string{"load", damaged(t)}, exitRefused, "checkpoint refused: 1 fault"},
		{"no such folder", []string{"load", "./no/such/folder"}, exitRefused, "does not exist"},
		{"empty folder", []string{"plan", t.TempDir()}, exitRefused, "checkpoint refused"},
		{"small budget", []string{"load", gptq, "--budget", "1000"}, exitRefused, "larger than the budget"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := command(t, c.args...)
			if r.code != c.code || !strings.Contains(r.err, c.says) {
				t.Errorf("exit code %d, stderr:\n%s\nwant code %d and %q", r.code, r.err, c.code, c.says)
			}
			if (r.code == exitDone) != (r.err == "") {
				t.Errorf("stderr of a run that exits with %d:\n%s", r.code, r.err)
			}
			if r.code != exitDone && !strings.HasPrefix(lastParagraph(r.err), "coldload: ") {
				t.Errorf("the message does not begin with the program's name:\n%s", r.err)
			}
			if r.code == exitUsage && !strings.Contains(r.err, "--help") {
				t.Errorf("a usage error does not say where help is:\n%s", r.err)
			}
		})
	}
}

// lastParagraph skips a help text before the message.
func lastParagraph(s string) string {
	if i := strings.LastIndex(s, "\ncoldload: "); i >= 0 {
		return s[i+1:]
	}
	return s
}

// What the contract has and this version has not is refused by name, and no help shows it.
func TestLaterAbilities(t *testing.T) {
	t.Parallel()
	gptq := fixture(gptqFixture)
	lines := [][]string{{"plan", gptq, "--names", "vllm"}}
	for _, f := range laterFlags {
		lines = append(lines, []string{"load", gptq, "--" + f}, []string{"plan", "--" + f, gptq})
	}
	for _, args := range lines {
		r := command(t, args...)
		if r.code != exitUsage || !strings.Contains(r.err, "is not in this version yet") || r.out != "" {
			t.Errorf("%q: exit code %d, stdout %q, stderr %q", args, r.code, r.out, r.err)
		}
	}
	var texts []string
	for _, c := range []string{"plan", "load", "pack", "verify", "synth", "demo", "report", "help"} {
		texts = append(texts, command(t, c, "--help").out)
	}
	help := strings.Join(texts, "\n")
	for _, f := range laterFlags {
		if strings.Contains(help, "--"+f+" ") {
			t.Errorf("the help shows --%s", f)
		}
	}
}

func TestHelpTeaches(t *testing.T) {
	t.Parallel()
	for _, c := range newRoot(testEnv(nil, nil)).Commands() {
		if !strings.Contains(c.Long, "Exit codes:") || !strings.Contains(c.Example, "coldload "+c.Name()) {
			t.Errorf("the help of %s lacks exit codes or an example", c.Name())
		}
		for line := range strings.Lines(c.Long) {
			if len(line) > 121 {
				t.Errorf("a line of the help of %s is %d long: %s", c.Name(), len(line), line)
			}
		}
	}
}

func TestFailureJSON(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		args   []string
		code   int
		faults int
	}{
		{"usage", []string{"load", "--json"}, exitUsage, 0},
		{"flag read after the wrong one", []string{"load", "x", "--alias", "--json"}, exitUsage, 0},
		{"unknown command", []string{"lode", "--json=1"}, exitUsage, 0},
		{"target", []string{"synth", ".", "--json"}, exitUsage, 0},
		{"refused", []string{"load", damaged(t), "--json"}, exitRefused, 1},
		{"refused plan", []string{"plan", damaged(t), "--json"}, exitRefused, 1},
		{"bad bytes", []string{"load", broken(t), "--json"}, exitFailed, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := command(t, c.args...)
			o := r.object(t)
			faults, ok := o["faults"].([]any)
			if message, _ := o["error"].(string); r.code != c.code || message == "" || !ok || len(faults) != c.faults {
				t.Errorf("exit code %d, object %v", r.code, o)
			}
			if !strings.Contains(r.err, "coldload: ") {
				t.Errorf("stderr: %q", r.err)
			}
		})
	}
}

// TestJSONSteersNoTerminal: what a config or a header says is in the object as it is, and reaches a terminal that shows the object as escapes.
func TestJSONSteersNoTerminal(t *testing.T) {
	const evil = "\u009b2J\u202e\u2028\x7f\U000e0001\ufffd é😀"
	src := ckpt.New(t).Shard("model.safetensors", ckpt.T{Name: "a\u202e\u200b", DType: safetensors.U8, Shape: []int64{1}, Data: []byte("x")}).
		JSON("config.json", map[string]any{"quantization_config": map[string]any{"quant_method": evil}}).Write()
	for _, args := range [][]string{{"plan", src, "--json"}, {"load", src, "--json"}} {
		r := command(t, args...)
		if i := strings.IndexFunc(r.out, func(c rune) bool { return c != '\n' && !unicode.IsPrint(c) }); i >= 0 {
			t.Errorf("%v: %q", args[0], r.out[i:])
		}
		r.object(t)
	}
	b, err := encode(evil)
	var back string
	if err != nil || json.Unmarshal(b, &back) != nil || back != evil || !strings.Contains(string(b), "é😀") {
		t.Errorf("%s, %v", b, err)
	}
}

// A refusal by the plan has what the plan understood beside the faults.
func TestRefusedPlanHasData(t *testing.T) {
	t.Parallel()
	args := []string{"plan", fixture(gptqFixture), "--budget", "1000"}
	r := command(t, append(args, "--json")...)
	o := r.object(t)
	faults, _ := o["faults"].([]any)
	if r.code != exitRefused || o["error"] == nil || len(faults) == 0 || o["family"] != "Qwen3-MoE" || o["tensors"] != 71.0 {
		t.Errorf("exit code %d, object %v", r.code, o)
	}
	r = command(t, args...)
	if !strings.Contains(r.out, "larger than the budget") || !strings.Contains(r.err, "larger than the budget") {
		t.Errorf("stdout:\n%s\nstderr:\n%s", r.out, r.err)
	}
	// On a terminal that shows both, once is enough.
	var out, err bytes.Buffer
	e := testEnv(&out, &err)
	e.outTTY = func() (int, bool) { return 100, true }
	e.errTTY = e.outTTY
	if code := execute(t.Context(), e, args); code != exitRefused || !strings.Contains(err.String(), "1 fault, listed above\n") {
		t.Errorf("exit code %d, stderr:\n%s", code, &err)
	}
}

func TestLoadJSON(t *testing.T) {
	t.Parallel()
	for _, to := range []string{toHost, toDiscard} {
		o := command(t, "load", fixture(gptqFixture), "--to", to, "--json").object(t)
		for _, key := range []string{"seconds", "bytes_in", "bytes_out", "tensors_in", "outputs", "peak_anon_bytes", "budget_peak_bytes"} {
			if n, ok := o[key].(float64); !ok || n <= 0 {
				t.Errorf("--to %s: %s is %v", to, key, o[key])
			}
		}
		for key, want := range map[string]any{
			"layout": "marlin", "dtype": "keep", "sink": to, "path": fixture(gptqFixture), "version": "0.1.0",
			"budget": 268435456.0, "tensors_in": 71.0, "outputs": 15.0, "kernels": cpu.X86.String(),
		} {
			if o[key] != want {
				t.Errorf("--to %s: %s is %v, want %v", to, key, o[key], want)
			}
		}
		checkVerdict(t, o)
		for _, key := range []string{"notes", "warnings"} {
			if _, ok := o[key].([]any); !ok {
				t.Errorf("--to %s: %s is %v", to, key, o[key])
			}
		}
		want := 0.0
		if to == toHost {
			want, _ = o["bytes_out"].(float64)
		}
		if o["result_bytes"] != want {
			t.Errorf("--to %s: result_bytes is %v, want %v", to, o["result_bytes"], want)
		}
		checkPhases(t, o["phases"])
	}
}

// The environment takes instruction sets away, for one process, and says no to what it does not know.
func TestDisableCPU(t *testing.T) {
	t.Parallel()
	run := func(list string) (int, map[string]any) {
		t.Helper()
		cmd := program(t, "load", fixture(gptqFixture), "--to", "discard", "--json")
		cmd.Env = append(cmd.Env, envDisableCPU+"="+list)
		out, err := cmd.Output()
		if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed {
			t.Fatal(err)
		}
		return cmd.ProcessState.ExitCode(), result{out: string(out)}.object(t)
	}
	if code, o := run("avx2"); code != exitDone || o["kernels"] != "generic" {
		t.Errorf("exit code %d, kernels %v", code, o["kernels"])
	}
	if code, o := run("avx3"); code != exitUsage || !strings.Contains(fmt.Sprint(o["error"]), `COLDLOAD_CPU_DISABLE: no feature of the processor is called "avx3"`) {
		t.Errorf("exit code %d, %v", code, o)
	}
}

// checkVerdict wants a sentence that agrees with the other members, and its evidence.
func checkVerdict(t *testing.T, o map[string]any) {
	t.Helper()
	sentence, _ := o["verdict"].(string)
	advice, _ := o["advice"].(string)
	known := []any{"", "source", "cpu", "memory", "sink", "budget", "stage"}
	if sentence == "" || !slices.Contains(known, o["bound_by"]) || !strings.HasSuffix(sentence, advice) || (o["bound_by"] == "") != (advice == "") {
		t.Errorf("bound by %q, verdict %q, advice %q", o["bound_by"], sentence, advice)
	}
	for _, key := range []string{"cpu_seconds", "system_seconds", "cpus", "wait_budget_seconds"} {
		if n, ok := o[key].(float64); !ok || n < 0 {
			t.Errorf("%s is %v", key, o[key])
		}
	}
	for _, key := range []string{
		"device_read_bytes", "device_write_bytes", "copy_bandwidth", "throttled_seconds", "run_delay_seconds", "machine_idle",
	} { // null where the system does not tell, or nobody asked
		if n, ok := o[key].(float64); ok && n < 0 {
			t.Errorf("%s is %v", key, o[key])
		}
		if _, there := o[key]; !there {
			t.Errorf("%s is not there", key)
		}
	}
}

// checkPhases wants all phases in order, each with all figures.
func checkPhases(t *testing.T, v any, more ...string) {
	t.Helper()
	list, _ := v.([]any)
	var names []string
	for _, p := range list {
		phase, _ := p.(map[string]any)
		name, _ := phase["name"].(string)
		names = append(names, name)
		for _, key := range []string{"workers", "items", "bytes_in", "bytes_out", "busy_seconds", "wait_in_seconds", "wait_out_seconds", "idle_seconds"} {
			if n, ok := phase[key].(float64); !ok || n < 0 || n > 1e9 {
				t.Errorf("phase %s: %s is %v", name, key, phase[key])
			}
		}
	}
	var want []string
	for _, p := range stages.Phases() {
		want = append(want, p.String())
	}
	want = append(want, more...)
	if !slices.Equal(names, want) {
		t.Errorf("phases %v, want %v", names, want)
	}
}

func TestLoadText(t *testing.T) {
	t.Parallel()
	r := command(t, "load", fixture(plainFixture))
	for _, want := range []string{"loaded ", " in host memory, took ", "wait out s", "\ncommit "} {
		if !strings.Contains(r.out, want) {
			t.Errorf("%q is not in\n%s", want, r.out)
		}
	}
	if r := command(t, "load", fixture(plainFixture), "--quiet"); strings.Count(r.out, "\n") != 1 {
		t.Errorf("--quiet prints\n%s", r.out)
	}
	if r := command(t, "plan", fixture(plainFixture), "--quiet"); strings.Count(r.out, "\n") != 1 {
		t.Errorf("--quiet prints\n%s", r.out)
	}
}

func TestHubCache(t *testing.T) {
	t.Parallel()
	hub := t.TempDir()
	snapshot := filepath.Join(hub, "models--org--name", "snapshots", strings.Repeat("a", 40))
	refs := filepath.Join(hub, "models--org--name", "refs")
	if err := os.CopyFS(snapshot, os.DirFS(fixture(plainFixture))); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(refs, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(refs, "main"), []byte(strings.Repeat("a", 40)), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, err bytes.Buffer
	e := testEnv(&out, &err)
	e.hubCache = hub
	if code := execute(t.Context(), e, []string{"plan", "org/name", "--quiet"}); code != exitDone {
		t.Errorf("exit code %d: %s", code, &err)
	}
}

func TestSynthJSON(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "ck")
	o := command(t, "synth", dir, "--model", "micro", "--layers", "1", "--seed", "7", "--shard-size", "100KB", "--json").object(t)
	if o["dir"] != dir || o["model"] != "micro" || o["shards"] == 1.0 {
		t.Error(o)
	}
	if r := command(t, "load", dir); r.code != exitDone {
		t.Error(r.err)
	}
}

// microDemo is the demo with the smallest model.
func microDemo(e *env) *cobra.Command {
	c := newDemo(e, "micro")
	c.SilenceErrors, c.SilenceUsage = true, true
	return c
}

// cancelWhen cancels a context when a text goes by.
type cancelWhen struct {
	text   string
	cancel func()
}

func (w *cancelWhen) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte(w.text)) {
		w.cancel()
	}
	return len(b), nil
}

func TestDemo(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	var out, err bytes.Buffer
	e := testEnv(&out, &err)
	if code := run(t.Context(), e, microDemo(e), []string{}); code != exitDone || err.Len() > 0 {
		t.Fatalf("exit code %d, stderr %q", code, &err)
	}
	for _, want := range []string{"1. A checkpoint", "wrote ", "2. Loading", "loaded ", "phase ", "The temporary folder is removed."} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, &out)
		}
	}
	out.Reset()
	if code := run(t.Context(), e, microDemo(e), []string{"--json"}); code != exitDone {
		t.Fatalf("exit code %d, stderr %q", code, &err)
	}
	o := result{out: out.String()}.object(t)
	checkPhases(t, o["phases"])
	if written, _ := o["synth"].(map[string]any); written["model"] != "micro" {
		t.Error(o)
	}
	wantEmpty(t, os.Getenv("TMPDIR"))
}

func TestDemoCleansUp(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	for _, when := range []string{"1. A checkpoint", "2. Loading"} {
		ctx, cancel := context.WithCancelCause(t.Context())
		var err bytes.Buffer
		out := &cancelWhen{text: when, cancel: func() { cancel(&interruptError{signal: os.Interrupt}) }}
		e := testEnv(out, &err)
		if code := run(ctx, e, microDemo(e), []string{}); code != 130 || !strings.Contains(err.String(), "stopped by a signal") {
			t.Errorf("interrupted at %q: exit code %d, stderr %q", when, code, &err)
		}
		wantEmpty(t, os.Getenv("TMPDIR"))
	}
}

func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		t.Errorf("%s is left behind", e.Name())
	}
}
