package coldload_test

import (
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// TestRandomLoads compares loads of small random checkpoints of all tools, under random options and in all ways to come by the Outputs, with the
// reference, byte by byte: names, dtypes, shapes and layouts too, what stays raw, and of GPTQ what must be refused or must fail and of which kind.
// More cases: -rapid.checks=5000.
func TestRandomLoads(t *testing.T) {
	t.Parallel()
	for name, draw := range map[string]func(rt *rapid.T, r *rndDraw){
		"attention": func(_ *rapid.T, r *rndDraw) { r.attention() },
		"experts":   func(_ *rapid.T, r *rndDraw) { r.mlp(true) },
		"mixed": func(rt *rapid.T, r *rndDraw) {
			r.attention()
			r.mlp(rapid.Bool().Draw(rt, "experts"))
			r.head()
		},
	} {
		t.Run(name, rapid.MakeCheck(func(rt *rapid.T) {
			r := newRndDraw(rt)
			draw(rt, r)
			r.others()
			r.spoil()
			r.run(t, drawOptions(rt))
		}))
	}
	t.Run("tools", rapid.MakeCheck(func(rt *rapid.T) { randomTool(t, rt) }))
}

// rndDraw draws one checkpoint. What decides its structure is drawn by rapid, so that failures shrink; values come of one seed.
type rndDraw struct {
	t      *rapid.T
	values *rand.Rand
	c      *rndCheckpoint
	family rndFamily
	spoilt string
}

// rndFamily says how a model names its layers and what fuses.
type rndFamily struct {
	model     string
	qkvBias   bool
	fuses     bool
	qkv       []string
	attention string
	experts   []string // gate, up, down
	block     string   // parent of the experts
	count     string   // the config's key
	mlp       bool     // gate and up fuse outside of experts
}

var (
	rndQKV  = []string{"q_proj", "k_proj", "v_proj"}
	rndProj = []string{"gate_proj", "up_proj", "down_proj"}
)

var rndFamilies = []rndFamily{
	{model: "llama", fuses: true, qkv: rndQKV, attention: "self_attn", experts: rndProj, block: "mlp", mlp: true},
	{model: "qwen2", qkvBias: true, fuses: true, qkv: rndQKV, attention: "self_attn", experts: rndProj, block: "mlp", mlp: true},
	{model: "qwen3_moe", fuses: true, qkv: rndQKV, attention: "self_attn", experts: rndProj, block: "mlp", count: "num_experts", mlp: true},
	{model: "mixtral", fuses: true, qkv: rndQKV, attention: "self_attn", experts: []string{"w1", "w3", "w2"}, block: "block_sparse_moe", count: "num_local_experts"},
	{model: "zebra", fuses: true, qkv: rndQKV, attention: "self_attn", experts: []string{"w1", "w3", "w2"}, block: "mlp", mlp: true},
	{model: "", qkv: []string{"wq", "wk", "wv"}, attention: "attn", experts: []string{"a", "b", "c"}, block: "moe"},
}

// stacks reports whether the family's experts stack: Llama has no experts.
func (f rndFamily) stacks() bool { return f.fuses && f.model != "llama" && f.model != "qwen2" }

func newRndDraw(t *rapid.T) *rndDraw {
	seed := rapid.Uint64().Draw(t, "seed")
	c := &rndCheckpoint{
		format: rapid.SampledFrom([]string{"gptq", "gptq", "gptq_v2", "gptq_p"}).Draw(t, "format"),
		wraps:  rapid.Bool().Draw(t, "gptqmodel 0.9"), plainValues: map[string][]float32{},
		dtype: rapid.SampledFrom([]string{"", "float16", "bfloat16", "float32"}).Draw(t, "model dtype"),
	}
	f := rapid.SampledFrom(rndFamilies).Draw(t, "family")
	c.model, c.count = f.model, f.count
	return &rndDraw{t: t, values: rand.New(rand.NewPCG(seed, 1)), c: c, family: f}
}

// rndParams are what the modules of a unit have in common.
type rndParams struct {
	dense            stages.DType
	bits, group      int
	sym, descAct     bool
	order            string // of g_idx
	scales, biasType stages.DType
	bias, same       bool
	full             bool // a zero point of all ones
	large            bool // a bias that F16 does not hold
}

var rndHalves = []stages.DType{safetensors.F16, safetensors.BF16, safetensors.F32}

func (r *rndDraw) params(label string) rndParams {
	t := r.t
	p := rndParams{bias: rapid.IntRange(0, 3).Draw(t, label+" bias") == 3}
	p.biasType = rapid.SampledFrom(rndHalves).Draw(t, label+" bias dtype")
	p.large = rapid.IntRange(0, 9).Draw(t, label+" large bias") == 9
	if rapid.IntRange(0, 4).Draw(t, label+" dense") == 4 {
		p.dense = rapid.SampledFrom(rndHalves).Draw(t, label+" dtype")
		return p
	}
	bits := []int{4, 4, 4, 8, 8, 3, 2}
	if r.c.format == "gptq_p" {
		bits = append(bits, 5, 6, 7)
	}
	p.bits = rapid.SampledFrom(bits).Draw(t, label+" bits")
	p.group = rapid.SampledFrom([]int{32, 32, 64, 64, 128, -1, 16}).Draw(t, label+" group")
	p.sym = rapid.IntRange(0, 4).Draw(t, label+" asymmetric") < 4
	p.full = !p.sym && rapid.IntRange(0, 2).Draw(t, label+" full zero") == 2
	p.descAct = rapid.IntRange(0, 2).Draw(t, label+" desc_act") == 2
	orders := []string{"trivial", "absent"}
	if p.descAct {
		orders = slices.Concat(slices.Repeat([]string{"balanced"}, 12), []string{"trivial", "trivial", "random", "absent"})
	} else if rapid.IntRange(0, 11).Draw(t, label+" denied order") == 11 {
		orders = []string{"balanced"}
	}
	p.order = rapid.SampledFrom(orders).Draw(t, label+" g_idx")
	p.same = rapid.IntRange(0, 7).Draw(t, label+" own g_idx") < 7
	p.scales = rapid.SampledFrom(append(slices.Repeat([]stages.DType{safetensors.F16}, 5), safetensors.BF16, safetensors.BF16, safetensors.F32)).Draw(t, label+" scales")
	return p
}

// float is a value of magnitude 2^-7 to 2^-6 that a dtype holds.
func (r *rndDraw) float(d stages.DType) float32 {
	u := r.values.Uint32()&0x807FFFFF | 120<<23
	if d == safetensors.F16 {
		u &= 0xFFFFE000
	}
	if d == safetensors.BF16 {
		u &= 0xFFFF0000
	}
	return math.Float32frombits(u)
}

func (r *rndDraw) floats(n int, d stages.DType) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = r.float(d)
	}
	return v
}

