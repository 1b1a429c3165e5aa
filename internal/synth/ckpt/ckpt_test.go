package ckpt

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coldload/coldload/internal/synth"
	"github.com/coldload/coldload/safetensors"
)

// hash is the generator of the golden vectors (LAYOUTS G2).
func hash(a, b uint32) uint32 {
	x := a*2654435761 ^ b*2246822519
	return (x ^ x>>15) * 3266489917 >> 16
}

// golden is a Module with the codes, and in 4 bits the zero points, of the golden vectors.
func golden(bits int, v2 bool) *Module {
	const k, n, group = 128, 256, 32
	m := GPTQ("m", k, n, bits, group, GPTQOptions{V2: v2})
	for i := range m.Codes {
		m.Codes[i] = byte(hash(uint32(i/n), uint32(i%n)) & (1<<bits - 1))
	}
	if bits == 4 {
		for i := range m.Zeros {
			m.Zeros[i] = byte(1 + hash(1000+uint32(i/n), uint32(i%n))%15)
		}
	}
	return m
}

func data(t *testing.T, item Item, name string) []byte {
	t.Helper()
	for _, x := range item.Tensors() {
		if x.Name == name {
			return x.Data
		}
	}
	t.Fatalf("no tensor %q", name)
	return nil
}

func TestGPTQPacksLikeTheGoldenVectors(t *testing.T) {
	for bits, want := range map[int]uint32{2: 0xBDFF5FD8, 3: 0xE64E3A1D, 4: 0xF1295A29, 8: 0x5ABC376D} {
		if got := crc32.ChecksumIEEE(data(t, golden(bits, false), "m.qweight")); got != want {
			t.Errorf("%d bits: qweight %#08X, want %#08X", bits, got, want)
		}
	}
	for v2, want := range map[bool]uint32{true: 0xA7F6DFCA, false: 0x0DD92FEA} {
		if got := crc32.ChecksumIEEE(data(t, golden(4, v2), "m.qzeros")); got != want {
			t.Errorf("v2 %v: qzeros %#08X, want %#08X", v2, got, want)
		}
	}
}

// TestWeightIsWhatTheTensorsEncode decodes the packed tensors again.
func TestWeightIsWhatTheTensorsEncode(t *testing.T) {
	m := GPTQ("m", 128, 64, 4, 32, GPTQOptions{Seed: 9, DescAct: true, Asym: true})
	codes, zeros, idx := data(t, m, "m.qweight"), data(t, m, "m.qzeros"), data(t, m, "m.g_idx")
	weight := m.Weight()
	for k := range 128 {
		g := int(binary.LittleEndian.Uint32(idx[k*4:]))
		for n := range 64 {
			code := binary.LittleEndian.Uint32(codes[(k/8*64+n)*4:]) >> (4 * (k % 8)) & 15
			zero := binary.LittleEndian.Uint32(zeros[(g*8+n/8)*4:])>>(4*(n%8))&15 + 1
			want := m.Scales[g*64+n].Float32() * (float32(code) - float32(zero))
			if weight[n*128+k] != want {
				t.Fatalf("k %d, n %d: %g, want %g", k, n, weight[n*128+k], want)
			}
		}
	}
}

func TestGPTQOptions(t *testing.T) {
	names := func(item Item) string {
		var all []string
		for _, x := range item.Tensors() {
			all = append(all, strings.TrimPrefix(x.Name, "m."))
		}
		return strings.Join(all, " ")
	}
	full := GPTQ("m", 64, 32, 4, -1, GPTQOptions{Bias: true})
	for item, want := range map[Item]string{
		full: "g_idx scales bias qweight qzeros",
		GPTQ("m", 64, 32, 4, 32, GPTQOptions{NoGIdx: true}): "scales qweight qzeros",
	} {
		if got := names(item); got != want {
			t.Errorf("tensors %s, want %s", got, want)
		}
	}
	if got := names(Without(full, "scales", "bias")); got != "g_idx qweight qzeros" {
		t.Errorf("without scales and bias: %s", got)
	}
	replaced := Replace(full, Int32s("m.g_idx", 1, 2))
	if got := data(t, replaced, "m.g_idx"); !bytes.Equal(got, []byte{1, 0, 0, 0, 2, 0, 0, 0}) {
		t.Errorf("replaced g_idx: %v", got)
	}
	shared := GPTQ("n", 64, 32, 4, 32, GPTQOptions{GIdx: full.GIdx})
	if !slices.Equal(shared.GIdx, full.GIdx) {
		t.Error("the g_idx given is not used")
	}
}

func TestBuilderWritesWhatItWasTold(t *testing.T) {
	b := New(t).
		Shard("a.safetensors", Dense("x", safetensors.BF16, 1, 4, 8), T{Name: "y", DType: safetensors.U8, Shape: []int64{3}, Data: []byte("abc")}).
		RawShard("b.safetensors", `{"broken"`, []byte("tail")).
		AutoIndex().
		JSON("config.json", map[string]any{"model_type": "llama"}).
		File("sub/notes.txt", []byte("hello")).
		Symlink("c.safetensors", "a.safetensors").
		Edit("sub/notes.txt", func(data []byte) []byte { return data[:4] })
	dir := b.Write()
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	a := read("a.safetensors")
	n := binary.LittleEndian.Uint64(a)
	if len(a) != int(8+n)+64+3 || !bytes.HasSuffix(a, []byte("abc")) || !bytes.Contains(a[:8+n], []byte(`"y":{"dtype":"U8","shape":[3],"data_offsets":[64,67]}`)) {
		t.Errorf("a.safetensors: %q", a)
	}
	if got := read("b.safetensors"); string(got) != "\x09\x00\x00\x00\x00\x00\x00\x00{\"broken\"tail" {
		t.Errorf("b.safetensors: %q", got)
	}
	if !bytes.Contains(read("model.safetensors.index.json"), []byte(`"x": "a.safetensors"`)) {
		t.Error("the index lacks x")
	}
	if got := read("sub/notes.txt"); string(got) != "hell" {
		t.Errorf("notes: %q", got)
	}
	if !bytes.Equal(read("c.safetensors"), a) {
		t.Error("the link does not lead to a")
	}
	if w := b.WeightMap(); len(w) != 2 || w["y"] != "a.safetensors" {
		t.Errorf("weight map: %v", w)
	}
}

// TestModelIsTheSynthCheckpoint compares the file made from a List with the one that synth writes, tensor by tensor.
func TestModelIsTheSynthCheckpoint(t *testing.T) {
	o := synth.Options{Model: "micro", Layers: 1}
	list, config := Model(t, o)
	if config["num_hidden_layers"] != 1 {
		t.Errorf("config: %v", config)
	}
	dir := filepath.Join(t.TempDir(), "synth")
	if _, err := synth.Write(t.Context(), dir, o); err != nil {
		t.Fatal(err)
	}
	want := tensors(t, dir)
	got := tensors(t, New(t).Shard("model.safetensors", list).Write())
	if len(got) != len(want) || len(got) == 0 {
		t.Errorf("%d tensors, synth writes %d", len(got), len(want))
	}
	for name, data := range want {
		if !bytes.Equal(got[name], data) {
			t.Errorf("%s differs", name)
		}
	}
}

// tensors reads model.safetensors of a folder.
func tensors(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	f, err := safetensors.Open(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := map[string][]byte{}
	for name, info := range f.All() {
		all[name] = make([]byte, info.Size())
		if err := f.ReadInto(name, all[name]); err != nil {
			t.Fatal(err)
		}
	}
	return all
}
