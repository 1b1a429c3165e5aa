package coldload_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"regexp"
	"slices"

	"github.com/x448/float16"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// What a load of a random checkpoint must give, worked out one weight at a time from the formulas of the layouts. It shares no code with
// the program, and none with what makes the program's input but the packing of codes.

// rndModule is one linear layer with everything known that its tensors hold.
type rndModule struct {
	base string
	k, n int

	dense  stages.DType // of the weight; Invalid when it is quantised
	weight []float32    // dense, [N][K]

	bits, group  int // group is the config's, -1 for one
	sym, descAct bool
	codes        []uint32     // [K][N]
	stored       []uint32     // [G][N], the fields of qzeros
	scales       []float32    // [G][N]
	scaleType    stages.DType // of scales
	gIdx         []int32      // [K], or nil

	bias     []float32 // [N], or nil
	biasType stages.DType
}

func (m *rndModule) quantised() bool { return m.dense == safetensors.Invalid }

// span is the number of input features that share a scale.
func (m *rndModule) span() int {
	if m.group < 0 {
		return m.k
	}
	return m.group
}

func (m *rndModule) groups() int { return (m.k + m.span() - 1) / m.span() }

// rndUnit is what becomes one module: one Module, members that fuse, or the same members of all experts.
type rndUnit struct {
	name    string // of the Outputs, without suffix
	members int
	experts int // 0 when it is not stacked
	down    bool
	modules []*rndModule // expert by expert
}

// rndCheckpoint is a whole checkpoint.
type rndCheckpoint struct {
	model, dtype string // of the config
	count        string // the config's key for the number of experts, or ""
	format       string // checkpoint_format
	wraps        bool   // meta.quantizer says gptqmodel 0.9
	units        []*rndUnit
	plain        []ckpt.T // part of no linear layer
	plainValues  map[string][]float32
	ignored      []ckpt.T
}

// rndOut is an Output as it must be.
type rndOut struct {
	dtype  stages.DType
	shape  []int64
	layout stages.Layout
	data   []byte
}

// rndWant is what must come of a load.
type rndWant struct {
	outs   map[string]rndOut
	refuse map[stages.Code][]string // faults before a byte moves, and whom they name
	fails  map[string]bool          // tensors that a DataError may name
	warns  bool
	chosen bool // some Outputs are left out
	kept   int  // units that the layout cannot hold
	most   int  // bytes that the largest share of a unit reads, no more
}

// rndRound appends v in a dtype, rounded to nearest even; over says that a finite value became infinite.
func rndRound(b []byte, v float32, to stages.DType) (_ []byte, over bool) {
	finite := !math.IsInf(float64(v), 0) && v == v
	u := math.Float32bits(v)
	if to == safetensors.F32 {
		return binary.LittleEndian.AppendUint32(b, u), false
	}
	if to == safetensors.BF16 {
		u = (u + 0x7FFF + u>>16&1) >> 16
		return binary.LittleEndian.AppendUint16(b, uint16(u)), finite && u&0x7FFF == 0x7F80
	}
	h := float16.Fromfloat32(v)
	return binary.LittleEndian.AppendUint16(b, h.Bits()), finite && h.IsInf(0)
}

// rndPlanes are the widths of the planes of planar packing.
var rndPlanes = map[int][]int{2: {2}, 3: {2, 1}, 4: {4}, 5: {4, 1}, 6: {4, 2}, 7: {4, 2, 1}, 8: {8}}

// rndPack packs one line of codes.
func rndPack(codes []uint32, bits int, planar bool) []uint32 {
	w := make([]uint32, (len(codes)+31)/32*bits+1)
	for i, code := range codes {
		if !planar {
			v := uint64(code) << (bits * i % 32)
			w[bits*i/32] |= uint32(v)
			w[bits*i/32+1] |= uint32(v >> 32)
			continue
		}
		block, c, rho, off := i/32, i%32, 0, 0
		for _, width := range rndPlanes[bits] {
			w[bits*block+rho+c/(32/width)] |= code >> off & (1<<width - 1) << (width * (c % (32 / width)))
			rho, off = rho+width, off+width
		}
	}
	return w[:(len(codes)*bits+31)/32]
}

