package file

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"github.com/coldload/coldload/stages"
)

// strict are calls of a file system that is as strict with direct reads as the kernel may be, on top of ordinary reads.
type strict struct {
	tb    testing.TB
	reads atomic.Int64
	// read, when set, is asked first: a read that it answers is not made.
	read func(n int, off int64) (got int, err error, answered bool)
}

func (s *strict) calls() calls {
	c := systemCalls()
	c.openDirect = func(f *os.File) (*os.File, int64, error) {
		g, err := os.Open(f.Name())
		return g, leastAlign, err
	}
	c.preadDirect = s.pread
	return c
}

func (s *strict) pread(f *os.File, dst []byte, off int64) (int, error) {
	s.reads.Add(1)
	at := int64(uintptr(unsafe.Pointer(unsafe.SliceData(dst))))
	if off%leastAlign != 0 || at%leastAlign != 0 || len(dst)%leastAlign != 0 || len(dst) == 0 {
		s.tb.Errorf("read of %d bytes at %d into %#x: not aligned", len(dst), off, at)
	}
	if s.read != nil {
		if n, err, answered := s.read(len(dst), off); answered {
			if n > 0 {
				n, _ = f.ReadAt(dst[:n], off)
			}
			return n, err
		}
	}
	n, err := f.ReadAt(dst, off)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// openWith makes a Source over files of these contents with calls of one's own.
func openWith(tb testing.TB, opt Options, by calls, contents ...[]byte) *Source {
	tb.Helper()
	dir := tb.TempDir()
	var shards []Shard
	for i, data := range contents {
		name := fmt.Sprintf("shard%d", i)
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			tb.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			tb.Fatal(err)
		}
		shards = append(shards, Shard{Name: name, File: f, Size: int64(len(data))})
	}
	s, err := newSource(shards, opt, by)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{9}).Read(b)
	return b
}

// compare fetches the ranges within the padding, and returns how they were read.
func compare(t *testing.T, s *Source, contents [][]byte, ranges []stages.Extent, padding int64) string {
	t.Helper()
	v, err := s.FetchPadded(t.Context(), ranges, padding)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Release()
	var size int64
	for i, e := range ranges {
		size += e.Len
		if b := v.Bytes(i); !bytes.Equal(b, contents[e.Shard][e.Off:e.End()]) || cap(b) != len(b) {
			t.Fatalf("range %d, %+v: the bytes differ", i, e)
		}
	}
	if s.pool.used > size+padding {
		t.Fatalf("%d bytes in use for %d and %d of padding", s.pool.used, size, padding)
	}
	return v.Method()
}

// randomRanges are sorted and do not overlap; near neighbours, far ones, aligned and unaligned.
func randomRanges(rng *rand.Rand, contents [][]byte) (ranges []stages.Extent) {
	for shard, data := range contents {
		size := int64(len(data))
		for at := rng.Int64N(10000); at < size; {
			n := min(1+rng.Int64N([]int64{100, 5000, 200000, 1 << 20}[rng.IntN(4)]), size-at)
			if rng.IntN(3) == 0 {
				n = alignUp(n, leastAlign)
				n = min(n, size-at)
			}
			ranges = append(ranges, stages.Extent{Shard: int32(shard), Off: at, Len: n})
			at += n + rng.Int64N([]int64{1, 100, 70000, 500000}[rng.IntN(4)])
			if rng.IntN(3) == 0 {
				at = alignUp(at, leastAlign)
			}
		}
	}
	return ranges
}

func TestAnyRangesWithinAnyPadding(t *testing.T) {
	contents := [][]byte{noise(3<<20 + 17), noise(1), noise(4095), noise(4096), noise(2<<20 + 4096)}
	rng := rand.New(rand.NewPCG(3, 4))
	for _, mode := range []Mode{ModeDirect, ModePread} {
		strict := &strict{tb: t}
		s := openWith(t, Options{IO: mode}, strict.calls(), contents...)
		for range 200 {
			ranges := randomRanges(rng, contents)
			want := s.Padding(ranges)
			for _, padding := range []int64{want, 0, rng.Int64N(want + 1), math.MaxInt64 / 4} {
				compare(t, s, contents, ranges, padding)
			}
		}
		if (strict.reads.Load() > 0) != (mode == ModeDirect) {
			t.Errorf("%v: %d direct reads", mode, strict.reads.Load())
		}
	}
}

