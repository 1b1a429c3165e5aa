package coldload_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/x448/float16"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/sinks/host"
	"github.com/coldload/coldload/sources/file"
	"github.com/coldload/coldload/stages"
)

// nvModule is one linear layer of NVFP4 with everything known that its tensors hold.
type nvModule struct {
	base   string
	k, n   int
	codes  []byte // [N][K]
	scales []byte // [N][K/16], F8_E4M3
	global float32
	bias   []uint16 // BF16
	input  float32  // 0 for none
}

// nvKind is a tool that writes NVFP4.
type nvKind struct {
	name    string
	parts   [4]string // codes, scales, scale of the tensor, scale of the activations
	divisor bool
	one     []int64 // shape of a scale of a tensor
	config  map[string]any
}

var nvKinds = []nvKind{
	{
		"modelopt",
		[4]string{"weight", "weight_scale", "weight_scale_2", "input_scale"},
		false, nil,
		map[string]any{"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16, "ignore": []string{"lm_head"}},
	},
	{
		"compressed-tensors",
		[4]string{"weight_packed", "weight_scale", "weight_global_scale", "input_global_scale"},
		true,
		[]int64{1},
		map[string]any{
			"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized", "ignore": []string{"lm_head"}, "kv_cache_scheme": nil,
			"config_groups": map[string]any{"group_0": map[string]any{
				"targets": []string{"Linear"}, "format": "nvfp4-pack-quantized",
				"weights": map[string]any{
					"num_bits": 4, "type": "float", "symmetric": true, "strategy": "tensor_group", "group_size": 16, "dynamic": false,
					"actorder": nil, "block_structure": nil, "observer": "memoryless_minmax", "scale_dtype": "torch.float8_e4m3fn", "zp_dtype": nil,
				},
				"input_activations": map[string]any{"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "dynamic": "local"},
			}},
		},
	},
}

// packed are the codes, two to a byte.
func (m *nvModule) packed() []byte {
	out := make([]byte, len(m.codes)/2)
	for i, c := range m.codes {
		out[i/2] |= c << (4 * (i % 2))
	}
	return out
}

// tensors are those of the checkpoint.
func (m *nvModule) tensors(kind nvKind) ckpt.List {
	n, k := int64(m.n), int64(m.k)
	at := func(i int) string { return m.base + "." + kind.parts[i] }
	list := ckpt.List{
		ckpt.T{Name: at(0), DType: safetensors.U8, Shape: []int64{n, k / 2}, Data: m.packed()},
		ckpt.T{Name: at(1), DType: safetensors.F8E4M3, Shape: []int64{n, k / 16}, Data: m.scales},
		f32s(at(2), kind.one, m.global),
	}
	if m.input != 0 {
		list = append(list, f32s(at(3), kind.one, m.input))
	}
	if m.bias != nil {
		list = append(list, ckpt.T{Name: m.base + ".bias", DType: safetensors.BF16, Shape: []int64{n}, Data: nvHalves(m.bias)})
	}
	return list
}

func nvHalves(v []uint16) (out []byte) {
	for _, x := range v {
		out = binary.LittleEndian.AppendUint16(out, x)
	}
	return out
}

// nvRandom makes a module whose largest scale is at most peak.
func nvRandom(r *rand.Rand, base string, k, n int, peak byte, global float32, kind nvKind) *nvModule {
	m := &nvModule{base: base, k: k, n: n, codes: make([]byte, n*k), scales: make([]byte, n*k/16), global: global}
	if kind.divisor {
		m.global = 1 / global
	}
	for i := range m.codes {
		m.codes[i] = byte(r.IntN(16))
	}
	for i := range m.scales {
		m.scales[i] = byte(r.IntN(int(peak) + 1))
	}
	if r.IntN(2) == 0 {
		m.input = float32(r.Float64())
	}
	return m
}

// nvUnit is what becomes one module.
type nvUnit struct {
	name    string
	members int
	experts int // 0 when it is not stacked
	modules []*nvModule
}

// nvCheckpoint is a whole checkpoint.
type nvCheckpoint struct {
	kind  nvKind
	units []*nvUnit
	plain ckpt.List
}

// nvDraw makes a checkpoint of some layers, with dense layers and experts. Some tensors have small scales only.
func nvDraw(r *rand.Rand, kind nvKind, layers, experts int) *nvCheckpoint {
	const hidden, inter = 256, 128
	c := &nvCheckpoint{kind: kind}
	peak := func() byte { return byte(r.IntN(0x7F)) }
	global := func() float32 { return float32(math.Ldexp(1+r.Float64(), -4-r.IntN(12))) }
	for l := range layers {
		at := fmt.Sprintf("model.layers.%d.", l)
		qkv := &nvUnit{name: at + "self_attn.qkv_proj", members: 3}
		g, in := global(), float32(r.IntN(2))
		for i, n := range []int{128, 64, 64} {
			m := nvRandom(r, at+"self_attn."+"qkv"[i:i+1]+"_proj", hidden, n, peak(), g, kind)
			m.input = in * float32(i+1)
			qkv.modules = append(qkv.modules, m)
		}
		o := nvRandom(r, at+"self_attn.o_proj", 128, hidden, peak(), global(), kind)
		o.bias = make([]uint16, hidden)
		for i := range o.bias {
			o.bias[i] = uint16(0x3C00 + r.IntN(0x400))
		}
		c.units = append(c.units, qkv, &nvUnit{name: o.base, members: 1, modules: []*nvModule{o}})
		gu := &nvUnit{name: at + "mlp.experts.gate_up_proj", members: 2, experts: experts}
		down := &nvUnit{name: at + "mlp.experts.down_proj", members: 1, experts: experts}
		in = float32(r.IntN(2))
		for e := range experts {
			at := fmt.Sprintf("%smlp.experts.%d.", at, e)
			g := global()
			for _, name := range []string{"gate_proj", "up_proj"} {
				m := nvRandom(r, at+name, hidden, inter, peak()/8, g, kind)
				m.input = in
				gu.modules = append(gu.modules, m)
			}
			m := nvRandom(r, at+"down_proj", inter, hidden, peak(), global(), kind)
			m.input = in
			down.modules = append(down.modules, m)
		}
		c.units = append(c.units, gu, down)
		c.plain = append(c.plain, ckpt.Dense(at+"mlp.gate.weight", safetensors.BF16, uint64(l), int64(experts), hidden))
	}
	return c
}

// build writes the checkpoint to some shards, in an order of its own.
func (c *nvCheckpoint) build(order *rand.Rand, shards int) func(*ckpt.Builder) string {
	return only(func(b *ckpt.Builder) {
		lists := make([]ckpt.List, shards)
		for _, u := range c.units {
			for _, m := range u.modules {
				for _, x := range m.tensors(c.kind) {
					i := order.IntN(shards)
					lists[i] = append(lists[i], x)
				}
			}
		}
		lists[0] = append(lists[0], c.plain...)
		for i, list := range lists {
			if i%2 == 0 {
				order.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
			}
			b.Shard(fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, shards), list)
		}
		b.AutoIndex()
		b.JSON("config.json", map[string]any{"model_type": "qwen3_moe", "torch_dtype": "bfloat16", "quantization_config": c.kind.config})
	})
}

// nvE4M3 is the value of an F8_E4M3.
func nvE4M3(c byte) float32 {
	m := float64(c & 7)
	if e := int(c >> 3 & 15); e > 0 {
		return float32(math.Ldexp(1+m/8, e-7))
	}
	return float32(m * 0x1p-9)
}

// nvFactor is vLLM's factor of tensors that share one.
func nvFactor(act stages.DType, modules []*nvModule) float32 {
	largest := float32(0)
	for _, m := range modules {
		for _, c := range m.scales {
			largest = max(largest, nvE4M3(c)*128)
		}
	}
	if act == safetensors.F16 || largest == 0 || largest >= 448*128 {
		return 1
	}
	return float32(math.Exp2(math.Floor(math.Log2(float64(448 * 128 / largest)))))
}

// want are the Outputs of a unit, worked out from the formulas one element at a time.
func (u *nvUnit) want(kind nvKind, opt coldload.Options) map[string]rndOut {
	outs := map[string]rndOut{}
	lead := func(dims ...int64) []int64 {
		if u.experts > 0 {
			return append([]int64{int64(u.experts)}, dims...)
		}
		return append([]int64{}, dims...)
	}
	k, n := u.modules[0].k, 0
	for _, m := range u.modules[:u.members] {
		n += m.n
	}
	act := opt.DType
	if act == safetensors.Invalid {
		act = safetensors.BF16
	}
	add := func(suffix string, d stages.DType, l stages.Layout, data []byte, dims ...int64) {
		outs[u.name+"."+suffix] = rndOut{d, lead(dims...), l, data}
	}
	one := []int64{int64(u.members)}
	if u.members == 1 {
		one = kind.one
	}
	each := func(f func(members []*nvModule) []byte) (all []byte) {
		for e := 0; e < len(u.modules); e += u.members {
			all = append(all, f(u.modules[e:e+u.members])...)
		}
		return all
	}
	if u.modules[0].input != 0 && opt.Layout != stages.LayoutDequant {
		dims := one
		if opt.Layout != stages.LayoutRaw && u.members == 1 && kind.one == nil {
			dims = nil
		}
		add(kind.parts[3], safetensors.F32, stages.LayoutRaw, each(func(members []*nvModule) (b []byte) {
			for _, m := range members {
				b = append(b, rndFloats([]float32{m.input}, safetensors.F32)...)
			}
			return b
		}), dims...)
	}
	switch opt.Layout {
	case stages.LayoutRaw:
		add(kind.parts[0], safetensors.U8, stages.LayoutRaw, each(func(members []*nvModule) (b []byte) {
			for _, m := range members {
				b = append(b, m.packed()...)
			}
			return b
		}), int64(n), int64(k/2))
		add(kind.parts[1], safetensors.F8E4M3, stages.LayoutRaw, each(func(members []*nvModule) (b []byte) {
			for _, m := range members {
				b = append(b, m.scales...)
			}
			return b
		}), int64(n), int64(k/16))
		add(kind.parts[2], safetensors.F32, stages.LayoutRaw, each(func(members []*nvModule) (b []byte) {
			for _, m := range members {
				b = append(b, rndFloats([]float32{m.global}, safetensors.F32)...)
			}
			return b
		}), one...)
		if b := u.modules[0].bias; b != nil {
			to := opt.DType
			if to == safetensors.Invalid {
				to = safetensors.BF16
			}
			add("bias", to, stages.LayoutRaw, nvBias(b, to, false), int64(n))
		}
	case stages.LayoutDequant:
		add("weight", act, stages.LayoutRaw, each(func(members []*nvModule) (b []byte) {
			for _, m := range members {
				b = append(b, m.weights(kind, act)...)
			}
			return b
		}), int64(n), int64(k))
		if b := u.modules[0].bias; b != nil {
			add("bias", act, stages.LayoutRaw, nvBias(b, act, false), int64(n))
		}
	default:
		factor := nvFactor(act, u.modules)
		add("qweight", safetensors.I32, stages.LayoutMarlin, each(func(members []*nvModule) []byte { return nvMarlin(members, k, n) }), int64(k/16), int64(2*n))
		add("scales", safetensors.F8E4M3, stages.LayoutMarlin, each(func(members []*nvModule) []byte {
			return nvScales(members, k/16, n, factor)
		}), int64(k/16), int64(n))
		bias := float32(0x1p119)
		if act == safetensors.F16 {
			bias = 0x1p7
		}
		global := func(members []*nvModule) (b []byte) {
			for _, m := range members {
				v := m.global
				if kind.divisor {
					v = 1 / v
				}
				v *= bias
				b = append(b, rndFloats([]float32{v / factor}, safetensors.F32)...)
			}
			return b
		}
		if u.experts > 0 && u.members > 1 {
			add("global_scale", safetensors.F32, stages.LayoutMarlin, each(global), int64(u.members))
		} else {
			add("global_scale", safetensors.F32, stages.LayoutMarlin, each(func(members []*nvModule) []byte { return global(members[:1]) }))
		}
		if b := u.modules[0].bias; b != nil {
			add("bias", act, stages.LayoutMarlin, nvBias(b, act, true), int64(n))
		}
	}
	return outs
}

// weights are those of a module, rounded once.
func (m *nvModule) weights(kind nvKind, to stages.DType) (out []byte) {
	magnitude := [8]float32{0, 0.5, 1, 1.5, 2, 3, 4, 6}
	for i, code := range m.codes {
		v := magnitude[code&7]
		if code&8 != 0 {
			v = -v
		}
		scale := nvE4M3(m.scales[i/16])
		if kind.divisor {
			scale /= m.global
			v *= scale
		} else {
			v *= scale
			v *= m.global
		}
		out, _ = rndRound(out, v, to)
	}
	return out
}

// nvMarlin is the qweight of one expert.
func nvMarlin(members []*nvModule, k, n int) (out []byte) {
	words := make([]uint32, k/16*2*n)
	from := 0
	for _, m := range members {
		for i, code := range m.codes {
			c, kk := from+i/k, i%k
			w := 128*(c/64) + 16*(c%8) + 4*((kk%8)/2) + (c%64)/16
			words[kk/16*2*n+w] |= uint32(code) << (4 * ((kk%16)/8 + 2*((c%16)/8) + 4*(kk%2)))
		}
		from += m.n
	}
	for _, w := range words {
		out = binary.LittleEndian.AppendUint32(out, w)
	}
	return out
}

// nvScales are the scales of one expert: vLLM's halves, permuted, with the middle two of every four swapped.
func nvScales(members []*nvModule, groups, n int, factor float32) []byte {
	out := make([]byte, 0, groups*n)
	for g := range groups {
		row := make([]byte, 0, n)
		for _, m := range members {
			for c := range m.n {
				h := float16.Fromfloat32(float16.Fromfloat32(nvE4M3(m.scales[c*groups+g])*factor).Float32() * 128)
				if h.Float32() < 2 {
					h = 0
				}
				row = append(row, byte(h.Bits()<<1>>8))
			}
		}
		permuted := make([]byte, n)
		for i := range permuted {
			permuted[i] = row[i/64*64+8*(i%8)+i%64/8]
		}
		for i := 0; i < n; i += 4 {
			permuted[i+1], permuted[i+2] = permuted[i+2], permuted[i+1]
		}
		out = append(out, permuted...)
	}
	return out
}

// nvBias is a BF16 bias in another dtype, permuted for Marlin.
func nvBias(b []uint16, to stages.DType, marlin bool) (out []byte) {
	for i := range b {
		at := i
		if marlin {
			at = i/32*32 + 2*(i%32/8) + i%2 + 8*(i%8/2)
		}
		out, _ = rndRound(out, math.Float32frombits(uint32(b[at])<<16), to)
	}
	return out
}

// wanted are all Outputs of the quantised modules.
func (c *nvCheckpoint) wanted(opt coldload.Options) map[string]rndOut {
	all := map[string]rndOut{}
	for _, u := range c.units {
		units := []*nvUnit{u}
		if opt.NoFuse {
			units = nil
			for _, m := range u.modules {
				units = append(units, &nvUnit{name: m.base, members: 1, modules: []*nvModule{m}})
			}
		}
		for _, u := range units {
			maps.Copy(all, u.want(c.kind, opt))
		}
	}
	return all
}

// compare checks Outputs against what must come of them.
func (c *nvCheckpoint) compare(t *testing.T, what string, got outputs, want map[string]rndOut) {
	t.Helper()
	found := 0
	for name, x := range got.All() {
		if strings.HasSuffix(name, "mlp.gate.weight") {
			continue
		}
		found++
		w, ok := want[name]
		switch {
		case !ok:
			t.Errorf("%s: %s is not wanted", what, name)
		case x.DType != w.dtype || !slices.Equal(x.Shape, w.shape) || x.Layout != w.layout:
			t.Errorf("%s: %s is %s %v %s, want %s %v %s", what, name, x.DType, x.Shape, x.Layout, w.dtype, w.shape, w.layout)
		case !bytes.Equal(x.Bytes, w.data):
			t.Errorf("%s: %s has other bytes", what, name)
		}
	}
	if found != len(want) {
		t.Errorf("%s: %d outputs, want %d", what, found, len(want))
	}
}

// nvOptions are what checkpoints of NVFP4 are asked for.
func nvOptions() (all []coldload.Options) {
	for _, noFuse := range []bool{false, true} {
		all = append(all,
			coldload.Options{NoFuse: noFuse}, coldload.Options{DType: safetensors.F16, NoFuse: noFuse},
			coldload.Options{Layout: stages.LayoutDequant, NoFuse: noFuse},
			coldload.Options{Layout: stages.LayoutDequant, DType: safetensors.F32, NoFuse: noFuse},
			coldload.Options{Layout: stages.LayoutDequant, DType: safetensors.F16, NoFuse: noFuse},
			coldload.Options{Layout: stages.LayoutRaw, NoFuse: noFuse},
			coldload.Options{Layout: stages.LayoutRaw, DType: safetensors.F16, NoFuse: noFuse})
	}
	return all
}

// TestNVFP4Loads: random checkpoints of both tools become what the formulas say, in every layout.
func TestNVFP4Loads(t *testing.T) {
	for i, kind := range nvKinds {
		for seed := range uint64(3) {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			c := nvDraw(r, kind, 2, 3)
			b := ckpt.New(t)
			c.build(r, 1+r.IntN(3))(b)
			path := b.Write()
			for _, opt := range nvOptions() {
				what := fmt.Sprintf("%s, seed %d, %s %s, apart %v", kind.name, seed, opt.Layout, opt.DType, opt.NoFuse)
				mem, res := loadHost(t, path, opt)
				c.compare(t, what, mem, c.wanted(opt))
				s := res.Plan.Summary
				scans := opt.Layout == "" && opt.DType != safetensors.F16 && !opt.NoFuse
				if (s.Scanned > 0) != scans || !scans && s.BytesRead > s.BytesIn {
					t.Errorf("%s: %d bytes of %d are scanned, %d read", what, s.Scanned, s.BytesIn, s.BytesRead)
				}
				if read := res.Phases[stages.PhaseFetch].BytesIn; read < s.BytesRead || read > s.BytesRead+s.Spare {
					t.Errorf("%s: %d bytes were read, the plan said %d and %d more", what, read, s.BytesRead, s.Spare)
				}
			}
		}
	}
}

// TestNVFP4EveryWay: neither workers, budgets, ways to read nor ways to load change a byte, nor where the Batches end.
func TestNVFP4EveryWay(t *testing.T) {
	r := rand.New(rand.NewPCG(16, 3))
	for _, kind := range nvKinds {
		c := nvDraw(r, kind, 3, 4)
		b := ckpt.New(t)
		c.build(r, 2)(b)
		path := b.Write()
		want := c.wanted(coldload.Options{})
		for name, opt := range variants() {
			if opt.Budget > 0 {
				opt.Budget = 100 << 10
			}
			mem, _ := loadHost(t, path, opt)
			c.compare(t, kind.name+", "+name, mem, want)
		}
		for way, load := range ways {
			if way == "Open, module by module" { // whose tensors have no layout
				continue
			}
			c.compare(t, kind.name+", "+way, load(t, path, coldload.Options{}), want)
		}
		modules := moduleByModule(t, path, coldload.Options{})
		for name, w := range want {
			if x, ok := modules.Lookup(name); !ok || !bytes.Equal(x.Bytes, w.data) {
				t.Errorf("%s, module by module: %s differs", kind.name, name)
			}
		}
		for _, include := range [][]string{{"*.global_scale"}, {"*.scales"}, {"*layers.1.mlp.experts.down_proj.scales"}} {
			mem, res := loadHost(t, path, coldload.Options{Include: include})
			for name, x := range mem.All() {
				if !bytes.Equal(x.Bytes, want[name].data) {
					t.Errorf("%s, only %s: %s differs", kind.name, include, name)
				}
			}
			if res.Plan.Summary.Scanned == 0 {
				t.Errorf("%s, only %s: no scan", kind.name, include)
			}
		}
		only := coldload.Options{Include: []string{"*.qweight", "*self_attn*"}}
		if _, res := loadHost(t, path, only); res.Plan.Summary.Scanned != 0 {
			t.Errorf("%s: scans for outputs that are not made", kind.name)
		}
	}
}

// TestScanIsOrdered: Batches of a scan come before the first that needs it, hold nothing but what they read, and every one that needs it
// says so.
func TestScanIsOrdered(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	c := nvDraw(r, nvKinds[0], 4, 5)
	b := ckpt.New(t)
	c.build(r, 2)(b)
	ck := openPath(t, b.Write(), coldload.Options{})
	for _, budget := range []int64{60 << 10, 200 << 10, 1 << 30} {
		p, err := ck.Plan(coldload.Options{Budget: budget}, nil)
		if err != nil {
			t.Fatal(err)
		}
		parts := p.Scans()
		if len(parts) != 8 {
			t.Fatalf("%d scans, want two for each of 4 layers", len(parts))
		}
		left, first := make([]int, len(parts)), make([]int, len(parts))
		for i, scan := range parts {
			if left[i], first[i] = scan.Parts, scan.First; 5*scan.First != scan.Parts || scan.Enough == 0 {
				t.Errorf("scan %d: %+v", i+1, scan)
			}
		}
		var scanned, spare, needing int64
		for _, name := range []string{"", "batch", "batch 0 (of another)", "batch -1 (x)", fmt.Sprintf("batch %d (x)", p.BatchCount())} {
			if b := p.BatchNamed(name); b != nil {
				t.Errorf("%q is %s", name, b.Name)
			}
		}
		for batch := range p.Batches() {
			if b := p.BatchNamed(batch.Name); b == nil || b.Seq != batch.Seq {
				t.Fatalf("%s is not found by its name", batch.Name)
			}
			for i := range batch.Parts {
				part := &batch.Parts[i]
				if part.Finds != stages.NoScan {
					left[part.Finds-1]--
					if !batch.Spare {
						first[part.Finds-1]--
					}
					if n := first[part.Finds-1]; batch.Spare && (n != 0 || part.Finds != batch.Parts[0].Finds) {
						t.Errorf("%s is spare: %d of the first parts of scan %d come later", batch.Name, n, part.Finds)
					}
				}
				if part.Needs != stages.NoScan {
					needing++
					if n := left[part.Needs-1]; n != 0 {
						t.Fatalf("%s needs scan %d, of which %d parts come later", batch.Name, part.Needs, n)
					}
				}
				if batch.IsScan() != (part.Finds != stages.NoScan) {
					t.Errorf("%s mixes a scan with other parts", batch.Name)
				}
			}
			if batch.IsScan() {
				if batch.Spare {
					spare += batch.InBytes
				} else {
					scanned += batch.InBytes
				}
				if len(batch.Slabs) > 0 || batch.OutBytes > 0 || batch.Cost() > budget {
					t.Errorf("%s: %d slabs, costs %d of %d", batch.Name, len(batch.Slabs), batch.Cost(), budget)
				}
			}
		}
		if slices.Max(left) != 0 || slices.Max(first) != 0 || scanned != p.Summary.Scanned || spare != p.Summary.Spare || spare < 3*scanned || needing != 4*2*(2*5+5) {
			t.Errorf("left %v, %v; %d and %d bytes scanned, the plan says %d and %d; %d parts need a scan", left, first, scanned, spare, p.Summary.Scanned, p.Summary.Spare, needing)
		}
		// What is made already needs no scan.
		rest := p.Skip(func(s stages.Slab) bool {
			return !strings.HasSuffix(p.Outputs[s.Output].Name, "layers.2.mlp.experts.down_proj.scales")
		}, budget)
		if n := rest.Scans(); len(n) != 1 || n[0].Parts != 5 || n[0].First != 1 {
			t.Errorf("the rest scans %v", n)
		}
	}
}

// TestScansReadNoMoreThanTheyMust: when the first expert has a scale that decides, the others are not read ahead; when a later one has, or none,
// what is made is as right. The figures say what was read, whoever works on it.
func TestScansReadNoMoreThanTheyMust(t *testing.T) {
	for name, x := range map[string]struct {
		at       int // the expert that has a large scale; -1 for none
		scale    byte
		all, few bool // whether all of the spare bytes, or none of them, have to be read
	}{
		"the first":       {0, 0x7E, false, true},
		"the first, just": {0, 0x77, false, true},
		"not quite":       {0, 0x76, true, false},
		"the second":      {1, 0x7E, false, false},
		"the last":        {5, 0x7E, false, false},
		"none":            {-1, 0, true, false},
	} {
		r := rand.New(rand.NewPCG(13, 13))
		c := nvDraw(r, nvKinds[0], 2, 6)
		for _, u := range c.units {
			if u.experts == 0 {
				continue
			}
			for i, m := range u.modules {
				for at := range m.scales {
					m.scales[at] = min(m.scales[at], 0x60)
				}
				if i/u.members == x.at {
					m.scales[r.IntN(len(m.scales))] = x.scale
				}
			}
		}
		path := written(t, c.build(r, 2))
		want := c.wanted(coldload.Options{})
		for _, workers := range []int{1, 2, 8} {
			for _, budget := range []int64{60 << 10, 0} {
				what := fmt.Sprintf("%s, %d workers, budget %d", name, workers, budget)
				var last coldload.Progress
				mem, res := loadHost(t, path, coldload.Options{
					Budget: budget, Workers: coldload.Workers{Fetch: workers, Decode: workers, Fuse: workers, Repack: workers, Upload: workers},
					Progress: func(p coldload.Progress) { last = p },
				})
				c.compare(t, what, mem, want)
				s, fetch := res.Plan.Summary, res.Phases[stages.PhaseFetch]
				more := fetch.BytesIn - s.BytesRead
				if s.Spare == 0 || more < 0 || more > s.Spare || x.few && more != 0 || x.all && more != s.Spare {
					t.Errorf("%s: %d bytes were read, the plan said %d and up to %d more", what, fetch.BytesIn, s.BytesRead, s.Spare)
				}
				if p := last.Phases[0]; p.Bytes != fetch.BytesIn || p.Total != fetch.BytesIn {
					t.Errorf("%s: told %d of %d bytes, %d were read", what, p.Bytes, p.Total, fetch.BytesIn)
				}
				if read := res.Read.Mmap + res.Read.Pread + res.Read.Direct; read != fetch.BytesIn {
					t.Errorf("%s: the source read %d bytes of %d", what, read, fetch.BytesIn)
				}
			}
		}
	}
}

// TestNVFP4PackResumes: a pack that was stopped goes on with the scans that the rest needs, and makes the same folder.
func TestNVFP4PackResumes(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	c := nvDraw(r, nvKinds[1], 8, 8)
	b := ckpt.New(t)
	c.build(r, 2)(b)
	path := b.Write()
	opt := coldload.Options{Budget: 300 << 10}
	whole, first := packTo(t, path, opt, coldload.PackOptions{ShardSize: 512 << 10})
	mustVerify(t, whole, path)
	for _, part := range []float64{0.2, 0.5, 0.8} {
		dir := filepath.Join(t.TempDir(), "packed")
		stopAt(t, path, dir, opt, part)
		res, err := coldload.Pack(t.Context(), path, dir, opt, coldload.PackOptions{ShardSize: 4 << 20})
		if err != nil {
			t.Fatal(err)
		}
		if res.Resumed > 0 && len(res.Plan.Scans()) > len(first.Plan.Scans()) {
			t.Errorf("%d scans after %d bytes, %d from the beginning", len(res.Plan.Scans()), res.Resumed, len(first.Plan.Scans()))
		}
		mustVerify(t, dir, path)
		mem, _ := loadHost(t, dir, coldload.Options{})
		c.compare(t, fmt.Sprintf("stopped at %g", part), mem, c.wanted(coldload.Options{}))
	}
}

// TestScansAndStagesOfOnesOwn: a stage sees no Batch of a scan, sees every byte that is made once, and may look at sources.
func TestScansAndStagesOfOnesOwn(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 9))
	c := nvDraw(r, nvKinds[0], 2, 3)
	b := ckpt.New(t)
	c.build(r, 1)(b)
	path := b.Write()
	for _, after := range []stages.Phase{stages.PhaseFetch, stages.PhaseRepack} {
		var made atomic.Int64
		look := stageFunc(func(_ context.Context, b *stages.Batch) (*stages.Batch, error) {
			if len(b.Slabs) == 0 {
				return nil, errors.New("a batch that makes nothing")
			}
			made.Add(b.OutBytes)
			return b, nil
		})
		mem, res := loadHost(t, path, coldload.Options{Budget: 100 << 10, Stages: []coldload.Insert{{After: after, Stage: look, Workers: 2}}})
		c.compare(t, after.String(), mem, c.wanted(coldload.Options{}))
		if made.Load() != res.Plan.Summary.BytesOut {
			t.Errorf("saw %d bytes of %d", made.Load(), res.Plan.Summary.BytesOut)
		}
	}
}

