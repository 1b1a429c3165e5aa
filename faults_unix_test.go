//go:build unix

package coldload_test

import (
	"context"
	"errors"
	"os"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/sinks/discard"
	"github.com/coldload/coldload/sources/file"
	"github.com/coldload/coldload/stages"
)

func mkfifo(t *testing.T, path string) {
	t.Helper()
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestStageLooksAtALostPage: a stage of the user's own runs under the guard that the Ops have.
func TestStageLooksAtALostPage(t *testing.T) {
	dir := big(t)
	var sum atomic.Int64
	_, err := coldload.Load(t.Context(), dir, discard.New(), coldload.Options{IO: file.ModeMmap, Stages: []coldload.Insert{{
		After: stages.PhaseFetch, Stage: stageFunc(func(_ context.Context, b *stages.Batch) (*stages.Batch, error) {
			if err := os.Truncate(dir+"/"+single, 4096); err != nil {
				return nil, err
			}
			for i := range b.Parts {
				for k := range b.Parts[i].Inputs {
					for _, c := range b.Source(&b.Parts[i], k) {
						sum.Add(int64(c))
					}
				}
			}
			return b, nil
		}),
	}}})
	if data, ok := errors.AsType[*stages.DataError](err); !ok || data.File != single || data.Tensor == "" {
		t.Errorf("error %v, want a DataError that names file and tensor", err)
	}
}
