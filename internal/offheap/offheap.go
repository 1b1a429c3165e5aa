// Package offheap allocates memory that the garbage collector never sees: private anonymous mappings, backed by huge pages where the
// system has them. Results and fetch buffers live here, so that gigabytes of weights cost no GC work and go back to the system at once
// when they are freed.
package offheap

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/edsrzf/mmap-go"
)

// HugePage is the size and alignment that lets the kernel back a Region with huge pages, in bytes.
const HugePage = 2 << 20

// inUse is the size of all Regions that were not freed, in bytes.
var inUse atomic.Int64

// InUse is the size of all Regions together that were not freed, in bytes: for tests that want nothing to be left, or a bound to be kept.
func InUse() int64 { return inUse.Load() }

// Region is one mapping. Its bytes are zero until written; the kernel supplies pages at the first touch.
type Region struct {
	mapping mmap.MMap // as mapped, with room for the alignment
	bytes   []byte
	free    sync.Once
	freeErr error
}

// Alloc maps n bytes, aligned to HugePage when n is at least that, else to a page. The caller owns the Region and must Free it.
// n = 0 gives an empty Region.
func Alloc(n int64) (*Region, error) {
	if n < 0 || int64(int(n)) != n {
		return nil, fmt.Errorf("offheap: cannot map %d bytes", n)
	}
	if n == 0 {
		return &Region{}, nil
	}
	span := n
	if n >= HugePage {
		span += HugePage
	}
	// ANON with COPY is a private mapping; ANON with RDWR would be shared memory, which gets no huge pages.
	m, err := mmap.MapRegion(nil, int(span), mmap.COPY, mmap.ANON, 0)
	if err != nil {
		return nil, fmt.Errorf("offheap: map %d bytes: %w", n, err)
	}
	inUse.Add(n)
	off := int64(0)
	if n >= HugePage {
		off = alignUp(address(m), HugePage) - address(m)
	}
	b := []byte(m)[off : off+n : off+n]
	adviseHuge(b)
	return &Region{mapping: m, bytes: b}, nil
}

// Bytes is the memory. It is invalid after Free.
func (r *Region) Bytes() []byte { return r.bytes }

// Free unmaps the Region. It is idempotent. Every slice of Bytes is invalid afterwards: a touch crashes the process.
func (r *Region) Free() error {
	r.free.Do(func() {
		if r.mapping != nil {
			inUse.Add(-int64(len(r.bytes)))
			r.freeErr = r.mapping.Unmap()
		}
		r.bytes = nil
	})
	return r.freeErr
}

func alignUp(n, to int64) int64 { return (n + to - 1) / to * to }
