package discover

import (
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/coldload/coldload/stages"
)

// ConfigChange says how the config.json of a packed folder differs from that of the checkpoint. The zero value changes nothing.
type ConfigChange struct {
	// Requantise takes out what describes the quantisation, wherever it stands. In its place comes, with a Layout,
	//
	//	"quantization_config": {"quant_method": "coldload", "coldload_layout": LAYOUT, "source": WHAT STOOD THERE}
	//
	// and nothing without one.
	Requantise bool
	Layout     stages.Layout
	// Source is what describes the quantisation outside config.json; it becomes the source when config.json does not say it.
	Source jsontext.Value
	// DType is the dtype of the weights, as torch names it: "bfloat16". Empty leaves what is there.
	DType string
}

var torchDTypes = []string{"float64", "float32", "float16", "bfloat16"}

// quantKey is where config.json describes the quantisation in the first place.
const quantKey = "quantization_config"

func isQuantKey(key string) bool {
	return slices.ContainsFunc(quantKeys, func(k quantPlace) bool { return k.key == key })
}

// RewriteConfig is config.json after the change: the same members in the same order, numbers as written, indented by two. A text that
// needs no change is returned as it is.
func RewriteConfig(text []byte, c ConfigChange) ([]byte, error) {
	// It was read before, but the file may be another one by now.
	if _, err := parseObject("", text); err != nil {
		return nil, err
	}
	r := rewriter{change: c}
	doc, err := r.object(text, true, 0)
	if err != nil {
		return nil, err
	}
	if c.Requantise && c.Layout != "" && !r.replaced && len(c.Source) > 0 {
		doc = append(doc, Member{quantKey, r.quantisation(c.Source)})
		r.changed = true
	}
	if c.DType != "" && !r.typed {
		doc = append(doc, Member{"torch_dtype", quoted(c.DType)})
		r.changed = true
	}
	if !r.changed {
		return text, nil
	}
	v := textOf(doc)
	if err := v.Indent(jsontext.PreserveRawStrings(true), jsontext.WithIndent("  ")); err != nil {
		return nil, err
	}
	return append(v, '\n'), nil
}

// textOf is the text of an object.
func textOf(members []Member) jsontext.Value {
	b := []byte{'{'}
	for i, m := range members {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(append(b, quoted(m.Key)...), ':'), m.Value...)
	}
	return append(b, '}')
}

func quoted(s string) jsontext.Value {
	b, _ := jsontext.AppendQuote(nil, s) // what is quoted here is valid UTF-8: it was decoded, or is ours
	return b
}

// rewriter goes through a document and notes what it did.
type rewriter struct {
	change                   ConfigChange
	changed, replaced, typed bool
}

// mostDepth is how deep a section of a config is looked into: what nests deeper describes no model. It bounds what rewriting takes.
const mostDepth = 4

// object rewrites a JSON object. text tells whether it is the document or a section about the language model.
func (r *rewriter) object(raw jsontext.Value, text bool, depth int) ([]Member, error) {
	o := Object{raw: raw}
	if err := o.split(); err != nil {
		return nil, err
	}
	members := o.members
	if text && r.change.Requantise {
		members = r.requantise(members)
	}
	for i := range members {
		m := &members[i]
		switch {
		case m.Value.Kind() == '{' && !isQuantKey(m.Key) && depth < mostDepth:
			if err := r.section(m, text, depth+1); err != nil {
				return nil, err
			}
		case r.change.DType != "" && slices.Contains(dtypeKeys, m.Key) && isTorchDType(m.Value):
			r.typed = r.typed || text
			if want := quoted(r.change.DType); string(m.Value) != string(want) {
				m.Value, r.changed = want, true
			}
		}
	}
	return members, nil
}

// section rewrites a member that is an object. One that needs no change keeps its text.
func (r *rewriter) section(m *Member, text bool, depth int) error {
	before := r.changed
	r.changed = false
	o, err := r.object(m.Value, text && slices.Contains(textSections, m.Key), depth)
	if err == nil && r.changed {
		m.Value = textOf(o)
	}
	r.changed = r.changed || before
	return err
}

func isTorchDType(v jsontext.Value) bool {
	s, err := jsontext.AppendUnquote(nil, v)
	return err == nil && slices.Contains(torchDTypes, strings.TrimPrefix(string(s), "torch."))
}

// requantise takes out what describes the quantisation: the first such member makes room for ours.
func (r *rewriter) requantise(members []Member) []Member {
	kept := members[:0]
	done := false
	for _, m := range members {
		switch {
		case m.Key == quantKey && m.Value.Kind() != '{': // a null, which describes nothing
			r.changed = true
			continue
		case !isQuantKey(m.Key) || m.Value.Kind() != '{':
			kept = append(kept, m)
			continue
		case r.change.Layout != "" && !done:
			kept = append(kept, Member{quantKey, r.quantisation(m.Value)})
		}
		done, r.replaced, r.changed = true, true, true
	}
	return kept
}

func (r *rewriter) quantisation(source jsontext.Value) jsontext.Value {
	return textOf([]Member{
		{"quant_method", quoted("coldload")}, {"coldload_layout", quoted(string(r.change.Layout))}, {"source", source},
	})
}
