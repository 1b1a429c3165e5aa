package coldload_test

import (
	"bytes"
	"iter"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/sinks/host"
	"github.com/coldload/coldload/stages"
)

// outputs are finished Outputs, wherever they came from.
type outputs interface {
	Lookup(name string) (host.Tensor, bool)
	All() iter.Seq2[string, host.Tensor]
}

// ways lead from a checkpoint to its Outputs. All of them must give the same bytes.
var ways = map[string]func(t *testing.T, path string, opt coldload.Options) outputs{
	"Load": func(t *testing.T, path string, opt coldload.Options) outputs {
		t.Helper()
		mem, _ := loadHost(t, path, opt)
		return mem
	},
	"Open, streamed":         streamed,
	"Open, module by module": moduleByModule,
	"Pack, then Load": func(t *testing.T, path string, opt coldload.Options) outputs {
		t.Helper()
		dir := filepath.Join(t.TempDir(), "packed")
		if _, err := coldload.Pack(t.Context(), path, dir, opt, coldload.PackOptions{}); err != nil {
			t.Fatal(err)
		}
		mem, _ := loadHost(t, dir, coldload.Options{})
		return mem
	},
}

// collected are Outputs that were kept one by one.
type collected map[string]host.Tensor

func (c collected) Lookup(name string) (host.Tensor, bool) {
	x, ok := c[name]
	return x, ok
}

func (c collected) All() iter.Seq2[string, host.Tensor] { return maps.All(c) }

// take keeps a copy.
func (c collected) take(t *testing.T, name string, x host.Tensor) {
	t.Helper()
	if _, twice := c[name]; twice {
		t.Errorf("%s came twice", name)
	}
	x.Bytes = slices.Clone(x.Bytes)
	c[name] = x
}

func streamed(t *testing.T, path string, opt coldload.Options) outputs {
	t.Helper()
	ck := openPath(t, path, opt)
	c := collected{}
	for out, err := range ck.Outputs(t.Context(), opt) {
		if err != nil {
			t.Fatal(err)
		}
		c.take(t, out.Name, out.Tensor)
		if err := out.Release(); err != nil {
			t.Error(err)
		}
	}
	return c
}

// moduleByModule asks for every linear layer by itself, and for the tensors that belong to none.
func moduleByModule(t *testing.T, path string, opt coldload.Options) outputs {
	t.Helper()
	ck := openPath(t, path, opt)
	p, err := ck.Plan(opt, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := collected{}
	modules := modulesOf(p.Outputs)
	for name := range modules {
		m, err := loadModule(t.Context(), ck, name, opt)
		if err != nil {
			t.Fatal(err)
		}
		for out, x := range m.All() {
			c.take(t, out, x)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, o := range p.Outputs {
		base, _, _ := cutLast(o.Name)
		if modules[base] {
			continue
		}
		x, err := ck.Load(t.Context(), o.Name, opt.DType)
		if err != nil {
			t.Fatal(err)
		}
		c.take(t, o.Name, host.Tensor{DType: x.DType, Shape: x.Shape, Bytes: x.Bytes})
	}
	if len(c) != len(p.Outputs) {
		t.Errorf("%d outputs, the plan has %d", len(c), len(p.Outputs))
	}
	return c
}

func cutLast(name string) (scope, last string, ok bool) {
	i := strings.LastIndexByte(name, '.')
	if i < 0 {
		return "", name, false
	}
	return name[:i], name[i+1:], true
}

func openPath(t *testing.T, path string, opt coldload.Options) *coldload.Checkpoint {
	t.Helper()
	ck, err := coldload.Open(t.Context(), path, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ck.Close(); err != nil {
			t.Error(err)
		}
	})
	return ck
}

// TestFixturesEveryWay: the bytes of the engine and of the tools come out, whichever way is taken.
func TestFixturesEveryWay(t *testing.T) {
	for way, load := range ways {
		t.Run(way, func(t *testing.T) {
			for name, holds := range gptqFixtures {
				f := readFixture(t, name)
				for prefix, dtype := range map[string]stages.DType{"marlin/tp1/": safetensors.F16, "marlin/tp1.bf16/": safetensors.BF16} {
					if holds && f.has(prefix) {
						checkExpected(t, load(t, fixturePath(name), coldload.Options{DType: dtype}), f, prefix)
					}
				}
				opt := coldload.Options{Layout: stages.LayoutDequant, DType: safetensors.F32}
				fused := load(t, fixturePath(name), opt)
				opt.NoFuse = true
				single := load(t, fixturePath(name), opt)
				checkDequant(t, single, f)
				checkFusedFrom(t, fused, single)
			}
			const plain = "plain_bf16_sharded"
			src := sourceTensors(t, fixturePath(plain))
			for name, x := range load(t, fixturePath(plain), coldload.Options{}).All() {
				if want, _ := joined(src, name); !bytes.Equal(x.Bytes, want) {
					t.Errorf("%s: other bytes than its members joined", name)
				}
			}
			checkDequant(t, load(t, fixturePath(plain), coldload.Options{DType: safetensors.F32, NoFuse: true, Layout: stages.LayoutRaw}), readFixture(t, plain))
		})
	}
}

// TestWaysAgree: in every layout every way gives what Load gives, with the same dtypes, shapes and layouts. (Single tensors that Open
// loads have no layout.)
func TestWaysAgree(t *testing.T) {
	for _, name := range append(slices.Collect(maps.Keys(gptqFixtures)), "awq_moe_4b_g64") {
		for _, layout := range []stages.Layout{stages.LayoutMarlin, stages.LayoutExllama, stages.LayoutDequant, stages.LayoutRaw} {
			for _, noFuse := range []bool{false, true} {
				opt := coldload.Options{Layout: layout, NoFuse: noFuse}
				want := ways["Load"](t, fixturePath(name), opt)
				for way, load := range ways {
					got := load(t, fixturePath(name), opt)
					n := 0
					for out, w := range want.All() {
						n++
						x, ok := got.Lookup(out)
						if !ok || x.DType != w.DType || !slices.Equal(x.Shape, w.Shape) || x.Layout != "" && x.Layout != w.Layout || !bytes.Equal(x.Bytes, w.Bytes) {
							t.Errorf("%s, %s, apart %v, %s: %s is not what Load makes", name, layout, noFuse, way, out)
						}
					}
					for range got.All() {
						n--
					}
					if n != 0 {
						t.Errorf("%s, %s, apart %v, %s: %d outputs more or less than Load makes", name, layout, noFuse, way, -n)
					}
				}
			}
		}
	}
}
