"""The architecture fixtures: which configs, and how their weights are made so that any language can make them again.

    seed(name) = FNV-1a 64 of the tensor's name, xored with the case's seed
    z(i)       = splitmix64 finaliser of seed(name) + (i + 1) * 0x9E3779B97F4A7C15   (i = flat row-major index, mod 2^64)
    k(i)       = 2 * (z(i) >> 40) + 1 - 2^24                                         (odd, |k| < 2^24, exact in f32)
    w(i)       = f32(k) * f32(std * sqrt(3) / 2^24)          uniform with standard deviation std; one f32 product
    matrices: std = gain / sqrt(columns), gain 2 for query, key and fused query-key-value, else 1; embedding: std 1
    vectors named *norm*: 1f32 + w with std 0.2; biases: std 0.3
    ids(j)     = z(j) of the name "ids" modulo the vocabulary
"""
import numpy as np

M64 = (1 << 64) - 1


def fnv(name):
    h = 0xCBF29CE484222325
    for b in name.encode():
        h = ((h ^ b) * 0x100000001B3) & M64
    return h


def finalised(seed, n):
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def tensor(seed, name, shape):
    if name in ("model.embed_tokens.weight", "gpt_neox.embed_in.weight"):
        std = 1.0
    elif len(shape) == 2:
        std = (2.0 if name.endswith((".q_proj.weight", ".k_proj.weight", ".qkv_proj.weight", ".query_key_value.weight")) else 1.0) / np.sqrt(shape[1])
    else:
        std = 0.2 if name.endswith("norm.weight") else 0.3
    z = finalised(seed ^ fnv(name), int(np.prod(shape)))
    k = 2 * (z >> np.uint64(40)).astype(np.int64) + 1 - (1 << 24)
    w = k.astype(np.float32) * np.float32(std * np.sqrt(3.0) / 2.0**24)
    return (np.float32(1) + w if name.endswith("norm.weight") else w).reshape(shape)


def on_disk(model_type, name, shape):
    """The tensors of a checkpoint that transformers makes the parameter `name` from: (name, shape, what it is of it).

    transformers 5 holds the experts of a layer in two parameters; checkpoints have them one by one, but Granite's and gpt-oss's."""
    if model_type == "granitemoe":
        for inside, outside in ((".experts.gate_up_proj", ".input_linear.weight"), (".experts.down_proj", ".output_linear.weight"),
                                (".router.weight", ".router.layer.weight")):
            name = name.replace(inside, outside)
        return [(name, shape, ...)]
    if model_type == "gpt_oss":
        return [(name, shape, ...)]
    if model_type == "gpt_neox" and name == "lm_head.weight":
        name = "embed_out.weight"
    if model_type == "mixtral":
        name = name.replace(".mlp.", ".block_sparse_moe.")
    if model_type == "ernie4_5_moe":
        name = name.replace(".gate.moe_statics.", ".moe_statics.")
    mixtral = ("w1", "w3", "w2") if model_type == "mixtral" else ("gate_proj", "up_proj", "down_proj")
    gate, up, down = (f"{part}.weight" for part in mixtral)
    if name.endswith(".experts.gate_up_proj"):
        stem, half, width = name.removesuffix("gate_up_proj"), shape[1] // 2, shape[2]
        parts = ((gate, slice(0, half)), (up, slice(half, None)))
        return [(f"{stem}{e}.{part}", (half, width), (e, rows)) for e in range(shape[0]) for part, rows in parts]
    if name.endswith(".experts.down_proj"):
        return [(f"{name.removesuffix('down_proj')}{e}.{down}", shape[1:], (e,)) for e in range(shape[0])]
    return [(name, shape, ...)]


def ids(seed, vocab, n):
    return (finalised(seed ^ fnv("ids"), n) % np.uint64(vocab)).astype(np.int64)


BASE = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 4,
        "vocab_size": 64, "max_position_embeddings": 512, "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
