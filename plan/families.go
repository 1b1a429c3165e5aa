package plan

import (
	"slices"
	"strconv"
	"strings"
)

// fuseRule says which sibling modules become one, concatenated along their output features in the order given.
type fuseRule struct {
	name    string
	fused   string   // last name component of the result
	members []string // last name components
	parents []string // last name components of what they may be children of
	// anchor is the member that must be there for the rule to apply; without one, any member calls for all the others.
	anchor string
}

// The rules, by the names that the families give their modules. A family that needs another one adds a line.
var fuseRules = []fuseRule{
	{name: "qkv", fused: "qkv_proj", members: []string{"q_proj", "k_proj", "v_proj"}, parents: []string{"self_attn"}},
	{
		name: "gate_up", fused: "gate_up_proj", members: []string{"gate_proj", "up_proj"},
		parents: []string{"mlp", "shared_expert", "shared_experts", "feed_forward"},
	},
	{
		name: "qkv_a", fused: "fused_qkv_a_proj", members: []string{"q_a_proj", "kv_a_proj_with_mqa"},
		parents: []string{"self_attn"}, anchor: "q_a_proj",
	},
}

// expertRule names the members of routed experts, which lie below <scope>.experts.<number>.
type expertRule struct {
	name           string
	gate, up, down string
}

var expertRules = []expertRule{
	{name: "experts", gate: "gate_proj", up: "up_proj", down: "down_proj"},
	{name: "experts_w", gate: "w1", up: "w3", down: "w2"},
}

const (
	expertsScope = "experts"
	fusedGateUp  = "gate_up_proj"
	fusedDown    = "down_proj"
)

// Family binds the model_type values of a config to the rules that its checkpoints follow. For a family that is known, the members of a
// rule must be complete; for one that is not, the rules apply wherever the names fit.
type Family struct {
	Name       string
	ModelTypes []string
	Rules      []string
	// fused is how its releases hold all experts of a layer in one tensor, if they do.
	fused fusedExperts
}

// families is the table to extend: LAYOUTS-level facts come from the model definitions of the engines.
var families = []Family{
	{Name: "Llama", ModelTypes: []string{"llama", "mistral", "mistral3", "ministral"}, Rules: []string{"qkv", "gate_up"}},
	{Name: "Qwen2", ModelTypes: []string{"qwen2", "qwen2_vl", "qwen2_5_vl"}, Rules: []string{"qkv", "gate_up"}},
	{Name: "Qwen3", ModelTypes: []string{"qwen3", "qwen3_vl"}, Rules: []string{"qkv", "gate_up"}},
	{Name: "Qwen2-MoE", ModelTypes: []string{"qwen2_moe"}, Rules: []string{"qkv", "gate_up", "experts"}},
	{Name: "Qwen3-MoE", ModelTypes: []string{"qwen3_moe"}, Rules: []string{"qkv", "gate_up", "experts"}},
	{
		Name: "Qwen3-VL-MoE", ModelTypes: []string{"qwen3_vl_moe", "qwen3_vl_moe_text"}, Rules: []string{"qkv", "gate_up", "experts"},
		fused: fusedExperts{major: inputMajor},
	},
	{
		Name: "Qwen3.5", ModelTypes: []string{"qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"}, Rules: []string{"qkv", "gate_up", "experts"},
		fused: fusedExperts{major: outputMajor},
	},
	{Name: "Mixtral", ModelTypes: []string{"mixtral"}, Rules: []string{"qkv", "experts_w"}},
	{
		Name: "DeepSeek-V2/V3", ModelTypes: []string{"deepseek_v2", "deepseek_v3", "deepseek_v32"}, Rules: []string{"qkv_a", "gate_up", "experts"},
	},
	{Name: "Kimi-K2", ModelTypes: []string{"kimi_k2", "kimi_k25"}, Rules: []string{"qkv_a", "gate_up", "experts"}},
	{Name: "GLM-4.5", ModelTypes: []string{"glm4_moe", "glm4v_moe"}, Rules: []string{"qkv", "gate_up", "experts"}},
	{Name: "GLM-4", ModelTypes: []string{"glm4_moe_lite", "glm_moe_dsa"}, Rules: []string{"qkv_a", "gate_up", "experts"}},
	{Name: "MiniMax-M2", ModelTypes: []string{"minimax_m2"}, Rules: []string{"qkv", "experts_w", "experts"}},
	{
		Name: "Llama-4", ModelTypes: []string{"llama4", "llama4_text"}, Rules: []string{"qkv", "gate_up", "experts"},
		fused: fusedExperts{major: inputMajor},
	},
	{
		Name: "gpt-oss", ModelTypes: []string{"gpt_oss"}, Rules: []string{"qkv"},
		fused: fusedExperts{major: inputMajor, interleaved: true},
	},
}