// TestThePaddingAskedForIsEnough: with more, nothing would be read in another way.
func TestThePaddingAskedForIsEnough(t *testing.T) {
	contents := [][]byte{noise(3<<20 + 17), noise(2<<20 + 4096)}
	rng := rand.New(rand.NewPCG(5, 6))
	s := openWith(t, Options{IO: ModeDirect}, (&strict{tb: t}).calls(), contents...)
	for range 300 {
		ranges := randomRanges(rng, contents)
		all := make([]int, len(ranges))
		for i := range all {
			all[i] = i
		}
		some := packing{padding: s.Padding(ranges), direct: all}
		more := packing{padding: math.MaxInt64 / 4, direct: all}
		inRuns, copies := s.pack(ranges, &some)
		if moreRuns, moreCopies := s.pack(ranges, &more); inRuns != moreRuns || copies != moreCopies || !slices.Equal(some.copied, more.copied) {
			t.Fatalf("%d and %d bytes, %v copied; with more padding %d and %d, %v", inRuns, copies, some.copied, moreRuns, moreCopies, more.copied)
		}
	}
}

// TestFetchHoldsNoMoreThanItsBytes: nobody was charged for padding, so as many Fetches fit as the bound says, whatever they are.
func TestFetchHoldsNoMoreThanItsBytes(t *testing.T) {
	data := noise(1 << 20)
	for _, mode := range []Mode{ModeDirect, ModePread} {
		s := openWith(t, Options{IO: mode, BufferBytes: 3 * 1000}, (&strict{tb: t}).calls(), data)
		for i := range int64(3) {
			v, err := s.Fetch(t.Context(), []stages.Extent{{Off: 77 + 1000*i, Len: 1}, {Off: 5000 + 1000*i, Len: 999}})
			if err != nil {
				t.Fatalf("%v: fetch %d: %v", mode, i, err)
			}
			defer v.Release()
		}
	}
}

func TestAFetchOfAllThatTheBuffersMayHold(t *testing.T) {
	data := noise(1 << 20)
	for _, mode := range []Mode{ModeDirect, ModePread} {
		s := openWith(t, Options{IO: mode, BufferBytes: 1<<20 - 77}, (&strict{tb: t}).calls(), data)
		v, err := s.Fetch(t.Context(), []stages.Extent{{Off: 77, Len: 1<<20 - 77}})
		if err != nil {
			t.Fatalf("%v: %v", mode, err)
		}
		v.Release()
	}
}

func TestNoPaddingForWhatIsMapped(t *testing.T) {
	s := openWith(t, Options{IO: ModeMmap}, systemCalls(), noise(10000))
	if n := s.Padding([]stages.Extent{{Off: 1, Len: 9000}}); n != 0 {
		t.Errorf("%d bytes", n)
	}
}

