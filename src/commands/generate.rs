//! `prune generate`: a model writes text itself, to be healed on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Device;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::generate_room::{Room, seconds};
use super::generate_settings::{CutOff, GenerateSettings};
use super::open;
use crate::arch::ModelSpec;
use crate::checkpoint::{
    Checkpoint, Origin, OutputFile, Resumable, Workplace, content_hash, differences, read_json, sha256, unfinished,
};
use crate::data::chat::{Chat, Form, LossOn, Template};
use crate::data::{PromptOptions, Purpose, RowPrompt, RowPrompts, TextSource, Tokenizer, end_tokens};
use crate::distill::{Counts, GENERATING, SelfGeneration, Texts};
use crate::model::{Budget, LoadOptions, ModelOptions, memory};
use crate::progress::{Progress, Silent};
use crate::shown::from_here;
use crate::weights::lora::{ADAPTER_FILES, Adapters};
use crate::{Context, Error, Result};

/// Beside the rows, how they were made.
const PROVENANCE: &str = "provenance";

/// What the command did, or would do.
#[derive(Clone, Debug, Serialize)]
pub struct GenerateReport {
    /// The model.
    pub model: String,
    /// What rows hold.
    pub form: Form,
    /// RowPrompts.
    pub prompts: usize,
    /// Rows that were passed over: without text, or too long for the model.
    pub passed_over: u64,
    /// Texts of all prompts.
    pub texts: usize,
    /// Tokens of the longest text at most, prompt included.
    pub longest: usize,
    /// Texts at a time.
    pub batch: usize,
    /// Bytes in memory, as computed.
    pub memory: u64,
    /// Seconds that it takes at most, at the speed of this machine just now.
    pub seconds: f64,
    /// What was said; absent in a dry run.
    pub said: Option<Counts>,
    /// Rows written.
    pub rows: Option<usize>,
    /// Texts that an earlier process had finished.
    pub texts_before: usize,
    /// The file; absent in a dry run.
    pub out: Option<PathBuf>,
    /// Whether an earlier run had done all this.
    pub found: bool,
}

/// Runs `prune generate`. A run that was stopped goes on when the same settings are given again; of one that is
/// finished the result is told.
///
/// # Errors
/// Request: settings that do not go together or the model, an output that exists, prompts that do not fit in memory.
/// Work: broken files, a prompt too long for the model, logits that are not finite, a full disk. Interrupted; what was
/// said is kept.
pub fn generate(settings: &GenerateSettings, progress: &dyn Progress) -> Result<GenerateReport> {
    settings.check()?;
    let place = place(settings)?;
    let checkpoint = open::computed(settings.model.as_deref(), progress)?;
    let spec = ModelSpec::from_config(&checkpoint.config).context(|| checkpoint.source.id.clone())?;
    spec.check(&checkpoint.index)?;
    let device = open::device(settings.device.as_deref(), settings.dtype.as_deref(), progress)?;
    let budget = open::budget_beside_tokenizer(settings.memory.as_deref(), &device, &checkpoint)?;
    let adapters = settings.adapter.as_deref().map(|dir| Adapters::open_for(dir, &checkpoint, &spec, &device));
    let adapters = adapters.transpose().context(|| "--adapter")?.map(Arc::new);
    let load_options = LoadOptions { adapters, ..LoadOptions::default() };
    let tokenizer = Tokenizer::open(&checkpoint.source.dir)?;
    let asked = Asked::open(settings, (&checkpoint, &spec), &tokenizer, open::host(budget, &device), progress)?;
    let budget = if device.is_cpu() { budget.beside(memory::OVERHEAD + asked.prompts.bytes) } else { budget };
    let mut generation = SelfGeneration {
        prompts: &asked.prompts.all,
        samples: settings.texts_of_a_prompt()?,
        tokens: settings.tokens,
        positions: spec.max_positions,
        ends: &end_tokens(&checkpoint.source.dir, &tokenizer)?,
        sampling: settings.sampling(),
        together: settings.batch,
        tokenizer: &tokenizer,
    };
    let longest = generation.prompts.iter().map(|prompt| prompt.ids.len() + generation.most(prompt)).max().unwrap_or(0);
    let options = ModelOptions { device, budget, load_options, ..ModelOptions::default() };
    let room = Room::find(&checkpoint, &spec, &options, longest, generation.together.min(generation.items()))?;
    generation.together = room.batch;
    let mut report = GenerateReport {
        model: checkpoint.source.id.clone(),
        form: asked.form,
        prompts: generation.prompts.len(),
        passed_over: asked.prompts.empty + asked.prompts.too_long,
        texts: generation.items(),
        longest,
        batch: room.batch,
        memory: room.bytes,
        seconds: seconds(&generation, (&checkpoint, &spec), &options.device)?,
        said: None,
        rows: None,
        texts_before: 0,
        out: None,
        found: false,
    };
    let (Some(place), Some(out), false) = (place, settings.out.as_deref(), settings.dry_run) else {
        return Ok(report);
    };
    let deciding = asked.deciding(settings, &checkpoint, (&options.device, room.batch), progress)?;
    report.out = Some(out.to_owned());
    if let Some(record) = finished_before(&place, &deciding, settings)? {
        (report.said, report.rows, report.found) = (Some(record.said), Some(record.rows), true);
        return Ok(report);
    }
    place.refuse_taken(settings.force)?;
    let work = Resumable::open(place.clone(), &GENERATING, &deciding, settings.restart)?;
    let done = (|| {
        let mut texts = Texts::open(&work.file(""), generation.items())?;
        report.texts_before = texts.counts().texts;
        if !texts.is_whole() {
            let ModelOptions { device, budget, load_options, .. } = options;
            let capacity = longest.saturating_mul(room.batch);
            let model = open::speaker(&checkpoint, &spec, load_options, device, budget, capacity, progress)?;
            generation.run(&model, &mut texts, progress)?;
        }
        report.said = Some(texts.counts());
        report.rows = Some(write(&mut texts, place, settings, (&deciding, &checkpoint))?);
        Ok(())
    })();
    // what has a text is gone on from
    let is_blank = || Texts::open(&work.file(""), usize::MAX).is_ok_and(|texts| texts.counts().texts == 0);
    if done.is_ok() || is_blank() {
        work.remove().or_else(|error| match (&done, error) {
            (Ok(()), Error::Request(why)) => {
                progress.warn(&why);
                Ok(())
            }
            (Ok(()), other) => Err(other),
            (Err(_), _) => Ok(()),
        })?;
    }
    done.map(|()| report)
}

