package coldload_test

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/synth"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// rndTools are the tools beside GPTQ's whose modules are a sound checkpoint of any shape. What becomes of them the reference works out of the
// tensors' bytes.
var rndTools = map[string]func(d *toolDraw) *rndWant{
	"awq": (*toolDraw).awq, "compressed-tensors": (*toolDraw).compressed, "fp8": (*toolDraw).fp8, "mxfp4": (*toolDraw).mxfp4, "nvfp4": (*toolDraw).nvfp4,
}

// toolDraw draws one checkpoint of a tool, and what it is loaded as.
type toolDraw struct {
	t      *rapid.T
	values *rand.Rand
	opt    coldload.Options
	list   ckpt.List
	config map[string]any
}

// randomTool loads one checkpoint of any of the tools.
func randomTool(t *testing.T, rt *rapid.T) {
	t.Helper()
	draw := rndTools[rapid.SampledFrom(slices.Sorted(maps.Keys(rndTools))).Draw(rt, "tool")]
	d := &toolDraw{t: rt, values: rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 2)), opt: drawHow(rt, coldload.Options{})}
	d.opt.Layout = sampled(d, "layout", "", stages.LayoutMarlin, stages.LayoutMarlin, stages.LayoutDequant, stages.LayoutDequant, stages.LayoutRaw)
	d.opt.NoFuse = rapid.IntRange(0, 3).Draw(rt, "no fuse") == 3
	want := draw(d)
	dir := d.write(t, rapid.IntRange(1, 3).Draw(rt, "shards"))
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			rt.Error(err)
		}
	}()
	drawChoice(rt, &d.opt, want)
	(&rndCase{dir, d.opt, drawWay(rt), want}).run(rt)
}

// write makes the checkpoint's folder, its tensors in an order of their own.
func (d *toolDraw) write(t *testing.T, shards int) string {
	t.Helper()
	files := make([]ckpt.List, shards)
	d.values.Shuffle(len(d.list), func(i, j int) { d.list[i], d.list[j] = d.list[j], d.list[i] })
	for i, x := range d.list {
		files[i%shards] = append(files[i%shards], x)
	}
	b := ckpt.New(t)
	for i, f := range files {
		b.Shard(fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, shards), f)
	}
	return b.AutoIndex().JSON("config.json", d.config).Write()
}

// sampled draws one of some values.
func sampled[V any](d *toolDraw, label string, from ...V) V {
	return rapid.SampledFrom(from).Draw(d.t, label)
}

// bytes are random, but for those that a format does not have.
func (d *toolDraw) bytes(n int, not ...byte) []byte {
	b := make([]byte, n)
	for i := range b {
		for b[i] = byte(d.values.Uint32()); slices.Contains(not, b[i]); {
			b[i] = byte(d.values.Uint32())
		}
	}
	return b
}

func (d *toolDraw) tensor(name string, dtype stages.DType, data []byte, shape ...int) {
	x := ckpt.T{Name: name, DType: dtype, Data: data}
	for _, s := range shape {
		x.Shape = append(x.Shape, int64(s))
	}
	d.list = append(d.list, x)
}

// scales are floating-point numbers of a magnitude that all dtypes have room for.
func (d *toolDraw) scales(n int, dtype stages.DType) []byte {
	return rndFloats((&rndDraw{values: d.values}).floats(n, dtype), dtype)
}

// layers are the linear layers of a model of one attention and a sparse MLP. Their extents are what padding fills up, when it may: multiples of
// rows and columns.
func (d *toolDraw) layers(rows, columns int, module func(base string, n, k int)) {
	dim := func(label string, step int) int {
		if d.opt.NoPad || rapid.Bool().Draw(d.t, label+" whole") {
			return 128 * rapid.IntRange(1, 2).Draw(d.t, label)
		}
		return step * rapid.IntRange(1, 320/step).Draw(d.t, label)
	}
	d.config = map[string]any{"model_type": "qwen3_moe", "torch_dtype": "bfloat16"}
	in := dim("hidden", columns)
	for _, name := range rndQKV {
		module("model.layers.0.self_attn."+name, dim(name, rows), in)
	}
	module("model.layers.0.self_attn.o_proj", dim("o", rows), dim("o in", columns))
	inter, hidden := dim("inter", columns), 128*rapid.IntRange(1, 2).Draw(d.t, "expert hidden")
	for e := range rapid.IntRange(0, 3).Draw(d.t, "experts") {
		for _, name := range rndProj {
			n, k := inter, hidden
			if name == "down_proj" {
				n, k = hidden, inter
			}
			module(fmt.Sprintf("model.layers.1.mlp.experts.%d.%s", e, name), n, k)
		}
	}
	d.tensor("model.norm.weight", safetensors.BF16, d.scales(24, safetensors.BF16), 24)
}

