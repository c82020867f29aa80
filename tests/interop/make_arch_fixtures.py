"""Writes tests/data/arch: logits and rotations of small models of every architecture, as transformers computes them.

    python make_arch_fixtures.py            writes the fixtures
    python make_arch_fixtures.py --check    computes them again and compares (1e-4 on logits)

Needs torch and transformers (made with 5.23). A model's weights come from a formula (arch_cases.py), so a fixture holds
only the config, the token ids, the logits at some positions before and after a cut, and the rotations."""
import argparse, copy, json, os, sys
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from arch_cases import BASE, CASES, ROTATIONS, fnv, ids, on_disk, tensor

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "arch")
NEAR, FAR = [0, 1, 2, 3, 5, 7], [0, 1, 6, 1000, 4095, 100000]


def short(x):
    """The shortest decimals that give the same f32 again."""
    return [float(str(v)) for v in np.asarray(x, dtype=np.float32).reshape(-1)]


def hf_config(config):
    """A config as transformers reads it; one under its own name is a Llama."""
    config = copy.deepcopy(config)
    if config["model_type"] not in CONFIG_MAPPING:
        config["model_type"] = "llama"
    return CONFIG_MAPPING[config["model_type"]].from_dict(config)


def model_of(config, weights):
    model = AutoModelForCausalLM.from_config(hf_config(config), dtype=torch.float32, attn_implementation="eager").eval()
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    state, shapes = {}, {}
    for name, value in model.state_dict().items():
        if name in tied:
            continue
        whole = np.empty(tuple(value.shape), np.float32)
        for stored, shape, part in on_disk(config["model_type"], name, tuple(value.shape)):
            whole[part] = weights(stored, shape)
            shapes[stored] = list(shape)
        state[name] = torch.from_numpy(whole)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert set(missing) <= tied and not unexpected, (missing, unexpected)
    model.tie_weights()
    return model, shapes


def prefix_of(model):
    """What the names of layer tensors start with."""
    return f"{model.base_model_prefix}.layers."


def cut_config(config, kept):
    """The config of the kept layers, every per-layer rule written out as a list."""
    full, config = hf_config(config), copy.deepcopy(config)
    config["num_hidden_layers"] = len(kept)
    for key in ("layer_types", "no_rope_layers", "mlp_layer_types"):
        if getattr(full, key, None) is not None:
            config[key] = [getattr(full, key)[layer] for layer in kept]
    if "first_k_dense_replace" in config:
        config["first_k_dense_replace"] = sum(layer < config["first_k_dense_replace"] for layer in kept)
    if config["model_type"] == "ernie4_5_moe":
        experts = [(layer + 1) % full.moe_layer_interval == 0 and full.moe_layer_start_index <= layer <= full.moe_layer_end_index
                   for layer in kept]
        first, last = experts.index(True), len(kept) - 1 - experts[::-1].index(True)
        assert all(experts[first : last + 1])
        config |= {"moe_layer_start_index": first, "moe_layer_end_index": last, "moe_layer_interval": 1}
    if "mlp_only_layers" in config:
        config["mlp_only_layers"] = [kept.index(layer) for layer in config["mlp_only_layers"] if layer in kept]
    return config


def logits(model, tokens, positions):
    with torch.no_grad():
        out = model(torch.tensor([tokens]), use_cache=False).logits[0]
    assert torch.isfinite(out).all()
    return short(out[positions])


def rotations(model, dims, layer_type=None):
    """Frequencies, cosines and sines of the model's own rotary module, for a pass up to the last of the positions."""
    out, of_type = [], {"layer_type": layer_type} if layer_type else {}
    for positions in (NEAR, FAR):
        with torch.no_grad():
            turned = model.rotary_emb(torch.zeros(1, 1, dims), torch.tensor([positions]), **of_type)
            # DeepSeek-V2 writes complex numbers
            cos, sin = (turned.real, turned.imag) if torch.is_tensor(turned) else turned
        frequencies = getattr(model.rotary_emb, f"{layer_type}_inv_freq" if layer_type else "inv_freq")
        half = frequencies.shape[-1]
        if cos.shape[-1] == half:
            # gpt-oss and DeepSeek-V2 write each angle once
            pass
        elif torch.equal(cos[..., :half], cos[..., half:]):
            cos, sin = cos[..., :half], sin[..., :half]
        else:
            # Cohere writes each angle twice, side by side
            assert torch.equal(cos[..., ::2], cos[..., 1::2])
            cos, sin = cos[..., ::2], sin[..., ::2]
        out.append({"positions": positions, "inverse_frequencies": short(frequencies), "cos": short(cos[0]), "sin": short(sin[0])})
    return out


