//! Whether a checkpoint holds the tensors that its config promises.

use std::collections::{BTreeSet, HashSet};

use super::ModelSpec;
use crate::checkpoint::{Index, four_bit_owner};
use crate::{Error, Result};

/// Buffers that old checkpoints carry and nothing reads: of Llama, and masks of GPT-NeoX.
const BUFFERS: [&str; 3] = [".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias"];

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
        let tables =
            [self.embedding_tensor(index), self.head_tensor(index)].map(|name| (name.to_owned(), table.clone()));
        for (name, shape) in tables.into_iter().chain(self.end_tensors()) {
            check_tensor(index, &name, &shape)?;
            used.insert(name);
        }
        for layer in 0..self.layers {
            for tensor in self.layer_tensors(layer).into_iter().chain(self.seam_tensors(layer)) {
                check_tensor(index, &tensor.name, &tensor.shape)?;
                used.insert(tensor.name);
            }
        }
        let is_used =
            |name: &str| used.contains(name) || four_bit_owner(name).is_some_and(|owner| used.contains(owner));
        let unused =
            index.tensors.keys().filter(|name| !is_used(name) && !BUFFERS.iter().any(|end| name.ends_with(end)));
        Ok(unused.cloned().collect())
    }

    fn check_layer_count(&self, index: &Index) -> Result<()> {
        let number = |name: &String| name.strip_prefix(self.layer_prefix)?.split('.').next()?.parse::<usize>().ok();
        let found: BTreeSet<usize> = index.tensors.keys().filter_map(number).collect();
        let missing = (0..self.layers).find(|layer| !found.contains(layer));
        let beyond = found.last().filter(|last| **last >= self.layers + self.layers_beyond);
        let (prefix, bare) = (self.layer_prefix, self.embedding.split_once('.').map_or("", |(_, name)| name));
        let said = format!("config.json: num_hidden_layers is {}", self.layers);
        match (found.is_empty(), missing, beyond) {
            (true, ..) if index.tensors.contains_key(bare) => Err(Error::work(format!(
                "no tensor is named {prefix}0.*: this checkpoint holds a bare model without head, save it as a causal \
                 language model first"
            ))),
            (true, ..) => Err(Error::work(format!("{said}, no tensor is named {prefix}0.*"))),
            (_, _, Some(last)) => Err(Error::work(format!("{said}, the tensors have a layer {last}"))),
            (_, Some(layer), _) => Err(Error::work(format!("{said}, the tensors have no layer {layer}"))),
            _ => Ok(()),
        }
    }
}

fn check_tensor(index: &Index, name: &str, shape: &[usize]) -> Result<()> {
    if let Some(dispute) = index.disputes.get(name) {
        return Err(Error::work(dispute.clone()));
    }
    let packed = name.strip_suffix("weight").map(|module| format!("{module}qweight"));
    match index.tensors.get(name) {
        None if packed.is_some_and(|packed| index.tensors.contains_key(&packed)) => Err(Error::request(format!(
            "tensor {name} is stored as qweight: GPTQ or AWQ quantised the weights (their quantize_config.json or \
             quant_config.json says how); start from the full-precision checkpoint"
        ))),
        None => Err(Error::work(format!("tensor {name} is missing, expected with shape {shape:?}"))),
        Some(entry) if entry.shape == shape => Ok(()),
        // four-bit codes have a shape of their own; the one they stand for is compared when they are read
        Some(_) if index.four_bit_state(name).is_some() => Ok(()),
        Some(entry) => {
            Err(Error::work(format!("tensor {name} has shape {:?}, config.json asks for {shape:?}", entry.shape)))
        }
    }
}

#[cfg(test)]
mod tests {
    use safetensors::Dtype;
    use serde_json::json;

    use super::*;
    use crate::checkpoint::Entry;

    fn spec(tied: bool) -> ModelSpec {
        let config = json!({
            "model_type": "llama", "hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2,
            "num_hidden_layers": 2, "vocab_size": 16, "tie_word_embeddings": tied,
        });
        ModelSpec::from_config(config.as_object().unwrap()).unwrap()
    }

