package discover

import (
	"fmt"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/coldload/coldload/stages"
)

// QuantConfig is what the checkpoint says about its quantisation, as it says it: the Object is not interpreted here, since what its keys
// mean is known only to the format that Method names.
type QuantConfig struct {
	// Method is quant_method in lower case; where the file does not say it, the one whose tools write such a file. Empty: unknown.
	Method string
	// Where is the file and the place in it: "config.json: quantization_config".
	Where   string
	*Object // its getters are those of QuantConfig, but for the one that the field hides: q.Object.Object(key)
}

// quantSource is one place that may describe the quantisation.
type quantSource struct {
	*Object
	method   string // as the source says it, in lower case
	inferred string // the method whose tools use this place
}

func (s *quantSource) where() string {
	if s.Path() == "" {
		return s.File()
	}
	return s.File() + ": " + s.Path()
}

// quantPlace is where config.json describes the quantisation, and the method if only the place tells it.
type quantPlace struct{ key, inferred string }

var quantKeys = []quantPlace{
	{quantKey, ""},
	{"compression_config", "compressed-tensors"},
	{"quantization", "mlx"},
}

// quantFiles are the files that describe it beside config.json, and the key that holds the object when it is not the whole file.
var quantFiles = []struct{ name, key, inferred string }{
	{"quantize_config.json", "", "gptq"},
	{"quant_config.json", "", "awq"},
	{"hf_quant_config.json", "quantization", "modelopt"},
}

// QuantFiles names the files that describe a quantisation beside config.json.
func QuantFiles() []string {
	names := make([]string, len(quantFiles))
	for i, f := range quantFiles {
		names[i] = f.name
	}
	return names
}

// readQuant looks into the sections of config.json, then into the other files, and takes the first source
// that there is. The others must not contradict it.
func (d *discoverer) readQuant(sections []*Object) error {
	sources := d.configSources(sections)
	for _, file := range quantFiles {
		o, err := d.readObject(file.name)
		if err != nil {
			return err
		}
		if o == nil {
			continue
		}
		if inner, ok, _ := o.Object(file.key); ok {
			o = inner
		}
		sources = d.addSource(sources, o, file.inferred)
	}
	if len(sources) == 0 {
		return nil
	}
	best := &sources[0]
	for i := range sources[1:] {
		d.compareQuant(best, &sources[i+1])
	}
	d.ck.Quant = &QuantConfig{Method: methodOf(sources), Where: best.where(), Object: best.Object}
	return nil
}

// configSources looks into every section of config.json, its top first.
func (d *discoverer) configSources(sections []*Object) []quantSource {
	var sources []quantSource
	for _, o := range sections {
		for _, k := range quantKeys {
			q, ok, f := o.Object(k.key)
			if k.key == quantKey {
				d.check(f)
			}
			if ok {
				sources = d.addSource(sources, q, k.inferred)
			}
		}
	}
	return sources
}

// addSource adds an object that says something.
func (d *discoverer) addSource(sources []quantSource, o *Object, inferred string) []quantSource {
	if len(o.Members()) == 0 {
		return sources
	}
	method, _, f := o.Text("quant_method", "method")
	d.check(f)
	return append(sources, quantSource{Object: o, method: strings.ToLower(strings.TrimSpace(method)), inferred: inferred})
}

// methodOf is the first method that a source says, else the first that a source's place tells.
func methodOf(sources []quantSource) string {
	for _, s := range sources {
		if s.method != "" {
			return s.method
		}
	}
	for _, s := range sources {
		if s.inferred != "" {
			return s.inferred
		}
	}
	return ""
}

// layoutKeys decide how bytes are read in more than one format. Each line is one key and its synonyms.
var layoutKeys = [][]string{
	{"quant_method", "method"},
	{"bits", "w_bit", "wbits"},
	{"group_size", "q_group_size"},
	{"desc_act"},
	{"sym"},
	{"zero_point"},
	{"checkpoint_format", "format"},
}

// compareQuant checks that two sources agree: a loader that picks one silently gives wrong weights.
func (d *discoverer) compareQuant(a, b *quantSource) {
	for _, keys := range layoutKeys {
		ka, va := firstOf(a.Object, keys)
		kb, vb := firstOf(b.Object, keys)
		if va == "" || vb == "" || strings.EqualFold(va, vb) {
			continue
		}
		d.fault(stages.Fault{
			Code: stages.CodeConfig, File: b.File(),
			Problem:  fmt.Sprintf("%s contradicts %s of %s", b.at(kb), a.at(ka), a.File()),
			Expected: fmt.Sprintf("%s as in %s", va, a.File()), Found: fmt.Sprintf("%s in %s", vb, b.File()),
			Advice: "remove or correct the file that is wrong",
		})
	}
}

// firstOf is the first of the keys that is there, and its value as text.
func firstOf(o *Object, keys []string) (key, value string) {
	for _, key := range keys {
		if v, ok := o.Value(key); ok {
			return key, plain(v)
		}
	}
	return "", ""
}

// plain is a value as text: a string without its quotes.
func plain(v jsontext.Value) string {
	if s, err := decode[string](v); err == nil {
		return s
	}
	return clip(v)
}
