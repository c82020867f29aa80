"""GGUF files of random mixtures against the `gguf` package, transformers and llama.cpp: gguf_mixtures.py PRUNE TOKENIZER_DIR.

TOKENIZER_DIR holds the tokenizer of a model that llama.cpp has a name for. Each family that is written is made by
transformers, converted to F32, and read by the `gguf` package: every expert is the matrix it was, and keys are those of
llama.cpp's converter. Families that transformers reads from GGUF give the same logits there (1e-4), and where
llama-cpp-python is here, all of them there (1e-3). Exits 0 when all agree, 77 when a package is missing."""
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
try:
    import gguf
    import numpy as np
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
except ImportError as missing:
    print("skipped:", missing)
    sys.exit(77)

prune, tokenizer_dir = sys.argv[1], Path(sys.argv[2])
COMMON = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "num_hidden_layers": 2,
          "num_experts_per_tok": 2, "max_position_embeddings": 512, "tie_word_embeddings": False}
QWEN = {"num_experts": 6, "moe_intermediate_size": 32, "intermediate_size": 96, "decoder_sparse_step": 1}
# how wide the experts of the Qwens are transformers 5.23 does not read: these are its defaults
FAMILIES = {
    "mixtral": ("llama", {"num_local_experts": 5, "intermediate_size": 96}),
    "qwen2_moe": ("qwen2moe", QWEN | {"moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632, "norm_topk_prob": False}),
    "qwen3_moe": ("qwen3moe", QWEN | {"moe_intermediate_size": 768, "norm_topk_prob": True}),
    "olmoe": ("olmoe", {"num_experts": 6, "intermediate_size": 32, "norm_topk_prob": False}),
    "granitemoe": ("granitemoe", {"num_local_experts": 5, "intermediate_size": 32, "embedding_multiplier": 4.0,
                                  "residual_multiplier": 0.5, "attention_multiplier": 0.25, "logits_scaling": 2.0}),
}
READ_BY_TRANSFORMERS = ["qwen2_moe", "qwen3_moe"]


def check(condition, message):
    if not condition:
        sys.exit(f"gguf_mixtures: {message}")


def logits(model, ids):
    with torch.no_grad():
        return model(ids, use_cache=False).logits[0].double()


def compare(kind, arch, settings, work):
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    torch.manual_seed(3)
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id,
                                  eos_token_id=tokenizer.eos_token_id, **COMMON | settings)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(parameter, std=1.0 if "embed" in name else 0.15)
    model.save_pretrained(work / "model")
    for path in tokenizer_dir.iterdir():
        if "token" in path.name or "vocab" in path.name or "merges" in path.name:
            shutil.copy(path, work / "model" / path.name)
    done = subprocess.run([prune, "convert", work / "model", "--to", "gguf", "--type", "F32", "-o", work / "made", "--json"],
                          capture_output=True, text=True)
    check(done.returncode == 0, f"{kind}: {done.stderr}")
    file = work / "made/model.gguf"
    reader = gguf.GGUFReader(file)
    names = {gguf.TENSOR_NAMES[tensor] for tensor in gguf.MODEL_TENSORS[getattr(gguf.MODEL_ARCH, {
        "llama": "LLAMA", "granitemoe": "GRANITE_MOE"}.get(arch, arch.upper()))]}
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    for name in tensors:
        plain = name.rsplit(".", 1)[0]
        parts = plain.split(".")
        known = ".".join(["blk", "{bid}", *parts[2:]]) if parts[0] == "blk" else plain
        check(known in names, f"{kind}: {name} is no tensor of {arch}")
    experts = config.num_local_experts if hasattr(config, "num_local_experts") else config.num_experts
    for key, expected in {"expert_count": experts, "expert_used_count": 2, "block_count": 2}.items():
        found = reader.fields[f"{arch}.{key}"]
        check(found.parts[found.data[0]][0] == expected, f"{kind}: {key}")
    # transformers 5 holds all experts of a layer in two tensors
    for layer in range(2):
        state = {name: value for name, value in model.state_dict().items() if f"layers.{layer}." in name}
        gate_up, = [value.numpy() for name, value in state.items() if name.endswith("experts.gate_up_proj")]
        down, = [value.numpy() for name, value in state.items() if name.endswith("experts.down_proj")]
        half = gate_up.shape[1] // 2
        for name, expected in {"gate": gate_up[:, :half], "up": gate_up[:, half:], "down": down}.items():
            found = tensors[f"blk.{layer}.ffn_{name}_exps.weight"].reshape(expected.shape)
            check(np.array_equal(found, expected), f"{kind}: ffn_{name}_exps of layer {layer}")
    ids = torch.tensor([[(7 * at + 3) % (len(tokenizer) - 4) for at in range(40)]])
    expected = logits(model, ids)
    said = ""
    if kind in READ_BY_TRANSFORMERS:
        theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
        off = (logits(theirs, ids) - expected).abs().max().item()
        check(off < 1e-4, f"{kind}: transformers computes logits {off} apart")
        said = f", logits {off:.1e} apart in transformers"
    try:
        from llama_cpp import Llama
    except ImportError:
        return print(f"gguf_mixtures: {kind}: {len(tensors)} tensors{said}; llama.cpp was not asked")
    own = Llama(str(file), n_ctx=64, logits_all=True, verbose=False)
    own.eval(ids[0].tolist())
    found = torch.tensor(own.scores[: ids.shape[1]]).double().log_softmax(-1)
    off = (found - expected.log_softmax(-1)).abs().max().item()
    check(off < 1e-3, f"{kind}: llama.cpp computes log-probabilities {off} apart")
    print(f"gguf_mixtures: {kind}: {len(tensors)} tensors{said}, log-probabilities {off:.1e} apart in llama.cpp")


for kind, (arch, settings) in FAMILIES.items():
    with tempfile.TemporaryDirectory() as where:
        compare(kind, arch, settings, Path(where))
