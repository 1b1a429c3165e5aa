package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/edsrzf/mmap-go"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"golang.org/x/sys/unix"

	"github.com/coldload/coldload/stages"
)

// openDirectly makes a Source in ModeDirect over a file of random bytes, and skips the test where direct reads are refused.
func openDirectly(t *testing.T, size int) (*Source, []byte, string) {
	t.Helper()
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	path := filepath.Join(t.TempDir(), "shard")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := New([]Shard{{Name: "shard", File: f, Size: int64(size)}}, Options{IO: ModeDirect})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if !s.shards[0].directly() {
		t.Skip("no direct reads here")
	}
	return s, data, path
}

// check fetches the ranges and compares them. It returns how they were read.
func check(t *testing.T, s *Source, data []byte, ranges ...stages.Extent) string {
	t.Helper()
	v, err := s.FetchPadded(t.Context(), ranges, s.Padding(ranges))
	if err != nil {
		t.Fatal(err)
	}
	defer v.Release()
	for i, e := range ranges {
		if !bytes.Equal(v.Bytes(i), data[e.Off:e.End()]) {
			t.Fatalf("range %d, %+v: the bytes differ", i, e)
		}
	}
	return v.Method()
}

func TestDirectReadsOfAnyAlignment(t *testing.T) {
	const size = 3<<20 + 1234
	s, data, _ := openDirectly(t, size)
	for _, e := range []stages.Extent{
		{Len: size},                       // with the unaligned tail
		{Off: 1, Len: size - 1},           // unaligned at both ends
		{Off: 4096, Len: 1 << 20},         // aligned
		{Off: 4095, Len: 1<<20 + 2},       // a byte beyond at both ends
		{Off: size - 200000, Len: 200000}, // the tail
		{Off: size - 200000, Len: 198000}, // ends in the last page
	} {
		if how := check(t, s, data, e); how != "direct" {
			t.Errorf("%+v: read by %s", e, how)
		}
	}
	if got := s.Stats(); got.DirectBytes == 0 || got.PreadBytes != 0 {
		t.Errorf("%+v", got)
	}
}

func TestDirectReadsLeaveThePageCacheAlone(t *testing.T) {
	s, data, path := openDirectly(t, testSize)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	temperature(t, s, 0)
	check(t, s, data, stages.Extent{Len: testSize})
	if share, err := cachestat(f, stages.Extent{Len: testSize}); err != nil || share > 0.01 {
		t.Errorf("%.2f of the file is in the page cache (%v)", share, err)
	}
}

func TestNeighboursAreReadInOneRun(t *testing.T) {
	s, data, _ := openDirectly(t, 4<<20)
	ranges := []stages.Extent{
		{Off: 100, Len: 1 << 20},
		{Off: 1<<20 + 20000, Len: 1 << 20}, // near: joined
		{Off: 3 << 20, Len: 200000},        // far: a run of its own
		{Off: 3<<20 + 500000, Len: 10},     // small, and room for its padding
	}
	p := packing{padding: s.Padding(ranges), direct: []int{0, 1, 2, 3}}
	s.pack(ranges, &p)
	if got := fmt.Sprint(len(p.runs), p.runs[0].ranges, p.runs[1].ranges, p.copied); got != "3 [0 1] [2] []" {
		t.Errorf("runs %s", got)
	}
	if how := check(t, s, data, ranges...); how != "direct" {
		t.Errorf("read by %s", how)
	}
}

func TestRangesThatAreAllPaddingAreCopied(t *testing.T) {
	s, data, _ := openDirectly(t, 4<<20)
	var ranges []stages.Extent
	var size int64
	for off := int64(10); off < 3<<20; off += 100000 {
		ranges = append(ranges, stages.Extent{Off: off, Len: 500})
		size += 500
	}
	if how := check(t, s, data, ranges...); how != "pread" {
		t.Errorf("read by %s", how)
	}
	idle, _ := s.pool.stats()
	// A large one among them makes room for some.
	ranges = append(ranges, stages.Extent{Off: 3 << 20, Len: 200000})
	if how := check(t, s, data, ranges...); how != "mixed" {
		t.Errorf("read by %s", how)
	}
	if held, _ := s.pool.stats(); held-idle > (size+200000)*(paddingShare+1)/paddingShare+rangeAlign*int64(len(ranges)) {
		t.Errorf("holds %d bytes for %d", held-idle, size+200000)
	}
}

func TestAFailedReadIsTriedAgainAndARefusalRemembered(t *testing.T) {
	s, data, path := openDirectly(t, 1<<20)
	d, err := s.shards[0].direct()
	if err != nil {
		t.Fatal(err)
	}
	unreadable, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unreadable.Close()
	readable := d.File
	d.File = unreadable // EBADF: says nothing about the next read
	how := check(t, s, data, stages.Extent{Len: 1 << 20})
	d.File = readable
	if how != "pread" || s.shards[0].refusal.Load() != nil {
		t.Errorf("a failed read: by %s, remembered: %v", how, s.shards[0].refusal.Load() != nil)
	}
	// A file system that takes the flag at open and refuses to read, as this one refuses offsets that are not aligned.
	d.align = 1
	how = check(t, s, data, stages.Extent{Off: 1, Len: 1<<20 - 1})
	d.align = leastAlign
	if how == "direct" {
		t.Skip("this file system takes any offset")
	}
	if s.shards[0].refusal.Load() == nil {
		t.Error("a refusal is forgotten")
	}
	if how := check(t, s, data, stages.Extent{Len: 1 << 20}); how != "pread" {
		t.Errorf("after a refusal: by %s", how)
	}
}

