//go:build unix

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coldload/coldload/internal/synth"
)

// pageObject reads the result in a page.
func pageObject(t *testing.T, path string) (o map[string]any) {
	t.Helper()
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(page), `<script type="application/json" id="coldload-result">`)
	text, _, _ := strings.Cut(rest, "</script>")
	if err := json.Unmarshal([]byte(text), &o); err != nil || !ok {
		t.Fatalf("%s: %v", path, err)
	}
	return o
}

// traceObject reads a trace.
func traceObject(t *testing.T, path string) (o map[string]any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, &o)
	}
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return o
}

// objectsOf is a member that is a list of objects.
func objectsOf(o map[string]any, name string) (objects []map[string]any) {
	all, _ := o[name].([]any)
	for _, v := range all {
		if m, ok := v.(map[string]any); ok {
			objects = append(objects, m)
		}
	}
	return objects
}

// TestPicturesAgree: the object that is printed, the one in the page and the one in the trace have the same phases, and their bytes are the plan's.
func TestPicturesAgree(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	checkpoint := filepath.Join(dir, "checkpoint")
	if _, err := synth.Write(t.Context(), checkpoint, synth.Options{Model: "tiny-moe", Layers: 1}); err != nil {
		t.Fatal(err)
	}
	plan := command(t, "plan", checkpoint, "--json").object(t)
	for name, args := range map[string][]string{
		"host":    {"load", checkpoint},
		"discard": {"load", checkpoint, "--to", "discard", "--workers", "3"},
		"file":    {"load", checkpoint, "--to", "file:" + filepath.Join(dir, "file")},
		"pack":    {"pack", checkpoint, filepath.Join(dir, "pack"), "--verify-source"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			page, trace := filepath.Join(dir, name+".html"), filepath.Join(dir, name+".json")
			r := command(t, append(args, "--json", "--report", page, "--trace", trace)...)
			if r.code != exitDone {
				t.Fatal(r.err)
			}
			printed := r.object(t)
			if inPage := pageObject(t, page); !reflect.DeepEqual(inPage, printed) {
				t.Errorf("in the page:\n%v\nprinted:\n%v", inPage, printed)
			}
			steps := traceObject(t, trace)
			about, _ := steps["otherData"].(map[string]any)
			if !reflect.DeepEqual(about["phases"], printed["phases"]) {
				t.Errorf("in the trace:\n%v\nprinted:\n%v", about["phases"], printed["phases"])
			}
			checkBytes(t, steps, printed, plan)
		})
	}
}

// checkBytes adds up the slices of a trace and compares with the phases, and with the plan.
func checkBytes(t *testing.T, steps, printed, plan map[string]any) {
	t.Helper()
	lanes, in, out, busy := map[any]string{}, map[string]float64{}, map[string]float64{}, map[string]float64{}
	for _, e := range objectsOf(steps, "traceEvents") {
		args, _ := e["args"].(map[string]any)
		if e["name"] == "thread_name" {
			name, _ := args["name"].(string)
			lanes[e["tid"]] = name[:max(0, strings.LastIndexByte(name, ' '))]
		}
		if e["cat"] == "work" {
			stage := lanes[e["tid"]]
			number := func(v any) float64 { n, _ := v.(float64); return n }
			in[stage] += number(args["bytes_in"])
			out[stage] += number(args["bytes_out"])
			busy[stage] += number(e["dur"]) / 1e6
		}
	}
	for _, p := range objectsOf(printed, "phases") {
		name, _ := p["name"].(string)
		seconds, _ := p["busy_seconds"].(float64)
		if in[name] != p["bytes_in"] || out[name] != p["bytes_out"] || busy[name]-seconds > 1e-6 || seconds-busy[name] > 1e-6 {
			t.Errorf("%s: the slices have %.0f and %.0f bytes and %f s, the phase is %v", name, in[name], out[name], busy[name], p)
		}
	}
	if out["upload"] != plan["bytes_out"] || in["fetch"] < plan["bytes_in"].(float64) { //nolint:errcheck,forcetypeassert // a panic is a failure too
		t.Errorf("%.0f and %.0f bytes, the plan has %v and %v", in["fetch"], out["upload"], plan["bytes_in"], plan["bytes_out"])
	}
}