/// The place of the output, before anything is read; a dry run may do without.
fn place(settings: &GenerateSettings) -> Result<Option<Arc<Workplace>>> {
    let Some(out) = settings.out.as_deref() else {
        return match settings.dry_run {
            true => Ok(None),
            false => Err(Error::request("where to? name a file with --out, such as data.jsonl")),
        };
    };
    let is_read = out.extension().is_some_and(|ending| ending == "jsonl");
    if !is_read {
        let out = out.display();
        return Err(Error::request(format!("{out}: rows of JSON are written; name a file that ends in .jsonl")));
    }
    let place = Workplace::open_file(out, &Origin::of("generate", settings)?)?;
    let side = beside(place.target());
    if side.symlink_metadata().is_ok() && read_json::<Record>(&side).is_err() {
        let fault = "is in the way and says nothing of a generation: it stays; move it, or name another output";
        return Err(Error::request(format!("{} {fault}", from_here(&side))));
    }
    if settings.force || !place.target().exists() {
        place.refuse_taken(true)?;
    }
    Ok(Some(Arc::new(place)))
}

/// What the model is asked.
struct Asked {
    prompts: RowPrompts,
    form: Form,
    source: Option<TextSource>,
    template: Option<String>,
}

impl Asked {
    fn open(
        settings: &GenerateSettings,
        (checkpoint, spec): (&Checkpoint, &ModelSpec),
        tokenizer: &Tokenizer,
        host: Budget,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let Some(name) = &settings.prompts else {
            let first = tokenizer.bos().or(tokenizer.eos()).ok_or_else(|| {
                Error::request("from_bos: the tokenizer has no BOS and no EOS to begin with; name rows with --prompts")
            })?;
            let prompts = RowPrompts { all: vec![RowPrompt::beginning(first)], ..RowPrompts::default() };
            return Ok(Self { prompts, form: Form::Text, source: None, template: None });
        };
        let source = open::text(name, Purpose::Train, &settings.source(), host, progress)?;
        let form = if settings.form == Form::Auto { source.prompt_form()? } else { settings.form };
        let (source, template) = match form {
            Form::Text if settings.chat_template.is_some() => {
                return Err(Error::request(format!(
                    "chat_template is for conversations, and {name} holds plain text; --form says otherwise"
                )));
            }
            Form::Text => (source, None),
            form => {
                if settings.prompt_tokens.is_some() {
                    return Err(Error::request("prompt_tokens is for plain text: conversations are asked whole"));
                }
                let template = Template::open(&checkpoint.source.dir, settings.chat_template.as_deref(), tokenizer)?;
                let hash = template.as_ref().map(|template| template.sha256().to_owned());
                let chat = Chat { form, template, loss_on: LossOn::Answers, eos: None, asks: true };
                chat.check().context(|| name.clone())?;
                (source.talking(Arc::new(chat)), hash)
            }
        };
        source.check()?;
        let options =
            PromptOptions { limit: settings.limit, tokens: settings.prompt_tokens, positions: spec.max_positions };
        let prompts = RowPrompts::read(&source, tokenizer, &options, host.usable() / 4, progress)?;
        for (count, what) in [(prompts.empty, "without text"), (prompts.too_long, "too long for the model")] {
            if count > 0 {
                progress.warn(&format!("{name}: {count} rows {what} are passed over"));
            }
        }
        Ok(Self { prompts, form, source: Some(source), template })
    }

