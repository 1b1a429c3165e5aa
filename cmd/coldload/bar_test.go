package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coldload/coldload"
)

// wide is an env whose stderr is a terminal of so many columns, without colours.
func wide(err io.Writer, width int) *env {
	e := testEnv(io.Discard, err)
	e.errTTY = func() (int, bool) { return width, true }
	e.noColour = true
	return e
}

// moved is a load of 10 GB of which so much was written.
func moved(written int64) coldload.Progress {
	return coldload.Progress{Written: written, Total: 10e9, Phases: []coldload.PhaseProgress{
		{Name: "fetch", Bytes: min(2*written, 11e9), Total: 11e9},
		{Name: "decode", Bytes: written / 10},
		{Name: "fuse"},
		{Name: "repack", Bytes: written},
		{Name: "upload", Bytes: written, Total: 10e9},
	}}
}

// What a terminal shows at each moment, to the end, and that nothing is left then.
func TestBarDraws(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBar(wide(io.Discard, 80), "loading", "committing")
		check := func(after time.Duration, want string) {
			t.Helper()
			time.Sleep(after)
			if got := b.show(time.Now()); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		}
		check(2*time.Second, "loading: reading headers and planning, 2.00 s")
		b.load(moved(0))
		check(time.Second, "\r\x1b[Jloading: 0 B of 10.0 GB, 0 %")
		b.load(moved(1e9))
		check(time.Second, "\r\x1b[Jloading: 1.00 GB of 10.0 GB, 10 %, 0.50 GB/s, 18 s left\n"+
			"  fetch   2.00 GB of 11.0 GB  1.00 GB/s\n"+
			"  decode  100 MB              0.05 GB/s\n"+
			"  repack  1.00 GB             0.50 GB/s\n"+
			"  upload  1.00 GB of 10.0 GB  0.50 GB/s")
		b.load(moved(10e9 - 1))
		check(2*time.Second, "\r\x1b[4A\x1b[Jloading: 10.0 GB of 10.0 GB, 99 %, 2.50 GB/s, 1 s left\n"+
			"  fetch   11.0 GB of 11.0 GB  2.75 GB/s  done\n"+
			"  decode  1.00 GB             0.25 GB/s\n"+
			"  repack  10.0 GB             2.50 GB/s\n"+
			"  upload  10.0 GB of 10.0 GB  2.50 GB/s")
		b.load(moved(10e9))
		check(time.Second, "\r\x1b[4A\x1b[Jloading: all 10.0 GB written, committing, 0 ms")
		check(1500*time.Millisecond, "\r\x1b[Jloading: all 10.0 GB written, committing, 1.50 s")
		if got := b.erase(); got != "\r\x1b[J" || b.erase() != "" {
			t.Errorf("at the end %q", got)
		}
	})
}

// Lines are cut to the width. When the terminal becomes narrower, it breaks what is drawn into more lines, and all of them are erased.
func TestBarFits(t *testing.T) {
	t.Parallel()
	width := 60
	e := wide(io.Discard, 0)
	e.errTTY = func() (int, bool) { return width, true }
	e.noColour = false
	b := newBar(e, "loading", "committing")
	b.load(moved(5e9))
	for _, width = range []int{60, 25, 10, 120} {
		text := b.show(b.began.Add(time.Second))
		for line := range strings.SplitSeq(text[strings.LastIndex(text, clearBelow)+1:], "\n") {
			line = strings.NewReplacer(bold, "", faint, "", normal, "", clearBelow[1:], "").Replace(line)
			if len(line) >= width {
				t.Errorf("%d columns: %q", width, line)
			}
		}
		if !strings.Contains(text, bold) || !strings.Contains(text, faint) {
			t.Errorf("no colours in %q", text)
		}
	}
	width = 20
	rows := 0
	for line := range strings.SplitSeq(b.drawn, "\n") {
		rows += (len(line) + 19) / 20
	}
	if got, want := b.erase(), fmt.Sprintf("\r\x1b[%dA\x1b[J", rows-1); got != want || rows < 10 {
		t.Errorf("%q, want %q", got, want)
	}
}

// Where nothing can be redrawn there is a line every few seconds, with the same figures and nothing for a terminal.
func TestBarLogs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var err bytes.Buffer
		b := startBar(testEnv(io.Discard, &err), false, "packing", "making it durable")
		b.load(moved(0))
		time.Sleep(logEvery - 1)
		b.load(moved(4e9))
		time.Sleep(logEvery)
		b.load(moved(10e9))
		time.Sleep(logEvery)
		b.stop()
		const want = "coldload: packing: 4.00 GB of 10.0 GB, 40 %, 0.80 GB/s, 8 s left (fetch 8.00 GB, decode 400 MB, repack 4.00 GB, upload 4.00 GB)\n" +
			"coldload: packing: all 10.0 GB written, making it durable, 0 ms\n"
		if err.String() != want {
			t.Errorf("%q, want %q", err.String(), want)
		}
	})
}

