package synth

import "maps"

// models is the table of what can be synthesised. To add a model, add a row; FindModel, the command's help and the tests read it.
var models = []Model{
	{
		Name: "qwen3-30b-a3b", About: "Qwen3-MoE, 128 experts, 48 layers",
		Arch: "Qwen3MoeForCausalLM", Type: "qwen3_moe",
		Layers: 48, Hidden: 2048, Heads: 32, KVHeads: 4, HeadDim: 128, Inner: 6144, Vocab: 151936,
		QKNorm: HeadQKNorm, MoE: qwen3MoE(128, 8, 768), Config: qwen3Config(40960, 1000000),
	},
	{
		Name: "qwen3-235b-a22b", About: "Qwen3-MoE, 128 experts, 94 layers",
		Arch: "Qwen3MoeForCausalLM", Type: "qwen3_moe",
		Layers: 94, Hidden: 4096, Heads: 64, KVHeads: 4, HeadDim: 128, Inner: 12288, Vocab: 151936,
		QKNorm: HeadQKNorm, MoE: qwen3MoE(128, 8, 1536), Config: qwen3Config(40960, 1000000),
	},
	{
		Name: "mixtral-8x7b", About: "Mixtral, 8 experts named w1, w2, w3, 32 layers",
		Arch: "MixtralForCausalLM", Type: "mixtral",
		Layers: 32, Hidden: 4096, Heads: 32, KVHeads: 8, HeadDim: 128, Inner: 14336, Vocab: 32000,
		MoE: &MoE{
			Block: "block_sparse_moe", Members: mixtralOrder, Experts: 8, PerToken: 2, Inner: 14336,
			ExpertsKey: "num_local_experts",
		},
		Config: map[string]any{
			"bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 32768, "output_router_logits": false, "rms_norm_eps": 1e-5,
			"rope_theta": 1000000.0, "router_aux_loss_coef": 0.02, "sliding_window": nil,
		},
	},
	deepSeekV3("deepseek-v3", "DeepSeek-V3 without its MTP layer: MLA, 256 experts, 1 shared, first 3 of 61 layers dense"),
	with(deepSeekV3("deepseek-v3-mtp", "DeepSeek-V3 and R1 as they are released: with the MTP layer, behind the last"), mtp),
	with(deepSeekV3("deepseek-v3.2", "DeepSeek-V3.2 as it is released: as V3, and its indexer of sparse attention"), mtp, func(m *Model) {
		m.Arch, m.Type = "DeepseekV32ForCausalLM", "deepseek_v32"
		m.MLA.IndexHeads, m.MLA.IndexHead = 64, 128
	}),
	{
		Name: "deepseek-v2-lite", About: "DeepSeek-V2-Lite: MLA with a plain q_proj, 64 experts, 2 shared, first of 27 layers dense",
		Arch: "DeepseekV2ForCausalLM", Type: "deepseek_v2",
		Layers: 27, Hidden: 2048, Heads: 16, KVHeads: 16, Inner: 10944, Vocab: 102400,
		MLA: &MLA{KVRank: 512, NopeHead: 128, RopeHead: 64, ValueHead: 128},
		MoE: &MoE{
			Block: "mlp", Members: projMembers, Experts: 64, PerToken: 6, Inner: 1408, DenseLayers: 1,
			ExpertsKey: "n_routed_experts", InnerKey: "moe_intermediate_size", Shared: "shared_experts", SharedInner: 2816,
		},
		Config: deepSeekConfig(map[string]any{
			"bos_token_id": 100000, "eos_token_id": 100001, "max_position_embeddings": 163840, "n_group": 1, "n_shared_experts": 2, "norm_topk_prob": false,
			"q_lora_rank": nil, "rope_theta": 10000, "routed_scaling_factor": 1.0, "scoring_func": "softmax", "topk_group": 1, "topk_method": "greedy",
		}),
	},
	kimiK2("kimi-k2", "Kimi-K2: MLA, 384 experts, 1 shared, first of 61 layers dense"),
	with(kimiK2("kimi-k2.5", "Kimi-K2.5, its language model: as Kimi-K2"), func(m *Model) {
		m.Arch, m.Type, m.TextType = "KimiK25ForConditionalGeneration", "kimi_k25", "kimi_k2"
		m.Prefix, m.Head = "language_model.model.", "language_model.lm_head"
	}),
	{
		Name: "glm-4.5-air", About: "GLM-4.5-Air without its MTP layer: q/k/v bias, 128 experts, 1 shared, first of 46 layers dense",
		Arch: "Glm4MoeForCausalLM", Type: "glm4_moe",
		Layers: 46, Hidden: 4096, Heads: 96, KVHeads: 8, HeadDim: 128, Inner: 10944, Vocab: 151552,
		QKVBias: true, MoE: deepSeekMoE(128, 1408, 1), Config: glmConfig(false, 1.0),
	},
	with(Model{
		Name: "glm-4.5", About: "GLM-4.5 as it is released: 160 experts, 1 shared, first 3 of 92 layers dense, an MTP layer",
		Arch: "Glm4MoeForCausalLM", Type: "glm4_moe",
		Layers: 92, Hidden: 5120, Heads: 96, KVHeads: 8, HeadDim: 128, Inner: 12288, Vocab: 151552,
		QKVBias: true, QKNorm: HeadQKNorm, MoE: deepSeekMoE(160, 1536, 3), Config: glmConfig(true, 2.5),
	}, mtp),
	{
		Name: "minimax-m2", About: "MiniMax-M2: norms over all q and k heads, 256 experts named w1, w2, w3, 62 layers",
		Arch: "MiniMaxM2ForCausalLM", Type: "minimax_m2",
		Layers: 62, Hidden: 3072, Heads: 48, KVHeads: 8, HeadDim: 128, Inner: 1536, Vocab: 200064,
		QKNorm: FullQKNorm,
		MoE: &MoE{
			Block: "block_sparse_moe", Members: mixtralOrder, Experts: 256, PerToken: 8, Inner: 1536,
			ExpertsKey: "num_local_experts", ScoreBias: "e_score_correction_bias",
		},
		Config: map[string]any{
			"max_position_embeddings": 196608, "num_mtp_modules": 0, "qk_norm_type": "per_layer", "rms_norm_eps": 1e-6,
			"rope_theta": 5000000, "rotary_dim": 64, "scoring_func": "sigmoid", "shared_intermediate_size": 0, "use_qk_norm": true,
			"use_routing_bias": true,
		},
	},
	{
		Name: "llama-3-8b", About: "Llama 3, dense, 32 layers",
		Arch: "LlamaForCausalLM", Type: "llama",
		Layers: 32, Hidden: 4096, Heads: 32, KVHeads: 8, HeadDim: 128, Inner: 14336, Vocab: 128256,
		Config: map[string]any{
			"attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 128000, "eos_token_id": 128001,
			"max_position_embeddings": 8192, "mlp_bias": false, "pretraining_tp": 1, "rms_norm_eps": 1e-5, "rope_scaling": nil,
			"rope_theta": 500000.0,
		},
	},
	{
		Name: "qwen2-7b", About: "Qwen2, dense, q/k/v bias, 28 layers",
		Arch: "Qwen2ForCausalLM", Type: "qwen2",
		Layers: 28, Hidden: 3584, Heads: 28, KVHeads: 4, HeadDim: 128, Inner: 18944, Vocab: 152064,
		QKVBias: true,
		Config: map[string]any{
			"attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645, "max_position_embeddings": 32768,
			"max_window_layers": 28, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "sliding_window": 131072, "use_sliding_window": false,
		},
	},
	{
		Name: "qwen2-moe", About: "Qwen1.5-MoE-A2.7B: q/k/v bias, 60 experts, shared expert with a gate, 24 layers",
		Arch: "Qwen2MoeForCausalLM", Type: "qwen2_moe",
		Layers: 24, Hidden: 2048, Heads: 16, KVHeads: 16, HeadDim: 128, Inner: 5632, Vocab: 151936,
		QKVBias: true,
		MoE: &MoE{
			Block: "mlp", Members: projMembers, Experts: 60, PerToken: 4, Inner: 1408,
			ExpertsKey: "num_experts", InnerKey: "moe_intermediate_size",
			Shared: "shared_expert", SharedInner: 5632, SharedGate: true,
		},
		Config: map[string]any{
			"attention_dropout": 0.0, "bos_token_id": 151643, "decoder_sparse_step": 1, "eos_token_id": 151643,
			"max_position_embeddings": 8192, "max_window_layers": 21, "norm_topk_prob": false, "output_router_logits": false,
			"rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001, "shared_expert_intermediate_size": 5632,
			"sliding_window": nil, "use_sliding_window": false,
		},
	},
	{
		Name: "gpt-oss-20b", About: "gpt-oss, 32 experts in joined tensors, biases and sinks, 24 layers",
		Arch: "GptOssForCausalLM", Type: "gpt_oss",
		Layers: 24, Hidden: 2880, Heads: 64, KVHeads: 8, HeadDim: 64, Inner: 2880, Vocab: 201088,
		QKVBias: true, OutBias: true, Sinks: true, MoE: gptOSSMoE(32, 2880), Config: gptOSSConfig(24),
	},
	{
		Name: "gpt-oss-120b", About: "gpt-oss, 128 experts in joined tensors, biases and sinks, 36 layers",
		Arch: "GptOssForCausalLM", Type: "gpt_oss",
		Layers: 36, Hidden: 2880, Heads: 64, KVHeads: 8, HeadDim: 64, Inner: 2880, Vocab: 201088,
		QKVBias: true, OutBias: true, Sinks: true, MoE: gptOSSMoE(128, 2880), Config: gptOSSConfig(36),
	},
	{
		Name: "llama-4-scout", About: "Llama 4 Scout, its language model: 16 experts in tensors of all, input-major, 1 shared, 48 layers",
		Arch: "Llama4ForConditionalGeneration", Type: "llama4", TextType: "llama4_text",
		Prefix: "language_model.model.", Head: "language_model.lm_head",
		Layers: 48, Hidden: 5120, Heads: 40, KVHeads: 8, HeadDim: 128, Inner: 8192, Vocab: 202048,
		MoE: &MoE{
			Block: "feed_forward", Members: projMembers, Experts: 16, PerToken: 1, Inner: 8192, ExpertsKey: "num_local_experts",
			Router: "router", Shared: "shared_expert", SharedInner: 8192, Stacks: InputMajor,
		},
		Config: map[string]any{
			"attention_bias": false, "bos_token_id": 200000, "eos_token_id": []int{200001, 200007, 200008}, "intermediate_size_mlp": 16384,
			"interleave_moe_layer_step": 1, "max_position_embeddings": 10485760, "pad_token_id": 200018, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
			"use_qk_norm": true, // of no weights
		},
	},
	{
		Name: "qwen3-vl-30b-a3b", About: "Qwen3-VL-MoE, its language model: 128 experts in tensors of all, input-major, 48 layers",
		Arch: "Qwen3VLMoeForConditionalGeneration", Type: "qwen3_vl_moe", TextType: "qwen3_vl_moe_text", Prefix: "model.language_model.",
		Layers: 48, Hidden: 2048, Heads: 32, KVHeads: 4, HeadDim: 128, Inner: 6144, Vocab: 151936,
		QKNorm: HeadQKNorm, MoE: stackedMoE(128, 8, 768, InputMajor), Config: qwen3Config(262144, 5000000),
	},
	{
		Name: "qwen3.5-35b-a3b", About: "Qwen3.5-MoE, its language model: 256 experts in tensors of all, output-major, 40 layers",
		Arch: "Qwen3_5MoeForConditionalGeneration", Type: "qwen3_5_moe", TextType: "qwen3_5_moe_text", Prefix: "model.language_model.",
		Layers: 40, Hidden: 2048, Heads: 16, KVHeads: 2, HeadDim: 256, Inner: 512, Vocab: 248320,
		QGate: true, QKNorm: HeadQKNorm, Linear: &Linear{KeyHeads: 16, KeyHead: 128, ValueHeads: 32, ValueHead: 128, Conv: 4},
		MoE: &MoE{
			Block: "mlp", Members: projMembers, Experts: 256, PerToken: 8, Inner: 512, ExpertsKey: "num_experts", InnerKey: "moe_intermediate_size",
			Shared: "shared_expert", SharedInner: 512, SharedGate: true, Stacks: OutputMajor,
		},
		Config: map[string]any{
			"attn_output_gate": true, "full_attention_interval": 4, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16,
			"linear_num_value_heads": 32, "linear_value_head_dim": 128, "max_position_embeddings": 262144, "rms_norm_eps": 1e-6,
			"shared_expert_intermediate_size": 512,
		},
	},
	{
		Name: "tiny-moe", About: "a small Qwen3-MoE of about 300 MB in 4 bits, for the demo",
		Arch: "Qwen3MoeForCausalLM", Type: "qwen3_moe",
		Layers: 5, Hidden: 1024, Heads: 16, KVHeads: 4, HeadDim: 64, Inner: 2048, Vocab: 8192,
		QKNorm: HeadQKNorm, MoE: qwen3MoE(64, 8, 512), Config: qwen3Config(4096, 10000),
	},
	{
		Name: "micro", About: "a Qwen3-MoE of about 680 KB in 4 bits, for tests",
		Arch: "Qwen3MoeForCausalLM", Type: "qwen3_moe",
		Layers: 2, Hidden: 256, Heads: 4, KVHeads: 2, HeadDim: 32, Inner: 256, Vocab: 128,
		QKNorm: HeadQKNorm, MoE: qwen3MoE(4, 2, 128), Config: qwen3Config(256, 10000),
	},
	{
		Name: "micro-gpt-oss", About: "a gpt-oss of about 1 MB in MXFP4 whose experts fill no whole tiles, for tests",
		Arch: "GptOssForCausalLM", Type: "gpt_oss",
		Layers: 2, Hidden: 288, Heads: 4, KVHeads: 2, HeadDim: 32, Inner: 96, Vocab: 128,
		QKVBias: true, OutBias: true, Sinks: true, MoE: gptOSSMoE(4, 96), Config: gptOSSConfig(2),
	},
}

