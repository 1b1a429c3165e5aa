package report

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/synth"
	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/sinks/discard"
	"github.com/coldload/coldload/stages"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// visit is an event of a stage that begins to wait at a time, in ms after the epoch, then waits, works and waits again.
func visit(stage string, seq int64, since, in, busy, out int, w pipeline.Work) pipeline.Event {
	at := func(ms int) time.Time { return epoch.Add(time.Duration(ms) * time.Millisecond) }
	return pipeline.Event{
		Stage: stage, Seq: seq, Name: "batch", Since: at(since), Came: at(since + in), Done: at(since + in + busy), Left: at(since + in + busy + out), Work: w,
	}
}

// through sends a Batch through all phases; every phase is busy for a fifth of the time.
func through(o pipeline.Observer, seq int64, from, took int) {
	for i, stage := range []string{"fetch", "decode", "fuse", "repack", "upload"} {
		e := visit(stage, seq, from+i*took/5, 0, took/5, 0, pipeline.Work{Items: 1, BytesIn: 10, BytesOut: 9})
		if stage == "upload" {
			e.Sink = stage
		}
		o.Observe(e)
	}
}

func total(list []int64) (sum int64) {
	for _, n := range list {
		sum += n
	}
	return sum
}

func TestSpread(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		from, to time.Duration
		amount   int64
		want     []int64
	}{
		{0, 40, 100, []int64{25, 25, 25, 25}},
		{5, 25, 100, []int64{25, 50, 25, 0}},
		{12, 12, 7, []int64{0, 7, 0, 0}},
		{0, 30, 100, []int64{33, 33, 34, 0}},
		{9, 11, 3, []int64{1, 2, 0, 0}},
		{0, 40, 0, []int64{0, 0, 0, 0}},
		{0, 20, 1 << 60, []int64{1 << 59, 1 << 59, 0, 0}},
	} {
		var s series
		s.spread(10, c.from, c.to, c.amount)
		if got := s.list(4); !slices.Equal(got, c.want) || total(s[:]) != c.amount {
			t.Errorf("%d from %d to %d: %v, want %v", c.amount, c.from, c.to, got, c.want)
		}
	}
}

func TestLevel(t *testing.T) {
	t.Parallel()
	var l level
	l.note(1, 0, 5)
	l.note(0, 0, 3) // told late: not what holds on
	l.note(25, 2, 1)
	l.note(60, 6, 9)
	l.note(61, 6, 0)
	if got, want := l.list(8), []int64{5, 5, 5, 1, 1, 1, 9, 0}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	l.halve()
	if got, want := l.list(5), []int64{5, 5, 1, 9, 0}; !slices.Equal(got, want) {
		t.Errorf("halved: %v, want %v", got, want)
	}
}

// TestRecorderBounds records a load of hours: the sums stay exact and the bins as many as they were.
func TestRecorderBounds(t *testing.T) {
	t.Parallel()
	r := NewRecorder(epoch)
	const n = 3000
	for i := range n {
		through(r, int64(i), 5000*i, 5000)
	}
	took := n * 5 * time.Second
	line := r.Timeline(took)
	if bins := len(line.InFlight); bins > binCount || bins <= binCount/2-1 {
		t.Errorf("%d bins", bins)
	}
	if span := time.Duration(len(line.InFlight)) * line.Width; span < took || span > took+line.Width {
		t.Errorf("the bins cover %v of %v", span, took)
	}
	for _, l := range line.Lanes {
		if want := (Sums{Items: n, BytesIn: 10 * n, BytesOut: 9 * n, Busy: n * time.Second}); l.Sums != want {
			t.Errorf("%s: %+v, want %+v", l.Stage, l.Sums, want)
		}
		if total(l.Busy) != int64(n*time.Second) || total(l.In) != 10*n || total(l.Out) != 9*n {
			t.Errorf("%s: the bins do not add up", l.Stage)
		}
	}
	if len(line.Slowest) != mostSlow || len(r.flying) != 0 {
		t.Errorf("%d slowest, %d in flight", len(line.Slowest), len(r.flying))
	}
	half := line.halved()
	for i, l := range half.Lanes {
		if half.Width != 2*line.Width || total(l.Busy) != total(line.Lanes[i].Busy) || len(l.Busy) != len(half.InFlight) {
			t.Errorf("halved: %+v", l)
		}
	}
}

