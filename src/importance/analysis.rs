//! `analysis.json`: every score of a model on some text, and the plan that follows from them.

use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::amount::Protect;
use super::choice::{Choice, Kept, Rise};
use super::data_used::{DataUsed, QuestionsUsed};
use super::metrics::{Subject, metric};
use super::mixtures::Against;
use super::moments::Scores;
use super::texts::{Agreement, OfText};
use super::{check, json};
use crate::files::{self, Bound};
use crate::plan::{Dropped, Plan, PlannedFor};
use crate::{Context, Error, Result};

/// What the file says it is.
pub(super) const FORMAT: &str = "prune-analysis";
/// Version of the format; another one is refused.
pub(super) const VERSION: u32 = 1;

/// What was followed, and the best choice for every n, n-1 in the list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Searched {
    /// Name of the metric.
    pub metric: String,
    /// Name of the strategy.
    pub strategy: String,
    /// The first layers that must stay.
    pub protect_first: usize,
    /// The last layers that must stay.
    pub protect_last: usize,
    /// Length of the short lists that were ranked again by their loss, where there are such.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rerank: Option<usize>,
    /// The best choice for n = 1, 2, ...
    pub best: Vec<Choice>,
}

/// The file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Analysis {
    pub(super) format: String,
    pub(super) version: u32,
    /// Version of the program that made it.
    pub made_by: String,
    /// The model.
    pub model: PlannedFor,
    /// `d`.
    pub hidden_size: usize,
    /// The text; where there are several, all of them.
    pub data: DataUsed,
    /// The other model, where scores compare two.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub against: Option<Against>,
    /// The resolved settings of the command, for whoever wants to repeat it.
    pub settings: Map<String, Value>,
    /// What to drop: a whole plan file, or null.
    pub plan: Option<Plan>,
    /// The search behind it.
    pub search: Searched,
    /// How far the choices of several texts agree, for each n.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub agreement: Vec<Agreement>,
    /// The scores, one metric each; of several texts the means, each text weighing the same.
    pub scores: Vec<Scores>,
    /// Where there are several texts, each by itself.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub texts: Vec<OfText>,
}

impl Searched {
    /// The best choice of `n` of the `layers` layers, or of 2n sub-layers, and what goes with it.
    fn choice(&self, n: usize, layers: usize) -> Result<(&Choice, Dropped)> {
        let Self { metric, protect_first, protect_last, best, .. } = self;
        Protect { first: *protect_first, last: *protect_last }.check(layers, Some(n))?;
        let subject = super::metrics::metric(metric)?.subject;
        let parts = subject.unit().per_layer();
        let choice = (n * parts).checked_sub(1).and_then(|row| best.get(row));
        let choice = choice.ok_or_else(|| {
            let most = best.len() / parts;
            Error::request(format!("the analysis has choices of 1 to {most} layers, none of {n}"))
        })?;
        Ok((choice, subject.gone(&choice.drop)))
    }

    /// What goes with the best choice of `n` of the `layers` layers, or of 2n sub-layers.
    ///
    /// # Errors
    /// Request: more layers than may go.
    pub fn gone(&self, n: usize, layers: usize) -> Result<Dropped> {
        self.choice(n, layers).map(|(_, gone)| gone)
    }
}

