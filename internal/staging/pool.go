// Package staging lends out buffers outside the Go heap, for sinks that do not hand out final memory.
package staging

import (
	"errors"
	"math/bits"
	"unsafe"

	"github.com/coldload/coldload/internal/offheap"
)

const (
	// maxIdle is what the pool keeps mapped though no Slab uses it: enough that a few workers with one Batch each do not map and unmap
	// all the time, and little beside the memory that a load may take beyond its budget.
	maxIdle = 16 << 20
	// maxCarved is the largest block that is small: a larger one is worth a system call when it is new.
	maxCarved = 64 << 10
	// maxRegion bounds a region of several blocks: four huge pages and what a few blocks add to them.
	maxRegion = 8<<20 + 128<<10
)

// BlockBytes is the size of the block for n bytes: n rounded up to a quarter of the power of two below it, and to 64 bytes, so that every
// block starts at a multiple of 64 and sizes that differ little share their blocks.
func BlockBytes(n int64) int64 {
	step := int64(64)
	if n > 256 {
		step = 1 << (bits.Len64(uint64(n-1)) - 3)
	}
	return (n + step - 1) / step * step
}

// AlignedBytes is the size of the block that GetAligned hands out.
func AlignedBytes(n, align int64) int64 { return BlockBytes(n) + align }

// regionBytes is the size of a region of blocks. Of small blocks it has 16, between 64 KiB and 1 MiB: fewer would cost system calls, more
// would leave more unused when there is one Slab of this size and no other. Of large ones it has as many as fill huge pages best: memory
// in small pages is written to a disk at half the speed, since a request holds only so many pieces.
func regionBytes(block int64) int64 {
	if block <= maxCarved {
		return max(16*block, 64<<10) / block * block
	}
	limit := int64(maxRegion)
	if block < maxRegion/16 {
		limit = offheap.HugePage + offheap.HugePage/16
	}
	best := block
	for n := block; n <= limit; n += block {
		if inSmallPages(n)*best < inSmallPages(best)*n {
			best = n
		}
	}
	return best
}

// inSmallPages is how many of the bytes of a region no huge page holds.
func inSmallPages(n int64) int64 { return n % offheap.HugePage }

// Pool hands out blocks of anonymous memory. It needs a lock around it. All its work is constant per block, but for system calls and the
// freeing of regions, which is constant per region.
//
// A block takes its length, rounded up to 64 bytes and by at most a fifth of the block (BlockBytes), and its alignment where it is asked
// for one (AlignedBytes). Blocks up to 64 KiB are cut from regions of 64 KiB to 1 MiB, those up to half a megabyte from regions of about
// 2 MiB, those up to 4 MiB from regions of up to 8 MiB; larger ones are regions of their own. A region without a block in use is idle and
// is used again, so that a block costs no system call. Never more than 16 MiB are idle, and no large region is mapped while idle ones would
// take the Pool past the most that was ever in use at once: those that were idle longest are freed first. So the Pool holds at most what is
// in use, plus 16 MiB, plus the unused part of regions with several blocks.
type Pool struct {
	alloc   func(int64) (*offheap.Region, error)
	classes map[int64]*class
	regions map[*region]struct{} // all there are
	idle    idleList             // those without a block in use

	used   int64 // bytes of blocks handed out
	peak   int64 // the most that used ever was
	mapped int64 // bytes of regions
}

// class is what blocks of one size have in common.
type class struct {
	block int64
	avail []*region // those with a block to hand out; the last is next
}

// region is one mapping, cut into blocks.
type region struct {
	mem   *offheap.Region
	class *class
	size  int64
	fresh int64   // bytes from here on were never handed out
	free  []int32 // offsets of the blocks that came back; no region of several blocks is larger than 2 GiB
	inUse int     // blocks

	slot       int // index in class.avail, or -1
	prev, next *region
}

// Block is a piece of a region that one owner has.
type Block struct {
	region *region
	off    int64
	lead   int64 // bytes at its beginning that nobody uses
}

// Bytes is the first n of the block's bytes.
func (b Block) Bytes(n int64) []byte {
	begin := b.off + b.lead
	return b.region.mem.Bytes()[begin : begin+n : begin+n]
}

// New makes an empty Pool.
func New() *Pool {
	return &Pool{alloc: offheap.Alloc, classes: make(map[int64]*class), regions: make(map[*region]struct{})}
}

// Get hands out a block of at least n bytes, n > 0.
func (p *Pool) Get(n int64) (Block, error) { return p.get(BlockBytes(n)) }

