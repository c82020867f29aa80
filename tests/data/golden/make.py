"""Writes the small recordings beside it: what bitsandbytes, PEFT, PyTorch, transformers and lm-evaluation-harness
compute, for the tests that hold this project's own numbers against theirs on a clean clone.

    python tests/data/golden/make.py            writes them
    python tests/data/golden/make.py --check    computes them again and compares: bytes, and numbers to 1e-5 of the largest

Models and matrices come from the formula of `tests/interop/arch_cases.py`, so that only results are stored; what is
computed by a model is computed in f64. The questions are invented."""
import json
import logging
import math
import os
import pathlib
import sys
import tempfile

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
               "TQDM_DISABLE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "interop"))
try:
    import bitsandbytes.functional as bnb
    import lm_eval
    import numpy as np
    import torch
    import yaml
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file, save_file
    from transformers import PreTrainedTokenizerFast, utils

    from arch_cases import CASES, fnv, ids, tensor
    from make_arch_fixtures import model_of
except ImportError as missing:
    print("skipped:", missing)
    sys.exit(77)
logging.disable(logging.WARNING)
utils.logging.disable_progress_bar()
torch.set_num_threads(1)

CONFIG, TOKENS, _ = CASES["llama"]
SEED = fnv("llama") & 0xFFFFFFFF
IDS = ids(SEED, CONFIG["vocab_size"], TOKENS).tolist()
# two samples: the second is a beginning of the first's end
SAMPLES = [IDS, IDS[9:22]]
# the model that answers questions: two layers, the vocabulary of the small copy of Llama 3's tokenizer
TOKENIZER = HERE.parent / "tokens/llama3"
MMLU = "mmlu/default/mmlu_abstract_algebra.yaml"
TASKS = {"mmlu_abstract_algebra": (MMLU, ["dev", "test"], "mmlu/abstract_algebra", 2),
         "boolq": ("super_glue/boolq/default.yaml", ["validation"], "boolq", 0),
         "hellaswag": ("hellaswag/hellaswag.yaml", ["validation"], "hellaswag", 0),
         "winogrande": ("winogrande/default.yaml", ["validation"], "winogrande", 0),
         "arc_easy": ("arc/arc_easy.yaml", ["test"], "arc_easy", 0),
         "piqa": ("piqa/piqa.yaml", ["validation"], "piqa", 0)}


def llama(config=CONFIG, seed=SEED):
    """The model in f64."""
    return model_of(config, lambda name, shape: tensor(seed, name, shape))[0].double()


def nf4(out):
    """A matrix of 260 blocks, so that two blocks of scales are quantised; one row is zero."""
    weight = torch.from_numpy(tensor(1, "nf4.weight", (130, 128)))
    weight[5] = 0
    packed, plain = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    again, double = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)
    assert torch.equal(packed, again)
    rows = [0, 5, 64, 129]
    save_file({
        "packed": packed.flatten(), "scales": plain.absmax, "codes": plain.code,
        "double.codes": double.absmax, "double.map": double.state2.code, "double.scales": double.state2.absmax,
        "double.offset": double.offset.reshape(1),
        "rows": torch.tensor(rows), "decoded": bnb.dequantize_4bit(packed, plain)[rows].contiguous(),
        "double.decoded": bnb.dequantize_4bit(packed, double)[rows].contiguous(),
    }, out / "nf4.safetensors")


def lora(out):
    """An adapter in PEFT's files; logits and merged weights with it, and three steps of AdamW from it."""
    config = LoraConfig(r=2, lora_alpha=7, use_rslora=True, lora_dropout=0.0, target_modules=["q_proj", "down_proj"],
                        rank_pattern={"down_proj": 3}, task_type="CAUSAL_LM")
    model = get_peft_model(llama(), config, autocast_adapter_dtype=False)
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    for name, value in trained.items():
        weights = torch.from_numpy(tensor(SEED, name, tuple(value.shape))) * (0.1 if "lora_B" in name else 1)
        value.data = weights.double()
    model.save_pretrained(out / "adapter")
    (out / "adapter/README.md").unlink()
    # PEFT writes sets in any order, and the type that the numbers have
    text = json.loads((out / "adapter/adapter_config.json").read_text())
    text["target_modules"].sort()
    (out / "adapter/adapter_config.json").write_text(json.dumps(text, indent=1) + "\n")
    path = out / "adapter/adapter_model.safetensors"
    save_file({name: value.float() for name, value in load_file(path).items()}, path)

    found = {}
    with torch.no_grad():
        found["logits"] = model(torch.tensor([IDS])).logits[0, [0, 8, 22, 23]].clone()
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    losses = []
    for step in range(4):
        sums = [torch.nn.functional.cross_entropy(model(torch.tensor([row])).logits[0, :-1], torch.tensor(row[1:]),
                                                  reduction="sum") for row in SAMPLES]
        loss = sum(sums) / sum(len(row) - 1 for row in SAMPLES)
        losses.append(loss.item())
        if step == 3:
            break
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            name = "base_model.model.model.layers.1.mlp.down_proj.lora_A.default.weight"
            found["gradient"] = trained[name].grad.clone()
        optimizer.step()
    found["losses"] = torch.tensor(losses, dtype=torch.float64)
    found |= {f"final.{name.replace('.default', '')}": value.detach().float() for name, value in trained.items()}
    # merged with what it began with
    for name, value in trained.items():
        value.data = load_file(path)[name.replace(".default", "")].double()
    merged = model.merge_and_unload().state_dict()
    for name in ["model.layers.2.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"]:
        found[f"merged.{name}"] = merged[name][:8].float().contiguous()
    save_file(found, out / "lora.safetensors")


