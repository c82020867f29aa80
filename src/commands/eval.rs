//! `prune eval`: how good a model is, in the figures everyone else gets.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::eval_before::{self, Before};
use super::eval_kept::{self, Kept};
use super::{eval_rows, open};
use crate::arch::ModelSpec;
use crate::checkpoint::{Checkpoint, Hub, Origin, OutputDir, Workplace, sha256};
use crate::data::{Rules, Tokenizer};
use crate::eval::compare::{Comparison, compare};
use crate::eval::degenerate::Degenerate;
use crate::eval::encode::Encoder;
use crate::eval::finished::Finished;
use crate::eval::job::Job;
use crate::eval::journal::{Journal, Run};
use crate::eval::passes::{self, PassTokens};
use crate::eval::results::{self, About};
use crate::eval::room::Room;
use crate::eval::select::{select, task_names as names};
use crate::eval::settings::{Compat, EvalSettings};
use crate::eval::side::Side;
use crate::eval::source::Source;
use crate::eval::tasks::TASKS;
use crate::model::{LoadOptions, Model, ModelOptions, Placement, Residency};
use crate::progress::{Progress, Silent};
use crate::weights::lora::{ADAPTER_FILES, Adapters};
use crate::{Context, Error, Result};

/// What the command did.
#[derive(Debug, Serialize)]
pub struct EvalReport {
    /// Directory or hub id.
    pub model: String,
    /// Figures of groups and tasks, in the order of a table; none in a dry run.
    pub figures: Vec<FigureReport>,
    /// Differences to the other run.
    pub comparisons: Vec<Comparison>,
    /// How the passes ran, or would run.
    pub passes: PassReport,
    /// Tasks that were scored before and are as they were.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<String>,
    /// Whether everything was there, and nothing was done.
    pub found: bool,
    /// Where the results are.
    pub out: Option<PathBuf>,
    /// Files written.
    pub written: Vec<PathBuf>,
}

/// One figure of a task or group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FigureReport {
    /// Name in results.
    pub task: String,
    /// Name in tables.
    pub alias: String,
    /// How deep the task is in its groups.
    pub depth: usize,
    /// Examples in front of each question; absent where a group's tasks differ.
    pub shots: Option<usize>,
    /// Documents.
    pub documents: usize,
    /// What was measured.
    pub metric: String,
    /// How much.
    pub value: f64,
    /// Standard error.
    pub stderr: Option<f64>,
    /// What guessing would score; absent for losses.
    pub chance: Option<f64>,
    /// Share of the questions that got the commonest answer; absent for losses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub majority: Option<f64>,
    /// Why the figure says nothing good of the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub degenerate: Option<Degenerate>,
}

/// How the passes run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PassReport {
    /// Layers in memory, or streamed from disk.
    pub residency: Residency,
    /// Bytes of weights in memory at once.
    pub weight_bytes: u64,
    /// Cap on memory, bytes.
    pub memory_bytes: u64,
    /// Questions and texts.
    pub documents: usize,
    /// Choices and windows.
    pub requests: usize,
    /// Tokens of all requests.
    pub tokens_asked: usize,
    /// Tokens that are run, shared beginnings counted once a pass.
    pub tokens_run: usize,
    /// Passes.
    pub passes: usize,
    /// Passes that an earlier, unfinished run had done.
    pub resumed: usize,
    /// Seconds of the passes, loading not counted; absent in a dry run.
    pub seconds: Option<f64>,
}

/// Names that `--tasks` takes.
#[must_use]
pub fn task_names() -> Vec<String> {
    names()
}

/// Runs `prune eval`.
///
/// # Errors
/// Settings that do not fit together, data or a model that cannot be read, an output that is in the way, results that
/// cannot be compared with; each names its place.
pub fn eval(settings: &EvalSettings, progress: &dyn Progress) -> Result<EvalReport> {
    eval_sharing(settings, &mut None, progress)
}

/// Questions that were read and tokenised, and a digest of everything they depend on but the data's content.
pub(super) type Tokenised = Option<(String, Job)>;

