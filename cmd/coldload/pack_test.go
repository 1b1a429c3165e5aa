package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// packedFixture packs a fixture and gives the folder.
func packedFixture(t *testing.T, args ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "packed")
	if r := command(t, append([]string{"pack", fixture(gptqFixture), dir, "--quiet"}, args...)...); r.code != exitDone {
		t.Fatalf("exit code %d, stderr %s", r.code, r.err)
	}
	return dir
}

func TestPackCommand(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "packed")
	o := command(t, "pack", fixture(gptqFixture), dir, "--json").object(t)
	for key, want := range map[string]any{
		"dir": dir, "sink": "file:" + dir, "already_complete": false, "resumed_bytes": 0.0, "layout": "marlin", "tensors_in": 71.0, "outputs": 15.0,
	} {
		if o[key] != want {
			t.Errorf("%s is %v, want %v", key, o[key], want)
		}
	}
	for _, key := range []string{"seconds", "bytes_in", "bytes_out", "peak_anon_bytes", "bytes_read"} {
		if n, ok := o[key].(float64); !ok || n <= 0 {
			t.Errorf("%s is %v", key, o[key])
		}
	}
	checkPhases(t, o["phases"], "digest")

	again := command(t, "pack", fixture(gptqFixture), dir)
	if again.code != exitDone || !strings.Contains(again.out, "is complete already") {
		t.Errorf("again: exit code %d, %q", again.code, again.out)
	}
	if o = command(t, "load", fixture(gptqFixture), "--to", "file:"+dir, "--json").object(t); o["already_complete"] != true {
		t.Errorf("load --to file: into what pack made: %v", o)
	}
	text := command(t, "pack", fixture(gptqFixture), filepath.Join(t.TempDir(), "x"), "--verify-source", "--plain-digests").out
	for _, want := range []string{"packed 793 kB (71 tensors) as 773 kB in ", "commit", "verify source"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	plan := command(t, "plan", dir).out
	for _, want := range []string{"format      packed", "layout marlin", "taken as they are"} {
		if !strings.Contains(plan, want) {
			t.Errorf("%q is not in\n%s", want, plan)
		}
	}
}

func TestPackExitCodes(t *testing.T) {
	t.Parallel()
	gptq := fixture(gptqFixture)
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	done := packedFixture(t)
	for _, c := range []struct {
		name string
		args []string
		code int
		says string // on stderr
	}{
		{"one path", []string{"pack", gptq}, exitUsage, "pack needs PATH and OUTDIR"},
		{"three paths", []string{"pack", gptq, "a", "b"}, exitUsage, `not also "b"`},
		{"bad shard size", []string{"pack", gptq, "x", "--shard-size", "0"}, exitUsage, "--shard-size 0 is no size"},
		{"folder with files", []string{"pack", gptq, full}, exitUsage, "may be replaced: coldload pack --overwrite"},
		{"a file", []string{"pack", gptq, filepath.Join(full, "file")}, exitUsage, "is not a folder"},
		{"below a file", []string{"pack", gptq, filepath.Join(full, "file", "x")}, exitUsage, "not a directory"},
		{"other options", []string{"pack", gptq, done, "--dtype", "bf16"}, exitUsage, "target exists"},
		{"onto the source", []string{"pack", done, done, "--overwrite"}, exitUsage, "which is read"},
		{"load to a folder with files", []string{"load", gptq, "--to", "file:" + full}, exitUsage, "target exists"},
		{"load to no folder", []string{"load", gptq, "--to", "file:"}, exitUsage, "--to file: is not known (known: host, discard, file:DIR)"},
		{"nothing included", []string{"pack", gptq, filepath.Join(t.TempDir(), "x"), "--include", "nothing"}, exitUsage, "no output is left"},
		{"bad pattern", []string{"plan", gptq, "--include", "[a"}, exitUsage, "syntax error in pattern"},
		{"no checkpoint", []string{"pack", "./no/such", filepath.Join(t.TempDir(), "x")}, exitRefused, "does not exist"},
		{"incomplete", []string{"pack", damaged(t), filepath.Join(t.TempDir(), "x")}, exitRefused, "1 fault"},
		{"bad bytes", []string{"pack", broken(t), filepath.Join(t.TempDir(), "x")}, exitFailed, "scales"},
		{"another layout of a packed folder", []string{"load", done, "--dtype", "bf16"}, exitRefused, "packed with another dtype"},

		{"verify nothing", []string{"verify", filepath.Join(full, "none")}, exitRefused, "does not exist"},
		{"verify a file", []string{"verify", filepath.Join(full, "file")}, exitRefused, "file"},
		{"verify a shard", []string{"verify", filepath.Join(done, "model-00001-of-00001.safetensors")}, exitUsage, "verified as a whole"},
		{"verify against an empty name", []string{"verify", done, "--against", ""}, exitUsage, "--against needs the path"},
		{"verify what was not packed", []string{"verify", gptq}, exitDifferent, "is not as it was packed: 1 difference"},
		{"verify against nothing", []string{"verify", done, "--against", "./no/such"}, exitRefused, "does not exist"},
		{"verify against something else", []string{"verify", done, "--against", fixture(plainFixture)}, exitDifferent, "differences"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := command(t, c.args...)
			if r.code != c.code || !strings.Contains(r.err, c.says) {
				t.Errorf("exit code %d, stderr:\n%s\nwant code %d and %q", r.code, r.err, c.code, c.says)
			}
		})
	}
}

