package coldload_test

import (
	"fmt"
	"testing"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

const compressedFixture = "ct_moe_w4a16_g32"

// TestFixtureCompressedMarlin compares with vLLM's own layer classes.
func TestFixtureCompressedMarlin(t *testing.T) {
	f := readFixture(t, compressedFixture)
	for label, opt := range variants() {
		t.Run(label, func(t *testing.T) {
			for _, opt.DType = range []stages.DType{safetensors.BF16, safetensors.Invalid} { // the file's scales are BF16
				mem, _ := loadHost(t, fixturePath(compressedFixture), opt)
				checkExpected(t, mem, f, "marlin/tp1.bf16/")
			}
		})
	}
}

// TestFixtureCompressedDequant compares every weight with the tool's own, module by module and fused.
func TestFixtureCompressedDequant(t *testing.T) {
	f := readFixture(t, compressedFixture)
	for label, opt := range variants() {
		t.Run(label, func(t *testing.T) {
			opt.Layout, opt.DType = stages.LayoutDequant, safetensors.F32
			fused, _ := loadHost(t, fixturePath(compressedFixture), opt)
			opt.NoFuse = true
			single, _ := loadHost(t, fixturePath(compressedFixture), opt)
			checkDequant(t, single, f)
			checkFusedFrom(t, fused, single)
		})
	}
}

// TestFixtureCompressedRaw: what is kept raw is what the file has, byte for byte, and a checkpoint again.
func TestFixtureCompressedRaw(t *testing.T) {
	src := sourceTensors(t, fixturePath(compressedFixture))
	mem, _ := loadHost(t, fixturePath(compressedFixture), coldload.Options{Layout: stages.LayoutRaw, NoFuse: true})
	for name, b := range src {
		if got, ok := mem.Lookup(name); !ok || string(got.Bytes) != string(b) {
			t.Errorf("%s: other bytes than the file's", name)
		}
	}
	fused, _ := loadHost(t, fixturePath(compressedFixture), coldload.Options{Layout: stages.LayoutRaw})
	for suffix, shape := range map[string]string{
		"weight_packed": "[4 256 32]", "weight_scale": "[4 256 8]", "weight_shape": "[4 2 2]",
	} {
		got, ok := fused.Lookup("model.layers.0.mlp.experts.gate_up_proj." + suffix)
		if !ok {
			t.Fatalf("no stacked %s", suffix)
		}
		var want []byte
		for _, e := range []string{"0", "1", "2", "3"} {
			for _, m := range []string{".gate_proj.", ".up_proj."} {
				want = append(want, src["model.layers.0.mlp.experts."+e+m+suffix]...)
			}
		}
		if string(got.Bytes) != string(want) || fmt.Sprint(got.Shape) != shape {
			t.Errorf("%s: shape %v, or other bytes than the members'", suffix, got.Shape)
		}
	}
}
