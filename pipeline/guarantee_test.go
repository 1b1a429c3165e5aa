// Each guarantee was broken in the code, one mutant at a time, and the tests were run under -race; "matrix" stands for
// TestFailureAnywhere, and the list is shortened where many tests failed.
//
//	guarantee                   mutant                                      caught by
//	source stops soon           input drained before the cancel             matrix, TestCancelBeforeCleanup (deadlock)
//	                            fail does not cancel                        matrix, TestParkedItemsReleased and 13 others
//	                            no look at ctx before an item               TestParentCancelledBefore
//	released exactly once       goroutine drops nothing when it ends        matrix, TestCloseAfterEveryStage and 8 others
//	                            failed send does not drop                   TestExpanderDeafToEmit
//	                            edges not drained                           TestParkedItemsReleased, matrix
//	                            dropped again after the stage's error       matrix, TestCancelBeforeCleanup
//	                            not released after Write                    TestSuccess, matrix
//	                            lease lost on the stage's error             TestParkedItemsReleased, matrix
//	                            not dropped after a panic                   TestPanicInCallbacks, matrix
//	oversize is an error        no size check                               TestOversizeItem, TestOversizeAtSource (deadlock)
//	no commit after a failure   cause not checked before Commit             TestNoCommitAfterUpstreamFailure,
//	                                                                        TestNoCommitAfterParentCancelled, TestSinksCommitTogether
//	parent's cause returned     ctx.Err instead of the cause                TestParentCancelledAnywhen, TestEveryWaitIsCancellable
//	committed is success        cause checked after Commit as well          TestCommittedIsSuccess
//	ordered + budget            admission outside the gate                  TestOrderedBudgetAdmitsInOrder (deadlock)
//	                            same budget twice in a chain accepted       TestWiringFaults
//	order kept                  turn not awaited; no turns; no gate         TestOrderKept, TestOrderKeptByFlatMap
//	                            FlatMap passes its turn too early           TestOrderKeptByFlatMap
//	peak <= budget              half of the cost taken                      TestSuccess, TestBudgetForOneAndAHalf
//	leases shrink, never grow   no shrinking; innermost budget only         TestLeaseShrinks
//	                            lease set to HeldBytes whatever it was      crash (semaphore: n < 0)
//	children share the lease    children without a lease                    TestExpandedItemsShareTheLease
//	Close after every stage     Close once cancelled, stages or not         TestCloseAfterEveryStage, matrix
//	Close always, once          not after a failure; twice                  TestCloseAfterEveryStage, TestWiringFaults
//	Close's error               not returned; hides the first cause         matrix; TestSecondaryErrorsDoNotHideTheFirst
//	panic is an error           not recovered in a stage; in Commit, Close  crash
//	Goexit is an error          not noticed in a stage; in Commit, Close    matrix
//	every wait cancellable      send; turn and gate                         matrix (deadlock)
//	                            budget                                      TestBudgetSharedByRuns
//	                            receive                                     TestReceiveIsCancellable
//	dangling stream             not looked for                              TestWiringFaults (deadlock)
//	Wait after the last         Wait does not wait for the stages           TestSuccess, matrix (race)
//	stats exact                 send as busy; no receive; late First        TestStatsExact
//	                            budget wait not counted                     TestStatsOfBudget
//	spans                       no links; no limit                          TestSpans
//	                            no status; every status; open after panic   TestSpansOfFailure
//	metrics                     gauges not unregistered                     TestMetrics
//
// One mutant survives because it changes nothing that can be seen: to start the stages on a wiring fault, which find
// the run cancelled and return.

package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coldload/coldload/pipeline"
)

func textLogger(w *strings.Builder) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

// TestOrderKept also asserts that no more than Workers items are between the stage's input and its output.
func TestOrderKept(t *testing.T) {
	for seed := range uint64(seeds) {
		synctest.Test(t, func(t *testing.T) {
			const workers = 8
			var l ledger
			var out sink[*item]
			var open, most atomic.Int64
			doze := nap(newRand(seed))
			r := pipeline.New(t.Context(), pipeline.Config{})
			st := pipeline.Map(pipeline.From(r, "source", l.source(300)),
				stage("ordered", func(ctx context.Context, i *item) (*item, error) {
					raise(&most, open.Add(1))
					return doze(ctx, i)
				}), pipeline.Workers(workers), pipeline.Ordered())
			out.write = func(context.Context, *item) error { open.Add(-1); return nil }
			pipeline.Into(st, &out)
			if err := r.Wait(); err != nil {
				t.Fatal(err)
			}
			wantOrder(t, ids(out.got), 300)
			if most.Load() < 2 || most.Load() > workers+1 { // one may be in the sink
				t.Errorf("up to %d items in the stage at a time, with %d workers", most.Load(), workers)
			}
		})
	}
}

