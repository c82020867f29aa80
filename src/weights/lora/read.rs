//! The tensors of an adapter's file, by what they are for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::config::{Config, Rule, TokenIds};
use super::settings::{Module, Strengths, is_named, linear, modules_of};
use super::{Adapter, Adapters, Table, TokenRows, Whole, experts, lie, matrix, stacked};
use crate::arch::{ModelSpec, Role};
use crate::checkpoint::Index;
use crate::{Error, Result};

/// What PEFT puts before the path of a module.
pub(super) const PREFIX: &str = "base_model.model.";

/// What a tensor is to its module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    A,
    B,
    EmbeddingA,
    EmbeddingB,
    Magnitude,
    TokenRows,
    /// A tensor of the module itself: `weight` or `bias`.
    Own(&'static str),
    /// The same of a module that has an adapter.
    Base(&'static str),
}

/// Ends of names, the longer first. `default` is the adapter's name, which PEFT also takes.
const ENDINGS: [(&str, Part); 16] = [
    (".lora_A.weight", Part::A),
    (".lora_A.default.weight", Part::A),
    (".lora_B.weight", Part::B),
    (".lora_B.default.weight", Part::B),
    (".lora_embedding_A", Part::EmbeddingA),
    (".lora_embedding_A.default", Part::EmbeddingA),
    (".lora_embedding_B", Part::EmbeddingB),
    (".lora_embedding_B.default", Part::EmbeddingB),
    (".lora_magnitude_vector", Part::Magnitude),
    (".lora_magnitude_vector.default", Part::Magnitude),
    (".lora_magnitude_vector.default.weight", Part::Magnitude),
    (".token_adapter.trainable_tokens_delta", Part::TokenRows),
    (".base_layer.weight", Part::Base("weight")),
    (".base_layer.bias", Part::Base("bias")),
    (".weight", Part::Own("weight")),
    (".bias", Part::Own("bias")),
];

/// Names in the file by module and part.
type Parts = BTreeMap<(String, Part), String>;

/// Reads what `config` says from `index`.
pub(super) fn read(config: &Config, index: Index, spec: &ModelSpec, device: &Device) -> Result<Adapters> {
    let parts = parts(&index)?;
    let mut settings = config.settings();
    let reader = Reader { config, rule: config.rule()?, index, parts, spec, device };
    let (modules, tables) = {
        let strengths = settings.strengths()?;
        (reader.modules(&strengths)?, reader.tables(&strengths)?)
    };
    settings.targets = super::peft::targets(spec, None, modules.keys());
    let adapted = |(layer, role, path): Module| modules.contains_key(&(layer, role)).then_some(path);
    let all = (0..spec.layers).flat_map(|layer| modules_of(spec, layer));
    let paths: Vec<String> = all.filter_map(adapted).collect();
    settings.rank_pattern = settings.rank_pattern.used(&paths)?;
    settings.alpha_pattern = settings.alpha_pattern.used(&paths)?;
    let names = reader.whole(&tables)?;
    let whole = (!names.is_empty()).then(|| Whole { file: Arc::new(reader.index), names });
    Ok(Adapters { settings, modules, tables, whole })
}

fn parts(index: &Index) -> Result<Parts> {
    let mut parts = Parts::new();
    for name in index.tensors.keys() {
        let Some(rest) = name.strip_prefix(PREFIX) else {
            return Err(Error::request(format!("tensor {name} does not start with {PREFIX}: PEFT would leave it out")));
        };
        let found = ENDINGS.iter().find_map(|(ending, part)| Some((rest.strip_suffix(ending)?, *part)));
        let Some((path, part)) = found.filter(|(path, _)| !path.contains("lora_")) else {
            return Err(Error::request(format!("tensor {name} is nothing that PEFT saves of a LoRA adapter")));
        };
        if let Some(other) = parts.insert((path.to_owned(), part), name.clone()) {
            return Err(Error::request(format!("tensors {other} and {name} are the same")));
        }
    }
    Ok(parts)
}

struct Reader<'a> {
    config: &'a Config,
    rule: Rule<'a>,
    index: Index,
    parts: Parts,
    spec: &'a ModelSpec,
    device: &'a Device,
}

