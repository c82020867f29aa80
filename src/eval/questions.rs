//! Questions of tasks apart from any one model: for whoever asks them of many.

use std::ops::Range;

use candle_core::Tensor;
use safetensors::Dtype;

use super::chat::AppliedTemplate;
use super::defined::TaskFiles;
use super::encode::Encoder;
use super::job::Job;
use super::passes::{Pass, PassTokens, plan};
use super::request::Answer;
use super::room::Room;
use super::score;
use super::select::select_with;
use super::settings::EvalSettings;
use super::source::TaskSource;
use super::tasks::{OutputType, TASKS};
use crate::arch::ModelSpec;
use crate::checkpoint::Checkpoint;
use crate::data::Tokenizer;
use crate::model::{Batch, Budget, Model};
use crate::progress::Progress;
use crate::{Error, Result};

/// Tokens that go through a layer together: the same whatever memory there is, since sums hang on it.
const PASS: PassTokens = PassTokens { usual: 512, most: 4096 };

/// Questions with choices, ready to be asked.
#[derive(Debug)]
pub struct TaskQuestions {
    job: Job,
    passes: Vec<Pass>,
    batches: Vec<Batch>,
    choices: Vec<(Range<usize>, usize)>,
}

impl TaskQuestions {
    /// Reads and tokenises those that `settings` names, for a model like `checkpoint`.
    ///
    /// # Errors
    /// Request: settings that do not fit together, a task that asks no questions with choices. Work: data that cannot
    /// be read, or without a question.
    pub fn open(
        settings: &EvalSettings,
        source: &TaskSource,
        (checkpoint, spec, host): (&Checkpoint, &ModelSpec, Budget),
        progress: &dyn Progress,
    ) -> Result<Self> {
        settings.check()?;
        let files = TaskFiles::open(settings.include_path.as_deref(), &settings.tasks)?;
        let selection = select_with(&settings.tasks, &source.subjects(), &files)?;
        let is_choice = |output: OutputType| output == OutputType::MultipleChoice;
        if let Some(leaf) = selection.leaves.iter().find(|leaf| !is_choice(leaf.task.about().output)) {
            let known = TASKS.iter().map(|task| task.about()).filter(|about| is_choice(about.output));
            let known: Vec<&str> = known.map(|about| about.name).collect();
            return Err(Error::request(format!(
                "--tasks {}: layers are scored by questions with choices: {}",
                leaf.name,
                known.join(", ")
            )));
        }
        let tokenizer = Tokenizer::open(&checkpoint.source.dir)?;
        let encoder = Encoder::new(&tokenizer, settings.compat, settings.bos, spec.max_positions, settings.paper)?;
        let chat = AppliedTemplate::open(settings, &checkpoint.source.dir, &tokenizer)?;
        let room = Room::new(host.usable());
        let job = Job::prepare(selection, source, (&encoder, chat.as_ref()), settings, &room, progress)?;
        let passes = plan(&job.requests, &job.ranges(), PASS)?;
        let batches = passes.iter().map(|pass| pass.batch.clone()).collect();
        let choices = job.choices()?;
        if choices.is_empty() {
            return Err(Error::work(format!("--tasks {}: the data have no question", settings.tasks.join(","))));
        }
        Ok(Self { job, passes, batches, choices })
    }

    /// SHA-256 of every request.
    #[must_use]
    pub fn digest(&self) -> String {
        self.job.digest()
    }

    /// Bytes that they take, about.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.job.bytes
    }

    /// Requests, one a choice.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.job.requests.len()
    }

    /// Names of the tasks.
    #[must_use]
    pub fn tasks(&self) -> Vec<&str> {
        self.job.parts.iter().map(|part| part.leaf.name.as_str()).collect()
    }

    /// Names of the tasks, and how many questions each has.
    #[must_use]
    pub fn counts(&self) -> Vec<(&str, usize)> {
        self.job.parts.iter().map(|part| (part.leaf.name.as_str(), part.prompts.documents.len())).collect()
    }

    /// The passes that ask them, in which requests share what they begin with.
    #[must_use]
    pub fn batches(&self) -> &[Batch] {
        &self.batches
    }

    /// The requests that pass `pass` answers.
    #[must_use]
    pub fn answered(&self, pass: usize) -> &[usize] {
        &self.passes[pass].requests
    }

    /// Log-likelihoods of those, in their order, from the stream `x` `[t, d]` that final norm and head of `model` see.
    ///
    /// # Errors
    /// A number that is not finite, its question named.
    pub fn read(&self, model: &Model, pass: usize, x: &Tensor) -> Result<Vec<f32>> {
        let name = |request: usize| self.job.name(request);
        let answers = score::read(model, (&self.job.requests, &name), &self.passes[pass], x, Dtype::F32)?;
        let likelihood = |answer: &Answer| match answer {
            Answer::LogLikelihood { log_likelihood, .. } => *log_likelihood,
            Answer::Rolling { .. } | Answer::Text(_) => f32::NAN,
        };
        Ok(answers.iter().map(likelihood).collect())
    }

    /// Of each question the requests that are its choices, and which of those is right.
    #[must_use]
    pub fn choices(&self) -> &[(Range<usize>, usize)] {
        &self.choices
    }

    /// Of each question whether it is answered rightly by the first metric of its task, from the log-likelihoods of all
    /// requests.
    ///
    /// # Errors
    /// A document that its task cannot judge.
    pub fn judge(&self, likelihoods: &[f32]) -> Result<Vec<bool>> {
        let answer = |&log_likelihood: &f32| Answer::LogLikelihood { log_likelihood, greedy: false };
        let answers: Vec<Answer> = likelihoods.iter().map(answer).collect();
        let outcomes = self.job.outcomes(&answers)?;
        Ok(outcomes.iter().map(|outcome| outcome.measures.first().is_some_and(|own| own.sum > 0.0)).collect())
    }

    /// Of each question the pass and the token in it after which its answer is asked for.
    ///
    /// # Errors
    /// Request: a task whose choices stand after texts of their own.
    pub fn ends(&self) -> Result<Vec<(usize, usize)>> {
        let mut places = vec![None; self.job.requests.len()];
        for (number, pass) in self.passes.iter().enumerate() {
            for want in &pass.wants {
                places[want.request].get_or_insert((number, pass.rows[want.row] as usize));
            }
        }
        let read = |request: usize| {
            let request = &self.job.requests[request];
            request.input.get(..=request.from)
        };
        let end = |(choices, _): &(Range<usize>, usize)| {
            if choices.clone().any(|request| read(request) != read(choices.start)) {
                let name = self.job.name(choices.start);
                return Err(Error::request(format!("{name}: its choices stand after texts of their own")));
            }
            places[choices.start].ok_or_else(|| Error::work("a question that no pass asks"))
        };
        self.choices.iter().map(end).collect()
    }
}
