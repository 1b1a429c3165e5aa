package file

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/edsrzf/mmap-go"

	"github.com/coldload/coldload/stages"
)

// mapFile maps the whole Shard. It is done once: a mapping per Batch would take the address space's lock and build page tables again
// each time.
func (sh *shard) mapFile() (mmap.MMap, error) {
	if int64(int(sh.Size)) != sh.Size {
		return nil, fmt.Errorf("%s: %d bytes do not fit in the address space", sh.Name, sh.Size)
	}
	m, err := mmap.MapRegion(sh.File, int(sh.Size), mmap.RDONLY, 0, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: map %d bytes: %w", sh.Name, sh.Size, err)
	}
	sh.mem = m
	return m, nil
}

// mapRange returns e's bytes in the mapping, faulted in. e is not empty.
func (s *Source) mapRange(ctx context.Context, sh *shard, e stages.Extent) ([]byte, error) {
	m, err := sh.mapping()
	if err != nil {
		return nil, err
	}
	first := e.Off &^ (int64(os.Getpagesize()) - 1)
	for at := first; at < e.End(); at += blockBytes {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		end := min(at+blockBytes, e.End())
		began := sh.latency.begin()
		if err := s.kernel.populate(m[at:end]); err != nil {
			from := max(at, e.Off)
			return nil, sh.unmappable(stages.Extent{Shard: e.Shard, Off: from, Len: end - from}, err)
		}
		sh.latency.end(ctx, mapped, began)
	}
	return m[e.Off:e.End():e.End()], nil
}

// unmappable explains why pages could not be faulted in: the kernel's answer is the same for a hole and for a bad disk.
func (sh *shard) unmappable(e stages.Extent, cause error) error {
	if changed, ok := errors.AsType[*stages.DataError](sh.compare()); ok {
		changed.Problem = fmt.Sprintf("bytes %d to %d cannot be read: %s", e.Off, e.End(), changed.Problem)
		changed.Err = cause
		return &rangeError{extent: e, err: changed}
	}
	return sh.lost(e, &stages.DataError{
		Problem: fmt.Sprintf("bytes %d to %d cannot be read: the file was truncated or the disk failed", e.Off, e.End()),
		Err:     cause,
	})
}
