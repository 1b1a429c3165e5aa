package pipeline

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

// Budget bounds the bytes that the items in flight hold. Items wait for it, first come first served, where a stage
// was wired with [Charge]; each item's share returns when the item leaves the pipeline.
//
// A Budget may serve several Runs at the same time. Where items take from more than one Budget, every chain of stages
// must take from them in the same order, or two items can wait for each other. A large item waits for enough room
// while smaller ones queue behind it, so give giants a Budget of their own.
type Budget struct {
	size int64
	sem  *semaphore.Weighted
	used atomic.Int64
	peak atomic.Int64
	part atomic.Int64 // of those in use, for the purpose that Purposes tells apart
}

// NewBudget returns a Budget of size bytes. A size below one admits only items of no cost.
func NewBudget(size int64) *Budget {
	size = max(size, 0)
	return &Budget{size: size, sem: semaphore.NewWeighted(size)}
}

// Size returns the bytes that may be in use at the same time.
func (b *Budget) Size() int64 { return b.size }

// InUse returns the bytes in use now. It is zero whenever no Run that charges b is between its start and the return
// of [Run.Wait].
func (b *Budget) InUse() int64 { return b.used.Load() }

// Peak returns the most bytes that were ever in use together; never more than Size.
func (b *Budget) Peak() int64 { return b.peak.Load() }

// acquire waits until n bytes are free or ctx ends, and reports how long it waited.
func (b *Budget) acquire(ctx context.Context, n int64) (*lease, time.Duration, error) {
	switch {
	case n < 0:
		return nil, 0, fmt.Errorf("%w: %d bytes", ErrNegativeCost, n)
	case n > b.size: // the semaphore would block until ctx ends
		return nil, 0, fmt.Errorf("%w: it needs %d of %d bytes", ErrOverBudget, n, b.size)
	case n == 0: // must not queue behind waiters for bytes that it does not need
		return nil, 0, nil
	}
	var waited time.Duration
	if !b.sem.TryAcquire(n) {
		start := time.Now()
		err := b.sem.Acquire(ctx, n)
		waited = time.Since(start)
		if err != nil {
			return nil, waited, context.Cause(ctx)
		}
	}
	raise(&b.peak, b.used.Add(n))
	l := &lease{budget: b, bytes: n}
	l.holders.Store(1)
	return l, waited, nil
}

// giveBack lowers the figure before the semaphore lets a waiter in, so that InUse and Peak never exceed Size.
func (b *Budget) giveBack(n int64) {
	b.used.Add(-n)
	b.sem.Release(n)
}

// raise lifts v to at least x.
func raise(v *atomic.Int64, x int64) {
	old := v.Load()
	for x > old && !v.CompareAndSwap(old, x) {
		old = v.Load()
	}
}

// lease is an item's share of a Budget. It only ever shrinks: an item that asked for more while others wait could wait
// forever. The items that an Expander makes of one share its lease, and the last of them returns it.
type lease struct {
	budget  *Budget
	bytes   int64
	part    int64 // counted in the Budget's part
	holders atomic.Int32
	outer   *lease // what the same item had taken before from another Budget; nil for most
}

// setApart counts n bytes of the lease, until its end, for the purpose that Purposes tells apart.
func (l *lease) setApart(n int64) {
	l.part = n
	l.budget.part.Add(n)
}

// retain adds a holder; only a holder may call it.
func (l *lease) retain() *lease {
	if l != nil {
		l.holders.Add(1)
	}
	return l
}

// release ends the part of one holder.
func (l *lease) release() {
	for ; l != nil && l.holders.Add(-1) == 0; l = l.outer {
		l.budget.part.Add(-l.part)
		l.budget.giveBack(l.bytes)
	}
}

// shrink returns what exceeds held. A shared lease keeps its size: no one holder knows what the others need.
func (l *lease) shrink(held int64) {
	held = max(held, 0)
	for ; l != nil && l.holders.Load() == 1; l = l.outer {
		if surplus := l.bytes - held; surplus > 0 {
			l.bytes = held
			l.budget.giveBack(surplus)
		}
	}
}
