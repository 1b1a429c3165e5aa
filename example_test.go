package coldload_test

import (
	"context"
	"fmt"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/sinks/host"
)

// Load a whole checkpoint into host memory and look at a weight that was fused, stacked and repacked on the way.
func Example() {
	const path = "testdata/fixtures/gptq_moe_4b_g128_sharded/checkpoint"
	sink := host.New(host.Options{})
	res, err := coldload.Load(context.Background(), path, sink, coldload.Options{DType: safetensors.F16})
	if err != nil {
		fmt.Println(err) // names every fault of the checkpoint
		return
	}
	mem := sink.Memory() // outside the Go heap, until Close
	defer mem.Close()
	fmt.Printf("%d tensors became %d outputs\n", res.TensorsIn, len(mem.Outputs()))

	codes, _ := mem.Lookup("model.layers.0.mlp.experts.gate_up_proj.qweight")
	words, err := host.Slice[uint32](codes)
	fmt.Println(codes.Layout, codes.DType, codes.Shape, len(words), err)

	scales, _ := mem.Lookup("model.layers.0.mlp.experts.gate_up_proj.scales")
	halves, err := host.Slice[uint16](scales)
	fmt.Println(scales.Layout, scales.DType, scales.Shape, len(halves), err)
	// Output:
	// 71 tensors became 15 outputs
	// marlin I32 [4 16 1024] 65536 <nil>
	// marlin F16 [4 2 512] 4096 <nil>
}
