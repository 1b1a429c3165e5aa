package file

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/metric"

	"github.com/coldload/coldload/stages"
)

// DefaultBufferBytes is Options.BufferBytes when it is 0.
const DefaultBufferBytes = 256 << 20

// blockBytes is how much one system call copies or faults in: large enough for the disk's full speed, small enough that a cancelled
// load ends soon.
const blockBytes = 4 << 20

// Options configures a Source. The zero value is good.
type Options struct {
	// IO says how ranges are read; ModeAuto by default.
	IO Mode
	// BufferBytes bounds the buffers of what is copied or read directly, in bytes, padding and idle buffers included; DefaultBufferBytes
	// when 0. A Fetch that would exceed it fails, so it must not be less than the budget at admission. The system counts memory in
	// pages: the last one of each buffer may come on top.
	BufferBytes int64
	// MeterProvider gets the histogram coldload.source.read.duration (s; by coldload.source.method). Nil: no metrics.
	MeterProvider metric.MeterProvider
	// Spare says how many bytes the buffers that nobody uses may hold; it is asked whenever one is taken. Nil: what is left of BufferBytes.
	Spare func() int64
	// NoIdle gives every buffer back to the system as soon as it is not in use: for a budget that is shared with others, who would have to
	// leave room for what lies idle here. It costs the time of zeroing fresh pages.
	NoIdle bool
}

func (o Options) withDefaults() Options {
	if o.BufferBytes == 0 {
		o.BufferBytes = DefaultBufferBytes
	}
	return o
}

func (o Options) validate() error {
	var errs []error
	if int(o.IO) >= len(modeNames) {
		errs = append(errs, fmt.Errorf("file source: unknown %v", o.IO))
	}
	if o.BufferBytes < 0 {
		errs = append(errs, fmt.Errorf("file source: a buffer bound of %d bytes", o.BufferBytes))
	}
	return errors.Join(errs...)
}

// Source is a stages.Source over local Shards. It is safe for concurrent use.
type Source struct {
	mode   Mode
	shards []*shard
	pool   *pool
	kernel kernel

	read [len(methodNames)]atomic.Int64 // bytes by method

	mu     sync.Mutex
	out    int // calls that run and Views that were not released
	closed bool
}

var _ stages.Source = (*Source)(nil)

// New makes a Source over open files; Extent.Shard indexes shards. It owns the files from the call on: on error it has closed them.
func New(shards []Shard, opt Options) (*Source, error) {
	return newSource(shards, opt, systemCalls())
}

func newSource(shards []Shard, opt Options, by calls) (*Source, error) {
	opt = opt.withDefaults()
	s := &Source{mode: opt.IO, pool: newPool(opt.BufferBytes, opt.Spare)}
	s.pool.noIdle = opt.NoIdle
	s.kernel.calls = by
	err := opt.validate()
	tuners, timing := newTuners(), newLatency(opt.MeterProvider)
	for _, sh := range shards {
		opened, shErr := newShard(sh, tuners, by)
		opened.latency = timing
		s.shards = append(s.shards, opened)
		err = errors.Join(err, shErr)
	}
	if err != nil {
		return nil, errors.Join(err, s.teardown())
	}
	return s, nil
}

// Fetch makes the ranges readable, as stages.Source says. The first Fetch of a Shard checks that the file is still the one described.
//
// A file that was truncated or changed, and a failed disk, are a *stages.DataError that names the file and the range; a short read has
// io.ErrUnexpectedEOF in its chain. The error also tells the Extent that could not be read: interface{ Extent() stages.Extent }.
// [ErrBuffers] says that the buffer bound is reached. When ctx ends, the error is its cause.
//
// The buffers hold the ranges' own bytes and no more, since nobody was charged for padding: what would be read directly is copied unless it
// lies on whole blocks. A Source that stands in front of this one hands FetchPadded and Padding on, for full speed.
func (s *Source) Fetch(ctx context.Context, ranges []stages.Extent) (stages.Views, error) {
	return s.FetchPadded(ctx, ranges, 0)
}

// FetchPadded is Fetch within the padding that the caller was charged for. What needs more is read in the ways that need none.
func (s *Source) FetchPadded(ctx context.Context, ranges []stages.Extent, padding int64) (stages.Views, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	v := &views{source: s, bytes: make([][]byte, len(ranges))}
	if err := s.fill(ctx, v, ranges, padding); err != nil {
		s.leave()
		return nil, err
	}
	return v, nil
}