LLAMA = BASE | {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
MISTRAL = BASE | {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
QWEN2 = BASE | {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "rms_norm_eps": 1e-6}
QWEN3 = BASE | {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "rms_norm_eps": 1e-6, "head_dim": 16}
PHI3 = BASE | {"model_type": "phi3", "architectures": ["Phi3ForCausalLM"]}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}


def of(model_type, architecture, **keys):
    return BASE | {"model_type": model_type, "architectures": [architecture]} | keys


SHORT, LONG = [1.0, 1.05, 1.2, 1.6], [1.1, 1.9, 3.7, 7.3]

# name -> (config, tokens, first and last dropped layer)
CASES = {
    # old spelling, as many key heads as query heads because the key is absent, an untied head
    "llama": ({k: v for k, v in LLAMA.items() if k != "num_key_value_heads"}
              | {"rope_theta": 10000.0, "rope_scaling": None, "tie_word_embeddings": False, "torch_dtype": "float32"}, 24, (1, 2)),
    # all biases, a head_dim of its own, a tied head, new spelling
    "llama-biases": (LLAMA | {"attention_bias": True, "mlp_bias": True, "head_dim": 12, "tie_word_embeddings": True, "dtype": "float32",
                              "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}}, 24, (2, 2)),
    "llama-linear": (LLAMA | {"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 4.0}}, 24, (0, 1)),
    # longer than the context, so that the base changes
    "llama-dynamic": (LLAMA | {"max_position_embeddings": 16, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, 40, (2, 3)),
    "llama3-old": (LLAMA | {"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3"} | LLAMA3, "tie_word_embeddings": True}, 40, (1, 1)),
    "llama3-new": (LLAMA | {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0} | LLAMA3, "tie_word_embeddings": True}, 40, (1, 1)),
    "llama-yarn": (LLAMA | {"max_position_embeddings": 64, "rope_theta": 500.0, "head_dim": 16,
                            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}}, 40, (1, 2)),
    "llama-yarn-mscale": (LLAMA | {"max_position_embeddings": 64, "head_dim": 16, "rope_parameters": {
        "rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 1, "beta_slow": 0.25,
        "mscale": 0.707, "mscale_all_dim": 1.4, "truncate": False}}, 40, (1, 2)),
    # a family member under its own name
    "own-name": (LLAMA | {"model_type": "some-llama", "rope_theta": 20000.0, "tie_word_embeddings": False}, 24, (1, 2)),
    # longer than the window; the head is wider than hidden size over heads
    "mistral": (MISTRAL | {"sliding_window": 7, "rope_theta": 1000000.0, "head_dim": 16}, 30, (1, 2)),
    "mistral-no-window": (MISTRAL | {"sliding_window": None, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}, 24, (0, 0)),
    "ministral": (BASE | {"model_type": "ministral", "architectures": ["MinistralForCausalLM"], "sliding_window": 5, "head_dim": 8,
                          "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
                          "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"}}, 24, (2, 2)),
    # windows in the config that are switched off
    "qwen2": (QWEN2 | {"use_sliding_window": False, "sliding_window": 6, "max_window_layers": 2, "rope_theta": 1000000.0,
                       "tie_word_embeddings": True}, 24, (1, 2)),
    "qwen2-window": (QWEN2 | {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 2, "num_hidden_layers": 5}, 30, (1, 1)),
    "qwen2-yarn-listed": (QWEN2 | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 3, "num_hidden_layers": 5,
                                   "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention", "full_attention"],
                                   "rope_parameters": {"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 4.0,
                                                       "original_max_position_embeddings": 128}}, 30, (1, 2)),
    "qwen3": (QWEN3 | {"attention_bias": False, "rope_theta": 1000000.0, "tie_word_embeddings": True, "use_sliding_window": False,
                       "sliding_window": None, "max_window_layers": 4}, 24, (1, 2)),
    "qwen3-window": (QWEN3 | {"attention_bias": True, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1,
                              "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"}}, 30, (2, 3)),
    "phi3": (PHI3 | {"sliding_window": 9, "rope_theta": 10000.0, "rope_scaling": None, "original_max_position_embeddings": 512}, 30, (1, 2)),
    # partly rotated heads, within the trained context
    "phi3-short": (PHI3 | {"sliding_window": None, "partial_rotary_factor": 0.5, "hidden_size": 64, "original_max_position_embeddings": 32,
                           "rope_scaling": {"type": "longrope", "short_factor": SHORT, "long_factor": LONG}}, 30, (1, 2)),
    # ... and beyond it
    "phi3-long": (PHI3 | {"hidden_size": 64, "original_max_position_embeddings": 32, "max_position_embeddings": 128,
                          "rope_parameters": {"rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.5,
                                              "short_factor": SHORT, "long_factor": LONG}}, 40, (1, 2)),
    "phi3-su": (PHI3 | {"max_position_embeddings": 256, "original_max_position_embeddings": 16,
                        "rope_scaling": {"type": "su", "short_factor": SHORT, "long_factor": LONG, "original_max_position_embeddings": 16}}, 24, (0, 1)),
    # two layers that do not rotate, with windows of their own
    "smollm3": (BASE | {"model_type": "smollm3", "architectures": ["SmolLM3ForCausalLM"], "num_hidden_layers": 6, "no_rope_layer_interval": 3,
                        "use_sliding_window": True, "sliding_window": 6, "rope_theta": 5000000.0}, 24, (1, 1)),
    "smollm3-listed": (BASE | {"model_type": "smollm3", "architectures": ["SmolLM3ForCausalLM"], "no_rope_layers": [1, 0, 1, 0],
                               "attention_bias": True, "tie_word_embeddings": False,
                               "rope_parameters": {"rope_theta": 50000.0, "rope_type": "default"}}, 24, (1, 2)),
    "seed_oss": (BASE | {"model_type": "seed_oss", "architectures": ["SeedOssForCausalLM"], "head_dim": 16, "attention_out_bias": False,
                         "attention_dropout": 0.1, "residual_dropout": 0.1, "rope_theta": 10000000.0}, 24, (1, 2)),
    "internlm3": (BASE | {"model_type": "internlm3", "architectures": ["InternLM3ForCausalLM"], "head_dim": 8, "qkv_bias": True, "bias": True,
                          "max_position_embeddings": 16, "rope_theta": 50000.0, "rope_scaling": {"factor": 6.0, "rope_type": "dynamic"}}, 24, (1, 2)),
    "granite": (of("granite", "GraniteForCausalLM", embedding_multiplier=3.0, residual_multiplier=0.4, attention_multiplier=0.2,
                   logits_scaling=2.5, attention_bias=True, rope_theta=10000.0, tie_word_embeddings=True), 24, (1, 2)),
    "arcee": (of("arcee", "ArceeForCausalLM", hidden_act="relu2", mlp_bias=True, head_dim=8, max_position_embeddings=64,
                 rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}), 24, (1, 2)),
    "nemotron": (of("nemotron", "NemotronForCausalLM", hidden_act="relu2", norm_eps=1e-5, head_dim=16, partial_rotary_factor=0.5,
                    rope_theta=10000.0, tie_word_embeddings=False), 24, (1, 2)),
    "ernie4_5": (of("ernie4_5", "Ernie4_5ForCausalLM", head_dim=16, use_bias=True, rope_theta=500000.0), 24, (1, 2)),
    # a fixed stretch that calls itself dynamic; norms after the rotation
    "hunyuan_v1_dense": (of("hunyuan_v1_dense", "HunYuanDenseV1ForCausalLM", head_dim=16, use_qk_norm=True, num_experts=1,
                            tie_word_embeddings=True, rope_theta=10000.0,
                            rope_scaling={"type": "dynamic", "alpha": 50.0, "factor": 1.0}), 24, (1, 2)),
    # longer than the window; one layer of four is full and does not rotate
    "exaone4": (of("exaone4", "Exaone4ForCausalLM", num_hidden_layers=6, sliding_window=5, sliding_window_pattern=3, head_dim=8,
                   rope_theta=10000.0), 24, (1, 1)),
    "exaone4-no-window": (of("exaone4", "Exaone4ForCausalLM", sliding_window=None, layer_types=["full_attention"] * 4,
                             rope_theta=10000.0), 24, (1, 2)),
    "gemma": (of("gemma", "GemmaForCausalLM", hidden_act="gelu", head_dim=16, rope_theta=10000.0), 24, (1, 2)),
    # caps low enough to bend scores and logits
    "gemma2": (of("gemma2", "Gemma2ForCausalLM", hidden_activation="gelu_pytorch_tanh", head_dim=16, query_pre_attn_scalar=24,
                  sliding_window=6, attn_logit_softcapping=3.0, final_logit_softcapping=5.0, rope_theta=10000.0), 24, (1, 1)),
    "gemma3_text": (of("gemma3_text", "Gemma3ForCausalLM", hidden_activation="gelu_pytorch_tanh", head_dim=16, query_pre_attn_scalar=24,
                       num_hidden_layers=6, sliding_window=5, sliding_window_pattern=3, rope_theta=1000000.0,
                       rope_local_base_freq=10000.0, rope_scaling={"rope_type": "linear", "factor": 8.0}), 24, (1, 1)),
    "gemma3-new": (of("gemma3_text", "Gemma3ForCausalLM", hidden_activation="gelu_pytorch_tanh", head_dim=8, query_pre_attn_scalar=8,
                      sliding_window=5, layer_types=["sliding_attention", "full_attention", "full_attention", "sliding_attention"],
                      rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 500000.0},
                                       "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0}}), 24, (1, 1)),
    "olmo2": (of("olmo2", "Olmo2ForCausalLM", rope_theta=500000.0, attention_bias=False), 24, (1, 2)),
    "olmo3": (of("olmo3", "Olmo3ForCausalLM", num_hidden_layers=6, sliding_window=5, rope_theta=500000.0, max_position_embeddings=64,
                 rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}), 24, (1, 1)),
    "glm": (of("glm", "GlmForCausalLM", head_dim=16, partial_rotary_factor=0.5, attention_bias=True, rope_theta=10000.0), 24, (1, 2)),
    "glm4": (of("glm4", "Glm4ForCausalLM", head_dim=16, rms_norm_eps=1e-5, attention_bias=False,
                rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25}), 24, (1, 2)),
    "cohere": (of("cohere", "CohereForCausalLM", layer_norm_eps=1e-5, logit_scale=0.25, rope_theta=10000.0), 24, (1, 2)),
    "cohere2": (of("cohere2", "Cohere2ForCausalLM", layer_norm_eps=1e-5, logit_scale=0.25, num_hidden_layers=6, sliding_window=5,
                   sliding_window_pattern=3, rope_theta=50000.0), 24, (1, 1)),
    "phi": (of("phi", "PhiForCausalLM", hidden_act="gelu_new", layer_norm_eps=1e-5, partial_rotary_factor=0.5, num_key_value_heads=None,
               rope_theta=10000.0), 24, (1, 2)),
    "starcoder2": (of("starcoder2", "Starcoder2ForCausalLM", hidden_act="gelu", norm_epsilon=1e-5, sliding_window=7, rope_theta=100000.0,
                      tie_word_embeddings=True), 24, (1, 2)),
    "gpt_neox": (of("gpt_neox", "GPTNeoXForCausalLM", hidden_act="gelu", num_key_value_heads=None, layer_norm_eps=1e-5, rotary_pct=0.5,
                    rotary_emb_base=5000, use_parallel_residual=True, tie_word_embeddings=False), 24, (1, 2)),
    # one sub-layer after the other, no biases in attention, keys of transformers 5, a quarter of wider heads rotated
    "gpt_neox-in-turn": (of("gpt_neox", "GPTNeoXForCausalLM", hidden_size=64, hidden_act="gelu", num_key_value_heads=None,
                            layer_norm_eps=1e-5, use_parallel_residual=False, attention_bias=False, rope_parameters={
                                "rope_type": "linear", "rope_theta": 10000.0, "partial_rotary_factor": 0.25, "factor": 2.0}), 24, (0, 1)),
    "apertus": (of("apertus", "ApertusForCausalLM", hidden_act="xielu", head_dim=8, attention_bias=True, dtype="float32",
                   rope_parameters={"rope_type": "llama3", "rope_theta": 500000.0} | LLAMA3), 40, (1, 2)),
    # positions where the config says nothing of them
    "apertus-plain": (of("apertus", "ApertusForCausalLM", hidden_act="xielu", dtype="float32", max_position_embeddings=16384,
                         tie_word_embeddings=True), 24, (0, 1)),
    # mixtures of experts: some layers without, sums of weights that are and are not one
    "mixtral": (of("mixtral", "MixtralForCausalLM", num_local_experts=4, num_experts_per_tok=2, sliding_window=7, head_dim=16,
                   rope_theta=1000000.0, intermediate_size=24), 24, (1, 2)),
    "qwen3_moe": (of("qwen3_moe", "Qwen3MoeForCausalLM", num_experts=8, num_experts_per_tok=3, moe_intermediate_size=12, head_dim=16,
                     norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[2], num_hidden_layers=5, rope_theta=1000000.0), 24, (1, 1)),
    "qwen3_moe-window": (of("qwen3_moe", "Qwen3MoeForCausalLM", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=20,
                            head_dim=8, norm_topk_prob=False, decoder_sparse_step=2, mlp_only_layers=[], use_sliding_window=True,
                            sliding_window=5, rope_theta=10000.0, tie_word_embeddings=True), 24, (2, 3)),
    "qwen2_moe": (of("qwen2_moe", "Qwen2MoeForCausalLM", num_experts=5, num_experts_per_tok=2, moe_intermediate_size=12,
                     shared_expert_intermediate_size=20, mlp_only_layers=[0], rope_theta=10000.0), 24, (1, 2)),
    "olmoe": (of("olmoe", "OlmoeForCausalLM", num_experts=6, num_experts_per_tok=2, intermediate_size=16, norm_topk_prob=False,
                 rope_theta=10000.0), 24, (1, 2)),
    "dots1": (of("dots1", "Dots1ForCausalLM", n_routed_experts=6, num_experts_per_tok=2, moe_intermediate_size=12, n_shared_experts=2,
                 first_k_dense_replace=1, norm_topk_prob=True, routed_scaling_factor=1.7, n_group=1, topk_group=1, head_dim=16,
                 sliding_window=None, rope_theta=10000.0), 24, (1, 2)),
    "granitemoe": (of("granitemoe", "GraniteMoeForCausalLM", num_local_experts=4, num_experts_per_tok=2, intermediate_size=16,
                      embedding_multiplier=3.0, residual_multiplier=0.4, attention_multiplier=0.2, logits_scaling=2.5,
                      rope_theta=10000.0, tie_word_embeddings=True), 24, (1, 2)),
    # groups of experts, of which some are chosen; one dense layer below, half of each head rotated
    "glm4_moe": (of("glm4_moe", "Glm4MoeForCausalLM", n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=12,
                    n_shared_experts=1, first_k_dense_replace=1, norm_topk_prob=True, routed_scaling_factor=1.7, n_group=4,
                    topk_group=2, head_dim=16, use_qk_norm=True, attention_bias=True, partial_rotary_factor=0.5,
                    num_nextn_predict_layers=1, rope_theta=10000.0), 24, (1, 2)),
    "glm4_moe-plain": (of("glm4_moe", "Glm4MoeForCausalLM", n_routed_experts=5, num_experts_per_tok=2, moe_intermediate_size=12,
                          n_shared_experts=2, first_k_dense_replace=2, head_dim=8, use_qk_norm=False, rope_theta=10000.0), 24, (2, 2)),
    # latent attention: values narrower than keys, groups judged by their best expert, dense layers below that a cut thins
    "deepseek_v2": (of("deepseek_v2", "DeepseekV2ForCausalLM", num_key_value_heads=4, q_lora_rank=20, kv_lora_rank=12,
                       qk_nope_head_dim=10, qk_rope_head_dim=8, v_head_dim=6, n_routed_experts=6, num_experts_per_tok=3,
                       moe_intermediate_size=12, n_shared_experts=2, first_k_dense_replace=2, moe_layer_freq=1, topk_method="group_limited_greedy",
                       n_group=3, topk_group=2, routed_scaling_factor=1.7, norm_topk_prob=False, attention_bias=True,
                       mlp_bias=True, max_position_embeddings=64, rope_theta=500.0, rope_scaling={
                           "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 32, "beta_slow": 1,
                           "mscale": 0.707, "mscale_all_dim": 1.2}), 40, (1, 2)),
    # queries from the stream, values wider than keys, one group, epsilon of the norms within attention not the config's
    "deepseek_v2-lite": (of("deepseek_v2", "DeepseekV2ForCausalLM", num_key_value_heads=4, q_lora_rank=None, kv_lora_rank=16,
                            qk_nope_head_dim=4, qk_rope_head_dim=8, v_head_dim=16, n_routed_experts=5, num_experts_per_tok=3,
                            moe_intermediate_size=12, n_shared_experts=1, first_k_dense_replace=1, topk_method="greedy", n_group=1,
                            topk_group=1, routed_scaling_factor=1.0, rms_norm_eps=0.01, rope_theta=10000.0), 24, (2, 2)),
    "deepseek_v3": (of("deepseek_v3", "DeepseekV3ForCausalLM", num_key_value_heads=4, q_lora_rank=24, kv_lora_rank=16,
                       qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8, n_routed_experts=8, num_experts_per_tok=3,
                       moe_intermediate_size=12, n_shared_experts=1, first_k_dense_replace=1, n_group=4, topk_group=2, topk_method="noaux_tc",
                       scoring_func="sigmoid", routed_scaling_factor=2.0, norm_topk_prob=True, max_position_embeddings=64,
                       num_nextn_predict_layers=1, rope_theta=500.0, rope_scaling={
                           "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 32, "beta_slow": 1,
                           "mscale": 1.0, "mscale_all_dim": 1.0}), 40, (0, 1)),
    # Moonlight: queries from the stream, one group, no stretch; halves of a head turned together
    "deepseek_v3-plain": (of("deepseek_v3", "DeepseekV3ForCausalLM", num_key_value_heads=4, q_lora_rank=None, kv_lora_rank=16,
                             qk_nope_head_dim=12, qk_rope_head_dim=4, v_head_dim=8, n_routed_experts=5, num_experts_per_tok=2,
                             moe_intermediate_size=12, n_shared_experts=2, first_k_dense_replace=2, n_group=1, topk_group=1,
                             routed_scaling_factor=1.5, norm_topk_prob=False, rope_interleave=False, rope_theta=10000.0,
                             attention_bias=True), 24, (2, 2)),
    # experts from a layer on, which a cut moves; and on every other layer, which a cut makes a run
    "ernie4_5_moe": (of("ernie4_5_moe", "Ernie4_5_MoeForCausalLM", moe_num_experts=6, moe_k=2, moe_intermediate_size=12,
                        moe_num_shared_experts=2, moe_layer_start_index=1, moe_layer_end_index=3, use_bias=False,
                        tie_word_embeddings=False, rope_theta=500000.0), 24, (0, 1)),
    "ernie4_5_moe-steps": (of("ernie4_5_moe", "Ernie4_5_MoeForCausalLM", moe_num_experts=5, moe_k=3, moe_intermediate_size=12,
                              moe_num_shared_experts=0, moe_layer_interval=2, tie_word_embeddings=True), 24, (1, 1)),
    # a limit low enough to clamp gate and up; one layer of two has a window, each head a sink
    "gpt_oss": (of("gpt_oss", "GptOssForCausalLM", num_local_experts=5, num_experts_per_tok=2, intermediate_size=16, head_dim=16,
                   swiglu_limit=1.5, attention_bias=True, sliding_window=5, rope_theta=150000.0, max_position_embeddings=128,
                   layer_types=["sliding_attention", "full_attention"] * 2,
                   rope_scaling={"rope_type": "yarn", "factor": 8.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
                                 "original_max_position_embeddings": 16}), 24, (1, 2)),
}

