//go:build unix

package discover

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coldload/coldload/stages"
)

// within fails the test when f blocks: opening a pipe without a writer blocks for ever.
func within(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("blocked")
	}
}

func pipe(t *testing.T, path string) {
	t.Helper()
	if err := syscall.Mkfifo(path, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestPipesDoNotBlock(t *testing.T) {
	for name, code := range map[string]stages.Code{
		"model.safetensors":    stages.CodeShard,
		indexName:              stages.CodeIndex,
		"config.json":          stages.CodeConfig,
		"quantize_config.json": stages.CodeConfig,
	} {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{"model.safetensors": "w"}
			if code == stages.CodeShard {
				files = nil
			}
			dir := folder(t, files)
			pipe(t, filepath.Join(dir, name))
			within(t, func() {
				_, err := Discover(t.Context(), dir, Options{})
				var re *stages.RefusedError
				if !errors.As(err, &re) || len(re.Faults) != 1 || re.Faults[0].Code != code || re.Faults[0].Found != "a named pipe" {
					t.Errorf("error %v", err)
				}
			})
		})
	}
	t.Run("named by the user", func(t *testing.T) {
		path := filepath.Join(folder(t, nil), "model.safetensors")
		pipe(t, path)
		within(t, func() {
			_, err := Discover(t.Context(), path, Options{})
			var re *stages.RefusedError
			if !errors.As(err, &re) || re.Faults[0].Code != stages.CodeShard {
				t.Errorf("error %v", err)
			}
		})
	})
	t.Run("in place of a shard that was discovered", func(t *testing.T) {
		dir := folder(t, map[string]string{"model.safetensors": "w"})
		ck := discover(t, dir, Options{})
		path := filepath.Join(dir, "model.safetensors")
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		pipe(t, path)
		within(t, func() {
			_, err := ck.OpenShard(0)
			var re *stages.RefusedError
			if !errors.As(err, &re) || re.Faults[0].Code != stages.CodeShard {
				t.Errorf("error %v", err)
			}
		})
	})
	t.Run("beside the weights", func(t *testing.T) {
		dir := folder(t, map[string]string{"model.safetensors": "w"})
		pipe(t, filepath.Join(dir, "tokenizer.json"))
		within(t, func() {
			ck := discover(t, dir, Options{})
			if len(ck.OtherFiles()) != 0 || !strings.Contains(strings.Join(ck.Notes, " "), "tokenizer.json is left out") {
				t.Errorf("others %q, notes %q", ck.OtherFiles(), ck.Notes)
			}
		})
	})
}

