"""Writes tests/data/eval: what lm-evaluation-harness 0.4.13 asks, answers and measures on invented rows, in
conversations by chat templates and without.

    python eval_cases.py            writes cases.jsonl
    python eval_cases.py --check    computes it again and compares: texts and tokens exactly, numbers to 1e-5

The rows are in the layout of `--data-dir`. Models are the formula's (arch_cases.py) with the small tokenizers of
tests/data/tokens, in f64. A line of cases.jsonl is a run of one task: its settings, the ids of every request (as a
digest), the prompts of the first document, the harness's samples and results; and of tasks that generate, what its
filters and metrics make of given answers."""
import hashlib, importlib.util, json, logging, math, os, pathlib, struct, subprocess, sys, tempfile, types

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
               "TQDM_DISABLE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
try:
    import evaluate, lm_eval, torch, yaml
    from lm_eval.api.instance import Instance
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager, get_task_dict
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
    from transformers import PreTrainedTokenizerFast, utils

    from arch_cases import CASES as MODELS, fnv, tensor
    from make_arch_fixtures import model_of
except ImportError as missing:
    print("skipped:", missing)
    sys.exit(77)
logging.disable(logging.WARNING)
utils.logging.disable_progress_bar()
torch.set_num_threads(1)

DATA = pathlib.Path(__file__).resolve().parents[1] / "data"
OUT = DATA / "eval"
PACKAGE = pathlib.Path(lm_eval.__file__).parent / "tasks"

# a task's file, and where its rows are
TASKS = {
    "mmlu_abstract_algebra": ("mmlu/default/mmlu_abstract_algebra.yaml", "mmlu/abstract_algebra", ["dev", "test"]),
    "arc_easy": ("arc/arc_easy.yaml", "arc_easy", ["train", "validation", "test"]),
    "winogrande": ("winogrande/default.yaml", "winogrande", ["train", "validation"]),
    "gsm8k": ("gsm8k/gsm8k.yaml", "gsm8k", ["train", "test"]),
    "gsm8k_cot": ("gsm8k/gsm8k-cot.yaml", "gsm8k", ["test"]),
    "gsm8k_cot_zeroshot": ("gsm8k/gsm8k-cot-zeroshot.yaml", "gsm8k", ["train", "test"]),
    "gsm8k_cot_llama": ("gsm8k/gsm8k-cot-llama.yaml", "gsm8k", ["test"]),
    "commonsense_qa": ("commonsense_qa/default.yaml", "commonsense_qa", ["train", "validation"]),
    "truthfulqa_mc1": ("truthfulqa/truthfulqa_mc1.yaml", "truthful_qa", ["validation"]),
    "truthfulqa_mc2": ("truthfulqa/truthfulqa_mc2.yaml", "truthful_qa", ["validation"]),
    "copa": ("super_glue/copa/default.yaml", "super_glue/copa", ["train", "validation"]),
    "rte": ("glue/rte/default.yaml", "glue/rte", ["train", "validation"]),
    "cb": ("super_glue/cb/default.yaml", "super_glue/cb", ["train", "validation"]),
    "lambada_openai": ("lambada/lambada_openai.yaml", "lambada_openai", ["test"]),
    "race": ("race/race.yaml", "race", ["test"]),
    "nq_open": ("nq_open/nq_open.yaml", "nq_open", ["train", "validation"]),
    "triviaqa": ("triviaqa/default.yaml", "trivia_qa", ["train", "validation"]),
    "ifeval": ("ifeval/ifeval.yaml", "IFEval", ["train"]),
    "humaneval": ("humaneval/humaneval.yaml", "openai_humaneval", ["test"]),
    "humaneval_instruct": ("humaneval/humaneval_instruct.yaml", "openai_humaneval", ["test"]),
    "humaneval_64": ("humaneval/humaneval_64.yaml", "openai_humaneval", ["test"]),
    "mbpp": ("mbpp/mbpp.yaml", "mbpp", ["test"]),
    "mbpp_instruct": ("mbpp/mbpp_instruct.yaml", "mbpp", ["test"]),
    "mmlu_pro_biology": ("mmlu_pro/mmlu_pro_biology.yaml", "MMLU-Pro", ["validation", "test"]),
} | {
    f"bbh_{form}_{name}": (f"bbh/{form}/{name}.yaml", f"bbh/{name}", ["test"])
    for form in ["fewshot", "zeroshot", "cot_fewshot", "cot_zeroshot"]
    for name in ["boolean_expressions", "object_counting", "web_of_lies", "word_sorting", "snarks", "dyck_languages"]
}
# the tokenizer that a template is used with
TEMPLATES = {"llama3": "llama3", "chatml": "qwen2", "zephyr": "llama2", "gemma": "llama3"}
SYSTEM = "You answer in one word. "


