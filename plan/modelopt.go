package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/discover"
)

// modelOpt is the method of NVIDIA's ModelOpt: an algorithm for the whole checkpoint, or with MIXED_PRECISION one for every Module by name. Source:
// LAYOUTS A6.
//
// An algorithm is a modelOptAlgorithm in its own file and one line in modelOptAlgorithms. Its Reader is not told which Modules it has: a Reader
// whose first part other algorithms have too, or dense layers, is a Picker that looks at the dtypes.
type modelOpt struct{}

// modelOptAlgorithm is one way in which Modules are stored.
type modelOptAlgorithm struct {
	name string // its quant_algo
	// open reads what the config, or the entry of one Module, says beside the name. What is wrong goes to c. Modules whose entries say the
	// same get one Reader.
	open func(c *ConfigReader) Reader
}

// modelOptAlgorithms are those that are processed. A new one adds its file and a line here.
var modelOptAlgorithms = []modelOptAlgorithm{modelOptFP8, modelOptNVFP4, modelOptWeightOnly}

// modelOptMixed is the quant_algo of a checkpoint that has several; the key quantized_layers says which.
const (
	modelOptMixed  = "MIXED_PRECISION"
	modelOptLayers = "quantized_layers"
)

// The keys that say how weights are stored, of the whole config and of an entry of quantized_layers; and those that are about the cache, the writer,
// or say in the words of compressed-tensors what quant_algo says.
var (
	modelOptLayerKeys = []string{"quant_algo", "group_size"}
	modelOptKeys      = append([]string{"quant_method", "method", modelOptLayers, "exclude_modules", "ignore", "modules_to_not_convert"}, modelOptLayerKeys...)
	modelOptOverKeys  = []string{
		"producer", "version", "kv_cache_quant_algo", "kv_cache_scheme", "config_groups", "targets", "weights", "input_activations", "output_activations",
		"quant_type", "quantization_status", "format", "activation_scheme",
	}
)

func (modelOpt) Name() string { return "modelopt" }

// Opens reports whether the config is one of ModelOpt's. Some name the kind too, which quant_algo says again.
func (modelOpt) Opens(q *discover.QuantConfig) bool {
	return slices.Contains([]string{"modelopt", "modelopt_fp4", "modelopt_mixed"}, q.Method)
}

// Marks says that a tensor of this name gives ModelOpt away: the second scale of NVFP4.
func (modelOpt) Marks(name string) bool { return strings.HasSuffix(name, ".weight_scale_2") }

// Kinds names the algorithms, for messages.
func (modelOpt) Kinds() []string {
	var names []string
	for _, a := range modelOptAlgorithms {
		names = append(names, "modelopt "+a.name)
	}
	return append(names, "modelopt "+modelOptMixed)
}

func (modelOpt) Open(q *discover.QuantConfig) (Reader, []stages.Fault) {
	c := NewConfigReader(q.Object, q.Where)
	c.only(modelOptKeys, modelOptOverKeys...)
	c.Need("quant_algo")
	left := readGlobs(c, "exclude_modules", "ignore", "modules_to_not_convert")
	if modelOptAlgo(c) == modelOptMixed {
		return modelOptReadLayers(c, left)
	}
	r := modelOptOpen(c)
	if len(c.Faults()) > 0 {
		return nil, c.Faults()
	}
	return without(r, c.where, left...), nil
}

// modelOptAlgo is the algorithm that c names. Engines do not mind the case, and some writers use the other.
func modelOptAlgo(c *ConfigReader) string { return strings.ToUpper(c.Text("", "quant_algo")) }

// modelOptOpen opens the algorithm that c names; nil, and a fault, for one that is not processed.
func modelOptOpen(c *ConfigReader) Reader {
	name := modelOptAlgo(c)
	var known []string
	for _, a := range modelOptAlgorithms {
		if a.name == name {
			return a.open(c)
		}
		known = append(known, a.name)
	}
	if len(c.faults) == 0 {
		c.Unsupported("quant_algo", name, strings.Join(known, ", "))
	}
	return nil
}

// modelOptReadLayers opens the algorithms of the Modules of a checkpoint of several: a Reader for all Modules whose entries say the same.
func modelOptReadLayers(c *ConfigReader, left []exclusion) (Reader, []stages.Fault) {
	c.Need(modelOptLayers)
	layers, ok := c.object(modelOptLayers)
	if !ok {
		return nil, c.Faults()
	}
	var readers []*scoped
	of := map[string]int{} // by Module: index into readers
	said := map[string]int{}
	for _, m := range layers.Members() {
		entry, f := layers.Nested(m)
		if f != nil {
			return nil, append(c.Faults(), *f)
		}
		text := string(entry.Raw())
		i, again := said[text]
		if !again {
			sub := NewConfigReader(entry, fmt.Sprintf("%s: %s: %q", c.where, modelOptLayers, m.Key))
			sub.only(modelOptLayerKeys)
			sub.Need("quant_algo")
			i = len(readers)
			said[text] = i
			readers = append(readers, &scoped{Reader: modelOptOpen(sub), covers: exclude(modelOptScope(c.where, of, i), c.where, left)})
			c.faults = append(c.faults, sub.Faults()...)
		}
		of[m.Key] = i
	}
	if len(readers) == 0 {
		c.Unknown(modelOptLayers, "no module", "at least one")
	}
	if len(c.Faults()) > 0 {
		return nil, c.Faults()
	}
	return mix(readers), nil
}

// modelOptScope covers the Modules of one Reader.
func modelOptScope(where string, of map[string]int, reader int) scope {
	return func(base string) (mine bool, problem string) {
		i, ok := of[base]
		if !ok {
			return false, where + ": `" + modelOptLayers + "` does not list it"
		}
		return i == reader, ""
	}
}
