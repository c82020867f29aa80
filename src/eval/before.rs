//! Results that stand in an evaluation's directory already: found where they are what was asked for, added to where
//! they are a part of it.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::finished::Finished;
use super::job::{Job, Known};
use super::journal::Journal;
use super::results::{ModelFacts, common};
use super::settings::EvalSettings;
use crate::checkpoint::{Checkpoint, Workplace, made_by};
use crate::weights::lora::ADAPTER_FILES;
use crate::{Error, Result, files};

/// Files of weights up to this size are read whole to be known again.
const WHOLE: u64 = 64 << 20;
/// Of larger ones, so many pieces of [`PIECE`] bytes, evenly spaced.
const PIECES: u64 = 64;
const PIECE: u64 = 1 << 20;

/// What stands there.
#[derive(Debug)]
pub(super) struct Before {
    out: PathBuf,
    finished: Finished,
}

impl Before {
    /// Looks into the output directory; nothing where there is none, an unfinished run alone, or what `force` gives up.
    ///
    /// # Errors
    /// Request: something else is there.
    pub(super) fn look(place: &Workplace, force: bool) -> Result<Option<Self>> {
        let out = place.target();
        if force || Journal::is_alone(out) {
            return place.refuse_taken(true).map(|()| None);
        }
        match Finished::open(out) {
            Ok(finished)
                if own(&finished, "requests_sha256").is_some_and(Value::is_object)
                    && made_by(out).as_deref() == Some("eval") =>
            {
                Ok(Some(Self { out: out.to_owned(), finished }))
            }
            _ => place.refuse_taken(false).map(|()| None),
        }
    }

    /// The tasks that are there, and those of `asked` that are not.
    pub(super) fn with(&self, asked: &[String]) -> Vec<String> {
        let names = own(&self.finished, "tasks").and_then(Value::as_array);
        let mut all: Vec<String> =
            names.into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect();
        for name in asked {
            if !all.contains(name) {
                all.push(name.clone());
            }
        }
        all
    }

    /// What came out for the tasks of `job` that are there.
    ///
    /// # Errors
    /// Request: results of another model, with other settings, or of other data.
    pub(super) fn known(&self, job: &Job, about: &ModelFacts, settings: &EvalSettings) -> Result<Known> {
        let refuse = |what: &str| {
            let out = self.out.display();
            Err(Error::request(format!(
                "{out}: holds results {what}; --force replaces them, --out names another directory"
            )))
        };
        for (section, now) in common(about, settings) {
            for (key, now) in &now {
                let stands = match section {
                    "" => self.finished.section(key),
                    section => self.finished.section(section).and_then(|section| section.get(key)),
                };
                match stands {
                    Some(stands) if stands == now => {}
                    _ if key == "weights_sha256" => return refuse("of a model or adapter with other weights"),
                    _ if key == "model_args" => return refuse(&format!("of {}", self.finished.model())),
                    stands => {
                        let stands = stands.unwrap_or(&Value::Null);
                        return refuse(&format!("with other settings ({key}: {stands} there, {now} here)"));
                    }
                }
            }
        }
        let entries = |key| own(&self.finished, key).and_then(Value::as_object);
        let hashes = self.finished.section("task_hashes");
        let hash = |name: &str| hashes.and_then(|hashes| hashes.get(name)).and_then(Value::as_str);
        let mut known = Known::new();
        let asked: Vec<(String, String)> = job.digests().into_iter().zip(job.hashes(settings.paper)).collect();
        for (name, digest) in entries("requests_sha256").into_iter().flatten() {
            let same = |place: &usize| {
                Some(asked[*place].0.as_str()) == digest.as_str() && Some(asked[*place].1.as_str()) == hash(name)
            };
            let mut places = (0..job.parts.len()).filter(same).filter(|place| !known.contains_key(place));
            let named = places.clone().find(|place| job.parts[*place].leaf.name == *name);
            let Some(place) = named.or_else(|| places.next()) else {
                return refuse(&format!("of {name} with other data or settings"));
            };
            let outcomes = self.finished.outcomes(name, &job.parts[place])?;
            let is_code = job.parts[place].leaf.task.about().is_code();
            // programs that were written and not run are asked for again where they are to be run
            if is_code && settings.run_code == Some(true) && outcomes.iter().any(|outcome| outcome.passed.is_empty()) {
                continue;
            }
            known.insert(place, outcomes);
        }
        Ok(known)
    }
}

fn own<'a>(finished: &'a Finished, key: &str) -> Option<&'a Value> {
    finished.section("prune")?.get(key)
}

/// SHA-256 of what the model is: its config, its weights and those of an adapter by content, and where they are
/// computed with. Large files are known by pieces of them: reading them whole would take longer than some evaluations.
///
/// # Errors
/// The file system's.
pub(super) fn weights(checkpoint: &Checkpoint, adapter: Option<&Path>, device: &str) -> Result<String> {
    let config = checkpoint.config_file();
    let adapter = adapter.map(|dir| ADAPTER_FILES.map(|file| dir.join(file)));
    let files: Vec<&PathBuf> =
        std::iter::once(&config).chain(checkpoint.index.stored()).chain(adapter.iter().flatten()).collect();
    let digests: Vec<Vec<u8>> = files.into_par_iter().map(|file| content(file)).collect::<Result<_>>()?;
    let mut digest = Sha256::new();
    digest.update(device);
    digests.iter().for_each(|part| digest.update(part));
    Ok(format!("{:x}", digest.finalize()))
}

/// SHA-256 of the length and the content of a file, or of pieces of it.
fn content(path: &Path) -> Result<Vec<u8>> {
    use std::io::{Read, Seek, SeekFrom};
    let at = |error: std::io::Error| Error::io(path, &error);
    let (mut file, metadata) = files::open(path)?;
    let length = metadata.len();
    let mut digest = Sha256::new();
    digest.update(length.to_le_bytes());
    let pieces = if length <= WHOLE { length.div_ceil(PIECE) } else { PIECES };
    let mut buffer = Vec::new();
    for piece in 0..pieces {
        let start = if length <= WHOLE { piece * PIECE } else { (length - PIECE) / (PIECES - 1) * piece };
        file.seek(SeekFrom::Start(start)).map_err(at)?;
        buffer.clear();
        (&mut file).take(PIECE).read_to_end(&mut buffer).map_err(at)?;
        digest.update(&buffer);
    }
    Ok(digest.finalize().to_vec())
}
