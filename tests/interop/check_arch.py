"""Cuts a small model of every architecture with the binary and opens the result with transformers:

    python check_arch.py path/to/prune

For each fixture of tests/data/arch: the source's logits and, after `prune cut --drop`, the cut's logits equal the
fixture's (1e-4); transformers opens the cut without a missing, unexpected or mismatched tensor and with no warning the
source did not give; a forward pass with a KV cache, token by token, gives the same logits; `generate` runs."""
import json, logging, os, subprocess, sys, tempfile
import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from arch_cases import CASES, on_disk, tensor
from make_arch_fixtures import DATA, hf_config

TOLERANCE = 1e-4


class Warnings(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.seen = []

    def emit(self, record):
        self.seen.append(record.getMessage())


def write_source(fixture, path):
    model = AutoModelForCausalLM.from_config(hf_config(fixture["config"]), dtype=torch.float32)
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    stored = [own for n, v in model.state_dict().items() if n not in tied
              for own in on_disk(fixture["config"]["model_type"], n, tuple(v.shape))]
    state = {n: torch.from_numpy(tensor(fixture["seed"], n, shape)) for n, shape, _ in stored}
    save_file(state, f"{path}/model.safetensors", metadata={"format": "pt"})
    with open(f"{path}/config.json", "w") as f:
        json.dump(fixture["config"], f, indent=2)


def load(path):
    with open(f"{path}/config.json") as f:
        config = json.load(f)
    known = config["model_type"] in CONFIG_MAPPING
    log, warnings = logging.getLogger("transformers"), Warnings()
    log.addHandler(warnings)
    try:
        options = {"dtype": torch.float32, "attn_implementation": "eager", "output_loading_info": True}
        # a family member under its own name: transformers has to be told that it is a Llama
        own = {} if known else {"config": hf_config(config)}
        model, info = (AutoModelForCausalLM if known else LlamaForCausalLM).from_pretrained(path, **options, **own)
    finally:
        log.removeHandler(warnings)
    wrong = {key: value for key, value in info.items() if value}
    assert not wrong, (path, wrong)
    return model.eval(), set(warnings.seen)


def check_logits(what, found, expected):
    worst = np.abs(found.reshape(-1) - np.array(expected, np.float32)).max()
    assert worst <= TOLERANCE, (what, float(worst))
    return float(worst)


def one_by_one(model, ids):
    """Logits with a KV cache, a token at a time: the cache's layer indices have to be right."""
    cache, rows = None, []
    for position in range(ids.shape[1]):
        out = model(ids[:, position : position + 1], past_key_values=cache, use_cache=True)
        cache, rows = out.past_key_values, rows + [out.logits[0, 0]]
    return torch.stack(rows)


# dynamic and LongRoPE frequencies depend on the length so far, so a token at a time differs by construction
LENGTH_DEPENDENT = {"llama-dynamic", "internlm3", "phi3-long", "phi3-su"}


def main():
    binary, names = sys.argv[1], sys.argv[2:] or list(CASES)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_warning()
    transformers.logging.disable_progress_bar()
    for name in names:
        with open(os.path.join(DATA, f"{name}.json")) as f:
            fixture = json.load(f)
        ids, positions = torch.tensor([fixture["ids"]]), fixture["positions"]
        with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
            source, cut = f"{scratch}/source", f"{scratch}/cut"
            os.mkdir(source)
            write_source(fixture, source)
            model, usual = load(source)
            before = check_logits(f"{name} before", model(ids, use_cache=False).logits[0, positions].numpy(), fixture["logits"])
            first, last = fixture["drop"]
            subprocess.run([binary, "cut", source, "--drop", f"{first}-{last}", "-o", cut], check=True, stdout=subprocess.DEVNULL)
            model, warnings = load(cut)
            assert warnings <= usual, (name, warnings - usual)
            assert model.config.num_hidden_layers == len(model.base_model.layers) == fixture["config"]["num_hidden_layers"] - (last - first + 1)
            whole = model(ids, use_cache=False).logits[0]
            after = check_logits(f"{name} after", whole[positions].numpy(), fixture["logits_after_the_cut"])
            if name not in LENGTH_DEPENDENT:
                check_logits(f"{name} cached", one_by_one(model, ids).numpy(), whole.reshape(-1).tolist())
            generated = model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)
            assert generated.shape[1] > ids.shape[1]
            print(f"{name}: before {before:.1e}, after {after:.1e}")


if __name__ == "__main__":
    main()
