"""Questions a second of gsm8k_cot, eight examples before each and 256 new tokens at most: prune eval and
lm-evaluation-harness's hf backend by turns, on two threads, f32 against f32 (or --dtype bf16 against bfloat16).

  python benches/gsm8k_cot.py PRUNE MODEL GSM8K --limit 8 --batches 1,8

GSM8K is a folder with test.jsonl and train.jsonl. What both say is compared, question by question.
"""

import argparse
import glob
import json
import logging
import os
import statistics
import subprocess
import tempfile
import time

import lm_eval
import torch
import yaml
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("prune")
parser.add_argument("model")
parser.add_argument("data")
parser.add_argument("--limit", type=int, default=8)
parser.add_argument("--batches", default="1,8")
parser.add_argument("--turns", type=int, default=2)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
args = parser.parse_args()
torch.set_num_threads(args.threads)
logging.disable(logging.WARNING)
os.environ["RAYON_NUM_THREADS"] = str(args.threads)


def prune(out):
    data = os.path.join(out, "data")
    os.makedirs(data)
    os.symlink(os.path.abspath(args.data), os.path.join(data, "gsm8k"))
    command = [args.prune, "eval", args.model, "--tasks", "gsm8k_cot", "--limit", str(args.limit), "--data-dir", data]
    command += ["--dtype", args.dtype, "--device", "cpu", "-o", os.path.join(out, "scores"), "--json"]
    report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    lines = open(glob.glob(os.path.join(out, "scores", "*", "samples_*.jsonl"))[0])
    said = [row["resps"][0][0] for row in map(json.loads, lines) if row["filter"] == "strict-match"]
    return report["passes"]["seconds"], said


def harness(model, manager):
    started = time.perf_counter()
    results = lm_eval.simple_evaluate(
        model, tasks=["gsm8k_cot_here"], limit=args.limit, log_samples=True, bootstrap_iters=0, task_manager=manager
    )
    rows = [row for row in results["samples"]["gsm8k_cot_here"] if row["filter"] == "strict-match"]
    return time.perf_counter() - started, [row["resps"][0][0] for row in sorted(rows, key=lambda row: row["doc_id"])]


with tempfile.TemporaryDirectory() as tasks:
    own = os.path.join(os.path.dirname(lm_eval.__file__), "tasks", "gsm8k", "gsm8k-cot.yaml")
    task = yaml.safe_load(open(own))
    files = {split: os.path.abspath(os.path.join(args.data, f"{split}.jsonl")) for split in ["test", "train"]}
    task |= {"task": "gsm8k_cot_here", "dataset_path": "json", "dataset_kwargs": {"data_files": files}}
    [task.pop(key, None) for key in ["tag", "dataset_name"]]
    yaml.safe_dump(task, open(os.path.join(tasks, "task.yaml"), "w"), sort_keys=False)
    manager = TaskManager(include_path=tasks, include_defaults=False)
    dtype = {"f32": "float32", "bf16": "bfloat16"}[args.dtype]
    peers = {
        batch: HFLM(pretrained=args.model, dtype=dtype, device="cpu", batch_size=int(batch))
        for batch in args.batches.split(",")
    }
    times = {name: [] for name in ["prune", *peers]}
    said = {}
    for _ in range(args.turns):
        with tempfile.TemporaryDirectory() as out:
            seconds, said["prune"] = prune(out)
        times["prune"].append(seconds)
        for batch, model in peers.items():
            seconds, said[batch] = harness(model, manager)
            times[batch].append(seconds)

rates = {name: args.limit / statistics.median(seconds) for name, seconds in times.items()}
for name, rate in rates.items():
    print(f"{'prune' if name == 'prune' else f'lm-eval, batch {name}':20} {rate:.4f} questions/s  {times[name]}")
best = max(rate for name, rate in rates.items() if name != "prune")
print(f"prune / the fastest: {rates['prune'] / best:.2f}")
for batch in peers:
    same = sum(a == b for a, b in zip(said["prune"], said[batch]))
    print(f"the same text as at batch {batch}: {same} of {args.limit}")