def loss_and_gradients(model, tokens):
    """The mean loss over all tokens but the first, and of the gradient of each tensor of the layers its length and its
    inner product with the tensor."""
    model.zero_grad()
    logits = model(torch.tensor([tokens]), use_cache=False).logits[0]
    loss = torch.nn.functional.cross_entropy(logits[:-1].double(), torch.tensor(tokens[1:]))
    loss.backward()
    layers = [(name, own) for name, own in model.named_parameters() if name.startswith(prefix_of(model))]
    stored_of = lambda name, own: on_disk(model.config.model_type, name, tuple(own.shape))
    parts = [(stored, own.grad.double()[part], own.detach().double()[part]) for name, own in layers if own.requires_grad
             for stored, _, part in stored_of(name, own)]
    # no parameters: what chooses experts, constants of activations
    buffers = ("e_score_correction_bias", ".act_fn.beta", ".act_fn.eps")
    constant = {name: [0.0, 0.0] for name, _ in model.named_buffers() if name.endswith(buffers)}
    constant |= {stored: [0.0, 0.0] for name, own in layers if not own.requires_grad for stored, _, _ in stored_of(name, own)}
    gradients = constant | {name: [gradient.norm().item(), (gradient * own).sum().item()] for name, gradient, own in parts}
    return loss.item(), {name: short(pair) for name, pair in gradients.items()}


def fixture(name):
    config, tokens, (first, last) = CASES[name]
    seed = fnv(name) & 0xFFFFFFFF
    model, shapes = model_of(config, lambda n, shape: tensor(seed, n, shape))
    tokens = ids(seed, config["vocab_size"], tokens).tolist()
    positions = [0, len(tokens) // 3, len(tokens) - 2, len(tokens) - 1]
    kept = [layer for layer in range(config["num_hidden_layers"]) if not first <= layer <= last]

    prefix = prefix_of(model)

    def kept_tensor(n, shape):
        if n.startswith(prefix):
            _, _, layer, rest = n.split(".", 3)
            n = f"{prefix}{kept[int(layer)]}.{rest}"
        return tensor(seed, n, shape)

    cut, _ = model_of(cut_config(config, kept), kept_tensor)
    shapes = {n: shape for n, shape in shapes.items() if not n.startswith(prefix) or n.startswith(f"{prefix}0.")}
    loss, gradients = loss_and_gradients(model, tokens)
    by_type = hasattr(model.base_model.rotary_emb, "full_attention_inv_freq")
    made = {"config": config, "seed": seed, "ids": tokens, "positions": positions, "drop": [first, last], "tensors_up_to_layer_0": shapes,
            "logits": logits(model, tokens, positions), "logits_after_the_cut": logits(cut, tokens, positions),
            "rotations": rotations(model.base_model, 8, "full_attention" if by_type else None)}
    if by_type:
        made["sliding_rotations"] = rotations(model.base_model, 8, "sliding_attention")
    return made | {"loss": loss, "gradients": gradients}


def rotation_fixture(name):
    config = BASE | ROTATIONS[name] | {"num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
    config["hidden_size"] = config["head_dim"]
    model = AutoModelForCausalLM.from_config(hf_config(config), dtype=torch.float32)
    return {"config": config, "rotations": rotations(model.base_model, 8)}


def write(name, value):
    with open(os.path.join(DATA, f"{name}.json"), "w") as f:
        lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(item, separators=(',', ':'))}" for key, item in value.items())
        f.write("{\n" + lines + "\n}\n")


def compare(path, found, expected):
    """Same structure, same numbers: exactly, but for logits and rotations."""
    # far positions amplify the last bit of a frequency; another machine's powers may differ there
    tolerance = 2e-2 if "rotations" in path else 1e-4
    if isinstance(expected, dict):
        assert list(found) == list(expected), (path, list(found), list(expected))
        for key in expected:
            compare(f"{path}.{key}", found[key], expected[key])
    elif isinstance(expected, float):
        assert abs(found - expected) <= tolerance, (path, found, expected)
    elif isinstance(expected, list) and expected and isinstance(expected[0], float):
        worst = np.abs(np.array(found) - np.array(expected)).max()
        # gradients may be large
        scale = max(1.0, np.abs(np.array(expected)).max()) if "gradients" in path else 1.0
        assert len(found) == len(expected) and worst <= tolerance * scale, (path, worst)
    elif isinstance(expected, list) and expected and isinstance(expected[0], dict):
        assert len(found) == len(expected), path
        for index, pair in enumerate(zip(found, expected)):
            compare(f"{path}[{index}]", *pair)
    else:
        assert found == expected, (path, found, expected)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    parser.add_argument("only", nargs="*")
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = args.only or list(CASES)
    made = {name: fixture(name) for name in names}
    if not args.only:
        made["rotations"] = {name: rotation_fixture(name) for name in ROTATIONS}
    os.makedirs(DATA, exist_ok=True)
    for name, value in made.items():
        if args.check:
            with open(os.path.join(DATA, f"{name}.json")) as f:
                compare(name, json.loads(json.dumps(value)), json.load(f))
        else:
            write(name, value)
        print(name, "agrees" if args.check else "written")


if __name__ == "__main__":
    main()
