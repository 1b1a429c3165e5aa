package synth

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/coldload/coldload/safetensors"
)

// Tensors lists what Write would write with these Options, in the order of the model's own declaration, without touching the disk. It
// fails with ErrOptions.
func Tensors(o Options) ([]Spec, error) {
	l, err := list(o)
	if err != nil {
		return nil, err
	}
	return l.specs, nil
}

// Shards lists the files that Write would write with these Options and the tensors in each, in file order.
func Shards(o Options) ([]Shard, error) {
	l, err := list(o)
	if err != nil {
		return nil, err
	}
	return l.shards()
}

// list names every tensor of the checkpoint.
func list(o Options) (*lister, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	m, err := FindModel(o.Model)
	if err != nil {
		return nil, err
	}
	if o.Narrow {
		m = m.Narrow()
	}
	if o.Layers > 0 {
		m.Layers = o.Layers
	}
	l := &lister{o: o, m: m, dense: map[string]bool{}}
	if IsGGUF(o.Format) {
		l.ggufModel()
	} else {
		l.model()
	}
	return l, nil
}

// lister walks a model in the order of its declaration and collects its tensors.
type lister struct {
	o     Options
	m     Model
	specs []Spec
	// dense has the pattern of every linear layer that the format cannot hold, which stays BF16: config.json must say so.
	dense map[string]bool
	// ignore matches the modules that Model.Ignore names; nil for none.
	ignore *regexp.Regexp
}

// shards cuts the list into files, each in the order asked for.
func (l *lister) shards() ([]Shard, error) {
	if IsGGUF(l.o.Format) {
		return l.ggufShards()
	}
	sorted := l.o.Order == OrderSorted || slices.Contains([]Format{
		FormatNone, FormatCompressed, FormatMXFP4, FormatMXFP4Pack, FormatNVFP4, FormatNVFP4Compressed,
	}, l.o.Format)
	specs := l.specs
	if !sorted {
		specs = buffersLast(specs)
	}
	shards, err := cutShards(specs, l.o.ShardSize)
	if err != nil {
		return nil, err
	}
	if sorted {
		for i := range shards {
			shards[i].Specs = slices.Clone(shards[i].Specs)
			sortSpecs(shards[i].Specs)
		}
	}
	return shards, finish(shards)
}

// buffersLast moves the tensors of quantised modules behind all others.
func buffersLast(specs []Spec) []Spec {
	out := make([]Spec, 0, len(specs))
	for _, quantised := range []bool{false, true} {
		for i := range specs {
			if specs[i].quantised == quantised {
				out = append(out, specs[i])
			}
		}
	}
	return out
}

func (l *lister) model() {
	m := &l.m
	prefix := cmp.Or(m.Prefix, "model.")
	layer := func(i int) string { return prefix + "layers." + strconv.Itoa(i) + "." }
	l.weight(prefix+"embed_tokens.weight", m.Vocab, m.Hidden)
	for i := range m.Layers {
		l.layer(layer(i), i)
	}
	if m.MTP {
		l.furtherTokens(layer(m.Layers))
	}
	l.norm(prefix+"norm.weight", m.Hidden)
	l.weight(cmp.Or(m.Head, "lm_head")+".weight", m.Vocab, m.Hidden)
}

// furtherTokens is the layer behind the last, which predicts further tokens and has embeddings and an output of its own. Releases leave what is
// not in its attention and its experts as it is.
func (l *lister) furtherTokens(p string) {
	m := &l.m
	l.weight(p+"embed_tokens.weight", m.Vocab, m.Hidden)
	l.norm(p+"enorm.weight", m.Hidden)
	l.norm(p+"hnorm.weight", m.Hidden)
	l.weight(p+"eh_proj.weight", m.Hidden, 2*m.Hidden)
	l.layer(p, max(m.Layers, m.MoE.DenseLayers))
	l.norm(p+"shared_head.norm.weight", m.Hidden)
	l.weight(p+"shared_head.head.weight", m.Vocab, m.Hidden)
}

