//! Which architectures of llama.cpp are which models of transformers, and what their tensors are called in both.
//!
//! Names: `MODEL_TENSORS` and `tensor_mapping.py` of the `gguf` package 0.19.

/// A family whose tensors and config have their likes in transformers.
#[derive(Debug)]
pub(crate) struct Family {
    /// `general.architecture`.
    pub(crate) arch: &'static str,
    /// `model_type` of the config.
    pub(crate) model_type: &'static str,
    /// The class in `architectures`.
    pub(crate) class: &'static str,
    /// Whether the halves of query and key heads lie between each other, as llama.cpp's first rotation had it.
    pub(crate) is_permuted: bool,
    /// Names of modules, `blk.N.` and `model.layers.N.` left out, that differ from [`LAYER`].
    layer: &'static [(&'static str, &'static str)],
}

/// What Llama's modules are called; others differ in few.
const LAYER: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// Modules that no layer has.
const BESIDE: &[(&str, &str)] =
    &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// Divisors of rotations, which the config says; and buffers that nothing reads.
pub(super) const ROTATIONS: [&str; 4] =
    ["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight", "attn_rot_embd.weight"];

const LLAMA: Family =
    Family { arch: "llama", model_type: "llama", class: "LlamaForCausalLM", is_permuted: true, layer: &[] };

/// Every family.
pub(crate) const FAMILIES: &[Family] = &[
    LLAMA,
    Family { arch: "qwen2", model_type: "qwen2", class: "Qwen2ForCausalLM", is_permuted: false, ..LLAMA },
    Family { arch: "qwen3", model_type: "qwen3", class: "Qwen3ForCausalLM", is_permuted: false, ..LLAMA },
    Family {
        arch: "phi3",
        model_type: "phi3",
        class: "Phi3ForCausalLM",
        is_permuted: false,
        layer: &[("attn_qkv", "self_attn.qkv_proj"), ("ffn_up", "mlp.gate_up_proj")],
    },
    Family { arch: "smollm3", model_type: "smollm3", class: "SmolLM3ForCausalLM", ..LLAMA },
    Family {
        arch: "seed_oss",
        model_type: "seed_oss",
        class: "SeedOssForCausalLM",
        is_permuted: false,
        layer: &[("post_attention_norm", "post_attention_layernorm")],
    },
];

/// Number of a layer and the rest: 3 and `attn_q.weight` of `blk.3.attn_q.weight`.
pub(crate) fn layer(name: &str) -> Option<(usize, &str)> {
    split(name, "blk.")
}

fn split<'a>(name: &'a str, prefix: &str) -> Option<(usize, &'a str)> {
    let (number, rest) = name.strip_prefix(prefix)?.split_once('.')?;
    // a leading zero would make two names of one
    let layer: usize = number.parse().ok()?;
    (layer.to_string() == number).then_some((layer, rest))
}

impl Family {
    /// The names of its modules, llama.cpp's and transformers'.
    fn modules(&self) -> impl Iterator<Item = &(&'static str, &'static str)> {
        let own = self.layer.iter();
        let is_own = |ours: &str, theirs: &str| self.layer.iter().any(|(one, other)| *one == ours || *other == theirs);
        own.chain(LAYER.iter().filter(move |(ours, theirs)| !is_own(ours, theirs)))
    }

    /// What transformers calls the tensor that llama.cpp calls `name`.
    pub(crate) fn theirs(&self, name: &str) -> Option<String> {
        if let Some((layer, rest)) = layer(name) {
            let (module, kind) = rest.rsplit_once('.')?;
            let (_, theirs) = self.modules().find(|(ours, _)| *ours == module)?;
            return Some(format!("model.layers.{layer}.{theirs}.{kind}"));
        }
        let (module, kind) = name.rsplit_once('.')?;
        let (_, theirs) = BESIDE.iter().find(|(ours, _)| *ours == module)?;
        Some(format!("{theirs}.{kind}"))
    }

    /// What llama.cpp calls the tensor that transformers calls `name`.
    pub(crate) fn ours(&self, name: &str) -> Option<String> {
        if let Some((layer, rest)) = split(name, "model.layers.") {
            let (module, kind) = rest.rsplit_once('.')?;
            let (ours, _) = self.modules().find(|(_, theirs)| *theirs == module)?;
            return Some(format!("blk.{layer}.{ours}.{kind}"));
        }
        let (module, kind) = name.rsplit_once('.')?;
        let (ours, _) = BESIDE.iter().find(|(_, theirs)| *theirs == module)?;
        Some(format!("{ours}.{kind}"))
    }

    /// Heads of the tensor that llama.cpp calls `name`, of those `(query, key)` there are, where their halves lie
    /// between each other.
    pub(crate) fn permuted(&self, name: &str, (query, key): (usize, usize)) -> Option<usize> {
        let (_, rest) = layer(name)?;
        match rest {
            "attn_q.weight" | "attn_q.bias" if self.is_permuted => Some(query),
            "attn_k.weight" | "attn_k.bias" if self.is_permuted => Some(key),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for family in FAMILIES {
            for (ours, _) in family.modules() {
                let name = format!("blk.7.{ours}.weight");
                let theirs = family.theirs(&name).unwrap();
                assert_eq!(family.ours(&theirs).unwrap(), name, "{}", family.arch);
            }
            assert_eq!(family.theirs("token_embd.weight").unwrap(), "model.embed_tokens.weight");
            assert_eq!(family.theirs("blk.0.ffn_gate_exps.weight"), None);
            assert_eq!(family.theirs("blk.00.attn_q.weight"), None);
        }
        let named = |arch: &str| FAMILIES.iter().find(|family| family.arch == arch).unwrap();
        assert_eq!(named("phi3").theirs("blk.1.ffn_up.weight").unwrap(), "model.layers.1.mlp.gate_up_proj.weight");
        let norm = "blk.1.post_attention_norm.weight";
        assert_eq!(named("seed_oss").theirs(norm).unwrap(), "model.layers.1.post_attention_layernorm.weight");
        assert_eq!(named("seed_oss").theirs("blk.1.ffn_norm.weight"), None);
        assert_eq!(named("llama").permuted("blk.0.attn_k.weight", (9, 3)), Some(3));
        assert_eq!(named("qwen2").permuted("blk.0.attn_k.weight", (9, 3)), None);
    }
}
