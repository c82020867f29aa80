//! Metrics of `metric_list` (lm-evaluation-harness 0.4.13, `api/metrics.py`).

use serde_json::Value;

use super::definition::Key;
use super::filters::expressions;
use super::read::{kept, nearest};
use super::yaml::{Kind, Node};
use crate::Result;
use crate::eval::metrics::TaskMetric;
use crate::eval::python::Pattern;
use crate::eval::tasks::OutputType;

/// A metric of an output type, and the name of its aggregation.
type Row = (TaskMetric, &'static str);

/// What the harness can measure of each type of task, its own defaults first.
fn rows(output: OutputType) -> (&'static [Row], usize) {
    const CHOICE: &[Row] = &[
        (TaskMetric::ACC, "mean"),
        (TaskMetric::ACC_NORM, "mean"),
        (TaskMetric::ACC_BYTES, "mean"),
        (TaskMetric::EXACT_MATCH, "mean"),
        (TaskMetric::F1_OF_TWO, "f1"),
        (TaskMetric::MCC, "matthews_corrcoef"),
    ];
    const CONTINUATION: &[Row] = &[(TaskMetric::PERPLEXITY, "perplexity"), (TaskMetric::ACC_GREEDY, "mean")];
    const TEXT: &[Row] = &[
        (TaskMetric::WORD_PERPLEXITY, "weighted_perplexity"),
        (TaskMetric::BYTE_PERPLEXITY, "weighted_perplexity"),
        (TaskMetric::BITS_PER_BYTE, "bits_per_byte"),
    ];
    const SAID: &[Row] = &[(TaskMetric::EXACT_MATCH, "mean"), (TaskMetric::PASS_AT_1, "mean")];
    match output {
        OutputType::MultipleChoice => (CHOICE, 2),
        OutputType::LogLikelihood => (CONTINUATION, 2),
        OutputType::Rolling => (TEXT, 3),
        OutputType::Generate => (SAID, 1),
    }
}

/// Metrics of the harness that are not here.
const OTHERS: &[&str] =
    &["bleu", "chrf", "chrf++", "ter", "brier_score", "likelihood", "acc_mutual_info", "acc_all", "bypass"];

/// What `exact_match` leaves out of both texts before it compares them.
#[derive(Debug, Default)]
pub(super) struct Exact {
    regexes: Vec<Pattern>,
    case: bool,
    punctuation: bool,
    numbers: bool,
}

/// What is measured of a task.
pub(super) struct Measured {
    pub(super) metrics: Vec<TaskMetric>,
    pub(super) exact: Exact,
}

impl Measured {
    /// As the harness does where a task does not say.
    pub(super) fn default_of(output: OutputType) -> Self {
        let (rows, own) = rows(output);
        Self { metrics: rows[..own].iter().map(|(metric, _)| *metric).collect(), exact: Exact::default() }
    }

    /// As `metric_list` says.
    ///
    /// # Errors
    /// Request: a metric, an aggregation or a setting that is not known.
    pub(super) fn new(key: &Key, output: OutputType, repeats: usize) -> Result<Self> {
        let list = key.value.list().filter(|list| !list.is_empty());
        let list = list.ok_or_else(|| key.fault("expected a list of metrics, such as `- metric: acc`"))?;
        let mut measured = Self { metrics: Vec::new(), exact: Exact::default() };
        for node in list {
            if output == OutputType::Generate && node.get("metric").and_then(Node::text) == Some("pass_at_k") {
                measured.metrics.extend(passed(key, node, repeats)?);
                continue;
            }
            let metric = metric(key, node, output)?;
            if metric == TaskMetric::EXACT_MATCH && output == OutputType::Generate {
                measured.exact = Exact::new(key, node)?;
            }
            match measured.metrics.iter_mut().find(|known| **known == metric) {
                Some(known) => *known = metric,
                None => measured.metrics.push(metric),
            }
        }
        Ok(measured)
    }
}

/// `pass_at_k`: one metric for each number of programs, as many as there are at most.
fn passed(key: &Key, node: &Node, repeats: usize) -> Result<Vec<TaskMetric>> {
    for entry in node.entries().into_iter().flatten() {
        if !["metric", "aggregation", "higher_is_better", "k"].contains(&entry.key.as_str()) {
            return Err(key.fault_at(entry.line, format!("pass_at_k has no setting {}; it has k", entry.key)));
        }
    }
    let fault = || key.fault_at(node.line, format!("pass_at_k: k: expected numbers from 1 to repeats, {repeats}"));
    let numbers = node.get("k").ok_or_else(fault)?;
    let number = |node: &Node| {
        let number = node.json().as_u64().and_then(|number| usize::try_from(number).ok());
        let k = number.filter(|k| (1..=repeats).contains(k)).ok_or_else(fault)?;
        Ok(TaskMetric::pass_at(k, kept(&format!("pass@{k}"))))
    };
    numbers.list().unwrap_or(std::slice::from_ref(numbers)).iter().map(number).collect()
}

fn metric(key: &Key, node: &Node, output: OutputType) -> Result<TaskMetric> {
    let fault = |what: String| key.fault_at(node.line, what);
    let name = node.get("metric").and_then(Node::text);
    let name = name.ok_or_else(|| fault("an entry without `metric`".to_owned()))?;
    let (rows, _) = rows(output);
    let Some((metric, aggregation)) = rows.iter().find(|(metric, _)| metric.name == name) else {
        let near = nearest(name, rows.iter().map(|(metric, _)| metric.name));
        let known = TaskMetric::ALL.iter().any(|metric| metric.name == name);
        return Err(fault(match OTHERS.contains(&name) {
            true => format!("the harness's metric {name} is not computed here; {near}"),
            false if known => format!("{name} is no metric of {} tasks; {near}", output.name()),
            false => format!("there is no metric {name}; {near}"),
        }));
    };
    let settings: &[&str] = match (output, metric.name) {
        (OutputType::Generate, "exact_match") => &EXACT,
        _ => &[],
    };
    for entry in node.entries().into_iter().flatten() {
        match entry.key.as_str() {
            "metric" | "higher_is_better" | "hf_evaluate" => {}
            "aggregation" if entry.value.text() == Some(*aggregation) => {}
            "aggregation" => {
                let found = entry.value.json();
                let what = format!("{name}: aggregation {found}, expected {aggregation}, the one it has here");
                return Err(key.fault_at(entry.line, what));
            }
            known if settings.contains(&known) => {}
            other => {
                let near = nearest(other, settings.iter().copied().chain(["aggregation", "higher_is_better"]));
                return Err(key.fault_at(entry.line, format!("{name} has no setting {other}; {near}")));
            }
        }
    }
    let mut metric = *metric;
    metric.higher_is_better = flag(key, node, "higher_is_better")?.unwrap_or(metric.higher_is_better);
    Ok(metric)
}

/// Settings of `exact_match`.
const EXACT: [&str; 4] = ["ignore_case", "ignore_punctuation", "ignore_numbers", "regexes_to_ignore"];

fn flag(key: &Key, node: &Node, name: &str) -> Result<Option<bool>> {
    match node.get(name).map(|node| &node.kind) {
        None => Ok(None),
        Some(Kind::Scalar(Value::Bool(flag))) => Ok(Some(*flag)),
        Some(_) => Err(key.fault_at(node.line, format!("{name}: expected true or false"))),
    }
}

impl Exact {
    fn new(key: &Key, node: &Node) -> Result<Self> {
        let flag = |name: &str| flag(key, node, name).map(|flag| flag.unwrap_or(false));
        let regexes = node.get("regexes_to_ignore").map(|node| expressions(key, node)).transpose()?;
        Ok(Self {
            regexes: regexes.unwrap_or_default(),
            case: flag("ignore_case")?,
            punctuation: flag("ignore_punctuation")?,
            numbers: flag("ignore_numbers")?,
        })
    }

    /// Whether both texts are alike.
    ///
    /// # Errors
    /// Work: an expression that takes too many steps.
    pub(super) fn is_match(&self, said: &str, right: &str) -> Result<bool> {
        let bare = |text: &str| self.bare(text).map_err(|fault| crate::Error::work(format!("exact_match: {fault}")));
        Ok(bare(said)? == bare(right)?)
    }

    fn bare(&self, text: &str) -> Result<String, String> {
        let mut text = text.to_owned();
        for regex in &self.regexes {
            text = regex.without(&text)?;
        }
        if self.case {
            text = text.to_lowercase();
        }
        if self.punctuation {
            text.retain(|letter| !letter.is_ascii_punctuation());
        }
        if self.numbers {
            text.retain(|letter| !letter.is_ascii_digit());
        }
        // an array of numpy's ends its texts there
        text.truncate(text.trim_end_matches('\0').len());
        Ok(text)
    }
}
