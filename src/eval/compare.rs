//! Two runs side by side, question by question: what is different, and whether that is more than chance.
//!
//! The same questions are asked of both models, so the difference is much surer than the figures themselves: its
//! standard error is that of the paired differences, and McNemar's exact test looks only at the questions on which the
//! two disagree.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use super::job::{GroupScore, Job, Scores, TaskScore};
use super::metrics::{Figure, Metric, figure, pooled};
use super::results::About;
use super::samples;
use crate::data::rows;
use crate::{Error, Result};

/// One metric of one task or group in both runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Task or group.
    pub task: String,
    /// What is compared.
    pub metric: &'static str,
    /// Documents that both runs have.
    pub documents: usize,
    /// This run's figure on them minus the other's.
    pub difference: f64,
    /// Standard error of the paired differences.
    pub stderr: Option<f64>,
    /// Questions that only this run got right.
    pub gained: Option<usize>,
    /// Questions that only the other run got right.
    pub lost: Option<usize>,
    /// McNemar's exact two-sided p: how likely so uneven a split is by chance.
    pub p: Option<f64>,
}

/// The metrics that are means over documents, so that differences have an error.
const COMPARED: [Metric; 4] = [Metric::Acc, Metric::AccNorm, Metric::Loss, Metric::BitsPerByte];

/// Results of another run.
#[derive(Debug)]
pub struct Other {
    path: PathBuf,
    results: Map<String, Value>,
}

impl Other {
    /// Reads a results file, or the only one in a directory. Made before the model runs, so that what cannot be
    /// compared is refused early.
    ///
    /// # Errors
    /// No results there, or several; results of a model with another tokenizer.
    pub fn open(path: &Path, about: &About) -> Result<Self> {
        let file = if path.is_dir() { only_results(path)? } else { path.to_owned() };
        let text = fs::read_to_string(&file).map_err(|error| Error::io(&file, &error))?;
        let results: Map<String, Value> = serde_json::from_str(&text)
            .map_err(|error| Error::work(format!("{}: not a results file: {error}", file.display())))?;
        if !results.get("results").is_some_and(Value::is_object) {
            return Err(Error::work(format!("{}: not a results file: it has no results", file.display())));
        }
        let other = Self { path: file, results };
        other.same_tokenizer(about)?;
        Ok(other)
    }

    /// Questions are the same tokens for both models only with one tokenizer.
    fn same_tokenizer(&self, about: &About) -> Result<()> {
        let model = self.results.get("model_name").and_then(Value::as_str).unwrap_or("another model");
        let refuse = |what: &str| {
            Err(Error::request(format!(
                "--against {}: these are results of {model}, whose tokenizer is not this model's ({what}); \
                 compare models that were cut from the same one",
                self.path.display()
            )))
        };
        if let Some(known) =
            self.results.get("prune").and_then(|own| own.get("tokenizer_sha256")).and_then(Value::as_str)
        {
            return if known == about.tokenizer { Ok(()) } else { refuse("tokenizer.json differs") };
        }
        for (name, token) in [("tokenizer_eos_token", &about.special[1]), ("tokenizer_bos_token", &about.special[2])] {
            let theirs =
                self.results.get(name).and_then(|token| Some((token.get(0)?.as_str()?, token.get(1)?.as_str()?)));
            let ours = token.as_ref().map(|(text, id)| (text.as_str(), id.to_string()));
            let same = match (theirs, &ours) {
                (Some(theirs), Some(ours)) => theirs == (ours.0, ours.1.as_str()),
                (None, _) => true,
                (Some(_), None) => false,
            };
            if !same {
                return refuse(&format!("{name} is {theirs:?}, here {ours:?}"));
            }
        }
        Ok(())
    }

