package index_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/discover"
	"github.com/coldload/coldload/stages/index"
)

// entry is a tensor of U8 in a made header.
type entry struct {
	name       string
	begin, end int64
}

// shard is a Shard whose header has these entries in this order.
func shard(t interface{ Fatalf(string, ...any) }, number int, name string, entries []entry) *index.Shard {
	var b strings.Builder
	b.WriteByte('{')
	size := int64(0)
	for i, e := range entries {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `%q:{"dtype":"U8","shape":[%d],"data_offsets":[%d,%d]}`, e.name, e.end-e.begin, e.begin, e.end)
		size = max(size, e.end)
	}
	b.WriteByte('}')
	file := append(binary.LittleEndian.AppendUint64(nil, uint64(b.Len())), b.String()...)
	h, err := safetensors.ReadHeader(bytes.NewReader(file), int64(len(file))+size, safetensors.WithName(name))
	if err != nil {
		t.Fatalf("%v", err)
	}
	return &index.Shard{Number: number, Shard: discover.Shard{Name: name, Size: int64(len(file)) + size}, Header: h}
}

// TestCatalog compares with a plain list, whatever the order of the headers.
func TestCatalog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var shards []*index.Shard
		var want []stages.Tensor
		for s := range rapid.IntRange(0, 4).Draw(t, "shards") {
			var entries []entry
			at := int64(0)
			for i, n := range rapid.SliceOfN(rapid.Int64Range(0, 3), 0, 20).Draw(t, "sizes") {
				entries = append(entries, entry{fmt.Sprintf("s%d.t%d", s, i), at, at + n})
				at += n
			}
			sh := shard(t, s, fmt.Sprintf("shard-%d", s), rapid.Permutation(entries).Draw(t, "order"))
			shards = append(shards, sh)
			for _, e := range entries {
				want = append(want, stages.Tensor{Name: e.name, DType: safetensors.U8, Shape: []int64{e.end - e.begin}, Layout: stages.LayoutRaw, Extent: stages.Extent{
					Shard: int32(s), Off: sh.Header.DataOffset() + e.begin, Len: e.end - e.begin,
				}})
			}
		}
		c, faults := index.New(shards)
		if len(faults) > 0 || c.Len() != len(want) || c.Shards() != len(shards) {
			t.Fatalf("%d tensors in %d shards, faults %v; want %d in %d", c.Len(), c.Shards(), faults, len(want), len(shards))
		}
		var got []stages.Tensor
		for i := range c.Len() {
			got = append(got, c.Tensor(i))
			if at, ok := c.Lookup(c.Name(i)); !ok || at != i {
				t.Errorf("%s: found at %d, want %d", c.Name(i), at, i)
			}
			if i > 0 && got[i].Extent.Shard == got[i-1].Extent.Shard && got[i].Extent.Off < got[i-1].Extent.Off {
				t.Errorf("%s is out of order", c.Name(i))
			}
		}
		byName := func(a, b stages.Tensor) int { return strings.Compare(a.Name, b.Name) }
		slices.SortFunc(got, byName)
		slices.SortFunc(want, byName)
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%v\nwant %v", got, want)
		}
		if _, ok := c.Lookup("s0.t99"); ok {
			t.Error("a tensor that is not there was found")
		}
		for s := range shards {
			if c.ShardName(int32(s)) != fmt.Sprintf("shard-%d", s) {
				t.Errorf("shard %d is called %s", s, c.ShardName(int32(s)))
			}
		}
	})
}

func TestDoubles(t *testing.T) {
	a := shard(t, 0, "a", []entry{{"x", 0, 1}, {"y", 1, 2}, {"z", 2, 2}})
	b := shard(t, 1, "b", []entry{{"z", 0, 0}, {"w", 0, 1}, {"x", 1, 2}})
	c := shard(t, 2, "c", []entry{{"x", 0, 1}})
	_, faults := index.New([]*index.Shard{a, b, c})
	var got []string
	for _, f := range faults {
		if f.Code != stages.CodeDuplicate {
			t.Errorf("%v: code %s", f, f.Code)
		}
		got = append(got, f.Tensor+" "+f.Expected+" "+f.Found)
	}
	want := []string{"z only in a also in b", "x only in a also in b", "x only in a also in c"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestManyNames: no name is lost, and looking one up allocates nothing.
func TestManyNames(t *testing.T) {
	const n = 50_000
	entries := make([]entry, n)
	for i := range entries {
		entries[i] = entry{fmt.Sprintf("model.layers.%d.mlp.experts.%d.up_proj.weight", i%61, i), int64(i), int64(i + 1)}
	}
	r := rand.New(rand.NewPCG(1, 2))
	r.Shuffle(n, func(i, j int) { entries[i], entries[j] = entries[j], entries[i] })
	c, faults := index.New([]*index.Shard{shard(t, 0, "a", entries)})
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	for _, e := range entries {
		if i, ok := c.Lookup(e.name); !ok || int64(i) != e.begin {
			t.Fatalf("%s: at %d, want %d", e.name, i, e.begin)
		}
	}
	name := entries[7].name
	if allocs := testing.AllocsPerRun(100, func() {
		i, _ := c.Lookup(name)
		c.Extent(i)
		c.DType(i)
	}); allocs > 0 {
		t.Errorf("%v allocations", allocs)
	}
}

func TestNoShards(t *testing.T) {
	c, faults := index.New(nil)
	if c.Len() != 0 || c.Shards() != 0 || len(faults) > 0 || len(c.Notes()) > 0 {
		t.Errorf("%d tensors, faults %v", c.Len(), faults)
	}
	if _, ok := c.Lookup(""); ok {
		t.Error("a tensor was found")
	}
}
