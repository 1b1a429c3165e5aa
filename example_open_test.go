package coldload_test

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/sinks/host"
	"github.com/coldload/coldload/sources/file"
	"github.com/coldload/coldload/stages"
)

const examplePath = "testdata/fixtures/gptq_moe_4b_g128_sharded/checkpoint"

// Open reads the headers once. What a load would do is known then, and no weight was read.
func ExampleOpen() {
	ck, err := coldload.Open(context.Background(), examplePath, coldload.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer ck.Close()
	t, ok := ck.Tensor("model.norm.weight")
	fmt.Println(ok, t.DType, t.Shape, ck.Has("model.norm.bias"), ck.QuantConfig().Method)

	p, err := ck.Plan(coldload.Options{Layout: stages.LayoutDequant}, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(p.Summary.Tensors, "tensors would become", len(p.Outputs), "outputs of", p.Summary.BytesOut, "bytes")
	// Output:
	// true BF16 [256] false gptq
	// 71 tensors would become 11 outputs of 2232064 bytes
}

// Linear gives one layer in its final form. The name may be that of a fused layer: its members are joined.
func ExampleCheckpoint_Linear() {
	ck, err := coldload.Open(context.Background(), examplePath, coldload.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer ck.Close()
	qkv, err := ck.Linear(context.Background(), "model.layers.0.self_attn.qkv_proj", coldload.Options{DType: safetensors.F16})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer qkv.Close()
	for _, part := range []string{"qweight", "scales"} {
		t, _ := qkv.Part(part)
		fmt.Println(part, t.Layout, t.DType, t.Shape)
	}
	// Output:
	// qweight marlin I32 [16 1024]
	// scales marlin F16 [2 512]
}

// Experts gives one projection of all experts of a layer, stacked.
func ExampleCheckpoint_Experts() {
	ck, err := coldload.Open(context.Background(), examplePath, coldload.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer ck.Close()
	m, err := ck.Experts(context.Background(), "model.layers.0.mlp.experts.{e}", []string{"gate_proj", "up_proj"}, 4, coldload.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer m.Close()
	t, _ := m.Part("qweight")
	fmt.Println(m.Name, t.DType, t.Shape)
	// Output:
	// model.layers.0.mlp.experts.gate_up_proj I32 [4 16 1024]
}

// Outputs yields every finished tensor, in memory that the loop owns until it releases it.
func ExampleCheckpoint_Outputs() {
	ck, err := coldload.Open(context.Background(), examplePath, coldload.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer ck.Close()
	var n, size int
	for out, err := range ck.Outputs(context.Background(), coldload.Options{}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		n, size = n+1, size+len(out.Bytes) // upload them here
		if err := out.Release(); err != nil {
			fmt.Println(err)
			return
		}
	}
	fmt.Println(n, "outputs,", size, "bytes")
	// Output:
	// 15 outputs, 772864 bytes
}

// Single tensors come as views of the file, as copies, or as values.
func ExampleCheckpoint_Float32() {
	ck, err := coldload.Open(context.Background(), examplePath, coldload.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer ck.Close()
	const norm = "model.norm.weight"
	view, err := ck.Bytes(norm) // nothing is copied; invalid after Close
	fmt.Println(len(view), err)

	copied := make([]byte, len(view))
	fmt.Println(ck.ReadInto(context.Background(), norm, copied))

	values, err := ck.Float32(norm)
	fmt.Println(len(values), err)

	half, err := ck.Load(context.Background(), norm, safetensors.F16)
	fmt.Println(half.DType, half.Shape, len(half.Bytes), err)

	codes, err := ck.Int32("model.layers.0.self_attn.q_proj.qweight")
	fmt.Println(len(codes), err)
	// Output:
	// 512 <nil>
	// <nil>
	// 256 <nil>
	// F16 [256] 512 <nil>
	// 8192 <nil>
}

// GPTQ describes the members of a module as the file has them.
func ExampleCheckpoint_GPTQ() {
	ck, err := coldload.Open(context.Background(), examplePath, coldload.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer ck.Close()
	m, err := ck.GPTQ("model.layers.0.self_attn.q_proj")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(m.K, m.N, m.Bits, m.Group, m.Symmetric, m.ActOrder, m.Format)
	fmt.Println(m.QWeight.Name, m.QWeight.Shape, m.Scales.Shape, m.QZeros.Shape)
	// Output:
	// 256 256 4 128 true false gptq
	// model.layers.0.self_attn.q_proj.qweight [32 256] [2 256] [2 32]
}

// countingSource counts the bytes that are asked of another Source.
type countingSource struct {
	stages.Source
	bytes *atomic.Int64
}

// Fetch is called from several goroutines at once.
func (s countingSource) Fetch(ctx context.Context, ranges []stages.Extent) (stages.Views, error) {
	for _, r := range ranges {
		s.bytes.Add(r.Len)
	}
	return s.Source.Fetch(ctx, ranges)
}

// A source of one's own is where the bytes come from. This one stands in front of the files.
func Example_source() {
	var asked atomic.Int64
	sink := host.New(host.Options{})
	res, err := coldload.Load(context.Background(), examplePath, sink, coldload.Options{
		Source: func(shards []file.Shard) (stages.Source, error) {
			s, err := file.New(shards, file.Options{})
			if err != nil {
				return nil, err
			}
			return countingSource{Source: s, bytes: &asked}, nil
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sink.Memory().Close()
	fmt.Println(asked.Load() == res.Plan.Summary.BytesRead, asked.Load() >= res.Plan.Summary.BytesIn)
	// Output:
	// true true
}
