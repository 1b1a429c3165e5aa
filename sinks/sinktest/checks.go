package sinktest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/coldload/coldload/stages"
)

func (s *suite) noOutputs() { s.begin(nil).finish() }

// emptyOutputs: an Output of no bytes has no Slab, and is there all the same.
func (s *suite) emptyOutputs() {
	s.begin([]stages.Output{raw("empty.0", 0, 0), raw("empty.1", 0, 64)}).finish()
}

// buffersAreApart reserves everything before anything is written: Reserve never blocks, and no byte is handed out twice.
func (s *suite) buffersAreApart() {
	l := s.begin(various())
	buffers := make([][]byte, len(l.slabs))
	s.must(s.promptly("Reserve of every slab before the first Write", func(ctx context.Context) (err error) {
		for i, slab := range l.slabs {
			if buffers[i], err = l.reserve(ctx, slab); err != nil {
				return err
			}
			pattern(slab, buffers[i])
		}
		return nil
	}))
	for i, slab := range l.slabs {
		want := make([]byte, slab.Len)
		pattern(slab, want)
		if !bytes.Equal(buffers[i], want) {
			s.Fatalf("%s shares memory with another slab", l.title(slab))
		}
	}
	for i, slab := range l.slabs {
		s.must(l.write(slab, buffers[i]))
	}
	l.finish()
}

func (s *suite) inOrder() {
	l := s.begin(various())
	for _, slab := range l.slabs {
		s.must(l.pass(slab))
	}
	l.finish()
}

// inAnyOrder shuffles the reserves, and the writes once more.
func (s *suite) inAnyOrder() {
	l := s.begin(various())
	rng := rand.New(rand.NewPCG(1, 2))
	rng.Shuffle(len(l.slabs), func(i, j int) { l.slabs[i], l.slabs[j] = l.slabs[j], l.slabs[i] })
	held := make(map[stages.Slab][]byte)
	for _, slab := range l.slabs {
		b, err := l.reserve(l.Context(), slab)
		s.must(err)
		pattern(slab, b)
		held[slab] = b
		if rng.IntN(3) == 0 {
			s.must(l.writeAll(held))
		}
	}
	s.must(l.writeAll(held))
	l.finish()
}

// writeAll writes and forgets what is held, in the order of the map: none.
func (l *load) writeAll(held map[stages.Slab][]byte) error {
	for slab, b := range held {
		if err := l.write(slab, b); err != nil {
			return err
		}
	}
	clear(held)
	return nil
}

// concurrently lets goroutines hold several Slabs each while others reserve and write theirs.
func (s *suite) concurrently() {
	const workers, batch = 8, 5
	l := s.begin(append(various(), small(200)...))
	var g errgroup.Group
	for w := range workers {
		g.Go(func() error {
			var mine []stages.Slab
			for i := w; i < len(l.slabs); i += workers {
				mine = append(mine, l.slabs[i])
			}
			for some := range slices.Chunk(mine, batch) {
				if err := l.passBatch(some); err != nil {
					return err
				}
			}
			return nil
		})
	}
	s.must(g.Wait())
	l.finish()
}

// passBatch does what the stages do with one Batch.
func (l *load) passBatch(slabs []stages.Slab) error {
	held := make(map[stages.Slab][]byte, len(slabs))
	for _, slab := range slabs {
		b, err := l.reserve(l.Context(), slab)
		if err != nil {
			return err
		}
		pattern(slab, b)
		held[slab] = b
	}
	return l.writeAll(held)
}

func (s *suite) manySmall() {
	l := s.begin(small(2000))
	for some := range slices.Chunk(l.slabs, 128) {
		s.must(l.passBatch(some))
	}
	l.finish()
}

func (s *suite) invisibleBeforeCommit() {
	l := s.begin(few())
	if l.Visible == nil {
		s.Skip("the sink's result cannot be looked for")
	}
	for _, slab := range l.slabs {
		s.must(l.pass(slab))
		if l.Visible() {
			s.Fatalf("something looks finished before Commit, after %s", l.title(slab))
		}
	}
	l.finish()
}

