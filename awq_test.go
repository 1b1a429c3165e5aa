package coldload_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

const awqAttn = "model.layers.0.self_attn."

// awqModules are q, k and v of several widths, with a bias, in groups of so many input features.
func awqModules(group int) (list []*ckpt.Module) {
	for i, name := range []string{"q_proj", "k_proj", "v_proj"} {
		m := ckpt.GPTQ(awqAttn+name, 256, []int{128, 64, 64}[i], 4, group, ckpt.GPTQOptions{Seed: uint64(i), NoGIdx: true, Asym: true, Bias: true})
		for i := range m.Zeros {
			m.Zeros[i] = m.Zeros[i] * 7 % 16 // 0 and 15 too
		}
		list = append(list, m)
	}
	return list
}

func awqCheckpoint(t *testing.T, version string, group int, modules []*ckpt.Module) string {
	t.Helper()
	var items ckpt.List
	for _, m := range modules {
		items = append(items, m.AWQ(version))
	}
	return ckpt.New(t).Shard(single, items).JSON("config.json", map[string]any{
		"model_type": "llama", "quantization_config": map[string]any{
			"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": true, "version": version, "modules_to_not_convert": []string{"lm_head"},
		},
	}).Write()
}

// awqWeight is what a module encodes, [N][K]: version gemv_fast has its own rounded products of scales and zero points.
func awqWeight(m *ckpt.Module, version string) (out []byte) {
	w, offsets := m.Weight(), m.AWQOffsets()
	for i, v := range w {
		if version == "gemv_fast" {
			n, k := i/m.K, i%m.K
			at := k/m.GroupSize*m.N + n
			v = m.Scales[at].Float32()*float32(m.Codes[k*m.N+n]) + offsets[at].Float32()
		}
		out = binary.LittleEndian.AppendUint32(out, math.Float32bits(v))
	}
	return out
}

// TestAWQVersions: one model in every version, dequantised, kept raw, and for Marlin.
func TestAWQVersions(t *testing.T) {
	for _, version := range []string{"gemm", "gemv", "gemv_fast"} {
		for _, group := range []int{32, 64, 128, -1} {
			t.Run(fmt.Sprintf("%s/%d", version, group), func(t *testing.T) {
				modules := awqModules(group)
				path := awqCheckpoint(t, version, group, modules)
				var weight, bias []byte
				for _, m := range modules {
					weight = append(weight, awqWeight(m, version)...)
					for _, b := range m.Bias {
						bias = binary.LittleEndian.AppendUint32(bias, math.Float32bits(b.Float32()))
					}
				}
				mem, _ := loadHost(t, path, coldload.Options{Layout: stages.LayoutDequant, DType: safetensors.F32})
				for name, want := range map[string][]byte{"weight": weight, "bias": bias} {
					if got, ok := mem.Lookup(awqAttn + "qkv_proj." + name); !ok || !bytes.Equal(got.Bytes, want) {
						t.Errorf("%s differs", name)
					}
				}
				raw, _ := loadHost(t, path, coldload.Options{Layout: stages.LayoutRaw})
				apart, _ := loadHost(t, path, coldload.Options{Layout: stages.LayoutRaw, NoFuse: true})
				src := sourceTensors(t, path)
				for name, x := range apart.All() {
					if !bytes.Equal(x.Bytes, src[name]) {
						t.Errorf("%s is not kept as it is", name)
					}
				}
				joinedAlong(t, raw, src, version)

				marlin, _ := loadHost(t, path, coldload.Options{})
				x, ok := marlin.Lookup(awqAttn + "qkv_proj.qweight")
				if want := map[bool]stages.Layout{true: stages.LayoutMarlin, false: stages.LayoutRaw}[version == "gemm"]; !ok || x.Layout != want {
					t.Errorf("qweight has layout %q, want %q", x.Layout, want)
				}
			})
		}
	}
}

