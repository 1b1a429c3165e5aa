package file

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coldload/coldload/internal/packed"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/sinks/sinktest"
	"github.com/coldload/coldload/stages"
)

func TestConformance(t *testing.T) {
	for _, size := range []int64{0, 4000} {
		t.Run(fmt.Sprintf("shards of %d bytes", size), func(t *testing.T) {
			sinktest.Run(t, sinktest.Factory{Waits: true, New: func(tb testing.TB) sinktest.Instance {
				tb.Helper()
				dir := filepath.Join(tb.TempDir(), "out")
				opt := options(dir)
				opt.ShardSize = size
				var all map[string][]byte
				return sinktest.Instance{
					Sink: New(opt),
					Read: func(name string) ([]byte, bool) {
						if all == nil {
							all = readAll(dir)
						}
						b, ok := all[name]
						return b, ok
					},
					Visible: func() bool { _, err := os.Stat(dir); return err == nil },
					Release: func() error { return os.RemoveAll(dir) },
				}
			}})
		})
	}
}

func TestFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b", "out")
	if err := pack(t.Context(), New(options(dir)), work()); err != nil {
		t.Fatal(err)
	}
	alone(t, dir)
	verified(t, dir)
	var names []string
	for name := range ckpt.Tree(t, dir) {
		names = append(names, name)
	}
	slices.Sort(names)
	want := []string{
		"coldload.json", "config.json",
		"model-00001-of-00004.safetensors", "model-00002-of-00004.safetensors", "model-00003-of-00004.safetensors", "model-00004-of-00004.safetensors",
		"model.safetensors.index.json", "source/quantize_config.json",
	}
	if !slices.Equal(names, want) {
		t.Errorf("files %q", names)
	}
	m, err := packed.ReadFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	if m.Program != "test" || string(m.Options) != `{"layout":"raw"}` || len(m.Sources) != 1 || len(m.Outputs) != len(work()) {
		t.Errorf("manifest %+v", m)
	}
	for _, o := range m.Outputs {
		if o.Bytes > 0 && o.Digest.SlabBytes == 0 || o.SHA256 != (packed.Sum{}) {
			t.Errorf("%+v", o)
		}
	}
	f, err := safetensors.Open(filepath.Join(dir, want[2]))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // it was only read
	layout, _ := f.Header().MetadataValue("coldload.layout")
	format, _ := f.Header().MetadataValue("format")
	if f.Header().DataOffset()%64 != 0 || layout != "raw" || format != "pt" {
		t.Errorf("data at %d, layout %q, format %q", f.Header().DataOffset(), layout, format)
	}
	if got := slices.Collect(f.Header().Names()); !slices.Equal(got, []string{"z.weight", "b", "empty", "a.bias"}) {
		t.Errorf("first shard holds %q", got)
	}
}

func TestAssign(t *testing.T) {
	for _, c := range []struct {
		sizes []int64
		want  string
	}{
		{nil, "0-0"},
		{[]int64{0, 0}, "0-2"},
		{[]int64{10, 10, 10}, "0-1 1-2 2-3"},
		{[]int64{5, 5, 1}, "0-2 2-3"},
		{[]int64{30, 1, 9, 1}, "0-1 1-3 3-4"},
		{[]int64{1, 30, 0, 1}, "0-1 1-3 3-4"},
		{[]int64{0, 30}, "0-2"},
	} {
		var outputs []stages.Output
		for _, n := range c.sizes {
			outputs = append(outputs, raw("x", n, n))
		}
		var got []string
		shards := assign(outputs, 10)
		for i, s := range shards {
			got = append(got, fmt.Sprintf("%d-%d", s.first, s.end))
			if want := fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, len(shards)); s.name != want {
				t.Errorf("name %q", s.name)
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%v: %v, want %s", c.sizes, got, c.want)
		}
	}
}

// TestSameBytesInAnyOrder: whatever the order, the Batches and the number of goroutines, with and without windows that fill up.
func TestSameBytesInAnyOrder(t *testing.T) {
	outputs := append(work(), raw("big", 40<<20+7, 2<<20))
	want := undisturbed(t, outputs)
	for seed := range uint64(6) {
		dir := filepath.Join(t.TempDir(), "out")
		opt := options(dir)
		opt.DirtyBytes = 8 << 20
		s := New(opt)
		if err := parallel(t.Context(), s, outputs, rand.New(rand.NewPCG(seed, 1)), 1+int(seed)); err != nil {
			t.Fatal(err)
		}
		if err := same(ckpt.Tree(t, dir), want); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
	}
}

// many is n Outputs of up to 300 bytes.
func many(n int) []stages.Output {
	outputs := make([]stages.Output, n)
	for i := range outputs {
		outputs[i] = raw(fmt.Sprintf("layers.%d.scales", i), int64(i%300+1), 4096)
	}
	return outputs
}