// expect works out what comes of modules that the reference knows as codes with scales and zero points. Raw they are looked at one by one: then
// everything is as it was.
func (d *toolDraw) expect(o synth.Options) *rndWant {
	if d.opt.Layout != stages.LayoutRaw {
		opt := d.opt
		opt.Layout = cmp.Or(opt.Layout, stages.LayoutMarlin)
		want := rndExpect(readSynth(d.list).checkpoint(o, opt), opt)
		want.most = 0 // the tools' tensors are not of the sizes that the reference thinks of
		return want
	}
	d.opt.NoFuse, d.opt.DType = true, safetensors.Invalid
	want := &rndWant{outs: map[string]rndOut{}}
	for _, x := range d.list.Tensors() {
		want.outs[x.Name] = rndOut{x.DType, x.Shape, stages.LayoutRaw, x.Data}
	}
	return want
}

// half is the dtype of activations that is asked for, mostly none.
func (d *toolDraw) half() {
	d.opt.DType = sampled(d, "dtype", safetensors.Invalid, safetensors.Invalid, safetensors.BF16, safetensors.F16)
	if d.opt.Layout == stages.LayoutDequant && rapid.IntRange(0, 3).Draw(d.t, "single") == 3 {
		d.opt.DType = safetensors.F32
	}
}

func (d *toolDraw) bias(base string, n int) {
	if rapid.IntRange(0, 3).Draw(d.t, "bias") == 3 && base == "model.layers.0.self_attn.o_proj" {
		d.tensor(base+".bias", safetensors.F16, d.scales(n, safetensors.F16), n)
	}
}

func (d *toolDraw) awq() *rndWant {
	d.half()
	group := sampled(d, "group", 32, 64, 128)
	d.layers(8, group, func(base string, n, k int) {
		d.tensor(base+".qweight", safetensors.I32, d.bytes(k*n/2), k, n/8)
		d.tensor(base+".qzeros", safetensors.I32, d.bytes(k/group*n/2), k/group, n/8)
		d.tensor(base+".scales", safetensors.F16, d.scales(k/group*n, safetensors.F16), k/group, n)
		d.bias(base, n)
	})
	d.config["quantization_config"] = map[string]any{
		"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": true, "version": "gemm", "modules_to_not_convert": []string{"lm_head"},
	}
	return d.expect(synth.Options{Format: synth.FormatAWQ, Group: group})
}

func (d *toolDraw) compressed() *rndWant {
	d.half()
	group, bits := sampled(d, "group", 32, 64, 128), sampled(d, "bits", 4, 4, 8)
	asym := bits == 4 && rapid.Bool().Draw(d.t, "asymmetric")
	scales := sampled(d, "scales", safetensors.F16, safetensors.BF16)
	d.layers(8, group, func(base string, n, k int) {
		d.tensor(base+".weight_packed", safetensors.I32, d.bytes(n*k*bits/8), n, k*bits/32)
		d.tensor(base+".weight_scale", scales, d.scales(n*k/group, scales), n, k/group)
		d.tensor(base+".weight_shape", safetensors.I64, binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, uint64(n)), uint64(k)), 2)
		if asym {
			d.tensor(base+".weight_zero_point", safetensors.I32, d.bytes(n*bits/8*k/group), n*bits/32, k/group)
		}
		d.bias(base, n)
	})
	d.config["quantization_config"] = twinConfig("", bits, group, asym, false)["quantization_config"]
	return d.expect(synth.Options{Format: synth.FormatCompressed, Group: group, Bits: bits})
}

