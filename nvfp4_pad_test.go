package coldload_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// filled is the module with rows and input features of zeros at its end.
func (m *nvModule) filled(n, k int) *nvModule {
	f := &nvModule{base: m.base, k: k, n: n, codes: make([]byte, n*k), scales: make([]byte, n*k/16), global: m.global, input: m.input}
	for i := range m.n {
		copy(f.codes[i*k:], m.codes[i*m.k:(i+1)*m.k])
		copy(f.scales[i*k/16:], m.scales[i*m.k/16:(i+1)*m.k/16])
	}
	if m.bias != nil {
		f.bias = append(slices.Clone(m.bias), make([]uint16, n-m.n)...)
	}
	return f
}

// filled is the unit that a Marlin kernel of whole tiles gets: of a dense one the last member has the rows of padding, of a stack every member
// has its own. It is worked out by another way than the plan's: the first of all shapes that hold the unit, the smallest first.
func (u *nvUnit) filled() *nvUnit {
	k, n := u.modules[0].k, 0
	for _, m := range u.modules[:u.members] {
		n += m.n
	}
	f := &nvUnit{name: u.name, members: u.members, experts: u.experts}
	if u.experts > 0 {
		for _, m := range u.modules {
			f.modules = append(f.modules, m.filled(roundUp(m.n, 64), roundUp(m.k, 64)))
		}
		return f
	}
	bestN, bestK := 0, 0
	for toN := roundUp(n, 64); toN <= roundUp(n, 128); toN += 64 {
		for toK := roundUp(k, 64); toK <= roundUp(k, 128); toK += 64 {
			holds := toN%64 == 0 && toK%128 == 0 || toN%128 == 0 && toK%64 == 0
			smaller := bestN == 0 || toN*toK < bestN*bestK || toN*toK == bestN*bestK && toN+toK < bestN+bestK
			if holds && smaller {
				bestN, bestK = toN, toK
			}
		}
	}
	for i, m := range u.modules {
		rows := m.n
		if i == len(u.modules)-1 {
			rows += bestN - n
		}
		f.modules = append(f.modules, m.filled(rows, bestK))
	}
	return f
}

// nvOdd is a checkpoint whose members and experts fill no whole tiles.
func nvOdd(r *rand.Rand, kind nvKind, layers, experts int) *nvCheckpoint {
	c := &nvCheckpoint{kind: kind}
	some := func(by, most int) int { return by * (1 + r.IntN(most)) }
	for l := range layers {
		at := fmt.Sprintf("model.layers.%d.", l)
		hidden, inner, heads := some(128, 2), some(16, 20), some(16, 14)
		top := byte(1 + r.IntN(0x7E))
		qkv := &nvUnit{name: at + "self_attn.qkv_proj", members: 3}
		for i := range 3 {
			m := nvRandom(r, at+"self_attn."+"qkv"[i:i+1]+"_proj", 16+inner, some(8, 40), top, 0.01, kind)
			m.input = 0
			qkv.modules = append(qkv.modules, m)
		}
		o := nvRandom(r, at+"self_attn.o_proj", heads, 32*(1+r.IntN(6)), top, 0.1, kind)
		for range o.n {
			o.bias = append(o.bias, uint16(0x3C00+r.IntN(0x400)))
		}
		c.units = append(c.units, qkv, &nvUnit{name: o.base, members: 1, modules: []*nvModule{o}})
		gu := &nvUnit{name: at + "mlp.experts.gate_up_proj", members: 2, experts: experts}
		down := &nvUnit{name: at + "mlp.experts.down_proj", members: 1, experts: experts}
		for e := range experts {
			at := fmt.Sprintf("%smlp.experts.%d.", at, e)
			for _, name := range []string{"gate_proj", "up_proj"} {
				gu.modules = append(gu.modules, nvRandom(r, at+name, hidden, inner, top, 0.02, kind))
			}
			down.modules = append(down.modules, nvRandom(r, at+"down_proj", inner, hidden, top, 0.03, kind))
		}
		for _, u := range []*nvUnit{gu, down} {
			for _, m := range u.modules {
				m.input = 0
			}
		}
		c.units = append(c.units, gu, down)
	}
	return c
}

// filled is the checkpoint whose Outputs those of c must be.
func (c *nvCheckpoint) filled() *nvCheckpoint {
	f := &nvCheckpoint{kind: c.kind}
	for _, u := range c.units {
		f.units = append(f.units, u.filled())
	}
	return f
}

