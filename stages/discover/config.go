package discover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/coldload/coldload/stages"
)

// ModelConfig is what config.json says. What it does not say is zero.
type ModelConfig struct {
	Present       bool
	ModelType     string
	TextModelType string // of the section about the language model, when a wrapper has one
	Architectures []string
	DType         string // of the unquantised weights, as in torch without "torch.": "bfloat16"

	NumLayers           int
	NumExperts          int // routed experts of a layer; 0 for a dense model
	HiddenSize          int64
	IntermediateSize    int64
	MoEIntermediateSize int64
	TieWordEmbeddings   bool

	// Doc is the whole document, for what is not above and for rewriting; nil when config.json is absent.
	Doc *Object
}

const (
	configName = "config.json"
	maxConfig  = 64 << 20 // bytes
	maxCount   = 1 << 20  // layers, experts
	maxSize    = 1 << 31  // features
)

// textSections are where multimodal wrappers keep the config of their language model.
var textSections = []string{"text_config", "llm_config", "language_config", "thinker_config"}

// dtypeKeys are the names of the dtype of the unquantised weights.
var dtypeKeys = []string{"dtype", "torch_dtype"}

// expertKeys are the names of the number of routed experts: Mixtral, GPT-OSS and transformers 5; Qwen, Kimi-Linear; DeepSeek, GLM;
// their imitators; Ernie, Step. They are synonyms: a model that gives two gives the same number.
var expertKeys = []string{"num_local_experts", "num_experts", "n_routed_experts", "num_routed_experts", "moe_num_experts"}

// readConfigs reads config.json and what there is about the quantisation.
func (d *discoverer) readConfigs(ctx context.Context) error {
	if d.gguf {
		return d.readGGUF(ctx)
	}
	d.ck.Config = &ModelConfig{}
	doc, err := d.readObject(configName)
	if err != nil {
		return err
	}
	var r configReader
	if doc != nil {
		r = d.configReader(doc)
		d.ck.Config = r.config()
	}
	return d.readQuant(r.outsideIn())
}

// readObject reads a config file. It is nil when the file is absent, or wrong: then a Fault says so.
func (d *discoverer) readObject(name string) (*Object, error) {
	if !d.has(name) {
		return nil, nil
	}
	data, err := d.trust.read(d.at(name), maxConfig)
	if err != nil {
		return nil, d.fileFault(stages.CodeConfig, name, err)
	}
	o, err := parseObject(name, data)
	if err != nil {
		d.fault(syntaxFault(name, data, err))
		return nil, nil
	}
	return o, nil
}

// syntaxFault says where a config file is not the JSON that it must be.
func syntaxFault(file string, data []byte, err error) stages.Fault {
	f := stages.Fault{
		Code: stages.CodeConfig, File: file, Problem: "is not valid JSON: " + err.Error(), Advice: "correct the file, or download it again",
	}
	se, ok := errors.AsType[*jsontext.SyntacticError](err)
	if !ok {
		return f
	}
	f.Problem = fmt.Sprintf("is not valid JSON: %v at byte %d", se.Err, se.ByteOffset)
	if errors.Is(err, jsontext.ErrDuplicateName) {
		f.Problem = fmt.Sprintf("has the name %q twice, the second time at byte %d", se.JSONPointer.LastToken(), se.ByteOffset)
	}
	rest := data[min(se.ByteOffset, int64(len(data))):]
	for _, word := range []string{"NaN", "Infinity", "-Infinity"} {
		if bytes.HasPrefix(rest, []byte(word)) {
			f.Advice = "Python wrote " + word + ", which is not JSON: put null in its place"
		}
	}
	return f
}

// configReader takes values out of config.json and collects the Faults.
type configReader struct {
	*discoverer
	doc  *Object
	text []*Object // sections about the language model, the document itself last
}

func (d *discoverer) configReader(doc *Object) configReader {
	r := configReader{discoverer: d, doc: doc}
	for _, key := range textSections {
		if o := r.section(doc, key); o != nil {
			// Some wrappers wrap twice.
			if inner := r.section(o, textSections[0]); inner != nil {
				r.text = append(r.text, inner)
			}
			r.text = append(r.text, o)
		}
	}
	r.text = append(r.text, doc)
	return r
}

