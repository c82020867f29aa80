//! A checkpoint whose weights are those of another, with adapters added or parameters replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use candle_core::{DType, Tensor};
use safetensors::Dtype;
use serde_json::{Map, Value};

use crate::arch::ModelSpec;
use crate::checkpoint::{ByteSize, Checkpoint, Entry, four_bit_owner, to_python_json};
use crate::progress::{Progress, Unit};
use crate::weights::lora::{Adapter, Adapters, Table};
use crate::weights::{Blueprint, Draft, Expr, four_bit};
use crate::{Error, Result};

/// What is done to the model of a checkpoint. With nothing said, a source in four bits becomes numbers of the type it
/// had before.
#[derive(Clone, Copy, Default)]
pub struct Merge<'a> {
    /// Put into the weights.
    pub adapters: Option<&'a Adapters>,
    /// Numbers, f32, in the place of a tensor's, by its name.
    pub replaced: &'a [(String, Tensor)],
    /// Quantises the linear layers of the blocks, as bitsandbytes does; the scales too if `Some(true)`.
    pub four_bit: Option<bool>,
    /// Adds to the numbers that four bits leave of the blocks' linear layers, not to those of the checkpoint: to the
    /// weights that a QLoRA adapter was trained on. `Some(true)` quantises the scales as well.
    pub onto: Option<bool>,
}

impl Merge<'_> {
    /// The new checkpoint.
    ///
    /// # Errors
    /// Request: a replaced tensor that the model does not have. Work: tensors that no file can hold, that cannot be
    /// read or quantised. Interrupted.
    pub fn blueprint(
        &self,
        checkpoint: &Arc<Checkpoint>,
        spec: &ModelSpec,
        max_shard: ByteSize,
        progress: &dyn Progress,
    ) -> Result<Blueprint> {
        let ends = [spec.head, spec.embedding];
        let stacked = self.adapters.is_some_and(|adapters| adapters.modules.keys().any(|(_, role)| role.is_stacked()));
        if self.onto.is_some() && stacked {
            return Err(no_quantized_stacks(spec));
        }
        let trained_head = self.replaced.iter().any(|(name, _)| name == spec.head);
        let unties =
            spec.tied && trained_head || self.adapters.is_some_and(|adapters| adapters.unties(spec, &checkpoint.index));
        let linear = (0..spec.layers).flat_map(|layer| spec.layer_tensors(layer));
        let linear = linear.filter(|tensor| tensor.role.is_linear() && tensor.shape.len() == 2);
        let linear: BTreeSet<String> = linear.map(|tensor| tensor.name).collect();
        let adapters = self.adapters.iter().flat_map(|adapters| &adapters.modules);
        let adapters = adapters.map(|((layer, role), adapter)| (spec.layer_tensor(*layer, *role).name, adapter));
        let tensors = Tensors { merge: self, checkpoint, ends, linear: &linear, adapters: adapters.collect() };
        if self.four_bit.is_some() {
            progress.begin("quantising", linear.len() as u64, Unit::Items);
        }
        let mut draft = Draft::new(checkpoint);
        let mut entries: Vec<&Entry> = checkpoint.index.tensors.values().collect();
        // in the order of the files
        entries.sort_by_key(|entry| (entry.shard, entry.begin));
        for entry in entries {
            let name = four_bit_owner(&entry.name).unwrap_or(&entry.name);
            if checkpoint.four_bit_state(name).is_some() && name != entry.name {
                continue;
            }
            match self.four_bit.filter(|_| linear.contains(name)) {
                Some(double) => {
                    draft.add_four_bit(name, tensors.dtype(name)?, tensors.expr(name), double)?;
                    progress.advance(1);
                }
                None => draft.add(name, tensors.dtype(name)?, tensors.expr(name))?,
            }
        }
        if unties {
            // a head of its own is no longer the embedding: both get a tensor of their own
            for name in ends {
                let other = draft.slots().iter().find(|slot| ends.contains(&slot.name.as_str()));
                if let (Some(dtype), false) = (other.map(|slot| slot.dtype), draft.has(name)) {
                    draft.add(name, dtype, tensors.expr(name))?;
                }
            }
        }
        // a tied model has one of the two, which stands for both
        let known = |name: &str| draft.has(name) || spec.tied && ends.contains(&name);
        if let Some(name) = tensors.changed().into_iter().find(|name| !known(name)) {
            return Err(Error::request(format!("{name} is no tensor of {}", checkpoint.source.id)));
        }
        let config = to_python_json(&self.config(checkpoint, unties));
        let config = config.map_err(|error| Error::work(error.to_string()))? + "\n";
        draft.finish(config, max_shard)
    }

    /// The config without or with a quantisation, and with a head of its own where a tied one was trained.
    fn config(&self, checkpoint: &Checkpoint, unties: bool) -> Map<String, Value> {
        let quantization = self.four_bit.map(|double| {
            let compute = checkpoint.dtype_name().unwrap_or("float32");
            four_bit::quantization_config(double, compute)
        });
        let mut config = four_bit::with_quantization(&checkpoint.config, quantization);
        if unties {
            config.insert("tie_word_embeddings".to_owned(), Value::Bool(false));
        }
        config
    }
}