func TestOrderKeptByFlatMap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out sink[string]
		rng := newRand(1)
		r := pipeline.New(t.Context(), pipeline.Config{})
		count := func(yield func(int, error) bool) {
			for i := range 50 {
				if !yield(i, nil) {
					return
				}
			}
		}
		var want []string
		for i := range 50 {
			for j := range i % 4 { // none at all for some
				want = append(want, fmt.Sprint(i, "/", j))
			}
		}
		st := pipeline.FlatMap(pipeline.From(r, "source", count),
			expandFunc[int, string]{"expand", func(ctx context.Context, i int, emit func(string) error) error {
				for j := range i % 4 {
					if err := sleep(ctx, time.Duration(rng.IntN(50))*time.Millisecond); err != nil {
						return err
					}
					if err := emit(fmt.Sprint(i, "/", j)); err != nil {
						return err
					}
				}
				return nil
			}}, pipeline.Workers(8), pipeline.Ordered())
		pipeline.Into(st, &out)
		if err := r.Wait(); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(out.got, want) {
			t.Errorf("got %v", out.got)
		}
	})
}

// TestBudgetForOneAndAHalf lets three items pass that together need twice the budget.
func TestBudgetForOneAndAHalf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l ledger
		var out sink[*item]
		b := pipeline.NewBudget(15)
		r := pipeline.New(t.Context(), pipeline.Config{})
		st := pipeline.Map(pipeline.From(r, "source", l.source(3)), stage("stage", func(_ context.Context, i *item) (*item, error) {
			i.held.Store(10)
			if used := b.InUse(); used != 10 {
				t.Errorf("item %d runs with %d bytes in use", i.id, used)
			}
			time.Sleep(time.Second)
			return i, nil
		}), pipeline.Workers(3), pipeline.Ordered(), pipeline.Charge(b, func(*item) int64 { return 10 }))
		pipeline.Into(st, &out)
		if err := r.Wait(); err != nil {
			t.Fatal(err)
		}
		wantOrder(t, ids(out.got), 3)
		if b.Peak() != 10 || b.InUse() != 0 {
			t.Errorf("peak %d, in use %d", b.Peak(), b.InUse())
		}
	})
}

// TestOrderedBudgetAdmitsInOrder makes the admission of the first item slow: if later ones were admitted meanwhile,
// they would hold the bytes that it needs while they wait for it.
func TestOrderedBudgetAdmitsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l ledger
		var out sink[*item]
		slowFirst := func(i *item) int64 {
			if i.id == 0 {
				time.Sleep(time.Second)
			}
			return 10
		}
		r := pipeline.New(t.Context(), pipeline.Config{})
		keep := stage("ordered", func(_ context.Context, i *item) (*item, error) { i.held.Store(10); return i, nil })
		st := pipeline.Map(pipeline.From(r, "source", l.source(20)), keep,
			pipeline.Workers(4), pipeline.Ordered(), pipeline.Charge(pipeline.NewBudget(15), slowFirst))
		pipeline.Into(st, &out)
		if err := r.Wait(); err != nil {
			t.Fatal(err)
		}
		wantOrder(t, ids(out.got), 20)
	})
}

