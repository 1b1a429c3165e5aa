package coldload_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/sinks/host"
	"github.com/coldload/coldload/sources/file"
	"github.com/coldload/coldload/stages"
)

// oddModules are a layer whose members and experts fill no whole tiles: q, k and v end within tiles, o in both directions.
func oddModules(bits, group int, o ckpt.GPTQOptions) (list []*ckpt.Module) {
	add := func(base string, k, n int) {
		o := o
		o.Seed = uint64(len(list))
		list = append(list, ckpt.GPTQ(base, k, n, bits, group, o))
	}
	add(attn+"q_proj", 288, 200)
	add(attn+"k_proj", 288, 72)
	add(attn+"v_proj", 288, 40)
	add(oProj, 96, 104)
	for e := range 4 {
		at := fmt.Sprintf("%sexperts.%d.", mlp, e)
		add(at+"gate_proj", 128, 96)
		add(at+"up_proj", 128, 96)
		add(at+"down_proj", 96, 128)
	}
	return list
}

// written is the folder of what build describes.
func written(t *testing.T, build func(*ckpt.Builder) string) string {
	t.Helper()
	b := ckpt.New(t)
	sub := build(b)
	return filepath.Join(b.Write(), sub)
}

// TestPaddedFormats: the same codes in every format become the same padded words. What they must be the random loads know.
func TestPaddedFormats(t *testing.T) {
	for _, bits := range []int{4, 8} {
		for _, group := range []int{32, 96, -1} {
			for _, asym := range []bool{false, bits == 4} {
				var gptq, pack, awq ckpt.List
				modules := oddModules(bits, group, ckpt.GPTQOptions{V2: true, NoGIdx: true, Bias: true, Asym: asym})
				if group == 96 {
					modules = modules[3:4] // one group, over all input features
				}
				for _, m := range modules {
					gptq, pack = append(gptq, m), append(pack, twin{m, asym, false})
					if asym {
						awq = append(awq, m.AWQ("gemm"))
					}
				}
				changes := map[string]any{"bits": bits, "group_size": group, "sym": !asym, "desc_act": false, "checkpoint_format": "gptq_v2"}
				want := loadPath(t, gptqWith("qwen3_moe", changes, gptq), coldload.Options{Strict: true})
				others := []*host.Memory{loadPath(t, only(func(b *ckpt.Builder) {
					b.Shard(single, pack).JSON("config.json", twinConfig("qwen3_moe", bits, group, asym, false))
				}), coldload.Options{Strict: true})}
				if asym {
					others = append(others, loadPath(t, only(func(b *ckpt.Builder) {
						b.Shard(single, awq).JSON("config.json", map[string]any{"model_type": "qwen3_moe", "quantization_config": map[string]any{
							"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": true, "version": "gemm",
						}})
					}), coldload.Options{Strict: true}))
				}
				for i, got := range others {
					n := 0
					for name, w := range want.All() {
						n++
						g, ok := got.Lookup(name)
						if !ok || w.Layout != stages.LayoutMarlin || w.Padding == nil || g.Padding == nil || *g.Padding != *w.Padding || !slices.Equal(g.Shape, w.Shape) || !bytes.Equal(g.Bytes, w.Bytes) {
							t.Errorf("%d bits, group %d, asymmetric %v, format %d: %s differs", bits, group, asym, i, name)
						}
					}
					if n != len(got.Outputs()) {
						t.Errorf("%d outputs, want %d", len(got.Outputs()), n)
					}
				}
			}
		}
	}
}

