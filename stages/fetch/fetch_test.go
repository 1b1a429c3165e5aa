package fetch_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coldload/coldload/sources/file"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/fetch"
)

var errTest = errors.New("boom")

// sink reserves memory of its own; only Reserve is called.
type sink struct {
	stages.Sink
	err      error
	extra    int64 // bytes that it gives too many
	reserved []stages.Slab
}

func (s *sink) Reserve(_ context.Context, slab stages.Slab) ([]byte, error) {
	s.reserved = append(s.reserved, slab)
	return make([]byte, slab.Len+s.extra), s.err
}

// source serves zeros.
type source struct {
	stages.Source
	err     error
	missing int64 // bytes that it gives too few
	fetched int
	views   *views
}

type views struct {
	bytes    [][]byte
	released int
}

func (v *views) Bytes(i int) []byte { return v.bytes[i] }
func (*views) Method() string       { return "test" }
func (v *views) Release()           { v.released++ }

func (s *source) Fetch(_ context.Context, ranges []stages.Extent) (stages.Views, error) {
	s.fetched++
	s.views = &views{}
	for _, e := range ranges {
		s.views.bytes = append(s.views.bytes, make([]byte, e.Len-s.missing))
	}
	return s.views, s.err
}

func batch() *stages.Batch {
	return &stages.Batch{
		Slabs:  []stages.Slab{{Output: 4, Index: 1, Len: 8}, {Output: 5, Len: 16}},
		Ranges: []stages.Extent{{Off: 100, Len: 12}, {Shard: 1, Off: 5, Len: 3}},
	}
}

func TestProcessReservesAndFetches(t *testing.T) {
	src, snk := &source{}, &sink{}
	b := batch()
	st := fetch.New(src, snk)
	out, err := st.Process(t.Context(), b)
	if err != nil || out != b {
		t.Fatalf("got %v, %v", out, err)
	}
	if len(b.Dst) != 2 || len(b.Dst[0]) != 8 || len(b.Dst[1]) != 16 || len(snk.reserved) != 2 || snk.reserved[1].Output != 5 {
		t.Errorf("reserved %v, got %v", snk.reserved, b.Dst)
	}
	if b.Views != src.views || src.views.released != 0 || st.Name() != "fetch" {
		t.Errorf("views %v, name %q", b.Views, st.Name())
	}
}

// padder is a source that pads.
type padder struct {
	source
	padding int64
}

func (p *padder) Padding([]stages.Extent) int64 { return 4096 }

func (p *padder) FetchPadded(ctx context.Context, ranges []stages.Extent, padding int64) (stages.Views, error) {
	p.padding = padding
	return p.Fetch(ctx, ranges)
}

func TestASourceMayPadAsMuchAsWasCharged(t *testing.T) {
	src := &padder{}
	b := batch()
	b.Padding = 77
	if _, err := fetch.New(src, &sink{}).Process(t.Context(), b); err != nil || src.padding != 77 || src.fetched != 1 {
		t.Errorf("error %v, padding %d, fetched %d times", err, src.padding, src.fetched)
	}
}

func TestABatchWithoutSlabsOrRangesCountsAsFetched(t *testing.T) {
	b := &stages.Batch{}
	if _, err := fetch.New(&source{}, &sink{}).Process(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if b.Dst == nil || b.Views == nil {
		t.Errorf("destination %v, views %v", b.Dst, b.Views)
	}
}

func TestProcessFails(t *testing.T) {
	cases := map[string]struct {
		source  *source
		sink    *sink
		want    string
		fetched int
	}{
		"reserve fails":   {&source{}, &sink{err: errTest}, "reserve 8 bytes for slab 1 of output 4: boom", 0},
		"reserve lies":    {&source{}, &sink{extra: 1}, "the sink reserved 9 bytes for slab 1 of output 4, which has 8", 0},
		"fetch fails":     {&source{err: errTest}, &sink{}, "boom", 1},
		"the source lies": {&source{missing: 1}, &sink{}, "the source gave 11 bytes for 12 bytes at 100 of shard 0", 1},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			b := batch()
			_, err := fetch.New(c.source, c.sink).Process(t.Context(), b)
			if err == nil || err.Error() != c.want || c.source.fetched != c.fetched {
				t.Errorf("got %v after %d fetches", err, c.source.fetched)
			}
			if b.Views != nil || b.Dst != nil {
				t.Error("the batch still holds something")
			}
			if c.source.err == nil && c.source.views != nil && c.source.views.released != 1 {
				t.Errorf("released %d times", c.source.views.released)
			}
		})
	}
}

func TestALostRangeNamesItsTensor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "model.safetensors")
	if err := os.WriteFile(path, make([]byte, 300), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	src, err := file.New([]file.Shard{{Name: "model.safetensors", File: f, Size: 300}}, file.Options{IO: file.ModePread})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	whole := []stages.Extent{{Len: 300}}
	v, err := src.Fetch(t.Context(), whole) // from now on the file is not looked at before a read
	if err != nil {
		t.Fatal(err)
	}
	v.Release()
	if err := os.Truncate(path, 150); err != nil {
		t.Fatal(err)
	}
	in := func(name string, off int64) stages.Input {
		return stages.Input{Tensor: name, Extent: stages.Extent{Off: off, Len: 100}, Off: off}
	}
	b := &stages.Batch{Ranges: whole, Parts: []stages.Part{{Inputs: []stages.Input{in("z", 200)}}, {Inputs: []stages.Input{in("x", 0), in("y", 100)}}}}
	_, err = fetch.New(src, &sink{}).Process(t.Context(), b)
	de, ok := errors.AsType[*stages.DataError](err)
	if !ok || de.Tensor != "y" || de.File != "model.safetensors" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("got %v", err)
	}
	if !strings.HasPrefix(err.Error(), "model.safetensors: y: the file was truncated") {
		t.Errorf("got %v", err)
	}
}