func TestSocketAndDevice(t *testing.T) {
	dir := folder(t, nil)
	t.Chdir(dir) // the path of a socket must be short
	l, err := net.Listen("unix", "model.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	wantFaults(t, refused(t, dir, Options{}), []stages.Code{stages.CodeShard}, "a socket")
	wantFaults(t, refused(t, os.DevNull, Options{}), []stages.Code{stages.CodeShard}, "a device")
}

func TestLinks(t *testing.T) {
	outside := folder(t, map[string]string{"w.safetensors": "outside", "config.json": `{"model_type": "outside"}`})
	type links map[string]string // name, target; DIR stands for the folder, OUT for the one outside
	for _, tc := range []struct {
		name  string
		files map[string]string
		links links
		want  []stages.Code // none: accepted
		words []string
	}{
		{name: "inside", files: map[string]string{"blobs/w": "w"}, links: links{"model.safetensors": "blobs/w"}},
		{name: "inside, two hops", files: map[string]string{"b/w": "w"}, links: links{"model.safetensors": "a/w", "a/w": "../b/w"}},
		{name: "inside, absolute", files: map[string]string{"blobs/w": "w"}, links: links{"model.safetensors": "DIR/blobs/w"}},
		{name: "inside, relative then absolute", files: map[string]string{"b/w": "w"}, links: links{"model.safetensors": "a/w", "a/w": "DIR/b/w"}},
		{name: "inside, through a linked folder", files: map[string]string{"b/w": "w"}, links: links{"model.safetensors": "a/w", "a": "DIR/b"}},
		{name: "outside, relative", links: links{"model.safetensors": "../x/w"}, want: []stages.Code{stages.CodeEscape}, words: []string{"../x/w", "leaves"}},
		{name: "outside, absolute", links: links{"model.safetensors": "OUT/w.safetensors"}, want: []stages.Code{stages.CodeEscape}, words: []string{outside}},
		{name: "outside, dangling", links: links{"model.safetensors": "OUT/none"}, want: []stages.Code{stages.CodeEscape}},
		{name: "outside, two hops", links: links{"model.safetensors": "a/w", "a/w": "OUT/w.safetensors"}, want: []stages.Code{stages.CodeEscape}},
		{name: "outside, through a folder", links: links{"model.safetensors": "a/w.safetensors", "a": "OUT"}, want: []stages.Code{stages.CodeEscape}},
		{
			name: "config outside", files: map[string]string{"model.safetensors": "w"}, links: links{"config.json": "OUT/config.json"},
			want: []stages.Code{stages.CodeEscape}, words: []string{"config.json"},
		},
		{name: "index outside", files: map[string]string{"model.safetensors": "w"}, links: links{indexName: "OUT/config.json"}, want: []stages.Code{stages.CodeEscape}},
		{name: "dangling", links: links{"model.safetensors": "blobs/none"}, want: []stages.Code{stages.CodeMissingShard}, words: []string{"not there"}},
		{name: "loop", links: links{"model.safetensors": "model.safetensors"}, want: []stages.Code{stages.CodeShard}, words: []string{"back to itself"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := folder(t, tc.files)
			for name, target := range tc.links {
				link(t, strings.NewReplacer("DIR", dir, "OUT", outside).Replace(target), filepath.Join(dir, name))
			}
			if tc.want != nil {
				wantFaults(t, refused(t, dir, Options{}), tc.want, tc.words...)
				return
			}
			if ck := discover(t, dir, Options{}); content(t, ck, 0) != "w" {
				t.Error("wrong file")
			}
		})
	}
}

func TestFolderThatIsALink(t *testing.T) {
	dir := folder(t, map[string]string{"real/model.safetensors": "w"})
	link(t, "real", filepath.Join(dir, "alias"))
	if ck := discover(t, filepath.Join(dir, "alias"), Options{}); ck.Dir != filepath.Join(dir, "real") {
		t.Errorf("dir %q", ck.Dir)
	}
	link(t, "nothing", filepath.Join(dir, "dangling"))
	wantFaults(t, refused(t, filepath.Join(dir, "dangling"), Options{}), []stages.Code{stages.CodeNotFound})
}

func TestOtherFileOutsideIsLeftOut(t *testing.T) {
	dir := folder(t, map[string]string{"model.safetensors": "w", "tokenizer.json": "{}"})
	link(t, "/etc/passwd", filepath.Join(dir, "README.md"))
	ck := discover(t, dir, Options{})
	if !slices.Equal(ck.OtherFiles(), []string{"tokenizer.json"}) || !strings.Contains(strings.Join(ck.Notes, " "), "README.md is left out") {
		t.Errorf("others %q, notes %q", ck.OtherFiles(), ck.Notes)
	}
	var re *stages.RefusedError
	if _, err := ck.Open("README.md"); !errors.As(err, &re) || re.Faults[0].Code != stages.CodeEscape {
		t.Errorf("error %v", err)
	}
}

func TestUnreadable(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root reads everything")
	}
	dir := folder(t, map[string]string{"model.safetensors": "w", "config.json": "{}"})
	if err := os.Chmod(filepath.Join(dir, "config.json"), 0); err != nil {
		t.Fatal(err)
	}
	wantFaults(t, refused(t, dir, Options{}), []stages.Code{stages.CodeConfig}, "permissions")
}
