//! Which tensors belong to which layer, by name alone.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::stack_config::StackConfig;
use crate::checkpoint::Checkpoint;
use crate::{Context, Error, Result};

/// What stands before the number of a layer: Llama's and most families' word first, then GPT-2's, MPT's, those of
/// encoders, llama.cpp's.
pub(super) const WORDS: &[&str] = &["layers", "h", "blocks", "block", "layer", "blk"];

/// Parts of a prefix that say that the stack is a language model's, and the beginnings of those that say that it is one
/// of images or sounds.
const LANGUAGE: &[&str] = &["language_model", "text_model", "llm"];
const OTHERS: &[&str] = &["vision", "visual", "image", "vit", "audio", "speech"];

/// Where the layers are in a checkpoint's tensor names: `model.layers.` in `model.layers.3.mlp.up_proj.weight`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    prefix: String,
    layers: usize,
}

impl Stack {
    /// The stack that the config of `source` speaks of.
    ///
    /// # Errors
    /// Work: no number of layers in the config, tensors that disagree with it.
    pub(super) fn of(source: &Checkpoint) -> Result<Self> {
        let place = || source.source.dir.display();
        let stacks = StackConfig::all(&source.config).context(place)?;
        let extra = stacks[0].keys.get("num_nextn_predict_layers").and_then(Value::as_u64).unwrap_or(0);
        let names = source.index.tensors.keys().map(String::as_str);
        Self::find(names, stacks[0].layers, usize::try_from(extra).unwrap_or(0)).context(place)
    }

    /// Finds the stack of `layers` layers. `extra` more may follow it: prediction heads beyond the stack
    /// (`num_nextn_predict_layers`) are numbered on from its last layer.
    ///
    /// # Errors
    /// Work: no name holds a word of layers and a number, or the numbers are not 0 to L-1: a config and tensors that
    /// disagree.
    pub fn find<'a>(names: impl IntoIterator<Item = &'a str>, layers: usize, extra: usize) -> Result<Self> {
        let mut stacks: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
        for name in names {
            if let Some((prefix, layer, _)) = split(name) {
                stacks.entry(prefix).or_default().insert(layer);
            }
        }
        let fits = |numbers: &BTreeSet<usize>| {
            let last = numbers.last().copied().unwrap_or(0);
            last.checked_add(1) == Some(numbers.len())
                && (layers..=layers.saturating_add(extra)).contains(&numbers.len())
        };
        // a second stack of the same height is part of a model that no plan speaks of
        let fitting = stacks.iter().filter(|(_, numbers)| fits(numbers)).map(|(prefix, _)| *prefix);
        let rank = |prefix: &str| match prefix {
            "model.layers." => 0,
            _ if prefix.split('.').any(|part| OTHERS.iter().any(|other| part.starts_with(other))) => 3,
            _ if prefix.split('.').any(|part| LANGUAGE.contains(&part)) => 1,
            _ => 2,
        };
        let mut fitting: Vec<&str> = fitting.collect();
        fitting.sort_by_key(|prefix| rank(prefix));
        match fitting[..] {
            [first, second, ..] if rank(first) == rank(second) => Err(Error::work(format!(
                "{first}N and {second}N both have {layers} layers; which of them the config speaks of is not known"
            ))),
            [first, ..] => Ok(Self { prefix: first.to_owned(), layers }),
            [] => Err(disagreement(&stacks, layers)),
        }
    }

    /// Layer that the tensor `name` belongs to, counted from 0; `None` outside the stack.
    #[must_use]
    pub fn layer(&self, name: &str) -> Option<usize> {
        let (prefix, layer, _) = split(name)?;
        (prefix == self.prefix).then_some(layer)
    }

    /// Layer of the tensor `name`, counted from 0, and its name within the layer: 3 and `mlp.up_proj.weight`; `None`
    /// outside the stack, which layers beyond it are.
    #[must_use]
    pub fn within<'a>(&self, name: &'a str) -> Option<(usize, &'a str)> {
        let (prefix, layer, rest) = split(name)?;
        (prefix == self.prefix && layer < self.layers).then(|| (layer, &rest[1..]))
    }

    /// The tensor called `within` in layer `layer`.
    #[must_use]
    pub fn name(&self, layer: usize, within: &str) -> String {
        format!("{}{layer}.{within}", self.prefix)
    }

    /// What the tensor `name`, which no layer of the stack has, is called beside a stack of `layers`: layers beyond the
    /// stack stay beyond it.
    #[must_use]
    pub fn beside(&self, name: &str, layers: usize) -> String {
        let beyond = split(name)
            .filter(|(prefix, ..)| *prefix == self.prefix)
            .and_then(|(prefix, layer, rest)| Some((prefix, layer.checked_sub(self.layers)?, rest)));
        match beyond {
            Some((prefix, beyond, rest)) => format!("{prefix}{}{rest}", layers + beyond),
            None => name.to_owned(),
        }
    }
}

/// `model.layers.`, 3, `.mlp.up_proj.weight`, at the first place where a word and a number stand. A number with a
/// leading zero is no layer number, so that two names never become one.
fn split(name: &str) -> Option<(&str, usize, &str)> {
    let mut start = 0;
    for part in name.split('.') {
        let end = start + part.len() + 1;
        start = end;
        if !WORDS.contains(&part) || end >= name.len() {
            continue;
        }
        let (prefix, rest) = name.split_at(end);
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, rest) = rest.split_at(digits);
        let canonical = digits == 1 || !number.starts_with('0');
        if canonical && rest.len() > 1 && rest.starts_with('.') {
            return Some((prefix, number.parse().ok()?, rest));
        }
    }
    None
}

