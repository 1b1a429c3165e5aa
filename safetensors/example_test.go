package safetensors_test

import (
	"bytes"
	"fmt"
	"log"
	"maps"
	"os"
	"path/filepath"

	"github.com/coldload/coldload/safetensors"
)

// exampleFolder is a folder with one file and its index.
func exampleFolder() string {
	dir, err := os.MkdirTemp("", "safetensors")
	if err != nil {
		panic(err)
	}
	f, err := os.Create(filepath.Join(dir, "model-00001-of-00001.safetensors"))
	if err != nil {
		panic(err)
	}
	w, err := safetensors.NewWriter(f, []safetensors.Spec{
		{Name: "embed.weight", DType: safetensors.U8, Shape: []int64{2, 3}},
		{Name: "scale", DType: safetensors.F16},
	}, safetensors.WriterOptions{Metadata: map[string]string{"format": "pt"}})
	if err != nil {
		panic(err)
	}
	if err := w.WriteTensor("embed.weight", []byte{1, 2, 3, 4, 5, 6}); err != nil {
		panic(err)
	}
	if err := w.WriteTensor("scale", []byte{0x00, 0x3c}); err != nil {
		panic(err)
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	if err := f.Close(); err != nil {
		panic(err)
	}
	index := `{"metadata":{},"weight_map":{"embed.weight":"model-00001-of-00001.safetensors","scale":"model-00001-of-00001.safetensors"}}`
	if err := os.WriteFile(filepath.Join(dir, safetensors.IndexName), []byte(index), 0o600); err != nil {
		panic(err)
	}
	return dir
}

func ExampleOpen() {
	dir := exampleFolder()
	defer os.RemoveAll(dir)

	f, err := safetensors.Open(filepath.Join(dir, "model-00001-of-00001.safetensors"))
	if err != nil {
		log.Fatal(err) // names the file, the byte, the tensor and the broken rule
	}
	defer f.Close()
	fmt.Println(maps.Collect(f.Header().Metadata()))
	for name, t := range f.All() {
		buf := make([]byte, t.Size())
		if err := f.ReadInto(name, buf); err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s %v %v %x\n", name, t.DType, t.Shape, buf)
	}
	// Output:
	// map[format:pt]
	// embed.weight U8 [2 3] 010203040506
	// scale F16 [] 003c
}

func ExampleOpenFS() {
	dir := exampleFolder()
	defer os.RemoveAll(dir)

	f, err := safetensors.OpenFS(os.DirFS(dir), "model-00001-of-00001.safetensors")
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	s, err := f.Section("embed.weight")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(s.Size())
	// Output: 6
}

func ExampleOpenSharded() {
	dir := exampleFolder()
	defer os.RemoveAll(dir)

	s, err := safetensors.OpenSharded(dir)
	if err != nil {
		log.Fatal(err) // every fault of the folder, one a line
	}
	defer s.Close()
	for f, t := range s.All() {
		fmt.Println(filepath.Base(f.Name()), t.Name, t.DType)
	}
	// Output:
	// model-00001-of-00001.safetensors embed.weight U8
	// model-00001-of-00001.safetensors scale F16
}

func ExampleNewReader() {
	layout, err := safetensors.NewLayout([]safetensors.Spec{{Name: "a", DType: safetensors.I8, Shape: []int64{4}}}, safetensors.WriterOptions{})
	if err != nil {
		log.Fatal(err)
	}
	file := append(bytes.Clone(layout.Header()), 1, 2, 3) // a byte is missing

	_, err = safetensors.NewReader(bytes.NewReader(file), int64(len(file)), safetensors.WithName("cut.safetensors"))
	fmt.Println(err)
	// Output: safetensors: cut.safetensors: byte 10: "a": tensor runs past the end of the file: expected at least 4 bytes of data, found 3
}

func ExampleNewWriter() {
	var file bytes.Buffer
	w, err := safetensors.NewWriter(&file, []safetensors.Spec{
		{Name: "a", DType: safetensors.I8, Shape: []int64{4}},
		{Name: "b", DType: safetensors.F32},
	}, safetensors.WriterOptions{Align: 64})
	if err != nil {
		log.Fatal(err)
	}
	if err := w.WriteTensor("a", []byte{1, 2, 3, 4}); err != nil {
		log.Fatal(err)
	}
	fmt.Println(w.Close())
	// Output: safetensors: "b": not every tensor has been written: expected 4 bytes, found none
}

func ExampleNewRandomWriter() {
	f, err := os.CreateTemp("", "*.safetensors")
	if err != nil {
		log.Fatal(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	w, err := safetensors.NewRandomWriter(f, []safetensors.Spec{{Name: "a", DType: safetensors.I8, Shape: []int64{4}}}, safetensors.WriterOptions{})
	if err != nil {
		log.Fatal(err)
	}
	for _, half := range []int64{2, 0} {
		if err := w.WriteTensorAt("a", []byte{1, 2}, half); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println(w.Close(), w.Layout().FileSize())
	// Output: <nil> 68
}

func ExampleParseIndex() {
	ix, err := safetensors.ParseIndex([]byte(`{"metadata":{"total_size":9},"weight_map":{"a":"2.safetensors","b":"1.safetensors"}}`))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(ix.Files())
	_, err = safetensors.ParseIndex([]byte(`{"weight_map":{"a":"../secret"}}`))
	fmt.Println(err)
	// Output:
	// [1.safetensors 2.safetensors]
	// safetensors: byte 20: "a": shard is not a plain file name: expected a name without separators, found "../secret"
}
