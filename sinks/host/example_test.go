package host_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/sinks/host"
	"github.com/coldload/coldload/stages"
)

// A load does what fill does here; the rest is what a user of the result writes.
func Example() {
	sink := host.New(host.Options{})
	if err := fillNorm(context.Background(), sink); err != nil {
		fmt.Println(err)
		return
	}

	memory := sink.Memory()
	defer func() { _ = memory.Close() }() // no slice of it may be used afterwards
	norm, ok := memory.Lookup("model.norm.weight")
	if !ok {
		return
	}
	weights, err := host.Slice[float32](norm)
	fmt.Println(norm.DType, norm.Shape, weights, err)

	_, err = host.Slice[uint16](norm)
	fmt.Println(err)
	// Output:
	// F32 [4] [0 0.5 1 1.5] <nil>
	// host: F32 cannot be seen as uint16
}

// fillNorm makes one Output of four values, in two Slabs.
func fillNorm(ctx context.Context, sink stages.Sink) (err error) {
	defer func() { err = firstOf(err, sink.Close()) }()
	outputs := []stages.Output{{
		Name: "model.norm.weight", DType: safetensors.F32, Shape: []int64{4}, Layout: stages.LayoutRaw, Kind: stages.KindKept,
		Size: 16, SlabBytes: 8,
	}}
	if err := sink.Begin(ctx, outputs); err != nil {
		return err
	}
	for i := range outputs[0].Slabs() {
		slab := outputs[0].Slab(0, i)
		b, err := sink.Reserve(ctx, slab)
		if err != nil {
			return err
		}
		for j := range 2 {
			binary.LittleEndian.PutUint32(b[4*j:], math.Float32bits(float32(2*i+j)/2))
		}
		if err := sink.Write(ctx, slab, b); err != nil {
			return err
		}
	}
	return sink.Commit(ctx)
}

func firstOf(a, b error) error {
	if a != nil {
		return a
	}
	return b
}