fn disagreement(stacks: &BTreeMap<&str, BTreeSet<usize>>, layers: usize) -> Error {
    let largest = stacks.iter().max_by_key(|(_, numbers)| numbers.len());
    let Some((prefix, numbers)) = largest else {
        return Error::work(
            "no tensor name holds `layers.N.`, or another word that layers go by; this layout of layers is not known",
        );
    };
    let last = numbers.last().copied().unwrap_or(0);
    let gap = (0..last).find(|layer| !numbers.contains(layer));
    Error::work(match gap {
        Some(layer) => format!("the tensors {prefix}N go up to {last}, but layer {layer} has none"),
        None => format!(
            "config.json says {layers} layers (num_hidden_layers), the tensors {prefix}N make {}; one of them is wrong",
            numbers.len()
        ),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stack(names: &[&str], layers: usize) -> Result<Stack> {
        Stack::find(names.iter().copied(), layers, 0)
    }

    #[test]
    fn names_are_renumbered() {
        let names =
            ["lm_head.weight", "model.layers.0.mlp.w", "model.layers.1.mlp.w", "model.layers.2.a.layers.0.w", "norm"];
        let stack = stack(&names, 3).unwrap();
        let within: Vec<_> = names.iter().map(|name| stack.within(name)).collect();
        assert_eq!(within, [None, Some((0, "mlp.w")), Some((1, "mlp.w")), Some((2, "a.layers.0.w")), None]);
        assert_eq!(stack.name(1, "a.layers.0.w"), "model.layers.1.a.layers.0.w");
        assert_eq!(stack.beside("lm_head.weight", 2), "lm_head.weight");
        assert_eq!(stack.layer("model.layers.2.a.layers.0.w"), Some(2));
        assert_eq!(stack.layer("encoder.layers.2.w"), None);
    }

    #[test]
    fn layers_beyond_the_stack_stay_beyond() {
        let names = ["layers.0.w", "layers.1.w", "layers.2.eh_proj"];
        let stack = Stack::find(names, 2, 1).unwrap();
        assert_eq!((stack.within("layers.2.eh_proj"), stack.within("layers.1.w")), (None, Some((1, "w"))));
        assert_eq!(stack.beside("layers.2.eh_proj", 1), "layers.1.eh_proj");
        assert!(Stack::find(names, 2, 0).unwrap_err().to_string().contains("says 2 layers"));
    }

    #[test]
    fn tensors_and_config_must_agree() {
        for (names, layers, word) in [
            (&["a", "b.layerz.0.x"][..], 1, "no tensor name holds"),
            (
                &["model.layers.0.w"],
                2,
                "config.json says 2 layers (num_hidden_layers), the tensors model.layers.N make 1",
            ),
            (&["model.layers.0.w", "model.layers.2.w"], 3, "go up to 2, but layer 1 has none"),
            (&["a.layers.0.w", "b.layers.0.w"], 1, "a.layers.N and b.layers.N both have 1 layers"),
        ] {
            let error = stack(names, layers).unwrap_err();
            assert!(error.to_string().contains(word) && error.exit_code() == 1, "{error}");
        }
        let both = ["a.layers.0.w", "model.layers.0.w", "vision.layers.0.w", "vision.layers.1.w"];
        assert_eq!(stack(&both, 1).unwrap().prefix, "model.layers.");
        let parts = ["model.language_model.layers.0.w", "model.visual.blocks.0.w", "vision.encoder.layer.0.w"];
        assert_eq!(stack(&parts, 1).unwrap().prefix, "model.language_model.layers.");
    }

    #[test]
    fn layers_go_by_other_words() {
        for (name, prefix) in [
            ("transformer.h.0.attn.c_attn.weight", "transformer.h."),
            ("h.0.ln_1.weight", "h."),
            ("transformer.blocks.0.norm_1.weight", "transformer.blocks."),
            ("gpt_neox.layers.0.mlp.dense_h_to_4h.bias", "gpt_neox.layers."),
            ("model.layers.0.block_sparse_moe.experts.7.w1.weight", "model.layers."),
            ("model.layers.0.mixer.h.0.w", "model.layers."),
        ] {
            assert_eq!(stack(&[name], 1).unwrap().prefix, prefix);
        }
    }

    #[test]
    fn odd_numbers_are_no_layers() {
        for name in
            ["model.layers.01.w", "model.layers..w", "model.layers.1", "model.layers.1.", "xlayers.1.w", "layers.1x.w"]
        {
            assert_eq!(split(name), None, "{name}");
        }
        assert_eq!(split(&format!("layers.{}.w", "9".repeat(40))), None);
    }

    proptest! {
        #[test]
        fn no_two_names_become_one(
            names in proptest::collection::btree_set("(model\\.)?(layers\\.)?[0-3]{1,2}(\\.layers\\.[0-9])?\\.?[wb]?", 1..40),
            kept in proptest::collection::vec(0usize..4, 1..6),
        ) {
            let stack = Stack { prefix: "model.layers.".into(), layers: 4 };
            let places = super::super::places::Places::new(&kept, 4);
            let new = names.iter().flat_map(|name| match stack.within(name) {
                None => vec![stack.beside(name, kept.len())],
                Some((layer, within)) => {
                    places.of(layer).iter().map(|place| stack.name(*place, within)).collect::<Vec<_>>()
                }
            });
            let new: Vec<String> = new.collect();
            prop_assert_eq!(new.iter().collect::<BTreeSet<_>>().len(), new.len());
        }
    }
}
