//! How a healing learns from its teacher: which divergence.

use serde::{Deserialize, Serialize};

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
        assert!(plain.get("divergence").is_none() && plain.get("jsd_beta").is_none());
    }
}
