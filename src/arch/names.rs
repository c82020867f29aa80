//! What the tensors of a model are called and how large they are.

use std::borrow::Cow;

use super::kinds::QkNorm;
use super::{ModelSpec, Role, Stacked};
use crate::checkpoint::Index;

/// The bias of the vocabulary head, `[v]`.
const HEAD_BIAS: &str = "lm_head.bias";
/// What the bias of a tensor that is no module has behind the tensor's own name.
const STACKED_BIAS: &str = "_bias";

/// One tensor of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerTensor {
    /// What it is for.
    pub role: Role,
    /// Full name.
    pub name: String,
    /// Shape, outermost first.
    pub shape: Vec<usize>,
    /// Name of the bias that goes with this weight, of [`LayerTensor::bias_shape`].
    pub bias: Option<String>,
}

impl LayerTensor {
    /// The shape of the bias: a number for each output, of each expert where the tensor holds all of them.
    #[must_use]
    pub fn bias_shape(&self) -> Vec<usize> {
        match self.shape[..] {
            // biases are there where the outputs are columns
            [experts, _, outputs] => vec![experts, outputs],
            _ => self.shape[..1].to_vec(),
        }
    }
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
            Self::Sinks => "self_attn.sinks",
            Self::QDown => "self_attn.q_a_proj",
            Self::QDownNorm => "self_attn.q_a_layernorm",
            Self::QUp => "self_attn.q_b_proj",
            Self::KvDown => "self_attn.kv_a_proj_with_mqa",
            Self::KvDownNorm => "self_attn.kv_a_layernorm",
            Self::KvUp => "self_attn.kv_b_proj",
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
            Self::ActivationPositive | Self::ActivationNegative | Self::ActivationBeta | Self::ActivationEps => {
                "mlp.act_fn"
            }
            Self::SeamMap => "seam_map",
        }
    }

    /// What its tensor is called within its module.
    fn tensor(self) -> &'static str {
        match self {
            Self::RouterBias => "e_score_correction_bias",
            Self::ActivationPositive => "alpha_p",
            Self::ActivationNegative => "alpha_n",
            Self::ActivationBeta => "beta",
            Self::ActivationEps => "eps",
            _ => "weight",
        }
    }
}

/// Whether `name`, within a layer, is a tensor of `module`, or of a module in that.
pub(crate) fn is_of_module(name: &str, module: &str) -> bool {
    let rest = name.strip_prefix(module);
    rest.is_some_and(|rest| rest.is_empty() || rest == STACKED_BIAS || rest.starts_with('.'))
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
        let latent = self.latent.and_then(|latent| latent.shape(role, (d, self.heads)));
        let (shape, bias) = match role {
            Role::QDown | Role::KvDown => (latent.unwrap_or_default(), self.qkv_bias),
            Role::QDownNorm | Role::QUp | Role::KvDownNorm | Role::KvUp => (latent.unwrap_or_default(), false),
            Role::InputNorm | Role::PostNorm | Role::AttentionPostNorm | Role::MlpPostNorm => {
                (vec![d], self.norm.has_bias())
            }
            Role::QNorm if self.qk_norm == QkNorm::Together => (vec![q], self.norm.has_bias()),
            Role::KNorm if self.qk_norm == QkNorm::Together => (vec![kv], self.norm.has_bias()),
            Role::QNorm | Role::KNorm => (vec![self.head_dim], self.norm.has_bias()),
            Role::Q => latent.map_or((vec![q, d], self.qkv_bias), |shape| (shape, false)),
            Role::K | Role::V => (vec![kv, d], self.qkv_bias),
            Role::Qkv => (vec![q + 2 * kv, d], self.qkv_bias),
            Role::O => (latent.unwrap_or_else(|| vec![d, q]), self.o_bias),
            Role::Gate | Role::Up => (vec![f, d], self.mlp_bias),
            Role::GateUp => (vec![2 * f, d], self.mlp_bias),
            Role::Down => (vec![d, f], self.mlp_bias),
            Role::ActivationPositive | Role::ActivationNegative => (vec![1], false),
            Role::ActivationBeta | Role::ActivationEps => (vec![], false),
            Role::SeamMap => (vec![d, d], false),
            Role::Sinks => (vec![self.heads], false),
            of_experts => match &self.experts {
                Some(experts) => (experts.shape(of_experts, d), experts.has_bias(of_experts, self.mlp_bias)),
                None => (Vec::new(), false),
            },
        };
        let module = format!("{}{l}.{}", self.layer_prefix, self.module(role));
        let (name, bias_name) = match self.is_bare(role) {
            true => (module.clone(), format!("{module}{STACKED_BIAS}")),
            false => (format!("{module}.{}", role.tensor()), format!("{module}.bias")),
        };
        LayerTensor { role, name, shape, bias: bias.then_some(bias_name) }
    }

    /// Whether its tensor is a parameter of a larger module, and has no name within one of its own.
    fn is_bare(&self, role: Role) -> bool {
        let columns = self.experts.is_some_and(|experts| experts.stacked == Some(Stacked::Columns));
        role == Role::Sinks || role.is_stacked() && columns
    }

    /// Every tensor of layer `l`: the weights, each followed by its bias, an entry of its own, where it has one.
    #[must_use]
    pub fn layer_tensors(&self, l: usize) -> Vec<LayerTensor> {
        let mut tensors = Vec::new();
        for role in self.roles(l) {
            let weight = self.layer_tensor(l, role);
            let bias =
                weight.bias.clone().map(|name| LayerTensor { role, name, shape: weight.bias_shape(), bias: None });
            tensors.push(weight);
            tensors.extend(bias);
        }
        tensors
    }

    /// The matrices of layer `l` with their full module names, as PEFT counts them: `model.layers.3.self_attn.q_proj`.
    #[must_use]
    pub(crate) fn linear_modules(&self, l: usize) -> Vec<(Role, String)> {
        let linear = self.roles(l).into_iter().filter(|role| role.is_linear());
        linear.map(|role| (role, format!("{}{l}.{}", self.layer_prefix, self.module(role)))).collect()
    }

    /// The parameters of layer `l` that hold the matrices of all experts, as transformers names them (`gate_up_proj`
    /// and `down_proj` of a module `experts`, whatever files call them): `model.layers.3.mlp.experts.down_proj`.
    #[must_use]
    pub(crate) fn stacked_parameters(&self, l: usize) -> Vec<(Role, String)> {
        let stacked = self.roles(l).into_iter().filter(|role| role.is_stacked());
        let named = stacked.map(|role| {
            let module = self.module(role);
            let within = module.split('.').next().unwrap_or_default();
            let name = if role == Role::ExpertsDown { "down_proj" } else { "gate_up_proj" };
            (role, format!("{}{l}.{within}.experts.{name}", self.layer_prefix))
        });
        named.collect()
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
        if self.tied && !index.tensors.contains_key(self.embedding) { self.head } else { self.embedding }
    }

    /// The head, `[v, d]`: `lm_head.weight`, or the embedding of a tied model that has no head of its own. A model
    /// that calls itself tied and holds both is taken at its tensors, as transformers 5 does.
    #[must_use]
    pub(crate) fn head_tensor(&self, index: &Index) -> &'static str {
        if self.tied && !index.tensors.contains_key(self.head) { self.embedding } else { self.head }
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
