"""A real GGUF file against transformers and llama.cpp: gguf_checks.py PRUNE FILE.gguf TEXTS.jsonl [WORK].

Needs gguf, transformers, and for the last part llama-cpp-python. Compares the tensors that `prune convert` makes with the
package's dequantisation bit for bit, the ids of its tokenizer with those of transformers' own reading of the file on
200 texts, the loss with transformers' on the same numbers (1e-4), a cut with the bytes of its source, and candle's
quantizers with the package's. A cut and a converted file are opened in transformers and llama.cpp.
"""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Q
from safetensors.torch import load_file
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

prune, file, texts = sys.argv[1], Path(sys.argv[2]).resolve(), Path(sys.argv[3]).resolve()
work = Path(sys.argv[4] if len(sys.argv) > 4 else tempfile.mkdtemp())


def run(*words):
    done = subprocess.run([prune, *map(str, words), "--json"], capture_output=True, text=True)
    assert done.returncode == 0, (words, done.stderr)
    return json.loads(done.stdout)


rows = [json.loads(line)["text"] for line, _ in zip(open(texts), range(200))]
theirs = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
reference = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
layers = reference.config.num_hidden_layers

hf = work / "hf"
if not hf.exists():
    run("convert", file, "--type", "F32", "-o", hf)
ours = load_file(hf / "model.safetensors")
for name, tensor in reference.state_dict().items():
    if name in ours:
        assert torch.equal(ours[name].view(torch.int32), tensor.view(torch.int32)), name
print(len(ours), "tensors are the package's bit for bit")

tokenizer = AutoTokenizer.from_pretrained(hf)
# transformers' reading of a GGUF file leaves out how its name cuts a text (tokenizer.ggml.pre): digits one by one
pre = gguf.GGUFReader(file).fields.get("tokenizer.ggml.pre")
if pre is not None and bytes(pre.parts[pre.data[0]]).decode() == "smollm":
    theirs.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
for text in rows:
    assert tokenizer(text, add_special_tokens=False).input_ids == theirs(text, add_special_tokens=False).input_ids, text[:80]
print(len(rows), "texts have transformers' ids")

cut = work / "cut"
if not cut.exists():
    run("cut", file, "--drop", f"{layers - 5}-{layers - 3}", "-o", cut)
kept = [layer for layer in range(layers) if not layers - 5 <= layer <= layers - 3]
before = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
written = gguf.GGUFReader(cut / file.name)
for tensor in written.tensors:
    parts = tensor.name.split(".")
    name = ".".join(["blk", str(kept[int(parts[1])]), *parts[2:]]) if parts[0] == "blk" else tensor.name
    assert before[name].tensor_type == tensor.tensor_type and np.array_equal(before[name].data, tensor.data), tensor.name
print(len(written.tensors), "tensors of the cut are the source's bytes")
shorter = AutoModelForCausalLM.from_pretrained(cut, gguf_file=file.name, dtype=torch.float32).eval()
assert shorter.config.num_hidden_layers == len(kept)
reference.model.layers = torch.nn.ModuleList(reference.model.layers[layer] for layer in kept)
ids = torch.tensor([theirs(rows[0]).input_ids[:128]])
with torch.no_grad():
    wanted, found = reference(ids, use_cache=False).logits, shorter(ids, use_cache=False).logits
assert (wanted - found).abs().max() < 1e-4
print("the cut opens in transformers and computes what the kept layers do")

text = work / "text.txt"
text.write_text(theirs.decode(ids[0]))
scores = run("eval", cut, "--tasks", f"text:{text}")
loss, = [figure["value"] for figure in scores["figures"] if figure["metric"] == "loss"]
# a rolling loss predicts the first token as well, behind the one that begins texts
begun = torch.cat([torch.tensor([[theirs.bos_token_id]]), torch.tensor([theirs(text.read_text()).input_ids])], 1)
with torch.no_grad():
    logits = shorter(begun, use_cache=False).logits[0, :-1].log_softmax(-1)
expected = -logits.gather(-1, begun[0, 1:, None]).mean().item()
print("loss by prune", loss, "by transformers", expected)
assert abs(loss - expected) < 1e-4

for name, kind in (("Q8_0", Q.Q8_0), ("Q4_0", Q.Q4_0)):
    out = work / name
    if not out.exists():
        run("convert", hf, "--to", "gguf", "--type", name, "-o", out)
    made = {tensor.name: tensor for tensor in gguf.GGUFReader(out / "model.gguf").tensors}
    numbers = ours["model.layers.0.mlp.up_proj.weight"].numpy()
    same = np.mean(gguf.quants.quantize(numbers, kind) == made["blk.0.ffn_up.weight"].data.reshape(numbers.shape[0], -1))
    print(name, "bytes that are those of gguf.quants.quantize:", same)

try:
    from llama_cpp import Llama
except ImportError:
    sys.exit("llama-cpp-python is not here; llama.cpp was not asked")
for path in (cut / file.name, work / "Q8_0" / "model.gguf"):
    model = Llama(str(path), n_ctx=256, logits_all=True, verbose=False)
    model.eval(ids[0].tolist())
    scores = torch.tensor(model.scores[: ids.shape[1]])
    wanted = shorter if path.parent == cut else AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = wanted(ids, use_cache=False).logits[0]
    off = (scores.log_softmax(-1) - expected.log_softmax(-1)).abs().mean().item()
    said = model("The capital of France is", max_tokens=8, temperature=0)["choices"][0]["text"]
    print(path, "in llama.cpp: mean difference of log-probabilities", off, "says", repr(said))
