//! Two streams of the same text on their way up: that of the whole model, and that of the cut one.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::units::Unit;
use crate::model::{Batch, Block, ForwardContext, Model};
use crate::plan::SubLayer;
use crate::{Error, Result, interrupt};

/// The text behind some sub-layer of each of the two models.
pub(super) struct Course<'a> {
    whole_model: &'a Model,
    cut_model: &'a Model,
    /// Those that judge come first.
    pub(super) batches: Vec<Batch>,
    /// How many of the batches judge.
    pub(super) judging: usize,
    /// The numbers of the sequences in the text, as they lie in the batches.
    order: Vec<usize>,
    pub(super) contexts: Vec<ForwardContext>,
    /// Streams of the whole model, `[t, d]` of each batch, which enter the sub-layer `at`.
    pub(super) whole: Vec<Tensor>,
    at: usize,
    /// The whole model's block that was used last.
    block: Option<(usize, Arc<Block>)>,
    /// Streams of the cut model.
    pub(super) cut: Vec<Tensor>,
    /// Whether the two models have done the same so far.
    pub(super) is_one: bool,
}

impl<'a> Course<'a> {
    /// Behind the embedding; that of the cut model is its own where it has `changed`.
    ///
    /// # Errors
    /// No text of one of the two kinds, a token outside the vocabulary, an embedding that is not finite.
    pub(super) fn begin(
        (whole_model, cut_model): (&'a Model, &'a Model),
        changed: bool,
        sequences: &[Vec<u32>],
        judging: &[bool],
    ) -> Result<Self> {
        let of = |wanted: bool| -> Vec<usize> {
            (0..sequences.len()).filter(|index| judging.get(*index).copied().unwrap_or(false) == wanted).collect()
        };
        let (judges, fits) = (of(true), of(false));
        if judges.is_empty() || fits.is_empty() {
            return Err(Error::request("a repair needs two sequences at least: one that judges, one to fit"));
        }
        let packed = |numbers: &[usize]| {
            whole_model.batches(&numbers.iter().map(|number| &sequences[*number][..]).collect::<Vec<_>>())
        };
        let mut batches = packed(&judges)?;
        let judging = batches.len();
        batches.extend(packed(&fits)?);
        let device = whole_model.device();
        let contexts = batches.iter().map(|batch| ForwardContext::new(whole_model.spec(), batch, device));
        let contexts = contexts.collect::<Result<Vec<_>>>()?;
        let whole = batches.iter().map(|batch| whole_model.embed(batch)).collect::<Result<Vec<_>>>()?;
        let cut = match changed {
            true => batches.iter().map(|batch| cut_model.embed(batch)).collect::<Result<Vec<_>>>()?,
            false => whole.clone(),
        };
        let order = [judges, fits].concat();
        let course = Self {
            whole_model,
            cut_model,
            batches,
            judging,
            order,
            contexts,
            whole,
            at: 0,
            block: None,
            cut,
            is_one: true,
        };
        for (index, (x, own)) in course.whole.iter().zip(&course.cut).enumerate() {
            whole_model.check_stream(0, x, &|row| course.named(index, row))?;
            if changed {
                cut_model.check_stream(0, own, &|row| course.named(index, row))?;
            }
        }
        Ok(course)
    }

    /// Where the streams are.
    pub(super) fn device(&self) -> &Device {
        self.whole_model.device()
    }

    /// Leads the whole model's stream up to the sub-layer `to`.
    ///
    /// # Errors
    /// A weight that cannot be read, a stream that is not finite.
    pub(super) fn climb(&mut self, to: usize) -> Result<()> {
        while self.at < to {
            let layer = self.at / SubLayer::ALL.len();
            let block = match self.block.take() {
                Some((known, block)) if known == layer => block,
                _ => self.whole_model.block(layer)?,
            };
            for index in 0..self.batches.len() {
                interrupt::check()?;
                let sublayer = SubLayer::ALL[self.at % SubLayer::ALL.len()];
                let x = block.forward_sublayer(sublayer, &self.whole[index], &self.contexts[index])?;
                self.whole_model.check_stream(layer + 1, &x, &|row| self.named(index, row))?;
                self.whole[index] = x;
            }
            self.block = Some((layer, block));
            self.at += 1;
        }
        Ok(())
    }

    /// Leads both streams, which are still one, through the sub-layer `unit` of `block`.
    ///
    /// # Errors
    /// As [`Course::climb`].
    pub(super) fn climb_as_one(&mut self, unit: &Unit, block: &Block) -> Result<()> {
        for index in 0..self.batches.len() {
            interrupt::check()?;
            let x = block.forward_sublayer(unit.sublayer, &self.cut[index], &self.contexts[index])?;
            self.whole_model.check_stream(unit.layer + 1, &x, &|row| self.named(index, row))?;
            (self.whole[index], self.cut[index]) = (x.clone(), x);
        }
        self.at = unit.next;
        Ok(())
    }

    /// Takes the cut model's stream of batch `index` as it leaves the sub-layer `unit`.
    ///
    /// # Errors
    /// It is not finite.
    pub(super) fn take(&mut self, unit: &Unit, index: usize, x: Tensor) -> Result<()> {
        self.cut_model.check_stream(unit.place + 1, &x, &|row| self.named(index, row))?;
        self.cut[index] = x;
        Ok(())
    }

    /// The sequence and position of a row of a batch, for a message.
    fn named(&self, index: usize, row: usize) -> String {
        named(&self.batches, &self.order, index, row)
    }
}

/// The sequence and position of row `row` of batch `index`, for a message; `order` has the numbers of the sequences in
/// the text, as they lie in the batches.
pub(super) fn named(batches: &[Batch], order: &[usize], index: usize, row: usize) -> String {
    let before: usize = batches[..index].iter().map(|batch| batch.layout.segments().len()).sum();
    let segments = batches[index].layout.segments();
    let own = segments.partition_point(|segment| segment.start + segment.len <= row);
    let position = row - segments.get(own).map_or(0, |segment| segment.start);
    format!("text {}, token {position} (from 0)", order.get(before + own).copied().unwrap_or_default())
}