func gptOSSMoE(experts, inner int) *MoE {
	return &MoE{Block: "mlp", Experts: experts, PerToken: 4, Inner: inner, ExpertsKey: "num_local_experts", Router: "router", Joined: true}
}

func gptOSSConfig(layers int) map[string]any {
	types := make([]string, layers)
	for i := range types {
		types[i] = [...]string{"sliding_attention", "full_attention"}[i%2]
	}
	return map[string]any{
		"attention_bias": true, "attention_dropout": 0.0, "eos_token_id": 200002, "experts_per_token": 4, "initial_context_length": 4096,
		"layer_types": types, "max_position_embeddings": 131072, "output_router_logits": false, "pad_token_id": 199999, "rms_norm_eps": 1e-5,
		"rope_theta": 150000, "router_aux_loss_coef": 0.9, "sliding_window": 128, "swiglu_limit": 7.0,
		"rope_scaling": map[string]any{
			"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "original_max_position_embeddings": 4096, "rope_type": "yarn", "truncate": false,
		},
	}
}

// with is a Model changed.
func with(m Model, changes ...func(*Model)) Model {
	for _, change := range changes {
		change(&m)
	}
	return m
}

// mtp adds the layer that predicts further tokens.
func mtp(m *Model) {
	m.MTP = true
	m.Config["num_nextn_predict_layers"] = 1
}

