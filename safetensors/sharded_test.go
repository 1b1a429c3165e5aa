package safetensors_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/coldload/coldload/safetensors"
)

// shard is a file with one-byte tensors of the given names; each byte is the last letter of the name.
func shard(names ...string) []byte {
	var entries []string
	var data []byte
	for i, name := range names {
		entries = append(entries, tensor(name, "U8", "1", fmt.Sprintf("%d,%d", i, i+1)))
		data = append(data, name[len(name)-1])
	}
	return append(fileOf("{"+strings.Join(entries, ",")+"}"), data...)
}

func folder(index string, shards map[string][]byte) fstest.MapFS {
	fsys := fstest.MapFS{"m/" + safetensors.IndexName: {Data: []byte(mapOf(index))}}
	for name, data := range shards {
		fsys["m/"+name] = &fstest.MapFile{Data: data}
	}
	return fsys
}

func TestOpenShardedFS(t *testing.T) {
	s, err := safetensors.OpenShardedFS(folder(`"b":"2","a":"1","c":"1"`, map[string][]byte{"1": shard("c", "a"), "2": shard("b")}), "m")
	if err != nil {
		t.Fatal(err)
	}
	checkSharded(t, s)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func checkSharded(t *testing.T, s *safetensors.Sharded) {
	t.Helper()
	var got []string
	for f, info := range s.All() {
		got = append(got, filepath.Base(f.Name())+info.Name)
	}
	if want := []string{"1c", "1a", "2b"}; !slices.Equal(got, want) {
		t.Errorf("All %q", got)
	}
	for range s.All() {
		break
	}
	buf := make([]byte, 1)
	for _, name := range []string{"a", "b", "c"} {
		if err := s.ReadInto(name, buf); err != nil || string(buf) != name {
			t.Errorf("%s is %q, %v", name, buf, err)
		}
		if info, err := s.Info(name); err != nil || info.Name != name {
			t.Errorf("%+v, %v", info, err)
		}
		if r, err := s.Section(name); err != nil || r.Size() != 1 {
			t.Errorf("%+v, %v", r, err)
		}
	}
	for _, err := range []error{s.ReadInto("none", nil), second(s.Section("none")), second(s.Info("none")), second(s.File("none"))} {
		if !errors.Is(err, safetensors.ErrNotFound) {
			t.Error(err)
		}
	}
	if s.Index().Len() != 3 || len(s.Files()) != 2 {
		t.Errorf("%d tensors, %d files", s.Index().Len(), len(s.Files()))
	}
}

func TestShardedFaults(t *testing.T) {
	type shards map[string][]byte
	for _, tc := range []struct {
		name   string
		index  string
		shards shards
		want   []string // one fault each: what its line must hold
	}{
		{"missing shard", `"a":"1","b":"2"`, shards{"1": shard("a")}, []string{"m/2: shard is missing"}},
		{"in no header", `"a":"1","b":"1"`, shards{"1": shard("a")}, []string{`"b": tensor is in the index but in no header: expected it in 1`}},
		{"not in the index", `"a":"1"`, shards{"1": shard("a", "b")}, []string{`m/1: "b": tensor is in a header but not in the index`}},
		{"wrong shard", `"a":"1","b":"2"`, shards{"1": shard("b"), "2": shard("a")}, []string{
			`m/1: "b": tensor is not in the shard that the index names: expected it in 2, found it in 1`,
			`m/2: "a": tensor is not in the shard that the index names: expected it in 1, found it in 2`,
		}},
		{"in two shards", `"a":"1","b":"2"`, shards{"1": shard("a"), "2": shard("b", "a")}, []string{
			`m/2: "a": tensor appears twice: expected it only in 1, found it in 2 too`,
		}},
		{"broken header", `"a":"1","b":"2"`, shards{"1": shard("a"), "2": shard("b")[:30]}, []string{"m/2: byte 0: header runs past"}},
		{"everything at once", `"a":"1","b":"2","c":"3","d":"1","e":"2"`, shards{"1": shard("a", "b", "x"), "2": shard("b", "a")}, []string{
			"m/3: shard is missing", `m/1: "b": tensor appears twice`, `m/1: "x": tensor is in a header`, `m/2: "a": tensor appears twice`,
			`"d": tensor is in the index`, `"e": tensor is in the index`,
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := safetensors.OpenShardedFS(folder(tc.index, tc.shards), "m")
			checkFaults(t, err, tc.want)
		})
	}
}

func checkFaults(t *testing.T, err error, want []string) {
	t.Helper()
	faults, ok := errors.AsType[*safetensors.FaultsError](err)
	if !ok {
		t.Fatalf("%T: %v", err, err)
	}
	if len(faults.Faults) != len(want) || len(faults.Unwrap()) != len(want) {
		t.Fatalf("%v\nwant %q", err, want)
	}
	for i, f := range faults.Faults {
		if line := filepath.ToSlash(f.Error()); !strings.Contains(line, want[i]) || !strings.Contains(line, "m/") {
			t.Errorf("fault %d is %q, want %q", i, line, want[i])
		}
		if !errors.Is(err, f.Err) {
			t.Errorf("errors.Is does not find %v", f.Err)
		}
	}
}

func TestManyFaults(t *testing.T) {
	var entries []string
	for i := range 10_050 {
		entries = append(entries, fmt.Sprintf(`"t%d":"1"`, i))
	}
	_, err := safetensors.OpenShardedFS(folder(strings.Join(entries, ","), map[string][]byte{"1": fileOf("{}")}), "m")
	faults, ok := errors.AsType[*safetensors.FaultsError](err)
	if !ok || len(faults.Faults) != 10_000 || faults.Omitted != 50 {
		t.Fatalf("%T with %d faults", err, len(faults.Faults))
	}
	if lines := strings.Split(err.Error(), "\n"); len(lines) != 22 || lines[21] != "\tand 10030 more" {
		t.Errorf("%d lines: %s", len(lines), lines[len(lines)-1])
	}
}

func TestCheck(t *testing.T) {
	ix, err := safetensors.ParseIndex([]byte(mapOf(`"a":"1","b":"2"`)))
	if err != nil {
		t.Fatal(err)
	}
	one := mustParse(t, `{`+tensor("a", "U8", "0", "0,0")+`}`, 0)
	two := mustParse(t, `{`+tensor("b", "U8", "0", "0,0")+`}`, 0)
	if err := ix.Check(map[string]*safetensors.Header{"1": one, "2": two}); err != nil {
		t.Error(err)
	}
	err = ix.Check(map[string]*safetensors.Header{"2": two, "3": one})
	if !errors.Is(err, safetensors.ErrMissingShard) || !errors.Is(err, safetensors.ErrNotInIndex) {
		t.Error(err)
	}
}

func TestOpenSharded(t *testing.T) {
	dir := t.TempDir()
	for name, file := range folder(`"b":"2","a":"1","c":"1"`, map[string][]byte{"1": shard("c", "a"), "2": shard("b")}) {
		writeFile(t, filepath.Join(dir, filepath.Base(name)), file.Data)
	}
	s, err := safetensors.OpenSharded(dir)
	if err != nil {
		t.Fatal(err)
	}
	checkSharded(t, s)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	for path, rule := range map[string]error{filepath.Join(dir, "none"): fs.ErrNotExist, filepath.Join(dir, ".."): fs.ErrNotExist} {
		if _, err := safetensors.OpenSharded(path); !errors.Is(err, rule) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestLinks has the folders of a Hugging Face cache: links out of the snapshot are refused, and followed below a wider root.
func TestLinks(t *testing.T) {
	hub := t.TempDir()
	snapshot, blobs := filepath.Join(hub, "models--m", "snapshots", "0a"), filepath.Join(hub, "models--m", "blobs")
	for _, d := range []string{snapshot, blobs} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	writeFile(t, filepath.Join(blobs, "index"), []byte(mapOf(`"a":"1"`)))
	writeFile(t, filepath.Join(blobs, "hash"), shard("a"))
	link := func(target, name string) {
		if err := os.Symlink("../../blobs/"+target, filepath.Join(snapshot, name)); err != nil {
			t.Skip(err)
		}
	}
	link("index", safetensors.IndexName)
	checkOutside(t, snapshot)
	link("hash", "1")
	plain := filepath.Join(hub, "models--m", "real")
	if err := os.Mkdir(plain, 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(plain, safetensors.IndexName), []byte(mapOf(`"a":"1"`)))
	if err := os.Symlink("../blobs/hash", filepath.Join(plain, "1")); err != nil {
		t.Fatal(err)
	}
	checkOutside(t, plain)
	root, err := os.OpenRoot(hub)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	s, err := safetensors.OpenShardedFS(root.FS(), "models--m/snapshots/0a")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func checkOutside(t *testing.T, dir string) {
	t.Helper()
	_, err := safetensors.OpenSharded(dir)
	if !errors.Is(err, safetensors.ErrOutside) || !strings.Contains(err.Error(), "OpenShardedFS") {
		t.Errorf("a link out of the folder: %v", err)
	}
}

func TestIndexFileRefused(t *testing.T) {
	const name = "m/" + safetensors.IndexName
	large := safetensors.WithLimits(safetensors.Limits{MaxIndexBytes: 4})
	for _, tc := range []struct {
		fsys fs.FS
		opts []safetensors.Option
		rule error
	}{
		{fstest.MapFS{}, nil, fs.ErrNotExist},
		{fstest.MapFS{name: {Mode: fs.ModeDir}}, nil, safetensors.ErrNotRegular},
		{fstest.MapFS{name: {Data: []byte(`{}`)}}, nil, safetensors.ErrNoWeightMap},
		{folder(`"a":"../x"`, nil), nil, safetensors.ErrShardName},
		{folder(`"a":"1"`, nil), []safetensors.Option{large}, safetensors.ErrIndexTooLarge},
	} {
		_, err := safetensors.OpenShardedFS(tc.fsys, "m", tc.opts...)
		if !errors.Is(err, tc.rule) || !strings.Contains(err.Error(), safetensors.IndexName) {
			t.Errorf("got %v, want %v", err, tc.rule)
		}
	}
}