impl Analysis {
    /// From the scores of a pass and what was searched in them, without a plan yet.
    #[must_use]
    pub fn new(
        model: PlannedFor,
        hidden_size: usize,
        data: DataUsed,
        settings: Map<String, Value>,
        scores: Vec<Scores>,
        search: Searched,
    ) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            made_by: concat!("prune ", env!("CARGO_PKG_VERSION")).to_owned(),
            model,
            hidden_size,
            data,
            against: None,
            settings,
            plan: None,
            search,
            agreement: Vec::new(),
            scores,
            texts: Vec::new(),
        }
    }

    /// Reads a file that may be anyone's.
    ///
    /// # Errors
    /// Request: no such file, not JSON, or not an analysis of this version. Work: a broken one; the message says where.
    pub fn read(path: &Path) -> Result<Self> {
        let value = files::asked_json(path, Bound::ANALYSIS)?;
        Self::from_value(value).context(|| path.display())
    }

    /// From JSON.
    ///
    /// # Errors
    /// As [`Analysis::read`].
    pub fn from_value(value: Value) -> Result<Self> {
        let (format, version) = (value.get("format"), value.get("version"));
        if format.and_then(Value::as_str) != Some(FORMAT) {
            return Err(Error::request(format!("not an analysis: \"format\" should be \"{FORMAT}\"")));
        }
        if version.and_then(Value::as_u64) != Some(VERSION.into()) {
            let found = version.map_or_else(|| "none".to_owned(), Value::to_string);
            return Err(Error::request(format!("version {found} of the format; this program reads version {VERSION}")));
        }
        let analysis: Self =
            serde_json::from_value(value).map_err(|error| Error::work(format!("broken analysis: {error}")))?;
        check::check(&analysis)?;
        Ok(analysis)
    }

    /// The file's bytes: the same scores give the same bytes.
    ///
    /// # Errors
    /// A number that JSON does not have.
    pub fn to_json(&self) -> Result<String> {
        let value = serde_json::to_value(self).map_err(|error| Error::work(format!("analysis.json: {error}")))?;
        Ok(json::to_text(&value))
    }

    /// Every score for a spreadsheet: `metric,n,l,end,mean,stderr`, one line for each block `l..=end` of n layers; the
    /// metric of a sub-layer is followed by `:attention` or `:mlp`. Where there are several texts, `text` follows,
    /// empty for all together.
    #[must_use]
    pub fn to_csv(&self) -> String {
        let several = if self.texts.is_empty() { "" } else { ",text" };
        let mut text = format!("metric,n,l,end,mean,stderr{several}\n");
        let all =
            self.scores.iter().map(|scores| (scores, if several.is_empty() { String::new() } else { ",".into() }));
        let each = self.texts.iter().flat_map(|text| {
            let source = format!(",\"{}\"", text.data.source.replace('"', "\"\""));
            text.scores.iter().map(move |scores| (scores, source.clone()))
        });
        for (scores, of) in all.chain(each) {
            let halves = metric(&scores.metric).is_ok_and(|metric| metric.subject == Subject::SubLayer);
            for (row, means) in scores.mean.iter().enumerate() {
                for (at, mean) in means.iter().enumerate() {
                    let (name, n) = (&scores.metric, row + 1);
                    let stderr = scores.error(n, at).map(|error| error.to_string()).unwrap_or_default();
                    let (l, part) = match (halves, at % 2) {
                        (false, _) => (at, ""),
                        (true, 0) => (at / 2, ":attention"),
                        (true, _) => (at / 2, ":mlp"),
                    };
                    let _ = writeln!(text, "{name}{part},{n},{l},{},{mean},{stderr}{of}", l + row);
                }
            }
        }
        text
    }

    /// Follows another search. A plan from before is gone.
    pub fn follow(&mut self, search: Searched) {
        self.search = search;
        self.plan = None;
    }

    /// The scores of a metric.
    ///
    /// # Errors
    /// The analysis has none; the message lists those it has.
    pub fn scores(&self, name: &str) -> Result<&Scores> {
        scores_of(&self.scores, name)
    }

    /// Marks the best choice of `n` layers as the plan; of 2n sub-layers, where the search was among those.
    ///
    /// # Errors
    /// More layers than may go; a choice that leaves no layer its attention.
    pub fn mark(&mut self, n: usize) -> Result<&Choice> {
        let Searched { metric, strategy, rerank, .. } = &self.search;
        let (choice, gone) = self.search.choice(n, self.model.layers)?;
        let Value::Object(mut why) = json!({
            "strategy": strategy,
            "metric": metric,
            "layers": n,
            "dropped": gone.to_string(),
            "score": choice.score,
        }) else {
            return Err(Error::work("a plan's reasons are no table"));
        };
        if self.data.samples > 0 {
            why.insert("samples".to_owned(), json!(self.data.samples));
            let sources: Vec<&String> = self.texts.iter().map(|text| &text.data.source).collect();
            why.insert("data".to_owned(), if sources.is_empty() { json!(self.data.source) } else { json!(sources) });
        }
        if let Some(QuestionsUsed { tasks, questions }) = &self.data.asked {
            why.insert("tasks".to_owned(), json!(tasks));
            why.insert("questions".to_owned(), json!(questions));
        }
        if let Some(stderr) = choice.stderr {
            why.insert("stderr".to_owned(), json!(stderr));
        }
        if let Some(Rise { mean, stderr }) = choice.loss {
            why.extend(rerank.filter(|_| !choice.short_list.is_empty()).map(|k| ("rerank".to_owned(), json!(k))));
            why.insert("loss_rise".to_owned(), json!(mean));
            why.extend(stderr.map(|stderr| ("loss_rise_stderr".to_owned(), json!(stderr))));
        }
        if let Some(Kept { whole, without, .. }) = choice.accuracy {
            why.insert("accuracy".to_owned(), json!(without));
            why.insert("accuracy_of_the_whole".to_owned(), json!(whole));
        }
        self.plan = Some(Plan { why, ..Plan::drop_named(self.model.clone(), &gone)? });
        Ok(choice)
    }

    /// What goes with the best choice of `n` layers, or of 2n sub-layers.
    ///
    /// # Errors
    /// More layers than may go.
    pub fn best(&self, n: usize) -> Result<Dropped> {
        self.search.gone(n, self.model.layers)
    }

    /// Lengths of the rows of scores about `subject`.
    pub(super) fn row_lengths(&self, subject: Subject) -> Vec<usize> {
        subject.rows(self.model.layers)
    }
}

