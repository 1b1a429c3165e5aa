package pipeline_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coldload/coldload/pipeline"
)

// slowInts yields 0..n-1, each after d.
func slowInts(n int, d time.Duration) func(func(int, error) bool) {
	return func(yield func(int, error) bool) {
		for i := range n {
			time.Sleep(d)
			if !yield(i, nil) {
				return
			}
		}
	}
}

func slowStage(name string, d time.Duration) pipeline.Stage[int, int] {
	return stageFunc[int, int]{name, func(_ context.Context, i int) (int, error) { time.Sleep(d); return i, nil }}
}

func slowSink(d time.Duration) *sink[int] {
	return &sink[int]{write: func(context.Context, int) error { time.Sleep(d); return nil }}
}

func wantStats(t *testing.T, got, want []pipeline.StageStats) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d stages, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("stage %d:\n got %+v\nwant %+v", i, got[i], want[i])
		}
	}
}

// TestStatsExact follows three items through stages of one worker each:
//
//	source  1 s each   makes 0 at 1, 1 at 2 (stage busy until 3), 2 at 4 (stage free at 6)
//	stage   2 s each   1..3, 3..5 (sink busy until 6), 6..8 (sink busy until 9)
//	sink    3 s each   3..6, 6..9, 9..12; then Commit takes 4 s
func TestStatsExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
		out := slowSink(3 * time.Second)
		out.commit = func(context.Context) error { time.Sleep(4 * time.Second); return nil }
		r := pipeline.New(t.Context(), pipeline.Config{})
		bytes := pipeline.Measure(func(i int) pipeline.Work {
			return pipeline.Work{Items: 2, BytesIn: int64(10 * i), BytesOut: 5}
		})
		st := pipeline.From(r, "source", slowInts(3, time.Second))
		st = pipeline.Map(st, slowStage("stage", 2*time.Second), bytes)
		pipeline.Into(st, out, bytes)
		if err := r.Wait(); err != nil {
			t.Fatal(err)
		}
		wantStats(t, r.Stats(), []pipeline.StageStats{
			{
				Name: "source", Workers: 1, Items: 3,
				Busy: 3 * time.Second, WaitOut: 3 * time.Second, Lifetime: 6 * time.Second, First: at(0), Last: at(6),
			},
			{
				Name: "stage", Workers: 1, Items: 6, BytesIn: 30, BytesOut: 15,
				Busy: 6 * time.Second, WaitIn: time.Second, WaitOut: 2 * time.Second, Lifetime: 9 * time.Second, First: at(1), Last: at(9),
			},
			{
				Name: "sink", Workers: 1, Items: 6, BytesIn: 30, BytesOut: 15,
				Busy: 9 * time.Second, WaitIn: 3 * time.Second, Lifetime: 12 * time.Second, First: at(3), Last: at(12), Commit: 4 * time.Second,
			},
		})
	})
}

// TestStatsOfOrderedWorkers has the second item ready before the first: its worker waits for the turn.
func TestStatsOfOrderedWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		r := pipeline.New(t.Context(), pipeline.Config{})
		st := stageFunc[int, int]{"ordered", func(_ context.Context, i int) (int, error) {
			time.Sleep(time.Duration(5-4*i) * time.Second) // 5 s, then 1 s
			return i, nil
		}}
		pipeline.Into(pipeline.Map(pipeline.From(r, "source", slowInts(2, 0)), st, pipeline.Workers(2), pipeline.Ordered()), slowSink(0))
		if err := r.Wait(); err != nil {
			t.Fatal(err)
		}
		got := r.Stats()[1]
		want := pipeline.StageStats{
			Name: "ordered", Workers: 2, Items: 2, Busy: 6 * time.Second, WaitOut: 4 * time.Second, Lifetime: 10 * time.Second,
			First: start, Last: start.Add(5 * time.Second),
		}
		wantStats(t, []pipeline.StageStats{got}, []pipeline.StageStats{want})
	})
}

// TestStatsOfBudget has the second item wait 5 s for the bytes of the first, at the source or at the stage.
func TestStatsOfBudget(t *testing.T) {
	for _, atSource := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			charge := []pipeline.Option{pipeline.Charge(pipeline.NewBudget(10), func(int) int64 { return 10 })}
			var source, stage []pipeline.Option
			if atSource {
				source = charge
			} else {
				stage = charge
			}
			r := pipeline.New(t.Context(), pipeline.Config{})
			st := pipeline.From(r, "source", slowInts(2, 0), source...)
			pipeline.Into(pipeline.Map(st, slowStage("stage", 0), stage...), slowSink(5*time.Second))
			if err := r.Wait(); err != nil {
				t.Fatal(err)
			}
			s := r.Stats()
			if charged, wait := s[0], s[0].WaitOut; atSource && (charged.WaitBudget != 5*time.Second || wait != 5*time.Second) {
				t.Errorf("source: %+v", charged)
			}
			if charged, wait := s[1], s[1].WaitIn; !atSource && (charged.WaitBudget != 5*time.Second || wait != 5*time.Second) {
				t.Errorf("stage: %+v", charged)
			}
			if total := s[0].WaitBudget + s[1].WaitBudget + s[2].WaitBudget; total != 5*time.Second {
				t.Errorf("%v waited for the budget in all", total)
			}
		})
	}
}

// TestStatsLeaveNoGap checks, for any number of workers, that their times add up to their lifetimes, exactly.
func TestStatsLeaveNoGap(t *testing.T) {
	for _, opts := range [][]pipeline.Option{{pipeline.Workers(1)}, {pipeline.Workers(3)}, {pipeline.Workers(3), pipeline.Ordered()}} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			r := pipeline.New(t.Context(), pipeline.Config{})
			st := pipeline.Map(pipeline.From(r, "source", slowInts(10, time.Second)), slowStage("stage", 7*time.Second), opts...)
			pipeline.Into(st, slowSink(time.Second))
			r.Start()
			time.Sleep(15*time.Second + time.Millisecond)
			if s := r.Stats()[1]; s.Items == 0 || s.Items == 10 || s.Busy == 0 {
				t.Errorf("while running: %+v", s)
			}
			if err := r.Wait(); err != nil {
				t.Fatal(err)
			}
			all := time.Since(start)
			s := r.Stats()[2]
			if sum := s.Busy + s.WaitIn + s.WaitOut; sum != all {
				t.Errorf("sink: %v of %v", sum, all)
			}
			s = r.Stats()[1]
			if sum := s.Busy + s.WaitIn + s.WaitOut; s.Busy != 70*time.Second || sum > time.Duration(s.Workers)*all {
				t.Errorf("stage: %+v", s)
			}
			for _, s := range r.Stats() {
				if sum := s.Busy + s.WaitIn + s.WaitOut; sum != s.Lifetime || sum == 0 {
					t.Errorf("%s: busy and waiting for %v of %v", s.Name, sum, s.Lifetime)
				}
			}
		})
	}
}
