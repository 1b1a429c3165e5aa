package sinktest

import (
	"fmt"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// various is a small checkpoint with every kind of size that the contract allows.
func various() []stages.Output {
	outputs := []stages.Output{
		raw("model.embed_tokens.weight", 1<<20+3, 64<<10), // the last Slab is smaller
		raw("model.norm.weight", 512, 512),                // one Slab
		raw("model.layers.0.self_attn.qkv_proj.bias", 1, 4096),
		raw("model.layers.0.mlp.experts.gate_up_proj.scales", 3500, 1000), // Slabs start where nothing is aligned
		raw("model.layers.0.mlp.experts.gate_up_proj.qweight", 256<<10, 32<<10),
		raw("model.layers.0.mlp.experts.down_proj.g_idx", 65, 64), // a last Slab of one byte
		raw("model.layers.1.empty", 0, 0),
	}
	packed := &outputs[4]
	packed.DType, packed.Shape, packed.Layout, packed.Kind = safetensors.I32, []int64{256, 256}, stages.LayoutMarlin, stages.KindRepacked
	return outputs
}

// few has Outputs of one, two and three Slabs and an empty one: small enough to abort after every operation.
func few() []stages.Output {
	return []stages.Output{raw("a", 100, 100), raw("b", 5000, 4096), raw("empty", 0, 0), raw("c", 300<<10, 128<<10)}
}

// small is n Outputs of one Slab each.
func small(n int) []stages.Output {
	outputs := make([]stages.Output, n)
	for i := range outputs {
		size := int64(i*7%400 + 1)
		outputs[i] = raw(fmt.Sprintf("model.layers.%d.mlp.experts.%d.up_proj.scales", i/64, i%64), size, size)
	}
	return outputs
}

// large is one Output of n Slabs of 1 MiB.
func large(n int64) []stages.Output { return []stages.Output{raw("large", n<<20, 1<<20)} }

func raw(name string, size, slab int64) stages.Output {
	return stages.Output{
		Name: name, DType: safetensors.U8, Shape: []int64{size}, Layout: stages.LayoutRaw, Kind: stages.KindKept,
		Size: size, SlabBytes: slab,
	}
}

func slabsOf(outputs []stages.Output) []stages.Slab {
	var slabs []stages.Slab
	for i := range outputs {
		for n := range outputs[i].Slabs() {
			slabs = append(slabs, outputs[i].Slab(i, n))
		}
	}
	return slabs
}