// layer is layer i, whose names start with p.
func (l *lister) layer(p string, i int) {
	m := &l.m
	switch {
	case m.MLA != nil:
		l.latentAttention(p + "self_attn.")
	case m.Linear.has(i):
		l.linearAttention(p + "linear_attn.")
	default:
		l.attention(p + "self_attn.")
	}
	if m.MoE != nil && i >= m.MoE.DenseLayers {
		l.experts(p + m.MoE.Block + ".")
	} else {
		l.mlp(p+"mlp.", projMembers, m.Inner)
	}
	l.norm(p+"input_layernorm.weight", m.Hidden)
	l.norm(p+"post_attention_layernorm.weight", m.Hidden)
}

func (l *lister) attention(p string) {
	m := &l.m
	q, kv := m.Heads*m.HeadDim, m.KVHeads*m.HeadDim
	in := p + "in" // q, k and v read the same input, hence one act-order
	if m.QGate {
		l.linear(p+"q_proj", 2*q, m.Hidden, m.QKVBias, in)
	} else {
		l.linear(p+"q_proj", q, m.Hidden, m.QKVBias, in)
	}
	l.linear(p+"k_proj", kv, m.Hidden, m.QKVBias, in)
	l.linear(p+"v_proj", kv, m.Hidden, m.QKVBias, in)
	l.linear(p+"o_proj", m.Hidden, q, m.OutBias, p+"o_proj")
	if m.Sinks {
		l.add(p+"sinks", safetensors.BF16, []int64{int64(m.Heads)}, Random)
	}
	switch m.QKNorm {
	case NoQKNorm:
	case HeadQKNorm:
		l.norm(p+"q_norm.weight", m.HeadDim)
		l.norm(p+"k_norm.weight", m.HeadDim)
	case FullQKNorm:
		l.norm(p+"q_norm.weight", q)
		l.norm(p+"k_norm.weight", kv)
	}
}

// linearAttention leaves the narrow projections as they are, as quantised releases do.
func (l *lister) linearAttention(p string) {
	m, a := &l.m, l.m.Linear
	values := a.ValueHeads * a.ValueHead
	qkv := 2*a.KeyHeads*a.KeyHead + values
	l.add(p+"A_log", safetensors.F32, []int64{int64(a.ValueHeads)}, Random)
	l.add(p+"conv1d.weight", safetensors.BF16, []int64{int64(qkv), 1, int64(a.Conv)}, Random)
	l.add(p+"dt_bias", safetensors.BF16, []int64{int64(a.ValueHeads)}, Random)
	l.weight(p+"in_proj_a.weight", a.ValueHeads, m.Hidden)
	l.weight(p+"in_proj_b.weight", a.ValueHeads, m.Hidden)
	l.linear(p+"in_proj_qkv", qkv, m.Hidden, false, p+"in")
	l.linear(p+"in_proj_z", values, m.Hidden, false, p+"in")
	l.norm(p+"norm.weight", a.ValueHead)
	l.linear(p+"out_proj", m.Hidden, values, false, p+"out_proj")
}

func (l *lister) latentAttention(p string) {
	m, a := &l.m, l.m.MLA
	in := p + "in" // both a projections read the same input
	if q := m.Heads * (a.NopeHead + a.RopeHead); a.QRank == 0 {
		l.linear(p+"q_proj", q, m.Hidden, false, in)
	} else {
		l.linear(p+"q_a_proj", a.QRank, m.Hidden, false, in)
		l.norm(p+"q_a_layernorm.weight", a.QRank)
		l.linear(p+"q_b_proj", q, a.QRank, false, p+"q_b_proj")
	}
	l.linear(p+"kv_a_proj_with_mqa", a.KVRank+a.RopeHead, m.Hidden, false, in)
	l.norm(p+"kv_a_layernorm.weight", a.KVRank)
	l.linear(p+"kv_b_proj", m.Heads*(a.NopeHead+a.ValueHead), a.KVRank, false, p+"kv_b_proj")
	l.linear(p+"o_proj", m.Hidden, m.Heads*a.ValueHead, false, p+"o_proj")
	if a.IndexHeads > 0 {
		l.linear(p+"indexer.wq_b", a.IndexHeads*a.IndexHead, a.QRank, false, p+"indexer.wq_b")
		l.linear(p+"indexer.wk", a.IndexHead, m.Hidden, false, p+"indexer.wk")
		l.norm(p+"indexer.k_norm.weight", a.IndexHead)
		l.add(p+"indexer.k_norm.bias", safetensors.BF16, []int64{int64(a.IndexHead)}, Random)
		l.weight(p+"indexer.weights_proj.weight", a.IndexHeads, m.Hidden)
	}
}

