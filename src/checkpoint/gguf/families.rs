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
    /// Names of tensors that hold a matrix of every expert, and what that of an expert, `{}`, is called; empty where
    /// there are none.
    experts: &'static [(&'static str, &'static str)],
    /// Whether llama.cpp divides the scores of the experts that are chosen by their sum.
    pub(crate) is_normed: bool,
    /// Modules of transformers with the matrices of gate and of up of every expert, those of gate first, and where
    /// llama.cpp has them apart.
    fused: &'static [(&'static str, [&'static str; 2])],
    /// Whether it multiplies embeddings, updates, scores and logits, and the file says with what (Granite).
    pub(crate) has_multipliers: bool,
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

const LLAMA: Family = Family {
    arch: "llama",
    model_type: "llama",
    class: "LlamaForCausalLM",
    is_permuted: true,
    layer: &[],
    experts: &[],
    is_normed: false,
    fused: &[],
    has_multipliers: false,
};

/// What Qwen's experts are called, and OLMoE's.
const EXPERTS: &[(&str, &str)] = &[
    ("ffn_gate_exps", "mlp.experts.{}.gate_proj"),
    ("ffn_up_exps", "mlp.experts.{}.up_proj"),
    ("ffn_down_exps", "mlp.experts.{}.down_proj"),
];

/// A mixture with Qwen's names.
const MIXTURE: Family =
    Family { is_permuted: false, layer: &[("ffn_gate_inp", "mlp.gate")], experts: EXPERTS, ..LLAMA };

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
        ..LLAMA
    },
    Family { arch: "smollm3", model_type: "smollm3", class: "SmolLM3ForCausalLM", ..LLAMA },
    Family {
        arch: "seed_oss",
        model_type: "seed_oss",
        class: "SeedOssForCausalLM",
        is_permuted: false,
        layer: &[("post_attention_norm", "post_attention_layernorm")],
        ..LLAMA
    },
    Family {
        model_type: "mixtral",
        class: "MixtralForCausalLM",
        layer: &[("ffn_gate_inp", "block_sparse_moe.gate")],
        experts: &[
            ("ffn_gate_exps", "block_sparse_moe.experts.{}.w1"),
            ("ffn_up_exps", "block_sparse_moe.experts.{}.w3"),
            ("ffn_down_exps", "block_sparse_moe.experts.{}.w2"),
        ],
        is_normed: true,
        ..LLAMA
    },
    Family {
        arch: "qwen2moe",
        model_type: "qwen2_moe",
        class: "Qwen2MoeForCausalLM",
        layer: &[
            ("ffn_gate_inp", "mlp.gate"),
            ("ffn_gate_shexp", "mlp.shared_expert.gate_proj"),
            ("ffn_up_shexp", "mlp.shared_expert.up_proj"),
            ("ffn_down_shexp", "mlp.shared_expert.down_proj"),
            (SHARED_WEIGHT, "mlp.shared_expert_gate"),
        ],
        ..MIXTURE
    },
    Family { arch: "qwen3moe", model_type: "qwen3_moe", class: "Qwen3MoeForCausalLM", is_normed: true, ..MIXTURE },
    Family { arch: "olmoe", model_type: "olmoe", class: "OlmoeForCausalLM", ..MIXTURE },
    Family { arch: "granite", model_type: "granite", class: "GraniteForCausalLM", has_multipliers: true, ..LLAMA },
    Family {
        arch: "granitemoe",
        model_type: "granitemoe",
        class: "GraniteMoeForCausalLM",
        layer: &[
            ("ffn_gate_inp", "block_sparse_moe.router.layer"),
            ("ffn_down_exps", "block_sparse_moe.output_linear"),
        ],
        fused: &[("block_sparse_moe.input_linear", ["ffn_gate_exps", "ffn_up_exps"])],
        is_normed: true,
        has_multipliers: true,
        ..LLAMA
    },
];

/// What the shared expert's output is multiplied with: one row, which llama.cpp has as a vector.
const SHARED_WEIGHT: &str = "ffn_gate_inp_shexp";

/// Number of a layer and the rest: 3 and `attn_q.weight` of `blk.3.attn_q.weight`.
pub(crate) fn layer(name: &str) -> Option<(usize, &str)> {
    split(name, "blk.")
}

fn is_shared_weight(name: &str) -> bool {
    layer(name).is_some_and(|(_, rest)| rest.strip_suffix(".weight") == Some(SHARED_WEIGHT))
}

