// Package ckpt builds small checkpoints from Go literals, good and malformed ones, for table tests of what reads and loads them.
//
//	dir := ckpt.New(t).
//		Shard("model-00001-of-00002.safetensors", ckpt.Dense("model.norm.weight", safetensors.BF16, 1, 256)).
//		Shard("model-00002-of-00002.safetensors", ckpt.GPTQ("model.layers.0.mlp.down_proj", 256, 128, 4, 128, ckpt.GPTQOptions{})).
//		AutoIndex().
//		JSON("config.json", map[string]any{"model_type": "llama"}).
//		Write()
//
// A Builder never checks what it is given: a test may ask for two tensors of one name, or for a header that lies.
package ckpt

import (
	"encoding/binary"
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/coldload/coldload/internal/synth"
	"github.com/coldload/coldload/safetensors"
)

// Item is what a Shard is made of: one tensor, or the tensors of a Module.
type Item interface {
	// Tensors are the Item's tensors in the order of their data.
	Tensors() []T
}

// T is one tensor. Its bytes are Data, or come from Fill when Data is nil, or are zeros when both are.
type T struct {
	Name  string
	DType safetensors.DType
	Shape []int64
	Data  []byte // must be as long as DType and Shape say: use RawShard for a header that lies
	Fill  synth.Fill
}

// Tensors is the tensor alone.
func (t T) Tensors() []T { return []T{t} }

// List is several Items as one.
type List []Item

// Tensors are those of all Items, in order.
func (l List) Tensors() []T {
	var all []T
	for _, item := range l {
		all = append(all, item.Tensors()...)
	}
	return all
}

// Dense is a tensor of random values (see synth.Random).
func Dense(name string, d safetensors.DType, seed uint64, shape ...int64) T {
	return T{Name: name, DType: d, Shape: shape, Fill: synth.Random(d, seed)}
}

// Int32s is an I32 tensor of one dimension with the values given.
func Int32s(name string, values ...int32) T {
	return T{Name: name, DType: safetensors.I32, Shape: []int64{int64(len(values))}, Data: int32Bytes(values)}
}

// Model is a whole synthetic checkpoint: its tensors, for a test to spoil, and its config.json. Ask for the model "micro" to keep it small.
func Model(tb testing.TB, o synth.Options) (tensors List, config map[string]any) {
	tb.Helper()
	specs, err := synth.Tensors(o)
	if err != nil {
		tb.Fatal(err)
	}
	for _, s := range specs {
		tensors = append(tensors, T{Name: s.Name, DType: s.DType, Shape: s.Shape, Fill: s.Fill})
	}
	config, err = synth.Config(o)
	if err != nil {
		tb.Fatal(err)
	}
	return tensors, config
}

// Without is the Item less the tensors whose names end in "." and one of the suffixes: Without(module, "scales") has no scales.
func Without(item Item, suffixes ...string) Item {
	var rest List
	for _, t := range item.Tensors() {
		if !slices.ContainsFunc(suffixes, func(s string) bool { return hasSuffix(t.Name, s) }) {
			rest = append(rest, t)
		}
	}
	return rest
}

// Replace is the Item with every tensor of t's name replaced by t.
func Replace(item Item, t T) Item {
	var all List
	for _, old := range item.Tensors() {
		if old.Name == t.Name {
			old = t
		}
		all = append(all, old)
	}
	return all
}

func hasSuffix(name, suffix string) bool {
	n := len(name) - len(suffix) - 1
	return n >= 0 && name[n] == '.' && name[n+1:] == suffix
}

// Builder collects the files of one checkpoint. Methods return the Builder; failures end the test.
type Builder struct {
	tb      testing.TB
	files   map[string][]byte
	links   map[string]string
	weights map[string]string // what AutoIndex writes
}

// New starts a checkpoint. The test's end removes what Write makes.
func New(tb testing.TB) *Builder {
	tb.Helper()
	return &Builder{tb: tb, files: map[string][]byte{}, links: map[string]string{}, weights: map[string]string{}}
}

// Shard adds a well-formed weight file.
func (b *Builder) Shard(name string, items ...Item) *Builder {
	b.tb.Helper()
	tensors := List(items).Tensors()
	specs := make([]synth.Spec, len(tensors))
	for i, t := range tensors {
		specs[i] = synth.Spec{Name: t.Name, DType: t.DType, Shape: t.Shape}
		b.weights[t.Name] = name
	}
	file, err := header(specs)
	if err != nil {
		b.tb.Fatal(err)
	}
	for i := range tensors {
		n, err := specs[i].Bytes()
		if err != nil {
			b.tb.Fatal(err)
		}
		file = append(file, b.data(&tensors[i], n)...)
	}
	b.files[name] = file
	return b
}

func (b *Builder) data(t *T, n int64) []byte {
	b.tb.Helper()
	data := t.Data
	if data == nil {
		data = make([]byte, n)
		if t.Fill != nil {
			t.Fill.Fill(data, 0)
		}
	}
	if int64(len(data)) != n {
		b.tb.Fatalf("ckpt: tensor %q: %s %v takes %d bytes, not %d", t.Name, t.DType, t.Shape, n, len(data))
	}
	return data
}

// RawShard adds a weight file whose header is the text given, without padding or checks, followed by data.
func (b *Builder) RawShard(name, header string, data []byte) *Builder {
	file := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	b.files[name] = append(append(file, header...), data...)
	return b
}

// Index adds model.safetensors.index.json with this weight_map.
func (b *Builder) Index(weights map[string]string) *Builder {
	b.tb.Helper()
	return b.JSON("model.safetensors.index.json", map[string]any{
		"metadata": map[string]any{"total_size": 0}, "weight_map": weights,
	})
}

// AutoIndex adds the index that fits the Shards added so far (by Shard, not RawShard).
func (b *Builder) AutoIndex() *Builder {
	b.tb.Helper()
	return b.Index(b.weights)
}

// WeightMap is a copy of what AutoIndex writes, for a test to spoil and give to Index.
func (b *Builder) WeightMap() map[string]string { return maps.Clone(b.weights) }

// JSON adds a file with v as JSON.
func (b *Builder) JSON(name string, v any) *Builder {
	b.tb.Helper()
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		b.tb.Fatal(err)
	}
	return b.File(name, data)
}

// File adds a file with these bytes.
func (b *Builder) File(name string, data []byte) *Builder {
	b.files[name] = data
	return b
}

// Edit changes a file that was added before: to cut it, to flip a byte, to append junk.
func (b *Builder) Edit(name string, edit func([]byte) []byte) *Builder {
	b.tb.Helper()
	data, ok := b.files[name]
	if !ok {
		b.tb.Fatalf("ckpt: no file %q to edit", name)
	}
	b.files[name] = edit(slices.Clone(data))
	return b
}

// Symlink adds a symbolic link to target.
func (b *Builder) Symlink(name, target string) *Builder {
	b.links[name] = target
	return b
}

// Write makes a new folder of the test with all files and returns its path. It may be called again, for another copy.
func (b *Builder) Write() string {
	b.tb.Helper()
	dir := b.tb.TempDir()
	for name, data := range b.files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			b.tb.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			b.tb.Fatal(err)
		}
	}
	for name, to := range b.links {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			b.tb.Fatal(err)
		}
	}
	return dir
}

// Tree is every regular file below a folder, by its name with slashes.
func Tree(tb testing.TB, dir string) map[string]string {
	tb.Helper()
	files := map[string]string{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			var data []byte
			data, err = os.ReadFile(filepath.Join(dir, name))
			files[name] = string(data)
		}
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return files
}