// rndPackRows packs codes [K][N] along K.
func rndPackRows(codes []uint32, n, bits int, planar bool) []byte {
	k := len(codes) / n
	out := make([]byte, k*bits/32*n*4)
	column := make([]uint32, k)
	for c := range n {
		for i := range column {
			column[i] = codes[i*n+c]
		}
		for r, w := range rndPack(column, bits, planar) {
			binary.LittleEndian.PutUint32(out[4*(r*n+c):], w)
		}
	}
	return out
}

// rndPackColumns packs fields [G][N] along N.
func rndPackColumns(fields []uint32, n, bits int, planar bool) (out []byte) {
	for ; len(fields) > 0; fields = fields[n:] {
		for _, w := range rndPack(fields[:n], bits, planar) {
			out = binary.LittleEndian.AppendUint32(out, w)
		}
	}
	return out
}

// rndFloats are values in a dtype, as bytes.
func rndFloats(v []float32, d stages.DType) (out []byte) {
	for _, x := range v {
		out, _ = rndRound(out, x, d)
	}
	return out
}

func rndInts(v []int32) (out []byte) {
	for _, x := range v {
		out = binary.LittleEndian.AppendUint32(out, uint32(x))
	}
	return out
}

// tensors are those of the checkpoint.
func (m *rndModule) tensors(planar bool) (all ckpt.List) {
	add := func(suffix string, d stages.DType, data []byte, shape ...int) {
		t := ckpt.T{Name: m.base + "." + suffix, DType: d, Data: data}
		for _, s := range shape {
			t.Shape = append(t.Shape, int64(s))
		}
		all = append(all, t)
	}
	if m.bias != nil {
		add("bias", m.biasType, rndFloats(m.bias, m.biasType), m.n)
	}
	if !m.quantised() {
		add("weight", m.dense, rndFloats(m.weight, m.dense), m.n, m.k)
		return all
	}
	add("qweight", safetensors.I32, rndPackRows(m.codes, m.n, m.bits, planar), m.k*m.bits/32, m.n)
	add("qzeros", safetensors.I32, rndPackColumns(m.stored, m.n, m.bits, planar), m.groups(), (m.n*m.bits+31)/32)
	add("scales", m.scaleType, rndFloats(m.scales, m.scaleType), m.groups(), m.n)
	if m.gIdx != nil {
		add("g_idx", safetensors.I32, rndInts(m.gIdx), m.k)
	}
	return all
}

// quantConfig is the config's section: what the first quantised module has, and overrides for those that differ.
func (c *rndCheckpoint) quantConfig() map[string]any {
	var base *rndModule
	dynamic := map[string]any{}
	for _, u := range c.units {
		for _, m := range u.modules {
			if !m.quantised() {
				continue
			}
			if base == nil {
				base = m
			}
			over := map[string]any{}
			if m.bits != base.bits {
				over["bits"] = m.bits
			}
			if m.group != base.group {
				over["group_size"] = m.group
			}
			if m.descAct != base.descAct {
				over["desc_act"] = m.descAct
			}
			if m.sym != base.sym {
				over["sym"] = m.sym
			}
			if len(over) > 0 {
				dynamic["+:"+regexp.QuoteMeta(m.base)+"$"] = over
			}
		}
	}
	if base == nil {
		return nil
	}
	q := map[string]any{
		"quant_method": "gptq", "bits": base.bits, "group_size": base.group, "desc_act": base.descAct, "sym": base.sym, "checkpoint_format": c.format,
	}
	if len(dynamic) > 0 {
		q["dynamic"] = dynamic
	}
	if c.wraps {
		q["meta"] = map[string]any{"quantizer": []string{"gptqmodel:0.9.1"}}
	}
	return q
}

// rndLoad is one load of a checkpoint: what the reference works on.
type rndLoad struct {
	c    *rndCheckpoint
	opt  coldload.Options
	want *rndWant
}

