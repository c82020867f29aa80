//! The cut of a GGUF file: bytes of its tensors as they are, whatever they mean, under new layer numbers; the layer
//! count and every array of one value per layer; nothing else.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use serde_json::{Value as Json, json};

use super::config::ConfigEdit;
use super::cut::Shrunk;
use super::gguf_keys::{self, KeyEdit};
use super::json_text::Change;
use super::places::Places;
use crate::checkpoint::copy_range;
use crate::checkpoint::gguf::{Gguf, GgufFile, GgufTensor, MetaValue, layer};
use crate::plan::Plan;
use crate::progress::{Progress, Unit};
use crate::weights::Identical;
use crate::{Context, Error, Result, interrupt};

/// Bytes compared at a time, by each thread.
const CHUNK: u64 = 1 << 20;

/// A GGUF file to be written, decided in full.
#[derive(Debug)]
pub(super) struct GgufCut {
    source: Arc<Gguf>,
    pub(super) file: GgufFile,
    /// Of each tensor of the file, where its bytes are: the source's file and the first of them.
    from: Vec<(usize, u64)>,
    pub(super) edits: Vec<ConfigEdit>,
    pub(super) parameters: Shrunk,
    pub(super) bytes: Shrunk,
}

impl GgufCut {
    /// What `plan` makes of `source`; `allow_unsliced` are keys that stay although they look as if they had one value
    /// per layer.
    ///
    /// # Errors
    /// Request: a plan of more than whole layers, two stacks of layers, layers whose places mean something to
    /// llama.cpp. Work: tensors that disagree with the layer count.
    pub(super) fn new(source: &Arc<Gguf>, plan: &Plan, allow_unsliced: &[String]) -> Result<Self> {
        let path = &source.parts[0].path;
        Self::decide(source, plan, allow_unsliced).context(|| path.display())
    }

    fn decide(source: &Arc<Gguf>, plan: &Plan, allow_unsliced: &[String]) -> Result<Self> {
        if plan.stack.iter().any(|place| !place.without.is_empty() || !place.made.is_empty()) {
            return Err(Error::request(
                "a GGUF file holds whole layers as they are; write --to safetensors, which can hold the rest",
            ));
        }
        let layers = source.layers()?;
        has_one_stack(source, layers)?;
        let kept = plan.kept();
        let places = Places::new(&kept, layers);
        gguf_keys::check(source, &kept)?;
        let (mut pairs, mut edits) = (Vec::new(), Vec::new());
        for pair in &source.header().pairs {
            let raw = source.header().raw(pair);
            match gguf_keys::edit(source, pair, &places, allow_unsliced)? {
                KeyEdit::Keep => pairs.push((pair.key.clone(), MetaValue::raw(pair, raw))),
                KeyEdit::Drop => {}
                KeyEdit::Set(value, before, after) => {
                    pairs.push((pair.key.clone(), value));
                    edits.push(edited(&pair.key, before, after));
                }
            }
        }
        let (mut tensors, mut from) = (Vec::new(), Vec::new());
        let (mut parameters, mut bytes) = (Shrunk { before: 0, after: 0 }, Shrunk { before: 0, after: 0 });
        for (part, tensor) in source.tensors() {
            let elements: u64 = tensor.shape.iter().map(|size| *size as u64).product();
            let names: Vec<String> = match layer(&tensor.name) {
                None => vec![tensor.name.clone()],
                Some((layer, rest)) => places.of(layer).iter().map(|place| format!("blk.{place}.{rest}")).collect(),
            };
            parameters.before += elements;
            bytes.before += tensor.len;
            parameters.after += names.len() as u64 * elements;
            bytes.after += names.len() as u64 * tensor.len;
            for name in names {
                tensors.push(GgufTensor { name, shape: tensor.shape.clone(), kind: tensor.kind });
                from.push((part, tensor.begin));
            }
        }
        let file = GgufFile::new(&source.name(), &pairs, tensors, Some(source.header().alignment))?;
        Ok(Self { source: source.clone(), file, from, edits, parameters, bytes })
    }

