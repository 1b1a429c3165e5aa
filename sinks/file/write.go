package file

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"

	"github.com/coldload/coldload/internal/packed"
	"github.com/coldload/coldload/stages"
)

// Digest hashes Slabs for the Write that follows.
func (s *Sink) Digest(ctx context.Context, slabs []stages.Slab, bufs [][]byte) error {
	for i, slab := range slabs {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		s.digests.Hashed(slab, bufs[i])
	}
	return nil
}

// Write hashes the Slab, unless Digest has, and writes it at its place. It may wait for the disk.
func (s *Sink) Write(ctx context.Context, slab stages.Slab, b []byte) error {
	return s.WriteBatch(ctx, []stages.Slab{slab}, [][]byte{b})
}

// WriteBatch is Write for several Slabs. Those that are adjacent in a shard cost one system call.
func (s *Sink) WriteBatch(ctx context.Context, slabs []stages.Slab, bufs [][]byte) error {
	blocks, err := s.claim(slabs, bufs)
	if err == nil {
		err = s.write(ctx, slabs, bufs)
	}
	return errors.Join(err, s.free(blocks))
}

func (s *Sink) write(ctx context.Context, slabs []stages.Slab, bufs [][]byte) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if s.failed.Load() {
		return errors.New("file: write after an error")
	}
	err := s.put(slabs, bufs)
	if err == nil {
		err = s.flushWhenDue()
	}
	if err != nil {
		s.failed.Store(true)
		return fmt.Errorf("file: %w", s.full(err))
	}
	return nil
}

// piece is a Slab on its way to the disk.
type piece struct {
	slab  stages.Slab
	buf   []byte
	shard *shard
	off   int64 // bytes from the start of the file
	sum   packed.Sum
}

func (s *Sink) put(slabs []stages.Slab, bufs [][]byte) error {
	pieces := make([]piece, 0, len(slabs))
	for i, slab := range slabs {
		p := piece{slab: slab, buf: bufs[i], shard: s.shardOf(slab.Output), sum: s.digests.TakeHashed(slab, bufs[i])}
		p.off = s.offsets[slab.Output] + slab.Off
		if !s.DoneSlab(slab) {
			pieces = append(pieces, p)
		} else if was := s.digests.Sum(slab); was != p.sum {
			return fmt.Errorf("slab %d of %s has other bytes than in the run that is resumed; remove %s to start afresh",
				slab.Index, s.outputs[slab.Output].Name, s.target.partial)
		}
	}
	slices.SortFunc(pieces, func(a, b piece) int {
		if a.shard != b.shard {
			return a.shard.first - b.shard.first
		}
		return int(min(max(a.off-b.off, -1), 1))
	})
	for len(pieces) > 0 {
		n := adjacent(pieces)
		if err := s.putRun(pieces[:n]); err != nil {
			return err
		}
		pieces = pieces[n:]
	}
	return nil
}

// adjacent is the number of pieces from the first on that lie one after another.
func adjacent(pieces []piece) int {
	n := 1
	for n < len(pieces) && pieces[n].shard == pieces[0].shard && pieces[n].off == pieces[n-1].off+pieces[n-1].slab.Len {
		n++
	}
	return n
}

// putRun writes adjacent pieces, and notes that they are written.
func (s *Sink) putRun(run []piece) error {
	if err := s.putStretches(run[0].shard, run); err != nil {
		return err
	}
	n := int64(0)
	for i := range run {
		n += run[i].slab.Len
		last, err := s.digests.Add(run[i].slab, run[i].sum)
		if err != nil {
			return fmt.Errorf("output %s: %w", s.outputs[run[i].slab.Output].Name, err)
		}
		if !last || s.plain == nil {
			continue
		}
		output := run[i].slab.Output
		if s.outputs[output].Slabs() == 1 {
			s.plain[output] = sha256.Sum256(run[i].buf)
		} else if err := s.readBack(output); err != nil {
			return err
		}
	}
	s.waiting.Lock()
	defer s.waiting.Unlock()
	for i := range run {
		s.ready = append(s.ready, run[i].slab)
	}
	s.readyBytes += n
	return nil
}

// readBytes is how much is read back at once.
const readBytes = 1 << 20

// readBack computes the plain digest of an Output that is written. In a run that goes on with an earlier one, the Slabs must have the
// hashes that the journal names: the bytes have come from the disk anyway.
func (s *Sink) readBack(output int) error {
	o, sh := &s.outputs[output], s.shardOf(output)
	f, err := s.handles.use(sh)
	if err != nil {
		return err
	}
	defer s.handles.done(sh, false)
	buf := s.takeScratch(min(o.Size, readBytes))
	defer s.scratch.Put(buf)
	plain := sha256.New()
	for i := range o.Slabs() {
		slab := o.Slab(output, i)
		sum, err := s.readSlab(f, slab, *buf, plain)
		if err != nil {
			return fmt.Errorf("read back %s: %w", o.Name, err)
		}
		if s.resumed != nil && sum != s.digests.Sum(slab) {
			return fmt.Errorf("output %s: slab %d has other bytes on the disk than were written; remove %s to start afresh", o.Name, i, s.target.partial)
		}
	}
	plain.Sum(s.plain[output][:0])
	return nil
}

