//go:build unix

package safetensors_test

import (
	"errors"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/coldload/coldload/safetensors"
)

// TestPipe opens a named pipe that nobody writes: it must be refused, not waited for.
func TestPipe(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "1")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Skip(err)
	}
	if _, err := safetensors.Open(path); !errors.Is(err, safetensors.ErrNotRegular) {
		t.Error(err)
	}
	writeFile(t, filepath.Join(dir, safetensors.IndexName), []byte(mapOf(`"a":"1"`)))
	if _, err := safetensors.OpenSharded(dir); !errors.Is(err, safetensors.ErrNotRegular) {
		t.Error(err)
	}
}