    /// All that decides what is said.
    fn deciding(
        &self,
        settings: &GenerateSettings,
        checkpoint: &Checkpoint,
        (device, batch): (&Device, usize),
        progress: &dyn Progress,
    ) -> Result<Map<String, Value>> {
        let mut deciding = settings.deciding();
        let files = [
            ("model_sha256", Some(checkpoint.content_files())),
            ("prompts_sha256", self.source.as_ref().map(|source| source.files().to_vec())),
            ("adapter_sha256", settings.adapter.as_ref().map(|dir| ADAPTER_FILES.map(|file| dir.join(file)).into())),
        ];
        for (name, files) in files {
            if let Some(files) = files {
                deciding.insert(name.to_owned(), json!(content_hash(&files, progress)?));
            }
        }
        deciding.insert("form".to_owned(), json!(self.form));
        deciding.insert("prompts_read".to_owned(), json!(self.prompts.all.len()));
        deciding.extend(self.template.as_ref().map(|hash| ("chat_template_sha256".to_owned(), json!(hash))));
        if device.is_cuda() {
            // the last bits of products hang on what they are made with
            deciding.insert("cuda_batch".to_owned(), json!(batch));
        }
        deciding.insert("version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
        Ok(deciding)
    }
}

/// What stands beside the rows.
#[derive(Serialize, Deserialize)]
struct Record {
    prune: String,
    command: String,
    model: String,
    revision: Option<String>,
    settings: Map<String, Value>,
    cut_off: CutOff,
    said: Counts,
    rows: usize,
    sha256: String,
}

/// The file that says how the rows at `out` were made.
fn beside(out: &Path) -> PathBuf {
    unfinished(out, PROVENANCE)
}

/// The record of an earlier run with the same settings, whose rows are still what it wrote.
fn finished_before(
    place: &Workplace,
    deciding: &Map<String, Value>,
    settings: &GenerateSettings,
) -> Result<Option<Record>> {
    let target = place.target();
    if settings.force || settings.restart || !target.exists() {
        return Ok(None);
    }
    let Ok(record) = read_json::<Record>(&beside(target)) else { return Ok(None) };
    if sha256(target, &Silent)? != record.sha256 {
        return Ok(None);
    }
    let mut list = differences(&record.settings, deciding);
    if record.cut_off != settings.cut_off {
        list.push("cut_off is another".to_owned());
    }
    match list.is_empty() {
        true => {
            // killed between putting the rows in place and removing what they were made of
            place.discard(&unfinished(target, GENERATING.ending))?;
            Ok(Some(record))
        }
        false => Err(Error::request(format!(
            "{} was generated with other settings: {}; --force replaces it",
            settings.out.as_deref().unwrap_or(target).display(),
            list.join("; ")
        ))),
    }
}

/// Writes the rows and beside them how they were made; how many.
fn write(
    texts: &mut Texts,
    place: Arc<Workplace>,
    settings: &GenerateSettings,
    (deciding, checkpoint): (&Map<String, Value>, &Checkpoint),
) -> Result<usize> {
    let said = texts.counts();
    let whole_only = settings.cut_off == CutOff::Drop;
    if whole_only && said.cut_off == said.texts {
        return Err(Error::work(format!(
            "the model ended none of its {} texts within {} tokens; more --tokens, or --cut-off keep",
            said.texts, settings.tokens
        )));
    }
    let target = place.target().to_owned();
    let mut hash = Sha256::new();
    let rows = texts.write(&mut hash, &target, whole_only)?;
    let record = Record {
        prune: env!("CARGO_PKG_VERSION").to_owned(),
        command: "generate".to_owned(),
        model: checkpoint.source.id.clone(),
        revision: checkpoint.source.revision.clone(),
        settings: deciding.clone(),
        cut_off: settings.cut_off,
        said,
        rows,
        sha256: format!("{:x}", hash.finalize()),
    };
    let mut side = OutputFile::create(&beside(&target), true, &Origin::program("generate"))?;
    let text = serde_json::to_vec_pretty(&record).map_err(|error| Error::work(error.to_string()))?;
    side.place(&text, &target)?;
    OutputFile::at(place, settings.force)?.write_with(|file| texts.write(file, &target, whole_only).map(drop))?;
    side.commit();
    Ok(rows)
}
