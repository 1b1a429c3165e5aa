package coldload_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/sinks/host"
	"github.com/coldload/coldload/sources/file"
	"github.com/coldload/coldload/stages"
)

// drawHow adds how a load is done, which changes no byte of what comes of it.
func drawHow(t *rapid.T, opt coldload.Options) coldload.Options {
	workers := func(name string) int { return rapid.IntRange(0, 3).Draw(t, name) }
	opt.Budget = rapid.SampledFrom([]int64{0, 0, 1 << 20, 64 << 10}).Draw(t, "budget")
	opt.IO = rapid.SampledFrom([]file.Mode{file.ModeAuto, file.ModeMmap, file.ModePread, file.ModeDirect}).Draw(t, "io")
	opt.NoSelfCheck = rapid.IntRange(0, 3).Draw(t, "no self-check") == 3
	opt.VerifySource = rapid.IntRange(0, 5).Draw(t, "verify source") == 5
	opt.TraceBatches = rapid.IntRange(0, 5).Draw(t, "trace Batches") == 5
	if rapid.IntRange(0, 3).Draw(t, "shared budget") == 3 && opt.Budget > 0 {
		opt.SharedBudget, opt.Budget = pipeline.NewBudget(opt.Budget), 0
	}
	opt.Workers = coldload.Workers{
		Index: workers("index"), Fetch: workers("fetch"), Decode: workers("decode"), Fuse: workers("fuse"), Repack: workers("repack"),
		Digest: workers("digest"), Upload: workers("upload"),
	}
	return opt
}

// charged are the bytes that the Batches of a load may cost together; 0 for as many as it likes.
func charged(opt coldload.Options) int64 {
	if opt.SharedBudget != nil {
		return opt.SharedBudget.Size()
	}
	return opt.Budget
}

// unbound is opt with the budget that everything fits in.
func unbound(opt coldload.Options) coldload.Options {
	opt.Budget, opt.SharedBudget = 0, nil
	return opt
}

// sums are the digests of the shards in a folder, when they are to be verified.
func sums(t T, dir string, opt coldload.Options) coldload.Options {
	t.Helper()
	if !opt.VerifySource {
		return opt
	}
	opt.Digests = map[string]string{}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatalf("%v", err)
	}
	for _, f := range files {
		if ext := filepath.Ext(f.Name()); ext != ".safetensors" && ext != ".gguf" {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatalf("%v", err)
		}
		opt.Digests[f.Name()] = fmt.Sprintf("%x", sha256.Sum256(data))
	}
	return opt
}

// rndVia are the ways to come by the Outputs. see is given them while they are there, with what the load says of itself, if it does.
var rndVia = map[string]func(ctx context.Context, t *rapid.T, dir string, opt coldload.Options, see func(outputs, *coldload.Result)) error{
	"memory": viaMemory, "outputs": viaOutputs, "folder": viaFolder,
}

func drawWay(t *rapid.T) string {
	return rapid.SampledFrom([]string{"memory", "memory", "memory", "memory", "outputs", "folder"}).Draw(t, "way")
}

// viaMemory loads into host memory.
func viaMemory(ctx context.Context, t *rapid.T, dir string, opt coldload.Options, see func(outputs, *coldload.Result)) error {
	sink := host.New(host.Options{})
	res, err := coldload.Load(ctx, dir, sink, opt)
	mem := sink.Memory()
	if err != nil {
		if mem != nil {
			t.Error("there is a result in spite of an error")
		}
		return err
	}
	see(mem, res)
	return mem.Close()
}

// viaOutputs takes them one by one.
func viaOutputs(ctx context.Context, t *rapid.T, dir string, opt coldload.Options, see func(outputs, *coldload.Result)) (err error) {
	opt.VerifySource, opt.Digests = false, nil // which is for whole loads
	ck, err := coldload.Open(ctx, dir, opt)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ck.Close()) }()
	c := collected{}
	for out, err := range ck.Outputs(ctx, opt) {
		if err != nil {
			return err
		}
		if _, twice := c[out.Name]; twice {
			t.Errorf("%s came twice", out.Name)
		}
		x := out.Tensor
		x.Bytes = slices.Clone(x.Bytes)
		c[out.Name] = x
		if err := out.Release(); err != nil {
			return err
		}
	}
	see(c, nil)
	return nil
}

