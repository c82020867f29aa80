//! One evaluation, from what is asked for to the files it leaves: prepared, planned, run, written.

mod plan;
mod together;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crate::eval::scores::EvalScores;
use candle_core::Device;
use safetensors::Dtype;

pub use plan::{PassPlan, PassReport};

use crate::arch::ModelSpec;
use crate::checkpoint::{Checkpoint, Origin, OutputDir, Workplace, sha256};
use crate::collective::ProcessGroup;
use crate::data::{Rules, Tokenizer};
use crate::eval::before::{self, Before};
use crate::eval::chat::AppliedTemplate;
use crate::eval::code::CodeRunner;
use crate::eval::compare::{Comparison, compare};
use crate::eval::defined::TaskFiles;
use crate::eval::encode::Encoder;
use crate::eval::finished::Finished;
use crate::eval::generate::{self, Endings};
use crate::eval::job::{Job, Known};
use crate::eval::kept::Kept;
use crate::eval::request::Answer;
use crate::eval::results::{self, ModelFacts};
use crate::eval::room::Room;
use crate::eval::select::{Selection, select_with};
use crate::eval::settings::{Compat, EvalSettings};
use crate::eval::side::Side;
use crate::eval::source::TaskSource;
use crate::eval::tasks::Task;
use crate::model::{Budget, Cache, LoadOptions, Model, ModelOptions};
use crate::progress::{Progress, Silent};
use crate::weights::lora::Adapters;
use crate::{Context, Error, Result};

/// What is asked for, before a model is looked at.
#[derive(Debug)]
pub struct Asked {
    settings: EvalSettings,
    source: TaskSource,
    selection: Selection,
    place: Option<Arc<Workplace>>,
    before: Option<Before>,
    runner: Option<CodeRunner>,
}

impl Asked {
    /// Takes the output directory, in which no other process works then, and looks what stands there: its tasks are
    /// asked for as well. `task` is one that no table has, instead of those that the settings name.
    ///
    /// # Errors
    /// Settings that do not fit together, a name that is no task, an output that is in the way.
    pub fn open(
        settings: &EvalSettings,
        task: Option<&'static dyn Task>,
        source: &dyn Fn() -> Result<TaskSource>,
        progress: &dyn Progress,
    ) -> Result<Self> {
        settings.check()?;
        let place = match &settings.out {
            Some(out) => Some(Arc::new(Workplace::open(out, &Origin::of("eval", settings)?)?)),
            None => None,
        };
        let before = place.as_deref().map(|place| Before::look(place, settings.force)).transpose()?.flatten();
        let tasks = before.as_ref().map_or_else(|| settings.tasks.clone(), |before| before.with(&settings.tasks));
        let source = source()?;
        let selection = task.map_or_else(|| selected(settings, &tasks, &source), |task| Ok(Selection::of(task)))?;
        let code = selection.leaves.iter().find(|leaf| leaf.task.about().is_code());
        let runner = match (code, settings.run_code) {
            (Some(leaf), None) => return Err(unasked(&leaf.name)),
            (None, Some(_)) => return Err(Error::request("--run-code: none of the tasks asks for programs")),
            (Some(_), Some(true)) => Some(CodeRunner::open(settings.python.as_deref(), progress)?),
            (Some(leaf), Some(false)) => {
                progress.warn(&format!("{}: programs are written and not run: no score", leaf.name));
                None
            }
            (None, None) => None,
        };
        for name in &selection.replaced {
            progress.warn(&format!("{name} is the task of --include-path, not prune's own"));
        }
        for path in &selection.repeated {
            progress.warn(&format!("text:{} is asked for more than once; it is scored once", path.display()));
        }
        let settings = EvalSettings { tasks, ..settings.clone() };
        Ok(Self { settings, source, selection, place, before, runner })
    }
}

/// The model that is scored, and where.
#[derive(Debug)]
pub struct ScoredModel {
    /// Its files.
    pub checkpoint: Arc<Checkpoint>,
    /// Its shape.
    pub spec: ModelSpec,
    /// What is added to its weights.
    pub adapters: Option<Adapters>,
    /// Where it computes.
    pub device: Device,
    /// Memory there.
    pub budget: Budget,
    /// Main memory, for what is asked.
    pub host: Budget,
}