// The rate is that of the last seconds: what was fast long ago promises nothing.
func TestBarForgets(t *testing.T) {
	t.Parallel()
	start := time.Unix(1000, 0)
	b := &bar{doing: "loading", start: start, began: start}
	b.update(5e9, 10e9)
	for i := range 200 {
		now := start.Add(time.Duration(i+1) * barEvery)
		line := b.headline(now, 0)
		if stalled := !strings.Contains(line, "left"); stalled != (i >= 50) {
			t.Fatalf("redraw %d: %q", i, line)
		}
	}
	if n := len(b.whole.samples); n > 52 {
		t.Errorf("%d samples are kept", n)
	}
}

// What comes before the load has the bar to itself under its own name, and leaves nothing of its rate.
func TestBarStep(t *testing.T) {
	t.Parallel()
	start := time.Unix(1000, 0)
	b := &bar{doing: "packing", start: start, began: start}
	hashed := b.hashing()
	hashed(1e9, 4e9)
	if got, want := b.headline(start.Add(time.Second), 0), "reading the source for its hashes: 1.00 GB of 4.00 GB, 25 %, 1.00 GB/s, 3 s left"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	hashed(4e9, 4e9)
	if got, want := b.headline(start.Add(2*time.Second), 0), "packing: reading headers and planning, 2.00 s"; got != want || len(b.whole.samples) > 0 {
		t.Errorf("%q, want %q", got, want)
	}
}

// What goes on beside the load has a line, and is named when all the rest is done.
func TestBarBeside(t *testing.T) {
	t.Parallel()
	start := time.Now()
	b := &bar{doing: "loading", last: "committing", start: start, began: start}
	hashed := b.hashing()
	b.load(moved(0))
	hashed(1e9, 10e9)
	now := start.Add(time.Second)
	if got := b.draw(now, 100); !strings.Contains(got, "loading: 0 B of ") || !strings.Contains(got, "\n  verify source  1.00 GB of 10.0 GB") {
		t.Errorf("%q", got)
	}
	if got := b.logLine(now); !strings.Contains(got, "(verify source 1.00 GB)") {
		t.Errorf("%q", got)
	}
	hashed(9e9, 10e9)
	b.load(moved(b.whole.total))
	if got := b.headline(now, 0); !strings.Contains(got, " written, verify source 9.00 GB of 10.0 GB, ") {
		t.Errorf("%q", got)
	}
	hashed(10e9, 10e9)
	if got := b.headline(now, 0); !strings.Contains(got, " written, committing, ") {
		t.Errorf("%q", got)
	}
}

func TestCut(t *testing.T) {
	t.Parallel()
	if got := cut("häuser", 3); got != "häu" {
		t.Error(got)
	}
	if got := cut("abc", 0); got != "abc" {
		t.Error(got)
	}
}

// On a terminal the bar leaves no trace, and a load that is over before the first redraw has none; --quiet has none at all.
func TestBarOnTerminal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var err bytes.Buffer
		e := wide(&err, 40)
		b := startBar(e, false, "loading", "committing")
		b.load(moved(4e9))
		time.Sleep(barEvery * 3)
		b.stop()
		text := err.String()
		if strings.Count(text, "loading") != 3 || strings.Contains(text, "100 %") || !strings.HasSuffix(text, fmt.Sprintf("\r\x1b[%dA\x1b[J", 4)) {
			t.Errorf("%q", text)
		}
		if b := startBar(e, true, "loading", "committing"); b != nil {
			t.Error("--quiet has a bar")
		}
	})
	for _, args := range [][]string{{"load", fixture(gptqFixture)}, {"load", fixture(gptqFixture), "--json"}, {"load", damaged(t)}} {
		var err bytes.Buffer
		execute(t.Context(), wide(&err, 40), append(args, "--quiet"))
		if strings.Contains(err.String(), clearBelow) {
			t.Errorf("%q: %q", args, err.String())
		}
	}
}

// TestBarKeepsTheEnd: where there is little room, the rate and the whole go before the time that is left.
func TestBarKeepsTheEnd(t *testing.T) {
	start := time.Now()
	b := &bar{doing: "loading", start: start, began: start}
	b.whole = track{done: 1_720_000_000, total: 2_530_000_000, samples: []sample{{start, 0}, {start.Add(time.Second), 1_720_000_000}}}
	for width, want := range map[int]string{
		0:  "loading: 1.72 GB of 2.53 GB, 67 %, 0.86 GB/s, 1 s left",
		50: "loading: 1.72 GB of 2.53 GB, 67 %, 1 s left",
		39: "loading: 67 %, 1 s left",
		10: "loading: 67 %, 1 s left",
	} {
		if got := b.headline(start.Add(2*time.Second), width); got != want {
			t.Errorf("width %d: %q, want %q", width, got, want)
		}
	}
}
