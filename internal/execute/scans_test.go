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

// scansOf are scans of so many Parts each, all of which have to be looked at.
func scansOf(parts ...int) (list []stages.Scan) {
	for _, n := range parts {
		list = append(list, stages.Scan{Parts: n, First: n})
	}
	return list
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
		s := execute.NewScans(scansOf(len(values), 1))
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

// TestScansHoldBackWhoNeedsThem: Admit returns when the last Part of every scan that is needed has run, and not before.
func TestScansHoldBackWhoNeedsThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := execute.NewScans(scansOf(2, 1, 0))
		st := execute.Stage(stages.PhaseRepack, execute.Options{Scans: s})
		needs, _ := batch(wants(stages.NoScan, 0), wants(1, 4), wants(2, 6), wants(3, 0))
		free, _ := batch(wants(3, 0))
		if needed, err := s.Admit(t.Context(), free); err != nil || !needed {
			t.Error(err)
		}
		done := false
		go func() {
			if needed, err := s.Admit(t.Context(), needs); err != nil || !needed {
				t.Error(needed, err)
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
		go func() { _, err = execute.NewScans(scansOf(1)).Admit(ctx, needs) }()
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
		"other, needs":    {execute.NewScans(scansOf(1)), wants(2, 0), "scan 2 is none of this load's"},
		"other, finds":    {execute.NewScans(scansOf(1)), finds(-1, 0), "scan -1 is none of this load's"},
		"before its time": {execute.NewScans(scansOf(1)), wants(1, 0), "scan 1 is not over"},
	} {
		b, v := batch(x.part)
		_, err := execute.Stage(stages.PhaseRepack, execute.Options{Scans: x.scans}).Process(t.Context(), b)
		if err == nil || !strings.Contains(err.Error(), x.want) || v.released != 1 {
			t.Errorf("%s: %v, released %d times", name, err, v.released)
		}
	}
	b, _ := batch(wants(5, 0))
	if _, err := execute.NewScans(nil).Admit(t.Context(), b); err == nil {
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

// spare is a Batch of a scan that is passed over when enough was found.
func spare(id stages.ScanID, value uint64) *stages.Batch {
	b, _ := batch(finds(id, value))
	b.Spare = true
	return b
}

// TestScansFindEnough: a scan counts what it finds as enough at most, is over with it, and does without what is spare from then on; whether
// Parts that are on their way already run before or after makes no difference.
func TestScansFindEnough(t *testing.T) {
	for name, x := range map[string]struct {
		first, spare []uint64
		asked        int // of the spare Batches
		want         uint64
	}{
		"at once":        {[]uint64{3, 100}, []uint64{1, 200}, 0, 50},
		"just":           {[]uint64{50, 3}, []uint64{1, 200}, 0, 50},
		"not quite":      {[]uint64{49, 3}, []uint64{1, 48}, 2, 49},
		"later":          {[]uint64{3, 4}, []uint64{5, 60, 7, 99}, 2, 50},
		"at the end":     {[]uint64{3, 4}, []uint64{5, 60}, 2, 50},
		"nothing":        {[]uint64{0, 0}, []uint64{0, 0}, 2, 0},
		"without others": {[]uint64{1, 2}, nil, 0, 2},
	} {
		s := execute.NewScans([]stages.Scan{{Parts: len(x.first) + len(x.spare), First: len(x.first), Enough: 50}})
		st := execute.Stage(stages.PhaseRepack, execute.Options{Scans: s})
		run := func(b *stages.Batch) {
			if _, err := st.Process(t.Context(), b); err != nil {
				t.Fatal(name, err)
			}
		}
		late, _ := batch(finds(1, x.first[len(x.first)-1]))
		for _, v := range x.first[:len(x.first)-1] {
			b, _ := batch(finds(1, v))
			run(b)
		}
		run(late)
		asked := 0
		for _, v := range x.spare {
			b := spare(1, v)
			needed, err := s.Admit(t.Context(), b)
			if err != nil {
				t.Fatal(name, err)
			}
			if needed {
				asked++
				run(b)
			}
		}
		b, _ := batch(wants(1, x.want))
		if needed, err := s.Admit(t.Context(), b); err != nil || !needed {
			t.Errorf("%s: %v, %v", name, needed, err)
		}
		run(b)
		if asked != x.asked {
			t.Errorf("%s: %d spare batches were admitted, want %d", name, asked, x.asked)
		}
	}
}

// TestScansWaitForTheFirst: a spare Batch waits for the first Parts, and no longer, and not at all when one of them has found enough; a run that
// ends wakes it.
func TestScansWaitForTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := execute.NewScans([]stages.Scan{{Parts: 4, First: 2, Enough: 9}, {Parts: 3, First: 2, Enough: 9}, {Parts: 2, First: 1, Enough: 9}})
		st := execute.Stage(stages.PhaseRepack, execute.Options{Scans: s})
		ctx, cancel := context.WithCancelCause(t.Context())
		cause := errors.New("the disk burns")
		type answer struct {
			needed bool
			err    error
		}
		ask := func(id stages.ScanID) *answer {
			a := &answer{needed: true, err: errors.New("waits")}
			go func() { a.needed, a.err = s.Admit(ctx, spare(id, 1)) }()
			return a
		}
		find := func(id stages.ScanID, value uint64) {
			b, _ := batch(finds(id, value))
			if _, err := st.Process(t.Context(), b); err != nil {
				t.Error(err)
			}
			synctest.Wait()
		}
		one, two, three := ask(1), ask(2), ask(3)
		find(1, 8)
		if one.err == nil {
			t.Error("did not wait for the second")
		}
		find(1, 8)
		if one.err != nil || !one.needed {
			t.Errorf("after the first ones: %+v", one)
		}
		find(2, 9)
		if two.err != nil || two.needed {
			t.Errorf("after enough: %+v", two)
		}
		cancel(cause)
		synctest.Wait()
		if !errors.Is(three.err, cause) {
			t.Errorf("after the end: %+v", three)
		}
		if _, err := s.Admit(t.Context(), spare(4, 1)); err == nil {
			t.Error("a scan that is not there")
		}
	})
}
