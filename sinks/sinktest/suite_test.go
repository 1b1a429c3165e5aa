package sinktest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/coldload/coldload/internal/offheap"
	"github.com/coldload/coldload/stages"
)

func TestSuiteAcceptsACorrectSink(t *testing.T) {
	Run(t, Factory{New: func(testing.TB) Instance { return (&heapSink{}).instance() }, Waits: true})
}

// TestSuiteCatchesBrokenSinks breaks one sentence of the contract at a time. Each must fail the check that is about it.
func TestSuiteCatchesBrokenSinks(t *testing.T) {
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	for _, broken := range []struct {
		name  string
		check string // that must fail
		make  func(*heapSink) stages.Sink
	}{
		{"two slabs share memory", "buffers are apart", func(s *heapSink) stages.Sink { return &overlapping{heapSink: s} }},
		{"forgets a slab", "in order", func(s *heapSink) stages.Sink { return &forgetful{s} }},
		{"too short a buffer", "in order", func(s *heapSink) stages.Sink { return &shorting{s} }},
		{"misaligned buffers", "in order", func(s *heapSink) stages.Sink { s.skew = 8; return s }},
		{"forgets empty outputs", "empty outputs", func(s *heapSink) stages.Sink { return &emptyless{s} }},
		{"loses the result at close", "in any order", func(s *heapSink) stages.Sink { return &losing{s} }},
		{"commits partial results", "incomplete commit", func(s *heapSink) stages.Sink { s.careless = true; return s }},
		{"visible too early", "invisible before commit", func(s *heapSink) stages.Sink { return &early{s} }},
		{"visible after an abort", "abort anywhere", func(s *heapSink) stages.Sink { return &remains{s} }},
		{"close needs a begin", "abort anywhere", func(s *heapSink) stages.Sink { return &strict{s} }},
		{"leaks a goroutine", "abort anywhere", func(s *heapSink) stages.Sink { return &leaking{s, stop} }},
		{"leaks memory", "abort frees", func(s *heapSink) stages.Sink { return &hoarding{s} }},
		{"reserve waits for write", "buffers are apart", func(s *heapSink) stages.Sink { return &blocking{heapSink: s, room: make(chan struct{}, 2)} }},
		{"loses concurrent slabs", "from several goroutines", func(s *heapSink) stages.Sink { return &tearing{heapSink: s} }},
		{"deaf to the context", "ended context", func(s *heapSink) stages.Sink { return &deaf{s} }},
		{"tells too little staging", "staging figures", func(s *heapSink) stages.Sink { return &modest{s} }},
		{"holds more than it tells", "staging figures", func(s *heapSink) stages.Sink { return &stocking{heapSink: s} }},
		{"done before it began", "nothing to resume", func(s *heapSink) stages.Sink { return &boasting{s} }},
	} {
		t.Run(broken.name, func(t *testing.T) {
			f := Factory{Waits: true, New: func(testing.TB) Instance {
				heap := &heapSink{}
				i := heap.instance()
				i.Sink = broken.make(heap)
				return i
			}}
			if runCheck(t, broken.check, f) == "" {
				t.Errorf("check %q found nothing", broken.check)
			}
		})
	}
}

// runCheck runs one check against a TB that records, and returns what the check complained about.
func runCheck(t *testing.T, name string, f Factory) string {
	t.Helper()
	for _, c := range checks {
		if c.name != name {
			continue
		}
		r := &recorder{TB: t}
		done := make(chan struct{})
		go func() { // its own goroutine, because a check ends by Goexit
			defer close(done)
			defer r.clean()
			c.run(&suite{TB: r, Factory: f, patience: 200 * time.Millisecond})
		}()
		<-done
		if r.skipped {
			t.Fatalf("check %q was skipped", name)
		}
		return r.said.String()
	}
	t.Fatalf("no check %q", name)
	return ""
}

// recorder is a TB whose failures are kept instead of failing the test. What it does not override goes to the real one.
type recorder struct {
	testing.TB
	said    strings.Builder
	skipped bool
	cleanup []func()
}

func (r *recorder) Helper()                           {}
func (r *recorder) Error(args ...any)                 { fmt.Fprintln(&r.said, args...) }
func (r *recorder) Errorf(format string, args ...any) { fmt.Fprintf(&r.said, format+"\n", args...) }
func (r *recorder) Fatal(args ...any)                 { r.Error(args...); runtime.Goexit() }
func (r *recorder) Fatalf(format string, args ...any) { r.Errorf(format, args...); runtime.Goexit() }
func (r *recorder) Skip(...any)                       { r.skipped = true; runtime.Goexit() }
func (r *recorder) Cleanup(f func())                  { r.cleanup = append(r.cleanup, f) }

func (r *recorder) clean() {
	for i := len(r.cleanup); i > 0; i-- {
		r.cleanup[i-1]()
	}
}

// heapSink is a correct sink on the Go heap, simple enough to be seen to be right.
type heapSink struct {
	mu        sync.Mutex
	outputs   []stages.Output
	data      [][]byte
	written   map[stages.Slab]bool
	committed bool

	skew     int  // breaks the alignment
	careless bool // breaks Commit
}

func (h *heapSink) instance() Instance {
	return Instance{Sink: h, Read: h.read, Visible: func() bool { return h.committed }}
}

func (h *heapSink) read(name string) ([]byte, bool) {
	for i := range h.data {
		if h.committed && h.outputs[i].Name == name {
			return h.data[i], true
		}
	}
	return nil, false
}

func (h *heapSink) Begin(ctx context.Context, outputs []stages.Output) error {
	h.outputs, h.written = outputs, make(map[stages.Slab]bool)
	for i := range outputs {
		b := make([]byte, outputs[i].Size+128)
		off := int(-uintptr(unsafe.Pointer(&b[0]))%64) + h.skew
		h.data = append(h.data, b[off:off+int(outputs[i].Size)])
	}
	return ctx.Err()
}

