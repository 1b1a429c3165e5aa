package int8rows_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/examples/int8rows"
	"github.com/coldload/coldload/plan"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/sinks/host"
)

// A checkpoint in a format that coldload has never heard of, fused as its names say.
func Example() {
	dir, err := os.MkdirTemp("", "int8rows")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	if err := write(dir); err != nil {
		fmt.Println(err)
		return
	}
	sink := host.New(host.Options{})
	_, err = coldload.Load(context.Background(), dir, sink, coldload.Options{Formats: []plan.Format{int8rows.Format{}}})
	if err != nil {
		fmt.Println(err)
		return
	}
	mem := sink.Memory()
	defer mem.Close()
	for name, t := range mem.All() {
		w, err := host.Slice[float32](t)
		fmt.Println(name, t.Shape, w, err)
	}
	// Output:
	// model.layers.0.mlp.gate_up_proj.weight [2 2] [0.5 -1 -0.25 31.75] <nil>
}

// write makes a layer of two modules with one row each.
func write(dir string) error {
	const gate, up = "model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj"
	var file bytes.Buffer
	w, err := safetensors.NewWriter(&file, []safetensors.Spec{
		{Name: gate + ".codes", DType: safetensors.I8, Shape: []int64{1, 2}},
		{Name: gate + ".row_scale", DType: safetensors.F32, Shape: []int64{1}},
		{Name: up + ".codes", DType: safetensors.I8, Shape: []int64{1, 2}},
		{Name: up + ".row_scale", DType: safetensors.F32, Shape: []int64{1}},
	}, safetensors.WriterOptions{})
	if err != nil {
		return err
	}
	scale := func(bits uint32) []byte { return binary.LittleEndian.AppendUint32(nil, bits) }
	for _, t := range []struct {
		name string
		data []byte
	}{
		{gate + ".codes", []byte{1, 0xFE}},
		{gate + ".row_scale", scale(0x3F000000)},
		{up + ".codes", []byte{0xFF, 127}},
		{up + ".row_scale", scale(0x3E800000)},
	} {
		if err := w.WriteTensor(t.name, t.data); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"),
		[]byte(`{"model_type": "llama", "quantization_config": {"quant_method": "int8rows"}}`), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "model.safetensors"), file.Bytes(), 0o644)
}
