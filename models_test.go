package coldload_test

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/synth"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// synTensors are those of a synthetic checkpoint by name, with their bytes.
type synTensors map[string]ckpt.T

func readSynth(list ckpt.List) synTensors {
	all := synTensors{}
	for _, t := range list.Tensors() {
		if t.Data == nil {
			n := int64(t.DType.Bits()) / 8
			for _, d := range t.Shape {
				n *= d
			}
			t.Data = make([]byte, n)
			t.Fill.Fill(t.Data, 0)
		}
		all[t.Name] = t
	}
	return all
}

// take removes a tensor from those that are left.
func (s synTensors) take(name string) (ckpt.T, bool) {
	t, ok := s[name]
	delete(s, name)
	return t, ok
}

// words are the elements of an I32 tensor.
func (s synTensors) words(name string) (w []uint32) {
	t, _ := s.take(name)
	for b := t.Data; len(b) > 0; b = b[4:] {
		w = append(w, binary.LittleEndian.Uint32(b))
	}
	return w
}

// floats are the values of a tensor and its dtype.
func (s synTensors) floats(name string) ([]float32, stages.DType) {
	t, ok := s.take(name)
	if !ok {
		return nil, safetensors.Invalid
	}
	return synFloats(t), t.DType
}

func synFloats(t ckpt.T) (v []float32) {
	for b := t.Data; len(b) > 0; {
		switch t.DType {
		case safetensors.F32:
			v, b = append(v, math.Float32frombits(binary.LittleEndian.Uint32(b))), b[4:]
		case safetensors.BF16:
			v, b = append(v, math.Float32frombits(uint32(binary.LittleEndian.Uint16(b))<<16)), b[2:]
		default:
			v, b = append(v, halfValue(binary.LittleEndian.Uint16(b))), b[2:]
		}
	}
	return v
}

// halfValue is the value of a finite F16.
func halfValue(h uint16) float32 {
	v := math.Ldexp(float64(h&0x3FF), -24)
	if e := int(h >> 10 & 31); e > 0 {
		v = math.Ldexp(1+float64(h&0x3FF)/1024, e-15)
	}
	return float32(math.Copysign(v, 0.5-float64(h>>15)))
}

// module takes the tensors of the linear layer that one of them belongs to, if it is one of the format's.
func (s synTensors) module(base string, o synth.Options, opt coldload.Options) *rndModule {
	m := &rndModule{base: base, bits: cmp.Or(o.Bits, 4), group: cmp.Or(o.Group, 128), sym: true}
	switch {
	case s.has(base + ".qweight"):
		m.n = int(s[base+".scales"].Shape[1])
		m.scales, m.scaleType = s.floats(base + ".scales")
		if o.Format == synth.FormatAWQ {
			s.awqCodes(m)
		} else {
			s.gptqCodes(m)
			m.descAct = o.DescAct
		}
	case s.has(base + ".weight_packed"):
		s.compressedCodes(m)
	case s.has(base + ".weight_scale_inv"):
		s.fp8(m, opt)
	default:
		t := s[base+".weight"]
		m.n, m.k = int(t.Shape[0]), int(t.Shape[1])
		m.weight, m.dense = s.floats(base + ".weight")
	}
	m.bias, m.biasType = s.floats(base + ".bias")
	return m
}

func (s synTensors) has(name string) bool { _, ok := s[name]; return ok }

func (s synTensors) gptqCodes(m *rndModule) {
	words := s.words(m.base + ".qweight")
	m.k = 8 * len(words) / m.n
	for k := range m.k {
		for n := range m.n {
			m.codes = append(m.codes, words[k/8*m.n+n]>>(4*(k%8))&15)
		}
	}
	for _, w := range s.words(m.base + ".qzeros") {
		for p := range 8 {
			m.stored = append(m.stored, w>>(4*p)&15)
		}
	}
	for _, g := range s.words(m.base + ".g_idx") {
		m.gIdx = append(m.gIdx, int32(g))
	}
}