def streams(model, tokens):
    """What enters each layer and what leaves the last, `[l + 1, t, d]`."""
    kept = []
    hooks = [layer.register_forward_pre_hook(lambda _, args: kept.append(args[0][0])) for layer in model.model.layers]
    hooks.append(model.model.norm.register_forward_pre_hook(lambda _, args: kept.append(args[0][0])))
    with torch.no_grad():
        model(torch.tensor([tokens]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return torch.stack(kept).numpy()


def distances(hidden):
    """`[n - 1, l]`: angle over pi between the last tokens of streams l and l + n, mean of samples; NaN where none."""
    count = len(hidden[0])
    found = np.full((count - 1, count - 1), np.nan)
    for n in range(1, count):
        for l in range(count - n):
            pairs = [(sample[l, -1].astype(np.float64), sample[l + n, -1].astype(np.float64)) for sample in hidden]
            cosines = [a @ b / math.sqrt((a @ a) * (b @ b)) for a, b in pairs]
            found[n - 1, l] = np.mean([math.acos(max(-1.0, min(1.0, cosine))) / math.pi for cosine in cosines])
    return torch.from_numpy(found)


def importance(out):
    """Distances of whole passes, and of recorded streams of a few tokens in f32, where nothing else rounds."""
    model = llama()
    whole = [streams(model, sample) for sample in SAMPLES]
    recorded = [hidden[:, -2:].astype(np.float32) for hidden in whole]
    save_file({"distances": distances(whole), "recorded": torch.from_numpy(np.stack(recorded, 1)).contiguous(),
               "recorded.distances": distances(recorded)}, out / "distances.safetensors")


def questions(out):
    """lm-evaluation-harness's own sample files: its task files with only the source of the data changed."""
    own = json.loads((TOKENIZER / "tokenizer_config.json").read_text())
    own = {key: own[key] for key in ("bos_token", "eos_token", "unk_token") if key in own}
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(TOKENIZER / "tokenizer.json"), **own)
    config = CONFIG | {"vocab_size": len(tokenizer), "num_hidden_layers": 2, "max_position_embeddings": 1024,
                       "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    (out / "samples").mkdir(exist_ok=True)
    (out / "samples/config.json").write_text(json.dumps(config, indent=1) + "\n")
    lm = HFLM(pretrained=llama(config), tokenizer=tokenizer, batch_size=1, device="cpu")
    package = pathlib.Path(lm_eval.__file__).parent / "tasks"
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        for name, (file, splits, folder, _) in TASKS.items():
            files = {split: str(HERE / "questions" / folder / f"{split}.jsonl") for split in splits}
            task = {"include": str(package / file), "task": name, "dataset_path": "json", "dataset_name": None,
                    "dataset_kwargs": {"data_files": files}}
            if "mmlu" not in name:
                task |= {"training_split": None} | {f"{split}_split": split for split in splits}
                task |= {} if "validation" in splits else {"validation_split": None}
            (work / f"{name}.yaml").write_text(yaml.safe_dump(task))
        manager = TaskManager(include_path=str(work), include_defaults=False)
        for name, (*_, shots) in TASKS.items():
            tracker = EvaluationTracker(output_path=str(work / "out"))
            run = lm_eval.simple_evaluate(lm, tasks=[name], num_fewshot=shots, log_samples=True, task_manager=manager,
                                          bootstrap_iters=0, evaluation_tracker=tracker)
            samples = run.pop("samples")
            tracker.save_results_aggregated(results=run, samples=samples)
            tracker.save_results_samples(task_name=name, samples=samples[name])
            (written,) = (work / "out").rglob(f"samples_{name}_*.jsonl")
            (out / f"samples/{name}.jsonl").write_text(written.read_text())


def same(made, kept):
    """Whether two files say the same: bytes, or tensors of the same names to 1e-5 of their largest number: transformers
    keeps the tables of rotations in f32, whose last bits differ from one kind of processor to the next."""
    if made.suffix == ".safetensors":
        made, kept = load_file(made), load_file(kept)
        largest = {name: max(value.double().nan_to_num().abs().max().item(), 1e-30) for name, value in kept.items()}
        near = {"rtol": 0, "equal_nan": True}
        return made.keys() == kept.keys() and all(
            torch.allclose(value.double(), kept[name].double(), atol=1e-5 * largest[name], **near)
            for name, value in made.items())
    if made.suffix == ".jsonl":
        lines = [[json.loads(line) for line in path.read_text().splitlines()] for path in (made, kept)]
        numbers = [[float(answer[0]) for line in side for answer in line.pop("filtered_resps")] for side in lines]
        for line in lines[0] + lines[1]:
            line.pop("resps")
        return lines[0] == lines[1] and np.allclose(*numbers, rtol=1e-6)
    return made.read_bytes() == kept.read_bytes()


def main():
    check = sys.argv[1:] == ["--check"]
    with tempfile.TemporaryDirectory() as work:
        out = pathlib.Path(work) if check else HERE
        for part in (nf4, lora, importance, questions):
            part(out)
        made = [path.relative_to(out) for path in out.rglob("*") if path.is_file()]
        if check:
            wrong = [str(path) for path in made if not same(out / path, HERE / path)]
            if wrong:
                sys.exit(f"golden: {', '.join(wrong)} differ")
            print(f"golden: {len(made)} files as they were made")


if __name__ == "__main__":
    main()
