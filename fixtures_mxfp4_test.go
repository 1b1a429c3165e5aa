package coldload_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/synth"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

const mxfp4Fixture = "mxfp4_gptoss"

// readMXFP4Fixture reads the manifest, with our name for the words that vLLM keeps under the name of a weight.
func readMXFP4Fixture(t *testing.T) fixture {
	t.Helper()
	f := readFixture(t, mxfp4Fixture)
	ours := strings.NewReplacer("_weight_scale", "_scales", "_weight", "_qweight")
	for i, e := range f.Expected {
		f.Expected[i].Name = ours.Replace(e.Name)
	}
	return f
}

// checkMXFP4Dequant compares with the tool's weights, which lie [E, in, out]: ours keep the rows of the file, [E, out, in].
func checkMXFP4Dequant(t *testing.T, mem outputs, f fixture) {
	t.Helper()
	if len(f.Dequant.Modules) != 2 {
		t.Fatalf("the fixture has %d modules", len(f.Dequant.Modules))
	}
	for _, m := range f.Dequant.Modules {
		got, ok := mem.Lookup(m.Name + ".weight")
		e, in, out := m.Shape[0], m.Shape[1], m.Shape[2]
		if want := fmt.Sprint([]int64{e, out, in}); !ok || fmt.Sprint(got.Shape) != want || got.DType != safetensors.F32 {
			t.Fatalf("%s.weight: %s %v, want F32 %s", m.Name, got.DType, got.Shape, want)
		}
		turned := make([]byte, 0, len(got.Bytes))
		for x := range e {
			for i := range in {
				for o := range out {
					at := 4 * ((x*out+o)*in + i)
					turned = append(turned, got.Bytes[at:at+4]...)
				}
			}
		}
		if sum := sha256.Sum256(turned); hex.EncodeToString(sum[:]) != m.SHA256 {
			t.Errorf("%s: other values than the tool's", m.Name)
		}
	}
}

// TestFixtureMXFP4: the engine's words, scales and biases and the tool's weights come out, whichever way is taken.
func TestFixtureMXFP4(t *testing.T) {
	f := readMXFP4Fixture(t)
	for way, load := range ways {
		t.Run(way, func(t *testing.T) {
			for _, dtype := range []stages.DType{safetensors.BF16, safetensors.Invalid} {
				for _, noFuse := range []bool{false, true} { // a stack stays one
					opt := coldload.Options{DType: dtype, Strict: true, NoFuse: noFuse}
					checkExpected(t, load(t, fixturePath(mxfp4Fixture), opt), f, "marlin/tp1.bf16/")
				}
			}
			checkMXFP4Dequant(t, load(t, fixturePath(mxfp4Fixture), coldload.Options{Layout: stages.LayoutDequant, DType: safetensors.F32}), f)
		})
	}
}

func TestFixtureMXFP4Variants(t *testing.T) {
	f := readMXFP4Fixture(t)
	for label, opt := range variants() {
		t.Run(label, func(t *testing.T) {
			mem, _ := loadHost(t, fixturePath(mxfp4Fixture), opt)
			checkExpected(t, mem, f, "marlin/tp1.bf16/")
			opt.Layout, opt.DType = stages.LayoutDequant, safetensors.F32
			mem, _ = loadHost(t, fixturePath(mxfp4Fixture), opt)
			checkMXFP4Dequant(t, mem, f)
		})
	}
}

// TestFixtureMXFP4Raw: what is kept raw is what the file has, byte for byte, under its names.
func TestFixtureMXFP4Raw(t *testing.T) {
	src := sourceTensors(t, fixturePath(mxfp4Fixture))
	for way, load := range ways {
		n := 0
		for name, x := range load(t, fixturePath(mxfp4Fixture), coldload.Options{Layout: stages.LayoutRaw, NoFuse: true}).All() {
			n++
			if string(x.Bytes) != string(src[name]) {
				t.Errorf("%s: %s has other bytes than the file's", way, name)
			}
		}
		if n != len(src) {
			t.Errorf("%s: %d outputs, the file has %d tensors", way, n, len(src))
		}
	}
}

// TestMXFP4ActivationsInF16: the kernels have none, so the experts are kept as they are, or refused.
func TestMXFP4ActivationsInF16(t *testing.T) {
	mem, res := loadHost(t, fixturePath(mxfp4Fixture), coldload.Options{DType: safetensors.F16})
	if _, ok := mem.Lookup("model.layers.0.mlp.experts.gate_up_proj_blocks"); !ok {
		t.Error("the experts were not kept raw")
	}
	if kept := fmt.Sprint(res.Plan.Summary.Kept); !strings.Contains(kept, "BF16 activations alone") {
		t.Errorf("the plan says %s", kept)
	}
}

// TestMXFP4Synth: what synth writes loads in every layout, and nothing of it is kept raw.
func TestMXFP4Synth(t *testing.T) {
	names := map[stages.Layout]map[synth.Format]string{
		stages.LayoutMarlin:  {synth.FormatMXFP4: ".qweight", synth.FormatMXFP4Pack: ".qweight"},
		stages.LayoutDequant: {synth.FormatMXFP4: ".weight", synth.FormatMXFP4Pack: ".weight"},
		stages.LayoutRaw:     {synth.FormatMXFP4: "_blocks", synth.FormatMXFP4Pack: ".weight_packed"},
	}
	for layout, formats := range names {
		for format, suffix := range formats {
			t.Run(string(format)+"/"+string(layout), func(t *testing.T) {
				model := map[synth.Format]string{synth.FormatMXFP4: "micro-gpt-oss", synth.FormatMXFP4Pack: "micro"}[format]
				dir := filepath.Join(t.TempDir(), "ck")
				if _, err := synth.Write(t.Context(), dir, synth.Options{Model: model, Format: format}); err != nil {
					t.Fatal(err)
				}
				mem, _ := loadHost(t, dir, coldload.Options{Layout: layout, Strict: true})
				for _, module := range []string{"gate_up_proj", "down_proj"} {
					if _, ok := mem.Lookup("model.layers.1.mlp.experts." + module + suffix); !ok {
						t.Errorf("no %s%s", module, suffix)
					}
				}
			})
		}
	}
}
