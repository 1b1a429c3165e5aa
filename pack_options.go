package coldload

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/coldload/coldload/internal/packed"
	"github.com/coldload/coldload/plan"
	"github.com/coldload/coldload/stages"
)

// packedOptions are the options in a manifest: those that decide what the Outputs of the folder are.
type packedOptions struct {
	Layout stages.Layout `json:"layout"`
	DType  string        `json:"dtype"` // as the command names it
	Names  string        `json:"names"`
	NoFuse bool          `json:"no_fuse,omitzero"`
	// Pad says that what the tiles of the layout do not fit was filled up.
	Pad bool `json:"pad,omitzero"`
	// ActOrder says that the order of g_idx was taken although the config denies it.
	ActOrder bool `json:"act_order,omitzero"`
	// FP8Exponent is what scales of FP8 weights hold, when it is not the factor.
	FP8Exponent stages.Exponent `json:"fp8_exponent,omitzero"`

	Include []string `json:"include,omitzero"`
	Exclude []string `json:"exclude,omitzero"`
	// Stages are the names of the stages that a program of somebody else's inserted: nobody else can make the same bytes.
	Stages []string `json:"stages,omitzero"`
	// Rules are the types of the rules that it gave, likewise.
	Rules []string `json:"rules,omitzero"`
}

// namesHF is how Outputs are named: as a Hugging Face checkpoint would name them.
const namesHF = "hf"

func newPackedOptions(opt Options) packedOptions {
	o := packedOptions{
		Layout: cmp.Or(opt.Layout, stages.LayoutMarlin), DType: "keep", Names: namesHF, NoFuse: opt.NoFuse, ActOrder: opt.ActOrder,
		Include: opt.Include, Exclude: opt.Exclude,
	}
	o.Pad = o.Layout == stages.LayoutMarlin && !opt.NoPad
	for name, d := range dtypeNames {
		if d == opt.DType {
			o.DType = name
		}
	}
	if opt.FP8Exponent != stages.ExponentFused {
		o.FP8Exponent = opt.FP8Exponent
	}
	for _, s := range opt.Stages {
		o.Stages = append(o.Stages, fmt.Sprintf("%s after %s", s.Stage.Name(), s.After))
	}
	for _, r := range opt.Rules {
		o.Rules = append(o.Rules, fmt.Sprintf("%T", r))
	}
	return o
}

// parsePackedOptions reads the options of a manifest. One that this version does not know means that it cannot tell what is there.
func parsePackedOptions(v jsontext.Value) (o packedOptions, err error) {
	refuse := func(problem, found string) error {
		return stages.Refuse(stages.Fault{
			Code: packed.CodeManifest, File: packed.ManifestName, Problem: problem, Found: found,
			Advice: "use the version of coldload that packed the folder, or pack again",
		})
	}
	if err := json.Unmarshal(v, &o, json.RejectUnknownMembers(true)); err != nil {
		return o, refuse("the options are not those of this version: "+err.Error(), "")
	}
	layouts := []stages.Layout{stages.LayoutMarlin, stages.LayoutRaw, stages.LayoutExllama, stages.LayoutDequant}
	if _, ok := dtypeNames[o.DType]; !ok || !slices.Contains(layouts, o.Layout) || !slices.Contains([]stages.Exponent{"", stages.ExponentPlain}, o.FP8Exponent) || o.Names != namesHF {
		return o, refuse("the options have values that this version does not know", fmt.Sprintf("layout %q, dtype %q, names %q", o.Layout, o.DType, o.Names))
	}
	return o, nil
}

// value is the text for the manifest.
func (o packedOptions) value() (jsontext.Value, error) { return json.Marshal(&o) }

// plan is what a Plan must know of a folder with these options.
func (o packedOptions) plan(program string) plan.Packed {
	return plan.Packed{Program: program, Layout: o.Layout, DType: dtypeNames[o.DType], NoFuse: o.NoFuse, NoPad: !o.Pad, ActOrder: o.ActOrder, FP8Exponent: o.FP8Exponent}
}

// apply makes opt ask for the same Outputs.
func (o packedOptions) apply(opt Options) Options {
	opt.Layout, opt.DType, opt.NoFuse, opt.ActOrder = o.Layout, dtypeNames[o.DType], o.NoFuse, o.ActOrder
	opt.NoPad, opt.FP8Exponent = !o.Pad, o.FP8Exponent
	opt.Include, opt.Exclude = o.Include, o.Exclude
	return opt
}

// needs says what is missing to compute the Outputs again: what a program added that packed them.
func (o packedOptions) needs(opt Options) error {
	if len(o.Stages) > 0 && len(opt.Stages) == 0 || len(o.Rules) > 0 && len(opt.Rules) == 0 {
		return fmt.Errorf("%w: the folder was packed by a program with stages or rules of its own (%q): only it can compute the outputs again",
			ErrOptions, slices.Concat(o.Stages, o.Rules))
	}
	return nil
}