// rndExpect works out what must come of a load.
func rndExpect(c *rndCheckpoint, opt coldload.Options) *rndWant {
	l := &rndLoad{c: c, opt: opt, want: &rndWant{outs: map[string]rndOut{}, refuse: map[stages.Code][]string{}, fails: map[string]bool{}}}
	for _, t := range c.plain {
		l.plain(t)
	}
	for _, u := range c.units {
		if !opt.NoFuse {
			l.unit(u)
			continue
		}
		for _, m := range u.modules {
			l.unit(&rndUnit{name: m.base, members: 1, modules: []*rndModule{m}})
		}
	}
	return l.want
}

func (l *rndLoad) refuse(code stages.Code, who string) {
	l.want.refuse[code] = append(l.want.refuse[code], who)
}

// plain is a tensor of its own: kept or cast.
func (l *rndLoad) plain(t ckpt.T) {
	l.most(len(t.Data))
	values, float := l.c.plainValues[t.Name]
	if !float || l.opt.DType == safetensors.Invalid || l.opt.DType == t.DType {
		l.want.outs[t.Name] = rndOut{t.DType, t.Shape, stages.LayoutRaw, t.Data}
		return
	}
	l.want.outs[t.Name] = rndOut{l.opt.DType, t.Shape, stages.LayoutRaw, l.floats(values, l.opt.DType, t.Name)}
}

// floats are values in a dtype; a finite one that does not fit fails the load, naming who.
func (l *rndLoad) floats(v []float32, to stages.DType, who string) (out []byte) {
	for _, x := range v {
		var over bool
		if out, over = rndRound(out, x, to); over {
			l.want.fails[who] = true
		}
	}
	return out
}

// scaleFloats looks at scales or biases, which must be finite.
func (l *rndLoad) scaleFloats(v []float32, to stages.DType, who string) {
	if slices.ContainsFunc(v, func(x float32) bool { return x != x || math.IsInf(float64(x), 0) }) {
		l.want.fails[who] = true
	}
	l.floats(v, to, who)
}

func (l *rndLoad) most(n int) { l.want.most = max(l.want.most, n) }

// wanted is the dtype asked for, or else.
func (l *rndLoad) wanted(otherwise stages.DType) stages.DType {
	if l.opt.DType == safetensors.Invalid {
		return otherwise
	}
	return l.opt.DType
}

func (l *rndLoad) planar() bool { return l.c.format == "gptq_p" }

// order reports whether a module is sorted by group.
func (l *rndLoad) order(m *rndModule) bool {
	return m.group != -1 && (m.descAct || l.opt.ActOrder && m.gIdx != nil)
}

// unit is what becomes of one unit.
func (l *rndLoad) unit(u *rndUnit) {
	bad := false
	for _, m := range u.modules {
		bad = l.moduleIsBad(m) || bad
	}
	if bad {
		return
	}
	if !l.agree(u) {
		l.refuse(stages.CodeMismatch, u.name)
		return
	}
	for e := range max(u.experts, 1) {
		n := 0
		for _, m := range u.modules[e*u.members : (e+1)*u.members] {
			for _, t := range m.tensors(l.planar()).Tensors() {
				n += len(t.Data) + 4096 // what may be read between two ranges
			}
		}
		l.most(n)
	}
	first := u.modules[0]
	if !first.quantised() {
		l.denseUnit(u)
		return
	}
	layout := l.opt.Layout
	if !l.holds(u, layout) {
		l.want.kept++
		if l.opt.Strict {
			l.refuse(stages.CodeLayout, first.base)
		}
		layout = stages.LayoutRaw
	}
	l.values(u, layout)
	switch layout {
	case stages.LayoutMarlin:
		l.marlin(u)
	case stages.LayoutExllama:
		l.exllama(u)
	case stages.LayoutDequant:
		l.dequant(u)
	case stages.LayoutRaw, stages.LayoutExllamaV2, stages.LayoutMarlinPlain:
		l.raw(u)
	}
}

// moduleIsBad has the faults of one module by itself.
func (l *rndLoad) moduleIsBad(m *rndModule) bool {
	if !m.quantised() {
		return false
	}
	multiple := 32
	if !l.planar() && 32%m.bits == 0 {
		multiple = 32 / m.bits
	}
	if m.k%multiple != 0 || m.n%multiple != 0 {
		l.refuse(stages.CodeShape, m.base)
		return true
	}
	if l.order(m) && m.gIdx == nil {
		l.refuse(stages.CodeMember, m.base)
		return true
	}
	return false
}

