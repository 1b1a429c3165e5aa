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

// checkMXFP4Dequant compares with the tool's weights, [E, in, out], under their own names as the biases are.
func checkMXFP4Dequant(t *testing.T, mem outputs, f fixture, src map[string][]byte) {
	t.Helper()
	if len(f.Dequant.Modules) != 2 {
		t.Fatalf("the fixture has %d modules", len(f.Dequant.Modules))
	}
	for _, m := range f.Dequant.Modules {
		got, ok := mem.Lookup(m.Name)
		if !ok || fmt.Sprint(got.Shape) != fmt.Sprint(m.Shape) || got.DType != safetensors.F32 {
			t.Fatalf("%s: %s %v, want F32 %v", m.Name, got.DType, got.Shape, m.Shape)
		}
		if sum := sha256.Sum256(got.Bytes); hex.EncodeToString(sum[:]) != m.SHA256 {
			t.Errorf("%s: other values than the tool's", m.Name)
		}
		bias, ok := mem.Lookup(m.Name + "_bias")
		want := src[m.Name+"_bias"]
		if !ok || bias.DType != safetensors.F32 || len(bias.Bytes) != 2*len(want) {
			t.Fatalf("%s_bias: %s, %d bytes", m.Name, bias.DType, len(bias.Bytes))
		}
		for i := range len(want) / 2 { // BF16 is the upper half of F32
			if b := bias.Bytes[4*i : 4*i+4]; b[0] != 0 || b[1] != 0 || b[2] != want[2*i] || b[3] != want[2*i+1] {
				t.Fatalf("%s_bias: element %d differs", m.Name, i)
			}
		}
	}
}

// TestFixtureMXFP4: the engine's words, scales and biases and the tool's weights come out, whichever way is taken.
func TestFixtureMXFP4(t *testing.T) {
	f, src := readMXFP4Fixture(t), sourceTensors(t, fixturePath(mxfp4Fixture))
	for way, load := range ways {
		t.Run(way, func(t *testing.T) {
			for _, dtype := range []stages.DType{safetensors.BF16, safetensors.Invalid} {
				for _, noFuse := range []bool{false, true} { // a stack stays one
					opt := coldload.Options{DType: dtype, Strict: true, NoFuse: noFuse}
					checkExpected(t, load(t, fixturePath(mxfp4Fixture), opt), f, "marlin/tp1.bf16/")
				}
			}
			if way == "Open, module by module" { // which gives the experts as modules: TestMXFP4OnDemand
				return
			}
			checkMXFP4Dequant(t, load(t, fixturePath(mxfp4Fixture), coldload.Options{Layout: stages.LayoutDequant, DType: safetensors.F32}), f, src)
		})
	}
}

func TestFixtureMXFP4Variants(t *testing.T) {
	f, src := readMXFP4Fixture(t), sourceTensors(t, fixturePath(mxfp4Fixture))
	for label, opt := range variants() {
		t.Run(label, func(t *testing.T) {
			mem, _ := loadHost(t, fixturePath(mxfp4Fixture), opt)
			checkExpected(t, mem, f, "marlin/tp1.bf16/")
			opt.Layout, opt.DType = stages.LayoutDequant, safetensors.F32
			mem, _ = loadHost(t, fixturePath(mxfp4Fixture), opt)
			checkMXFP4Dequant(t, mem, f, src)
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

// TestMXFP4OnDemand: who asks for the experts as modules gets rows of output features, of the tool's weights.
func TestMXFP4OnDemand(t *testing.T) {
	opt := coldload.Options{Layout: stages.LayoutDequant, DType: safetensors.F32}
	whole, _ := loadHost(t, fixturePath(mxfp4Fixture), opt)
	ck := openPath(t, fixturePath(mxfp4Fixture), coldload.Options{})
	const scope = "model.layers.0.mlp.experts."
	for name, members := range map[string][]string{"gate_up_proj": {"gate_proj", "up_proj"}, "down_proj": {"down_proj"}} {
		m, err := ck.Experts(t.Context(), scope+"{e}", members, 4, opt)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		w, _ := whole.Lookup(scope + name)
		g, ok := m.Part("weight")
		if e, in, out := w.Shape[0], w.Shape[1], w.Shape[2]; !ok || fmt.Sprint(g.Shape) != fmt.Sprint([]int64{e, out, in}) {
			t.Fatalf("%s: %v of %v", name, g.Shape, m.Parts())
		}
		size := len(w.Bytes) / 4
		for e := range 4 {
			if string(transposed(g.Bytes[e*size:(e+1)*size], int(w.Shape[2]), int(w.Shape[1]), 4)) != string(w.Bytes[e*size:(e+1)*size]) {
				t.Errorf("%s: expert %d has other weights", name, e)
			}
		}
		bias, _ := whole.Lookup(scope + name + "_bias")
		if g, ok := m.Part("bias"); !ok || string(g.Bytes) != string(bias.Bytes) {
			t.Errorf("%s: another bias", name)
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
		stages.LayoutDequant: {synth.FormatMXFP4: "", synth.FormatMXFP4Pack: ".weight"},
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
