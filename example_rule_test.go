package coldload_test

import (
	"context"
	"fmt"
	"strings"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/sinks/host"
	"github.com/coldload/coldload/stages"
)

// engineNames drops the second layer and puts the name of another engine in place of ours.
type engineNames struct{}

// Rewrite is asked about every Output before a byte moves.
func (engineNames) Rewrite(o stages.Output) stages.Rewrite {
	return stages.Rewrite{
		Drop: strings.HasPrefix(o.Name, "model.layers.1."),
		Name: strings.Replace(o.Name, "experts.gate_up_proj.weight", "experts.w13_weight", 1),
	}
}

// A rule drops, renames and retypes Outputs: what it drops is never read.
func Example_rule() {
	sink := host.New(host.Options{})
	res, err := coldload.Load(context.Background(), "testdata/fixtures/plain_bf16_sharded/checkpoint", sink,
		coldload.Options{Rules: []stages.Rule{engineNames{}}})
	if err != nil {
		fmt.Println(err)
		return
	}
	mem := sink.Memory()
	defer mem.Close()
	w, ok := mem.Lookup("model.layers.0.mlp.experts.w13_weight")
	fmt.Println(ok, w.DType, w.Shape)
	_, ok = mem.Lookup("model.layers.1.input_layernorm.weight")
	fmt.Println(ok, res.Plan.Summary.Ignored, "tensors ignored")
	// Output:
	// true BF16 [4 128 128]
	// false 21 tensors ignored
}