// agree reports whether the modules of a unit can become one.
func (l *rndLoad) agree(u *rndUnit) bool {
	what := func(m *rndModule) string {
		bias := ""
		if m.bias != nil {
			bias = m.biasType.String()
		}
		if !m.quantised() {
			return fmt.Sprint("dense", m.dense, bias)
		}
		return fmt.Sprint(m.bits, m.group, m.sym, l.order(m), m.scaleType, bias)
	}
	for i, m := range u.modules {
		if what(m) != what(u.modules[0]) || m.k != u.modules[0].k || m.n != u.modules[i%u.members].n {
			return false
		}
	}
	return true
}

// holds reports whether a layout can hold the unit.
func (l *rndLoad) holds(u *rndUnit, layout stages.Layout) bool {
	m := u.modules[0]
	scales := l.wanted(m.scaleType)
	wide := 0
	for _, x := range u.modules[:u.members] {
		wide += x.n
	}
	switch layout {
	case stages.LayoutMarlin:
		halves := scales != safetensors.F32 && (m.bias == nil || l.wanted(m.biasType) != safetensors.F32)
		if m.bits != 4 && m.bits != 8 || !m.sym && (m.bits != 4 || l.order(m)) || !halves || m.k%m.span() != 0 {
			return false
		}
		if g := m.group; g != -1 && g != 32 && g != 64 && g != 128 && m.groups() > 1 {
			return false
		}
		if !l.opt.NoPad && !l.order(m) {
			return u.experts == 0 || u.hidden()%128 == 0 && u.inter()%rndEven(m) == 0
		}
		for _, x := range u.modules[:u.members] {
			if x.n%64 != 0 {
				return false
			}
		}
		if u.experts > 0 {
			return u.hidden()%128 == 0 && u.inter()%max(64, m.group) == 0
		}
		return wide%64 == 0 && m.k%128 == 0 || wide%128 == 0 && m.k%64 == 0
	case stages.LayoutExllama:
		return u.experts == 0 && (!l.planar() || 32%m.bits == 0) && m.group > 0 && m.k%m.group == 0 && m.k%32 == 0 &&
			scales == safetensors.F16 && (m.bits != 3 || !l.order(m))
	case stages.LayoutDequant:
		return m.k%32 == 0
	case stages.LayoutRaw, stages.LayoutExllamaV2, stages.LayoutMarlinPlain:
	}
	return true
}

// hidden and inter are the sizes of experts.
func (u *rndUnit) hidden() int {
	if u.down {
		return u.modules[0].n
	}
	return u.modules[0].k
}

func (u *rndUnit) inter() int { return u.modules[0].n + u.modules[0].k - u.hidden() }

// rndEven is the group that padding must keep whole: one over all of the input features is none.
func rndEven(m *rndModule) int {
	if g := m.group; g == 32 || g == 64 || g == 128 {
		return g
	}
	return 1
}

// padded are the extents that a unit has in tiles, and the column at which each member begins.
func (l *rndLoad) padded(u *rndUnit) (k, n int, at []int) {
	up := func(v, a, b int) int { // to a multiple of both
		for v%a != 0 || v%b != 0 {
			v++
		}
		return v
	}
	m := u.modules[0]
	g := rndEven(m)
	for _, x := range u.modules[:u.members] {
		at = append(at, n)
		n += x.n
		if u.experts > 0 && !u.down {
			n = up(n, 64, g)
		}
	}
	switch {
	case l.opt.NoPad, l.order(m):
		return m.k, n, at
	case u.down:
		return up(m.k, 64, g), n, at
	case u.experts > 0:
		return m.k, n, at
	}
	k1, n1, k2, n2 := up(m.k, 128, g), up(n, 64, 1), up(m.k, 64, g), up(n, 128, 1)
	if k1*n1 < k2*n2 || k1*n1 == k2*n2 && k1+n1 <= k2+n2 {
		return k1, n1, at
	}
	return k2, n2, at
}

