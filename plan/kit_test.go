package plan_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coldload/coldload/plan"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/discover"
)

// T is what testing.T and rapid.T have in common.
type T interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// catalog is a plan.Catalog of tensors that need no file.
type catalog struct {
	tensors []stages.Tensor // in file order
	byName  map[string]int
	shards  int
}

// headerBytes is where the data of every Shard of a catalog starts.
const headerBytes = 1 << 10

// newCatalog lays the tensors out one after the other, shard by shard.
func newCatalog(shards ...[]stages.Tensor) *catalog {
	c := &catalog{byName: map[string]int{}, shards: len(shards)}
	for s, list := range shards {
		off := int64(headerBytes)
		for _, t := range list {
			n, err := safetensors.Elements(t.Shape)
			if err == nil {
				n, err = t.DType.Size(n)
			}
			if err != nil {
				panic(err)
			}
			t.Extent = stages.Extent{Shard: int32(s), Off: off, Len: n}
			off += n
			c.byName[t.Name] = len(c.tensors)
			c.tensors = append(c.tensors, t)
		}
	}
	return c
}

func (c *catalog) Len() int                               { return len(c.tensors) }
func (c *catalog) Name(i int) string                      { return c.tensors[i].Name }
func (c *catalog) DType(i int) stages.DType               { return c.tensors[i].DType }
func (c *catalog) AppendShape(dst []int64, i int) []int64 { return append(dst, c.tensors[i].Shape...) }
func (c *catalog) Extent(i int) stages.Extent             { return c.tensors[i].Extent }
func (c *catalog) ShardName(shard int32) string           { return fmt.Sprintf("shard-%d", shard) }
func (c *catalog) Shards() int                            { return c.shards }
func (c *catalog) Lookup(name string) (int, bool) {
	i, ok := c.byName[name]
	return i, ok
}

// configs reads config files the way the program does, each text once.
type configs struct {
	ctx  context.Context //nolint:containedctx // the test's, for rapid's callbacks that have none
	dir  string
	read map[string]*discover.Checkpoint
}

func newConfigs(tb testing.TB) *configs {
	tb.Helper()
	c := &configs{ctx: tb.Context(), dir: tb.TempDir(), read: map[string]*discover.Checkpoint{}}
	tb.Cleanup(func() {
		for _, ck := range c.read {
			if err := ck.Close(); err != nil {
				tb.Error(err)
			}
		}
	})
	empty := []byte("\x02\x00\x00\x00\x00\x00\x00\x00{}")
	if err := os.WriteFile(filepath.Join(c.dir, "model.safetensors"), empty, 0o600); err != nil {
		tb.Fatal(err)
	}
	return c
}

// input is a plan.Input of the catalog and the config.
func (c *configs) input(t T, cat plan.Catalog, config map[string]any) plan.Input {
	t.Helper()
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatalf("%v", err)
	}
	ck := c.read[string(text)]
	if ck == nil {
		if err := os.WriteFile(filepath.Join(c.dir, "config.json"), text, 0o600); err != nil {
			t.Fatalf("%v", err)
		}
		if ck, err = discover.Discover(c.ctx, c.dir, discover.Options{}); err != nil {
			t.Fatalf("%v", err)
		}
		c.read[string(text)] = ck
	}
	return plan.Input{Catalog: cat, Model: ck.Config, Quant: ck.Quant}
}

// span is the bytes [from, to).
type span struct{ from, to int64 }

// tiles reports whether the spans cover [0, n) exactly once.
func tiles(spans []span, n int64) bool {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to)) })
	at := int64(0)
	for _, s := range spans {
		if s.from != at || s.to < s.from {
			return false
		}
		at = s.to
	}
	return at == n
}

