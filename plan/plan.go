package plan

import (
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/discover"
)

// Options decide what a Plan makes. The zero value asks for Marlin, every dtype kept, everything fused and stacked.
type Options struct {
	// Layout of quantised Modules; empty is Marlin, or what a packed folder has.
	Layout stages.Layout
	// DType of every floating-point Output, and of the scales of kernel layouts; safetensors.Invalid keeps what the file has.
	DType stages.DType
	// NoFuse loads every module by itself: no q/k/v or gate/up fusion, no stacking.
	NoFuse bool
	// Strict refuses what the layout cannot hold, instead of keeping it raw.
	Strict bool
	// ActOrder treats every quantised Module with a g_idx as act-order, whatever the config says.
	ActOrder bool
	// FP8Exponent says what Marlin scales of FP8 weights hold; empty is stages.ExponentFused.
	FP8Exponent stages.Exponent
	// NoPad keeps raw what the tiles of the layout do not fit, instead of filling it up with zeros.
	NoPad bool
	// Rules are asked about every Output, in order.
	Rules []stages.Rule
	// Budget is what one Batch may cost at most, in bytes; 0 sets no bound.
	Budget int64
	// Staging is what the Sink holds for a Slab, in bytes; nil for a Sink that hands out final memory.
	Staging func(stages.Slab) int64
	// Formats are further quantisation formats, looked at before the built-in ones.
	Formats []Format
	// Include and Exclude choose among the Outputs by their names, with the patterns of [path.Match]: made is what matches any of Include
	// (everything when it is empty) and none of Exclude. The checkpoint is checked as a whole all the same.
	Include, Exclude []string
}

// Input is what a Plan is made from.
type Input struct {
	Catalog Catalog
	Model   *discover.ModelConfig
	Quant   *discover.QuantConfig // nil when no file names a quantisation
	Packed  *Packed               // nil unless coldload packed the Checkpoint
}

// Plan is everything that will happen, as data. It is immutable once made.
type Plan struct {
	Outputs []stages.Output // in the order in which they are planned to be complete
	Summary Summary
	Notes   []string
	Faults  []stages.Fault
	Single  *Single // what MakeModule planned; nil for a whole checkpoint

	catalog *views
	recipes []recipe // one per Output
	units   []unit
	ends    []int
	join    joinLimit
	scans   []*scan // by their IDs, from 1 on
	scanIDs map[*scan]stages.ScanID
}

// Summary is the figures of a Plan.
type Summary struct {
	Family     string        // naming family, "" when no rule applied
	Format     string        // quantisation method, or "none"
	Layout     stages.Layout // asked for
	Tensors    int           // in the headers
	Shards     int
	Modules    int   // quantised and fused linear layers that were recognised
	Groups     int   // what they became
	Parts      int   // pieces of work, but for those of Spare
	BytesIn    int64 // tensor data, used or ignored, each once
	BytesRead  int64 // what will be fetched: each byte once, plus gaps between ranges and what is read again
	Scanned    int64 // of BytesRead, what scans read ahead of the Outputs that need what they find
	Spare      int64 // what scans read beyond BytesRead at most, when what they look at first is not enough
	BytesOut   int64
	Skipped    int64 // bytes of Outputs that a Sink has already: see Plan.Skip
	Ignored    int   // tensors
	IgnoredIn  int64 // their bytes
	LeftOut    int   // Outputs that Options.Include and Exclude leave out
	LargestOut int64 // bytes of the largest Batch's Slabs
	// LargestBatch is the most that a Batch costs at admission, in bytes, and LargestName what it makes.
	LargestBatch int64
	LargestName  string
	Fused        []Fused  // what became one, by the name that it got
	Padded       []Padded // what was filled up, by extents
	Kept         []Kept   // what the layout cannot hold, by reason
}

// Fused is one way in which Modules became one, and how often.
type Fused struct {
	Into    string   `json:"into"`    // last name component of the result
	Members []string `json:"members"` // of the parts
	Stacked bool     `json:"stacked"` // experts on a leading axis
	Groups  int      `json:"groups"`  // results
	Modules int      `json:"modules"` // parts
	Example string   `json:"example"`
}

// Padded is one way in which Modules were filled up to whole tiles, and how often.
type Padded struct {
	stages.Padding

	Groups  int    `json:"groups"`
	Example string `json:"example"`
}

// Kept is one reason why Modules stay raw.
type Kept struct {
	Reason  string `json:"reason"`
	Groups  int    `json:"groups"`
	Example string `json:"example"`
}

// Overhead of a load beyond result and budget, in bytes: a constant, and what describing one tensor takes.
const (
	overheadFixed     = 64 << 20
	overheadPerTensor = 400
)

// PredictedPeak is the most anonymous memory that a load takes, in bytes, with the result in memory or not.
func (p *Plan) PredictedPeak(budget int64, resultInMemory bool) int64 {
	peak := min(budget, p.Summary.BytesRead+p.Summary.Spare) + overheadFixed + overheadPerTensor*int64(p.Summary.Tensors)
	if resultInMemory {
		peak += p.Summary.BytesOut
	}
	return peak
}

// DiskBytes is about what a packed folder of the Outputs takes, in bytes: the data and the headers.
func (p *Plan) DiskBytes() int64 {
	n := p.Summary.BytesOut
	for i := range p.Outputs {
		n += int64(len(p.Outputs[i].Name)) + 64
	}
	return n
}

// Make makes the Plan. When the checkpoint is refused the error is a *stages.RefusedError with every fault, and the Plan says what was
// understood all the same.
func Make(in Input, opt Options) (*Plan, error) {
	c := newCompiler(in, opt)
	c.run()
	return c.plan, stages.Refuse(c.plan.Faults...)
}

// TargetBatch is the size that Batches aim at under a budget, in bytes: small budgets still let three of them be in flight.
func TargetBatch(budget int64) int64 {
	if budget <= 0 {
		return batchBytes
	}
	return min(batchBytes, max(budget/3, 1))
}

func keeps(d stages.DType) bool { return d == safetensors.Invalid }
