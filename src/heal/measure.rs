//! What a healing did: losses of whole models on the same sequences, in the precision that each of them is used in.
//!
//! The loss while training is that of the weights trained against, often four-bit ones. What is written is another
//! model: the adapter lies in or on weights that were never rounded to four bits. So the model before the cut, the cut
//! one and the one that is written are measured, each as `prune eval` would.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::journal::Line;
use crate::data::Packing;
use crate::model::Loss;

/// Which tokens were measured on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    /// Where they come from, as the user called it.
    pub source: String,
    /// Sequences: the first ones of the source.
    pub sequences: usize,
    /// Tokens of a sequence at most.
    pub seq_len: usize,
    /// How documents became sequences.
    pub packing: Packing,
    /// Tokens in all; each but the first of a sequence is predicted.
    pub tokens: usize,
    /// Of conversations, the tokens that are learned and measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_tokens: Option<usize>,
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, sequences, seq_len, packing, tokens, answer_tokens } = self;
        let size = match packing {
            Packing::Document if answer_tokens.is_some() => {
                format!("conversations, up to {seq_len} tokens of each,")
            }
            Packing::Document => format!("documents, up to {seq_len} tokens of each,"),
            Packing::Packed | Packing::RunClm => format!("sequences x {seq_len} tokens"),
        };
        let answers = answer_tokens.map(|count| format!(", {count} of them measured")).unwrap_or_default();
        write!(f, "{sequences} {size} of {source} ({tokens} tokens{answers})")
    }
}

/// A difference of two models on the same sequences, nats a token.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    /// How much.
    pub difference: f64,
    /// Standard error of the paired differences; absent for a single sequence.
    pub stderr: Option<f64>,
}

impl Paired {
    /// `a` minus `b`, sequence by sequence; the error is that of a ratio of sums.
    fn of(a: &[Loss], b: &[Loss]) -> Self {
        let (a_all, b_all) = (Loss::total(a), Loss::total(b));
        let difference = (a_all.sum - b_all.sum) / a_all.tokens as f64;
        let squares: f64 = a.iter().zip(b).map(|(a, b)| (a.sum - b.sum - difference * a.tokens as f64).powi(2)).sum();
        let n = a.len() as f64;
        let stderr = (a.len() > 1).then(|| (squares * n / (n - 1.0)).sqrt() / a_all.tokens as f64);
        Self { difference, stderr }
    }

    /// Whether it is more than two standard errors above nothing.
    fn is_clear(self) -> bool {
        self.difference > 2.0 * self.stderr.unwrap_or(0.0)
    }
}

/// Losses of the models, nats a token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeasuredLosses {
    /// On which tokens.
    pub text: Text,
    /// The uncut model's name, where it is known.
    pub reference: Option<String>,
    /// Its loss.
    pub uncut: Option<f64>,
    /// The model that was healed, as it was given.
    pub cut: f64,
    /// What was written: the merged model read back, or where the adapter alone is written, the adapter on the model.
    pub healed: f64,
    /// How much less the healed model's loss is than the cut one's.
    pub gain: Paired,
    /// Share of what the cut cost that is undone; absent where the uncut model is unknown, or the cut cost nothing that
    /// stands out from its error.
    pub undone: Option<f64>,
    /// Before merging rounded it: the adapter beside the weights it was merged onto. Absent where nothing was merged.
    pub unmerged: Option<f64>,
    /// What the rounding added to the loss.
    pub rounding: Option<Paired>,
}

/// Losses of each sequence under each model.
#[derive(Clone, Copy, Debug)]
pub struct Losses<'a> {
    /// The uncut model: its name, its losses.
    pub uncut: Option<(&'a str, &'a [Loss])>,
    /// The model that was healed.
    pub cut: &'a [Loss],
    /// What was written.
    pub healed: &'a [Loss],
    /// The adapter beside its weights.
    pub unmerged: Option<&'a [Loss]>,
}

impl MeasuredLosses {
    /// Sums up.
    #[must_use]
    pub fn new(text: Text, losses: Losses<'_>) -> Self {
        let mean = |losses: &[Loss]| Loss::total(losses).mean();
        let Losses { uncut, cut, healed, unmerged } = losses;
        let gain = Paired::of(cut, healed);
        let damage = uncut.map(|(_, uncut)| Paired::of(cut, uncut)).filter(|damage| damage.is_clear());
        Self {
            text,
            reference: uncut.map(|(name, _)| name.to_owned()),
            uncut: uncut.map(|(_, losses)| mean(losses)),
            cut: mean(cut),
            healed: mean(healed),
            gain,
            undone: damage.map(|damage| gain.difference / damage.difference),
            unmerged: unmerged.map(mean),
            rounding: unmerged.map(|unmerged| Paired::of(healed, unmerged)),
        }
    }

