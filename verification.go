package coldload

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"github.com/coldload/coldload/internal/execute"
	"github.com/coldload/coldload/internal/packed"
	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/plan"
	"github.com/coldload/coldload/sinks/file"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/index"
)

// mostHashers is how many Shards are hashed at a time at most, and so how many more the page cache should hold beside those that are loaded.
const mostHashers = 8

// verification hashes the Shards of one load, beside it: it is the end of a second chain in the load's Run, which therefore commits when every
// Shard is what it must be. A nil verification is that of a load that verifies nothing.
type verification struct {
	ck      *Checkpoint
	listed  map[string]string // the digests that Shards must have, by name; nil when it is the ETags
	told    func(done, total int64)
	workers int
	gate    *execute.Verified // from wire on
	read    []int64           // bytes of every Shard that were hashed for this load

	mu          sync.Mutex // guards what follows, and calls of told
	done, total int64
}

// verification is what opt ask for. noted says that a Shard with nothing to be compared with is no fault: its hash is noted.
func (ck *Checkpoint) verification(opt Options, noted bool) (*verification, error) {
	if !opt.VerifySource {
		return nil, nil //nolint:nilnil // nothing is verified
	}
	for i, s := range ck.found.Shards {
		if _, ok := opt.Digests[s.Name]; opt.Digests != nil && !ok {
			return nil, fmt.Errorf("%w: %s is not among the %d digests", ErrOptions, s.Name, len(opt.Digests))
		}
		if etag := ck.found.ETag(i); opt.Digests == nil && !noted && len(etag) != hex.EncodedLen(sha256.Size) {
			return nil, fmt.Errorf("%w: the source cannot be verified: %s is not stored under its SHA-256, as the Hugging Face cache has large files; "+
				"give digests", ErrOptions, s.Name)
		}
	}
	n := len(ck.found.Shards)
	return &verification{
		ck: ck, listed: opt.Digests, told: opt.Hashed, workers: max(1, min(opt.Workers.Repack, mostHashers, n)), read: make([]int64, n),
	}, nil
}

// order is the Shards that are verified whether a Batch of p waits for them or not: those of a whole checkpoint, in the order in which the
// Batches come to them; of a single module none.
func (v *verification) order(p *plan.Plan) []int32 {
	if p.Single != nil {
		return nil
	}
	order := p.Shards()
	seen := make([]bool, len(v.read))
	for _, i := range order {
		seen[i] = true
	}
	for i := range seen {
		if !seen[i] {
			order = append(order, int32(i))
		}
	}
	return order
}

// wire adds the chain to run, ahead of that of the Batches, and returns what holds them back.
func (v *verification) wire(run *pipeline.Run, p *plan.Plan) *execute.Verified {
	if v == nil {
		return nil
	}
	order := v.order(p)
	for _, i := range order {
		v.total += v.ck.found.Shards[i].Size
	}
	v.connect(run, order)
	return v.gate
}

func (v *verification) connect(run *pipeline.Run, order []int32) {
	v.gate = execute.NewVerified(len(v.read), order, v.workers)
	shards := pipeline.From(run, execute.Shards, func(yield func(*index.Shard, error) bool) {
		for {
			i, ok, err := v.gate.Next(run.Context())
			if err != nil {
				yield(nil, err)
			}
			if err != nil || !ok || !yield(&index.Shard{Number: i, Shard: v.ck.found.Shards[i]}, nil) {
				return
			}
		}
	}, unnamed)
	pipeline.Into(shards, v, pipeline.Workers(v.workers), pipeline.Measure(v.work), pipeline.NoCommit())
}

// Name is what the report calls it.
func (*verification) Name() string { return execute.VerifySource }

// work counts what was read of a Shard.
func (v *verification) work(s *index.Shard) pipeline.Work {
	return pipeline.Work{Items: 1, BytesIn: v.read[s.Number]}
}

// Write hashes a Shard and compares.
func (v *verification) Write(ctx context.Context, s *index.Shard) error {
	i := s.Number
	sum, err := v.ck.sums[i].get(ctx, func() (packed.Sum, error) { return v.hash(ctx, i) })
	if err != nil {
		return err
	}
	if v.read[i] == 0 {
		v.tell(s.Size) // another load has hashed it
	}
	if err := v.compare(i, sum); err != nil {
		return err
	}
	v.gate.Done(i)
	return nil
}

// Commit is not called.
func (*verification) Commit(context.Context) error { return nil }

// Close has nothing to do.
func (*verification) Close() error { return nil }

