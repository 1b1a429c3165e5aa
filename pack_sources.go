package coldload

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"time"

	"github.com/coldload/coldload/internal/execute"
	"github.com/coldload/coldload/internal/packed"
	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/index"
)

// describedSources are the Shards that are packed, as the manifest names them, and what else tells one checkpoint from another.
type describedSources struct {
	list []packed.Source
	// samples hash some blocks of each Shard: two checkpoints of one model have equal headers, and a folder made from one is not that of
	// the other.
	samples []packed.Sum
	// times of change tell whether what an earlier run left was made from these files.
	times []time.Time
}

// describeSources hashes headers and samples.
func (ck *Checkpoint) describeSources(ctx context.Context, opt Options) (*describedSources, error) {
	n := len(ck.found.Shards)
	d := &describedSources{list: make([]packed.Source, n), samples: make([]packed.Sum, n), times: make([]time.Time, n)}
	for i, s := range ck.found.Shards {
		d.list[i] = packed.Source{Name: s.Name, Bytes: s.Size, ETag: ck.found.ETag(i)}
		d.times[i] = s.ModTime.UTC()
	}
	h := &sourceSampler{ck: ck, to: d}
	run := pipeline.New(ctx, opt.sideConfig())
	shards := pipeline.From(run, execute.Shards, index.Shards(ck.found), unnamed)
	pipeline.Into(shards, h, pipeline.Measure(h.work), pipeline.NoCommit(), unnamed) // too short to be a phase
	return d, run.Wait()
}

// sourceSampler reads of Shards what tells them from others.
type sourceSampler struct {
	ck *Checkpoint
	to *describedSources
}

// Name is what the report calls it.
func (*sourceSampler) Name() string { return execute.SampleSource }

// work counts what is read of a Shard.
func (h *sourceSampler) work(s *index.Shard) pipeline.Work {
	return pipeline.Work{Items: 1, BytesIn: h.ck.catalog.DataOffset(int32(s.Number)) + sampleBlocks*min(sampleBytes, s.Size)}
}

// Write describes a Shard.
func (h *sourceSampler) Write(ctx context.Context, s *index.Shard) error {
	i := s.Number
	f, err := h.ck.found.OpenShard(i)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it was only read
	size := h.ck.catalog.DataOffset(int32(i))
	header, n, err := packed.HashReader(ctx, io.NewSectionReader(f, 0, size))
	if err == nil && n != size {
		err = errShortened()
	}
	if err == nil {
		h.to.list[i].HeaderSHA256 = header
		h.to.samples[i], err = sample(f, s.Size)
	}
	return err
}

// Commit is not called.
func (*sourceSampler) Commit(context.Context) error { return nil }

// Close has nothing to do.
func (*sourceSampler) Close() error { return nil }

// errShortened says that a file ended too early.
func errShortened() error {
	return &stages.DataError{Problem: "the file was truncated during the load", Advice: "load again when nothing writes to the checkpoint"}
}

// What of a Shard is sampled: blocks at equal distances.
const (
	sampleBlocks = 8
	sampleBytes  = 4096
)

func sample(f io.ReaderAt, size int64) (sum packed.Sum, err error) {
	h := sha256.New()
	buf := make([]byte, sampleBytes)
	for k := range int64(sampleBlocks) {
		off := max(size-sampleBytes, 0) / (sampleBlocks - 1) * k
		n, err := f.ReadAt(buf[:min(sampleBytes, size-off)], off)
		if err != nil && !errors.Is(err, io.EOF) {
			return sum, err
		}
		_, _ = h.Write(buf[:n]) // a hash never fails
	}
	h.Sum(sum[:0])
	return sum, nil
}
