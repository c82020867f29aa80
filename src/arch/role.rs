//! What the tensors of a layer are for.

/// What a tensor of a layer is for. Numbers of experts are those of the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Norm before attention, `[d]`.
    InputNorm,
    /// Norm before the MLP, `[d]`.
    PostNorm,
    /// Query projection, `[h·e, d]`.
    Q,
    /// Key projection, `[k·e, d]`.
    K,
    /// Value projection, `[k·e, d]`.
    V,
    /// Query, key and value in one, `[(h+2k)·e, d]` (Phi-3).
    Qkv,
    /// Attention output projection, `[d, h·e]`.
    O,
    /// Norm of each query head, `[e]` (Qwen3), or of all together, `[h·e]` (OLMo 2).
    QNorm,
    /// Norm of each key head, `[e]` (Qwen3), or of all together, `[k·e]` (OLMo 2).
    KNorm,
    /// From the stream to the vector that queries come from, `[r, d]` (DeepSeek-V2).
    QDown,
    /// Norm of that vector, `[r]`.
    QDownNorm,
    /// From it to queries, `[h·e, r]`.
    QUp,
    /// From the stream to the vector that keys and values come from, and the part of keys that is rotated,
    /// `[r + e', d]` (DeepSeek-V2).
    KvDown,
    /// Norm of that vector, `[r]`.
    KvDownNorm,
    /// From it to what else keys have, and values, head by head, `[h·(e - e' + v), r]`.
    KvUp,
    /// A score of each query head that no key has: it takes its share of the softmax and has no value, `[h]` (gpt-oss).
    Sinks,
    /// MLP gate projection, `[f, d]`.
    Gate,
    /// MLP up projection, `[f, d]`.
    Up,
    /// Gate and up in one, `[2f, d]` (Phi-3).
    GateUp,
    /// MLP down projection, `[d, f]`.
    Down,
    /// Norm of what attention gives, `[d]` (OLMo 2, Gemma 2).
    AttentionPostNorm,
    /// Norm of what the MLP gives, `[d]` (OLMo 2, Gemma 2).
    MlpPostNorm,
    /// What chooses among `n` experts, `[n, d]`.
    Router,
    /// What is added to the router's scores where experts are chosen, and only there, `[n]` (dots.llm1).
    RouterBias,
    /// Gate projection of an expert, `[f, d]`.
    ExpertGate(u16),
    /// Up projection of an expert, `[f, d]`.
    ExpertUp(u16),
    /// Gate and up of an expert in one, `[2f, d]`.
    ExpertGateUp(u16),
    /// Down projection of an expert, `[d, f]`.
    ExpertDown(u16),
    /// Gate and up of all experts in one tensor, `[n, 2f, d]` (Granite), or `[n, d, 2f]` (gpt-oss).
    ExpertsGateUp,
    /// Down projections of all experts in one tensor, `[n, d, f]` (Granite), or `[n, f, d]` (gpt-oss).
    ExpertsDown,
    /// Gate projection of the expert that all tokens go through, `[f, d]` (Qwen2-MoE).
    SharedGate,
    /// Its up projection, `[f, d]`.
    SharedUp,
    /// Its down projection, `[d, f]`.
    SharedDown,
    /// Whose sigmoid its output is multiplied with, `[1, d]` (Qwen2-MoE).
    SharedWeight,
    /// What xIELU makes the weight of squares from, `[1]` (Apertus).
    ActivationPositive,
    /// What it makes the weight of its exponential from, `[1]`.
    ActivationNegative,
    /// Its slope at zero, a number.
    ActivationBeta,
    /// Where its exponential ends, a number.
    ActivationEps,
    /// Linear map behind the layer, which `prune cut --repair` puts there, `[d, d]` or in two factors.
    SeamMap,
}

impl Role {
    /// Its number and, of an expert's, that of the expert.
    ///
    /// The numbers are an interface: seeds of adapters and of dropout hang on them. A new role takes a new number,
    /// below 256.
    #[must_use]
    pub fn number(self) -> (u8, Option<u16>) {
        match self {
            Self::InputNorm => (0, None),
            Self::PostNorm => (1, None),
            Self::Q => (2, None),
            Self::K => (3, None),
            Self::V => (4, None),
            Self::Qkv => (5, None),
            Self::O => (6, None),
            Self::QNorm => (7, None),
            Self::KNorm => (8, None),
            Self::Gate => (9, None),
            Self::Up => (10, None),
            Self::GateUp => (11, None),
            Self::Down => (12, None),
            Self::AttentionPostNorm => (13, None),
            Self::MlpPostNorm => (14, None),
            Self::Router => (15, None),
            Self::RouterBias => (16, None),
            Self::ExpertGate(expert) => (17, Some(expert)),
            Self::ExpertUp(expert) => (18, Some(expert)),
            Self::ExpertGateUp(expert) => (19, Some(expert)),
            Self::ExpertDown(expert) => (20, Some(expert)),
            Self::ExpertsGateUp => (21, None),
            Self::ExpertsDown => (22, None),
            Self::SharedGate => (23, None),
            Self::SharedUp => (24, None),
            Self::SharedDown => (25, None),
            Self::SharedWeight => (26, None),
            Self::Sinks => (27, None),
            Self::ActivationPositive => (28, None),
            Self::ActivationNegative => (29, None),
            Self::ActivationBeta => (30, None),
            Self::ActivationEps => (31, None),
            Self::QDown => (32, None),
            Self::QDownNorm => (33, None),
            Self::QUp => (34, None),
            Self::KvDown => (35, None),
            Self::KvDownNorm => (36, None),
            Self::KvUp => (37, None),
            Self::SeamMap => (64, None),
        }
    }

    /// The number of the expert that it is of, if it is of one.
    #[must_use]
    pub fn expert(self) -> Option<u16> {
        self.number().1
    }

    /// Whether both are the same but for the number of the expert.
    #[must_use]
    pub fn is_alike(self, other: Self) -> bool {
        self.number().0 == other.number().0
    }

    /// Whether it is a matrix that multiplies the stream and may be adapted or held in four bits, as opposed to norms,
    /// and to what weighs experts.
    #[must_use]
    pub fn is_linear(self) -> bool {
        self.is_of_attention() || self.is_of_mlp()
    }

    /// Whether it is a matrix of attention.
    #[must_use]
    pub fn is_of_attention(self) -> bool {
        matches!(
            self,
            Self::Q | Self::K | Self::V | Self::Qkv | Self::O | Self::QDown | Self::QUp | Self::KvDown | Self::KvUp
        )
    }

    /// Whether it is a matrix of the MLP, or of an expert.
    #[must_use]
    pub fn is_of_mlp(self) -> bool {
        matches!(
            self,
            Self::Gate
                | Self::Up
                | Self::GateUp
                | Self::Down
                | Self::ExpertGate(_)
                | Self::ExpertUp(_)
                | Self::ExpertGateUp(_)
                | Self::ExpertDown(_)
                | Self::SharedGate
                | Self::SharedUp
                | Self::SharedDown
        )
    }

    /// Whether it holds the matrices of all experts.
    #[must_use]
    pub fn is_stacked(self) -> bool {
        matches!(self, Self::ExpertsGateUp | Self::ExpertsDown)
    }

    /// Whether it is never trained: it decides which experts a token goes through, or is a constant of the activation.
    #[must_use]
    pub fn is_frozen(self) -> bool {
        matches!(self, Self::Router | Self::RouterBias | Self::ActivationBeta | Self::ActivationEps)
    }
}
