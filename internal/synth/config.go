package synth

import (
	"maps"
	"slices"
)

// Config is the config.json that Write would write with these Options: the keys of the real family, plus quantization_config when the
// Format is quantised. It fails with ErrOptions.
func Config(o Options) (map[string]any, error) {
	l, err := list(o)
	if err != nil {
		return nil, err
	}
	return l.config(), nil
}

func (l *lister) config() map[string]any {
	m := &l.m
	c := map[string]any{
		"_name_or_path":        "coldload-synth/" + m.Name, // random weights must not pass for real ones
		"architectures":        []string{m.Arch},
		"hidden_act":           "silu",
		"hidden_size":          m.Hidden,
		"initializer_range":    0.02,
		"intermediate_size":    m.Inner,
		"model_type":           m.Type,
		"num_attention_heads":  m.Heads,
		"num_hidden_layers":    m.Layers,
		"num_key_value_heads":  m.KVHeads,
		"tie_word_embeddings":  false,
		"torch_dtype":          "bfloat16",
		"transformers_version": "4.57.1",
		"use_cache":            true,
		"vocab_size":           m.Vocab,
	}
	if m.HeadDim > 0 {
		c["head_dim"] = m.HeadDim
	}
	if e := m.MoE; e != nil {
		c[e.ExpertsKey] = e.Experts
		c["num_experts_per_tok"] = e.PerToken
		if e.InnerKey != "" {
			c[e.InnerKey] = e.Inner
		}
		if e.DenseLayers > 0 {
			c["first_k_dense_replace"] = e.DenseLayers
		}
	}
	maps.Copy(c, m.Config)
	if m.TextType != "" {
		c = wrapped(c, m.TextType)
	}
	switch l.o.Format {
	case FormatGPTQ:
		c["quantization_config"] = l.quantConfig()
	case FormatAWQ:
		c["quantization_config"] = l.awqConfig()
	case FormatNVFP4, FormatNVFP4Compressed:
		c["quantization_config"] = l.nvfp4Config()
	case FormatFP8, FormatFP8Tensor, FormatFP8Channel:
		c["quantization_config"] = fp8Config(l.o.Format)
	case FormatCompressed:
		c["quantization_config"] = l.compressedConfig()
	case FormatMXFP4:
		c["quantization_config"] = mxfp4Config()
	case FormatMXFP4Pack:
		c["quantization_config"] = l.mxfp4PackConfig()
	case FormatNone, FormatGGUF, FormatGGUFQ4_0, FormatGGUFMXFP4:
	}
	return c
}

// wrapped puts the keys of a language model into a text_config, as models that also see have them.
func wrapped(text map[string]any, textType string) map[string]any {
	outer := map[string]any{"text_config": text}
	for _, key := range []string{"_name_or_path", "architectures", "model_type", "torch_dtype", "transformers_version", "tie_word_embeddings"} {
		outer[key] = text[key]
		delete(text, key)
	}
	text["model_type"], text["torch_dtype"] = textType, outer["torch_dtype"]
	return outer
}

// quantConfig has the keys that GPTQModel 7.7 writes, both in config.json and as quantize_config.json.
func (l *lister) quantConfig() map[string]any {
	format := "gptq"
	if l.o.Asym {
		format = "gptq_v2" // in which every stored zero point means one thing
	}
	q := map[string]any{
		"bits":              l.o.Bits,
		"checkpoint_format": format,
		"desc_act":          l.o.DescAct,
		"format":            format,
		"group_size":        l.o.Group,
		"lm_head":           false,
		"method":            "gptq",
		"pack_dtype":        "int32",
		"quant_method":      "gptq",
		"sym":               !l.o.Asym,
		"meta": map[string]any{
			"act_group_aware":     !l.o.DescAct,
			"damp_auto_increment": 0.01,
			"damp_percent":        0.05,
			"mse":                 0.0,
			"quantizer":           []string{"gptqmodel:7.7.0"},
			"static_groups":       false,
			"true_sequential":     true,
			"uri":                 "https://github.com/modelcloud/gptqmodel",
		},
	}
	if len(l.dense) > 0 {
		dynamic := map[string]any{}
		for _, pattern := range slices.Sorted(maps.Keys(l.dense)) {
			dynamic["-:"+pattern] = map[string]any{}
		}
		q["dynamic"] = dynamic
	}
	return q
}

// documents are the JSON files beside the Shards.
func (l *lister) documents() map[string]any {
	if IsGGUF(l.o.Format) {
		return nil // the metadata says all
	}
	d := map[string]any{"config.json": l.config()}
	if l.o.Format == FormatGPTQ {
		d["quantize_config.json"] = l.quantConfig()
	}
	return d
}
