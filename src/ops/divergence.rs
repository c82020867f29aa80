//! How far the model's distribution is from the teacher's: the divergences of distillation, with their gradients.

/// A divergence between the teacher's distribution q and the model's p, those of logits/τ.
///
/// All are of the generalized Jensen-Shannon family of GKD (arXiv 2306.13649, TRL's `generalized_jsd_loss`), whose ends
/// are the two KL divergences.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Divergence {
    /// τ²·KL(q ‖ p): the model covers all that the teacher may say (arXiv 1503.02531).
    #[default]
    Kl,
    /// KL(p ‖ q): the model says nothing that the teacher would not. Without a factor for τ, as in TRL (beta 1).
    ReverseKl,
    /// β·KL(q ‖ m) + (1-β)·KL(p ‖ m) with m = β·q + (1-β)·p, 0 < β < 1. Without a factor for τ, as in TRL.
    Jsd {
        /// β.
        beta: f64,
    },
}

impl Divergence {
    /// What it is multiplied with under the temperature τ.
    pub(super) fn scale(self, temperature: f64) -> f64 {
        match self {
            Self::Kl => temperature * temperature,
            Self::ReverseKl | Self::Jsd { .. } => 1.0,
        }
    }

    /// What its gradient by logits/τ is multiplied with to be that by the logits.
    pub(super) fn gradient_scale(self, temperature: f64) -> f64 {
        match self {
            Self::Kl => temperature,
            Self::ReverseKl | Self::Jsd { .. } => 1.0 / temperature,
        }
    }

    /// The β of TRL; KL's is 0.
    pub(super) fn beta(self) -> f64 {
        match self {
            Self::Kl => 0.0,
            Self::ReverseKl => 1.0,
            Self::Jsd { beta } => beta,
        }
    }
}

/// KL(p ‖ q) of a row; `gap` is ln p - ln q of a token. The probabilities `p` become the gradient by logits/τ,
/// p·(ln p - ln q - KL).
#[inline(always)]
pub(super) fn reverse(p: &mut [f32], gap: impl Fn(usize) -> f64) -> f64 {
    let divergence = p.iter().enumerate().map(|(token, p)| f64::from(*p) * gap(token)).sum::<f64>();
    for (token, p) in p.iter_mut().enumerate() {
        *p *= (gap(token) - divergence) as f32;
    }
    divergence
}

/// The Jensen-Shannon divergence of a row. The probabilities `p` become the gradient by logits/τ,
/// (1-β)·p·(ln(p/m) - KL(p ‖ m)).
#[inline(always)]
pub(super) fn jensen_shannon(p: &mut [f32], q: &[f32], beta: f64) -> f64 {
    let (of_q, of_p) = (beta as f32, (1.0 - beta) as f32);
    let mut logs = vec![0f32; p.len()];
    let (mut from_p, mut from_q) = (0f64, 0f64);
    for ((p, q), log) in p.iter().zip(q).zip(&mut logs) {
        let m = of_q * q + of_p * p;
        *log = log_of(*p, m);
        from_p += f64::from(*p) * f64::from(*log);
        from_q += f64::from(*q) * f64::from(log_of(*q, m));
    }
    for (p, log) in p.iter_mut().zip(&logs) {
        *p *= ((1.0 - beta) * (f64::from(*log) - from_p)) as f32;
    }
    beta * from_q + (1.0 - beta) * from_p
}

/// ln(p/m); what has no probability adds nothing.
#[inline(always)]
fn log_of(p: f32, m: f32) -> f32 {
    if p > 0.0 && m > 0.0 { (p / m).ln() } else { 0.0 }
}

/// A divergence other than KL of classes, each with ln p and ln q; and of each class the h that makes p·h the gradient
/// by logits/τ of its tokens, p the probability of the token.
pub(super) fn of_classes(divergence: Divergence, classes: &[(f64, f64)]) -> (f64, Vec<f64>) {
    let beta = divergence.beta();
    let logs: Vec<(f64, f64)> = classes
        .iter()
        .map(|(p, q)| match divergence {
            Divergence::Jsd { .. } => {
                let m = (beta * q.exp() + (1.0 - beta) * p.exp()).ln();
                let log = |x: f64| if x.exp() > 0.0 { x - m } else { 0.0 };
                (log(*p), log(*q))
            }
            Divergence::Kl | Divergence::ReverseKl => (p - q, 0.0),
        })
        .collect();
    let mean = |of: &dyn Fn(usize) -> (f64, f64)| -> f64 {
        (0..classes.len()).map(&of).map(|(log_prob, log)| log_prob.exp() * log).sum()
    };
    let from_p = mean(&|class| (classes[class].0, logs[class].0));
    if let Divergence::Jsd { .. } = divergence {
        let from_q = mean(&|class| (classes[class].1, logs[class].1));
        let gradients = logs.iter().map(|(log, _)| (1.0 - beta) * (log - from_p));
        return (beta * from_q + (1.0 - beta) * from_p, gradients.collect());
    }
    (from_p, logs.iter().map(|(log, _)| log - from_p).collect())
}