// module makes one linear layer.
func (r *rndDraw) module(base string, k, n int, p rndParams) *rndModule {
	m := &rndModule{base: base, k: k, n: n, dense: p.dense, bits: p.bits, group: p.group, sym: p.sym, descAct: p.descAct, scaleType: p.scales}
	if p.bias {
		m.bias, m.biasType = r.floats(n, p.biasType), p.biasType
		if !m.quantised() {
			m.biasType = rndHalves[r.values.IntN(8)/7] // most often the same in all members
			m.bias = r.floats(n, m.biasType)
		}
		if p.large && m.biasType != safetensors.F16 {
			m.bias[n/2] = 1 << 17
		}
	}
	if !m.quantised() {
		m.weight = r.floats(n*k, p.dense)
		return m
	}
	m.codes = make([]uint32, k*n)
	for i := range m.codes {
		m.codes[i] = r.values.Uint32N(1 << m.bits)
	}
	m.scales = r.floats(m.groups()*n, p.scales)
	m.stored = make([]uint32, m.groups()*n)
	for i := range m.stored {
		m.stored[i] = r.values.Uint32N(1<<m.bits - 1)
		if m.sym {
			m.stored[i] = (&rndLoad{c: r.c}).symmetric(m)
		}
	}
	if p.full {
		m.stored[r.values.IntN(len(m.stored))] = 1<<m.bits - 1
	}
	m.gIdx = r.gIdx(k, m, p.order)
	return m
}

func (r *rndDraw) gIdx(k int, m *rndModule, order string) []int32 {
	if order == "absent" {
		return nil
	}
	g := make([]int32, k)
	for i, at := range r.values.Perm(k) {
		switch order {
		case "balanced": // as balanced as the groups allow
			g[at] = int32(i / m.span())
		case "random":
			g[i] = r.values.Int32N(int32(m.groups()))
		default:
			g[i] = int32(i / m.span())
		}
	}
	return g
}