// TestLeaseShrinks has items keep one byte of ten after the stage, so that all fit in the budget together.
func TestLeaseShrinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l ledger
		out := sink[*item]{write: func(context.Context, *item) error { time.Sleep(time.Minute); return nil }}
		b, second := pipeline.NewBudget(12), pipeline.NewBudget(100)
		r := pipeline.New(t.Context(), pipeline.Config{})
		st := pipeline.From(r, "source", l.source(3), pipeline.Charge(second, func(*item) int64 { return 20 }))
		st = pipeline.Map(st, stage("shrinks", func(_ context.Context, i *item) (*item, error) {
			i.held.Store(1)
			return i, nil
		}), pipeline.Buffer(3), pipeline.Charge(b, func(*item) int64 { return 10 }))
		st = pipeline.Map(st, stage("grows", func(_ context.Context, i *item) (*item, error) {
			i.held.Store(1000)
			return i, nil
		}), pipeline.Buffer(3))
		pipeline.Into(st, &out)
		r.Start()
		synctest.Wait()
		if b.InUse() != 3 || second.InUse() != 3 {
			t.Errorf("%d and %d bytes in use, want 3", b.InUse(), second.InUse())
		}
		if err := r.Wait(); err != nil {
			t.Fatal(err)
		}
		if b.InUse() != 0 || second.InUse() != 0 || b.Peak() != 12 {
			t.Errorf("%d and %d bytes in use in the end, peak %d", b.InUse(), second.InUse(), b.Peak())
		}
	})
}

// TestExpandedItemsShareTheLease holds the parent's bytes until the last child is written.
func TestExpandedItemsShareTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := pipeline.NewBudget(10)
		var inUse []int64
		out := sink[int]{write: func(context.Context, int) error { inUse = append(inUse, b.InUse()); return nil }}
		one := func(yield func(int, error) bool) { yield(3, nil) }
		r := pipeline.New(t.Context(), pipeline.Config{})
		st := pipeline.From(r, "source", one, pipeline.Charge(b, func(int) int64 { return 7 }))
		st2 := pipeline.FlatMap(st, expandFunc[int, int]{"expand", func(_ context.Context, n int, emit func(int) error) error {
			for i := range n {
				if err := emit(i); err != nil {
					return err
				}
			}
			return nil
		}}, pipeline.Buffer(5))
		pipeline.Into(st2, &out)
		if err := r.Wait(); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(inUse, []int64{7, 7, 7}) || b.InUse() != 0 {
			t.Errorf("in use at each write %v, in the end %d", inUse, b.InUse())
		}
	})
}

// TestExpanderDeafToEmit goes on emitting after the run has failed: every item must be released all the same.
func TestExpanderDeafToEmit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l ledger
		out := sink[*item]{write: func(context.Context, *item) error { return errBoom }}
		r := pipeline.New(t.Context(), pipeline.Config{})
		st := pipeline.FlatMap(pipeline.From(r, "source", l.source(1)),
			expandFunc[*item, *item]{"deaf", func(_ context.Context, i *item, emit func(*item) error) error {
				for id := range 10 {
					_ = emit(l.item(id))
				}
				i.Release()
				return nil
			}})
		pipeline.Into(st, &out)
		if err := r.Wait(); !errors.Is(err, errBoom) {
			t.Errorf("error %v", err)
		}
		l.check(t)
		out.check(t, 0)
	})
}

// TestBudgetSharedByRuns has a run wait for bytes of another one, once until they come and once until it is cancelled.
func TestBudgetSharedByRuns(t *testing.T) {
	for _, cancelled := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			b := pipeline.NewBudget(10)
			wire := func(ctx context.Context, l *ledger, out *sink[*item]) *pipeline.Run {
				r := pipeline.New(ctx, pipeline.Config{})
				pipeline.Into(pipeline.From(r, "source", l.source(1), pipeline.Charge(b, func(*item) int64 { return 10 })), out)
				return r
			}
			var l1, l2 ledger
			holds := sink[*item]{write: func(context.Context, *item) error { time.Sleep(time.Minute); return nil }}
			var waits sink[*item]
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			first := wire(t.Context(), &l1, &holds)
			first.Start()
			synctest.Wait()
			start := time.Now()
			second := wire(ctx, &l2, &waits)
			second.Start()
			synctest.Wait()
			if l2.made.Load() != 1 || l2.released.Load() != 0 {
				t.Fatal("the second run does not wait")
			}
			if cancelled {
				cancel(errBoom)
				if err := second.Wait(); !errors.Is(err, errBoom) || time.Since(start) != 0 {
					t.Errorf("error %v after %v", err, time.Since(start))
				}
			} else if err := second.Wait(); err != nil || time.Since(start) != time.Minute {
				t.Errorf("error %v after %v", err, time.Since(start))
			}
			if err := first.Wait(); err != nil {
				t.Error(err)
			}
			l1.check(t)
			l2.check(t)
			if b.InUse() != 0 || b.Peak() != 10 {
				t.Errorf("in use %d, peak %d", b.InUse(), b.Peak())
			}
		})
	}
}

