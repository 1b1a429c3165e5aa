package file

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/coldload/coldload/stages"
)

const testSize = 8 << 20

// openShard makes a Source over one synced file of testSize bytes.
func openShard(t *testing.T, opt Options) *Source {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "shard"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(make([]byte, testSize)); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	s, err := New([]Shard{{Name: "shard", File: f, Size: testSize}}, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// temperature makes the file cold, or its first bytes warm, and skips the test where that cannot be done.
func temperature(t *testing.T, s *Source, warm int64) {
	t.Helper()
	sh := s.shards[0]
	if sh.remote() {
		t.Skip("the temporary folder is on a network file system")
	}
	if err := unix.Fadvise(int(sh.File.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Skip("no FADV_DONTNEED: ", err)
	}
	if err := unix.Fadvise(int(sh.File.Fd()), 0, 0, unix.FADV_RANDOM); err != nil { // no readahead
		t.Skip("no FADV_RANDOM: ", err)
	}
	if _, err := io.ReadFull(io.NewSectionReader(sh.File, 0, warm), make([]byte, warm)); err != nil {
		t.Fatal(err)
	}
	share, err := cachestat(sh.File, stages.Extent{Len: testSize})
	if err != nil {
		t.Skip("no cachestat: ", err)
	}
	if want := float64(warm) / testSize; share < want-0.1 || share > want+0.1 {
		t.Skipf("%.2f of the file is in the page cache, wanted %.2f: not this file system", share, want)
	}
}

// methodOf is how a Source reads the whole file.
func methodOf(t *testing.T, s *Source) string {
	t.Helper()
	v, err := s.Fetch(t.Context(), []stages.Extent{{Len: testSize / 2}, {Off: testSize / 2, Len: testSize / 2}})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Release()
	return v.Method()
}

func TestAutoMapsWhatIsResident(t *testing.T) {
	for want, warm := range map[string]int64{"direct": 0, "mixed": testSize / 2, "mmap": testSize} {
		t.Run(want, func(t *testing.T) {
			s := openShard(t, Options{})
			temperature(t, s, warm)
			if got := methodOf(t, s); got != want {
				t.Errorf("%d bytes warm: read by %s, want %s", warm, got, want)
			}
		})
	}
}

func TestMincoreAgreesWithCachestat(t *testing.T) {
	for _, warm := range []int64{0, testSize / 4, testSize} {
		s := openShard(t, Options{})
		temperature(t, s, warm)
		e := stages.Extent{Off: 5000, Len: testSize - 7000}
		want, known := s.kernel.resident(s.shards[0], e)
		s.kernel.noCachestat.Store(true)
		got, ok := s.kernel.resident(s.shards[0], e)
		if !known || !ok || got < want-0.01 || got > want+0.01 {
			t.Errorf("%d bytes warm: mincore says %.3f (%v), cachestat %.3f (%v)", warm, got, ok, want, known)
		}
	}
}

func TestWithoutPopulateAPageIsFaultedInByTouch(t *testing.T) {
	s := openShard(t, Options{IO: ModeMmap})
	s.kernel.noPopulate.Store(true)
	if got := methodOf(t, s); got != "mmap" {
		t.Errorf("read by %s", got)
	}
}

func TestAutoCopiesFromANetworkFileSystem(t *testing.T) {
	s := openShard(t, Options{})
	s.shards[0].remote = func() bool { return true }
	if got := methodOf(t, s); got != "pread" {
		t.Errorf("read by %s", got)
	}
}

func TestRemoteOnWhatCannotTell(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if !remote(f) {
		t.Error("a file that cannot be asked counts as local")
	}
}

func TestABadPageOfAnUnchangedFileBlamesTheDisk(t *testing.T) {
	s := openShard(t, Options{})
	err := s.shards[0].unmappable(stages.Extent{Off: 4096, Len: 100}, unix.EFAULT)
	want := "shard: bytes 4096 to 4196 cannot be read: the file was truncated or the disk failed: bad address"
	if err.Error() != want || !errors.Is(err, unix.EFAULT) {
		t.Errorf("got %v", err)
	}
}