// TestPaddedFP8: block-scaled weights that end within a block of input features become what weights filled up with zeros become.
func TestPaddedFP8(t *testing.T) {
	const n, k, paddedN, paddedK = 200, 328, 256, 384
	r := rand.New(rand.NewPCG(8, 8))
	codes := make([]byte, n*k)
	for i := range codes {
		codes[i] = byte(r.IntN(0x7F)) | byte(r.IntN(2)<<7)
	}
	filled := make([]byte, paddedN*paddedK)
	for i := range n {
		copy(filled[i*paddedK:], codes[i*k:(i+1)*k])
	}
	load := func(rows, columns int64, data []byte) *stagesOutputs {
		w := ckpt.T{Name: oProj + ".weight", DType: safetensors.F8E4M3, Shape: []int64{rows, columns}, Data: data}
		scale := ckpt.Dense(oProj+".weight_scale_inv", safetensors.BF16, 1, 2, 3)
		mem := loadPath(t, fp8With(fp8BlockConfig, ckpt.List{w, scale}), coldload.Options{Strict: true, DType: safetensors.BF16})
		return &stagesOutputs{mem}
	}
	got, want := load(n, k, codes), load(paddedN, paddedK, filled)
	g, w := got.part(t, "qweight"), want.part(t, "qweight")
	if g.Padding == nil || g.Padding.String() != "[200 328] padded to [256 384] in 1" || w.Padding != nil || !bytes.Equal(g.Bytes, w.Bytes) {
		t.Errorf("qweight differs, padding %v", g.Padding)
	}
	g, w = got.part(t, "scales"), want.part(t, "scales")
	for i := range len(w.Bytes) / 2 {
		c := i % paddedN
		from := c/64*64 + 8*(c%8) + c%64/8 // the column that lies there
		same := bytes.Equal(g.Bytes[2*i:2*i+2], w.Bytes[2*i:2*i+2])
		if zero := g.Bytes[2*i] == 0 && g.Bytes[2*i+1] == 0; from < n && !same || from >= n && !zero {
			t.Fatalf("scale %d of output feature %d differs", i, from)
		}
	}
}

// stagesOutputs are the Outputs of one module.
type stagesOutputs struct{ outputs }

func (o *stagesOutputs) part(t *testing.T, suffix string) (x host.Tensor) {
	t.Helper()
	x, ok := o.Lookup(oProj + "." + suffix)
	if !ok {
		t.Fatalf("no %s", suffix)
	}
	return x
}

// TestPaddedWays: workers, budgets, ways to read, packed or not, streamed or module by module: the same bytes.
func TestPaddedWays(t *testing.T) {
	var items ckpt.List
	for _, m := range oddModules(4, 32, ckpt.GPTQOptions{NoGIdx: true, Bias: true}) {
		items = append(items, m)
	}
	path := written(t, gptqWith("qwen3_moe", map[string]any{"group_size": 32}, items))
	want, _ := loadHost(t, path, coldload.Options{})
	for _, workers := range []int{1, 2, 8} {
		for _, budget := range []int64{0, 64 << 10} {
			for _, io := range []file.Mode{file.ModeMmap, file.ModePread, file.ModeDirect} {
				opt := coldload.Options{Budget: budget, IO: io, Workers: coldload.Workers{Fetch: workers, Decode: workers, Repack: workers, Upload: workers}}
				got, _ := loadHost(t, path, opt)
				sameOutputs(t, got, want)
			}
		}
	}
	dir, _ := packTo(t, path, coldload.Options{}, coldload.PackOptions{})
	mustVerify(t, dir, path)
	packed, _ := loadHost(t, dir, coldload.Options{})
	sameOutputs(t, packed, want)
	for _, from := range []string{path, dir} {
		checkOddModules(t, from)
		for _, c := range []outputs{streamed(t, from, coldload.Options{}), moduleByModule(t, from, coldload.Options{})} {
			for name, w := range want.All() {
				if g, ok := c.Lookup(name); !ok || !bytes.Equal(g.Bytes, w.Bytes) || g.Padding == nil || *g.Padding != *w.Padding {
					t.Errorf("%s: %s differs", from, name)
				}
			}
		}
	}
	if _, err := coldload.Pack(t.Context(), dir, filepath.Join(t.TempDir(), "x"), coldload.Options{NoPad: true}, coldload.PackOptions{}); err == nil || !strings.Contains(err.Error(), "padding") {
		t.Errorf("a padded folder without padding: %v", err)
	}
	whole, _ := packTo(t, path, coldload.Options{NoPad: true}, coldload.PackOptions{})
	mustVerify(t, whole, path)
	if b, err := os.ReadFile(filepath.Join(whole, "coldload.json")); err != nil || bytes.Contains(b, []byte(`"padding"`)) || bytes.Contains(b, []byte(`"pad"`)) {
		t.Errorf("the manifest tells of padding (%v)", err)
	}
}

