//! Goals of quality: as many layers go as leave a loss or an accuracy within what is allowed.

use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::importance::{Choice, Kept, QuestionsUsed, Searched, metric};
use crate::{Error, Result};

/// A share of the whole model's accuracy, with the task that it is measured on where that is named: `0.95`,
/// `boolq=0.95`.
#[derive(Clone, Debug, PartialEq)]
pub struct KeepShare {
    /// The task, or group of tasks.
    pub task: Option<String>,
    /// More than 0, at most 1.
    pub share: f64,
}

impl FromStr for KeepShare {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (task, share) = match text.split_once('=') {
            Some((task, share)) => (Some(task.trim().to_owned()), share),
            None => (None, text),
        };
        let is_named = task.as_deref() != Some("");
        match share.trim().parse::<f64>() {
            Ok(share) if share > 0.0 && share <= 1.0 && is_named => Ok(Self { task, share }),
            _ => Err(Error::request(format!(
                "--keep {}: expected a share of the accuracy above 0 and up to 1, such as 0.95 or boolq=0.95",
                crate::shown::shown(text)
            ))),
        }
    }
}

impl std::fmt::Display for KeepShare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.task {
            Some(task) => write!(f, "{task}={}", self.share),
            None => write!(f, "{}", self.share),
        }
    }
}

impl Serialize for KeepShare {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeepShare {
    /// From text, or from a number.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Share(f64),
            Text(String),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Share(share) => share.to_string(),
            Written::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What a cut is to hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// The loss rises by no more than this, nats a token.
    Loss(f64),
    /// At least this share of the whole model's accuracy stays.
    Accuracy(f64),
}

impl Goal {
    /// What flags ask for, of an analysis that asked such questions.
    ///
    /// # Errors
    /// Request: a task that it did not ask.
    pub fn of(max_loss: Option<f64>, keep: Option<&KeepShare>, asked: Option<&QuestionsUsed>) -> Result<Option<Self>> {
        if let (Some(KeepShare { task: Some(task), .. }), Some(QuestionsUsed { tasks, .. })) = (keep, asked) {
            // the tasks of a group begin with its name
            let is_of = |own: &String| own == task || own.strip_prefix(task).is_some_and(|rest| rest.starts_with('_'));
            if !tasks.iter().all(is_of) {
                let of = tasks.join(", ");
                return Err(Error::request(format!("--keep {task}: the analysis asked the questions of {of}")));
            }
        }
        Ok(max_loss.map(Self::Loss).or(keep.map(|keep| Self::Accuracy(keep.share))))
    }

    /// The flag that says so.
    fn flag(self) -> String {
        match self {
            Self::Loss(most) => format!("--max-loss {most:+}"),
            Self::Accuracy(share) => format!("--keep {share}"),
        }
    }

    /// By how much `choice` misses it, in its own unit; 0 or less where it is held. `None` where that was not measured.
    fn missed(self, choice: &Choice) -> Option<f64> {
        match self {
            Self::Loss(most) => choice.loss.map(|loss| loss.mean - most),
            Self::Accuracy(share) => choice.accuracy.map(|kept| share * kept.whole - kept.without),
        }
    }

