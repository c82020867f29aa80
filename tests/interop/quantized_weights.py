"""Checkpoints whose weights others quantised: FP8, compressed-tensors, GPTQ, AWQ, MXFP4. `prune convert` has to give, bit for
bit, what the reference decodes: transformers' Fp8Dequantize and
convert_moe_packed_tensors, the compressed-tensors package, and for GPTQ and AWQ the
formulas of GPTQModel's and AutoAWQ's PyTorch kernels. `prune eval` has to say of the quantised checkpoint what it says of
the converted one, `prune cut` has to copy codes and scales as they are.

quantized_weights.py PRUNE MODEL TEXT        MODEL is any small Llama in safetensors
quantized_weights.py --golden FILE           writes the matrices that the unit tests of src/checkpoint/quantized decode
"""

import argparse
import json
import os
import shutil
import subprocess
import tempfile

import torch
from compressed_tensors.compressors.naive_quantized.base import NaiveQuantizationCompressor
from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import GptOssConfig, GptOssForCausalLM
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors


def fp8(weight, block, dtype):
    """Blocks of 128 x 128 or so; the last ones are smaller where they do not divide the matrix."""
    rows, columns = weight.shape
    down, across = -(-rows // block[0]), -(-columns // block[1])
    padded = torch.zeros(down * block[0], across * block[1])
    padded[:rows, :columns] = weight.float()
    blocks = padded.reshape(down, block[0], across, block[1])
    scales = blocks.abs().amax(dim=(1, 3)).clamp(min=1e-6) / 448.0
    codes = (blocks / scales[:, None, :, None]).reshape(padded.shape)[:rows, :columns].to(torch.float8_e4m3fn)
    wide = scales.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)[:rows, :columns]
    decoded = (codes.float() * wide).to(dtype)
    if rows % block[0] == 0 and columns % block[1] == 0:
        assert torch.equal(decoded, Fp8Dequantize(None)._dequantize_one(codes, scales, output_dtype=dtype))
    return {"weight": codes.contiguous(), "weight_scale_inv": scales}, decoded


def fbgemm(weight, dtype):
    scales = weight.float().abs().amax(dim=1, keepdim=True) / 448.0
    codes = (weight.float() / scales).to(torch.float8_e4m3fn)
    return {"weight": codes, "weight_scale": scales}, (codes.float() * scales).to(dtype)


