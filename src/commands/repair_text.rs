//! The text that a repair is fitted on.

use std::sync::Arc;

use serde_json::{Value, json};

use super::cut_settings::CutSettings;
use super::open;
use super::repair::Shared;
use super::sample_text::{self, SampleText};
use crate::Result;
use crate::arch::ModelSpec;
use crate::card::placeless;
use crate::checkpoint::{Checkpoint, bytes_hash};
use crate::data::Shape;
use crate::progress::{Progress, Silent};

/// Sequences where the user does not say.
const SAMPLES: usize = 128;

/// SHA-256 of `sequences`: of each its length, then its ids.
pub(super) fn text_hash(sequences: &[Vec<u32>]) -> String {
    let numbers = sequences.iter().flat_map(|ids| [ids.len() as u32].into_iter().chain(ids.iter().copied()));
    bytes_hash(&numbers.flat_map(u32::to_le_bytes).collect::<Vec<u8>>())
}

/// The text of a repair, unless it is `shared` already.
///
/// # Errors
/// Work: it cannot be read.
pub(super) fn sequences(
    settings: &CutSettings,
    source: &Checkpoint,
    shared: &mut Shared,
    progress: &dyn Progress,
) -> Result<Arc<Vec<Vec<u32>>>> {
    if let Some(known) = &shared.sequences {
        return Ok(known.clone());
    }
    let spec = ModelSpec::from_config(&source.config)?;
    let device = open::device(settings.device.as_deref(), settings.dtype.as_deref(), &Silent)?;
    let budget = open::budget_beside_tokenizer(settings.memory.as_deref(), &device, source)?;
    let seq_len = sample_text::seq_len(settings.seq_len, &spec, progress);
    let read = text(settings, seq_len).read(source, open::host(budget, &device), progress)?;
    Ok(shared.sequences.insert(Arc::new(read.rows)).clone())
}

/// The text that a repair is fitted on.
fn text(settings: &CutSettings, seq_len: usize) -> SampleText<'_> {
    let CutSettings { packing, separator, attention, .. } = *settings;
    SampleText {
        data: settings.data.as_deref(),
        field: &settings.text_field,
        split: settings.text_split,
        on_bad_row: settings.on_bad_row,
        samples: (settings.samples, SAMPLES),
        shape: Shape { seq_len, packing, separator, attention, ..Shape::default() },
        seed: settings.seed,
    }
}

/// The flags that say which text it was, but for those that were left as they are.
pub(super) fn said(settings: &CutSettings) -> Value {
    let default = CutSettings::default();
    let data = settings.data.as_deref().map(placeless);
    let all = [
        ("data", json!(data), true),
        ("samples", json!(settings.samples), settings.samples.is_some()),
        ("seq_len", json!(settings.seq_len), settings.seq_len.is_some()),
        ("seed", json!(settings.seed), settings.seed.is_some()),
        ("text_field", json!(settings.text_field), settings.text_field != default.text_field),
        ("text_split", json!(settings.text_split), settings.text_split != default.text_split),
        ("on_bad_row", json!(settings.on_bad_row), settings.on_bad_row != default.on_bad_row),
        ("packing", json!(settings.packing), settings.packing != default.packing),
        ("separator", json!(settings.separator), settings.separator != default.separator),
        ("attention", json!(settings.attention), settings.attention != default.attention),
        ("leave_out_first", json!(true), settings.leave_out_first),
        ("rank", json!(settings.rank), settings.rank.is_some()),
        ("lr", json!(settings.lr), settings.lr.is_some()),
        ("steps", json!(settings.steps), settings.steps.is_some()),
        ("batch", json!(settings.batch), settings.batch.is_some()),
    ];
    let given = all.into_iter().filter(|(.., given)| *given);
    Value::Object(given.map(|(key, value, _)| (key.to_owned(), value)).collect())
}
