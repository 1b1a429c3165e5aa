package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coldload/coldload/pipeline"
)

const (
	seeds     = 8
	sourceLen = 100_000 // far more than any run gets to before it fails
)

// scenario is one pipeline of every kind of stage, in which one place misbehaves at one item.
type scenario struct {
	where, mode string
	at          int
	rng         *lockedRand
	slow        bool
	buffer      [4]int
	total       int // items of the source

	ledger ledger
	budget *pipeline.Budget
	sink   sink[*item]
	pulled int
	run    *pipeline.Run
}

func newScenario(where, mode string, seed uint64) *scenario {
	s := &scenario{where: where, mode: mode, rng: newRand(seed), slow: seed%2 == 0, budget: pipeline.NewBudget(16)}
	s.at = s.rng.IntN(100)
	for i := range s.buffer {
		s.buffer[i] = 4 * s.rng.IntN(3)
	}
	s.total = sourceLen
	if where == "commit" || where == "close" || where == "" {
		s.total = s.at + 1 // these come after the last item
	}
	return s
}

func (s *scenario) source(yield func(*item, error) bool) {
	for id := range s.total {
		s.pulled++
		if s.where == "source" && id == s.at {
			yield(nil, misbehave(s.mode))
			return
		}
		i := s.ledger.item(id)
		if s.where == "oversize" && id == s.at {
			i.cost = 17
		}
		if !yield(i, nil) {
			return
		}
	}
}

// stage takes a nap for each item, except where it is the one to misbehave. It releases what it fails on only when it
// returns an error: otherwise that is up to the runtime.
func (s *scenario) stage(name string, first bool) pipeline.Stage[*item, *item] {
	doze := nap(s.rng)
	return stage(name, func(ctx context.Context, i *item) (*item, error) {
		if first {
			i.admit()
		}
		if s.where == name && i.id == s.at {
			err := misbehave(s.mode)
			i.Release()
			return nil, err
		}
		return doze(ctx, i)
	})
}

// double emits each item and a twin of it.
func (s *scenario) double() pipeline.Expander[*item, *item] {
	return expandFunc[*item, *item]{"flat", func(_ context.Context, i *item, emit func(*item) error) error {
		twin := s.ledger.item(i.id)
		if err := emit(twin); err != nil {
			i.Release()
			return err
		}
		if s.where == "flat" && i.id == s.at {
			err := misbehave(s.mode)
			i.Release()
			return err
		}
		return emit(i)
	}}
}

func (s *scenario) wire(ctx context.Context) {
	s.run = pipeline.New(ctx, pipeline.Config{})
	st := pipeline.From(s.run, "source", s.source, pipeline.Buffer(s.buffer[0]))
	st = pipeline.Map(st, s.stage("one", true), pipeline.Buffer(s.buffer[1]), pipeline.Charge(s.budget, costOf))
	st = pipeline.Map(st, s.stage("eight", false), pipeline.Workers(8), pipeline.Ordered(), pipeline.Buffer(s.buffer[2]))
	st = pipeline.FlatMap(st, s.double(), pipeline.Workers(2), pipeline.Buffer(s.buffer[0]))
	st = pipeline.Map(st, s.stage("three", false), pipeline.Workers(3), pipeline.Buffer(s.buffer[3]))
	s.sink.write = func(ctx context.Context, i *item) error {
		if s.slow {
			_ = sleep(ctx, 30*time.Millisecond)
		}
		if s.where == "sink" && i.id == s.at {
			return misbehave(s.mode)
		}
		return nil
	}
	s.sink.commit = func(context.Context) error { return s.failIf("commit") }
	s.sink.close = func() error { return s.failIf("close") }
	pipeline.Into(st, &s.sink, pipeline.Workers(2))
}

func (s *scenario) failIf(where string) error {
	if s.where == where {
		return misbehave(s.mode)
	}
	return nil
}

// check asserts what holds of every run, however it ended.
func (s *scenario) check(t *testing.T, commits int) {
	t.Helper()
	s.ledger.check(t)
	s.sink.check(t, commits)
	if s.budget.InUse() != 0 {
		t.Errorf("%d bytes of the budget still in use", s.budget.InUse())
	}
	if s.budget.Peak() > s.budget.Size() || s.ledger.peak.Load() > s.budget.Size() {
		t.Errorf("peak %d by the budget, %d by the items, of %d", s.budget.Peak(), s.ledger.peak.Load(), s.budget.Size())
	}
	if limit := s.at + 200; s.pulled > limit {
		t.Errorf("the source ran on after the failure: %d items pulled, failure at %d", s.pulled, s.at)
	}
}

