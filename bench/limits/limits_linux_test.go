package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/coldload/coldload/internal/synth"
)

// A run on a checkpoint that is too small to say anything must still go through, and its figures be there.
func TestSmallRun(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "checkpoint")
	if _, err := synth.Write(t.Context(), path, synth.Options{Model: "tiny-moe", Layers: 1}); err != nil {
		t.Fatal(err)
	}
	opt := standard()
	opt.rounds, opt.most, opt.region, opt.passes, opt.tensors, opt.spans = 1, 1, 8<<20, 1, 200, 0
	opt.held = 16 << 20
	opt.json = filepath.Join(dir, "figures.json")
	opt, err := opt.at(path)
	if err != nil {
		t.Fatal(err)
	}
	var out, log bytes.Buffer
	if err := run(t.Context(), &out, &log, opt); err != nil {
		t.Fatalf("%v\n%s", err, log.Bytes())
	}
	var r results
	b, err := os.ReadFile(opt.json)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	checkFigures(t, &r)
	left, err := filepath.Glob(filepath.Join(dir, ".limits-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func checkFigures(t *testing.T, r *results) {
	t.Helper()
	if len(r.Lines) < 11 || len(r.Memory) != 6 || len(r.Samples) != 2*len(r.Paces) {
		t.Errorf("%d lines, %d of memory, %d samples of %d measures", len(r.Lines), len(r.Memory), len(r.Samples), len(r.Paces))
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
