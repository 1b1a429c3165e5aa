package synth

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/coldload/coldload/gguf"
	"github.com/coldload/coldload/safetensors"
)

// The GGUF formats: the mixes of types that llama.cpp's own tools make most.
const (
	FormatGGUF      Format = "gguf"       // Q4_K_M: Q4_K, and Q6_K for the output and, in half of the layers, for attn_v and ffn_down
	FormatGGUFQ4_0  Format = "gguf-q4_0"  // Q4_0, and Q6_K for the output
	FormatGGUFMXFP4 Format = "gguf-mxfp4" // MXFP4_MOE: MXFP4 for experts, Q8_0 for everything else
)

// IsGGUF reports whether a Format is a GGUF file, whose tensors have names of their own.
func IsGGUF(f Format) bool { return f == FormatGGUF || f == FormatGGUFQ4_0 || f == FormatGGUFMXFP4 }

// ggufArchs are the architectures of llama.cpp by model_type.
var ggufArchs = map[string]string{
	"llama": "llama", "mixtral": "llama", "qwen2": "qwen2", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe",
	"deepseek_v3": "deepseek2", "kimi_k2": "deepseek2", "glm4_moe": "glm4moe", "minimax_m2": "minimax-m2",
}

// ggufAlign is the alignment of tensors that nothing is said about.
const ggufAlign = 32

// ggufModel lists the tensors as llama.cpp's converter writes them.
func (l *lister) ggufModel() {
	m := &l.m
	l.blocks("token_embd.weight", 0, int64(m.Vocab), int64(m.Hidden))
	for i := range m.Layers {
		p := "blk." + strconv.Itoa(i) + "."
		l.ggufNorm(p+"attn_norm.weight", m.Hidden)
		if m.MLA != nil {
			l.ggufLatentAttention(p, i)
		} else {
			l.ggufAttention(p, i)
		}
		l.ggufNorm(p+"ffn_norm.weight", m.Hidden)
		if m.MoE != nil && i >= m.MoE.DenseLayers {
			l.ggufExperts(p, i)
		} else {
			l.ggufMLP(p, "", i, m.Inner)
		}
	}
	l.ggufNorm("output_norm.weight", m.Hidden)
	l.blocks("output.weight", 0, int64(m.Vocab), int64(m.Hidden))
}

func (l *lister) ggufAttention(p string, layer int) {
	m := &l.m
	q, kv := m.Heads*m.HeadDim, m.KVHeads*m.HeadDim
	for _, x := range []struct {
		name string
		n    int
	}{{"attn_q", q}, {"attn_k", kv}, {"attn_v", kv}} {
		l.blocks(p+x.name+".weight", layer, int64(x.n), int64(m.Hidden))
		if m.QKVBias {
			l.ggufFloats(p+x.name+".bias", int64(x.n))
		}
	}
	l.blocks(p+"attn_output.weight", layer, int64(m.Hidden), int64(q))
	switch m.QKNorm {
	case NoQKNorm:
	case HeadQKNorm:
		l.ggufNorm(p+"attn_q_norm.weight", m.HeadDim)
		l.ggufNorm(p+"attn_k_norm.weight", m.HeadDim)
	case FullQKNorm:
		l.ggufNorm(p+"attn_q_norm.weight", q)
		l.ggufNorm(p+"attn_k_norm.weight", kv)
	}
}

// ggufLatentAttention has kv_b in two halves for each head, as the converter leaves it for the kernels that absorb it.
func (l *lister) ggufLatentAttention(p string, layer int) {
	m, a := &l.m, l.m.MLA
	hidden, heads := int64(m.Hidden), int64(m.Heads)
	l.blocks(p+"attn_q_a.weight", layer, int64(a.QRank), hidden)
	l.ggufNorm(p+"attn_q_a_norm.weight", a.QRank)
	l.blocks(p+"attn_q_b.weight", layer, heads*int64(a.NopeHead+a.RopeHead), int64(a.QRank))
	l.blocks(p+"attn_kv_a_mqa.weight", layer, int64(a.KVRank+a.RopeHead), hidden)
	l.ggufNorm(p+"attn_kv_a_norm.weight", a.KVRank)
	l.blocks(p+"attn_k_b.weight", layer, heads, int64(a.KVRank), int64(a.NopeHead))
	l.blocks(p+"attn_v_b.weight", layer, heads, int64(a.ValueHead), int64(a.KVRank))
	l.blocks(p+"attn_output.weight", layer, hidden, heads*int64(a.ValueHead))
}