def case(task, shots, template=None, tokenizer="llama3", **more):
    return {"task": task, "few_shot": shots, "template": template, "tokenizer": TEMPLATES.get(template, tokenizer)} | more


CASES = [case(task, shots, template, fewshot_as_multiturn=turns, **more)
         for template in ["llama3", "chatml", "zephyr"]
         for task, shots, turns, more in [
             ("mmlu_abstract_algebra", 5, True, {}), ("mmlu_abstract_algebra", 5, False, {"system_instruction": SYSTEM}),
             ("gsm8k", 5, True, {"system_instruction": "Think."}), ("gsm8k", 5, False, {}), ("gsm8k", 0, True, {}),
             ("winogrande", 2, True, {}), ("arc_easy", 0, False, {"system_instruction": SYSTEM.strip()}),
             ("arc_easy", 1, True, {"gen_prefix": "The answer is"}),
             ("arc_easy", 1, False, {"gen_prefix": "So: "}),
         ]]
CASES += [
    # a template that takes no system message, and no two messages of one side
    case("mmlu_abstract_algebra", 1, "gemma", fewshot_as_multiturn=True),
    case("arc_easy", 0, "gemma", fewshot_as_multiturn=True, system_instruction=SYSTEM),
    # what the system says without a template
    case("mmlu_abstract_algebra", 1, system_instruction=SYSTEM), case("gsm8k", 1, system_instruction="Think."),
    case("arc_easy", 1, gen_prefix="The answer is"),
]
# every other task as it is, and with examples, which the harness takes from its scored split where it has no other
OTHERS = ["commonsense_qa", "truthfulqa_mc1", "truthfulqa_mc2", "copa", "rte", "cb", "lambada_openai", "race"]
CASES += [case(task, shots) for task in OTHERS for shots in [None, 2]]
CASES += [case(task, 2, template, fewshot_as_multiturn=turns, system_instruction=SYSTEM)
          for task, template, turns in [("lambada_openai", "llama3", True), ("copa", "chatml", True), ("cb", "zephyr", False),
                                        ("truthfulqa_mc2", "gemma", True)]]
# with this tokenizer no two tokens of an answer are nearer than what processors round otherwise
CASES += [case("gsm8k_cot", None), case("gsm8k_cot_zeroshot", None, tokenizer="qwen2"),
          case("gsm8k_cot_zeroshot", 2, tokenizer="qwen2"),
          case("gsm8k_cot_llama", None), case("gsm8k_cot", 3, "chatml", fewshot_as_multiturn=False),
          case("gsm8k_cot_llama", None, "llama3", fewshot_as_multiturn=True)]
# tasks of YAML files as a user writes them, in tests/data/eval/defined
DEFINED = ["rivers", "seas", "sums", "letters", "poems", "endings", "blanks"]
CASES += [case(task, None, tokenizer="qwen2", defined=True) for task in DEFINED]
CASES += [case(task, shots, template, fewshot_as_multiturn=turns, defined=True, **more)
          for task, shots, template, turns, more in [
              ("rivers", 1, "chatml", True, {"system_instruction": SYSTEM}), ("seas", 2, None, False, {}),
              ("endings", 2, None, False, {}), ("blanks", 1, None, False, {}), ("blanks", 2, "llama3", True, {}),
              ("sums", 1, "chatml", True, {}), ("sums", 2, "zephyr", False, {}), ("letters", 1, "llama3", False, {})]]
# groups of them: the figures alone
CASES += [case("earth", None, tokenizer="qwen2", defined=True, group=True)]
# tasks that prune has in the harness's own YAML
OPEN = ["nq_open", "triviaqa"]
BBH = [f"bbh_zeroshot_{name}" for name in
       ["boolean_expressions", "object_counting", "web_of_lies", "word_sorting", "snarks", "dyck_languages"]]
BBH += ["bbh_fewshot_dyck_languages", "bbh_fewshot_snarks", "bbh_cot_fewshot_word_sorting", "bbh_cot_zeroshot_snarks",
        "bbh_cot_zeroshot_object_counting"]