// awqCodes reads words that hold columns 0, 2, 4, 6, 1, 3, 5 and 7 of eight.
func (s synTensors) awqCodes(m *rndModule) {
	fields := func(words []uint32) (f []uint32) {
		for _, w := range words {
			for c := range 8 {
				f = append(f, w>>(4*(c/2+c%2*4))&15)
			}
		}
		return f
	}
	m.sym = false
	m.codes, m.stored = fields(s.words(m.base+".qweight")), fields(s.words(m.base+".qzeros"))
	m.k = len(m.codes) / m.n
}

// compressedCodes reads rows of output features, with their scales, and zero points when there are any.
func (s synTensors) compressedCodes(m *rndModule) {
	packed, per := s[m.base+".weight_packed"], 32/m.bits
	m.n, m.k = int(packed.Shape[0]), per*int(packed.Shape[1])
	field := func(w uint32, i int) uint32 { return w >> (m.bits * (i % per)) & (1<<m.bits - 1) }
	words := s.words(m.base + ".weight_packed")
	scales, d := s.floats(m.base + ".weight_scale")
	s.take(m.base + ".weight_shape")
	m.scaleType = d
	for k := range m.k {
		for n := range m.n {
			m.codes = append(m.codes, field(words[n*m.k/per+k/per], k))
		}
	}
	m.spread(scales, 1)
	if m.sym = !s.has(m.base + ".weight_zero_point"); m.sym {
		return
	}
	zeros := s.words(m.base + ".weight_zero_point")
	for i := range m.stored {
		g, n := i/m.n, i%m.n
		m.stored[i] = field(zeros[n/per*m.groups()+g], n)
	}
}

// spread has the scales of rows of blocks as rows of groups, and the zero points of symmetric codes.
func (m *rndModule) spread(blocks []float32, side int) {
	groups := m.groups()
	for g := range groups {
		for n := range m.n {
			m.scales = append(m.scales, blocks[n/side*groups+g])
			m.stored = append(m.stored, 1<<(m.bits-1)-1)
		}
	}
}

// fp8 has what becomes Marlin's tiles of 8 bits, whose scales have the factor that the kernel's activations need, or the weights themselves.
func (s synTensors) fp8(m *rndModule, opt coldload.Options) {
	t, _ := s.take(m.base + ".weight")
	m.n, m.k = int(t.Shape[0]), int(t.Shape[1])
	blocks, _ := s.floats(m.base + ".weight_scale_inv")
	if opt.Layout == stages.LayoutDequant {
		m.dense = safetensors.BF16
		for i, code := range t.Data {
			w := nvE4M3(code&0x7F) * blocks[i/m.k/128*((m.k+127)/128)+i%m.k/128]
			if code > 0x7F {
				w = -w
			}
			m.weight = append(m.weight, w)
		}
		return
	}
	factor := float32(0x1p120)
	switch {
	case opt.FP8Exponent == stages.ExponentPlain:
		factor = 1
	case opt.DType == safetensors.F16:
		factor = 0x1p8
	}
	for i := range blocks {
		blocks[i] *= factor
	}
	m.bits, m.group, m.scaleType = 8, 128, safetensors.BF16
	for k := range m.k {
		for n := range m.n {
			m.codes = append(m.codes, uint32(t.Data[n*m.k+k]))
		}
	}
	m.spread(blocks, 128)
}

// synJoins are what becomes one module, by the last component of its name, when all are there.
var synJoins = map[string][]string{
	"qkv_proj": {"q_proj", "k_proj", "v_proj"}, "gate_up_proj": {"gate_proj", "up_proj"}, "fused_qkv_a_proj": {"q_a_proj", "kv_a_proj_with_mqa"},
}

var synParts = regexp.MustCompile(`^(.*)\.(qweight|weight_packed|weight_scale_inv|weight)$`)

// checkpoint is what the tensors are: linear layers that become units, and others, which stay as they are.
func (s synTensors) checkpoint(o synth.Options, opt coldload.Options) *rndCheckpoint {
	c := &rndCheckpoint{dtype: "bfloat16", format: "gptq", plainValues: map[string][]float32{}}
	bases := map[string]bool{}
	for name, t := range s {
		if o.Format == synth.FormatAWQ || strings.HasSuffix(name, ".weight_zero_point") {
			c.format = "gptq_v2" // zero points as they are
		}
		if p := synParts.FindStringSubmatch(name); p != nil && len(t.Shape) == 2 {
			bases[p[1]] = true
		}
	}
	for base := range bases {
		if u := synUnit(base, bases); u != nil {
			for i, m := range u.modules {
				u.modules[i] = s.module(m.base, o, opt)
			}
			c.units = append(c.units, u)
		}
	}
	for _, t := range s {
		if slices.Contains(rndHalves, t.DType) {
			c.plainValues[t.Name] = synFloats(t)
		}
		c.plain = append(c.plain, t)
	}
	return c
}

