"""Compares the losses that `prune heal` prints of the uncut, the cut and the healed model with transformers' on the same
tokens, to 1e-3 nats a token.

    python tests/interop/heal_losses.py PRUNE MODEL TRAIN VALIDATION [WORDS...]

The model is cut (the last but one quarter of its layers), healed for a few steps and written; the tokens are those of the
first validation documents, cut off at 48. WORDS are more settings of the healing.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

SEQ_LEN, SAMPLES = 48, 20


def loss(place, rows):
    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()
    total, tokens = 0.0, 0
    with torch.no_grad():
        for row in rows:
            ids = torch.tensor([row])
            logits = model(ids).logits[0, :-1].double()
            total += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
            tokens += len(row) - 1
    return total / tokens


def main():
    prune, model, train, validation, *words = sys.argv[1:]
    prune, model, train, validation = (str(pathlib.Path(path).resolve()) for path in (prune, model, train, validation))
    layers = json.loads((pathlib.Path(model) / "config.json").read_text())["num_hidden_layers"]
    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = [json.loads(line)["text"] for line in open(validation, encoding="utf-8") if line.strip()]
    rows = (tokenizer(text).input_ids[:SEQ_LEN] for text in texts)
    rows = [row for row in rows if len(row) > 1][:SAMPLES]
    with tempfile.TemporaryDirectory() as where:

        def run(*line):
            done = subprocess.run([prune, *map(str, line), "--json"], cwd=where, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"heal_losses: prune {' '.join(map(str, line))}: {done.stderr}")
            return json.loads(done.stdout)

        run("cut", model, "--drop", f"{layers // 2}-{layers // 2 + layers // 4 - 1}", "-o", "cut")
        settings = ["--packing", "document", "--seq-len", SEQ_LEN, "--eval-samples", SAMPLES, "--batch", 4, "--steps", 10]
        settings += ["--rank", 8, "--target", "all-linear", "--lr", 2e-3, "--keep-last", *words]
        report = run("heal", "cut", "--data", train, "--eval-data", validation, *settings, "-o", "healed")
        measured = report["result"]["measured"]
        if measured["text"]["tokens"] != sum(map(len, rows)):
            sys.exit(f"heal_losses: {measured['text']}, here {sum(map(len, rows))} tokens")
        if measured["healed"] == measured["cut"]:
            sys.exit("heal_losses: the healing changed nothing, which would show nothing")
        for name, place in [("uncut", model), ("cut", f"{where}/cut"), ("healed", f"{where}/healed/merged")]:
            expected = loss(place, rows)
            if abs(measured[name] - expected) > 1e-3:
                sys.exit(f"heal_losses: {name} {measured[name]}, transformers {expected}")
            print(f"heal_losses: {name} {measured[name]:.6f}, transformers {expected:.6f}")


main()