CASES += [case(task, shots, tokenizer="qwen2") for task in OPEN for shots in [None, 2]]
CASES += [case(task, None, tokenizer="qwen2") for task in ["bbh_zeroshot_snarks", "bbh_fewshot_dyck_languages"]]
# what is asked and how answers are judged, without a model's answers of a thousand tokens
CASES += [case(task, None, tokenizer="qwen2", asked=True) for task in BBH + ["mmlu_pro_biology"]]
CASES += [case("mmlu_pro_biology", 3, "chatml", fewshot_as_multiturn=True, asked=True)]
# instructions that need no detector of languages: the harness is to load without one
CASES += [case("ifeval", None, tokenizer="qwen2", asked=True), case("ifeval", None, "llama3", asked=True)]
for name in ["langdetect", "immutabledict"]:
    if importlib.util.find_spec(name) is None:
        sys.modules[name] = types.SimpleNamespace(immutabledict=dict, LangDetectException=Exception)
# programs: the metric that runs them is a file of the hub, and what it does is done here
PROGRAMS = ["humaneval", "humaneval_instruct", "humaneval_64", "mbpp", "mbpp_instruct"]
CASES += [case(task, None, tokenizer="qwen2", asked=task != "mbpp") for task in PROGRAMS]
CASES += [case(task, shots, "chatml", fewshot_as_multiturn=True, asked=True)
          for task, shots in [("humaneval_instruct", 0), ("mbpp_instruct", 2)]]


def code_eval(predictions, references, k, timeout=3.0):
    """`code_eval` of evaluate 0.4, `metrics/code_eval`: the share of programs that end without any exception."""
    runner = "import os, sys\ntry:\n    exec(sys.stdin.read(), {})\nexcept BaseException:\n    os._exit(1)"

    def passes(program):
        try:
            run = subprocess.run([sys.executable, "-c", runner], input=program, text=True, capture_output=True,
                                 timeout=timeout + 5)
            return run.returncode == 0
        except subprocess.TimeoutExpired:
            return False

    right = [(len(own), sum(passes(program + "\n" + test) for program in own)) for own, test in zip(predictions, references)]
    estimate = lambda n, c, k: 1.0 if n - c < k else 1.0 - math.prod(1.0 - k / m for m in range(n - c + 1, n + 1))
    at = {f"pass@{k}": sum(estimate(n, c, k) for n, c in right) / len(right) for k in k if all(n >= k for n, _ in right)}
    return at, {}


evaluate_load = evaluate.load
evaluate.load = lambda name, *more, **named: (
    types.SimpleNamespace(compute=code_eval) if name == "code_eval" else evaluate_load(name, *more, **named))
# answers that filters and metrics are tried on
SUMS = ["8 * 50 = 400. The answer is 400.", "The answer is 400", "The answer is $1,500.00. The final answer is $1,500",
        "The answer is 1,500. No, The answer is 400.\n", "The final answer is 7. The final answer is -400 kg",
        "#### 1,500", "It is 400\n#### 400", "The answer is: 400", "", "The answer is ., The final answer is ,,", "four hundred"]
LETTERS = ["(B)", "It is (A), not (B)", "the baltic COAST.", "Baltic", "Answer: B", "a peak", "rhine!", "", "C"]
NUMBERS = ["The sum of 3 and 4 is 7.", "is 1,234.5 or none", "none", "seven", " SEVEN \n", "is 0 and -2,000", "? 7"]
ANSWERS = {task: SUMS for task in ["gsm8k", "gsm8k_cot", "gsm8k_cot_zeroshot", "gsm8k_cot_llama"]}
ANSWERS |= {"letters": LETTERS, "sums": NUMBERS}
ANSWERS |= {task: ["the answer is (B). Yes.", "answer is A", "the answer is True.", "No, she does not tell the truth", "FALSE",
                   "It is the case that Bea is telling the truth, yes", "twenty-one or 13 of them", "Thirteen", "three",
                   "costume, counterpart oven", "oven costume counterpart oven", "great, RAIN", "So: B", ") } ]", " ", "-3",
                   "the answer is ) } ]\n", "What a day (again), of course", "The final answer: (A)."]
            for task in BBH + ["bbh_zeroshot_snarks", "mmlu_pro_biology"]}
ANSWERS |= {task: ["    return a + b", "    return max(words, key=len, default='')\n```\nSo it is done.", "    return 1 +", "    pass\n",
                   "    return sum([a, b])\n```", "", "    if True: return a + b"] for task in ["humaneval", "humaneval_instruct"]}
