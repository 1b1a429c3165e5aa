package synth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coldload/coldload/safetensors"
)

// digests hashes every file of a folder.
func digests(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	sums := map[string]string{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		sums[e.Name()] = fmt.Sprintf("%x", sha256.Sum256(data))
	}
	return sums
}

func mustWrite(t *testing.T, o Options) (string, Result) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "new")
	r, err := Write(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return dir, r
}

func TestWriteIsDeterministic(t *testing.T) {
	base := Options{Model: "tiny-moe", Layers: 1, ShardSize: 9<<20 + 1, DescAct: true, Workers: 1}
	parallel := base
	parallel.Workers = 4
	one, r := mustWrite(t, base)
	four, _ := mustWrite(t, parallel)
	want, got := digests(t, one), digests(t, four)
	if len(got) != len(want) || r.Shards < 3 {
		t.Fatalf("%d files and %d files, %d shards", len(want), len(got), r.Shards)
	}
	for name, sum := range want {
		if got[name] != sum {
			t.Errorf("%s differs between 1 and 4 workers", name)
		}
	}
	base.Seed = 1
	other, _ := mustWrite(t, base)
	for name, sum := range digests(t, other) {
		if strings.HasSuffix(name, ".safetensors") == (want[name] == sum) {
			t.Errorf("with another seed weight files must differ and the others not: %s", name)
		}
	}
}

// TestIndexAndHeadersAgree reads what was written: each tensor is in the file that the index names, and nothing else is there.
func TestIndexAndHeadersAgree(t *testing.T) {
	for _, o := range []Options{
		{Model: "micro", ShardSize: 200 << 10},
		{Model: "micro", ShardSize: 200 << 10, Format: FormatNone},
		{Model: "micro", ShardSize: 200 << 10, Format: FormatAWQ},
		{Model: "micro", ShardSize: 200 << 10, Order: OrderSorted, Bits: 3, Group: 32},
		{Model: "micro", ShardSize: 200 << 10, Sparse: true},
	} {
		dir, r := mustWrite(t, o)
		ck, err := safetensors.OpenSharded(dir) // checks the index against the headers, both ways
		if err != nil {
			t.Fatal(err)
		}
		size, _ := ck.Index().TotalSize()
		if size != r.Bytes || ck.Index().Len() != r.Tensors || len(ck.Files()) != r.Shards || r.Shards < 2 {
			t.Errorf("index: %d bytes, %d tensors, %d files; result %+v", size, ck.Index().Len(), len(ck.Files()), r)
		}
		tensors := 0
		for range ck.All() {
			tensors++
		}
		if tensors != r.Tensors {
			t.Errorf("%d tensors in the files, result %+v", tensors, r)
		}
		if err := ck.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestSingleFile(t *testing.T) {
	dir, r := mustWrite(t, Options{Model: "micro"})
	names := digests(t, dir)
	if len(names) != 3 || names["model.safetensors"] == "" || names["config.json"] == "" || names["quantize_config.json"] == "" {
		t.Errorf("files: %v", names)
	}
	if r.Shards != 1 || r.Bytes < 300<<10 || r.Bytes > 1<<20 || r.Model != "micro" {
		t.Errorf("result: %+v", r)
	}
}

func TestTheDemoModelHasItsSize(t *testing.T) {
	shards, err := Shards(Options{Model: "tiny-moe"})
	if err != nil || len(shards) != 1 || shards[0].Bytes < 200e6 || shards[0].Bytes > 400e6 {
		t.Errorf("%d shards, first of %d bytes, %v", len(shards), shards[0].Bytes, err)
	}
}

// TestCancelLeavesNothing stops the run at several points.
func TestCancelLeavesNothing(t *testing.T) {
	stop := errors.New("stop")
	for _, at := range []int64{0, 1, 5 << 20, 20 << 20} {
		for _, exists := range []bool{false, true} {
			dir := filepath.Join(t.TempDir(), "out")
			if exists {
				if err := os.Mkdir(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			if at == 0 {
				cancel(stop)
			}
			_, err := Write(ctx, dir, Options{Model: "tiny-moe", Layers: 1, ShardSize: 8 << 20, Progress: func(done, _ int64) {
				if done >= at {
					cancel(stop)
				}
			}})
			cancel(nil)
			if !errors.Is(err, stop) {
				t.Errorf("at %d: %v", at, err)
			}
			entries, err := os.ReadDir(dir)
			if len(entries) > 0 || exists != (err == nil) {
				t.Errorf("at %d: %v left, folder existed %v, now %v", at, entries, exists, err)
			}
		}
	}
}

// TestAFailureOfTheLastFileLeavesNothing makes the index collide, as a second run into the folder would.
func TestAFailureOfTheLastFileLeavesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	intruder := filepath.Join(dir, "model.safetensors.index.json")
	_, err := Write(t.Context(), dir, Options{Model: "micro", ShardSize: 200 << 10, Progress: func(done, total int64) {
		if done == total {
			if err := os.WriteFile(intruder, nil, 0o600); err != nil {
				t.Error(err)
			}
		}
	}})
	if !errors.Is(err, os.ErrExist) {
		t.Fatalf("error: %v", err)
	}
	if names := digests(t, dir); len(names) != 1 {
		t.Errorf("left behind: %v", names)
	}
}

func TestTargetFolder(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "mine")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Write(t.Context(), dir, Options{Model: "micro"}); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("a folder with a file: %v", err)
	}
	if _, err := Write(t.Context(), file, Options{Model: "micro"}); err == nil {
		t.Error("a file as the folder: no error")
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("the file that was there: %v", err)
	}
}

func TestTooLargeForTheDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	_, err := Write(t.Context(), dir, Options{Model: "llama-3-8b", Format: FormatNone, Layers: 20_000})
	if !errors.Is(err, ErrNoSpace) {
		t.Fatalf("error: %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder stays: %v", err)
	}
}