def compressed(weight, dtype, compressor, **how):
    args = QuantizationArgs(**how)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    rows, columns = weight.shape
    low, high = (-448.0, 448.0) if how["type"] == "float" else (-(2 ** (args.num_bits - 1)), 2 ** (args.num_bits - 1) - 1)
    if how["strategy"] == "block":
        down, across = how["block_structure"]
        blocks = weight.float().reshape(rows // down, down, columns // across, across)
        least, most = blocks.amin(dim=(1, 3)), blocks.amax(dim=(1, 3))
    elif how["strategy"] == "tensor":
        least, most = weight.float().min().reshape(1), weight.float().max().reshape(1)
    else:
        groups = weight.float().reshape(rows, -1, how.get("group_size", columns))
        least, most = groups.amin(dim=-1), groups.amax(dim=-1)
    zero = torch.zeros_like(least)
    if args.symmetric:
        scale = torch.maximum(least.abs(), most.abs()) / high
    else:
        scale = (most - least) / (high - low)
        zero = (low - least / scale).round().clamp(low, high)
    state = {"weight": weight.to(dtype), "weight_scale": scale.to(dtype)}
    state["weight_zero_point"] = zero.to(torch.int8)
    packed = compressor.compress(state, scheme)
    decoded = compressor.decompress(packed, scheme)["weight"]
    if args.symmetric:
        packed.pop("weight_zero_point", None)
    return packed, decoded


def pack_down(codes, bits):
    """Codes down the rows, one after the other in words of 32 bits, the lowest bit first."""
    rows, columns = codes.shape
    stream = ((codes.long()[:, None, :] >> torch.arange(bits)[None, :, None]) & 1).reshape(rows * bits, columns)
    words = (stream.reshape(-1, 32, columns) << torch.arange(32)[None, :, None]).sum(dim=1)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def gptq(weight, dtype, bits, group, order, version):
    rows, columns = weight.shape
    groups = columns // group
    own = torch.arange(columns) // group
    if order:
        own = own[torch.randperm(columns)]
    most = 2**bits - 1
    scales, zeros = torch.zeros(groups, rows, dtype=dtype), torch.zeros(groups, rows, dtype=torch.long)
    for index in range(groups):
        part = weight.float()[:, own == index]
        least, largest = part.amin(dim=1).clamp(max=0), part.amax(dim=1).clamp(min=0)
        scales[index] = ((largest - least) / most).clamp(min=1e-6).to(dtype)
        zeros[index] = (-least / scales[index].float()).round().clamp(0, most).long()
    codes = (weight.float().t() / scales.float()[own] + zeros[own]).round().clamp(0, most).long()
    kept = zeros if version == "gptq_v2" else (zeros - 1) & most
    packed = {
        "qweight": pack_down(codes, bits),
        "qzeros": pack_down(kept.t().contiguous(), bits).t().contiguous(),
        "scales": scales,
        "g_idx": own.to(torch.int32),
    }
    # weights = scales[g_idx] * (codes - zeros[g_idx]), as in TorchQuantLinear.dequantize_weight
    return packed, (scales[own] * (codes - zeros[own]).to(dtype)).t().contiguous()


def awq(weight, group):
    rows, columns = weight.shape
    grouped = weight.float().reshape(rows, -1, group)
    least, most = grouped.amin(dim=-1), grouped.amax(dim=-1)
    scales = ((most - least) / 15).clamp(min=1e-6).half()
    zeros = (-least / scales.float()).round().clamp(0, 15).long()
    wide, off = scales.repeat_interleave(group, 1), zeros.repeat_interleave(group, 1)
    codes = (weight.float() / wide.float() + off).round().clamp(0, 15).long()
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def pack(codes):
        words = sum(codes[:, order[place] :: 8] << (4 * place) for place in range(8))
        return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)

    packed = {"qweight": pack(codes.t()), "qzeros": pack(zeros.t()), "scales": scales.t().contiguous()}
    # (codes - zeros) * scales in half precision, as in dequantize_gemm
    return packed, (codes - off).half() * wide


def group(strategy, **more):
    return {"type": "int", "strategy": strategy, "symmetric": True, **more}


NAIVE, PACKED = NaiveQuantizationCompressor, PackedQuantizationCompressor
COMPRESSED = "compressed-tensors"
# name: type of the model, what quantises a matrix, quantization_config
FORMATS = {
    "fp8": ("bfloat16", lambda w, t: fp8(w, (128, 128), t), {"quant_method": "fp8", "weight_block_size": [128, 128]}),
    "fp8-even": ("bfloat16", lambda w, t: fp8(w, (8, 16), t), {"quant_method": "fp8", "weight_block_size": [8, 16]}),
    "fbgemm": ("bfloat16", fbgemm, {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}),
    "int4": ("bfloat16", lambda w, t: compressed(w, t, PACKED, num_bits=4, **group("group", group_size=32)), COMPRESSED),
    "int4-zeros": (
        "float16",
        lambda w, t: compressed(w, t, PACKED, num_bits=4, **(group("group", group_size=32) | {"symmetric": False})),
        COMPRESSED,
    ),
    "int3": ("float16", lambda w, t: compressed(w, t, PACKED, num_bits=3, **group("channel")), COMPRESSED),
    "int8": ("bfloat16", lambda w, t: compressed(w, t, PACKED, num_bits=8, **group("channel")), COMPRESSED),
    "bytes": ("bfloat16", lambda w, t: compressed(w, t, NAIVE, num_bits=8, **group("channel")), COMPRESSED),
    "float": (
        "bfloat16",
        lambda w, t: compressed(w, t, NAIVE, num_bits=8, type="float", strategy="channel", symmetric=True),
        COMPRESSED,
    ),
    "float-tensor": (
        "bfloat16",
        lambda w, t: compressed(w, t, NAIVE, num_bits=8, type="float", strategy="tensor", symmetric=True),
        COMPRESSED,
    ),
    "float-block": (
        "bfloat16",
        lambda w, t: compressed(
            w, t, NAIVE, num_bits=8, type="float", strategy="block", block_structure=[8, 16], symmetric=True
        ),
        COMPRESSED,
    ),
    "gptq": ("float16", lambda w, t: gptq(w, t, 4, 32, False, "gptq"), {"quant_method": "gptq", "bits": 4}),
    "gptq-order": (
        "float16",
        lambda w, t: gptq(w, t, 4, 32, True, "gptq_v2"),
        {"quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq_v2", "desc_act": True},
    ),
    "gptq-3": ("float16", lambda w, t: gptq(w, t, 3, 32, False, "gptq"), {"quant_method": "gptq", "bits": 3}),
    "gptq-8": ("bfloat16", lambda w, t: gptq(w, t, 8, 32, False, "gptq"), {"quant_method": "gptq", "bits": 8}),
    "awq": ("float16", lambda w, t: awq(w, 32), {"quant_method": "awq", "bits": 4, "version": "gemm"}),
}