// TestEveryWaitIsCancellable blocks a run in each kind of wait and cancels it there: it must end in no time.
func TestEveryWaitIsCancellable(t *testing.T) {
	forever := func(ctx context.Context) { <-ctx.Done() }
	stuck := stage("stuck", func(ctx context.Context, i *item) (*item, error) {
		if i.id == 0 {
			forever(ctx)
		}
		return i, nil
	})
	tests := map[string]struct {
		source, stage []pipeline.Option
		sourceStuck   bool
		sinkStuck     bool
	}{
		"receive":       {sourceStuck: true},
		"send":          {sinkStuck: true},
		"gate":          {sourceStuck: true, stage: []pipeline.Option{pipeline.Workers(4), pipeline.Ordered()}},
		"turn":          {stage: []pipeline.Option{pipeline.Workers(4), pipeline.Ordered()}},
		"source budget": {sinkStuck: true, source: []pipeline.Option{pipeline.Charge(pipeline.NewBudget(4), costOf)}},
		"stage budget": {sinkStuck: true, stage: []pipeline.Option{
			pipeline.Charge(pipeline.NewBudget(4), costOf), pipeline.Workers(3),
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				var l ledger
				var out sink[*item]
				r := pipeline.New(ctx, pipeline.Config{})
				src := l.source(100)
				st := stage("free", func(_ context.Context, i *item) (*item, error) { return i, nil })
				switch {
				case tt.sourceStuck:
					src = func(func(*item, error) bool) { forever(r.Context()) }
				case tt.sinkStuck:
					out.write = func(ctx context.Context, _ *item) error { forever(ctx); return nil }
				default:
					st = stuck
				}
				pipeline.Into(pipeline.Map(pipeline.From(r, "source", src, tt.source...), st, tt.stage...), &out)
				r.Start()
				synctest.Wait()
				start := time.Now()
				cancel(errBoom)
				if err := r.Wait(); !errors.Is(err, errBoom) || time.Since(start) != 0 {
					t.Errorf("error %v after %v", err, time.Since(start))
				}
				l.check(t)
				out.check(t, 0)
			})
		})
	}
}

// TestReceiveIsCancellable has a source that is deaf to the end of the run: Wait must wait for it, but the stages after
// it end at once, which their figures show.
func TestReceiveIsCancellable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errBoom)
		defer cancel()
		r := pipeline.New(ctx, pipeline.Config{})
		start := time.Now()
		deaf := func(func(int, error) bool) { time.Sleep(time.Hour) }
		st := pipeline.Map(pipeline.From(r, "deaf", deaf), slowStage("stage", 0), pipeline.Workers(2))
		pipeline.Into(st, slowSink(0))
		if err := r.Wait(); !errors.Is(err, errBoom) || time.Since(start) != time.Hour {
			t.Errorf("error %v after %v", err, time.Since(start))
		}
		if s := r.Stats(); s[1].WaitIn != 2*time.Second || s[2].WaitIn != time.Second {
			t.Errorf("waited %v and %v for input", s[1].WaitIn, s[2].WaitIn)
		}
	})
}

// TestNoCommitAfterUpstreamFailure fails the source while the sink writes, so that the sink sees nothing but the end
// of its input.
func TestNoCommitAfterUpstreamFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l ledger
		out := sink[*item]{write: func(context.Context, *item) error { time.Sleep(time.Second); return nil }}
		r := pipeline.New(t.Context(), pipeline.Config{})
		pipeline.Into(pipeline.From(r, "source", func(yield func(*item, error) bool) {
			if yield(l.item(0), nil) {
				yield(nil, errBoom)
			}
		}), &out)
		if err := r.Wait(); !errors.Is(err, errBoom) {
			t.Errorf("error %v", err)
		}
		out.check(t, 0)
		l.check(t)
	})
}

// TestNoCommitAfterParentCancelled cancels during the last Write, after which nothing else would notice.
func TestNoCommitAfterParentCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		var l ledger
		out := sink[*item]{write: func(context.Context, *item) error { cancel(errBoom); return nil }}
		r := pipeline.New(ctx, pipeline.Config{})
		pipeline.Into(pipeline.From(r, "source", l.source(1)), &out)
		if err := r.Wait(); !errors.Is(err, errBoom) {
			t.Errorf("error %v", err)
		}
		out.check(t, 0)
	})
}

