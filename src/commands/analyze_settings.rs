//! Settings of `prune analyze`: which text, which scores, what the plan follows.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::collective::{RANK_TIMEOUT, is_patient};
use crate::data::{Attention, BadRow, Packing, Separator, TextSplit};
use crate::importance::{
    Amount, Draws, Evaluate, METRICS, Metric, Protect, Subject, check_questions, metric, with_parts,
};
use crate::methods::{KeepShare, Method, Search};
use crate::surgery::Target;
use crate::{Context, Error, Result};

/// Subsets, or steps, at most.
const MOST_DRAWN: usize = 1 << 20;

/// Settings of `prune analyze`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AnalyzeSettings {
    /// Directory or hub id.
    pub model: Option<String>,
    /// Where the text is; of several, each weighs the same.
    #[serde(with = "crate::data::names")]
    pub data: Vec<String>,
    /// Field of the rows that holds the text.
    pub text_field: String,
    /// How plain text files are cut into documents.
    pub text_split: TextSplit,
    /// What is done about a row that cannot be read.
    pub on_bad_row: BadRow,
    /// Sequences at most; `None` is 1000.
    pub samples: Option<usize>,
    /// Tokens of a sequence at most; `None` is 2048 or the model's context, whichever is less.
    pub seq_len: Option<usize>,
    /// One sequence a document, or documents joined and cut.
    pub packing: Packing,
    /// What stands between documents.
    pub separator: Separator,
    /// Whether documents of a packed sequence see each other.
    pub attention: Attention,
    /// Takes documents at random, and draws subsets of layers; `None` takes the first ones, and draws as with 0.
    pub seed: Option<u64>,
    /// Score that the plan follows.
    pub metric: String,
    /// How the plan chooses; `None` is what suits the metric.
    pub strategy: Option<String>,
    /// Method whose score and choice the plan follows, in place of the two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<&'static Method>,
    /// Scores to measure besides the plan's; none named: all that one pass gives.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<String>,
    /// Another model of the same shapes, or an adapter for this one: what scores of two models compare with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<String>,
    /// Layers to drop.
    pub layers: Option<usize>,
    /// Share of the layers to drop.
    pub fraction: Option<f64>,
    /// What the model may have at most: as many layers go as that takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// What the loss may rise by, nats a token: as many layers go as that allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_loss: Option<f64>,
    /// The share of the whole model's accuracy that is to stay: as many layers go as that allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<KeepShare>,
    /// Tasks whose questions are asked, as `prune eval` names them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<String>,
    /// Folder of task files in lm-evaluation-harness's YAML, whose names `tasks` may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub include_path: Option<PathBuf>,
    /// Folder, or for a single task file, with their data; the hub and its cache when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// Examples in front of each question; each task's own number when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub few_shot: Option<usize>,
    /// First questions of each task: a number, or a share when below 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<f64>,
    /// First layers that must stay.
    pub protect_first: usize,
    /// Last layers that must stay.
    pub protect_last: usize,
    /// Subsets of the layers that each text is run with, for shapley; `None` is 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subsets: Option<usize>,
    /// Steps in which a policy learns each number of layers; `None` is 200.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_steps: Option<usize>,
    /// Length of the short list of the best by score whose measured loss decides; `None` leaves it to the score.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rerank: Option<usize>,
    /// Existing analysis to plan from, without a forward pass.
    pub from: Option<PathBuf>,
    /// Directory for `analysis.json` and the figures.
    pub out: Option<PathBuf>,
    /// File for every score as CSV.
    pub csv: Option<PathBuf>,
    /// Replace what exists.
    pub force: bool,
    /// Where it computes: `auto`, `cpu`, `cuda`, `cuda:1`.
    pub device: Option<String>,
    /// What products with weights are computed in: `auto`, `bf16`, `f32`.
    pub dtype: Option<String>,
    /// Cap on memory.
    pub memory: Option<String>,
    /// Seconds after which another process of the same analysis that nothing is heard of is taken for dead.
    #[serde(skip_serializing_if = "is_patient")]
    pub rank_timeout: u64,
    /// Only say what would be done.
    pub dry_run: bool,
}

impl Default for AnalyzeSettings {
    fn default() -> Self {
        Self {
            model: None,
            data: Vec::new(),
            text_field: "text".to_owned(),
            text_split: TextSplit::default(),
            on_bad_row: BadRow::default(),
            samples: None,
            seq_len: None,
            packing: Packing::Document,
            separator: Separator::default(),
            attention: Attention::default(),
            seed: None,
            metric: METRICS[0].name.to_owned(),
            strategy: None,
            method: None,
            metrics: Vec::new(),
            against: None,
            layers: None,
            fraction: None,
            target: None,
            max_loss: None,
            keep: None,
            tasks: Vec::new(),
            include_path: None,
            data_dir: None,
            few_shot: None,
            limit: None,
            protect_first: 0,
            protect_last: 0,
            subsets: None,
            policy_steps: None,
            rerank: None,
            from: None,
            out: None,
            csv: None,
            force: false,
            device: None,
            dtype: None,
            memory: None,
            rank_timeout: RANK_TIMEOUT,
            dry_run: false,
        }
    }
}

