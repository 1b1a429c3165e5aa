package discover

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coldload/coldload/stages"
)

// folder makes a folder without links on its path and writes files (slash-separated names) into it. A name that ends in a slash is a folder.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	fill(t, dir, files)
	return dir
}

func fill(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		path := filepath.Join(dir, filepath.FromSlash(name))
		parent := filepath.Dir(path)
		if strings.HasSuffix(name, "/") {
			parent = path
		}
		if err := os.MkdirAll(parent, 0o755); err != nil {
			t.Fatal(err)
		}
		if parent == path {
			continue
		}
		if err := os.WriteFile(path, []byte(files[name]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func link(t *testing.T, target, name string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, name); err != nil {
		t.Fatal(err)
	}
}

// indexOf is the text of an index: tensor, file, tensor, file, ...
func indexOf(pairs ...string) string {
	var entries []string
	for i := 0; i < len(pairs); i += 2 {
		entries = append(entries, `"`+pairs[i]+`": "`+pairs[i+1]+`"`)
	}
	return `{"metadata": {"total_size": 1}, "weight_map": {` + strings.Join(entries, ", ") + `}}`
}

func discover(t *testing.T, path string, opt Options) *Checkpoint {
	t.Helper()
	ck, err := Discover(t.Context(), path, opt)
	if err != nil {
		t.Fatalf("Discover(%q): %v", path, err)
	}
	t.Cleanup(func() {
		if err := ck.Close(); err != nil {
			t.Error(err)
		}
	})
	return ck
}

// refused discovers what must be refused and gives the faults.
func refused(t *testing.T, path string, opt Options) []stages.Fault {
	t.Helper()
	ck, err := Discover(t.Context(), path, opt)
	if err == nil {
		shards := shardNames(ck)
		t.Fatalf("Discover(%q) accepted: %v, notes %q", path, errors.Join(ck.Close()), append(shards, ck.Notes...))
	}
	var r *stages.RefusedError
	if !errors.As(err, &r) {
		t.Fatalf("Discover(%q): not a refusal: %v", path, err)
	}
	return r.Faults
}

func codes(faults []stages.Fault) []stages.Code {
	all := make([]stages.Code, len(faults))
	for i, f := range faults {
		all[i] = f.Code
	}
	return all
}

// wantFaults checks the codes, and that the texts hold every one of the words.
func wantFaults(t *testing.T, got []stages.Fault, want []stages.Code, words ...string) {
	t.Helper()
	if !slices.Equal(codes(got), want) {
		t.Fatalf("codes %v, want %v\n%v", codes(got), want, got)
	}
	var b strings.Builder
	for _, f := range got {
		b.WriteString(f.String() + "\n")
	}
	for _, w := range words {
		if !strings.Contains(b.String(), w) {
			t.Errorf("no %q in:\n%s", w, b.String())
		}
	}
}

func shardNames(ck *Checkpoint) []string {
	names := make([]string, len(ck.Shards))
	for i, s := range ck.Shards {
		names[i] = s.Name
	}
	return names
}
