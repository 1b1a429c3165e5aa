package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/report"
	"github.com/coldload/coldload/sinks/file"
	"github.com/coldload/coldload/stages"
)

// packFlags are the options of pack.
type packFlags struct {
	planFlags
	pictureFlags

	shardSize              size
	overwrite, plainDigest bool
}

// defaultShardSize is what other tools cut checkpoints into.
const defaultShardSize = 5_000_000_000

func (f *packFlags) AddFlags(fs *pflag.FlagSet) {
	f.planFlags.AddFlags(fs)
	f.addRunFlags(fs)
	f.pictureFlags.AddFlags(fs)
	fs.Var(&f.shardSize, "shard-size", "most bytes of tensors in one shard; a larger tensor has a shard of its own")
	fs.BoolVar(&f.overwrite, "overwrite", false, "replace whatever OUTDIR is, when the new folder is complete")
	fs.BoolVar(&f.plainDigest, "plain-digests", false, "also note the sha256 of each output's bytes; reads the result back")
}

func newPack(e *env) *cobra.Command {
	o := packFlags{planFlags: newPlanFlags(), shardSize: defaultShardSize}
	cmd := &cobra.Command{
		Use:   "pack PATH OUTDIR",
		Short: "Write a checkpoint in its final form to a folder, so that every later start only reads",
		Long: `pack does the work of a load once and writes the result: safetensors shards with
their index, the checkpoint's other files (config, tokenizer, ...), and the
manifest coldload.json with a digest of every tensor. The folder is a checkpoint:
plan and load take it as it is, at the speed of reading.

OUTDIR appears complete or not at all. Until then the work is in OUTDIR.partial,
with a journal beside it. After a failure, Ctrl-C or a power cut the same command
goes on from there. When OUTDIR is already what would be made, pack says so and
does nothing; anything else in it is left alone unless --overwrite is given. Equal
checkpoints and options give equal folders, byte for byte.

In config.json, quantization_config says what the weights have become, with the
original inside; quantize_config.json moves to source/.

` + layoutHelp + `

` + pathHelp + `

` + telemetryHelp + `

` + exitCodes,
		Example: `  coldload pack ./my-model ./my-model-marlin
  coldload pack org/name /models/name --dtype bf16 --shard-size 10GB
  coldload verify ./my-model-marlin --against ./my-model`,
		Args: exactly(2, "PATH and OUTDIR"),
		RunE: func(cmd *cobra.Command, args []string) error { return runPack(cmd.Context(), e, &o, args[0], args[1]) },
	}
	o.AddFlags(cmd.Flags())
	return cmd
}

// spareProcessor gives the Go runtime one processor more than there are, and every stage that computes as many workers as there are. A
// goroutine that waits for a write keeps its processor, as the runtime counts them, until a watcher takes it away, and that comes late: packing
// with as many as there are left 40 % of them idle and took a third longer. restore undoes it.
func spareProcessor(w *coldload.Workers) (restore func()) {
	n := runtime.GOMAXPROCS(0)
	w.Decode, w.Fuse, w.Repack, w.Digest = n, n, n, n
	runtime.GOMAXPROCS(n + max(1, n/4))
	return func() { runtime.GOMAXPROCS(n) }
}

// runPack packs and prints the result.
func runPack(ctx context.Context, e *env, o *packFlags, path, dir string) error {
	opt, err := o.options(e)
	if err != nil {
		return err
	}
	popt := coldload.PackOptions{
		ShardSize: int64(o.shardSize), Overwrite: o.overwrite, PlainDigests: o.plainDigest,
	}
	pics, err := o.openPictures(e, path)
	if err != nil {
		return err
	}
	ctx = e.watch(ctx, &opt, pics)
	if opt.Workers.Decode == 0 {
		defer spareProcessor(&opt.Workers)()
	}
	peak := startPeak()
	bar := startBar(e, o.quiet, "packing", "making it durable")
	if bar != nil {
		opt.Progress = bar.load
		opt.Hashed = bar.hashing()
	}
	res, err := coldload.Pack(ctx, path, dir, opt, popt)
	bar.stop()
	p := packed{
		loaded: loaded{
			Load: report.Load{Result: res.Result, Took: res.Ended().Sub(e.start), Verb: "packed", Where: " in " + report.Clean(dir), PeakAnon: peak.stop()},
			path: path, budget: opt.Budget,
		},
		res: res,
	}
	if res.AlreadyComplete {
		p.Verb = "found packed"
	}
	if err = interrupted(ctx, err); err != nil {
		err = p.explain(err)
		return errors.Join(err, pics.finish(e, p.shown(&o.planFlags, err)))
	}
	drawn := told(pics.finish(e, p.shown(&o.planFlags, nil)))
	return errors.Join(p.print(e, o), drawn)
}

// packed is what pack did.
type packed struct {
	loaded

	res *coldload.PackResult
}

// explain adds to an error what a later run finds.
func (p *packed) explain(err error) error {
	if errors.Is(err, file.ErrTargetExists) {
		return fmt.Errorf("%w: coldload pack --overwrite", err)
	}
	if p.res.Kept == 0 {
		return err
	}
	return fmt.Errorf("%w\n%s.partial keeps %s that are done: the same command goes on from there, while the checkpoint stays as it is",
		err, strings.TrimRight(p.res.Dir, "/"), report.Bytes(p.res.Kept))
}

func (p *packed) print(e *env, o *packFlags) error {
	width, _ := e.outTTY()
	switch {
	case o.json:
		return writeJSON(e.out, p.object(&o.planFlags))
	case p.res.AlreadyComplete:
		return write(e.out, report.Clean(p.res.Dir)+" is complete already: this version packed it with the same options from a checkpoint with the same headers\n"+
			"and samples. To be sure, compare: coldload verify --against; to make it again: --overwrite\n")
	case o.quiet:
		return write(e.out, p.Headline()+p.resumed()+"\n")
	default:
		return write(e.out, p.Text(width)+p.resumedLine())
	}
}

func (p *packed) object(o *planFlags) packJSON {
	return packJSON{
		loadJSON: p.loaded.object(o, toFile+p.res.Dir), Dir: p.res.Dir, AlreadyComplete: p.res.AlreadyComplete, Resumed: p.res.Resumed,
		BytesRead: p.res.Phases[stages.PhaseFetch].BytesIn,
	}
}

func (p *packed) shown(o *planFlags, failed error) *shown {
	s := p.loaded.shown(o, toFile+p.res.Dir, failed)
	s.object = p.object(o)
	return s
}

// resumed says what was there already.
func (p *packed) resumed() string {
	if p.res.Resumed == 0 {
		return ""
	}
	return ", of which an earlier run had made " + report.Bytes(p.res.Resumed)
}

func (p *packed) resumedLine() string {
	if p.res.Resumed == 0 {
		return ""
	}
	return fmt.Sprintf("\nAn earlier run had made %s of it.\n", report.Bytes(p.res.Resumed))
}

// packJSON is the JSON object of pack.
type packJSON struct {
	loadJSON

	Dir             string `json:"dir"`
	AlreadyComplete bool   `json:"already_complete"`
	Resumed         int64  `json:"resumed_bytes"` // of outputs, that an earlier run had made
	BytesRead       int64  `json:"bytes_read"`    // of tensor data, by this run
}
