package plan

import (
	"math/bits"
	"slices"
	"strings"
)

// Bounds of what is remembered of layers; beyond them nothing is said.
const (
	mostLayers  = 1 << 12 // no model comes near
	mostModules = 1 << 10 // of a layer, without experts
	mostTowers  = 16
	mostName    = 256 // bytes of a module's name within its layer
	fewLayers   = 3   // that are alike, before one that differs is worth a note
	mostLacking = 5   // notes
)

// layerSet is a set of layers by number. It grows as numbers are added.
type layerSet []uint64

// with is the set with layer n, in the same memory when that is enough.
func (s layerSet) with(n int) layerSet {
	if grow := n/64 + 1 - len(s); grow > 0 {
		s = append(s, make([]uint64, grow)...)
	}
	s[n/64] |= 1 << (n % 64)
	return s
}

func (s layerSet) has(n int) bool { return n/64 < len(s) && s[n/64]>>(n%64)&1 != 0 }

func (s layerSet) count() (n int) {
	for _, w := range s {
		n += bits.OnesCount64(w)
	}
	return n
}

// firstWithout is the first layer that is in s and not in other.
func (s layerSet) firstWithout(other layerSet) int {
	for i, w := range s {
		if i < len(other) {
			w &^= other[i]
		}
		if w != 0 {
			return 64*i + bits.TrailingZeros64(w)
		}
	}
	return -1
}

// layerModule is a module of layers: "self_attn.o_proj", or what holds several: "self_attn".
type layerModule struct {
	name, scope string // the scope is what comes before the last component of the name
	layers      layerSet
}

// tower is the layers below one prefix: the language model's, or those of an encoder beside it.
type tower struct {
	prefix  string // "model.layers."
	bytes   int64
	layers  layerSet
	modules []*layerModule
	byName  map[string]*layerModule
}

// noteLayers notes layers that the config says and the checkpoint does not have, and modules that one layer lacks. Neither is a fault: checkpoints
// may be parts of a model on purpose, and layers differ.
func (c *compiler) noteLayers() {
	var towers []*tower
	for i := range c.in.Catalog.Len() {
		name := c.in.Catalog.Name(i)
		at, n, rest, ok := layerOf(name)
		if !ok {
			continue
		}
		k := slices.IndexFunc(towers, func(t *tower) bool { return t.prefix == name[:at] })
		if k < 0 {
			if k = len(towers); k == mostTowers {
				return
			}
			towers = append(towers, &tower{prefix: name[:at], byName: map[string]*layerModule{}})
		}
		towers[k].bytes += c.in.Catalog.Extent(i).Len
		if !towers[k].add(n, rest) {
			return
		}
	}
	c.noteMissingLayers(towers)
	for _, t := range towers {
		c.noteLacking(t)
	}
}

// layerOf finds the number of a layer in the name of a tensor: name[:at] is "model.layers." and rest "self_attn.o_proj.weight".
func layerOf(name string) (at, n int, rest string, ok bool) {
	if strings.HasPrefix(name, "blk.") { // of llama.cpp
		at = len("blk.")
	} else if at = strings.Index(name, "layers.") + len("layers."); at < len("layers.") {
		return 0, 0, "", false
	}
	number, rest, ok := strings.Cut(name[at:], ".")
	if !ok {
		return 0, 0, "", false
	}
	n, ok = expertNumber(number)
	return at, n, rest, ok && n < mostLayers && len(rest) <= mostName
}

// add remembers that layer n has the module of a tensor, without those of experts: they are counted where they become one. ok is false when there
// are too many.
func (t *tower) add(n int, rest string) (ok bool) {
	t.layers = t.layers.with(n)
	if strings.Contains(rest, ".experts.") {
		return true
	}
	module, _ := cutLast(rest)
	m := t.byName[module]
	if m == nil {
		m = t.module(module)
	}
	m.layers = m.layers.with(n)
	for m.scope != "" {
		m = t.byName[m.scope]
		m.layers = m.layers.with(n)
	}
	return len(t.modules) <= mostModules
}

// module adds a module that was not seen, and what holds it.
func (t *tower) module(name string) *layerModule {
	m := &layerModule{name: name}
	m.scope, _ = cutLast(name)
	if m.scope != "" && t.byName[m.scope] == nil {
		t.module(m.scope)
	}
	t.modules = append(t.modules, m)
	t.byName[name] = m
	return m
}

// noteMissingLayers compares the layers of the largest tower, which is the language model, with the config.
func (c *compiler) noteMissingLayers(towers []*tower) {
	want := c.in.Model.NumLayers
	if len(towers) == 0 || want <= 0 || want > mostLayers {
		return
	}
	largest := slices.MaxFunc(towers, func(a, b *tower) int { return int(min(max(a.bytes-b.bytes, -1), 1)) })
	found, first := 0, -1
	for n := range want {
		switch {
		case largest.layers.has(n):
			found++
		case first < 0:
			first = n
		}
	}
	if first >= 0 {
		c.note("config says %d layers, found %d of them: %s%d is the first that is not there", want, found, largest.prefix, first)
	}
}

// noteLacking notes the modules that all layers of a kind have but one.
func (c *compiler) noteLacking(t *tower) {
	noted := 0
	for _, m := range t.modules {
		kind := t.layers
		if m.scope != "" {
			kind = t.byName[m.scope].layers
		}
		of := kind.count()
		if of < fewLayers || m.name == "" || m.layers.count() != of-1 {
			continue
		}
		n := kind.firstWithout(m.layers)
		if n >= c.layers() || t.other(m, n) {
			continue
		}
		if noted++; noted > mostLacking {
			c.note("more modules are missing from single layers of %s*", t.prefix)
			return
		}
		c.note("%s%d has no %s, which all other layers of its kind have: the checkpoint may be incomplete", t.prefix, n, m.name)
	}
}

// layers is the number of layers of the model: those beyond are of another kind, and predict further tokens.
func (c *compiler) layers() int {
	if n := c.in.Model.NumLayers; n > 0 {
		return n
	}
	return mostLayers
}

// other reports whether layer n is of another kind than those that have m: it has something beside it that most of them do not have, as a first
// layer without experts has.
func (t *tower) other(m *layerModule, n int) bool {
	return slices.ContainsFunc(t.modules, func(x *layerModule) bool {
		return x.scope == m.scope && x.layers.has(n) && 2*x.layers.count() < m.layers.count()+1
	})
}