// rndSpread puts rows of the members where they belong in rows of n, and adds empty ones.
func rndSpread[T any](members []*rndModule, count, n int, at []int, rows func(m *rndModule) []T) []T {
	out := make([]T, count*n)
	for i, m := range members {
		for j, v := range rows(m) {
			out[j/m.n*n+at[i]+j%m.n] = v
		}
	}
	return out
}

// values finds what the bytes must not have in a layout, whatever comes of the rest.
func (l *rndLoad) values(u *rndUnit, layout stages.Layout) {
	for i, m := range u.modules {
		if m.sym && slices.ContainsFunc(m.stored, func(f uint32) bool { return f != l.symmetric(m) }) {
			l.want.warns = true
		}
		full := slices.Contains(m.stored, 1<<m.bits-1)
		if !m.sym && l.c.format == "gptq" && full && (!l.c.wraps || layout == stages.LayoutExllama) {
			l.want.fails[m.base+".qzeros"] = true
		}
		if m.gIdx == nil {
			continue
		}
		first := u.modules[i/u.members*u.members]
		counts := map[int32]int{}
		for k, g := range m.gIdx {
			counts[g]++
			if g < 0 || int(g) >= m.groups() || !l.order(m) && int(g) != k/m.span() {
				l.want.fails[m.base+".g_idx"] = true
			}
		}
		if !l.order(m) {
			continue
		}
		if layout != stages.LayoutDequant && !slices.Equal(m.gIdx, first.gIdx) {
			l.want.fails[m.base+".g_idx"] = true
		}
		if layout == stages.LayoutMarlin || layout == stages.LayoutExllama {
			for g := range m.groups() {
				if counts[int32(g)]*m.groups() != m.k {
					l.want.fails[m.base+".g_idx"] = true
				}
			}
		}
	}
}

// symmetric is the stored zero point of a symmetric module.
func (l *rndLoad) symmetric(m *rndModule) uint32 {
	z := uint32(1) << (m.bits - 1)
	if l.c.format == "gptq" {
		z--
	}
	return z
}

// add adds one share of an Output for every expert.
func (l *rndLoad) add(u *rndUnit, suffix string, d stages.DType, layout stages.Layout, shape []int, share func(members []*rndModule) []byte) {
	o := rndOut{dtype: d, layout: layout}
	if u.experts > 0 {
		o.shape = append(o.shape, int64(u.experts))
	}
	for _, s := range shape {
		o.shape = append(o.shape, int64(s))
	}
	for e := range max(u.experts, 1) {
		o.data = append(o.data, share(u.modules[e*u.members:(e+1)*u.members])...)
	}
	l.want.outs[u.name+"."+suffix] = o
}

// beside puts the members' rows side by side: rows of [R][N] each.
func beside[T any](members []*rndModule, rows func(m *rndModule) []T) (out []T, n int) {
	for _, m := range members {
		n += m.n
	}
	count := len(rows(members[0])) / members[0].n
	for r := range count {
		for _, m := range members {
			out = append(out, rows(m)[r*m.n:(r+1)*m.n]...)
		}
	}
	return out, n
}

// rndCodes, rndStored, rndScales and rndBias are what beside joins.
func rndCodes(m *rndModule) []uint32   { return m.codes }
func rndStored(m *rndModule) []uint32  { return m.stored }
func rndScales(m *rndModule) []float32 { return m.scales }
func rndBias(m *rndModule) []float32   { return m.bias }

func (l *rndLoad) denseUnit(u *rndUnit) {
	first, n := u.modules[0], 0
	for _, m := range u.modules[:u.members] {
		n += m.n
	}
	to := l.wanted(first.dense)
	l.add(u, "weight", to, stages.LayoutRaw, []int{n, first.k}, func(members []*rndModule) (b []byte) {
		for _, m := range members {
			b = append(b, l.floats(m.weight, to, m.base+".weight")...)
		}
		return b
	})
	if first.bias != nil {
		l.addBias(u, l.wanted(first.biasType), n)
	}
}

// addBias adds biases one after the other, as any tensor.
func (l *rndLoad) addBias(u *rndUnit, to stages.DType, n int) {
	l.add(u, "bias", to, stages.LayoutRaw, []int{n}, func(members []*rndModule) (b []byte) {
		for _, m := range members {
			b = append(b, l.floats(m.bias, to, m.base+".bias")...)
		}
		return b
	})
}

