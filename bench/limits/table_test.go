package main

import (
	"bytes"
	"flag"
	"io"
	"strings"
	"testing"
)

func run3(name string, seconds [4]float64, disturbed ...int) (list samples) {
	for round, s := range seconds {
		x := sample{Measure: name, Round: round, Bytes: 100, reading: reading{Seconds: s}}
		for _, d := range disturbed {
			if d == round {
				x.Disturbed = "yes"
			}
		}
		list = append(list, x)
	}
	return list
}

func TestRatios(t *testing.T) {
	l := line{Ours: "ours", Limits: []string{"a", "b"}}
	for _, c := range []struct {
		name   string
		all    samples
		median float64
		quiet  int
		marked bool
	}{
		{"the slower limit counts, round 0 does not", append(append(run3("ours", [4]float64{9, 2, 2, 2}), run3("a", [4]float64{1, 1, 1, 1})...), run3("b", [4]float64{1, .5, 1.5, .5})...), 0.5, 3, false},
		{"too few undisturbed", append(append(run3("ours", [4]float64{9, 2, 2, 2}, 1), run3("a", [4]float64{1, 1, 1, 1}, 2)...), run3("b", [4]float64{})...), 0.5, 1, true},
	} {
		got, ok := l.fill(c.all)
		if !ok || got.Ratio.Median != c.median || got.Quiet != c.quiet || got.AllTold != c.marked {
			t.Errorf("%s: %+v, %v", c.name, got, ok)
		}
	}
	if _, ok := l.fill(run3("ours", [4]float64{1, 1, 1, 1})); ok {
		t.Error("a line without its limits was filled")
	}
}

func TestRatesOfDifferentSizes(t *testing.T) {
	all := run3("ours", [4]float64{1, 1, 1, 1})
	limit := run3("limit", [4]float64{1, 1, 1, 1})
	for i := range limit {
		limit[i].Bytes = 200 // twice the rate
	}
	got, _ := line{Ours: "ours", Limits: []string{"limit"}, ByByte: true}.fill(append(all, limit...))
	if got.Ratio.Median != 0.5 {
		t.Errorf("%+v", got.Ratio)
	}
}

func TestDisturbed(t *testing.T) {
	calm := traffic{Wall: 1, Processors: 2, OtherCPU: 0.2, OtherDisk: 40e6}
	if why := calm.disturbed(1e9); why != "" {
		t.Errorf("disturbed: %s", why)
	}
	cpu, disk := calm, calm
	cpu.OtherCPU, disk.OtherDisk = 0.24, 60e6
	if cpu.disturbed(1e9) == "" || disk.disturbed(1e9) == "" {
		t.Error("a disturbance was not seen")
	}
}

func TestSpread(t *testing.T) {
	if got := spreadOf([]float64{4, 1, 3, 2}); got != (spread{1, 2.5, 4}) {
		t.Error(got)
	}
	if got := spreadOf(nil); got != (spread{}) {
		t.Error(got)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{}, {"a", "b"}, {"--rounds", "0", "a"}, {"--no-such-flag", "a"}} {
		if code := execute(t.Context(), io.Discard, io.Discard, args); code != 2 {
			t.Errorf("%q: exit code %d", args, code)
		}
	}
	var log bytes.Buffer
	if _, err := parse(&log, []string{"--help"}); err != flag.ErrHelp || !strings.Contains(log.String(), "CHECKPOINT") { //nolint:errorlint // Parse returns it as it is
		t.Errorf("%v: %s", err, log.String())
	}
}
