package gguf_test

import (
	"bytes"
	"fmt"

	"github.com/coldload/coldload/gguf"
)

func Example() {
	var file bytes.Buffer
	metadata := []gguf.KeyValue{{Key: "general.architecture", Value: "llama"}, {Key: "llama.block_count", Value: uint32(1)}}
	w, err := gguf.NewWriter(&file, metadata, []gguf.Spec{{Name: "output_norm.weight", Type: gguf.F32, Shape: []int64{2}}}, gguf.WriterOptions{})
	if err != nil {
		panic(err)
	}
	if err := w.WriteTensor("output_norm.weight", make([]byte, 8)); err != nil {
		panic(err)
	}
	if err := w.Close(); err != nil {
		panic(err)
	}

	f, err := gguf.NewReader(bytes.NewReader(file.Bytes()), int64(file.Len()))
	if err != nil {
		panic(err)
	}
	layers, _ := f.Header().Value("llama.block_count")
	n, _ := layers.Int()
	fmt.Println(n, "layer")
	for name, t := range f.All() {
		fmt.Println(name, t.Type, t.Shape, t.Size(), "bytes")
	}
	// Output:
	// 1 layer
	// output_norm.weight F32 [2] 8 bytes
}
