package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/usage"
	"github.com/coldload/coldload/sources/file"
	"github.com/coldload/coldload/stages"
)

// choice is a flag with a few values. Those of a later version are refused by name.
type choice struct {
	value        string
	given        bool // by the user
	known, later []string
	prefix       string // of values that are known whatever follows: "file:"
}

// chooseFrom makes a choice among known values, of which the first is the default.
func chooseFrom(known []string, later ...string) choice {
	return choice{value: known[0], known: known, later: later}
}

func (c *choice) Set(s string) error {
	switch kind, _, _ := strings.Cut(s, ":"); {
	case slices.Contains(c.known, s), c.prefix != "" && strings.HasPrefix(s, c.prefix) && s != c.prefix:
		c.value, c.given = s, true
		return nil
	case slices.Contains(c.later, kind):
		return errLater
	default:
		return fmt.Errorf("is not known (known: %s)", strings.Join(c.all(), ", "))
	}
}

// all names the values.
func (c *choice) all() []string {
	if c.prefix == "" {
		return c.known
	}
	return append(slices.Clip(c.known), c.prefix+"DIR")
}

func (c *choice) String() string { return c.value }
func (c *choice) Type() string   { return strings.Join(c.all(), "|") }

// outputFlags say how a command speaks.
type outputFlags struct{ json, quiet bool }

func (f *outputFlags) AddFlags(fs *pflag.FlagSet) {
	fs.BoolVar(&f.json, "json", false, "print the result as one JSON object on stdout")
	fs.BoolVar(&f.quiet, "quiet", false, "no progress, and only one line of result")
}

// planFlags say what is to be made, and within what memory.
type planFlags struct {
	outputFlags

	layout, dtype, names, io choice
	exponent                 choice
	include, exclude         []string
	noFuse, strict, actOrder bool
	noPad                    bool
	budget                   size
	workers                  int
	traceBatches             bool // of load and pack
	noSelfCheck              bool // likewise
	verifySource             bool // likewise
	digests                  string
}

func newPlanFlags() planFlags {
	return planFlags{
		layout:   chooseFrom([]string{string(stages.LayoutMarlin), string(stages.LayoutExllama), string(stages.LayoutRaw), string(stages.LayoutDequant)}),
		dtype:    chooseFrom([]string{"keep", "f16", "bf16", "f32"}),
		exponent: chooseFrom([]string{string(stages.ExponentFused), string(stages.ExponentPlain)}),
		names:    chooseFrom([]string{"hf"}, "vllm"),
		io:       chooseFrom([]string{file.ModeAuto.String(), file.ModeMmap.String(), file.ModePread.String(), file.ModeDirect.String()}),
		budget:   coldload.DefaultBudget,
	}
}

func (f *planFlags) AddFlags(fs *pflag.FlagSet) {
	f.outputFlags.AddFlags(fs)
	fs.Var(&f.layout, "layout", "layout of quantised modules; a packed folder has its own")
	fs.Var(&f.dtype, "dtype", "dtype of floating-point tensors and of scales; f32 does not go with layouts marlin and exllama")
	fs.BoolVar(&f.noFuse, "no-fuse", false, "make every module by itself: no q/k/v or gate/up in one, no stacked experts")
	fs.BoolVar(&f.noPad, "no-pad", false, "keep modules raw that the kernels' tiles do not fit, instead of filling them up with zeros")
	fs.BoolVar(&f.strict, "strict", false, "refuse a checkpoint of which the layout cannot hold all, instead of keeping modules raw")
	fs.BoolVar(&f.actOrder, "act-order", false, "sort input features by g_idx wherever there is one, though the config says desc_act false")
	fs.Var(&f.exponent, "fp8-exponent", "whether marlin scales of FP8 weights hold the factor that the kernels leave out: plain for kernels that multiply themselves")
	fs.Var(&f.names, "names", "how outputs are named")
	fs.StringArrayVar(&f.include, "include", nil, "make only the outputs whose names match `GLOB`, as plan lists them (* and ? and [a-z]); may be repeated")
	fs.StringArrayVar(&f.exclude, "exclude", nil, "leave out the outputs whose names match `GLOB`; may be repeated")
	fs.Var(&f.budget, "budget", "most bytes in flight: what is read and not yet in its final place (KiB, MiB, GiB, KB, MB, GB)")
	fs.IntVar(&f.workers, "workers", 0, "goroutines of every stage; 0 lets each stage choose")
	fs.Var(&f.io, "io", "how files are read; auto maps what the page cache holds and reads the rest past it")
}

