package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/coldload/coldload/internal/synth"
	"github.com/coldload/coldload/report"
)

// synthFlags are the options of synth.
type synthFlags struct {
	outputFlags

	opt       synth.Options
	format    choice
	shardSize size
}

func newSynthFlags() synthFlags {
	return synthFlags{
		format:    chooseFrom(synthFormats()),
		shardSize: size(synth.DefaultShardSize),
	}
}

func (f *synthFlags) AddFlags(fs *pflag.FlagSet) {
	f.outputFlags.AddFlags(fs)
	fs.StringVar(&f.opt.Model, "model", synth.DefaultModel, "whose names and shapes to take; the models are listed above")
	fs.IntVar(&f.opt.Layers, "layers", 0, "how many layers; 0 means all that the model has")
	fs.Var(&f.format, "format", "how linear layers are stored; none is BF16 everywhere, fp8 has scales of blocks, fp8-tensor and fp8-channel of tensors and output features, nvfp4 is ModelOpt's and nvfp4-compressed that of compressed-tensors; gguf is llama.cpp's Q4_K_M, gguf-mxfp4 its MXFP4_MOE; mxfp4 is of gpt-oss, mxfp4-compressed of all others")
	fs.IntVar(&f.opt.Bits, "bits", 4, "code width of gptq: 2, 3, 4 or 8; of compressed-tensors: 4 or 8; of awq: 4")
	fs.IntVar(&f.opt.Group, "group", 128, "input rows that share a scale, or -1 for all of them: gptq, awq and compressed-tensors")
	fs.BoolVar(&f.opt.DescAct, "desc-act", false, "act-order, the rows of a group lie apart: gptq and compressed-tensors")
	fs.BoolVar(&f.opt.Asym, "asym", false, "zero points: gptq (as gptq_v2) and compressed-tensors")
	fs.Uint64Var(&f.opt.Seed, "seed", 0, "equal seeds give equal files")
	fs.Var(&f.shardSize, "shard-size", "most bytes of tensors in a shard")
}

// given leaves to the package what the command line does not say: options that a format does not have are refused when they are given.
func (f *synthFlags) given(fs *pflag.FlagSet) error {
	if f.opt.Bits == 0 || f.opt.Group == 0 { // zero has a meaning in the package, and none here
		return usagef("--bits and --group must not be 0")
	}
	for name, v := range map[string]*int{"bits": &f.opt.Bits, "group": &f.opt.Group} {
		if !fs.Changed(name) {
			*v = 0
		}
	}
	return nil
}

// synthFormats names the formats.
func synthFormats() (names []string) {
	for _, f := range synth.Formats() {
		names = append(names, string(f))
	}
	return names
}

func newSynth(e *env) *cobra.Command {
	f := newSynthFlags()
	cmd := &cobra.Command{
		Use:   "synth OUTDIR",
		Short: "Write a checkpoint with the names and shapes of a real model and random weights",
		Long: `synth writes a checkpoint with a real model's names, shapes and config files
and random weights, for trying and measuring loads without downloading
anything. OUTDIR must be absent or empty. When synth is interrupted or fails,
it removes what it wrote.

Models:
` + modelList() + `
` + exitCodes,
		Example: `  coldload synth /tmp/ck --model qwen3-30b-a3b --layers 4
  coldload load /tmp/ck`,
		Args: exactly(1, "one OUTDIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.given(cmd.Flags()); err != nil {
				return err
			}
			return runSynth(cmd.Context(), e, &f, args[0])
		},
	}
	f.AddFlags(cmd.Flags())
	return cmd
}

func modelList() string {
	var b strings.Builder
	for _, m := range synth.Models() {
		fmt.Fprintf(&b, "  %-18s%s\n", m.Name, m.About)
	}
	return b.String()
}

func runSynth(ctx context.Context, e *env, f *synthFlags, dir string) error {
	f.opt.Format = synth.Format(f.format.value)
	f.opt.ShardSize = int64(f.shardSize)
	r, took, err := synthesise(ctx, e, f.opt, f.quiet, dir)
	if err != nil {
		return targetError(dir, err)
	}
	if f.json {
		return writeJSON(e.out, synthObject(r, took))
	}
	return write(e.out, synthLine(r, took)+"\n")
}

// synthesise writes a checkpoint and shows how far it is.
func synthesise(ctx context.Context, e *env, opt synth.Options, quiet bool, dir string) (synth.Result, time.Duration, error) {
	start := time.Now()
	bar := startBar(e, quiet, "writing", "finishing")
	defer bar.stop()
	if bar != nil {
		opt.Progress = bar.update
	}
	r, err := synth.Write(ctx, dir, opt)
	return r, time.Since(start), err
}

// targetError tells apart, among the errors of a run, what only another folder cures.
func targetError(dir string, err error) error {
	if errors.Is(err, synth.ErrNotEmpty) {
		return fmt.Errorf("%w; choose a folder that is absent or empty", err)
	}
	at, ok := errors.AsType[*fs.PathError](err)
	if !ok {
		return err
	}
	above, rerr := filepath.Rel(at.Path, dir) // of the folder itself, and of what it lies in
	if (rerr == nil && filepath.IsLocal(above)) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		return usagef("%w; choose another folder", err)
	}
	return err
}

func synthLine(r synth.Result, took time.Duration) string {
	return fmt.Sprintf("wrote %s: %s, %s in %s, %s in %s", report.Clean(r.Dir), r.Model, report.Plural(int64(r.Tensors), "tensor"),
		report.Plural(int64(r.Shards), "shard"), report.Bytes(r.Bytes), report.Duration(took))
}

// synthJSON is the JSON object of synth.
type synthJSON struct {
	Dir     string  `json:"dir"`
	Model   string  `json:"model"`
	Shards  int     `json:"shards"`
	Tensors int     `json:"tensors"`
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"`
}

func synthObject(r synth.Result, took time.Duration) synthJSON {
	return synthJSON{Dir: r.Dir, Model: r.Model, Shards: r.Shards, Tensors: r.Tensors, Bytes: r.Bytes, Seconds: took.Seconds()}
}
