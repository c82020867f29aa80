//! What healed, merged and adapter directories say of themselves: `prune.json`, and a model card.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::heal::HealResult;
use super::open;
use crate::Result;
use crate::card::{self, Kind, MadeFrom, called, linked, placeless};
use crate::checkpoint::{Checkpoint, sha256, write_new};
use crate::data::chat::{Chat, LossOn};
use crate::files::{self, Bound};
use crate::heal::{HealSettings, MeasuredLosses, MergeOnto, Paired, Quant, Text, Train};
use crate::plan::PlannedFor;
use crate::progress::{Progress, Silent};
use crate::provenance::{self, Provenance};
use crate::weights::lora::ADAPTER_FILES;

/// What was made of a model, in one more step.
pub(super) struct Described {
    history: Provenance,
    parent: PlannedFor,
    parent_card: Option<String>,
    /// What was done, behind what the model had lost.
    what: String,
    /// Text of the section on healing.
    healing: Option<String>,
}

impl Described {
    fn new(checkpoint: &Checkpoint, layers: usize, progress: &dyn Progress) -> Result<Self> {
        let parent = open::identity(checkpoint, layers);
        let history = Provenance::of(&checkpoint.source.dir, &parent, progress);
        let parent_card = checkpoint.model_card()?;
        Ok(Self { history, parent, parent_card, what: String::new(), healing: None })
    }

    /// The model of `checkpoint` after a healing by `settings`.
    ///
    /// # Errors
    /// Work: a card that cannot be read.
    pub(super) fn healed(
        checkpoint: &Checkpoint,
        layers: usize,
        (settings, chat): (&HealSettings, Option<&Chat>),
        result: &HealResult,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let mut described = Self::new(checkpoint, layers, progress)?;
        let mut said = settings.deciding();
        said.extend(settings.written());
        for value in said.values_mut() {
            let texts = match value {
                Value::Array(list) => &mut list[..],
                value => std::slice::from_mut(value),
            };
            for value in texts {
                if let Value::String(text) = value {
                    *text = placeless(text).to_owned();
                }
            }
        }
        let measured = result.measured.as_ref().map(placed_nowhere);
        let losses = measured.as_ref().map(|measured| {
            json!({"text": measured.text, "uncut": measured.uncut, "cut": measured.cut, "healed": measured.healed})
        });
        described.history.trained();
        described.step("heal", [("settings", Value::Object(said)), ("losses", json!(losses))]);
        let text = settings.data.iter().map(|name| placeless(name)).collect::<Vec<_>>().join(" and ");
        let trained = match settings.train {
            Train::Lora => {
                let held = if settings.quant == Quant::Nf4 { "in NF4 (QLoRA)" } else { "as they are" };
                let layers = settings.layers_to_transform.as_ref().map(|layers| format!(" of layers {layers}"));
                let target = format!("{}{}", settings.target, layers.unwrap_or_default());
                let kind = if settings.dora { "DoRA" } else { "LoRA" };
                format!("{kind} of rank {} on {target}, the weights held {held}", settings.rank)
            }
            Train::Layers => {
                let layers = settings.layers_to_transform.as_ref().map(ToString::to_string).unwrap_or_default();
                format!("layers {layers} trained whole")
            }
            Train::Last(count) => format!("the head, the final norm and the last {count} layers trained whole"),
        };
        let rows = chat.map(conversations).unwrap_or_default();
        described.what = format!(
            "Healed on {text}{rows}: {trained}; {} steps of {} sequences of up to {} tokens, {} tokens in all.",
            result.steps,
            settings.batch,
            settings.seq_len(),
            result.tokens
        );
        described.healing = measured.as_ref().map(healing);
        Ok(described)
    }

    /// The model of `checkpoint` in another container, its matrices in another type.
    ///
    /// # Errors
    /// Work: a card that cannot be read.
    pub(super) fn converted(
        checkpoint: &Checkpoint,
        layers: usize,
        (to, stored): (&str, &str),
        progress: &dyn Progress,
    ) -> Result<Self> {
        let mut described = Self::new(checkpoint, layers, progress)?;
        described.step("convert", [("to", json!(to)), ("type", json!(stored))]);
        described.what = format!("Converted to {to}, its matrices in {stored}.");
        Ok(described)
    }

    /// The model of `checkpoint` with the adapter in `dir` in its weights.
    ///
    /// # Errors
    /// Work: a card or an adapter's file that cannot be read.
    pub(super) fn merged(
        checkpoint: &Checkpoint,
        layers: usize,
        dir: &Path,
        (onto, four_bit): (MergeOnto, bool),
        progress: &dyn Progress,
    ) -> Result<Self> {
        let mut described = Self::new(checkpoint, layers, progress)?;
        // an adapter of ours knows how it was trained
        if let Ok(Some(known)) = Provenance::read(dir, layers)
            && (&known.origin.fingerprint, &known.layers)
                == (&described.history.origin.fingerprint, &described.history.layers)
            && known.steps.starts_with(&described.history.steps)
        {
            described.history = known;
        }
        let files = ADAPTER_FILES.map(|name| Ok((name.to_owned(), json!(sha256(&dir.join(name), &Silent)?))));
        let files: Map<String, Value> = files.into_iter().collect::<Result<_>>()?;
        described.history.trained();
        described
            .step("merge", [("adapter", Value::Object(files)), ("onto", json!(onto)), ("four_bit", json!(four_bit))]);
        let name = dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        described.what = format!("The adapter `{name}` was merged into its weights.");
        // the card is for reading: one that cannot be read says nothing
        if let Ok(text) = files::read_text(&dir.join(card::FILE), Bound::CONFIG.bytes) {
            described.healing = card::section(&text, HEALING).map(str::to_owned);
        }
        Ok(described)
    }

