package file

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"github.com/coldload/coldload/internal/offheap"
)

// ErrBuffers says that a Fetch would copy more than Options.BufferBytes allows, together with those in use. Admission prevents it.
var ErrBuffers = errors.New("fetch buffers exhausted")

// buffer is one piece of memory outside of the Go heap. What was never touched costs nothing, so it is accounted by what it touched.
type buffer struct {
	region  *offheap.Region
	used    int64 // bytes in use, with the padding between ranges
	touched int64 // bytes from the start that may hold memory
}

// bytes is the part in use.
func (b *buffer) bytes() []byte { return b.region.Bytes()[:b.used:b.used] }

func (b *buffer) capacity() int64 { return int64(len(b.region.Bytes())) }

// pool hands out buffers and keeps some for reuse, because memory fresh from the system must be zeroed by the kernel first.
//
// The bytes in use never exceed limit: take refuses. Nor does the memory behind all buffers, but for the last page of those in use: idle
// buffers are freed first, then the tails of buffers that are larger than what is asked of them. Idle ones never hold more than spare allows when
// a buffer is taken: others may need the memory, such as a sink that stages.
type pool struct {
	noIdle bool // set before the first use

	mu    sync.Mutex
	limit int64
	spare func() int64 // nil: no other bound than limit
	used  int64        // sum over busy
	held  int64        // sum of touched over busy and idle
	slack int64        // sum of touched over idle
	peak  int64        // the most that held was
	busy  map[*buffer]struct{}
	idle  []*buffer // the longest idle first
	errs  []error   // of freeing, for close
}

func newPool(limit int64, spare func() int64) *pool {
	return &pool{limit: limit, spare: spare, busy: make(map[*buffer]struct{})}
}

// extend changes the limit.
func (p *pool) extend(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limit += n
	p.freeIdle()
}

// take returns a buffer of size bytes. The caller puts it back. It never waits.
func (p *pool) take(size int64) (*buffer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if size > p.limit-p.used {
		return nil, fmt.Errorf("%w: %d bytes wanted, %d in use, at most %d", ErrBuffers, size, p.used, p.limit)
	}
	b := p.reuse(size)
	if b == nil {
		region, err := offheap.Alloc(alignUp(size, int64(os.Getpagesize())))
		if err != nil {
			return nil, err
		}
		b = &buffer{region: region}
	}
	p.busy[b] = struct{}{}
	p.used += size
	p.held += max(0, size-b.touched)
	b.used, b.touched = size, max(b.touched, size)
	p.freeSlack()
	p.shrink()
	p.peak = max(p.peak, p.held)
	return b, nil
}

// reuse takes the idle buffer that fits size best out of the pool: nil when the best is too small, or so large that it would be a waste.
func (p *pool) reuse(size int64) *buffer {
	best := -1
	for i, b := range p.idle {
		n := b.capacity()
		if n >= size && n <= max(2*size, int64(os.Getpagesize())) && (best < 0 || n < p.idle[best].capacity()) {
			best = i
		}
	}
	if best < 0 {
		return nil
	}
	b := p.idle[best]
	p.idle = slices.Delete(p.idle, best, best+1)
	p.slack -= b.touched
	return b
}

// shrink gives memory back until the pool holds no more than its limit. It runs before the newest buffer is touched.
func (p *pool) shrink() {
	p.freeIdle()
	for b := range p.busy {
		if p.held <= p.limit {
			return
		}
		p.trim(b)
	}
}

// trim gives back what a busy buffer holds beyond its bytes in use. Nobody touches that, so it is safe while the buffer is read.
func (p *pool) trim(b *buffer) {
	keep := alignUp(b.used, int64(os.Getpagesize()))
	if b.touched > keep && discard(b.region.Bytes()[keep:]) {
		p.held -= b.touched - keep
		b.touched = keep
	}
}

// put takes a buffer back.
func (p *pool) put(b *buffer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.busy, b)
	p.used -= b.used
	if p.noIdle {
		p.free(b)
		return
	}
	p.idle = append(p.idle, b)
	p.slack += b.touched
	p.freeIdle() // padding may have made it too much
}

// freeIdle frees idle buffers while the pool holds more than its limit.
func (p *pool) freeIdle() {
	for p.held > p.limit && len(p.idle) > 0 {
		p.freeOldest()
	}
}

// freeSlack frees idle buffers that hold more than what others leave.
func (p *pool) freeSlack() {
	if p.spare == nil || len(p.idle) == 0 {
		return
	}
	for most := p.spare(); p.slack > most && len(p.idle) > 0; {
		p.freeOldest()
	}
}

func (p *pool) freeOldest() {
	b := p.idle[0]
	p.idle = slices.Delete(p.idle, 0, 1)
	p.slack -= b.touched
	p.free(b)
}

func (p *pool) free(b *buffer) {
	p.held -= b.touched
	if err := b.region.Free(); err != nil {
		p.errs = append(p.errs, err)
	}
}

func (p *pool) stats() (held, peak int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held, p.peak
}

// close frees the idle buffers. None is busy.
func (p *pool) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range p.idle {
		p.free(b)
	}
	p.idle = nil
	return errors.Join(p.errs...)
}
