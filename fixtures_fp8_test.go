package coldload_test

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/synth"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/sinks/host"
	"github.com/coldload/coldload/stages"
)

const fp8Fixture = "fp8_block_dense"

// readFP8Fixture reads the manifest, with our names for what vLLM keeps under those of the checkpoint.
func readFP8Fixture(t *testing.T) fixture {
	t.Helper()
	f := readFixture(t, fp8Fixture)
	ours := strings.NewReplacer(".weight_scale_inv", ".scales", ".weight", ".qweight")
	for i, e := range f.Expected {
		if strings.HasPrefix(e.Name, "marlin/") {
			f.Expected[i].Name = ours.Replace(e.Name)
		}
	}
	return f
}

// TestFixtureFP8: the engine's words and scales and the tool's weights come out, whichever way is taken.
func TestFixtureFP8(t *testing.T) {
	f := readFP8Fixture(t)
	for way, load := range ways {
		t.Run(way, func(t *testing.T) {
			for _, dtype := range []stages.DType{safetensors.BF16, safetensors.Invalid} { // the model is BF16, its scales are F32
				checkExpected(t, load(t, fixturePath(fp8Fixture), coldload.Options{DType: dtype, Strict: true}), f, "marlin/tp1.bf16/")
			}
			opt := coldload.Options{Layout: stages.LayoutDequant, DType: safetensors.F32}
			fused := load(t, fixturePath(fp8Fixture), opt)
			opt.NoFuse = true
			single := load(t, fixturePath(fp8Fixture), opt)
			checkDequant(t, single, f)
			checkFusedFrom(t, fused, single)
		})
	}
}

func TestFixtureFP8Variants(t *testing.T) {
	f := readFP8Fixture(t)
	for label, opt := range variants() {
		t.Run(label, func(t *testing.T) {
			opt.DType = safetensors.BF16
			mem, _ := loadHost(t, fixturePath(fp8Fixture), opt)
			checkExpected(t, mem, f, "marlin/tp1.bf16/")
		})
	}
}

// TestFixtureFP8Raw compares with the source tensors, joined by the simplest code there is.
func TestFixtureFP8Raw(t *testing.T) {
	raw := coldload.Options{Layout: stages.LayoutRaw}
	fused, _ := loadHost(t, fixturePath(fp8Fixture), raw)
	raw.NoFuse = true
	single, _ := loadHost(t, fixturePath(fp8Fixture), raw)
	checkFusedFrom(t, fused, single)
	src := sourceTensors(t, fixturePath(fp8Fixture))
	for name, x := range single.All() {
		if string(x.Bytes) != string(src[name]) {
			t.Errorf("%s: other bytes than the checkpoint's", name)
		}
	}
}

// TestFP8Exponent: plain scales are the fused ones without 2^120, and say so, in memory and in a packed folder.
func TestFP8Exponent(t *testing.T) {
	const scales = "model.layers.0.self_attn.qkv_proj.scales"
	for way, load := range ways {
		fused := load(t, fixturePath(fp8Fixture), coldload.Options{FP8Exponent: stages.ExponentFused})
		plain := load(t, fixturePath(fp8Fixture), coldload.Options{FP8Exponent: stages.ExponentPlain})
		f, _ := fused.Lookup(scales)
		p, _ := plain.Lookup(scales)
		if f.Layout != stages.LayoutMarlin || p.Layout != stages.LayoutMarlinPlain || len(f.Bytes) == 0 || len(f.Bytes) != len(p.Bytes) {
			t.Fatalf("%s: layouts %s and %s, %d and %d bytes", way, f.Layout, p.Layout, len(f.Bytes), len(p.Bytes))
		}
		for i := 0; i < len(f.Bytes); i += 2 { // exponents of BF16 begin at bit 7
			a, b := uint(f.Bytes[i])|uint(f.Bytes[i+1])<<8, uint(p.Bytes[i])|uint(p.Bytes[i+1])<<8
			if a != b+120<<7 {
				t.Fatalf("%s: element %d: %#x and %#x", way, i/2, a, b)
			}
		}
	}
}