func (d *toolDraw) fp8() *rndWant {
	d.half()
	d.opt.FP8Exponent = sampled(d, "exponent", "", stages.ExponentFused, stages.ExponentPlain)
	d.layers(8, 128, func(base string, n, k int) {
		blocks := []int{(n + 127) / 128, (k + 127) / 128}
		d.tensor(base+".weight", safetensors.F8E4M3, d.bytes(n*k, 0x7F, 0xFF), n, k)
		d.tensor(base+".weight_scale_inv", safetensors.F32, d.scales(blocks[0]*blocks[1], safetensors.F32), blocks...)
	})
	d.config["quantization_config"] = fp8BlockConfig
	want := d.expect(synth.Options{Format: synth.FormatFP8})
	for name, o := range want.outs {
		base, ok := strings.CutSuffix(name, ".scales")
		if ok && d.opt.FP8Exponent == stages.ExponentPlain && want.outs[base+".qweight"].layout == stages.LayoutMarlin {
			o.layout = stages.LayoutMarlinPlain
			want.outs[name] = o
		}
	}
	return want
}

// apart has every module for itself.
func (c *nvCheckpoint) apart() *nvCheckpoint {
	a := &nvCheckpoint{kind: c.kind}
	for _, u := range c.units {
		for _, m := range u.modules {
			a.units = append(a.units, &nvUnit{name: m.base, members: 1, modules: []*nvModule{m}})
		}
	}
	return a
}

func (d *toolDraw) nvfp4() *rndWant {
	d.half()
	kind := nvKinds[rapid.IntRange(0, len(nvKinds)-1).Draw(d.t, "kind")]
	experts := rapid.IntRange(1, 3).Draw(d.t, "experts")
	var c *nvCheckpoint
	if d.opt.NoPad = rapid.Bool().Draw(d.t, "no pad"); d.opt.NoPad {
		c = nvDraw(d.values, kind, 1, experts) // whose tiles are whole
	} else {
		c = nvOdd(d.values, kind, 1, experts)
	}
	for _, u := range c.units {
		for _, m := range u.modules {
			d.list = append(d.list, m.tensors(kind)...)
		}
	}
	d.config = map[string]any{"model_type": "qwen3_moe", "torch_dtype": "bfloat16", "quantization_config": kind.config}
	opt := d.opt
	if opt.NoFuse {
		c, opt.NoFuse = c.apart(), false
	}
	if marlin := opt.Layout == "" || opt.Layout == stages.LayoutMarlin; marlin && !opt.NoPad {
		c = c.filled()
	}
	return &rndWant{outs: c.wanted(opt)}
}

func (d *toolDraw) mxfp4() *rndWant {
	experts := rapid.IntRange(1, 3).Draw(d.t, "experts")
	hidden, inner := 32*rapid.IntRange(1, 8).Draw(d.t, "hidden"), 32*rapid.IntRange(1, 6).Draw(d.t, "inner")
	if d.opt.Layout != stages.LayoutDequant {
		d.opt.Layout = stages.LayoutMarlin
	}
	d.opt.NoFuse = false // the experts are one tensor
	tensors, gateUp, down := mxStacks(d.values, experts, hidden, inner, rapid.Bool().Draw(d.t, "bias"))
	d.list = tensors
	d.config = map[string]any{"model_type": "gpt_oss", "dtype": "bfloat16", "num_local_experts": experts, "quantization_config": mxfp4Config}
	one := func(list []*mxModule) (out [][]*mxModule) {
		for _, m := range list {
			out = append(out, []*mxModule{m})
		}
		return out
	}
	want := &rndWant{outs: mxWant{expertsAt + "gate_up_proj", one(gateUp), roundUp(2*inner, 256), roundUp(hidden, 256), true}.outs(d.opt.Layout)}
	maps.Copy(want.outs, mxWant{expertsAt + "down_proj", one(down), roundUp(hidden, 256), roundUp(inner, 128), true}.outs(d.opt.Layout))
	for _, x := range d.list.Tensors() {
		if strings.HasSuffix(x.Name, "_bias") && d.opt.Layout == stages.LayoutDequant {
			want.outs[x.Name] = rndOut{x.DType, x.Shape, stages.LayoutRaw, x.Data}
		}
	}
	return want
}