var rndDims = []int{64, 128, 32, 192, 96, 256, 40, 16, 8, 24, 200, 136}

func (r *rndDraw) dim(label string) int {
	if rapid.IntRange(0, 8).Draw(r.t, label+" odd") == 8 {
		return rapid.SampledFrom(rndDims).Draw(r.t, label)
	}
	return rapid.SampledFrom([]int{64, 128, 128, 128}).Draw(r.t, label)
}

// inputs is a number of input features that the codes can be packed for.
func (r *rndDraw) inputs(label string, p rndParams) int {
	k := r.dim(label)
	if k*p.bits%32 != 0 || p.bits == 3 && k%32 != 0 {
		k = 64
	}
	return k
}

// unit adds members that fuse when the family says so.
func (r *rndDraw) unit(scope, fused string, members []string, k int, n []int, p rndParams, fuses bool) {
	u := &rndUnit{name: scope + "." + fused, members: len(members)}
	for i, name := range members {
		m := r.module(scope+"."+name, k, n[i], p)
		if i > 0 && p.same && m.quantised() {
			m.gIdx = slices.Clone(u.modules[0].gIdx)
		}
		u.modules = append(u.modules, m)
	}
	r.addUnit(u, fuses)
}

// addUnit adds a unit, or its modules one by one.
func (r *rndDraw) addUnit(u *rndUnit, fuses bool) {
	if fuses {
		r.c.units = append(r.c.units, u)
		return
	}
	for _, m := range u.modules {
		r.c.units = append(r.c.units, &rndUnit{name: m.base, members: 1, modules: []*rndModule{m}})
	}
}

func (r *rndDraw) attention() {
	p := r.params("attention")
	p.bias = p.bias || r.family.qkvBias
	k := r.inputs("hidden", p)
	scope := "model.layers.0." + r.family.attention
	r.unit(scope, "qkv_proj", r.family.qkv, k, []int{r.dim("q"), r.dim("k"), r.dim("v")}, p, r.family.fuses)
	if rapid.Bool().Draw(r.t, "o_proj") {
		o := r.params("o")
		r.unit(scope, "o_proj", []string{"o_proj"}, r.inputs("o in", o), []int{r.dim("o out")}, o, true)
	}
}

// mlp adds a dense MLP, or experts.
func (r *rndDraw) mlp(experts bool) {
	f := r.family
	up, down := r.params("up"), r.params("down")
	hidden, inter := r.dim("expert hidden"), r.dim("expert inter")
	fit := func(n int, p rndParams) bool { return n*p.bits%32 == 0 && (p.bits != 3 || n%32 == 0) }
	if !fit(hidden, up) || !fit(inter, down) {
		hidden, inter = 128, 64
	}
	scope := "model.layers.1." + f.block
	names := f.experts
	if !experts {
		if !f.mlp {
			names = rndProj
		}
		r.unit(scope, "gate_up_proj", names[:2], hidden, []int{inter, inter}, up, f.mlp && names[0] == "gate_proj")
		r.unit(scope, "down_proj", names[2:], inter, []int{hidden}, down, false)
		return
	}
	count := rapid.IntRange(1, 3).Draw(r.t, "experts")
	gu := &rndUnit{name: scope + ".experts.gate_up_proj", members: 2, experts: count}
	d := &rndUnit{name: scope + ".experts.down_proj", members: 1, experts: count, down: true}
	for e := range count {
		at := func(i int) string { return fmt.Sprintf("%s.experts.%d.%s", scope, e, names[i]) }
		gate, upper := r.module(at(0), hidden, inter, up), r.module(at(1), hidden, inter, up)
		if up.same && upper.quantised() {
			upper.gIdx = slices.Clone(gate.gIdx)
		}
		gu.modules = append(gu.modules, gate, upper)
		d.modules = append(d.modules, r.module(at(2), inter, hidden, down))
	}
	r.addUnit(gu, f.stacks())
	r.addUnit(d, f.stacks())
	r.plain(scope+".gate.weight", safetensors.BF16, count, 8)
}

func (r *rndDraw) head() {
	if rapid.Bool().Draw(r.t, "lm_head") {
		p := r.params("head")
		r.addUnit(&rndUnit{name: "lm_head", members: 1, modules: []*rndModule{r.module("lm_head", r.inputs("head in", p), r.dim("head out"), p)}}, true)
	}
}