# published settings of real models: their rotations alone, at positions near and far
ROTATIONS = {
    "llama-2-7b": {"model_type": "llama", "head_dim": 128, "max_position_embeddings": 4096, "rope_theta": 10000.0},
    "vicuna-16k": {"model_type": "llama", "head_dim": 128, "max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "dynamic-ntk": {"model_type": "llama", "head_dim": 128, "max_position_embeddings": 2048, "rope_scaling": {"type": "dynamic", "factor": 8.0}},
    "llama-3.1-8b": {"model_type": "llama", "head_dim": 128, "max_position_embeddings": 131072, "rope_theta": 500000.0,
                     "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                      "original_max_position_embeddings": 8192, "rope_type": "llama3"}},
    "llama-3.2-1b": {"model_type": "llama", "head_dim": 64, "max_position_embeddings": 131072, "rope_theta": 500000.0,
                     "rope_scaling": {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                      "original_max_position_embeddings": 8192, "rope_type": "llama3"}},
    "qwen2.5-yarn": {"model_type": "qwen2", "head_dim": 128, "max_position_embeddings": 32768, "rope_theta": 1000000.0,
                     "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"}},
    "deepseek-yarn": {"model_type": "llama", "head_dim": 64, "max_position_embeddings": 163840, "rope_theta": 10000.0,
                      "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 0.707, "mscale_all_dim": 1.0,
                                       "original_max_position_embeddings": 4096, "type": "yarn"}},
    "phi-3-mini-128k": {"model_type": "phi3", "head_dim": 96, "max_position_embeddings": 131072, "original_max_position_embeddings": 4096,
                        "rope_scaling": {"type": "longrope", "short_factor": [1.0 + 0.01 * i for i in range(48)],
                                         "long_factor": [1.0 + 0.025 * i * i for i in range(48)]}},
    "phi-4-mini": {"model_type": "phi3", "head_dim": 128, "partial_rotary_factor": 0.75, "max_position_embeddings": 131072,
                   "original_max_position_embeddings": 4096,
                   "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [1.0 + 0.6 * i for i in range(48)]}},
}
