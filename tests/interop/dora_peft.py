"""Trains DoRA adapters in PEFT and with `prune heal`, from the same start on the same sequences, and compares every step.

    python tests/interop/dora_peft.py --prune target/release/prune --demo DIR

DIR is what `prune demo --extract` made. PEFT makes an adapter with use_dora on a cut model, magnitudes and B shaken, and
both train it on for ten steps of AdamW, without dropout. Losses are compared to 2e-5, norms of gradients to 1e-3 of their
size, the adapters that come of it to 1e-3; PEFT merges our adapter to the model that we merged, but for the rounding of
its weights. Exits 0 when they agree, 1 when not, 77 when a Python package is missing."""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
try:
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer
except ImportError as missing:
    print("skipped:", missing)
    sys.exit(77)

STEPS, BATCH, LENGTH, RATE = 10, 4, 48, 3e-3


def check(condition, message):
    if not condition:
        sys.exit(f"dora_peft: {message}")


def run(prune, where, *words):
    done = subprocess.run([prune, *map(str, words), "--quiet"], cwd=where, capture_output=True, text=True)
    check(done.returncode == 0, f"prune {' '.join(map(str, words))}: {done.stderr}")


def cut(where):
    return AutoModelForCausalLM.from_pretrained(where / "cut", dtype=torch.float32)


def start(where):
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=6, target_modules="all-linear", use_dora=True, task_type="CAUSAL_LM")
    model = get_peft_model(cut(where), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "magnitude" in name:
            parameter.data += 0.02 * torch.randn_like(parameter)
    model.save_pretrained(where / "start")


def train(where, rows):
    """Losses and norms of PEFT's steps; the adapter is left in `theirs`."""
    model = PeftModel.from_pretrained(cut(where), where / "start", is_trainable=True).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)
    losses, norms = [], []
    for step in range(STEPS):
        batch = rows[step * BATCH : (step + 1) * BATCH]
        total = torch.zeros(())
        for row in batch:
            ids = torch.tensor([row])
            total = total + torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="sum")
        loss = total / sum(len(row) - 1 for row in batch)
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(trained, 1e9).item())
        optimizer.step()
        losses.append(loss.item())
    model.save_pretrained(where / "theirs")
    return losses, norms


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prune", required=True, help="the binary")
    parser.add_argument("--demo", required=True, type=pathlib.Path, help="what `prune demo --extract` made")
    args = parser.parse_args()
    prune, demo = os.path.abspath(args.prune), args.demo.resolve()
    with tempfile.TemporaryDirectory() as directory:
        where = pathlib.Path(directory)
        layers = json.loads((demo / "model/config.json").read_text())["num_hidden_layers"]
        run(prune, where, "cut", demo / "model", "--drop", f"{layers // 2}-{layers - 2}", "-o", "cut")
        tokenizer = AutoTokenizer.from_pretrained(where / "cut")
        texts = [json.loads(line)["text"] for line in open(demo / "text/train.jsonl", encoding="utf-8")]
        rows = [tokenizer(text).input_ids[:LENGTH] for text in texts][: STEPS * BATCH]
        (where / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[: len(rows)]))
        start(where)
        losses, norms = train(where, rows)
        run(prune, where, "heal", "cut", "--data", "texts.jsonl", "--adapter", "start", "--packing", "document",
            "--separator", "none", "--shuffle-window", 1, "--seq-len", LENGTH, "--batch", BATCH, "--steps", STEPS,
            "--lr", RATE, "--schedule", "constant", "--warmup", 0, "--clip", 0, "--dropout", 0, "--quant", "none",
            "-o", "ours")
        log = [json.loads(line) for line in open(where / "ours/log.jsonl", encoding="utf-8")]
        log = [line for line in log if "grad_norm" in line]
        check(len(log) == STEPS, f"{len(log)} steps in the log")
        loss = max(abs(line["loss"] - other) for line, other in zip(log, losses))
        norm = max(abs(line["grad_norm"] - other) / other for line, other in zip(log, norms))
        print(f"dora_peft: {STEPS} steps: losses {losses[0]:.4f} to {losses[-1]:.4f} {loss:.1e} apart, norms {norm:.1e}")
        check(loss < 2e-5 and norm < 1e-3, "the steps differ")

        ours = load_file(where / "ours/adapter/adapter_model.safetensors")
        theirs = load_file(where / "theirs/adapter_model.safetensors")
        check(ours.keys() == theirs.keys(), "the adapters have other tensors")
        before = load_file(where / "start/adapter_model.safetensors")
        moved = min((theirs[name] - before[name]).abs().max().item() for name in theirs)
        check(moved > RATE, f"PEFT learned nothing: a tensor moved by {moved}")
        # AdamW's first steps go by the sign of a gradient, and that of one near zero by its last bit
        apart = {part: max((ours[name] - theirs[name]).abs().max().item() for name in ours if part in name)
                 for part in ("lora_A", "lora_B", "lora_magnitude_vector")}
        print(f"dora_peft: adapters apart {apart}")
        check(max(apart.values()) < 1e-3, "the adapters differ")

        ids = torch.tensor([rows[0]])
        with torch.no_grad():
            opened = PeftModel.from_pretrained(cut(where), where / "ours/adapter").eval()
            logits = opened(ids).logits
            merged = opened.merge_and_unload()(ids).logits
            written = AutoModelForCausalLM.from_pretrained(where / "ours/merged", dtype=torch.float32)(ids).logits
        check((logits - merged).abs().max() < 1e-3, "PEFT's merge differs from its adapter")
        off = (written - merged).abs().max().item()
        print(f"dora_peft: our merged model's logits are {off:.1e} beside PEFT's merge, weights rounded to their type")
        check(off < 0.2, "the merged models differ")


if __name__ == "__main__":
    main()
