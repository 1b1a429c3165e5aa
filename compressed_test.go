package coldload_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// twin is a GPTQ module as compressed-tensors would store it: the same codes, zero points, scales and order.
type twin struct {
	m     *ckpt.Module
	asym  bool
	order bool
}

// packFields packs fields of so many bits into words.
func packFields(fields []byte, bits int) (out []byte) {
	for i := 0; i < len(fields); i += 32 / bits {
		var w uint32
		for p, f := range fields[i:min(i+32/bits, len(fields))] {
			w |= uint32(f) << (bits * p)
		}
		out = binary.LittleEndian.AppendUint32(out, w)
	}
	return out
}

func (t twin) Tensors() []ckpt.T {
	m := t.m
	k, n, groups := m.K, m.N, len(m.Scales)/m.N
	var codes, scales []byte
	row := make([]byte, k)
	for c := range n {
		for i := range row {
			row[i] = m.Codes[i*n+c]
		}
		codes = append(codes, packFields(row, m.Bits)...)
		for g := range groups {
			scales = binary.LittleEndian.AppendUint16(scales, m.Scales[g*n+c].Bits())
		}
	}
	tensor := func(suffix string, d safetensors.DType, data []byte, shape ...int) ckpt.T {
		x := ckpt.T{Name: m.Base + "." + suffix, DType: d, Data: data}
		for _, dim := range shape {
			x.Shape = append(x.Shape, int64(dim))
		}
		return x
	}
	all := []ckpt.T{
		tensor("weight_packed", safetensors.I32, codes, n, k*m.Bits/32), tensor("weight_scale", safetensors.F16, scales, n, groups),
		tensor("weight_shape", safetensors.I32, wordsOf(n, k), 2),
	}
	if t.asym {
		words := make([]byte, n*m.Bits/8*groups)
		for g := range groups {
			for i, w := range chunks(packFields(m.Zeros[g*n:(g+1)*n], m.Bits), 4) {
				copy(words[4*(i*groups+g):], w)
			}
		}
		all = append(all, tensor("weight_zero_point", safetensors.I32, words, n*m.Bits/32, groups))
	}
	if t.order {
		all = append(all, tensor("weight_g_idx", safetensors.I32, int32s(m.GIdx), k))
	}
	if m.Bias != nil {
		var bias []byte
		for _, v := range m.Bias {
			bias = binary.LittleEndian.AppendUint16(bias, v.Bits())
		}
		all = append(all, tensor("bias", safetensors.F16, bias, n))
	}
	return all
}

func chunks(b []byte, size int) (all [][]byte) {
	for ; len(b) > 0; b = b[size:] {
		all = append(all, b[:size])
	}
	return all
}

func wordsOf(values ...int) (out []byte) {
	for _, v := range values {
		out = binary.LittleEndian.AppendUint32(out, uint32(v))
	}
	return out
}

func int32s(values []int32) (out []byte) {
	for _, v := range values {
		out = binary.LittleEndian.AppendUint32(out, uint32(v))
	}
	return out
}

// twinConfig is a config.json of compressed-tensors.
func twinConfig(model string, bits, group int, asym, order bool) map[string]any {
	w := map[string]any{"num_bits": bits, "type": "int", "symmetric": !asym, "strategy": "group", "group_size": group, "actorder": nil}
	if group < 0 {
		w["strategy"], w["group_size"] = "channel", nil
	}
	if order {
		w["actorder"] = "group"
	}
	return map[string]any{"model_type": model, "quantization_config": map[string]any{
		"quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": []string{"lm_head", "re:.*mlp\\.gate$"},
		"config_groups": map[string]any{"group_0": map[string]any{"targets": []string{"Linear"}, "weights": w}},
	}}
}

// TestCompressedIsGPTQ: a checkpoint of compressed-tensors becomes, byte for byte, what the GPTQ checkpoint of the same codes becomes.
func TestCompressedIsGPTQ(t *testing.T) {
	for _, bits := range []int{4, 8} {
		for _, group := range []int{32, 64, -1} {
			for _, asym := range []bool{false, true} {
				for _, order := range []bool{false, group > 0} {
					t.Run(fmt.Sprintf("bits=%d,group=%d,asym=%v,order=%v", bits, group, asym, order), func(t *testing.T) {
						compareTwins(t, bits, group, asym, order)
					})
				}
			}
		}
	}
}

