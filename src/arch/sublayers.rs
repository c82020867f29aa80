//! What a decoder block is made of: residual updates of the stream, each of one sub-layer or of several.

use super::{ModelSpec, Role};

/// A kind of sub-layer: what computes an update `[t, d]` of the residual stream from the normed stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubLayerKind {
    /// Causal attention with rotary positions.
    Attention,
    /// `down(silu(gate(x)) · up(x))`.
    GatedMlp,
}

/// A residual update: the sum of what its sub-layers make of the normed stream is added to the stream. Two in one sum
/// are a parallel block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Residual {
    /// The norm that all of them see the stream through.
    pub norm: Role,
    /// The sub-layers, in the order in which they are added.
    pub sum: Vec<SubLayerKind>,
}

/// Some of the sub-layers of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubLayers {
    /// Attention.
    pub attention: bool,
    /// The MLP, of whatever kind.
    pub mlp: bool,
}

impl SubLayers {
    /// Whether `kind` is among them.
    #[must_use]
    pub fn contains(self, kind: SubLayerKind) -> bool {
        match kind {
            SubLayerKind::Attention => self.attention,
            SubLayerKind::GatedMlp => self.mlp,
        }
    }
}

impl ModelSpec {
    /// What layer `l` is made of, in the order of computation. Only sub-layers of the first residual look at other
    /// tokens. No family of the table has layers that differ in this.
    #[must_use]
    pub fn sublayers(&self, _l: usize) -> Vec<Residual> {
        vec![
            Residual { norm: Role::InputNorm, sum: vec![SubLayerKind::Attention] },
            Residual { norm: Role::PostNorm, sum: vec![SubLayerKind::GatedMlp] },
        ]
    }

    /// The same less the sub-layers `without`; a residual that has none left goes with its norm.
    #[must_use]
    pub fn sublayers_without(&self, l: usize, without: SubLayers) -> Vec<Residual> {
        let mut residuals = self.sublayers(l);
        for residual in &mut residuals {
            residual.sum.retain(|kind| !without.contains(*kind));
        }
        residuals.retain(|residual| !residual.sum.is_empty());
        residuals
    }

    /// The weights of a sub-layer of this kind, in the order of computation.
    #[must_use]
    pub fn sublayer_roles(&self, kind: SubLayerKind) -> Vec<Role> {
        match kind {
            SubLayerKind::Attention => {
                let qkv: &[Role] = if self.fused { &[Role::Qkv] } else { &[Role::Q, Role::K, Role::V] };
                let norms: &[Role] = if self.qk_norm { &[Role::QNorm, Role::KNorm] } else { &[] };
                [qkv, norms, &[Role::O]].concat()
            }
            SubLayerKind::GatedMlp if self.fused => vec![Role::GateUp, Role::Down],
            SubLayerKind::GatedMlp => vec![Role::Gate, Role::Up, Role::Down],
        }
    }

    /// What layer `l` has without the sub-layers `without`, in the order of computation.
    #[must_use]
    pub fn roles(&self, l: usize, without: SubLayers) -> Vec<Role> {
        let mut roles = Vec::new();
        for Residual { norm, sum } in self.sublayers_without(l, without) {
            roles.push(norm);
            roles.extend(sum.into_iter().flat_map(|kind| self.sublayer_roles(kind)));
        }
        roles
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_left_out_goes_with_its_norm() {
        let config = json!({
            "model_type": "qwen3", "hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 4, "head_dim": 2,
            "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 16,
        });
        let spec = ModelSpec::from_config(config.as_object().unwrap()).unwrap();
        let attention = [Role::InputNorm, Role::Q, Role::K, Role::V, Role::QNorm, Role::KNorm, Role::O];
        let mlp = [Role::PostNorm, Role::Gate, Role::Up, Role::Down];
        let without = |attention, mlp| spec.roles(1, SubLayers { attention, mlp });
        assert_eq!(without(false, false), [&attention[..], &mlp].concat());
        assert_eq!(without(true, false), mlp);
        assert_eq!(without(false, true), attention);
        assert_eq!(without(true, true), []);
    }
}
