// Package host keeps the result in this process's memory, outside the Go heap: one anonymous mapping with huge pages, sized for exactly
// the Outputs, whose pages the kernel supplies when an Op first writes them. The garbage collector never sees a byte of it.
//
// A load fills a [Sink]; after it committed, the caller takes the [Memory], reads tensors out of it ([Slice] gives typed views) and
// closes it.
package host

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/coldload/coldload/internal/offheap"
	"github.com/coldload/coldload/stages"
)

// ErrIncomplete is returned by Commit when a Slab was not written.
var ErrIncomplete = errors.New("result is incomplete")

// Options configures a Sink. The zero value is good.
type Options struct {
	// Limit is the most that the result may take, in bytes and with the padding between Outputs. Begin refuses a larger one. 0 means no
	// limit but what the system grants.
	Limit int64
}

// Sink is a stages.Sink that hands out the final memory: every Op writes its bytes where they stay. It does no I/O and never waits.
//
// Until Commit the memory is the Sink's, and Close frees it. From Commit on it belongs to the Memory, and Close leaves it alone.
type Sink struct {
	opt     Options
	state   state
	memory  *Memory
	slabs   ledger
	written atomic.Int64
}

// state needs no lock: the contract of stages.Sink orders Begin, Commit and Close against every other call.
type state uint8

const (
	fresh state = iota
	open
	committed
	closed
)

var _ stages.Sink = (*Sink)(nil)

// New makes a Sink for one load. It holds nothing before Begin.
func New(opt Options) *Sink { return &Sink{opt: opt} }

// Name is "host", for spans.
func (*Sink) Name() string { return "host" }

// Begin maps the memory for all outputs, which costs no page yet. It keeps the slice, which must not change while the result is in use.
//
// It refuses, with every reason in one *stages.RefusedError, Outputs that contradict themselves, that share a name, that exceed
// Options.Limit or that no address space holds. It also fails when the system grants no such mapping, when ctx has ended and when it is
// called twice.
func (s *Sink) Begin(ctx context.Context, outputs []stages.Output) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if s.state != fresh {
		return errors.New("host: Begin on a sink that was used before")
	}
	places, err := place(outputs, s.opt.Limit)
	if err != nil {
		return err
	}
	region, err := offheap.Alloc(places.total)
	if err != nil {
		return fmt.Errorf("host: %d outputs: %w", len(outputs), err)
	}
	s.memory = &Memory{region: region, outputs: outputs, places: places}
	s.slabs = newLedger(outputs)
	s.state = open
	return nil
}

// Reserve returns the final memory of a Slab: slab.Len bytes that nothing else reaches. It never blocks and does not look at the
// context. A Slab that does not exist or was reserved before is an error.
func (s *Sink) Reserve(_ context.Context, slab stages.Slab) ([]byte, error) {
	n, err := s.find(slab)
	if err != nil {
		return nil, fmt.Errorf("host: reserve: %w", err)
	}
	if !s.slabs.reserve(n) {
		return nil, fmt.Errorf("host: reserve: slab %d of %s is reserved already", slab.Index, s.memory.outputs[slab.Output].Name)
	}
	return s.memory.slab(slab), nil
}

// Write notes that the Slab is filled. No byte moves: b is the memory that Reserve gave for it, and anything else is an error, as is a
// Slab that was not reserved or was written before. It never blocks and does not look at the context.
func (s *Sink) Write(_ context.Context, slab stages.Slab, b []byte) error {
	n, err := s.find(slab)
	if err != nil {
		return fmt.Errorf("host: write: %w", err)
	}
	if want := s.memory.slab(slab); len(b) != len(want) || unsafe.SliceData(b) != unsafe.SliceData(want) {
		return fmt.Errorf("host: write: slab %d of %s: these are not the bytes that Reserve gave", slab.Index, s.memory.outputs[slab.Output].Name)
	}
	if !s.slabs.write(n) {
		return fmt.Errorf("host: write: slab %d of %s was not reserved, or is written already", slab.Index, s.memory.outputs[slab.Output].Name)
	}
	s.written.Add(slab.Len)
	return nil
}

// find checks that the Slab exists and that the Sink takes Slabs now; it returns the Slab's number in the ledger.
func (s *Sink) find(slab stages.Slab) (int64, error) {
	if s.state != open {
		return 0, errors.New("the sink is not between Begin and Commit")
	}
	if err := slab.In(s.memory.outputs); err != nil {
		return 0, err
	}
	return s.slabs.number(slab), nil
}

// Written is the number of bytes handed to Write so far. It may be called at any time, from any goroutine.
func (s *Sink) Written() int64 { return s.written.Load() }

// Commit hands the memory over to the Memory. It fails with ErrIncomplete, naming the first Output that lacks a Slab, unless every Slab
// of every Output was written; and when ctx has ended. After an error nothing is committed and Close frees the memory.
func (s *Sink) Commit(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if s.state != open {
		return errors.New("host: Commit on a sink that is not between Begin and Commit")
	}
	if slab, ok := s.slabs.missing(); ok {
		o := &s.memory.outputs[slab.Output]
		return fmt.Errorf("host: %w: slab %d of %d of output %s was not written", ErrIncomplete, slab.Index, o.Slabs(), o.Name)
	}
	s.slabs = ledger{}
	s.state = committed
	return nil
}

// Memory is the result: nil before Commit, then always the same one. The caller owns it and must Close it, after the Sink is closed or
// before. Whoever commits and never takes and closes it keeps the memory until the process ends: no finalizer frees it, because the
// garbage collector cannot see whether a slice of it is still in use.
func (s *Sink) Memory() *Memory {
	if s.state != committed {
		return nil
	}
	return s.memory
}

// Close frees the memory unless Commit handed it over. It is idempotent.
func (s *Sink) Close() error {
	if s.state == committed {
		return nil
	}
	s.state = closed
	s.slabs = ledger{}
	if s.memory == nil {
		return nil
	}
	return s.memory.Close()
}