// burningSource fails at the fetch of a number.
type burningSource struct {
	stages.Source

	left atomic.Int64
}

var errBurnt = errors.New("the disk burns")

func (s *burningSource) Fetch(ctx context.Context, ranges []stages.Extent) (stages.Views, error) {
	if s.left.Add(-1) < 0 {
		return nil, errBurnt
	}
	return s.Source.Fetch(ctx, ranges)
}

// TestScansFail: wherever a load with scans fails, it ends with the first cause, and whoever waited for a scan ends too.
func TestScansFail(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 11))
	c := nvDraw(r, nvKinds[0], 2, 4)
	b := ckpt.New(t)
	c.build(r, 2)(b)
	path := b.Write()
	failed := 0
	for n := int64(0); ; n++ {
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("the load does not end"))
		sink := host.New(host.Options{})
		opt := coldload.Options{Budget: 100 << 10, Source: func(shards []file.Shard) (stages.Source, error) {
			src, err := file.New(shards, file.Options{IO: file.ModePread, BufferBytes: 100 << 10})
			if err != nil {
				return nil, err
			}
			s := &burningSource{Source: src}
			s.left.Store(n)
			return s, nil
		}}
		_, err := coldload.Load(ctx, path, sink, opt)
		cancel()
		if err == nil {
			c.compare(t, "in the end", memoryOf(t, sink), c.wanted(coldload.Options{}))
			break
		}
		failed++
		if !errors.Is(err, errBurnt) || sink.Memory() != nil {
			t.Fatalf("after %d fetches: %v", n, err)
		}
	}
	if failed < 10 {
		t.Errorf("%d fetches in all", failed)
	}
}