impl AnalyzeSettings {
    /// What the plan follows.
    ///
    /// # Errors
    /// Request: a method beside a metric or strategy, names that are not there or do not go together.
    pub fn search(&self) -> Result<Search> {
        let protect = Protect { first: self.protect_first, last: self.protect_last };
        let search = match self.method {
            Some(_) if self.strategy.is_some() || self.metric != METRICS[0].name => {
                return Err(Error::request("--method says what to follow: leave --metric and --strategy out"));
            }
            Some(method) => method.search(protect)?,
            None => {
                let (metric, strategy) = (self.followed().to_owned(), self.strategy.clone());
                Search { metric, strategy, protect, ..Search::default() }
            }
        };
        let draws = Draws::default();
        let (subsets, steps) = (self.subsets.unwrap_or(draws.subsets), self.policy_steps.unwrap_or(draws.steps));
        for (flag, count) in [("subsets", subsets), ("policy-steps", steps)] {
            if !(1..=MOST_DRAWN).contains(&count) {
                return Err(Error::request(format!("--{flag} {count}: expected 1 to {MOST_DRAWN}")));
            }
        }
        let draws = Draws { seed: self.seed.unwrap_or(draws.seed), subsets, steps };
        let losses = self.max_loss.is_some() && self.from.is_none();
        let accuracies = self.keep.is_some() && self.from.is_none();
        let search = Search { rerank: self.rerank, draws, losses, accuracies, ..search };
        search.pick()?;
        match &self.from {
            Some(_) if self.rerank.is_some() => {
                Err(Error::request("--rerank measures: it goes with a model, not --from"))
            }
            _ => Ok(search),
        }
    }

    /// Whether candidates are run one after the other, which takes long and is kept as it comes.
    ///
    /// # Errors
    /// As [`AnalyzeSettings::search`].
    pub fn measures_candidates(&self) -> Result<bool> {
        let asks = |metric: &&Metric| matches!(metric.value, Evaluate::Coalitions(_));
        Ok(self.from.is_none() && (self.search()?.measures()? || self.measured()?.iter().any(asks)))
    }

    /// Refuses a text that is named twice, and several where the plan cannot weigh them alike.
    ///
    /// # Errors
    /// Request: as said.
    pub(super) fn check_texts(&self) -> Result<()> {
        let place = |name: &str| Path::new(name).canonicalize().unwrap_or_else(|_| PathBuf::from(name));
        for (number, name) in self.data.iter().enumerate() {
            if let Some(same) = self.data[..number].iter().find(|same| place(same) == place(name)) {
                let fault = if same == name { "is given twice" } else { &format!("is the same as {same}") };
                return Err(Error::request(format!("--data {name} {fault}: each text counts once")));
            }
        }
        let alone = [("--tasks", !self.asked().is_empty()), ("--against", self.against.is_some())];
        if let Some((flag, _)) = alone.into_iter().find(|(_, given)| *given && self.data.len() > 1) {
            return Err(Error::request(format!("{flag} goes with one text, not with {}", self.data.len())));
        }
        self.search()?.pick()?.check_texts(self.data.len())
    }

    /// Refuses two ways to say how much goes.
    ///
    /// # Errors
    /// Request: names them; a loss that may not rise.
    pub(super) fn check_amount(&self) -> Result<()> {
        let ways = [
            ("--layers", self.layers.is_some()),
            ("--fraction", self.fraction.is_some()),
            ("--target", self.target.is_some()),
            ("--max-loss", self.max_loss.is_some()),
            ("--keep", self.keep.is_some()),
        ];
        let given: Vec<&str> = ways.into_iter().filter_map(|(flag, given)| given.then_some(flag)).collect();
        match self.max_loss {
            _ if given.len() > 1 => Err(Error::request(format!("{}: give one of them", given.join(" and ")))),
            Some(most) if !(most >= 0.0 && most.is_finite()) => {
                Err(Error::request(format!("--max-loss {most}: expected nats a token from 0 up, such as +0.1")))
            }
            _ => Ok(()),
        }
    }

