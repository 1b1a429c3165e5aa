package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"
)

// Run is one execution of one or more chains of stages. It owns every goroutine, channel and queued item of them.
//
// Wire a Run from one goroutine: [From], then [Map] and [FlatMap], then [Into]. Nothing runs until Start or Wait, and
// wiring after that panics. A Run is used once.
type Run struct {
	ctx    context.Context //nolint:containedctx // the Run is the scope that this context stands for; it ends with Wait
	cancel context.CancelCauseFunc
	cfg    Config
	tracer trace.Tracer
	epoch  time.Time // origin of the stages' times; keeps the monotonic clock

	mu      sync.Mutex
	started bool
	nodes   []*node
	edges   []*edge
	sinks   []finisher
	launch  []func() // starts one stage each
	faults  []error
	culprit *node // the stage whose error became the cause

	stopGauges func() // set by Start

	stages errgroup.Group // every goroutine that runs user code for items
	last   errgroup.Group // the one that ends the run, after those
}

// finisher is what the Run needs of a sink, whatever its item type.
type finisher struct {
	*node
	commit func(context.Context) error
	close  func() error
}

// New returns an empty Run under ctx, whose end cancels the run and whose span becomes the parent of the stages'
// spans. Call Wait in the end: it closes the sinks.
func New(ctx context.Context, cfg Config) *Run {
	cfg = cfg.withDefaults()
	r := &Run{cfg: cfg, tracer: cfg.TracerProvider.Tracer(scope), epoch: time.Now()}
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	return r
}

// Context returns the context of the run, which ends with the run's first error as its cause. Stages and sinks are
// given it; a source that can block should watch it, since [From] cannot interrupt an iterator.
func (r *Run) Context() context.Context { return r.ctx }

// Start starts the stages and returns; use it to do something else before Wait. Further calls do nothing. Errors,
// those of wiring included, come from Wait.
func (r *Run) Start() {
	r.mu.Lock()
	begin := !r.started
	r.started = true
	r.mu.Unlock()
	if !begin {
		return
	}
	r.stopGauges = r.observeGauges() // before the first item: it may be looked at
	if err := r.wiringFault(); err != nil {
		r.cancel(err)
	} else {
		for _, launch := range r.launch {
			launch()
		}
	}
	r.last.Go(r.finish)
}

// Wait starts the stages unless Start did, and returns when every goroutine of the run has returned, every item is
// released and every sink is closed. It may be called more than once and by several goroutines.
//
// The result is nil only if every sink has committed and closed without error. Otherwise it is the first cause: a
// [StageError], a [PanicError], an [ErrWiring], or the cause of the end of the context given to [New]. Once a sink has
// committed, the end of that context does no harm to it; with several sinks, which commit in the order of their wiring, it can still stop the next
// one's Commit.
func (r *Run) Wait() error {
	r.Start()
	return r.last.Wait()
}

// Stats returns the figures of every stage, in the order in which they were wired. It may be called at any time, by
// any goroutine; while the run goes on, the figures are recent but not of one moment.
func (r *Run) Stats() []StageStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	stats := make([]StageStats, len(r.nodes))
	for i, n := range r.nodes {
		stats[i] = n.stats()
	}
	return stats
}

// fail makes err the cause of the run, which cancels every wait in it, and returns err. A later error than the first
// is only logged.
func (r *Run) fail(n *node, err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if cause := context.Cause(r.ctx); cause != nil {
		r.logSecondary(n, err, cause)
		return err
	}
	r.culprit = n
	r.cancel(err)
	return err
}

// logSecondary leaves out the errors that only say that the run was cancelled.
func (r *Run) logSecondary(n *node, err, cause error) {
	if errors.Is(err, cause) || errors.Is(err, context.Canceled) {
		return
	}
	r.cfg.Logger.LogAttrs(r.ctx, slog.LevelWarn, "error after the run had failed",
		slog.String("stage", n.name), slog.Any("error", err))
}

// isCulprit reports whether the run's cause came from n.
func (r *Run) isCulprit(n *node) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.culprit == n
}

// finish ends the run. Everything here waits for the last stage goroutine of all chains, because a stage may write
// into memory that a sink owns, and because no sink may commit what another chain can still spoil.
func (r *Run) finish() error {
	defer r.cancel(nil)
	_ = r.stages.Wait() // the cause, not the first to return, is what happened
	r.stopGauges()
	for _, e := range r.edges {
		e.drain()
	}
	err := r.commit()
	for _, s := range r.sinks {
		if closeErr := isolate(s.name, itemClose, s.close); closeErr != nil {
			err = r.closeFailed(s.node, err, closeErr)
		}
	}
	return err
}

// commit commits the sinks, unless the run has failed or its parent has ended.
func (r *Run) commit() error {
	if len(r.sinks) == 0 {
		return context.Cause(r.ctx)
	}
	for _, s := range r.sinks {
		if cause := context.Cause(r.ctx); cause != nil {
			return cause
		}
		if s.opts.noCommit {
			continue
		}
		if err := s.timedCommit(s.commit); err != nil {
			_ = r.fail(s.node, err)
			return context.Cause(r.ctx)
		}
	}
	return nil
}

// closeFailed returns the result of a run that had come to result when the sink n failed to close.
func (r *Run) closeFailed(n *node, result, closeErr error) error {
	if result == nil {
		return closeErr
	}
	r.logSecondary(n, closeErr, result)
	return result
}

// isolate calls f in a goroutine of its own, so that neither a panic nor a Goexit in it keeps the run from ending.
func isolate(stage, item string, f func() error) error {
	result := error(&StageError{Stage: stage, Item: item, Err: ErrGoexit}) // unless f returns or panics
	var g errgroup.Group
	g.Go(func() error {
		defer func() {
			if v := recover(); v != nil {
				result = crash(stage, item, v)
			}
		}()
		err := f()
		if err != nil {
			err = &StageError{Stage: stage, Item: item, Err: err}
		}
		result = err
		return nil
	})
	_ = g.Wait()
	return result
}

// wiringFault returns all that is wrong with the wiring in one error.
func (r *Run) wiringFault() error {
	faults := r.faults
	for _, e := range r.edges {
		if e.consumers != 1 {
			faults = append(faults, fmt.Errorf("the stream of %q has %d consumers instead of one", e.from, e.consumers))
		}
	}
	if len(faults) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrWiring, errors.Join(faults...))
}

// register adds a stage to a Run that has not started.
func (r *Run) register(name string, opts []Option) *node {
	n := newNode(r, name, resolve(opts))
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.started {
		panic(fmt.Sprintf("pipeline: stage %q wired after the start of its Run", name))
	}
	r.nodes = append(r.nodes, n)
	if n.opts.workers < 1 {
		n.fault("Workers(%d): at least one is needed", n.opts.workers)
	}
	if n.opts.buffer < 0 {
		n.fault("Buffer(%d): not a length", n.opts.buffer)
	}
	return n
}
