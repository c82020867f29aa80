"""Computes what `prune eval` wrote again: log-likelihoods of questions and losses of texts, by lm-evaluation-harness with
transformers in f32, and the scores that follow from them.

usage: python recomputed.py MODEL SCORES [--questions N] [--texts N]

SCORES is a directory of `prune eval -o`, or of a run's scores. Every loss has to agree to 1e-4 nats a token, every
log-likelihood to 1e-3 nats, every answer where no two are that close.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

LOSS, LIKELIHOOD = 1e-4, 1e-3


def samples(scores, most):
    for path in sorted(scores.rglob("samples_*.jsonl")):
        task = path.name.removeprefix("samples_").rpartition("_")[0]
        with open(path, encoding="utf-8") as lines:
            rows = [json.loads(line) for line, _ in zip(lines, range(most))]
        yield task, rows


def requests(row):
    return [tuple(argument.values()) for argument in row["arguments"].values()]


def questions(model, rows):
    pairs = [(at, pair) for at, row in enumerate(rows) for pair in requests(row)]
    asked = [Instance("loglikelihood", {}, pair, index) for index, (_, pair) in enumerate(pairs)]
    theirs = [found for found, _ in model.loglikelihood(asked, disable_tqdm=True)]
    worst, changed, place = 0.0, 0, 0
    for row in rows:
        ours = [float(response[0][0]) for response in row["resps"]]
        own = theirs[place : place + len(ours)]
        place += len(ours)
        worst = max([worst] + [abs(a - b) for a, b in zip(ours, own)])
        best = sorted(own, reverse=True)
        is_close = len(best) > 1 and best[0] - best[1] < 2 * LIKELIHOOD
        changed += ours.index(max(ours)) != own.index(max(own)) and not is_close
    return len(rows), worst, changed, LIKELIHOOD


def texts(model, rows):
    """Losses a token: the harness gives sums over all tokens of a text, its first included."""
    asked = [Instance("loglikelihood_rolling", {}, (requests(row)[0][0],), index) for index, row in enumerate(rows)]
    theirs = model.loglikelihood_rolling(asked, disable_tqdm=True)
    worst = 0.0
    for row, own in zip(rows, theirs):
        tokens = len(model.tok_encode(requests(row)[0][0], add_special_tokens=False))
        ours = float(row["resps"][0][0] if isinstance(row["resps"][0], list) else row["resps"][0])
        worst = max(worst, abs(ours - own) / tokens)
    return len(rows), worst, 0, LOSS


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("scores", type=Path)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--texts", type=int, default=50)
    args = parser.parse_args()
    model = HFLM(pretrained=str(args.model), dtype=torch.float32, device="cpu", batch_size=4)
    compared = 0
    for task, rows in samples(args.scores, max(args.questions, args.texts)):
        kind = requests(rows[0])
        if len(kind) > 1 and len(kind[0]) == 2:
            count, worst, changed, bound = questions(model, rows[: args.questions])
            what = "questions, log-likelihoods"
        elif len(kind[0]) == 1:
            count, worst, changed, bound = texts(model, rows[: args.texts])
            what = "texts, losses"
        else:
            continue
        print(f"recomputed: {task}: {count} {what} within {worst:.1e}, {changed} other answers")
        if not worst <= bound or changed:
            sys.exit(f"recomputed: {args.model}: {task} is off by more than {bound}")
        compared += count
    if not compared:
        sys.exit(f"recomputed: nothing to compare in {args.scores}")


main()
