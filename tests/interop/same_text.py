"""Continues texts greedily with prune and with transformers and fails where they differ.

usage: python same_text.py PRUNE DIR...
"""

import json
import subprocess
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS = ["The moon", "Queen", "Question: is it", "The food of the"]
TOKENS = 48


def theirs(model, tokenizer, prompt):
    """The text, and whether it could as well have gone on otherwise: two tokens within rounding of each other."""
    inputs = tokenizer(prompt, return_tensors="pt")
    start = inputs.input_ids.shape[1]
    out = model.generate(
        **inputs, max_new_tokens=TOKENS, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    ids = out.sequences[0][start:]
    gaps = [step[0].topk(2).values for step in out.logits]
    close = min((top[0] - top[1]).item() for top in gaps) < 1e-4
    return tokenizer.decode(ids, skip_special_tokens=True), close


def main():
    prune, *places = sys.argv[1:]
    compared = 0
    for place in places:
        model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(place)
        for prompt in PROMPTS:
            line = [prune, "sample", place, "--prompt", prompt, "--tokens", str(TOKENS), "--json"]
            report = json.loads(subprocess.run(line, check=True, capture_output=True).stdout)
            ours = report["continuations"][0]["text"]
            expected, close = theirs(model, tokenizer, prompt)
            if ours.strip() != expected.strip() and not close:
                sys.exit(f"same_text: {place}, {prompt!r}:\n  prune        {ours!r}\n  transformers {expected!r}")
            compared += not close
    if compared < 2 * len(places):
        sys.exit(f"same_text: only {compared} texts could be compared")
    print(f"same text: {compared} continuations equal transformers'")


main()
