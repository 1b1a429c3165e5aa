package file_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coldload/coldload/internal/fault"
	"github.com/coldload/coldload/sources/file"
	"github.com/coldload/coldload/stages"
)

var modes = []file.Mode{file.ModeAuto, file.ModeMmap, file.ModePread, file.ModeDirect}

// random makes n bytes that differ by seed.
func random(seed uint64, n int) []byte {
	var key [32]byte
	key[0] = byte(seed)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b)
	return b
}

// write makes a file in a temporary folder.
func write(tb testing.TB, name string, data []byte) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

// shards opens files as discover does.
func shards(tb testing.TB, paths ...string) []file.Shard {
	tb.Helper()
	var out []file.Shard
	for _, p := range paths {
		f, err := os.Open(p)
		if err != nil {
			tb.Fatal(err)
		}
		info, err := f.Stat()
		if err != nil {
			tb.Fatal(err)
		}
		out = append(out, file.Shard{Name: filepath.Base(p), File: f, Size: info.Size(), ModTime: info.ModTime()})
	}
	return out
}

// open makes a Source that is closed, with nothing left in use, at the end of the test.
func open(tb testing.TB, opt file.Options, paths ...string) *file.Source {
	tb.Helper()
	s, err := file.New(shards(tb, paths...), opt)
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

// same compares under a guard: what is mapped may fault.
func same(t *testing.T, got, want []byte) {
	t.Helper()
	err := fault.Guard(func() error {
		if !bytes.Equal(got, want) {
			return errors.New("the bytes differ")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestEveryMethodGivesTheSameBytes(t *testing.T) {
	data := [][]byte{random(1, 9<<20+77), random(2, 5000), nil}
	paths := []string{write(t, "a", data[0]), write(t, "b", data[1]), write(t, "empty", nil)}
	rng := rand.New(rand.NewPCG(1, 2))
	for _, mode := range modes {
		t.Run(mode.String(), func(t *testing.T) {
			s := open(t, file.Options{IO: mode}, paths...)
			for range 30 {
				var ranges []stages.Extent
				for shard, d := range data {
					for at := int64(0); at < int64(len(d)); {
						off := at + rng.Int64N(int64(len(d))-at+1)/3
						n := rng.Int64N(int64(len(d))-off+1) / 2
						ranges = append(ranges, stages.Extent{Shard: int32(shard), Off: off, Len: n})
						at = off + n + 1
					}
				}
				v, err := s.Fetch(t.Context(), append(ranges, stages.Extent{Shard: 2}))
				if err != nil {
					t.Fatal(err)
				}
				for i, e := range ranges {
					b := v.Bytes(i)
					if cap(b) != len(b) {
						t.Fatalf("range %d shows what follows it", i)
					}
					same(t, b, data[e.Shard][e.Off:e.End()])
				}
				if b := v.Bytes(len(ranges)); b == nil || len(b) != 0 {
					t.Errorf("an empty range of an empty file is %v", b)
				}
				v.Release()
			}
			if err := s.Verify(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestMethodAndStats(t *testing.T) {
	path := write(t, "a", random(1, 10000))
	for mode, want := range map[file.Mode]string{file.ModeMmap: "mmap", file.ModePread: "pread"} {
		s := open(t, file.Options{IO: mode}, path)
		v, err := s.Fetch(t.Context(), []stages.Extent{{Off: 3, Len: 1000}, {Off: 5000, Len: 0}})
		if err != nil {
			t.Fatal(err)
		}
		if v.Method() != want {
			t.Errorf("%v: method %q", mode, v.Method())
		}
		v.Release()
		st := s.Stats()
		if got := map[string]int64{"mmap": st.MmapBytes, "pread": st.PreadBytes}; got[want] != 1000 || st.MmapBytes+st.PreadBytes != 1000 {
			t.Errorf("%v: %+v", mode, st)
		}
	}
}

func TestNothingToFetch(t *testing.T) {
	s := open(t, file.Options{}, write(t, "a", random(1, 10)))
	v, err := s.Fetch(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if v.Method() != "none" {
		t.Errorf("method %q", v.Method())
	}
	v.Release()
}

func TestCopiedRangesAreAligned(t *testing.T) {
	s := open(t, file.Options{IO: file.ModePread}, write(t, "a", random(1, 10000)))
	ranges := []stages.Extent{{Off: 1, Len: 100}, {Off: 200, Len: 1}, {Off: 300, Len: 64}, {Off: 500, Len: 65}}
	v, err := s.FetchPadded(t.Context(), ranges, s.Padding(ranges))
	if err != nil {
		t.Fatal(err)
	}
	defer v.Release()
	for i := range 4 {
		if a := address(v.Bytes(i)); a%64 != 0 {
			t.Errorf("range %d is at %#x", i, a)
		}
	}
}

func TestReleaseIsIdempotentAndConcurrent(t *testing.T) {
	path := write(t, "a", random(1, 100000))
	for _, mode := range modes {
		s := open(t, file.Options{IO: mode}, path)
		v, err := s.Fetch(t.Context(), []stages.Extent{{Len: 100000}})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(v.Release)
		}
		wg.Wait()
		if v.Bytes(0) != nil {
			t.Errorf("%v: bytes after Release", mode)
		}
	}
}

func TestCloseReportsViewsThatAreOut(t *testing.T) {
	want := random(1, 100000)
	path := write(t, "a", want)
	for _, mode := range modes {
		s, err := file.New(shards(t, path), file.Options{IO: mode})
		if err != nil {
			t.Fatal(err)
		}
		var out []stages.Views
		for range 2 {
			v, err := s.Fetch(t.Context(), []stages.Extent{{Len: 100000}})
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, v)
		}
		if err := s.Close(); err == nil || !strings.Contains(err.Error(), "2 views") {
			t.Errorf("%v: Close with 2 views out: %v", mode, err)
		}
		same(t, out[0].Bytes(0), want)
		out[0].Release()
		same(t, out[1].Bytes(0), want)
		out[1].Release()
		if got := s.Stats().BufferBytes; got != 0 {
			t.Errorf("%v: %d bytes held after the last release", mode, got)
		}
		if _, err := s.Fetch(t.Context(), nil); !errors.Is(err, os.ErrClosed) {
			t.Errorf("%v: Fetch after Close: %v", mode, err)
		}
		if err := s.Verify(t.Context()); !errors.Is(err, os.ErrClosed) {
			t.Errorf("%v: Verify after Close: %v", mode, err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("%v: second Close: %v", mode, err)
		}
	}
}

func TestNewClosesTheFilesOnError(t *testing.T) {
	in := shards(t, write(t, "a", nil), write(t, "b", nil))
	cases := map[string]func() error{
		"bad bound": func() error { _, err := file.New(in[:1], file.Options{BufferBytes: -1, IO: 9}); return err },
		"no file":   func() error { _, err := file.New([]file.Shard{{Name: "gone"}, in[1]}, file.Options{}); return err },
	}
	for name, run := range cases {
		if err := run(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, sh := range in {
		if err := sh.File.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s is still open: %v", sh.Name, err)
		}
	}
}

func TestFetchRefusesWhatLiesOutside(t *testing.T) {
	s := open(t, file.Options{}, write(t, "a", random(1, 100)))
	for _, e := range []stages.Extent{
		{Shard: 1, Len: 1}, {Shard: -1, Len: 1}, {Off: -1, Len: 2}, {Off: 1, Len: -1}, {Off: 100, Len: 1}, {Off: 1, Len: 1<<63 - 1},
	} {
		if _, err := s.Fetch(t.Context(), []stages.Extent{e}); err == nil {
			t.Errorf("%+v accepted", e)
		}
	}
}

// lostAt checks an error about lost bytes and returns where they are.
func lostAt(t *testing.T, err error, name string) stages.Extent {
	t.Helper()
	de, ok := errors.AsType[*stages.DataError](err)
	if !ok || de.File != name {
		t.Fatalf("got %v", err)
	}
	var at interface{ Extent() stages.Extent }
	if !errors.As(err, &at) {
		t.Fatalf("%v does not tell the extent", err)
	}
	return at.Extent()
}

func TestAFileTruncatedUnderTheReader(t *testing.T) {
	page := int64(os.Getpagesize())
	for _, mode := range []file.Mode{file.ModeMmap, file.ModePread} {
		t.Run(mode.String(), func(t *testing.T) {
			path := write(t, "cut.safetensors", random(1, int(10*page)))
			s := open(t, file.Options{IO: mode}, path)
			first, err := s.Fetch(t.Context(), []stages.Extent{{Len: 10 * page}})
			if err != nil {
				t.Fatal(err)
			}
			defer first.Release()
			if err := os.Truncate(path, 3*page+100); err != nil {
				t.Fatal(err)
			}
			_, err = s.Fetch(t.Context(), []stages.Extent{{Off: 0, Len: 10}, {Off: page, Len: 6 * page}})
			if mode == file.ModeMmap && err == nil {
				t.Skip("this system cannot fault pages in")
			}
			at := lostAt(t, err, "cut.safetensors")
			t.Log(err)
			if !strings.Contains(err.Error(), "truncated") {
				t.Errorf("got %v", err)
			}
			if mode == file.ModePread && (!errors.Is(err, io.ErrUnexpectedEOF) || at.Off != 3*page+100 || at.End() != 7*page) {
				t.Errorf("got %v at %+v", err, at)
			}
			if err := s.Verify(t.Context()); err == nil || !strings.Contains(err.Error(), "cut.safetensors") {
				t.Errorf("Verify: %v", err)
			}
		})
	}
}

func TestAChangedFile(t *testing.T) {
	changes := map[string]func(path string) error{
		"truncated": func(path string) error { return os.Truncate(path, 50) },
		"grew":      func(path string) error { return os.Truncate(path, 200) },
		"written":   func(path string) error { return os.Chtimes(path, time.Time{}, time.Now().Add(time.Hour)) },
	}
	for want, change := range changes {
		t.Run(want, func(t *testing.T) {
			path := write(t, "a", random(1, 100))
			used, unused := open(t, file.Options{}, path, path), open(t, file.Options{}, path)
			v, err := used.Fetch(t.Context(), []stages.Extent{{Len: 10}})
			if err != nil {
				t.Fatal(err)
			}
			v.Release()
			if err := used.Verify(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := change(path); err != nil {
				t.Fatal(err)
			}
			_, fetchErr := unused.Fetch(t.Context(), []stages.Extent{{Len: 10}})
			for _, err := range []error{used.Verify(t.Context()), unused.Verify(t.Context()), fetchErr} {
				de, ok := errors.AsType[*stages.DataError](err)
				if !ok || de.File != "a" || !strings.Contains(de.Problem, want) || de.Expected == de.Found {
					t.Errorf("got %v", err)
				}
			}
		})
	}
}

func TestAFileReplacedByRenameIsHarmless(t *testing.T) {
	want := random(1, 1000)
	path := write(t, "a", want)
	s := open(t, file.Options{}, path)
	if err := os.Rename(write(t, "b", random(2, 50)), path); err != nil {
		t.Fatal(err)
	}
	v, err := s.Fetch(t.Context(), []stages.Extent{{Len: 1000}})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Release()
	same(t, v.Bytes(0), want)
	if err := s.Verify(t.Context()); err != nil {
		t.Error(err)
	}
}

// countdown is a context that ends after some looks at it.
type countdown struct {
	context.Context //nolint:containedctx // it is a context
	cancel          context.CancelCauseFunc
	mu              sync.Mutex
	left            int
}

var errStop = errors.New("stop")

func (c *countdown) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left--; c.left < 0 {
		c.cancel(errStop)
	}
	return c.Context.Err()
}

func TestFetchEndsInTheMiddle(t *testing.T) {
	const size = 20 << 20
	path := write(t, "a", random(1, size))
	for _, mode := range modes {
		for looks := range 3 {
			s := open(t, file.Options{IO: mode}, path)
			inner, cancel := context.WithCancelCause(t.Context())
			ctx := &countdown{Context: inner, cancel: cancel, left: looks}
			_, err := s.Fetch(ctx, []stages.Extent{{Len: size}})
			cancel(nil)
			if !errors.Is(err, errStop) {
				t.Errorf("%v after %d looks: %v", mode, looks, err)
			}
			if st := s.Stats(); st.MmapBytes+st.PreadBytes != 0 {
				t.Errorf("%v: counts what was not delivered: %+v", mode, st)
			}
		}
	}
}

func TestBuffersStayBelowTheirBound(t *testing.T) {
	const limit, size = 1 << 20, 4 << 20
	want := random(1, size)
	s := open(t, file.Options{IO: file.ModePread, BufferBytes: limit}, write(t, "a", want))
	if _, err := s.Fetch(t.Context(), []stages.Extent{{Len: limit + 1}}); !errors.Is(err, file.ErrBuffers) {
		t.Errorf("more than the bound: %v", err)
	}
	admitted := make(chan struct{}, 4) // at most 4 x limit/4 in use
	var wg sync.WaitGroup
	for worker := range 8 {
		rng := rand.New(rand.NewPCG(uint64(worker), 1))
		wg.Go(func() {
			for range 100 {
				admitted <- struct{}{}
				n := 1 + rng.Int64N(limit/4)
				e := stages.Extent{Off: rng.Int64N(size - n), Len: n}
				v, err := s.Fetch(t.Context(), []stages.Extent{e})
				if err != nil {
					t.Error(err)
				} else {
					same(t, v.Bytes(0), want[e.Off:e.End()])
					v.Release()
				}
				<-admitted
			}
		})
	}
	wg.Wait()
	// The padding of four buffers may come on top.
	if peak := s.Stats().BufferPeakBytes; peak > limit+4*int64(os.Getpagesize()) {
		t.Errorf("held %d bytes, bound %d", peak, limit)
	}
}

func TestParseMode(t *testing.T) {
	for _, m := range modes {
		if got, err := file.ParseMode(m.String()); got != m || err != nil {
			t.Errorf("%v: got %v, %v", m, got, err)
		}
	}
	if _, err := file.ParseMode("fast"); err == nil || !strings.Contains(err.Error(), "auto, mmap, pread") {
		t.Errorf("got %v", err)
	}
	if got := file.Mode(77).String(); got != "mode 77" {
		t.Errorf("got %q", got)
	}
}

// BenchmarkFetch reads a warm file once through, by a new Source each time: pages that are mapped already would cost nothing.
func BenchmarkFetch(b *testing.B) {
	const size, step = 128 << 20, 8 << 20
	path := write(b, "a", random(1, size))
	for _, mode := range modes {
		b.Run(mode.String(), func(b *testing.B) {
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				pass(b, mode, path, size, step)
			}
		})
	}
}

func pass(b *testing.B, mode file.Mode, path string, size, step int64) {
	b.Helper()
	s, err := file.New(shards(b, path), file.Options{IO: mode})
	if err != nil {
		b.Fatal(err)
	}
	for at := int64(0); at < size; at += step {
		ranges := []stages.Extent{{Off: at, Len: step}}
		v, err := s.FetchPadded(b.Context(), ranges, s.Padding(ranges))
		if err != nil {
			b.Fatal(err)
		}
		v.Release()
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}

// TestAccessAfterClose: a closed Source shows nothing: its mapping is gone, and something else may be in its place.
func TestAccessAfterClose(t *testing.T) {
	data := random(1, 4096)
	s := open(t, file.Options{}, write(t, "a", data))
	e := stages.Extent{Off: 10, Len: 100}
	if b, err := s.View(t.Context(), e); err != nil || !bytes.Equal(b, data[10:110]) {
		t.Fatalf("View: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, e := range []stages.Extent{e, {Off: 10}} {
		if b, err := s.View(t.Context(), e); b != nil || !errors.Is(err, os.ErrClosed) {
			t.Errorf("View: %d bytes, %v", len(b), err)
		}
		if err := s.ReadInto(t.Context(), e, make([]byte, e.Len)); !errors.Is(err, os.ErrClosed) {
			t.Errorf("ReadInto: %v", err)
		}
	}
}

// TestExtend: what goes beyond the bound of the buffers is refused, unless it was extended.
func TestExtend(t *testing.T) {
	const n = 64 << 10
	s := open(t, file.Options{IO: file.ModePread, BufferBytes: n}, write(t, "a", random(1, 2*n)))
	first, second := []stages.Extent{{Len: n}}, []stages.Extent{{Off: n, Len: n}}
	held, err := s.Fetch(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Release()
	if _, err := s.Fetch(t.Context(), second); !errors.Is(err, file.ErrBuffers) {
		t.Errorf("beyond the bound: %v", err)
	}
	s.Extend(n)
	more, err := s.Fetch(t.Context(), second)
	if err != nil {
		t.Fatal(err)
	}
	more.Release()
	s.Extend(-n)
	if st := s.Stats(); st.BufferBytes > n {
		t.Errorf("%d bytes of buffers are left", st.BufferBytes)
	}
	if _, err := s.Fetch(t.Context(), second); !errors.Is(err, file.ErrBuffers) {
		t.Errorf("beyond the bound again: %v", err)
	}
}