var synExpert = regexp.MustCompile(`^(.*\.experts)\.0\.(gate_proj|w1|down_proj|w2)$`)

// synUnit is the unit whose first module has that name; nil for others. Its modules have names only.
func synUnit(base string, bases map[string]bool) *rndUnit {
	at := strings.LastIndexByte(base, '.')
	if at < 0 {
		return &rndUnit{name: base, members: 1, modules: []*rndModule{{base: base}}}
	}
	if e := synExpert.FindStringSubmatch(base); e != nil {
		names := map[string][]string{"gate_proj": {"gate_proj", "up_proj"}, "w1": {"w1", "w3"}}[e[2]]
		u := &rndUnit{name: e[1] + ".gate_up_proj", members: 2}
		if names == nil {
			names, u = []string{e[2]}, &rndUnit{name: e[1] + ".down_proj", members: 1, down: true}
		}
		for ; bases[fmt.Sprintf("%s.%d.%s", e[1], u.experts, e[2])]; u.experts++ {
			for _, name := range names {
				u.modules = append(u.modules, &rndModule{base: fmt.Sprintf("%s.%d.%s", e[1], u.experts, name)})
			}
		}
		return u
	}
	if strings.Contains(base, ".experts.") {
		return nil
	}
	u := &rndUnit{name: base, members: 1, modules: []*rndModule{{base: base}}}
	for fused, members := range synJoins {
		there := !slices.ContainsFunc(members, func(m string) bool { return !bases[base[:at+1]+m] })
		switch i := slices.Index(members, base[at+1:]); {
		case !there || i < 0:
		case i > 0:
			return nil
		default:
			u = &rndUnit{name: base[:at+1] + fused, members: len(members)}
			for _, m := range members {
				u.modules = append(u.modules, &rndModule{base: base[:at+1] + m})
			}
		}
	}
	return u
}

// synCase is a model in a format.
type synCase struct {
	model synth.Model
	o     synth.Options
}

// synCases are all models in small, in the formats of which the reference knows the bytes.
func synCases() map[string]synCase {
	cases, seen := map[string]synCase{}, map[string]bool{}
	for _, m := range synth.Models() {
		kind := fmt.Sprint(m.Type, m.MTP)
		if seen[kind] {
			continue // it differs in sizes alone
		}
		seen[kind] = true
		for label, o := range map[string]synth.Options{
			"none": {Format: synth.FormatNone}, "gptq": {}, "act-order": {DescAct: true}, "awq": {Format: synth.FormatAWQ},
			"compressed-tensors": {Format: synth.FormatCompressed}, "fp8": {Format: synth.FormatFP8}, "mxfp4": {Format: synth.FormatMXFP4},
		} {
			o.Model, o.Narrow = m.Name, true
			if o.Format == "" {
				o.Format = synth.FormatGPTQ
			}
			if m.Has(o.Format) {
				cases[m.Name+" "+label] = synCase{m, o}
			}
		}
	}
	return cases
}

// inOne reports whether all experts of a layer are in one tensor that is quantised, which tests of their own compare.
func (c synCase) inOne() bool {
	return c.o.Format == synth.FormatMXFP4 || c.o.Format == synth.FormatFP8 && c.model.MoE != nil && c.model.MoE.StackedFP8
}

