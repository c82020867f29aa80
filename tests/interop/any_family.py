"""Cuts families that prune does not compute, and compares with the same layers taken out by hand.

usage: python any_family.py PRUNE [NAME...]

For each family of the table a small random checkpoint is made with transformers and layers are dropped with
`prune cut --verify`. What was written must open without a warning that its source does not give, lack nothing, and its
logits must be, bit for bit, those of the source model whose other layers were removed in memory.
"""

import copy
import json
import logging
import pathlib
import subprocess
import sys
import tempfile
import warnings

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

SMALL = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2)
GPT2 = dict(vocab_size=96, n_embd=32, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2)

# name: (keys of its config, layers, those to drop, where its layers are)
FAMILIES = {
    "phimoe": (dict(**SMALL, num_local_experts=4, num_experts_per_tok=2), 6, [1, 4], "model.layers"),
    "stablelm": (SMALL, 6, [1, 3], "model.layers"),
    "falcon": (dict(vocab_size=96, hidden_size=32, num_attention_heads=4, bos_token_id=1, eos_token_id=2), 6, [1, 3],
               "transformer.h"),
    "opt": (dict(vocab_size=96, hidden_size=32, ffn_dim=48, num_attention_heads=4, max_position_embeddings=64,
                 word_embed_proj_dim=32, pad_token_id=0), 6, [1, 3], "model.decoder.layers"),
    "gpt2": (GPT2, 6, [1, 3], "transformer.h"),
    "gptj": (dict(**GPT2, rotary_dim=4), 6, [1, 3], "transformer.h"),
    "bloom": (dict(vocab_size=96, hidden_size=32, n_head=4, bos_token_id=1, eos_token_id=2), 6, [1, 3],
              "transformer.h"),
    "mpt": (dict(vocab_size=96, d_model=32, n_heads=4, max_seq_len=64), 6, [1, 3], "transformer.blocks"),
    "gemma3": (dict(text_config=dict(**SMALL, head_dim=8, sliding_window=4, query_pre_attn_scalar=8),
                    vision_config=dict(hidden_size=16, intermediate_size=24, num_hidden_layers=8, image_size=28,
                                       num_attention_heads=2, patch_size=14), mm_tokens_per_image=1), 8, [2, 5],
               "model.language_model.layers"),
    "mamba": (dict(vocab_size=96, hidden_size=32, state_size=4), 6, [1, 3], "backbone.layers"),
}

# keys with one value for each layer, as transformers keeps them in a config
LISTS = ("layer_types", "mlp_layer_types", "no_rope_layers")


class Collected(logging.Handler):
    """Every record of transformers' loggers."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())

    def take(self):
        lines, self.lines = self.lines, []
        return set(lines)


def check(condition, message):
    if not condition:
        sys.exit(f"any_family: {message}")


def layer_key(config):
    return next(key for key in ("num_hidden_layers", "n_layer", "n_layers") if key in config.to_dict())


def by_hand(model, kept, path):
    """The model with the layers `kept` alone."""
    model = copy.deepcopy(model)
    parent = model.get_submodule(path.rsplit(".", 1)[0])
    layers = getattr(parent, path.rsplit(".", 1)[1])
    setattr(parent, path.rsplit(".", 1)[1], torch.nn.ModuleList(layers[layer] for layer in kept))
    config = model.config.get_text_config()
    lists = {key: [config.to_dict()[key][layer] for layer in kept] for key in LISTS if config.to_dict().get(key)}
    config.num_hidden_layers = len(kept)
    for key, values in lists.items():
        setattr(config, key, values)
    for module in model.modules():
        if type(getattr(module, "config", None)) is type(config):
            module.config = config
    return model


def logits(model, ids):
    with torch.no_grad():
        return model(ids, use_cache=False).logits


def one(prune, name, work, collected):
    keys, layers, dropped, path = FAMILIES[name]
    torch.manual_seed(len(name))
    if "text_config" in keys:
        keys = {**keys, "text_config": {**keys["text_config"], "num_hidden_layers": layers}}
        config, auto = AutoConfig.for_model(name, **keys), AutoModelForImageTextToText
    else:
        config, auto = AutoConfig.for_model(name, **keys), AutoModelForCausalLM
        config = type(config)(**{**keys, layer_key(config): layers})
    source = auto.from_config(config, dtype=torch.float32).eval()
    # norms and biases that are not all alike, so that a layer in the wrong place is seen
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    source.save_pretrained(work / "source")
    collected.take()
    source, known_info = auto.from_pretrained(work / "source", dtype=torch.float32, output_loading_info=True)
    known = collected.take()
    drop = ",".join(map(str, dropped))
    out = subprocess.run([prune, "cut", work / "source", "--drop", drop, "-o", work / "cut", "--verify", "--json"],
                         capture_output=True, text=True)
    check(out.returncode == 0, f"{name}: {out.stderr}")
    report = json.loads(out.stdout)
    check(report["identical"]["tensors"] > 0 and report["not_computed"], f"{name}: {report}")
    cut, info = auto.from_pretrained(work / "cut", dtype=torch.float32, output_loading_info=True)
    new = collected.take() - known
    check(not new, f"{name}: transformers says: " + " | ".join(new))
    for fault in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        check(not info.get(fault) or info.get(fault) == known_info.get(fault), f"{name}: {fault}: {info.get(fault)}")
    kept = [layer for layer in range(layers) if layer not in dropped]
    stack = cut.get_submodule(path)
    check(len(stack) == len(kept), f"{name}: {len(stack)} layers")
    ids = torch.arange(3, 27).unsqueeze(0)
    expected, found = logits(by_hand(source, kept, path), ids), logits(cut, ids)
    check(torch.equal(expected, found), f"{name}: logits differ by {(expected - found).abs().max():.3g}")
    check(not torch.equal(logits(source, ids), found), f"{name}: the cut changed nothing")
    edited = ", ".join(edit["key"] for edit in report["config"])
    print(f"{name}: layers {drop} of {layers} gone, logits alike; config: {edited}", flush=True)


def main():
    prune, names = sys.argv[1], sys.argv[2:] or list(FAMILIES)
    warnings.simplefilter("ignore")
    collected = Collected()
    logger = logging.getLogger("transformers")
    logger.addHandler(collected)
    logger.propagate = False
    for name in names:
        with tempfile.TemporaryDirectory() as work:
            one(prune, name, pathlib.Path(work), collected)
    print(f"{len(names)} families that are not computed open after a cut, transformers {transformers.__version__}")


if __name__ == "__main__":
    main()
