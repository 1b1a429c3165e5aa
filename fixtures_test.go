package coldload_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/sinks/host"
	"github.com/coldload/coldload/sources/file"
	"github.com/coldload/coldload/stages"
)

// fixture is a checkpoint that a real quantisation tool wrote, with what must come out (testdata/fixtures/README.md).
type fixture struct {
	Expected []struct {
		Name, DType string
		Shape       []int64
		SHA256      string
	}
	Dequant struct {
		Modules []struct {
			Name   string
			Shape  []int64
			SHA256 string
		}
	}
}

func fixturePath(name string) string {
	return filepath.Join("testdata", "fixtures", name, "checkpoint")
}

func readFixture(t *testing.T, name string) fixture {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "fixtures", name, "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	var f fixture
	if err := json.Unmarshal(data, &f); err != nil {
		t.Fatal(err)
	}
	return f
}

// loadHost loads into host memory, which ends with the test.
func loadHost(t *testing.T, path string, opt coldload.Options) (*host.Memory, *coldload.Result) {
	t.Helper()
	sink := host.New(host.Options{})
	res, err := coldload.Load(t.Context(), path, sink, opt)
	if err != nil {
		t.Fatal(err)
	}
	return memoryOf(t, sink), res
}

// memoryOf is what a load left in the sink; it ends with the test.
func memoryOf(t *testing.T, sink *host.Sink) *host.Memory {
	t.Helper()
	mem := sink.Memory()
	t.Cleanup(func() {
		if err := mem.Close(); err != nil {
			t.Error(err)
		}
	})
	return mem
}

// variants are the settings that must not change a byte.
func variants() map[string]coldload.Options {
	v := map[string]coldload.Options{}
	for _, workers := range []int{1, 2, 8} {
		for _, budget := range []int64{0, 1 << 20} {
			for _, io := range []file.Mode{file.ModeAuto, file.ModeMmap, file.ModePread, file.ModeDirect} {
				w := coldload.Workers{Index: workers, Fetch: workers, Decode: workers, Fuse: workers, Repack: workers, Upload: workers}
				v[fmt.Sprintf("workers=%d,budget=%d,io=%s", workers, budget, io)] = coldload.Options{Workers: w, Budget: budget, IO: io}
			}
		}
	}
	return v
}

// dtypes maps the manifests' spelling.
var dtypes = map[string]stages.DType{
	"int32": safetensors.I32, "float16": safetensors.F16, "bfloat16": safetensors.BF16, "float32": safetensors.F32,
	"float8_e8m0fnu": safetensors.F8E8M0,
}

// ourName is our name of a tensor of vLLM's layer classes.
func ourName(vllm string) string {
	return strings.NewReplacer(
		"experts.w13_", "experts.gate_up_proj.", "experts.w2_", "experts.down_proj.",
		"weight_packed", "qweight", "weight_scale", "scales",
	).Replace(vllm)
}

func checkExpected(t *testing.T, mem outputs, f fixture, prefix string) {
	t.Helper()
	found := 0
	for _, e := range f.Expected {
		name, ok := strings.CutPrefix(e.Name, prefix)
		if !ok {
			continue
		}
		found++
		got, ok := mem.Lookup(ourName(name))
		if !ok {
			t.Errorf("%s: no such output", ourName(name))
			continue
		}
		if got.DType != dtypes[e.DType] || fmt.Sprint(got.Shape) != fmt.Sprint(e.Shape) {
			t.Errorf("%s: %s %v, want %s %v", name, got.DType, got.Shape, e.DType, e.Shape)
		}
		if sum := sha256.Sum256(got.Bytes); hex.EncodeToString(sum[:]) != e.SHA256 {
			t.Errorf("%s: other bytes than the reference", name)
		}
	}
	if found == 0 {
		t.Fatalf("the fixture has nothing under %s", prefix)
	}
}