// fill maps what is to be mapped, and then reads the rest into one buffer. On error v holds nothing.
func (s *Source) fill(ctx context.Context, v *views, ranges []stages.Extent, padding int64) error {
	p := packing{padding: padding}
	for i, e := range ranges {
		sh, err := s.shardOf(e)
		if err != nil {
			return err
		}
		if e.Len == 0 {
			v.bytes[i] = []byte{}
			continue
		}
		switch s.choose(sh, e) {
		case mapped:
			if v.bytes[i], err = s.mapRange(ctx, sh, e); err != nil {
				return err
			}
			v.used[mapped] += e.Len
		case direct:
			p.direct = append(p.direct, i)
		case copied:
			p.copied = append(p.copied, i)
		}
	}
	if err := s.intoBuffer(ctx, v, ranges, &p); err != nil {
		return err
	}
	for m := range v.used {
		s.read[m].Add(v.used[m])
	}
	return nil
}

// intoBuffer reads what p lists into one buffer, which v holds from then on. On error nothing is held.
func (s *Source) intoBuffer(ctx context.Context, v *views, ranges []stages.Extent, p *packing) error {
	inRuns, copies := s.pack(ranges, p)
	if inRuns+copies == 0 {
		return nil
	}
	buf, err := s.pool.take(p.inHugePages(inRuns + copies))
	if err != nil {
		return err
	}
	err = readRuns(ctx, v, ranges, p.runs, buf.bytes()[:inRuns])
	if err == nil {
		err = s.copyRanges(ctx, v, ranges, p, buf.bytes()[inRuns:])
	}
	if err != nil {
		s.pool.put(buf)
		return err
	}
	v.buf = buf
	return nil
}

// shardOf is the Shard of e, once it is known that it is unchanged and holds e.
func (s *Source) shardOf(e stages.Extent) (*shard, error) {
	if e.Shard < 0 || int(e.Shard) >= len(s.shards) {
		return nil, fmt.Errorf("file source: shard %d of %d", e.Shard, len(s.shards))
	}
	sh := s.shards[e.Shard]
	if e.Off < 0 || e.Len < 0 || e.Off > sh.Size || e.Len > sh.Size-e.Off {
		return nil, fmt.Errorf("%s: %d bytes at %d lie outside of the file's %d bytes", sh.Name, e.Len, e.Off, sh.Size)
	}
	return sh, sh.unchanged()
}

// Verify reports every Shard whose size or time of change differs from what was described: one *stages.DataError each. Replacing a file by
// renaming another over it is harmless and not reported, because the one that was opened stays as it is.
func (s *Source) Verify(ctx context.Context) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	var errs []error
	for _, sh := range s.shards {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		errs = append(errs, sh.compare())
	}
	return errors.Join(errs...)
}

// Extend raises the bound of the buffers by some bytes, or lowers it again when bytes is negative: for a load that charges a budget of its own
// beside that which the bound was made for.
func (s *Source) Extend(bytes int64) { s.pool.extend(bytes) }

// Stats is what a Source read so far and the memory it took for it.
type Stats struct {
	MmapBytes       int64 // bytes of ranges that were mapped
	PreadBytes      int64 // bytes of ranges that were copied
	DirectBytes     int64 // bytes of ranges that were read past the page cache
	BufferBytes     int64 // bytes that the buffers hold now, idle ones included
	BufferPeakBytes int64 // the most they held
}

// Stats may be called at any time, also after Close.
func (s *Source) Stats() Stats {
	held, peak := s.pool.stats()
	return Stats{
		MmapBytes: s.read[mapped].Load(), PreadBytes: s.read[copied].Load(), DirectBytes: s.read[direct].Load(),
		BufferBytes: held, BufferPeakBytes: peak,
	}
}

// Close unmaps and closes the Shards and frees the buffers. Views that are still out are an error; what they show then stays until the
// last of them is released. Calling Close again does nothing.
func (s *Source) Close() error {
	s.mu.Lock()
	was, out := s.closed, s.out
	s.closed = true
	s.mu.Unlock()
	switch {
	case was:
		return nil
	case out > 0:
		return fmt.Errorf("file source: closed while %d views or calls are in use", out)
	}
	return s.teardown()
}

func (s *Source) enter() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("file source: %w", os.ErrClosed)
	}
	s.out++
	return nil
}

func (s *Source) leave() {
	s.mu.Lock()
	s.out--
	last := s.closed && s.out == 0
	s.mu.Unlock()
	if last {
		_ = s.teardown() // Close has reported a worse error
	}
}

// teardown runs once, when nothing is in use any more.
func (s *Source) teardown() error {
	errs := []error{s.pool.close()}
	for _, sh := range s.shards {
		errs = append(errs, sh.close())
	}
	return errors.Join(errs...)
}
