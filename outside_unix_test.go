//go:build unix

package coldload_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/synth/ckpt"
)

// everything is each file, folder and link below a folder, links as what they say.
func everything(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		content := e.Type().String()
		switch {
		case e.Type().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content += string(data)
		case e.Type()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			content += to
		}
		all[path] = content
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// evilNames are tensors that are called like paths.
var evilNames = []string{
	"../../escape.weight", "/tmp/coldload-escape.weight", "..", ".", "a/../../b", `..\..\c`, "model-00001-of-00001.safetensors", "coldload.json",
	"config.json", "model.layers.0/../../../d.weight", "~/e", "$HOME/f", "C:\\g", "%2e%2e%2fh", "-rf", "\u202egnp.exe", "model.safetensors.index.json",
}

// TestNothingOutsideIsWritten packs and loads a checkpoint whose tensors are called like paths, whose other files are links that leave it, and
// whose target lies among files of somebody else. Nothing changes but the target, in which only names of coldload's and of the checkpoint's files
// are.
func TestNothingOutsideIsWritten(t *testing.T) {
	above, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOME", filepath.Join(above, "home"))
	for _, name := range []string{"home/.bashrc", "somebody/else", "somebody/out-else/x", "secret"} {
		path := filepath.Join(above, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("mine: "+name), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	b := ckpt.New(t)
	items := make(ckpt.List, len(evilNames))
	for i, name := range evilNames {
		items[i] = u8(name, strings.Repeat("x", i+1))
	}
	b.Shard(single, items).File("tokenizer.json", []byte(`{}`)).Symlink("README.md", filepath.Join(above, "secret")).Symlink("vocab.json", "../../../../../../etc/passwd")
	src := b.Write()
	before := everything(t, above)
	checkpoint := everything(t, src)
	dir := filepath.Join(above, "somebody", "out")
	if _, err := coldload.Pack(t.Context(), src, dir, coldload.Options{}, coldload.PackOptions{ShardSize: 40}); err != nil {
		t.Fatal(err)
	}
	for path, content := range everything(t, above) {
		if path == dir {
			continue
		}
		if name, in := strings.CutPrefix(path, dir+"/"); in {
			ours := name == "coldload.json" || name == "model.safetensors.index.json" || name == "tokenizer.json" || name == "config.json" ||
				strings.HasPrefix(name, "model-000") && !strings.Contains(name, "/")
			if !ours || strings.Contains(content, "mine: secret") || strings.Contains(content, "root:") {
				t.Errorf("in the folder: %q", name)
			}
			continue
		}
		if before[path] != content {
			t.Errorf("%s is changed or new", path)
		}
		delete(before, path)
	}
	if len(before) > 0 {
		t.Errorf("gone: %v", before)
	}
	for path, content := range everything(t, src) {
		if checkpoint[path] != content {
			t.Errorf("%s of the checkpoint is changed", path)
		}
	}
	// And what was packed is what was there.
	res, err := coldload.Verify(t.Context(), dir, coldload.VerifyOptions{Against: src})
	if err != nil || len(res.Differences) > 0 || res.Recomputed != len(evilNames) {
		t.Errorf("%v, %d recomputed, %v", err, res.Recomputed, res.Differences)
	}
}
