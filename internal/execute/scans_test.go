package execute_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/coldload/coldload/internal/execute"
	"github.com/coldload/coldload/stages"
)

// finds is a Part of a scan that finds a value.
func finds(id stages.ScanID, value uint64) stages.Part {
	return stages.Part{Slab: stages.NoSlab, Finds: id, Op: repack(func(j *stages.Job) error {
		if j.Found != 0 {
			return errors.New("found something before it looked")
		}
		j.Found = value
		return nil
	})}
}

// wants is a Part that needs a scan, and fails unless it found value.
func wants(id stages.ScanID, value uint64) stages.Part {
	return stages.Part{Slab: stages.NoSlab, Needs: id, Op: repack(func(j *stages.Job) error {
		if j.Scanned != value {
			return errors.New("another value")
		}
		return nil
	})}
}

func TestScansTakeTheLargestInAnyOrder(t *testing.T) {
	values := []uint64{3, 9, 0, 9, 1 << 60, 5}
	for seed := range len(values) {
		s := execute.NewScans([]int{len(values), 1})
		st := execute.Stage(stages.PhaseRepack, execute.Options{Scans: s})
		var wg sync.WaitGroup
		for i := range values {
			v := values[(i+seed)%len(values)]
			wg.Go(func() {
				b, _ := batch(finds(1, v))
				if _, err := st.Process(context.Background(), b); err != nil { //nolint:usetesting // of the goroutines
					t.Error(err)
				}
			})
		}
		wg.Wait()
		b, _ := batch(finds(2, 7), wants(1, 1<<60), wants(2, 7), wants(stages.NoScan, 0))
		if _, err := st.Process(t.Context(), b); err != nil {
			t.Error(err)
		}
	}
}

// TestScansHoldBackWhoNeedsThem: Wait returns when the last Part of every scan that is needed has run, and not before.
func TestScansHoldBackWhoNeedsThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := execute.NewScans([]int{2, 1, 0})
		st := execute.Stage(stages.PhaseRepack, execute.Options{Scans: s})
		needs, _ := batch(wants(stages.NoScan, 0), wants(1, 4), wants(2, 6), wants(3, 0))
		free, _ := batch(wants(3, 0))
		if err := s.Wait(t.Context(), free); err != nil {
			t.Error(err)
		}
		done := false
		go func() {
			if err := s.Wait(t.Context(), needs); err != nil {
				t.Error(err)
			}
			done = true
		}()
		for i, p := range []stages.Part{finds(1, 4), finds(2, 6), finds(1, 2)} {
			synctest.Wait()
			if done {
				t.Fatalf("waited for %d of 3 parts", i)
			}
			b, _ := batch(p)
			if _, err := st.Process(t.Context(), b); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if !done {
			t.Fatal("waits for ever")
		}
		if _, err := st.Process(t.Context(), needs); err != nil {
			t.Error(err)
		}
	})
}

func TestScansEndWithTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		cause := errors.New("the disk burns")
		needs, _ := batch(wants(1, 0))
		var err error
		go func() { err = execute.NewScans([]int{1}).Wait(ctx, needs) }()
		synctest.Wait()
		cancel(cause)
		synctest.Wait()
		if !errors.Is(err, cause) {
			t.Errorf("got %v", err)
		}
	})
}

// TestScansRefuseWhatIsNotTheirs: a Batch that names a scan which the run has not, or that comes too early, is an error and no panic.
func TestScansRefuseWhatIsNotTheirs(t *testing.T) {
	for name, x := range map[string]struct {
		scans *execute.Scans
		part  stages.Part
		want  string
	}{
		"none, needs":     {nil, wants(1, 0), "scan 1 is none of this load's"},
		"none, finds":     {nil, finds(1, 0), "scan 1 is none of this load's"},
		"other, needs":    {execute.NewScans([]int{1}), wants(2, 0), "scan 2 is none of this load's"},
		"other, finds":    {execute.NewScans([]int{1}), finds(-1, 0), "scan -1 is none of this load's"},
		"before its time": {execute.NewScans([]int{1}), wants(1, 0), "scan 1 is not over"},
	} {
		b, v := batch(x.part)
		_, err := execute.Stage(stages.PhaseRepack, execute.Options{Scans: x.scans}).Process(t.Context(), b)
		if err == nil || !strings.Contains(err.Error(), x.want) || v.released != 1 {
			t.Errorf("%s: %v, released %d times", name, err, v.released)
		}
	}
	b, _ := batch(wants(5, 0))
	if err := execute.NewScans(nil).Wait(t.Context(), b); err == nil {
		t.Error("waits for a scan that is not there")
	}
}

// TestScansPassInsertedStages: a stage of the user's own sees what is made, and a scan makes nothing.
func TestScansPassInsertedStages(t *testing.T) {
	b, v := batch(finds(1, 1))
	b.Slabs = nil
	out, err := execute.Insert(never{t}, execute.Options{}).Process(t.Context(), b)
	if err != nil || out != b || v.released != 0 {
		t.Errorf("got %v, %v, released %d times", out, err, v.released)
	}
}

// never is a stage that no Batch must come to.
type never struct{ t *testing.T }

func (never) Name() string { return "never" }
func (n never) Process(_ context.Context, b *stages.Batch) (*stages.Batch, error) {
	n.t.Error("it was called")
	return b, nil
}