func (l *lister) ggufExperts(p string, layer int) {
	m, e := &l.m, l.m.MoE
	experts, inner, hidden := int64(e.Experts), int64(e.Inner), int64(m.Hidden)
	l.ggufFloats(p+"ffn_gate_inp.weight", experts, hidden)
	if e.ScoreBias != "" {
		l.ggufFloats(p+"exp_probs_b.bias", experts)
	}
	l.blocks(p+"ffn_gate_exps.weight", layer, experts, inner, hidden)
	l.blocks(p+"ffn_up_exps.weight", layer, experts, inner, hidden)
	l.blocks(p+"ffn_down_exps.weight", layer, experts, hidden, inner)
	if e.Shared != "" {
		l.ggufMLP(p, "_shexp", layer, e.SharedInner)
	}
	if e.SharedGate {
		l.ggufFloats(p+"ffn_gate_inp_shexp.weight", hidden)
	}
}

func (l *lister) ggufMLP(p, suffix string, layer, inner int) {
	hidden := int64(l.m.Hidden)
	l.blocks(p+"ffn_gate"+suffix+".weight", layer, int64(inner), hidden)
	l.blocks(p+"ffn_up"+suffix+".weight", layer, int64(inner), hidden)
	l.blocks(p+"ffn_down"+suffix+".weight", layer, hidden, int64(inner))
}

// blocks adds a weight in the type that the mix has for it, or, where rows are no whole blocks of that, in Q8_0 or F16.
func (l *lister) blocks(name string, layer int, shape ...int64) {
	k := shape[len(shape)-1]
	t := l.ggufType(name, layer)
	for _, other := range []gguf.Type{gguf.Q8_0, gguf.F16} {
		if elements, _ := t.Block(); k%elements != 0 {
			t = other
		}
	}
	if t == gguf.F16 {
		l.add(name, safetensors.F16, shape, Random)
		return
	}
	elements, size := t.Block()
	bytes := slices.Clone(shape)
	bytes[len(bytes)-1] = k / elements * size
	l.add(name, safetensors.U8, bytes, func(_ safetensors.DType, seed uint64) Fill {
		return blockFill{random: randomFill{seed: seed, and: ^uint64(0)}, size: size, scales: blockScales[t]}
	})
	l.specs[len(l.specs)-1].block = t
}

// ggufType is the type that the mix has for a tensor.
func (l *lister) ggufType(name string, layer int) gguf.Type {
	more := name == "output.weight" || l.usesMoreBits(layer) && (hasPart(name, "attn_v") || hasPart(name, "ffn_down") || hasPart(name, "ffn_down_exps"))
	switch {
	case l.o.Format == FormatGGUFMXFP4 && (hasPart(name, "ffn_gate_exps") || hasPart(name, "ffn_up_exps") || hasPart(name, "ffn_down_exps")):
		return gguf.MXFP4
	case l.o.Format == FormatGGUFMXFP4:
		return gguf.Q8_0
	case l.o.Format == FormatGGUFQ4_0 && name != "output.weight":
		return gguf.Q4_0
	case more:
		return gguf.Q6K
	}
	return gguf.Q4K
}

// usesMoreBits is llama.cpp's choice of the layers that get a better type: the first and last eighth, and every third between them.
func (l *lister) usesMoreBits(layer int) bool {
	n := l.m.Layers
	return layer < n/8 || layer >= 7*n/8 || (layer-n/8)%3 == 2
}

// hasPart reports whether a name of a layer's weight is that of the part.
func hasPart(name, part string) bool { return strings.HasSuffix(name, "."+part+".weight") }

func (l *lister) ggufNorm(name string, n int) {
	l.add(name, safetensors.F32, []int64{int64(n)}, func(_ safetensors.DType, seed uint64) Fill {
		return masked(seed, 0x000FFFFF000FFFFF, 0x3F8000003F800000) // 1 to 1.125
	})
}

func (l *lister) ggufFloats(name string, shape ...int64) {
	l.add(name, safetensors.F32, shape, Random)
}

// scaleByte is a byte of a block that belongs to a scale: what is random in it, and what is not.
type scaleByte struct {
	at      int64
	and, or byte
}

// blockScales keep the scales of random blocks positive and small: F16 of 2^-14 to 2^-13, or 2^-9 to 2^-8 where nothing else multiplies, and E8M0 of
// 2^-15 to 2^-8.
var blockScales = map[gguf.Type][]scaleByte{
	gguf.Q4_0:  {{1, 0x03, 0x18}},
	gguf.Q8_0:  {{1, 0x03, 0x04}},
	gguf.Q4K:   {{1, 0x03, 0x04}, {3, 0x03, 0x04}},
	gguf.Q6K:   {{209, 0x03, 0x04}},
	gguf.MXFP4: {{0, 0x07, 0x70}},
}

