package coldload

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/coldload/coldload/internal/packed"
	"github.com/coldload/coldload/stages"
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
	fail(span, err)
	span.End()
	return res, err
}

func verify(ctx context.Context, vopt VerifyOptions, res *VerifyResult) error {
	rep, err := packed.Verify(ctx, res.Dir, packed.VerifyOptions{Workers: vopt.Workers, Progress: vopt.Progress})
	if err != nil {
		return err
	}
	res.Outputs, res.Bytes, res.Differences = rep.Outputs, rep.Bytes, rep.Differences
	if rep.Manifest == nil {
		return nil
	}
	res.Program = rep.Manifest.Program
	if vopt.Against == "" {
		return nil
	}
	return recompute(ctx, rep.Manifest, vopt, res)
}

// recompute loads the original as the folder was packed and compares what comes out with the manifest.
func recompute(ctx context.Context, m *packed.Manifest, vopt VerifyOptions, res *VerifyResult) error {
	options, err := parsePackedOptions(m.Options)
	if err != nil {
		return err
	}
	if len(options.Stages) > 0 && len(vopt.Load.Stages) == 0 || len(options.Rules) > 0 && len(vopt.Load.Rules) == 0 {
		return fmt.Errorf("%w: the folder was packed by a program with stages or rules of its own (%q): only it can compute the outputs again",
			ErrOptions, slices.Concat(options.Stages, options.Rules))
	}
	opt := options.apply(vopt.Load)
	ck, err := open(ctx, vopt.Against, opt, newResult())
	if err != nil {
		return err
	}
	res.Notes = append(res.Notes, ck.compareSources(m)...)
	sink := packed.NewComparer(res.Dir, m)
	if vopt.Progress != nil {
		opt.Progress = func(p Progress) { vopt.Progress(p.Written, p.Total) }
	}
	lres := newResult()
	err = errors.Join(ck.load(ctx, sink, opt, lres), ck.Close())
	if err != nil {
		return err
	}
	res.Recomputed = len(lres.Plan.Outputs)
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
