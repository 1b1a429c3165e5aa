package plan

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/discover"
)

// compressedGroup is one entry of config_groups.
type compressedGroup struct {
	where   string // the entry, for messages
	targets compressedTargets
	params  compressedParams
}

// compressedTargets are entries of `targets` or `ignore`: names of modules, patterns of names, and classes of modules.
type compressedTargets struct {
	names    map[string]bool
	patterns []*regexp.Regexp
	class    bool // one of the names is that of a class: it has no dot
}

// compressedMethod is what configs call compressed-tensors. It has many formats; packQuantized is that of integer codes.
const (
	compressedMethod = "compressed-tensors"
	packQuantized    = "pack-quantized"
)

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

// compressedOpen interprets the config of one checkpoint.
func compressedOpen(q *discover.QuantConfig) (*compressedReader, []stages.Fault) {
	c := NewConfigReader(q.Object, q.Where)
	r := &compressedReader{where: q.Where}
	c.only(compressedKeys)
	switch status := c.Text("compressed", "quantization_status"); status {
	case "compressed", "frozen": // what older writers say of compressed weights
	default:
		c.Unsupported("quantization_status", status, "compressed")
	}
	for _, key := range []string{"sparsity_config", "transform_config", "moe_sparsity_config"} {
		compressedNothing(c, key)
	}
	r.ignore = compressedReadTargets(c, "ignore")
	c.Need("config_groups")
	groups, _ := c.object("config_groups")
	if groups == nil {
		return r, c.Faults()
	}
	format := c.Text("", "format")
	for _, m := range groups.Members() {
		if g, ok := compressedReadGroup(c, groups, m.Key, format); ok {
			r.groups = append(r.groups, g)
		}
	}
	if len(r.groups) == 0 && len(c.Faults()) == 0 {
		c.Unknown("config_groups", "no group", "at least one")
	}
	return r, c.Faults()
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

// compressedReadGroup reads one entry of config_groups; format is the whole checkpoint's, which the entry's own goes before.
func compressedReadGroup(c *ConfigReader, groups *discover.Object, key, format string) (g compressedGroup, ok bool) {
	o, _, f := groups.Object(key)
	if f == nil && o == nil {
		f = groups.Wrong(key, "an object")
	}
	if f != nil {
		c.faults = append(c.faults, *f)
		return g, false
	}
	g.where = fmt.Sprintf("%s: config_groups: %q", c.where, key)
	sub := NewConfigReader(o, g.where)
	sub.only(compressedGroupKeys)
	if own := sub.Text(format, "format"); own != packQuantized {
		sub.Unsupported("format", own, packQuantized)
	}
	for _, key := range []string{"input_activations", "output_activations"} {
		if sub.Has(key) {
			sub.Unsupported(key, "quantised", "weights only")
		}
	}
	sub.Need("targets")
	g.targets = compressedReadTargets(sub, "targets")
	sub.Need("weights")
	if weights, ok := sub.object("weights"); ok {
		w := NewConfigReader(weights, g.where)
		g.params = compressedReadWeights(w)
		sub.faults = append(sub.faults, w.faults...)
	}
	c.faults = append(c.faults, sub.faults...)
	return g, len(sub.faults) == 0
}

// compressedReadWeights reads what the weights of a group are quantised to.
func compressedReadWeights(c *ConfigReader) compressedParams {
	c.only(compressedWeightKeys)
	c.Need("num_bits")
	p := compressedParams{bits: c.Int(0, "num_bits"), sym: c.Bool(true, "symmetric"), group: -1}
	if c.Has("num_bits") && p.bits != 4 && p.bits != 8 {
		c.Unsupported("num_bits", p.bits, "4 and 8")
	}
	if kind := c.Text("int", "type"); kind != "int" {
		c.Unsupported("type", kind, "int")
	}
	if c.Has("dynamic") && c.Bool(true, "dynamic") {
		c.Unsupported("dynamic", true, "weights that were quantised once")
	}
	if c.Has("block_structure") {
		c.Unsupported("block_structure", "of weights", "groups and channels")
	}
	size := c.Int(-1, "group_size")
	otherwise := "tensor"
	if size > 0 {
		otherwise = "group"
	}
	switch strategy := c.Text(otherwise, "strategy"); strategy {
	case "group":
		c.Need("group_size")
		if p.group = size; size != -1 && (size <= 0 || size > mostGroup) {
			c.Unknown("group_size", size, fmt.Sprintf("-1 or a positive number up to %d", mostGroup))
		}
	case "channel":
		if size != -1 {
			c.Unknown("group_size", size, "none with strategy channel")
		}
	case "tensor", "tensor_group", "block", "attn_head", "token":
		c.Unsupported("strategy", strategy, "group and channel")
	default:
		c.Unknown("strategy", strategy, "group or channel")
	}
	p.actOrder = compressedActOrder(c)
	return p
}

// compressedActOrder tells whether the groups are of scattered input features. With weight or static, activation ordering decided only
// about rounding: the weights lie in their own order.
func compressedActOrder(c *ConfigReader) bool {
	if v, ok := c.o.Value("actorder"); ok && (v.Kind() == 't' || v.Kind() == 'f') { // as older writers have it
		return c.Bool(false, "actorder")
	}
	switch order := c.Text("static", "actorder"); order {
	case "group", "dynamic":
		return true
	case "weight", "static":
	default:
		c.Unknown("actorder", order, "group or dynamic, weight or static")
	}
	return false
}

// compressedReadTargets reads a list of names, patterns and classes.
func compressedReadTargets(c *ConfigReader, key string) (t compressedTargets) {
	list, _, f := c.o.Strings(key)
	if f != nil {
		c.faults = append(c.faults, *f)
	}
	t.names = map[string]bool{}
	for _, entry := range list {
		pattern, isPattern := strings.CutPrefix(entry, "re:")
		switch {
		case !isPattern:
			t.names[entry] = true
			t.class = t.class || !strings.Contains(entry, ".")
		default:
			re, err := pyRegexp(pattern)
			if err != nil {
				c.add(stages.CodeConfig, fmt.Sprintf("`%s`: the pattern %q cannot be used: %v", key, entry, err),
					"a regular expression without look-around and back-references", "", "rewrite the pattern")
				continue
			}
			t.patterns = append(t.patterns, re)
		}
	}
	return t
}

// matches reports whether the entries name a module, or have a pattern that its name begins with.
func (t *compressedTargets) matches(base string) bool {
	return t.names[base] || slices.ContainsFunc(t.patterns, func(re *regexp.Regexp) bool { return re.MatchString(base) })
}

// groupOf is the config group of a Module: the first that names it, else the first with a pattern for it, else the first for its class,
// as its own tools and the engines have it. What is stored packed is a linear layer, and a group that has to do with other classes only is
// taken when it is the only one, as tensors do not tell their class. problem says why the Module has none.
func (r *compressedReader) groupOf(base string) (g *compressedGroup, problem string) {
	if r.ignore.matches(base) {
		return nil, r.where + ": `ignore` says that it is not quantised"
	}
	for _, fits := range []func(*compressedTargets) bool{
		func(t *compressedTargets) bool { return t.names[base] },
		func(t *compressedTargets) bool { return t.matches(base) },
		func(t *compressedTargets) bool { return t.names["Linear"] },
		func(t *compressedTargets) bool { return len(r.groups) == 1 && t.class },
	} {
		for i := range r.groups {
			if fits(&r.groups[i].targets) {
				return &r.groups[i], ""
			}
		}
	}
	return nil, r.where + ": no group of config_groups has it among its targets"
}
