// Package fetch is the stage that brings a Batch's bytes in: it reserves the memory that the Ops write and reads what they read.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/coldload/coldload/stages"
)

// Stage is a pipeline stage on admitted Batches. It is safe for concurrent use by any number of workers.
type Stage struct {
	source stages.Source
	sink   stages.Sink
}

// New makes the stage. It owns neither the Source nor the Sink; Sink.Begin has been called before the first Batch comes.
func New(source stages.Source, sink stages.Sink) *Stage {
	return &Stage{source: source, sink: sink}
}

// Name is "fetch".
func (*Stage) Name() string { return stages.PhaseFetch.String() }

// Process reserves every Slab of b and fetches its Ranges; b.Dst and b.Views are set then, also when b has no Slab or no Range. It owns b
// from call to return. On error nothing is held of the Source; what was reserved is settled by Sink.Close.
//
// A Sink or a Source that gives another number of bytes than asked for is an error. A *stages.DataError of a Source that tells the Extent
// it failed at (interface{ Extent() stages.Extent }) is completed with the name of a tensor there.
func (s *Stage) Process(ctx context.Context, b *stages.Batch) (*stages.Batch, error) {
	done := false
	defer func() {
		if !done {
			b.Release()
		}
	}()
	// Reserve first: when it fails, nothing was read in vain.
	dst, err := s.reserve(ctx, b)
	if err != nil {
		return nil, err
	}
	if b.Views, err = s.fetch(ctx, b); err != nil {
		b.Views = nil // whatever came with the error is not ours
		nameTensor(b, err)
		return nil, err
	}
	if err := Check(b.Views, b.Ranges); err != nil {
		return nil, err
	}
	b.Dst, b.Method = dst, b.Views.Method()
	done = true
	return b, nil
}

// fetch lets a Source that pads use what the Batch was charged for.
func (s *Stage) fetch(ctx context.Context, b *stages.Batch) (stages.Views, error) {
	if len(b.Ranges) == 0 {
		return nothing{}, nil
	}
	if p, ok := s.source.(stages.Padder); ok {
		return p.FetchPadded(ctx, b.Ranges, b.Padding)
	}
	return s.source.Fetch(ctx, b.Ranges)
}

// nothing is the Views of a Batch that makes nothing but padding: no Source is asked for no bytes.
type nothing struct{}

func (nothing) Bytes(int) []byte { return nil }
func (nothing) Method() string   { return "none" }
func (nothing) Release()         {}

func (s *Stage) reserve(ctx context.Context, b *stages.Batch) ([][]byte, error) {
	dst := make([][]byte, len(b.Slabs)) // never nil: it says that b was fetched
	for i, slab := range b.Slabs {
		mem, err := s.sink.Reserve(ctx, slab)
		if err != nil {
			return nil, fmt.Errorf("reserve %d bytes for slab %d of output %d: %w", slab.Len, slab.Index, slab.Output, err)
		}
		if int64(len(mem)) != slab.Len {
			return nil, fmt.Errorf("the sink reserved %d bytes for slab %d of output %d, which has %d", len(mem), slab.Index, slab.Output, slab.Len)
		}
		dst[i] = mem
	}
	return dst, nil
}

// Check reports whether a Source gave what it was asked for: as many bytes as every range has.
func Check(v stages.Views, ranges []stages.Extent) error {
	if v == nil {
		return errors.New("the source gave no views, and no error")
	}
	for i, e := range ranges {
		if n := int64(len(v.Bytes(i))); n != e.Len {
			return fmt.Errorf("the source gave %d bytes for %d bytes at %d of shard %d", n, e.Len, e.Off, e.Shard)
		}
	}
	return nil
}

// nameTensor completes a Source's error, which knows files only, with the first tensor of b in the bytes that were lost.
func nameTensor(b *stages.Batch, err error) {
	at, ok := errors.AsType[interface {
		error
		Extent() stages.Extent
	}](err)
	if !ok {
		return
	}
	if de, ok := errors.AsType[*stages.DataError](err); ok && de.Tensor == "" {
		de.Tensor = firstTensor(b, at.Extent())
	}
}

// firstTensor is the tensor that meets lost at the lowest offset; empty when b reads none there.
func firstTensor(b *stages.Batch, lost stages.Extent) string {
	first := stages.Input{Extent: stages.Extent{Off: math.MaxInt64}}
	for i := range b.Parts {
		for _, in := range b.Parts[i].Inputs {
			e := in.Extent
			meets := e.Shard == lost.Shard && e.Off < lost.End() && lost.Off < e.End()
			if meets && e.Off < first.Extent.Off {
				first = in
			}
		}
	}
	return first.Tensor
}
