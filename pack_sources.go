package coldload

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/coldload/coldload/internal/execute"
	"github.com/coldload/coldload/internal/packed"
	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/stages"
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

// verifySource compares the SHA-256 of every Shard with what it must be.
func (ck *Checkpoint) verifySource(ctx context.Context, opt Options, res *Result) error {
	for i, s := range ck.found.Shards {
		if etag := ck.found.ETag(i); opt.Digests == nil && len(etag) != hex.EncodedLen(sha256.Size) {
			return fmt.Errorf("%w: the source cannot be verified: %s is not stored under its SHA-256, as the Hugging Face cache has large files; give digests",
				ErrOptions, s.Name)
		}
	}
	_, err := ck.describeSources(ctx, opt, res)
	return err
}

// describeSources hashes headers and samples, and every byte when asked to.
func (ck *Checkpoint) describeSources(ctx context.Context, opt Options, res *Result) (*describedSources, error) {
	for _, s := range ck.found.Shards {
		if _, ok := opt.Digests[s.Name]; opt.Digests != nil && !ok {
			return nil, fmt.Errorf("%w: %s is not among the %d digests", ErrOptions, s.Name, len(opt.Digests))
		}
	}
	n := len(ck.found.Shards)
	d := &describedSources{list: make([]packed.Source, n), samples: make([]packed.Sum, n), times: make([]time.Time, n)}
	total := int64(0)
	for i, s := range ck.found.Shards {
		d.list[i] = packed.Source{Name: s.Name, Bytes: s.Size, ETag: ck.found.ETag(i)}
		d.times[i] = s.ModTime.UTC()
		total += s.Size
	}
	h := &sourceHasher{ck: ck, to: d, whole: opt.VerifySource, listed: opt.Digests, told: opt.Hashed, total: total}
	workers := 1
	if h.whole {
		workers = opt.Workers.Repack
	}
	run := pipeline.New(ctx, opt.sideConfig())
	shards := pipeline.From(run, "shards", func(yield func(int, error) bool) {
		for i := range n {
			if !yield(i, nil) {
				return
			}
		}
	}, unnamed)
	more := []pipeline.Option{pipeline.Workers(workers), pipeline.Measure(h.work)}
	if !h.whole {
		more = append(more, unnamed) // too short to be a phase
	}
	pipeline.Into(shards, h, more...)
	err := run.Wait()
	if h.whole {
		res.takeStage(run.Stats())
	}
	return d, err
}

// sourceHasher reads Shards for their hashes.
type sourceHasher struct {
	ck    *Checkpoint
	to    *describedSources
	whole bool
	// listed are the digests that Shards must have.
	listed map[string]string
	told   func(done, total int64)
	total  int64

	mu   sync.Mutex // guards done, and calls of told
	done int64
}

// Name is what the report calls it.
func (h *sourceHasher) Name() string {
	if h.whole {
		return execute.VerifySource
	}
	return execute.SampleSource
}

// work counts what is read of Shard i: all of it, or header and samples.
func (h *sourceHasher) work(i int) pipeline.Work {
	read := h.to.list[i].Bytes
	if !h.whole {
		read = h.ck.catalog.DataOffset(int32(i)) + sampleBlocks*min(sampleBytes, read)
	}
	return pipeline.Work{Items: 1, BytesIn: read}
}

// Write describes Shard i.
func (h *sourceHasher) Write(ctx context.Context, i int) error {
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
		h.to.samples[i], err = sample(f, h.to.list[i].Bytes)
	}
	if err == nil && h.whole {
		err = h.hash(ctx, f, i)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", h.to.list[i].Name, err)
	}
	return nil
}

// Commit has nothing to do.
func (h *sourceHasher) Commit(context.Context) error { return nil }

// Close has nothing to do.
func (h *sourceHasher) Close() error { return nil }

// hash reads the whole Shard.
func (h *sourceHasher) hash(ctx context.Context, f *os.File, i int) error {
	s := &h.to.list[i]
	sum, n, err := packed.HashReader(ctx, io.TeeReader(io.NewSectionReader(f, 0, s.Bytes), (*teller)(h)))
	if err == nil && n != s.Bytes {
		err = errShortened()
	}
	if err != nil {
		return err
	}
	s.SHA256 = sum
	must, problem := s.ETag, "is not the file that was downloaded"
	if h.listed != nil {
		must, problem = h.listed[s.Name], "is not the file that the digest is of"
	}
	if raw, err := hex.DecodeString(must); err == nil && len(raw) == len(s.SHA256) && packed.Sum(raw) != s.SHA256 {
		return &stages.DataError{File: s.Name, Problem: problem, Expected: "sha256 " + must, Found: s.SHA256.String(), Advice: "download it again"}
	}
	return nil
}

// teller is a sourceHasher that is told what was read.
type teller sourceHasher

func (h *teller) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.done += int64(len(p))
	if h.told != nil {
		h.told(h.done, h.total)
	}
	return len(p), nil
}

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
