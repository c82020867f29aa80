"""Records in tests/data/gguf what the gguf package and transformers make of GGUF files: make_gguf.py [OUT].

blocks.safetensors: random and adversarial blocks of every type that is decoded, and their numbers by
gguf.quants.dequantize. llama.gguf: a small Llama by the package's own writer, heads permuted as llama.cpp has them, a
SentencePiece vocabulary; llama.safetensors: its tensors and logits in transformers, and the ids of some texts.
"""
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Q
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

out = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent / "data" / "gguf")
out.mkdir(parents=True, exist_ok=True)

TYPES = [Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q8_0, Q.Q2_K, Q.Q3_K, Q.Q4_K, Q.Q5_K, Q.Q6_K, Q.IQ4_NL, Q.IQ4_XS]
# where half-precision scales stand in a block
SCALES = {Q.Q4_0: [0], Q.Q4_1: [0, 2], Q.Q5_0: [0], Q.Q5_1: [0, 2], Q.Q8_0: [0], Q.Q2_K: [80, 82], Q.Q3_K: [108],
          Q.Q4_K: [0, 2], Q.Q5_K: [0, 2], Q.Q6_K: [208], Q.IQ4_NL: [0], Q.IQ4_XS: [0]}
# one, the largest, the smallest, infinities, not a number, zeros of both signs
HALVES = [0x3C00, 0xBC00, 0x7BFF, 0x0001, 0x7C00, 0xFC00, 0x7E01, 0x0000, 0x8000]


def blocks(kind, rng):
    size, length = gguf.GGML_QUANT_SIZES[kind]
    rows = [rng.integers(0, 256, length, dtype=np.uint8) for _ in range(6)]
    rows += [np.full(length, byte, dtype=np.uint8) for byte in (0x00, 0xFF, 0x55, 0xAA, 0x0F, 0xF0)]
    if size == 256:
        rows = rows[:3] + rows[6:10]
    for half in HALVES if size == 32 else HALVES[2:7:2]:
        row = rng.integers(0, 256, length, dtype=np.uint8)
        for at in SCALES[kind]:
            row[at:at + 2] = np.frombuffer(np.uint16(half).tobytes(), dtype=np.uint8)
        rows.append(row)
    return np.stack(rows)


def record_blocks():
    tensors = {}
    with np.errstate(all="ignore"):
        for kind in TYPES:
            raw = blocks(kind, np.random.default_rng(int(kind)))
            tensors[f"{kind.name}.blocks"] = raw
            tensors[f"{kind.name}.numbers"] = gguf.quants.dequantize(raw, kind).astype(np.float32)
    save_file(tensors, out / "blocks.safetensors")


HIDDEN, MLP, LAYERS, HEADS, KV_HEADS, HEAD = 64, 96, 4, 4, 2, 16
WORDS = ["th", "he", "in", "er", "an", "\u2581t", "\u2581a", "\u2581the", "re", "on", "at", "en", "nd", "\u2581and", "is",
         "or", "it", "es", "\u2581s", "ing", "ed", "\u2581o", "\u2581of", "ar", "\u00e9", "\u2581w", "\u2581b", "ll", "ou",
         "\u2581to", "ver", "ers", "\u2581there", "11", "ss", "\u2581\u2581"]


def vocabulary():
    tokens = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    tokens += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    tokens += [(word, -float(rank), 1) for rank, word in enumerate(WORDS)]
    letters = sorted(set("".join(WORDS)) | set("abcdefghijklmnopqrstuvwxyzT.,1\u2581"))
    tokens += [(letter, -float(len(WORDS) + rank), 1) for rank, letter in enumerate(letters)]
    tokens += [("<|user|>", -1000.0, 4)]
    return tokens


def record_model():
    rng = np.random.default_rng(7)
    writer = gguf.GGUFWriter(out / "llama.gguf", "llama")
    writer.add_name("small")
    tokens = vocabulary()
    writer.add_context_length(256)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(7)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([token for token, _, _ in tokens])
    writer.add_token_scores([score for _, score, _ in tokens])
    writer.add_token_types([kind for _, _, kind in tokens])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{% for m in messages %}<|user|>{{ m['content'] }}{% endfor %}")

    def add(name, shape, kind=None, mean=0.0):
        numbers = (rng.standard_normal(shape) * 0.15 + mean).astype(np.float32)
        if kind is None:
            writer.add_tensor(name, numbers)
        else:
            writer.add_tensor(name, gguf.quants.quantize(numbers, kind), raw_dtype=kind)

    add("token_embd.weight", (len(tokens), HIDDEN), Q.Q8_0)
    for layer in range(LAYERS):
        at = f"blk.{layer}."
        add(at + "attn_norm.weight", HIDDEN, mean=1.0)
        add(at + "attn_q.weight", (HEADS * HEAD, HIDDEN), [Q.Q8_0, Q.Q5_0, Q.F16, Q.BF16][layer])
        add(at + "attn_k.weight", (KV_HEADS * HEAD, HIDDEN), [Q.Q4_1, Q.F32, Q.Q5_1, Q.Q8_0][layer])
        add(at + "attn_v.weight", (KV_HEADS * HEAD, HIDDEN), [Q.F16, Q.Q5_1, Q.Q8_0, Q.F32][layer])
        add(at + "attn_output.weight", (HIDDEN, HEADS * HEAD), Q.Q8_0)
        add(at + "ffn_norm.weight", HIDDEN, mean=1.0)
        add(at + "ffn_gate.weight", (MLP, HIDDEN), Q.Q4_0)
        add(at + "ffn_up.weight", (MLP, HIDDEN), Q.Q8_0)
        add(at + "ffn_down.weight", (HIDDEN, MLP), Q.Q5_1)
    add("output_norm.weight", HIDDEN, mean=1.0)
    add("output.weight", (len(tokens), HIDDEN), Q.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    model = AutoModelForCausalLM.from_pretrained(out, gguf_file="llama.gguf", dtype=torch.float32)
    ids = torch.arange(24).reshape(1, -1) * 7 % len(tokens)
    with torch.no_grad():
        logits = model(ids).logits[0]
    recorded = {"ids": ids[0].to(torch.int64).numpy(), "logits": logits.numpy()}
    for name, tensor in model.state_dict().items():
        if ".layers.0." in name or ".layers.1.self_attn" in name or ".layers.2.self_attn" in name or ".layers.3.self_attn.q" in name:
            recorded[name] = tensor.numpy()
    tokenizer = AutoTokenizer.from_pretrained(out, gguf_file="llama.gguf")
    for at, text in enumerate(TEXTS):
        recorded[f"text.{at}"] = np.frombuffer(text.encode(), dtype=np.uint8)
        recorded[f"tokens.{at}"] = np.array(tokenizer(text, add_special_tokens=False).input_ids, dtype=np.int64)
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in recorded.items()}, out / "llama.safetensors")


TEXTS = ["the end of it all", "There is  a \u00e9t\u00e9 here.", "111 and 11, or 1", "over there,\nthe others\tsing", " led",
         "<|user|>the ends", "snow \u2603 and \U0001F600"]

record_blocks()
record_model()
