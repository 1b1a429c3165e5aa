package discover

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/coldload/coldload/stages"
)

func TestQuantSources(t *testing.T) {
	for _, tc := range []struct {
		name          string
		files         map[string]string
		method, where string
		bits          int64
	}{
		{"config", map[string]string{"config.json": `{"quantization_config": {"quant_method": " GPTQ", "bits": 4}}`}, "gptq", "config.json: quantization_config", 4},
		{
			"wrapper",
			map[string]string{"config.json": `{"text_config": {"quantization_config": {"quant_method": "awq", "w_bit": 4}}}`},
			"awq", "config.json: text_config.quantization_config", 4,
		},
		{
			"wrapper twice",
			map[string]string{"config.json": `{"thinker_config": {"text_config": {"quantization_config": {"quant_method": "awq"}}}}`},
			"awq", "config.json: thinker_config.text_config.quantization_config", 0,
		},
		{
			"top wins",
			map[string]string{"config.json": `{"text_config": {"quantization_config": {"quant_method": "fp8"}}, "quantization_config": {"quant_method": "fp8", "bits": 8}}`},
			"fp8", "config.json: quantization_config", 8,
		},
		{"legacy", map[string]string{"config.json": `{"compression_config": {"format": "pack-quantized"}}`}, "compressed-tensors", "config.json: compression_config", 0},
		{"mlx", map[string]string{"config.json": `{"quantization": {"bits": 4}, "quantization_config": {"bits": 4}}`}, "mlx", "config.json: quantization_config", 4},
		{"unknown", map[string]string{"config.json": `{"quantization_config": {"quant_method": "hqq"}}`}, "hqq", "config.json: quantization_config", 0},
		{"no method", map[string]string{"config.json": `{"quantization_config": {"bits": 4}}`}, "", "config.json: quantization_config", 4},
		{"gptq file", map[string]string{"quantize_config.json": `{"bits": 8, "group_size": 128}`}, "gptq", "quantize_config.json", 8},
		{"gptq file of awq", map[string]string{"quantize_config.json": `{"bits": 4, "method": "awq"}`, "config.json": "{}"}, "awq", "quantize_config.json", 4},
		{"awq file", map[string]string{"quant_config.json": `{"w_bit": 4, "q_group_size": 128}`}, "awq", "quant_config.json", 4},
		{"modelopt file", map[string]string{"hf_quant_config.json": `{"producer": {}, "quantization": {"quant_algo": "NVFP4", "bits": 4}}`}, "modelopt", "hf_quant_config.json: quantization", 4},
		{
			"method only in the other file",
			map[string]string{"config.json": `{"quantization_config": {"bits": 4}}`, "quantize_config.json": `{"bits": 4}`},
			"gptq", "config.json: quantization_config", 4,
		},
		{
			"two files that agree", map[string]string{
				"config.json":       `{"quantization_config": {"quant_method": "awq", "bits": 4, "version": "gemm"}}`,
				"quant_config.json": `{"w_bit": 4, "version": "GEMM"}`,
			}, "awq", "config.json: quantization_config", 4,
		},
		{
			"modelopt twice", map[string]string{
				"config.json":          `{"quantization_config": {"quant_method": "modelopt_fp4"}}`,
				"hf_quant_config.json": `{"quantization": {"quant_algo": "NVFP4"}}`,
			}, "modelopt_fp4", "config.json: quantization_config", 0,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			q := discover(t, withConfigs(t, tc.files), Options{}).Quant
			if q == nil {
				t.Fatal("not quantised")
			}
			bits, _, f := q.Int("bits", "w_bit")
			if q.Method != tc.method || q.Where != tc.where || bits != tc.bits || f != nil {
				t.Errorf("method %q, where %q, bits %d, %v", q.Method, q.Where, bits, f)
			}
		})
	}
	t.Run("empty objects say nothing", func(t *testing.T) {
		dir := withConfigs(t, map[string]string{"config.json": `{"quantization_config": {}, "quantization": "none"}`, "quantize_config.json": "{}"})
		if q := discover(t, dir, Options{}).Quant; q != nil {
			t.Errorf("quant %+v", q)
		}
	})
}