/// Runs `prune eval`; with the questions of the evaluation before, where they are the same ones.
///
/// # Errors
/// As [`eval`].
pub(super) fn eval_sharing(
    settings: &EvalSettings,
    tokenised: &mut Tokenised,
    progress: &dyn Progress,
) -> Result<EvalReport> {
    settings.check()?;
    let place = place(settings)?;
    let before = place.as_deref().map(|place| Before::look(place, settings.force)).transpose()?.flatten();
    let tasks = before.as_ref().map_or_else(|| settings.tasks.clone(), |before| before.with(&settings.tasks));
    let settings = &EvalSettings { tasks, ..settings.clone() };
    let source = match &settings.data_dir {
        Some(path) => Source::open(path)?,
        None => Source::hub(Hub::from_env()?),
    };
    let subjects: Vec<String> = TASKS.iter().flat_map(|task| source.subjects(task)).collect();
    let selection = select(&settings.tasks, &subjects)?;
    for path in &selection.repeated {
        progress.warn(&format!("text:{} is asked for more than once; it is scored once", path.display()));
    }
    let checkpoint = open::checkpoint(settings.model.as_deref(), progress)?;
    let spec = ModelSpec::from_config(&checkpoint.config)?;
    let rules = if settings.compat == Some(Compat::V0_4_13) { Rules::Transformers5 } else { Rules::File };
    let device = open::device(settings.device.as_deref(), settings.dtype.as_deref(), progress)?;
    let budget = open::budget_beside_tokenizer(settings.memory.as_deref(), &device, &checkpoint)?;
    let tokenizer = Tokenizer::open_as(&checkpoint.source.dir, rules)?;
    let max_length = settings.max_length.unwrap_or(spec.max_positions);
    if max_length > spec.max_positions {
        let promised = spec.max_positions;
        progress
            .warn(&format!("--max-length {max_length} is longer than the {promised} positions the model was made for"));
    }
    let adapters =
        settings.adapter.as_deref().map(|dir| Adapters::open_for(dir, &checkpoint, &spec, &device)).transpose();
    let adapters = adapters.context(|| "--adapter")?;
    let computed = if device.is_cuda() { format!("GPU {:?}", settings.dtype) } else { String::new() };
    let weights = eval_before::weights(&checkpoint, settings.adapter.as_deref(), &computed)?;
    let about = About { weights, ..about(&checkpoint, &spec, &tokenizer, max_length)? };
    let other = settings.against.as_deref().map(|path| against(path, &about)).transpose()?;
    let encoder = Encoder::new(&tokenizer, settings.compat, settings.bos, max_length, settings.paper)?;
    let asked = questions(settings, &about);
    let job = match tokenised.take() {
        Some((digest, job)) if digest == asked => job,
        _ => {
            let room = Room::new(open::host(budget, &device).usable());
            Job::prepare(selection, &source, &encoder, settings, &room, progress)?
        }
    };
    let job = &tokenised.insert((asked, job)).1;
    let known = before.map(|before| before.known(job, &about, settings)).transpose()?.unwrap_or_default();
    let ranges = job.ranges().into_iter().enumerate().filter(|(place, _)| !known.contains_key(place));
    let ranges: Vec<Range<usize>> = ranges.map(|(_, range)| range).collect();
    if let Some(place) = place.as_ref().filter(|_| !ranges.is_empty()) {
        place.refuse_taken(true)?;
    }
    let options = ModelOptions {
        budget,
        reserved_bytes: if device.is_cpu() { job.bytes } else { 0 },
        device,
        load_options: LoadOptions { adapters: adapters.map(Arc::new), ..LoadOptions::default() },
        ..ModelOptions::default()
    };
    let fit = Placement::new(&checkpoint, &spec, &(0..spec.layers).collect::<Vec<_>>(), &options)?;
    let (usual, most) = match settings.pass_tokens {
        Some(tokens) => (tokens, tokens),
        None => fit.tree_tokens(&spec, options.budget),
    };
    let tokens = PassTokens { usual, most };
    let round = rounding(settings, &checkpoint);
    let mut run = run_of(settings, &checkpoint, &options, job, round, tokens)?;
    if run.pass_tokens != tokens {
        // without a cap what is free now counts, not the nine tenths of it that a new run is planned for
        let room = if settings.memory.is_some() { budget.usable() } else { budget.bytes() / 9 * 10 };
        let longest = run.pass_tokens.most.min(job.tokens());
        let fits = fit.pass_bytes(&spec, longest) <= room;
        run.pass_tokens = eval_kept::planned(run.pass_tokens, tokens, fits, settings.force)?;
    }
    let plan = passes::plan(&job.requests, &ranges, run.pass_tokens)?;
    let mut report = EvalReport {
        model: about.model.clone(),
        figures: Vec::new(),
        comparisons: Vec::new(),
        passes: PassReport {
            residency: fit.residency,
            weight_bytes: fit.weight_bytes,
            memory_bytes: options.budget.bytes(),
            documents: job.documents(),
            requests: job.requests.len(),
            tokens_asked: job.tokens(),
            tokens_run: plan.iter().map(|pass| pass.batch.tokens()).sum(),
            passes: plan.len(),
            resumed: 0,
            seconds: None,
        },
        kept: known.keys().map(|place| job.parts[*place].leaf.name.clone()).collect(),
        found: ranges.is_empty(),
        out: settings.out.clone(),
        written: Vec::new(),
    };
    if settings.dry_run {
        return Ok(report);
    }
    let answers = if report.found {
        Vec::new()
    } else {
        let mut kept = Kept::open(place.as_deref(), settings.force, &run, &plan, job.requests.len())?;
        report.passes.resumed = plan.len() - kept.left.len();
        if !kept.left.is_empty() {
            let model = Model::open(checkpoint.clone(), &options, progress)?;
            let started = Instant::now();
            kept.score(&model, job, &plan, round, progress)?;
            report.passes.seconds = Some(started.elapsed().as_secs_f64());
        }
        kept.answers
    };
    let scores = job.scores(&answers, known, spec.vocab_size)?;
    report.figures = eval_rows::figures(&scores);
    if let Some((path, other)) = &other {
        let ours = Side::of(job, &scores, settings.paper);
        let theirs = other.side(&|task| ours.tasks.iter().any(|known| known.name == task))?;
        report.comparisons = compare(&theirs, &ours, false).context(|| format!("--against {}", path.display()))?;
    }
    if let (Some(out), Some(place), false) = (&settings.out, place, report.found) {
        // what stands there is this run's own journal, what is added to, or what --force gave up
        let dir = OutputDir::at(place, true)?;
        let files = results::write(dir.path(), &about, settings, job, &scores)?;
        dir.commit()?;
        report.written = files.iter().map(|file| out.join(file)).collect();
    }
    Ok(report)
}