// gptqFixtures are the GPTQ checkpoints, and whether Marlin holds them.
var gptqFixtures = map[string]bool{
	"gptq_moe_4b_g128_sharded":         true,
	"gptq_dense_4b_g128_desc_act_bias": true,
	"gptq_dense_8b_g128":               true,
	"gptq_dense_4b_g32_asym_v2":        false,
}

func TestFixtureGPTQMarlin(t *testing.T) {
	for name, holds := range gptqFixtures {
		if !holds {
			continue
		}
		f := readFixture(t, name)
		for label, opt := range variants() {
			t.Run(name+"/"+label, func(t *testing.T) {
				for prefix, dtype := range map[string]stages.DType{"marlin/tp1/": safetensors.F16, "marlin/tp1.bf16/": safetensors.BF16} {
					if f.has(prefix) {
						opt.DType = dtype
						mem, _ := loadHost(t, fixturePath(name), opt)
						checkExpected(t, mem, f, prefix)
					}
				}
				opt.DType = safetensors.Invalid
				mem, _ := loadHost(t, fixturePath(name), opt)
				checkExpected(t, mem, f, "marlin/tp1/") // the files' scales are F16
			})
		}
	}
}

// TestFixtureAWQ compares with vLLM's layer classes and with the tool's own weights. The file's scales are BF16.
func TestFixtureAWQ(t *testing.T) {
	const name = "awq_moe_4b_g64"
	f := readFixture(t, name)
	for label, opt := range variants() {
		t.Run(label, func(t *testing.T) {
			for dtype, prefix := range map[stages.DType]string{safetensors.F16: "marlin/tp1/", safetensors.BF16: "marlin/tp1.bf16/", safetensors.Invalid: "marlin/tp1.bf16/"} {
				opt.DType = dtype
				mem, _ := loadHost(t, fixturePath(name), opt)
				checkExpected(t, mem, f, prefix)
			}
			opt.Layout, opt.DType = stages.LayoutDequant, safetensors.F32
			fused, _ := loadHost(t, fixturePath(name), opt)
			opt.NoFuse = true
			single, _ := loadHost(t, fixturePath(name), opt)
			checkDequant(t, single, f)
			checkFusedFrom(t, fused, single)
		})
	}
}

// TestFixtureGPTQDequant compares every weight with the tool's own, module by module and fused.
func TestFixtureGPTQDequant(t *testing.T) {
	for name := range gptqFixtures {
		f := readFixture(t, name)
		for label, opt := range variants() {
			t.Run(name+"/"+label, func(t *testing.T) {
				opt.Layout, opt.DType = stages.LayoutDequant, safetensors.F32
				fused, _ := loadHost(t, fixturePath(name), opt)
				opt.NoFuse = true
				single, _ := loadHost(t, fixturePath(name), opt)
				checkDequant(t, single, f)
				checkFusedFrom(t, fused, single)
			})
		}
	}
}

func checkDequant(t *testing.T, mem outputs, f fixture) {
	t.Helper()
	if len(f.Dequant.Modules) == 0 {
		t.Fatal("the fixture has no dequantised weights")
	}
	for _, m := range f.Dequant.Modules {
		got, ok := mem.Lookup(m.Name)
		if !ok {
			t.Errorf("%s: no such output", m.Name)
			continue
		}
		if sum := sha256.Sum256(got.Bytes); hex.EncodeToString(sum[:]) != m.SHA256 || fmt.Sprint(got.Shape) != fmt.Sprint(m.Shape) {
			t.Errorf("%s: other values than the tool's", m.Name)
		}
	}
}

// checkFusedFrom compares every output of a fused load with those of an unfused one, joined.
func checkFusedFrom(t *testing.T, fused, single outputs) {
	t.Helper()
	src := map[string][]byte{}
	for name, tensor := range single.All() {
		src[name] = tensor.Bytes
	}
	used := 0
	for out, tensor := range fused.All() {
		want, n := joined(src, out)
		used += n
		if !bytes.Equal(tensor.Bytes, want) {
			t.Errorf("%s: other bytes than its members joined", out)
		}
	}
	if used != len(src) {
		t.Errorf("fused outputs use %d of %d", used, len(src))
	}
}