func deepSeekV3(name, about string) Model {
	return Model{
		Name: name, About: about, Arch: "DeepseekV3ForCausalLM", Type: "deepseek_v3",
		Layers: 61, Hidden: 7168, Heads: 128, KVHeads: 128, Inner: 18432, Vocab: 129280,
		MLA: &MLA{QRank: 1536, KVRank: 512, NopeHead: 128, RopeHead: 64, ValueHead: 128}, MoE: deepSeekMoE(256, 2048, 3),
		Config: deepSeekConfig(map[string]any{
			"rope_scaling": map[string]any{
				"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
				"original_max_position_embeddings": 4096, "type": "yarn",
			},
		}),
	}
}

func kimiK2(name, about string) Model {
	return Model{
		Name: name, About: about, Arch: "DeepseekV3ForCausalLM", Type: "kimi_k2",
		Layers: 61, Hidden: 7168, Heads: 64, KVHeads: 64, Inner: 18432, Vocab: 163840,
		MLA: &MLA{QRank: 1536, KVRank: 512, NopeHead: 128, RopeHead: 64, ValueHead: 128}, MoE: deepSeekMoE(384, 2048, 1),
		Ignore: []string{"re:.*self_attn.*", "re:.*shared_experts.*", `re:.*mlp\.(gate|up|gate_up|down)_proj.*`},
		Config: deepSeekConfig(map[string]any{
			"bos_token_id": 163584, "eos_token_id": 163585, "max_position_embeddings": 131072, "n_group": 1, "rope_theta": 50000,
			"routed_scaling_factor": 2.827, "topk_group": 1,
		}),
	}
}

