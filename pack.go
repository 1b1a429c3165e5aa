package coldload

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/go-json-experiment/json"

	"github.com/coldload/coldload/internal/packed"
	"github.com/coldload/coldload/sinks/file"
	"github.com/coldload/coldload/stages"
)

// PackOptions configures Pack beyond what a load takes. The zero value is good.
type PackOptions struct {
	// ShardSize is the most that the Outputs of one shard take, in bytes; 0 is 5 GB (5e9). A larger Output has a shard of its own.
	ShardSize int64
	// Overwrite replaces whatever the folder is, when the new one is complete.
	Overwrite bool
	// PlainDigests also computes the SHA-256 of every Output's bytes, which means to read each back.
	PlainDigests bool
}

// PackResult says what Pack did.
type PackResult struct {
	*Result

	Dir string // as asked for
	// AlreadyComplete: the folder was there, made by this version with the same options from a checkpoint with the same headers and the same
	// samples of its bytes. Nothing was done.
	AlreadyComplete bool
	// Resumed is what an earlier run had left, in bytes of Outputs.
	Resumed int64
	// Kept is, after an error, what a later run can go on with, in bytes of Outputs.
	Kept int64
}

// writers is how many Batches are written at a time: as many requests as a disk is given at a time for reading. They wait, and take no
// processor.
const writers = 8

// Pack loads the checkpoint name, as Load does, into the folder dir: shards of safetensors in the final form with their index, the
// checkpoint's other files, and the manifest coldload.json. A load of that folder needs no work but reading.
//
// The folder appears complete or not at all. Until then the work is in dir+".partial", where a later Pack with the same options goes on
// after a failure. The errors of [file.Sink] say why a folder cannot be used: file.ErrTarget is in their chain. The result is never nil.
func Pack(ctx context.Context, name, dir string, opt Options, popt PackOptions) (*PackResult, error) {
	if opt.Workers.Upload == 0 {
		opt.Workers.Upload = writers
	}
	opt = opt.withDefaults()
	res := &PackResult{Result: newJudgedResult(), Dir: dir}
	res.sink = "file"
	res.meter.packing, res.meter.targetPath = true, filepath.Dir(filepath.Clean(dir))
	return res, opt.operation(ctx, "pack", name, res.Result, func(ctx context.Context) error {
		err := pack(ctx, name, opt, popt, res)
		if errors.Is(err, file.ErrAlreadyDone) {
			res.AlreadyComplete, err = true, nil
		}
		return err
	})
}

func pack(ctx context.Context, name string, opt Options, popt PackOptions, res *PackResult) error {
	ck, err := open(ctx, name, opt, res.Result)
	if err != nil {
		return err
	}
	return errors.Join(ck.pack(ctx, opt, popt, res), ck.Close())
}

func (ck *Checkpoint) pack(ctx context.Context, opt Options, popt PackOptions, res *PackResult) error {
	if ck.catalog.Len() == 0 {
		return stages.Refuse(stages.Fault{Code: stages.CodeNotFound, File: ck.found.Dir, Problem: "the checkpoint has no tensors: there is nothing to pack"})
	}
	if err := file.Precheck(res.Dir, popt.Overwrite, ck.protected()); err != nil { // before anything is read for it
		return err
	}
	if ck.packed != nil {
		opt.Layout = cmp.Or(opt.Layout, ck.packed.plan.Layout)
		if err := ck.verifyPacked(ctx, opt); err != nil {
			return err
		}
	}
	v, err := ck.verification(opt, true)
	if err != nil {
		return err
	}
	sources, err := ck.describeSources(ctx, opt)
	if err != nil {
		return err
	}
	carried, err := ck.carry(ctx, opt)
	if err != nil {
		return err
	}
	sink, err := ck.packSink(opt, popt, res, sources, carried)
	if err != nil {
		return err
	}
	err = ck.loadVerified(ctx, sink, opt, v, res.Result)
	if v != nil && errors.Is(err, file.ErrAlreadyDone) {
		if other := v.alone(ctx, res.Dir, opt, res.Result); other != nil {
			err = other
		}
	}
	res.Notes = append(res.Notes, carried.notes...)
	res.Resumed, res.Kept = sink.Resumed(), sink.Kept()
	return err
}

// verifyPacked reads a packed folder that is packed again, for its digests: the new manifest would vouch for whatever is in it.
func (ck *Checkpoint) verifyPacked(ctx context.Context, opt Options) error {
	rep, err := packed.Verify(ctx, ck.found, packed.VerifyOptions{Progress: opt.Hashed, Pipeline: ck.opt.sideConfig()})
	if err != nil || len(rep.Differences) == 0 {
		return err
	}
	d := rep.Differences[0]
	return &stages.DataError{
		File: d.File, Tensor: d.Output, Problem: fmt.Sprintf("the folder is not as it was packed, in %d places: %s", len(rep.Differences), d.Detail),
		Advice: "coldload verify lists all of them; pack the original checkpoint again",
	}
}

// packSink makes the sink for dir.
func (ck *Checkpoint) packSink(opt Options, popt PackOptions, res *PackResult, sources *describedSources, carried *carriedFiles) (*file.Sink, error) {
	options, err := ck.packedOptions(opt).value()
	if err != nil {
		return nil, err
	}
	key, err := json.Marshal(struct {
		Files    []packed.File
		Samples  []packed.Sum
		Verified bool `json:",omitzero"` // what was not is not gone on with
	}{carried.list, sources.samples, opt.VerifySource})
	if err != nil {
		return nil, err
	}
	origin, err := json.Marshal(sources.times)
	if err != nil {
		return nil, err
	}
	return file.New(file.Options{
		Dir: res.Dir, Overwrite: popt.Overwrite, Protect: ck.protected(), Layout: cmp.Or(opt.Layout, stages.LayoutMarlin),
		ShardSize: popt.ShardSize, PlainDigests: popt.PlainDigests,
		Key: key, Origin: origin, Files: carried.files,
		Manifest: packed.Manifest{Program: Version, Options: options, Sources: sources.list}, SourceSums: ck.sourceSums,
		Note: func(text string) { res.Notes = append(res.Notes, text) },
	}), nil
}

// packedOptions are those of the manifest: for a folder that was packed already they do not change.
func (ck *Checkpoint) packedOptions(opt Options) packedOptions {
	if ck.packed == nil {
		return newPackedOptions(opt)
	}
	o := ck.packed.options
	if len(opt.Include)+len(opt.Exclude) > 0 {
		o.Include, o.Exclude = opt.Include, opt.Exclude
	}
	added := newPackedOptions(opt)
	o.Stages, o.Rules = slices.Concat(o.Stages, added.Stages), slices.Concat(o.Rules, added.Rules)
	return o
}

// protected are the files that are read: a target that holds one of them would destroy what it is made from.
func (ck *Checkpoint) protected() []string {
	paths := []string{ck.found.Dir}
	for _, s := range ck.found.Shards {
		paths = append(paths, filepath.Join(ck.found.Dir, s.Name))
	}
	return paths
}