// TestFP8Synth: what synth writes loads in every layout, and nothing of it is kept raw.
func TestFP8Synth(t *testing.T) {
	for _, format := range []synth.Format{synth.FormatFP8, synth.FormatFP8Tensor, synth.FormatFP8Channel} {
		for _, layout := range []stages.Layout{stages.LayoutMarlin, stages.LayoutDequant, stages.LayoutRaw} {
			t.Run(string(format)+"/"+string(layout), func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "ck")
				if _, err := synth.Write(t.Context(), dir, synth.Options{Model: "micro", Format: format}); err != nil {
					t.Fatal(err)
				}
				// The heads of micro are smaller than a block.
				mem, _ := loadHost(t, dir, coldload.Options{Layout: layout, Strict: true, NoFuse: format == synth.FormatFP8 && layout == stages.LayoutRaw})
				name := map[stages.Layout]string{stages.LayoutMarlin: "qweight", stages.LayoutDequant: "weight", stages.LayoutRaw: "weight"}[layout]
				want := map[stages.Layout]stages.DType{
					stages.LayoutMarlin: safetensors.I32, stages.LayoutDequant: safetensors.BF16, stages.LayoutRaw: safetensors.F8E4M3,
				}[layout]
				if x, ok := mem.Lookup("model.layers.0.self_attn.o_proj." + name); !ok || x.DType != want {
					t.Errorf("o_proj.%s: %v %s, want %s", name, ok, x.DType, want)
				}
			})
		}
	}
}

// TestFP8DeepSeek plans the real names and shapes: everything fits, and q_a and kv_a become one although the second ends inside a
// block of scales.
func TestFP8DeepSeek(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ck")
	opt := synth.Options{Model: "deepseek-v3", Layers: 4, Format: synth.FormatFP8, Sparse: true}
	if _, err := synth.Write(t.Context(), dir, opt); err != nil {
		t.Fatal(err)
	}
	p, err := openPath(t, dir, coldload.Options{}).Plan(coldload.Options{Strict: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]int64{
		"model.layers.0.self_attn.fused_qkv_a_proj.qweight": {448, 8448}, "model.layers.0.self_attn.fused_qkv_a_proj.scales": {56, 2112},
		"model.layers.3.mlp.experts.gate_up_proj.qweight": {256, 448, 16384}, "model.layers.3.mlp.experts.down_proj.scales": {256, 16, 7168},
	}
	for _, o := range p.Outputs {
		if shape, ok := want[o.Name]; ok && slices.Equal(shape, o.Shape) {
			delete(want, o.Name)
		}
	}
	if len(want) > 0 {
		t.Errorf("not made, or in another shape: %v", want)
	}
}

// TestFP8ExponentRefused: no other exponent than was packed can be had, and no unknown one.
func TestFP8ExponentRefused(t *testing.T) {
	for packed, other := range map[stages.Exponent]stages.Exponent{
		stages.ExponentPlain: stages.ExponentFused, stages.ExponentFused: stages.ExponentPlain, "": stages.ExponentPlain,
	} {
		dir := filepath.Join(t.TempDir(), "packed")
		if _, err := coldload.Pack(t.Context(), fixturePath(fp8Fixture), dir, coldload.Options{FP8Exponent: packed}, coldload.PackOptions{}); err != nil {
			t.Fatal(err)
		}
		_, err := coldload.Load(t.Context(), dir, host.New(host.Options{}), coldload.Options{FP8Exponent: other})
		if _, ok := errors.AsType[*stages.RefusedError](err); !ok || !strings.Contains(err.Error(), "exponent of FP8 scales") {
			t.Errorf("packed %q, asked for %q: error %v", packed, other, err)
		}
		loadHost(t, dir, coldload.Options{FP8Exponent: packed})
	}
	_, err := coldload.Load(t.Context(), fixturePath(fp8Fixture), host.New(host.Options{}), coldload.Options{FP8Exponent: "odd"})
	if !errors.Is(err, coldload.ErrOptions) {
		t.Errorf("error %v, want ErrOptions", err)
	}
}