/// The place of the output: no other process works there, and nothing that is read lies in it.
fn place(settings: &EvalSettings) -> Result<Option<Arc<Workplace>>> {
    let Some(out) = &settings.out else { return Ok(None) };
    Workplace::open(out, &Origin::of("eval", settings)?).map(|place| Some(Arc::new(place)))
}

/// Results to compare with, opened before the model runs, so that what cannot be compared is refused early.
fn against(path: &Path, about: &About) -> Result<(PathBuf, Finished)> {
    let opened = Finished::open(path).and_then(|other| other.same_tokenizer(about).map(|()| other));
    Ok((path.to_owned(), opened.context(|| "--against")?))
}

fn about(checkpoint: &Checkpoint, spec: &ModelSpec, tokenizer: &Tokenizer, max_length: usize) -> Result<About> {
    let token = |id: Option<u32>| id.and_then(|id| Some((tokenizer.token(id)?, id)));
    let file = checkpoint.source.dir.join("tokenizer.json");
    let numbers = |entry: &crate::checkpoint::Entry| entry.shape.iter().product::<usize>() as u64;
    Ok(About {
        model: checkpoint.source.id.clone(),
        revision: checkpoint.source.revision.clone(),
        parameters: checkpoint.index.tensors.values().map(numbers).sum(),
        dtype: checkpoint.dtype_name().unwrap_or("float32").to_owned(),
        vocabulary: spec.vocab_size,
        max_length,
        special: [token(tokenizer.pad()), token(tokenizer.eos()), token(tokenizer.bos())],
        tokenizer: sha256(&file, &Silent)?,
        weights: String::new(),
    })
}

/// What the tokenised questions depend on: the tokenizer, and the settings that choose and shape them.
fn questions(settings: &EvalSettings, about: &About) -> String {
    let EvalSettings { tasks, few_shot, data_dir, text_split, limit, compat, bos, paper, seed, .. } = settings;
    let chosen = (tasks, few_shot, data_dir, text_split, limit, compat, bos, paper, seed);
    format!("{chosen:?} {} {} {:?}", about.tokenizer, about.max_length, about.special)
}

/// The type the reference would round log-probabilities to.
fn rounding(settings: &EvalSettings, checkpoint: &Checkpoint) -> Dtype {
    match (settings.compat, checkpoint.dtype_name()) {
        (Some(Compat::V0_4_13), Some("bfloat16")) => Dtype::BF16,
        (Some(Compat::V0_4_13), Some("float16")) => Dtype::F16,
        _ => Dtype::F32,
    }
}

/// What has to be the same for a run to go on where another one stopped.
fn run_of(
    settings: &EvalSettings,
    checkpoint: &Checkpoint,
    options: &ModelOptions,
    job: &Job,
    round: Dtype,
    pass_tokens: PassTokens,
) -> Result<Run> {
    let mut digest = Sha256::new();
    digest.update(job.digest());
    digest.update(format!("{round:?}"));
    if options.device.is_cuda() {
        digest.update(format!("GPU {:?}", settings.dtype));
    }
    let config = checkpoint.source.dir.join("config.json");
    let adapter = settings.adapter.as_ref().map(|dir| ADAPTER_FILES.map(|file| dir.join(file)));
    let files = std::iter::once(&config).chain(&checkpoint.index.shards).chain(adapter.iter().flatten());
    for path in files {
        let metadata = fs::metadata(path).map_err(|error| Error::io(path, &error))?;
        let changed = metadata.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        digest.update(format!("{} {} {changed:?}\n", path.display(), metadata.len()));
    }
    let mut run = Run {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        model: checkpoint.source.id.clone(),
        digest: format!("{:x}", digest.finalize()),
        pass_tokens,
    };
    if let Some(begun) = settings.out.as_deref().and_then(Journal::run)
        && (&begun.version, &begun.digest) == (&run.version, &run.digest)
    {
        run.pass_tokens = begun.pass_tokens;
    }
    Ok(run)
}
