package plan

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/discover"
)

// The keys of GPTQ that say how weights are stored, and those of its writers (AutoGPTQ, optimum and transformers; what others share is in config.go)
// that are about finding the codes and about kernels.
var (
	gptqParamKeys = []string{
		"bits", "w_bit", "wbits", "group_size", "q_group_size", "desc_act", "sym", "zero_point", "checkpoint_format", "format", "pack_dtype",
		"quant_method", "method", "is_marlin_format", "data_type",
	}
	gptqKeys     = append([]string{"dynamic", "backend"}, gptqParamKeys...)
	gptqOverKeys = slices.Concat(gptqModelKeys, autoRoundKeys, []string{
		"model_name_or_path", "model_file_base_name", "model_basename", "quantizer", "percdamp", "tokenizer", "dataset", "model_seqlen", "block_size",
		"module_name_preceding_first_block", "modules_in_block_to_quantize", "modules_to_not_convert", "pad_token_id", "cache_block_outputs", "max_input_length",
		"use_exllama", "disable_exllama", "exllama_config", "use_cuda_fp16", "cache_examples_on_gpu",
	})
)

// gptqOpen interprets the config of one checkpoint.
func gptqOpen(q *discover.QuantConfig) (*gptqReader, []stages.Fault) {
	c := NewConfigReader(q.Object, q.Where)
	r := &gptqReader{where: q.Where}
	if backend := strings.ToLower(c.Text("", "backend")); strings.Contains(backend, "awq") {
		c.Unknown("backend", backend, "one that reads GPTQ: this one marks AWQ")
	}
	c.Need("bits", "w_bit", "wbits")
	c.Need("group_size", "q_group_size")
	r.base = gptqReadParams(c, gptqParams{sym: true})
	storage := gptqStorage(c)
	r.v2, r.planar = storage != "gptq", storage == "gptq_p"
	r.wraps = gptqWraps(q)
	r.dynamic = gptqDynamic(c, q, r.base)
	for _, p := range append([]gptqOverride{{params: r.base}}, r.dynamic...) {
		if !r.planar && p.params.bits > 4 && p.params.bits < 8 {
			c.Unknown("bits", p.params.bits, "2, 3, 4 or 8 (5 to 7 only in checkpoint_format gptq_p)")
		}
	}
	c.only(gptqKeys, gptqOverKeys...)
	return r, c.Faults()
}

// mostGroup bounds what counts as a group size: no layer has as many input features.
const mostGroup = 1 << 30

// gptqReadParams reads what a Module is quantised to; what is not said is as in otherwise.
func gptqReadParams(c *ConfigReader, otherwise gptqParams) gptqParams {
	p := gptqParams{
		bits:    c.Int(otherwise.bits, "bits", "w_bit", "wbits"),
		group:   c.Int(otherwise.group, "group_size", "q_group_size"),
		descAct: c.Bool(otherwise.descAct, "desc_act"),
		sym:     c.Bool(otherwise.sym, "sym"),
	}
	if zeros := c.Bool(!p.sym, "zero_point"); zeros == p.sym {
		c.Unknown("zero_point", zeros, fmt.Sprintf("%v, as `sym` is %v", !p.sym, p.sym))
	}
	c.ofIntegers()
	if len(c.Faults()) > 0 {
		return p
	}
	switch p.bits {
	case 2, 3, 4, 8:
	case 5, 6, 7: // of planar packing only: see gptqOpen
	default:
		c.Unknown("bits", p.bits, "2, 3, 4 or 8")
	}
	if p.group != -1 && (p.group <= 0 || p.group > mostGroup) {
		c.Unknown("group_size", p.group, fmt.Sprintf("-1 or a positive number up to %d", mostGroup))
	}
	return p
}

// gptqStorage is the checkpoint_format, refused when it is one that is not processed.
func gptqStorage(c *ConfigReader) string {
	format := c.Text("gptq", "checkpoint_format", "format")
	if c.Bool(false, "is_marlin_format") {
		format = "marlin"
	}
	switch format {
	case "gptq", "gptq_v2", "gptq_p":
	case "marlin":
		c.Unsupported("checkpoint_format", format, "gptq, gptq_v2 and gptq_p")
	default:
		c.Unknown("checkpoint_format", format, "gptq, gptq_v2 or gptq_p")
	}
	if pack := c.Text("int32", "pack_dtype"); strings.TrimPrefix(pack, "torch.") != "int32" {
		c.Unknown("pack_dtype", pack, "int32")
	}
	return format
}

