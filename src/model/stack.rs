//! The layers of a model, in memory or read from disk when their turn comes.

use std::sync::Arc;

use candle_core::Device;
use serde::Serialize;

use super::{Block, LoadOptions};
use crate::arch::ModelSpec;
use crate::checkpoint::Checkpoint;
use crate::progress::{Progress, Unit};
use crate::{Error, Result, interrupt};

/// Where a layer is between two uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Residency {
    /// All layers stay in memory.
    Resident,
    /// One layer is in memory, and the next one while it loads.
    Streamed,
    /// All layers stay in memory but for their experts, of which one is there when tokens are sent to it, and the next
    /// one while it loads.
    ExpertsStreamed,
    /// Layers and their experts are there when their turn comes.
    StreamedByExpert,
}

impl Residency {
    /// Whether layers stay in memory, their experts or the rest of them.
    #[must_use]
    pub fn holds_layers(self) -> bool {
        matches!(self, Self::Resident | Self::ExpertsStreamed)
    }

    /// Whether experts are read when tokens are sent to them.
    #[must_use]
    pub fn streams_experts(self) -> bool {
        matches!(self, Self::ExpertsStreamed | Self::StreamedByExpert)
    }

    /// What reports say of layers.
    #[must_use]
    pub fn says(self) -> &'static str {
        match self {
            Self::Resident => "in memory",
            Self::Streamed => "streamed from disk",
            Self::ExpertsStreamed => "in memory, their experts streamed from disk",
            Self::StreamedByExpert => "streamed from disk by expert",
        }
    }
}

/// The layers from the embedding up.
#[derive(Debug)]
pub(super) struct Stack {
    checkpoint: Arc<Checkpoint>,
    spec: Arc<ModelSpec>,
    device: Device,
    /// Source layer at each place.
    places: Vec<usize>,
    load_options: LoadOptions,
    /// One block a place, when resident.
    blocks: Option<Vec<Arc<Block>>>,
}

impl Stack {
    pub(super) fn open(
        checkpoint: Arc<Checkpoint>,
        spec: Arc<ModelSpec>,
        places: Vec<usize>,
        load_options: LoadOptions,
        residency: Residency,
        device: &Device,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let mut stack = Self { checkpoint, spec, device: device.clone(), places, load_options, blocks: None };
        if residency.holds_layers() {
            progress.begin("loading layers", stack.len() as u64, Unit::Items);
            let mut blocks = Vec::with_capacity(stack.len());
            for place in 0..stack.len() {
                interrupt::check()?;
                blocks.push(stack.load(place)?);
                progress.advance(1);
            }
            stack.blocks = Some(blocks);
            progress.end();
        }
        Ok(stack)
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn residency(&self) -> Residency {
        match (self.blocks.is_some(), self.load_options.experts_on_disk) {
            (true, false) => Residency::Resident,
            (false, false) => Residency::Streamed,
            (true, true) => Residency::ExpertsStreamed,
            (false, true) => Residency::StreamedByExpert,
        }
    }

    /// Source layer that stands at `place`.
    pub(super) fn source_layer(&self, place: usize) -> usize {
        self.places[place]
    }

    fn load(&self, place: usize) -> Result<Arc<Block>> {
        let layer = (self.places[place], place);
        Block::load(&self.checkpoint, &self.spec, layer, &self.load_options, &self.device).map(Arc::new)
    }

    /// The blocks, when they stay in memory.
    pub(super) fn blocks(&self) -> Option<&[Arc<Block>]> {
        self.blocks.as_deref()
    }

    /// The block at `place`, read where it is not in memory.
    pub(super) fn block(&self, place: usize) -> Result<Arc<Block>> {
        self.blocks.as_ref().map_or_else(|| self.load(place), |blocks| Ok(blocks[place].clone()))
    }

    /// Calls `step` with every block from the bottom up; a streamed stack loads the next block meanwhile.
    pub(super) fn walk(&self, step: impl FnMut(usize, &Block) -> Result<()>) -> Result<()> {
        self.walk_over(&(0..self.len()).collect::<Vec<_>>(), step)
    }

    /// The same from the top down.
    pub(super) fn walk_down(&self, step: impl FnMut(usize, &Block) -> Result<()>) -> Result<()> {
        self.walk_over(&(0..self.len()).rev().collect::<Vec<_>>(), step)
    }

    fn walk_over(&self, order: &[usize], mut step: impl FnMut(usize, &Block) -> Result<()>) -> Result<()> {
        if let Some(blocks) = &self.blocks {
            return order.iter().try_for_each(|&place| step(place, &blocks[place]));
        }
        std::thread::scope(|scope| {
            let mut next = order.first().map(|&first| scope.spawn(move || self.load(first)));
            for (at, &place) in order.iter().enumerate() {
                let loaded = next.take().map(std::thread::ScopedJoinHandle::join);
                let block = match loaded {
                    Some(Ok(block)) => block?,
                    _ => return Err(Error::work(format!("loading layer {} stopped unexpectedly", self.places[place]))),
                };
                next = order.get(at + 1).map(|&later| scope.spawn(move || self.load(later)));
                step(place, &block)?;
            }
            Ok(())
        })
    }
}