// TestManySmall: a Batch of many small Slabs costs few system calls.
func TestManySmall(t *testing.T) {
	const n, batch = 20_000, 2000
	outputs := many(n)
	dir := filepath.Join(t.TempDir(), "out")
	opt := options(dir)
	opt.ShardSize = 0
	s := New(opt)
	writes := 0
	s.disk.before = func(op, _ string) error {
		if op == "write" {
			writes++
		}
		return nil
	}
	if err := s.Begin(t.Context(), outputs); err != nil {
		t.Fatal(err)
	}
	for some := range slices.Chunk(slabsOf(outputs), batch) {
		if err := pass(t.Context(), s, some...); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(s.Commit(t.Context()), s.Close()); err != nil {
		t.Fatal(err)
	}
	if writes > 1+n/batch {
		t.Errorf("%d writes for %d batches", writes, n/batch)
	}
	verified(t, dir)
}

func TestPlainDigests(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	opt := options(dir)
	opt.PlainDigests, opt.Algorithm = true, packed.SHA256
	if err := parallel(t.Context(), New(opt), work(), rand.New(rand.NewPCG(1, 1)), 3); err != nil {
		t.Fatal(err)
	}
	verified(t, dir)
	m, err := packed.ReadFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := readAll(dir)
	for _, o := range m.Outputs {
		b, ok := all[o.Name]
		if !ok || o.SHA256 != packed.SHA256.Sum(b) {
			t.Errorf("%s: sha256 %s", o.Name, o.SHA256)
		}
	}
}

func TestRefusesWrongUse(t *testing.T) {
	ctx := t.Context()
	outputs := work()
	slab := outputs[0].Slab(0, 0)
	fresh := func() *Sink {
		s := New(options(filepath.Join(t.TempDir(), "out")))
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return s
	}
	open := func() *Sink {
		s := fresh()
		if err := s.Begin(ctx, outputs); err != nil {
			t.Fatal(err)
		}
		return s
	}
	reserve := func(s *Sink, slab stages.Slab) error { _, err := s.Reserve(ctx, slab); return err }
	twice := func(first, second func() error) error {
		if err := first(); err != nil {
			t.Fatal(err)
		}
		return second()
	}
	s := open()
	b, err := s.Reserve(ctx, slab)
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	with := func(o stages.Output) error { return fresh().Begin(ctx, []stages.Output{o}) }
	wrongSize := raw("a", 10, 10)
	wrongSize.Shape = []int64{11}
	for name, call := range map[string]func() error{
		"Begin twice":            func() error { return s.Begin(ctx, nil) },
		"Begin with ended ctx":   func() error { return fresh().Begin(ended, nil) },
		"output without slabs":   func() error { return with(raw("a", 10, 0)) },
		"output of another size": func() error { return with(wrongSize) },
		"output of no layout":    func() error { return with(stages.Output{Name: "a", DType: safetensors.U8, Shape: []int64{0}}) },
		"two of one name":        func() error { return fresh().Begin(ctx, []stages.Output{raw("a", 1, 1), raw("a", 1, 1)}) },
		"a name that cannot be":  func() error { return with(raw("a\nb", 1, 1)) },
		"Reserve before Begin":   func() error { return reserve(fresh(), slab) },
		"Reserve twice":          func() error { return reserve(s, slab) },
		"no such output":         func() error { return reserve(s, stages.Slab{Output: 99, Len: 1}) },
		"no such slab":           func() error { return reserve(s, stages.Slab{Index: 9, Off: 9 * 1024, Len: 1024}) },
		"Write without Reserve":  func() error { return s.Write(ctx, outputs[0].Slab(0, 1), b) },
		"Write of other bytes":   func() error { return s.Write(ctx, slab, make([]byte, slab.Len)) },
		"one buffer for two":     func() error { return s.WriteBatch(ctx, []stages.Slab{slab, slab}, [][]byte{b}) },
		"a slab written twice": func() error {
			s := open()
			return twice(func() error { return pass(ctx, s, slab) }, func() error { return pass(ctx, s, slab) })
		},
		"Commit before Begin":   func() error { return fresh().Commit(ctx) },
		"Commit without slabs":  func() error { return open().Commit(ctx) },
		"Commit with ended ctx": func() error { return open().Commit(ended) },
		"files that cannot be":  func() error { s := fresh(); s.opt.Files = []File{text("../x", "")}; return s.Begin(ctx, nil) },
		"a file twice": func() error {
			s := fresh()
			s.opt.Files = []File{text("x", ""), text("x", "")}
			return s.Begin(ctx, nil)
		},
		"a hash that is unknown": func() error { s := fresh(); s.opt.Algorithm = "md5"; return s.Begin(ctx, nil) },
		"a key that is no JSON":  func() error { s := fresh(); s.opt.Key = []byte("{"); return s.Begin(ctx, nil) },
		"a manifest as a file":   func() error { s := fresh(); s.opt.Files = []File{text("coldload.json", "")}; return s.Begin(ctx, nil) },
		"headers over the limit": func() error { return with(raw(strings.Repeat("x", 5000), 1, 1)) },
		"too many shards":        func() error { s := fresh(); s.opt.ShardSize = 1; return s.Begin(ctx, many(10_001)) },
		"no folder":              func() error { s := fresh(); s.opt.Dir = ""; return s.Begin(ctx, nil) },
		"the root":               func() error { s := fresh(); s.opt.Dir = "/"; return s.Begin(ctx, nil) },
		"a folder that is read": func() error {
			s := fresh()
			s.opt.Protect = []string{filepath.Join(s.opt.Dir, "in")}
			return s.Begin(ctx, nil)
		},
		"below a file": func() error { s := fresh(); s.opt.Dir = filepath.Join(os.Args[0], "x"); return s.Begin(ctx, nil) },
		"a program without a name": func() error {
			s := fresh()
			s.opt.Manifest.Program = ""
			return errors.Join(s.Begin(ctx, nil), s.Commit(ctx))
		},
	} {
		if call() == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	if err := s.Commit(ctx); !errors.Is(err, ErrIncomplete) || !strings.Contains(err.Error(), "z.weight lacks 5 of 5") {
		t.Errorf("Commit without a Write: %v", err)
	}
	for _, target := range []string{"", "/"} {
		s := fresh()
		s.opt.Dir = target
		if err := s.Begin(ctx, nil); !errors.Is(err, ErrTarget) {
			t.Errorf("%q: %v", target, err)
		}
	}
}
