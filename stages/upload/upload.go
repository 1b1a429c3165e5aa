// Package upload is the last stage of a load: it hands the filled Slabs of each Batch to a stages.Sink, and lets the Sink commit when all
// are there. It adapts stages.Sink to pipeline's Sink of *stages.Batch.
package upload

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/stages"
)

// Options configures a Stage. The zero value is good.
type Options struct {
	// Verify is called once, after every Write succeeded and before the Sink commits: the Source's check that no Shard changed while it
	// was read. Its error stops the commit. Nil for none.
	Verify func(ctx context.Context) error
	// Completed is called once for every Output with bytes, when the Sink has taken its last Slab. It gets the Output's index, and is
	// called from the goroutines that call Write, several at once: the pipeline waits for it. An Output of no bytes has no Slab and
	// completes silently. Nil for none.
	Completed func(output int)
}

// Stage is a pipeline.Sink of *stages.Batch over a stages.Sink that was begun. It takes the Sink over: Close closes it.
type Stage struct {
	sink    stages.Sink
	opt     Options
	outputs []stages.Output
	missing []atomic.Int64 // Slabs of each Output that are not yet written; nil when nobody wants to know
}

var _ pipeline.Sink[*stages.Batch] = (*Stage)(nil)

// New makes the stage for the Outputs that sink.Begin was given; it keeps the slice, for errors. It costs 8 bytes per Output when
// Options.Completed is set, else nothing.
func New(sink stages.Sink, outputs []stages.Output, opt Options) *Stage {
	s := &Stage{sink: sink, opt: opt, outputs: outputs}
	if opt.Completed != nil {
		s.missing = make([]atomic.Int64, len(outputs))
		for i := range outputs {
			s.missing[i].Store(int64(outputs[i].Slabs()))
		}
	}
	return s
}

// Name is the stage's name.
func (s *Stage) Name() string { return stages.PhaseUpload.String() }

// Write hands every Slab of the Batch to the Sink, in the Batch's order, and stops at the first error, which names the Output. A Sink that
// is a stages.BatchWriter gets the Slabs of a Batch in one call. The Batch
// has no Dst afterwards, on error too: what was handed over is the Sink's, and what was not is settled by Close. Several Batches may be
// written at once.
func (s *Stage) Write(ctx context.Context, b *stages.Batch) error {
	dst := b.Dst
	b.Dst = nil
	if err := filled(b, dst); err != nil {
		return err
	}
	if w, ok := s.sink.(stages.BatchWriter); ok && len(b.Slabs) > 1 {
		if err := w.WriteBatch(ctx, b.Slabs, dst); err != nil {
			return fmt.Errorf("batch of %d slabs from %s on: %w", len(b.Slabs), s.outputs[b.Slabs[0].Output].Name, err)
		}
		for _, slab := range b.Slabs {
			s.written(slab)
		}
		return nil
	}
	for i, slab := range b.Slabs {
		if err := s.sink.Write(ctx, slab, dst[i]); err != nil {
			return fmt.Errorf("output %s, slab %d: %w", s.outputs[slab.Output].Name, slab.Index, err)
		}
		s.written(slab)
	}
	return nil
}

// filled wants a destination for every Slab.
func filled(b *stages.Batch, dst [][]byte) error {
	if len(dst) != len(b.Slabs) {
		return fmt.Errorf("%d slabs with %d destinations: the batch was not fetched, or was written before", len(b.Slabs), len(dst))
	}
	return nil
}

// written tells when the Slab was its Output's last one.
func (s *Stage) written(slab stages.Slab) {
	if s.missing != nil && s.missing[slab.Output].Add(-1) == 0 {
		s.opt.Completed(slab.Output)
	}
}

// Commit verifies the Source, then commits the Sink.
func (s *Stage) Commit(ctx context.Context) error {
	if s.opt.Verify != nil {
		if err := s.opt.Verify(ctx); err != nil {
			return err
		}
	}
	return s.sink.Commit(ctx)
}

// Close closes the Sink, which aborts unless it has committed.
func (s *Stage) Close() error { return s.sink.Close() }

// Work is what the stage does for one Batch, for pipeline.Measure: the number of Slabs, and their bytes, which go in and come out. It may
// be asked before Write and after.
func Work(b *stages.Batch) pipeline.Work {
	return pipeline.Work{Items: int64(len(b.Slabs)), BytesIn: b.OutBytes, BytesOut: b.OutBytes}
}
