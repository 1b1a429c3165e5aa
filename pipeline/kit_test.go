package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/coldload/coldload/pipeline"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errBoom = errors.New("boom")

// ledger follows items from birth to release.
type ledger struct {
	made, released, twice atomic.Int64
	bytes, peak           atomic.Int64 // admitted and not released, counted without the Budget
}

// check fails the test unless every item was released exactly once.
func (l *ledger) check(t *testing.T) {
	t.Helper()
	if made, released, twice := l.made.Load(), l.released.Load(), l.twice.Load(); made != released || twice != 0 {
		t.Errorf("%d items made, %d released, %d of them twice", made, released, twice)
	}
	if b := l.bytes.Load(); b != 0 {
		t.Errorf("%d admitted bytes not released", b)
	}
}

// item is a test item that counts its releases and names itself.
type item struct {
	id       int
	cost     int64
	held     atomic.Int64
	admitted atomic.Bool
	freed    atomic.Bool
	ledger   *ledger
}

func (l *ledger) item(id int) *item {
	l.made.Add(1)
	i := &item{id: id, cost: int64(1 + id%7), ledger: l}
	i.held.Store(i.cost)
	return i
}

func (i *item) Release() {
	if !i.freed.CompareAndSwap(false, true) {
		i.ledger.twice.Add(1)
		return
	}
	i.ledger.released.Add(1)
	if i.admitted.Load() {
		i.ledger.bytes.Add(-i.cost)
	}
}

func (i *item) HeldBytes() int64 { return i.held.Load() }
func (i *item) ItemName() string { return fmt.Sprintf("item-%d", i.id) }

// admit notes that the item has passed its admission.
func (i *item) admit() {
	i.admitted.Store(true)
	raise(&i.ledger.peak, i.ledger.bytes.Add(i.cost))
}

// raise lifts v to at least x.
func raise(v *atomic.Int64, x int64) {
	old := v.Load()
	for x > old && !v.CompareAndSwap(old, x) {
		old = v.Load()
	}
}

func costOf(i *item) int64 { return i.cost }

func (l *ledger) source(n int) iter.Seq2[*item, error] {
	return func(yield func(*item, error) bool) {
		for id := range n {
			if !yield(l.item(id), nil) {
				return
			}
		}
	}
}

// stageFunc makes a Stage of a function.
type stageFunc[In, Out any] struct {
	name string
	do   func(context.Context, In) (Out, error)
}

func (s stageFunc[In, Out]) Name() string { return s.name }
func (s stageFunc[In, Out]) Process(ctx context.Context, in In) (Out, error) {
	return s.do(ctx, in)
}

func stage(name string, do func(context.Context, *item) (*item, error)) pipeline.Stage[*item, *item] {
	return stageFunc[*item, *item]{name, do}
}

type expandFunc[In, Out any] struct {
	name string
	do   func(context.Context, In, func(Out) error) error
}

func (s expandFunc[In, Out]) Name() string { return s.name }
func (s expandFunc[In, Out]) Expand(ctx context.Context, in In, emit func(Out) error) error {
	return s.do(ctx, in, emit)
}

// sink is a Sink that notes all calls; the functions, where set, decide the results.
type sink[T any] struct {
	write  func(context.Context, T) error
	commit func(context.Context) error
	close  func() error

	mu                 sync.Mutex
	got                []T
	commits, closes    int
	commitAfterClose   bool
	writeAfterCommit   bool
	writeOrCommitAfter bool // a Write or Commit came after Close
}

func (s *sink[T]) Name() string { return "sink" }

func (s *sink[T]) Write(ctx context.Context, v T) error {
	var err error
	if s.write != nil {
		err = s.write(ctx, v) // not under mu: waiting for a mutex is not durably blocking in a bubble
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writeAfterCommit = s.writeAfterCommit || s.commits > 0
	s.writeOrCommitAfter = s.writeOrCommitAfter || s.closes > 0
	if err == nil {
		s.got = append(s.got, v)
	}
	return err
}

func (s *sink[T]) Commit(ctx context.Context) error {
	s.mu.Lock()
	s.commits++
	s.commitAfterClose = s.commitAfterClose || s.closes > 0
	s.mu.Unlock()
	if s.commit != nil {
		return s.commit(ctx)
	}
	return nil
}

func (s *sink[T]) Close() error {
	s.mu.Lock()
	s.closes++
	s.mu.Unlock()
	if s.close != nil {
		return s.close()
	}
	return nil
}

// check fails the test unless the sink was closed once and last, and committed as often as wanted.
func (s *sink[T]) check(t *testing.T, commits int) {
	t.Helper()
	if s.commits != commits || s.closes != 1 {
		t.Errorf("Commit called %d times, want %d; Close %d times, want 1", s.commits, commits, s.closes)
	}
	if s.writeAfterCommit || s.commitAfterClose || s.writeOrCommitAfter {
		t.Error("Write, Commit and Close out of order")
	}
}

func ids(items []*item) []int {
	out := make([]int, len(items))
	for i, it := range items {
		out[i] = it.id
	}
	return out
}

// nap sleeps up to 50 ms; it releases the item if the run ends meanwhile.
func nap(rng *lockedRand) func(context.Context, *item) (*item, error) {
	return func(ctx context.Context, i *item) (*item, error) {
		if err := sleep(ctx, time.Duration(rng.IntN(50))*time.Millisecond); err != nil {
			i.Release()
			return nil, err
		}
		return i, nil
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// lockedRand is a seeded source of randomness for several goroutines.
type lockedRand struct {
	mu  sync.Mutex
	rng *rand.Rand
}

func newRand(seed uint64) *lockedRand { return &lockedRand{rng: rand.New(rand.NewPCG(seed, 1))} }

func (r *lockedRand) IntN(n int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rng.IntN(n)
}

// misbehave fails in one of the ways in which user code can.
func misbehave(mode string) error {
	switch mode {
	case "panic":
		panic(errBoom)
	case "goexit":
		runtime.Goexit()
	}
	return errBoom
}

// wantError fails the test unless err is what misbehave(mode) must become, with the stage's name in it.
func wantError(t *testing.T, err error, mode, stage string) {
	t.Helper()
	var gotStage string
	var ok bool
	switch mode {
	case "panic":
		p, isPanic := errors.AsType[*pipeline.PanicError](err)
		if ok = isPanic && errors.Is(err, errBoom) && len(p.Stack) > 0; ok {
			gotStage = p.Stage
		}
	default:
		want := map[string]error{"error": errBoom, "goexit": pipeline.ErrGoexit, "oversize": pipeline.ErrOverBudget}[mode]
		s, isStage := errors.AsType[*pipeline.StageError](err)
		if ok = isStage && errors.Is(err, want); ok {
			gotStage = s.Stage
		}
	}
	if !ok || gotStage != stage {
		t.Errorf("error %v (%T), want a %s of stage %q", err, err, mode, stage)
	}
}

func wantOrder(t *testing.T, got []int, n int) {
	t.Helper()
	if len(got) != n || !slices.IsSorted(got) {
		t.Errorf("%d of %d items, in order: %v", len(got), n, slices.IsSorted(got))
	}
}