func nvWith(kind nvKind, quant map[string]any, items ...ckpt.Item) func(*ckpt.Builder) string {
	if quant == nil {
		quant = kind.config
	}
	return only(func(b *ckpt.Builder) {
		b.Shard(single, items...)
		b.JSON("config.json", map[string]any{"model_type": "llama", "torch_dtype": "bfloat16", "quantization_config": quant})
	})
}

// nvO is one dense module.
func nvO(kind nvKind) *nvModule {
	return nvRandom(rand.New(rand.NewPCG(1, 2)), oProj, 256, 128, 0x40, 0.01, kind)
}

// nvWeights are the config of compressed-tensors with another value about its weights.
func nvWeights(key string, value any) map[string]any {
	q := maps.Clone(nvKinds[1].config)
	groups, _ := q["config_groups"].(map[string]any)
	group, _ := groups["group_0"].(map[string]any)
	weights, _ := group["weights"].(map[string]any)
	group = maps.Clone(group)
	group["weights"] = changed(weights, key, value)
	q["config_groups"] = map[string]any{"group_0": group}
	return q
}

func TestNVFP4ConfigFaults(t *testing.T) {
	var rows []row
	for name, x := range map[string]struct {
		config map[string]any
		says   string
	}{
		"another algorithm": {changed(nvKinds[0].config, "quant_algo", "NVFP4_AWQ"), "quant_algo NVFP4_AWQ is not supported yet"},
		"no algorithm":      {changed(nvKinds[0].config, "quant_algo", nil), "quant_algo"},
		"other groups":      {changed(nvKinds[0].config, "group_size", 32), "group_size 32"},
		"groups as text":    {changed(nvKinds[0].config, "group_size", "16"), "group_size"},
	} {
		rows = append(rows, row{name: name, build: nvWith(nvKinds[0], x.config, nvO(nvKinds[0]).tensors(nvKinds[0])), says: []string{"config.json", x.says}})
	}
	for key, value := range map[string]any{
		"num_bits": 8, "type": "int", "group_size": 32, "symmetric": false, "dynamic": true, "strategy": "group", "scale_dtype": "torch.uint8",
		"actorder": "group", "block_structure": []int{1, 2}, "observer_args": 3,
	} {
		says := []string{"group_0", key}
		if key == "num_bits" || key == "type" {
			says[1] = "4 bits, type float"
		}
		rows = append(rows, row{name: "weights: " + key, build: nvWith(nvKinds[1], nvWeights(key, value), nvO(nvKinds[1]).tensors(nvKinds[1])), says: says})
	}
	for i := range rows {
		rows[i].code = stages.CodeUnsupported
	}
	rows[slices.IndexFunc(rows, func(r row) bool { return r.name == "no algorithm" })].code = stages.CodeConfig
	rows[slices.IndexFunc(rows, func(r row) bool { return r.name == "groups as text" })].code = stages.CodeConfig
	refuses(t, rows)
	var good []row
	for _, key := range []string{"modelopt", "modelopt_fp4", "modelopt_mixed"} {
		good = append(good, row{name: key, build: nvWith(nvKinds[0], changed(nvKinds[0].config, "quant_method", key), nvO(nvKinds[0]).tensors(nvKinds[0]))})
	}
	weightOnly := changed(nvKinds[0].config, "quant_algo", "w4a16_nvfp4")
	own := only(func(b *ckpt.Builder) {
		b.Shard(single, nvO(nvKinds[0]).tensors(nvKinds[0])).JSON("config.json", map[string]any{"model_type": "llama", "torch_dtype": "float16"})
		b.JSON("hf_quant_config.json", map[string]any{"producer": map[string]any{"name": "modelopt"}, "quantization": map[string]any{
			"quant_algo": "NVFP4", "group_size": 16, "kv_cache_quant_algo": "FP8", "exclude_modules": []string{"lm_head", "model.layers.*.mlp.gate"},
		}})
	})
	good = append(good, row{name: "weights only", build: nvWith(nvKinds[0], weightOnly, nvO(nvKinds[0]).tensors(nvKinds[0]))}, row{name: "hf_quant_config", build: own})
	loads(t, good)
}