/// Why adapters of experts in one tensor are not merged onto what four bits leave of it.
pub(super) fn no_quantized_stacks(spec: &ModelSpec) -> Error {
    Error::request(format!(
        "merging onto quantized weights: the experts of a {} lie in one tensor, which bitsandbytes does not hold in four \
         bits; merge onto the checkpoint's own numbers (--merge-onto full)",
        spec.model_type
    ))
}

/// How each tensor comes to be.
struct Tensors<'a> {
    merge: &'a Merge<'a>,
    checkpoint: &'a Checkpoint,
    /// The head and the embedding.
    ends: [&'static str; 2],
    /// Weights of the blocks' linear layers.
    linear: &'a BTreeSet<String>,
    /// Of those, what is added to them.
    adapters: BTreeMap<String, &'a Adapter>,
}

impl Tensors<'_> {
    /// Names of what is changed, in order.
    fn changed(&self) -> BTreeSet<&str> {
        let adapters = self.merge.adapters;
        let whole = adapters.iter().flat_map(|adapters| &adapters.whole).flat_map(|whole| whole.names.keys());
        let tables = adapters.iter().flat_map(|adapters| adapters.tables.keys());
        let replaced = self.merge.replaced.iter().map(|(name, _)| name);
        whole.chain(tables).chain(self.adapters.keys()).chain(replaced).map(String::as_str).collect()
    }

    fn expr(&self, name: &str) -> Expr {
        if let Some((_, tensor)) = self.merge.replaced.iter().rev().find(|(replaced, _)| replaced == name) {
            return Expr::Tensor(tensor.clone());
        }
        let adapters = self.merge.adapters;
        let whole = adapters.and_then(|adapters| adapters.whole.as_ref());
        let origin = match whole.and_then(|whole| Some((whole, whole.names.get(name)?))) {
            Some((whole, theirs)) => Expr::Stored(whole.file.clone(), theirs.clone()),
            None => Expr::Source(self.stored(name).to_owned()),
        };
        let origin = match self.merge.onto {
            Some(double) if self.linear.contains(name) => Expr::Quantized(Box::new(origin), double),
            _ => origin,
        };
        let table = adapters.and_then(|adapters| adapters.tables.get(name));
        match (self.adapters.get(name).copied(), table) {
            (Some(adapter), _) | (_, Some(Table::LowRank(adapter))) => Expr::Adapted(Box::new(origin), adapter.clone()),
            (_, Some(Table::TokenRows(tokens))) => Expr::TokenRows(Box::new(origin), tokens.clone()),
            _ => origin,
        }
    }

    /// What the source calls tensor `name`: so, or as the other end of a tied model.
    fn stored<'b>(&self, name: &'b str) -> &'b str {
        let [head, embedding] = self.ends;
        let other = match name {
            _ if name == head => embedding,
            _ if name == embedding => head,
            _ => return name,
        };
        let has = |name: &str| self.checkpoint.tensors.contains_key(name);
        if !has(name) && has(other) { other } else { name }
    }

    /// Type that a tensor has, or had before it was quantised.
    fn dtype(&self, name: &str) -> Result<Dtype> {
        if self.checkpoint.four_bit_state(name).is_none() {
            return Ok(self.checkpoint.entry(name)?.dtype);
        }
        Ok(match four_bit::original(&self.checkpoint.index, name)?.1 {
            DType::BF16 => Dtype::BF16,
            DType::F16 => Dtype::F16,
            _ => Dtype::F32,
        })
    }
}