// TestPicturesOfFailure: a load that fails has its pictures too, and its exit code and its JSON object are as without.
func TestPicturesOfFailure(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		code  int
		path  string
		error string
	}{
		"failed":    {exitFailed, broken(t), "scales"},
		"refused":   {exitRefused, damaged(t), "1 fault"},
		"not there": {exitRefused, "./no/such/folder", "does not exist"},
	} {
		for _, args := range [][]string{{"load", c.path}, {"pack", c.path, filepath.Join(t.TempDir(), "out")}} {
			t.Run(name+" "+args[0], func(t *testing.T) {
				t.Parallel()
				page, trace := filepath.Join(t.TempDir(), "a.html"), filepath.Join(t.TempDir(), "b.json")
				r := command(t, append(args, "--json", "--report", page, "--trace", trace)...)
				if r.code != c.code || !strings.Contains(r.err, c.error) {
					t.Fatalf("exit code %d, %s", r.code, r.err)
				}
				printed, inPage := r.object(t), pageObject(t, page)
				if inPage["error"] != printed["error"] || !reflect.DeepEqual(inPage["faults"], printed["faults"]) {
					t.Errorf("the page says %v and %v; printed was %v", inPage["error"], inPage["faults"], printed)
				}
				if n := len(objectsOf(inPage, "phases")); n < 9 {
					t.Errorf("%d phases in the page", n)
				}
				about, _ := traceObject(t, trace)["otherData"].(map[string]any)
				if about["error"] != printed["error"] {
					t.Errorf("the trace says %v", about["error"])
				}
				onlyThere(t, page)
				onlyThere(t, trace)
			})
		}
	}
}

// onlyThere wants the file to be alone in its folder.
func onlyThere(t *testing.T, path string) {
	t.Helper()
	files, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(files) != 1 || files[0].Name() != filepath.Base(path) {
		t.Errorf("%v, %v beside %s", files, err, path)
	}
}