// viaFolder packs, computes all again, and loads what was packed.
func viaFolder(ctx context.Context, t *rapid.T, dir string, opt coldload.Options, see func(outputs, *coldload.Result)) (err error) {
	to := dir + ".packed"
	defer func() { err = errors.Join(err, os.RemoveAll(to), os.RemoveAll(to+".partial")) }()
	packed, err := coldload.Pack(ctx, dir, to, opt, coldload.PackOptions{ShardSize: 100_000, PlainDigests: opt.NoSelfCheck})
	if err != nil {
		if _, err := os.Stat(to); err == nil {
			t.Error("there is a folder in spite of an error")
		}
		return err
	}
	how := opt
	how.Layout, how.DType, how.NoFuse, how.NoPad, how.Strict, how.ActOrder, how.FP8Exponent = "", 0, false, false, false, false, ""
	how.Include, how.Exclude, how.VerifySource, how.Digests = nil, nil, false, nil
	again, err := coldload.Verify(ctx, to, coldload.VerifyOptions{Against: dir, Load: unbound(how)})
	if err != nil || len(again.Differences) > 0 || again.Recomputed != len(packed.Plan.Outputs) {
		t.Errorf("verify: %v, %+v", err, again)
	}
	sink := host.New(host.Options{})
	if _, err := coldload.Load(ctx, to, sink, how); err != nil {
		return fmt.Errorf("the packed folder: %w", err)
	}
	see(sink.Memory(), packed.Result)
	return sink.Memory().Close()
}

// rndPatterns are what Outputs are chosen by.
var rndPatterns = []string{"*.qweight", "*.scales", "*.weight", "*self_attn*", "*.experts.*", "*.bias", "model.*", "*.g_idx"}

// drawChoice chooses some of the Outputs of a load that nothing is wrong with.
func drawChoice(t *rapid.T, opt *coldload.Options, want *rndWant) {
	if rapid.IntRange(0, 3).Draw(t, "choice") < 3 || want.warns || len(want.refuse)+len(want.fails) > 0 {
		return
	}
	opt.Include = rapid.SliceOfN(rapid.SampledFrom(rndPatterns), 0, 2).Draw(t, "include")
	opt.Exclude = rapid.SliceOfN(rapid.SampledFrom(rndPatterns), 0, 2).Draw(t, "exclude")
	meets := func(patterns []string, name string) bool {
		return slices.ContainsFunc(patterns, func(p string) bool {
			ok, err := path.Match(p, name)
			if err != nil {
				t.Fatal(err)
			}
			return ok
		})
	}
	for name := range want.outs {
		if len(opt.Include) > 0 && !meets(opt.Include, name) || meets(opt.Exclude, name) {
			delete(want.outs, name)
			want.chosen = true
		}
	}
}

// rndCase is one load of which it is known what must come of it.
type rndCase struct {
	dir  string
	opt  coldload.Options
	way  string // of rndVia
	want *rndWant
}

// load loads once, and compares the result when there is one.
func (c *rndCase) load(t *rapid.T) error {
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("the load does not end"))
	defer cancel()
	want := c.want
	return rndVia[c.way](ctx, t, c.dir, sums(t, c.dir, c.opt), func(got outputs, res *coldload.Result) {
		if res != nil {
			want.tells(t, res)
		}
		if len(want.refuse)+len(want.fails) > 0 {
			return
		}
		for _, d := range want.compare(got) {
			t.Error(d)
		}
	})
}

// tells compares what a load says of itself.
func (w *rndWant) tells(t *rapid.T, res *coldload.Result) {
	if (len(res.Warnings) > 0) != w.warns {
		t.Errorf("warnings %q, want any: %v", res.Warnings, w.warns)
	}
	kept := 0
	for _, k := range res.Plan.Summary.Kept {
		kept += k.Groups
	}
	if kept != w.kept && !w.chosen {
		t.Errorf("kept raw: %v, want %d", res.Plan.Summary.Kept, w.kept)
	}
}

// run loads, once more without bounds when the budget is too small for that, and compares.
func (c *rndCase) run(t *rapid.T) {
	err := c.load(t)
	single := c.opt.DType == safetensors.F32 && (c.opt.Layout == stages.LayoutMarlin || c.opt.Layout == stages.LayoutExllama)
	if single || c.want.chosen && len(c.want.outs) == 0 {
		if !errors.Is(err, coldload.ErrOptions) {
			t.Fatalf("error %v, want %v", err, coldload.ErrOptions)
		}
		return
	}
	if refused, ok := errors.AsType[*stages.RefusedError](err); ok && len(c.want.refuse) == 0 && onlyBudget(refused) {
		if c.way != "folder" && c.want.most > 0 && int64(c.want.most) <= charged(c.opt) { // which has buffers of its own
			t.Fatalf("%v\nalthough nothing reads more than %d bytes at once", err, c.want.most)
		}
		c.opt = unbound(c.opt)
		err = c.load(t)
	}
	c.want.check(t, err)
}
