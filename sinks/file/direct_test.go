package file

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/coldload/coldload/internal/packed"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/stages"
)

// large is a load with Slabs around the size of a block and around the least that is written past the page cache, at every kind of offset.
func large() []stages.Output {
	const block, least = 4096, directBytes
	outputs := []stages.Output{raw("norm", 100, 100), raw("odd", 3*least+1, least+1), raw("small", 3*block+5, block), raw("long", 1<<20, 256<<10), raw("lines", 1<<20+5*64, 200<<10)}
	for _, slab := range []int64{block - 64, block, block + 64, least - 1, least - 64, least, least + 64, least + block, 2*least + 31*64} {
		for _, size := range []int64{3*least + 2*block, 3*least + 64, 3 * slab} {
			outputs = append(outputs, raw(fmt.Sprintf("%d in %d", size, slab), size, slab))
		}
	}
	rand.New(rand.NewPCG(4, 4)).Shuffle(len(outputs), func(i, j int) { outputs[i], outputs[j] = outputs[j], outputs[i] })
	return outputs
}

// fewShards are options for large: few shards, so that Outputs push each other about.
func fewShards(dir string) Options {
	opt := options(dir)
	opt.ShardSize = 2 << 20
	return opt
}

// canDirect skips where the file system of the tests has no direct writes.
func canDirect(tb testing.TB) {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "x")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		tb.Fatal(err)
	}
	f, err := openDirect(path, 4096)
	if err != nil {
		tb.Skip(err)
	}
	if err := f.Close(); err != nil {
		tb.Fatal(err)
	}
}

// counting counts the operations of a sink by kind, and makes those of one kind fail from the n-th on.
func counting(s *Sink, kind string, n int, err error) (ops map[string]int) {
	var mu sync.Mutex
	ops = make(map[string]int)
	s.disk.before = func(op, _ string) error {
		mu.Lock()
		defer mu.Unlock()
		ops[op]++
		if op == kind && ops[op] > n {
			return err
		}
		return nil
	}
	return ops
}

// lying writes everything and says that it was less, as a disk that stops in the middle does.
func lying(rng *rand.Rand) func(*os.File, [][]byte, int64) (int, error) {
	var mu sync.Mutex
	return func(f *os.File, bufs [][]byte, off int64) (int, error) {
		n, err := pwritev(f, bufs, off)
		mu.Lock()
		defer mu.Unlock()
		if n > 0 {
			n = 1 + rng.IntN(n)
		}
		return n, err
	}
}

// TestSameBytesInEveryWay: the folder does not tell how it was written.
func TestSameBytesInEveryWay(t *testing.T) {
	canDirect(t)
	outputs := large()
	ref := filepath.Join(t.TempDir(), "ref")
	s := New(fewShards(ref))
	if ops := counting(s, "opendirect", 0, syscall.EINVAL); true {
		if err := pack(t.Context(), s, outputs); err != nil {
			t.Fatal(err)
		}
		if ops["direct"] > 0 || ops["opendirect"] == 0 || ops["opendirect"] > len(s.shards) || len(s.shards) < 2 {
			t.Fatalf("%d shards, %v", len(s.shards), ops)
		}
	}
	want := ckpt.Tree(t, ref)
	for name, c := range map[string]struct {
		kind  string
		after int
		err   error
		block int64
		short bool
		least int // direct writes
	}{
		"direct":               {least: 20},
		"not opened":           {kind: "opendirect", err: syscall.EOPNOTSUPP},
		"one shard not opened": {kind: "opendirect", after: 1, err: syscall.EMFILE, least: 1},
		"first write refused":  {kind: "direct", err: syscall.EINVAL, least: 1},
		"later write refused":  {kind: "direct", after: 7, err: syscall.ENOTSUP, least: 8},
		"large pages":          {block: 64 << 10, least: 3},
		"short writes":         {short: true, least: 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(3) {
				rng := rand.New(rand.NewPCG(seed, 2))
				dir := filepath.Join(t.TempDir(), "out")
				s := New(fewShards(dir))
				if c.block > 0 {
					s.block = c.block
				}
				if c.short {
					s.disk.pwritev = lying(rng)
				}
				ops := counting(s, c.kind, c.after, c.err)
				if err := parallel(t.Context(), s, outputs, rng, 1+int(seed)); err != nil {
					t.Fatal(err)
				}
				if err := same(ckpt.Tree(t, dir), want); err != nil {
					t.Error(err)
				}
				if ops["direct"] < c.least || c.least == 0 && ops["direct"] > 0 {
					t.Errorf("%d direct writes, at least %d expected", ops["direct"], c.least)
				}
			}
		})
	}
}

