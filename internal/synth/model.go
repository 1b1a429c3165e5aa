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
	Layers     int    // of the real model; Options.Layers replaces it
	Hidden     int
	Heads      int
	KVHeads    int
	HeadDim    int
	Inner      int // width of the dense MLP (intermediate_size)
	Vocab      int

	QKVBias bool
	OutBias bool // of the attention's output
	Sinks   bool // a sink of attention for every head
	QKNorm  QKNorm
	MLA     *MLA // multi-head latent attention in place of q, k, v projections
	MoE     *MoE // nil for a dense model

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
	QRank, KVRank                 int
	NopeHead, RopeHead, ValueHead int // elements per head
}

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

	Router    string // the module that chooses experts, within Block; empty means "gate". With Joined it has a bias
	Joined    bool   // tensors hold all experts, with gate and up interleaved: gpt-oss
	ScoreBias string // name, within Block, of the router's correction bias (F32); empty for none
}

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
// that way.
func (m *Model) Has(f Format) bool {
	joined := m.MoE != nil && m.MoE.Joined
	if IsGGUF(f) {
		return ggufArchs[m.Type] != "" && !joined
	}
	return f == FormatNone || joined == (f == FormatMXFP4)
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
