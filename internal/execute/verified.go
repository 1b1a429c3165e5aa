package execute

import (
	"context"
	"sync"

	"github.com/coldload/coldload/stages"
)

// Verified holds the Batches of one run back until the Shards that they read are verified, and says which Shard is to be verified next: the
// first of those that a Batch waits for, else the next in the order that it was made with, no more than some ahead of what was admitted, so that
// the page cache still holds a Shard when the Batches come that read it. It is safe for concurrent use. A nil Verified holds nothing back.
type Verified struct {
	mu      sync.Mutex
	shards  []verifying
	asked   []int32 // in the order in which Batches came to need them; some may have begun since
	order   []int32 // what is verified without being asked for; likewise
	ahead   int     // Shards that may be begun and not needed
	spare   int     // those that are
	waiting int     // Shards that were not begun
	ended   bool    // no other Batch comes, so that nothing is ahead of them
	changed chan struct{}
}

// verifying is how far one Shard is.
type verifying struct{ needed, begun, done bool }

// NewVerified is for so many Shards, of which those in order are verified whether a Batch needs them or not: as many as ahead before one does.
func NewVerified(shards int, order []int32, ahead int) *Verified {
	return &Verified{shards: make([]verifying, shards), order: order, ahead: ahead, waiting: shards, changed: make(chan struct{})}
}

// Admit returns when every Shard is verified that b reads, or with the cause when ctx ends. Whoever admits Batches calls it before each, in their
// order, and calls End after the last. It waits for nobody but the one who verifies, who waits for nobody while a Shard is asked for that was not
// begun, and b holds no memory meanwhile.
func (v *Verified) Admit(ctx context.Context, b *stages.Batch) error {
	if v == nil {
		return nil
	}
	v.mu.Lock()
	v.need(b)
	v.mu.Unlock()
	for {
		missing, changed := v.missing(b)
		if !missing {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// need notes what b reads.
func (v *Verified) need(b *stages.Batch) {
	for _, r := range b.Ranges {
		s := &v.shards[r.Shard]
		if s.needed {
			continue
		}
		s.needed = true
		if s.begun {
			v.spare--
		} else {
			v.asked = append(v.asked, r.Shard)
		}
		v.change()
	}
}

// missing reports whether b reads a Shard that is not verified, and what is closed when that may be otherwise.
func (v *Verified) missing(b *stages.Batch) (missing bool, changed <-chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, r := range b.Ranges {
		if !v.shards[r.Shard].done {
			return true, v.changed
		}
	}
	return false, nil
}

// change wakes whoever waits.
func (v *Verified) change() {
	close(v.changed)
	v.changed = make(chan struct{})
}

// End says that no other Batch comes.
func (v *Verified) End() {
	if v == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ended = true
	v.change()
}

// Next waits until another Shard is to be verified; it has begun then. There is none when ok is false. It fails with the cause when ctx ends.
func (v *Verified) Next(ctx context.Context) (shard int, ok bool, err error) {
	for {
		shard, ok, over, changed := v.begin()
		if ok || over {
			return shard, ok, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, false, context.Cause(ctx)
		}
	}
}

// begin takes the next Shard, if one may be begun now; over says that none ever may.
func (v *Verified) begin() (shard int, ok, over bool, changed <-chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	from := &v.asked
	if v.pass(from); len(v.asked) == 0 {
		from = &v.order
		if v.pass(from); len(v.order) == 0 || !v.ended && v.spare >= v.ahead {
			return 0, false, v.waiting == 0 || v.ended, v.changed
		}
		v.spare++
	}
	shard = int((*from)[0])
	v.shards[shard].begun = true
	v.waiting--
	return shard, true, false, nil
}

// pass leaves out what has begun at the beginning of a list.
func (v *Verified) pass(list *[]int32) {
	for len(*list) > 0 && v.shards[(*list)[0]].begun {
		*list = (*list)[1:]
	}
}

// Done says that a Shard is verified.
func (v *Verified) Done(shard int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.shards[shard].done = true
	v.change()
}
