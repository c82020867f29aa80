"""Records the divergences of distillation as TRL's GKD computes them, with PyTorch's gradients.

    python tests/interop/divergences.py            writes tests/data/golden/divergences.json
    python tests/interop/divergences.py --check    computes them again and compares to 1e-12

Rows of logits come from a formula: student and teacher far apart, near each other, and the teacher sure of one token.
Each case is a beta (0 is KL(teacher || student), 1 its reverse) and a temperature: the sum over the rows, and its
gradient by the student's logits."""

import json
import math
import pathlib
import sys

try:
    import torch
    from trl.experimental.gkd import GKDTrainer
except ImportError as missing:
    print("skipped:", missing)
    sys.exit(77)

FILE = pathlib.Path(__file__).resolve().parents[1] / "data/golden/divergences.json"
VOCABULARY = 24
CASES = [(0.0, 1.0), (0.0, 2.0), (1.0, 1.0), (1.0, 2.0), (0.5, 1.0), (0.5, 2.0), (0.1, 1.0), (0.9, 0.7)]


def logits():
    # numbers that f32 holds exactly
    wave = lambda scale, step: [round(64 * scale * math.sin(step * (i + 1))) / 64 for i in range(VOCABULARY)]
    student = [wave(3.0, 1.7), wave(2.0, 0.9), wave(1.0, 2.3)]
    near = [x + y for x, y in zip(student[1], wave(0.05, 1.1))]
    sure = [30.0 if i == 5 else x for i, x in enumerate(wave(2.0, 0.4))]
    return student, [wave(3.0, 2.9), near, sure]


def main():
    student, teacher = logits()
    record = {"student": student, "teacher": teacher, "cases": []}
    for beta, temperature in CASES:
        own = torch.tensor(student, dtype=torch.float64, requires_grad=True)
        other = torch.tensor(teacher, dtype=torch.float64)
        loss = GKDTrainer.generalized_jsd_loss(
            own[None], other[None], beta=beta, temperature=temperature, reduction="sum"
        )
        loss.backward()
        case = {"beta": beta, "temperature": temperature, "loss": loss.item(), "gradient": own.grad.tolist()}
        record["cases"].append(case)
    if "--check" not in sys.argv:
        FILE.write_text(json.dumps(record) + "\n")
        return
    before = json.loads(FILE.read_text())
    if (before["student"], before["teacher"]) != (student, teacher):
        sys.exit("divergences: other logits than those that were recorded")
    for case, old in zip(record["cases"], before["cases"], strict=True):
        pairs = [(case["loss"], old["loss"])]
        pairs += [pair for rows in zip(case["gradient"], old["gradient"]) for pair in zip(*rows)]
        if max(abs(a - b) for a, b in pairs) > 1e-12:
            sys.exit(f"divergences: beta {case['beta']}, temperature {case['temperature']}: not what was recorded")
    print(f"divergences: {len(CASES)} cases as recorded")


main()