// TestAWQMarlinIsGPTQMarlin: the same module by the two tools gives the same bytes, but for the order in which AWQ keeps them on disk.
func TestAWQMarlinIsGPTQMarlin(t *testing.T) {
	for _, group := range []int{32, 64, 128, -1} {
		for format, least := range map[string]byte{"gptq": 1, "gptq_v2": 0} { // zero points that the format can hold
			var items ckpt.List
			modules := awqModules(group)
			for _, m := range modules {
				for i := range m.Zeros {
					m.Zeros[i] = max(m.Zeros[i], least)
				}
				m.V2 = format == "gptq_v2"
				items = append(items, m)
			}
			path := ckpt.New(t).Shard(single, items).JSON("config.json", map[string]any{
				"model_type": "llama", "quantization_config": map[string]any{
					"quant_method": "gptq", "bits": 4, "group_size": group, "desc_act": false, "sym": false, "checkpoint_format": format,
				},
			}).Write()
			got, _ := loadHost(t, awqCheckpoint(t, "gemm", group, modules), coldload.Options{Strict: true})
			want, _ := loadHost(t, path, coldload.Options{Strict: true})
			n := 0
			for name, w := range want.All() {
				n++
				if x, ok := got.Lookup(name); !ok || x.Layout != stages.LayoutMarlin || x.DType != w.DType || !bytes.Equal(x.Bytes, w.Bytes) {
					t.Errorf("group %d, %s: %s differs", group, format, name)
				}
			}
			if n != 4 || len(got.Outputs()) != n {
				t.Errorf("group %d, %s: %d outputs, of AWQ %d, want 4", group, format, n, len(got.Outputs()))
			}
		}
	}
}

// joinedAlong compares raw outputs with their members: side by side along the last dim, or one after the other along the first.
func joinedAlong(t *testing.T, raw outputs, src map[string][]byte, version string) {
	t.Helper()
	n := 0
	for name, x := range raw.All() {
		n++
		suffix := name[strings.LastIndexByte(name, '.')+1:]
		beside := version == "gemm" && suffix != "bias" || version == "gemv_fast" && suffix != "qweight" && suffix != "bias"
		rows := 1
		if beside {
			rows = int(x.Shape[0])
		}
		var want []byte
		for r := range rows {
			for _, member := range []string{"q_proj.", "k_proj.", "v_proj."} {
				b := src[awqAttn+member+suffix]
				want = append(want, b[len(b)/rows*r:len(b)/rows*(r+1)]...)
			}
		}
		if !bytes.Equal(x.Bytes, want) {
			t.Errorf("%s: other bytes than its members joined", name)
		}
	}
	if n != 4 {
		t.Errorf("%d outputs, want 4", n)
	}
}