func compareTwins(t *testing.T, bits, group int, asym, order bool) {
	t.Helper()
	opt := ckpt.GPTQOptions{Asym: asym, DescAct: order, V2: true, Bias: true, NoGIdx: !order}
	var originals, twins ckpt.List
	add := func(base string, k, n int, seed uint64, g []int32) *ckpt.Module {
		opt := opt
		opt.Seed, opt.GIdx = seed, g
		m := ckpt.GPTQ(base, k, n, bits, group, opt)
		originals, twins = append(originals, m), append(twins, twin{m, asym, order})
		return m
	}
	q := add(attn+"q_proj", 256, 192, 1, nil)
	add(attn+"k_proj", 256, 64, 2, q.GIdx)
	add(attn+"v_proj", 256, 64, 3, q.GIdx)
	add(oProj, 192, 256, 4, nil)
	for e := range 3 {
		at := fmt.Sprintf("%sexperts.%d.", mlp, e)
		gate := add(at+"gate_proj", 256, 128, uint64(10*e+11), nil)
		add(at+"up_proj", 256, 128, uint64(10*e+12), gate.GIdx)
		add(at+"down_proj", 128, 256, uint64(10*e+13), nil)
	}
	dense := ckpt.Dense(mlp+"gate.weight", safetensors.BF16, 9, 3, 256)
	reference := gptqWith("qwen3_moe", map[string]any{"bits": bits, "group_size": group, "sym": !asym, "desc_act": order, "checkpoint_format": "gptq_v2"}, originals, dense)
	build := only(func(b *ckpt.Builder) {
		b.Shard(single, twins, dense).JSON("config.json", twinConfig("qwen3_moe", bits, group, asym, order))
	})
	opts := []coldload.Options{
		{Layout: stages.LayoutDequant, DType: safetensors.F32},
		{Layout: stages.LayoutDequant, DType: safetensors.BF16},
		{Layout: stages.LayoutDequant, DType: safetensors.F16, NoFuse: true},
	}
	if !asym || bits == 4 && !order { // what Marlin has kernels for
		opts = append(opts, coldload.Options{}, coldload.Options{DType: safetensors.BF16}, coldload.Options{NoFuse: true})
	}
	for _, opt := range opts {
		want, got := loadPath(t, reference, opt), loadPath(t, build, opt)
		n := 0
		for name, w := range want.All() {
			n++
			if g, ok := got.Lookup(name); !ok || g.DType != w.DType || fmt.Sprint(g.Shape) != fmt.Sprint(w.Shape) || !bytes.Equal(g.Bytes, w.Bytes) {
				t.Errorf("%s %s, fused %v: %s is not what GPTQ's becomes", opt.Layout, opt.DType, !opt.NoFuse, name)
			}
		}
		if n != len(got.Outputs()) {
			t.Errorf("%d outputs, want %d", len(got.Outputs()), n)
		}
	}
}

// TestCompressedBadValues: the checks of values do not depend on what is made of them.
func TestCompressedBadValues(t *testing.T) {
	m := o(ckpt.GPTQOptions{DescAct: true, Bias: true})
	order, plain := twin{m, false, true}, twin{m, false, false}
	build := func(ordered bool, items ...ckpt.Item) func(*ckpt.Builder) string {
		return only(func(b *ckpt.Builder) {
			b.Shard(single, items...).JSON("config.json", twinConfig("llama", 4, 64, false, ordered))
		})
	}
	scales := plain.Tensors()[1]
	scales.Data = bytes.Clone(scales.Data)
	binary.LittleEndian.PutUint16(scales.Data[2*9:], 0x7E00)
	outside := int32s(m.GIdx)
	binary.LittleEndian.PutUint32(outside[4*5:], 4)
	gIdx := ckpt.T{Name: oProj + ".weight_g_idx", DType: safetensors.I32, Shape: []int64{256}, Data: outside}
	shape := ckpt.T{Name: oProj + ".weight_shape", DType: safetensors.I64, Shape: []int64{2}, Data: append(append(wordsOf(128, 0), wordsOf(255)...), 0, 0, 0, 0)}
	badBias := ckpt.T{Name: oProj + ".bias", DType: safetensors.F16, Shape: []int64{128}, Data: append(make([]byte, 254), 0, 0x7C)}
	for _, layout := range []stages.Layout{stages.LayoutMarlin, stages.LayoutExllama, stages.LayoutDequant, stages.LayoutRaw} {
		opt, name := coldload.Options{Layout: layout}, string(layout)
		breaks(t, []row{
			{name: name + ": NaN scale", opt: opt, build: build(false, ckpt.Replace(plain, scales)), says: []string{single, oProj + ".weight_scale", "element 9", "not finite"}},
			{name: name + ": infinite bias", opt: opt, build: build(false, ckpt.Replace(plain, badBias)), says: []string{single, oProj + ".bias", "element 127", "not finite"}},
			{name: name + ": another shape", opt: opt, build: build(false, ckpt.Replace(plain, shape)), says: []string{single, oProj + ".weight_shape", "[128, 256]", "[128, 255]"}},
			{name: name + ": g_idx out of range", opt: opt, build: build(true, ckpt.Replace(order, gIdx)), says: []string{single, oProj + ".weight_g_idx", "g_idx[5]", "0 to 3", "found 4"}},
			{name: name + ": act-order that the config denies", opt: opt, build: build(false, order), says: []string{single, oProj + ".weight_g_idx", "actorder", "--act-order"}},
		})
		opt.ActOrder = true
		loads(t, []row{{name: name + ": act-order asked for", opt: opt, build: build(false, order)}})
	}
	q, k, v := qkv(ckpt.GPTQOptions{DescAct: true})
	differ := build(true, twin{q, false, true}, twin{k, false, true}, twin{v, false, true})
	breaks(t, []row{
		{name: "members of several orders", build: differ, says: []string{attn + "k_proj.weight_g_idx", "--no-fuse"}},
		{name: "members of several orders, raw", opt: coldload.Options{Layout: stages.LayoutRaw}, build: differ, says: []string{attn + "k_proj.weight_g_idx", "--no-fuse"}},
	})
	loads(t, []row{
		{name: "several orders, unfused", opt: coldload.Options{NoFuse: true}, build: differ},
		{name: "several orders, dequantised", opt: coldload.Options{Layout: stages.LayoutDequant}, build: differ},
	})
}
