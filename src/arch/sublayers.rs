//! What a decoder block is made of: residual updates of the stream, each of one sub-layer or of several.

use super::kinds::{NormPlaces, QkNorm};
use super::{ModelSpec, Role};
use crate::plan::SubLayer;

/// A kind of sub-layer: what computes an update `[t, d]` of the residual stream from the normed stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubLayerKind {
    /// Causal attention with rotary positions.
    Attention,
    /// The same of keys and values that come from one vector a token (DeepSeek-V2).
    LatentAttention,
    /// `down(act(gate(x)) · up(x))`.
    GatedMlp,
    /// `down(act(up(x)))`.
    Mlp,
    /// The weighted sum of what some gated MLPs of many make of each token, chosen by a router.
    Experts,
}

/// A residual update: the sum of what its sub-layers make of the normed stream is normed and added to the stream, with
/// those norms that there are. Two in one sum are a parallel block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Residual {
    /// What they see the stream through: nothing, one norm for all of them, or a norm each.
    pub norms: Vec<Role>,
    /// The norm of their sum.
    pub post_norm: Option<Role>,
    /// The sub-layers, in the order in which they are added.
    pub sum: Vec<SubLayerKind>,
}

impl SubLayerKind {
    /// What a plan calls it.
    #[must_use]
    pub fn sublayer(self) -> SubLayer {
        match self {
            Self::Attention | Self::LatentAttention => SubLayer::Attention,
            Self::GatedMlp | Self::Mlp | Self::Experts => SubLayer::Mlp,
        }
    }
}

impl ModelSpec {
    /// What layer `l` is made of, in the order of computation. Only sub-layers of the first residual look at other
    /// tokens. A residual whose sub-layers the layer lacks is gone with its norm.
    #[must_use]
    pub fn sublayers(&self, l: usize) -> Vec<Residual> {
        let mlp = match self.experts_of(l) {
            Some(_) => SubLayerKind::Experts,
            None if self.gated => SubLayerKind::GatedMlp,
            None => SubLayerKind::Mlp,
        };
        let attention = match self.latent {
            Some(_) => SubLayerKind::LatentAttention,
            None => SubLayerKind::Attention,
        };
        let (before, after) = (self.norm_places != NormPlaces::After, self.norm_places != NormPlaces::Before);
        let residual = |norm: Role, kind, post_norm: Role| Residual {
            norms: before.then_some(norm).into_iter().collect(),
            sum: vec![kind],
            post_norm: after.then_some(post_norm),
        };
        let mut residuals = match self.parallel {
            true => {
                let sum = vec![attention, mlp];
                let norms = if self.norm_each { vec![Role::InputNorm, Role::PostNorm] } else { vec![Role::InputNorm] };
                vec![Residual { norms, sum, post_norm: None }]
            }
            false => vec![
                residual(Role::InputNorm, attention, Role::AttentionPostNorm),
                residual(Role::PostNorm, mlp, Role::MlpPostNorm),
            ],
        };
        let without = self.without.get(l).copied().unwrap_or_default();
        for residual in &mut residuals {
            let stays = |kind: &SubLayerKind| !without.contains(kind.sublayer());
            if residual.norms.len() == residual.sum.len() {
                let mut kinds = residual.sum.iter();
                residual.norms.retain(|_| kinds.next().is_some_and(stays));
            }
            residual.sum.retain(stays);
        }
        residuals.retain(|residual| !residual.sum.is_empty());
        residuals
    }

    /// Whether layer `l` looks at other tokens, and so keeps keys and values of those before.
    #[must_use]
    pub(crate) fn has_attention(&self, l: usize) -> bool {
        !self.without.get(l).is_some_and(|without| without.attention)
    }

    /// The weights of a sub-layer of this kind, in the order of computation.
    #[must_use]
    pub(crate) fn sublayer_roles(&self, kind: SubLayerKind) -> Vec<Role> {
        match kind {
            SubLayerKind::Attention => {
                let qkv: &[Role] = if self.fused_qkv { &[Role::Qkv] } else { &[Role::Q, Role::K, Role::V] };
                let norms: &[Role] = if self.qk_norm == QkNorm::None { &[] } else { &[Role::QNorm, Role::KNorm] };
                let sinks: &[Role] = if self.sinks { &[Role::Sinks] } else { &[] };
                [qkv, norms, sinks, &[Role::O]].concat()
            }
            SubLayerKind::LatentAttention => self.latent.map_or_else(Vec::new, |latent| latent.roles()),
            SubLayerKind::Mlp if self.xielu => vec![
                Role::Up,
                Role::ActivationPositive,
                Role::ActivationNegative,
                Role::ActivationBeta,
                Role::ActivationEps,
                Role::Down,
            ],
            SubLayerKind::Mlp => vec![Role::Up, Role::Down],
            SubLayerKind::Experts => self.experts.map_or_else(Vec::new, |experts| experts.roles()),
            SubLayerKind::GatedMlp if self.fused_gate_up => vec![Role::GateUp, Role::Down],
            SubLayerKind::GatedMlp => vec![Role::Gate, Role::Up, Role::Down],
        }
    }

    /// What layer `l` has, in the order of computation.
    #[must_use]
    pub fn roles(&self, l: usize) -> Vec<Role> {
        let mut roles = Vec::new();
        for Residual { norms, sum, post_norm } in self.sublayers(l) {
            roles.extend(norms);
            roles.extend(sum.into_iter().flat_map(|kind| self.sublayer_roles(kind)));
            roles.extend(post_norm);
        }
        roles
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plan::SubLayers;

    #[test]
    fn what_is_left_out_goes_with_its_norm() {
        let config = json!({
            "model_type": "qwen3", "hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 4, "head_dim": 2,
            "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 16,
        });
        let mut spec = ModelSpec::from_config(config.as_object().unwrap()).unwrap();
        let attention = [Role::InputNorm, Role::Q, Role::K, Role::V, Role::QNorm, Role::KNorm, Role::O];
        let mlp = [Role::PostNorm, Role::Gate, Role::Up, Role::Down];
        let mut without = |attention, mlp| {
            spec.without[1] = SubLayers { attention, mlp };
            assert_eq!(spec.has_attention(1), !attention);
            spec.roles(1)
        };
        assert_eq!(without(false, false), [&attention[..], &mlp].concat());
        assert_eq!(without(true, false), mlp);
        assert_eq!(without(false, true), attention);
        assert_eq!(without(true, true), []);
    }
}
