package index_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/coldload/coldload/gguf"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

func ggufFile(t *testing.T, meta []gguf.KeyValue, specs ...gguf.Spec) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := gguf.NewWriter(&b, meta, specs, gguf.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range specs {
		n, _ := s.Size()
		if err := w.WriteTensor(s.Name, bytes.Repeat([]byte{byte(i + 1)}, int(n))); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// TestGGUFCatalog: plain numbers have their dtype, blocks are rows of bytes in a layout that names them, and every Extent is where the bytes lie.
func TestGGUFCatalog(t *testing.T) {
	specs := []gguf.Spec{
		{Name: "blocks.weight", Type: gguf.Q4K, Shape: []int64{2, 3, 512}},
		{Name: "f64", Type: gguf.F64, Shape: []int64{1}},
		{Name: "f32", Type: gguf.F32, Shape: []int64{3}},
		{Name: "f16", Type: gguf.F16, Shape: []int64{2, 2}},
		{Name: "bf16", Type: gguf.BF16, Shape: []int64{1}},
		{Name: "i64", Type: gguf.I64, Shape: []int64{1}},
		{Name: "i32", Type: gguf.I32, Shape: []int64{1}},
		{Name: "i16", Type: gguf.I16, Shape: []int64{1}},
		{Name: "i8", Type: gguf.I8, Shape: []int64{5}},
		{Name: "q5", Type: gguf.Q5K, Shape: []int64{256}},
	}
	meta := []gguf.KeyValue{{Key: "general.architecture", Value: "llama"}, {Key: "tokens", Value: []string{"a"}}}
	dir := ckpt.New(t).File("m.gguf", ggufFile(t, meta, specs...)).Write()
	c, _, err := run(t, find(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	dtypes := []stages.DType{
		safetensors.U8, safetensors.F64, safetensors.F32, safetensors.F16, safetensors.BF16, safetensors.I64, safetensors.I32, safetensors.I16, safetensors.I8, safetensors.U8,
	}
	for i, s := range specs {
		at, ok := c.Catalog.Lookup(s.Name)
		x := c.Catalog.Tensor(at)
		shape, layout := s.Shape, stages.LayoutRaw
		switch s.Name {
		case "blocks.weight":
			shape, layout = []int64{2, 3, 288}, "gguf_q4_k"
		case "q5":
			shape, layout = []int64{176}, "gguf_q5_k"
		}
		if !ok || x.DType != dtypes[i] || !slices.Equal(x.Shape, shape) || x.Layout != layout {
			t.Errorf("%+v, want %s %v in %s", x, dtypes[i], shape, layout)
		}
		got := make([]byte, x.Extent.Len)
		if _, err := c.Files[0].ReadAt(got, x.Extent.Off); err != nil || !bytes.Equal(got, bytes.Repeat([]byte{byte(i + 1)}, len(got))) {
			t.Errorf("%s: % x (%v)", s.Name, got, err)
		}
	}
	if arch, ok := c.Catalog.Metadata(0, "general.architecture"); !ok || arch != "llama" {
		t.Errorf("architecture %q", arch)
	}
	if _, ok := c.Catalog.Metadata(0, "tokens"); ok || len(c.Catalog.Notes()) != 0 {
		t.Error("an array is a text")
	}
	text, err := c.Catalog.Description()
	if err != nil {
		t.Fatal(err)
	}
	h, err := gguf.ReadHeader(bytes.NewReader(text), int64(len(text)))
	if err != nil || h.Len() != 0 {
		t.Fatalf("%v", err)
	}
	if v, ok := h.Value("tokens"); !ok || v.Len != 1 {
		t.Errorf("tokens %+v", v)
	}
}

// TestNoDescription: other files have none.
func TestNoDescription(t *testing.T) {
	c, _, err := run(t, find(t, ckpt.New(t).Shard("model.safetensors", u8("a", "1")).Write()))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := c.Catalog.Description(); text != nil || err != nil {
		t.Errorf("%q (%v)", text, err)
	}
}
