package coldload_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/sinks/discard"
	"github.com/coldload/coldload/stages"
)

// TestFaultsAreToldTogether: a shard that is missing does not hide that another is damaged, nor a config that nobody can read.
func TestFaultsAreToldTogether(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(fixturePath("plain_bf16_sharded"))); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(string) error{
		"model-00001-of-00003.safetensors": func(p string) error { return os.Truncate(p, 20) },
		"model-00002-of-00003.safetensors": func(p string) error { return os.Remove(p) },
		"config.json":                      func(p string) error { return os.WriteFile(p, []byte("{"), 0o600) },
	} {
		if err := change(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := coldload.Load(t.Context(), dir, discard.New(), coldload.Options{})
	refused, ok := errors.AsType[*stages.RefusedError](err)
	if !ok || len(refused.Faults) != 3 {
		t.Fatalf("error %v, want three faults", err)
	}
	want := map[stages.Code]string{
		stages.CodeHeader: "model-00001-of-00003.safetensors", stages.CodeMissingShard: "model-00002-of-00003.safetensors", stages.CodeConfig: "config.json",
	}
	for _, f := range refused.Faults {
		if !strings.Contains(f.String(), want[f.Code]) || want[f.Code] == "" {
			t.Errorf("unexpected fault: %s", f)
		}
	}
}