    /// What was measured of `choice`, with its error.
    fn measured(self, choice: &Choice) -> String {
        let plus = |error: Option<f64>| error.map_or_else(String::new, |error| format!(" ± {error:.4}"));
        match (self, &choice.loss, &choice.accuracy) {
            (Self::Loss(_), Some(loss), _) => format!("the least is {:+.4}{}", loss.mean, plus(loss.stderr)),
            (Self::Accuracy(_), _, Some(kept)) => {
                let (Kept { whole, without, .. }, error) = (kept, plus(kept.difference_stderr));
                format!("the most is an accuracy of {without:.4}{error} of {whole:.4}")
            }
            _ => "nothing was measured".to_owned(),
        }
    }
}

/// The most of `layers` layers that can go so that `goal` is held, by the choices of `searched`, of which that is
/// known; sizes are measured one by one, for a larger cut may cost less than a smaller one. A choice that leaves no
/// layer its attention is none.
///
/// # Errors
/// Request: it was not measured. Work: no choice holds it; says which comes nearest.
pub fn within(searched: &Searched, layers: usize, goal: Goal) -> Result<usize> {
    let subject = metric(&searched.metric)?.subject;
    let parts = subject.unit().per_layer();
    let attends = |choice: &Choice| {
        let gone = subject.gone(&choice.drop);
        let lacks =
            |layer: usize| gone.layers.contains(&layer) || gone.sublayers.get(&layer).is_some_and(|of| of.attention);
        !(0..layers).all(lacks)
    };
    // whole layers' worth
    let sizes = searched.best.iter().skip(parts - 1).step_by(parts).enumerate();
    let known = sizes.filter(|(_, choice)| attends(choice));
    let known = known.map(|(place, choice)| goal.missed(choice).map(|missed| (place + 1, choice, missed)));
    let Some(known) = known.collect::<Option<Vec<_>>>() else {
        let (what, flag) = match goal {
            Goal::Loss(_) => ("loss", "--max-loss"),
            Goal::Accuracy(_) => ("accuracy", "--keep"),
        };
        return Err(Error::request(format!(
            "the analysis has not measured the {what} of every size: {flag} with a model does"
        )));
    };
    if let Some((layers, ..)) = known.iter().rev().find(|(.., missed)| *missed <= 0.0) {
        return Ok(*layers);
    }
    let nearest = known.iter().min_by(|a, b| a.2.total_cmp(&b.2));
    let (layers, nearest, _) = nearest.ok_or_else(|| Error::work("an analysis without choices"))?;
    let (flag, measured) = (goal.flag(), goal.measured(nearest));
    Err(Error::work(format!("{flag}: cannot be met; {measured}, without {layers} of the layers")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_with_and_without_a_task() {
        for (text, task, share) in
            [("0.95", None, 0.95), ("boolq=1", Some("boolq"), 1.0), (" mmlu = 0.5", Some("mmlu"), 0.5)]
        {
            let keep: KeepShare = text.parse().unwrap();
            assert_eq!((keep.task.as_deref(), keep.share), (task, share));
            assert_eq!(keep.to_string().parse::<KeepShare>().unwrap(), keep);
        }
        for text in ["", "0", "1.01", "-1", "nan", "inf", "=0.9", "boolq=", "boolq", "a=b=0.5"] {
            let error = text.parse::<KeepShare>().unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains("--keep"), "{error}");
        }
        let read = |text: &str| serde_json::from_str::<KeepShare>(text);
        assert_eq!(read("0.5").unwrap(), read("\"0.5\"").unwrap());
        assert!(read("2").is_err() && read("[]").is_err());
    }

    /// Of a model that answers four fifths rightly nine tenths are 0.72.
    #[test]
    fn a_share_is_one_of_what_the_whole_model_answers() {
        let choice = |without: f64, n: usize| {
            let accuracy = Some(Kept { whole: 0.8, without, difference_stderr: Some(0.05) });
            Choice { drop: (0..n).collect(), accuracy, ..Choice::default() }
        };
        let searched = Searched {
            metric: "block-influence".to_owned(),
            strategy: "lowest".to_owned(),
            protect_first: 0,
            protect_last: 0,
            rerank: None,
            best: vec![choice(0.79, 1), choice(0.7, 2), choice(0.73, 3)],
        };
        let most = |share: f64| within(&searched, 4, Goal::Accuracy(share));
        // the largest that holds it, although a smaller one does not
        assert_eq!([0.9, 0.95].map(|share| most(share).unwrap()), [3, 1]);
        let error = most(1.0).unwrap_err().to_string();
        assert!(error.contains("0.7900 ± 0.0500 of 0.8000, without 1 of"), "{error}");
        assert_eq!(within(&searched, 4, Goal::Loss(1.0)).unwrap_err().exit_code(), 2);
    }
}