func rndWide(u *rndUnit) (n int) {
	for _, m := range u.modules[:u.members] {
		n += m.n
	}
	return n
}

// finite notes scales and biases that cannot be, or cannot be cast.
func (l *rndLoad) finite(u *rndUnit) {
	for _, m := range u.modules {
		l.scaleFloats(m.scales, l.wanted(m.scaleType), m.base+".scales")
		if m.bias != nil {
			l.scaleFloats(m.bias, l.wanted(m.biasType), m.base+".bias")
		}
	}
}

// plainFloats adds scales and biases in their order.
func (l *rndLoad) plainFloats(u *rndUnit, layout stages.Layout) {
	l.finite(u)
	first, n := u.modules[0], rndWide(u)
	to := l.wanted(first.scaleType)
	l.add(u, "scales", to, layout, []int{first.groups(), n}, func(members []*rndModule) []byte {
		v, _ := beside(members, rndScales)
		return rndFloats(v, to)
	})
	if first.bias == nil {
		return
	}
	biasTo := l.wanted(first.biasType)
	l.add(u, "bias", biasTo, layout, []int{n}, func(members []*rndModule) []byte {
		v, _ := beside(members, rndBias)
		return rndFloats(v, biasTo)
	})
}

func (l *rndLoad) plainZeros(u *rndUnit, layout stages.Layout) {
	m, n := u.modules[0], rndWide(u)
	l.add(u, "qzeros", safetensors.I32, layout, []int{m.groups(), n * m.bits / 32}, func(members []*rndModule) []byte {
		v, n := beside(members, rndStored)
		return rndPackColumns(v, n, m.bits, l.planar())
	})
}

func (l *rndLoad) raw(u *rndUnit) {
	m := u.modules[0]
	l.add(u, "qweight", safetensors.I32, stages.LayoutRaw, []int{m.k * m.bits / 32, rndWide(u)}, func(members []*rndModule) []byte {
		v, n := beside(members, rndCodes)
		return rndPackRows(v, n, m.bits, l.planar())
	})
	l.plainZeros(u, stages.LayoutRaw)
	l.plainFloats(u, stages.LayoutRaw)
	if !slices.ContainsFunc(u.modules, func(m *rndModule) bool { return m.gIdx == nil }) {
		l.add(u, "g_idx", safetensors.I32, stages.LayoutRaw, []int{m.k}, func(members []*rndModule) []byte { return rndInts(members[0].gIdx) })
	}
}

// rndPerm is the stable sort of g_idx; nil when the module is not sorted.
func (l *rndLoad) rndPerm(m *rndModule) []int32 {
	if !l.order(m) {
		return nil
	}
	perm := make([]int32, m.k)
	for i := range perm {
		perm[i] = int32(i)
	}
	slices.SortStableFunc(perm, func(a, b int32) int { return int(m.gIdx[a]) - int(m.gIdx[b]) })
	return perm
}

// ordered are the codes of a module in the order of its rows.
func (l *rndLoad) ordered(m *rndModule) []uint32 {
	perm := l.rndPerm(m)
	if perm == nil {
		return m.codes
	}
	var out []uint32
	for _, k := range perm {
		out = append(out, m.codes[int(k)*m.n:(int(k)+1)*m.n]...)
	}
	return out
}