func TestNVFP4ShapeFaults(t *testing.T) {
	for _, kind := range nvKinds {
		m := nvO(kind)
		m.input = 1
		list := m.tensors(kind)
		name := func(i int) string { return oProj + "." + kind.parts[i] }
		with := func(x ckpt.T) ckpt.Item { return ckpt.Replace(list, x) }
		b := func(what string, code stages.Code, item ckpt.Item, says ...string) row {
			return row{name: kind.name + ": " + what, code: code, says: append(says, single), build: nvWith(kind, nil, item)}
		}
		dense := func(i int, d stages.DType, shape ...int64) ckpt.T { return ckpt.Dense(name(i), d, 1, shape...) }
		refuses(t, []row{
			b("no scales", stages.CodeMember, ckpt.Without(list, kind.parts[1]), name(1), "is missing"),
			b("no scale of the tensor", stages.CodeMember, ckpt.Without(list, kind.parts[2]), name(2), "is missing"),
			b("no codes", stages.CodeMember, ckpt.Without(list, kind.parts[0]), "."+kind.parts[0]+" is missing"),
			b("codes in words", stages.CodeShape, with(dense(0, safetensors.I32, 128, 32)), "wrong dtype", "U8", "I32"),
			b("half a group", stages.CodeShape, with(dense(0, safetensors.U8, 128, 124)), "a multiple of 16", "[128, 124]"),
			b("one dim", stages.CodeShape, with(dense(0, safetensors.U8, 128*128)), "in_features/2"),
			b("no rows", stages.CodeShape, with(dense(0, safetensors.U8, 0, 128)), "[0, 128]"),
			b("swizzled scales", stages.CodeShape, with(dense(1, safetensors.F8E4M3, 16, 128)), name(1), "expected [128, 16]", "[16, 128]"),
			b("scales in bytes", stages.CodeShape, with(dense(1, safetensors.U8, 128, 16)), name(1), "F8_E4M3", "U8"),
			b("two scales", stages.CodeShape, with(f32s(name(2), []int64{2}, 1, 1)), name(2), "[] or [1]"),
			b("a half", stages.CodeShape, with(dense(2, safetensors.F16)), name(2), "F32", "F16"),
			b("bias of another length", stages.CodeShape, append(slices.Clone(list), ckpt.Dense(oProj+".bias", safetensors.BF16, 1, 127)), oProj+".bias", "[128]"),
			b("input scales", stages.CodeShape, with(f32s(name(3), []int64{3}, 1, 1, 1)), name(3), "[] or [1]"),
		})
	}
	ct := nvKinds[1]
	refuses(t, []row{{
		name: "dense too", code: stages.CodeMismatch, says: []string{oProj, "a quantised and a dense weight"},
		build: nvWith(ct, nil, append(nvO(ct).tensors(ct), ckpt.Dense(oProj+".weight", safetensors.BF16, 1, 128, 256))),
	}, {
		name: "no config", code: stages.CodeConfig, says: []string{oProj, "looks quantised (modelopt)", "no file says how"},
		build: only(func(b *ckpt.Builder) {
			b.Shard(single, nvO(nvKinds[0]).tensors(nvKinds[0])).JSON("config.json", map[string]any{"model_type": "llama"})
		}),
	}})
	other := nvRandom(rand.New(rand.NewPCG(3, 3)), "model.layers.0.mlp.down_proj", 256, 128, 9, 1, nvKinds[0])
	loads(t, []row{{
		name: "beside dense layers", build: nvWith(nvKinds[0], nil, nvO(nvKinds[0]).tensors(nvKinds[0]), ckpt.Dense("lm_head.weight", safetensors.BF16, 1, 64, 256),
			f32s("lm_head.input_scale", nil, 1), f32s("model.layers.0.self_attn.k_proj.k_scale", nil, 1)),
		check: func(got loaded) { notes(got.t, got.res.Plan.Notes, "1 scales are ignored") },
	}, {
		name: "beside FP8", build: nvWith(nvKinds[0], map[string]any{
			"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": map[string]any{
				oProj: map[string]any{"quant_algo": "FP8"}, other.base: map[string]any{"quant_algo": "NVFP4", "group_size": 16},
			},
		}, perTensor(oProj, 128, 1), other.tensors(nvKinds[0])),
		check: func(got loaded) {
			u := nvUnit{name: other.base, members: 1, modules: []*nvModule{other}}
			for name, w := range u.want(nvKinds[0], coldload.Options{}) {
				if x, ok := got.mem.Lookup(name); !ok || !bytes.Equal(x.Bytes, w.data) {
					got.t.Errorf("%s differs", name)
				}
			}
		},
	}})
}

