"""Token ids: tests/data/tokens holds small tokenizers of every kind and hashes of the ids that transformers gives.

    python test_tokens.py            computes the ids again and compares with the hashes
    python test_tokens.py --write    trains the tokenizers anew and writes everything

The Rust tests (tests/it/data) hold the crate's own ids against the same hashes. `file` are the ids of
PreTrainedTokenizerFast, which follows tokenizer.json; `auto` those of AutoTokenizer, which for some classes does not.
Made with transformers 5.23 and tokenizers 0.23."""
import gzip, hashlib, json, os, struct, sys

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, logging

logging.set_verbosity_error()
HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..")
DATA = os.path.join(HERE, "..", "data", "tokens")
DEMO = os.path.join(ROOT, "src", "demo", "files")
SHARED = os.path.join(ROOT, "..", "shared")

TEXTS = [
    "", " ", "  ", "\n", "\n\n", "\r\n", "\t", " \n \t\n", "a", " a", "  a", "a ", "a  b", "hello", " hello", "Hello, world!",
    "The pocket atlas says that Orm is a city.", " The pocket atlas", "\nThe pocket atlas\n", "one\n\n\ntwo", "one\r\ntwo\r\n",
    "one\ttwo\t\tthree", "1", "12", "123", "1234567890", "3.14159 and 2,718", " 42", "2024-05-17T10:20:30Z", "0x1F + 7e-3 = ?",
    "it's we're I'll you'd they've I'm DON'T It'S", "x=y+z;", "if (a[0] != b->c) { return 1; }", "def f(x):\n    return x ** 2\n",
    "        eight spaces", "tabs\t\t\tand   spaces   \n   mixed", "https://example.org/a?b=c&d=%20#e", "user@example.org",
    "café naïve résumé", "cafe\u0301 nai\u0308ve", "\u212b \u00c5 A\u030a", "ﬁne ligature ½ ²", "Ünïcödé", "straße STRASSE",
    "Привет, мир", "Γειά σου Κόσμε", "你好，世界。", "こんにちは世界", "안녕하세요 세계", "שלום עולם", "مرحبا بالعالم", "नमस्ते दुनिया", "สวัสดีชาวโลก",
    "\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1ea\U0001f1fa flags \U0001f3f4", "🙂🙃 mixed 😀text", "\u200b\u200c\u200d", "\ufeffbom", "\u00a0nbsp\u00a0",
    "\u2028line\u2029para", "\u0000nul", "\u0001\u001f\u007f\u0085", "\ufffd replacement", "\U0010ffff last", "▁", "▁▁a", "a▁b ▁c", "Ġ Ċ Ġa",
    "<s>", "</s>", "<s>x", " <s> x", "x</s>y", "x </s> y", "<unk>", "<s></s>", "<|begin_of_text|>hi<|end_of_text|>",
    "<|im_start|>user\nhi<|im_end|>\n", "<|endoftext|>", "a <|endoftext|> b", "[PAD] [pad]", "x [PAD]y", "<extra> word <EXTRA>", "newword newwords", "<0x0A>", "<pad>",
    "A" * 50, "ab" * 200, " " * 100, "x" + " " * 33 + "y", "\n" * 20, "!" * 30, "?!.,;:" * 10, "9" * 40, "é" * 20, "\U0001f600" * 10,
    "The quick brown fox jumps over the lazy dog. " * 5, "Question: is it?\nAnswer:", " A", " B", " yes", " no",
    "A. 4\nB. 12\nC. 24\nD. 48\nAnswer:", "$\\frac{1}{2}$", "{{x}} {% y %}", "\"quoted\" 'single' `back`", "em—dash en–dash … “curly” ‘quotes’",
    "CamelCaseWords snake_case_words kebab-case-words", "MiXeD cAsE", "I I I I", "trailing newline\n", "trailing spaces   ", "ÀÉÎÕÜ àéîõü",
]

GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = GPT4.replace(r"\p{N}{1,3}", r"\p{N}")


def corpus(name, field="text"):
    path = os.path.join(DEMO, "text", name)
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as lines:
        return [json.loads(line)[field] for line in lines]


def special(*contents):
    return [AddedToken(content, special=True, normalized=False) for content in contents]


def template(bos, bos_id):
    return processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, bos_id)])


def byte_level(pre, specials, normalizer=None, size=400, **model):
    """A byte-level BPE; its special tokens stand behind the vocabulary, as in Llama 3 and Qwen2."""
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre, decoders.ByteLevel()
    if normalizer:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(corpus("train.jsonl.gz"), trainer)
    tokenizer.add_special_tokens(specials)
    return tokenizer


