package discover

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coldload/coldload/stages"
)

func TestShards(t *testing.T) {
	ab := indexOf("x", "a.safetensors", "y", "b.safetensors", "z", "a.safetensors")
	for _, tc := range []struct {
		name   string
		files  map[string]string
		path   string // below the folder
		shards []string
		index  string
		single string
		note   string
		kind   Kind
	}{
		{
			name: "single", files: map[string]string{"model.safetensors": "w", "config.json": "{}"},
			shards: []string{"model.safetensors"},
		},
		{
			name: "empty shard is the index stage's", files: map[string]string{"model.safetensors": ""},
			shards: []string{"model.safetensors"},
		},
		{
			name: "index", files: map[string]string{indexName: ab, "b.safetensors": "b", "a.safetensors": "a"},
			shards: []string{"a.safetensors", "b.safetensors"}, index: indexName,
		},
		{
			name:   "index and a shard it does not name",
			files:  map[string]string{indexName: ab, "b.safetensors": "b", "a.safetensors": "a", "consolidated.safetensors": "c"},
			shards: []string{"a.safetensors", "b.safetensors"}, index: indexName, note: "not read: consolidated.safetensors",
		},
		{
			name:   "index wins over a single file",
			files:  map[string]string{indexName: ab, "b.safetensors": "b", "a.safetensors": "a", "model.safetensors": "m"},
			shards: []string{"a.safetensors", "b.safetensors"}, index: indexName, single: "model.safetensors", note: "are both there",
		},
		{
			name:   "single file is the index's shard",
			files:  map[string]string{indexName: indexOf("x", "model.safetensors"), "model.safetensors": "m"},
			shards: []string{"model.safetensors"}, index: indexName,
		},
		{
			name:   "index of another name",
			files:  map[string]string{"diffusion.safetensors.index.json": ab, "b.safetensors": "b", "a.safetensors": "a"},
			shards: []string{"a.safetensors", "b.safetensors"}, index: "diffusion.safetensors.index.json", note: "is used as the index",
		},
		{
			name:  "index named by the user",
			files: map[string]string{"p.safetensors.index.json": ab, indexName: "{", "b.safetensors": "b", "a.safetensors": "a"},
			path:  "p.safetensors.index.json", shards: []string{"a.safetensors", "b.safetensors"}, index: "p.safetensors.index.json",
		},
		{
			name:   "single file beats an index of another name",
			files:  map[string]string{"model.fp16.safetensors.index.json": "{", "model.safetensors": "m", "a.safetensors": "a"},
			shards: []string{"model.safetensors"}, note: "not read: a.safetensors",
		},
		{
			name: "one file of another name", files: map[string]string{"qwen.safetensors": "q", "._qwen.safetensors": "junk"},
			shards: []string{"qwen.safetensors"}, note: "qwen.safetensors, the only .safetensors file",
		},
		{
			name:   "complete set without an index",
			files:  map[string]string{"m-00002-of-00002.safetensors": "2", "m-00001-of-00002.safetensors": "1"},
			shards: []string{"m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"}, note: "the 2 files of the set m are read",
		},
		{
			name:  "file named by the user",
			files: map[string]string{indexName: ab, "b.safetensors": "b", "a.safetensors": "a"},
			path:  "b.safetensors", shards: []string{"b.safetensors"}, note: "only b.safetensors is read", kind: KindFile,
		},
		{
			name:  "file named by the user among others",
			files: map[string]string{"b.safetensors": "b", "a.safetensors": "a"},
			path:  "b.safetensors", shards: []string{"b.safetensors"}, note: "holds 1 other", kind: KindFile,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := folder(t, tc.files)
			path := filepath.Join(dir, tc.path)
			ck := discover(t, path, Options{})
			if got := shardNames(ck); !slices.Equal(got, tc.shards) {
				t.Errorf("shards %q, want %q", got, tc.shards)
			}
			if tc.kind == "" {
				tc.kind = KindFolder
			}
			if ck.Path != path || ck.Dir != dir || ck.Kind != tc.kind {
				t.Errorf("path %q, dir %q, kind %q", ck.Path, ck.Dir, ck.Kind)
			}
			if ck.IndexFile != tc.index || (ck.Index != nil) != (tc.index != "") || ck.Single != tc.single {
				t.Errorf("index %q %v, single %q", ck.IndexFile, ck.Index, ck.Single)
			}
			if notes := strings.Join(ck.Notes, "\n"); !strings.Contains(notes, tc.note) || (tc.note == "") != (notes == "") {
				t.Errorf("notes %q, want %q", notes, tc.note)
			}
			for i, s := range ck.Shards {
				if s.Size != int64(len(tc.files[s.Name])) || s.ModTime.IsZero() {
					t.Errorf("shard %+v", s)
				}
				if got := content(t, ck, i); got != tc.files[s.Name] {
					t.Errorf("%s holds %q", s.Name, got)
				}
			}
		})
	}
}