/// Questions that were read and tokenised, and a digest of everything they depend on but the data's content: the next
/// evaluation takes them where they are the same ones.
pub type Tokenized = Option<(String, Job)>;

/// An evaluation whose questions are ready.
#[derive(Debug)]
pub struct Evaluation<'a> {
    settings: EvalSettings,
    place: Option<Arc<Workplace>>,
    checkpoint: Arc<Checkpoint>,
    spec: ModelSpec,
    options: ModelOptions,
    about: ModelFacts,
    /// Where answers in the model's own words end, if there are any.
    endings: Option<Endings>,
    /// Tokens that those have room for.
    cached_tokens: Option<usize>,
    /// What it is compared with.
    other: Option<(PathBuf, Finished)>,
    job: &'a Job,
    /// What came out for tasks that were scored before.
    known: Known,
    /// The processes that do it together.
    group: Option<&'a ProcessGroup>,
    /// Runs programs, where that was asked for.
    runner: Option<CodeRunner>,
}

impl<'a> Evaluation<'a> {
    /// Reads and tokenises the questions, unless `tokenised` holds them; opens the results to compare with.
    ///
    /// # Errors
    /// Data that cannot be read, results there of another model or that cannot be compared with, too little memory.
    pub fn prepare(
        asked: Asked,
        scored: ScoredModel,
        tokenized: &'a mut Tokenized,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let Asked { settings, source, selection, place, before, runner } = asked;
        let ScoredModel { checkpoint, spec, adapters, device, budget, host } = scored;
        let rules = if settings.compat == Some(Compat::V0_4_13) { Rules::Transformers5 } else { Rules::File };
        let tokenizer = Tokenizer::open_as(&checkpoint.source.dir, rules)?;
        let promised = spec.max_positions;
        let max_length = settings.max_length.unwrap_or(promised);
        if max_length > promised {
            progress.warn(&format!(
                "--max-length {max_length} is longer than the {promised} positions the model was made for"
            ));
        }
        let computed = if device.is_cuda() { format!("GPU {:?}", settings.dtype) } else { String::new() };
        let weights = before::weights(&checkpoint, settings.adapter.as_deref(), &computed)?;
        let chat = AppliedTemplate::open(&settings, &checkpoint.source.dir, &tokenizer)?;
        let chat_template = chat.as_ref().map(|chat| chat.source().to_owned());
        let about = ModelFacts { weights, chat_template, ..about(&checkpoint, &spec, &tokenizer, max_length)? };
        let other = settings.against.clone().map(|path| against(path, &about)).transpose()?;
        let encoder = Encoder::new(&tokenizer, settings.compat, settings.bos, max_length, settings.paper)?;
        let asked = questions(&settings, &selection, &about);
        let job = match tokenized.take() {
            Some((digest, job)) if digest == asked => job,
            _ => {
                let (encoder, room) = ((&encoder, chat.as_ref()), Room::new(host.usable()));
                Job::prepare(selection, &source, encoder, &settings, &room, progress)?
            }
        };
        let job = &tokenized.insert((asked, job)).1;
        let known = before.map(|before| before.known(job, &about, &settings)).transpose()?.unwrap_or_default();
        let rooms: Vec<usize> = job.requests.iter().filter_map(generate::room).collect();
        let endings = (!rooms.is_empty()).then(|| Endings::new(tokenizer, &checkpoint)).transpose()?;
        // shares are planned alike whatever memory there is
        let planned = if is_shared(&settings) { Budget::new(Some(u64::MAX)) } else { budget };
        let cached_tokens = endings.as_ref().map(|_| plan::cached_tokens(&rooms, &spec, planned, &device));
        let cached = Cache::bytes(&spec, cached_tokens.unwrap_or(0));
        let options = ModelOptions {
            budget,
            reserved_bytes: cached + if device.is_cpu() { job.bytes } else { 0 },
            device,
            load_options: LoadOptions { adapters: adapters.map(Arc::new), ..LoadOptions::default() },
            ..ModelOptions::default()
        };
        let evaluation = Self {
            settings,
            place,
            checkpoint,
            spec,
            options,
            about,
            endings,
            cached_tokens,
            other,
            job,
            known,
            group: None,
            runner,
        };
        if let Some(place) = evaluation.place.as_ref().filter(|_| !evaluation.is_found()) {
            place.refuse_taken(true)?;
        }
        Ok(evaluation)
    }

