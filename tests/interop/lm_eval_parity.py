"""Runs `prune eval` and lm-evaluation-harness 0.4.13 on the same model and the same real data, question by question.

    python tests/interop/lm_eval_parity.py --prune target/release/prune --model DIR --mmlu DIR --boolq FILE

--mmlu is the CSV tree of hendrycks/test (dev/, test/), --boolq SuperGLUE's validation rows as JSON lines. With --chat
both ask by the model's chat template, examples as turns or, with --one-turn, in one message. Prompts, every
log-likelihood (1e-4 nats), accuracies and standard errors have to be equal; lm-eval's own functions then read prune's
results file. Exits 0 when they are, 1 when not, 77 when a Python package is missing."""
import argparse, csv, glob, json, os, shutil, subprocess, sys, tempfile

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
try:
    import logging, torch, yaml, lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import get_file_task_name, get_results_filenames, get_sample_results_filenames, make_table
    from transformers import PreTrainedTokenizerFast
except ImportError as missing:
    print("skipped:", missing)
    sys.exit(77)
logging.disable(logging.WARNING)

TOLERANCE = 1e-4


def arguments():
    a = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    a.add_argument("--prune", required=True, help="the binary")
    a.add_argument("--model", required=True, action="append", help="checkpoint directory; may be given again")
    a.add_argument("--mmlu", help="folder with dev/ and test/")
    a.add_argument("--subjects", default="high_school_geography,abstract_algebra,us_foreign_policy")
    a.add_argument("--boolq", help="validation rows as JSON lines")
    a.add_argument("--boolq-limit", type=int, default=200)
    a.add_argument("--mmlu-limit", type=int, default=None, help="questions a subject")
    a.add_argument("--chat", action="store_true", help="ask by the model's chat template")
    a.add_argument("--one-turn", action="store_true")
    a.add_argument("--system", help="what the system says")
    a.add_argument("--threads", type=int, default=os.cpu_count())
    return a.parse_args()


def mmlu_rows(folder, subject, split):
    with open(f"{folder}/{split}/{subject}_{split}.csv", newline="", encoding="utf-8") as f:
        return [{"question": q, "subject": subject, "choices": c, "answer": "ABCD".index(a)} for q, *c, a in csv.reader(f)]


def write_jsonl(path, rows):
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)


def tasks(a, work):
    """lm-eval's own task files with only the source of the data changed; {task: shots}."""
    pkg, found = os.path.join(os.path.dirname(lm_eval.__file__), "tasks"), {}
    if a.mmlu:
        for s in a.subjects.split(","):
            files = {split: f"{work}/{s}_{split}.jsonl" for split in ("dev", "test")}
            for split, path in files.items():
                write_jsonl(path, mmlu_rows(a.mmlu, s, split))
            task = {"include": f"{pkg}/mmlu/default/mmlu_{s}.yaml", "task": f"mmlu_{s}", "dataset_path": "json", "dataset_name": None,
                    "dataset_kwargs": {"data_files": files}}
            yaml.safe_dump(task, open(f"{work}/mmlu_{s}.yaml", "w"))
            found[f"mmlu_{s}"] = 5
    if a.boolq:
        task = {"include": f"{pkg}/super_glue/boolq/default.yaml", "task": "boolq", "dataset_path": "json", "dataset_name": None,
                "training_split": None, "dataset_kwargs": {"data_files": {"validation": os.path.abspath(a.boolq)}}}
        yaml.safe_dump(task, open(f"{work}/boolq.yaml", "w"))
        found["boolq"] = 0
    return found


def template(model):
    if os.path.exists(f"{model}/chat_template.jinja"):
        return open(f"{model}/chat_template.jinja", encoding="utf-8").read()
    return json.load(open(f"{model}/tokenizer_config.json"))["chat_template"]


def reference(a, model, names, work):
    # the file that the checkpoint ships decides about tokens, not what a tokenizer class makes of it
    own = {k: v for k, v in json.load(open(f"{model}/tokenizer_config.json")).items() if k in ("bos_token", "eos_token", "unk_token", "pad_token")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{model}/tokenizer.json", **own)
    if a.chat:
        tokenizer.chat_template = template(model)
    lm = HFLM(pretrained=model, tokenizer=tokenizer, dtype="float32", device="cpu", batch_size=1)
    manager = TaskManager(include_path=work, include_defaults=False)
    samples, results = {}, {}
    for name, shots in names.items():
        limit = a.boolq_limit if name == "boolq" else a.mmlu_limit
        run = lm_eval.simple_evaluate(lm, tasks=[name], num_fewshot=shots, limit=limit, log_samples=True, task_manager=manager,
                                      apply_chat_template=a.chat, fewshot_as_multiturn=a.chat and not a.one_turn,
                                      system_instruction=a.system)
        samples[name], results[name] = run["samples"][name], run["results"][name]
    return samples, results


def ours(a, model, name, out):
    data, limit = (a.boolq, a.boolq_limit) if name == "boolq" else (a.mmlu, a.mmlu_limit)
    command = [a.prune, "eval", model, "--tasks", name, "--data-dir", data, "-o", out, "--quiet", "--threads", str(a.threads)]
    command += ["--apply-chat-template", "--fewshot-as-multiturn", str(not a.one_turn).lower()] if a.chat else []
    command += ["--system-instruction", a.system] if a.system else []
    subprocess.run(command + (["--limit", str(limit)] if limit else []), check=True)
    files = glob.glob(f"{out}/**/*", recursive=True)
    (results,), samples = get_results_filenames(files), get_sample_results_filenames(files)
    assert [get_file_task_name(os.path.basename(f)) for f in samples] == [name], samples
    results = json.load(open(results, encoding="utf-8"))
    assert results["results"][name]["alias"] in make_table(results)  # lm-eval's own table of our file
    return [json.loads(line) for line in open(samples[0], encoding="utf-8")], results["results"][name]


def compare(name, found, expected, figures, wanted):
    worst, answers = 0.0, 0
    assert len(found) == len(expected), (name, len(found), len(expected))
    for f, e in zip(found, expected):
        for key in ("doc_id", "doc_hash", "prompt_hash", "target_hash"):
            assert f[key] == e[key], (name, e["doc_id"], key)
        for (ll, greedy), (ll_, greedy_) in zip(f["filtered_resps"], e["filtered_resps"], strict=True):
            worst, answers = max(worst, abs(float(ll) - ll_)), answers + 1
            assert greedy == str(greedy_), (name, e["doc_id"])
        assert f["acc"] == e["acc"], (name, e["doc_id"], f["filtered_resps"], e["filtered_resps"])
    assert worst <= TOLERANCE, (name, worst)
    for key in ("acc,none", "acc_stderr,none"):
        assert abs(figures[key] - wanted[key]) < 1e-12, (name, key, figures[key], wanted[key])
    print(f"{name}: {len(found)} questions, {answers} log-likelihoods within {worst:.1e} nats, acc {figures['acc,none']:.4f}", flush=True)


def main():
    a = arguments()
    torch.set_num_threads(a.threads)
    work = tempfile.mkdtemp()
    try:
        names = tasks(a, work)
        for model in a.model:
            print(model, flush=True)
            samples, results = reference(a, model, names, work)
            for name in names:
                found, figures = ours(a, model, name, tempfile.mkdtemp(dir=work) + "/out")
                compare(name, found, samples[name], figures, results[name])
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
