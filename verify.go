package coldload

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/coldload/coldload/internal/packed"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/discover"
)

// Difference is one thing that is not as it was packed.
type Difference = packed.Difference

// VerifyOptions configures Verify. The zero value is good.
type VerifyOptions struct {
	Workers int // that read and hash at once; 0 is one per CPU
	// Against, when set, names the checkpoint that the folder was made from: every Output is computed again and compared.
	Against string
	// Load is used for computing again: budget, workers, IO, telemetry. What the Outputs are comes from the folder.
	Load Options
	// Progress is called with the bytes that were checked, of the folder first and then of what is computed again; from several
	// goroutines at once.
	Progress func(done, total int64)
}

// VerifyResult is what Verify found. The folder is as it was packed when there is no Difference.
type VerifyResult struct {
	Dir         string
	Program     string // version of the program that packed the folder
	Outputs     int    // whose bytes were hashed
	Recomputed  int    // that were computed again
	Bytes       int64  // that were hashed
	Differences []Difference
	Notes       []string
	Duration    time.Duration
	// Verdict says what bounded the reading and hashing of the folder or, with VerifyOptions.Against, the load that computed it again.
	Verdict Verdict

	load *Result // of computing again; nil without it
}

// Verify reads a packed folder once and lists everything that is not as the manifest says, up to the last bit; with VerifyOptions.Against
// it also computes every Output again. An error means that it could not look.
func Verify(ctx context.Context, dir string, vopt VerifyOptions) (*VerifyResult, error) {
	vopt.Load = vopt.Load.withDefaults()
	start := time.Now()
	res := &VerifyResult{Dir: dir}
	ctx, span := vopt.Load.startSpan(ctx, "verify", dir)
	err := verify(ctx, vopt, res)
	res.Duration = time.Since(start)
	res.describe(span)
	fail(span, err)
	span.End()
	return res, err
}

func verify(ctx context.Context, vopt VerifyOptions, res *VerifyResult) (err error) {
	dir, err := discover.Locate(res.Dir, discover.Options{HubCache: vopt.Load.HubCache})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	if dir.Kind == discover.KindFile {
		return fmt.Errorf("%w: %s is a file, and a packed folder is verified as a whole", ErrOptions, res.Dir)
	}
	var ck *Checkpoint
	if vopt.Against != "" { // what cannot be opened is told before gigabytes are hashed
		if ck, err = open(ctx, vopt.Against, vopt.Load, newResult()); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, ck.Close()) }()
	}
	hashing := newHashing(dir.Dir, cmp.Or(max(0, vopt.Workers), runtime.GOMAXPROCS(0)))
	rep, err := packed.Verify(ctx, dir, packed.VerifyOptions{Workers: vopt.Workers, Progress: vopt.Progress, Pipeline: vopt.Load.sideConfig()})
	if err != nil {
		return err
	}
	res.Verdict = hashing.judge(rep.Bytes)
	res.Outputs, res.Bytes, res.Differences = rep.Outputs, rep.Bytes, rep.Differences
	if rep.Manifest == nil {
		return nil
	}
	res.Program = rep.Manifest.Program
	options, err := parsePackedOptions(rep.Manifest.Options)
	if refused, ok := errors.AsType[*stages.RefusedError](err); ok {
		res.Differences = append(res.Differences, Difference{File: packed.ManifestName, Kind: packed.Damaged, Detail: refused.Faults[0].String()})
		return nil
	}
	if err != nil || ck == nil {
		return err
	}
	return ck.recompute(ctx, dir, rep.Manifest, options, vopt, res)
}

// recompute loads the original as the folder was packed and compares what comes out with the manifest.
func (ck *Checkpoint) recompute(
	ctx context.Context, dir packed.Folder, m *packed.Manifest, options packedOptions, vopt VerifyOptions, res *VerifyResult,
) error {
	if err := options.needs(vopt.Load); err != nil {
		return err
	}
	opt := options.apply(vopt.Load)
	res.Notes = append(res.Notes, ck.compareSources(m)...)
	sink := packed.NewComparer(dir, m)
	if vopt.Progress != nil {
		opt.Progress = func(p Progress) { vopt.Progress(p.Written, p.Total) }
	}
	res.load = newJudgedResult()
	res.load.sink = sinkName(sink)
	if err := ck.load(ctx, sink, opt, res.load); err != nil {
		return err
	}
	res.load.finish()
	res.load.judge(ctx, opt)
	res.Verdict = res.load.Verdict
	res.Recomputed = len(res.load.Plan.Outputs)
	res.Differences = append(res.Differences, sink.Differences()...)
	return nil
}

// compareSources notes what is not the Shard that was packed: the Outputs may be the same all the same.
func (ck *Checkpoint) compareSources(m *packed.Manifest) (notes []string) {
	for _, s := range ck.found.Shards {
		i := slices.IndexFunc(m.Sources, func(p packed.Source) bool { return p.Name == s.Name })
		if i < 0 || m.Sources[i].Bytes != s.Size {
			notes = append(notes, s.Name+" is not among the shards that the folder was packed from")
		}
	}
	if len(ck.found.Shards) != len(m.Sources) {
		notes = append(notes, fmt.Sprintf("the folder was packed from %d shards, this checkpoint has %d", len(m.Sources), len(ck.found.Shards)))
	}
	return notes
}

var _ stages.Sink = (*packed.Comparer)(nil)
