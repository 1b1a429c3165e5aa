package discover

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coldload/coldload/gguf"
)

// described is a GGUF file of metadata alone.
func described(t *testing.T, kv ...gguf.KeyValue) string {
	t.Helper()
	var b bytes.Buffer
	w, err := gguf.NewWriter(&b, kv, nil, gguf.WriterOptions{})
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestGGUFModel: the metadata is the config; what cannot be is as if it were not there.
func TestGGUFModel(t *testing.T) {
	good := described(
		t, gguf.KeyValue{Key: "general.architecture", Value: "qwen3moe"}, gguf.KeyValue{Key: "qwen3moe.block_count", Value: uint32(48)},
		gguf.KeyValue{Key: "qwen3moe.expert_count", Value: uint32(128)}, gguf.KeyValue{Key: "qwen3moe.embedding_length", Value: uint64(2048)},
		gguf.KeyValue{Key: "qwen3moe.feed_forward_length", Value: uint32(6144)}, gguf.KeyValue{Key: "qwen3moe.expert_feed_forward_length", Value: int32(768)},
	)
	odd := described(
		t, gguf.KeyValue{Key: "general.architecture", Value: "x"}, gguf.KeyValue{Key: "x.block_count", Value: uint64(1 << 63)},
		gguf.KeyValue{Key: "x.expert_count", Value: int32(-1)}, gguf.KeyValue{Key: "x.embedding_length", Value: "2048"},
		gguf.KeyValue{Key: "x.feed_forward_length", Value: []uint32{1, 2}},
	)
	for name, test := range map[string]struct {
		file string
		want ModelConfig
	}{
		"good":    {good, ModelConfig{ModelType: "qwen3moe", NumLayers: 48, NumExperts: 128, HiddenSize: 2048, IntermediateSize: 6144, MoEIntermediateSize: 768}},
		"odd":     {odd, ModelConfig{ModelType: "x"}},
		"nothing": {described(t), ModelConfig{}},
		"damaged": {"GGUF", ModelConfig{}},
	} {
		dir := folder(t, map[string]string{"m.gguf": test.file, "tokenizer.json": "{}", "config.json": `{"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}`})
		ck := discover(t, dir, Options{})
		got := *ck.Config
		if got.ModelType != test.want.ModelType || got.NumLayers != test.want.NumLayers || got.NumExperts != test.want.NumExperts || got.HiddenSize != test.want.HiddenSize ||
			got.IntermediateSize != test.want.IntermediateSize || got.MoEIntermediateSize != test.want.MoEIntermediateSize || got.Present || got.Doc != nil {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
		if q := ck.Quant; q == nil || q.Method != MethodGGUF || q.Where != "m.gguf" || len(q.Members()) != 0 {
			t.Errorf("%s: quantisation %+v", name, q)
		}
		if len(ck.OtherFiles()) != 0 {
			t.Errorf("%s: other files %q", name, ck.OtherFiles())
		}
		if !slices.ContainsFunc(ck.Notes, func(n string) bool { return strings.Contains(n, "config.json is not used") }) {
			t.Errorf("%s: notes %q", name, ck.Notes)
		}
		silent := slices.ContainsFunc(ck.Notes, func(n string) bool { return strings.Contains(n, "does not say general.architecture") })
		if silent != (name == "nothing") {
			t.Errorf("%s: notes %q", name, ck.Notes)
		}
	}
}

// TestGGUFShards: one file, one set, by name or by folder, and what else lies there.
func TestGGUFShards(t *testing.T) {
	set := map[string]string{"m-00001-of-00002.gguf": "1", "m-00002-of-00002.gguf": "2"}
	with := func(more ...string) map[string]string {
		all := map[string]string{"m-00001-of-00002.gguf": "1", "m-00002-of-00002.gguf": "2"}
		for _, name := range more {
			all[name] = ""
		}
		return all
	}
	two := []string{"m-00001-of-00002.gguf", "m-00002-of-00002.gguf"}
	for _, test := range []struct {
		name  string
		files map[string]string
		path  string
		want  []string
	}{
		{"one", map[string]string{"a.gguf": ""}, "", []string{"a.gguf"}},
		{"one, by name", map[string]string{"a.gguf": "", "b.gguf": "", "model.safetensors": ""}, "a.gguf", []string{"a.gguf"}},
		{"set", set, "", two},
		{"set, by its first", with("other.gguf", "mmproj.gguf"), two[0], two},
		{"hidden ones", with("._m.gguf"), "", two},
		{"safetensors go first", with("model.safetensors"), "", []string{"model.safetensors"}},
		{"safetensors by name", with("a.safetensors"), "a.safetensors", []string{"a.safetensors"}},
		{"set of one", map[string]string{"m-00001-of-00001.gguf": ""}, "", []string{"m-00001-of-00001.gguf"}},
	} {
		ck := discover(t, filepath.Join(folder(t, test.files), test.path), Options{})
		if got := shardNames(ck); !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}
