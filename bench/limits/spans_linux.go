package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/sinks/discard"
)

// spans compares loads with and without spans, in turns. The first pair is dropped.
func (b *bench) spans(ctx context.Context, log io.Writer) (*spanCost, error) {
	if b.opt.spans == 0 {
		return nil, nil
	}
	c := &spanCost{Pairs: b.opt.spans}
	var ratios []float64
	for i := range b.opt.spans + 1 {
		on, off, err := b.spanPair(ctx, i%2 == 0)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			c.On, c.Off, ratios = append(c.On, on), append(c.Off, off), append(ratios, on/off)
		}
	}
	c.Ratio = spreadOf(ratios)
	fmt.Fprintf(log, "spans: %d pairs\n", c.Pairs)
	return c, nil
}

// spanPair is the processor seconds of a load with spans and of one without; which comes first changes from pair to pair.
func (b *bench) spanPair(ctx context.Context, onFirst bool) (on, off float64, err error) {
	if onFirst {
		on, err = b.cpuOf(ctx, "on")
	}
	if err == nil {
		off, err = b.cpuOf(ctx, "off")
	}
	if err == nil && !onFirst {
		on, err = b.cpuOf(ctx, "on")
	}
	return on, off, err
}

// cpuOf is the processor time of a process that loads the checkpoint, warm.
func (b *bench) cpuOf(ctx context.Context, spans string) (float64, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	release, err := hold(b.opt.reserve(small))
	if err != nil {
		return 0, err
	}
	if err := errors.Join(b.in.warm(ctx), release()); err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, self, onceCommand, spans, b.opt.path)
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("load with spans %s: %w\n%s", spans, err, out)
	}
	return (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds(), nil
}

// loadOnce loads a checkpoint and discards it, with spans that nobody takes or without: its arguments are "on" or "off", and the path.
func loadOnce(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return errors.New("once on|off CHECKPOINT")
	}
	var opt coldload.Options
	if args[0] == "on" {
		opt.TracerProvider = sdktrace.NewTracerProvider()
	}
	_, err := coldload.Load(ctx, args[1], discard.New(), opt)
	return err
}
