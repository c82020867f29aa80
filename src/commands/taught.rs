//! Whom a healing learns from: a model, or what one said beforehand; and whether that was said of this healing's text.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::heal_measure::Uncut;
use super::heal_rows::Texts;
use super::open;
use crate::arch::ModelSpec;
use crate::checkpoint::{Checkpoint, content_hash, differences};
use crate::distill::TeacherCache;
use crate::heal::{HealSettings, StreamPair, TeacherSize, lowest_trained};
use crate::progress::Progress;
use crate::provenance::Provenance;
use crate::shown::from_here;
use crate::{Context, Error, Result};

/// Whom a healing learns from.
pub(super) enum Taught {
    /// A model.
    Model(Arc<Checkpoint>),
    /// What one said.
    Cache(Box<TeacherCache>),
}

/// The settings that say which sequences of a text a healing draws.
const DRAWN: [&str; 3] = ["seed", "shuffle_window", "weights"];

impl Taught {
    /// Opens `--teacher`, a model or a cache.
    ///
    /// # Errors
    /// Request: no model there, a cache that is unfinished. Work: broken files.
    pub(super) fn open(settings: &HealSettings, progress: &dyn Progress) -> Result<Option<Self>> {
        let Some(teacher) = settings.teacher.as_deref() else { return Ok(None) };
        let opened = match TeacherCache::is_at(Path::new(teacher)) {
            true => TeacherCache::open(Path::new(teacher)).map(|cache| Self::Cache(Box::new(cache))),
            false => open::computed(Some(teacher), progress).map(Self::Model),
        };
        opened.context(|| "--teacher").map(Some)
    }

    /// The model, where it is one.
    pub(super) fn model(&self) -> Option<&Arc<Checkpoint>> {
        match self {
            Self::Model(model) => Some(model),
            Self::Cache(_) => None,
        }
    }

    /// What says what it is.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::Model(model) => model.content_files(),
            Self::Cache(cache) => cache.files(),
        }
    }

    /// What it takes of memory.
    pub(super) fn size(&self) -> TeacherSize {
        match self {
            Self::Model(model) => TeacherSize::model(model.tensors.values().map(|entry| entry.len).sum()),
            Self::Cache(cache) => TeacherSize { remembered: Some(cache.record.k), ..TeacherSize::default() },
        }
    }

    /// The same before anything is opened, of a model as large as the uncut one, `bytes`, unless there is a cache.
    pub(super) fn expected(settings: &HealSettings, bytes: u64) -> TeacherSize {
        let Some(teacher) = settings.teacher.as_deref().map(Path::new) else { return TeacherSize::default() };
        match TeacherCache::is_at(teacher).then(|| TeacherCache::open(teacher)) {
            Some(Ok(cache)) => TeacherSize { remembered: Some(cache.record.k), ..TeacherSize::default() },
            _ => TeacherSize::model(bytes),
        }
    }

    /// Refuses a teacher that a healing of the model `spec` cannot learn from as it is asked to.
    ///
    /// # Errors
    /// Request: another vocabulary, another width where hidden states are held against the teacher's, a cache where the
    /// model itself is needed.
    pub(super) fn check_model(&self, settings: &HealSettings, spec: &ModelSpec) -> Result<()> {
        let place = settings.teacher.as_deref().unwrap_or_default();
        let refused = |why: String| Err(Error::request(format!("--teacher: {}: {why}", from_here(Path::new(place)))));
        let Self::Model(model) = self else {
            let asked = [
                (settings.hidden_states.is_some(), "--hidden-states: a cache has no streams"),
                (settings.on_policy > 0.0, "--on-policy: a cache knows nothing of what the model will write"),
            ];
            return match asked.into_iter().find(|(asked, _)| *asked) {
                Some((_, why)) => refused(format!("{why}; name the model itself")),
                None => Ok(()),
            };
        };
        let theirs = ModelSpec::from_config(&model.config).context(|| model.source.id.clone())?;
        if theirs.vocab_size != spec.vocab_size {
            let (theirs, ours) = (theirs.vocab_size, spec.vocab_size);
            return refused(format!("its vocabulary has {theirs} tokens, the model's {ours}"));
        }
        if settings.hidden_states.is_some() && theirs.hidden_size != spec.hidden_size {
            let (theirs, ours) = (theirs.hidden_size, spec.hidden_size);
            return refused(format!("--hidden-states: its streams are {theirs} wide, the model's {ours}"));
        }
        Ok(())
    }

    /// The depths of a healing that are held against the teacher's.
    ///
    /// # Errors
    /// As [`HealSettings::stream_pairs`].
    pub(super) fn pairs(
        &self,
        settings: &HealSettings,
        spec: &ModelSpec,
        history: Option<&Provenance>,
    ) -> Result<Vec<StreamPair>> {
        let Self::Model(model) = self else { return Ok(Vec::new()) };
        let theirs = ModelSpec::from_config(&model.config).context(|| model.source.id.clone())?;
        settings.stream_pairs(history, (spec.layers, lowest_trained(spec, settings)?), theirs.layers)
    }

    /// Refuses a cache that this healing of `spec` on `texts` cannot learn from.
    ///
    /// # Errors
    /// Request: says what differs: the vocabulary, the tokenizer, the text, its sequences, the temperature.
    pub(super) fn check(
        &self,
        settings: &HealSettings,
        (checkpoint, spec): (&Checkpoint, &ModelSpec),
        texts: &Texts,
        progress: &dyn Progress,
    ) -> Result<()> {
        let Self::Cache(cache) = self else { return Ok(()) };
        let (record, place) = (&cache.record, settings.teacher.as_deref().unwrap_or_default());
        let refused = |why: String| Err(Error::request(format!("--teacher: {}: {why}", from_here(Path::new(place)))));
        if record.vocab_size != spec.vocab_size {
            let (theirs, ours) = (record.vocab_size, spec.vocab_size);
            return refused(format!("its teacher's vocabulary has {theirs} tokens, the model's {ours}"));
        }
        if record.temperature.to_bits() != settings.temperature.to_bits() {
            let (theirs, ours) = (record.temperature, settings.temperature);
            return refused(format!("it was made with --temperature {theirs}, this healing has {ours}"));
        }
        let ours = identity(settings, checkpoint, texts, progress)?;
        let (mut then, mut now) = (record.settings.clone(), ours.clone());
        then.retain(|name, _| ours.contains_key(name));
        // whatever the order, all sequences there are have been seen
        if record.whole {
            DRAWN.iter().for_each(|name| drop((then.remove(*name), now.remove(*name))));
        }
        let list = differences(&then, &now);
        if !list.is_empty() {
            return refused(format!("it was made for other text or sequences: {}", list.join("; ")));
        }
        let needed = (settings.steps as u64).saturating_mul(settings.batch as u64);
        if !record.whole && needed > record.drawn {
            let drawn = record.drawn;
            return refused(format!(
                "it has the first {drawn} sequences that are drawn, this healing draws {needed}: make it with these \
                 --steps and --batch"
            ));
        }
        Ok(())
    }
}