// TestSinkWithoutCommit runs a chain that makes nothing final beside one that does, which commits when both are over.
func TestSinkWithoutCommit(t *testing.T) {
	for _, fails := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var l ledger
			written := 0
			beside := sink[*item]{write: func(context.Context, *item) error {
				time.Sleep(time.Minute) // the other chain is over long before
				if written++; fails && written == 3 {
					return errBoom
				}
				return nil
			}}
			var out sink[*item]
			r := pipeline.New(t.Context(), pipeline.Config{})
			pipeline.Into(pipeline.From(r, "beside", l.source(3)), &beside, pipeline.NoCommit())
			pipeline.Into(pipeline.From(r, "source", l.source(3)), &out)
			if err := r.Wait(); errors.Is(err, errBoom) != fails || !fails && err != nil {
				t.Errorf("error %v", err)
			}
			beside.check(t, 0)
			want := 1
			if fails {
				want = 0
			}
			out.check(t, want)
			if s := r.Stats()[1]; s.Commit != 0 || s.Items != int64(written) && !fails {
				t.Errorf("%+v", s)
			}
			l.check(t)
		})
	}
}

// TestCommittedIsSuccess cancels during Commit, whose result then decides.
func TestCommittedIsSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		var l ledger
		out := sink[*item]{commit: func(context.Context) error { cancel(errBoom); return nil }}
		r := pipeline.New(ctx, pipeline.Config{})
		pipeline.Into(pipeline.From(r, "source", l.source(1)), &out)
		if err := r.Wait(); err != nil {
			t.Errorf("error %v after a Commit that succeeded", err)
		}
		out.check(t, 1)
	})
}

// TestCloseAfterEveryStage fails the sink while a stage that is deaf to ctx still uses memory that the sink lent it.
func TestCloseAfterEveryStage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l ledger
		var inStage atomic.Int64
		out := sink[*item]{write: func(context.Context, *item) error { return errBoom }}
		out.close = func() error {
			if n := inStage.Load(); n != 0 {
				t.Errorf("Close while %d calls of Process run", n)
			}
			return nil
		}
		r := pipeline.New(t.Context(), pipeline.Config{})
		st := pipeline.Map(pipeline.From(r, "source", l.source(3)), stage("deaf", func(_ context.Context, i *item) (*item, error) {
			inStage.Add(1)
			defer inStage.Add(-1)
			if i.id > 0 {
				time.Sleep(time.Hour)
			}
			return i, nil
		}), pipeline.Workers(3))
		pipeline.Into(st, &out)
		if err := r.Wait(); !errors.Is(err, errBoom) {
			t.Errorf("error %v", err)
		}
		out.check(t, 0)
		l.check(t)
	})
}

// TestCancelBeforeCleanup has an endless source that would feed a stage that drains before it cancels forever.
func TestCancelBeforeCleanup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l ledger
		var out sink[*item]
		r := pipeline.New(t.Context(), pipeline.Config{})
		st := pipeline.Map(pipeline.From(r, "source", l.source(sourceLen)), stage("fails", func(_ context.Context, i *item) (*item, error) {
			i.Release()
			return nil, errBoom
		}))
		pipeline.Into(st, &out)
		if err := r.Wait(); !errors.Is(err, errBoom) {
			t.Errorf("error %v", err)
		}
		if made := l.made.Load(); made > 3 {
			t.Errorf("the source ran on: %d items", made)
		}
		l.check(t)
	})
}

// TestSinksCommitTogether has two chains in a Run, of which one fails long after the other is through.
func TestSinksCommitTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l ledger
		var quick, fails sink[*item]
		fails.write = func(context.Context, *item) error { time.Sleep(time.Minute); return errBoom }
		r := pipeline.New(t.Context(), pipeline.Config{})
		pipeline.Into(pipeline.From(r, "quick", l.source(3)), &quick)
		pipeline.Into(pipeline.From(r, "slow", l.source(3)), &fails)
		if err := r.Wait(); !errors.Is(err, errBoom) {
			t.Errorf("error %v", err)
		}
		quick.check(t, 0)
		fails.check(t, 0)
	})
}