    /// Compares every task and group that both runs have.
    ///
    /// # Errors
    /// No task in common, other prompts, samples that are missing or broken.
    pub fn compare(&self, job: &Job, scores: &Scores, vocabulary: usize, paper: bool) -> Result<Vec<Comparison>> {
        let theirs = &self.results["results"];
        let mut compared: BTreeMap<usize, Vec<(Comparison, Figure)>> = BTreeMap::new();
        for (index, (part, score)) in job.parts.iter().zip(&scores.tasks).enumerate() {
            if theirs.get(&score.name).is_none() {
                continue;
            }
            let samples = self.samples(&score.name)?;
            let hashes = samples::hashes(part, paper);
            let mut pairs = Vec::new();
            for ((document, outcome), hashes) in
                part.prompts.documents.iter().zip(&score.outcomes).zip(&hashes.documents)
            {
                let Some(sample) = samples.get(&document.id) else { continue };
                if sample.get("prompt_hash").and_then(Value::as_str) != Some(&hashes[1]) {
                    return Err(Error::request(format!(
                        "--against {}: document {} of {} was asked differently there; compare runs with the same data, \
                         --few-shot and --seed",
                        self.path.display(),
                        document.id,
                        score.name
                    )));
                }
                pairs.push((outcome, sample));
            }
            let comparisons = COMPARED.iter().filter_map(|metric| {
                let pairs =
                    pairs.iter().map(|(outcome, sample)| Some((outcome.parts(*metric), theirs_of(sample, *metric)?)));
                let pairs: Option<Vec<_>> = pairs.collect();
                score.figure(*metric).and_then(|_| compare(score, *metric, &pairs?, vocabulary))
            });
            compared.insert(index, comparisons.collect());
        }
        if compared.values().all(Vec::is_empty) {
            return Err(Error::request(format!("--against {}: no task in common with this run", self.path.display())));
        }
        let groups = scores.groups.iter().filter_map(|group| pool(group, &compared));
        let groups: Vec<Comparison> = groups.collect();
        Ok(compared.into_values().flatten().map(|(comparison, _)| comparison).chain(groups).collect())
    }

    /// The samples of a task by document.
    fn samples(&self, task: &str) -> Result<BTreeMap<usize, Map<String, Value>>> {
        let name = self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let stamp = name.strip_prefix("results_").and_then(|name| name.strip_suffix(".json"));
        let file =
            stamp.map_or_else(|| format!("samples_{task}.jsonl"), |stamp| format!("samples_{task}_{stamp}.jsonl"));
        let path = self.path.with_file_name(file);
        if !path.exists() {
            return Err(Error::request(format!(
                "--against {}: the questions of {task} ({}) are missing; lm-evaluation-harness keeps them with --log_samples",
                self.path.display(),
                path.display()
            )));
        }
        let mut samples = BTreeMap::new();
        for row in rows(&path)? {
            let row = row?;
            let id = row.integer("doc_id")?;
            let id = usize::try_from(id).map_err(|_| row.fault("field `doc_id` is negative"))?;
            samples.insert(id, row.fields);
        }
        Ok(samples)
    }
}

/// The results file in `dir` or in one of its folders.
fn only_results(dir: &Path) -> Result<PathBuf> {
    let mut found = Vec::new();
    let mut look = |dir: &Path| -> std::io::Result<Vec<PathBuf>> {
        let mut folders = Vec::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if path.is_dir() {
                folders.push(path);
            } else if name.starts_with("results") && name.ends_with(".json") {
                found.push(path);
            }
        }
        Ok(folders)
    };
    let folders = look(dir).map_err(|error| Error::io(dir, &error))?;
    for folder in folders {
        look(&folder).map_err(|error| Error::io(&folder, &error))?;
    }
    match found.as_slice() {
        [file] => Ok(file.clone()),
        [] => Err(Error::request(format!("--against {}: no results_*.json there", dir.display()))),
        several => Err(Error::request(format!(
            "--against {}: {} results files there, name one of them",
            dir.display(),
            several.len()
        ))),
    }
}

/// Numerator and denominator of a metric in a line of samples.
fn theirs_of(sample: &Map<String, Value>, metric: Metric) -> Option<(f64, f64)> {
    match sample.get(metric.name())? {
        Value::Array(pair) => Some((pair.first()?.as_f64()?, pair.get(1)?.as_f64()?)),
        value => Some((value.as_f64()?, 1.0)),
    }
}

/// A pair of (numerator, denominator) of this run and the other.
type Pair = ((f64, f64), (f64, f64));