    /// Of a file without tensors.
    fn empty() -> Index {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [&2u64.to_le_bytes()[..], b"{}"].concat()).unwrap();
        Index::open_file(file.path()).unwrap()
    }

    fn index(spec: &ModelSpec, more: &[(&str, &[usize])]) -> Index {
        let mut index = empty();
        let mut add = |name: &str, shape: &[usize]| {
            let (name, shape) = (name.to_owned(), shape.to_vec());
            index.tensors.insert(name.clone(), Entry { name, dtype: Dtype::F32, shape, shard: 0, begin: 0, len: 0 });
        };
        for tensor in (0..spec.layers).flat_map(|layer| spec.layer_tensors(layer)) {
            add(&tensor.name, &tensor.shape);
        }
        add("model.norm.weight", &[8]);
        more.iter().for_each(|(name, shape)| add(name, shape));
        index
    }

    const EMBEDDING: (&str, &[usize]) = ("model.embed_tokens.weight", &[16, 8]);
    const HEAD: (&str, &[usize]) = ("lm_head.weight", &[16, 8]);

    #[test]
    fn the_head_of_a_tied_model_is_where_its_file_has_it() {
        let tied = spec(true);
        for (held, embedding, head) in [
            (vec![EMBEDDING], EMBEDDING.0, EMBEDDING.0),
            (vec![HEAD], HEAD.0, HEAD.0),
            (vec![EMBEDDING, HEAD], EMBEDDING.0, HEAD.0),
        ] {
            let index = index(&tied, &held);
            assert_eq!((tied.embedding_tensor(&index), tied.head_tensor(&index)), (embedding, head));
            assert_eq!(tied.check(&index).unwrap(), Vec::<String>::new());
        }
        let untied = spec(false);
        let error = untied.check(&index(&untied, &[EMBEDDING])).unwrap_err();
        assert_eq!(error.to_string(), "tensor lm_head.weight is missing, expected with shape [16, 8]");
        assert!(tied.check(&index(&tied, &[])).is_err());
    }

    #[test]
    fn what_disagrees_is_named() {
        let spec = spec(true);
        let message = |index: &Index| spec.check(index).unwrap_err().to_string();
        let good = || index(&spec, &[EMBEDDING]);

        let mut wrong = good();
        wrong.tensors.get_mut("model.layers.1.mlp.up_proj.weight").unwrap().shape = vec![8, 12];
        let said = message(&wrong);
        assert_eq!(said, "tensor model.layers.1.mlp.up_proj.weight has shape [8, 12], config.json asks for [12, 8]");

        let more = index(&spec, &[EMBEDDING, ("model.layers.7.mlp.up_proj.weight", &[12, 8])]);
        assert_eq!(message(&more), "config.json: num_hidden_layers is 2, the tensors have a layer 7");

        let mut fewer = good();
        fewer.tensors.retain(|name, _| !name.starts_with("model.layers.1."));
        assert_eq!(message(&fewer), "config.json: num_hidden_layers is 2, the tensors have no layer 1");

        let mut gap = good();
        gap.tensors.remove("model.layers.0.self_attn.k_proj.weight");
        assert!(message(&gap).starts_with("tensor model.layers.0.self_attn.k_proj.weight is missing"));

        let mut bare = empty();
        assert!(message(&bare).contains("no tensor is named model.layers.0"));
        let entry = good().tensors.remove(EMBEDDING.0).unwrap();
        bare.tensors.insert("embed_tokens.weight".to_owned(), entry);
        assert!(message(&bare).contains("bare model"));
    }

    #[test]
    fn tensors_that_nothing_reads_are_listed() {
        let spec = spec(true);
        let extra: [(&str, &[usize]); 4] = [
            EMBEDDING,
            ("model.layers.0.self_attn.rotary_emb.inv_freq", &[2]),
            ("model.layers.0.self_attn.q_proj.bias", &[8]),
            ("score.weight", &[2, 8]),
        ];
        let unused = spec.check(&index(&spec, &extra)).unwrap();
        assert_eq!(unused, ["model.layers.0.self_attn.q_proj.bias", "score.weight"]);
    }
}