// TestPaddedNVFP4: what fills no tiles becomes what it becomes when it is filled up with zeros first, with both kinds of activations.
func TestPaddedNVFP4(t *testing.T) {
	for i, kind := range nvKinds {
		for seed := range uint64(6) {
			r := rand.New(rand.NewPCG(seed, 70+uint64(i)))
			c := nvOdd(r, kind, 2, 3)
			path := written(t, c.build(r, 1+r.IntN(2)))
			for _, act := range []stages.DType{safetensors.Invalid, safetensors.F16} {
				opt := coldload.Options{DType: act, Strict: true}
				mem, _ := loadHost(t, path, opt)
				c.compare(t, fmt.Sprintf("%s, seed %d, %s", kind.name, seed, act), mem, c.filled().wanted(opt))
			}
			dense, _ := loadHost(t, path, coldload.Options{Layout: stages.LayoutDequant})
			c.compare(t, "dequantised", dense, c.wanted(coldload.Options{Layout: stages.LayoutDequant}))
		}
	}
}

// TestPaddedNVFP4EveryWay: workers, budgets, ways to read and to load, packed or not: the same bytes, and zeros in the padding.
func TestPaddedNVFP4EveryWay(t *testing.T) {
	r := rand.New(rand.NewPCG(71, 1))
	c := &nvCheckpoint{kind: nvKinds[1]}
	at := "model.layers.0.mlp.experts."
	gu, down := &nvUnit{name: at + "gate_up_proj", members: 2, experts: 4}, &nvUnit{name: at + "down_proj", members: 1, experts: 4}
	for e := range 4 {
		for _, name := range []string{"gate_proj", "up_proj"} {
			gu.modules = append(gu.modules, nvRandom(r, fmt.Sprintf("%s%d.%s", at, e, name), 128, 80, 0x40, 0.5, c.kind))
		}
		down.modules = append(down.modules, nvRandom(r, fmt.Sprintf("%s%d.down_proj", at, e), 80, 128, 0x7E, 0.5, c.kind))
	}
	for _, m := range append(slices.Clone(gu.modules), down.modules...) {
		m.input = 0
	}
	o := nvRandom(r, oProj, 80, 104, 0x50, 0.5, c.kind)
	o.input = 0
	c.units = []*nvUnit{gu, down, {name: oProj, members: 1, modules: []*nvModule{o}}}
	path := written(t, c.build(r, 2))
	want := c.filled().wanted(coldload.Options{})
	for name, opt := range variants() {
		if opt.Budget > 0 {
			opt.Budget = 40 << 10
		}
		mem, res := loadHost(t, path, opt)
		c.compare(t, name, mem, want)
		if len(res.Plan.Summary.Padded) != 3 {
			t.Errorf("%s: padded %v", name, res.Plan.Summary.Padded)
		}
	}
	for way, load := range ways {
		if way != "Open, module by module" { // whose tensors have no layout
			c.compare(t, way, load(t, path, coldload.Options{}), want)
		}
	}
	modules := moduleByModule(t, path, coldload.Options{})
	for name, w := range want {
		if x, ok := modules.Lookup(name); !ok || !bytes.Equal(x.Bytes, w.data) {
			t.Errorf("module by module: %s differs", name)
		}
	}
	mem, _ := loadHost(t, path, coldload.Options{})
	for _, name := range []string{oProj + ".scales", at + "gate_up_proj.scales", at + "down_proj.scales"} {
		x, ok := mem.Lookup(name)
		if !ok || x.Padding == nil || x.Layout != stages.LayoutMarlin {
			t.Fatalf("%s: %v", name, x.Padding)
		}
		n, groups := x.Padding.Padded[0], x.Padding.Padded[1]/16
		zeros := 0
		for i, b := range x.Bytes {
			row, column := int64(i)/n%groups, int64(i)%n
			swapped := column&^3 | []int64{0, 2, 1, 3}[column&3]
			feature := swapped/64*64 + 8*(swapped%8) + swapped%64/8
			share := n / int64(x.Padding.Shares)
			if row < x.Padding.Unpadded[1]/16 && feature%share < x.Padding.Unpadded[0]/int64(x.Padding.Shares) {
				continue
			}
			if zeros++; b != 0 {
				t.Fatalf("%s: scale %d of the padding is %#x", name, i, b)
			}
		}
		if zeros == 0 {
			t.Errorf("%s: no padding", name)
		}
	}
}

// TestNVFP4NoPad: without padding such modules stay as they are, and the reason says so.
func TestNVFP4NoPad(t *testing.T) {
	for _, kind := range nvKinds {
		odd := nvRandom(rand.New(rand.NewPCG(6, 6)), oProj, 48, 96, 0x40, 1, kind)
		path := written(t, nvWith(kind, nil, odd.tensors(kind)))
		mem, res := loadHost(t, path, coldload.Options{NoPad: true})
		u := nvUnit{name: odd.base, members: 1, modules: []*nvModule{odd}}
		for name, w := range u.want(kind, coldload.Options{Layout: stages.LayoutRaw}) {
			if x, ok := mem.Lookup(name); !ok || !bytes.Equal(x.Bytes, w.data) {
				t.Errorf("%s: %s differs", kind.name, name)
			}
		}
		if k := res.Plan.Summary.Kept; len(k) != 1 || !strings.Contains(k[0].Reason, "not a multiple of 64 (padding is off)") {
			t.Errorf("%s: kept %v", kind.name, k)
		}
	}
}