// plain adds a tensor of its own.
func (r *rndDraw) plain(name string, d stages.DType, shape ...int) {
	t, n := ckpt.T{Name: name, DType: d}, 1
	for _, s := range shape {
		t.Shape, n = append(t.Shape, int64(s)), n*s
	}
	if slices.Contains(rndHalves, d) {
		v := r.floats(n, d)
		r.c.plainValues[name], t.Data = v, rndFloats(v, d)
	} else {
		t.Data = make([]byte, n*d.Bits()/8)
		for i := range t.Data {
			t.Data[i] = byte(r.values.Uint32())
		}
	}
	r.c.plain = append(r.c.plain, t)
}

// others adds what every checkpoint has beside its layers, and bytes that put what follows them at odd addresses.
func (r *rndDraw) others() {
	r.plain("model.norm.weight", rapid.SampledFrom(rndHalves).Draw(r.t, "norm"), 24)
	r.plain("model.embed_tokens.weight", rapid.SampledFrom(rndHalves).Draw(r.t, "embed"), 10, 12)
	if n := rapid.IntRange(0, 7).Draw(r.t, "odd bytes"); n > 0 {
		r.plain("odd", safetensors.U8, n)
		r.plain("odd.counts", safetensors.I64, 3)
	}
	if rapid.IntRange(0, 4).Draw(r.t, "ignored") == 4 {
		r.c.ignored = append(r.c.ignored, ckpt.Dense("model.layers.0.self_attn.rotary_emb.inv_freq", safetensors.F32, 3, 5))
	}
}

// spoil damages one module, most often not at all.
func (r *rndDraw) spoil() {
	spoils := map[string]func(m *rndModule){
		"NaN scale":   func(m *rndModule) { m.scales[len(m.scales)-1] = float32(math.NaN()) },
		"large scale": func(m *rndModule) { m.setScale(1 << 17) },
		"huge scale":  func(m *rndModule) { m.setScale(1 << 126) },
		"odd zero":    func(m *rndModule) { m.stored[0] ^= 1 },
		"g_idx": func(m *rndModule) {
			if m.gIdx != nil {
				m.gIdx[m.k/2] = int32(m.groups()) - int32(r.values.IntN(3))*int32(m.groups()+2)
			}
		},
		"no g_idx":   func(m *rndModule) { m.gIdx = nil },
		"scale type": func(m *rndModule) { m.scaleType = safetensors.F32 },
		"group": func(m *rndModule) {
			if m.group == 32 {
				*m = *r.module(m.base, m.k, m.n, rndParams{bits: m.bits, group: 64, sym: m.sym, scales: m.scaleType, order: "trivial"})
			}
		},
		"bias":       func(m *rndModule) { m.bias = nil },
		"asymmetric": func(m *rndModule) { m.sym = !m.sym },
		"dense": func(m *rndModule) {
			*m = *r.module(m.base, m.k, m.n, rndParams{dense: safetensors.F16})
		},
	}
	names := slices.Sorted(maps.Keys(spoils))
	r.spoilt = rapid.SampledFrom(append(make([]string, 4*len(names)), names...)).Draw(r.t, "spoil")
	change := spoils[r.spoilt]
	var all []*rndModule
	for _, u := range r.c.units {
		all = append(all, u.modules...)
	}
	if m := all[rapid.IntRange(0, len(all)-1).Draw(r.t, "spoilt module")]; change != nil && m.quantised() {
		change(m)
	}
}

// setScale makes one scale large, or infinite when its dtype does not hold that.
func (m *rndModule) setScale(v float32) {
	if _, over := rndRound(nil, v, m.scaleType); over {
		v = float32(math.Inf(1))
	}
	m.scales[0] = v
}

