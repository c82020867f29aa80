//! A GGUF file opened as a checkpoint: names and config of transformers, tensors as the numbers they stand for.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::Dtype;
use serde_json::{Map, Value as Json, json};

use super::config::{Found, Said, config};
use super::families::{FAMILIES, Family, ROTATIONS, layer};
use super::header::{Header, TensorInfo};
use super::indexed::index;
use super::kinds::Decode;
use super::unpacked::unpack;
use super::value::Value;
use crate::checkpoint::{Checkpoint, Source};
use crate::{Context, Error, Result, files};

/// Files of one model at most.
const MOST_PARTS: u64 = 1000;
/// Divisors of rotations at most.
const MOST_DIVISORS: usize = 1 << 12;

/// What a GGUF checkpoint is besides names and numbers.
#[derive(Debug)]
pub(crate) struct Gguf {
    /// The files, the one with the metadata first.
    pub(crate) parts: Vec<Part>,
    /// `general.architecture`.
    pub(crate) arch: String,
    /// Why its tokenizer is not read; `None` where it is.
    pub(crate) no_tokenizer: Option<String>,
}

/// One file.
#[derive(Debug)]
pub(crate) struct Part {
    /// Where it is, an absolute path.
    pub(crate) path: PathBuf,
    /// What it says.
    pub(crate) header: Header,
    /// The file.
    pub(crate) file: fs::File,
    /// What it was when its header was read.
    metadata: fs::Metadata,
}

impl Part {
    /// Refuses a file that changed since it was opened.
    ///
    /// # Errors
    /// Work: as said.
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        let now = self.file.metadata().map_err(|error| Error::io(&self.path, &error))?;
        match now.len() == self.metadata.len() && now.modified().ok() == self.metadata.modified().ok() {
            true => Ok(()),
            false => Err(Error::work(format!("{}: the file changed since it was opened", self.path.display()))),
        }
    }
}

impl Gguf {
    /// The metadata of the model.
    pub(crate) fn header(&self) -> &Header {
        &self.parts[0].header
    }

    /// Every tensor, and the number of its file, in the order of the files.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = (usize, &TensorInfo)> {
        let parts = self.parts.iter().enumerate();
        parts.flat_map(|(part, Part { header, .. })| header.tensors.iter().map(move |tensor| (part, tensor)))
    }

    /// What a file made from it is called: its name without the number of a part.
    pub(crate) fn name(&self) -> String {
        let path = &self.parts[0].path;
        let stem = || path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        format!("{}.gguf", split(path).map_or_else(stem, |(name, ..)| name))
    }

    /// Layers that the file speaks of.
    ///
    /// # Errors
    /// Work: it does not say.
    pub(crate) fn layers(&self) -> Result<usize> {
        let said = Said { header: self.header(), arch: &self.arch };
        Ok(said.size("block_count")? as usize)
    }
}

/// Whether `path` is called as GGUF files are, or begins as they do.
pub(in crate::checkpoint) fn is_gguf(path: &Path) -> bool {
    let is_named = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"));
    path.is_file() && is_named
}

/// The one GGUF model in `dir`, by the first of its files; `None` where there is none.
///
/// # Errors
/// Request: several.
pub(in crate::checkpoint) fn in_dir(dir: &Path) -> Result<Option<PathBuf>> {
    let files = fs::read_dir(dir).into_iter().flatten().flatten().map(|file| file.path());
    let is_first = |path: &PathBuf| split(path).is_none_or(|(_, number, _)| number == 1);
    let mut found: Vec<PathBuf> = files.filter(|path| is_gguf(path)).filter(is_first).collect();
    found.sort();
    match &found[..] {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        [one, .., other] => Err(Error::request(format!(
            "{}: holds {} GGUF models, {} to {}; name one of them",
            dir.display(),
            found.len(),
            one.file_name().unwrap_or_default().display(),
            other.file_name().unwrap_or_default().display()
        ))),
    }
}

/// Beginning, number and count of `NAME-00001-of-00003.gguf`.
pub(in crate::checkpoint) fn split(path: &Path) -> Option<(String, u64, u64)> {
    let stem = path.file_stem()?.to_str()?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (name, number) = rest.rsplit_once('-')?;
    let number_of = |text: &str| (text.len() == 5).then(|| text.parse::<u64>().ok()).flatten();
    Some((name.to_owned(), number_of(number)?, number_of(count)?))
}

