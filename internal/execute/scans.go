package execute

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/coldload/coldload/stages"
)

// Scans holds what the scans of one run have found. It is safe for concurrent use.
type Scans struct{ list []scanned }

// scanned is the state of one scan.
type scanned struct {
	stages.Scan

	value atomic.Uint64 // at most Enough, when there is one
	ran   atomic.Int64  // Parts
	tried chan struct{} // closed when the first Parts have run, before any that is spare does
	over  sync.Once     // closes done
	done  chan struct{} // closed when all Parts have run, or enough was found
}

// NewScans begins scans, by ScanID from 1 on.
func NewScans(scans []stages.Scan) *Scans {
	s := &Scans{list: make([]scanned, len(scans))}
	for i, one := range scans {
		n := &s.list[i]
		n.Scan, n.tried, n.done = one, make(chan struct{}), make(chan struct{})
		if n.First == 0 {
			close(n.tried)
		}
		if n.Parts == 0 {
			n.end()
		}
	}
	return s
}

func (one *scanned) end() { one.over.Do(func() { close(one.done) }) }

// enough reports whether the scan has found enough.
func (one *scanned) enough() bool { return one.Enough > 0 && one.value.Load() >= one.Enough }

// Admit returns when b may be admitted, or with the cause when ctx ends. Whoever admits Batches calls it before each, in their order: it waits until
// every scan is over that a Part of b needs. The Batches of a scan need nothing but the memory that they have then, so that they come to their
// end, and b holds none while it waits. A Spare one waits for the Batches of its scan that are not. It is not needed when those or others have
// found enough: whether they have makes no difference to what the scan finds.
func (s *Scans) Admit(ctx context.Context, b *stages.Batch) (needed bool, err error) {
	if !b.Spare || len(b.Parts) == 0 {
		return true, s.wait(ctx, b)
	}
	one, err := s.of(b.Parts[0].Finds)
	if err != nil {
		return false, err
	}
	select {
	case <-one.tried:
		return !one.enough(), nil
	case <-one.done:
		return !one.enough(), nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

// wait returns when every scan is over that a Part of b needs.
func (s *Scans) wait(ctx context.Context, b *stages.Batch) error {
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
	if one.Enough > 0 {
		value = min(value, one.Enough)
	}
	for old := one.value.Load(); value > old && !one.value.CompareAndSwap(old, value); {
		old = one.value.Load()
	}
	ran := one.ran.Add(1)
	if ran == int64(one.First) {
		close(one.tried)
	}
	if ran == int64(one.Parts) || one.enough() {
		one.end()
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
