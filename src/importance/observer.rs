//! The probe at a model's side: gathers the residual streams of each batch as they go by.

use std::collections::BTreeMap;
use std::ops::Deref;

use candle_core::{CpuStorage, Storage, Tensor};

use super::probe::Probe;
use super::streams::Streams;
use crate::model::{Batch, Observer};
use crate::ops::{InnerProducts, Layout, inner_products};
use crate::{Error, Result};

/// Feeds a [`Probe`] from a pass over `batches`.
///
/// It keeps the streams of a batch until the last one has come; a probe that asks for last tokens alone makes it keep
/// the last rows only.
pub struct Watch<'a> {
    probe: &'a mut Probe,
    batches: &'a [Batch],
    streams: BTreeMap<usize, Vec<Tensor>>,
    /// What a GPU has yet to say of the batch before: it goes on with the next one meanwhile.
    pending: Option<(InnerProducts, Layout)>,
}

impl<'a> Watch<'a> {
    /// Watches a pass over `batches`.
    #[must_use]
    pub fn new(probe: &'a mut Probe, batches: &'a [Batch]) -> Self {
        Self { probe, batches, streams: BTreeMap::new(), pending: None }
    }

    /// Scores the batch that is pending, and makes another one that.
    fn score_pending(&mut self, next: Option<(InnerProducts, Layout)>) -> Result<()> {
        match std::mem::replace(&mut self.pending, next) {
            Some((products, layout)) => self.probe.observe_batch(&Streams::Products(products.numbers()?), &layout),
            None => Ok(()),
        }
    }
}

impl Observer for Watch<'_> {
    fn residual(&mut self, batch: usize, place: usize, x: &Tensor) -> Result<()> {
        let layout = self.batches[batch].layout.as_ref();
        let all = self.probe.wants_all_tokens();
        let rows = if all { x.clone() } else { last_rows(x, layout)? };
        let streams = self.streams.entry(batch).or_default();
        streams.push(rows.contiguous()?);
        if place < self.probe.layers() {
            return Ok(());
        }
        let streams = self.streams.remove(&batch).unwrap_or_default();
        let lasts = Layout::sequences(std::iter::repeat_n(1, layout.segments().len()))?;
        let layout = if all { layout } else { &lasts };
        // what is on a GPU stays there but for the products
        if x.device().is_cuda() {
            self.score_pending(Some((inner_products(&streams)?, layout.clone())))?;
            return if batch + 1 == self.batches.len() { self.score_pending(None) } else { Ok(()) };
        }
        observe(self.probe, &streams, x.dim(1)?, layout)
    }

    fn streams_kept(&self) -> usize {
        if self.probe.wants_all_tokens() { self.probe.layers() } else { 0 }
    }
}

/// Shows `probe` streams `[t, d]` that lie in main memory.
fn observe(probe: &mut Probe, streams: &[Tensor], d: usize, layout: &Layout) -> Result<()> {
    let guards: Vec<_> = streams.iter().map(Tensor::storage_and_layout).collect();
    let states = guards.iter().map(|(storage, strides)| match storage.deref() {
        Storage::Cpu(CpuStorage::F32(numbers)) => {
            let start = strides.start_offset();
            Ok(&numbers[start..start + strides.shape().elem_count()])
        }
        _ => Err(Error::work("scores need residual streams in f32")),
    });
    let states = states.collect::<Result<Vec<&[f32]>>>()?;
    probe.observe_batch(&Streams::Numbers { states: &states, d }, layout)
}

/// Feeds a [`Probe::of_channels`] from a pass over `batches`: what it takes for tokens are the channels of a sample,
/// each with the numbers of all its tokens.
pub(super) struct ChannelWatch<'a> {
    probe: &'a mut Probe,
    batches: &'a [Batch],
    streams: BTreeMap<usize, Vec<Tensor>>,
}

impl<'a> ChannelWatch<'a> {
    /// Watches a pass over `batches`.
    pub(super) fn new(probe: &'a mut Probe, batches: &'a [Batch]) -> Self {
        Self { probe, batches, streams: BTreeMap::new() }
    }
}

impl Observer for ChannelWatch<'_> {
    fn residual(&mut self, batch: usize, place: usize, x: &Tensor) -> Result<()> {
        self.streams.entry(batch).or_default().push(x.clone());
        if place < self.probe.layers() {
            return Ok(());
        }
        let streams = self.streams.remove(&batch).unwrap_or_default();
        let channels = Layout::sequences([x.dim(1)?])?;
        for sample in self.batches[batch].layout.segments() {
            let turned = streams.iter().map(|x| x.narrow(0, sample.start, sample.len)?.t()?.contiguous());
            let turned = turned.collect::<candle_core::Result<Vec<Tensor>>>()?;
            if x.device().is_cuda() {
                let products = inner_products(&turned)?;
                self.probe.observe_batch(&Streams::Products(products.numbers()?), &channels)?;
            } else {
                observe(self.probe, &turned, sample.len, &channels)?;
            }
        }
        Ok(())
    }

    fn streams_kept(&self) -> usize {
        // those of a batch, and of one sample turned
        2 * self.probe.layers() + 1
    }
}

/// The last token of each sample, `[b, d]`.
fn last_rows(x: &Tensor, layout: &Layout) -> Result<Tensor> {
    let last = layout.segments().iter().map(|segment| (segment.start + segment.len - 1) as u32);
    let last = Tensor::from_iter(last, x.device())?;
    Ok(x.index_select(&last, 0)?)
}