// addRunFlags is for the commands that have Batches.
func (f *planFlags) addRunFlags(fs *pflag.FlagSet) {
	fs.BoolVar(&f.verifySource, "verify-source", false,
		"hash every shard while it is loaded, and use none before its sha256 is right; those of the Hugging Face cache must have theirs")
	fs.StringVar(&f.digests, "digests", "", "`FILE` of sha256sum, with the digests that --verify-source wants the shards to have; implies it")
	fs.BoolVar(&f.noSelfCheck, "no-self-check", false, "do not compare a sample of the result with its source, which costs less than a hundredth of the processor time")
	fs.BoolVar(&f.traceBatches, "trace-batches", false, "also a span for each batch in each phase, linked along its way; for an exporter of traces (--trace has every step anyway)")
}

// options are the flags as the library takes them.
func (f *planFlags) options(e *env) (coldload.Options, error) {
	if f.workers < 0 {
		return coldload.Options{}, usagef("--workers %d: must not be negative", f.workers)
	}
	mode, err := file.ParseMode(f.io.value)
	if err != nil {
		return coldload.Options{}, usagef("--io: %w", err)
	}
	digests, err := f.readDigests()
	if err != nil {
		return coldload.Options{}, err
	}
	dtype, _ := coldload.ParseDType(f.dtype.value) // the flag takes no other names
	var layout stages.Layout                       // not given, a packed folder decides
	if f.layout.given {
		layout = stages.Layout(f.layout.value)
	}
	var exponent stages.Exponent
	if f.exponent.given {
		exponent = stages.Exponent(f.exponent.value)
	}
	return coldload.Options{
		Layout: layout, NoFuse: f.noFuse, NoPad: f.noPad, Strict: f.strict, ActOrder: f.actOrder, FP8Exponent: exponent, Include: f.include, Exclude: f.exclude, DType: dtype, Budget: int64(f.budget), IO: mode, HubCache: e.hubCache,
		Workers:      workersOf(f.workers),
		CopySpeed:    func(ctx context.Context) float64 { return copySpeed(ctx, int64(f.budget)) },
		TraceBatches: f.traceBatches, NoSelfCheck: f.noSelfCheck,
		VerifySource: f.verifySource || digests != nil, Digests: digests,
	}, nil
}

// readDigests reads the list that was given; nil without one.
func (f *planFlags) readDigests() (map[string]string, error) {
	if f.digests == "" {
		return nil, nil
	}
	file, err := os.Open(f.digests)
	if err != nil {
		return nil, usagef("--digests: %w", err)
	}
	defer func() { _ = file.Close() }() // it was only read
	digests, err := coldload.ParseDigests(file)
	if err != nil {
		return nil, usagef("--digests %s: %w", f.digests, err)
	}
	return digests, nil
}

// workersOf gives every stage n workers; with 0 each chooses.
func workersOf(n int) coldload.Workers {
	return coldload.Workers{Index: n, Fetch: n, Decode: n, Fuse: n, Repack: n, Digest: n, Upload: n}
}

// copySpeed measures in the memory that the budget had; 0 when it cannot, and then the verdict does without.
func copySpeed(ctx context.Context, memory int64) float64 {
	speed, err := usage.CopySpeed(ctx, memory)
	if err != nil {
		return 0
	}
	return speed
}