// TestWiringFaults asserts that a wrong wiring is an error which says what is wrong, that nothing ran, and that the
// sinks are closed.
func TestWiringFaults(t *testing.T) {
	b := pipeline.NewBudget(10)
	intCost := pipeline.Charge(b, func(int) int64 { return 1 })
	tests := map[string]struct {
		want string
		wire func(st pipeline.Stream[*item], id pipeline.Stage[*item, *item], out *sink[*item])
	}{
		"nothing consumes": {`"id" has 0 consumers`, func(st pipeline.Stream[*item], id pipeline.Stage[*item, *item], _ *sink[*item]) {
			pipeline.Map(st, id)
		}},
		"two consume": {"2 consumers", func(st pipeline.Stream[*item], _ pipeline.Stage[*item, *item], out *sink[*item]) {
			pipeline.Into(st, &sink[*item]{})
			pipeline.Into(st, out)
		}},
		"workers": {"Workers(0)", func(st pipeline.Stream[*item], id pipeline.Stage[*item, *item], out *sink[*item]) {
			pipeline.Into(pipeline.Map(st, id, pipeline.Workers(0)), out)
		}},
		"buffer": {"Buffer(-1)", func(st pipeline.Stream[*item], id pipeline.Stage[*item, *item], out *sink[*item]) {
			pipeline.Into(pipeline.Map(st, id, pipeline.Buffer(-1)), out)
		}},
		"charge of another type": {"func(int) int64", func(st pipeline.Stream[*item], id pipeline.Stage[*item, *item], out *sink[*item]) {
			pipeline.Into(pipeline.Map(st, id, intCost), out)
		}},
		"charge into": {"not for Into", func(st pipeline.Stream[*item], _ pipeline.Stage[*item, *item], out *sink[*item]) {
			pipeline.Into(st, out, intCost)
		}},
		"charged twice": {"same budget", func(st pipeline.Stream[*item], id pipeline.Stage[*item, *item], out *sink[*item]) {
			c := pipeline.Charge(b, costOf)
			pipeline.Into(pipeline.Map(pipeline.Map(st, id, c), id, c), out)
		}},
		"measure of another type": {"func(int)", func(st pipeline.Stream[*item], _ pipeline.Stage[*item, *item], out *sink[*item]) {
			pipeline.Into(st, out, pipeline.Measure(func(int) pipeline.Work { return pipeline.Work{} }))
		}},
		"purposes of another type": {"Purposes: a func(int) int64", func(st pipeline.Stream[*item], id pipeline.Stage[*item, *item], out *sink[*item]) {
			pipeline.Into(pipeline.Map(st, id, pipeline.Charge(b, costOf), pipeline.Purposes("a", "b", func(int) int64 { return 1 })), out)
		}},
		"purposes without charge": {"without Charge", func(st pipeline.Stream[*item], id pipeline.Stage[*item, *item], out *sink[*item]) {
			pipeline.Into(pipeline.Map(st, id, pipeline.Purposes("a", "b", costOf)), out)
		}},
		"no commit of a stage": {"only for Into", func(st pipeline.Stream[*item], id pipeline.Stage[*item, *item], out *sink[*item]) {
			pipeline.Into(pipeline.Map(st, id, pipeline.NoCommit()), out)
		}},
		"ordered into": {"one worker only", func(st pipeline.Stream[*item], _ pipeline.Stage[*item, *item], out *sink[*item]) {
			pipeline.Into(st, out, pipeline.Ordered(), pipeline.Workers(2))
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var l ledger
				var out sink[*item]
				r := pipeline.New(t.Context(), pipeline.Config{})
				id := stage("id", func(_ context.Context, i *item) (*item, error) { return i, nil })
				tt.wire(pipeline.From(r, "source", l.source(3)), id, &out)
				err := r.Wait()
				if !errors.Is(err, pipeline.ErrWiring) || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("error %v, want one with %q", err, tt.want)
				}
				if l.made.Load() != 0 {
					t.Error("the source ran")
				}
				if name != "nothing consumes" {
					out.check(t, 0)
				}
			})
		})
	}
}

func TestWiringAfterStartPanics(t *testing.T) {
	var out sink[*item]
	var l ledger
	r := pipeline.New(t.Context(), pipeline.Config{})
	pipeline.Into(pipeline.From(r, "source", l.source(1)), &out)
	if err := r.Wait(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	pipeline.From(r, "late", l.source(1))
}

func TestEmptyRun(t *testing.T) {
	if err := pipeline.New(t.Context(), pipeline.Config{}).Wait(); err != nil {
		t.Error(err)
	}
}