    /// What is undone of the damage, where that is known: a share beyond all of it is none.
    #[must_use]
    pub fn undone_in_words(&self) -> Option<String> {
        Some(match self.undone? {
            more if more > 1.0 => "all of the damage undone, and more".to_owned(),
            less if less < 0.0 => "the damage is larger than before".to_owned(),
            part => format!("{:.0} % of the damage undone", 100.0 * part),
        })
    }

    /// The log's lines, in the order of measuring.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        let losses = [
            ("uncut", self.uncut),
            ("cut", Some(self.cut)),
            ("unmerged", self.unmerged),
            ("healed", Some(self.healed)),
        ];
        let line =
            |(model, loss): (&str, Option<f64>)| Some(Line::Measured { measured: model.to_owned(), loss: loss? });
        losses.into_iter().filter_map(line).collect()
    }
}

/// Losses that are known already, by [`measurement`]: a run that goes on, and one of several runs, need not take them
/// again.
pub type KnownLosses = BTreeMap<String, Vec<Loss>>;

/// The name of a measurement: what the model is, and the tokens.
#[must_use]
pub fn measurement(model: &str, rows: &[Vec<u32>]) -> String {
    let mut hash = Sha256::new();
    for row in rows {
        hash.update((row.len() as u64).to_le_bytes());
        row.iter().for_each(|id| hash.update(id.to_le_bytes()));
    }
    format!("{model} {:x}", hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn losses(sums: &[f64]) -> Vec<Loss> {
        sums.iter().zip([10, 20, 10]).map(|(sum, tokens)| Loss { sum: *sum, tokens }).collect()
    }

    fn text() -> Text {
        Text {
            source: "a.jsonl".into(),
            sequences: 3,
            seq_len: 21,
            packing: Packing::Document,
            tokens: 43,
            answer_tokens: None,
        }
    }

    #[test]
    fn the_error_is_that_of_the_paired_differences() {
        let (cut, healed) = (losses(&[30.0, 70.0, 32.0]), losses(&[28.0, 66.0, 30.0]));
        // every token of every sequence gained 0.2: no spread, though the sequences differ
        let paired = Paired::of(&cut, &healed);
        assert!((paired.difference - 0.2).abs() < 1e-15 && paired.stderr.unwrap() < 1e-15, "{paired:?}");
        // differences 1, 4, 3 of 10, 20, 10 tokens: ratio 0.2, residuals -1, 0, 1, by hand √(2·3/2)/40
        let paired = Paired::of(&cut, &losses(&[29.0, 66.0, 29.0]));
        assert!((paired.stderr.unwrap() - 3f64.sqrt() / 40.0).abs() < 1e-15, "{paired:?}");
        assert_eq!(Paired::of(&cut[..1], &healed[..1]).stderr, None);
    }

    #[test]
    fn shares_of_the_damage() {
        let (uncut, cut) = (losses(&[20.0, 50.0, 22.0]), losses(&[30.0, 70.0, 32.0]));
        let healed = losses(&[28.0, 65.0, 29.0]);
        let all = Losses { uncut: Some(("m", &uncut)), cut: &cut, healed: &healed, unmerged: Some(&healed) };
        let measured = MeasuredLosses::new(text(), all);
        assert!((measured.undone.unwrap() - 0.25).abs() < 1e-12, "{measured:?}");
        assert_eq!((measured.uncut, measured.cut), (Some(92.0 / 40.0), 132.0 / 40.0));
        assert_eq!(measured.rounding, Some(Paired { difference: 0.0, stderr: Some(0.0) }));
        // a cut that cost nothing leaves nothing to undo; without the uncut model nobody knows
        let same = Losses { uncut: Some(("m", &cut)), ..all };
        assert_eq!(MeasuredLosses::new(text(), same).undone, None);
        assert_eq!(MeasuredLosses::new(text(), Losses { uncut: None, ..all }).undone, None);
    }

    #[test]
    fn a_measurement_is_of_a_model_and_tokens() {
        let name =
            |model: &str, rows: &[&[u32]]| measurement(model, &rows.iter().map(|row| row.to_vec()).collect::<Vec<_>>());
        assert_ne!(name("a", &[&[1, 2], &[3]]), name("a", &[&[1], &[2, 3]]));
        assert_ne!(name("a", &[&[1]]), name("b", &[&[1]]));
    }
}