// TestRefusedOnceIsNotTriedAgain: a file system that opens a file and then refuses to write it costs one call a shard.
func TestRefusedOnceIsNotTriedAgain(t *testing.T) {
	canDirect(t)
	s := New(fewShards(filepath.Join(t.TempDir(), "out")))
	ops := counting(s, "direct", 0, syscall.EINVAL)
	if err := pack(t.Context(), s, large()); err != nil {
		t.Fatal(err)
	}
	if ops["direct"] == 0 || ops["direct"] > len(s.shards) {
		t.Errorf("%d tries with %d shards", ops["direct"], len(s.shards))
	}
}

// TestErrorsOfDirectWrites are not taken for a way that does not work.
func TestErrorsOfDirectWrites(t *testing.T) {
	canDirect(t)
	for _, kind := range []string{"opendirect", "direct"} {
		for _, err := range []error{syscall.EIO, syscall.ENOSPC} {
			s := New(fewShards(filepath.Join(t.TempDir(), "out")))
			counting(s, kind, 0, err)
			got := pack(t.Context(), s, large())
			if !errors.Is(got, err) {
				t.Errorf("%s, %v: %v", kind, err, got)
			}
		}
	}
}

// TestWriteWithoutProgress ends, on both ways.
func TestWriteWithoutProgress(t *testing.T) {
	s := New(fewShards(filepath.Join(t.TempDir(), "out")))
	s.disk.pwritev = func(f *os.File, bufs [][]byte, off int64) (int, error) {
		if off == 0 {
			return pwritev(f, bufs, off) // the header
		}
		return 0, nil
	}
	if err := pack(t.Context(), s, large()); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("got %v", err)
	}
}