    /// The weights that an adapter was trained on, in four bits.
    pub(super) fn in_four_bits(&self, is_trained: bool) -> Self {
        let mut history = self.history.clone();
        if !is_trained {
            history.steps.pop();
        }
        let mut described = Self {
            history,
            parent: self.parent.clone(),
            parent_card: self.parent_card.clone(),
            what: if is_trained { self.what.clone() + " " } else { String::new() },
            healing: if is_trained { self.healing.clone() } else { None },
        };
        described.step("quantize", [("quant", json!(Quant::Nf4))]);
        described.what += "Its linear layers are in four bits (NF4), as bitsandbytes stores them.";
        described
    }

    fn step<const N: usize>(&mut self, name: &str, what: [(&str, Value); N]) {
        let mut step = Map::new();
        step.insert("step".to_owned(), json!(name));
        step.insert("version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
        step.insert("source".to_owned(), json!(self.parent));
        step.extend(what.map(|(key, value)| (key.to_owned(), value)));
        self.history.push(step);
    }

    /// Writes both files into `dir`.
    ///
    /// # Errors
    /// Work: the disk's.
    pub(super) fn write(&self, dir: &Path, kind: Kind<'_>) -> Result<()> {
        write_new(&dir.join(provenance::FILE), self.history.to_json()?)?;
        write_new(&dir.join(card::FILE), self.card(kind))
    }

    fn card(&self, kind: Kind<'_>) -> String {
        let Self { history, parent, parent_card, what, healing } = self;
        let made = MadeFrom { kind, history, parent, parent_card: parent_card.as_deref() };
        let is_cut = made.is_cut();
        let tags: &[&str] = match (is_cut, healing.is_some()) {
            (true, true) => &["layer-pruning", "pruned", "healed"],
            (true, false) => &["layer-pruning", "pruned"],
            (false, _) => &["fine-tuned"],
        };
        let behind = match kind {
            Kind::Adapter => ", adapter",
            Kind::FourBit => ", in four bits",
            Kind::Model if healing.is_some() => ", healed",
            Kind::Model | Kind::Gguf(_) => "",
        };
        let mut text = made.head(behind, tags);
        let subject = if kind == Kind::Adapter { "An adapter for " } else { "" };
        let counted = if is_cut { format!("{}, counted from 0", made.lost()) } else { linked(&history.origin) };
        let steps = "`prune.json` lists every step with its settings.";
        text += &format!("{subject}{counted}. {what} {steps}\n\n{}\n", made.usage());
        if let Some(again) = made.again("DIR").filter(|_| is_cut && kind != Kind::Adapter) {
            text += &format!("## The same cut again\n\n```sh\n{again}\n```\n\n");
        }
        if let Some(healing) = healing {
            text = card::with_section(&text, HEALING, healing);
        }
        text.trim_end().to_owned() + "\n"
    }
}

/// What the rows of a healing's text were.
fn conversations(chat: &Chat) -> String {
    let template = chat.template.as_ref().map(|template| placeless(template.name()));
    let template = template.map(|name| format!(", chat template `{name}`")).unwrap_or_default();
    let learned = if chat.loss_on == LossOn::Answers { ", the answers learned" } else { "" };
    format!(" (conversations, {}{template}{learned})", chat.form.name())
}

/// The section with the losses that a healing measured.
const HEALING: &str = "Healing";

/// The same without directories of this machine.
fn placed_nowhere(measured: &MeasuredLosses) -> MeasuredLosses {
    let Text { source, .. } = &measured.text;
    let text = Text { source: placeless(source).to_owned(), ..measured.text.clone() };
    let reference = measured.reference.as_deref().map(|name| placeless(name).to_owned());
    MeasuredLosses { text, reference, ..measured.clone() }
}

fn healing(measured: &MeasuredLosses) -> String {
    let Paired { difference, stderr } = measured.gain;
    let error = stderr.map(|stderr| format!(" ± {stderr:.4}")).unwrap_or_default();
    let mut rows = Vec::new();
    rows.extend(measured.uncut.map(|uncut| vec!["uncut".to_owned(), format!("{uncut:.4}")]));
    rows.push(vec!["cut".to_owned(), format!("{:.4}", measured.cut)]);
    rows.push(vec!["healed, as written".to_owned(), format!("{:.4}", measured.healed)]);
    let undone = measured.undone_in_words().map(|undone| format!("; {undone}")).unwrap_or_default();
    format!(
        "Loss in nats a token on {}, each model as it is written:\n\n{}\nCut less healed: {difference:.4}{error} (paired){undone}.",
        measured.text,
        card::table(&["model", "loss"], &rows)
    )
}

/// `card` with a section of scores: `rows` of what was measured, the uncut model's figure and this one's.
pub(super) fn with_scores(card: &str, uncut: &PlannedFor, rows: &[Vec<String>]) -> String {
    let body = card::table(&["", &called(uncut), "this model"], rows) + "\n± is one standard error.";
    card::with_section(card, "Scores", &body)
}
