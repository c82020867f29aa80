"""Conversations as TRL makes token ids and labels of them.

usage: python chats.py OUT

For each case a directory below OUT: `model` with a tokenizer of tests/data/tokens and a chat template of the installed
TRL, `data.jsonl`, and `expected.jsonl` with the ids and labels that SFTTrainer prepares. `text.jsonl` holds, for every
template, what transformers renders. The Rust test tests/it/heal/chat_trl.rs runs this and compares.
"""
import glob, json, os, sys, types

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
import datasets
import trl
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import _compile_jinja_template, _render_with_assistant_indices
from trl import SFTConfig, SFTTrainer

datasets.disable_progress_bars()
HERE = os.path.dirname(os.path.abspath(__file__))
TOKENIZERS = os.path.join(HERE, "..", "data", "tokens")
TEMPLATES = os.path.join(os.path.dirname(trl.__file__), "chat_templates")
SEQ_LEN = 96

# a template, and one of the small tokenizers
USED = [("llama3", "llama3"), ("qwen2_5", "qwen2"), ("qwen3", "qwen2"), ("phi3", "smollm"), ("gemma3", "granite")]
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|user|>", "<|end|>",
           "<|assistant|>", "<|system|>", "<start_of_turn>", "<end_of_turn>"]


def turns(*texts):
    return [{"role": ["user", "assistant"][at % 2], "content": text} for at, text in enumerate(texts)]


MESSAGES = [
    {"messages": turns("Hello", "Hi there!")},
    {"messages": [{"role": "system", "content": "Be brief."}] + turns(" What is 1+1? ", "2", "And é <2>?", "  three\n")},
    {"messages": turns("one", "two words", "three", "and\n\nfour", "five", "6")},
    {"messages": turns("a " * 40, "b " * 60)},
    {"messages": turns("too long " * 200, "an answer that is cut off")},
]
ALPACA = [
    {"instruction": "Add.", "input": "1 and 2", "output": "3"},
    {"instruction": "Say hi", "input": "", "output": "hi there"},
    {"instruction": "no end " * 100, "input": "", "output": "cut off"},
]
COMPLETIONS = [
    {"prompt": turns("Hello"), "completion": turns("", "Hi there!")[1:]},
    {"prompt": turns("a", "b", "c"), "completion": turns("", "  d é")[1:]},
]
TEXTS = [{"prompt": "The sky is", "completion": " blue."}, {"prompt": "a b ", "completion": "c d"}]


def alpaca(row):
    asked = row["instruction"] + ("\n" + row["input"] if row["input"] else "")
    return {"prompt": turns(asked), "completion": [{"role": "assistant", "content": row["output"]}]}


def prepared(tokenizer, rows, answers):
    """Rows of ids and labels as SFTTrainer trains on them."""
    self = types.SimpleNamespace(_tokenizer=tokenizer, chat_template=None, completion_only_loss="prompt" in rows[0])
    args = types.SimpleNamespace(dataset_num_proc=None, dataset_text_field="text", assistant_only_loss=answers,
                                 max_length=SEQ_LEN, truncation_mode="keep_start", shuffle_dataset=False)
    made = SFTTrainer._prepare_dataset(self, datasets.Dataset.from_list(rows), tokenizer, args, False, None, "train")
    return [{"input_ids": row["input_ids"], "labels": row["labels"]} for row in made]


def main(out):
    for name, kind in USED:
        directory = os.path.join(TOKENIZERS, kind)
        for label, template, rows, given, answers in [
            ("messages", name + "_training", MESSAGES, MESSAGES, True),
            ("alpaca", name, ALPACA, [alpaca(row) for row in ALPACA], False),
            ("completions", name, COMPLETIONS, COMPLETIONS, False),
            ("texts", name, TEXTS, TEXTS, False),
        ]:
            case = os.path.join(out, f"{name}-{label}")
            model = os.path.join(case, "model")
            tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
            tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
            if tokenizer.eos_token is None:
                tokenizer.add_special_tokens({"eos_token": "<|im_end|>"})
            with open(os.path.join(TEMPLATES, template + ".jinja"), encoding="utf-8") as file:
                tokenizer.chat_template = file.read()
            tokenizer.save_pretrained(model)
            with open(os.path.join(model, "config.json"), "w", encoding="utf-8") as file:
                json.dump({"vocab_size": 4096}, file)
            for file, lines in [("data.jsonl", rows), ("expected.jsonl", prepared(tokenizer, given, answers))]:
                with open(os.path.join(case, file), "w", encoding="utf-8") as text:
                    text.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    texts(out)


def texts(out):
    """What every template of TRL makes of conversations, and where its generation blocks stand, in characters."""
    tool = {"type": "function", "function": {"name": "f", "description": "é <b> & 'x'", "parameters": {
        "type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "number", "default": 1e-7}}}}}
    call = {"type": "function", "function": {"name": "f", "arguments": {"a": 1, "b": 0.5, "c": None, "d": [True, "x'y"]}}}
    conversations = [
        *({**row, "add_generation_prompt": prompt} for row in MESSAGES[:3] for prompt in [False, True]),
        {"messages": turns("a", "<think>\nhm\n</think>\n\nb", "c", "<think>x</think>d")},
        {"messages": [*turns("a"), {"role": "assistant", "content": "b", "reasoning_content": "because"}]},
        {"messages": turns("a", "b")[1:]},
        {"messages": turns("a") + turns("b")},
        {"messages": [*turns("w?"), {"role": "assistant", "content": "", "tool_calls": [call]},
                      {"role": "tool", "name": "f", "content": "{\"r\": 1}"}, *turns("", "one")[1:]], "tools": [tool]},
    ]
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    with open(os.path.join(out, "text.jsonl"), "w", encoding="utf-8") as file:
        for path in sorted(glob.glob(os.path.join(TEMPLATES, "*.jinja"))):
            with open(path, encoding="utf-8") as source:
                template = _compile_jinja_template(source.read())
            for row in conversations:
                names = {"tools": None, "documents": None, "add_generation_prompt": False, **row, **special}
                try:
                    text, parts = _render_with_assistant_indices(template, **json.loads(json.dumps(names)))
                except Exception:
                    text, parts = None, None
                line = {"template": path, "row": row, "text": text, "parts": parts}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


main(sys.argv[1])