func TestOverwrite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := command(t, "pack", fixture(gptqFixture), dir, "--overwrite")
	if _, err := os.Stat(filepath.Join(dir, "file")); r.code != exitDone || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("exit code %d, %v, stderr %s", r.code, err, r.err)
	}
	if r := command(t, "verify", dir); r.code != exitDone {
		t.Errorf("verify: exit code %d, %s", r.code, r.out)
	}
}

// What is left after a failure: nothing that looks finished, and nothing at all when nothing was made.
func TestPackLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, path := range []string{damaged(t), broken(t)} {
		temp := t.TempDir()
		if r := command(t, "pack", path, filepath.Join(temp, "x")); r.code == exitDone {
			t.Errorf("%s was packed", path)
		}
		if _, err := os.Stat(filepath.Join(temp, "x")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the target is there", path)
		}
	}
}

func TestVerifyCommand(t *testing.T) {
	t.Parallel()
	dir := packedFixture(t)
	for _, args := range [][]string{{"verify", dir}, {"verify", dir, "--against", fixture(gptqFixture), "--workers", "3", "--budget", "1MiB"}} {
		r := command(t, args...)
		if r.code != exitDone || !strings.Contains(r.out, "as it was packed; checked 15 outputs") || r.err != "" {
			t.Errorf("%q: exit code %d, %q, %q", args, r.code, r.out, r.err)
		}
	}
	o := command(t, "verify", dir, "--against", fixture(gptqFixture), "--json").object(t)
	if o["outputs"] != 15.0 || o["recomputed"] != 15.0 || o["packed_by"] != "0.1.0" || len(list(o["differences"])) != 0 || o["verdict"] == "" || o["bound_by"] == nil {
		t.Error(o)
	}

	// Every kind of damage is named, and the exit code tells.
	for _, c := range []struct {
		name  string
		spoil func() error
		says  string
	}{
		{"data", func() error { return flipLast(filepath.Join(dir, "model-00001-of-00001.safetensors")) }, "model-00001-of-00001.safetensors: model."},
		{"a file", func() error { return flipLast(filepath.Join(dir, "config.json")) }, "config.json: differs"},
		{"extra", func() error { return os.WriteFile(filepath.Join(dir, "extra"), nil, 0o600) }, "extra: extra"},
		{"missing", func() error { return os.Remove(filepath.Join(dir, "model.safetensors.index.json")) }, "model.safetensors.index.json: missing"},
		{"truncated", func() error { return os.Truncate(filepath.Join(dir, "model-00001-of-00001.safetensors"), 1000) }, "damaged"},
		{"manifest", func() error { return flipLast(filepath.Join(dir, "coldload.json")) }, "coldload.json: damaged"},
	} {
		if err := c.spoil(); err != nil {
			t.Fatal(err)
		}
		r := command(t, "verify", dir)
		if r.code != exitDifferent || !strings.Contains(r.out, c.says) || !strings.Contains(r.err, "is not as it was packed") {
			t.Errorf("%s: exit code %d\n%s%s", c.name, r.code, r.out, r.err)
		}
		var o struct{ Differences []map[string]string }
		j := command(t, "verify", dir, "--json")
		if err := json.Unmarshal([]byte(j.out), &o); err != nil || j.code != exitDifferent || len(o.Differences) == 0 || o.Differences[0]["file"] == "" {
			t.Errorf("%s: %v, exit code %d, %s", c.name, err, j.code, j.out)
		}
	}
}

func list(v any) []any {
	l, _ := v.([]any)
	return l
}

// flipLast flips a bit near the end of a file.
func flipLast(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	data[len(data)-5] ^= 1
	return os.WriteFile(path, data, 0o600)
}