// TestBuffersLieAsTheFile: a large Slab's address is that of its place in the file, up to multiples of a block, unless its Output begins
// within a cache line; and always what the contract of Reserve wants.
func TestBuffersLieAsTheFile(t *testing.T) {
	s := New(fewShards(filepath.Join(t.TempDir(), "out")))
	if err := s.Begin(t.Context(), large()); err != nil {
		t.Fatal(err)
	}
	alike := 0
	for _, slab := range slabsOf(s.outputs) {
		b, err := s.Reserve(t.Context(), slab)
		if err != nil {
			t.Fatal(err)
		}
		off := s.offsets[slab.Output]
		if slab.Off%64 == 0 && address(b)%64 != 0 {
			t.Errorf("slab %+v lies at %#x", slab, address(b))
		}
		if slab.Len >= directBytes && off%64 == 0 {
			if alike++; (address(b)-off-slab.Off)%s.block != 0 {
				t.Errorf("slab %+v, %d bytes from the start of the file, lies at %#x", slab, off+slab.Off, address(b))
			}
		}
	}
	if alike < 30 {
		t.Errorf("only %d of the slabs lie as the file does", alike)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestNoBlockIsWrittenBothWays: pieces of a file, wherever they are cut, however their memory lies and however they are grouped, cover all
// of it once, and no block has bytes on both ways.
func TestNoBlockIsWrittenBothWays(t *testing.T) {
	const size, block = 1 << 20, 4096
	memory := make([]byte, size+3*block)
	shift := -address(memory) & (block - 1)
	rng := rand.New(rand.NewPCG(1, 1))
	for round := range 300 {
		var ways [size/block + 1][2]bool
		off := int64(rng.IntN(2 * block))
		next := off
		for off < size {
			var run []piece
			for range 1 + rng.IntN(4) {
				if off >= size {
					break
				}
				n := min(1+rng.Int64N([]int64{300, 2 * block, 40 * block}[rng.IntN(3)]), size-off)
				if round%2 == 0 {
					n = min((n+block-1)/block*block, size-off)
				}
				at := off + shift
				if rng.IntN(4) == 0 {
					at += 64
				}
				run = append(run, piece{off: off, buf: memory[at : at+n]})
				off += n
			}
			for _, st := range stretches(run, block) {
				n := int64(0)
				for _, b := range st.bufs {
					if n += int64(len(b)); st.direct && (len(b)%block != 0 || address(b)%block != 0) {
						t.Fatalf("%d bytes at %#x are written directly", len(b), address(b))
					}
				}
				if st.off != next || n != st.n || st.direct && (n < directBytes || st.off%block != 0) {
					t.Fatalf("stretch at %d of %d bytes after %d", st.off, n, next)
				}
				next += n
				for i := st.off / block; i <= (st.off+n-1)/block; i++ {
					if ways[i][b2i(st.direct)] = true; ways[i][0] && ways[i][1] {
						t.Fatalf("block %d is written both ways", i)
					}
				}
			}
		}
		if next != size {
			t.Fatalf("%d of %d bytes", next, size)
		}
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// TestAdjacentSlabsAreOneWrite: the Slabs of a Batch cost one call, when they are whole blocks.
func TestAdjacentSlabsAreOneWrite(t *testing.T) {
	canDirect(t)
	outputs := []stages.Output{raw("norm", 10, 10), raw("a", 1<<20, 128<<10), raw("b", 1<<20, 256<<10)}
	opt := fewShards(filepath.Join(t.TempDir(), "out"))
	opt.ShardSize = 0
	s := New(opt)
	if err := s.Begin(t.Context(), outputs); err != nil {
		t.Fatal(err)
	}
	ops := counting(s, "", 0, nil)
	if err := pass(t.Context(), s, slabsOf(outputs)...); err != nil {
		t.Fatal(err)
	}
	if ops["direct"] != 1 || ops["write"] != 1 { // the norm
		t.Errorf("%v", ops)
	}
	if err := errors.Join(s.Commit(t.Context()), s.Close()); err != nil {
		t.Fatal(err)
	}
	verified(t, opt.Dir)
}

// TestLargeOutputsBeginAtBlocks: those of whole blocks are not moved off them by small ones.
func TestLargeOutputsBeginAtBlocks(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	outputs := large()
	if err := pack(t.Context(), New(fewShards(dir)), outputs); err != nil {
		t.Fatal(err)
	}
	m, err := packed.ReadFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, o := range m.Outputs {
		if o.Bytes >= directBytes && o.Bytes%4096 == 0 {
			if n++; o.Offset%4096 != 0 {
				t.Errorf("%s begins at %d", o.Name, o.Offset)
			}
		} else if o.Bytes >= directBytes && o.Bytes%64 == 0 && o.Offset%64 != 0 {
			t.Errorf("%s begins at %d", o.Name, o.Offset)
		}
	}
	if n < 10 {
		t.Errorf("only %d outputs of whole blocks", n)
	}
}

// TestPlainDigestsOfDirectWrites reads back what the page cache never held, while neighbours are written.
func TestPlainDigestsOfDirectWrites(t *testing.T) {
	outputs := large()
	for seed := range uint64(4) {
		opt := fewShards(filepath.Join(t.TempDir(), "out"))
		opt.PlainDigests = true
		if err := parallel(t.Context(), New(opt), outputs, rand.New(rand.NewPCG(seed, 3)), 4); err != nil {
			t.Fatal(err)
		}
		plainDigests(t, opt.Dir)
	}
}

// TestResumeOverAHalfWrittenRun: a direct write that broke off in the middle, with a neighbour that has half a block in the page cache.
func TestResumeOverAHalfWrittenRun(t *testing.T) {
	canDirect(t)
	outputs := large()
	ref := filepath.Join(t.TempDir(), "ref")
	if err := pack(t.Context(), New(fewShards(ref)), outputs); err != nil {
		t.Fatal(err)
	}
	want := ckpt.Tree(t, ref)
	for broken := 1; broken < 24; broken += 5 {
		dir := filepath.Join(t.TempDir(), "out")
		s, n := often(New(fewShards(dir))), 0
		s.disk.pwritev = func(f *os.File, bufs [][]byte, off int64) (int, error) {
			if len(bufs[0]) < directBytes {
				return pwritev(f, bufs, off)
			}
			if n++; n < broken {
				return pwritev(f, bufs, off)
			}
			_, err := pwritev(f, [][]byte{bufs[0][:directBytes/2]}, off)
			return 0, errors.Join(syscall.EIO, err)
		}
		if err := pack(t.Context(), s, outputs); !errors.Is(err, syscall.EIO) {
			t.Fatalf("got %v", err)
		}
		if broken > 1 && s.Kept() == 0 {
			t.Error("nothing was kept")
		}
		next := New(fewShards(dir))
		if err := pack(t.Context(), next, outputs); err != nil {
			t.Fatal(err)
		}
		if next.Resumed() != s.Kept() {
			t.Errorf("%d bytes kept, %d resumed", s.Kept(), next.Resumed())
		}
		if err := same(ckpt.Tree(t, dir), want); err != nil {
			t.Error(err)
		}
	}
}

// TestOpensAreFew: a shard is open twice, and closed when it is complete.
func TestOpensAreFew(t *testing.T) {
	canDirect(t)
	s := New(fewShards(filepath.Join(t.TempDir(), "out")))
	if err := s.Begin(t.Context(), large()); err != nil {
		t.Fatal(err)
	}
	s.every = 1
	for _, slab := range slabsOf(s.outputs) {
		if err := pass(t.Context(), s, slab); err != nil {
			t.Fatal(err)
		}
		for _, sh := range s.shards {
			if sh.left == 0 && (sh.file != nil || sh.direct != nil) {
				t.Fatalf("%s is complete and open", sh.name)
			}
		}
	}
	if err := errors.Join(s.Commit(t.Context()), s.Close()); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir("/proc/self/fd"); err == nil {
		for _, e := range entries {
			if to, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name())); err == nil && strings.HasPrefix(to, filepath.Dir(s.opt.Dir)) {
				t.Errorf("%s is open", to)
			}
		}
	}
}
