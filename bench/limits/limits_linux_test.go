package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
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