// TestNVFP4Values: what the bytes show ends the load, or warns, with the name of the tensor.
func TestNVFP4Values(t *testing.T) {
	for _, kind := range nvKinds {
		name := func(i int) string { return oProj + "." + kind.parts[i] }
		bad := func(what string, layouts []stages.Layout, change func(m *nvModule), says ...string) {
			m := nvO(kind)
			change(m)
			for _, l := range layouts {
				for _, d := range []stages.DType{safetensors.F16, safetensors.BF16} {
					breaks(t, []row{{
						name: fmt.Sprintf("%s: %s, %s %s", kind.name, what, l, d), opt: coldload.Options{Layout: l, DType: d}, build: nvWith(kind, nil, m.tensors(kind)),
						says: append(says, single),
					}})
				}
			}
		}
		every := []stages.Layout{stages.LayoutMarlin, stages.LayoutDequant, stages.LayoutRaw}
		bad("NaN scale", every, func(m *nvModule) { m.scales[77] = 0x7F }, name(1), "element 77")
		bad("negative scale", every[:1], func(m *nvModule) { m.scales[5] = 0xB8 }, name(1), "element 5", "-1", "--layout dequant")
		bad("infinite scale of the tensor", every, func(m *nvModule) { m.global = float32(math.Inf(1)) }, name(2), "not finite")
		bad("scale of activations", every, func(m *nvModule) { m.input = float32(math.NaN()) }, name(3), "not finite")
		if kind.divisor {
			bad("zero divisor", every[:2], func(m *nvModule) { m.global = 0 }, name(2))
		}
	}
	kind := nvKinds[0]
	r := rand.New(rand.NewPCG(2, 2))
	var members []ckpt.Item
	for i, n := range []int{128, 64, 64} {
		members = append(members, nvRandom(r, attn+"qkv"[i:i+1]+"_proj", 256, n, 0x40, float32(1+i/2), kind).tensors(kind))
	}
	for i := range members {
		list, _ := members[i].(ckpt.List)
		members[i] = ckpt.Without(list, "input_scale")
	}
	breaks(t, []row{{name: "members with other scales", build: nvWith(kind, nil, members...), says: []string{attn + "v_proj.weight_scale_2", attn + "q_proj.weight_scale_2", "--no-fuse"}}})
	loads(t, []row{
		{name: "unfused", opt: coldload.Options{NoFuse: true}, build: nvWith(kind, nil, members...)},
		{name: "dequantised", opt: coldload.Options{Layout: stages.LayoutDequant}, build: nvWith(kind, nil, members...)},
	})
	c := nvDraw(r, kind, 1, 2)
	c.units[2].modules[3].global *= 2
	loads(t, []row{{name: "experts", build: c.build(r, 1), check: func(got loaded) {
		c.compare(got.t, "experts with other scales", got.mem, c.wanted(coldload.Options{}))
		notes(got.t, got.res.Warnings, "experts.1.up_proj.weight_scale_2", "experts.1.gate_proj.weight_scale_2")
	}}})
}