// checkOddModules asks for modules by themselves: their features are those of the checkpoint.
func checkOddModules(t *testing.T, path string) {
	t.Helper()
	ck := openPath(t, path, coldload.Options{})
	for _, x := range []struct {
		name    string
		n, k    int64
		padding string
	}{
		{attn + "qkv_proj", 312, 288, "[312 288] padded to [320 384] in 1"},
		{oProj, 104, 96, "[104 96] padded to [128 128] in 1"},
		{mlp + "experts.gate_up_proj", 192, 128, "[192 128] padded to [256 128] in 2"},
		{mlp + "experts.down_proj", 128, 96, "[128 96] padded to [128 128] in 1"},
	} {
		m, err := loadModule(t.Context(), ck, x.name, coldload.Options{})
		if err != nil {
			t.Error(err)
			continue
		}
		if m.N != x.n || m.K != x.k || m.Bits != 4 || m.Group != 32 || fmt.Sprint(m.Padding) != x.padding {
			t.Errorf("%s of %s: N %d, K %d, %d bits, group %d, %v", x.name, path, m.N, m.K, m.Bits, m.Group, m.Padding)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestPaddedManifest: the extents are in the manifest, and what cannot be is refused.
func TestPaddedManifest(t *testing.T) {
	m := ckpt.GPTQ(oProj, 96, 104, 4, 32, ckpt.GPTQOptions{NoGIdx: true})
	dir, _ := packTo(t, written(t, gptqWith("llama", map[string]any{"group_size": 32}, m)), coldload.Options{}, coldload.PackOptions{})
	name := filepath.Join(dir, "coldload.json")
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var manifest struct {
		Options struct {
			Pad bool `json:"pad"`
		} `json:"options"`
		Outputs []struct {
			Name    string          `json:"name"`
			Padding *stages.Padding `json:"padding"`
		} `json:"outputs"`
	}
	if err := json.Unmarshal(text, &manifest); err != nil {
		t.Fatal(err)
	}
	for _, o := range manifest.Outputs {
		if o.Padding == nil || *o.Padding != (stages.Padding{Unpadded: [2]int64{104, 96}, Padded: [2]int64{128, 128}, Shares: 1}) {
			t.Errorf("%s: padding %v", o.Name, o.Padding)
		}
	}
	if !manifest.Options.Pad || len(manifest.Outputs) != 2 {
		t.Errorf("%+v", manifest)
	}
}

// TestSlabsOfPadding: a module so wide that its last Slab is padding alone, for which nothing is read.
func TestSlabsOfPadding(t *testing.T) {
	const k, n = 1120, 13000
	m := ckpt.GPTQ(oProj, k, n, 8, 32, ckpt.GPTQOptions{NoGIdx: true})
	path := written(t, gptqWith("llama", map[string]any{"bits": 8, "group_size": 32}, m))
	for _, budget := range []int64{0, 8 << 20} {
		mem, res := loadHost(t, path, coldload.Options{Budget: budget})
		at := slices.IndexFunc(res.Plan.Outputs, func(o stages.Output) bool { return strings.HasSuffix(o.Name, ".qweight") })
		x, ok := mem.Lookup(oProj + ".qweight")
		if !ok || fmt.Sprint(x.Shape) != "[72 52224]" {
			t.Fatalf("shape %v", x.Shape)
		}
		o := &res.Plan.Outputs[at]
		last := o.Slab(at, o.Slabs()-1)
		if row := int64(4 * 52224); last.Off < k/16*row || o.Slabs() < 3 {
			t.Errorf("the last slab begins at %d of %d: it is not padding alone", last.Off, o.Size)
		}
		if bytes.Count(x.Bytes[k/16*4*52224:], []byte{0}) != 2*4*52224 {
			t.Error("the padding is not zero")
		}
		for i := range 4000 { // some elements, by the formula
			at, c := i*271%k, i*6151%n
			w, p := 256*(c/64)+32*(c%8)+8*((at%8)/2)+2*((c%64)/16)+(c%16)/8, (at%16)/8+2*(at%2)
			if got := x.Bytes[at/16*4*52224+4*w+p]; got != m.Codes[at*n+c] {
				t.Fatalf("element %d, %d is %d, want %d", at, c, got, m.Codes[at*n+c])
			}
		}
	}
}