/// Opens the model at `source.dir`, a file.
///
/// # Errors
/// Request: a file of several that is not the first, one that is missing. Work: what is no GGUF file, or a broken one.
pub(in crate::checkpoint) fn open(source: Source) -> Result<Checkpoint> {
    let path = source.dir.clone();
    let parts = parts(&path)?;
    let place = || path.display();
    let header = &parts[0].header;
    let arch = header.get("general.architecture").and_then(Value::text).map(str::to_owned);
    let arch = arch.ok_or_else(|| Error::work("general.architecture is missing")).context(place)?;
    let mut gguf = Gguf { parts, arch, no_tokenizer: None };
    let family = family(&gguf);
    let config = match family {
        Some(family) => of_family(&gguf, family),
        None => gguf.layers().map(|layers| {
            let name = format!("{} of GGUF", gguf.arch);
            Map::from_iter([("model_type".to_owned(), json!(name)), ("num_hidden_layers".to_owned(), json!(layers))])
        }),
    };
    let config = config.context(place)?;
    let index = index(&gguf, family).context(place)?;
    let unpacked = unpack(&path, gguf.header(), &config)?;
    gguf.no_tokenizer = unpacked.no_tokenizer;
    let source = Source { dir: unpacked.dir, unpacked: Some(Arc::new(unpacked.root)), ..source };
    Ok(Checkpoint { source, config, leftover: None, index, gguf: Some(Arc::new(gguf)), quantized: None })
}

/// The file at `path`, or all of which it is the first.
fn parts(path: &Path) -> Result<Vec<Part>> {
    let first = part(path)?;
    let count = match first.header.get("split.count") {
        None => 1,
        Some(count) => count.unsigned().unwrap_or(0),
    };
    if count <= 1 {
        return Ok(vec![first]);
    }
    let fault = |what: String| Err(Error::request(format!("{}: {what}", path.display())));
    if count > MOST_PARTS {
        return fault(format!("one of {count} files, expected at most {MOST_PARTS}"));
    }
    let Some((name, number, _)) = split(path).filter(|(.., of)| *of == count) else {
        return fault(format!("the first of {count} files is called NAME-00001-of-{count:05}.gguf"));
    };
    let called = |number: u64| path.with_file_name(format!("{name}-{number:05}-of-{count:05}.gguf"));
    if number != 1 {
        return fault(format!("file {number} of {count}; name the first, {}", called(1).display()));
    }
    let mut parts = vec![first];
    for number in 2..=count {
        let next = called(number);
        if !next.is_file() {
            return fault(format!("of {count} files, {} is missing", next.display()));
        }
        let next = part(&next)?;
        let found = next.header.get("split.no").and_then(Value::unsigned);
        if found != Some(number - 1) {
            return Err(Error::work(format!(
                "{}: split.no is {}, expected {}",
                next.path.display(),
                found.map_or("missing".to_owned(), |number| number.to_string()),
                number - 1
            )));
        }
        parts.push(next);
    }
    let mut names = std::collections::HashSet::new();
    for Part { path, header, .. } in &parts {
        if let Some(twice) = header.tensors.iter().find(|tensor| !names.insert(tensor.name.as_str())) {
            return Err(Error::work(format!("{}: tensor {} is in another file too", path.display(), twice.name)));
        }
    }
    Ok(parts)
}

fn part(path: &Path) -> Result<Part> {
    let path = std::path::absolute(path).map_err(|error| Error::io(path, &error))?;
    let (file, metadata) = files::open(&path)?;
    let header = Header::read(&file, metadata.len());
    let header = header.map_err(|fault| Error::work(format!("{}: {fault}", path.display())))?;
    Ok(Part { path, header, file, metadata })
}

