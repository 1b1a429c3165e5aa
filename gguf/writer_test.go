package gguf_test

import (
	"bytes"
	"errors"
	"io"
	"math"
	"slices"
	"testing"

	"github.com/coldload/coldload/gguf"
)

func everything() []gguf.KeyValue {
	return []gguf.KeyValue{
		{Key: "general.architecture", Value: "llama"},
		{Key: "general.alignment", Value: uint32(64)},
		{Key: "u8", Value: uint8(1)},
		{Key: "i8", Value: int8(-1)},
		{Key: "u16", Value: uint16(2)},
		{Key: "i16", Value: int16(-2)},
		{Key: "u32", Value: uint32(3)},
		{Key: "i32", Value: int32(-3)},
		{Key: "u64", Value: uint64(4)},
		{Key: "i64", Value: int64(-4)},
		{Key: "f32", Value: float32(0.5)},
		{Key: "f64", Value: 0.25},
		{Key: "bool", Value: true},
		{Key: "tokens", Value: []string{"a", ""}},
		{Key: "types", Value: []int32{1, 2}},
		{Key: "scores", Value: []float32{1}},
		{Key: "bools", Value: []bool{true, false}},
		{Key: "u8s", Value: []uint8{1}},
		{Key: "i8s", Value: []int8{1}},
		{Key: "u16s", Value: []uint16{1}},
		{Key: "i16s", Value: []int16{1}},
		{Key: "u32s", Value: []uint32{1}},
		{Key: "u64s", Value: []uint64{1}},
		{Key: "i64s", Value: []int64{1}},
		{Key: "f64s", Value: []float64{1}},
		{Key: "nested", Value: [][]string{{"a"}, nil}},
		{Key: "nested u32", Value: [][]uint32{{1}}},
		{Key: "nested i32", Value: [][]int32{{1}}},
		{Key: "nested f32", Value: [][]float32{{1}}},
	}
}

// TestWriter: what is written is read, by the reader and by the oracle.
func TestWriter(t *testing.T) {
	specs := []gguf.Spec{
		{Name: "a", Type: gguf.Q4_0, Shape: []int64{3, 32}}, {Name: "b", Type: gguf.F32, Shape: []int64{1}}, {Name: "c", Type: gguf.MXFP4, Shape: []int64{2, 2, 64}},
	}
	var buf bytes.Buffer
	w, err := gguf.NewWriter(&buf, everything(), specs, gguf.WriterOptions{Version: 2})
	if err != nil {
		t.Fatal(err)
	}
	var want [][]byte
	for i, s := range specs {
		n, _ := s.Size()
		data := bytes.Repeat([]byte{byte(i + 1)}, int(n))
		want = append(want, data)
		if err := w.WriteTensor(s.Name, data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); !errors.Is(err, gguf.ErrClosed) {
		t.Errorf("a second Close: %v", err)
	}
	if !bytes.HasPrefix(buf.Bytes(), w.Layout().Bytes()) || w.Layout().Header().FileSize() != int64(buf.Len()) {
		t.Errorf("%d bytes were written, the layout says %d", buf.Len(), w.Layout().Header().FileSize())
	}
	f, err := gguf.NewReader(bytes.NewReader(buf.Bytes()), int64(buf.Len()))
	if err != nil {
		t.Fatal(err)
	}
	slow, err := slowParse(buf.Bytes())
	if err != nil {
		t.Fatal("the oracle refuses it")
	}
	compare(t, f.Header(), slow)
	for i, s := range specs {
		section, err := f.Section(s.Name)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(section); err != nil || !bytes.Equal(got, want[i]) {
			t.Errorf("%s: %d bytes (%v)", s.Name, len(got), err)
		}
		if info, _ := f.Info(s.Name); !slices.Equal(info.Shape, s.Shape) || f.Header().Version() != 2 {
			t.Errorf("%s: %v", s.Name, info.Shape)
		}
	}
}

// TestWriterRefuses: what a reader refuses, a value of a type that there is not, and calls out of order.
func TestWriterRefuses(t *testing.T) {
	f32 := func(shape ...int64) []gguf.Spec { return []gguf.Spec{{Name: "a", Type: gguf.F32, Shape: shape}} }
	for name, test := range map[string]struct {
		meta    []gguf.KeyValue
		specs   []gguf.Spec
		version int
		want    error
	}{
		"value":     {meta: []gguf.KeyValue{{Key: "k", Value: 1}}, want: gguf.ErrValue},
		"key twice": {meta: []gguf.KeyValue{{Key: "k", Value: true}, {Key: "k", Value: true}}, want: gguf.ErrDuplicateKey},
		"alignment": {meta: []gguf.KeyValue{{Key: "general.alignment", Value: uint32(3)}}, want: gguf.ErrAlignment},
		"no dims":   {specs: f32(), want: gguf.ErrOverflow},
		"zero":      {specs: f32(0), want: gguf.ErrOverflow},
		"huge":      {specs: f32(math.MaxInt64, 2), want: gguf.ErrOverflow},
		"five dims": {specs: f32(1, 1, 1, 1, 1), want: gguf.ErrRank},
		"blocks":    {specs: []gguf.Spec{{Name: "a", Type: gguf.Q4K, Shape: []int64{32}}}, want: gguf.ErrOverflow},
		"name":      {specs: []gguf.Spec{{Type: gguf.F32, Shape: []int64{1}}}, want: gguf.ErrName},
		"version":   {version: 1, want: gguf.ErrVersion},
	} {
		if _, err := gguf.NewLayout(test.meta, test.specs, gguf.WriterOptions{Version: test.version}); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	for name, test := range map[string]struct {
		write func(w *gguf.Writer) error
		want  error
	}{
		"order":      {func(w *gguf.Writer) error { return w.WriteTensor("b", nil) }, gguf.ErrOrder},
		"size":       {func(w *gguf.Writer) error { return w.WriteTensor("a", make([]byte, 3)) }, gguf.ErrBufferSize},
		"incomplete": {(*gguf.Writer).Close, gguf.ErrIncomplete},
	} {
		w, err := gguf.NewWriter(io.Discard, nil, f32(1), gguf.WriterOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := test.write(w); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
		if err := w.Close(); err == nil {
			t.Errorf("%s: closed without an error", name)
		}
	}
}
