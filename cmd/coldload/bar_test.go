package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/coldload/coldload"
)

func TestBarLine(t *testing.T) {
	t.Parallel()
	start := time.Unix(1000, 0)
	b := &bar{doing: "loading", last: "committing", start: start}
	at := func(after time.Duration) string { return b.line(start.Add(after)) }
	check := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	check(at(2*time.Second), "loading: reading headers and planning, 2.00 s")
	b.load(coldload.Progress{Written: 1e9, Total: 10e9})
	check(at(4*time.Second), "loading: 1.00 GB of 10.0 GB, 10 %, 0.25 GB/s, 36 s left")
	b.load(coldload.Progress{Written: 3e9, Total: 10e9})
	check(at(5*time.Second), "loading: 3.00 GB of 10.0 GB, 30 %, 2.00 GB/s, 4 s left")
	b.load(coldload.Progress{Written: 10e9 - 1, Total: 10e9})
	check(at(6*time.Second), "loading: 10.0 GB of 10.0 GB, 99 %, 4.50 GB/s, 1 s left")
	b.load(coldload.Progress{Written: 10e9, Total: 10e9})
	check(at(7*time.Second), "loading: all 10.0 GB written, committing")
}

// The rate is that of the last seconds: what was fast long ago promises nothing.
func TestBarForgets(t *testing.T) {
	t.Parallel()
	start := time.Unix(1000, 0)
	b := &bar{doing: "loading", start: start}
	b.update(5e9, 10e9)
	for i := range 3 * barWindow {
		line := b.line(start.Add(time.Duration(i+1) * barEvery))
		if stalled := !strings.Contains(line, "left"); stalled != (i > 0) {
			t.Fatalf("redraw %d: %q", i, line)
		}
	}
	if len(b.samples) > barWindow {
		t.Errorf("%d samples are kept", len(b.samples))
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

// On a terminal the bar leaves no trace; elsewhere there is none.
func TestBarOnTerminal(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"load", fixture(gptqFixture)}, {"load", fixture(gptqFixture), "--json"}, {"load", damaged(t)}} {
		var out, err bytes.Buffer
		e := testEnv(&out, &err)
		e.errTTY = func() (int, bool) { return 40, true }
		execute(t.Context(), e, args)
		text := err.String()
		if !strings.Contains(text, eraseLine) || strings.Contains(text, "100 %") {
			t.Errorf("%q: %q", args, text)
		}
		if i := strings.LastIndex(text, eraseLine); strings.Contains(text[i:], "loading") {
			t.Errorf("%q: the bar is left: %q", args, text)
		}
		err.Reset()
		if execute(t.Context(), e, append(args, "--quiet")); strings.Contains(err.String(), eraseLine) {
			t.Errorf("--quiet: %q", err.String())
		}
	}
}
