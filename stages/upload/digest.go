package upload

import (
	"context"

	"github.com/coldload/coldload/internal/execute"
	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/stages"
)

// DigestStage is the stage before the upload to a Sink that hashes what it writes.
type DigestStage struct{ sink stages.Digester }

// Digest makes the stage. It does not own the Sink, which was begun.
func Digest(sink stages.Digester) *DigestStage { return &DigestStage{sink} }

// Name is "digest".
func (*DigestStage) Name() string { return execute.Digest }

// Process has the Sink hash every Slab of b, and hands b on as it is. On error b is released. A Batch of a scan has none.
func (s *DigestStage) Process(ctx context.Context, b *stages.Batch) (*stages.Batch, error) {
	if b.IsScan() {
		return b, nil
	}
	done := false
	defer func() {
		if !done {
			b.Release()
		}
	}()
	if err := filled(b, b.Dst); err != nil {
		return nil, err
	}
	if err := s.sink.Digest(ctx, b.Slabs, b.Dst); err != nil {
		return nil, err
	}
	done = true
	return b, nil
}

// DigestWork is what the stage does for one Batch: the number of Slabs and their bytes; a hash counts for none.
func DigestWork(b *stages.Batch) pipeline.Work {
	return pipeline.Work{Items: int64(len(b.Slabs)), BytesIn: b.OutBytes}
}
