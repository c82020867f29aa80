//! What a healing reads: plain text or conversations, told by their rows, and the template that makes text of these.

use std::path::PathBuf;
use std::sync::Arc;

use super::open;
use crate::checkpoint::Checkpoint;
use crate::data::chat::{Chat, Form, Survey, Template};
use crate::data::{Ingredient, Packing, Purpose, Shape, Share, TextSource, Tokenizer, shares};
use crate::heal::HealSettings;
use crate::model::Budget;
use crate::progress::Progress;
use crate::{Context, Error, Result};

/// What is trained and measured on.
pub(super) struct Texts {
    pub(super) training: Vec<Ingredient>,
    pub(super) validation: Option<TextSource>,
    /// What the first conversations come to; absent for plain text.
    pub(super) survey: Option<Survey>,
    /// What each of several texts gives.
    pub(super) shares: Vec<Share>,
}

/// The shape of a text's sequences: of conversations one each, where nobody said otherwise.
pub(super) fn shape_of(settings: &HealSettings, source: &TextSource) -> Shape {
    match settings.packing {
        None if source.chat().is_some() => Shape { packing: Packing::Document, ..settings.shape() },
        _ => settings.shape(),
    }
}

/// What each text gives, and a warning where one gives nothing or comes very often.
fn told_shares(
    training: &[Ingredient],
    settings: &HealSettings,
    checkpoint: &Checkpoint,
    tokenizer: &mut Option<Tokenizer>,
    progress: &dyn Progress,
) -> Result<Vec<Share>> {
    let tokenizer = match tokenizer {
        Some(tokenizer) => tokenizer,
        None => tokenizer.insert(Tokenizer::open(&checkpoint.source.dir)?),
    };
    let count = (settings.steps as u64).saturating_mul(settings.batch as u64);
    let shares = shares(training, tokenizer, settings.seed, count)?;
    for share in &shares {
        if share.taken == 0 {
            let fault = "of these weights, no sequence of this run comes from it";
            progress.warn(&format!("{}: {fault}", share.source));
        } else if share.passes > OFTEN && share.sequences > 0 {
            let times = share.passes.round();
            progress.warn(&format!("{}: each of its {} sequences comes {times} times", share.source, share.sequences));
        }
    }
    Ok(shares)
}

/// Passes over a text that are worth a word: more than four teach little that is new (arXiv 2305.16264).
const OFTEN: f64 = 4.0;

impl Texts {
    /// Opens and checks `data` and `eval_data` of `settings`; in the settings it writes what the rows say that was left
    /// open.
    ///
    /// # Errors
    /// Request: no data, settings of conversations for plain text, no template. Work: rows that cannot be read.
    pub(super) fn open(
        settings: &mut HealSettings,
        checkpoint: &Checkpoint,
        host: Budget,
        progress: &dyn Progress,
    ) -> Result<Self> {
        if settings.data.is_empty() {
            return Err(Error::request("which text? name a file or directory with --data"));
        }
        let options = settings.source();
        let mut tokenizer = None;
        let sources = settings.data.iter().map(|data| {
            let source = open::text(data, Purpose::Train, &options, host, progress)?;
            let source = talking(source, settings, checkpoint, &mut tokenizer)?;
            source.check()?;
            Ok(source)
        });
        let sources = sources.collect::<Result<Vec<TextSource>>>()?;
        match sources.iter().find_map(TextSource::chat) {
            Some(chat) => {
                // one form is told; each of several texts has its own
                let is_one = sources.iter().all(|source| source.chat().is_some_and(|own| own.form == chat.form));
                settings.loss_on = Some(chat.loss_on);
                if is_one {
                    settings.form = chat.form;
                    settings.packing.get_or_insert(Packing::Document);
                }
            }
            None => refuse_chat_settings(settings, &sources[0])?,
        }
        let weight = |at: usize| settings.weights.get(at).copied().unwrap_or(1.0);
        let training = sources.into_iter().enumerate().map(|(at, source)| {
            let shape = shape_of(settings, &source);
            Ingredient { source, shape, weight: weight(at) }
        });
        let training: Vec<Ingredient> = training.collect();
        let eval_data = settings.eval_data.clone();
        let eval_data =
            eval_data.map(|data| open::text(&data, Purpose::Measure, &options, host, progress)).transpose()?;
        let validation = eval_data.map(|source| talking(source, settings, checkpoint, &mut tokenizer)).transpose()?;
        validation.iter().try_for_each(TextSource::check)?;
        let first = training.iter().find(|ingredient| ingredient.source.chat().is_some());
        let survey = tokenizer.as_ref().zip(first);
        let survey = survey.map(|(tokenizer, first)| Survey::of(&first.source, tokenizer, &first.shape));
        let survey = survey.transpose()?.flatten();
        if let Some(Survey { rows, whole, unanswered: unanswered @ 1.., .. }) = &survey {
            let of = if *whole { format!("{rows}") } else { format!("the first {rows}") };
            progress.warn(&format!(
                "{}: {unanswered} of {of} rows have no token of an answer within {} tokens; they are passed over",
                first.map_or("", |first| first.source.name()),
                settings.seq_len()
            ));
        }
        let shares = match training.len() {
            0 | 1 => Vec::new(),
            _ => told_shares(&training, settings, checkpoint, &mut tokenizer, progress)?,
        };
        Ok(Self { training, validation, survey, shares })
    }

    /// How the rows of the first text of conversations are read, where there is one.
    pub(super) fn chat(&self) -> Option<&Chat> {
        self.training.iter().find_map(|ingredient| ingredient.source.chat())
    }

    /// The files that are trained on.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.training.iter().flat_map(|ingredient| ingredient.source.files()).cloned().collect()
    }

    /// Their bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.training.iter().map(|ingredient| ingredient.source.bytes()).sum()
    }
}

/// `source` with its rows read as conversations, where they are.
fn talking(
    source: TextSource,
    settings: &HealSettings,
    checkpoint: &Checkpoint,
    tokenizer: &mut Option<Tokenizer>,
) -> Result<TextSource> {
    let form = if settings.form == Form::Auto { source.form()? } else { settings.form };
    if form == Form::Text {
        return Ok(source);
    }
    let directory = &checkpoint.source.dir;
    let tokenizer = match tokenizer {
        Some(tokenizer) => tokenizer,
        None => tokenizer.insert(Tokenizer::open(directory)?),
    };
    let template = Template::open(directory, settings.chat_template.as_deref(), tokenizer)?;
    let eos = tokenizer.eos().and_then(|id| tokenizer.token(id));
    let chat = Chat { form, template, loss_on: settings.loss_on.unwrap_or_default(), eos, asks: false };
    chat.check().context(|| source.name().to_owned())?;
    Ok(source.talking(Arc::new(chat)))
}

/// Settings of conversations say nothing of plain text.
fn refuse_chat_settings(settings: &HealSettings, source: &TextSource) -> Result<()> {
    let given = [("loss_on", settings.loss_on.is_some()), ("chat_template", settings.chat_template.is_some())];
    match given.into_iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((name, _)) => Err(Error::request(format!(
            "{name} is for conversations, and {} holds plain text; --form says otherwise",
            source.name()
        ))),
    }
}
