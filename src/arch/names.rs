//! What the tensors of a model are called and how large they are.

use std::borrow::Cow;

use super::kinds::QkNorm;
use super::{ModelSpec, Role};
use crate::checkpoint::Index;

/// The embedding, `[v, d]`.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
/// The vocabulary head, `[v, d]`.
pub const HEAD: &str = "lm_head.weight";
/// The bias of the vocabulary head, `[v]`.
const HEAD_BIAS: &str = "lm_head.bias";
/// What the names of layer tensors start with; the layer's number follows.
pub(super) const LAYERS: &str = "model.layers.";

/// One tensor of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerTensor {
    /// What it is for.
    pub role: Role,
    /// Full name.
    pub name: String,
    /// Shape, outermost first.
    pub shape: Vec<usize>,
    /// Name of the bias that goes with this weight, `[shape[0]]`.
    pub bias: Option<String>,
}

impl Role {
    /// The module within a layer of Llama's names, as transformers and PEFT have them; `{}` is the number of an expert.
    fn usual_module(self) -> &'static str {
        match self {
            Self::InputNorm => "input_layernorm",
            Self::PostNorm => "post_attention_layernorm",
            Self::Q => "self_attn.q_proj",
            Self::K => "self_attn.k_proj",
            Self::V => "self_attn.v_proj",
            Self::Qkv => "self_attn.qkv_proj",
            Self::O => "self_attn.o_proj",
            Self::QNorm => "self_attn.q_norm",
            Self::KNorm => "self_attn.k_norm",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::GateUp => "mlp.gate_up_proj",
            Self::Down => "mlp.down_proj",
            Self::AttentionPostNorm => "post_attention_layernorm",
            Self::MlpPostNorm => "post_feedforward_layernorm",
            Self::Router | Self::RouterBias => "mlp.gate",
            Self::ExpertGate(_) => "mlp.experts.{}.gate_proj",
            Self::ExpertUp(_) => "mlp.experts.{}.up_proj",
            Self::ExpertGateUp(_) => "mlp.experts.{}.gate_up_proj",
            Self::ExpertDown(_) => "mlp.experts.{}.down_proj",
            Self::ExpertsGateUp => "mlp.input_linear",
            Self::ExpertsDown => "mlp.output_linear",
            Self::SharedGate => "mlp.shared_expert.gate_proj",
            Self::SharedUp => "mlp.shared_expert.up_proj",
            Self::SharedDown => "mlp.shared_expert.down_proj",
            Self::SharedWeight => "mlp.shared_expert_gate",
            Self::SeamMap => "seam_map",
        }
    }

    /// What its tensor is called within its module.
    fn tensor(self) -> &'static str {
        if self == Self::RouterBias { "e_score_correction_bias" } else { "weight" }
    }
}