    /// Writes the file into `dir`.
    ///
    /// # Errors
    /// Work: the disk is full, the source cannot be read or changed. Interrupted.
    pub(super) fn write(&self, dir: &Path, progress: &dyn Progress) -> Result<()> {
        let mut from = self.from.iter();
        self.file.write(dir, progress, |tensor, file| {
            let (part, begin) = from.next().copied().unwrap_or_default();
            let source = &self.source.parts[part];
            source.check_unchanged()?;
            copy_range(&source.file, begin..begin + tensor.len().unwrap_or(0), file).context(|| source.path.display())
        })
    }

    /// Compares the file in `dir` with what was decided, byte for byte.
    ///
    /// # Errors
    /// Work: the first difference, or a file that cannot be read. Interrupted.
    pub(super) fn verify(&self, dir: &Path, progress: &dyn Progress) -> Result<Identical> {
        let path = dir.join(&self.file.name);
        let at = |error: std::io::Error| Error::io(&path, &error);
        let differs = |what: String| Error::work(format!("{}: verification failed: {what}", path.display()));
        let mut written = File::open(&path).map_err(at)?;
        if written.metadata().map_err(at)?.len() != self.file.size() {
            return Err(differs(format!("not the {} bytes that were decided", self.file.size())));
        }
        let mut header = vec![0; self.file.header().len()];
        written.read_exact(&mut header).map_err(at)?;
        if header != self.file.header() {
            return Err(differs("the metadata are not those that were decided".into()));
        }
        progress.begin("verifying", self.file.data(), Unit::Bytes);
        let interrupt = interrupt::current();
        let places = self.file.tensors.iter().zip(self.file.places()).zip(&self.from);
        let places: Vec<_> = places.collect();
        places.par_iter().try_for_each_init(
            <[Vec<u8>; 2]>::default,
            |[left, right], ((tensor, ours), (part, theirs))| {
                let len = tensor.len().unwrap_or(0);
                for offset in (0..len).step_by(CHUNK as usize) {
                    interrupt.check()?;
                    let count = CHUNK.min(len - offset) as usize;
                    left.resize(count, 0);
                    right.resize(count, 0);
                    crate::checkpoint::read_at(&written, left, ours + offset).map_err(at)?;
                    let source = &self.source.parts[*part];
                    crate::checkpoint::read_at(&source.file, right, theirs + offset)
                        .map_err(|error| Error::io(&source.path, &error))?;
                    if left != right {
                        return Err(differs(format!("tensor {} differs from the source's", tensor.name)));
                    }
                    progress.advance(count as u64);
                }
                Ok(())
            },
        )?;
        progress.end();
        Ok(Identical { tensors: self.file.tensors.len(), bytes: self.file.data() })
    }
}

fn edited(key: &str, before: Json, after: Json) -> ConfigEdit {
    ConfigEdit::new(vec![key.to_owned()], Change::Remove, before, after)
}

/// Refuses an encoder and a decoder, images' own stacks, and layers that are not 0 to L-1.
fn has_one_stack(source: &Gguf, layers: usize) -> Result<()> {
    let mut found = std::collections::BTreeSet::new();
    for (_, tensor) in source.tensors() {
        let name = &tensor.name;
        match layer(name) {
            Some((layer, _)) => drop(found.insert(layer)),
            None if name.contains("blk.") => {
                return Err(Error::request(format!(
                    "tensor {name} belongs to a second stack of layers; a plan speaks of one"
                )));
            }
            None if name.starts_with("per_layer_") => {
                return Err(Error::request(format!(
                    "tensor {name} has parts of all layers in it, which a cut does not part"
                )));
            }
            None => {}
        }
    }
    let key = json!(layers);
    match found.iter().copied().eq(0..layers) {
        true => Ok(()),
        false => Err(Error::work(format!(
            "{}.block_count is {key}, the tensors blk.N make {} layers; one of them is wrong",
            source.arch,
            found.len()
        ))),
    }
}