    /// Requests of each task that was not scored before.
    fn ranges(&self) -> Vec<Range<usize>> {
        let ranges = self.job.ranges().into_iter().enumerate().filter(|(place, _)| !self.known.contains_key(place));
        ranges.map(|(_, range)| range).collect()
    }

    /// Whether every task was scored before.
    #[must_use]
    pub(crate) fn is_found(&self) -> bool {
        self.known.len() == self.job.parts.len()
    }

    /// Tasks that were scored before and are as they were.
    #[must_use]
    pub fn kept(&self) -> Vec<String> {
        self.known.keys().map(|place| self.job.parts[*place].leaf.name.clone()).collect()
    }

    /// The model, as the results call it.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.about.model
    }

    /// Runs the passes that are left, keeps what comes of each, and says what all answers amount to.
    ///
    /// # Errors
    /// The model's and the file system's; a task without a token to predict, a figure that no number can hold.
    pub fn run(&self, plan: &mut PassPlan, progress: &dyn Progress) -> Result<EvalScores> {
        let answers = if self.is_found() { Vec::new() } else { self.answers(plan, progress)? };
        let runner = self.runner.as_ref().map(|runner| (runner, progress));
        self.job.scores(&answers, self.known.clone(), self.spec.vocab_size, runner)
    }

    /// Runs the passes of this process's share that are left, and keeps what comes of each.
    ///
    /// # Errors
    /// As [`Evaluation::run`].
    pub fn run_share(&self, plan: &mut PassPlan, progress: &dyn Progress) -> Result<()> {
        if self.is_found() { Ok(()) } else { self.answers(plan, progress).map(drop) }
    }

    fn answers(&self, plan: &mut PassPlan, progress: &dyn Progress) -> Result<Vec<Answer>> {
        let PassPlan { run, passes, batches, report } = plan;
        let asked = passes.iter().map(|pass| &pass.requests).chain(&*batches);
        let asked: Vec<&[usize]> = asked.map(Vec::as_slice).collect();
        // what is put together is written at once, or refused and leaves nothing
        let place = self.place.as_deref().filter(|_| self.settings.merge.is_empty());
        let mut kept = Kept::open(place, self.settings.force, run, &asked, self.job.requests.len())?;
        let is_own = |pass: &usize| self.settings.shard.is_none_or(|shard| shard.has(*pass));
        kept.left.retain(is_own);
        report.resumed = (0..asked.len()).filter(is_own).count() - kept.left.len();
        for dir in &self.settings.merge {
            kept.merge(dir, run)?;
        }
        if let Some(missing) = kept.left.first().filter(|_| !self.settings.merge.is_empty()) {
            let first = asked[*missing].first().map_or_else(String::new, |request| self.job.name(*request));
            return Err(Error::request(format!(
                "--merge: {} of {} passes are in none of the shares, the first of them asks {first}: run the --shard \
                 that has it",
                kept.left.len(),
                asked.len()
            )));
        }
        if let Some(group) = self.group {
            kept.share_out(group)?;
        }
        let (is_complete, mut started) = (kept.is_complete(), Instant::now());
        if !kept.left.is_empty() {
            let model = Model::open(self.checkpoint.clone(), &self.options, progress)?;
            started = Instant::now();
            kept.score(&model, self.job, passes, self.rounding(), progress)?;
            if let Some(endings) = &self.endings {
                kept.generate(&model, self.job, endings, (passes.len(), batches), progress)?;
            }
        }
        kept.finish(progress)?;
        report.seconds = (!is_complete).then(|| started.elapsed().as_secs_f64());
        Ok(kept.answers)
    }

    /// Differences to the other run, where one was named.
    ///
    /// # Errors
    /// Request: no task in common, or one that was asked differently.
    pub fn compare(&self, scores: &EvalScores) -> Result<Vec<Comparison>> {
        let Some((path, other)) = &self.other else { return Ok(Vec::new()) };
        let ours = Side::of(self.job, scores, self.settings.paper);
        let theirs = other.side(&|task| ours.tasks.iter().any(|known| known.name == task))?;
        compare(&theirs, &ours, false).context(|| format!("--against {}", path.display()))
    }

    /// Writes results and samples where they are wanted and not there; returns their paths, the results file first.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(self, scores: &EvalScores) -> Result<Vec<PathBuf>> {
        let is_found = self.is_found();
        let (Some(out), Some(place), false) = (&self.settings.out, self.place, is_found) else {
            return Ok(Vec::new());
        };
        // what stands there is this run's own journal, what is added to, or what --force gave up
        let dir = OutputDir::at(place, true)?;
        let files = results::write(dir.path(), &self.about, &self.settings, self.job, scores)?;
        dir.commit()?;
        Ok(files.iter().map(|file| out.join(file)).collect())
    }

    /// The type the reference would round log-probabilities to.
    fn rounding(&self) -> Dtype {
        match (self.settings.compat, self.checkpoint.dtype_name()) {
            (Some(Compat::V0_4_13), Some("bfloat16")) => Dtype::BF16,
            (Some(Compat::V0_4_13), Some("float16")) => Dtype::F16,
            _ => Dtype::F32,
        }
    }
}

