package packed

import (
	"iter"
	"slices"
	"strings"
	"sync"

	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/stages"
)

// queue gives out the Slabs of a folder in the order in which they lie, some adjacent ones at a time, and collects their hashes.
type queue struct {
	m     *Manifest
	order []int32 // Outputs with bytes in a shard that can be read, by file and offset

	at   int // index in order
	slab int // the next Slab of that Output

	mu     sync.Mutex // guards all below
	sums   map[int][]Sum
	left   map[int]int
	failed map[int]error // the first error of an Output
}

// run is adjacent Slabs of one shard.
type run struct {
	at    int         // index in queue.order
	first stages.Slab // the rest follow
	n     int         // Slabs
	off   int64       // bytes from the start of the file
	bytes int64
}

// work is what hashing the run means.
func (r run) work() pipeline.Work { return pipeline.Work{Items: int64(r.n), BytesIn: r.bytes} }

func newQueue(m *Manifest, shards map[string]bool) *queue {
	q := &queue{m: m, sums: make(map[int][]Sum), left: make(map[int]int), failed: make(map[int]error)}
	for i := range m.Outputs {
		if o := &m.Outputs[i]; o.Bytes > 0 && shards[o.File] {
			q.order = append(q.order, int32(i))
		}
	}
	slices.SortFunc(q.order, func(a, b int32) int {
		x, y := &m.Outputs[a], &m.Outputs[b]
		if c := strings.Compare(x.File, y.File); c != 0 {
			return c
		}
		return int(min(max(x.Offset-y.Offset, -1), 1))
	})
	return q
}

func (q *queue) slabOf(at, i int) stages.Slab {
	n := int(q.order[at])
	o := q.m.Outputs[n].Stage()
	return o.Slab(n, i)
}

// all yields every run once.
func (q *queue) all() iter.Seq2[run, error] {
	return func(yield func(run, error) bool) {
		for r, ok := q.next(); ok; r, ok = q.next() {
			if !yield(r, nil) {
				return
			}
		}
	}
}

// next is the next run: of no more than readBytes, or one Slab.
func (q *queue) next() (run, bool) {
	if q.at == len(q.order) {
		return run{}, false
	}
	first := q.slabOf(q.at, q.slab)
	o := &q.m.Outputs[first.Output]
	r := run{at: q.at, first: first, off: o.Offset + first.Off}
	for q.at < len(q.order) {
		s := q.slabOf(q.at, q.slab)
		p := &q.m.Outputs[s.Output]
		if r.n > 0 && (r.bytes+s.Len > readBytes || p.File != o.File || p.Offset+s.Off != r.off+r.bytes) {
			break
		}
		r.n++
		r.bytes += s.Len
		if q.slab++; s.Off+s.Len == p.Bytes {
			q.at++
			q.slab = 0
		}
	}
	return r, true
}

// slabs yields the Slabs of the run.
func (r run) slabs(q *queue) iter.Seq[stages.Slab] {
	return func(yield func(stages.Slab) bool) {
		at, i := r.at, r.first.Index
		for range r.n {
			s := q.slabOf(at, i)
			if !yield(s) {
				return
			}
			if i++; s.Off+s.Len == q.m.Outputs[s.Output].Bytes {
				at, i = at+1, 0
			}
		}
	}
}

func (q *queue) fail(s stages.Slab, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.failed[s.Output] == nil {
		q.failed[s.Output] = err
	}
}

// add takes the hash of a Slab. With the last one of an Output it returns the root, or the Output's first error.
func (q *queue) add(s stages.Slab, sum Sum) (last bool, root Sum, err error) {
	o := q.m.Outputs[s.Output].Stage()
	q.mu.Lock()
	defer q.mu.Unlock()
	sums := q.sums[s.Output]
	if sums == nil {
		sums = make([]Sum, o.Slabs())
		q.sums[s.Output], q.left[s.Output] = sums, len(sums)
	}
	sums[s.Index] = sum
	if q.left[s.Output]--; q.left[s.Output] > 0 {
		return false, Sum{}, nil
	}
	err = q.failed[s.Output]
	delete(q.sums, s.Output)
	delete(q.left, s.Output)
	delete(q.failed, s.Output)
	return true, q.m.Outputs[s.Output].Digest.Algorithm.Root(sums), err
}
