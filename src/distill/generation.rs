//! A model goes on with prompts, many at a time.

use std::collections::BTreeMap;
use std::time::Instant;

use candle_core::{Device, Tensor};

use super::texts::Texts;
use crate::data::{RowPrompt, Tokenizer};
use crate::model::{Drawer, Ended, Growing, Model, SamplingParams, Speaker, Together, Wanted};
use crate::progress::{Progress, Unit};
use crate::{Context, Error, Result};

/// What is to be said. Text `item` is sample `item % samples` of prompt `item / samples`; its draws depend on nothing
/// else, and on a CPU its bytes neither.
#[derive(Clone, Copy, Debug)]
pub struct SelfGeneration<'a> {
    /// What to go on with.
    pub prompts: &'a [RowPrompt],
    /// Texts of each prompt.
    pub samples: usize,
    /// New tokens of a text, at most.
    pub tokens: usize,
    /// Tokens that the model was made for, prompt included.
    pub positions: usize,
    /// Tokens that end a text.
    pub ends: &'a [u32],
    /// How tokens are drawn.
    pub sampling: SamplingParams,
    /// Texts at a time.
    pub together: usize,
    /// Of the model.
    pub tokenizer: &'a Tokenizer,
}

impl SelfGeneration<'_> {
    /// Texts.
    #[must_use]
    pub fn items(&self) -> usize {
        self.prompts.len().saturating_mul(self.samples)
    }

    /// New tokens of a text that goes on with `prompt`, at most.
    #[must_use]
    pub fn most(&self, prompt: &RowPrompt) -> usize {
        self.tokens.min(self.positions.saturating_sub(prompt.ids.len()))
    }

    /// Lets `model` say what is not in `texts`.
    ///
    /// # Errors
    /// Work: logits that are not finite, a full disk. Interrupted; what is over is kept.
    pub fn run(&self, model: &Model, texts: &mut Texts, progress: &dyn Progress) -> Result<()> {
        let items = self.items();
        progress.begin("generating", items as u64, Unit::Items);
        progress.skip(texts.counts().texts as u64);
        // on a GPU a text's last bits are those of its batch: the same ones go together again
        let is_cpu = model.device().is_cpu();
        let batch = if is_cpu { items.max(1) } else { self.together };
        let together = Together { most: self.together, ends: self.ends, alike: true, shared: 0 };
        let before = texts.known();
        let is_known = |item: &usize| before.binary_search(item).is_ok();
        let mut saying = Saying { of: self, texts, drawers: BTreeMap::new(), progress, began: Instant::now(), new: 0 };
        for first in (0..items).step_by(batch) {
            let all = first..items.min(first.saturating_add(batch));
            if all.clone().all(|item| is_known(&item)) {
                continue;
            }
            let mut wanted = all.filter(|item| !is_cpu || !is_known(item)).map(|item| {
                let prompt = &self.prompts[item / self.samples];
                Wanted { item, prompt: prompt.ids.clone(), most: self.most(prompt) }
            });
            model.generate_each(&mut wanted, together, &mut saying)?;
        }
        progress.end();
        Ok(())
    }
}

/// Draws tokens, and keeps the texts that are over.
struct Saying<'a> {
    of: &'a SelfGeneration<'a>,
    texts: &'a mut Texts,
    drawers: BTreeMap<usize, Drawer>,
    progress: &'a dyn Progress,
    began: Instant,
    /// Tokens since then.
    new: u64,
}

impl Speaker for Saying<'_> {
    fn choose(&mut self, texts: &[Growing], logits: &Tensor) -> Result<Vec<u32>> {
        let logits = logits.to_device(&Device::Cpu)?;
        let mut tokens = Vec::with_capacity(texts.len());
        for (row, text) in texts.iter().enumerate() {
            let item = text.wanted.item;
            if !self.drawers.contains_key(&item) {
                let samples = self.of.samples;
                let sampling = self.of.sampling.of_item((item / samples) as u64, (item % samples) as u64);
                self.drawers.insert(item, sampling.drawer()?);
            }
            let drawer = self.drawers.get_mut(&item).ok_or_else(|| Error::work("a text that nobody draws for"))?;
            tokens.push(drawer.draw(&logits.get(row)?).context(|| format!("text {item} (from 0)"))?);
        }
        self.new += tokens.len() as u64;
        Ok(tokens)
    }

    fn goes_on(&mut self, _text: &Growing) -> Result<bool> {
        Ok(true)
    }

    fn is_over(&mut self, text: Growing, ended: Ended) -> Result<()> {
        let item = text.wanted.item;
        self.drawers.remove(&item);
        if self.texts.has(item) {
            return Ok(());
        }
        let row = self.of.prompts[item / self.of.samples].row(self.of.tokenizer, &text.said)?;
        self.texts.keep(item, text.said.len(), ended, row)?;
        let speed = self.new as f64 / self.began.elapsed().as_secs_f64().max(1e-9);
        self.progress.detail(&format!("{speed:.1} tokens/s"));
        self.progress.advance(1);
        Ok(())
    }
}