func TestQuantContradictions(t *testing.T) {
	const gptq = `{"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": false, "sym": true, "checkpoint_format": "gptq"}}`
	for _, tc := range []struct {
		name, file, json string
		words            []string
	}{
		{"bits", "quantize_config.json", `{"bits": 8}`, []string{"quantize_config.json", "quantization_config.bits of config.json", "4 as in config.json", "8 in quantize_config.json"}},
		{"group", "quantize_config.json", `{"q_group_size": 32}`, []string{"q_group_size contradicts quantization_config.group_size"}},
		{"method", "quantize_config.json", `{"method": "awq", "bits": 4}`, []string{"gptq as in", "awq in"}},
		{"act-order", "quantize_config.json", `{"desc_act": true}`, []string{"desc_act"}},
		{"symmetry", "quantize_config.json", `{"sym": false}`, []string{"sym"}},
		{"format", "quantize_config.json", `{"format": "gptq_v2"}`, []string{"gptq_v2"}},
		{"type", "quantize_config.json", `{"bits": [4]}`, []string{"[4]"}},
		{"awq file", "quant_config.json", `{"w_bit": 8}`, []string{"w_bit"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := withConfigs(t, map[string]string{"config.json": gptq, tc.file: tc.json})
			wantFaults(t, refused(t, dir, Options{}), []stages.Code{stages.CodeConfig}, tc.words...)
		})
	}
}

func TestObject(t *testing.T) {
	o, err := parseObject("f.json", []byte(`{
		"bits": 4, "w_bit": 4, "wbits": 8, "big": 9223372036854775807, "exact": 1.10, "none": null, "yes": true, "name": "n\u0061me",
		"list": ["a", "b"], "mixed": ["a", 1], "holes": ["a", null], "block": [128, 128],
		"dynamic": {"-:z": {}, "+:a": {"bits": 8, "sym": null}, "m": {"group_size": 32}}
	}`))
	if err != nil {
		t.Fatal(err)
	}
	if v, ok, f := o.Int("missing", "none", "w_bit", "bits"); v != 4 || !ok || f != nil {
		t.Errorf("synonyms: %d %v %v", v, ok, f)
	}
	if _, ok, f := o.Int("missing", "none"); ok || f != nil {
		t.Errorf("absent: %v %v", ok, f)
	}
	if v, ok, f := o.Int("bits", "wbits"); v != 0 || ok || f == nil || f.Found != "4 and 8" || f.File != "f.json" {
		t.Errorf("contradiction: %d %v %v", v, ok, f)
	}
	if v, _, f := o.Int("big"); v != 9223372036854775807 || f != nil {
		t.Errorf("big: %d %v", v, f)
	}
	if v, _ := o.Value("exact"); string(v) != "1.10" {
		t.Errorf("exact: %s", v)
	}
	if v, ok, f := o.Bool("yes"); !v || !ok || f != nil {
		t.Errorf("bool: %v %v %v", v, ok, f)
	}
	if v, ok, f := o.Text("name"); v != "name" || !ok || f != nil {
		t.Errorf("text: %q %v %v", v, ok, f)
	}
	if v, ok, f := o.Strings("list"); !slices.Equal(v, []string{"a", "b"}) || !ok || f != nil {
		t.Errorf("strings: %q %v %v", v, ok, f)
	}
	if v, ok, f := o.Ints("block"); !slices.Equal(v, []int64{128, 128}) || !ok || f != nil {
		t.Errorf("ints: %v %v %v", v, ok, f)
	}
	for _, key := range []string{"mixed", "holes", "bits", "dynamic"} {
		if v, ok, f := o.Strings(key); v != nil || ok || f == nil || f.Code != stages.CodeConfig {
			t.Errorf("%s: %q %v %v", key, v, ok, f)
		}
	}
	long, err := parseObject("f.json", []byte(`{"list":[0`+strings.Repeat(",0", maxCount)+`]}`))
	if err != nil {
		t.Fatal(err)
	}
	if v, ok, f := long.Ints("list"); v != nil || ok || f == nil || f.Expected != "at most 1048576 values" {
		t.Errorf("long list: %d values, %v %v", len(v), ok, f)
	}
	q := QuantConfig{Object: o}
	d, ok, f := q.Object.Object("dynamic")
	if !ok || f != nil || d.Path() != "dynamic" || d.File() != "f.json" {
		t.Fatalf("object: %v %v", ok, f)
	}
	var keys []string
	for _, m := range d.Members() {
		keys = append(keys, m.Key)
	}
	if want := []string{"-:z", "+:a", "m"}; !reflect.DeepEqual(keys, want) {
		t.Errorf("order %q, want %q", keys, want)
	}
	inner, _, _ := d.Object("+:a")
	if v, ok, f := inner.Int("bits"); v != 8 || !ok || f != nil {
		t.Errorf("nested: %d %v %v", v, ok, f)
	}
	if _, _, f := inner.Bool("bits"); f == nil || f.Problem != "dynamic.+:a.bits has a value that cannot be used" || f.Found != "8" {
		t.Errorf("nested fault: %v", f)
	}
	if _, _, f := o.Object("list"); f == nil || f.Expected != "an object" {
		t.Errorf("no object: %v", f)
	}
	if _, ok, f := o.Object("none"); ok || f != nil {
		t.Errorf("null object: %v %v", ok, f)
	}
}