// blockFill is random blocks of a type.
type blockFill struct {
	random randomFill
	size   int64 // bytes of a block
	scales []scaleByte
}

func (f blockFill) Fill(dst []byte, off int64) {
	f.random.Fill(dst, off)
	for block := off / f.size * f.size; block < off+int64(len(dst)); block += f.size {
		for _, s := range f.scales {
			if i := block + s.at - off; i >= 0 && i < int64(len(dst)) {
				dst[i] = dst[i]&s.and | s.or
			}
		}
	}
}

// ggufShards cuts the tensors into the files of a set, in the order of the model.
func (l *lister) ggufShards() ([]Shard, error) {
	shards, err := cutShards(l.specs, l.o.ShardSize)
	if err != nil {
		return nil, err
	}
	for i := range shards {
		s := &shards[i]
		s.gguf, s.align = []gguf.KeyValue{}, ggufAlign
		if i == 0 {
			s.gguf = l.ggufMetadata()
		}
		if len(shards) > 1 {
			s.gguf = append(
				s.gguf, gguf.KeyValue{Key: "split.no", Value: uint16(i)}, gguf.KeyValue{Key: "split.count", Value: uint16(len(shards))},
				gguf.KeyValue{Key: "split.tensors.count", Value: int32(len(l.specs))},
			)
		}
	}
	return shards, finish(shards)
}

// ggufMetadata has the keys that llama.cpp's converter writes, with a tokenizer of made-up tokens.
func (l *lister) ggufMetadata() []gguf.KeyValue {
	m, arch := &l.m, ggufArchs[l.m.Type]
	types := map[Format]uint32{FormatGGUF: 15, FormatGGUFQ4_0: 2, FormatGGUFMXFP4: 38} // llama.cpp's numbers of the mixes
	var kv []gguf.KeyValue
	set := func(key string, v any) { kv = append(kv, gguf.KeyValue{Key: key, Value: v}) }
	number := func(key string, n int) { set(arch+"."+key, uint32(n)) }
	set("general.architecture", arch)
	set("general.name", "coldload-synth/"+m.Name) // random weights must not pass for real ones
	set("general.file_type", types[l.o.Format])
	set("general.quantization_version", uint32(2))
	number("block_count", m.Layers)
	number("embedding_length", m.Hidden)
	number("feed_forward_length", m.Inner)
	number("attention.head_count", m.Heads)
	number("attention.head_count_kv", m.KVHeads)
	number("vocab_size", m.Vocab)
	if e := m.MoE; e != nil {
		number("expert_count", e.Experts)
		number("expert_used_count", e.PerToken)
		number("expert_feed_forward_length", e.Inner)
		if e.DenseLayers > 0 {
			number("leading_dense_block_count", e.DenseLayers)
		}
	}
	tokens, kinds := make([]string, m.Vocab), make([]int32, m.Vocab)
	for i := range tokens {
		tokens[i], kinds[i] = "t"+strconv.Itoa(i), 1
	}
	set("tokenizer.ggml.model", "gpt2")
	set("tokenizer.ggml.tokens", tokens)
	set("tokenizer.ggml.token_type", kinds)
	return kv
}

// plainTypes are ggml's types of plain numbers.
var plainTypes = map[safetensors.DType]gguf.Type{safetensors.F32: gguf.F32, safetensors.F16: gguf.F16}

// ggufLayout is where the bytes of the Shard's file go.
func (s *Shard) ggufLayout() (fileLayout, error) {
	specs := make([]gguf.Spec, len(s.Specs))
	for i := range s.Specs {
		x := &s.Specs[i]
		specs[i] = gguf.Spec{Name: x.Name, Type: plainTypes[x.DType], Shape: slices.Clone(x.Shape)}
		if x.DType == safetensors.U8 {
			elements, size := x.block.Block()
			last := len(x.Shape) - 1
			specs[i].Type, specs[i].Shape[last] = x.block, x.Shape[last]/size*elements
		}
	}
	layout, err := gguf.NewLayout(s.gguf, specs, gguf.WriterOptions{})
	if err != nil {
		return nil, fmt.Errorf("synth: %s: %w", s.Name, err)
	}
	return ggufFile{layout}, nil
}

// ggufFile is a fileLayout.
type ggufFile struct{ l *gguf.Layout }

func (f ggufFile) Header() []byte  { return f.l.Bytes() }
func (f ggufFile) FileSize() int64 { return f.l.Header().FileSize() }
