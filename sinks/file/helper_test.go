package file

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/coldload/coldload/internal/packed"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func raw(name string, size, slab int64) stages.Output {
	return stages.Output{
		Name: name, DType: safetensors.U8, Shape: []int64{size}, Layout: stages.LayoutRaw, Kind: stages.KindKept,
		Size: size, SlabBytes: slab,
	}
}

// work is a small load, of several shards of 6000 bytes.
func work() []stages.Output {
	return []stages.Output{
		raw("z.weight", 5000, 1024), raw("b", 100, 100), raw("empty", 0, 0), raw("a.bias", 700, 64),
		raw("large", 9000, 4096), raw("c", 4000, 1000), raw("d", 1, 1), raw("e", 2999, 3000),
	}
}

func options(dir string) Options {
	return Options{
		Dir: dir, ShardSize: 6000, Key: []byte(`{"bits":4}`),
		Manifest: packed.Manifest{
			Program: "test", Options: []byte(`{"layout": "raw"}`),
			Sources: []packed.Source{{Name: "model.safetensors", Bytes: 1234}},
		},
		Files: []File{text("config.json", "{}\n"), text("source/quantize_config.json", `{"bits": 4}`)},
	}
}

func text(name, content string) File {
	return File{name, int64(len(content)), func(w io.Writer) error { _, err := io.WriteString(w, content); return err }}
}

// pattern fills b with bytes that no other Slab has.
func pattern(s stages.Slab, b []byte) {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], uint64(s.Output))
	binary.LittleEndian.PutUint64(seed[8:], uint64(s.Index))
	_, _ = rand.NewChaCha8(seed).Read(b) // never fails
}

func slabsOf(outputs []stages.Output) (slabs []stages.Slab) {
	for i := range outputs {
		for n := range outputs[i].Slabs() {
			slabs = append(slabs, outputs[i].Slab(i, n))
		}
	}
	return slabs
}

// pass takes Slabs through the sink as one Batch, but for those that are done.
func pass(ctx context.Context, s *Sink, slabs ...stages.Slab) error {
	var some []stages.Slab
	var bufs [][]byte
	for _, slab := range slabs {
		if s.DoneSlab(slab) {
			continue
		}
		b, err := s.Reserve(ctx, slab)
		if err != nil {
			return err
		}
		pattern(slab, b)
		some, bufs = append(some, slab), append(bufs, b)
	}
	if len(some) == 0 {
		return nil
	}
	return s.WriteBatch(ctx, some, bufs)
}

// pack is a whole load, one Slab after the other. It closes the sink.
func pack(ctx context.Context, s *Sink, outputs []stages.Output) (err error) {
	defer func() {
		if e := s.Close(); err == nil {
			err = e
		}
	}()
	if err := s.Begin(ctx, outputs); err != nil {
		return err
	}
	for _, slab := range slabsOf(outputs) {
		if err := pass(ctx, s, slab); err != nil {
			return err
		}
	}
	return s.Commit(ctx)
}

// parallel is a whole load with the Slabs in some order, in Batches, from several goroutines.
func parallel(ctx context.Context, s *Sink, outputs []stages.Output, rng *rand.Rand, workers int) error {
	if err := s.Begin(ctx, outputs); err != nil {
		return err
	}
	slabs := slabsOf(outputs)
	rng.Shuffle(len(slabs), func(i, j int) { slabs[i], slabs[j] = slabs[j], slabs[i] })
	batches := make(chan []stages.Slab, len(slabs))
	for len(slabs) > 0 {
		n := min(1+rng.IntN(5), len(slabs))
		batches <- slabs[:n]
		slabs = slabs[n:]
	}
	close(batches)
	var g errgroup.Group
	for range workers {
		g.Go(func() error {
			for b := range batches {
				if err := pass(ctx, s, b...); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := s.Commit(ctx); err != nil {
		return err
	}
	return s.Close()
}

// undisturbed is what a folder of outputs must be.
func undisturbed(tb testing.TB, outputs []stages.Output) map[string]string {
	tb.Helper()
	dir := filepath.Join(tb.TempDir(), "out")
	if err := pack(tb.Context(), New(options(dir)), outputs); err != nil {
		tb.Fatal(err)
	}
	return ckpt.Tree(tb, dir)
}

// same compares two trees.
func same(got, want map[string]string) error {
	for name := range want {
		if _, ok := got[name]; !ok {
			return fmt.Errorf("%s is missing", name)
		}
	}
	for name, b := range got {
		switch w, ok := want[name]; {
		case !ok:
			return fmt.Errorf("%s is extra", name)
		case w != b:
			at := 0
			for at < min(len(w), len(b)) && w[at] == b[at] {
				at++
			}
			return fmt.Errorf("%s differs from byte %d on, %d bytes against %d", name, at, len(b), len(w))
		}
	}
	return nil
}

// alone checks that nothing lies beside the folder.
func alone(tb testing.TB, dir string) {
	tb.Helper()
	entries, err := os.ReadDir(filepath.Dir(dir))
	if err != nil {
		tb.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != filepath.Base(dir) {
			tb.Errorf("%s is left", e.Name())
		}
	}
}

// verified checks a folder with the package that readers use.
func verified(tb testing.TB, dir string) {
	tb.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		tb.Fatal(err)
	}
	defer root.Close()
	r, err := packed.Verify(tb.Context(), rooted{root}, packed.VerifyOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	for _, d := range r.Differences {
		tb.Error(d)
	}
}

// readAll reads every Output of a packed folder, as a tool that knows nothing of coldload does; nil when there is none.
func readAll(dir string) map[string][]byte {
	s, err := safetensors.OpenSharded(dir)
	if err != nil {
		return nil
	}
	defer func() { _ = s.Close() }() // it was only read
	all := make(map[string][]byte)
	for f, info := range s.All() {
		b := make([]byte, info.Size())
		if f.ReadInto(info.Name, b) == nil {
			all[info.Name] = b
		}
	}
	return all
}

// rooted is a packed.Folder below one folder.
type rooted struct{ *os.Root }

func (r rooted) FS() (fs.FS, error) { return r.Root.FS(), nil }

// plainDigests compares the plain digests of a folder with its bytes.
func plainDigests(t *testing.T, dir string) {
	t.Helper()
	m, err := packed.ReadFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := readAll(dir)
	for _, o := range m.Outputs {
		if o.SHA256 != packed.SHA256.Sum(all[o.Name]) {
			t.Errorf("%s: sha256 %s", o.Name, o.SHA256)
		}
	}
}