ANSWERS["mbpp"] = ["def double(x):\n    return x + x", "def join(words):\r\n  return '-'.join(words)", "", "def double(x): return 4\n",
                   "import sys\nsys.exit()", "double = lambda x: x * 2\n[DONE]"]
ANSWERS["mbpp_instruct"] = ["def double(x):\n    return x + x\n```\nThat is all.", "```python\ndef double(x):\n    return x + x\n```", "x",
                            "python\ndef join(words):\n  return '-'.join(words)\n```", "\ndouble = lambda x: 2 * x\n```\n```\n1 / 0\n```"]
ANSWERS["ifeval"] = [
    "Rain, rain and snow.", "rain sn0w RAIN", '"No sun, nine nuns."', "*One* and **two**\n***\nThen * * three", " *** a *** b",
    "One.\n\n'Then' it ended.\n\nP.S. No", "First\n\n\"then, so\n\np. s. x", "[a] [b\n]\n* one\n- two\n** three", "- a\n - b\n",
    "Well:\nMy answer is no.\nGood day.\"", "My answer is maybe. good DAY.", "<<A title>>\nSection 1 x\nSection  2\nSECTION 3 p.p.s x",
    "<< >> <<\n>> Section1Section2 P. P. S", "```json\n{\"a\": [1, null]}\n```", "[1, 2,]", "NaN", "a ****** b", "****** a ****** a", "a ****** ****** b",
    "say it again. Sure", "Sure:\n\"Say it again. rr\"\n-- end", "", " \n ", "*", "\"", "so-so", "Section 1 Section 2 <<x>> P.P.S"]
ANSWERS |= {task: ["Ann  Lee", "the Ann Lee!", "A sea", "rhine", " The Rhine\n", "water.", ""] for task in OPEN}


def tokenizer_of(name, template):
    """What the checkpoint's own file says, not what a tokenizer class makes of it."""
    folder = DATA / "tokens" / name
    own = json.loads((folder / "tokenizer_config.json").read_text())
    own = {key: own[key] for key in ("bos_token", "eos_token", "unk_token", "pad_token") if own.get(key)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **own)
    if template:
        tokenizer.chat_template = (OUT / "templates" / f"{template}.jinja").read_text()
    return tokenizer