// covers proves what a Plan promises: its Batches read every byte of every tensor that is not ignored, and write every byte of every
// Output once.
func covers(t T, p *plan.Plan, tensors []stages.Tensor) {
	t.Helper()
	w := &walk{t: t, p: p, writes: map[string][]span{}, checks: map[string][]span{}, byName: map[string]stages.Tensor{}, slabs: map[[2]int]bool{}}
	for _, x := range tensors {
		w.byName[x.Name] = x
	}
	for b := range p.Batches() {
		w.batch(b)
	}
	want := 0
	for i := range p.Outputs {
		want += p.Outputs[i].Slabs()
	}
	if len(w.slabs) != want {
		t.Errorf("%d slabs are made, the outputs have %d", len(w.slabs), want)
	}
	ignored := 0
	for _, x := range tensors {
		if name := "." + x.Name; strings.HasSuffix(name, ".workspace") || strings.HasSuffix(name, ".rotary_emb.inv_freq") {
			ignored++
			if len(w.writes[x.Name])+len(w.checks[x.Name]) > 0 {
				t.Errorf("%s is ignored and read", x.Name)
			}
			continue
		}
		w.tensor(x)
	}
	if ignored != p.Summary.Ignored {
		t.Errorf("%d tensors are ignored, want %d", p.Summary.Ignored, ignored)
	}
	w.outputs()
}

type walk struct {
	t      T
	p      *plan.Plan
	writes map[string][]span // per tensor, what Parts with a Slab read
	checks map[string][]span // and what the others read
	byName map[string]stages.Tensor
	slabs  map[[2]int]bool
	before stages.Extent // first byte of the Batch before
}

func (w *walk) batch(b *stages.Batch) {
	w.t.Helper()
	w.ranges(b)
	rects := make([][]stages.Rect, len(b.Slabs))
	var out int64
	used := map[stages.Extent]bool{}
	first := stages.Extent{Shard: 1 << 30}
	for i := range b.Parts {
		p := &b.Parts[i]
		for n, in := range p.Inputs {
			used[in.Extent] = true
			w.input(b, in, p.Slab == stages.NoSlab)
			bulk := n == 0 || lastPart(in.Tensor) == lastPart(p.Inputs[0].Tensor) // an Op that pads reads all members of a row
			if bulk && p.Slab != stages.NoSlab && !scaleOfTensor(in.Tensor) && cmp.Or(cmp.Compare(in.Extent.Shard, first.Shard), cmp.Compare(in.Extent.Off, first.Off)) < 0 {
				first = in.Extent
			}
		}
		if p.Slab != stages.NoSlab {
			rects[p.Slab] = append(rects[p.Slab], p.Dst)
		}
	}
	for i, s := range b.Slabs {
		out += s.Len
		w.slab(s, rects[i])
	}
	if n := bytesOf(used); n != b.UsedBytes || out != b.OutBytes {
		w.t.Errorf("batch %d says %d bytes used and %d out, not %d and %d", b.Seq, b.UsedBytes, b.OutBytes, n, out)
	}
	if first.Shard == 1<<30 { // a scan, or nothing but what is made beside something else
		return
	}
	if first.Shard < w.before.Shard || first.Shard == w.before.Shard && first.Off < w.before.Off {
		w.t.Errorf("batch %d starts at %v, the one before at %v: not in file order", b.Seq, first, w.before)
	}
	w.before = first
}

// lastPart is what a tensor is of its module: "scales".
func lastPart(name string) string { return name[strings.LastIndexByte(name, '.')+1:] }

// bytesOf counts the bytes of the Extents. They are the same or apart: what two Parts read is used once.
func bytesOf(all map[stages.Extent]bool) (n int64) {
	for x := range all {
		n += x.Len
	}
	return n
}

// ranges checks that the Ranges are sorted and apart.
func (w *walk) ranges(b *stages.Batch) {
	w.t.Helper()
	var in int64
	for i, r := range b.Ranges {
		in += r.Len
		if r.Len <= 0 || i > 0 && r.Shard == b.Ranges[i-1].Shard && r.Off <= b.Ranges[i-1].End() || i > 0 && r.Shard < b.Ranges[i-1].Shard {
			w.t.Errorf("batch %d: range %d of %v is out of place", b.Seq, i, b.Ranges)
		}
	}
	if in != b.InBytes {
		w.t.Errorf("batch %d says %d bytes in, not %d", b.Seq, b.InBytes, in)
	}
}

