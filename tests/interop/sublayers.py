"""Cuts single sub-layers of small random models, and compares every format with the same done by hand.

usage: python sublayers.py PRUNE

`zeros` must open in transformers without a warning and give, bit for bit, the logits of the source whose sub-layers
answer with zeros. `per-layer` must be read by transformers' configuration as what was left out, and lack exactly the
tensors of that. `nas` must be what the readers of `block_configs` ask for.
"""

import json
import logging
import pathlib
import subprocess
import sys
import tempfile
import warnings

import torch
import transformers
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

SMALL = dict(vocab_size=96, hidden_size=64, intermediate_size=256, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2, num_hidden_layers=5)
FAMILIES = {"llama": SMALL, "mistral": {**SMALL, "sliding_window": None}, "qwen2": SMALL,
            "qwen3": {**SMALL, "head_dim": 16}, "phi3": SMALL, "smollm3": SMALL}
# by the new layers' numbers, after layer 0 has gone
LESS = {1: "self_attn", 2: "mlp", 3: "self_attn"}
DROP = "0,attn:2,mlp:3,attn:4"


transformers.utils.logging.disable_progress_bar()


class Warned(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.said = []

    def emit(self, record):
        self.said.append(record.getMessage())


def opened(directory):
    heard = Warned()
    transformers.utils.logging.get_logger("transformers").addHandler(heard)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model, info = AutoModelForCausalLM.from_pretrained(directory, dtype="float32", output_loading_info=True)
    assert not any(info.values()), info
    return model.eval(), heard.said + [str(warning.message) for warning in caught]


def by_hand(model):
    """Takes layer 0 away and lets the sub-layers of LESS answer with zeros."""
    layers = model.model.layers
    del layers[0]
    for index, layer in enumerate(layers):
        layer.self_attn.layer_idx = index
    for index, name in LESS.items():
        part = getattr(layers[index], name)

        def zeros(module, arguments, output):
            return (torch.zeros_like(output[0]), *output[1:]) if isinstance(output, tuple) else torch.zeros_like(output)

        part.register_forward_hook(zeros)
    return model


def logits(model, ids):
    with torch.no_grad():
        return model(ids, use_cache=False).logits


def names(directory):
    with safe_open(directory / "model.safetensors", "pt") as file:
        return set(file.keys())


def check_nas(directory, source):
    """The rules of vLLM's nemotron_nas, TensorRT-LLM's and llama.cpp's converter, restated."""
    config = json.loads((directory / "config.json").read_text())
    assert config["model_type"] == "nemotron-nas" and config["architectures"] == ["DeciLMForCausalLM"], config
    assert "AutoConfig" in config["auto_map"] and len(config["block_configs"]) == config["num_hidden_layers"]
    have = names(directory)
    for layer, block in enumerate(config["block_configs"]):
        attention, ffn = block["attention"], block["ffn"]
        inside = f"model.layers.{layer}."
        assert attention["no_op"] == (f"{inside}self_attn.q_proj.weight" not in have)
        assert ffn["no_op"] == (f"{inside}mlp.up_proj.weight" not in have)
        assert not attention["replace_with_linear"] and not ffn["replace_with_linear"]
        if attention["n_heads_in_group"] is None:
            assert attention["no_op"] and layer > 0
        else:
            assert source.num_attention_heads // attention["n_heads_in_group"] == source.num_key_value_heads
        if ffn["ffn_mult"] is None:
            assert ffn["no_op"]
        else:
            width = int(2 * ffn["ffn_mult"] * config["hidden_size"] / 3)
            assert width + -width % 256 == source.intermediate_size


def check(name, keys, prune, work):
    torch.manual_seed(0)
    source = work / name
    config = AutoConfig.for_model(name, **keys)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(source)
    ids = torch.randint(3, 96, (2, 17))

    def cut(form):
        out = work / f"{name}-{form}"
        command = [prune, "cut", source, "--drop", DROP, "--format", form, "-o", out, "--verify", "--json"]
        done = subprocess.run(command, capture_output=True, text=True)
        return out if done.returncode == 0 else done.stderr

    before, said = opened(source)
    expected = logits(by_hand(before), ids)
    after, says = opened(cut("zeros"))
    assert set(says) <= set(said), says
    assert torch.equal(logits(after, ids), expected), name

    out = cut("per-layer")
    config = AutoConfig.from_pretrained(out)
    parts = {"self_attn": "attention", "mlp": "mlp"}
    assert [layer.skip for layer in config.per_layer_config] == [[parts[LESS[i]]] if i in LESS else [] for i in range(4)]
    norms = {"self_attn": "input_layernorm", "mlp": "post_attention_layernorm"}
    gone = tuple(f"model.layers.{i}.{part}." for i, name in LESS.items() for part in (name, norms[name]))
    assert names(out) == {key for key in names(work / f"{name}-zeros") if not key.startswith(gone)}

    out = cut("nas")
    if name in ("llama", "mistral"):
        check_nas(out, AutoConfig.from_pretrained(source))
    else:
        assert "--format nas" in out, out
    print(f"{name}: zeros bit for bit, per-layer read, nas {'read' if name in ('llama', 'mistral') else 'refused'}")


def main(prune):
    with tempfile.TemporaryDirectory() as work:
        for name, keys in FAMILIES.items():
            check(name, keys, prune, pathlib.Path(work))


if __name__ == "__main__":
    main(*sys.argv[1:])
