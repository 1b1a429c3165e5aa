package plan

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/discover"
)

// compressed is the method of compressed-tensors (llm-compressor): a config of groups, each with Modules of a format of its own. What all of
// its formats share is here: which groups there are, which Modules each has, and what is refused of any.
//
// A format is a compressedFormat in its own file and one line in compressedFormats. Its open reads what the config says of the weights of one
// group, and returns the Reader of the Modules of that group alone. Such a Reader does not look at targets and ignore. It is a Picker only if
// its first part is no sure sign of a quantised Module; that the group is the format's decides between formats whose tensors have the
// same names, and its Module must still prove the dtypes and shapes.
type compressed struct{}

// compressedFormat is one of the ways in which a group's Modules are stored.
type compressedFormat struct {
	names []string // what `format` calls it; the first in messages
	// open reads a group and returns the Reader of its Modules. What is wrong goes to the group's ConfigReaders.
	open func(g *compressedGroup) Reader
	// evident says that the tensors alone tell which Modules are quantised: then the only group of a checkpoint has all of them, whatever its targets
	// and ignore list.
	evident bool
	// marks reports whether a tensor gives the format away, when no config says anything.
	marks func(c Catalog, i int) bool
}

// compressedFormats are those that are processed. A new one adds its file and a line here.
var compressedFormats = []compressedFormat{packQuantized, floatQuantized, intQuantized, mxfp4Quantized, nvfp4PackQuantized}

// compressedMethod is what configs call compressed-tensors.
const compressedMethod = "compressed-tensors"

func (compressed) Name() string { return compressedMethod }

// Kinds names the formats, for messages.
func (compressed) Kinds() []string {
	var names []string
	for _, f := range compressedFormats {
		names = append(names, compressedMethod+" "+f.names[0])
	}
	return names
}

// MarksTensor says that a tensor gives the method away.
func (compressed) MarksTensor(c Catalog, i int) bool {
	return slices.ContainsFunc(compressedFormats, func(f compressedFormat) bool { return f.marks != nil && f.marks(c, i) })
}

// compressedGroup is one entry of config_groups.
type compressedGroup struct {
	*ConfigReader               // of the entry: what is wrong with it
	weights       *ConfigReader // of what it says of the weights; all its keys are known
	format        compressedFormat
	targets       compressedTargets
}

// weightsOnly refuses quantised activations.
func (g *compressedGroup) weightsOnly() {
	if g.Has("input_activations") {
		g.Unsupported("input_activations", "quantised", "weights only")
	}
}

// compressedConfig is the config of one checkpoint.
type compressedConfig struct {
	where  string
	ignore compressedTargets
	groups []*compressedGroup
	// last is what groupOf found last: a Module's tensors are asked about one after the other, and by every Reader.
	last struct {
		base    string
		group   *compressedGroup
		problem string
	}
}

// compressedTargets are entries of `targets` or `ignore`: names of modules, patterns of names, and classes of modules.
type compressedTargets struct {
	names    map[string]bool
	patterns alike
	class    bool // one of the names is that of a class: it has no dot
}

// The keys that are understood. Those of the last two lists are, where nothing else is said, about how the codes were found.
var (
	compressedKeys = []string{
		"config_groups", "format", "ignore", "quant_method", "method", "quantization_status", "version",
		"kv_cache_scheme", "global_compression_ratio", "sparsity_config", "transform_config", "moe_sparsity_config",
	}
	compressedGroupKeys  = []string{"targets", "weights", "format", "input_activations", "output_activations"}
	compressedWeightKeys = []string{
		"num_bits", "type", "symmetric", "strategy", "group_size", "actorder", "dynamic", "block_structure",
		"observer", "observer_kwargs", "scale_dtype", "zp_dtype",
	}
)

// Open interprets the config of one checkpoint: a Reader for every group.
func (compressed) Open(q *discover.QuantConfig) (Reader, []stages.Fault) {
	c := NewConfigReader(q.Object, q.Where)
	config := &compressedConfig{where: q.Where}
	c.only(compressedKeys)
	switch status := c.Text("compressed", "quantization_status"); status {
	case "compressed", "frozen": // what older writers say of compressed weights
	default:
		c.Unsupported("quantization_status", status, "compressed")
	}
	for _, key := range []string{"sparsity_config", "transform_config", "moe_sparsity_config"} {
		compressedNothing(c, key)
	}
	config.ignore = compressedReadTargets(c, "ignore")
	c.Need("config_groups")
	readers := config.readGroups(c)
	if len(readers) == 0 || len(c.Faults()) > 0 {
		return nil, c.Faults()
	}
	return mix(readers), nil
}