func (h *heapSink) Reserve(ctx context.Context, s stages.Slab) ([]byte, error) {
	return h.data[s.Output][s.Off : s.Off+s.Len], ctx.Err()
}

func (h *heapSink) Write(ctx context.Context, s stages.Slab, _ []byte) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.written[s] = true
	return ctx.Err()
}

func (h *heapSink) Commit(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if len(h.written) != len(slabsOf(h.outputs)) && !h.careless {
		return errors.New("incomplete")
	}
	h.committed = true
	return nil
}

func (h *heapSink) Close() error {
	if !h.committed {
		h.data = nil
	}
	return nil
}

// overlapping hands the first Slab's memory out for every Slab that fits in.
type overlapping struct {
	*heapSink
	first []byte
}

func (o *overlapping) Reserve(ctx context.Context, s stages.Slab) ([]byte, error) {
	if o.first == nil {
		b, err := o.heapSink.Reserve(ctx, s)
		o.first = b
		return b, err
	}
	if s.Len <= int64(len(o.first)) {
		return o.first[:s.Len], nil
	}
	return o.heapSink.Reserve(ctx, s)
}

// forgetful drops the second Slab of each Output.
type forgetful struct{ *heapSink }

func (f *forgetful) Write(ctx context.Context, s stages.Slab, b []byte) error {
	if s.Index == 1 {
		clear(b)
	}
	return f.heapSink.Write(ctx, s, b)
}

// shorting does not give the last byte of a last Slab that is smaller.
type shorting struct{ *heapSink }

func (s *shorting) Reserve(ctx context.Context, slab stages.Slab) ([]byte, error) {
	b, err := s.heapSink.Reserve(ctx, slab)
	if slab.Len < s.outputs[slab.Output].SlabBytes {
		b = b[:len(b)-1]
	}
	return b, err
}

// emptyless knows only Outputs with Slabs.
type emptyless struct{ *heapSink }

func (e *emptyless) Begin(ctx context.Context, outputs []stages.Output) error {
	var some []stages.Output
	for _, o := range outputs {
		if o.Size > 0 {
			some = append(some, o)
		}
	}
	return e.heapSink.Begin(ctx, some)
}

// losing frees in Close what was committed.
type losing struct{ *heapSink }

func (l *losing) Close() error { l.data = nil; return nil }

// early publishes with the first Write.
type early struct{ *heapSink }

func (e *early) Write(ctx context.Context, s stages.Slab, b []byte) error {
	e.committed = true
	return e.heapSink.Write(ctx, s, b)
}

// remains publishes in Close what happens to be there.
type remains struct{ *heapSink }

func (r *remains) Close() error { r.committed = len(r.written) > 0; return nil }

// strict thinks that Close is called only after Begin.
type strict struct{ *heapSink }

func (s *strict) Close() error {
	if s.written == nil {
		return errors.New("not begun")
	}
	return s.heapSink.Close()
}

// leaking starts a goroutine and leaves it, until the test ends.
type leaking struct {
	*heapSink
	stop <-chan struct{}
}

func (l *leaking) Begin(ctx context.Context, outputs []stages.Output) error {
	go func() { <-l.stop }()
	return l.heapSink.Begin(ctx, outputs)
}

// hoarding maps memory that it never frees.
type hoarding struct{ *heapSink }

func (h *hoarding) Begin(ctx context.Context, outputs []stages.Output) error {
	r, err := offheap.Alloc(4 << 20)
	if err != nil {
		return err
	}
	for i := 0; i < len(r.Bytes()); i += 4096 {
		r.Bytes()[i] = 1
	}
	return h.heapSink.Begin(ctx, outputs)
}

// blocking has two buffers.
type blocking struct {
	*heapSink
	room chan struct{}
}

func (b *blocking) Reserve(ctx context.Context, s stages.Slab) ([]byte, error) {
	select {
	case b.room <- struct{}{}:
		return b.heapSink.Reserve(ctx, s)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (b *blocking) Write(ctx context.Context, s stages.Slab, data []byte) error {
	<-b.room
	return b.heapSink.Write(ctx, s, data)
}

// tearing refuses a Write while it holds another goroutine's Slab.
type tearing struct {
	*heapSink
	busy sync.Mutex
}

func (r *tearing) Write(ctx context.Context, s stages.Slab, b []byte) error {
	if !r.busy.TryLock() {
		return errors.New("busy")
	}
	defer r.busy.Unlock()
	for range 1000 { // so that another goroutine gets to the lock
		runtime.Gosched()
	}
	return r.heapSink.Write(ctx, s, b)
}

// deaf does not hear that the load was cancelled.
type deaf struct{ *heapSink }

func (d *deaf) Commit(ctx context.Context) error {
	return d.heapSink.Commit(context.WithoutCancel(ctx))
}

// modest rounds its staging down.
type modest struct{ *heapSink }

func (m *modest) StagingBytes(s stages.Slab) int64 { return s.Len / 4096 * 4096 }

// stocking keeps three copies of every buffer: enough to stand out from what else a process's memory does meanwhile.
type stocking struct {
	*heapSink
	copies [][]byte
}

func (s *stocking) StagingBytes(slab stages.Slab) int64 { return slab.Len }

func (s *stocking) Reserve(ctx context.Context, slab stages.Slab) ([]byte, error) {
	for range 3 {
		b := make([]byte, slab.Len)
		pattern(slab, b)
		s.copies = append(s.copies, b)
	}
	return s.heapSink.Reserve(ctx, slab)
}

// boasting says that it has everything.
type boasting struct{ *heapSink }

func (b *boasting) Done(stages.Output) bool { return true }
