package file

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// setting is how a device is read: the bytes of a request and how many requests are in flight.
type setting struct {
	block int64
	depth int64 // divides mostDepth
}

// mostDepth is the most requests in flight on a device. A request of some MiB is many commands to the disk already, so that 2 would do;
// but a request counts until its goroutine runs again, and where every processor is busy with what was read, that can take
// as long as several requests: with 4, the disk was seen to wait.
const mostDepth = 8

// settings are tried in this order; the first is kept unless another is better by clearlyBetter.
var settings = [...]setting{{8 << 20, 8}, {8 << 20, 4}, {4 << 20, 8}, {16 << 20, 8}}

const (
	// trialBytes are read with each setting. At the first of all, a disk (or the host of a virtual one) may still wake up: skipBytes.
	trialBytes = 128 << 20
	skipBytes  = 32 << 20
	// clearlyBetter is how much faster another setting must be. Two runs of the same one often differ by half as much.
	clearlyBetter = 1.1
	// smallRead is a request in bytes that is not worth a turn: it neither waits for one nor counts.
	smallRead = 1 << 20
)

// tuner learns from the reads of a load how one device likes to be read, and keeps to it. It is safe for concurrent use.
//
// The rate of a setting is bytes over the time in which any request was in flight, so that a load that waits for something else does
// not count as a slow disk. On the machines at hand one setting is as good as another (within 5 %); disks behind a network, and arrays,
// are what it is for.
type tuner struct {
	now   func() time.Time
	turns *semaphore.Weighted // of mostDepth: a request takes mostDepth / depth

	mu       sync.Mutex
	current  int // of settings
	trial    int // counts trials; the first is for warming up
	rates    [len(settings)]float64
	inFlight int
	since    time.Time     // from when on there were requests in flight, or the trial began
	busy     time.Duration // of the trial, up to since
	bytes    int64         // of the trial
}

func newTuner(now func() time.Time) *tuner {
	return &tuner{now: now, turns: semaphore.NewWeighted(mostDepth)}
}

// turn is leave to make one request.
type turn struct {
	block int64 // its most bytes, about: see bytes
	depth int64
	trial int
}

// bytes is how many of n the request is to bring: all, when the rest would be a small one of its own. A Batch is often a block and the
// padding of its ends.
func (at turn) bytes(n int64) int64 {
	if n <= at.block+at.block/4 {
		return n
	}
	return at.block
}

// begin waits for a turn to read n bytes or a part of them; the error is the cause of ctx. end must follow.
func (t *tuner) begin(ctx context.Context, n int64) (turn, error) {
	if n < smallRead {
		return turn{block: smallRead}, nil
	}
	t.mu.Lock()
	s := settings[t.current]
	t.mu.Unlock()
	if err := t.turns.Acquire(ctx, mostDepth/s.depth); err != nil {
		return turn{}, context.Cause(ctx)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.inFlight == 0 {
		t.since = t.now()
	}
	t.inFlight++
	return turn{block: s.block, depth: s.depth, trial: t.trial}, nil
}

// end says that the request brought n bytes.
func (t *tuner) end(at turn, n int64) {
	if at.depth == 0 {
		return
	}
	defer t.turns.Release(mostDepth / at.depth)
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	t.busy += now.Sub(t.since)
	t.since = now
	t.inFlight--
	if at.trial != t.trial || t.trial > len(settings) {
		return // begun under another setting, or nothing left to learn
	}
	t.bytes += n
	switch {
	case t.trial == 0 && t.bytes >= skipBytes:
		t.next(0)
	case t.trial > 0 && t.bytes >= trialBytes:
		t.rates[t.current] = float64(t.bytes) / max(t.busy.Seconds(), 1e-9)
		if t.trial < len(settings) {
			t.next(t.current + 1)
		} else {
			t.next(t.best())
		}
	}
}

// next starts a trial of a setting.
func (t *tuner) next(i int) {
	t.trial++
	t.current, t.bytes, t.busy = i, 0, 0
}

// best is the setting to keep.
func (t *tuner) best() int {
	best := 0
	for i, r := range t.rates {
		if r > t.rates[best] {
			best = i
		}
	}
	if t.rates[best] < clearlyBetter*t.rates[0] {
		return 0
	}
	return best
}

// tuners are the tuners of a Source: one for a device.
type tuners struct {
	mu       sync.Mutex
	byDevice map[uint64]*tuner
}

func newTuners() *tuners { return &tuners{byDevice: make(map[uint64]*tuner)} }

func (t *tuners) of(device uint64) *tuner {
	t.mu.Lock()
	defer t.mu.Unlock()
	one := t.byDevice[device]
	if one == nil {
		one = newTuner(time.Now)
		t.byDevice[device] = one
	}
	return one
}