def model(tokenizer):
    config = MODELS["llama"][0] | {"vocab_size": len(tokenizer), "num_hidden_layers": 2, "max_position_embeddings": 8192,
                                   "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    seed = fnv("llama") & 0xFFFFFFFF
    return config, model_of(config, lambda name, shape: tensor(seed, name, shape))[0].double()


def tasks(work, prefix):
    """The harness's task files with only the source of the data changed."""
    for name, (file, folder, splits) in TASKS.items():
        files = {split: str(OUT / "data" / folder / f"{split}.jsonl") for split in splits}
        task = {"include": str(PACKAGE / file), "task": name, "dataset_path": "json", "dataset_name": None,
                "dataset_kwargs": {"data_files": files}}
        if prefix:
            task["gen_prefix"] = prefix
        (work / f"{name}.yaml").write_text(yaml.safe_dump(task))
    return TaskManager(include_path=str(work), include_defaults=False)


def digest(ids):
    return hashlib.sha256(struct.pack(f"<{len(ids)}I", *ids)).hexdigest()[:16]


def run(case, work):
    tokenizer = tokenizer_of(case["tokenizer"], case["template"])
    config, weights = model(tokenizer)
    lm = HFLM(pretrained=weights, tokenizer=tokenizer, batch_size=1, device="cpu")
    name = case["task"]
    if case.get("defined"):
        # names of data files are relative to where the harness runs
        os.chdir(OUT / "defined")
        manager = TaskManager(include_path=str(OUT / "defined"), include_defaults=False)
    else:
        manager = tasks(work, case.get("gen_prefix"))
    if case.get("asked"):
        lm.generate_until = lambda requests, **_: [""] * len(requests)
    tracker = EvaluationTracker(output_path=str(work / "out"))
    found = lm_eval.simple_evaluate(
        lm, tasks=[name], num_fewshot=case["few_shot"], log_samples=True, task_manager=manager, bootstrap_iters=0,
        evaluation_tracker=tracker, confirm_run_unsafe_code=True, apply_chat_template=bool(case["template"]),
        fewshot_as_multiturn=case.get("fewshot_as_multiturn", False), system_instruction=case.get("system_instruction"))
    samples = found.pop("samples")
    if case.get("group"):
        kept = ["results", "groups", "group_subtasks", "versions", "n-shot"]
        return case | {"config": config, "found": json.loads(json.dumps({key: found[key] for key in kept}, default=str))}
    tracker.save_results_aggregated(results=found, samples=samples)
    tracker.save_results_samples(task_name=name, samples=samples[name])
    (written,) = (work / "out").rglob(f"samples_{name}_*.jsonl")
    (results,) = (work / "out").rglob("results_*.json")
    lines = [json.loads(line) for line in written.read_text().splitlines()]
    first, tokens = [], []
    for line in lines:
        for place, arguments in enumerate(line.pop("arguments").values()):
            texts = list(arguments.values())
            if line["filter"] == lines[0]["filter"] and len(texts) == 1:
                for windows in get_rolling_token_windows(lm.tok_encode(texts[0]), lm.prefix_token_id, lm.max_length, 1):
                    read, scored = make_disjoint_window(windows)
                    tokens.append([len(read), len(scored), digest(read + scored)])
            elif line["filter"] == lines[0]["filter"]:
                if isinstance(texts[1], str):
                    ids = lm._encode_pair(*texts) if texts[0] else ([lm.prefix_token_id], lm.tok_encode(texts[1], False))
                else:
                    ids = (lm.tok_batch_encode([texts[0]])[0][0].tolist(), [])
                tokens.append([len(ids[0]), len(ids[1]), digest(ids[0] + ids[1])])
            if line is lines[0]:
                first.append(texts)
        line.pop("doc")
    results = json.loads(results.read_text())
    top = ["chat_template", "chat_template_sha", "system_instruction", "system_instruction_sha", "fewshot_as_multiturn"]
    task = ["results", "versions", "n-shot", "n-samples", "task_hashes", "higher_is_better"]
    kept = {key: results[key] for key in top} | {key: {name: results[key][name]} for key in task}
    answers = [judged(get_task_dict([name], manager)[name], said) for said in ANSWERS.get(name, [])]
    return case | {"config": config, "tokens": tokens, "first": first, "samples": lines, "found": kept, "judged": answers}


def judged(task, said):
    """What the task's filters and metrics make of an answer to each of its documents."""
    rows = []
    for doc in task.eval_docs:
        request = Instance("generate_until", doc, ("", {}), 0, metadata=(task.config.task, 0, 1))
        request.resps = [said] * task.config.repeats
        task._instances = [request]
        task.apply_filters()
        found = {name: task.process_results(doc, [value]) for name, value in request.filtered_resps.items()}
        # of several verdicts on a document how many are good
        good = lambda value: float(sum(value)) if isinstance(value, list) else float(value)
        rows.append({name: {key: good(value) for key, value in measured.items()} for name, measured in found.items()})
    return [said, rows]


def same(a, b, place=""):
    """Texts alike, numbers near."""
    number = lambda x: float(x) if isinstance(x, (int, float)) or isinstance(x, str) and x.lstrip("-").replace(".", "", 1).isdigit() else None
    if isinstance(a, dict) and isinstance(b, dict) and list(a) == list(b):
        return all(same(a[key], b[key], f"{place}.{key}") for key in a)
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return all(same(x, y, f"{place}.{at}") for at, (x, y) in enumerate(zip(a, b)))
    if a == b or None not in (x := number(a), y := number(b)) and math.isclose(x, y, rel_tol=1e-5, abs_tol=1e-5):
        return True
    print(f"{place}: {str(a)[:200]} is now {str(b)[:200]}")
    return False


def main():
    lines = []
    for number, case in enumerate(CASES):
        with tempfile.TemporaryDirectory() as work:
            lines.append(json.dumps(run(case, pathlib.Path(work)), ensure_ascii=False))
        print(f"\r{number + 1} of {len(CASES)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    path = OUT / "cases.jsonl"
    if sys.argv[1:] != ["--check"]:
        path.write_text("".join(line + "\n" for line in lines))
        return
    kept = path.read_text().splitlines()
    if len(kept) != len(lines) or not all([same(json.loads(a), json.loads(b), f"line {n}") for n, (a, b) in enumerate(zip(kept, lines), 1)]):
        sys.exit("tests/data/eval/cases.jsonl is not what the harness gives")
    print(f"{len(lines)} runs as they were recorded")


if __name__ == "__main__":
    main()
