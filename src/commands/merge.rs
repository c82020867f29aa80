//! `prune merge`: puts an adapter into the weights of its model.

use std::path::PathBuf;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use super::made::Described;
use super::open;
use crate::arch::ModelSpec;
use crate::card::Kind;
use crate::checkpoint::{ByteSize, Origin, OutputDir};
use crate::heal::{Merge, MergeOnto};
use crate::progress::Progress;
use crate::weights::Size;
use crate::weights::lora::Adapters;
use crate::{Context, Error, Result};

/// Settings of `prune merge`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MergeSettings {
    /// The model the adapter was trained on: directory or hub id.
    pub model: Option<String>,
    /// The adapter, in PEFT's files.
    pub adapter: Option<PathBuf>,
    /// Directory of the merged model.
    pub out: Option<PathBuf>,
    /// Writes the merged linear layers in four bits.
    pub save_4bit: bool,
    /// The weights that the adapter is merged onto: the model's, or what four bits leave of them.
    pub merge_onto: MergeOnto,
    /// With `save_4bit` and `merge_onto = "quantized"`: keeps the scales in f32 instead of quantising them as well.
    pub plain_scales: bool,
    /// Tensors of one weight file take no more than this, unless one alone does.
    pub max_shard_size: String,
    /// Replaces an output that exists.
    pub force: bool,
    /// Says what would be written and what it takes, and stops.
    pub dry_run: bool,
}

impl Default for MergeSettings {
    fn default() -> Self {
        Self {
            model: None,
            adapter: None,
            out: None,
            save_4bit: false,
            merge_onto: MergeOnto::Full,
            plain_scales: false,
            max_shard_size: "5GB".to_owned(),
            force: false,
            dry_run: false,
        }
    }
}

/// What the command did, or would do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MergeReport {
    /// The model.
    pub model: String,
    /// Weights changed.
    pub merged: usize,
    /// Numbers in the adapter.
    pub adapter_parameters: usize,
    /// Disk and memory.
    pub size: Size,
    /// The merged model; absent in a dry run.
    pub out: Option<PathBuf>,
}

/// Runs `prune merge`.
///
/// # Errors
/// Request: settings that do not go together, an adapter for another model, an output that exists. Work: broken files,
/// a full disk. Nothing is left behind.
pub fn merge(settings: &MergeSettings, progress: &dyn Progress) -> Result<MergeReport> {
    if settings.plain_scales && !settings.save_4bit && settings.merge_onto == MergeOnto::Full {
        return Err(Error::request("plain_scales goes with save_4bit or merge_onto = \"quantized\""));
    }
    let checkpoint = open::checkpoint(settings.model.as_deref(), progress)?;
    let spec = ModelSpec::from_config(&checkpoint.config).context(|| checkpoint.source.id.clone())?;
    spec.check(&checkpoint.index)?;
    let dir = settings.adapter.as_deref().ok_or_else(|| Error::request("which adapter? name its directory"))?;
    let adapters = Adapters::open_for(dir, &checkpoint, &spec, &Device::Cpu).context(|| "--adapter")?;
    let max_shard: ByteSize = settings.max_shard_size.parse().context(|| "--max-shard-size")?;
    let double = !settings.plain_scales;
    let merge = Merge {
        adapters: Some(&adapters),
        four_bit: settings.save_4bit.then_some(double),
        onto: (settings.merge_onto == MergeOnto::Quantized).then_some(double),
        ..Merge::default()
    };
    let merged = merge.blueprint(&checkpoint, &spec, max_shard, progress)?;
    let mut report = MergeReport {
        model: checkpoint.source.id.clone(),
        merged: adapters.changed(),
        adapter_parameters: adapters.parameters(),
        size: merged.size()?,
        out: None,
    };
    let Some(target) = settings.out.as_deref() else {
        return match settings.dry_run {
            true => Ok(report),
            false => Err(Error::request("where to? name a directory with --out")),
        };
    };
    let out = OutputDir::create(target, settings.force, &Origin::of("merge", settings)?)?;
    if settings.dry_run {
        return Ok(report);
    }
    out.require_space(report.size.disk)?;
    merged.write(out.path(), progress)?;
    let how = (settings.merge_onto, settings.save_4bit);
    let kind = if settings.save_4bit { Kind::FourBit } else { Kind::Model };
    Described::merged(&checkpoint, spec.layers, dir, how, progress)?.write(out.path(), kind)?;
    out.commit()?;
    report.out = Some(target.to_owned());
    Ok(report)
}
