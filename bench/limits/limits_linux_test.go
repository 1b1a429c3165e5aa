package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/coldload/coldload/internal/synth"
)

// A run on a checkpoint that is too small to say anything must still go through, and its figures be there.
func TestSmallRun(t *testing.T) {
	r := smallRun(t, nil)
	checkFigures(t, r)
	if len(r.Memory) != 6 {
		t.Errorf("memory of %d measures", len(r.Memory))
	}
}

// With peers, only reading is measured.
func TestPeers(t *testing.T) {
	peer := filepath.Join(t.TempDir(), "peer")
	const script = `#!/bin/sh
test -e "$2/config.json" || exit 1
echo ready; read -r go; echo chatter; echo '{"seconds": 1000}'
`
	if err := os.WriteFile(peer, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	r := smallRun(t, []string{"slow=" + peer + " argument"})
	checkFigures(t, r)
	if i := slices.IndexFunc(r.Lines, func(l line) bool { return l.Name == "slow, warm / warm load --to host" }); i < 0 || r.Lines[i].Ratio.Median < 10 {
		t.Errorf("lines: %+v", r.Lines)
	}
}

func smallRun(t *testing.T, peers []string) *results {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "checkpoint")
	if _, err := synth.Write(t.Context(), path, synth.Options{Model: "tiny-moe", Layers: 1}); err != nil {
		t.Fatal(err)
	}
	opt := standard()
	opt.rounds, opt.most, opt.region, opt.passes, opt.tensors, opt.held, opt.peers = 1, 1, 8<<20, 1, 200, 16<<20, peers
	opt.json = filepath.Join(dir, "figures.json")
	opt, err := opt.at(path)
	if err != nil {
		t.Fatal(err)
	}
	var out, log bytes.Buffer
	if err := run(t.Context(), &out, &log, opt); err != nil {
		t.Fatalf("%v\n%s", err, log.Bytes())
	}
	left, err := filepath.Glob(filepath.Join(dir, ".limits-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	b, err := os.ReadFile(opt.json)
	if err != nil {
		t.Fatal(err)
	}
	var r results
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	return &r
}

func checkFigures(t *testing.T, r *results) {
	t.Helper()
	if len(r.Lines) < 4 || len(r.Samples) != 2*len(r.Paces) {
		t.Errorf("%d lines, %d samples of %d measures", len(r.Lines), len(r.Samples), len(r.Paces))
	}
	for _, l := range r.Lines {
		if l.Ratio.Median <= 0 {
			t.Errorf("%s: %v", l.Name, l.Ratio)
		}
	}
	for _, u := range r.Memory {
		if u.Peak <= 0 || u.Peak > u.Allowed {
			t.Errorf("%s: peak %d, allowed %d", u.Measure, u.Peak, u.Allowed)
		}
	}
}

// TestMain lets the test binary be the collector.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == receiveCommand {
		if code := execute(context.Background(), os.Stdout, os.Stderr, os.Args[1:]); code != 0 {
			panic(code)
		}
		return
	}
	m.Run()
}

// Two pairs say nothing, but every span of every load is counted.
func TestOverhead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "checkpoint")
	if _, err := synth.Write(t.Context(), path, synth.Options{Model: "micro"}); err != nil {
		t.Fatal(err)
	}
	var out, log bytes.Buffer
	if code := execute(t.Context(), &out, &log, []string{overheadCommand, "--pairs", "2", "--with=--budget=1MiB", "--with=--trace-batches", path}); code != 0 {
		t.Fatalf("exit code %d\n%s", code, log.Bytes())
	}
	text := out.String()
	for _, part := range []string{"on / off, 2 interleaved pairs: ", "--budget=1MiB", " spans a load x ", "95 %: "} {
		if !strings.Contains(text, part) {
			t.Errorf("no %q in\n%s", part, text)
		}
	}
	// A root, 9 phases, a shard, and 5 for each batch, of which the checkpoint has some: they are asked for.
	_, rest, _ := strings.Cut(text, "on - off")
	_, rest, _ = strings.Cut(rest, "\n")
	number, _, _ := strings.Cut(rest, " spans a load")
	if spans, err := strconv.Atoi(number); err != nil || spans < 16 || (spans-11)%5 != 0 {
		t.Errorf("%q spans a load (%v)\n%s", number, err, text)
	}
}

func TestOverheadOptions(t *testing.T) {
	for _, args := range [][]string{{}, {"a", "b"}, {"--pairs", "1", "a"}, {"--no-such-flag", "a"}} {
		if _, err := parseOverhead(io.Discard, args); err == nil {
			t.Errorf("%q was taken", args)
		}
	}
}

// TestInterval against textbook values: of 1 to 5 the mean is 3, its standard error 0.7071, and Student's quantile 2.776.
func TestInterval(t *testing.T) {
	near := func(a, b float64) bool { return math.Abs(a-b) < 0.01 }
	if i := intervalOf([]float64{1, 2, 3, 4, 5}); !near(i.mean, 3) || !near(i.high, 3+2.7764*0.70711) || !near(i.low, 3-2.7764*0.70711) {
		t.Errorf("%+v", i)
	}
	for freedom, want := range map[int]float64{1: 12.7062, 2: 4.3027, 5: 2.5706, 14: 2.1448, 30: 2.0423} {
		if got := student(freedom); math.Abs(got-want) > 0.003 {
			t.Errorf("%d degrees of freedom: %.4f, want %.4f", freedom, got, want)
		}
	}
}
