package synth

import (
	"fmt"
	"slices"
	"strings"
)

// DefaultModel is the model of zero [Options].
const DefaultModel = "qwen3-30b-a3b"

// Model is one real (or, for tiny-moe and micro, made up) architecture: what decides the names and shapes of its tensors. Sizes are numbers
// of elements.
type Model struct {
	Name  string // as given to --model
	About string // one line

	Arch, Type string // architectures[0] and model_type of config.json
	TextType   string // model_type of its text_config, which then has the keys about the language model; empty for none
	Prefix     string // of the language model's names; empty means "model."
	Head       string // the module of the output; empty means "lm_head"
	Layers     int    // of the real model; Options.Layers replaces it
	Hidden     int
	Heads      int
	KVHeads    int
	HeadDim    int
	Inner      int // width of the dense MLP (intermediate_size)
	Vocab      int

	QKVBias bool
	QGate   bool // q_proj has the output's gate as well: twice as wide
	OutBias bool // of the attention's output
	Sinks   bool // a sink of attention for every head
	QKNorm  QKNorm
	MTP     bool    // a layer behind the last predicts further tokens
	MLA     *MLA    // multi-head latent attention in place of q, k, v projections
	Linear  *Linear // linear attention in some layers
	MoE     *MoE    // nil for a dense model

	// Ignore are the linear layers that its maker leaves unquantised, as patterns of compressed-tensors ("re:..."); other formats have none.
	Ignore []string

	// Config holds the keys of the family's config.json that the fields above do not decide.
	Config map[string]any
}

// QKNorm says which norms follow the q and k projections.
type QKNorm int

// The norms that models have after q and k.
const (
	NoQKNorm   QKNorm = iota
	HeadQKNorm        // one weight per element of a head
	FullQKNorm        // one weight per element of all heads
)

// MLA is the attention of DeepSeek-V3: low-rank projections for q and for k and v.
type MLA struct {
	QRank, KVRank                 int // QRank is 0 for a plain q_proj: DeepSeek-V2-Lite
	NopeHead, RopeHead, ValueHead int // elements per head
	IndexHeads, IndexHead         int // of the indexer of sparse attention; 0 for none
}

// Linear is the linear attention that Qwen3.5 has in three of four layers: heads, elements per head, and the length of its convolution.
type Linear struct{ KeyHeads, KeyHead, ValueHeads, ValueHead, Conv int }

// has says which layers have it.
func (a *Linear) has(layer int) bool { return a != nil && layer%4 != 3 }

// MoE describes a model's experts.
type MoE struct {
	Block       string // the module that holds gate and experts: "mlp" or "block_sparse_moe"
	Members     []Member
	Experts     int
	PerToken    int
	Inner       int // width of one expert
	DenseLayers int // how many layers at the start have a dense MLP

	ExpertsKey string // the key of config.json that holds Experts
	InnerKey   string // the key that holds Inner; empty when intermediate_size does

	Shared      string // name of the expert that every token uses, empty for none
	SharedInner int
	SharedGate  bool // the shared expert has a gate of its own: Shared + "_gate"

	Router     string // the module that chooses experts, within Block; empty means "gate". With Joined it has a bias
	Joined     bool   // tensors hold all experts, with gate and up interleaved: gpt-oss
	Stacks     Stacks // how releases that are not quantised hold all experts of a layer in one tensor, if they do
	StackedFP8 bool   // those in block FP8 do as well
	ScoreBias  string // name, within Block, of the router's correction bias (F32); empty for none
}

// Stacks says how tensors of all experts lie, gate before up.
type Stacks int

// The ways in which releases hold experts.
const (
	NoStacks    Stacks = iota // one by one
	InputMajor                // gate_up_proj [E, H, 2I] and down_proj [E, I, H]
	OutputMajor               // gate_up_proj [E, 2I, H] and down_proj [E, H, I]
)

// Member is one linear layer of an MLP, in the order in which the model declares it.
type Member struct {
	Name string
	Down bool // from the inner width back to the hidden size
}

var (
	projMembers  = []Member{{"gate_proj", false}, {"up_proj", false}, {"down_proj", true}}
	mixtralOrder = []Member{{"w1", false}, {"w2", true}, {"w3", false}} // gate, down, up
)

// Has reports whether there are checkpoints of the model in a format: those whose experts are joined are not quantised otherwise, nor are others
// that way. Of the layer that predicts further tokens the names in llama.cpp are not known here.
func (m *Model) Has(f Format) bool {
	joined := m.MoE != nil && m.MoE.Joined
	if IsGGUF(f) {
		return ggufArchs[m.Type] != "" && !joined && !m.MTP
	}
	return f == FormatNone || joined == (f == FormatMXFP4)
}

// Narrow is the model in small: the names of all its tensors but those of further experts, a dense layer where it has one, and one or, with linear
// attention, four others. What becomes tiles fills whole ones, but for gpt-oss's.
func (m *Model) Narrow() Model {
	n := *m
	n.Layers, n.Hidden, n.Heads, n.KVHeads, n.Inner, n.Vocab = 1, 256, 4, 2, 384, 96
	if n.HeadDim > 0 {
		n.HeadDim = 64
	}
	if a := m.MLA; a != nil {
		n.KVHeads = n.Heads
		n.MLA = &MLA{QRank: min(a.QRank, 256), KVRank: 128, NopeHead: 64, RopeHead: 64, ValueHead: 64}
		n.MLA.IndexHeads, n.MLA.IndexHead = min(a.IndexHeads, 2), min(a.IndexHead, 64)
	}
	if m.Linear != nil {
		n.Layers, n.Linear = 4, &Linear{KeyHeads: 2, KeyHead: 64, ValueHeads: 4, ValueHead: 64, Conv: 4}
	}
	if m.MoE != nil {
		e := *m.MoE
		e.Experts, e.PerToken, e.Inner, e.DenseLayers, e.SharedInner = 3, 1, 256, min(e.DenseLayers, 1), min(e.SharedInner, 128)
		if e.Joined {
			n.Hidden, e.Inner = 288, 96
		}
		n.Layers += e.DenseLayers
		n.MoE = &e
	}
	return n
}

// Models returns all models, the default first.
func Models() []Model { return slices.Clone(models) }

// FindModel returns the model of that name; the empty name means DefaultModel. The error is ErrOptions and lists the names.
func FindModel(name string) (Model, error) {
	if name == "" {
		name = DefaultModel
	}
	names := make([]string, len(models))
	for i := range models {
		if models[i].Name == name {
			return models[i], nil
		}
		names[i] = models[i].Name
	}
	return Model{}, fmt.Errorf("%w: unknown model %q; known: %s", ErrOptions, name, strings.Join(names, ", "))
}