    /// Refuses scores of two models without the other one, and another model that no score asks for.
    ///
    /// # Errors
    /// Request: as said; another model beside an analysis that exists.
    pub(super) fn check_against(&self) -> Result<()> {
        let mixing = METRICS.iter().filter(|row| row.mixture().is_some()).map(|row| row.name);
        let mixing: Vec<&str> = mixing.collect();
        let asked = self.metrics.iter().find(|name| mixing.contains(&name.as_str()));
        match (&self.against, asked) {
            (Some(_), _) if self.from.is_some() => {
                Err(Error::request("--against measures: it goes with a model, not --from"))
            }
            (Some(_), None) => Err(Error::request(format!(
                "--against goes with scores that compare two models: name some with --metrics {}",
                mixing.join(",")
            ))),
            (None, Some(name)) if self.from.is_none() => {
                Err(Error::request(format!("{name} compares two models: name the other with --against")))
            }
            _ => Ok(()),
        }
    }

    /// How many of `layers` layers go, where that is known before anything is measured; sizes are those of `model`.
    ///
    /// # Errors
    /// Request: nothing to drop or nothing left, a target that cannot be met, one without a model.
    pub(super) fn wanted(&self, layers: usize, model: Option<&Checkpoint>) -> Result<Option<usize>> {
        let amount = self.layers.map(Amount::Layers).or(self.fraction.map(Amount::Fraction));
        let (Some(target), search) = (&self.target, self.search()?) else {
            return amount.map(|amount| amount.of(layers)).transpose();
        };
        let Some(model) = model else {
            return Err(Error::request("--target needs the model: give it to prune cut, with the analysis as --plan"));
        };
        if metric(&search.metric)?.subject == Subject::SubLayer {
            let metric = &search.metric;
            return Err(Error::request(format!("--target counts whole layers, {metric} single sub-layers: --layers")));
        }
        target.layers(model, &search.protect.allowed(layers)).context(|| "--target").map(Some)
    }

    /// The tasks whose questions are asked: those that are named, or the one whose accuracy is to stay.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        let kept = self.keep.as_ref().and_then(|keep| keep.task.clone());
        if self.tasks.is_empty() && self.from.is_none() { kept.into_iter().collect() } else { self.tasks.clone() }
    }

    /// Refuses questions that nobody looks at, and scores and goals without the questions or the text they need.
    ///
    /// # Errors
    /// Request: as said.
    pub(super) fn check_questions(&self) -> Result<()> {
        let (search, measured, asked) = (self.search()?, self.measured()?, self.asked());
        if let Some(KeepShare { task: Some(task), .. }) = &self.keep
            && asked != [task.clone()]
            && self.from.is_none()
        {
            return Err(Error::request(format!("--keep {task} and --tasks {} name different tasks", asked.join(","))));
        }
        if search.accuracies {
            return match asked.is_empty() {
                true => Err(Error::request("--keep: of which task? such as --keep boolq=0.95, or with --tasks")),
                false => Ok(()),
            };
        }
        if self.from.is_some() {
            return Ok(());
        }
        check_questions(&measured, !asked.is_empty())
    }

    /// What is measured of text.
    ///
    /// # Errors
    /// As [`AnalyzeSettings::measured`].
    pub(super) fn of_text(&self) -> Result<Vec<&'static str>> {
        let (search, measured) = (self.search()?, self.measured()?);
        let scores = measured.iter().filter(|metric| metric.value.needs_text()).map(|metric| metric.name);
        let flags = [("--rerank", search.rerank.is_some()), ("--max-loss", search.losses)];
        Ok(scores.chain(flags.into_iter().filter_map(|(flag, given)| given.then_some(flag))).collect())
    }

    /// Name of the metric that the plan follows where no method says. Without text the first metric cannot be it, and
    /// unless another is named it is the first of the scores to measure that a plan can follow.
    fn followed(&self) -> &str {
        let is_followed = |name: &&String| metric(name).is_ok_and(Metric::speaks_of_dropping);
        let first = self.metrics.iter().find(is_followed).filter(|_| self.data.is_empty() && self.from.is_none());
        match first {
            Some(first) if self.metric == METRICS[0].name => first,
            _ => &self.metric,
        }
    }

    /// The scores that are measured, in the order of the table.
    ///
    /// # Errors
    /// Request: a metric that is not there.
    pub fn measured(&self) -> Result<Vec<&'static Metric>> {
        let mut wanted = vec![metric(&self.search()?.metric)?.name];
        for name in &self.metrics {
            wanted.push(metric(name)?.name);
        }
        let is_usual = |row: &Metric| self.metrics.is_empty() && row.usual && !self.data.is_empty();
        let measured: Vec<_> = METRICS.iter().filter(|row| is_usual(row) || wanted.contains(&row.name)).collect();
        Ok(with_parts(&measured))
    }
}
