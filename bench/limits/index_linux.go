package main

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/synth"
	"github.com/coldload/coldload/safetensors"
)

// writeMany writes a checkpoint of n tensors in one shard, whose data are holes.
func writeMany(ctx context.Context, dir string, n int) error {
	specs := make([]synth.Spec, n)
	for i := range specs {
		name := fmt.Sprintf("model.layers.%d.mlp.experts.%d.down_proj.weight", i/1000, i%1000)
		specs[i] = synth.Spec{Name: name, DType: safetensors.BF16, Shape: []int64{16, 16}}
	}
	_, err := synth.WriteSparse(ctx, dir, specs, 1, nil)
	return err
}

// readHeader indexes the one shard with one processor.
func readHeader(dir string) (reading, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.safetensors"))
	if err != nil || len(paths) != 1 {
		return reading{}, fmt.Errorf("%d shards in %s", len(paths), dir)
	}
	defer oneProcessor()()
	var f *safetensors.File
	r, err := timed(func() (err error) {
		f, err = safetensors.Open(paths[0])
		return err
	})
	if err != nil {
		return r, err
	}
	return r, f.Close()
}

// openCheckpoint discovers, indexes and checks the folder with one processor.
func openCheckpoint(ctx context.Context, dir string) (reading, error) {
	defer oneProcessor()()
	var ck *coldload.Checkpoint
	r, err := timed(func() (err error) {
		ck, err = coldload.Open(ctx, dir, coldload.Options{})
		return err
	})
	if err != nil {
		return r, err
	}
	return r, ck.Close()
}

// oneProcessor runs all Go code on one until it is undone.
func oneProcessor() (undo func()) {
	runtime.GC()
	before := runtime.GOMAXPROCS(1)
	return func() { runtime.GOMAXPROCS(before) }
}