// TestFailureAnywhere fails a pipeline of every kind of stage in every place and every way.
func TestFailureAnywhere(t *testing.T) {
	for _, where := range []string{"source", "one", "eight", "flat", "three", "sink", "commit", "close"} {
		for _, mode := range []string{"error", "panic", "goexit"} {
			for seed := range uint64(seeds) {
				t.Run(fmt.Sprintf("%s/%s/%d", where, mode, seed), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						s := newScenario(where, mode, seed)
						s.wire(t.Context())
						err := s.run.Wait()
						stageName, commits := where, 0
						if where == "commit" || where == "close" {
							stageName, commits = "sink", 1
						}
						wantError(t, err, mode, stageName)
						s.check(t, commits)
					})
				})
			}
		}
	}
}

func TestSuccess(t *testing.T) {
	for seed := range uint64(seeds) {
		synctest.Test(t, func(t *testing.T) {
			s := newScenario("", "", seed)
			s.wire(t.Context())
			if err := s.run.Wait(); err != nil {
				t.Fatal(err)
			}
			if len(s.sink.got) != 2*s.total {
				t.Errorf("%d items written, want %d", len(s.sink.got), 2*s.total)
			}
			s.check(t, 1)
			if err := s.run.Wait(); err != nil {
				t.Errorf("second Wait: %v", err)
			}
		})
	}
}

func TestParentCancelledAnywhen(t *testing.T) {
	for seed := range uint64(seeds) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			s := newScenario("parent", "", seed)
			s.at = 2000 // about what 1 s yields, for check
			s.wire(ctx)
			stop := time.AfterFunc(time.Duration(s.rng.IntN(1000))*time.Millisecond, func() { cancel(errBoom) })
			defer stop.Stop()
			if err := s.run.Wait(); !errors.Is(err, errBoom) {
				t.Errorf("error %v, want the cause of the parent", err)
			}
			s.check(t, 0)
		})
	}
}

func TestParentCancelledBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errBoom)
		s := newScenario("parent", "", 1)
		s.wire(ctx)
		if err := s.run.Wait(); !errors.Is(err, errBoom) {
			t.Errorf("error %v, want the cause of the parent", err)
		}
		if s.pulled != 0 {
			t.Errorf("%d items pulled by a run that was cancelled from the start", s.pulled)
		}
		s.check(t, 0)
	})
}

func TestOversizeItem(t *testing.T) {
	for seed := range uint64(seeds) {
		synctest.Test(t, func(t *testing.T) {
			s := newScenario("oversize", "oversize", seed)
			s.wire(t.Context())
			err := s.run.Wait()
			wantError(t, err, "oversize", "one")
			for _, part := range []string{fmt.Sprintf("item-%d", s.at), "17", "16"} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("message %q lacks %q", err, part)
				}
			}
			s.check(t, 0)
		})
	}
}

// TestOversizeAtSource has From refuse the item, and a negative cost as well.
func TestOversizeAtSource(t *testing.T) {
	for cost, want := range map[int64]error{17: pipeline.ErrOverBudget, -1: pipeline.ErrNegativeCost} {
		synctest.Test(t, func(t *testing.T) {
			var l ledger
			var out sink[*item]
			r := pipeline.New(t.Context(), pipeline.Config{})
			charge := pipeline.Charge(pipeline.NewBudget(16), func(*item) int64 { return cost })
			pipeline.Into(pipeline.From(r, "source", l.source(3), charge), &out)
			if err := r.Wait(); !errors.Is(err, want) || !strings.Contains(err.Error(), "item-0") {
				t.Errorf("error %v, want %v for item-0", err, want)
			}
			l.check(t)
			out.check(t, 0)
		})
	}
}

// TestParkedItemsReleased has items sit in a buffered edge, in the hand of a blocked sender, and in the stage that
// fails, all at the moment of the failure.
func TestParkedItemsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l ledger
		var out sink[*item]
		b := pipeline.NewBudget(1000)
		r := pipeline.New(t.Context(), pipeline.Config{})
		st := pipeline.From(r, "source", l.source(sourceLen), pipeline.Buffer(8), pipeline.Charge(b, costOf))
		st = pipeline.Map(st, stage("fails", func(_ context.Context, i *item) (*item, error) {
			time.Sleep(time.Second)
			i.Release()
			return nil, errBoom
		}))
		pipeline.Into(st, &out)
		r.Start()
		synctest.Wait()
		if made := l.made.Load(); made != 10 { // 8 parked, one before and one after them
			t.Fatalf("%d items made before the failure, want 10", made)
		}
		if err := r.Wait(); !errors.Is(err, errBoom) {
			t.Errorf("error %v", err)
		}
		l.check(t)
		if b.InUse() != 0 {
			t.Errorf("%d bytes of the budget still in use", b.InUse())
		}
	})
}

