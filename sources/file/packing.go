package file

import (
	"os"

	"github.com/coldload/coldload/internal/offheap"
	"github.com/coldload/coldload/stages"
)

// How the ranges of one Fetch share a buffer.
const (
	// rangeAlign is the alignment of each copied range inside its buffer, in bytes: a cache line and a vector register of the widest
	// kernels.
	rangeAlign = 64
	// joinBytes is how many bytes that nobody asked for are read to make one direct request of two: less than a disk reads in the time
	// that a request costs.
	joinBytes = 64 << 10
	// paddingShare bounds what is read beyond the ranges, as a part of their size. Ranges so small that they would exceed it are copied.
	paddingShare = 8
)

// packing says where the ranges of one Fetch, given by their indexes, go in its buffer: first runs of those that are read directly, then
// those that are copied.
type packing struct {
	padding int64 // bytes that may be used beyond the ranges' own; after pack, what is left of it
	direct  []int // asked for; runs has most of them
	runs    []run
	copied  []int
	align   int64 // of copied ranges, in bytes
}

// run is one aligned piece of a Shard with the ranges in it.
type run struct {
	shard    *shard
	direct   *directFile
	off, end int64 // aligned; end may lie beyond the end of the file
	need     int64 // where the last range ends
	ranges   []int // indexes
}

// size is what the run takes in a buffer, in bytes: whole pages, so that the next one starts on a page too.
func (r *run) size() int64 { return alignUp(r.end-r.off, int64(os.Getpagesize())) }

// Padding is the most that FetchPadded uses for the ranges beyond their own bytes, in bytes, whichever of the ways that its Mode allows it
// takes. It looks at nothing but the ranges.
func (s *Source) Padding(ranges []stages.Extent) int64 {
	if s.mode == ModeMmap {
		return 0
	}
	var asked, total, aligned int64
	for i, e := range ranges {
		asked += e.Len
		total += e.Len / paddingShare
		aligned += alignUp(e.End(), leastAlign) - e.End() + max(e.Off%leastAlign, joinable(ranges[max(i-1, 0):i], e))
	}
	padding := int64(len(ranges)) * (rangeAlign - 1)
	if s.mode != ModePread {
		padding += min(total, aligned)
	}
	if most := asked + padding; most >= offheap.HugePage {
		padding = alignUp(most, offheap.HugePage) - asked
	}
	return padding
}

// joinable is the gap between e and the range before it, if there is one that is near enough to be joined; else 0.
func joinable(before []stages.Extent, e stages.Extent) int64 {
	if len(before) == 0 || before[0].Shard != e.Shard || e.Off-before[0].End() > joinBytes {
		return 0
	}
	return e.Off - before[0].End()
}

// pack makes the runs, as far as the padding goes; the rest is copied. It returns how many bytes the runs and the copies take.
func (s *Source) pack(ranges []stages.Extent, p *packing) (inRuns, copies int64) {
	s.joinRuns(ranges, p)
	for i := range p.runs {
		inRuns += p.runs[i].size()
	}
	p.align = 1
	if int64(len(p.copied))*(rangeAlign-1) <= p.padding {
		p.align = rangeAlign
	}
	for _, i := range p.copied {
		copies += alignUp(ranges[i].Len, p.align)
	}
	p.padding -= copies - lengths(ranges, p.copied)
	return inRuns, copies
}

func lengths(ranges []stages.Extent, indexes []int) (n int64) {
	for _, i := range indexes {
		n += ranges[i].Len
	}
	return n
}

// inHugePages is what a buffer for n bytes should have: whole huge pages, as far as the padding goes. A disk reads into small pages at two
// thirds of the speed, even if only the last bytes of a buffer lie in them, since a request holds only so many pieces of memory.
func (p *packing) inHugePages(n int64) int64 {
	if whole := alignUp(n, offheap.HugePage); n >= offheap.HugePage && whole-n <= p.padding {
		return whole
	}
	return n
}

// joinRuns puts the ranges that are to be read directly into runs.
func (s *Source) joinRuns(ranges []stages.Extent, p *packing) {
	room := int64(0)
	for _, i := range p.direct {
		room += ranges[i].Len / paddingShare
	}
	room = min(room, p.padding)
	for _, i := range p.direct {
		padding, ok := p.join(s.shards[ranges[i].Shard], ranges[i], i, room)
		if !ok {
			p.copied = append(p.copied, i)
			continue
		}
		room -= padding
		p.padding -= padding
	}
}

// join puts range i, which is e, into the last run or one of its own, and returns what that takes beyond e's bytes. It does not when that
// is more than room.
func (p *packing) join(sh *shard, e stages.Extent, i int, room int64) (padding int64, ok bool) {
	d, err := sh.direct()
	if err != nil { // cannot be: choose has asked before
		return 0, false
	}
	r := run{shard: sh, direct: d, off: e.Off / d.align * d.align, end: alignUp(e.End(), d.align), need: e.End()}
	last := len(p.runs) - 1
	joined := last >= 0 && p.runs[last].shard == sh && e.Off-p.runs[last].need <= joinBytes
	padding = r.size() - e.Len
	if joined {
		before := &p.runs[last]
		r.off, r.ranges = before.off, before.ranges
		padding = r.size() - before.size() - e.Len
	}
	if padding > room {
		return 0, false
	}
	r.ranges = append(r.ranges, i)
	if joined {
		p.runs[last] = r
	} else {
		p.runs = append(p.runs, r)
	}
	return padding, true
}