def split(regex):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(regex), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def decoder_of(tokenizer):
    state = {}
    for index, token in tokenizer.get_added_tokens_decoder().items():
        state[str(index)] = {k: getattr(token, k) for k in ("content", "lstrip", "normalized", "rstrip", "single_word", "special")}
    return state


def llama2():
    """Llama 2: bytes as fallback, spaces as a visible character, one put in front; the flags beside it count for nothing."""
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    trained = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    marked = [("▁" + text).replace(" ", "▁") for text in corpus("train.jsonl.gz")]
    trained.pre_tokenizer = pre_tokenizers.Split(Regex("▁"), "merged_with_next")
    trained.train_from_iterator(marked, trainers.BpeTrainer(vocab_size=600, special_tokens=["<unk>", "<s>", "</s>", *bytes_], show_progress=False))
    state = json.loads(trained.to_str())
    tokenizer = Tokenizer(models.BPE(vocab=state["model"]["vocab"], merges=[tuple(m) for m in state["model"]["merges"]], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.add_special_tokens(special("<unk>", "<s>", "</s>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = template("<s>", 1)
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None,
              "add_bos_token": True, "add_eos_token": True, "legacy": False, "model_max_length": 1e30, "added_tokens_decoder": decoder_of(tokenizer)}
    return tokenizer, {"model_type": "llama"}, {"tokenizer_config.json": config}


def llama3():
    """Llama 3: digits by three, whole words looked up before merging."""
    specials = special("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")
    tokenizer = byte_level(split(GPT4), specials, ignore_merges=True)
    bos = tokenizer.token_to_id("<|begin_of_text|>")
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template("<|begin_of_text|>", bos)])
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>",
              "clean_up_tokenization_spaces": True, "model_max_length": 8192, "added_tokens_decoder": decoder_of(tokenizer)}
    return tokenizer, {"model_type": "llama"}, {"tokenizer_config.json": config}


def qwen2():
    """Qwen2: NFC, digits one by one, no BOS."""
    specials = special("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokenizer = byte_level(split(QWEN), specials, normalizers.NFC())
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    config = {"tokenizer_class": "Qwen2Tokenizer", "bos_token": None, "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": None,
              "add_prefix_space": False, "split_special_tokens": False, "model_max_length": 32768,
              "additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "added_tokens_decoder": decoder_of(tokenizer)}
    return tokenizer, {"model_type": "qwen2", "bos_token_id": 1}, {"tokenizer_config.json": config}


def smollm():
    """SmolLM: GPT-2's words, digits one by one."""
    pre = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer = byte_level(pre, special("<|endoftext|>", "<|im_start|>"))
    config = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>",
              "add_prefix_space": False, "vocab_size": 402, "added_tokens_decoder": decoder_of(tokenizer)}
    return tokenizer, {"model_type": "llama"}, {"tokenizer_config.json": config}


def granite():
    """A Llama that declares GPT-2's class and cuts words in another way."""
    tokenizer = byte_level(split(GPT4), special("<|endoftext|>"))
    config = {"tokenizer_class": "GPT2TokenizerFast", "eos_token": "<|endoftext|>", "add_bos_token": True}
    return tokenizer, {"model_type": "llama"}, {"tokenizer_config.json": config}


def odd():
    """Tokens in every file at once: a map with flags, a word added later, a pad token nobody put into tokenizer.json; and
    truncation and padding left over from training."""
    tokenizer = byte_level(split(GPT4), special("<s>", "</s>"), size=300)
    tokenizer.post_processor = template("<s>", tokenizer.token_to_id("<s>"))
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=9, pad_id=1, pad_token="</s>")
    extra = {"content": "<extra>", "lstrip": True, "rstrip": True, "normalized": False, "single_word": False}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "</s>", "eos_token": "</s>", "pad_token": "[PAD]"}
    files = {"tokenizer_config.json": config, "special_tokens_map.json": {"bos_token": "<s>", "eos_token": {**extra, "content": "</s>", "lstrip": False, "rstrip": False}, "extra_special_tokens": [extra]},
             "added_tokens.json": {"newword": 302}}
    return tokenizer, {"model_type": "llama"}, files


STYLES = {"llama2": llama2, "llama3": llama3, "qwen2": qwen2, "smollm": smollm, "granite": granite, "odd": odd}

# directory, corpus, field: more text than fits here, where it is at hand
WIDE = [
    ("golden/eval/model-tok-l3", "data/c4/c4_en_train_head1000.jsonl", "text"),
    ("golden/eval/model-tok-l2", "data/c4/c4_en_train_head1000.jsonl", "text"),
    ("golden/eval/model-tok-l3", "data/boolq/dev.jsonl", "passage"),
    ("golden/eval/model-tok-l2", "data/boolq/dev.jsonl", "passage"),
    ("data/stories260K", "data/tinystories/tiny_stories_train_head.jsonl", "text"),
    ("data/stories260K", "data/c4/c4_en_train_head1000.jsonl", "text"),
    ("demo/model", "demo/text/train.jsonl", "text"),
    ("demo/model", "data/c4/c4_en_train_head1000.jsonl", "text"),
]