func (l *lister) experts(p string) {
	e := l.m.MoE
	router := p + cmp.Or(e.Router, "gate")
	l.weight(router+".weight", e.Experts, l.m.Hidden)
	if e.Joined {
		l.add(router+".bias", safetensors.BF16, []int64{int64(e.Experts)}, Random)
		l.joinedExperts(p + "experts.")
		return
	}
	if e.ScoreBias != "" {
		l.add(p+e.ScoreBias, safetensors.F32, []int64{int64(e.Experts)}, Random)
	}
	if l.stacks() {
		l.stackedExperts(p + "experts.")
	} else {
		for i := range e.Experts {
			l.mlp(p+"experts."+strconv.Itoa(i)+".", e.Members, e.Inner)
		}
	}
	if e.Shared != "" {
		l.mlp(p+e.Shared+".", projMembers, e.SharedInner)
	}
	if e.SharedGate {
		l.weight(p+e.Shared+"_gate.weight", 1, l.m.Hidden)
	}
}

// stacks reports whether the experts of a layer lie in one tensor.
func (l *lister) stacks() bool {
	e := l.m.MoE
	return e.Stacks != NoStacks && (l.o.Format == FormatNone || l.o.Format == FormatFP8 && e.StackedFP8)
}

// stackedExperts adds the tensors that hold all experts of a layer, gate before up.
func (l *lister) stackedExperts(p string) {
	e := l.m.MoE
	for _, t := range []struct {
		name string
		n, k int
	}{{"gate_up_proj", 2 * e.Inner, l.m.Hidden}, {"down_proj", l.m.Hidden, e.Inner}} {
		rows, cols := t.n, t.k
		if e.Stacks == InputMajor {
			rows, cols = cols, rows
		}
		experts := int64(e.Experts)
		if l.o.Format == FormatNone {
			l.add(p+t.name, safetensors.BF16, []int64{experts, int64(rows), int64(cols)}, Random)
			continue
		}
		l.add(p+t.name, safetensors.F8E4M3, []int64{experts, int64(rows), int64(cols)}, Random)
		l.add(p+t.name+"_scale_inv", safetensors.F32, []int64{experts, fp8Blocks(rows), fp8Blocks(cols)}, fp8Scales)
	}
}

func (l *lister) mlp(p string, members []Member, inner int) {
	for _, m := range members {
		if m.Down {
			l.linear(p+m.Name, l.m.Hidden, inner, false, p+m.Name)
		} else {
			l.linear(p+m.Name, inner, l.m.Hidden, false, p+"in") // gate and up read the same input
		}
	}
}

// linear is a linear layer of n outputs and k inputs. Modules with the same input share their act-order, as a quantiser computes it from
// that input.
func (l *lister) linear(base string, n, k int, bias bool, input string) {
	switch {
	case l.o.Format == FormatGPTQ && l.packs(n, k):
		l.gptq(base, n, k, bias, input)
		return
	case l.o.Format == FormatAWQ && l.packs(n, k):
		l.awq(base, n, k, bias)
		return
	case l.o.Format == FormatCompressed && l.compresses(base, n, k):
		l.compressed(base, n, k, bias, input)
		return
	case l.o.Format == FormatMXFP4Pack && l.compresses(base, n, k):
		l.mxfp4Pack(base, n, k, bias)
		return
	case fp8Config(l.o.Format) != nil:
		l.fp8(base, n, k, bias)
		return
	case l.o.Format.nvfp4() && k%nvfp4Group == 0:
		l.nvfp4(base, n, k, bias, input)
		return
	case l.o.Format == FormatGPTQ || l.o.Format == FormatCompressed || l.o.Format == FormatMXFP4Pack || l.o.Format.nvfp4():
		l.dense[modulePattern(base)] = true
	case l.o.Format == FormatAWQ:
		l.dense[base] = true
	}
	l.weight(base+".weight", n, k)
	if bias {
		l.add(base+".bias", safetensors.BF16, []int64{int64(n)}, Random)
	}
}