// GetAligned is Get for bytes whose address is phase modulo align: 0 <= phase < align, and align is a power of two. Memory that goes
// to a file past the page cache must lie as the file does.
func (p *Pool) GetAligned(n, phase, align int64) (Block, error) {
	b, err := p.get(AlignedBytes(n, align))
	if err == nil {
		at := int64(uintptr(unsafe.Pointer(unsafe.SliceData(b.Bytes(n)))))
		b.lead = (phase - at) & (align - 1)
	}
	return b, err
}

// get hands out a block of one of the sizes that there are.
func (p *Pool) get(size int64) (Block, error) {
	c := p.classes[size]
	if c == nil {
		c = &class{block: size}
		p.classes[size] = c
	}
	if len(c.avail) == 0 {
		if err := p.grow(c); err != nil {
			return Block{}, err
		}
	}
	p.used += size
	p.peak = max(p.peak, p.used)
	return p.take(c.avail[len(c.avail)-1]), nil
}

// grow maps one more region for c. For one of a large block, idle regions of other sizes make room first when all would be more than was
// ever in use. Small ones do not drive others out: blocks of two sizes in turn would cost a system call each.
func (p *Pool) grow(c *class) error {
	size := regionBytes(c.block)
	if c.block > maxCarved {
		tooMuch := p.mapped + size - max(p.peak, p.used+size, maxIdle)
		if err := p.trim(p.idle.bytes - tooMuch); err != nil {
			return err
		}
	}
	mem, err := p.alloc(size)
	if err != nil {
		return err
	}
	r := &region{mem: mem, class: c, size: size}
	p.regions[r] = struct{}{}
	p.mapped += size
	p.idle.push(r)
	c.push(r)
	return nil
}

// take hands out a block of r, which has one: the one that came back last, because the caches still know it.
func (p *Pool) take(r *region) Block {
	if r.inUse == 0 {
		p.idle.remove(r)
	}
	b := Block{region: r}
	if n := len(r.free); n > 0 {
		b.off, r.free = int64(r.free[n-1]), r.free[:n-1]
	} else {
		b.off = r.fresh
		r.fresh += r.class.block
	}
	r.inUse++
	if len(r.free) == 0 && r.fresh == r.size {
		r.class.remove(r)
	}
	return b
}

// Put takes a block back, and frees the regions that were idle longest when too many are.
func (p *Pool) Put(b Block) error {
	r := b.region
	r.free = append(r.free, int32(b.off))
	r.inUse--
	p.used -= r.class.block
	if r.slot < 0 {
		r.class.push(r)
	}
	if r.inUse > 0 {
		return nil
	}
	p.idle.push(r)
	return p.trim(maxIdle)
}

// trim frees the regions that were idle longest until no more than keep bytes are idle, or none.
func (p *Pool) trim(keep int64) error {
	for p.idle.bytes > max(keep, 0) {
		if err := p.unmap(p.idle.oldest()); err != nil {
			return err
		}
	}
	return nil
}

// unmap frees an idle region.
func (p *Pool) unmap(r *region) error {
	p.idle.remove(r)
	r.class.remove(r)
	p.mapped -= r.size
	delete(p.regions, r)
	return r.mem.Free()
}

// Close frees everything, in use or not.
func (p *Pool) Close() error {
	var errs []error
	for r := range p.regions {
		errs = append(errs, r.mem.Free())
	}
	*p = *New()
	return errors.Join(errs...)
}

// push makes r the region that hands out the next block.
func (c *class) push(r *region) {
	r.slot = len(c.avail)
	c.avail = append(c.avail, r)
}

func (c *class) remove(r *region) {
	last := c.avail[len(c.avail)-1]
	c.avail[r.slot] = last
	last.slot = r.slot
	c.avail = c.avail[:len(c.avail)-1]
	r.slot = -1
}

// idleList is the idle regions, by the time since when they are. It is a list through the regions, so that it costs no allocation.
type idleList struct {
	first, last *region
	bytes       int64
}

func (l *idleList) oldest() *region { return l.first }

func (l *idleList) push(r *region) {
	r.prev, r.next = l.last, nil
	if l.last == nil {
		l.first = r
	} else {
		l.last.next = r
	}
	l.last = r
	l.bytes += r.size
}

func (l *idleList) remove(r *region) {
	if r.prev == nil {
		l.first = r.next
	} else {
		r.prev.next = r.next
	}
	if r.next == nil {
		l.last = r.prev
	} else {
		r.next.prev = r.prev
	}
	r.prev, r.next = nil, nil
	l.bytes -= r.size
}