// readSlab hashes a Slab that is written, into plain, and for itself in a run that goes on with an earlier one.
func (s *Sink) readSlab(f *os.File, slab stages.Slab, buf []byte, plain io.Writer) (sum packed.Sum, err error) {
	var own hash.Hash
	for off := int64(0); off < slab.Len; {
		b := buf[:min(int64(len(buf)), slab.Len-off)]
		if n, err := f.ReadAt(b, s.offsets[slab.Output]+slab.Off+off); n < len(b) {
			return sum, cmp.Or(err, io.ErrUnexpectedEOF)
		}
		_, _ = plain.Write(b) // a hash never fails
		off += int64(len(b))
		switch {
		case s.resumed == nil:
		case int64(len(b)) == slab.Len:
			return s.digests.Hash(b), nil
		default:
			if own == nil {
				own = s.opt.Algorithm.New()
			}
			_, _ = own.Write(b)
		}
	}
	if own != nil {
		own.Sum(sum[:0])
	}
	return sum, nil
}

// takeScratch is a buffer of n bytes that may have been used before.
func (s *Sink) takeScratch(n int64) *[]byte {
	if b, ok := s.scratch.Get().(*[]byte); ok && int64(cap(*b)) >= n {
		*b = (*b)[:n]
		return b
	}
	b := make([]byte, n)
	return &b
}

// flushWhenDue makes what is written durable when it is enough. One goroutine does it, the others go on: it looks again when it is
// through.
func (s *Sink) flushWhenDue() error {
	for s.due() && s.flushing.TryLock() {
		err := s.flush()
		s.flushing.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Sink) due() bool {
	s.waiting.Lock()
	defer s.waiting.Unlock()
	return s.readyBytes >= s.every || len(s.ready) >= maxReady
}

// flush syncs the shards with Slabs that are written and not named in the journal, and names them. It needs the lock of flushing.
func (s *Sink) flush() error {
	s.waiting.Lock()
	slabs := s.ready
	s.ready, s.readyBytes = nil, 0
	s.waiting.Unlock()
	slices.SortFunc(slabs, func(a, b stages.Slab) int {
		if a.Output != b.Output {
			return a.Output - b.Output
		}
		return a.Index - b.Index
	})
	for len(slabs) > 0 {
		sh := s.shardOf(slabs[0].Output)
		n := slices.IndexFunc(slabs, func(x stages.Slab) bool { return x.Output >= sh.end })
		if n < 0 {
			n = len(slabs)
		}
		if err := s.flushShard(sh, slabs[:n]); err != nil {
			return err
		}
		slabs = slabs[n:]
	}
	return nil
}

func (s *Sink) flushShard(sh *shard, slabs []stages.Slab) error {
	if err := s.handles.sync(sh); err != nil {
		return err
	}
	n := int64(0)
	for _, slab := range slabs {
		n += slab.Len
	}
	complete := sh.left == n
	if err := s.target.journal.appendAll(func(yield func(record) bool) {
		if s.describe(sh, slabs, yield) && complete {
			yield(record{Shard: sh.name, Complete: true})
		}
	}); err != nil {
		return err
	}
	sh.left -= n
	s.named += n
	if complete {
		return s.handles.close(sh)
	}
	return nil
}

// describe yields the journal's lines about Slabs that are sorted. It is false when they were not wanted to the end.
func (s *Sink) describe(sh *shard, slabs []stages.Slab, yield func(record) bool) bool {
	var runs []slabRun
	text := make([]byte, 0, 2*sumsPerLine*len(packed.Sum{}))
	sums := 0
	for len(slabs) > 0 {
		n := 1
		for n < len(slabs) && sums+n < sumsPerLine && slabs[n].Output == slabs[0].Output && slabs[n].Index == slabs[n-1].Index+1 {
			n++
		}
		text = text[:0]
		for _, slab := range slabs[:n] {
			sum := s.digests.Sum(slab)
			text = hex.AppendEncode(text, sum[:])
		}
		runs = append(runs, slabRun{Output: slabs[0].Output, First: slabs[0].Index, Sums: string(text)})
		sums += n
		slabs = slabs[n:]
		if sums >= sumsPerLine || len(slabs) == 0 {
			if !yield(record{Shard: sh.name, Slabs: runs}) {
				return false
			}
			runs, sums = runs[:0], 0
		}
	}
	return true
}