// input checks that the Input lies in its tensor and in its Range, and notes what it reads.
func (w *walk) input(b *stages.Batch, in stages.Input, check bool) {
	w.t.Helper()
	name, _, _ := strings.Cut(in.Tensor, " (expert ")
	x, ok := w.byName[name]
	if !ok {
		w.t.Errorf("batch %d reads %s, which is not there", b.Seq, in.Tensor)
		return
	}
	if in.Extent.Shard != x.Extent.Shard || in.Extent.Off < x.Extent.Off || in.Extent.End() > x.Extent.End() || in.Extent.Len <= 0 {
		w.t.Errorf("batch %d reads %v of %s, which is %v", b.Seq, in.Extent, in.Tensor, x.Extent)
	}
	if r := b.Ranges[in.Range]; r.Shard != in.Extent.Shard || r.Off+in.Off != in.Extent.Off || in.Extent.End() > r.End() {
		w.t.Errorf("batch %d: input %v does not lie at %d of range %v", b.Seq, in.Extent, in.Off, r)
	}
	at := span{in.Extent.Off - x.Extent.Off, in.Extent.End() - x.Extent.Off}
	if check {
		w.checks[name] = append(w.checks[name], at)
	} else {
		w.writes[name] = append(w.writes[name], at)
	}
}

// slab checks that the Rects cover the Slab exactly once.
func (w *walk) slab(s stages.Slab, rects []stages.Rect) {
	w.t.Helper()
	o := &w.p.Outputs[s.Output]
	if s != o.Slab(s.Output, s.Index) || s.Index >= o.Slabs() || w.slabs[[2]int{s.Output, s.Index}] {
		w.t.Errorf("%s: %+v is no slab of it, or made twice", o.Name, s)
	}
	w.slabs[[2]int{s.Output, s.Index}] = true
	spans, n := make([]span, len(rects)), s.Len
	flat := true
	for _, r := range rects {
		flat = flat && (r.Rows == 1 || r.Stride == r.RowBytes)
	}
	for i, r := range rects {
		spans[i] = span{r.Off, r.Off + r.Bytes()}
		if !flat {
			if r.Stride != rects[0].Stride || r.Rows != rects[0].Rows || r.Stride*r.Rows != s.Len {
				w.t.Errorf("%s: slab %d is made of rectangles that do not fit: %+v", o.Name, s.Index, rects)
				return
			}
			spans[i], n = span{r.Off, r.Off + r.RowBytes}, r.Stride
		}
	}
	if !tiles(spans, n) {
		w.t.Errorf("%s: slab %d of %d bytes is not covered by %+v", o.Name, s.Index, s.Len, rects)
	}
}

// scaleOfTensor tells the last scale of NVFP4, which is made beside the others.
func scaleOfTensor(name string) bool {
	return strings.HasSuffix(name, ".weight_scale_2") || strings.HasSuffix(name, ".weight_global_scale")
}

// tensor checks that every byte is read: once to be written, or at least once to be checked. A g_idx, and scales that have something in common, are
// read whole, as often as something depends on them.
func (w *walk) tensor(x stages.Tensor) {
	w.t.Helper()
	writes, checks := w.writes[x.Name], w.checks[x.Name]
	if strings.HasSuffix(x.Name, ".g_idx") || strings.HasSuffix(x.Name, ".weight_scale") || scaleOfTensor(x.Name) {
		writes, checks = slices.Compact(writes), slices.Compact(checks)
	}
	if len(writes) > 0 && !tiles(writes, x.Extent.Len) {
		w.t.Errorf("%s: %d bytes are written from %v", x.Name, x.Extent.Len, writes)
	}
	if len(checks) > 0 && !tiles(checks, x.Extent.Len) {
		w.t.Errorf("%s: %d bytes are checked at %v", x.Name, x.Extent.Len, checks)
	}
	if len(writes)+len(checks) == 0 && x.Extent.Len > 0 {
		w.t.Errorf("%s is not used", x.Name)
	}
}

// outputs checks what the Outputs say of themselves.
func (w *walk) outputs() {
	w.t.Helper()
	seen := map[string]bool{}
	for i := range w.p.Outputs {
		o := &w.p.Outputs[i]
		n, err := safetensors.Elements(o.Shape)
		if err == nil {
			n, err = o.DType.Size(n)
		}
		if err != nil || n != o.Size {
			w.t.Errorf("%s: %s %v takes %d bytes (%v), not %d", o.Name, o.DType, o.Shape, n, err, o.Size)
		}
		if o.Size > 0 && (o.SlabBytes <= 0 || o.SlabBytes > o.Size) {
			w.t.Errorf("%s: slabs of %d bytes of %d", o.Name, o.SlabBytes, o.Size)
		}
		if seen[o.Name] {
			w.t.Errorf("%s: two outputs have this name", o.Name)
		}
		seen[o.Name] = true
	}
}
