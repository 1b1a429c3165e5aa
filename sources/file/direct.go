package file

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/coldload/coldload/stages"
)

// leastAlign is the alignment of direct reads, in bytes, where the kernel does not tell one, and never less: a page. It divides every
// block.
const leastAlign = 4096

// errShort says that a direct read ended early. What there is to say about it, the pread that follows says.
var errShort = errors.New("short direct read")

// directFile is a second descriptor of a Shard, which passes the page cache by.
type directFile struct {
	*os.File
	pread func(f *os.File, dst []byte, off int64) (int, error)
	align int64 // bytes: of offsets and sizes
	tuner *tuner
}

// read fills dst, which has r.size bytes.
func (r *run) read(ctx context.Context, dst []byte) error {
	d := r.direct
	for at := r.off; at < r.need; {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		t, err := d.tuner.begin(ctx, r.end-at)
		if err != nil {
			return err
		}
		n := t.bytes(r.end - at)
		began := r.shard.latency.begin()
		got, err := d.pread(d.File, dst[at-r.off:at-r.off+n], at)
		d.tuner.end(t, int64(got))
		if err != nil {
			return err
		}
		r.shard.latency.end(ctx, direct, began)
		at += int64(got)
		if at < r.need && (got == 0 || at%d.align != 0) {
			return errShort
		}
	}
	return nil
}

// readRuns reads the runs into dst, one after the other, and puts the ranges in them into v. A run that cannot be read that way is copied
// instead: what is wrong with it, if anything, is said then. A refusal is remembered.
func readRuns(ctx context.Context, v *views, ranges []stages.Extent, runs []run, dst []byte) error {
	for i := range runs {
		r := &runs[i]
		piece := dst[:r.size()]
		dst = dst[r.size():]
		how := direct
		if err := r.read(ctx, piece); err != nil {
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			if refused(err) {
				r.shard.refuse(err)
			}
			how = copied
		}
		for _, j := range r.ranges {
			e := ranges[j]
			v.bytes[j] = piece[e.Off-r.off : e.End()-r.off : e.End()-r.off]
			v.used[how] += e.Len
			if how == copied {
				if err := r.shard.read(ctx, e, v.bytes[j]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// directly reports whether sh can be read past the page cache.
func (sh *shard) directly() bool {
	if sh.refusal.Load() != nil {
		return false
	}
	_, err := sh.direct()
	if err != nil {
		sh.refuse(err)
	}
	return err == nil
}

// refuse remembers the first reason why sh cannot be read directly.
func (sh *shard) refuse(why error) { sh.refusal.CompareAndSwap(nil, &why) }

// openDirect opens the Shard for direct reads. It is done once, when the first cold range is read.
func (sh *shard) openDirect(tuners *tuners, by calls) (*directFile, error) {
	f, align, err := by.openDirect(sh.File)
	if err != nil {
		return nil, err
	}
	sh.passBy = f
	return &directFile{File: f, pread: by.preadDirect, align: align, tuner: tuners.of(device(f))}, nil
}

// Notes says what a user who forced a way of reading did not get, one sentence for each reason.
func (s *Source) Notes() []string {
	if s.mode != ModeDirect {
		return nil
	}
	var notes []string
	count := map[string]int{}
	first := map[string]string{}
	for _, sh := range s.shards {
		if why := sh.refusal.Load(); why != nil {
			reason := reasonOf(*why)
			if count[reason]++; count[reason] == 1 {
				notes, first[reason] = append(notes, reason), sh.Name
			}
		}
	}
	for i, reason := range notes {
		which := first[reason]
		if n := count[reason]; n > 1 {
			which = fmt.Sprintf("%s and %d more", which, n-1)
		}
		notes[i] = fmt.Sprintf("%s: direct reads are refused (%s): read through the page cache instead", which, reason)
	}
	return notes
}

// reasonOf is why, without the path that os puts before it: the reason is what is alike among Shards.
func reasonOf(why error) string {
	if p, ok := errors.AsType[*os.PathError](why); ok {
		return p.Err.Error()
	}
	return why.Error()
}