/// Whether the tensor that llama.cpp calls `name` chooses among experts, or weighs one: those stay in F32.
pub(crate) fn is_router(name: &str) -> bool {
    layer(name).is_some_and(|(_, rest)| rest.starts_with("ffn_gate_inp"))
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

    /// Whether it has experts.
    pub(crate) fn has_experts(&self) -> bool {
        !self.experts.is_empty() || !self.fused.is_empty()
    }

    /// The tensors with gate and with up of all experts that the one which transformers calls `name` is made of.
    pub(crate) fn halves(&self, name: &str) -> Option<[String; 2]> {
        let (layer, rest) = split(name, "model.layers.")?;
        let (_, ours) = self.fused.iter().find(|(theirs, _)| rest.strip_suffix(".weight") == Some(*theirs))?;
        Some(ours.map(|ours| format!("blk.{layer}.{ours}.weight")))
    }

    /// Of the tensor that llama.cpp calls `name`, what it is the half of, and which: that of gate is the first.
    pub(super) fn half(&self, name: &str) -> Option<(String, usize)> {
        let (layer, rest) = layer(name)?;
        let module = rest.strip_suffix(".weight")?;
        self.fused.iter().find_map(|(theirs, ours)| {
            let half = ours.iter().position(|ours| *ours == module)?;
            Some((format!("model.layers.{layer}.{theirs}.weight"), half))
        })
    }

    /// What transformers calls the matrices of `count` experts in the tensor that llama.cpp calls `name`, if it is one.
    pub(crate) fn of_experts(&self, name: &str, count: usize) -> Option<Vec<String>> {
        let (layer, rest) = layer(name)?;
        let (_, theirs) = self.experts.iter().find(|(ours, _)| rest.strip_suffix(".weight") == Some(*ours))?;
        let (before, after) = theirs.split_once("{}")?;
        Some((0..count).map(|expert| format!("model.layers.{layer}.{before}{expert}{after}.weight")).collect())
    }

    /// The tensor that has the matrix which transformers calls `name`, and the expert that it is of, if it is of one.
    pub(crate) fn expert(&self, name: &str) -> Option<(String, usize)> {
        let (layer, rest) = split(name, "model.layers.")?;
        self.experts.iter().find_map(|(ours, theirs)| {
            let (before, after) = theirs.split_once("{}")?;
            let number = rest.strip_suffix(".weight")?.strip_prefix(before)?.strip_suffix(after)?;
            Some((format!("blk.{layer}.{ours}.weight"), number.parse().ok()?))
        })
    }

    /// The shape in transformers of the tensor that llama.cpp calls `name` and has in `shape`.
    pub(super) fn their_shape(&self, name: &str, shape: &[usize]) -> Vec<usize> {
        let front: &[usize] = if is_shared_weight(name) && shape.len() == 1 { &[1] } else { &[] };
        [front, shape].concat()
    }

    /// The other way round.
    pub(crate) fn our_shape(&self, name: &str, shape: Vec<usize>) -> Vec<usize> {
        if is_shared_weight(name) { shape.into_iter().skip(1).collect() } else { shape }
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
            let of_experts = family.of_experts("blk.3.ffn_gate_exps.weight", 2);
            assert_eq!(of_experts.is_some() || !family.fused.is_empty(), family.has_experts(), "{}", family.arch);
            for (number, name) in of_experts.into_iter().flatten().enumerate() {
                assert_eq!(family.expert(&name), Some(("blk.3.ffn_gate_exps.weight".to_owned(), number)));
            }
            assert_eq!(family.theirs("blk.0.ffn_gate_exps.weight"), None);
            assert_eq!(family.theirs("blk.00.attn_q.weight"), None);
        }
        let named = |arch: &str| FAMILIES.iter().find(|family| family.arch == arch).unwrap();
        let fused = "model.layers.4.block_sparse_moe.input_linear.weight";
        let halves = named("granitemoe").halves(fused).unwrap();
        assert_eq!(halves, ["blk.4.ffn_gate_exps.weight", "blk.4.ffn_up_exps.weight"]);
        for (at, half) in halves.iter().enumerate() {
            assert_eq!(named("granitemoe").half(half), Some((fused.to_owned(), at)));
        }
        assert_eq!(named("phi3").theirs("blk.1.ffn_up.weight").unwrap(), "model.layers.1.mlp.gate_up_proj.weight");
        let norm = "blk.1.post_attention_norm.weight";
        assert_eq!(named("seed_oss").theirs(norm).unwrap(), "model.layers.1.post_attention_layernorm.weight");
        assert_eq!(named("seed_oss").theirs("blk.1.ffn_norm.weight"), None);
        assert_eq!(named("llama").permuted("blk.0.attn_k.weight", (9, 3)), Some(3));
        assert_eq!(named("qwen2").permuted("blk.0.attn_k.weight", (9, 3)), None);
    }
}
