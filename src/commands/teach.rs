//! `prune teach`: asks a teacher about the sequences that a healing will see, so that it need not be there then.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::heal_rows::Texts;
use super::open;
use super::taught::identity;
use super::teach_settings::TeachSettings;
use crate::arch::ModelSpec;
use crate::checkpoint::{
    Checkpoint, Origin, Workplace, adopt, content_hash, differences, has_leftovers, made_by, read_json, write_file,
};
use crate::data::{Share, TextMixture, Tokenizer};
use crate::distill::{CACHE, CacheRecord, CacheWriter, CachedSequences, SAID, Teaching, group};
use crate::heal::{HealSettings, check_text};
use crate::model::{Model, ModelOptions, Placement, memory};
use crate::progress::Progress;
use crate::shown::from_here;
use crate::{Context, Error, Result};

/// What the command did, or would do.
#[derive(Clone, Debug, Serialize)]
pub struct TeachReport {
    /// The teacher.
    pub model: String,
    /// Sequences that a healing draws, repeated ones among them; fewer where the text has no more.
    pub drawn: u64,
    /// Whether the cache has all sequences of the text.
    pub whole: bool,
    /// Sequences that differ.
    pub sequences: usize,
    /// Their tokens that are learned.
    pub rows: u64,
    /// Likeliest tokens that are kept of each.
    pub k: usize,
    /// Bytes of the cache.
    pub disk: u64,
    /// Bytes in memory, as computed.
    pub memory: u64,
    /// What each of several texts gives.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Share>,
    /// Sequences that an earlier process had done.
    pub sequences_before: usize,
    /// The cache; absent in a dry run.
    pub out: Option<PathBuf>,
    /// Whether an earlier run had done all this.
    pub found: bool,
}

/// Runs `prune teach`. A run that was stopped goes on when the same settings are given again; of one that is finished
/// the result is told.
///
/// # Errors
/// Request: settings that do not go together, a cache of another teacher or text in the place, a model that does not
/// fit. Work: broken files, logits that are not finite, a full disk. Interrupted; what was said is kept.
pub fn teach(settings: &TeachSettings, progress: &dyn Progress) -> Result<TeachReport> {
    settings.check()?;
    let place = place(settings)?;
    let checkpoint = open::computed(settings.model.as_deref(), progress)?;
    let spec = ModelSpec::from_config(&checkpoint.config).context(|| checkpoint.source.id.clone())?;
    spec.check(&checkpoint.index)?;
    if settings.top_k > spec.vocab_size {
        let (asked, all) = (settings.top_k, spec.vocab_size);
        return Err(Error::request(format!("top_k is {asked}: the vocabulary has {all} tokens")));
    }
    let device = open::device(settings.device.as_deref(), settings.dtype.as_deref(), progress)?;
    let budget = open::budget_beside_tokenizer(settings.memory.as_deref(), &device, &checkpoint)?;
    let (mut healing, said) = settings.healing().settled(spec.max_positions);
    said.iter().for_each(|warning| progress.warn(warning));
    check_text(&healing, open::host(budget, &device))?;
    let options = ModelOptions { device, budget, ..ModelOptions::default() };
    let places: Vec<usize> = (0..spec.layers).collect();
    let placement = Placement::new(&checkpoint, &spec, &places, &options)?;
    let texts = Texts::open(&mut healing, &checkpoint, open::host(budget, &options.device), progress)?;
    let tokenizer = Tokenizer::open(&checkpoint.source.dir)?;
    let shuffle = (healing.shuffle_window, healing.seed);
    let mixture = || TextMixture::new(&texts.training, &tokenizer, shuffle, None, false);
    let drawn = (healing.steps as u64).saturating_mul(healing.batch as u64);
    let (sequences, whole) = CachedSequences::of(&mut mixture()?, &tokenizer, drawn, progress)?;
    // of some rows at a time, and what is made of them
    let logits = 8 * spec.vocab_size.saturating_mul(512).min(16 << 20) as u64;
    let mut report = TeachReport {
        model: checkpoint.source.id.clone(),
        drawn,
        whole,
        sequences: sequences.len(),
        rows: sequences.rows(),
        k: settings.top_k,
        disk: sequences.file(settings.top_k)?.size(),
        memory: memory::expected(&spec, placement.weight_bytes, healing.seq_len().max(512), logits),
        sources: texts.shares.clone(),
        sequences_before: 0,
        out: None,
        found: false,
    };
    let (Some(place), Some(out), false) = (place, settings.out.as_deref(), settings.dry_run) else {
        return Ok(report);
    };
    report.out = Some(out.to_owned());
    let deciding = deciding(settings, (&healing, &texts), &checkpoint, &options, progress)?;
    let record = CacheRecord {
        prune: env!("CARGO_PKG_VERSION").to_owned(),
        teacher: checkpoint.source.id.clone(),
        fingerprint: checkpoint.fingerprint(),
        vocab_size: spec.vocab_size,
        settings: deciding,
        k: settings.top_k,
        temperature: settings.temperature,
        drawn,
        whole,
        sequences: sequences.len(),
        rows: sequences.rows(),
        group: group(placement.residency),
        done: 0,
    };
    let record = taken_up(&place, record, settings, report.disk)?;
    report.sequences_before = record.done;
    report.found = record.done == record.sequences;
    if !report.found {
        let model = Model::open(checkpoint.clone(), &options, progress)?;
        let (k, temperature) = (settings.top_k, settings.temperature);
        let teaching = Teaching { model: &model, sequences: &sequences, k, temperature, group: record.group };
        let dir = place.target();
        let mut writer = CacheWriter::open(dir, &sequences, k, record.done)?;
        let mut kept = |done| write(&place, &CacheRecord { done, ..record.clone() });
        if record.done == 0 {
            kept(0)?;
        }
        teaching.run((&mut mixture()?, &tokenizer), &mut writer, record.done, &mut kept, progress)?;
    }
    Ok(report)
}