impl Taught {
    /// Refuses a cache of another model than the uncut one that was named, and says so of one that was found.
    ///
    /// # Errors
    /// Request: as said. Work: a file that cannot be read. Interrupted.
    pub(super) fn check_maker(
        &self,
        settings: &HealSettings,
        uncut: Option<&Uncut>,
        progress: &dyn Progress,
    ) -> Result<()> {
        let (Self::Cache(cache), Some(Uncut { checkpoint, is_asked })) = (self, uncut) else { return Ok(()) };
        let place = from_here(Path::new(settings.teacher.as_deref().unwrap_or_default()));
        let (teacher, name) = (&cache.record.teacher, &checkpoint.source.id);
        if *is_asked {
            let own = content_hash(&checkpoint.content_files(), progress)?;
            if cache.record.settings.get("model_sha256").and_then(Value::as_str) != Some(own.as_str()) {
                return Err(Error::request(format!(
                    "--teacher: {place}: it was made by another teacher ({teacher}) than --reference {name}"
                )));
            }
        } else if cache.record.fingerprint != checkpoint.fingerprint() {
            progress.warn(&format!("{place}: made by {teacher}, not by {name}, which the model was cut from"));
        }
        Ok(())
    }
}

/// What decides which sequences a healing of `checkpoint` by `settings` on `texts` draws, their number apart.
///
/// # Errors
/// Work: a file that cannot be read. Interrupted.
pub(super) fn identity(
    settings: &HealSettings,
    checkpoint: &Checkpoint,
    texts: &Texts,
    progress: &dyn Progress,
) -> Result<Map<String, Value>> {
    let shapes: Vec<Value> = texts.training.iter().map(|ingredient| json!(ingredient.shape)).collect();
    let forms: Vec<Value> =
        texts.training.iter().map(|ingredient| json!(ingredient.source.chat().map(|chat| chat.form))).collect();
    let template = texts.chat().and_then(|chat| chat.template.as_ref()).map(|template| template.sha256().to_owned());
    let tokenizer = vec![checkpoint.source.dir.join("tokenizer.json")];
    let mut identity = Map::new();
    for (name, value) in [
        ("tokenizer_sha256", json!(content_hash(&tokenizer, progress)?)),
        ("data_sha256", json!(content_hash(&texts.files(), progress)?)),
        ("chat_template_sha256", json!(template)),
        ("sequences", Value::Array(shapes)),
        ("forms", Value::Array(forms)),
        ("loss_on", json!(settings.loss_on)),
        ("text_field", json!(settings.text_field)),
        ("text_split", json!(settings.text_split)),
        ("on_bad_row", json!(settings.on_bad_row)),
        ("seed", json!(settings.seed)),
        ("shuffle_window", json!(settings.shuffle_window)),
        ("weights", json!(settings.weights)),
    ] {
        identity.insert(name.to_owned(), value);
    }
    Ok(identity)
}