// deepSeekConfig is that of DeepSeek-V3, changed.
func deepSeekConfig(changes map[string]any) map[string]any {
	c := map[string]any{
		"attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 0, "eos_token_id": 1, "ep_size": 1,
		"kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
		"max_position_embeddings": 163840, "moe_layer_freq": 1, "n_group": 8, "n_shared_experts": 1, "norm_topk_prob": true,
		"num_nextn_predict_layers": 0, "rms_norm_eps": 1e-6, "rope_theta": 10000, "routed_scaling_factor": 2.5,
		"scoring_func": "sigmoid", "topk_group": 4, "topk_method": "noaux_tc",
	}
	maps.Copy(c, changes)
	return c
}

// deepSeekMoE are the experts of DeepSeek-V3 and those who took over its names: 8 for a token, and a shared one as wide as the others.
func deepSeekMoE(experts, inner, denseLayers int) *MoE {
	return &MoE{
		Block: "mlp", Members: projMembers, Experts: experts, PerToken: 8, Inner: inner, DenseLayers: denseLayers,
		ExpertsKey: "n_routed_experts", InnerKey: "moe_intermediate_size",
		Shared: "shared_experts", SharedInner: inner, ScoreBias: "gate.e_score_correction_bias",
	}
}

// glmConfig is that of GLM-4.5.
func glmConfig(qkNorm bool, scaling float64) map[string]any {
	return map[string]any{
		"attention_bias": true, "attention_dropout": 0.0, "eos_token_id": []int{151329, 151336, 151338}, "pad_token_id": 151329,
		"max_position_embeddings": 131072, "n_group": 1, "n_shared_experts": 1, "norm_topk_prob": true, "num_nextn_predict_layers": 0,
		"partial_rotary_factor": 0.5, "rms_norm_eps": 1e-5, "rope_scaling": nil, "rope_theta": 1000000, "routed_scaling_factor": scaling,
		"topk_group": 1, "use_qk_norm": qkNorm,
	}
}

// stackedMoE are qwen3MoE's in one tensor.
func stackedMoE(experts, perToken, inner int, stacks Stacks) *MoE {
	e := qwen3MoE(experts, perToken, inner)
	e.Stacks, e.StackedFP8 = stacks, true
	return e
}

func qwen3MoE(experts, perToken, inner int) *MoE {
	return &MoE{
		Block: "mlp", Members: projMembers, Experts: experts, PerToken: perToken, Inner: inner,
		ExpertsKey: "num_experts", InnerKey: "moe_intermediate_size",
	}
}

func qwen3Config(positions int, theta float64) map[string]any {
	return map[string]any{
		"attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 151643, "decoder_sparse_step": 1, "eos_token_id": 151645,
		"max_position_embeddings": positions, "mlp_only_layers": []int{}, "norm_topk_prob": true, "output_router_logits": false,
		"rms_norm_eps": 1e-6, "rope_scaling": nil, "rope_theta": theta, "router_aux_loss_coef": 0.001, "sliding_window": nil,
		"use_sliding_window": false,
	}
}
