//! What becomes of each tensor of the source: copied to every place of its layer, left out, made otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::Dtype;

use super::Shrunk;
use super::format::last_modules;
use super::names::Stack;
use super::places::Places;
use crate::arch::{ModelSpec, is_of_module};
use crate::checkpoint::{Checkpoint, Entry, Index};
use crate::plan::{Made, Place, Plan};
use crate::shown::shown;
use crate::weights::{Draft, Expr};
use crate::{Context, Error, Result};

/// The tensors of a new stack, as they are decided.
pub(super) struct Tensors<'a> {
    source: &'a Arc<Checkpoint>,
    stack: Stack,
    plan: &'a Plan,
    places: &'a Places,
    /// Of each place, what its layer loses.
    lost: Vec<Lost>,
    /// Files that tensors of the plan are stored in.
    stored: BTreeMap<PathBuf, Arc<Index>>,
}

/// What a layer loses at a place.
#[derive(Clone, Debug, Default)]
struct Lost {
    /// Modules whose tensors go: `self_attn.q_proj`, `self_attn`, `input_layernorm`.
    modules: BTreeSet<String>,
    /// Modules whose tensors are zeros.
    zeros: BTreeSet<String>,
}

impl<'a> Tensors<'a> {
    /// For `plan`, which puts the layers of `source`, whose names are those of `stack`, at `places`. `spec` is what
    /// the source is; with `zeros`, sub-layers that are left out end in zeros.
    ///
    /// # Errors
    /// Request: a file of the plan that cannot be read.
    pub(super) fn new(
        source: &'a Arc<Checkpoint>,
        stack: Stack,
        (plan, places): (&'a Plan, &'a Places),
        spec: Option<&ModelSpec>,
        zeros: bool,
    ) -> Result<Self> {
        let lost = plan.stack.iter().map(|place| spec.map_or_else(Lost::default, |spec| lost(spec, place, zeros)));
        let lost = lost.collect();
        let mut tensors = Self { source, stack, plan, places, lost, stored: BTreeMap::new() };
        for made in plan.stack.iter().flat_map(|place| place.made.values()) {
            tensors.open_files(made)?;
        }
        Ok(tensors)
    }

    /// All of them, in the order in which the source's files have what they are made from; and numbers and bytes of
    /// both.
    ///
    /// # Errors
    /// Request: a tensor of the plan that its layer does not have, or that cannot be made. Work: a broken checkpoint.
    pub(super) fn draft(&self) -> Result<(Draft, Shrunk, Shrunk)> {
        let mut entries: Vec<&Entry> = self.source.index.tensors.values().collect();
        // in the order of the files, so that they are read from front to back
        entries.sort_by_key(|entry| (entry.shard, entry.begin));
        self.check_names()?;
        let mut draft = Draft::new(self.source);
        let (mut parameters, mut bytes) = (Shrunk { before: 0, after: 0 }, Shrunk { before: 0, after: 0 });
        for entry in entries {
            let elements: u64 = entry.shape.iter().map(|size| *size as u64).product();
            parameters.before += elements;
            bytes.before += entry.len;
            let mut kept = 0;
            match self.stack.within(&entry.name) {
                None => {
                    draft.copy(&self.stack.beside(&entry.name, self.places.len()), &entry.name)?;
                    kept += 1;
                }
                Some((layer, within)) => {
                    for place in self.places.of(layer) {
                        kept += u64::from(self.place(&mut draft, entry, *place, within)?);
                    }
                }
            }
            parameters.after += kept * elements;
            bytes.after += kept * entry.len;
        }
        Ok((draft, parameters, bytes))
    }

    /// Decides on the tensor `entry`, which its layer calls `within`, at a place; `false` where it is left out.
    fn place(&self, draft: &mut Draft, entry: &Entry, place: usize, within: &str) -> Result<bool> {
        let lost = &self.lost[place];
        if is_of(within, &lost.modules) {
            return Ok(false);
        }
        let name = self.stack.name(place, within);
        let expr = match self.plan.stack[place].made.get(within) {
            Some(made) => self.expr(made, within, &entry.shape).context(|| made_name(place, within))?,
            None if is_of(within, &lost.zeros) => Expr::Zeros(entry.shape.clone()),
            None => {
                draft.copy(&name, &entry.name)?;
                return Ok(true);
            }
        };
        if !is_numbers(entry.dtype) || self.source.index.four_bit_state(&entry.name).is_some() {
            return Err(Error::request(format!(
                "tensor {} is stored in codes ({}), so the plan cannot make it otherwise; start from a checkpoint in \
                 f32, f16 or bf16",
                entry.name, entry.dtype
            )));
        }
        let shape = expr.shape(&self.source.index).map_err(|error| Error::request(error.to_string()));
        let shape = shape.context(|| made_name(place, within))?;
        if shape != entry.shape {
            return Err(Error::request(format!(
                "{} has shape {shape:?}, its layer's has {:?}",
                made_name(place, within),
                entry.shape
            )));
        }
        draft.add(&name, entry.dtype, expr)?;
        Ok(true)
    }

