package coldload_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"testing"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/leak"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/sinks/host"
	"github.com/coldload/coldload/sources/file"
	"github.com/coldload/coldload/stages"
)

// demand asks an open Checkpoint for something and gives the bytes that it got, by name. What it was given it has released.
type demand func(ctx context.Context, ck *coldload.Checkpoint, w *walker) (map[string][]byte, error)

// walkedTensor and walkedLayer are what the demands ask for.
const walkedTensor, walkedLayer = "model.layers.0.input_layernorm.weight", "model.layers.0"

// demands are the ways to ask.
var demands = map[string]demand{
	"Bytes": func(_ context.Context, ck *coldload.Checkpoint, _ *walker) (map[string][]byte, error) {
		b, err := ck.Bytes(walkedTensor)
		return map[string][]byte{walkedTensor: bytes.Clone(b)}, err
	},
	"ReadInto": func(ctx context.Context, ck *coldload.Checkpoint, _ *walker) (map[string][]byte, error) {
		t, _ := ck.Tensor(walkedTensor)
		b := make([]byte, t.Extent.Len)
		return map[string][]byte{walkedTensor: b}, ck.ReadInto(ctx, walkedTensor, b)
	},
	"Float32": func(_ context.Context, ck *coldload.Checkpoint, _ *walker) (map[string][]byte, error) {
		v, err := ck.Float32(walkedTensor)
		var b []byte
		for _, x := range v {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
		}
		return map[string][]byte{walkedTensor: b}, err
	},
	"Load": func(ctx context.Context, ck *coldload.Checkpoint, _ *walker) (map[string][]byte, error) {
		l, err := ck.Load(ctx, walkedTensor, safetensors.BF16)
		return map[string][]byte{walkedTensor: l.Bytes}, err
	},
	"Linear": func(ctx context.Context, ck *coldload.Checkpoint, w *walker) (map[string][]byte, error) {
		m, err := ck.Linear(ctx, walkedLayer+".self_attn.qkv_proj", w.demandOptions())
		return modulesBytes(m, err)
	},
	"Experts": func(ctx context.Context, ck *coldload.Checkpoint, w *walker) (map[string][]byte, error) {
		if !ck.Has(walkedLayer + ".mlp.experts.0.gate_proj.qweight") { // packed: they have become one module
			return modulesBytes(ck.Linear(ctx, walkedLayer+".mlp.experts.gate_up_proj", w.demandOptions()))
		}
		m, err := ck.Experts(ctx, walkedLayer+".mlp.experts.{e}", []string{"gate_proj", "up_proj"}, 4, w.demandOptions())
		return modulesBytes(m, err)
	},
	"Outputs": walkOutputs,
	"LoadAll": func(ctx context.Context, ck *coldload.Checkpoint, w *walker) (map[string][]byte, error) {
		sink := host.New(host.Options{})
		_, err := ck.LoadAll(ctx, walkedSink{sink, w}, w.demandOptions())
		mem := sink.Memory()
		if mem == nil {
			return nil, err
		}
		got := map[string][]byte{}
		for name, x := range mem.All() {
			got[name] = bytes.Clone(x.Bytes)
		}
		return got, errors.Join(err, mem.Close())
	},
}

// demandOptions let a stage fail too.
func (w *walker) demandOptions() coldload.Options {
	stage := stageFunc(func(_ context.Context, b *stages.Batch) (*stages.Batch, error) {
		if err := w.step("stage"); err != nil {
			b.Release()
			return nil, err
		}
		return b, nil
	})
	return coldload.Options{
		Workers:  coldload.Workers{Fetch: 2, Decode: 2, Fuse: 1, Repack: 2, Upload: 2},
		Progress: w.progress, Stages: []coldload.Insert{{After: stages.PhaseRepack, Stage: stage}},
	}
}

// modulesBytes empties and closes a module, if there is one.
func modulesBytes(m *coldload.Module, err error) (map[string][]byte, error) {
	if err != nil {
		return nil, err
	}
	got := map[string][]byte{}
	for name, x := range m.All() {
		got[name] = bytes.Clone(x.Bytes)
	}
	return got, m.Close()
}

