package plan

import (
	"bytes"
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/discover"
)

// ConfigReader takes values out of a quantisation config and collects what is wrong with them, so that a Format states its keys and
// nothing else.
type ConfigReader struct {
	o        *discover.Object
	where    string
	faults   []stages.Fault
	patterns *patterns // of the whole config
}

// NewConfigReader reads o, which where names in messages.
func NewConfigReader(o *discover.Object, where string) *ConfigReader {
	return &ConfigReader{o: o, where: where, patterns: &patterns{}}
}

// nested reads an object of the same config.
func (r *ConfigReader) nested(o *discover.Object, where string) *ConfigReader {
	return &ConfigReader{o: o, where: where, patterns: r.patterns}
}

// Faults are those found so far.
func (r *ConfigReader) Faults() []stages.Fault { return r.faults }

// Has reports whether a key is there and not null.
func (r *ConfigReader) Has(key string) bool {
	_, ok := r.o.Value(key)
	return ok
}

func value[T any](r *ConfigReader, otherwise T, get func(...string) (T, bool, *stages.Fault), keys []string) T {
	v, ok, f := get(keys...)
	if f != nil {
		r.faults = append(r.faults, *f)
	}
	if !ok || f != nil {
		return otherwise
	}
	return v
}

// Int is the value of the first of the keys, or otherwise.
func (r *ConfigReader) Int(otherwise int64, keys ...string) int64 {
	return value(r, otherwise, r.o.Int, keys)
}

// Bool is the value of the first of the keys, or otherwise.
func (r *ConfigReader) Bool(otherwise bool, keys ...string) bool {
	return value(r, otherwise, r.o.Bool, keys)
}

// Text is the value of the first of the keys, or otherwise.
func (r *ConfigReader) Text(otherwise string, keys ...string) string {
	return value(r, otherwise, r.o.Text, keys)
}

// object is a nested object; false when it is absent or at fault.
func (r *ConfigReader) object(key string) (*discover.Object, bool) {
	o, ok, f := r.o.Object(key)
	if f != nil {
		r.faults = append(r.faults, *f)
	}
	return o, ok && f == nil
}

// pattern compiles one of the patterns that a key holds; entry is how the config writes it. ok is false when it cannot be used: a Fault says why,
// but for those after the one that was too much.
func (r *ConfigReader) pattern(key, entry, pattern string) (re *regexp.Regexp, ok bool) {
	if r.patterns.full() {
		return nil, false
	}
	re, err := r.patterns.compile(pattern)
	if err != nil {
		r.add(stages.CodeConfig, fmt.Sprintf("`%s`: the pattern %.80q cannot be used: %.200s", key, entry, err),
			"a name, or a regular expression without look-around and back-references", "", "rewrite the pattern")
	}
	return re, err == nil
}

// only refuses every key that says something and is known neither by its meaning nor as one that is read over: what it changes cannot be seen in the
// tensors. Null, false and what is empty say nothing.
func (r *ConfigReader) only(known []string, over ...string) {
	for _, m := range r.o.Members() {
		if slices.Contains(known, m.Key) || slices.Contains(over, m.Key) || saysNothing(m) {
			continue
		}
		r.add(stages.CodeUnsupported, fmt.Sprintf("%q is not known, so nobody can tell what it changes", m.Key),
			"one of "+strings.Join(known, ", "), m.Key, "use a version that knows it, or remove the key if it does not change how weights are stored")
	}
}

// saysNothing reports a value that is null, false or empty.
func saysNothing(m discover.Member) bool {
	switch m.Value.Kind() { //nolint:exhaustive // the others say something
	case 'n', 'f':
		return true
	case '"', '[', '{':
		return len(bytes.TrimSpace(m.Value[1:len(m.Value)-1])) == 0
	}
	return false
}

// Need reports that one of the keys must be there.
func (r *ConfigReader) Need(keys ...string) {
	if !slices.ContainsFunc(keys, r.Has) {
		r.add(stages.CodeConfig, fmt.Sprintf("%q is missing", keys[0]), "", "", "")
	}
}

// Unknown reports a value that means nothing.
func (r *ConfigReader) Unknown(key string, found any, expected string) {
	r.add(stages.CodeConfig, fmt.Sprintf("%q has an unknown value", key), expected, fmt.Sprint(found), "")
}

// Unsupported reports a value that is understood and not processed by this version.
func (r *ConfigReader) Unsupported(key string, found any, supported string) {
	r.add(stages.CodeUnsupported, fmt.Sprintf("%s %v is not supported yet, supported are %s", key, found, supported), "", "", "")
}

func (r *ConfigReader) add(code stages.Code, problem, expected, found, advice string) {
	if len(r.faults) > mostFaults { // one more than are told, so that it is seen that there are more
		return
	}
	r.faults = append(r.faults, stages.Fault{
		Code: code, File: r.where, Problem: problem, Expected: expected, Found: found, Advice: cmp.Or(advice, generalAdvice[code]),
	})
}

// autoRoundKeys are what AutoRound says in the configs of every method that it writes, about how it found the codes and about activations.
var autoRoundKeys = []string{
	"autoround_version", "provider", "packing_format", "iters", "lr", "minmax_lr", "lr_scheduler", "momentum", "nsamples", "seqlen", "batch_size",
	"gradient_accumulate_steps", "amp", "low_gpu_mem_usage", "low_cpu_mem_usage", "scale_dtype", "dataset", "model_dtype", "model_free", "enable_quanted_input",
	"enable_minmax_tuning", "enable_norm_bias_tuning", "enable_alg_ext", "enable_opt_rtn", "disable_opt_rtn", "not_use_best_mse", "dynamic_max_gap",
	"supported_types", "quant_block_list", "to_quant_block_names", "block_name_to_quantize", "quant_lm_head", "act_bits", "act_data_type",
	"act_group_size", "act_sym", "act_dynamic", "static_kv_dtype", "static_attention_dtype",
}

// gptqModelKeys are what GPTQModel may say in the configs of every method that it writes, at the top or in `meta`, about how it found the codes.
var gptqModelKeys = []string{
	"meta", "lm_head", "adapter", "device", "damp_percent", "damp_auto_increment", "static_groups", "true_sequential", "mse", "scale_search", "hyb_act",
	"act_group_aware", "gptaq", "foem", "v2", "v2_alpha", "v2_memory_device", "fallback", "failsafe", "smooth", "smoother", "hessian", "mock_quantization",
	"pack_impl", "parallel_packing", "offload_to_disk", "offload_to_disk_path", "vram_strategy", "dense_vram_strategy", "dense_vram_strategy_devices",
	"moe_vram_strategy", "moe_vram_strategy_devices", "gc_mode", "wait_for_submodule_finalizers", "auto_forward_data_parallel", "telemetry", "moe",
	"timestamp", "calibration_paths",
}

// ofIntegers refuses AutoRound's data_type when its codes are no plain integers.
func (r *ConfigReader) ofIntegers() {
	if kind := r.Text("int", "data_type"); kind != "int" {
		r.Unsupported("data_type", kind, "int")
	}
}