// TestEveryModelLoads loads every model in small, with the names that it has, and compares all that comes of it with the formulas of the layouts.
func TestEveryModelLoads(t *testing.T) {
	t.Parallel()
	for label, c := range synCases() {
		t.Run(label, func(t *testing.T) {
			list, config := ckpt.Model(t, c.o)
			path := ckpt.New(t).Shard(single, list).JSON("config.json", config).Write()
			loaded := map[stages.Layout]outputs{}
			for _, opt := range []coldload.Options{{Layout: stages.LayoutMarlin}, {Layout: stages.LayoutDequant, Budget: 4 << 20}} {
				mem, res := loadHost(t, path, opt)
				loaded[opt.Layout] = mem
				if len(res.Plan.Summary.Kept) > 0 && !c.inOne() {
					t.Errorf("%s: kept raw: %v", opt.Layout, res.Plan.Summary.Kept)
				}
				want := rndExpect(readSynth(list).checkpoint(c.o, opt), opt)
				for _, d := range want.compare(mem) {
					if !c.inOne() || !strings.Contains(d, ".experts.") {
						t.Errorf("%s: %s", opt.Layout, d)
					}
				}
			}
			if c.o.Format == synth.FormatMXFP4 {
				checkMXFP4(t, readSynth(list), c.model.Narrow(), loaded[stages.LayoutMarlin], loaded[stages.LayoutDequant])
			}
		})
	}
}

// checkMXFP4 compares the experts of a gpt-oss.
func checkMXFP4(t *testing.T, s synTensors, m synth.Model, marlin, dense outputs) {
	t.Helper()
	hidden, inner := m.Hidden, m.MoE.Inner
	for i := range m.Layers {
		scope := fmt.Sprintf("model.layers.%d.mlp.experts.", i)
		mxWant{scope + "gate_up_proj", s.mxExperts(scope + "gate_up_proj"), roundUp(2*inner, 256), roundUp(hidden, 256), true}.check(t, marlin, dense)
		mxWant{scope + "down_proj", s.mxExperts(scope + "down_proj"), roundUp(hidden, 256), roundUp(inner, 128), true}.check(t, marlin, dense)
	}
}

// mxExperts are the modules of one tensor of all experts.
func (s synTensors) mxExperts(name string) (all [][]*mxModule) {
	blocks, scales, bias := s[name+"_blocks"], s[name+"_scales"], s[name+"_bias"]
	n, k := int(blocks.Shape[1]), 32*int(blocks.Shape[2])
	for e := range int(blocks.Shape[0]) {
		m := &mxModule{n: n, k: k, scales: scales.Data[e*n*k/32 : (e+1)*n*k/32]}
		for _, b := range blocks.Data[e*n*k/2 : (e+1)*n*k/2] {
			m.codes = append(m.codes, b&15, b>>4)
		}
		for b := bias.Data[e*n*2 : (e+1)*n*2]; len(b) > 0; b = b[2:] {
			m.bias = append(m.bias, binary.LittleEndian.Uint16(b))
		}
		all = append(all, []*mxModule{m})
	}
	return all
}

// TestQAndKVOfDeepSeek: fused_qkv_a_proj of one layer, at the widths of DeepSeek-V3: 1536 + 576 output features, whose scales of blocks are 12 + 5.
func TestQAndKVOfDeepSeek(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("the reference takes seconds")
	}
	for _, o := range []synth.Options{
		{Format: synth.FormatGPTQ},
		{Format: synth.FormatGPTQ, DescAct: true},
		{Format: synth.FormatAWQ},
		{Format: synth.FormatCompressed},
		{Format: synth.FormatFP8},
		{Format: synth.FormatNone},
	} {
		t.Run(fmt.Sprintf("%s %v", o.Format, o.DescAct), func(t *testing.T) {
			o.Model, o.Layers = "deepseek-v3", 1
			list, config := ckpt.Model(t, o)
			var two ckpt.List
			for _, x := range list {
				if name := x.Tensors()[0].Name; strings.Contains(name, ".q_a_proj.") || strings.Contains(name, ".kv_a_proj_with_mqa.") {
					two = append(two, x)
				}
			}
			path := ckpt.New(t).Shard(single, two).JSON("config.json", config).Write()
			for _, layout := range []stages.Layout{stages.LayoutMarlin, stages.LayoutDequant} {
				opt := coldload.Options{Layout: layout, Strict: true}
				mem, _ := loadHost(t, path, opt)
				for _, d := range rndExpect(readSynth(two).checkpoint(o, opt), opt).compare(mem) {
					t.Errorf("%s: %s", layout, d)
				}
			}
		})
	}
}
