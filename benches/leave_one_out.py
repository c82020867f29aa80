"""Leave-one-out losses of every layer: `prune analyze --metrics layer-loss` against a loop over transformers' layers.

leave_one_out.py PRUNE MODEL TEXT.jsonl [--samples 16] [--seq-len 256] [--rounds 3] [--dtypes float32,bfloat16]

Both read the same documents cut at the same length and run on the same threads, by turns; loading is not counted. Sequences of
one length go through transformers eight at a time. The losses have to agree (in f32 to 1e-3 nats) before times are compared;
the last lines have the ratios of the medians, of ours in f32 and, where the processor can, in bf16. Needs torch and
transformers.
"""

import argparse
import json
import os
import statistics
import subprocess
import time

ap = argparse.ArgumentParser()
ap.add_argument("prune")
ap.add_argument("model")
ap.add_argument("text")
ap.add_argument("--samples", type=int, default=16)
ap.add_argument("--seq-len", type=int, default=256)
ap.add_argument("--rounds", type=int, default=3)
ap.add_argument("--dtypes", default="float32,bfloat16")
args = ap.parse_args()

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
import torch  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

torch.set_num_threads(len(os.sched_getaffinity(0)))
tokenizer = AutoTokenizer.from_pretrained(args.model)
rows = []
for line in open(args.text, encoding="utf-8"):
    ids = tokenizer(json.loads(line)["text"])["input_ids"][: args.seq_len]
    if len(ids) > 1:
        rows.append(ids)
    if len(rows) == args.samples:
        break
by_length = {}
for ids in rows:
    by_length.setdefault(len(ids), []).append(ids)
batches = [torch.tensor(same[at : at + 8]) for same in by_length.values() for at in range(0, len(same), 8)]


@torch.inference_mode()
def loss(model):
    total = tokens = 0
    for batch in batches:
        logits = model(batch).logits[:, :-1].float()
        total += torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum").item()
        tokens += batch[:, 1:].numel()
    return total / tokens


def theirs(model):
    layers = model.model.layers
    start = time.perf_counter()
    whole = loss(model)
    rises = []
    for gone in range(len(layers)):
        model.model.layers = torch.nn.ModuleList(layer for at, layer in enumerate(layers) if at != gone)
        rises.append(loss(model) - whole)
    model.model.layers = layers
    return time.perf_counter() - start, rises


def ours(dtype):
    command = [args.prune, "analyze", args.model, "--data", args.text, "--samples", str(args.samples)]
    command += ["--seq-len", str(args.seq_len), "--metric", "layer-loss", "--metrics", "layer-loss", "--json"]
    done = subprocess.run([*command, "--dtype", dtype], capture_output=True, text=True)
    if done.returncode == 2 and "AVX512_BF16" in done.stderr:
        return None
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    scores = next(own for own in report["analysis"]["scores"] if own["metric"] == "layer-loss")
    return report["pass"]["seconds"], scores["mean"][0]


dtypes = args.dtypes.split(",")
models = {
    name: AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, name), use_cache=False).eval()
    for name in dtypes
}
own = {name: name for name in ["f32", "bf16"] if ours(name) is not None}
times = {name: [] for name in [*own, *dtypes]}
for turn in range(args.rounds + 1):
    for name in own:
        seconds, found = ours(name)
        own[name] = found
        if turn:
            times[name].append(seconds)
    for name, model in models.items():
        seconds, rises = theirs(model)
        apart = max(abs(a - b) for a, b in zip(own["f32"], rises, strict=True))
        assert name != "float32" or apart < 1e-3, (apart, own["f32"], rises)
        if turn:
            times[name].append(seconds)
        print(f"{'warm-up' if not turn else f'round {turn}'} {name}: {seconds:.2f} s, losses {apart:.1e} apart", flush=True)
medians = {name: statistics.median(own) for name, own in times.items()}
print({name: round(median, 2) for name, median in medians.items()})
for name in own:
    print(f"ours in {name}, times faster:", {peer: round(medians[peer] / medians[name], 2) for peer in dtypes})