// walkOutputs fails in the body of the loop too: by leaving it, or by a panic that goes through the loop.
func walkOutputs(ctx context.Context, ck *coldload.Checkpoint, w *walker) (got map[string][]byte, err error) {
	got = map[string][]byte{}
	err = pipeline.Recover("the caller", "the body of the loop", func() error {
		for out, err := range ck.Outputs(ctx, w.demandOptions()) {
			if err != nil {
				return err
			}
			got[out.Name] = bytes.Clone(out.Bytes)
			if err := out.Release(); err != nil {
				return err
			}
			if err := w.step("body"); err != nil {
				return err
			}
		}
		return nil
	})
	return got, err
}

// walkDemands lets every operation fail that an open Checkpoint is asked for. One Checkpoint goes through all of it, and after each fault still
// gives what it gave before.
func walkDemands(t *testing.T, src string, panics bool) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "packed")
	if _, err := coldload.Pack(t.Context(), src, dir, coldload.Options{}, coldload.PackOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, way := range []struct {
		name, path   string
		io           file.Mode
		shared, wide bool
	}{
		{"mapped", src, file.ModeMmap, false, false},
		{"copied", src, file.ModePread, false, true},
		{"copied, from a shared budget", src, file.ModePread, true, true},
		{"copied, from a packed folder", dir, file.ModePread, true, false},
	} {
		if way.wide && !*wide {
			continue
		}
		t.Run(fmt.Sprintf("on demand, %s, panics %v", way.name, panics), func(t *testing.T) {
			before, tree := leak.Now(), ckpt.Tree(t, filepath.Dir(way.path))
			d := &demandWalk{w: &walker{panics: panics}, shared: way.shared}
			opt := coldload.Options{Budget: 300 << 10, Source: func(shards []file.Shard) (stages.Source, error) {
				s, err := file.New(shards, file.Options{IO: way.io, NoIdle: way.shared})
				return walkedSource{s, d.w}, err
			}}
			if way.shared {
				d.budget = pipeline.NewBudget(opt.Budget)
				opt.SharedBudget = d.budget
			}
			d.run(t, way.path, opt)
			before.Check(t)
			if !maps.Equal(tree, ckpt.Tree(t, filepath.Dir(way.path))) {
				t.Error("something was written")
			}
		})
	}
}

// demandWalk is the walk through one Checkpoint.
type demandWalk struct {
	ck     *coldload.Checkpoint
	w      *walker
	shared bool
	budget *pipeline.Budget // nil when it is the Checkpoint's own
	open   leak.State       // when everything was asked for once
}

func (d *demandWalk) run(t *testing.T, path string, opt coldload.Options) {
	t.Helper()
	var err error
	if d.ck, err = coldload.Open(t.Context(), path, opt); err != nil {
		t.Fatal(err)
	}
	for _, ask := range demands { // what is mapped once stays so
		if _, err := ask(t.Context(), d.ck, &walker{}); err != nil {
			t.Error(err)
		}
	}
	d.open = leak.Now()
	for _, name := range slices.Sorted(maps.Keys(demands)) {
		d.walk(t, name, demands[name])
	}
	d.w.begin("Close of the source", 0)
	err = pipeline.Recover("", "", d.ck.Close)
	d.w.check(t, err)
}

// walk lets every operation of one demand fail.
func (d *demandWalk) walk(t *testing.T, name string, ask demand) {
	t.Helper()
	d.w.begin("", 0)
	want, err := ask(t.Context(), d.ck, d.w)
	if err != nil || len(d.w.seen) == 0 || len(want) == 0 {
		t.Fatalf("%s of %d outputs, by %v: %v", name, len(want), d.w.seen, err)
	}
	walkOver(t, &walker{seen: d.w.seen}, *wide, func(t *testing.T, op string, at int) bool {
		d.w.begin(op, at)
		_, err := ask(t.Context(), d.ck, d.w)
		if d.w.met {
			d.w.check(t, err)
		} else if err != nil {
			t.Errorf("%s, nothing failed: %v", name, err)
		}
		met := d.w.met
		d.released(t)
		d.w.begin("", 0)
		if got, err := ask(t.Context(), d.ck, d.w); err != nil || !maps.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("%s again: other bytes, or %v", name, err)
		}
		return met
	})
}

// released wants nothing to be held for what failed. Buffers may lie idle in a source that shares its budget with nobody.
func (d *demandWalk) released(t *testing.T) {
	t.Helper()
	if d.budget != nil && d.budget.InUse() != 0 {
		t.Errorf("%d bytes are charged", d.budget.InUse())
	}
	if !d.shared {
		d.open.OffHeap = leak.Now().OffHeap
	}
	d.open.Check(t)
}