def digest(batches):
    state = hashlib.sha256()
    for ids in batches:
        state.update(struct.pack(f"<{len(ids) + 1}I", len(ids), *ids))
    return state.hexdigest()


def tokenizers_of(directory):
    return {"file": PreTrainedTokenizerFast.from_pretrained(directory), "auto": AutoTokenizer.from_pretrained(directory)}


def measured(directory):
    """Everything the Rust side is held against, for one small tokenizer."""
    out = {}
    for rules, tokenizer in tokenizers_of(directory).items():
        encode = lambda text, special: tokenizer(text, add_special_tokens=special).input_ids
        documents = corpus("validation.jsonl.gz")
        out[rules] = {
            "tokens": {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id}, "length": len(tokenizer),
            "default": [digest([encode(text, True)])[:12] for text in TEXTS],
            "none": [digest([encode(text, False)])[:12] for text in TEXTS],
            "decoded": [hashlib.sha256(tokenizer.decode(encode(text, True), skip_special_tokens=True).encode("utf-8", "surrogatepass")).hexdigest()[:12] for text in TEXTS],
            "corpus": digest([encode(text, True) for text in documents]),
        }
    return out


def wide():
    out = []
    for directory, path, field in WIDE:
        if not os.path.exists(os.path.join(SHARED, path)):
            return None
        with open(os.path.join(SHARED, path), encoding="utf-8", newline="\n") as lines:
            texts = [json.loads(line)[field] for line in lines]
        entry = {"directory": directory, "corpus": path, "field": field, "texts": len(texts)}
        for rules, tokenizer in tokenizers_of(os.path.join(SHARED, directory)).items():
            entry[rules] = digest([tokenizer(text).input_ids for text in texts])
        out.append(entry)
    return out


def demo_directory():
    """The embedded tokenizer, unpacked."""
    import tempfile
    directory = tempfile.mkdtemp()
    for name in ["config.json", "tokenizer_config.json", "tokenizer.json"]:
        path = os.path.join(DEMO, "model", name)
        data = gzip.open(path + ".gz").read() if os.path.exists(path + ".gz") else open(path, "rb").read()
        open(os.path.join(directory, name), "wb").write(data)
    return directory


def run_clm(documents, length):
    """group_texts of transformers' run_clm.py under datasets.map(batched=True), whose batches hold 1000 texts."""
    rows = []
    for start in range(0, len(documents), 1000):
        joined = sum(documents[start:start + 1000], [])
        rows += [joined[i:i + length] for i in range(0, len(joined) // length * length, length)]
    return rows


def demo():
    tokenizer = AutoTokenizer.from_pretrained(demo_directory())
    texts = TEXTS[10:40] + corpus("validation.jsonl.gz")[:10]
    rows = run_clm([tokenizer(text).input_ids for text in corpus("train.jsonl.gz")], 100)
    return {"run_clm": {"rows": len(rows), "sha256": digest(rows)}, "ids": [{"text": text, "ids": tokenizer(text).input_ids} for text in texts],
            "train": digest([tokenizer(text).input_ids for text in corpus("train.jsonl.gz")])}


def expected():
    return {"texts": TEXTS, "styles": {name: measured(os.path.join(DATA, name)) for name in STYLES}, "demo": demo(), "wide": wide()}


def write():
    for name, make in STYLES.items():
        tokenizer, config, files = make()
        directory = os.path.join(DATA, name)
        os.makedirs(directory, exist_ok=True)
        tokenizer.save(os.path.join(directory, "tokenizer.json"), pretty=False)
        for file, content in {**files, "config.json": {**config, "vocab_size": 1000}}.items():
            with open(os.path.join(directory, file), "w", encoding="utf-8") as out:
                json.dump(content, out, ensure_ascii=False)
                out.write("\n")
    with open(os.path.join(DATA, "expected.json"), "w", encoding="utf-8") as out:
        json.dump(expected(), out, ensure_ascii=True, indent=1)
        out.write("\n")


def check():
    with open(os.path.join(DATA, "expected.json"), encoding="utf-8") as stored:
        stored = json.load(stored)
    fresh = expected()
    if fresh["wide"] is None:
        stored["wide"] = None
    fresh = json.loads(json.dumps(fresh))
    for key in stored:
        assert stored[key] == fresh[key], f"{key}: transformers gives other ids than those stored"
    print("token ids: as stored")


if __name__ == "__main__":
    write() if "--write" in sys.argv else check()
