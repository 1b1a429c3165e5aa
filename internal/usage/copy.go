package usage

import (
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/coldload/coldload/internal/offheap"
	"github.com/coldload/coldload/pipeline"
)

// How CopySpeed measures: each processor copies a block that is larger than the caches near it, there and back a few times. Memory that was
// never written to is one page of zeros, read from the cache: so the first two rounds only bring both halves in.
const (
	copyBlock  = 16 << 20
	copyRounds = 5
)

// CopySpeed copies memory on all processors at once for some milliseconds, within about the given number of bytes of memory, and returns
// the bytes per second that were read and written together at best. It returns 0 when there is too little memory to tell.
func CopySpeed(ctx context.Context, memory int64) (speed float64, err error) {
	n := max(1, min(int64(runtime.GOMAXPROCS(0)), memory/(2*copyBlock)))
	if memory < 2*copyBlock {
		return 0, nil
	}
	region, err := offheap.Alloc(2 * n * copyBlock)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, region.Free()) }()
	pairs := make([]pair, n)
	for i := range pairs {
		both := region.Bytes()[2*i*copyBlock:]
		pairs[i] = pair{to: both[:copyBlock], from: both[copyBlock:][:copyBlock]}
	}
	return fastest(ctx, pairs)
}

// fastest copies all pairs there and back, and returns how many bytes per second were read and written together in the best round that counts.
func fastest(ctx context.Context, pairs []pair) (speed float64, err error) {
	moved := 0
	for _, p := range pairs {
		moved += 2 * len(p.to)
	}
	for round := range copyRounds {
		start := time.Now()
		if err := copyAll(ctx, pairs); err != nil {
			return 0, err
		}
		if round >= 2 {
			speed = max(speed, float64(moved)/time.Since(start).Seconds())
		}
		turn(pairs)
	}
	return speed, nil
}

// turn makes the next copy go the other way.
func turn(pairs []pair) {
	for i, p := range pairs {
		pairs[i] = pair{to: p.from, from: p.to}
	}
}

// pair is a block and where it is copied to.
type pair struct{ to, from []byte }

// copyAll copies every pair, all at once.
func copyAll(ctx context.Context, pairs []pair) error {
	run := pipeline.New(ctx, pipeline.Config{})
	blocks := pipeline.From(run, "blocks", func(yield func(pair, error) bool) {
		for _, p := range pairs {
			if !yield(p, nil) {
				return
			}
		}
	})
	pipeline.Into(blocks, copier{}, pipeline.Workers(len(pairs)))
	return run.Wait()
}

// copier is the sink that copies.
type copier struct{}

func (copier) Name() string { return "copy" }

func (copier) Write(_ context.Context, p pair) error {
	copy(p.to, p.from)
	return nil
}

func (copier) Commit(context.Context) error { return nil }
func (copier) Close() error                 { return nil }
