package file

import (
	"context"

	"github.com/coldload/coldload/stages"
)

// View is e's bytes in the Shard's mapping, faulted in. It is read-only and valid until Close: a touch after that crashes the process, and
// one after the file was truncated faults, so keep to ReadInto where the file may change.
func (s *Source) View(ctx context.Context, e stages.Extent) ([]byte, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	if e.Len == 0 {
		return []byte{}, nil
	}
	return s.mapRange(ctx, s.shards[e.Shard], e)
}

// ReadInto copies e's bytes into dst, which has their size. It does not touch the mapping, so it cannot fault.
func (s *Source) ReadInto(ctx context.Context, e stages.Extent, dst []byte) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	return s.shards[e.Shard].read(ctx, e, dst)
}