fn compare(score: &TaskScore, metric: Metric, pairs: &[Pair], vocabulary: usize) -> Option<(Comparison, Figure)> {
    if pairs.is_empty() || pairs.iter().any(|(ours, theirs)| ours.1 != theirs.1) {
        return None;
    }
    let differences: Vec<(f64, f64)> = pairs.iter().map(|(ours, theirs)| (ours.0 - theirs.0, ours.1)).collect();
    // bits a byte are nats a byte in another unit
    let scale = if metric == Metric::BitsPerByte { std::f64::consts::LN_2.recip() } else { 1.0 };
    let linear = if metric == Metric::BitsPerByte { Metric::Loss } else { metric };
    let mut figure = figure(linear, &differences, vocabulary);
    figure.value *= scale;
    figure.stderr = figure.stderr.map(|stderr| stderr * scale);
    let question = metric.higher_is_better();
    let count = |sign: f64| question.then(|| differences.iter().filter(|(top, _)| top * sign > 0.0).count());
    let (gained, lost) = (count(1.0), count(-1.0));
    let comparison = Comparison {
        task: score.name.clone(),
        metric: metric.name(),
        documents: pairs.len(),
        difference: figure.value,
        stderr: figure.stderr,
        gained,
        lost,
        p: gained.zip(lost).map(|(gained, lost)| mcnemar(gained, lost)),
    };
    Some((comparison, figure))
}

/// A group's difference in accuracy; `None` unless both runs have all its tasks.
fn pool(group: &GroupScore, compared: &BTreeMap<usize, Vec<(Comparison, Figure)>>) -> Option<Comparison> {
    let members: Option<Vec<&(Comparison, Figure)>> = group
        .group
        .leaves
        .iter()
        .map(|leaf| compared.get(leaf)?.iter().find(|(comparison, _)| comparison.metric == Metric::Acc.name()))
        .collect();
    let members = members?;
    let parts: Vec<_> =
        members.iter().map(|(comparison, figure)| (figure.value, figure.stderr, comparison.documents)).collect();
    let figure = pooled(Metric::Acc, &parts);
    let gained: usize = members.iter().filter_map(|(comparison, _)| comparison.gained).sum();
    let lost: usize = members.iter().filter_map(|(comparison, _)| comparison.lost).sum();
    Some(Comparison {
        task: group.group.name.clone(),
        metric: Metric::Acc.name(),
        documents: members.iter().map(|(comparison, _)| comparison.documents).sum(),
        difference: figure.value,
        stderr: figure.stderr,
        gained: Some(gained),
        lost: Some(lost),
        p: Some(mcnemar(gained, lost)),
    })
}

/// Two-sided exact binomial test that a disagreement is as likely one way as the other.
fn mcnemar(gained: usize, lost: usize) -> f64 {
    let n = (gained + lost) as f64;
    let mut logarithm = -n * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for k in 0..=gained.min(lost) {
        tail += logarithm.exp();
        logarithm += ((n - k as f64) / (k as f64 + 1.0)).ln();
    }
    (2.0 * tail).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mcnemar_is_an_exact_binomial_test() {
        for (gained, lost, p) in [
            (0, 0, 1.0),
            (1, 1, 1.0),
            (0, 5, 0.0625),
            (3, 12, 0.035_156_25),
            (12, 3, 0.035_156_25),
            // scipy.stats.binomtest(450, 1000).pvalue
            (450, 550, 0.001_730_536_084_976_317_6),
        ] {
            let found = mcnemar(gained, lost);
            assert!((found / p - 1.0).abs() < 1e-9, "{gained} {lost}: {found}");
        }
        assert!(mcnemar(5000, 9000) < 1e-200);
    }

    #[test]
    fn the_error_is_that_of_the_paired_differences() {
        let score = TaskScore {
            name: "t".into(),
            alias: "t".into(),
            shots: 0,
            figures: Vec::new(),
            outcomes: Vec::new(),
            chance: None,
        };
        let pairs: Vec<Pair> =
            [(1.0, 0.0), (1.0, 1.0), (0.0, 1.0), (1.0, 0.0)].map(|(a, b)| ((a, 1.0), (b, 1.0))).into();
        let (comparison, _) = compare(&score, Metric::Acc, &pairs, 10).unwrap();
        assert_eq!((comparison.difference, comparison.gained, comparison.lost), (0.25, Some(2), Some(1)));
        // differences 1, 0, -1, 1: sample deviation sqrt(11/12), over sqrt(4)
        assert!((comparison.stderr.unwrap() - (11.0f64 / 12.0).sqrt() / 2.0).abs() < 1e-15);
        let bits = compare(&score, Metric::BitsPerByte, &[((-2.0, 4.0), (-1.0, 4.0)), ((-3.0, 6.0), (-3.0, 6.0))], 10)
            .unwrap()
            .0;
        assert!((bits.difference - 0.1 / 2f64.ln()).abs() < 1e-15 && bits.p.is_none());
        assert!(compare(&score, Metric::Loss, &[((-2.0, 4.0), (-1.0, 5.0))], 10).is_none(), "another tokenisation");
    }
}
