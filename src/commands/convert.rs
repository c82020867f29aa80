//! `prune convert`: a GGUF file to a directory of safetensors, and back.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::made::Described;
use super::open;
use crate::arch::ModelSpec;
use crate::card::{Kind, called};
use crate::checkpoint::{ByteSize, Checkpoint, Origin, OutputDir, four_bit_owner, to_python_json};
use crate::export::{Export, StoredAs};
use crate::progress::Progress;
use crate::shown::shown;
use crate::weights::{Blueprint, Draft, Expr};
use crate::{Context, Error, Result};

/// Settings of `prune convert`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConvertSettings {
    /// Directory, GGUF file or hub id.
    pub model: Option<String>,
    /// Directory of the new checkpoint.
    pub out: Option<PathBuf>,
    /// What it becomes, `safetensors` or `gguf`; `None` is the one that it is not.
    pub to: Option<String>,
    /// Type of its numbers; `None` is that of the model, f32 where that is quantised.
    pub r#type: Option<String>,
    /// Tensors of one weight file take no more than this, unless one alone does; a GGUF file is one.
    pub max_shard_size: String,
    /// Replaces an output that exists.
    pub force: bool,
    /// Says what would be written and what it takes, and stops.
    pub dry_run: bool,
}

impl Default for ConvertSettings {
    fn default() -> Self {
        Self {
            model: None,
            out: None,
            to: None,
            r#type: None,
            max_shard_size: "5GB".to_owned(),
            force: false,
            dry_run: false,
        }
    }
}

/// What the command did, or would do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConvertReport {
    /// The model.
    pub model: String,
    /// What it became.
    pub to: &'static str,
    /// Type of its matrices.
    #[serde(rename = "type")]
    pub stored: &'static str,
    /// Tensors written.
    pub tensors: usize,
    /// Matrices whose rows are no whole blocks of that type, and are in a wider one.
    pub odd: usize,
    /// Bytes that the output takes on disk; side files are not counted.
    pub disk: u64,
    /// The new checkpoint; absent in a dry run.
    pub out: Option<PathBuf>,
}

/// What is written.
enum Made {
    Safetensors(Box<Blueprint>),
    Gguf(Box<Export>),
}

/// Runs `prune convert`.
///
/// # Errors
/// Request: a model that is not computed, or that llama.cpp has no names for, a type that is not written, an output
/// that exists. Work: broken files, a number too large for the type, a full disk. Nothing is left behind.
pub fn convert(settings: &ConvertSettings, progress: &dyn Progress) -> Result<ConvertReport> {
    let max_shard: ByteSize = settings.max_shard_size.parse().context(|| "--max-shard-size")?;
    let checkpoint = open::computed(settings.model.as_deref(), progress)?;
    let to = match (settings.to.as_deref(), checkpoint.gguf.is_some()) {
        (Some("safetensors"), _) | (None, true) => "safetensors",
        (None, _) if checkpoint.quantized.is_some() => "safetensors",
        (Some("gguf"), _) | (None, false) => "gguf",
        (Some(other), _) => {
            return Err(Error::request(format!("to is {other:?}, expected \"safetensors\" or \"gguf\"")));
        }
    };
    let place = || checkpoint.source.id.clone();
    let spec = ModelSpec::from_config(&checkpoint.config).context(place)?;
    spec.check(&checkpoint.index).context(place)?;
    let stored = match &settings.r#type {
        Some(name) => StoredAs::named(name).context(|| "--type")?,
        None => StoredAs::of(&checkpoint)?,
    };
    let (made, tensors, odd, disk) = match to {
        "gguf" => {
            let export = Export::new(&checkpoint, &spec, stored, &called(&open::identity(&checkpoint, spec.layers)))
                .context(place)?;
            let (tensors, odd, disk) = (export.tensors(), export.odd(), export.size());
            (Made::Gguf(Box::new(export)), tensors, odd, disk)
        }
        _ => {
            let blueprint = safetensors(&checkpoint, stored, max_shard)?;
            let (tensors, disk) =
                (blueprint.shards().shards.iter().map(|shard| shard.slots.len()).sum(), blueprint.size()?.disk);
            (Made::Safetensors(Box::new(blueprint)), tensors, 0, disk)
        }
    };
    let model = checkpoint.source.id.clone();
    let mut report = ConvertReport { model, to, stored: stored.name, tensors, odd, disk, out: None };
    let Some(target) = settings.out.as_deref() else {
        return match settings.dry_run {
            true => Ok(report),
            false => Err(Error::request("where to? name a directory with --out")),
        };
    };
    let out = OutputDir::create(target, settings.force, &Origin::of("convert", settings)?)?;
    if settings.dry_run {
        return Ok(report);
    }
    out.require_space(disk)?;
    write(&made, out.path(), progress)?;
    Described::converted(&checkpoint, spec.layers, (to, stored.name), progress)?.write(out.path(), Kind::Model)?;
    out.commit()?;
    report.out = Some(target.to_owned());
    Ok(report)
}

fn write(made: &Made, dir: &Path, progress: &dyn Progress) -> Result<()> {
    match made {
        Made::Safetensors(blueprint) => blueprint.write(dir, progress),
        Made::Gguf(export) => export.write(dir, progress),
    }
}

/// All tensors of `checkpoint`, each in the type `stored`.
fn safetensors(checkpoint: &Arc<Checkpoint>, stored: &StoredAs, max_shard: ByteSize) -> Result<Blueprint> {
    let (dtype, name) = match stored.name {
        "F32" => (Dtype::F32, "float32"),
        "F16" => (Dtype::F16, "float16"),
        "BF16" => (Dtype::BF16, "bfloat16"),
        other => {
            return Err(Error::request(format!("--type {other}: safetensors are written as F32, F16 or BF16")));
        }
    };
    let mut config: Map<String, Value> = checkpoint.config.clone();
    config.shift_remove("quantization_config");
    config.shift_remove("torch_dtype");
    config.insert("dtype".to_owned(), json!(name));
    let mut draft = Draft::new(checkpoint);
    for tensor in checkpoint.index.tensors.keys().filter(|name| four_bit_owner(name).is_none()) {
        draft.add(tensor, dtype, Expr::Source(tensor.clone()))?;
    }
    let config = to_python_json(&config).map_err(|error| Error::work(format!("config.json: {error}")))?;
    draft.finish(config + "\n", max_shard)
}

impl fmt::Display for ConvertReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, to, stored, tensors, odd, disk, out } = self;
        writeln!(f, "model        {}", shown(model))?;
        writeln!(f, "becomes      {to}, {tensors} tensors in {stored}, {}", ByteSize(*disk))?;
        if *odd > 0 {
            writeln!(f, "             {odd} of them in a wider type: their rows are no whole blocks of {stored}")?;
        }
        match out {
            Some(out) => write!(f, "written      {}", out.display()),
            None => write!(f, "nothing was written (dry run)"),
        }
    }
}
