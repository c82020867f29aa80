//! What a healing reads: plain text or conversations, told by their rows, and the template that makes text of these.

use std::sync::Arc;

use super::open;
use crate::checkpoint::Checkpoint;
use crate::data::chat::{Chat, Form, Survey, Template};
use crate::data::{Packing, Purpose, TextSource, Tokenizer};
use crate::heal::HealSettings;
use crate::model::Budget;
use crate::progress::Progress;
use crate::{Context, Error, Result};

/// What is trained and measured on.
pub(super) struct Texts {
    pub(super) training: TextSource,
    pub(super) validation: Option<TextSource>,
    /// What the first conversations come to; absent for plain text.
    pub(super) survey: Option<Survey>,
}

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
        let data = settings.data.clone();
        let data = data.ok_or_else(|| Error::request("which text? name a file or directory with --data"))?;
        let options = settings.source();
        let training = open::text(&data, Purpose::Train, &options, host, progress)?;
        let mut tokenizer = None;
        let training = talking(training, settings, checkpoint, &mut tokenizer)?;
        match training.chat() {
            Some(chat) => {
                (settings.form, settings.loss_on) = (chat.form, Some(chat.loss_on));
                settings.packing.get_or_insert(Packing::Document);
            }
            None => refuse_chat_settings(settings, &training)?,
        }
        training.check()?;
        let eval_data = settings.eval_data.clone();
        let eval_data =
            eval_data.map(|data| open::text(&data, Purpose::Measure, &options, host, progress)).transpose()?;
        let validation = eval_data.map(|source| talking(source, settings, checkpoint, &mut tokenizer)).transpose()?;
        validation.iter().try_for_each(TextSource::check)?;
        let survey = tokenizer.as_ref().map(|tokenizer| Survey::of(&training, tokenizer, &settings.shape()));
        let survey = survey.transpose()?.flatten();
        if let Some(Survey { rows, whole, unanswered: unanswered @ 1.., .. }) = &survey {
            let of = if *whole { format!("{rows}") } else { format!("the first {rows}") };
            progress.warn(&format!(
                "{}: {unanswered} of {of} rows have no token of an answer within {} tokens; they are passed over",
                training.name(),
                settings.seq_len()
            ));
        }
        Ok(Self { training, validation, survey })
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