func content(t *testing.T, ck *Checkpoint, i int) string {
	t.Helper()
	f, err := ck.OpenShard(i)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(f)
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestRefusedFolders(t *testing.T) {
	ab := indexOf("x", "a.safetensors", "y", "b.safetensors")
	for _, tc := range []struct {
		name  string
		files map[string]string
		path  string
		want  []stages.Code
		words []string
	}{
		{name: "empty", want: []stages.Code{stages.CodeNotFound}, words: []string{"is empty", singleName, indexName}},
		{name: "no weights", files: map[string]string{"README.md": ""}, want: []stages.Code{stages.CodeNotFound}, words: []string{"no weights", "README.md"}},
		{
			name: "torch", files: map[string]string{"pytorch_model.bin": "", "config.json": "{}"}, want: []stages.Code{stages.CodeUnsupported},
			words: []string{"not supported yet", "safetensors or GGUF", "pytorch_model.bin"},
		},
		{name: "torch file", files: map[string]string{"m.pt": ""}, path: "m.pt", want: []stages.Code{stages.CodeUnsupported}},
		{
			name: "several ggufs", files: map[string]string{"m-Q4_K_M.gguf": "", "m-Q8_0.gguf": ""}, want: []stages.Code{stages.CodeAmbiguous},
			words: []string{"several GGUF models", "m-Q4_K_M.gguf, m-Q8_0.gguf", "name one of the files"},
		},
		{
			name: "two sets of ggufs", files: map[string]string{"a-00001-of-00001.gguf": "", "b-00001-of-00001.gguf": ""},
			want: []stages.Code{stages.CodeAmbiguous},
		},
		{
			name: "set of ggufs and a single one", files: map[string]string{"a-00001-of-00002.gguf": "", "a-00002-of-00002.gguf": "", "mmproj-F16.gguf": ""},
			want: []stages.Code{stages.CodeAmbiguous},
		},
		{
			name: "incomplete set of ggufs", files: map[string]string{"a-00002-of-00003.gguf": ""},
			want:  []stages.Code{stages.CodeMissingShard, stages.CodeMissingShard},
			words: []string{"a-00001-of-00003.gguf", "a-00003-of-00003.gguf"},
		},
		{
			name: "gguf of a set that is not complete", files: map[string]string{"a-00001-of-00002.gguf": ""}, path: "a-00001-of-00002.gguf",
			want: []stages.Code{stages.CodeMissingShard}, words: []string{"a-00002-of-00002.gguf"},
		},
		{
			name: "second gguf of a set", files: map[string]string{"a-00001-of-00002.gguf": "", "a-00002-of-00002.gguf": ""}, path: "a-00002-of-00002.gguf",
			want: []stages.Code{stages.CodeAmbiguous}, words: []string{"not its first", "a-00001-of-00002.gguf"},
		},
		{name: "gguf is a folder", files: map[string]string{"m.gguf/": ""}, want: []stages.Code{stages.CodeShard}, words: []string{"a folder"}},
		{
			name: "gguf beside an index without shards", files: map[string]string{"m.gguf": "", indexName: ab},
			want: []stages.Code{stages.CodeMissingShard, stages.CodeMissingShard},
		},
		{name: "other file", files: map[string]string{"m.txt": ""}, path: "m.txt", want: []stages.Code{stages.CodeNotFound}},
		{name: "no such path", path: "nothing", want: []stages.Code{stages.CodeNotFound}, words: []string{"does not exist"}},
		{name: "below a file", files: map[string]string{"m.txt": ""}, path: "m.txt/x", want: []stages.Code{stages.CodeNotFound}},
		{
			name: "missing shards", files: map[string]string{indexName: indexOf("x", "a.safetensors", "y", "b.safetensors", "z", "c.safetensors"), "b.safetensors": ""},
			want:  []stages.Code{stages.CodeMissingShard, stages.CodeMissingShard},
			words: []string{"a.safetensors: shard is missing", "c.safetensors: shard is missing", indexName},
		},
		{
			name:  "index without its shards beside a single file",
			files: map[string]string{indexName: ab, "model.safetensors": "m", "a.safetensors": ""},
			want:  []stages.Code{stages.CodeAmbiguous, stages.CodeMissingShard}, words: []string{singleName, indexName, "1 of the 2 shards"},
		},
		{name: "index is no json", files: map[string]string{indexName: "{"}, want: []stages.Code{stages.CodeIndex}, words: []string{indexName}},
		{name: "index without weight_map", files: map[string]string{indexName: `{"metadata": {}}`}, want: []stages.Code{stages.CodeIndex}},
		{name: "empty weight_map", files: map[string]string{indexName: `{"weight_map": {}}`, "model.safetensors": ""}, want: []stages.Code{stages.CodeIndex}},
		{
			name: "tensor twice in the index", files: map[string]string{indexName: indexOf("x", "a.safetensors", "x", "a.safetensors"), "a.safetensors": ""},
			want: []stages.Code{stages.CodeIndex}, words: []string{": x:"},
		},
		{name: "index names a parent", files: map[string]string{indexName: indexOf("x", "../a.safetensors")}, want: []stages.Code{stages.CodeEscape}, words: []string{": x:", "../a"}},
		{name: "index names dots", files: map[string]string{indexName: indexOf("x", "..")}, want: []stages.Code{stages.CodeEscape}},
		{name: "index names an absolute path", files: map[string]string{indexName: indexOf("x", "/etc/a.safetensors")}, want: []stages.Code{stages.CodeEscape}},
		{name: "index names a windows path", files: map[string]string{indexName: indexOf("x", `..\\a.safetensors`)}, want: []stages.Code{stages.CodeEscape}},
		{name: "index names a drive", files: map[string]string{indexName: indexOf("x", "C:a.safetensors")}, want: []stages.Code{stages.CodeEscape}},
		{name: "index names nothing", files: map[string]string{indexName: indexOf("x", "")}, want: []stages.Code{stages.CodeIndex}},
		{name: "index names a NUL", files: map[string]string{indexName: indexOf("x", `a\u0000`)}, want: []stages.Code{stages.CodeIndex}},
		{name: "index is a folder", files: map[string]string{indexName + "/": ""}, want: []stages.Code{stages.CodeIndex}, words: []string{"a folder"}},
		{
			name: "two indexes of other names", files: map[string]string{"a.safetensors.index.json": ab, "b.safetensors.index.json": ab},
			want: []stages.Code{stages.CodeAmbiguous}, words: []string{"several indexes"},
		},
		{
			name: "shards of two names", files: map[string]string{"a.safetensors": "", "b.safetensors": ""},
			want: []stages.Code{stages.CodeAmbiguous}, words: []string{"a.safetensors, b.safetensors"},
		},
		{
			name: "two sets", files: map[string]string{"a-00001-of-00001.safetensors": "", "b-00001-of-00001.safetensors": ""},
			want: []stages.Code{stages.CodeAmbiguous},
		},
		{
			name: "incomplete set", files: map[string]string{"a-00002-of-00004.safetensors": "", "a-00004-of-00004.safetensors": ""},
			want:  []stages.Code{stages.CodeMissingShard, stages.CodeMissingShard},
			words: []string{"a-00001-of-00004.safetensors", "a-00003-of-00004.safetensors"},
		},
		{name: "one of a set", files: map[string]string{"a-00001-of-00002.safetensors": ""}, want: []stages.Code{stages.CodeMissingShard}},
		{name: "set of none", files: map[string]string{"a-00000-of-00000.safetensors": ""}, want: []stages.Code{stages.CodeAmbiguous}},
		{
			name: "number outside its set", files: map[string]string{"a-00001-of-00001.safetensors": "", "a-00002-of-00001.safetensors": ""},
			want: []stages.Code{stages.CodeAmbiguous}, words: []string{"a-00002-of-00001.safetensors"},
		},
		{name: "shard is a folder", files: map[string]string{"model.safetensors/": ""}, want: []stages.Code{stages.CodeShard}, words: []string{"a folder"}},
		{
			name: "every fault at once", files: map[string]string{indexName: ab, "a.safetensors/": "", "config.json": "[", "quant_config.json": "7"},
			want: []stages.Code{stages.CodeMissingShard, stages.CodeShard, stages.CodeConfig, stages.CodeConfig},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := folder(t, tc.files)
			wantFaults(t, refused(t, filepath.Join(dir, tc.path), Options{}), tc.want, tc.words...)
		})
	}
}

