package file

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/stages"
)

// sideBySide is a load that fills n shards at the same time: first one Slab of each, then the next.
func sideBySide(n int) (outputs []stages.Output, slabs []stages.Slab) {
	for i := range n {
		outputs = append(outputs, raw(fmt.Sprintf("experts.%d", i), 6000, 2000))
	}
	slabs = slabsOf(outputs)
	slices.SortStableFunc(slabs, func(a, b stages.Slab) int { return cmp.Compare(a.Index, b.Index) })
	return outputs, slabs
}

// openBelow counts the descriptors of this process for files below a folder.
func openBelow(tb testing.TB, dir string) (n int) {
	tb.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Skip("no /proc")
	}
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name())); err == nil && strings.HasPrefix(to, dir) {
			n++
		}
	}
	return n
}

// TestDescriptors: thousands of unfinished shards need few descriptors.
func TestDescriptors(t *testing.T) {
	for _, size := range []int64{6000, 400 << 10} { // the latter goes past the page cache too
		outputs, slabs := sideBySide(200)
		if size > directBytes {
			outputs = outputs[:50]
			for i := range outputs {
				outputs[i] = raw(outputs[i].Name, size, size/4)
			}
			slabs = slabsOf(outputs)
			slices.SortStableFunc(slabs, func(a, b stages.Slab) int { return cmp.Compare(a.Index, b.Index) })
		}
		dir := filepath.Join(t.TempDir(), "out")
		opt := options(dir)
		opt.ShardSize = size
		s := New(opt)
		if err := s.Begin(t.Context(), outputs); err != nil {
			t.Fatal(err)
		}
		most := 0
		for i, slab := range slabs {
			if err := pass(t.Context(), s, slab); err != nil {
				t.Fatal(err)
			}
			if i%16 == 0 {
				most = max(most, openBelow(t, dir+".partial"))
			}
		}
		if err := errors.Join(s.Commit(t.Context()), s.Close()); err != nil {
			t.Fatal(err)
		}
		if most > 2*maxOpen+1 { // and the journal
			t.Errorf("%d descriptors with %d shards", most, len(s.shards))
		}
		verified(t, dir)
	}
}

// TestClosedMeanwhile: with one shard open at a time the folder is the same, whichever operation fails.
func TestClosedMeanwhile(t *testing.T) {
	outputs, slabs := sideBySide(6)
	want := undisturbed(t, outputs)
	for seed := range uint64(4) {
		dir := filepath.Join(t.TempDir(), "out")
		s := New(options(dir))
		s.handles.limit = 1 + int(seed%2)
		if err := parallel(t.Context(), s, outputs, rand.New(rand.NewPCG(seed, 3)), 4); err != nil {
			t.Fatal(err)
		}
		if err := same(ckpt.Tree(t, dir), want); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
	}
	load := func(s *Sink) error {
		s.handles.limit = 1
		err := s.Begin(t.Context(), outputs)
		for _, slab := range slabs {
			if err == nil {
				err = pass(t.Context(), s, slab)
			}
		}
		if err == nil {
			err = s.Commit(t.Context())
		}
		return errors.Join(err, s.Close())
	}
	dir := func() string { return filepath.Join(t.TempDir(), "out") }
	for _, inject := range []func(*Sink, int) *[]string{failing, crashing} {
		walk(t, 2, load, dir, options, inject, func(t *testing.T, d, op string, err error) {
			t.Helper()
			if err == nil && !strings.Contains(op, "remove") {
				t.Error("no error")
			}
			scribble(t, d, outputs)
			if err := load(New(options(d))); err != nil && !errors.Is(err, ErrAlreadyDone) {
				t.Error(err)
			}
			if err := same(ckpt.Tree(t, d), want); err != nil {
				t.Error(err)
			}
			alone(t, d)
		})
	}
}

// TestLostOnClosing: when a shard cannot be made durable before it is closed, nothing trusts it later, though the system tells it once.
func TestLostOnClosing(t *testing.T) {
	outputs, slabs := sideBySide(3)
	dir := filepath.Join(t.TempDir(), "out")
	s := New(options(dir))
	s.handles.limit = 1
	failed := false
	s.disk.before = func(op, path string) error {
		if op == "sync" && strings.Contains(path, "model-00001") && !failed {
			failed = true
			return syscall.EIO
		}
		return nil
	}
	if err := s.Begin(t.Context(), outputs); err != nil {
		t.Fatal(err)
	}
	err := errors.Join(pass(t.Context(), s, slabs[0]), pass(t.Context(), s, slabs[1]))
	if !errors.Is(err, syscall.EIO) || !failed {
		t.Errorf("got %v", err)
	}
	if _, err := s.handles.use(s.shards[0]); !errors.Is(err, syscall.EIO) {
		t.Errorf("it is opened again: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestPlainDigestsOfMany: small Outputs are hashed where they are.
func TestPlainDigestsOfMany(t *testing.T) {
	outputs := many(3000)
	outputs = append(outputs, raw("two", 3000, 2000))
	opt := options(filepath.Join(t.TempDir(), "out"))
	opt.ShardSize, opt.PlainDigests = 0, true
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := pack(t.Context(), New(opt), outputs); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 60<<20 {
		t.Errorf("%d MB allocated", n>>20)
	}
	verified(t, opt.Dir)
	plainDigests(t, opt.Dir)
}

// TestPlainDigestsOfLostBytes: what an earlier run wrote is read back, so that it has changed is seen.
func TestPlainDigestsOfLostBytes(t *testing.T) {
	outputs := append(work(), raw("huge", 3<<20, 5<<19))
	for _, at := range []int{0, 1, 4, 8} { // many Slabs, one, some of which are not done, more than are read at once
		for _, harm := range []bool{false, true} {
			dir := filepath.Join(t.TempDir(), "out")
			opt := options(dir)
			opt.PlainDigests = true
			s := often(New(opt))
			if err := s.Begin(t.Context(), outputs); err != nil {
				t.Fatal(err)
			}
			for _, slab := range slabsOf(outputs) {
				if slab.Output == 4 && slab.Index > 0 {
					continue
				}
				if err := pass(t.Context(), s, slab); err != nil {
					t.Fatal(err)
				}
			}
			path, off := s.shardOf(at).path, s.offsets[at]+30
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if harm {
				if err := flip(path, off); err != nil {
					t.Fatal(err)
				}
			}
			err := pack(t.Context(), New(opt), outputs)
			if harm && (err == nil || !strings.Contains(err.Error(), "output "+outputs[at].Name+":")) || !harm && err != nil {
				t.Errorf("output %d, harmed %v: %v", at, harm, err)
			}
		}
	}
}

// TestManyInAShard: a shard is full by number too.
func TestManyInAShard(t *testing.T) {
	outputs := make([]stages.Output, 2*maxPerShard+1)
	for i := range outputs {
		outputs[i] = raw("x", int64(i%2), 1)
	}
	var got []string
	for _, sh := range assign(outputs, 1<<40) {
		got = append(got, fmt.Sprintf("%d-%d %d", sh.first, sh.end, sh.left))
	}
	if want := []string{"0-100000 50000", "100000-200000 50000", "200000-200001 0"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
