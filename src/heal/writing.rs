//! On-policy: the model in training goes on with the beginnings of a step's sequences, and learns from what its teacher
//! says of that (GKD, arXiv 2306.13649).

use candle_core::{Device, Tensor};

use super::rollouts::RolloutCounts;
use super::settings::HealSettings;
use crate::data::marked::{given, id, is_given};
use crate::model::{Drawer, Ended, Growing, Model, SamplingParams, Speaker, Together, Wanted};
use crate::{Context, Error, Result};

/// Texts that grow at a time. A number of its own: sums may hang on it.
pub(super) const TOGETHER: usize = 8;

/// Tokens of a text that it is gone on with, where nobody says otherwise; at most half a sequence.
const PROMPT: usize = 32;

impl HealSettings {
    /// Sequences of the step after `done` steps, of `rows` that it has, that the model writes itself: over the steps
    /// their share is `on_policy`.
    pub(super) fn rollouts(&self, done: usize, rows: usize) -> usize {
        let until = |step: usize| (step as f64 * self.batch as f64 * self.on_policy).floor();
        ((until(done + 1) - until(done)) as usize).min(rows)
    }

    /// Tokens of a text that the model goes on with.
    pub(super) fn prompt_tokens(&self) -> usize {
        self.prompt_tokens.unwrap_or_else(|| PROMPT.min(self.seq_len() / 2).max(1))
    }
}

/// Tokens of a sequence that the model goes on with: what stands before the last answer of a conversation, or the first
/// `most` tokens of a text; one at least, and none where there is no second.
fn prompt_len(row: &[u32], most: usize) -> usize {
    let longest = row.len().saturating_sub(1);
    let len = match row.iter().rposition(|token| is_given(*token)) {
        Some(_) => {
            let answer = row.iter().rposition(|token| !is_given(*token)).unwrap_or(0);
            row[..=answer.min(longest)].iter().rposition(|token| is_given(*token)).map_or(0, |last| last + 1)
        }
        None => most,
    };
    len.max(1).min(longest)
}

/// What was written in the place of some sequences.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Prompts, given, and what the model said, with the token that ends it.
    pub(super) rows: Vec<Vec<u32>>,
    pub(super) counts: RolloutCounts,
}

/// Lets `model` go on with `rows` of the step after `done` steps, by at most `tokens` tokens and never beyond the
/// length of a sequence; drawn from its own distribution, as it is, by the seed of the run.
///
/// # Errors
/// Work: logits that are not finite. Interrupted.
pub(super) fn write(
    model: &Model,
    rows: &[Vec<u32>],
    (settings, ends): (&HealSettings, &[u32]),
    (done, tokens): (usize, usize),
) -> Result<Written> {
    model.refresh()?;
    let prompts: Vec<&[u32]> = rows
        .iter()
        .map(|row| &row[..prompt_len(row, settings.prompt_tokens())])
        .filter(|row| !row.is_empty())
        .collect();
    let sampling = SamplingParams { temperature: Some(1.0), seed: settings.seed, ..SamplingParams::default() };
    let drawer = |item: usize| sampling.of_item(done as u64, item as u64).drawer();
    let drawers = (0..prompts.len()).map(drawer).collect::<Result<Vec<_>>>()?;
    let mut wanted = prompts.iter().enumerate().map(|(item, prompt)| Wanted {
        item,
        prompt: prompt.iter().map(|token| id(*token)).collect(),
        most: tokens.min(settings.seq_len().saturating_sub(prompt.len())).max(1),
    });
    let mut writing = Writing { drawers, last: vec![0; prompts.len()], said: vec![None; prompts.len()] };
    let together = Together { most: TOGETHER, ends, alike: false, shared: 0 };
    model.generate_each(&mut wanted, together, &mut writing).context(|| "writing texts")?;
    let mut written = Written::default();
    for ((prompt, said), last) in prompts.iter().zip(writing.said).zip(writing.last) {
        let (mut said, ended) = said.ok_or_else(|| Error::work("a text that was not written"))?;
        written.counts.count(&said, ended == Ended::Length);
        if ended == Ended::EndOfText {
            said.push(last);
        }
        written.rows.push(prompt.iter().map(|token| given(id(*token))).chain(said).collect());
    }
    Ok(written)
}

/// Draws tokens and keeps texts.
struct Writing {
    drawers: Vec<Drawer>,
    /// The last token that each drew.
    last: Vec<u32>,
    said: Vec<Option<(Vec<u32>, Ended)>>,
}

impl Speaker for Writing {
    fn choose(&mut self, texts: &[Growing], logits: &Tensor) -> Result<Vec<u32>> {
        let logits = logits.to_device(&Device::Cpu)?;
        let draw = |(row, text): (usize, &Growing)| {
            let item = text.wanted.item;
            let token = self.drawers[item].draw(&logits.get(row)?)?;
            self.last[item] = token;
            Ok(token)
        };
        texts.iter().enumerate().map(draw).collect()
    }

    fn goes_on(&mut self, _text: &Growing) -> Result<bool> {
        Ok(true)
    }

    fn is_over(&mut self, text: Growing, ended: Ended) -> Result<()> {
        self.said[text.wanted.item] = Some((text.said, ended));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_model_goes_on_with() {
        let asked = |ids: &[u32]| -> Vec<u32> { ids.iter().map(|id| given(*id)).collect() };
        let talk = [&asked(&[1, 2, 3])[..], &[4, 5], &asked(&[6]), &[7, 8, 9], &asked(&[10])].concat();
        assert_eq!(prompt_len(&talk, 2), 6);
        assert_eq!(prompt_len(&talk[..9], 2), 6);
        assert_eq!(prompt_len(&talk[..7], 2), 6);
        assert_eq!(prompt_len(&talk[..5], 2), 3);
        let text: Vec<u32> = (0..9).collect();
        assert_eq!([3, 8, 9, 99].map(|most| prompt_len(&text, most)), [3, 8, 8, 8]);
        assert_eq!([prompt_len(&text[..2], 5), prompt_len(&text[..1], 5), prompt_len(&[], 5)], [1, 0, 0]);
    }

    #[test]
    fn the_share_is_kept_over_the_steps() {
        for (on_policy, batch) in [(0.3, 4), (1.0, 3), (0.05, 2), (0.0, 8)] {
            let settings = HealSettings { on_policy, batch, ..HealSettings::default() };
            let written: Vec<usize> = (0..200).map(|step| settings.rollouts(step, batch)).collect();
            let (all, expected) = (written.iter().sum::<usize>() as f64, 200.0 * batch as f64 * on_policy);
            assert!((all - expected).abs() <= 1.0 && written.iter().all(|count| *count <= batch), "{all} {expected}");
        }
        assert_eq!(HealSettings { on_policy: 1.0, batch: 8, ..HealSettings::default() }.rollouts(5, 3), 3);
    }
}
