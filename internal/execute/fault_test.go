//go:build unix

package execute_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/edsrzf/mmap-go"

	"github.com/coldload/coldload/internal/execute"
	"github.com/coldload/coldload/internal/fault"
	"github.com/coldload/coldload/stages"
)

// lost is a mapped page whose file was truncated.
func lost(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "shard")
	if err := os.WriteFile(path, make([]byte, os.Getpagesize()), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := mmap.Map(f, mmap.RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Unmap(); err != nil {
			t.Error(err)
		}
	})
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	return m
}

// copyAll copies the last source, so that a fault is not always on the first input.
func copyAll(j *stages.Job) error {
	copy(j.Dst, j.Src[len(j.Src)-1])
	return nil
}

func TestALostSourceNamesTensorAndFile(t *testing.T) {
	b, v := batch(stages.Part{
		Op:     repack(copyAll),
		Dst:    stages.Flat(0, 16),
		Inputs: []stages.Input{input("x", 7, 0, 0, 4), input("y", 9, 1, 0, 16)},
	})
	b.Ranges = append(b.Ranges, stages.Extent{Shard: 9, Len: 16})
	v.bytes = append(v.bytes, lost(t)[100:116])
	_, err := execute.Stage(stages.PhaseRepack, execute.Options{FileName: fileName}).Process(t.Context(), b)
	de, ok := errors.AsType[*stages.DataError](err)
	if !ok || de.Tensor != "y" || de.File != "shard-9" || v.released != 1 {
		t.Fatalf("got %v, released %d", err, v.released)
	}
	if !strings.Contains(err.Error(), "file changed or truncated during the load") {
		t.Errorf("got %v", err)
	}
}

func TestALostDestinationIsNotTheFilesFault(t *testing.T) {
	b, _ := batch(stages.Part{Op: repack(copyAll), Dst: stages.Flat(0, 16), Inputs: []stages.Input{input("x", 7, 0, 0, 16)}})
	b.Dst[0] = lost(t)
	_, err := execute.Stage(stages.PhaseRepack, execute.Options{}).Process(t.Context(), b)
	if _, ok := errors.AsType[*stages.DataError](err); ok {
		t.Errorf("blames the source: %v", err)
	}
	if _, ok := errors.AsType[*fault.Error](err); !ok || !strings.Contains(err.Error(), "sink's memory") {
		t.Errorf("got %v", err)
	}
}

func TestAFaultElsewhereIsABug(t *testing.T) {
	m := lost(t)
	b, v := batch(stages.Part{Slab: stages.NoSlab, Op: repack(func(*stages.Job) error { m[3] = 1; return nil })})
	defer func() {
		if recover() == nil || v.released != 1 {
			t.Errorf("no panic, or not released (%d)", v.released)
		}
	}()
	_, err := execute.Stage(stages.PhaseRepack, execute.Options{}).Process(t.Context(), b)
	t.Errorf("no panic, error %v", err)
}