// TestNVFP4KeptRaw: what the kernels cannot hold is kept as it is, with the reason.
func TestNVFP4KeptRaw(t *testing.T) {
	kind := nvKinds[0]
	r := rand.New(rand.NewPCG(6, 6))
	odd := nvRandom(r, oProj, 48, 96, 0x40, 1, kind)
	keptRaw := func(got loaded, m *nvModule, reason string) {
		u := nvUnit{name: m.base, members: 1, modules: []*nvModule{m}}
		for name, w := range u.want(kind, coldload.Options{Layout: stages.LayoutRaw}) {
			if x, ok := got.mem.Lookup(name); !ok || !bytes.Equal(x.Bytes, w.data) {
				got.t.Errorf("%s differs", name)
			}
		}
		if k := got.res.Plan.Summary.Kept; len(k) != 1 || !strings.Contains(k[0].Reason, reason) {
			got.t.Errorf("kept %v", k)
		}
	}
	good := nvO(kind)
	loads(t, []row{
		{name: "exllama", opt: coldload.Options{Layout: stages.LayoutExllama}, build: nvWith(kind, nil, good.tensors(kind)), check: func(got loaded) {
			keptRaw(got, good, "no FP4 weights")
		}},
		{name: "no dtype", build: only(func(b *ckpt.Builder) {
			b.Shard(single, good.tensors(kind)).JSON("config.json", map[string]any{"model_type": "llama", "quantization_config": kind.config})
		}), check: func(got loaded) { keptRaw(got, good, "--dtype f16 or bf16") }},
		{name: "dequantised", opt: coldload.Options{Layout: stages.LayoutDequant}, build: nvWith(kind, nil, odd.tensors(kind))},
	})
}
