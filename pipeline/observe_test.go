package pipeline_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coldload/coldload/pipeline"
)

// events keeps what an Observer is told.
type events struct {
	mu   sync.Mutex
	list []pipeline.Event
}

func (e *events) Observe(ev pipeline.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, ev)
}

// of are the events of one stage, in their order.
func (e *events) of(stage string) (list []pipeline.Event) {
	for _, ev := range e.list {
		if ev.Stage == stage {
			list = append(list, ev)
		}
	}
	return list
}

// TestObserver follows the items of TestStatsExact: every time of every item, without a gap between those of one worker.
func TestObserver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
		out := slowSink(3 * time.Second)
		out.commit = func(context.Context) error { time.Sleep(4 * time.Second); return nil }
		seen := &events{}
		budget := pipeline.NewBudget(100)
		r := pipeline.New(t.Context(), pipeline.Config{Observer: seen})
		measure := pipeline.Measure(func(i int) pipeline.Work { return pipeline.Work{Items: 2, BytesIn: int64(i)} })
		st := pipeline.From(r, "source", slowInts(3, time.Second), pipeline.Charge(budget, func(int) int64 { return 7 }))
		pipeline.Into(pipeline.Map(st, slowStage("stage", 2*time.Second), measure), out, measure)
		if err := r.Wait(); err != nil {
			t.Fatal(err)
		}
		for stage, want := range map[string][][4]int{ // Since, Came, Done, Left
			"source": {{0, 0, 1, 1}, {1, 1, 2, 3}, {3, 3, 4, 6}, {6, 6, 6, 6}},
			"stage":  {{0, 1, 3, 3}, {3, 3, 5, 6}, {6, 6, 8, 9}, {9, 9, 9, 9}},
			"sink":   {{0, 3, 6, 6}, {6, 6, 9, 9}, {9, 9, 12, 12}, {12, 12, 12, 12}},
			"commit": {{12, 12, 16, 16}},
		} {
			got := seen.of(stage)
			if len(got) != len(want) {
				t.Fatalf("%s: %d events, want %d", stage, len(got), len(want))
			}
			for i, w := range want {
				g := got[i]
				if g.Since != at(w[0]) || g.Came != at(w[1]) || g.Done != at(w[2]) || g.Left != at(w[3]) {
					t.Errorf("%s, item %d: %v %v %v %v, want %v after %v", stage, i, g.Since, g.Came, g.Done, g.Left, w, start)
				}
				if end := i == 3; g.End != end || stage != "commit" && !end && g.Seq != int64(i) {
					t.Errorf("%s: event %d is of item %d, the end: %v", stage, i, g.Seq, g.End)
				}
				if of := g.Sink; of != "" && stage != "sink" && stage != "commit" || of == "" && (stage == "sink" || stage == "commit") {
					t.Errorf("%s: event %d is of sink %q", stage, i, of)
				}
			}
		}
		if e := seen.of("stage")[1]; e.Work != (pipeline.Work{Items: 2, BytesIn: 1}) || e.InFlight != 14 && e.InFlight != 21 {
			t.Errorf("work and bytes in flight: %+v", e)
		}
	})
}

// TestObserverOfFailure is told of the item that failed, and of what failed it.
func TestObserverOfFailure(t *testing.T) {
	seen, boom := &events{}, errors.New("boom")
	r := pipeline.New(t.Context(), pipeline.Config{Observer: seen})
	fails := stageFunc[int, int]{"stage", func(_ context.Context, i int) (int, error) {
		if i == 1 {
			return 0, boom
		}
		return i, nil
	}}
	pipeline.Into(pipeline.Map(pipeline.From(r, "source", slowInts(3, 0)), fails), slowSink(0))
	if err := r.Wait(); !errors.Is(err, boom) {
		t.Fatal(err)
	}
	got := seen.of("stage")
	if last := got[len(got)-2]; !errors.Is(last.Err, boom) || last.Seq != 1 || last.Left != last.Done || last.Work != (pipeline.Work{}) {
		t.Errorf("told of %+v", last)
	}
}

// TestObserverOfExpander is told of every item that an Expander makes, under the number of the one it makes it of.
func TestObserverOfExpander(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seen := &events{}
		r := pipeline.New(t.Context(), pipeline.Config{Observer: seen})
		twice := expandFunc[int, int]{"twice", func(_ context.Context, i int, emit func(int) error) error {
			for range 2 {
				time.Sleep(time.Second)
				if err := emit(i); err != nil {
					return err
				}
			}
			return nil
		}}
		pipeline.Into(pipeline.FlatMap(pipeline.From(r, "source", slowInts(2, 0)), twice), slowSink(0))
		if err := r.Wait(); err != nil {
			t.Fatal(err)
		}
		got := seen.of("twice")
		if len(got) != 5 || !got[4].End {
			t.Fatalf("%d events, want 4 and the end", len(got))
		}
		for i, e := range got[:4] {
			if e.Seq != int64(i/2) || e.Done.Sub(e.Came) != time.Second {
				t.Errorf("event %d: %+v", i, e)
			}
		}
	})
}

// TestObserverAddsUp compares the events of runs that succeed and that fail somewhere with the figures of their stages, to the nanosecond:
// whatever a worker did is in one of its events.
func TestObserverAddsUp(t *testing.T) {
	boom := errors.New("boom")
	for failAt := range 8 { // 7: never
		synctest.Test(t, func(t *testing.T) {
			seen := &events{}
			budget := pipeline.NewBudget(20)
			r := pipeline.New(t.Context(), pipeline.Config{Observer: seen})
			measure := pipeline.Measure(func(i int) pipeline.Work { return pipeline.Work{Items: 1, BytesIn: int64(i), BytesOut: 3} })
			slow := stageFunc[int, int]{"stage", func(_ context.Context, i int) (int, error) {
				time.Sleep(time.Duration(i%3+1) * time.Second)
				if i == failAt {
					return 0, boom
				}
				return i, nil
			}}
			st := pipeline.From(r, "source", slowInts(7, time.Second/2), pipeline.Charge(budget, func(int) int64 { return 7 }))
			st = pipeline.Map(st, slow, measure, pipeline.Workers(2))
			pipeline.Into(pipeline.Map(st, slowStage("next", time.Second), measure), slowSink(2*time.Second), measure)
			if err := r.Wait(); (err == nil) != (failAt == 7) {
				t.Fatal(err)
			}
			for _, s := range r.Stats() {
				var busy, in, out time.Duration
				var w pipeline.Work
				for _, e := range seen.of(s.Name) {
					in += e.Came.Sub(e.Since)
					busy += e.Done.Sub(e.Came)
					out += e.Left.Sub(e.Done)
					w.Items, w.BytesIn, w.BytesOut = w.Items+e.Work.Items, w.BytesIn+e.Work.BytesIn, w.BytesOut+e.Work.BytesOut
				}
				if in != s.WaitIn || busy != s.Busy || out != s.WaitOut || in+busy+out != s.Lifetime {
					t.Errorf("failing at %d, %s: events of %v, %v, %v; figures %+v", failAt, s.Name, in, busy, out, s)
				}
				if s.Name != "source" && w != (pipeline.Work{Items: s.Items, BytesIn: s.BytesIn, BytesOut: s.BytesOut}) {
					t.Errorf("failing at %d, %s: events of %+v; figures %+v", failAt, s.Name, w, s)
				}
			}
		})
	}
}
