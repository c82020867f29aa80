//! How a healing learns from its teacher: which divergence, which streams, which texts.

use serde::{Deserialize, Serialize};

use super::rollouts::RolloutTokens;
use super::settings::HealSettings;
use crate::ops::Divergence;
use crate::{Error, Result};

/// The name of a divergence from the teacher.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DivergenceKind {
    /// KL(teacher ‖ model).
    #[default]
    Kl,
    /// KL(model ‖ teacher).
    ReverseKl,
    /// The generalized Jensen-Shannon divergence.
    Jsd,
}

/// The β of the Jensen-Shannon divergence, where nobody says another: TRL's.
const BETA: f64 = 0.5;

impl HealSettings {
    /// The divergence from the teacher.
    #[must_use]
    pub fn divergence(&self) -> Divergence {
        match self.divergence {
            DivergenceKind::Kl => Divergence::Kl,
            DivergenceKind::ReverseKl => Divergence::ReverseKl,
            DivergenceKind::Jsd => Divergence::Jsd { beta: self.jsd_beta.unwrap_or(BETA) },
        }
    }

    /// Refuses what says nothing without something else, or cannot be.
    pub(super) fn check_distilling(&self) -> Result<()> {
        if self.divergence != DivergenceKind::default() && self.teacher.is_none() {
            return Err(Error::request("divergence is that from a teacher: name one with --teacher"));
        }
        if let Some(beta) = self.jsd_beta {
            if self.divergence != DivergenceKind::Jsd {
                return Err(Error::request("jsd_beta goes with divergence = \"jsd\""));
            }
            // what rounds to 1 in f32 is 1 to the kernels
            if !(beta > 0.0 && (beta as f32) < 1.0 && beta as f32 > 0.0) {
                return Err(Error::request(format!(
                    "jsd_beta is {beta}, expected above 0 and below 1: its ends are divergence = \"kl\" (0) and \
                     \"reverse-kl\" (1)"
                )));
            }
        }
        match self.hidden_weight {
            Some(weight) if !(weight >= 0.0 && weight.is_finite()) => {
                return Err(Error::request(format!("hidden_weight is {weight}, expected 0 or more")));
            }
            Some(_) if self.hidden_states.is_none() => {
                return Err(Error::request("hidden_weight is that of hidden_states: name some, such as seam"));
            }
            _ => {}
        }
        if self.hidden_states.is_some() && self.teacher.is_none() {
            return Err(Error::request("hidden_states are held against a teacher's: name one with --teacher"));
        }
        self.check_on_policy()
    }

    fn check_on_policy(&self) -> Result<()> {
        let share = self.on_policy;
        if !(0.0..=1.0).contains(&share) {
            return Err(Error::request(format!("on_policy is {share}, expected a share from 0 to 1")));
        }
        if self.prompt_tokens == Some(0) {
            return Err(Error::request("prompt_tokens is 0, expected 1 or more"));
        }
        if share == 0.0 {
            let given = [
                ("rollout_tokens", self.rollout_tokens != RolloutTokens::default()),
                ("prompt_tokens", self.prompt_tokens.is_some()),
            ];
            return match given.into_iter().find(|(_, given)| *given) {
                Some((name, _)) => Err(Error::request(format!("{name} is of texts the model writes: --on-policy 0.5"))),
                None => Ok(()),
            };
        }
        if self.teacher.is_none() {
            return Err(Error::request(
                "on_policy: what the model writes is judged by a teacher: name one with --teacher",
            ));
        }
        Ok(())
    }

    /// Refuses texts for which there is no room behind what the model goes on with.
    pub(super) fn check_room(&self) -> Result<()> {
        let (prompt, seq_len) = (self.prompt_tokens(), self.seq_len());
        if self.on_policy > 0.0 && prompt >= seq_len {
            return Err(Error::request(format!(
                "prompt_tokens is {prompt}, and a sequence has {seq_len} tokens at most (seq_len): there is no room for \
                 what the model writes"
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_teacher_cannot_be_learned_by() {
        let read = |text: &str| toml::from_str::<HealSettings>(text).unwrap();
        for (text, words) in [
            ("divergence = \"jsd\"", "--teacher"),
            ("teacher = \"m\"\njsd_beta = 0.5", "divergence = \"jsd\""),
            ("teacher = \"m\"\ndivergence = \"jsd\"\njsd_beta = 0.0", "(0)"),
            ("teacher = \"m\"\ndivergence = \"jsd\"\njsd_beta = 0.999999999", "(1)"),
            ("teacher = \"m\"\ndivergence = \"jsd\"\njsd_beta = nan", "NaN"),
            ("hidden_states = \"seam\"", "--teacher"),
            ("teacher = \"m\"\nhidden_weight = 2.0", "hidden_states"),
            ("teacher = \"m\"\nhidden_states = 3\nhidden_weight = -1.0", "hidden_weight is -1"),
            ("teacher = \"m\"\nhidden_states = 3\nhidden_weight = nan", "NaN"),
            ("on_policy = 0.5", "--teacher"),
            ("teacher = \"m\"\non_policy = 1.5", "1.5"),
            ("teacher = \"m\"\non_policy = nan", "NaN"),
            ("teacher = \"m\"\nrollout_tokens = 9", "--on-policy"),
            ("teacher = \"m\"\nprompt_tokens = 9", "--on-policy"),
            ("teacher = \"m\"\non_policy = 0.5\nprompt_tokens = 0", "prompt_tokens is 0"),
        ] {
            let error = read(text).check().unwrap_err();
            assert!(error.to_string().contains(words) && error.exit_code() == 2, "{error}");
        }
        let jsd = read("teacher = \"m\"\ndivergence = \"jsd\"");
        jsd.check().unwrap();
        assert_eq!(jsd.divergence(), Divergence::Jsd { beta: 0.5 });
        assert_eq!(read("teacher = \"m\"\ndivergence = \"reverse-kl\"").divergence(), Divergence::ReverseKl);
        // records of healings by KL are what they were
        let plain = serde_json::to_value(read("teacher = \"m\"")).unwrap();
        for name in ["divergence", "jsd_beta", "hidden_states", "hidden_weight", "on_policy", "rollout_tokens"] {
            assert!(plain.get(name).is_none(), "{name}");
        }
        let written = read("teacher = \"m\"\non_policy = 0.5\nprompt_tokens = 64\nseq_len = 64");
        written.check().unwrap();
        assert!(written.check_room().unwrap_err().to_string().contains("64 tokens at most"));
    }
}