// TestPicturesRefused: what cannot be written is wrong usage, before anything is read.
func TestPicturesRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(".", link); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ path, says string }{
		"folder":         {dir, "is a folder"},
		"no folder":      {filepath.Join(dir, "no", "a.html"), filepath.Join(dir, "no") + ": no such file"},
		"below a file":   {filepath.Join(file, "a.html"), "not a directory"},
		"not a file":     {pipe, "is not a regular file"},
		"not a disk":     {os.DevNull, "is not a regular file"},
		"both, the same": {"", "name the same file"},
	} {
		for _, flag := range []string{"--report", "--trace"} {
			args := []string{flag, c.path}
			if c.path == "" {
				args = []string{"--report", file, "--trace", file}
			}
			for _, cmd := range [][]string{{"load", "./no/such/folder"}, {"pack", "./no/such/folder", filepath.Join(dir, "out")}} {
				r := command(t, append(cmd, args...)...)
				if r.code != exitUsage || !strings.Contains(r.err, c.says) || !strings.Contains(r.err, flag) {
					t.Errorf("%s, %s: exit code %d, %s", name, flag, r.code, r.err)
				}
			}
		}
	}
	// One file by two names, whether it is there or not.
	for _, name := range []string{"file", "new"} {
		r := command(t, "load", "./no/such/folder", "--report", filepath.Join(link, name), "--trace", filepath.Join(dir, name))
		if r.code != exitUsage || !strings.Contains(r.err, "name the same file") {
			t.Errorf("%s: exit code %d, %s", name, r.code, r.err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 3 {
		t.Errorf("%v, %v are left", left, err)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "mine" {
		t.Errorf("the file is %q, %v", text, err)
	}
}

// TestPicturesOverCheckpoint: no file of the checkpoint is replaced, by whatever name; a new one may lie beside them.
func TestPicturesOverCheckpoint(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	checkpoint, blob, hard := filepath.Join(dir, "checkpoint"), filepath.Join(dir, "blob"), filepath.Join(dir, "hard")
	if _, err := synth.Write(t.Context(), checkpoint, synth.Options{Model: "tiny-moe", Layers: 1}); err != nil {
		t.Fatal(err)
	}
	config, sub := filepath.Join(checkpoint, "config.json"), filepath.Join(checkpoint, "sub")
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	// As in a hub cache: what the folder has is a link.
	if err := errors.Join(os.Rename(config, blob), os.Symlink("../blob", config), os.Link(blob, hard), os.Symlink("checkpoint", filepath.Join(dir, "link")),
		os.Mkdir(sub, 0o700), os.WriteFile(filepath.Join(sub, "notes"), text, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{config, blob, hard, filepath.Join(dir, "link", "config.json"), filepath.Join(sub, "notes")} {
		for _, flag := range []string{"--report", "--trace"} {
			for _, args := range [][]string{{"load", checkpoint}, {"pack", filepath.Join(dir, "link"), filepath.Join(dir, "out")}} {
				r := command(t, append(args, flag, target)...)
				if r.code != exitUsage || !strings.Contains(r.err, flag+" "+target+": a file of the checkpoint would be replaced") {
					t.Errorf("%s %s %s: exit code %d, %s", args[0], flag, target, r.code, r.err)
				}
			}
		}
		if now, err := os.ReadFile(target); err != nil || string(now) != string(text) {
			t.Errorf("%s is now %.40q, %v", target, now, err)
		}
	}
	if err := errors.Join(os.Remove(config), os.Rename(blob, config)); err != nil { // a link out of the folder is refused
		t.Fatal(err)
	}
	page := filepath.Join(checkpoint, "page.html")
	if r := command(t, "load", checkpoint, "--report", page); r.code != exitDone {
		t.Errorf("exit code %d, %s", r.code, r.err)
	}
	pageObject(t, page)
}

// TestPicturesReplace: a file that is there is replaced at the end, and through a link what the link leads to.
func TestPicturesReplace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	old, link := filepath.Join(dir, "old.html"), filepath.Join(dir, "link.html")
	if err := os.WriteFile(old, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("old.html", link); err != nil {
		t.Fatal(err)
	}
	if r := command(t, "load", fixture(plainFixture), "--report", link); r.code != exitDone {
		t.Fatal(r.err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is %v, %v", info, err)
	}
	pageObject(t, old)
}

// TestPicturesLost: when the file cannot get its name in the end, the result is told all the same, once, and the command fails.
func TestPicturesLost(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	page := filepath.Join(dir, "sub", "a.html")
	f := pictureFlags{report: page}
	if err := os.Mkdir(filepath.Dir(page), 0o700); err != nil {
		t.Fatal(err)
	}
	var out, errs strings.Builder
	e := testEnv(&out, &errs)
	pics, err := f.openPictures(e, fixture(plainFixture))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(page, 0o700); err != nil { // now a folder has the name
		t.Fatal(err)
	}
	o := newLoadFlags()
	l, err := load(t.Context(), e, &o, fixture(plainFixture), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	err = told(pics.finish(e, l.shown(&o.planFlags, o.to.value, nil)))
	if code := exitCode(err); code != exitFailed || !strings.Contains(err.Error(), "--report") {
		t.Errorf("exit code %d, %v", code, err)
	}
	if err := l.close(); err != nil {
		t.Error(err)
	}
	onlyThere(t, page)
}

// TestPicturesInterrupted: a load that is stopped has its pictures.
func TestPicturesInterrupted(t *testing.T) {
	t.Parallel()
	page, trace := filepath.Join(t.TempDir(), "a.html"), filepath.Join(t.TempDir(), "b.json")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(&interruptError{signal: syscall.SIGTERM})
	var out, errs strings.Builder
	code := execute(ctx, testEnv(&out, &errs), []string{"load", fixture(gptqFixture), "--report", page, "--trace", trace})
	if code != exitSignal+int(syscall.SIGTERM) {
		t.Fatalf("exit code %d, %s", code, errs.String())
	}
	if o := pageObject(t, page); !strings.Contains(fmt.Sprint(o["error"]), "stopped by a signal (terminated)") {
		t.Errorf("the page says %v", o["error"])
	}
	if text, err := os.ReadFile(page); err != nil || !strings.Contains(string(text), "The load was stopped") {
		t.Errorf("the page does not say that the load was stopped: %v", err)
	}
	traceObject(t, trace)
	onlyThere(t, page)
	onlyThere(t, trace)
}
