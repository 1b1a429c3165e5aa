package index_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/discover"
	"github.com/coldload/coldload/stages/index"
)

const (
	first  = "model-00001-of-00002.safetensors"
	second = "model-00002-of-00002.safetensors"
)

func u8(name, data string) ckpt.T {
	return ckpt.T{Name: name, DType: safetensors.U8, Shape: []int64{int64(len(data))}, Data: []byte(data)}
}

func find(t *testing.T, dir string) *discover.Checkpoint {
	t.Helper()
	ck, err := discover.Discover(t.Context(), dir, discover.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ck.Close(); err != nil {
			t.Error(err)
		}
	})
	return ck
}

// run runs the pipeline of the index phase.
func run(t *testing.T, ck *discover.Checkpoint) (*index.Collector, []pipeline.StageStats, error) {
	t.Helper()
	r := pipeline.New(t.Context(), pipeline.Config{})
	c := &index.Collector{Checkpoint: ck}
	shards := pipeline.From(r, "shards", index.Shards(ck))
	headers := pipeline.Map(shards, index.Stage{Checkpoint: ck}, pipeline.Workers(2), pipeline.Measure(index.Work))
	pipeline.Into(headers, c)
	err := r.Wait()
	t.Cleanup(func() {
		for _, f := range c.Files {
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return c, r.Stats(), err
}

func TestIndexPhase(t *testing.T) {
	dir := ckpt.New(t).Shard(first, u8("b", "B"), u8("a", "AA")).Shard(second, u8("c", "CCC")).AutoIndex().Write()
	c, stats, err := run(t, find(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	if n := openFiles(t, dir); n != 2 {
		t.Errorf("%d files are open, want 2", n)
	}
	for name, want := range map[string]string{"a": "AA", "b": "B", "c": "CCC"} {
		i, ok := c.Catalog.Lookup(name)
		if !ok {
			t.Fatalf("%s is not there", name)
		}
		e := c.Catalog.Extent(i)
		got := make([]byte, e.Len)
		if _, err := c.Files[e.Shard].ReadAt(got, e.Off); err != nil || string(got) != want {
			t.Errorf("%s: %q (%v), want %q", name, got, err, want)
		}
		if base := filepath.Base(c.Files[e.Shard].Name()); base != c.Catalog.ShardName(e.Shard) {
			t.Errorf("file %s belongs to shard %s", base, c.Catalog.ShardName(e.Shard))
		}
	}
	i := slices.IndexFunc(stats, func(s pipeline.StageStats) bool { return s.Name == "index" && s.Items > 0 })
	if i < 0 || stats[i].Items != 2 || stats[i].BytesIn == 0 {
		t.Errorf("figures %+v, want 2 shards", stats)
	}
}

// openFiles counts this process's open files below dir.
func openFiles(t *testing.T, dir string) (n int) {
	t.Helper()
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil || len(links) == 0 {
		t.Skip("no /proc")
	}
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && strings.HasPrefix(to, dir+"/") {
			n++
		}
	}
	return n
}

// TestFaultsOfAllShards: every Shard's fault is told, with its code and its file, and no file stays open.
func TestFaultsOfAllShards(t *testing.T) {
	for name, test := range map[string]struct {
		build func(b *ckpt.Builder)
		want  []string // code, file and tensor
	}{
		"headers": {
			build: func(b *ckpt.Builder) {
				b.File(first, []byte("short")).RawShard(second, `{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, []byte("x"))
				b.Index(map[string]string{"a": first, "b": second})
			},
			want: []string{"header " + first + " ", "duplicate " + second + " a"},
		},
		"index": {
			build: func(b *ckpt.Builder) {
				b.Shard(first, u8("a", "1"), u8("b", "2"), u8("x", "3")).Shard(second, u8("a", "4"), u8("c", "5"))
				b.Index(map[string]string{"a": first, "b": second, "c": second, "d": second})
			},
			want: []string{
				"duplicate " + second + " a", "extra-tensor " + first + " x", "missing-tensor model.safetensors.index.json d", "wrong-shard " + first + " b",
			},
		},
		"doubles": {
			build: func(b *ckpt.Builder) { b.Shard(first, u8("a", "1")).Shard(second, u8("a", "2")) },
			want:  []string{"duplicate " + second + " a"},
		},
		"single": {
			build: func(b *ckpt.Builder) {
				b.Shard(first, u8("a", "1")).Shard(second, u8("b", "2")).AutoIndex().Shard("model.safetensors", u8("a", "1"), u8("z", "2"))
			},
			want: []string{"ambiguous model.safetensors "},
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := ckpt.New(t)
			test.build(b)
			dir := b.Write()
			c, _, err := run(t, find(t, dir))
			refused, ok := errors.AsType[*stages.RefusedError](err)
			if !ok {
				t.Fatalf("error %v, want a refusal", err)
			}
			var got []string
			for _, f := range refused.Faults {
				got = append(got, string(f.Code)+" "+f.File+" "+f.Tensor)
				if f.Problem == "" {
					t.Errorf("%+v has no problem", f)
				}
			}
			slices.Sort(got)
			want := slices.Sorted(slices.Values(test.want))
			if !slices.Equal(got, want) {
				t.Errorf("faults %q, want %q", got, want)
			}
			if c.Catalog != nil || c.Files != nil {
				t.Error("there is a catalog all the same")
			}
			if n := openFiles(t, dir); n != 0 {
				t.Errorf("%d files stay open", n)
			}
		})
	}
}

// TestShardThatChanged: the size is not the one that was found.
func TestShardThatChanged(t *testing.T) {
	dir := ckpt.New(t).Shard("model.safetensors", u8("a", "1")).Write()
	ck := find(t, dir)
	if err := os.Truncate(filepath.Join(dir, "model.safetensors"), 12); err != nil {
		t.Fatal(err)
	}
	_, _, err := run(t, ck)
	if data, ok := errors.AsType[*stages.DataError](err); !ok || data.File != "model.safetensors" {
		t.Errorf("error %v, want a DataError of the file", err)
	}
	if n := openFiles(t, dir); n != 0 {
		t.Errorf("%d files stay open", n)
	}
}

func TestShardThatIsGone(t *testing.T) {
	dir := ckpt.New(t).Shard("model.safetensors", u8("a", "1")).Write()
	ck := find(t, dir)
	if err := os.Remove(filepath.Join(dir, "model.safetensors")); err != nil {
		t.Fatal(err)
	}
	_, _, err := run(t, ck)
	if refused, ok := errors.AsType[*stages.RefusedError](err); !ok || refused.Faults[0].Code != stages.CodeMissingShard {
		t.Errorf("error %v, want a missing shard", err)
	}
}

func TestContextEnds(t *testing.T) {
	ck := find(t, ckpt.New(t).Shard("model.safetensors", u8("a", "1")).Write())
	stop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stop)
	if _, err := (index.Stage{Checkpoint: ck}).Process(ctx, &index.Shard{Shard: ck.Shards[0]}); !errors.Is(err, stop) {
		t.Errorf("error %v, want the cause", err)
	}
}

// TestShardsStop: the iterator ends when its reader does.
func TestShardsStop(t *testing.T) {
	ck := find(t, ckpt.New(t).Shard(first, u8("a", "1")).Shard(second, u8("b", "2")).Write())
	n := 0
	for s, err := range index.Shards(ck) {
		if err != nil || s.ItemName() != first {
			t.Errorf("%v, %v", s, err)
		}
		n++
		break
	}
	if n != 1 {
		t.Errorf("%d shards", n)
	}
}