func TestRecorderSlowest(t *testing.T) {
	t.Parallel()
	r := NewRecorder(epoch)
	for i := range 50 {
		through(r, int64(i), 10*i, 5*(i%30+1))
	}
	line := r.Timeline(time.Second)
	var got []int64
	for _, b := range line.Slowest {
		got = append(got, b.Seq)
		if !b.Done || b.Read != 10 || b.BytesOut != 9 || b.Busy != time.Duration(5*(b.Seq%30+1))*time.Millisecond || b.Ended-b.Began != b.Busy {
			t.Errorf("%+v", b)
		}
	}
	// The longest first: 29; then those that come twice, 19 and 49, the first of them first.
	want := []int64{29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 49, 18, 48, 17, 47, 16, 46, 15, 45}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// A stage may tell of a Batch after the one that took it over has.
func TestRecorderLate(t *testing.T) {
	t.Parallel()
	r := NewRecorder(epoch)
	upload := visit("upload", 7, 9, 0, 1, 0, pipeline.Work{Items: 1, BytesOut: 9})
	upload.Sink = "upload"
	for _, e := range []pipeline.Event{
		visit("decode", 7, 2, 1, 1, 0, pipeline.Work{}), visit("fetch", 7, 0, 1, 1, 0, pipeline.Work{BytesIn: 10}), visit("mine", 7, 4, 0, 1, 0, pipeline.Work{}),
		visit("fuse", 7, 5, 0, 1, 0, pipeline.Work{}), upload, visit("repack", 7, 7, 0, 1, 1, pipeline.Work{}),
		visit("mine", 7, 4, 0, 1, 0, pipeline.Work{}), // later than all: of no Batch any more
	} {
		r.Observe(e)
	}
	line := r.Timeline(10 * time.Millisecond)
	if len(line.Slowest) != 1 || len(r.flying) != 0 {
		t.Fatalf("%+v, and %d in flight", line.Slowest, len(r.flying))
	}
	b := line.Slowest[0]
	ms := time.Millisecond
	if b.Busy != 6*ms || b.WaitIn != 2*ms || b.WaitOut != ms || b.Began != ms || b.Ended != 10*ms || b.Phases != [7]time.Duration{ms, ms, ms, ms, 0, ms, ms} || !b.Done {
		t.Errorf("%+v", b)
	}
}

// TestRecorderFailed keeps the Batches that a failed load left behind, with what failed them.
func TestRecorderFailed(t *testing.T) {
	t.Parallel()
	r, boom := NewRecorder(epoch), errors.New("boom")
	r.Observe(visit("fetch", 1, 0, 0, 5, 0, pipeline.Work{BytesIn: 10}))
	e := visit("decode", 1, 5, 0, 9, 0, pipeline.Work{})
	e.Err = boom
	r.Observe(e)
	r.Observe(visit("fetch", 2, 5, 0, 1, 0, pipeline.Work{BytesIn: 10}))
	line := r.Timeline(20 * time.Millisecond)
	if len(line.Slowest) != 2 {
		t.Fatalf("%+v", line.Slowest)
	}
	if b := line.Slowest[0]; b.Seq != 1 || b.Done || b.Err != boom || b.Busy != 14*time.Millisecond || b.Read != 10 { //nolint:errorlint // the same error
		t.Errorf("%+v", b)
	}
	if b := line.Slowest[1]; b.Seq != 2 || b.Done || b.Err != nil {
		t.Errorf("%+v", b)
	}
}

// TestObserveDoesNotAllocate: Observe is called by the workers, for every Batch.
func TestObserveDoesNotAllocate(t *testing.T) {
	r := NewRecorder(epoch)
	tr := NewTrace(discardWriter{}, epoch)
	both := func(seq int64) { through(r, seq, 5, 5); through(tr, seq, 5, 5) }
	for i := range int64(100) {
		both(i)
	}
	seq := int64(100)
	if n := testing.AllocsPerRun(1000, func() { both(seq); seq++ }); n != 0 {
		t.Errorf("%v allocations for a Batch", n)
	}
}

type discardWriter struct{}

func (discardWriter) Write(b []byte) (int, error) { return len(b), nil }

// phaseSums is a Phase as far as events can tell.
func phaseSums(p coldload.Phase) Sums {
	return Sums{Items: p.Items, BytesIn: p.BytesIn, BytesOut: p.BytesOut, Busy: p.Busy, WaitIn: p.WaitIn, WaitOut: p.WaitOut}
}

// spoiler is a stage that fails on a Batch.
type spoiler struct{ at int }

func (spoiler) Name() string { return "spoiler" }

var errSpoiled = errors.New("spoiled")

func (s spoiler) Process(_ context.Context, b *stages.Batch) (*stages.Batch, error) {
	if b.Seq == s.at {
		return nil, errSpoiled
	}
	return b, nil
}

// TestRecorderAddsUp compares with the Result, to the nanosecond: of loads, of packing, and of loads that fail.
func TestRecorderAddsUp(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "micro")
	if _, err := synth.Write(t.Context(), dir, synth.Options{Model: "tiny-moe", Layers: 1}); err != nil {
		t.Fatal(err)
	}
	run := map[string]func(opt coldload.Options) (*coldload.Result, error){
		"load": func(opt coldload.Options) (*coldload.Result, error) {
			return coldload.Load(t.Context(), dir, discard.New(), opt)
		},
		"pack": func(opt coldload.Options) (*coldload.Result, error) {
			opt.VerifySource = true
			res, err := coldload.Pack(t.Context(), dir, filepath.Join(t.TempDir(), "out"), opt, coldload.PackOptions{})
			return res.Result, err
		},
		"failed": func(opt coldload.Options) (*coldload.Result, error) {
			opt.Stages = []coldload.Insert{{After: stages.PhaseDecode, Stage: spoiler{3}}}
			res, err := coldload.Load(t.Context(), dir, discard.New(), opt)
			if !errors.Is(err, errSpoiled) {
				t.Errorf("failed with %v", err)
			}
			return res, nil
		},
		"refused": func(opt coldload.Options) (*coldload.Result, error) {
			opt.Budget = 1000
			res, err := coldload.Load(t.Context(), dir, discard.New(), opt)
			if _, ok := errors.AsType[*stages.RefusedError](err); !ok {
				t.Errorf("failed with %v", err)
			}
			return res, nil
		},
		"not there": func(opt coldload.Options) (*coldload.Result, error) {
			res, _ := coldload.Load(t.Context(), filepath.Join(dir, "no"), discard.New(), opt)
			return res, nil
		},
	}
	for name, f := range run {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rec := NewRecorder(time.Now())
			res, err := f(coldload.Options{Observer: rec})
			if err != nil {
				t.Fatal(err)
			}
			line := rec.Timeline(res.Duration)
			for _, p := range res.Phases {
				if got := line.Of(p.Name); got != phaseSums(p) {
					t.Errorf("%s: %+v, in the result %+v", p.Name, got, phaseSums(p))
				}
			}
			for _, l := range line.Lanes {
				if total(l.Busy) != int64(l.Sums.Busy) || total(l.WaitIn) != int64(l.Sums.WaitIn) || total(l.WaitOut) != int64(l.Sums.WaitOut) ||
					total(l.In) != l.Sums.BytesIn || total(l.Out) != l.Sums.BytesOut {
					t.Errorf("%s %d: the bins do not add up to %+v", l.Stage, l.Worker, l.Sums)
				}
			}
			if most := slices.Max(line.InFlight); most > res.BudgetPeak || res.BudgetPeak > 0 && most == 0 {
				t.Errorf("%d bytes in flight, of at most %d", most, res.BudgetPeak)
			}
			if name != "load" && name != "pack" {
				return
			}
			var in, out int64
			for b := range res.Plan.Batches() {
				in, out = in+b.InBytes, out+b.OutBytes
			}
			if got := line.Of("fetch").BytesIn; got != in || got != res.Plan.Summary.BytesRead {
				t.Errorf("%d bytes were fetched, the plan has %d", got, in)
			}
			if got := line.Of("upload").BytesOut; got != out || got != res.Plan.Summary.BytesOut {
				t.Errorf("%d bytes were written, the plan has %d", got, out)
			}
			read, written := line.paces()
			if total(read) != in || total(written) != out {
				t.Errorf("%d and %d over time, the plan has %d and %d", total(read), total(written), in, out)
			}
		})
	}
}

func BenchmarkObserve(b *testing.B) {
	for name, o := range map[string]pipeline.Observer{"recorder": NewRecorder(epoch), "trace": NewTrace(discardWriter{}, epoch)} {
		b.Run(name, func(b *testing.B) {
			var seq int64
			for b.Loop() {
				through(o, seq, int(seq%1000), 5) // five events
				seq++
			}
		})
	}
}