func TestProgressAddsUp(t *testing.T) {
	var last, calls int64
	_, r := mustWrite(t, Options{Model: "tiny-moe", Layers: 1, Workers: 3, Progress: func(done, total int64) {
		if done <= last || done > total {
			t.Errorf("progress goes from %d to %d of %d", last, done, total)
		}
		last = done
		calls++
	}})
	if last != r.Bytes || calls < 10 {
		t.Errorf("%d of %d bytes told in %d calls", last, r.Bytes, calls)
	}
}

// TestSparseHalfMillion is the size of the largest checkpoints there are: 500,000 tensors in 300 Shards.
func TestSparseHalfMillion(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a second")
	}
	const tensors, shards = 500_000, 300
	specs := make([]Spec, tensors)
	for i := range specs {
		specs[i] = Spec{
			Name:  fmt.Sprintf("model.layers.%d.mlp.experts.%d.gate_proj.qweight", i/4000, i%4000),
			DType: safetensors.I32, Shape: []int64{896, 2048},
		}
	}
	dir := filepath.Join(t.TempDir(), "out")
	start := time.Now()
	r, err := WriteSparse(t.Context(), dir, specs, shards, map[string]any{"config.json": map[string]any{"model_type": "x"}})
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	t.Logf("%d tensors, %d shards, %.1f TB apparent, in %v", r.Tensors, r.Shards, float64(r.Bytes)/1e12, took)
	if r.Tensors != tensors || r.Shards != shards {
		t.Errorf("result: %+v", r)
	}
	if took > 20*time.Second {
		t.Errorf("took %v", took)
	}
	if n := len(digestNames(t, dir)); n != shards+2 {
		t.Errorf("%d files", n)
	}
}

func digestNames(t *testing.T, dir string) []os.DirEntry {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

func TestWriteSparseWrongShards(t *testing.T) {
	for _, n := range []int{0, -1, 3} {
		_, err := WriteSparse(t.Context(), filepath.Join(t.TempDir(), "x"), make([]Spec, 2), n, nil)
		if !errors.Is(err, ErrOptions) {
			t.Errorf("%d shards: %v", n, err)
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	for _, workers := range []int{1, 2} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) {
			shards, err := Shards(Options{Model: "tiny-moe"})
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(shards[0].Bytes)
			for i := 0; b.Loop(); i++ {
				dir := filepath.Join(b.TempDir(), strconv.Itoa(i))
				if _, err := Write(b.Context(), dir, Options{Model: "tiny-moe", Workers: workers}); err != nil {
					b.Fatal(err)
				}
				if err := os.RemoveAll(dir); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
