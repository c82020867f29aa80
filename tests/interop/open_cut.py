"""Opens a cut checkpoint in transformers and fails on anything a user would have to notice.

usage: python open_cut.py DIR [--layers N]

- from_pretrained gives no warning: Python's are errors, and nothing at WARNING or above reaches transformers' log
  (newly initialised weights, unexpected keys, unknown dtypes are all reported there)
- no weight is missing, left over or of another shape; the model has the layers that the config and N say
- every attention knows its own place, 0 to L-1, so a KV cache has one slot for each layer
- greedy generation with the cache gives the tokens that it gives without
- logits are finite
"""

import argparse
import json
import logging
import pathlib
import sys
import warnings

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM


class Collected(logging.Handler):
    """Every record of transformers' loggers."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []

    def emit(self, record):
        self.lines.append(f"{record.levelname} {record.name}: {record.getMessage()}")


def check(condition, message):
    if not condition:
        sys.exit(f"open_cut: {message}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=pathlib.Path)
    parser.add_argument("--layers", type=int, help="layers the checkpoint must have")
    parser.add_argument("--tokens", type=int, default=12, help="tokens to generate")
    args = parser.parse_args()

    warnings.simplefilter("error")
    collected = Collected()
    transformers.utils.logging.set_verbosity_warning()
    transformers.utils.logging.disable_progress_bar()
    root = logging.getLogger("transformers")
    root.addHandler(collected)
    torch.manual_seed(0)

    config = AutoConfig.from_pretrained(args.dir)
    model, info = AutoModelForCausalLM.from_pretrained(args.dir, dtype=torch.float32, output_loading_info=True)
    model.eval()
    check(not collected.lines, "transformers says: " + " | ".join(collected.lines))
    for fault in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        check(not info.get(fault), f"{fault}: {info.get(fault)}")

    raw = json.loads((args.dir / "config.json").read_text())
    layers = model.model.layers
    check(len(layers) == config.num_hidden_layers == raw["num_hidden_layers"], f"{len(layers)} layers")
    check(args.layers in (None, len(layers)), f"{len(layers)} layers, expected {args.layers}")
    places = [layer.self_attn.layer_idx for layer in layers]
    check(places == list(range(len(layers))), f"layer_idx of the attentions: {places}")
    for key in ("layer_types", "no_rope_layers", "mlp_layer_types"):
        listed = getattr(config, key, None)
        check(listed is None or len(listed) == len(layers), f"{key} has {len(listed or [])} entries")

    prompt = torch.arange(3, 3 + 8).remainder(config.vocab_size).unsqueeze(0)
    mask = torch.ones_like(prompt)
    with torch.no_grad():
        logits = model(prompt).logits
        check(bool(torch.isfinite(logits).all()), "logits are not finite")
        settings = dict(max_new_tokens=args.tokens, min_new_tokens=args.tokens, do_sample=False, attention_mask=mask)
        settings["pad_token_id"] = 0
        cached = model.generate(prompt, use_cache=True, **settings)
        plain = model.generate(prompt, use_cache=False, **settings)
        outcome = model(prompt, use_cache=True)
    check(torch.equal(cached, plain), f"the cache changes the tokens: {cached.tolist()} and {plain.tolist()}")
    check(cached.shape[1] == prompt.shape[1] + args.tokens, f"{cached.shape[1]} tokens")
    slots = len(outcome.past_key_values)
    check(slots == len(layers), f"the cache has {slots} slots for {len(layers)} layers")
    check(not collected.lines, "transformers says: " + " | ".join(collected.lines))
    print(f"open_cut: {args.dir}: {len(layers)} layers, no warning, cache and no cache agree on {args.tokens} tokens")


if __name__ == "__main__":
    main()
