//go:build unix

package discover

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coldload/coldload/stages"
)

// settles wants that a checkpoint is accepted, or refused with faults that say something.
func settles(t *testing.T, ck *Checkpoint, err error) {
	t.Helper()
	if err == nil {
		if err := ck.Close(); err != nil {
			t.Fatal(err)
		}
		return
	}
	refused, ok := errors.AsType[*stages.RefusedError](err)
	if !ok || len(refused.Faults) == 0 {
		t.Fatalf("%T: %v", err, err)
	}
	for _, f := range refused.Faults {
		if f.Code == "" || f.Problem == "" {
			t.Fatalf("fault %+v", f)
		}
	}
}

// FuzzConfigs gives any text for config.json, a config of quantisation and the index.
func FuzzConfigs(f *testing.F) {
	fixtures := filepath.Join("..", "..", "testdata", "fixtures", "*", "checkpoint")
	dirs, err := filepath.Glob(fixtures)
	if err != nil || len(dirs) == 0 {
		f.Fatal(dirs, err)
	}
	for _, dir := range dirs {
		text := func(name string) string {
			data, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				return "" // not every tool writes each
			}
			return string(data)
		}
		f.Add(text("config.json"), text("quantize_config.json")+text("quant_config.json"), text(indexName))
	}
	f.Add(`{"quantization_config":{"quant_method":"gptq","bits":4,"dynamic":{"-:.*":{}}}}`, `{"bits":1e99}`, `{"weight_map":{"a":"../x"}}`)
	f.Add(`{"model_type":"a","text_config":{"model_type":"b"}}`, "null", `{"weight_map":{"a":"model.safetensors","a":"model.safetensors"}}`)
	f.Fuzz(func(t *testing.T, config, quant, index string) {
		dir := t.TempDir()
		for name, text := range map[string]string{"config.json": config, "quantize_config.json": quant, indexName: index, "model.safetensors": "w"} {
			if text == "" {
				continue
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		ck, err := Discover(t.Context(), dir, Options{})
		settles(t, ck, err)
	})
}

// FuzzHubCache makes an entry of the Hugging Face cache of any files and links, as script says: lines of a name and, after an arrow, what it
// links to. Whatever it is, no byte from outside of the cache is read.
func FuzzHubCache(f *testing.F) {
	const sha = "0123456789"
	entry := "models--org--name/"
	f.Add("org/name", strings.Join([]string{entry + "refs/main=" + sha, entry + "blobs/w=w", entry + "snapshots/" + sha + "/model.safetensors>../../blobs/w"}, "\n"))
	f.Add("org/name@main", strings.Join([]string{entry + "refs/main>../../../outside/ref", entry + "snapshots/" + sha + "/model.safetensors>../../../../outside/w"}, "\n"))
	f.Add("org/name@"+sha, strings.Join([]string{entry + "snapshots/" + sha + ">../../../outside"}, "\n"))
	f.Add("org/name", strings.Join([]string{"models--org--name>../outside"}, "\n"))
	f.Add("\x00", "")
	f.Add(strings.Repeat("n", 5000), "")
	f.Add("org/name", strings.Join([]string{entry + "refs/main=../../../outside", entry + "snapshots/x/model.safetensors=w"}, "\n"))
	f.Fuzz(func(t *testing.T, id, script string) {
		if strings.Count(script, "\n") > 20 || strings.HasPrefix(id, "/") || strings.HasPrefix(id, ".") || strings.Contains(id, "..") {
			return // paths of the machine are no ids
		}
		above := t.TempDir()
		cache, outside := filepath.Join(above, "cache"), filepath.Join(above, "outside")
		const secret = "not for you"
		for path, text := range map[string]string{"w": secret, "model.safetensors": secret, "ref": "0123456789", "config.json": `{"model_type":"` + secret + `"}`} {
			if err := errors.Join(os.MkdirAll(outside, 0o755), os.WriteFile(filepath.Join(outside, path), []byte(text), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		build(t, cache, script)
		t.Chdir(outside) // nothing relative is found by chance in the cache
		ck, err := Discover(t.Context(), id, Options{HubCache: cache})
		if err != nil {
			settles(t, ck, err)
			return
		}
		if ck.Repo == "" {
			settles(t, ck, nil) // the name of a file that lies here
			return
		}
		for i := range ck.Shards {
			f, err := ck.OpenShard(i)
			if err != nil {
				continue
			}
			data, err := io.ReadAll(f)
			if err = errors.Join(err, f.Close()); err != nil || strings.Contains(string(data), secret) {
				t.Errorf("%q, %v", data, err)
			}
		}
		if ck.Config != nil && ck.Config.ModelType == secret {
			t.Error("the config lies outside")
		}
		settles(t, ck, nil)
	})
}

// build makes the files and links of a script below dir, as far as they can be made there.
func build(t *testing.T, dir, script string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for line := range strings.SplitSeq(script, "\n") {
		i := strings.IndexAny(line, "=>")
		if i < 0 {
			continue
		}
		name := line[:i]
		_ = root.MkdirAll(filepath.Dir(name), 0o755) // what cannot be made is not there
		if line[i] == '>' {
			_ = root.Symlink(line[i+1:], name)
		} else {
			_ = root.WriteFile(name, []byte(line[i+1:]), 0o600)
		}
	}
}

// TestLinkIsReplacedMeanwhile: somebody turns a link inside the folder into one that leaves it, and back, as fast as it goes. What is opened is
// the file inside, or nothing.
func TestLinkIsReplacedMeanwhile(t *testing.T) {
	dir := folder(t, map[string]string{"blobs/w": "inside"})
	outside := folder(t, map[string]string{"w": "outside"})
	name := filepath.Join(dir, "model.safetensors")
	link(t, "blobs/w", name)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			target := []string{filepath.Join(outside, "w"), "blobs/w", "../" + filepath.Base(outside) + "/w", filepath.Join(dir, "blobs/w")}[i%4]
			next := name + ".next"
			if os.Symlink(target, next) != nil || os.Rename(next, name) != nil {
				return
			}
		}
	}()
	seen := map[string]int{}
	for range 2000 {
		ck, err := Discover(t.Context(), dir, Options{})
		if err != nil {
			seen["refused"]++
			continue
		}
		f, err := ck.OpenShard(0)
		if err != nil {
			seen["refused late"]++
		} else {
			data, err := io.ReadAll(f)
			if err = errors.Join(err, f.Close()); err != nil {
				t.Error(err)
			}
			seen[string(data)]++
		}
		if err := ck.Close(); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	<-stopped
	t.Log(seen)
	if seen["outside"] > 0 || seen["inside"] == 0 {
		t.Errorf("what was read: %v", slices.Collect(func(yield func(string) bool) {
			for k := range seen {
				if !yield(k) {
					return
				}
			}
		}))
	}
}
