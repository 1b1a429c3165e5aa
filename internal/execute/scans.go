package execute

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/coldload/coldload/stages"
)

// Scans holds what the scans of one run have found. It is safe for concurrent use.
type Scans struct{ list []scanned }

// scanned is the state of one scan.
type scanned struct {
	value atomic.Uint64
	left  atomic.Int64
	done  chan struct{} // closed when left is 0
}

// NewScans begins scans of so many Parts each, by ScanID from 1 on.
func NewScans(parts []int) *Scans {
	s := &Scans{list: make([]scanned, len(parts))}
	for i, n := range parts {
		s.list[i].left.Store(int64(n))
		s.list[i].done = make(chan struct{})
		if n == 0 {
			close(s.list[i].done)
		}
	}
	return s
}

// Wait returns when every scan is over that a Part of b needs, or with the cause when ctx ends. Whoever admits Batches calls it before it
// admits b: the Batches of a scan need nothing but the memory that they have then, so that they come to their end, and b holds none while it
// waits.
func (s *Scans) Wait(ctx context.Context, b *stages.Batch) error {
	for i := range b.Parts {
		id := b.Parts[i].Needs
		if id == stages.NoScan {
			continue
		}
		one, err := s.of(id)
		if err != nil {
			return err
		}
		select {
		case <-one.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// of is the state of a scan; a Batch that names another than the run has is a fault of who made it.
func (s *Scans) of(id stages.ScanID) (*scanned, error) {
	if s == nil || id < 1 || int(id) > len(s.list) {
		return nil, fmt.Errorf("scan %d is none of this load's", id)
	}
	return &s.list[id-1], nil
}

// found takes what one Part of a scan found.
func (s *Scans) found(id stages.ScanID, value uint64) error {
	one, err := s.of(id)
	if err != nil {
		return err
	}
	for old := one.value.Load(); value > old && !one.value.CompareAndSwap(old, value); {
		old = one.value.Load()
	}
	if one.left.Add(-1) == 0 {
		close(one.done)
	}
	return nil
}

// value is what a scan found. It is an error before the scan is over.
func (s *Scans) value(id stages.ScanID) (uint64, error) {
	one, err := s.of(id)
	if err != nil {
		return 0, err
	}
	select {
	case <-one.done:
		return one.value.Load(), nil
	default:
		return 0, fmt.Errorf("scan %d is not over", id)
	}
}
