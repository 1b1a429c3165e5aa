package synth

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
)

// Errors that callers branch on. ErrOptions, ErrNotEmpty and ErrNoSpace are found before anything is written.
var (
	ErrOptions  = errors.New("synth: wrong options")
	ErrNotEmpty = errors.New("synth: target folder is not empty")
	ErrNoSpace  = errors.New("synth: not enough free disk space")
)

// Format is how the linear layers are stored.
type Format string

// The formats that Write knows.
const (
	FormatGPTQ Format = "gptq" // checkpoint_format gptq (v1 zero points)
	FormatNone Format = "none" // BF16 everywhere
	FormatAWQ  Format = "awq"  // version gemm: 4 bits, zero points
	// FormatCompressed is pack-quantized of compressed-tensors, with BF16 scales.
	FormatCompressed Format = "compressed-tensors"
)

// Formats are the formats that Write knows, the default first.
func Formats() []Format {
	return []Format{
		FormatGPTQ, FormatNone, FormatAWQ, FormatCompressed, FormatFP8, FormatFP8Tensor, FormatFP8Channel, FormatMXFP4, FormatMXFP4Pack,
		FormatNVFP4, FormatNVFP4Compressed,
		FormatGGUF, FormatGGUFQ4_0, FormatGGUFMXFP4,
	}
}

// DefaultShardSize is the most bytes of tensor data that a Shard of zero [Options] holds, unless one tensor alone is larger.
const DefaultShardSize int64 = 2 << 30

// Options says what to synthesise. The zero value is the 4-bit GPTQ checkpoint of DefaultModel.
type Options struct {
	Model  string // a name of Models; empty means DefaultModel
	Layers int    // how many layers; 0 means as many as the model has
	Format Format // empty means FormatGPTQ

	// The options of some formats. Set for another they are an error.

	Bits    int  // code width: 2, 3, 4 or 8 (compressed-tensors: 4 or 8; AWQ: 4); 0 means 4. GPTQ, AWQ and compressed-tensors
	Group   int  // input rows that share a scale, or -1 for all of them; 0 means 128. GPTQ, AWQ and compressed-tensors
	DescAct bool // act-order: g_idx is a random balanced order, shared by q, k, v and by an expert's gate and up. GPTQ and compressed-tensors

	// Asym stores a zero point for every group and output feature, of any value. GPTQ (then in checkpoint_format gptq_v2) and compressed-tensors.
	Asym bool

	// Narrow makes a model of the same names with small sizes, for tests: see [Model.Narrow].
	Narrow bool

	Seed      uint64
	ShardSize int64 // most bytes of tensor data in a Shard; 0 means DefaultShardSize
	Order     Order // of the tensors in a Shard

	// Workers is how many goroutines fill a Shard; 0 means one per core, at most 8 (more do not help: the page cache is the limit).
	Workers int
	// Sparse writes headers and config files as usual but leaves the data as holes, which read as zeros: a checkpoint for planning, of any
	// size, in no time.
	Sparse bool
	// Progress, when set, is told the bytes of tensor data written so far and in all. Calls are serialised and frequent (every few MiB).
	Progress func(done, total int64)
}

func (o Options) withDefaults() Options {
	if o.Model == "" {
		o.Model = DefaultModel
	}
	if o.Format == "" {
		o.Format = FormatGPTQ
	}
	if o.Bits == 0 {
		o.Bits = 4
	}
	if o.Group == 0 {
		o.Group = 128
	}
	if o.ShardSize == 0 {
		o.ShardSize = DefaultShardSize
	}
	if o.Workers == 0 {
		o.Workers = min(runtime.GOMAXPROCS(0), 8)
	}
	return o
}

// choices are the options that not every format has.
type choices struct {
	bits                 []int // the code widths; none when the format has but one, and no option
	group, descAct, asym bool
}

// choicesOf are those of the formats that have any.
var choicesOf = map[Format]choices{
	FormatGPTQ:       {bits: []int{2, 3, 4, 8}, group: true, descAct: true, asym: true},
	FormatAWQ:        {bits: []int{4}, group: true},
	FormatCompressed: {bits: []int{4, 8}, group: true, descAct: true, asym: true},
}

// validateChoices finds the options that are set and that the format does not have: to ignore them would write another checkpoint than the one
// asked for. o is without defaults, but for its Format.
func (o Options) validateChoices(fault func(format string, args ...any)) {
	has := choicesOf[o.Format]
	for _, x := range []struct {
		option   string
		set, has bool
	}{
		{"bits", o.Bits != 0, has.bits != nil}, {"group", o.Group != 0, has.group}, {"desc-act", o.DescAct, has.descAct}, {"asym", o.Asym, has.asym},
	} {
		if x.set && !x.has {
			fault("format %s has no option %s: leave it out", o.Format, x.option)
		}
	}
	if o.Bits != 0 && has.bits != nil && !slices.Contains(has.bits, o.Bits) {
		fault("bits of format %s must be one of %v, not %d", o.Format, has.bits, o.Bits)
	}
	if has.group && o.Group < -1 {
		fault("group must be positive, or -1 for one group over all rows, not %d", o.Group)
	}
	if o.Format == FormatCompressed && o.DescAct && o.Group == -1 {
		fault("format %s has desc-act with groups alone, not with group -1", o.Format)
	}
}

// Validate returns every fault of the Options, joined; each is an ErrOptions. Defaults count as set, but not as options that a format must have.
func (o Options) Validate() error {
	given := o
	o = o.withDefaults()
	given.Format = o.Format
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("%w: "+format, append([]any{ErrOptions}, args...)...))
	}
	m, err := FindModel(o.Model)
	if err != nil {
		faults = append(faults, err)
	}
	if !slices.Contains(Formats(), o.Format) {
		fault("unknown format %q; known: %q", o.Format, Formats())
	} else {
		given.validateChoices(fault)
		if err == nil {
			o.validateModel(m, fault)
		}
	}
	if o.Order != OrderTool && o.Order != OrderSorted {
		fault("unknown order %q; known: %q, %q", o.Order, OrderTool, OrderSorted)
	}
	if o.Layers < 0 || o.ShardSize < 0 || o.Workers < 0 {
		fault("layers (%d), shard size (%d) and workers (%d) must not be negative", o.Layers, o.ShardSize, o.Workers)
	}
	return errors.Join(faults...)
}

// validateModel finds a format in which the model does not come.
func (o Options) validateModel(m Model, fault func(format string, args ...any)) {
	switch {
	case m.Has(o.Format):
	case IsGGUF(o.Format):
		fault("%s is not made of %s, whose names in llama.cpp are not known here", o.Format, m.Name)
	default:
		fault("model %s does not come in format %s: %s is that of gpt-oss, which has no other but %s", m.Name, o.Format, FormatMXFP4, FormatNone)
	}
}