// packs reports whether the real tool's packer takes the layer: it wants multiples of 32, and every consumer wants whole groups.
func (l *lister) packs(n, k int) bool {
	group := l.o.Group
	if l.o.Format == FormatMXFP4Pack {
		group = mxfp4Group
	}
	return n%32 == 0 && k%32 == 0 && (group < 0 || k%group == 0)
}

// gptq adds the tensors of a quantised module in the order in which GPTQModel declares its buffers.
func (l *lister) gptq(base string, n, k int, bias bool, input string) {
	group := l.o.Group
	if group < 0 {
		group = k
	}
	rows, cols, groups := int64(k), int64(n), int64(k/group)
	first := len(l.specs)
	var index Fill = groupFill{group: int64(group)}
	if l.o.DescAct {
		index = orderFill{seed: tensorSeed(l.o.Seed, input), rows: rows, group: int64(group)}
	}
	fixed := func(f Fill) func(safetensors.DType, uint64) Fill {
		return func(safetensors.DType, uint64) Fill { return f }
	}
	words := func(elements int64) int64 { return elements * int64(l.o.Bits) / 32 }
	l.add(base+".g_idx", safetensors.I32, []int64{rows}, fixed(index))
	l.add(base+".scales", safetensors.F16, []int64{groups, cols}, func(_ safetensors.DType, seed uint64) Fill { return f16Scales(seed) })
	if bias {
		l.add(base+".bias", safetensors.F16, []int64{cols}, Random)
	}
	l.add(base+".qweight", safetensors.I32, []int64{words(rows), cols}, Random)
	zeros := fixed(symmetricZeros(l.o.Bits))
	if l.o.Asym {
		zeros = Random
	}
	l.add(base+".qzeros", safetensors.I32, []int64{groups, words(cols)}, zeros)
	for i := first; i < len(l.specs); i++ {
		l.specs[i].quantised = true
	}
}

// symmetricZeros are the packed zero points of symmetric quantisation in the v1 format, which stores 2^(bits-1) - 1 in every field. Three
// bytes hold whole fields of 3 bits, and rows are whole words of 32 columns, so the pattern never breaks at a row's end.
func symmetricZeros(bits int) Fill {
	field := uint32(1)<<(bits-1) - 1
	var stream uint32
	for at := 0; at < 24; at += bits {
		stream |= field << at
	}
	return Constant(byte(stream), byte(stream>>8), byte(stream>>16))
}

func (l *lister) weight(name string, n, k int) {
	l.add(name, safetensors.BF16, []int64{int64(n), int64(k)}, Random)
}

func (l *lister) norm(name string, n int) {
	l.add(name, safetensors.BF16, []int64{int64(n)}, func(_ safetensors.DType, seed uint64) Fill { return bf16Norms(seed) })
}

func (l *lister) add(name string, d safetensors.DType, shape []int64, fill func(safetensors.DType, uint64) Fill) {
	l.specs = append(l.specs, Spec{Name: name, DType: d, Shape: shape, Fill: fill(d, tensorSeed(l.o.Seed, name))})
}

// modulePattern is a regular expression for a module and its twins in other layers and experts, which have the same shape.
func modulePattern(base string) string {
	var b strings.Builder
	b.WriteByte('^')
	for i := 0; i < len(base); i++ {
		switch c := base[i]; {
		case c == '.':
			b.WriteString(`\.`)
		case c >= '0' && c <= '9' && base[i-1] == '.':
			b.WriteString(`\d+`)
			for i+1 < len(base) && base[i+1] >= '0' && base[i+1] <= '9' {
				i++
			}
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('$')
	return b.String()
}