func (l *rndLoad) marlin(u *rndUnit) {
	first := u.modules[0]
	bits := first.bits
	k, n, starts := l.padded(u)
	groups := 1
	if g := rndEven(first); g > 1 {
		groups = (k + g - 1) / g
	}
	l.add(u, "qweight", safetensors.I32, stages.LayoutMarlin, []int{k / 16, n * bits / 2}, func(members []*rndModule) []byte {
		codes := rndSpread(members, k, n, starts, l.ordered)
		cols := n * bits / 2
		out := make([]byte, k/16*cols*4)
		for i, code := range codes {
			k, c := i/n, i%n
			w, p := 128*(c/64)+16*(c%8)+4*((k%8)/2)+(c%64)/16, (k%16)/8+2*((c%16)/8)+4*(k%2)
			if bits == 8 {
				w, p = 256*(c/64)+32*(c%8)+8*((k%8)/2)+2*((c%64)/16)+(c%16)/8, (k%16)/8+2*(k%2)
			}
			at := out[4*(k/16*cols+w):]
			binary.LittleEndian.PutUint32(at, binary.LittleEndian.Uint32(at)|code<<(bits*p))
		}
		return out
	})
	l.finite(u)
	to := l.wanted(first.scaleType)
	l.add(u, "scales", to, stages.LayoutMarlin, []int{groups, n}, func(members []*rndModule) []byte {
		return rndFloats(rndPermute(rndSpread(members, groups, n, starts, rndScales), n, groups > 1), to)
	})
	if first.bias != nil {
		biasTo := l.wanted(first.biasType)
		l.add(u, "bias", biasTo, stages.LayoutMarlin, []int{n}, func(members []*rndModule) []byte {
			return rndFloats(rndPermute(rndSpread(members, 1, n, starts, rndBias), n, false), biasTo)
		})
	}
	if !first.sym {
		l.marlinZeros(u, groups, n, starts)
	}
	if l.order(first) {
		l.add(u, "g_idx", safetensors.I32, stages.LayoutMarlin, []int{first.k}, func(members []*rndModule) []byte {
			g := slices.Clone(members[0].gIdx)
			slices.Sort(g)
			return rndInts(g)
		})
		l.addIndices(u, stages.LayoutMarlin)
	}
}

// marlinZeros adds 4-bit zero points: that of column c is nibble (c%64)/16 + 4((c%16)/8) of word 8(c/64) + c%8.
func (l *rndLoad) marlinZeros(u *rndUnit, groups, n int, starts []int) {
	l.add(u, "qzeros", safetensors.I32, stages.LayoutMarlin, []int{groups, n / 8}, func(members []*rndModule) []byte {
		v := rndSpread(members, groups, n, starts, func(m *rndModule) (z []uint32) {
			for _, x := range l.zeros(m) {
				z = append(z, uint32(x))
			}
			return z
		})
		out := make([]byte, len(v)/2)
		for i, z := range v {
			row, c := i/n, i%n
			at := out[4*(row*n/8+c/64*8+c%8):]
			binary.LittleEndian.PutUint32(at, binary.LittleEndian.Uint32(at)|z<<(4*(c%64/16+4*(c%16/8))))
		}
		return out
	})
}

func (l *rndLoad) addIndices(u *rndUnit, layout stages.Layout) {
	l.add(u, "g_idx_sort_indices", safetensors.I32, layout, []int{u.modules[0].k}, func(members []*rndModule) []byte {
		return rndInts(l.rndPerm(members[0]))
	})
}

// rndPermute reorders rows of n: grouped or single.
func rndPermute(v []float32, n int, grouped bool) (out []float32) {
	for i := range v {
		row, c := i/n*n, i%n
		from := c/32*32 + 2*(c%32/8) + c%2 + 8*(c%8/2)
		if grouped {
			from = c/64*64 + 8*(c%8) + c%64/8
		}
		out = append(out, v[row+from])
	}
	return out
}

func (l *rndLoad) exllama(u *rndUnit) {
	first := u.modules[0]
	bits := first.bits
	l.add(u, "qweight", safetensors.I32, stages.LayoutExllama, []int{first.k * bits / 32, rndWide(u)}, func(members []*rndModule) []byte {
		codes, n := beside(members, l.ordered)
		out := make([]byte, len(codes)*bits/8)
		or := func(row, c int, v uint32) {
			at := out[4*(row*n+c):]
			binary.LittleEndian.PutUint32(at, binary.LittleEndian.Uint32(at)|v)
		}
		for i, code := range codes {
			k, c := i/n, i%n
			x := k % (32 / bits)
			switch {
			case bits == 8:
				or(k/4, c, code<<(8*x))
			case bits == 4:
				or(k/8, c, code<<(4*[]int{0, 4, 1, 5, 2, 6, 3, 7}[x]))
			case bits == 2:
				or(k/16, c, code<<(2*(x/2)+16*(x%2)))
			case k%32 < 30:
				x = k % 32 % 10
				or(k/32*3+k%32/10, c, code<<(3*(x/2)+16*(x%2)))
			default:
				for t := range 3 {
					or(k/32*3+t, c, code>>t&1<<(15+16*(k%2)))
				}
			}
		}
		return out
	})
	zeros := stages.LayoutExllama
	if l.c.format != "gptq" {
		zeros = stages.LayoutExllamaV2
	}
	l.plainZeros(u, zeros)
	l.plainFloats(u, stages.LayoutExllama)
	if l.order(first) {
		l.addIndices(u, stages.LayoutExllama)
	}
}