func TestManyMissingShards(t *testing.T) {
	dir := folder(t, map[string]string{"a-00001-of-99999.safetensors": ""})
	if faults := refused(t, dir, Options{}); len(faults) != 1001 || !strings.Contains(faults[1000].Problem, "98998 more") {
		t.Errorf("%d faults, the last %v", len(faults), faults[len(faults)-1])
	}
}

func TestRelativePath(t *testing.T) {
	dir := folder(t, map[string]string{"org/name/model.safetensors": "w"})
	t.Chdir(dir)
	// A path that exists is never an id.
	for _, path := range []string{"org/name", "./org/name/", "org/name/model.safetensors"} {
		ck := discover(t, path, Options{HubCache: dir})
		if ck.Dir != filepath.Join(dir, "org", "name") || ck.Repo != "" || ck.Path != path {
			t.Errorf("%s: dir %q, repo %q", path, ck.Dir, ck.Repo)
		}
	}
}

func TestCancelled(t *testing.T) {
	dir := folder(t, map[string]string{"model.safetensors": "w"})
	cause := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := Discover(ctx, dir, Options{}); !errors.Is(err, cause) {
		t.Errorf("error %v", err)
	}
}

func TestOpenShardThatChanged(t *testing.T) {
	dir := folder(t, map[string]string{"model.safetensors": "weights"})
	ck := discover(t, dir, Options{})
	path := filepath.Join(dir, "model.safetensors")
	if err := os.WriteFile(path, []byte("w"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := ck.OpenShard(0)
	var de *stages.DataError
	if !errors.As(err, &de) || de.File != "model.safetensors" || de.Expected != "7 bytes" || de.Found != "1 bytes" {
		t.Errorf("changed: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	_, err = ck.OpenShard(0)
	var re *stages.RefusedError
	if !errors.As(err, &re) || re.Faults[0].Code != stages.CodeMissingShard {
		t.Errorf("removed: %v", err)
	}
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	_, err = ck.OpenShard(0)
	if !errors.As(err, &re) || re.Faults[0].Code != stages.CodeShard {
		t.Errorf("a folder: %v", err)
	}
}

func TestOtherFiles(t *testing.T) {
	dir := folder(t, map[string]string{
		"model.safetensors": "", "extra.safetensors": "", "pytorch_model.bin": "", "pytorch_model.bin.index.json": "", "m.gguf": "",
		"config.json": "{}", "tokenizer.json": "tok", "vocab.bin": "v", ".gitattributes": "", "original/params.json": "",
	})
	ck := discover(t, dir, Options{})
	if got, want := ck.OtherFiles(), []string{"config.json", "tokenizer.json", "vocab.bin"}; !slices.Equal(got, want) {
		t.Errorf("other files %q, want %q", got, want)
	}
	f, err := ck.Open("tokenizer.json")
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(f)
	if err = errors.Join(err, f.Close()); err != nil || string(data) != "tok" {
		t.Errorf("content %q, %v", data, err)
	}
	if _, err := ck.Open("nothing.json"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
	var re *stages.RefusedError
	if f, err := ck.Open("original/params.json"); err != nil || f.Close() != nil {
		t.Errorf("a file in a folder: %v", err)
	}
	if got := ck.Folders(); !slices.Equal(got, []string{"original"}) {
		t.Errorf("folders %q", got)
	}
	for _, name := range []string{"../x", "original/../../x", "..", "/etc/passwd", ""} {
		if _, err := ck.Open(name); !errors.As(err, &re) || re.Faults[0].Code != stages.CodeEscape {
			t.Errorf("Open(%q): %v", name, err)
		}
	}
	if _, err := ck.Open("original"); !errors.As(err, &re) || re.Faults[0].Code != stages.CodeNotFound {
		t.Errorf("a folder: %v", err)
	}
}