// TestPanicInCallbacks panics in the functions given to options, and in an item's own methods.
func TestPanicInCallbacks(t *testing.T) {
	boomCost := func(*item) int64 { panic(errBoom) }
	boomMeasure := func(*item) pipeline.Work { panic(errBoom) }
	budget := pipeline.NewBudget(10)
	for name, opts := range map[string][3]pipeline.Option{
		"source": {pipeline.Charge(budget, boomCost), pipeline.Workers(2), pipeline.Workers(1)},
		"stage":  {pipeline.Workers(1), pipeline.Charge(budget, boomCost), pipeline.Workers(1)},
		"made":   {pipeline.Workers(1), pipeline.Measure(boomMeasure), pipeline.Workers(1)},
		"sink":   {pipeline.Workers(1), pipeline.Workers(1), pipeline.Measure(boomMeasure)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var l ledger
				var out sink[*item]
				r := pipeline.New(t.Context(), pipeline.Config{})
				st := pipeline.From(r, "source", l.source(5), opts[0])
				st = pipeline.Map(st, stage("stage", nap(newRand(1))), pipeline.Workers(3), opts[1])
				pipeline.Into(st, &out, opts[2])
				if _, ok := errors.AsType[*pipeline.PanicError](r.Wait()); !ok {
					t.Errorf("error %v, want a PanicError", r.Wait())
				}
				l.check(t)
				out.check(t, 0)
			})
		})
	}
}

// TestSecondaryErrorsDoNotHideTheFirst fails two places, one a second after the other.
func TestSecondaryErrorsDoNotHideTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l ledger
		out := sink[*item]{close: func() error { return errors.New("close failed too") }}
		var log strings.Builder
		r := pipeline.New(t.Context(), pipeline.Config{Logger: textLogger(&log)})
		st := pipeline.Map(pipeline.From(r, "source", l.source(2)), stage("two", func(_ context.Context, i *item) (*item, error) {
			i.Release()
			if i.id == 0 {
				time.Sleep(time.Second) // deaf to ctx
				return nil, errors.New("late")
			}
			return nil, errBoom
		}), pipeline.Workers(2))
		pipeline.Into(st, &out)
		if err := r.Wait(); !errors.Is(err, errBoom) {
			t.Errorf("error %v, want the first", err)
		}
		for _, part := range []string{"late", "close failed too"} {
			if !strings.Contains(log.String(), part) {
				t.Errorf("log lacks %q:\n%s", part, log.String())
			}
		}
	})
}

// TestNilItems: an item that is a nil pointer is an item like any other; its methods are not called where nothing recovers.
func TestNilItems(t *testing.T) {
	var l ledger
	run := pipeline.New(t.Context(), pipeline.Config{})
	src := func(yield func(*item, error) bool) { _ = yield(l.item(0), nil) && yield(l.item(1), nil) }
	budget := pipeline.NewBudget(100)
	nothing := stage("nothing", func(_ context.Context, i *item) (*item, error) {
		i.Release()
		return nil, nil
	})
	s := pipeline.Map(pipeline.From(run, "source", src, pipeline.Charge(budget, func(i *item) int64 { return i.cost })), nothing)
	end := &sink[*item]{write: func(_ context.Context, i *item) error {
		if i != nil {
			return errors.New("an item from nowhere")
		}
		return nil
	}}
	pipeline.Into(s, end)
	if err := run.Wait(); err != nil {
		t.Error(err)
	}
	l.check(t)
}

// TestStageErrorNamesTheItemOnce: a cause that begins with the item's name is not given it again.
func TestStageErrorNamesTheItemOnce(t *testing.T) {
	for cause, want := range map[string]string{
		"cut short":              "fetch: a.safetensors: cut short",
		"a.safetensors: is cut":  "fetch: a.safetensors: is cut",
		"a.safetensors is cut":   "fetch: a.safetensors: a.safetensors is cut",
		"b: a.safetensors: both": "fetch: a.safetensors: b: a.safetensors: both",
	} {
		if got := (&pipeline.StageError{Stage: "fetch", Item: "a.safetensors", Err: errors.New(cause)}).Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := (&pipeline.StageError{Stage: "fetch", Item: "a", Err: (*fs.PathError)(nil)}).Error(); got != "fetch: a: <nil>" {
		t.Errorf("an error that cannot tell what it is: %q", got)
	}
}
