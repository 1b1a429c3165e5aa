package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"time"
)

// rounds runs every measure once a round, until each row has as many undisturbed rounds as are asked for, or there were too many.
func (b *bench) rounds(ctx context.Context, log io.Writer, list []measure) (all samples, err error) {
	wait := b.opt.wait
	for round := 0; round <= b.opt.most && !b.enough(round, list, all); round++ {
		disturbed, start := 0, wait
		for _, m := range turned(list, round) {
			wait -= quiet(ctx, wait)
			s, err := b.once(ctx, m)
			if err != nil {
				return all, fmt.Errorf("%s: %w", m.name, err)
			}
			s.Round = round
			if all = append(all, s); s.Disturbed != "" {
				disturbed++
			}
		}
		fmt.Fprintf(log, "round %d: %d of %d measures disturbed; waited %.0f s\n", round, disturbed, len(list), (start - wait).Seconds())
	}
	return all, nil
}

// turned begins a round at another measure than the last, so that none is always the first after the disk was busy; neighbours stay.
func turned(list []measure, round int) []measure {
	const step = 5
	at := round * step % len(list)
	return slices.Concat(list[at:], list[:at])
}

// enough reports whether every measure has its undisturbed rounds.
func (b *bench) enough(round int, list []measure, all samples) bool {
	if round <= b.opt.rounds { // round 0 is dropped
		return false
	}
	for _, m := range list {
		good := 0
		for _, s := range all.of(m.name) {
			if s.Disturbed == "" {
				good++
			}
		}
		if good < b.opt.rounds {
			return false
		}
	}
	return true
}

// What frees gigabytes is followed by the kernel's telling the hypervisor of them, two seconds later and then for some seconds. Memory that is
// held meanwhile is told too as it is released, and is gone when the run needs it: runs begun within some 5 seconds took 0.4 s more.
const (
	rest     = 14 * time.Second
	restFrom = 1 << 30 // bytes that a run needs
)

// once runs a measure once, by the method: nothing waits to be written, what is slow to start has started, files are made warm or cold, the
// machine has rested, memory is touched and released, the clock starts.
func (b *bench) once(ctx context.Context, m measure) (s sample, err error) {
	if err := b.prepare(ctx, m); err != nil {
		return s, err
	}
	before, err := look()
	if err != nil {
		return s, err
	}
	s = sample{Measure: m.name, Bytes: m.bytes}
	s.reading, err = m.run(ctx)
	after, lerr := look()
	s.Activity = after.since(before)
	s.Disturbed = s.Activity.disturbed(m.bytes)
	if m.after != nil {
		err = errors.Join(err, m.after())
	}
	return s, errors.Join(err, lerr)
}

// prepare does what comes before the clock starts.
func (b *bench) prepare(ctx context.Context, m measure) error {
	runtime.GC()
	if err := settle(b.dir); err != nil {
		return err
	}
	for _, f := range []func(context.Context) error{m.early, m.before} {
		if f == nil {
			continue
		}
		if err := f(ctx); err != nil {
			return err
		}
	}
	if m.need >= restFrom {
		if err := sleep(ctx, rest); err != nil {
			return err
		}
	}
	release, err := hold(b.opt.reserve(m.need))
	if err != nil {
		return err
	}
	return release()
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// quiet waits until others leave the machine alone, at most so long, and says how long it waited.
func quiet(ctx context.Context, most time.Duration) time.Duration {
	const window = 300 * time.Millisecond
	start := time.Now()
	for time.Since(start) < most && ctx.Err() == nil {
		a, err1 := look()
		time.Sleep(window)
		b, err2 := look()
		if err1 != nil || err2 != nil || b.since(a).disturbed(0) == "" {
			break
		}
	}
	return time.Since(start)
}