func (f fixture) has(prefix string) bool {
	for _, e := range f.Expected {
		if strings.HasPrefix(e.Name, prefix) {
			return true
		}
	}
	return false
}

// TestFixturePlain compares with the source tensors, joined by the simplest code there is.
func TestFixturePlain(t *testing.T) {
	const name = "plain_bf16_sharded"
	src := sourceTensors(t, fixturePath(name))
	for label, opt := range variants() {
		t.Run(label, func(t *testing.T) {
			mem, res := loadHost(t, fixturePath(name), opt)
			used := 0
			for out, tensor := range mem.All() {
				want, n := joined(src, out)
				used += n
				if !bytes.Equal(tensor.Bytes, want) {
					t.Errorf("%s: other bytes than its members joined", out)
				}
			}
			if used != len(src) || res.TensorsIn != len(src) {
				t.Errorf("outputs use %d tensors, result says %d, the checkpoint has %d", used, res.TensorsIn, len(src))
			}
			if _, ok := mem.Lookup("model.layers.1.mlp.experts.gate_up_proj.weight"); !ok {
				t.Error("experts were not stacked")
			}
		})
	}
}

// joined makes an output's bytes from the source tensors, and says how many it took.
func joined(src map[string][]byte, out string) (data []byte, n int) {
	take := func(names ...string) ([]byte, int) {
		for _, name := range names {
			data = append(data, src[name]...)
		}
		return data, len(names)
	}
	scope, suffix, ok := strings.Cut(out, ".experts.")
	if ok && !strings.Contains(suffix, "0.") {
		members := map[string][]string{"gate_up_proj.weight": {"gate_proj", "up_proj"}, "down_proj.weight": {"down_proj"}}[suffix]
		var names []string
		for e := range 4 {
			for _, m := range members {
				names = append(names, fmt.Sprintf("%s.experts.%d.%s.weight", scope, e, m))
			}
		}
		return take(names...)
	}
	for fused, members := range map[string][]string{"qkv_proj": {"q_proj", "k_proj", "v_proj"}, "gate_up_proj": {"gate_proj", "up_proj"}} {
		if strings.Contains(out, "."+fused+".") {
			var names []string
			for _, m := range members {
				names = append(names, strings.Replace(out, fused, m, 1))
			}
			return take(names...)
		}
	}
	return take(out)
}

func sourceTensors(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]byte{}
	for _, p := range paths {
		f, err := safetensors.Open(p)
		if err != nil {
			t.Fatal(err)
		}
		for name, info := range f.All() {
			b := make([]byte, info.Size())
			if err := f.ReadInto(name, b); err != nil {
				t.Fatal(err)
			}
			all[name] = b
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// TestFixturePlainCast checks every tensor by itself against the tool's own f32 values.
func TestFixturePlainCast(t *testing.T) {
	const name = "plain_bf16_sharded"
	f := readFixture(t, name)
	mem, _ := loadHost(t, fixturePath(name), coldload.Options{DType: safetensors.F32, NoFuse: true, Layout: stages.LayoutRaw})
	for _, m := range f.Dequant.Modules {
		got, ok := mem.Lookup(m.Name)
		if !ok {
			t.Errorf("%s: no such output", m.Name)
			continue
		}
		if sum := sha256.Sum256(got.Bytes); hex.EncodeToString(sum[:]) != m.SHA256 || got.DType != safetensors.F32 {
			t.Errorf("%s: other values than the tool's", m.Name)
		}
	}
	if len(f.Dequant.Modules) != len(mem.Outputs()) {
		t.Errorf("%d outputs, the tool has %d", len(mem.Outputs()), len(f.Dequant.Modules))
	}
}

func TestLoadEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	cancel(stop)
	sink := host.New(host.Options{})
	if _, err := coldload.Load(ctx, fixturePath("plain_bf16_sharded"), sink, coldload.Options{}); !errors.Is(err, stop) {
		t.Errorf("error %v, want the cause", err)
	}
}
