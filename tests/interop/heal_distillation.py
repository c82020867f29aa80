"""Compares a step of distillation with transformers, PEFT, TRL and PyTorch: what `prune heal` logs of the loss, the
cross-entropy, the difference of hidden states and the norm of the gradients, for each divergence.

    python tests/interop/heal_distillation.py PRUNE MODEL TRAIN

The model is cut and healed for a few steps, so that no part of the adapter is zero; then one step at a learning rate of 0
goes on from that adapter with the uncut model as its teacher, on the first documents, cut off at 48 tokens. Numbers are
held to 1e-4 of their size."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.experimental.gkd import GKDTrainer

SEQ_LEN, BATCH = 48, 6
WEIGHT, TEMPERATURE, HIDDEN = 0.7, 1.5, 0.25
CASES = [("kl", [], 0.0), ("reverse-kl", [], 1.0), ("jsd", [], 0.5), ("jsd", ["--jsd-beta", 0.1], 0.1)]


def load(place):
    return AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()


def streams(model, ids):
    """What enters each layer, and the logits."""
    out = model(ids, output_hidden_states=True)
    return out.hidden_states[:-1], out.logits[:, :-1]


def expected(student, teacher, rows, depths, beta):
    parameters = [p for name, p in student.named_parameters() if "lora_" in name]
    for parameter in parameters:
        parameter.requires_grad_(True)
        parameter.grad = None
    targets, tokens = sum(len(row) - 1 for row in rows), sum(map(len, rows))
    own_depth, teacher_depth = depths
    hard = soft = squares = 0.0
    for row in rows:
        ids = torch.tensor([row])
        own, logits = streams(student, ids)
        with torch.no_grad():
            other, others = streams(teacher, ids)
        hard = hard + torch.nn.functional.cross_entropy(logits[0], ids[0, 1:], reduction="sum")
        soft = soft + GKDTrainer.generalized_jsd_loss(logits, others, beta=beta, temperature=TEMPERATURE, reduction="sum")
        squares = squares + (own[own_depth] - other[teacher_depth]).square().sum() / own[own_depth].shape[-1]
    # KL is scaled by the temperature squared
    scale = TEMPERATURE**2 if beta == 0 else 1.0
    hard, soft, squares = hard / targets, soft / targets * scale, squares / tokens
    loss = (1 - WEIGHT) * hard + WEIGHT * soft + HIDDEN * squares
    loss.backward()
    norm = sum(parameter.grad.double().square().sum().item() for parameter in parameters) ** 0.5
    return {"loss": loss.item(), "cross_entropy": hard.item(), "hidden": squares.item(), "grad_norm": norm}


def main():
    prune, model, train = (str(pathlib.Path(path).resolve()) for path in sys.argv[1:])
    layers = json.loads((pathlib.Path(model) / "config.json").read_text())["num_hidden_layers"]
    first, last = layers // 2, layers // 2 + layers // 4 - 1
    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = [json.loads(line)["text"] for line in open(train, encoding="utf-8") if line.strip()]
    rows = [row for row in (tokenizer(text).input_ids[:SEQ_LEN] for text in texts[:99]) if len(row) > 1][:BATCH]
    with tempfile.TemporaryDirectory() as where:

        def run(*line):
            done = subprocess.run([prune, *map(str, line), "--quiet"], cwd=where, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"heal_distillation: prune {' '.join(map(str, line))}: {done.stderr}")

        run("cut", model, "--drop", f"{first}-{last}", "-o", "cut")
        text = ["--data", train, "--packing", "document", "--seq-len", SEQ_LEN, "--batch", BATCH, "--shuffle-window", 1]
        text += ["--dropout", 0, "--quant", "none", "--warmup", 0, "--adapter-only", "--keep-last", "--dtype", "f32"]
        run("heal", "cut", *text, "--rank", 8, "--target", "all-linear", "--lr", 2e-3, "--steps", 6, "-o", "begun")
        student = PeftModel.from_pretrained(load(f"{where}/cut"), f"{where}/begun/adapter").eval()
        teacher = load(model)
        for name, words, beta in CASES:
            line = ["heal", "cut", *text, "--adapter", "begun/adapter", "--lr", 0, "--steps", 1, "--teacher", model]
            line += ["--teacher-weight", WEIGHT, "--temperature", TEMPERATURE, "--divergence", name, *words]
            line += ["--hidden-states", "seam", "--hidden-weight", HIDDEN, "--force", "-o", "taught"]
            run(*line)
            found = json.loads((pathlib.Path(where) / "taught/log.jsonl").read_text().splitlines()[0])
            for key, value in expected(student, teacher, rows, (first, last + 1), beta).items():
                if abs(found[key] - value) > 1e-4 * max(abs(value), 0.1):
                    sys.exit(f"heal_distillation: {name} {beta}: {key} {found[key]}, PyTorch {value}")
                print(f"heal_distillation: {name} {beta}: {key} {found[key]:.6f}, PyTorch {value:.6f}")


main()