/// The family of `gguf`, where all its tensors have names there.
fn family(gguf: &Gguf) -> Option<&'static Family> {
    let said = Said { header: gguf.header(), arch: &gguf.arch };
    let has_experts = said.get("expert_count").and_then(Value::unsigned).is_some_and(|experts| experts > 0);
    let is_it = |family: &&Family| family.arch == gguf.arch && family.has_experts() == has_experts;
    let family = FAMILIES.iter().find(is_it)?;
    let varies = ["attention.head_count", "attention.head_count_kv", "feed_forward_length"]
        .iter()
        .any(|key| said.get(key).is_some() && said.size(key).is_err());
    let is_known = |name: &str| {
        let is_plain = layer(name).is_none() || family.theirs(name).is_some();
        is_plain || family.of_experts(name, 0).is_some() || family.half(name).is_some()
    };
    // the halves of a tensor that transformers has are in one file, in types that are read alike
    let in_halves = gguf.tensors().filter(|(_, tensor)| matches!(family.half(&tensor.name), Some((_, 0))));
    let joins = in_halves.map(|(part, tensor)| {
        let other = family.half(&tensor.name).and_then(|(name, _)| family.halves(&name)).map(|[_, up]| up)?;
        let (other_part, other) = gguf.tensors().find(|(_, tensor)| tensor.name == other)?;
        let alike = tensor.kind.dtype() == other.kind.dtype() && tensor.shape == other.shape;
        Some(part == other_part && alike && tensor.kind.dtype().is_some() && tensor.shape.len() == 3)
    });
    if joins.into_iter().any(|joins| joins != Some(true)) {
        return None;
    }
    let is_whole = gguf.tensors().all(|(_, tensor)| is_known(&tensor.name) || is_beside(&tensor.name));
    (!varies && is_whole).then_some(family)
}

/// Whether a tensor is read by the config, or by nothing: some files have one in each layer.
pub(super) fn is_beside(name: &str) -> bool {
    let name = layer(name).map_or(name, |(_, rest)| rest);
    ROTATIONS.contains(&name)
}

fn of_family(gguf: &Gguf, family: &'static Family) -> Result<Map<String, Json>> {
    let find = |name: &str| gguf.tensors().find(|(_, tensor)| tensor.name == name);
    let embedding = find("token_embd.weight").ok_or_else(|| Error::work("tensor token_embd.weight is missing"))?;
    let divisors = |name: &str| find(name).map(|(part, tensor)| divisors(&gguf.parts[part], tensor)).transpose();
    let rows = |name: &str, at: usize| find(name).and_then(|(_, tensor)| tensor.shape.get(at).copied());
    let long = divisors("rope_factors_short.weight")?.zip(divisors("rope_factors_long.weight")?);
    let found = Found {
        vocabulary: embedding.1.shape.first().copied().unwrap_or(0),
        is_tied: find("output.weight").is_none(),
        biases: ["blk.0.attn_q.bias", "blk.0.attn_output.bias"].map(|name| find(name).is_some()),
        dtype: dtype(gguf),
        divisors: divisors("rope_freqs.weight")?,
        long,
        expert: rows("blk.0.ffn_gate_exps.weight", 1),
        shared: rows("blk.0.ffn_gate_shexp.weight", 0),
    };
    let mut config = config(&Said { header: gguf.header(), arch: &gguf.arch }, family, found)?;
    let is_read = |tensor: &TensorInfo| tensor.kind.dtype().is_some() || is_beside(&tensor.name);
    if let Some((_, tensor)) = gguf.tensors().find(|(_, tensor)| !is_read(tensor)) {
        let how = format!("{} of GGUF", tensor.kind.name);
        config.insert("quantization_config".to_owned(), json!({"quant_method": how}));
    }
    Ok(config)
}

/// The type that most matrices have, where all have one of half precision; f32 otherwise.
fn dtype(gguf: &Gguf) -> &'static str {
    let mut matrices =
        gguf.tensors().filter(|(_, tensor)| tensor.shape.len() > 1).map(|(_, tensor)| tensor.kind.decode);
    let first = matrices.next();
    let half = |decode: &Decode| match decode {
        Decode::Plain(Dtype::F16) => Some("float16"),
        Decode::Plain(Dtype::BF16) => Some("bfloat16"),
        _ => None,
    };
    let name = first.as_ref().and_then(half);
    match matrices.all(|decode| half(&decode) == name) {
        true => name.unwrap_or("float32"),
        false => "float32",
    }
}

/// The numbers of a small vector in f32.
fn divisors(part: &Part, tensor: &TensorInfo) -> Result<Vec<f32>> {
    let count: usize = tensor.shape.iter().product();
    if !matches!(tensor.kind.decode, Decode::Plain(Dtype::F32)) || count > MOST_DIVISORS {
        let (name, kind) = (&tensor.name, tensor.kind.name);
        return Err(Error::work(format!(
            "tensor {name} is {count} numbers in {kind}, expected at most {MOST_DIVISORS} in F32"
        )));
    }
    let mut numbers = vec![0_f32; count];
    let bytes = bytemuck::cast_slice_mut(&mut numbers);
    let read = crate::checkpoint::positioned::read_exact_at(&part.file, bytes, tensor.begin);
    read.map_err(|error| Error::io(&part.path, &error))?;
    Ok(numbers)
}