/// The place of the cache, before anything is read; a dry run may do without.
fn place(settings: &TeachSettings) -> Result<Option<Arc<Workplace>>> {
    let Some(out) = settings.out.as_deref() else {
        return match settings.dry_run {
            true => Ok(None),
            false => Err(Error::request("where to? name a directory with --out")),
        };
    };
    let place = Workplace::open(out, &Origin::of("teach", settings)?)?;
    place.refuse_taken(true)?;
    let target = place.target();
    if target.exists() && made_by(target).is_some_and(|command| command != "teach") && !settings.force {
        return Err(Error::request(format!("{} exists and is no cache; --force replaces it", from_here(target))));
    }
    Ok(Some(Arc::new(place)))
}

/// All that decides what is in a cache.
fn deciding(
    settings: &TeachSettings,
    (healing, texts): (&HealSettings, &Texts),
    checkpoint: &Checkpoint,
    options: &ModelOptions,
    progress: &dyn Progress,
) -> Result<Map<String, Value>> {
    let mut deciding = identity(healing, checkpoint, texts, progress)?;
    for (name, value) in [
        ("model_sha256", json!(content_hash(&checkpoint.content_files(), progress)?)),
        ("top_k", json!(settings.top_k)),
        ("temperature", json!(settings.temperature)),
        ("drawn", json!((healing.steps as u64).saturating_mul(healing.batch as u64))),
        ("dtype", json!(settings.dtype)),
        ("on_gpu", json!(options.device.is_cuda())),
    ] {
        deciding.insert(name.to_owned(), value);
    }
    Ok(deciding)
}

/// The record in the place, if it is of the same cache as `new`; else `new`, in a directory made for it.
fn taken_up(place: &Workplace, new: CacheRecord, settings: &TeachSettings, disk: u64) -> Result<CacheRecord> {
    let target = place.target();
    let record = target.join(CACHE);
    if record.exists() && !settings.force {
        let before: CacheRecord = read_json(&record)?;
        let list = differences(&before.settings, &new.settings);
        if !list.is_empty() {
            return Err(Error::request(format!(
                "{}: the cache there is of another teacher, text or size: {}; --force replaces it",
                from_here(target),
                list.join("; ")
            )));
        }
        if (CacheRecord { done: 0, group: new.group, ..before.clone() }) == new && before.is_sound() {
            adopt(target, &[])?;
            if has_leftovers(&record) {
                // a kill came between the record's appearance and the end of its writing
                write(place, &before)?;
            }
            return Ok(before);
        }
    }
    if target.exists() {
        place.discard(target)?;
    }
    place.require_space(disk)?;
    place.make_dir(target, &[CACHE, SAID])?;
    Ok(new)
}

fn write(place: &Workplace, record: &CacheRecord) -> Result<()> {
    let text = serde_json::to_vec_pretty(record).map_err(|error| Error::work(error.to_string()))?;
    write_file(&place.target().join(CACHE), true, &text)
}
