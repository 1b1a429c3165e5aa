package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// saved runs a load with --json and writes what it printed to a file.
func saved(t *testing.T, args ...string) (path string, object map[string]any) {
	t.Helper()
	r := command(t, append([]string{"load", "--json"}, args...)...)
	path = filepath.Join(t.TempDir(), "run.json")
	if err := os.WriteFile(path, []byte(r.out), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, r.object(t)
}

// What load writes with --json is what report reads: every figure arrives.
func TestReportReadsLoads(t *testing.T) {
	t.Parallel()
	a, first := saved(t, fixture(gptqFixture))
	b, second := saved(t, fixture(gptqFixture), "--budget", "1MiB", "--io", "pread", "--include", "*")
	r := command(t, "report", a, b, "--json")
	if r.code != exitDone || r.err != "" {
		t.Fatalf("exit code %d: %s", r.code, r.err)
	}
	o := r.object(t)
	for letter, want := range map[string]map[string]any{"a": first, "b": second} {
		got, _ := o[letter].(map[string]any)
		for key, v := range got {
			if key != "file" && !sameJSON(t, v, want[key]) {
				t.Errorf("%s: %s is %v, the load wrote %v", letter, key, v, want[key])
			}
		}
	}
	if list(o["not_comparable"]) == nil || len(list(o["not_comparable"])) != 0 {
		t.Errorf("not comparable: %v", o["not_comparable"])
	}
	var differ []string
	for _, d := range list(o["differences"]) {
		m, _ := d.(map[string]any)
		name, _ := m["name"].(string)
		differ = append(differ, name)
	}
	if got := strings.Join(differ, " "); !strings.HasPrefix(got, "budget include io") {
		t.Errorf("they differ in %s", got)
	}
	if ratio, _ := o["time_ratio"].(float64); ratio <= 0 {
		t.Errorf("ratio %v", o["time_ratio"])
	}
}

func sameJSON(t *testing.T, a, b any) bool {
	t.Helper()
	x, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Equal(x, y)
}

// One of the two may come from standard input, and --quiet is one line.
func TestReportFromStdin(t *testing.T) {
	t.Parallel()
	path, _ := saved(t, fixture(plainFixture))
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"report", path, "-"}, {"report", "-", path, "--quiet"}} {
		var out, stderr bytes.Buffer
		e := testEnv(&out, &stderr)
		e.in = bytes.NewReader(data)
		code := execute(t.Context(), e, args)
		if code != exitDone || !strings.Contains(out.String(), "B took 1.00 of A's time") || (len(args) == 4) != (strings.Count(out.String(), "\n") == 1) {
			t.Errorf("%q: exit code %d: %s%s", args, code, &out, &stderr)
		}
	}
}

// endless is a file without an end.
type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

// What is no run exits with 2 and names the file.
func TestReportRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good, _ := saved(t, fixture(plainFixture))
	huge := file("huge.json", "")
	if err := os.Truncate(huge, mostReport+1); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		a, b string
		says string
	}{
		{file("text.json", "took 3 s"), good, "text.json is not what load or pack wrote"},
		{good, file("other.json", `{"path":"x"}`), "other.json is not what load or pack wrote"},
		{good, file("plan.json", command(t, "plan", fixture(plainFixture), "--json").out), "plan.json is not what load or pack wrote"},
		{good, file("failed.json", command(t, "load", "/no/such", "--json").out), "that run failed"},
		{good, filepath.Join(dir, "absent.json"), "absent.json"},
		{dir, good, "is no regular file"},
		{good, huge, "huge.json is larger than 64 MiB"},
		{good, file("\x1bname.json", ""), `\x1bname.json is not`},
		{"-", "-", "only one of A and B"},
		{"-", good, "- is larger than 64 MiB"},
	} {
		var out, stderr bytes.Buffer
		e := testEnv(&out, &stderr)
		e.in = io.Reader(endless{})
		code := execute(t.Context(), e, []string{"report", c.a, c.b})
		if code != exitUsage || out.Len() > 0 || !strings.Contains(stderr.String(), c.says) {
			t.Errorf("%s %s: exit code %d, want %q in %s", c.a, c.b, code, c.says, &stderr)
		}
	}
}