// hash reads the whole Shard, of the very file that is loaded.
func (v *verification) hash(ctx context.Context, i int) (sum packed.Sum, err error) {
	s := v.ck.found.Shards[i]
	f, err := v.ck.found.OpenShard(i)
	if err != nil {
		return sum, err
	}
	defer func() { _ = f.Close() }() // it was only read
	st, err := f.Stat()
	if err != nil {
		return sum, err
	}
	if !os.SameFile(st, v.ck.sums[i].file) {
		return sum, &stages.DataError{
			File: s.Name, Problem: "the file was replaced by another during the load, and only that could be hashed",
			Advice: "load again when nothing writes to the checkpoint",
		}
	}
	passBy(f)
	sum, v.read[i], err = packed.HashReader(ctx, io.TeeReader(io.NewSectionReader(f, 0, s.Size), (*teller)(v)))
	if err == nil && v.read[i] != s.Size {
		err = errShortened()
	}
	return sum, err
}

// compare wants Shard i to be what it must be.
func (v *verification) compare(i int, sum packed.Sum) error {
	name := v.ck.found.Shards[i].Name
	must, problem := v.ck.found.ETag(i), "is not the file that was downloaded"
	if v.listed != nil {
		must, problem = v.listed[name], "is not the file that the digest is of"
	}
	if raw, err := hex.DecodeString(must); err == nil && len(raw) == len(sum) && packed.Sum(raw) != sum {
		return &stages.DataError{File: name, Problem: problem, Expected: "sha256 " + must, Found: sum.String(), Advice: "download it again"}
	}
	return nil
}

// teller is a verification that is told what was read.
type teller verification

func (t *teller) Write(p []byte) (int, error) {
	(*verification)(t).tell(int64(len(p)))
	return len(p), nil
}

func (v *verification) tell(more int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.done += more
	if v.told != nil {
		v.told(v.done, max(v.total, v.done)) // of a module nobody knows the whole
	}
}

// shardSum is the SHA-256 of one Shard, which all loads from a Checkpoint compute once: when it changes meanwhile they fail anyway.
type shardSum struct {
	file os.FileInfo   // which file it is
	busy chan struct{} // holds one: who computes it
	sum  packed.Sum
	done bool
}

// newShardSums is for the files that loads read. With verified they will be hashed too.
func newShardSums(files []*os.File, verified bool) ([]shardSum, error) {
	sums := make([]shardSum, len(files))
	for i, f := range files {
		if verified {
			passBy(f)
		}
		st, err := f.Stat()
		if err != nil {
			return nil, err
		}
		sums[i] = shardSum{file: st, busy: make(chan struct{}, 1)}
	}
	return sums, nil
}

// get is the sum, computed by the first who asks.
func (s *shardSum) get(ctx context.Context, compute func() (packed.Sum, error)) (packed.Sum, error) {
	select {
	case s.busy <- struct{}{}:
	case <-ctx.Done():
		return packed.Sum{}, context.Cause(ctx)
	}
	defer func() { <-s.busy }()
	if s.done {
		return s.sum, nil
	}
	sum, err := compute()
	if err == nil {
		s.sum, s.done = sum, true
	}
	return sum, err
}

// sourceSums are the SHA-256 of all Shards, when a load has verified them.
func (ck *Checkpoint) sourceSums() []packed.Sum {
	sums := make([]packed.Sum, len(ck.sums))
	for i := range sums {
		sums[i] = ck.sums[i].sum
	}
	return sums
}

// alone verifies all Shards with nothing to load, and wants a folder that is complete already to have been made from them.
func (v *verification) alone(ctx context.Context, dir string, opt Options, res *Result) error {
	run := pipeline.New(ctx, opt.sideConfig())
	v.wire(run, &plan.Plan{}) //nolint:contextcheck // it waits under the run's own context, which is made of ctx
	v.gate.End()
	err := run.Wait()
	res.takeFlow(run.Stats(), 0)
	if err != nil {
		return err
	}
	m, err := packed.ReadFile(dir)
	if err != nil {
		return err
	}
	for i, sum := range v.ck.sourceSums() {
		name := v.ck.found.Shards[i].Name
		at := slices.IndexFunc(m.Sources, func(s packed.Source) bool { return s.Name == name })
		if at < 0 || m.Sources[at].SHA256 != sum {
			return &file.TargetError{
				Path: dir, Err: fmt.Errorf("%w: it was made from a %s with other bytes than sha256 %s", file.ErrTargetExists, name, sum),
				Advice: "choose another folder, or say that it may be replaced",
			}
		}
	}
	return nil
}