impl Reader<'_> {
    fn name(&self, path: &str, part: Part) -> Option<&String> {
        self.parts.get(&(path.to_owned(), part))
    }

    /// A tensor of a module that must be there.
    fn tensor(&self, path: &str, part: Part, shape: &[usize], device: &Device) -> Result<Tensor> {
        let missing = || {
            let ending = ENDINGS.iter().find(|(_, other)| *other == part).map_or("", |(ending, _)| *ending);
            Error::request(format!("the config asks for {PREFIX}{path}{ending}, which is not there"))
        };
        let name = self.name(path, part).ok_or_else(missing)?;
        match &self.index.entry(name)?.shape[..] {
            found if found == shape => self.index.load_f32(name, shape, device),
            found => Err(Error::request(format!(
                "{name} has shape {found:?}, expected {shape:?} for this model and the config's rank; was the adapter \
                 made for another model?"
            ))),
        }
    }

    fn adapter(&self, path: &str, (outputs, inputs): (usize, usize), strengths: &Strengths<'_>) -> Result<Adapter> {
        let (rank, scale) = strengths.of(path);
        let magnitude = self.config.use_dora;
        if !magnitude && let Some(name) = self.name(path, Part::Magnitude) {
            return Err(Error::request(format!("there is a {name}, but use_dora is not set")));
        }
        let vector = || self.tensor(path, Part::Magnitude, &[outputs], &Device::Cpu);
        Ok(Adapter {
            a: self.tensor(path, Part::A, &[rank, inputs], self.device)?,
            b: self.tensor(path, Part::B, &[outputs, rank], self.device)?,
            scale,
            magnitude: magnitude.then(vector).transpose()?,
            stacked: None,
        })
    }

    /// The tensors that hold all experts of a layer and that the config names, by the module under which the file has
    /// their updates.
    fn parameters(&self) -> Result<BTreeMap<String, Module>> {
        let mut found = BTreeMap::new();
        let mut idle: BTreeSet<&String> = self.config.target_parameters.iter().flatten().collect();
        for layer in 0..self.spec.layers {
            let mut own = self.spec.stacked_parameters(layer);
            own.retain(|(_, path)| {
                let names = self.config.target_parameters.iter().flatten().filter(|name| is_named(path, name));
                names.fold(false, |_, name| {
                    idle.remove(name);
                    true
                })
            });
            for (role, path) in &own {
                let module =
                    stacked::module(self.spec, layer, *role, |role| own.iter().any(|(other, _)| *other == role));
                found.insert(module, (layer, *role, path.clone()));
            }
        }
        match idle.first() {
            Some(name) => Err(Error::request(format!(
                "target_parameters name {name}, which is no tensor of all experts of a {}",
                self.spec.model_type
            ))),
            None => Ok(found),
        }
    }

    /// The update of the matrices of all experts, which the file has at `module`.
    fn stacked(&self, module: &str, (layer, role, path): &Module, strengths: &Strengths<'_>) -> Result<Adapter> {
        let ((rank, scale), (outputs, inputs)) = (strengths.of(path), matrix(self.spec, *layer, *role));
        let count = experts(self.spec, *role).unwrap_or(1);
        let a = self.tensor(module, Part::A, &[rank * count, inputs], self.device)?;
        let b = self.tensor(module, Part::B, &[outputs, rank * count], self.device)?;
        let (a, b) = stacked::from_file((&a, &b), count)?;
        Ok(Adapter { a, b, scale, magnitude: None, stacked: lie(self.spec, *role) })
    }

    /// The linear layers of the blocks.
    fn modules(&self, strengths: &Strengths<'_>) -> Result<BTreeMap<(usize, Role), Adapter>> {
        let known: BTreeMap<String, Module> =
            linear(self.spec).into_iter().map(|module| (module.2.clone(), module)).collect();
        let adapted = |(path, part): &(String, Part)| matches!(part, Part::A | Part::B).then(|| path.clone());
        let found: BTreeSet<String> = self.parts.keys().filter_map(adapted).collect();
        let parameters = self.parameters()?;
        let is_other = |path: &&String| *path != module(self.spec.head) && !parameters.contains_key(*path);
        for path in found.iter().filter(is_other) {
            let Some((.., known)) = known.get(path) else { return Err(misfit(self.spec, path)) };
            if !self.rule.targets(known, true) {
                return Err(Error::request(format!(
                    "there is an adapter for {path}, but the config's target_modules do not name it: PEFT would leave it out"
                )));
            }
        }
        let last = found.iter().filter_map(|path| Some(known.get(path)?.0)).max().unwrap_or(0);
        let mut modules = BTreeMap::new();
        for (layer, role, path) in linear(self.spec).iter().filter(|(.., path)| self.rule.targets(path, true)) {
            if !found.contains(path) {
                return Err(Error::request(format!(
                    "there is no adapter for {path}: the adapter ends at layer {last}, the model has {} layers; was it \
                     made for another cut of the model?",
                    self.spec.layers
                )));
            }
            let shape = matrix(self.spec, *layer, *role);
            modules.insert((*layer, *role), self.adapter(path, shape, strengths)?);
        }
        for (module, own) in &parameters {
            modules.insert((own.0, own.1), self.stacked(module, own, strengths)?);
        }
        Ok(modules)
    }

    /// Embedding and head.
    fn tables(&self, strengths: &Strengths<'_>) -> Result<BTreeMap<String, Table>> {
        let (vocab, width) = (self.spec.vocab_size, self.spec.hidden_size);
        let (embedding, head) = (self.spec.embedding, self.spec.head);
        let mut tables = BTreeMap::new();
        let targeted = |name: &str| self.rule.targets(module(name), false);
        // tied, one is adapted with the other, and saved as well
        let together = self.config.ensure_weight_tying && self.spec.tied;
        for (name, a, b) in [(embedding, Part::EmbeddingA, Part::EmbeddingB), (head, Part::A, Part::B)] {
            let path = module(name);
            let meant = targeted(name) || together && (targeted(embedding) || targeted(head));
            let found = [a, b].into_iter().find_map(|part| self.name(path, part));
            if let Some(found) = found.filter(|_| !meant) {
                return Err(Error::request(format!(
                    "there is {found}, but the config's target_modules do not name {path}: PEFT would leave it out"
                )));
            }
            if !meant {
                continue;
            }
            if found.is_none() {
                return Err(Error::request(format!("target_modules name {path}, but there is no adapter for it")));
            }
            let adapter = match name {
                _ if name == head => self.adapter(path, (vocab, width), strengths)?,
                _ if self.config.use_dora => {
                    return Err(Error::request(format!("use_dora on {path} is not supported: on linear layers only")));
                }
                _ => {
                    let (rank, scale) = strengths.of(path);
                    let a = self.tensor(path, Part::EmbeddingA, &[rank, vocab], &Device::Cpu)?;
                    let b = self.tensor(path, Part::EmbeddingB, &[width, rank], &Device::Cpu)?;
                    Adapter { a: b.t()?.contiguous()?, b: a.t()?.contiguous()?, scale, magnitude: None, stacked: None }
                }
            };
            tables.insert(name.to_owned(), Table::LowRank(adapter));
        }
        self.tokens(&mut tables)?;
        Ok(tables)
    }

    /// Rows of their own for some tokens, of the embedding or the head; of a tied model's embedding they are the head's
    /// as well, unless the head has others.
    fn tokens(&self, tables: &mut BTreeMap<String, Table>) -> Result<()> {
        let (vocab, width) = (self.spec.vocab_size, self.spec.hidden_size);
        let (embedding, head) = (self.spec.embedding, self.spec.head);
        let ids: BTreeMap<&str, &Vec<u32>> = match &self.config.trainable_token_indices {
            None => BTreeMap::new(),
            Some(TokenIds::Embedding(ids)) => [(embedding, ids)].into(),
            Some(TokenIds::ByModule(map)) => {
                let name =
                    |key: &String| [embedding, head].into_iter().find(|name| module(name).ends_with(key.as_str()));
                let named = map.iter().map(|(key, ids)| {
                    let unknown =
                        || Error::request(format!("trainable_token_indices: {key} is neither embedding nor head"));
                    Ok((name(key).ok_or_else(unknown)?, ids))
                });
                named.collect::<Result<_>>()?
            }
        };
        let tied = self.spec.tied && ids.contains_key(embedding) && ids.get(head).is_none_or(|h| ids[embedding] == *h);
        for (name, ids) in &ids {
            let path = module(name);
            if tied && *name == head {
                continue;
            }
            let beyond = ids.iter().find(|id| **id as usize >= vocab);
            if let Some(id) = beyond {
                return Err(Error::request(format!(
                    "trainable_token_indices: token {id} is beyond the {vocab} rows of {path}"
                )));
            }
            let rows = self.tensor(path, Part::TokenRows, &[ids.len(), width], &Device::Cpu)?;
            let tokens = TokenRows { ids: ids.to_vec(), rows };
            if tables.contains_key(*name) || tied && tables.contains_key(head) || self.config.saves(path) {
                return Err(Error::request(format!("{path} has rows of its own and another adapter: one of the two")));
            }
            if tied {
                tables.insert(head.to_owned(), Table::TokenRows(tokens.clone()));
            }
            tables.insert((*name).to_owned(), Table::TokenRows(tokens));
        }
        let stray = self.parts.keys().find(|(path, part)| {
            *part == Part::TokenRows && !ids.keys().any(|name| module(name) == path && !(tied && *name == head))
        });
        match stray {
            Some((path, _)) => {
                Err(Error::request(format!("{path} has trained rows that trainable_token_indices do not name")))
            }
            None => Ok(()),
        }
    }

    /// Names in the file of the tensors that are there whole, by the model's.
    fn whole(&self, tables: &BTreeMap<String, Table>) -> Result<BTreeMap<String, String>> {
        let shapes = shapes(self.spec);
        let blocks: BTreeSet<String> = linear(self.spec).into_iter().map(|(.., path)| path).collect();
        let mut names = BTreeMap::new();
        for ((path, part), name) in &self.parts {
            let (Part::Own(kind) | Part::Base(kind)) = *part else { continue };
            let tensor = format!("{path}.{kind}");
            let Some(shape) = shapes.get(&tensor) else { return Err(misfit(self.spec, &tensor)) };
            let weight = format!("{path}.weight");
            let low_rank = matches!(tables.get(&weight), Some(Table::LowRank(_)));
            let adapted = low_rank || blocks.contains(path) && self.rule.targets(path, true);
            if adapted != matches!(part, Part::Base(_)) {
                let has = if adapted { "has" } else { "has no" };
                return Err(Error::request(format!("{path} {has} an adapter: PEFT would leave {name} out")));
            }
            let entry = self.index.entry(name)?;
            if entry.shape != *shape {
                return Err(Error::request(format!(
                    "{name} has shape {:?}, this model's is {shape:?}; was the adapter made for another model, or its \
                     vocabulary extended?",
                    entry.shape
                )));
            }
            names.insert(tensor.clone(), name.clone());
        }
        if let Some(tensor) = shapes.keys().find(|tensor| {
            let path = tensor.rsplit_once('.').map_or(tensor.as_str(), |(path, _)| path);
            self.config.saves(path) && !names.contains_key(*tensor)
        }) {
            return Err(Error::request(format!("modules_to_save names {tensor}, but the file does not have it")));
        }
        // what is not saved for a module of its own is loaded into the one tensor that a tied model has
        if self.spec.tied {
            let (embedding, head) = (self.spec.embedding, self.spec.head);
            for (name, other) in [(embedding, head), (head, embedding)] {
                let shared = names.get(name).filter(|_| !self.config.saves(module(name))).cloned();
                if let Some(shared) = shared.filter(|_| !names.contains_key(other)) {
                    names.insert(other.to_owned(), shared);
                }
            }
        }
        Ok(names)
    }
}

/// Every tensor of the model with its shape.
fn shapes(spec: &ModelSpec) -> BTreeMap<String, Vec<usize>> {
    let tensors = (0..spec.layers).flat_map(|layer| spec.layer_tensors(layer));
    let table = vec![spec.vocab_size, spec.hidden_size];
    let tables = [(spec.embedding.to_owned(), table.clone()), (spec.head.to_owned(), table)];
    tensors.map(|tensor| (tensor.name, tensor.shape)).chain(tables).chain(spec.end_tensors()).collect()
}

/// `lm_head` of `lm_head.weight`.
fn module(tensor: &str) -> &str {
    tensor.strip_suffix(".weight").unwrap_or(tensor)
}

/// Why no module of the model is called `path`.
fn misfit(spec: &ModelSpec, path: &str) -> Error {
    let layer = path.strip_prefix(spec.layer_prefix).and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    Error::request(match layer {
        Some(layer) if layer >= spec.layers => format!(
            "the adapter has a layer {layer}, the model has {} layers; was it made for the uncut model?",
            spec.layers
        ),
        _ => format!("the adapter has {path}, which the model does not have"),
    })
}
