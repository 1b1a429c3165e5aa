package index

import (
	"cmp"
	"context"
	"iter"
	"os"
	"slices"

	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/discover"
)

// Shards are the Checkpoint's Shards as items for the stage.
func Shards(ck *discover.Checkpoint) iter.Seq2[*Shard, error] {
	return func(yield func(*Shard, error) bool) {
		for i, s := range ck.Shards {
			if !yield(&Shard{Number: i, Shard: s}, nil) {
				return
			}
		}
	}
}

// Collector is the end of the index pipeline: it gathers the Shards, checks them against the index file and against each other, and
// makes the Catalog. It is a pipeline.Sink; use it with one worker.
type Collector struct {
	Checkpoint *discover.Checkpoint

	// Catalog and Files are set by Commit. The files are open, in the order of the Shards, and belong to the caller.
	Catalog *Catalog
	Files   []*os.File

	shards []*Shard
}

var _ pipeline.Sink[*Shard] = (*Collector)(nil)

// Name is the phase's.
func (*Collector) Name() string { return stages.PhaseIndex.String() }

// Write takes one Shard. The file goes with it: the runtime's Release of the item finds none.
func (c *Collector) Write(_ context.Context, s *Shard) error {
	mine := *s
	s.File = nil
	c.shards = append(c.shards, &mine)
	return nil
}

// Commit makes the Catalog, or refuses with every fault of all Shards.
func (c *Collector) Commit(context.Context) error {
	slices.SortFunc(c.shards, func(a, b *Shard) int { return cmp.Compare(a.Number, b.Number) })
	var faults []stages.Fault
	for _, s := range c.shards {
		faults = append(faults, s.Faults...)
	}
	if len(faults) > 0 {
		return stages.Refuse(faults...)
	}
	faults = c.check()
	catalog, doubles := New(c.shards)
	if c.Checkpoint.Index == nil { // else they are among the faults already
		faults = append(faults, doubles...)
	}
	if len(faults) > 0 {
		return stages.Refuse(faults...)
	}
	c.Catalog = catalog
	for _, s := range c.shards {
		c.Files = append(c.Files, s.File)
	}
	c.shards = nil
	return nil
}

// check compares the index with the headers, and with the single file that it hides.
func (c *Collector) check() []stages.Fault {
	ck := c.Checkpoint
	if ck.Index == nil {
		return checkSplit(c.shards)
	}
	headers := make(map[string]*safetensors.Header, len(c.shards))
	for _, s := range c.shards {
		if h, ok := s.Header.(*safetensors.Header); ok {
			headers[s.Name] = h
		}
	}
	var faults []stages.Fault
	if err := ck.Index.Check(headers); err != nil {
		faults = faultsOf(err)
	}
	if ck.Single != "" {
		faults = append(faults, c.compareSingle()...)
	}
	return faults
}

// compareSingle refuses a model.safetensors beside an index that does not hold the same tensors: nobody can tell which one is meant.
func (c *Collector) compareSingle() []stages.Fault {
	ck := c.Checkpoint
	disagree := func(found string) []stages.Fault {
		return []stages.Fault{{
			Code: stages.CodeAmbiguous, File: ck.Single,
			Problem:  "lies beside " + ck.IndexFile + " and does not hold the same tensors",
			Expected: "the tensors of the index", Found: found, Advice: "remove the one that is not meant",
		}}
	}
	f, err := ck.Open(ck.Single)
	if err != nil {
		return disagree(err.Error())
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return disagree(err.Error())
	}
	h, err := safetensors.ReadHeader(f, st.Size(), safetensors.WithName(ck.Single))
	if err != nil {
		return disagree(err.Error())
	}
	for name := range h.Names() {
		if _, ok := ck.Index.Lookup(name); !ok {
			return disagree(name + ", which the index has not")
		}
	}
	if h.Len() != ck.Index.Len() {
		return disagree(itoa(int64(h.Len())) + " tensors where the index has " + itoa(int64(ck.Index.Len())))
	}
	return nil
}

// Close closes what Commit did not hand out.
func (c *Collector) Close() error {
	for _, s := range c.shards {
		s.Release()
	}
	c.shards = nil
	return nil
}