func TestATruncatedFileReadDirectly(t *testing.T) {
	s, data, path := openDirectly(t, 1<<20)
	check(t, s, data, stages.Extent{Len: 1 << 20})
	for _, cut := range []int64{500000, 4096 * 100} {
		if err := os.Truncate(path, cut); err != nil {
			t.Fatal(err)
		}
		ranges := []stages.Extent{{Len: 1000}, {Off: 300000, Len: 400000}}
		_, err := s.FetchPadded(t.Context(), ranges, s.Padding(ranges))
		var at *rangeError
		if !errors.As(err, &at) || !errors.Is(err, io.ErrUnexpectedEOF) || at.extent.Off != cut || at.extent.End() != 700000 {
			t.Fatalf("got %v", err)
		}
	}
	if held, _ := s.pool.stats(); s.pool.used != 0 || held > 2<<20 {
		t.Errorf("%d bytes in use, %d held", s.pool.used, held)
	}
}

func TestAutoReadsColdRanges(t *testing.T) {
	cases := map[string]struct {
		change func(*shard)
		want   string
	}{
		"directly":                   {func(*shard) {}, "direct"},
		"copied in layers":           {func(sh *shard) { sh.layered = func() bool { return true } }, "pread"},
		"copied from a network":      {func(sh *shard) { sh.remote = func() bool { return true } }, "pread"},
		"copied after a refusal":     {func(sh *shard) { sh.refuse(unix.EINVAL) }, "pread"},
		"copied when open refuses":   {func(sh *shard) { sh.direct = func() (*directFile, error) { return nil, unix.EINVAL } }, "pread"},
		"directly when nobody tells": {nil, "direct"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := openShard(t, Options{})
			temperature(t, s, 0)
			if !s.shards[0].directly() {
				t.Skip("no direct reads here")
			}
			if c.change == nil {
				s.kernel.noCachestat.Store(true)
				s.shards[0].mapping = func() (mmap.MMap, error) { return nil, unix.ENODEV }
			} else {
				c.change(s.shards[0])
			}
			if got := methodOf(t, s); got != c.want {
				t.Errorf("read by %s, want %s", got, c.want)
			}
		})
	}
}

func TestTheSecondDescriptorIsTheSameFile(t *testing.T) {
	s, data, path := openDirectly(t, 1<<20)
	// Not opened again by its name: what lies there now is another file.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	d, _, err := openDirect(s.shards[0].File)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := sameFile(d, s.shards[0].File); err != nil {
		t.Error(err)
	}
	if err := sameFile(d, os.Stdin); err == nil {
		t.Error("another file passes")
	}
	if how := check(t, s, data, stages.Extent{Len: 1 << 20}); how != "direct" {
		t.Errorf("read by %s", how)
	}
}

func TestAlignmentsThatTheKernelTells(t *testing.T) {
	cases := []struct {
		offset, memory uint32
		want           int64 // 0: refused
	}{
		{512, 512, leastAlign},
		{4096, 4, leastAlign},
		{16384, 512, 16384},
		{0, 0, 0}, // no direct reads of this file
		{512, 0, 0},
		{3000, 512, 0},
		{512, 100, 0},
		{2 << 20, 512, 0},
		{512, 1 << 20, 0},
	}
	for _, c := range cases {
		got, err := checkAlign(c.offset, c.memory)
		if got != c.want || (err == nil) != (c.want > 0) {
			t.Errorf("%d, %d: got %d, %v", c.offset, c.memory, got, err)
		}
	}
}

func TestFetchersByTemperature(t *testing.T) {
	for _, warm := range []int64{0, testSize / 2, testSize} {
		s := openShard(t, Options{})
		temperature(t, s, warm)
		got, want := s.Fetchers(t.Context()), mostDepth
		if warm == testSize {
			want = max(warmFetchers, runtime.GOMAXPROCS(0)/2)
		}
		if got != want {
			t.Errorf("%d bytes warm: %d fetchers, want %d", warm, got, want)
		}
	}
	s := openShard(t, Options{})
	s.shards[0].remote = func() bool { return true }
	if got := s.Fetchers(t.Context()); got != mostDepth {
		t.Errorf("on a network: %d fetchers", got)
	}
}

func TestFetchersNeedsFiles(t *testing.T) {
	s, err := New(nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Fetchers(context.Background()); got < 1 { //nolint:usetesting // nothing to end
		t.Errorf("no shards: %d fetchers", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := s.Fetchers(t.Context()); got != 1 {
		t.Errorf("closed: %d fetchers", got)
	}
}

// Direct reads are recorded as such; how many requests they are is the tuner's affair.
func TestLatencyOfDirectReads(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	s, data, _ := openDirectly(t, 1<<20)
	s.shards[0].latency = newLatency(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)))
	if how := check(t, s, data, stages.Extent{Len: 1 << 20}); how != "direct" {
		t.Fatalf("read by %s", how)
	}
	wantRequests(t, reader, map[string]uint64{"direct": 1})
}
