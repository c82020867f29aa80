"""The benchmarks' work as it is done in Python: transformers' forward pass, then a QLoRA step of PEFT on bitsandbytes.

usage: peers.py CHECKPOINT, the one that the benchmarks wrote (Llama-2 7B's shape, random bf16 weights). Without
bitsandbytes the frozen weights stay in bf16, and the line says so.
"""
import sys
import time

import torch
from transformers import AutoModelForCausalLM

LENGTH, RANK, ROWS = 2048, 64, 2
TARGETS = ["gate_proj", "up_proj", "down_proj"]


def best(runs, work):
    times = []
    for _ in range(runs + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def peak():
    return torch.cuda.max_memory_allocated() / 2**30


def load(path, **how):
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16, device_map={"": 0}, attn_implementation="sdpa", **how)


def forward(path, tokens):
    model = load(path).eval()
    body = model.model

    @torch.no_grad()
    def hidden_states():
        body(input_ids=tokens, use_cache=False, output_hidden_states=True)

    seconds = best(3, hidden_states)
    print(f"transformers, forward with hidden states, {tokens.numel()} tokens: {tokens.numel() / seconds:.0f} tokens/s, {peak():.1f} GiB")


def heal(path, tokens):
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    try:
        import bitsandbytes  # noqa: F401
        from transformers import BitsAndBytesConfig

        quant = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
        )
        model = prepare_model_for_kbit_training(load(path, quantization_config=quant), gradient_checkpointing_kwargs={"use_reentrant": False})
        base = "NF4, bitsandbytes " + bitsandbytes.__version__
    except ImportError:
        model = load(path)
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
        base = "bf16 weights, no bitsandbytes here"
    model.config.use_cache = False
    model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=RANK, lora_dropout=0.05, target_modules=TARGETS, task_type="CAUSAL_LM"))
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, 3e-4)
    torch.cuda.reset_peak_memory_stats()

    def step():
        for row in tokens[:ROWS]:
            with torch.autocast("cuda", torch.bfloat16):
                loss = model(input_ids=row[None], labels=row[None]).loss / ROWS
            loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()

    seconds = best(2, step)
    print(f"PEFT, rank {RANK} on the MLP, {base}, checkpointing, {ROWS} sequences of {LENGTH}: {ROWS * LENGTH / seconds:.0f} tokens/s, {peak():.2f} GiB")


def main(path):
    import peft
    import transformers

    print(f"PyTorch {torch.__version__}, transformers {transformers.__version__}, PEFT {peft.__version__}, {torch.cuda.get_device_name()}")
    tokens = torch.randint(0, 32000, (4, LENGTH), device="cuda")
    forward(path, tokens)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    heal(path, tokens)


main(sys.argv[1])
