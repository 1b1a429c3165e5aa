package execute

import (
	"context"
	"fmt"
	"slices"

	"github.com/coldload/coldload/internal/fault"
	"github.com/coldload/coldload/stages"
)

// Processor is what a stage on Batches does; pipeline.Stage of *stages.Batch is one.
type Processor interface {
	Name() string
	Process(ctx context.Context, b *stages.Batch) (*stages.Batch, error)
}

// Inserted is a stage of the user's own as the flow wants it.
type Inserted struct {
	stage Processor
	opt   Options
}

// Insert wraps a stage of the user's own: the Batch is released when the stage fails, panics or does not return it as it was, and a source page that is lost
// while the stage looks at it is an error that names the file. Of opt only FileName counts.
func Insert(stage Processor, opt Options) *Inserted { return &Inserted{stage: stage, opt: opt} }

// Name is the stage's own. Figures, spans and pictures go by names: one that is called like a phase, or like another stage of the flow, is told
// from it.
func (s *Inserted) Name() string {
	name := s.stage.Name()
	if slices.Contains([]string{Admission, Digest, Shards, VerifySource}, name) ||
		slices.ContainsFunc(stages.Phases(), func(p stages.Phase) bool { return p.String() == name }) {
		return name + " (inserted)"
	}
	return name
}

// Admission is what feeds the flow: it builds the Batches and waits for what each needs first, and until the budget has room for it.
const Admission = "batches"

// Shards is what feeds the pipelines whose items are Shards.
const Shards = "shards"

// The stages that read Shards beside those that load: every byte of each for its hash, during a load, and before a pack its header and samples.
const (
	VerifySource = "verify source"
	SampleSource = "sample source"
)

// Digest is the stage before the upload to a Sink that hashes.
const Digest = "digest"

// Process runs the stage under a fault guard. A Batch of a scan passes by: it makes nothing, and whoever turns its bytes into something
// reads them again.
func (s *Inserted) Process(ctx context.Context, b *stages.Batch) (out *stages.Batch, err error) {
	if b.IsScan() {
		return b, nil
	}
	done := false
	defer func() {
		if !done {
			b.Release()
		}
	}()
	sources, slabs, parts := sourcesOf(b), len(b.Slabs), len(b.Parts)
	err = fault.Guard(func() (err error) {
		out, err = s.stage.Process(ctx, b)
		return err
	}, append(sources, b.Dst...)...)
	if fe, ok := err.(*fault.Error); ok { //nolint:errorlint // the guard's own
		err = s.faulted(fe, b, sources)
	}
	switch {
	case err != nil:
		return nil, err
	case out == nil:
		return nil, fmt.Errorf("stage %s returned no batch", s.Name())
	case out != b:
		return nil, fmt.Errorf("stage %s returned another batch than it was given", s.Name())
	case len(b.Slabs) != slabs || len(b.Parts) != parts:
		return nil, fmt.Errorf("stage %s changed what the batch is made of", s.Name())
	}
	done = true
	return out, nil
}

// sourcesOf are the fetched bytes of every Range.
func sourcesOf(b *stages.Batch) [][]byte {
	if b.Views == nil {
		return nil
	}
	list := make([][]byte, len(b.Ranges), len(b.Ranges)+len(b.Dst))
	for i := range list {
		list[i] = b.Views.Bytes(i)
	}
	return list
}

// faulted tells a lost source page from a destination that could not be written.
func (s *Inserted) faulted(fe *fault.Error, b *stages.Batch, sources [][]byte) error {
	for i, src := range sources {
		if fe.In(src) {
			return sourceLost(fe, s.opt.fileOf(b.Ranges[i]), firstTensor(b, i))
		}
	}
	return sinkLost(fe)
}

// firstTensor is a tensor that the Batch reads from Range i.
func firstTensor(b *stages.Batch, i int) string {
	for p := range b.Parts {
		for k := range b.Parts[p].Inputs {
			if in := &b.Parts[p].Inputs[k]; in.Range == i {
				return in.Tensor
			}
		}
	}
	return ""
}
