// Package discard computes a whole load and keeps nothing of it: for measurements, and for a run that only checks. Every Slab gets a
// buffer outside the Go heap, which goes back to a pool when the Slab is written.
package discard

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"unsafe"

	"github.com/coldload/coldload/internal/staging"
	"github.com/coldload/coldload/stages"
)

// ErrIncomplete is returned by Commit when a Slab was not written.
var ErrIncomplete = errors.New("result is incomplete")

// Sink is a stages.Sink and a stages.Stager without a result. It does no I/O and never waits but for its own short lock.
//
// Memory. A Slab is charged what its buffer takes: its length, rounded up to 64 bytes and by at most a fifth of the buffer. Buffers up to
// 64 KiB are cut from regions of 64 KiB to 1 MiB, larger ones are regions of their own. A region without a Slab in it is idle and is used
// again, so that a Slab costs no system call. Never more than 16 MiB are idle, and no large region is mapped while idle ones would take
// the Sink past the largest sum of charges that was ever in force at once: those that were idle longest are freed first. So the Sink holds
// at most the charges in force, plus 16 MiB, plus the unused part of regions with small Slabs in them.
type Sink struct {
	mu      sync.Mutex // guards all below but outputs
	outputs []stages.Output
	begun   bool
	closed  bool
	pool    *staging.Pool
	held    map[slabID]staging.Block
	left    int64 // Slabs not yet written
	slabs   int64
	bytes   int64
}

// slabID tells Slabs apart.
type slabID struct{ output, index int }

var (
	_ stages.Sink   = (*Sink)(nil)
	_ stages.Stager = (*Sink)(nil)
)

// New makes a Sink for one load. It holds nothing before the first Reserve.
func New() *Sink { return &Sink{pool: staging.New(), held: make(map[slabID]staging.Block)} }

// Name is "discard", for spans.
func (*Sink) Name() string { return "discard" }

// Begin keeps the slice of outputs, which must not change until Close. It refuses an Output with bytes and without a slab size, a second
// call, and a context that has ended.
func (s *Sink) Begin(ctx context.Context, outputs []stages.Output) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.begun || s.closed {
		return errors.New("discard: Begin on a sink that was used before")
	}
	var faults []stages.Fault
	for i := range outputs {
		o := &outputs[i]
		if o.Size < 0 || o.Size > 0 && o.SlabBytes <= 0 {
			faults = append(faults, stages.Fault{
				Code: stages.CodeSink, Tensor: o.Name,
				Problem: fmt.Sprintf("sizes that cannot be: %d bytes, slabs of %d", o.Size, o.SlabBytes),
			})
			continue
		}
		s.left += int64(o.Slabs())
	}
	s.outputs, s.begun = outputs, true
	return stages.Refuse(faults...)
}

// StagingBytes is the size of the buffer that Reserve will hand out for the Slab, in bytes.
func (s *Sink) StagingBytes(slab stages.Slab) int64 { return staging.BlockBytes(slab.Len) }

// Reserve hands out a buffer of slab.Len bytes. It holds anything: buffers are used again and not cleared. It never blocks on memory and
// does not look at the context. It fails for a Slab that does not exist or is reserved now, and when the system gives no memory.
func (s *Sink) Reserve(_ context.Context, slab stages.Slab) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.check(slab); err != nil {
		return nil, fmt.Errorf("discard: reserve: %w", err)
	}
	id := slabID{slab.Output, slab.Index}
	if _, ok := s.held[id]; ok {
		return nil, fmt.Errorf("discard: reserve: slab %d of %s is reserved already", slab.Index, s.outputs[slab.Output].Name)
	}
	b, err := s.pool.Get(slab.Len)
	if err != nil {
		return nil, fmt.Errorf("discard: reserve slab %d of %s: %w", slab.Index, s.outputs[slab.Output].Name, err)
	}
	s.held[id] = b
	return b.Bytes(slab.Len), nil
}

// Write counts the Slab and takes its buffer back. b is what Reserve gave for it; anything else is an error. It does not look at the
// context.
func (s *Sink) Write(_ context.Context, slab stages.Slab, b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.check(slab); err != nil {
		return fmt.Errorf("discard: write: %w", err)
	}
	id := slabID{slab.Output, slab.Index}
	mine, ok := s.held[id]
	if !ok {
		return fmt.Errorf("discard: write: slab %d of %s is not reserved", slab.Index, s.outputs[slab.Output].Name)
	}
	if want := mine.Bytes(slab.Len); len(b) != len(want) || unsafe.SliceData(b) != unsafe.SliceData(want) {
		return fmt.Errorf("discard: write: slab %d of %s: these are not the bytes that Reserve gave", slab.Index, s.outputs[slab.Output].Name)
	}
	delete(s.held, id)
	s.left--
	s.slabs++
	s.bytes += slab.Len
	return s.pool.Put(mine)
}

// check says whether the Slab exists and the Sink takes Slabs now.
func (s *Sink) check(slab stages.Slab) error {
	if !s.begun || s.closed {
		return errors.New("the sink is not between Begin and Close")
	}
	return slab.In(s.outputs)
}

// Written is the number of bytes handed to Write so far. It may be called at any time, from any goroutine.
func (s *Sink) Written() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes
}

// Slabs is the number of Slabs handed to Write so far. It may be called at any time, from any goroutine.
func (s *Sink) Slabs() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.slabs
}

// Commit has nothing to publish. It fails with ErrIncomplete unless as many Slabs were written as the Outputs have (it counts them: a
// Slab that was reserved and written twice makes up for one that is missing), and when ctx has ended.
func (s *Sink) Commit(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.begun || s.closed {
		return errors.New("discard: Commit on a sink that is not between Begin and Close")
	}
	if s.left != 0 {
		return fmt.Errorf("discard: %w: %d slabs written, %d missing", ErrIncomplete, s.slabs, s.left)
	}
	return nil
}

// Close gives all buffers back to the system, those of Slabs that were never written too. It is idempotent.
func (s *Sink) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	clear(s.held)
	return s.pool.Close()
}