/// The tasks of these names.
fn selected(settings: &EvalSettings, tasks: &[String], source: &TaskSource) -> Result<Selection> {
    let files = TaskFiles::open(settings.include_path.as_deref(), tasks)?;
    select_with(tasks, &source.subjects(), &files)?.in_ways(&settings.ways)
}

/// Whether several processes do it, each in a place of its own.
fn is_shared(settings: &EvalSettings) -> bool {
    settings.shard.is_some() || !settings.merge.is_empty()
}

/// Programs of a model are run when the user says so, and not before.
fn unasked(task: &str) -> Error {
    Error::request(format!(
        "{task} asks for programs, and is scored by running what the model writes: --run-code runs it here, within \
         limits; --run-code false writes the programs, to be run elsewhere"
    ))
}

/// Results to compare with, opened before the model runs, so that what cannot be compared is refused early.
fn against(path: PathBuf, about: &ModelFacts) -> Result<(PathBuf, Finished)> {
    let opened = Finished::open(&path).and_then(|other| other.same_tokenizer(about).map(|()| other));
    Ok((path, opened.context(|| "--against")?))
}

fn about(checkpoint: &Checkpoint, spec: &ModelSpec, tokenizer: &Tokenizer, max_length: usize) -> Result<ModelFacts> {
    let token = |id: Option<u32>| id.and_then(|id| Some((tokenizer.token(id)?, id)));
    let file = checkpoint.source.dir.join("tokenizer.json");
    let numbers = |entry: &crate::checkpoint::Entry| entry.shape.iter().product::<usize>() as u64;
    Ok(ModelFacts {
        model: checkpoint.source.id.clone(),
        revision: checkpoint.source.revision.clone(),
        parameters: checkpoint.index.tensors.values().map(numbers).sum(),
        dtype: checkpoint.dtype_name().unwrap_or("float32").to_owned(),
        vocabulary: spec.vocab_size,
        max_length,
        special: [token(tokenizer.pad()), token(tokenizer.eos()), token(tokenizer.bos())],
        tokenizer: sha256(&file, &Silent)?,
        weights: String::new(),
        chat_template: None,
    })
}

/// What the tokenised questions depend on: the tokenizer, and the settings that choose and shape them.
fn questions(settings: &EvalSettings, selection: &Selection, about: &ModelFacts) -> String {
    let EvalSettings { few_shot, data_dir, text_split, limit, compat, bos, paper, seed, system_instruction, .. } =
        settings;
    let leaf = |leaf: &crate::eval::select::Leaf| (leaf.name.clone(), leaf.file.clone(), leaf.task.about().definition);
    let tasks: Vec<_> = selection.leaves.iter().map(leaf).collect();
    let groups: Vec<&String> = selection.groups.iter().map(|group| &group.name).collect();
    let chosen = (tasks, groups, few_shot, data_dir, text_split, limit, compat, bos, paper, seed);
    let said = (&about.chat_template, settings.is_multiturn(), system_instruction, &settings.gen_kwargs);
    format!("{chosen:?} {said:?} {} {} {:?}", about.tokenizer, about.max_length, about.special)
}
