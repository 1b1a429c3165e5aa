package file

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/coldload/coldload/internal/packed"
	"github.com/coldload/coldload/stages"
)

// Write hashes the Slab and writes it at its place. It may wait for the disk.
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
		p := piece{slab: slab, buf: bufs[i], shard: s.places[slab.Output].shard, sum: s.digests.Hash(bufs[i])}
		p.off = s.places[slab.Output].off + slab.Off
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
		if last && s.plain != nil {
			if err := s.readBack(run[i].slab.Output); err != nil {
				return err
			}
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

// readBack computes the plain digest of an Output that is written.
func (s *Sink) readBack(output int) error {
	p := s.places[output]
	f, err := os.Open(p.shard.path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it was only read
	readRandom(f)
	h := sha256.New()
	n, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{io.NewSectionReader(f, p.off, s.outputs[output].Size)}, make([]byte, 1<<20))
	if err == nil && n != s.outputs[output].Size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("read back %s: %w", s.outputs[output].Name, err)
	}
	h.Sum(s.plain[output][:0])
	return nil
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
	return s.readyBytes >= s.every
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
		sh := s.places[slabs[0].Output].shard
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
	f, err := sh.open()
	if err != nil {
		return err
	}
	if err := s.disk.sync(f); err != nil {
		return err
	}
	records, n := s.describe(sh, slabs)
	complete := sh.left == n
	if complete {
		records = append(records, record{Shard: sh.name, Complete: true})
	}
	if err := s.target.journal.append(records...); err != nil {
		return err
	}
	sh.left -= n
	s.named += n
	if complete {
		return sh.close()
	}
	return nil
}

// describe is the journal's lines about Slabs that are sorted, and the sum of their bytes.
func (s *Sink) describe(sh *shard, slabs []stages.Slab) (records []record, bytes int64) {
	var rec record
	sums := 0
	for len(slabs) > 0 {
		n := 1
		for n < len(slabs) && sums+n < sumsPerLine && slabs[n].Output == slabs[0].Output && slabs[n].Index == slabs[n-1].Index+1 {
			n++
		}
		text := make([]byte, 0, 2*n*len(packed.Sum{}))
		for _, slab := range slabs[:n] {
			sum := s.digests.Sum(slab)
			text = hex.AppendEncode(text, sum[:])
			bytes += slab.Len
		}
		rec.Slabs = append(rec.Slabs, slabRun{Output: slabs[0].Output, First: slabs[0].Index, Sums: string(text)})
		if sums += n; sums >= sumsPerLine {
			records = append(records, record{Shard: sh.name, Slabs: rec.Slabs})
			rec.Slabs, sums = nil, 0
		}
		slabs = slabs[n:]
	}
	if len(rec.Slabs) > 0 {
		records = append(records, record{Shard: sh.name, Slabs: rec.Slabs})
	}
	return records, bytes
}