func drawOptions(t *rapid.T) coldload.Options {
	layouts := []stages.Layout{stages.LayoutMarlin, stages.LayoutMarlin, stages.LayoutDequant, stages.LayoutExllama, stages.LayoutRaw}
	dtypes := append(slices.Repeat([]stages.DType{safetensors.Invalid}, 4), safetensors.F16, safetensors.F16, safetensors.BF16, safetensors.F32)
	return drawHow(t, coldload.Options{
		Layout:      rapid.SampledFrom(layouts).Draw(t, "layout"),
		DType:       rapid.SampledFrom(dtypes).Draw(t, "dtype"),
		NoFuse:      rapid.IntRange(0, 3).Draw(t, "no fuse") == 3,
		NoPad:       rapid.IntRange(0, 3).Draw(t, "no pad") == 3,
		Strict:      rapid.IntRange(0, 7).Draw(t, "strict") == 7,
		ActOrder:    rapid.IntRange(0, 5).Draw(t, "act-order") == 5,
		FP8Exponent: rapid.SampledFrom([]stages.Exponent{"", stages.ExponentFused, stages.ExponentPlain}).Draw(t, "exponent"),
	})
}

// config is config.json.
func (c *rndCheckpoint) config() map[string]any {
	config := map[string]any{}
	set := func(key string, value any, there bool) {
		if there {
			config[key] = value
		}
	}
	set("model_type", c.model, c.model != "")
	set("torch_dtype", c.dtype, c.dtype != "")
	q := c.quantConfig()
	set("quantization_config", q, q != nil)
	for _, u := range c.units {
		set(c.count, u.experts, u.experts > 0 && c.count != "")
	}
	return config
}

// write makes the checkpoint's folder, its tensors in an order of their own over some shards.
func (c *rndCheckpoint) write(t *testing.T, order *rand.Rand, shards int) string {
	t.Helper()
	var all ckpt.List
	for _, u := range c.units {
		for _, m := range u.modules {
			all = append(all, m.tensors(c.format == "gptq_p")...)
		}
	}
	for _, x := range append(slices.Clone(c.plain), c.ignored...) {
		all = append(all, x)
	}
	order.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	files := make([]ckpt.List, shards)
	for i, x := range all {
		files[i%shards] = append(files[i%shards], x)
	}
	b := ckpt.New(t)
	for i, f := range files {
		if shards == 1 {
			b.Shard(single, f)
		} else {
			b.Shard(fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, shards), f)
		}
	}
	if shards > 1 {
		b.AutoIndex()
	}
	return b.JSON("config.json", c.config()).Write()
}

// run loads the checkpoint and compares.
func (r *rndDraw) run(t *testing.T, opt coldload.Options) {
	t.Helper()
	dir := r.c.write(t, r.values, rapid.IntRange(1, 3).Draw(r.t, "shards"))
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			r.t.Error(err)
		}
	}()
	want := rndExpect(r.c, opt)
	r.t.Logf("spoilt: %q, refused: %v, fails: %v, warns: %v, kept: %d", r.spoilt, want.refuse, want.fails, want.warns, want.kept)
	drawChoice(r.t, &opt, want)
	(&rndCase{dir, opt, drawWay(r.t), want}).run(r.t)
}

func onlyBudget(e *stages.RefusedError) bool {
	return !slices.ContainsFunc(e.Faults, func(f stages.Fault) bool { return f.Code != stages.CodeBudget })
}

// compare says how a result is not as it must be.
func (w *rndWant) compare(mem outputs) (all []string) {
	for name, tensor := range mem.All() {
		o, ok := w.outs[name]
		if !ok {
			all = append(all, name+": there is no such output")
		} else if d := o.differs(tensor.DType, tensor.Shape, tensor.Layout, tensor.Bytes); d != "" {
			all = append(all, name+": "+d)
		}
	}
	for name := range w.outs {
		if _, ok := mem.Lookup(name); !ok {
			all = append(all, name+": output is missing")
		}
	}
	return all
}

// check compares how the load ended.
func (w *rndWant) check(t *rapid.T, err error) {
	refused, isRefused := errors.AsType[*stages.RefusedError](err)
	data, isData := errors.AsType[*stages.DataError](err)
	switch {
	case len(w.refuse) > 0:
		if !isRefused {
			t.Fatalf("error %v, want a refusal", err)
		}
		w.checkFaults(t, refused)
	case len(w.fails) > 0:
		if !isData || isRefused {
			t.Fatalf("error %v, want a DataError about one of %v", err, w.fails)
		}
		if !w.fails[data.Tensor] {
			t.Errorf("error %v, want one of %v", err, w.fails)
		}
		if data.File == "" {
			t.Errorf("%v names no file", err)
		}
	case err != nil:
		t.Fatal(err)
	}
}

