"""Writes src/eval/defined/own: tasks of lm-evaluation-harness 0.4.13 (MIT license) that prune has in its YAML.

    python make_own_tasks.py            writes the files
    python make_own_tasks.py --check    makes them again and compares

A file is a task, or several, which may be a group; what they have in common stands under `common`. Functions of Python
are replaced by what prune has for them: filters of bbh and of programs by its own names, mmlu_pro's prompts by templates and its choice of rows by `only`."""
import importlib, pathlib, sys, types

try:
    import evaluate, lm_eval, yaml
except ImportError as missing:
    print("skipped:", missing)
    sys.exit(77)

OUT = pathlib.Path(__file__).resolve().parents[2] / "src" / "eval" / "defined" / "own"
TASKS = pathlib.Path(lm_eval.__file__).parent / "tasks"
FUNCTIONS = {
    "utils.MultiChoiceRegexFilter": "bbh_multi_choice_regex", "utils.MapRegexFilter": "bbh_map_regex",
    "utils.NumberParseRegexFilter": "bbh_number_regex", "utils.WordSortFilter": "bbh_word_sort",
    "utils.doc_to_text": "Question:\n{{question}}\nOptions:\n{% for option in options[:10] %}{{'ABCDEFGHIJ'[loop.index0]}}."
                         " {{option.strip()}}\n{% endfor %}Answer: Let's think step by step.",
    "utils.fewshot_to_target": "{{cot_content.replace(\"A: Let's think step by step. \", '')}}",
}
# the harness's files of programs load a metric that would run some
evaluate.load = lambda *_: types.SimpleNamespace(compute=lambda **_: None)
SAMPLES = importlib.import_module("lm_eval.tasks.mbpp.utils").list_fewshot_samples()
FUNCTIONS |= {"utils.list_fewshot_samples": SAMPLES, "utils.pass_at_k": "pass_at_k", "utils.pass_at_1": "pass_at_1"}
FUNCTIONS["utils.fewshot_to_text"] = FUNCTIONS["utils.doc_to_text"]


class Loader(yaml.SafeLoader):
    pass


Loader.add_constructor("!function", lambda loader, node: FUNCTIONS.get(node.value, node.value))


def load(path):
    return yaml.load(path.read_text(), Loader)


def family(folder, template, group, drop=()):
    """A group file, its template, and the files of its tasks."""
    own = load(TASKS / folder / group)
    known = {}
    for path in sorted((TASKS / folder).glob("*.yaml")):
        task = load(path)
        if "include" in task:
            assert task.pop("include") == template
            name = task.pop("task")
            known[name] = {"task": name} | task
    tasks = [known[name] for name in own.pop("task")]
    for task in tasks:
        if "process_docs" in task:
            task["only"] = {"category": task.pop("process_docs").removeprefix("utils.process_").replace("_", " ")}
    return own | {"common": load(TASKS / folder / template), "task": tasks}


def single(path):
    task = load(TASKS / path)
    return {"task": task.pop("task")} | task


def programs(folder, filters, names):
    """Tasks of programs, which include each other: what the first one has is common to all."""
    def whole(name):
        task = load(TASKS / folder / f"{name}.yaml")
        task = (whole(task.pop("include").removesuffix(".yaml")) if "include" in task else {}) | task
        for step in [step for own in task.get("filter_list", []) for step in own["filter"] if "filter_fn" in step]:
            step["function"] = filters[step.pop("filter_fn")]
        return task

    common = whole(names[0])
    tasks = []
    for task in map(whole, names):
        own = {key: value for key, value in task.items() if common.get(key) != value}
        tasks.append({"task": task["task"]} | own | {key: None for key in common if key not in task})
    common.pop("task")
    return {"common": common, "task": tasks}


FILES = {
    "bbh_fewshot": family("bbh/fewshot", "_fewshot_template_yaml", "_bbh_fewshot.yaml"),
    "bbh_zeroshot": family("bbh/zeroshot", "_zeroshot_template_yaml", "_bbh_zeroshot.yaml"),
    "bbh_cot_fewshot": family("bbh/cot_fewshot", "_cot_fewshot_template_yaml", "_bbh_cot_fewshot.yaml"),
    "bbh_cot_zeroshot": family("bbh/cot_zeroshot", "_cot_zeroshot_template_yaml", "_bbh_cot_zeroshot.yaml"),
    "humaneval": programs(
        "humaneval", {"utils.build_predictions": "humaneval_predictions",
                      "utils.build_predictions_instruct": "humaneval_instruct_predictions"},
        ["humaneval", "humaneval_instruct", "humaneval_64", "humaneval_64_instruct", "humaneval_plus"]),
    "mbpp": programs("mbpp", {"utils.build_predictions": "mbpp_code_block"},
                     ["mbpp", "mbpp_instruct", "mbpp_plus", "mbpp_plus_instruct"]),
    "mmlu_pro": family("mmlu_pro", "_default_template_yaml", "_mmlu_pro.yaml"),
    "nq_open": single("nq_open/nq_open.yaml"),
    "triviaqa": single("triviaqa/default.yaml"),
}


def main():
    check = sys.argv[1:] == ["--check"]
    for name, content in FILES.items():
        text = f"# lm-evaluation-harness 0.4.13, MIT license; made by tests/interop/make_own_tasks.py\n"
        text += yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=118)
        path = OUT / f"{name}.yaml"
        if check and path.read_text() != text:
            sys.exit(f"{path} is not what the harness has")
        if not check:
            path.write_text(text)
    print(f"{len(FILES)} files")


if __name__ == "__main__":
    main()