// familyOf finds the family of a model_type.
func familyOf(modelType string) (Family, bool) {
	for _, f := range families {
		if slices.Contains(f.ModelTypes, modelType) {
			return f, true
		}
	}
	return Family{}, false
}

// rules is what applies to one checkpoint.
type rules struct {
	family  Family
	known   bool // the family is in the table: incomplete members are faults
	fuse    []fuseRule
	experts []expertRule
	fused   fusedExperts
}

// rulesFor selects the rules of the first model_type that is in the table: those of its family, or all of them.
func rulesFor(modelTypes ...string) rules {
	f, known := Family{}, false
	for i := 0; i < len(modelTypes) && !known; i++ {
		f, known = familyOf(modelTypes[i])
	}
	return rulesOf(f, known)
}

// rulesOf are the rules of a Family, or all of them when it is not known.
func rulesOf(f Family, known bool) rules {
	r := rules{family: f, known: known, fused: f.fused}
	applies := func(name string) bool { return !known || slices.Contains(f.Rules, name) }
	for _, f := range fuseRules {
		if applies(f.name) {
			r.fuse = append(r.fuse, f)
		}
	}
	for _, e := range expertRules {
		if applies(e.name) {
			r.experts = append(r.experts, e)
		}
	}
	return r
}

// place says where the rules put a module.
type place struct {
	scope  string // the Group's parent: "model.layers.0.self_attn", "model.layers.0.mlp.experts"
	rule   int    // index into rules.fuse or rules.experts
	member int    // index into the rule's members; for experts 0 gate, 1 up, 2 down
	expert int    // number of the expert; -1 outside experts
}

// locate finds the place of a module by its name. Most modules have none.
func (r *rules) locate(base string) (place, bool) {
	scope, last := cutLast(base)
	if scope == "" {
		return place{}, false
	}
	above, parent := cutLast(scope)
	if e, ok := expertNumber(parent); ok {
		if _, s := cutLast(above); s == expertsScope {
			return r.locateExpert(above, last, e)
		}
	}
	for i, f := range r.fuse {
		if !slices.Contains(f.parents, parent) {
			continue
		}
		for j, m := range f.members {
			if m == last {
				return place{scope: scope, rule: i, member: j, expert: -1}, true
			}
		}
	}
	return place{}, false
}

func (r *rules) locateExpert(scope, last string, expert int) (place, bool) {
	for i, x := range r.experts {
		for j, m := range [...]string{x.gate, x.up, x.down} {
			if m == last {
				return place{scope: scope, rule: i, member: j, expert: expert}, true
			}
		}
	}
	return place{}, false
}

// cutLast splits a name at its last dot.
func cutLast(name string) (before, last string) {
	i := strings.LastIndexByte(name, '.')
	if i < 0 {
		return "", name
	}
	return name[:i], name[i+1:]
}

// mostExperts bounds the numbers that count as expert numbers; no model comes near.
const mostExperts = 1 << 20

// expertNumber reads a plain decimal number: no sign, no leading zero.
func expertNumber(s string) (int, bool) {
	if s == "" || len(s) > 7 || s[0] < '0' || s[0] > '9' || (s[0] == '0' && len(s) > 1) {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	return n, err == nil && n < mostExperts
}

// misnumbered is the problem with a module that lies where an expert lies, below a number that is none.
const misnumbered = "is numbered as no expert of this family is"

// misnumbered reports whether a module of a known family lies below experts.<digits>, and the digits are no expert's number.
func (r *rules) misnumbered(base string) bool {
	scope, _ := cutLast(base)
	above, number := cutLast(scope)
	_, parent := cutLast(above)
	_, ok := expertNumber(number)
	return r.known && len(r.experts) > 0 && parent == expertsScope && !ok && number != "" && strings.Trim(number, "0123456789") == ""
}
