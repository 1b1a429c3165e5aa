// Package sinktest checks that a sink keeps the contract of stages.Sink. Every sink of coldload passes it, and a sink of your own should:
//
//	func TestConformance(t *testing.T) {
//		sinktest.Run(t, sinktest.Factory{New: func(tb testing.TB) sinktest.Instance {
//			return sinktest.Instance{Sink: mysink.New(tb.TempDir())}
//		}})
//	}
//
// Run it under -race too. The suite makes some hundred sinks and writes about 100 MiB through them.
package sinktest

import (
	"context"
	"testing"
	"time"

	"github.com/coldload/coldload/stages"
)

// Factory makes the sinks to test, and says what the contract leaves open.
type Factory struct {
	// New makes a fresh sink that was never begun. What it needs (a folder, a server) may be registered with tb.Cleanup.
	New func(tb testing.TB) Instance
	// Waits says that Begin, Write and Commit may wait for something (a disk, a network), so that they must return early, with an error,
	// when their context ends. Without it the suite only asks that they return.
	Waits bool
	// CommitsPartial says that Commit does not refuse when a Slab was not written, and that the sink's documentation tells so.
	CommitsPartial bool
}

// Instance is a fresh sink and what can be known about its result. Only Sink is needed; each other field adds checks.
type Instance struct {
	Sink stages.Sink
	// Read returns the committed bytes of an Output: false when there is no such Output or nothing is committed. It is called after
	// Commit, before and after Close. Nil for a sink that keeps nothing.
	Read func(name string) ([]byte, bool)
	// Visible reports whether there is anything that looks like a finished result. It is called at any time, after Close too. Nil when
	// that cannot be known.
	Visible func() bool
	// Release gives a committed result back, after Close: the end of the sink's life. Nil when there is nothing to give back.
	Release func() error
}

// Run runs every check as a subtest.
func Run(t *testing.T, f Factory) {
	t.Helper()
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			c.run(&suite{TB: t, Factory: f, patience: 30 * time.Second})
		})
	}
}

// suite is what a check works with. The checks report through the TB only, so that the suite can be tested with a TB that records.
type suite struct {
	testing.TB
	Factory
	patience time.Duration // how long a call may take that must not wait
}

// checks are in the order in which they are of use to somebody who writes a sink.
var checks = []struct {
	name string
	run  func(*suite)
}{
	{"no outputs", (*suite).noOutputs},
	{"empty outputs", (*suite).emptyOutputs},
	{"buffers are apart", (*suite).buffersAreApart},
	{"in order", (*suite).inOrder},
	{"in any order", (*suite).inAnyOrder},
	{"from several goroutines", (*suite).concurrently},
	{"many small outputs", (*suite).manySmall},
	{"invisible before commit", (*suite).invisibleBeforeCommit},
	{"abort anywhere", (*suite).abortAnywhere},
	{"abort frees", (*suite).abortFrees},
	{"incomplete commit", (*suite).incompleteCommit},
	{"ended context", (*suite).endedContext},
	{"staging figures", (*suite).stagingFigures},
	{"nothing to resume", (*suite).nothingToResume},
}

// promptly runs f, which must not wait for anything that takes long, and returns its error. It fails when f does not return in time.
func (s *suite) promptly(what string, f func(context.Context) error) error {
	s.Helper()
	ctx, cancel := context.WithCancel(s.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	select {
	case err := <-done:
		return err
	case <-time.After(s.patience):
	}
	cancel()
	select { // a call that hears of it ends before the sink is closed
	case err := <-done:
		s.Fatalf("%s has not returned after %v, only when its context ended: %v", what, s.patience, err)
	case <-time.After(s.patience):
		s.Fatalf("%s has not returned after %v, nor when its context ended", what, s.patience)
	}
	return nil
}
