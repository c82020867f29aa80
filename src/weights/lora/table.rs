//! What an adapter does beside the blocks' linear layers: to the embedding, to the head, to whole tensors.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::{Adapter, Adapters, At};
use crate::Result;
use crate::arch::ModelSpec;
use crate::checkpoint::{Checkpoint, Index};

/// What happens to the rows of the embedding or of the head, `[v, d]`.
#[derive(Clone, Debug)]
pub enum Table {
    /// A low-rank update; of the embedding, PEFT's `lora_embedding_B`ᵀ is A and `lora_embedding_A`ᵀ is B.
    LowRank(Adapter),
    /// Rows of their own for some tokens.
    TokenRows(TokenRows),
}

/// Rows that were trained for some tokens: PEFT's `trainable_tokens_delta`, which holds the rows themselves.
#[derive(Clone, Debug)]
pub struct TokenRows {
    /// Which tokens.
    pub ids: Vec<u32>,
    /// Their rows, `[n, d]` f32 in main memory.
    pub rows: Tensor,
}

impl Table {
    /// Numbers in it.
    #[must_use]
    pub fn parameters(&self) -> usize {
        match self {
            Self::LowRank(adapter) => adapter.parameters(),
            Self::TokenRows(tokens) => tokens.rows.elem_count(),
        }
    }

    /// The updated rows of the table whose rows `at` are `rows`, `[n, d]` f32 in main memory.
    ///
    /// # Errors
    /// Work: shapes that do not fit.
    pub(crate) fn updated(&self, rows: &Tensor, at: At<'_>) -> Result<Tensor> {
        match self {
            Self::LowRank(adapter) => adapter.updated(rows, at),
            Self::TokenRows(tokens) => tokens.updated(rows, at),
        }
    }
}

impl TokenRows {
    /// The rows of the table at `at`, `[n, d]` f32 in main memory: `rows`, or those trained for their tokens.
    ///
    /// # Errors
    /// Work: shapes that do not fit.
    pub(crate) fn updated(&self, rows: &Tensor, at: At<'_>) -> Result<Tensor> {
        let (count, width) = rows.dims2()?;
        let own: BTreeMap<u32, usize> = self.ids.iter().enumerate().map(|(place, id)| (*id, place)).collect();
        let mut values: Vec<f32> = rows.flatten_all()?.to_vec1()?;
        let trained: Vec<f32> = self.rows.flatten_all()?.to_vec1()?;
        for row in 0..count {
            let id = match at {
                At::From(first) => u32::try_from(first + row).ok(),
                At::Ids(ids) => ids.get(row).copied(),
            };
            if let Some(place) = id.and_then(|id| own.get(&id)) {
                values[row * width..][..width].copy_from_slice(&trained[place * width..][..width]);
            }
        }
        Ok(Tensor::from_vec(values, (count, width), &Device::Cpu)?)
    }
}

/// Tensors of the adapter's file that take the place of the model's.
#[derive(Clone, Debug)]
pub struct Whole {
    /// The adapter's file.
    pub file: Arc<Index>,
    /// Name in the file by name in the model.
    pub names: BTreeMap<String, String>,
}

impl Whole {
    /// Numbers in them.
    #[must_use]
    pub fn parameters(&self) -> usize {
        let entries = self.names.values().filter_map(|name| self.file.tensors.get(name));
        entries.map(|entry| entry.shape.iter().product::<usize>()).sum()
    }
}

impl Adapters {
    /// Whether embedding and head, one tensor until now, become two.
    #[must_use]
    pub fn unties(&self, spec: &ModelSpec, index: &Index) -> bool {
        let stored_apart = [spec.embedding, spec.head].iter().all(|name| index.tensors.contains_key(*name));
        if !spec.tied || stored_apart {
            return false;
        }
        let whole = |name| self.whole.as_ref().and_then(|whole| whole.names.get(name));
        let same = match (self.tables.get(spec.embedding), self.tables.get(spec.head)) {
            (None, None) => true,
            // the rows that were read once for both
            (Some(Table::TokenRows(one)), Some(Table::TokenRows(other))) => one.rows.id() == other.rows.id(),
            _ => false,
        };
        !same || whole(spec.embedding) != whole(spec.head)
    }

    /// `checkpoint` with the adapter's whole tensors in the place of its own, and with an embedding and a head of their
    /// own where they are no longer one; the low-rank updates are not in it.
    ///
    /// # Errors
    /// Work: the adapter's file cannot be shared.
    pub fn over(&self, checkpoint: &Arc<Checkpoint>, spec: &ModelSpec) -> Result<Arc<Checkpoint>> {
        let unties = self.unties(spec, &checkpoint.index);
        if self.whole.is_none() && !unties {
            return Ok(checkpoint.clone());
        }
        let mut index = checkpoint.index.share()?;
        if unties {
            index.alias(spec.embedding, spec.head);
            index.alias(spec.head, spec.embedding);
        }
        if let Some(whole) = &self.whole {
            index.replace(&whole.file, &whole.names)?;
        }
        let Checkpoint { source, config, leftover, quantized, .. } = checkpoint.as_ref();
        let (source, config, leftover) = (source.clone(), config.clone(), leftover.clone());
        let quantized = quantized.clone();
        Ok(Arc::new(Checkpoint { source, config, leftover, index, gguf: None, quantized }))
    }
}
