"""Opens cut checkpoints in transformers and fails on anything a user would have to notice.

usage: python open_cut.py DIR... [--layers N] [--sources DIR]

For each checkpoint:
- from_pretrained gives no warning: Python's are errors, and nothing at WARNING or above reaches transformers' log
  (newly initialised weights, unexpected keys, unknown dtypes are all reported there). With --sources, what
  transformers says of the source of the same name is no fault of the cut.
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


def load(path):
    """The model and what transformers reports about loading it."""
    model, info = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    return model.eval(), info


def open_cut(path, layers, source, collected):
    collected.lines.clear()
    known = set()
    if source is not None:
        AutoConfig.from_pretrained(source)
        load(source)
        known.update(collected.lines)
        collected.lines.clear()

    def quiet():
        said = [line for line in collected.lines if line not in known]
        check(not said, f"{path}: transformers says: " + " | ".join(said))

    config = AutoConfig.from_pretrained(path)
    model, info = load(path)
    quiet()
    for fault in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        check(not info.get(fault), f"{path}: {fault}: {info.get(fault)}")

    raw = json.loads((path / "config.json").read_text())
    stack = model.model.layers
    check(len(stack) == config.num_hidden_layers == raw["num_hidden_layers"], f"{path}: {len(stack)} layers")
    check(layers in (None, len(stack)), f"{path}: {len(stack)} layers, expected {layers}")
    places = [layer.self_attn.layer_idx for layer in stack]
    check(places == list(range(len(stack))), f"{path}: layer_idx of the attentions: {places}")
    for key in ("layer_types", "no_rope_layers", "mlp_layer_types"):
        listed = getattr(config, key, None)
        check(listed is None or len(listed) == len(stack), f"{path}: {key} has {len(listed or [])} entries")

    # half of the context at most for the prompt, the rest for what is generated
    context = min(config.max_position_embeddings, 20)
    prompt = torch.arange(3, 3 + context // 2).remainder(config.vocab_size).unsqueeze(0)
    tokens = context - prompt.shape[1] - 1
    settings = dict(max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0)
    settings["attention_mask"] = torch.ones_like(prompt)
    with torch.no_grad():
        check(bool(torch.isfinite(model(prompt).logits).all()), f"{path}: logits are not finite")
        cached = model.generate(prompt, use_cache=True, **settings)
        plain = model.generate(prompt, use_cache=False, **settings)
        slots = len(model(prompt, use_cache=True).past_key_values)
    check(cached.shape[1] == prompt.shape[1] + tokens, f"{path}: {cached.shape[1]} tokens")
    check(torch.equal(cached, plain), f"{path}: the cache changes the tokens: {cached.tolist()} and {plain.tolist()}")
    check(slots == len(stack), f"{path}: the cache has {slots} slots for {len(stack)} layers")
    quiet()
    print(f"open_cut: {path}: {len(stack)} layers, no warning, {tokens} tokens are the same with and without cache")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dirs", nargs="+", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--layers", type=int, help="layers each checkpoint must have")
    parser.add_argument("--sources", type=pathlib.Path, help="directory that holds each source under the cut's name")
    args = parser.parse_args()

    warnings.simplefilter("error")
    collected = Collected()
    transformers.utils.logging.set_verbosity_warning()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("transformers").addHandler(collected)
    torch.manual_seed(0)
    for path in args.dirs:
        open_cut(path, args.layers, args.sources and args.sources / path.name, collected)


if __name__ == "__main__":
    main()