// checkFaults wants every fault to be foreseen, and those of single modules to be told all. (Where one is at fault, what it belongs to is
// not looked at any further.)
func (w *rndWant) checkFaults(t *rapid.T, refused *stages.RefusedError) {
	own := len(w.refuse[stages.CodeShape])+len(w.refuse[stages.CodeMember]) > 0
	for _, f := range refused.Faults {
		if len(w.refuse[f.Code]) == 0 {
			t.Errorf("not foreseen: %s", f)
		}
	}
	for code, names := range w.refuse {
		if own && code != stages.CodeShape && code != stages.CodeMember || code == stages.CodeLayout && len(w.refuse) > 1 {
			continue
		}
		for _, name := range names {
			if !slices.ContainsFunc(refused.Faults, func(f stages.Fault) bool { return f.Code == code && strings.Contains(f.String(), name) }) {
				t.Errorf("%v\nhas no fault %q of %s", refused, code, name)
			}
		}
	}
}

// TestLargeModules: modules that are cut into several Slabs, which the small ones of the random loads are not.
func TestLargeModules(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("the reference takes seconds")
	}
	r := &rndDraw{values: rand.New(rand.NewPCG(5, 6)), c: &rndCheckpoint{model: "qwen3_moe", count: "num_experts", format: "gptq"}}
	p := rndParams{bits: 8, group: 64, sym: true, order: "trivial", bias: true, scales: safetensors.F16, biasType: safetensors.F16}
	qkv := &rndUnit{name: "model.layers.0.self_attn.qkv_proj", members: 3}
	for i, n := range []int{1088, 512, 576} {
		qkv.modules = append(qkv.modules, r.module("model.layers.0.self_attn."+rndQKV[i], 1024, n, p))
	}
	gu := &rndUnit{name: "model.layers.0.mlp.experts.gate_up_proj", members: 2, experts: 2}
	down := &rndUnit{name: "model.layers.0.mlp.experts.down_proj", members: 1, experts: 2, down: true}
	for e := range 2 {
		base := fmt.Sprintf("model.layers.0.mlp.experts.%d.", e)
		gu.modules = append(gu.modules, r.module(base+"gate_proj", 1024, 1088, p), r.module(base+"up_proj", 1024, 1088, p))
		down.modules = append(down.modules, r.module(base+"down_proj", 1088, 1024, p))
	}
	r.c.units = []*rndUnit{qkv, gu, down}
	dir := r.c.write(t, r.values, 3)
	for _, opt := range []coldload.Options{{Layout: stages.LayoutMarlin, Budget: 6 << 20}, {Layout: stages.LayoutRaw, DType: safetensors.BF16}} {
		mem, res := loadHost(t, dir, opt)
		for _, d := range rndExpect(r.c, opt).compare(mem) {
			t.Errorf("%s: %s", opt.Layout, d)
		}
		for _, o := range res.Plan.Outputs {
			if name, ok := strings.CutSuffix(o.Name, ".qweight"); ok && name != down.name && o.Slabs() < 2 {
				t.Errorf("%s, %s: %d Slabs", opt.Layout, o.Name, o.Slabs())
			}
		}
	}
}

// TestReferencePacksLikeTheGoldenVectors holds what makes the input of the random loads to the description of the layouts.
func TestReferencePacksLikeTheGoldenVectors(t *testing.T) {
	hash := func(a, b uint32) uint32 {
		x := a*2654435761 ^ b*2246822519
		return (x ^ x>>15) * 3266489917 >> 16
	}
	for _, g := range []struct {
		bits   int
		planar bool
		crc    uint32
	}{
		{2, false, 0xBDFF5FD8},
		{3, false, 0xE64E3A1D},
		{4, false, 0xF1295A29},
		{8, false, 0x5ABC376D},
		{3, true, 0xDCDF324B},
		{5, true, 0x407B30AC},
		{6, true, 0x3552ED31},
		{7, true, 0x474BE31D},
	} {
		codes := make([]uint32, 128*256)
		for i := range codes {
			codes[i] = hash(uint32(i/256), uint32(i%256)) & (1<<g.bits - 1)
		}
		if got := crc32.ChecksumIEEE(rndPackRows(codes, 256, g.bits, g.planar)); got != g.crc {
			t.Errorf("%d bits, planar %v: %#08X, want %#08X", g.bits, g.planar, got, g.crc)
		}
	}
}