    /// What `made` says, for the tensor `within` of the shape `shape`.
    fn expr(&self, made: &Made, within: &str, shape: &[usize]) -> Result<Expr> {
        let known = |index: &Index, name: &str| match index.entry(name) {
            Ok(entry) if is_numbers(entry.dtype) || index.four_bit_state(name).is_some() => Ok(()),
            Ok(entry) => {
                Err(Error::request(format!("tensor {name} is stored as {}, which holds no numbers", entry.dtype)))
            }
            Err(error) => Err(Error::request(error.to_string())),
        };
        Ok(match made {
            Made::Layer(layer) => {
                let name = self.stack.name(*layer, within);
                known(&self.source.index, &name)?;
                Expr::Source(name)
            }
            Made::Stored { file, tensor } => {
                let index = self.stored.get(file).ok_or_else(|| Error::work("a file that was not opened"))?;
                known(index, tensor).context(|| file.display())?;
                Expr::Stored(index.clone(), tensor.clone())
            }
            Made::Zeros => Expr::Zeros(shape.to_vec()),
            Made::Sum(terms) => {
                let terms = terms.iter().map(|term| Ok((term.times, self.expr(&term.of, within, shape)?)));
                Expr::Sum(terms.collect::<Result<_>>()?)
            }
            Made::Matmul(left, right) => {
                let part = |made| self.expr(made, within, shape).map(Box::new);
                Expr::MatMul(part(left)?, part(right)?)
            }
        })
    }

    fn open_files(&mut self, made: &Made) -> Result<()> {
        match made {
            Made::Layer(_) | Made::Zeros => Ok(()),
            Made::Stored { file, .. } if self.stored.contains_key(file) => Ok(()),
            Made::Stored { file, .. } => {
                self.stored.insert(file.clone(), Arc::new(open(file)?));
                Ok(())
            }
            Made::Sum(terms) => terms.iter().try_for_each(|term| self.open_files(&term.of)),
            Made::Matmul(left, right) => {
                self.open_files(left)?;
                self.open_files(right)
            }
        }
    }

    /// Every tensor that the plan makes is one of its layer.
    fn check_names(&self) -> Result<()> {
        for (at, place) in self.plan.stack.iter().enumerate() {
            for name in place.made.keys() {
                let full = self.stack.name(place.layer, name);
                let why = match self.source.index.entry(&full) {
                    Err(error) => error.to_string(),
                    Ok(_) if is_of(name, &self.lost[at].modules) => "is left out there".to_owned(),
                    Ok(_) => continue,
                };
                return Err(Error::request(format!("{}: {why}", made_name(at, name))));
            }
        }
        Ok(())
    }
}

/// A safetensors file that a plan names.
fn open(file: &Path) -> Result<Index> {
    let index = file.is_file().then(|| Index::open_file(file)).transpose();
    index.map_err(|error| Error::request(error.to_string()))?.ok_or_else(|| {
        Error::request(format!(
            "{}: the plan takes a tensor from this file, and it is no file",
            shown(&file.display().to_string())
        ))
    })
}

/// What the layer at `place` loses.
fn lost(spec: &ModelSpec, place: &Place, zeros: bool) -> Lost {
    let mut lost = Lost::default();
    if place.without.is_empty() {
        return lost;
    }
    if zeros {
        let kinds = spec.sublayers(place.layer).into_iter().flat_map(|residual| residual.sum);
        let gone = kinds.filter(|kind| place.without.contains(kind.sublayer()));
        lost.zeros = gone.flat_map(|kind| last_modules(spec, kind)).collect();
        return lost;
    }
    let mut less = spec.clone();
    less.without[place.layer] = less.without[place.layer].and(place.without);
    let modules = |spec: &ModelSpec| -> BTreeSet<String> {
        let roles = spec.roles(place.layer).into_iter().map(|role| spec.module(role).into_owned());
        // `self_attn` holds what else attention has, such as buffers
        let outer = |module: &String| module.split('.').next().unwrap_or(module).to_owned();
        roles.flat_map(|module| [outer(&module), module]).collect()
    };
    lost.modules = modules(spec).difference(&modules(&less)).cloned().collect();
    lost
}

/// Whether a tensor of a layer belongs to one of `modules`.
fn is_of(within: &str, modules: &BTreeSet<String>) -> bool {
    modules.iter().any(|module| is_of_module(within, module))
}

/// Whether a tensor of this type holds numbers that can be computed with.
pub(super) fn is_numbers(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

fn made_name(place: usize, within: &str) -> String {
    format!("the plan's tensor {} of place {place}", shown(within))
}