// readGroups reads config_groups, and opens the format of each.
func (config *compressedConfig) readGroups(c *ConfigReader) (readers []*scoped) {
	groups, ok := c.object("config_groups")
	if !ok {
		return nil
	}
	format := c.Text("", "format")
	for _, m := range groups.Members() {
		g, faults := compressedReadGroup(c, groups, m, format)
		if len(faults) == 0 {
			readers = append(readers, &scoped{Reader: g.format.open(g), covers: config.scope(g)})
			faults = slices.Concat(g.Faults(), g.weights.Faults())
			config.groups = append(config.groups, g)
		}
		c.faults = append(c.faults, faults...)
	}
	if len(groups.Members()) == 0 {
		c.Unknown("config_groups", "no group", "at least one")
	}
	return readers
}

// compressedNothing refuses what changes the meaning of the weights: sparsity and transforms. An empty object, and the format dense, say
// that there are none.
func compressedNothing(c *ConfigReader, key string) {
	o, ok := c.object(key)
	if !ok || len(o.Members()) == 0 {
		return
	}
	if format, _, f := o.Text("format"); f == nil && format == "dense" {
		return
	}
	c.Unsupported(key, string(o.Raw()), "checkpoints without it")
}

// compressedReadGroup reads what all formats share of one entry of config_groups; format is the whole checkpoint's, which the entry's own goes
// before.
func compressedReadGroup(c *ConfigReader, groups *discover.Object, m discover.Member, format string) (*compressedGroup, []stages.Fault) {
	o, f := groups.Nested(m)
	if f != nil {
		return nil, []stages.Fault{*f}
	}
	g := &compressedGroup{ConfigReader: c.nested(o, fmt.Sprintf("%s: config_groups: %q", c.where, m.Key))}
	g.only(compressedGroupKeys)
	if g.Has("output_activations") {
		g.Unsupported("output_activations", "quantised", "weights and input activations")
	}
	format = g.Text(format, "format")
	var known []string
	for _, f := range compressedFormats {
		known = append(known, f.names...)
		if slices.Contains(f.names, format) {
			g.format = f
		}
	}
	if g.format.open == nil {
		g.Unsupported("format", format, strings.Join(known, ", "))
	}
	g.Need("targets")
	g.targets = compressedReadTargets(g.ConfigReader, "targets")
	g.Need("weights")
	if weights, ok := g.object("weights"); ok {
		g.weights = NewConfigReader(weights, g.where)
		g.weights.only(compressedWeightKeys)
		g.faults = append(g.faults, g.weights.Faults()...)
		g.weights.faults = nil
	}
	return g, g.Faults()
}

// describeWeights says what the weights of a group are quantised to, for messages.
func describeWeights(bits int64, kind string) string {
	return fmt.Sprintf("of %d bits, type %q,", bits, kind)
}

// compressedReadTargets reads a list of names, patterns and classes.
func compressedReadTargets(c *ConfigReader, key string) (t compressedTargets) {
	list, _, f := c.o.Strings(key)
	if f != nil {
		c.faults = append(c.faults, *f)
	}
	t.names = map[string]bool{}
	var patterns []*regexp.Regexp
	for _, entry := range list {
		pattern, isPattern := strings.CutPrefix(entry, "re:")
		switch {
		case !isPattern:
			t.names[entry] = true
			t.class = t.class || !strings.Contains(entry, ".")
		default:
			if re, ok := c.pattern(key, entry, pattern); ok {
				patterns = append(patterns, re)
			}
		}
	}
	t.patterns = newAlike(patterns)
	return t
}

// matches reports whether the entries name a module, or have a pattern that its name begins with.
func (t *compressedTargets) matches(base string) bool {
	return t.names[base] || t.patterns.match(base)
}

// scope covers the Modules of one group.
func (config *compressedConfig) scope(g *compressedGroup) scope {
	return func(base string) (mine bool, problem string) {
		if g.format.evident && len(config.groups) == 1 {
			return true, ""
		}
		of, problem := config.groupOf(base)
		return of == g, problem
	}
}

// groupOf is the config group of a Module: the first that names it, else the first with a pattern for it, else the first for its class,
// as its own tools and the engines have it. What is stored quantised is a linear layer, and a group that has to do with other classes only is
// taken when it is the only one, as tensors do not tell their class. problem says why the Module has none.
func (config *compressedConfig) groupOf(base string) (g *compressedGroup, problem string) {
	if last := &config.last; last.base != base || last.group == nil && last.problem == "" {
		last.base = base
		last.group, last.problem = config.find(base)
	}
	return config.last.group, config.last.problem
}

func (config *compressedConfig) find(base string) (g *compressedGroup, problem string) {
	if config.ignore.matches(base) {
		return nil, config.where + ": `ignore` says that it is not quantised"
	}
	for _, fits := range []func(*compressedTargets) bool{
		func(t *compressedTargets) bool { return t.names[base] },
		func(t *compressedTargets) bool { return t.matches(base) },
		func(t *compressedTargets) bool { return t.names["Linear"] },
		func(t *compressedTargets) bool { return len(config.groups) == 1 && t.class },
	} {
		for _, g := range config.groups {
			if fits(&g.targets) {
				return g, ""
			}
		}
	}
	return nil, config.where + ": no group of config_groups has it among its targets"
}