// config is what all the sections say.
func (r *configReader) config() *ModelConfig {
	c := &ModelConfig{Present: true, Doc: r.doc}
	c.ModelType = r.str(r.doc, "model_type")
	c.TextModelType = r.textModelType()
	c.Architectures = r.strs(r.doc, "architectures")
	c.DType = strings.TrimPrefix(r.dtype(), "torch.")
	c.TieWordEmbeddings = r.tied()
	c.NumLayers = int(r.number(maxCount, "num_hidden_layers", "num_layers", "n_layers", "n_layer"))
	c.NumExperts = int(r.experts())
	c.HiddenSize = r.number(maxSize, "hidden_size", "n_embd", "d_model")
	c.IntermediateSize = r.number(maxSize, "intermediate_size", "ffn_hidden_size", "n_inner", "d_ff")
	c.MoEIntermediateSize = r.number(maxSize, "moe_intermediate_size", "expert_ffn_hidden_size")
	return c
}

// textModelType is the model_type of the innermost section that has one.
func (r *configReader) textModelType() string {
	for _, o := range r.text[:len(r.text)-1] {
		if s := r.str(o, "model_type"); s != "" {
			return s
		}
	}
	return ""
}

// check keeps a Fault, if there is one.
func (d *discoverer) check(f *stages.Fault) {
	if f != nil {
		d.fault(*f)
	}
}

func (r *configReader) section(o *Object, key string) *Object {
	s, _, f := o.Object(key)
	r.check(f)
	return s
}

func (r *configReader) str(o *Object, key string) string {
	s, _, f := o.Text(key)
	r.check(f)
	return s
}

func (r *configReader) strs(o *Object, key string) []string {
	s, _, f := o.Strings(key)
	r.check(f)
	return s
}

// outsideIn lists the sections, the document itself first: for values that a wrapper decides for all its parts.
func (r *configReader) outsideIn() []*Object {
	s := slices.Clone(r.text)
	slices.Reverse(s)
	return s
}

func (r *configReader) dtype() string {
	for _, o := range r.outsideIn() {
		for _, key := range dtypeKeys {
			if s := r.str(o, key); s != "" {
				return s
			}
		}
	}
	return ""
}

func (r *configReader) tied() bool {
	for _, o := range r.outsideIn() {
		v, ok, f := o.Bool("tie_word_embeddings")
		r.check(f)
		if ok {
			return v
		}
	}
	return false
}

// number is the first of the keys that is there, in the innermost section that has one. The keys are not synonyms in every family:
// LongCat has num_layers and twice as many num_hidden_layers; so the first wins.
func (r *configReader) number(most int64, keys ...string) int64 {
	for _, o := range r.text {
		for _, key := range keys {
			if n := r.uniform(o, key, most); n > 0 {
				return n
			}
		}
	}
	return 0
}

// experts is the number of routed experts. Two keys that differ would make the check for missing experts a guess.
func (r *configReader) experts() int64 {
	for _, o := range r.text {
		var n int64
		var from string
		for _, key := range expertKeys {
			switch v := r.uniform(o, key, maxCount); {
			case v == 0 || v == n:
			case n == 0:
				n, from = v, key
			default:
				r.check(o.contradiction(from, key))
			}
		}
		if n > 0 {
			return n
		}
	}
	return 0
}

// uniform is a number, or a list of one number a layer when all are the same. 0 when it is absent, wrong, or differs between layers.
func (r *configReader) uniform(o *Object, key string, most int64) int64 {
	v, ok := o.Value(key)
	if !ok {
		return 0
	}
	ns := make([]int64, 1)
	var err error
	if v.Kind() == '[' {
		var f *stages.Fault
		ns, _, f = o.Ints(key)
		if f != nil {
			r.fault(*f)
			return 0
		}
	} else if ns[0], err = decode[int64](v); err != nil {
		r.fault(*o.Wrong(key, "a whole number"))
		return 0
	}
	if len(ns) == 0 {
		return 0
	}
	if slices.Min(ns) < 0 || slices.Max(ns) > most {
		r.fault(*o.Wrong(key, fmt.Sprintf("a whole number from 0 to %d", most)))
		return 0
	}
	if slices.Min(ns) != slices.Max(ns) {
		r.note("%s: %s differs between layers: it is not used", o.file, o.at(key))
		return 0
	}
	return ns[0]
}
