package coldload_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/sinks/host"
	"github.com/coldload/coldload/stages"
)

// scaleStage multiplies the values of one BF16 Output. It sees every Batch once, when all of its bytes are in their final place.
type scaleStage struct {
	output string
	factor float32
}

// Name names the stage in the phase table, in traces and in errors.
func (scaleStage) Name() string { return "scale" }

// Process changes values in place: never sizes, dtypes or names.
func (s scaleStage) Process(_ context.Context, b *stages.Batch) (*stages.Batch, error) {
	for i, slab := range b.Slabs {
		if b.Outputs[slab.Output].Name != s.output {
			continue
		}
		for v := b.Dst[i]; len(v) >= 2; v = v[2:] {
			scaled := s.factor * bf16(binary.LittleEndian.Uint16(v))
			binary.LittleEndian.PutUint16(v, uint16(math.Float32bits(scaled)>>16)) // exact for powers of two
		}
	}
	return b, nil
}

func bf16(bits uint16) float32 { return math.Float32frombits(uint32(bits) << 16) }

// A stage of one's own goes in after any phase of the flow. It gets a row in the phase table and a span for free.
func Example_stage() {
	load := func(opt coldload.Options) (*host.Memory, *coldload.Result) {
		sink := host.New(host.Options{})
		res, err := coldload.Load(context.Background(), "testdata/fixtures/plain_bf16_sharded/checkpoint", sink, opt)
		if err != nil {
			fmt.Println(err)
		}
		return sink.Memory(), res
	}
	plain, _ := load(coldload.Options{})
	defer plain.Close()
	scaled, res := load(coldload.Options{Stages: []coldload.Insert{
		{After: stages.PhaseRepack, Stage: scaleStage{output: "model.norm.weight", factor: 2}},
	}})
	defer scaled.Close()

	before, _ := plain.Lookup("model.norm.weight")
	after, _ := scaled.Lookup("model.norm.weight")
	x, _ := host.Slice[uint16](before)
	y, _ := host.Slice[uint16](after)
	fmt.Println(bf16(x[0]), bf16(y[0]))
	fmt.Println(res.Phases[len(res.Phases)-1].Name)
	// Output:
	// 1.0546875 2.109375
	// scale
}