impl ModelSpec {
    /// The module within a layer, as transformers and PEFT name it.
    #[must_use]
    pub fn module(&self, role: Role) -> Cow<'static, str> {
        let own = self.renamed.iter().find(|(renamed, _)| renamed.is_alike(role));
        let module = own.map_or_else(|| role.usual_module(), |(_, module)| module);
        match role.expert() {
            Some(expert) => Cow::Owned(module.replacen("{}", &expert.to_string(), 1)),
            None => Cow::Borrowed(module),
        }
    }

    /// The weight of layer `l` that has this role.
    #[must_use]
    pub fn layer_tensor(&self, l: usize, role: Role) -> LayerTensor {
        let (d, f, q, kv) =
            (self.hidden_size, self.mlp_size, self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let (shape, bias) = match role {
            Role::InputNorm | Role::PostNorm | Role::AttentionPostNorm | Role::MlpPostNorm => {
                (vec![d], self.norm.has_bias())
            }
            Role::QNorm if self.qk_norm == QkNorm::Together => (vec![q], self.norm.has_bias()),
            Role::KNorm if self.qk_norm == QkNorm::Together => (vec![kv], self.norm.has_bias()),
            Role::QNorm | Role::KNorm => (vec![self.head_dim], self.norm.has_bias()),
            Role::Q => (vec![q, d], self.qkv_bias),
            Role::K | Role::V => (vec![kv, d], self.qkv_bias),
            Role::Qkv => (vec![q + 2 * kv, d], self.qkv_bias),
            Role::O => (vec![d, q], self.o_bias),
            Role::Gate | Role::Up => (vec![f, d], self.mlp_bias),
            Role::GateUp => (vec![2 * f, d], self.mlp_bias),
            Role::Down => (vec![d, f], self.mlp_bias),
            Role::SeamMap => (vec![d, d], false),
            of_experts => (self.experts.map_or_else(Vec::new, |experts| experts.shape(of_experts, d)), false),
        };
        let module = format!("{LAYERS}{l}.{}", self.module(role));
        let name = format!("{module}.{}", role.tensor());
        LayerTensor { role, name, shape, bias: bias.then(|| format!("{module}.bias")) }
    }

    /// Every tensor of layer `l`: the weights, each followed by its bias, an entry of its own, where it has one.
    #[must_use]
    pub fn layer_tensors(&self, l: usize) -> Vec<LayerTensor> {
        let mut tensors = Vec::new();
        for role in self.roles(l) {
            let weight = self.layer_tensor(l, role);
            let bias =
                weight.bias.clone().map(|name| LayerTensor { role, name, shape: vec![weight.shape[0]], bias: None });
            tensors.push(weight);
            tensors.extend(bias);
        }
        tensors
    }

    /// The matrices of layer `l` with their full module names, as PEFT counts them: `model.layers.3.self_attn.q_proj`.
    #[must_use]
    pub(crate) fn linear_modules(&self, l: usize) -> Vec<(Role, String)> {
        let linear = self.roles(l).into_iter().filter(|role| role.is_linear());
        linear.map(|role| (role, format!("{LAYERS}{l}.{}", self.module(role)))).collect()
    }

    /// The norm before the head, `[d]`.
    #[must_use]
    pub(crate) fn final_norm_tensor(&self) -> String {
        format!("{}.weight", self.final_norm)
    }

    /// Its bias, `[d]`, where norms have one.
    #[must_use]
    pub(crate) fn final_norm_bias(&self) -> Option<String> {
        self.norm.has_bias().then(|| format!("{}.bias", self.final_norm))
    }

    /// The head's bias, `[v]`, where it has one.
    #[must_use]
    pub(crate) fn head_bias_tensor(&self) -> Option<&'static str> {
        self.head_bias.then_some(HEAD_BIAS)
    }

    /// What stands behind the layers beside the head's matrix, with shapes: the norm, and biases.
    #[must_use]
    pub fn end_tensors(&self) -> Vec<(String, Vec<usize>)> {
        let norm = [Some(self.final_norm_tensor()), self.final_norm_bias()].into_iter().flatten();
        let bias = self.head_bias_tensor().map(|name| (name.to_owned(), vec![self.vocab_size]));
        norm.map(|name| (name, vec![self.hidden_size])).chain(bias).collect()
    }

    /// The embedding, `[v, d]`. A tied model may have kept only its head: then that.
    #[must_use]
    pub(crate) fn embedding_tensor(&self, index: &Index) -> &'static str {
        if self.tied && !index.tensors.contains_key(EMBEDDING) { HEAD } else { EMBEDDING }
    }

    /// The head, `[v, d]`: `lm_head.weight`, or the embedding of a tied model that has no head of its own. A model
    /// that calls itself tied and holds both is taken at its tensors, as transformers 5 does.
    #[must_use]
    pub(crate) fn head_tensor(&self, index: &Index) -> &'static str {
        if self.tied && !index.tensors.contains_key(HEAD) { EMBEDDING } else { HEAD }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(model_type: &str) -> ModelSpec {
        let config = json!({
            "model_type": model_type, "hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 4, "head_dim": 2,
            "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 16,
        });
        ModelSpec::from_config(config.as_object().unwrap()).unwrap()
    }

    #[test]
    fn biases_follow_their_weights() {
        let tensors = spec("qwen2").layer_tensors(1);
        let q = tensors.iter().position(|tensor| tensor.role == Role::Q).unwrap();
        assert_eq!(tensors[q].bias.as_deref(), Some("model.layers.1.self_attn.q_proj.bias"));
        assert_eq!((&tensors[q].shape, &tensors[q + 1].shape), (&vec![8, 8], &vec![8]));
        assert_eq!(Some(&tensors[q + 1].name), tensors[q].bias.as_ref());
        assert_eq!(tensors.len(), 12);
        assert_eq!(spec("llama").layer_tensors(0).len(), 9);
    }

    #[test]
    fn modules_are_named_as_peft_names_them() {
        let names =
            |model_type: &str| spec(model_type).linear_modules(3).into_iter().map(|(_, name)| name).collect::<Vec<_>>();
        let full = |parts: &[&str]| parts.iter().map(|part| format!("model.layers.3.{part}")).collect::<Vec<_>>();
        let attention = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"];
        let split = [&attention[..], &["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]].concat();
        assert_eq!(names("qwen3"), full(&split));
        assert_eq!(
            names("phi3"),
            full(&["self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"])
        );
    }
}