// abortAnywhere closes after every prefix of a load, starting with the empty one, where even Begin was not called.
func (s *suite) abortAnywhere() {
	leaks := goleak.IgnoreCurrent()
	orders := map[string]func(*load) []func() error{"each slab on its own": (*load).oneByOne, "all reserved first": (*load).reservedFirst}
	for order, steps := range orders {
		n := len(steps(&load{suite: s, slabs: slabsOf(few())}))
		for after := range n + 1 {
			l := s.fresh(few())
			for _, step := range steps(l)[:after] {
				s.must(step())
			}
			l.abort(fmt.Sprintf("%s, aborted after %d of %d steps", order, after, n))
		}
	}
	goleak.VerifyNone(s, leaks)
}

func (l *load) oneByOne() []func() error {
	steps := []func() error{l.start}
	for _, slab := range l.slabs {
		var b []byte
		steps = append(steps,
			func() (err error) { b, err = l.reserve(l.Context(), slab); return err },
			func() error { pattern(slab, b); return l.write(slab, b) })
	}
	return steps
}

func (l *load) reservedFirst() []func() error {
	steps := []func() error{l.start}
	buffers := make([][]byte, len(l.slabs))
	for i, slab := range l.slabs {
		steps = append(steps, func() (err error) { buffers[i], err = l.reserve(l.Context(), slab); return err })
	}
	for i, slab := range l.slabs {
		steps = append(steps, func() error { pattern(slab, buffers[i]); return l.write(slab, buffers[i]) })
	}
	return steps
}

func (l *load) start() error { return l.Sink.Begin(l.Context(), l.outputs) }

// incompleteCommit leaves one Slab out: not reserved, or reserved and not written.
func (s *suite) incompleteCommit() {
	if s.CommitsPartial {
		s.Skip("the sink does not look for missing slabs")
	}
	for _, missing := range []int{0, 3, len(slabsOf(few())) - 1} {
		for _, reserved := range []bool{false, true} {
			l := s.begin(few())
			for i, slab := range l.slabs {
				if i != missing {
					s.must(l.pass(slab))
				} else if reserved {
					_, err := l.reserve(l.Context(), slab)
					s.must(err)
				}
			}
			if l.Sink.Commit(l.Context()) == nil {
				s.Errorf("Commit succeeded without %s (reserved: %v)", l.title(l.slabs[missing]), reserved)
				l.close()
				l.release()
				continue
			}
			l.abort("after a refused Commit")
		}
	}
}

// endedContext gives one call a context that has ended. All calls return; those that may wait return its error.
func (s *suite) endedContext() {
	ctx, cancel := context.WithCancelCause(s.Context())
	cancel(errors.New("sinktest: the load was cancelled"))

	l := s.fresh(few())
	s.refuses("Begin", func() error { return l.Sink.Begin(ctx, l.outputs) })
	l.abort("Begin with an ended context")

	l = s.begin(few())
	_ = s.promptly("Reserve with an ended context", func(context.Context) error { _, err := l.Sink.Reserve(ctx, l.slabs[0]); return err })
	l.abort("Reserve with an ended context")

	l = s.begin(few())
	b, err := l.reserve(l.Context(), l.slabs[0])
	s.must(err)
	s.refuses("Write", func() error { return l.Sink.Write(ctx, l.slabs[0], b) })
	l.abort("Write with an ended context")

	l = s.begin(few())
	for _, slab := range l.slabs {
		s.must(l.pass(slab))
	}
	if s.refuses("Commit", func() error { return l.Sink.Commit(ctx) }) {
		l.abort("Commit with an ended context")
		return
	}
	l.close()
	l.release()
}

// refuses makes a call with an ended context. It is true when the call failed, as it must where it may wait.
func (s *suite) refuses(name string, call func() error) bool {
	s.Helper()
	err := s.promptly(name+" with an ended context", func(context.Context) error { return call() })
	if s.Waits && err == nil {
		s.Errorf("%s with an ended context succeeded", name)
	}
	return err != nil
}

// nothingToResume: a fresh sink has no Output yet.
func (s *suite) nothingToResume() {
	l := s.begin(few())
	r, ok := l.Sink.(stages.Resumer)
	if !ok {
		s.Skip("the sink is no Resumer")
	}
	for _, o := range l.outputs {
		if o.Size > 0 && r.Done(o) {
			s.Errorf("a fresh sink says that %s is done", o.Name)
		}
	}
	l.abort("after Done")
}
