"""The benchmarks' work in PyTorch: Llama-2 7B's shape, random bf16 weights, forward and a LoRA step with checkpointing."""
import time

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

LAYERS, D, MLP, HEADS, LENGTH, RANK = 32, 4096, 11008, 32, 2048, 64


def noise(rows, columns):
    return torch.randn(rows, columns, device="cuda", dtype=torch.bfloat16) / columns**0.5


class Linear:
    def __init__(self, rows, columns, lora=False):
        self.weight = noise(rows, columns)
        self.a = (torch.randn(RANK, columns, device="cuda") / columns**0.5).requires_grad_() if lora else None
        self.b = torch.zeros(rows, RANK, device="cuda", requires_grad=True) if lora else None

    def __call__(self, x, train):
        y = F.linear(x, self.weight)
        if train and self.a is not None:
            y = y + F.linear(F.linear(F.dropout(x, 0.05), self.a.bfloat16()), self.b.bfloat16())
        return y


class Block:
    def __init__(self):
        self.q, self.k, self.v, self.o = (Linear(D, D) for _ in range(4))
        self.gate, self.up = Linear(MLP, D, True), Linear(MLP, D, True)
        self.down = Linear(D, MLP, True)
        self.norms = [torch.ones(D, device="cuda", dtype=torch.bfloat16) for _ in range(2)]

    def __call__(self, x, turns, train):
        normed = F.rms_norm(x, (D,), self.norms[0], 1e-5)
        q, k, v = (f(normed, train).view(1, -1, HEADS, D // HEADS).transpose(1, 2) for f in (self.q, self.k, self.v))
        q, k = (turn(h, *turns) for h in (q, k))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(attended.transpose(1, 2).reshape(1, -1, D), train)
        normed = F.rms_norm(x, (D,), self.norms[1], 1e-5)
        return x + self.down(F.silu(self.gate(normed, train)) * self.up(normed, train), train)


def turn(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


def best(runs, work):
    times = []
    for _ in range(runs + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def main():
    print(f"PyTorch {torch.__version__}, {torch.cuda.get_device_name()}")
    a, b = noise(8192, 8192), noise(8192, 8192)
    print(f"product 8192 x 8192 x 8192 in bf16: {2 * 8192**3 / best(5, lambda: a @ b) / 1e12:.1f} TFLOP/s")
    del a, b
    blocks = [Block() for _ in range(LAYERS)]
    head = noise(32000, D)
    angles = torch.outer(torch.arange(LENGTH), 10000 ** (-torch.arange(0, D // HEADS, 2) / (D // HEADS)))
    angles = torch.cat((angles, angles), -1).cuda()
    turns = angles.cos().bfloat16(), angles.sin().bfloat16()
    x = torch.randn(1, LENGTH, D, device="cuda", dtype=torch.bfloat16)

    @torch.no_grad()
    def forward():
        y = x
        for block in blocks:
            y = block(y, turns, False)

    print(f"forward {LENGTH / best(3, forward):.0f} tokens/s, {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    parameters = [p for block in blocks for f in (block.gate, block.up, block.down) for p in (f.a, f.b)]
    optimiser = torch.optim.AdamW(parameters, 3e-4)
    targets = torch.randint(0, 32000, (LENGTH,), device="cuda")
    torch.cuda.reset_peak_memory_stats()

    def step():
        y = x.clone().requires_grad_()
        for block in blocks:
            y = checkpoint(block, y, turns, True, use_reentrant=False)
        F.cross_entropy(F.linear(y[0], head).float(), targets).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()

    speed = LENGTH / best(2, step)
    memory = torch.cuda.max_memory_allocated() / 2**30
    print(f"LoRA step, bf16 weights (not NF4), checkpointing {speed:.0f} tokens/s, {memory:.1f} GiB")


main()
