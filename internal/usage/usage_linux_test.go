package usage

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

func TestParseMachine(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		line string
		want ticks
	}{
		{"cpu  10 1 20 300 40 2 3 4 9 0\n", ticks{idle: 340, all: 380}}, // guest, the 9, is in user
		{"cpu 1 2 3 4 5\n", ticks{idle: 9, all: 15}},
		{"cpu 1 2 3 4\n", ticks{}},
		{"cpu0 1 2 3 4 5 6\n", ticks{}},
		{"cpu 1 2 x 4 5 6\n", ticks{}},
		{"", ticks{}},
	} {
		if got := parseMachine(c.line); got != c.want {
			t.Errorf("%q: %+v, want %+v", c.line, got, c.want)
		}
	}
}

func TestParseDevice(t *testing.T) {
	t.Parallel()
	busy, queued, ok := parseDevice("  1 2 3 4 5 6 7 8 0 1500 2500 0 0 0\n")
	if !ok || busy != 1500*time.Millisecond || queued != 2500*time.Millisecond {
		t.Error(busy, queued, ok)
	}
	for _, bad := range []string{"", "1 2 3", "1 2 3 4 5 6 7 8 9 x 1", "1 2 3 4 5 6 7 8 9 1 x"} {
		if _, _, ok := parseDevice(bad); ok {
			t.Errorf("%q was understood", bad)
		}
	}
}

func TestFieldAndRatio(t *testing.T) {
	t.Parallel()
	file := []byte("nr_periods 5\nthrottled_usec 77\nbad x\n")
	if got := field(file, "throttled_usec"); got != 77 {
		t.Error(got)
	}
	for _, name := range []string{"absent", "bad", "throttled"} {
		if got := field(file, name); got != Unknown {
			t.Errorf("%s: %d", name, got)
		}
	}
	for _, c := range []struct {
		quota, period string
		want          float64
	}{{"150000", "100000", 1.5}, {"max", "100000", 0}, {"-1", "100000", 0}, {"1", "0", 0}, {"1", "x", 0}} {
		if got := ratio(c.quota, c.period); got != c.want {
			t.Errorf("%s of %s: %v, want %v", c.quota, c.period, got, c.want)
		}
	}
}

// A file that is written and synced shows in the process's figures, when its file system has a device.
func TestDeviceWrites(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	device := DeviceOf(dir)
	before := Now()
	f, err := os.Create(filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	used := Now().Since(before)
	if device.Name == "" {
		t.Skip("the folder of temporary files has no device")
	}
	if got := device.Now().Since(device); got.Name != device.Name || got.Busy < 0 || got.Busy > 1 || got.Queue < 0 {
		t.Errorf("%+v", got)
	}
	if used.DeviceWritten != Unknown && used.DeviceWritten < 1<<20 {
		t.Errorf("%d bytes written", used.DeviceWritten)
	}
	if d := DeviceOf(filepath.Join(dir, "absent")); d.Name != "" || d.Now() != d {
		t.Errorf("%+v", d)
	}
	if d := DeviceOf("/proc"); d.Name != "" {
		t.Errorf("/proc lies on %+v", d)
	}
}

func TestProcessors(t *testing.T) {
	t.Parallel()
	stat := "cpu  7 0 1 2 0 0 0 0 0 0\ncpu0 3 0 1 1 0 0 0 0 0 0\ncpu11 4 0 0 1 0 0 0 0 0 0\nintr 9 0\nctxt 3\n"
	if n := countProcessors([]byte(stat)); n != 2 {
		t.Errorf("%d processors in %q", n, stat)
	}
	if n := countProcessors(nil); n != 0 {
		t.Errorf("%d processors in nothing", n)
	}
	if n := Processors(); n < runtime.NumCPU() {
		t.Errorf("%d processors, %d may be used", n, runtime.NumCPU())
	}
}