/// The scores of the metric `name`.
///
/// # Errors
/// Request: there are none; the message lists those there are.
pub fn scores_of<'a>(scores: &'a [Scores], name: &str) -> Result<&'a Scores> {
    scores.iter().find(|scores| scores.metric == name).ok_or_else(|| {
        let known: Vec<_> = scores.iter().map(|scores| scores.metric.as_str()).collect();
        Error::request(format!("the analysis has no scores of {name:?}; it has {}", known.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::super::METRICS;
    use super::super::moments::Moments;
    use super::*;

    fn example() -> Analysis {
        let layers = 5;
        let scores = METRICS.iter().map(|metric| {
            let mut moments = Moments::new(metric.subject.rows(layers));
            for sample in 0..7 {
                let value = |i: usize| ((i * 37 + sample * 11) % 23) as f64 / 29.0 + 0.01 * i as f64;
                let values: Vec<f64> = (0..moments.values()).map(value).collect();
                moments.push(1.0 + sample as f64, &values);
            }
            moments.finish(metric.name)
        });
        let model =
            PlannedFor { id: "org/name".into(), revision: Some("abc".into()), fingerprint: "00ff".into(), layers };
        let asked = QuestionsUsed { tasks: vec!["boolq".into()], questions: 7 };
        let data =
            DataUsed { source: "text.jsonl".into(), samples: 7, tokens: 28, seq_len: 64, seed: 1, asked: Some(asked) };
        let choice = |n: usize| Choice {
            drop: (4 - n..4).collect(),
            score: 0.1,
            stderr: Some(0.01),
            rivals: vec![1],
            ..Choice::default()
        };
        let search = Searched {
            metric: "angular".into(),
            strategy: "block".into(),
            protect_first: 0,
            protect_last: 0,
            rerank: None,
            best: (1..layers).map(choice).collect(),
        };
        let settings = Map::from_iter([("samples".to_owned(), json!(7))]);
        Analysis::new(model, 16, data, settings, scores.collect(), search)
    }

    fn parse(text: &str) -> Result<Analysis> {
        Analysis::from_value(serde_json::from_str(text).unwrap())
    }

    #[test]
    fn written_and_read_it_is_the_same_to_the_byte() {
        let mut analysis = example();
        for marked in [false, true] {
            if marked {
                analysis.mark(2).unwrap();
            }
            let text = analysis.to_json().unwrap();
            let read = parse(&text).unwrap();
            assert_eq!(read, analysis);
            assert_eq!(read.to_json().unwrap(), text);
        }
    }

    #[test]
    fn a_plan_is_a_plan_file() {
        let mut analysis = example();
        let choice = analysis.mark(3).unwrap().clone();
        let plan = analysis.plan.clone().unwrap();
        assert_eq!(plan.planned_for, analysis.model);
        let mut layers: Vec<usize> = plan.stack.iter().map(|place| place.layer).collect();
        layers.extend(&choice.drop);
        layers.sort_unstable();
        assert_eq!(layers, [0, 1, 2, 3, 4]);
        assert_eq!(plan.why["metric"], "angular");
        let value: Value = serde_json::from_str(&analysis.to_json().unwrap()).unwrap();
        assert_eq!(serde_json::from_value::<Plan>(value["plan"].clone()).unwrap(), plan);
        for n in [0, 5, usize::MAX] {
            assert!(analysis.mark(n).unwrap_err().to_string().contains("1 to 4 can"));
        }
    }

    #[test]
    fn a_line_for_every_score() {
        let analysis = example();
        let text = analysis.to_csv();
        let values = METRICS.iter().flat_map(|metric| metric.subject.rows(5)).sum::<usize>();
        // four metrics are of 15 blocks
        assert!(values > 4 * 15);
        assert_eq!(text.lines().count(), values + 1);
        assert!(text.contains("\ngate-sublayers:mlp,1,4,4,"));
        let line = text.lines().find(|line| line.starts_with("angular,2,1,2,")).unwrap();
        let numbers: Vec<f64> = line.split(',').skip(4).map(|number| number.parse().unwrap()).collect();
        let scores = analysis.scores("angular").unwrap();
        assert_eq!(numbers, [scores.mean[1][1], scores.error(2, 1).unwrap()]);
    }

    #[test]
    fn what_does_not_hold_together_is_refused() {
        let good: Value = serde_json::from_str(&example().to_json().unwrap()).unwrap();
        let change = |path: &str, new: Value| {
            let mut value = good.clone();
            *value.pointer_mut(path).unwrap() = new;
            Analysis::from_value(value).unwrap_err().to_string()
        };
        assert!(change("/format", json!("x")).contains("not an analysis"));
        assert!(change("/version", json!(2)).contains("version 2"));
        assert!(change("/model/layers", json!(0)).contains("0 layers"));
        assert!(change("/model/layers", json!(u64::MAX)).contains("layers instead of"));
        assert!(change("/model/layers", json!(6)).contains("instead of [6, 5"));
        assert!(change("/data/samples", json!(0)).contains("no samples"));
        assert!(change("/scores/0/mean/0/0", json!(null)).contains("broken analysis"));
        assert!(change("/scores/0/mean/0", json!([1.0])).contains("\"mean\" has rows"));
        assert!(change("/scores/0/stderr/0/0", json!(-1.0)).contains("\"stderr\" holds -1"));
        assert!(change("/scores/0/difference_stderr/0", json!([])).contains("difference_stderr"));
        assert!(change("/scores/0/metric", json!("x")).contains("no metric is called"));
        assert!(change("/scores/0/metric", json!("cosine")).contains("more than once"));
        assert!(change("/search/best", json!([])).contains("0 choices instead of 1 to 4"));
        assert!(change("/search/best/0/drop", json!([5])).contains("ascending layers of 5"));
        assert!(change("/search/best/1/drop", json!([1, 1])).contains("ascending layers of 5"));
        assert!(change("/data", json!({"source": 1})).contains("broken analysis"));
        assert!(Analysis::from_value(json!([])).is_err());
        let mut value = good.clone();
        value["surprise"] = json!(1);
        assert!(Analysis::from_value(value).unwrap_err().to_string().contains("surprise"));
    }
}