// TestEveryTail reads files of every length modulo a block, directly to the last byte, and every tiny file.
func TestEveryTail(t *testing.T) {
	data := noise(17 * leastAlign)
	path := filepath.Join(t.TempDir(), "shard")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	for size := int64(len(data)); size > 0; size-- {
		if size == 16*leastAlign {
			size = leastAlign + 1
		}
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		s, err := newSource([]Shard{{Name: "shard", File: f, Size: size}}, Options{IO: ModeDirect}, (&strict{tb: t}).calls())
		if err != nil {
			t.Fatal(err)
		}
		want := "direct"
		if alignUp(size, leastAlign)-size > size/paddingShare {
			want = "pread"
		}
		if how := compare(t, s, [][]byte{data}, []stages.Extent{{Len: size}}, math.MaxInt64/4); how != want {
			t.Fatalf("%d bytes: read by %s, want %s", size, how, want)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestShortReads: a read that ends early at a block goes on, one that ends elsewhere is made in another way.
func TestShortReads(t *testing.T) {
	data := noise(1<<20 + 100)
	cases := map[string]struct {
		short int
		want  string
	}{"at a block": {8 * leastAlign, "direct"}, "inside of one": {5000, "pread"}, "at once": {0, "pread"}}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			st := &strict{tb: t}
			st.read = func(n int, _ int64) (int, error, bool) { return min(n, c.short), nil, n > c.short }
			s := openWith(t, Options{IO: ModeDirect}, st.calls(), data)
			ranges := []stages.Extent{{Off: 50, Len: int64(len(data)) - 50}}
			if how := compare(t, s, [][]byte{data}, ranges, s.Padding(ranges)); how != c.want {
				t.Errorf("read by %s, want %s", how, c.want)
			}
			if s.Notes() != nil {
				t.Errorf("a short read counts as a refusal: %v", s.Notes())
			}
		})
	}
}

// TestRefusals: whatever is refused, the bytes come, and who forced direct reads is told.
func TestRefusals(t *testing.T) {
	data := noise(1<<20 + 100)
	refuseOpen := func(err error) func(*calls) {
		return func(c *calls) { c.openDirect = func(*os.File) (*os.File, int64, error) { return nil, 0, err } }
	}
	refuseRead := func(err error) func(*calls) {
		return func(c *calls) { c.preadDirect = func(*os.File, []byte, int64) (int, error) { return 0, err } }
	}
	cases := map[string]struct {
		refuse func(*calls)
		note   string // empty: nothing is remembered
	}{
		"open, tmpfs of old":    {refuseOpen(&os.PathError{Op: "open", Path: "/proc/self/fd/7", Err: syscall.EINVAL}), "(invalid argument)"},
		"open, a sandbox":       {refuseOpen(syscall.EPERM), "(operation not permitted)"},
		"open, no /proc":        {refuseOpen(syscall.ENOENT), "(no such file or directory)"},
		"open, odd alignment":   {refuseOpen(errors.ErrUnsupported), "(unsupported operation)"},
		"read, alignment":       {refuseRead(syscall.EINVAL), "(invalid argument)"},
		"read, not supported":   {refuseRead(syscall.EOPNOTSUPP), "(operation not supported)"},
		"read, no such call":    {refuseRead(syscall.ENOSYS), "(function not implemented)"},
		"read, a sandbox":       {refuseRead(syscall.EPERM), "(operation not permitted)"},
		"read, the disk failed": {refuseRead(syscall.EIO), ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			by := (&strict{tb: t}).calls()
			c.refuse(&by)
			for _, mode := range []Mode{ModeDirect, ModeAuto} {
				s := openWith(t, Options{IO: mode}, cold(by), data, data)
				for shard := range int32(2) {
					ranges := []stages.Extent{{Shard: shard, Off: 50, Len: 1 << 19}, {Shard: shard, Off: 600000, Len: 400000}}
					for range 2 {
						if how := compare(t, s, [][]byte{data, data}, ranges, s.Padding(ranges)); how != "pread" {
							t.Errorf("%v: read by %s", mode, how)
						}
					}
				}
				checkNotes(t, s, mode, c.note)
			}
		})
	}
}

func checkNotes(t *testing.T, s *Source, mode Mode, note string) {
	t.Helper()
	notes := s.Notes()
	if mode == ModeAuto || note == "" {
		if len(notes) > 0 {
			t.Errorf("%v: notes %q", mode, notes)
		}
		return
	}
	if len(notes) != 1 || !strings.Contains(notes[0], note) || !strings.HasPrefix(notes[0], "shard0 and 1 more: direct reads are refused") {
		t.Errorf("notes %q, want one with %s", notes, note)
	}
}

// cold says that the page cache holds nothing, on every system.
func cold(by calls) calls {
	by.cachestat = func(*os.File, stages.Extent) (float64, error) { return 0, nil }
	return by
}