// TestAWQFaults: what the config and the shapes say is checked before a byte moves.
func TestAWQFaults(t *testing.T) {
	const base = "model.layers.0.self_attn.o_proj"
	module := func(version string) ckpt.Item {
		return ckpt.GPTQ(base, 256, 128, 4, 64, ckpt.GPTQOptions{NoGIdx: true, Asym: true, Bias: true}).AWQ(version)
	}
	fault := func(name, version string, code stages.Code, item ckpt.Item, changes map[string]any, says ...string) row {
		q := map[string]any{"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": true, "version": version}
		for key, v := range changes {
			if q[key] = v; v == nil {
				delete(q, key)
			}
		}
		return row{name: name, code: code, says: says, build: only(func(b *ckpt.Builder) {
			b.Shard(single, item).JSON("config.json", map[string]any{"model_type": "llama", "quantization_config": q})
		})}
	}
	gemm := module("gemm")
	config := func(name string, code stages.Code, key string, value any, says ...string) row {
		return fault(name, "gemm", code, gemm, map[string]any{key: value}, append(says, "config.json")...)
	}
	with := func(x ckpt.T) ckpt.Item { return ckpt.Replace(gemm, x) }
	ints := func(suffix string, dims ...int64) ckpt.T { return ckpt.Dense(base+suffix, safetensors.I32, 1, dims...) }
	rows := []row{
		config("8 bits", stages.CodeUnsupported, "bits", 8, "bits 8 is not supported yet", "4"),
		config("no bits", stages.CodeConfig, "bits", nil, `"bits" is missing`),
		config("group 0", stages.CodeConfig, "group_size", 0, "group_size"),
		config("no zero points", stages.CodeUnsupported, "zero_point", false, "zero_point false"),
		config("act-order", stages.CodeUnsupported, "desc_act", true, "desc_act true"),
		config("marlin", stages.CodeUnsupported, "version", "marlin", "version marlin", "gemm, gemv and gemv_fast"),
		config("unknown version", stages.CodeConfig, "version", "gemx", "gemx"),
		config("two versions", stages.CodeConfig, "format", "gemv", "gemm, as another key"),
		config("llm-awq", stages.CodeUnsupported, "backend", "llm-awq", "backend llm-awq"),
		config("pack_dtype", stages.CodeConfig, "pack_dtype", "int16", "pack_dtype"),
		config("overrides", stages.CodeUnsupported, "dynamic", map[string]any{"+:.*down_proj": map[string]any{"bits": 8}}, "dynamic"),
		fault("group 16 of gemv", "gemv", stages.CodeConfig, module("gemv"), map[string]any{"group_size": 16}, "group_size", "version gemv"),
		fault("no scales", "gemm", stages.CodeMember, ckpt.Without(gemm, "scales"), nil, single, base+".scales"),
		fault("no zero points there", "gemm", stages.CodeMember, ckpt.Without(gemm, "qzeros"), nil, single, base+".qzeros"),
		fault("a g_idx", "gemm", stages.CodeMismatch, ckpt.List{gemm, ints(".g_idx", 256)}, nil, single, base, "g_idx"),
		fault("a dense weight", "gemm", stages.CodeMismatch, ckpt.List{gemm, ckpt.Dense(base+".weight", safetensors.F16, 1, 128, 256)}, nil, base, "dense"),
		fault("other groups", "gemm", stages.CodeShape, gemm, map[string]any{"group_size": 128}, base+".scales", "[2, 128]", "[4, 128]"),
		fault("K is no whole groups", "gemm", stages.CodeShape, gemm, map[string]any{"group_size": 96}, base+".qweight", "no whole groups of 96"),
		fault("gptq data", "gemm", stages.CodeShape, ckpt.GPTQ(base, 256, 128, 4, 64, ckpt.GPTQOptions{NoGIdx: true}), nil, base+".qweight", "this is GPTQ"),
		fault("qweight of one dim", "gemm", stages.CodeShape, with(ints(".qweight", 4096)), nil, base+".qweight", "a matrix", "[4096]"),
		fault("qzeros too narrow", "gemm", stages.CodeShape, with(ints(".qzeros", 4, 15)), nil, base+".qzeros", "[4, 16]", "[4, 15]"),
		fault("qzeros F16", "gemm", stages.CodeShape, with(ckpt.Dense(base+".qzeros", safetensors.F16, 1, 4, 16)), nil, base+".qzeros", "I32", "F16"),
		fault("bias too long", "gemm", stages.CodeShape, with(ckpt.Dense(base+".bias", safetensors.F16, 1, 129)), nil, base+".bias", "[128]", "[129]"),
		fault("gemm data as gemv", "gemv", stages.CodeShape, gemm, nil, base),
		fault("gemv data as gemm", "gemm", stages.CodeShape, module("gemv"), nil, base),
		fault("gemm data as gemv_fast", "gemv_fast", stages.CodeShape, gemm, nil, base+".qweight", "I16", "I32"),
		fault("gemv_fast data as gemm", "gemm", stages.CodeShape, module("gemv_fast"), nil, base+".qweight", "I32", "I16"),
	}
	refuses(t, rows)
}

// TestAWQBadScales: a scale that is not a number ends the load, whatever the layout.
func TestAWQBadScales(t *testing.T) {
	for _, version := range []string{"gemm", "gemv", "gemv_fast"} {
		for _, layout := range []stages.Layout{stages.LayoutMarlin, stages.LayoutRaw, stages.LayoutDequant} {
			modules := awqModules(64)
			modules[1].Scales[9] = 0x7E00
			path := awqCheckpoint(t, version, 64, modules)
			breaks(t, []row{{
				name: version + " " + string(layout), opt: coldload.Options{Layout: layout}, build: func(*ckpt.Builder) string { return path },
				says: []string{single, "k_proj.", "finite"},
			}})
		}
	}
}
