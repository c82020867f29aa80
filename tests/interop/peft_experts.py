"""Opens adapters on experts that lie in one tensor in PEFT, and PEFT's in `prune`, and compares log-likelihoods.

    python tests/interop/peft_experts.py --prune target/release/prune --demo DIR

DIR is what `prune demo --extract` made; its tokenizer and texts are used. A random gpt-oss and a random Granite MoE are
healed with adapters on their experts (PEFT's `target_parameters`), and PEFT adapts them itself. Each log-likelihood that
`prune eval` gives is compared with that of PEFT's model (1e-5 a token), and merged weights with PEFT's own merge.
Exits 0 when they agree, 1 when not, 77 when a Python package is missing."""
import argparse
import os
import pathlib
import shutil
import sys
import tempfile

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
try:
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from peft_adapter import Work, check, compare
except ImportError as missing:
    print("skipped:", missing)
    sys.exit(77)

PARAMETERS = ["experts.gate_up_proj", "experts.down_proj"]
CASES = {
    "both": {"target_modules": [], "target_parameters": PARAMETERS},
    "gate and up": {"target_modules": ["q_proj"], "target_parameters": PARAMETERS[:1]},
    "down": {"target_modules": ["v_proj"], "target_parameters": PARAMETERS[1:], "use_rslora": True},
    "ranks": {"target_modules": [], "target_parameters": PARAMETERS, "rank_pattern": {r".*layers\.1\..*down_proj": 5}},
}


def model_of(kind, demo, where):
    tokenizer = AutoTokenizer.from_pretrained(demo / "model")
    torch.manual_seed(1)
    config = AutoConfig.for_model(
        kind, hidden_size=64, intermediate_size=32, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        num_hidden_layers=3, vocab_size=len(tokenizer), num_local_experts=6, num_experts_per_tok=2,
        max_position_embeddings=512, tie_word_embeddings=False, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id)
    model = AutoModelForCausalLM.from_config(config).float()
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.1 if "embed" not in name else 1.0)
    model.save_pretrained(where)
    for path in (demo / "model").iterdir():
        if "token" in path.name:
            shutil.copy(path, where / path.name)
    return tokenizer


def opened(work):
    return AutoModelForCausalLM.from_pretrained(work.where / "cut", dtype=torch.float32).eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prune", required=True, help="the binary")
    parser.add_argument("--demo", required=True, type=pathlib.Path, help="what `prune demo --extract` made")
    args = parser.parse_args()
    for kind in ["gpt_oss", "granitemoe"]:
        with tempfile.TemporaryDirectory() as where:
            work = Work(os.path.abspath(args.prune), args.demo.resolve(), where)
            # the name that `Work` heals
            (work.where / "cut").mkdir()
            tokenizer = model_of(kind, work.demo, work.where / "cut")
            compare(f"{kind}, plain", opened(work), tokenizer, work.samples("e", "cut"), 1e-5)
            for number, (case, settings) in enumerate(CASES.items()):
                config = LoraConfig(r=3, lora_alpha=7, lora_dropout=0.0, task_type="CAUSAL_LM", **settings)
                model = get_peft_model(opened(work), config).eval()
                for name, parameter in model.named_parameters():
                    if "lora_B" in name:
                        torch.nn.init.normal_(parameter, std=0.2)
                model.save_pretrained(work.where / f"theirs{number}")
                samples = work.samples(f"t{number}", "cut", "--adapter", f"theirs{number}")
                compare(f"{kind}, {case}, made by PEFT", model, tokenizer, samples, 1e-5)
            work.run("heal", "cut", "--data", work.demo / "text/train.jsonl", "--seq-len", 64, "--batch", 4, "--rank", 3,
                     "--target", "mlp", "--dropout", 0, "--steps", 4, "--warmup", 1, "--lr", 0.01, "--quant", "none",
                     "-o", "healed")
            model = PeftModel.from_pretrained(opened(work), work.where / "healed/adapter")
            samples = work.samples("h", "cut", "--adapter", "healed/adapter")
            compare(f"{kind}, healed", model, tokenizer, samples, 1e-5)
            compare(f"{kind}, merged", model, tokenizer, work.samples("m", "healed/merged"), 1e-5)
            theirs = model.merge_and_unload().state_dict()
            ours = AutoModelForCausalLM.from_pretrained(work.where / "healed/merged", dtype=torch.float32).state_dict()
            check(theirs.keys() == ours.keys(), f"{kind}: the merged models have other tensors")
            worst = max((ours[name] - theirs[name]).abs().max().item() for name in ours)
            moved = max((ours[name] - tensor).abs().max().item() for name, tensor in opened(work).state_dict().items())
            check(worst < 1e-6 < moved, f"{kind}: merged weights are {worst} beside PEFT's, moved by {moved}")
            print(f"peft_experts: {kind}: merged weights are {worst:.1e} beside PEFT's at most")


if __name__ == "__main__":
    main()