# experts of gpt-oss: two tensors of a layer, of which no name ends in weight
MXFP4 = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}


def mxfp4(shape, low=118, high=130):
    """Random codes and scales of `[n, o, i]`, and what they decode to, `[n, i, o]`."""
    experts, outputs, inputs = shape
    blocks = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8)
    scales = torch.randint(low, high, (experts, outputs, inputs // 32), dtype=torch.uint8)
    return {"_blocks": blocks, "_scales": scales}, convert_moe_packed_tensors(blocks, scales)


def config_of(name):
    said = FORMATS[name][2]
    return {"quant_method": said, "format": name, "config_groups": {}} if isinstance(said, str) else said


def golden(path):
    """A matrix in each format, and what it decodes to."""
    torch.manual_seed(7)
    tensors, configs = {}, {}
    for name, (dtype, quantize, _) in FORMATS.items():
        weight = torch.randn(32, 64) * torch.rand(32, 1)
        packed, decoded = quantize(weight, getattr(torch, dtype))
        configs[name] = {"dtype": dtype, "quantization_config": config_of(name)}
        tensors |= {f"{name}.model.layers.0.mlp.up_proj.{part}": tensor for part, tensor in packed.items()}
        tensors[f"{name}.decoded"] = decoded
    # every scale but the one that has no number, the smallest ones below bf16's
    packed, tensors["mxfp4.decoded"] = mxfp4((2, 40, 64), 0, 253)
    configs["mxfp4"] = {"dtype": "bfloat16", "quantization_config": MXFP4}
    tensors |= {f"mxfp4.model.layers.0.mlp.experts.down_proj{part}": tensor for part, tensor in packed.items()}
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, path, metadata={"configs": json.dumps(configs)})


def check(prune, model, text):
    config = json.load(open(os.path.join(model, "config.json")))
    weights = load_file(os.path.join(model, "model.safetensors"))
    run = lambda *line: subprocess.run([prune, *line], check=True, capture_output=True, text=True).stdout  # noqa: E731
    for name, (dtype, quantize, _) in FORMATS.items():
        torch.manual_seed(3)
        with tempfile.TemporaryDirectory() as work:
            own = os.path.join(work, "own")
            shutil.copytree(model, own)
            stored, expected = {}, {}
            for tensor, value in weights.items():
                if "layers." in tensor and "proj" in tensor:
                    packed, decoded = quantize(value, getattr(torch, dtype))
                    stored |= {tensor.removesuffix("weight") + part: each.contiguous() for part, each in packed.items()}
                    expected[tensor] = decoded
                else:
                    stored[tensor] = expected[tensor] = value.to(getattr(torch, dtype))
            save_file(stored, os.path.join(own, "model.safetensors"), metadata={"format": "pt"})
            said = {key: value for key, value in config.items() if key != "torch_dtype"}
            said |= {"dtype": dtype, "quantization_config": config_of(name)}
            json.dump(said, open(os.path.join(own, "config.json"), "w"), indent=2)
            loss = as_converted(run, work, expected, {"bfloat16": "BF16", "float16": "F16"}[dtype], text)
            run("cut", own, "--drop", "1", "-o", f"{work}/cut")
            with safe_open(f"{work}/cut/model.safetensors", "pt") as cut:
                for tensor in cut.keys():
                    before = tensor.replace("layers.1.", "layers.2.") if "layers.1." in tensor else tensor
                    if any(f"layers.{layer}." in tensor for layer in range(2, 100)):
                        continue
                    bits = lambda each: each.contiguous().view(torch.uint8)  # noqa: E731
                    assert torch.equal(bits(cut.get_tensor(tensor)), bits(stored[before])), tensor
            run("eval", f"{work}/cut", "--tasks", f"text:{text}", "--limit", "2", "--json")
            print(f"{name}: {len(expected)} tensors bit for bit, loss {loss:.4f}")


def as_converted(run, work, expected, kind, text):
    """What `convert` makes of the model `own` are the tensors `expected`, to the bit; the loss of both, which is one."""
    run("convert", f"{work}/own", "--type", kind, "-o", f"{work}/plain")
    found = load_file(f"{work}/plain/model.safetensors")
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    for name, value in expected.items():
        same = torch.equal(found[name].view(torch.int16), value.contiguous().view(torch.int16))
        assert same, (name, (found[name].float() - value.float()).abs().max())
    losses = []
    for which in ["own", "plain"]:
        out = run("eval", f"{work}/{which}", "--tasks", f"text:{text}", "--limit", "4", "--json")
        losses += [row["value"] for row in json.loads(out)["figures"] if row["metric"] == "loss"]
    assert losses[0] == losses[1], losses
    return losses[0]


def check_experts(prune, model, text):
    """A small gpt-oss in MXFP4, with the tokenizer of `model`: numbers, loss and logits, the bytes of a cut."""
    run = lambda *line: subprocess.run([prune, *line], check=True, capture_output=True, text=True).stdout  # noqa: E731
    torch.manual_seed(5)
    vocab = json.load(open(os.path.join(model, "config.json")))["vocab_size"]
    rope = {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
            "original_max_position_embeddings": 4096, "rope_theta": 150000.0}
    config = GptOssConfig(vocab_size=vocab, hidden_size=64, intermediate_size=32, num_hidden_layers=4, num_local_experts=4,
                          num_experts_per_tok=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                          sliding_window=8, rope_parameters=rope, dtype=torch.bfloat16)
    plain = GptOssForCausalLM._from_config(config, attn_implementation="eager")
    for tensor in plain.parameters():
        torch.nn.init.normal_(tensor, std=0.1)
    state = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in plain.state_dict().items()}
    stored, expected = {}, {}
    for name, tensor in state.items():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            experts, inputs, outputs = tensor.shape
            packed, expected[name] = mxfp4((experts, outputs, inputs), 121, 125)
            stored |= {name + part: each for part, each in packed.items()}
        else:
            stored[name] = expected[name] = tensor
    with tempfile.TemporaryDirectory() as work:
        own = os.path.join(work, "own")
        shutil.copytree(model, own)
        save_file(stored, os.path.join(own, "model.safetensors"), metadata={"format": "pt"})
        said = config.to_dict() | {"architectures": ["GptOssForCausalLM"], "quantization_config": MXFP4}
        json.dump(said, open(os.path.join(own, "config.json"), "w"), indent=2)
        loss = as_converted(run, work, expected, "BF16", text)
        run("cut", own, "--drop", "1", "-o", f"{work}/cut")
        with safe_open(f"{work}/cut/model.safetensors", "pt") as cut:
            for name in cut.keys():
                number = int(name.split(".")[2]) if "layers." in name else 0
                before = name.replace(f"layers.{number}.", f"layers.{number + 1}.") if number > 0 else name
                same = torch.equal(cut.get_tensor(name).view(torch.uint8), stored[before].view(torch.uint8))
                assert same, name
        said = json.load(open(f"{work}/cut/config.json"))
        assert said["quantization_config"]["quant_method"] == "mxfp4" and len(said["layer_types"]) == 3, said
        run("eval", f"{work}/cut", "--tasks", f"text:{text}", "--limit", "2", "--json")
    print(f"mxfp4: {len(expected)} tensors bit for bit, loss {loss:.4f}")


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("what", nargs="*")
parser.add_argument("--golden")
args = parser.parse_args()
if args.golden:
    golden(args.golden)
else:
    check(*args.what)
    check_experts(*args.what)