// zeros are what the stored zero points of a module mean.
func (l *rndLoad) zeros(m *rndModule) []int {
	out := make([]int, len(m.stored))
	full := slices.Contains(m.stored, 1<<m.bits-1)
	for i, f := range m.stored {
		switch {
		case m.sym:
			out[i] = 1 << (m.bits - 1)
		case l.c.format != "gptq":
			out[i] = int(f)
		case full && l.c.wraps && 32%m.bits == 0:
			per := 32 / m.bits
			first := i/m.n*m.n + i%m.n/per*per
			var word, ones uint32
			for x := range per {
				word |= m.stored[first+x] << (m.bits * x)
				ones |= 1 << (m.bits * x)
			}
			out[i] = int((word + ones) >> (m.bits * (i - first)) & (1<<m.bits - 1))
		case full && l.c.wraps:
			out[i] = int(f+1) & (1<<m.bits - 1)
		default:
			out[i] = int(f) + 1
		}
	}
	return out
}

func (l *rndLoad) dequant(u *rndUnit) {
	first := u.modules[0]
	to := l.opt.DType
	if to == safetensors.Invalid {
		to = map[string]stages.DType{"float16": safetensors.F16, "bfloat16": safetensors.BF16, "float32": safetensors.F32}[l.c.dtype]
	}
	if to == safetensors.Invalid {
		to = first.scaleType
	}
	l.add(u, "weight", to, stages.LayoutRaw, []int{rndWide(u), first.k}, func(members []*rndModule) (b []byte) {
		for _, m := range members {
			b = append(b, l.weights(m, to)...)
		}
		return b
	})
	if first.bias != nil {
		l.addBias(u, to, rndWide(u))
	}
}

// weights are scale * (code - zero), rounded once.
func (l *rndLoad) weights(m *rndModule, to stages.DType) (out []byte) {
	l.scaleFloats(m.scales, safetensors.F32, m.base+".scales")
	if l.want.fails[m.base+".g_idx"] || l.want.fails[m.base+".qzeros"] {
		// There are none. Those that are made before that is found may be too large.
		if slices.ContainsFunc(m.scales, func(s float32) bool { return s > 1 }) {
			l.want.fails[m.base+".scales"] = true
		}
		return nil
	}
	zeros := l.zeros(m)
	var over bool
	for n := range m.n {
		for k := range m.k {
			g := k / m.span()
			if l.order(m) {
				g = int(m.gIdx[k])
			}
			s := m.scales[g*m.n+n]
			w := s * float32(int(m.codes[k*m.n+n])-zeros[g*m.n+n])
			if out, over = rndRound(out, w, to); over || w != w || math.IsInf(float64(w), 0) {
				l.want.fails[m.base+".scales"] = true
			}
		}
	}
	return out
}

// differs says how an Output is not as it must be; "" when it is.
func (o *rndOut) differs(d stages.DType, shape []int64, layout stages.Layout, data []byte) string {
	switch {
	case d != o.dtype || !slices.Equal(shape, o.shape) || layout != o.layout:
		return fmt.Sprintf("%s %v %s, want %s %v %s", d, shape, layout, o.dtype, o.shape, o.layout)
	case len(data) != len(o.data):
		return fmt.Sprintf("%d bytes, want %d", len(data), len(o.data))
	case !bytes.Equal(data, o.data):
		i := 0
		for data[i] == o.data[i] {
			i++
		}
		return fmt.Sprintf("byte %d is %#x, want %#x", i, data[i], o.data[i])
	}
	return ""
}
