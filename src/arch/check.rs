//! Whether a checkpoint holds the tensors that its config promises.

use std::collections::{BTreeSet, HashSet};

use super::ModelSpec;
use super::names::LAYERS;
use crate::checkpoint::{Index, four_bit_owner};
use crate::{Error, Result};

/// A buffer that old Llama checkpoints carry and nothing reads.
const FREQUENCIES: &str = ".rotary_emb.inv_freq";

impl ModelSpec {
    /// Compares the tensors with the spec; returns the names of those that the model does not use.
    ///
    /// # Errors
    /// Another number of layers, a missing tensor, a wrong shape; each names the tensor or key, what was found and
    /// what was expected.
    pub fn check(&self, index: &Index) -> Result<Vec<String>> {
        self.check_layer_count(index)?;
        let table = vec![self.vocab_size, self.hidden_size];
        let mut used = HashSet::new();
        for (name, shape) in [
            (self.embedding_tensor(index), table.clone()),
            (self.head_tensor(index), table),
            (self.final_norm_tensor(), vec![self.hidden_size]),
        ] {
            check_tensor(index, name, &shape)?;
            used.insert(name.to_owned());
        }
        for layer in 0..self.layers {
            for tensor in self.layer_tensors(layer) {
                check_tensor(index, &tensor.name, &tensor.shape)?;
                used.insert(tensor.name);
            }
        }
        let is_used = |name: &str| used.contains(name) || four_bit_owner(name).is_some_and(|owner| used.contains(owner));
        let unused = index.tensors.keys().filter(|name| !is_used(name) && !name.ends_with(FREQUENCIES));
        Ok(unused.cloned().collect())
    }

    fn check_layer_count(&self, index: &Index) -> Result<()> {
        let number = |name: &String| name.strip_prefix(LAYERS)?.split('.').next()?.parse::<usize>().ok();
        let found: BTreeSet<usize> = index.tensors.keys().filter_map(number).collect();
        let missing = (0..self.layers).find(|layer| !found.contains(layer));
        let beyond = found.last().filter(|last| **last >= self.layers);
        let said = format!("config.json: num_hidden_layers is {}", self.layers);
        match (found.is_empty(), missing, beyond) {
            (true, ..) if index.tensors.contains_key("embed_tokens.weight") => Err(Error::work(format!(
                "no tensor is named {LAYERS}0.*: this checkpoint holds a bare model without head, save it as a causal \
                 language model first"
            ))),
            (true, ..) => Err(Error::work(format!("{said}, no tensor is named {LAYERS}0.*"))),
            (_, _, Some(last)) => Err(Error::work(format!("{said}, the tensors have a layer {last}"))),
            (_, Some(layer), _) => Err(Error::work(format!("{said}, the tensors have no layer {layer}"))),
            _ => Ok(()),
        }
    }
}

fn check_tensor(index: &Index, name: &str, shape: &[usize]) -> Result<()> {
    match index.tensors.get(name) {
        None => Err(Error::work(format!("tensor {name} is missing, expected with shape {shape:?}"))),
        Some(entry) if entry.shape == shape => Ok(()),
        // four-bit codes have a shape of their own; the one they stand for is compared when they are read
        Some(_) if index.four_bit_state(name).is_some() => Ok(()),
        Some(entry) => {
            Err(Error::work(format!("tensor {name} has shape {:?}, config.json asks for {shape:?}", entry.shape)))
        }
    }
}