// gptqSameStorage refuses an override that says that its Modules are stored in another way: how codes lie is one thing for the checkpoint.
func gptqSameStorage(c, override *ConfigReader) {
	for _, s := range []struct {
		keys      []string
		otherwise string
	}{
		{[]string{"checkpoint_format", "format"}, "gptq"},
		{[]string{"pack_dtype"}, "int32"},
		{[]string{"quant_method", "method"}, "gptq"},
	} {
		whole := strings.TrimPrefix(c.Text(s.otherwise, s.keys...), "torch.")
		if own := strings.TrimPrefix(override.Text(whole, s.keys...), "torch."); own != whole {
			override.Unsupported(s.keys[0], own, whole+", as the whole checkpoint has it")
		}
	}
	if own := override.Bool(false, "is_marlin_format"); own {
		override.Unsupported("is_marlin_format", own, "false")
	}
}

// gptqOverride is one entry of `dynamic`: what is different for the Modules whose name matches.
type gptqOverride struct {
	re       *regexp.Regexp
	where    string // the entry, for messages
	negative bool   // they are not quantised
	params   gptqParams
}

// gptqDynamic reads `dynamic`: an object from a pattern to overrides. "-:" before the pattern means not quantised, "+:" or nothing means
// that the overrides apply. The patterns match from the start of the name, as Python's re.match does.
func gptqDynamic(c *ConfigReader, q *discover.QuantConfig, base gptqParams) []gptqOverride {
	if !c.Has("dynamic") {
		return nil
	}
	dynamic, ok, f := q.Object.Object("dynamic")
	if f != nil {
		c.faults = append(c.faults, *f)
	}
	if !ok || f != nil {
		return nil
	}
	var list []gptqOverride
	for _, m := range dynamic.Members() {
		if o, ok := gptqReadOverride(c, dynamic, m, base); ok {
			list = append(list, o)
		}
	}
	return list
}

func gptqReadOverride(c *ConfigReader, dynamic *discover.Object, m discover.Member, base gptqParams) (gptqOverride, bool) {
	pattern, negative := strings.CutPrefix(m.Key, "-:")
	if !negative {
		pattern = strings.TrimPrefix(pattern, "+:")
	}
	re, ok := c.pattern("dynamic", m.Key, pattern)
	if !ok {
		return gptqOverride{}, false
	}
	o := gptqOverride{re: re, where: fmt.Sprintf("%s: dynamic: %q", c.where, m.Key), negative: negative, params: base}
	if negative {
		return o, true
	}
	values, f := dynamic.Nested(m)
	if f != nil {
		c.add(stages.CodeConfig, fmt.Sprintf("`dynamic`: %q is no object", m.Key), "an object of overrides", string(m.Value), "")
		return o, false
	}
	sub := c.nested(values, o.where)
	o.params = gptqReadParams(sub, base)
	gptqSameStorage(c, sub)
	sub.only(gptqParamKeys, gptqOverKeys...)
	c.faults = append(c.faults, sub.faults...)
	return o, true
}

// gptqWraps reports whether the writer is GPTQModel from 0.9 on: it stores zero points by one whole-word subtraction, so one whole-word
// add gives them back even where a field wrapped.
func gptqWraps(q *discover.QuantConfig) bool {
	meta, ok, f := q.Object.Object("meta")
	if f != nil || !ok {
		return false
	}
	writers, ok, f := meta.Strings("quantizer")
	if f != nil || !ok {
		one, _, _ := meta.Text("quantizer")
		writers = []string{one}
	}
	for _, w := range writers {
		name, version, _ := strings.Cut(w, ":")
		major, rest, _ := strings.Cut(version, ".")
		minor, _, _ := strings.Cut(rest, ".")
		ma, err1 := strconv.Atoi(major)
		mi, err2 := strconv.Atoi(minor)
		if strings.EqualFold(name, "gptqmodel") && err1 == nil && err2 == nil && (ma > 0 || mi >= 9) {
			return true
		}
	}
	return false
}
